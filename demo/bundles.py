"""Synthetic bundles: several reports about one site, of which the latest one counts.

All reports of a bundle are of one kind, so each states its own date, person and amounts for the same things.
The summary of a bundle is that of its last report. To write it, a model must know for every fact in which
report it stands.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from demo.reports import KINDS, Report, generate_report

REPORTS = (2, 4)


@dataclass(frozen=True)
class Bundle:
    """The texts of a bundle's reports, oldest first, and the summary of the last one.

    `facts` are in the last report and its summary. `outdated` are facts of the earlier reports.
    """

    texts: tuple[str, ...]
    summary: str
    facts: tuple[str, ...]
    outdated: tuple[str, ...]


def generate_bundle(seed: int, words: int) -> Bundle:
    """The bundle of `seed`, whose reports have about `words` words each."""
    rng = random.Random(seed)
    kind = rng.choice(KINDS)
    count = rng.randint(*REPORTS)
    reports = [generate_report(rng.randrange(2**40), words, kind) for _ in range(count)]
    site = reports[-1].facts["site"]
    texts = tuple(report.text.replace(report.facts["site"], site) for report in reports)
    facts = _without_site(reports[-1])
    outdated = {fact for report in reports[:-1] for fact in _without_site(report)}
    return Bundle(texts, reports[-1].summary, facts, tuple(sorted(outdated - set(facts))))


def _without_site(report: Report) -> tuple[str, ...]:
    """The facts that differ between the reports of a bundle."""
    return tuple(value for name, value in report.facts.items() if name != "site")
