#!/usr/bin/env python3
"""Label every document of a corpus: the same as `led-corpus classify`, for `ray job submit`."""

from led_corpus import script

if __name__ == "__main__":
    script("classify")
