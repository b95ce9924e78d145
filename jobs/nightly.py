#!/usr/bin/env python3
"""Run a task as a scheduled run: the same as `led-corpus nightly`."""

from led_corpus import script

if __name__ == "__main__":
    script("nightly")
