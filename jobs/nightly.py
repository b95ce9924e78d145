#!/usr/bin/env python3
"""Run a task as a scheduled run: the same as `led-corpus nightly`."""

from jobs.cli import script

if __name__ == "__main__":
    script("nightly")
