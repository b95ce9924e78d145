#!/usr/bin/env python3
"""Answer questions over every document of a corpus of Parquet, JSON lines or text files, one row for each question.

python jobs/answer_corpus.py --input corpus/ --output out/ --model MODEL --question "Who signed?"
"""

from __future__ import annotations

import sys

from jobs.cli import exit_code, parse, show
from pipeline.config import AnswerSettings


def main() -> None:
    settings = parse(AnswerSettings, __doc__ or "")

    from pipeline.run import run
    from pipeline.tasks import Answer

    show(run(Answer.of(settings)))


if __name__ == "__main__":
    sys.exit(exit_code(main))
