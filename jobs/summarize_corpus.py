#!/usr/bin/env python3
"""Summarise every document of a corpus of Parquet, JSON lines or text files, exactly once.

python jobs/summarize_corpus.py --input corpus/ --output out/ --model MODEL
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from jobs.cli import exit_code, main
from pipeline.settings import SummarizeSettings

if TYPE_CHECKING:
    from pipeline.tasks import Summarize


def task(settings: SummarizeSettings) -> Summarize:
    from pipeline.tasks import Summarize

    return Summarize(settings)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(SummarizeSettings, task, __doc__ or "")))
