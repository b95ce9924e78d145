"""The command lines: one script per task. Nothing is defined here that a worker needs."""
