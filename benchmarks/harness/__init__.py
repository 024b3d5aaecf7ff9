"""What every benchmark shares; it knows no library that is measured: neither ours nor a peer."""
