"""The same training with and without the training kit, seed by seed."""
