#!/usr/bin/env python3
"""Compare the answers a run wrote with references that it carried over.

    python jobs/evaluate_answers.py --output out/ --reference-column questions

Prints exact match and token F1, without case, articles and punctuation. A question that failed counts as
wrong. The column holds the answer, or a list of answers or of records with a field `answer`, in the order of
the questions.
"""

from __future__ import annotations

import sys

import tyro

from jobs.cli import EvaluationSettings, exit_code
from jobs.commands import show_scores


def main() -> None:
    settings = tyro.cli(EvaluationSettings, description=__doc__)

    from pipeline.output.store import open_store
    from pipeline.report.scores import evaluate_answers

    show_scores(evaluate_answers(open_store(settings.output), settings.reference_column))


if __name__ == "__main__":
    sys.exit(exit_code(main))
