"""Runs LED over large corpora on Ray Data. Every document is processed exactly once.

The model is in `led` and the command line in `jobs`. Imports run one way: `jobs -> pipeline -> led`.
"""

__version__ = "0.2.0.dev0"

# The oldest version whose rows are identical to today's. Raise it when a row would change. It is part of the
# config fingerprint, so rows of that version are reused and its runs resume.
RESULTS_VERSION = "0.1.0"
