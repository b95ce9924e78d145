#!/usr/bin/env python3
"""Label every document of a corpus of Parquet, JSON lines or text files, exactly once.

python jobs/classify_corpus.py --input corpus/ --output out/ --model MODEL
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from jobs.cli import exit_code, main
from pipeline.settings import ClassifySettings

if TYPE_CHECKING:
    from pipeline.tasks import Classify


def task(settings: ClassifySettings) -> Classify:
    from pipeline.tasks import Classify

    return Classify(settings)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(ClassifySettings, task, __doc__ or "")))
