"""Traffic signs, with none, one and two spatial transformers."""
