"""Measures how exact the library is: ``python -m benchmarks.accuracy``."""
