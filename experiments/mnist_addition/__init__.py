"""MNIST addition: the sum of two digits, one in each channel."""
