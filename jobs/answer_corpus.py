#!/usr/bin/env python3
"""Answer questions over every document of a corpus of Parquet, JSON lines or text files, one row for each
question.

python jobs/answer_corpus.py --input corpus/ --output out/ --model MODEL --question "Who signed?"
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from jobs.cli import exit_code, main
from pipeline.settings import AnswerSettings

if TYPE_CHECKING:
    from pipeline.tasks import Answer


def task(settings: AnswerSettings) -> Answer:
    from pipeline.tasks import Answer

    return Answer.of(settings)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(AnswerSettings, task, __doc__ or "")))
