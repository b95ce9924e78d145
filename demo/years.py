"""Synthetic files of a site's year: twelve monthly reports in which the facts of one incident come in.

Each fact stands in a single sentence anywhere in the year, among months of routine. A part of the file has
some of the facts, so the summary of a part leaves the others unknown. The summaries of all parts together
have every fact, and the summary of the year is made from them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from demo.reports import (
    FACT_SENTENCES,
    FACTS_OF_KIND,
    MONTHS,
    SUMMARIES,
    blocks,
    draw_facts,
    draw_narrative,
    scatter,
)

KIND = "incident"
NAMES = FACTS_OF_KIND[KIND]

# What a summary says of a fact that its text does not have.
UNKNOWN = {
    "date": "an unknown date",
    "asset": "an unknown unit",
    "site": "an unknown site",
    "cause": "unknown",
    "downtime": "unknown",
    "action": "took unknown action",
    "person": "unknown",
}


@dataclass(frozen=True)
class Year:
    """One year's file. Every value of `facts` occurs exactly once in `text` and once in `summary`."""

    text: str
    summary: str
    facts: dict[str, str]


def generate_year(seed: int, words: int) -> Year:
    """The file of `seed`, with about `words` words."""
    rng = random.Random(seed)
    facts = draw_facts(rng, NAMES)
    sentences = draw_sentences(rng, facts, facts, words)
    months = []
    for i, month in enumerate(MONTHS):
        of_month = sentences[len(sentences) * i // 12 : len(sentences) * (i + 1) // 12]
        months += [f"Report for {month}.", *blocks(rng, of_month)]
    return Year("\n\n".join(months), summarize(facts), facts)


def draw_sentences(
    rng: random.Random, facts: Mapping[str, str], shown: Mapping[str, str], words: int
) -> list[str]:
    """About `words` words of routine, with a sentence for each of the `shown` facts in it. None of the facts
    occurs elsewhere."""
    keys = [rng.choice(FACT_SENTENCES[name]).format(value) for name, value in shown.items()]
    missing = words - sum(len(sentence.split()) for sentence in keys)
    narrative = draw_narrative(rng, missing, frozenset(value.lower() for value in facts.values()))
    return scatter(rng, keys, narrative)


def generate_part(rng: random.Random, words: int) -> tuple[str, str]:
    """(text, summary) of a part of a file, with about `words` words and a random number of facts."""
    facts = draw_facts(rng, NAMES)
    count = rng.choice((0, 0, 1, 1, 2, 3, 4, 5, 6, 7))
    shown = {name: facts[name] for name in rng.sample(NAMES, count)}
    sentences = draw_sentences(rng, facts, shown, words)
    text = "\n\n".join(blocks(rng, sentences))
    if rng.random() < 0.3:
        text = f"Report for {rng.choice(MONTHS)}.\n\n{text}"
    return text, summarize(shown)


def generate_notes(rng: random.Random, count: int) -> tuple[str, str]:
    """(text, summary) of the summaries of `count` parts. A few facts are missing or stand in two of them."""
    facts = draw_facts(rng, NAMES)
    parts: list[dict[str, str]] = [{} for _ in range(count)]
    shown = {name: value for name, value in facts.items() if rng.random() < 0.9}
    for name, value in shown.items():
        for part in rng.sample(parts, min(count, rng.choice((1, 1, 1, 1, 2)))):
            part[name] = value
    return "\n".join(summarize(part) for part in parts), summarize(shown)


def summarize(facts: Mapping[str, str]) -> str:
    """The summary that states these facts and leaves the others unknown."""
    return SUMMARIES[KIND].format_map(UNKNOWN | dict(facts))
