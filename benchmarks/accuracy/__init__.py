"""How exact the library is, in numbers: ``python -m benchmarks.accuracy``."""
