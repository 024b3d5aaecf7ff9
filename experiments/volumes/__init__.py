"""Digits in volumes, read by a three-dimensional spatial transformer."""
