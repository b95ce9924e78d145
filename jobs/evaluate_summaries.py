#!/usr/bin/env python3
"""Compare the summaries a run wrote with references that it carried over.

    python jobs/evaluate_summaries.py --output out/ --reference-column reference_summary --facts-column facts

Prints the mean F1 of ROUGE-1, ROUGE-2, ROUGE-L (longest common subsequence over the whole summary) and
ROUGE-Lsum (sentence by sentence, the figure papers call R-L), and the share of key facts that stand in the
summary word for word. A document that failed counts as an empty summary.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import tyro

from jobs.cli import exit_code
from jobs.commands import show_scores


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What to compare."""

    output: str
    """Folder of a finished run."""
    reference_column: str = "reference_summary"
    """Column with the reference summary, carried over with --passthrough."""
    facts_column: str | None = None
    """Column with a list of strings that the summary should hold word for word, carried over with
    --passthrough."""
    stemmer: bool = False
    """Compare word stems instead of words."""


def main() -> None:
    settings = tyro.cli(EvaluationSettings, description=__doc__)

    from pipeline.output.store import open_store
    from pipeline.report.scores import evaluate_summaries

    scores = evaluate_summaries(
        open_store(settings.output),
        settings.reference_column,
        settings.facts_column,
        stemmer=settings.stemmer,
    )
    show_scores(scores)


if __name__ == "__main__":
    sys.exit(exit_code(main))
