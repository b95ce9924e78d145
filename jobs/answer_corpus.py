#!/usr/bin/env python3
"""Answer questions over every document of a corpus: the same as `led-corpus answer`, for `ray job submit`."""

from led_corpus import script

if __name__ == "__main__":
    script("answer")
