"""Measurements beside peers, in one process and on the same arrays."""
