"""Distorted MNIST: classifiers with and without a spatial transformer."""
