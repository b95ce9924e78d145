#!/usr/bin/env python3
"""Compare the labels a run wrote with references that it carried over.

    python jobs/evaluate_labels.py --output out/ --reference-column reference_label

Prints accuracy and macro-F1. A document that failed counts as wrong.
"""

from __future__ import annotations

import sys

import tyro

from jobs.cli import EvaluationSettings, exit_code
from jobs.commands import show_scores


def main() -> None:
    settings = tyro.cli(EvaluationSettings, description=__doc__)

    from pipeline.output.store import open_store
    from pipeline.report.scores import evaluate_labels

    show_scores(evaluate_labels(open_store(settings.output), settings.reference_column))


if __name__ == "__main__":
    sys.exit(exit_code(main))
