"""The generated reports: each fact once, anywhere, and nothing of the held-out corpus in the training."""

from __future__ import annotations

from statistics import fmean

import pyarrow.parquet as pq
import pytest

from demo.make_corpus import make_rows
from demo.reports import KINDS, generate_report
from demo.train_summarizer import TRAINING_SEEDS


@pytest.mark.parametrize("words", [0, 60, 300, 1500, 4500])
def test_every_fact_stands_once_in_the_text_and_in_the_summary(words: int) -> None:
    for seed in range(40):
        report = generate_report(seed, words)
        assert report == generate_report(seed, words)
        assert report.kind in KINDS and len(report.questions) == len(report.facts) >= 6
        for fact in report.facts.values():
            assert report.text.count(fact) == report.summary.count(fact) == 1
        if words >= 300:
            assert abs(len(report.text.split()) - words) < 0.1 * words


def test_facts_stand_anywhere() -> None:
    places = []
    for seed in range(150):
        report = generate_report(seed, 1500)
        places += [report.text.index(fact) / len(report.text) for fact in report.facts.values()]
    assert 0.45 < fmean(places) < 0.55
    for tenth in range(10):
        assert 0.06 < fmean(tenth / 10 <= place < (tenth + 1) / 10 for place in places) < 0.14


def test_the_sample_corpus_is_what_its_script_makes_and_was_never_trained_on() -> None:
    rows = pq.read_table("demo/corpus").to_pylist()
    assert rows == make_rows(240, 1_000_000)
    assert 1_000_000 + len(rows) < TRAINING_SEEDS.start
