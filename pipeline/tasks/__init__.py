"""Tasks: what a run computes for each document. `registry.py` finds them by name."""
