"""Comparisons with other libraries, in one process and on the same arrays."""
