"""Measurements: each a command that prints a table and writes its figures under `results/`."""
