#!/usr/bin/env python3
"""Summarise every document of a corpus of Parquet, JSON lines or text files, exactly once.

python jobs/summarize_corpus.py --input corpus/ --output out/ --model MODEL
"""

from __future__ import annotations

import sys

from jobs.cli import exit_code, parse, show
from pipeline.config import SummarizeSettings


def main() -> None:
    settings = parse(SummarizeSettings, __doc__ or "")

    from pipeline.run import run
    from pipeline.tasks import Summarize

    show(run(Summarize(settings)))


if __name__ == "__main__":
    sys.exit(exit_code(main))
