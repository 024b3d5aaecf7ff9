"""Code that all benchmarks share. It imports none of the measured libraries."""
