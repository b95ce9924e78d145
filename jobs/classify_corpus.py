#!/usr/bin/env python3
"""Label every document of a corpus of Parquet, JSON lines or text files, exactly once.

python jobs/classify_corpus.py --input corpus/ --output out/ --model MODEL
"""

from __future__ import annotations

import sys

from jobs.cli import exit_code, parse, show
from pipeline.config import ClassifySettings


def main() -> None:
    settings = parse(ClassifySettings, __doc__ or "")

    from pipeline.run import run
    from pipeline.tasks import Classify

    show(run(Classify(settings)))


if __name__ == "__main__":
    sys.exit(exit_code(main))
