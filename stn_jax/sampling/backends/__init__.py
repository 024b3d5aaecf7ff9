"""Engines: implementations of sampling behind one contract."""
