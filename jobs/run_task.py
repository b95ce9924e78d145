#!/usr/bin/env python3
"""Run a task of one's own, given by --task FILE.py:CLASS: the same as `led-corpus`, for `ray job submit`."""

from led_corpus import console

if __name__ == "__main__":
    console()
