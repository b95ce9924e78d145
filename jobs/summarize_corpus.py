#!/usr/bin/env python3
"""Summarize every document of a corpus: the same as `led-corpus summarize`, for `ray job submit`."""

from led_corpus import script

if __name__ == "__main__":
    script("summarize")
