"""Shared by the experiments that predict a label: settings, step, run, table."""
