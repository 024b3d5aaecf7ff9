"""Test error against the angle by which the test digits are turned."""
