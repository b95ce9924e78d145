"""Files of a year have their facts once, anywhere. The training has the same kinds of texts."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from pathlib import Path

import pytest

from demo.make_years import make_rows
from demo.train_years import STAGES, make_batch
from demo.years import NAMES, generate_notes, generate_part, generate_year, summarize
from led.pipelines.pipeline import pipeline
from led.tokenizer.tokenizer import LEDTokenizer

TOKENIZER = Path("demo/checkpoints/led-reports-summary")


@pytest.mark.parametrize("seed", range(20))
def test_a_year_has_every_fact_once(seed: int) -> None:
    year = generate_year(seed, 2000)
    assert year == generate_year(seed, 2000) and set(year.facts) == set(NAMES)
    for value in year.facts.values():
        assert year.text.count(value) == year.summary.count(value) == 1
    assert 1900 < len(year.text.split()) < 2150
    assert year.text.count("Report for ") == 12


def test_facts_are_anywhere_in_the_year() -> None:
    years = [generate_year(seed, 3000) for seed in range(40)]
    places = [year.text.index(value) / len(year.text) for year in years for value in year.facts.values()]
    quarters = Counter(int(4 * place) for place in places)
    assert all(0.15 < count / len(places) < 0.35 for count in quarters.values()) and len(quarters) == 4


def test_a_part_states_what_it_has_and_leaves_the_rest_unknown() -> None:
    rng, lengths = random.Random(1), set()
    for _ in range(60):
        text, summary = generate_part(rng, 100)
        # The words of the summary that are not the template's come from the text.
        stated = set(summary.replace(".", "").replace(",", "").split())
        stated -= set(summarize({}).replace(".", "").replace(",", "").split())
        assert all(word in text for word in stated)
        lengths.add(len(stated) // 3)
    assert len(lengths) > 3 and 0 in lengths


def test_notes_are_the_summaries_of_parts() -> None:
    text, summary = generate_notes(random.Random(2), 9)
    notes = text.split("\n")
    assert len(notes) == 9 and all(note.startswith("On ") for note in notes)
    for word in set(summary.split()) - set(summarize({}).split()):
        assert any(word in note for note in notes)


def test_rows_have_facts_and_lengths_as_asked() -> None:
    rows = make_rows(6, 3_000_000, (200, 900))
    assert len({row["doc_id"] for row in rows}) == 6
    for row in rows:
        assert 180 < len(str(row["text"]).split()) < 1000
        assert all(fact in str(row["text"]) for fact in row["facts"])


def test_batches_have_a_summary_for_each_text() -> None:
    tokenizer = LEDTokenizer.from_pretrained(TOKENIZER)
    batch, labels = make_batch(STAGES[0], tokenizer, random.Random(3))
    assert len(batch.lengths) == len(labels) and sum(batch.lengths) >= STAGES[0].tokens
    texts = [
        tokenizer.decode([i for i in row.tolist() if i >= 0], skip_special_tokens=True) for row in labels
    ]
    assert all(text.startswith("On ") and text.endswith(".") for text in texts)


def test_the_checkpoint_fuses_what_a_truncated_document_does_not_have() -> None:
    years = [generate_year(seed, 9000) for seed in (3_900_000, 3_900_001)]
    summarize = pipeline("summarization", model="demo/checkpoints/led-reports-year")
    found = {}
    for overflow in ("truncate", "fuse"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = summarize([year.text for year in years], overflow=overflow)
        pairs = zip(years, results, strict=True)
        found[overflow] = sum(
            fact in result["summary_text"] for year, result in pairs for fact in year.facts.values()
        )
    assert found["fuse"] >= 12 > found["truncate"] + 2
