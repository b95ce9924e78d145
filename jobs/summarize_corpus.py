#!/usr/bin/env python3
"""Summarize every document of a corpus: the same as `led-corpus summarize`, for `ray job submit`."""

from jobs.cli import script

if __name__ == "__main__":
    script("summarize")
