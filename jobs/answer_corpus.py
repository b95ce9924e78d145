#!/usr/bin/env python3
"""Answer questions over every document of a corpus: the same as `led-corpus answer`, for `ray job submit`."""

from jobs.cli import script

if __name__ == "__main__":
    script("answer")
