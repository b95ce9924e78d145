"""Quality flags of cases computed by hand, and of the demo's reference summaries, which have no faults."""

from __future__ import annotations

import itertools
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st

from benchmarks.flags import measure as measure_planted
from pipeline.tasks.quality import QUALITY, Source, flags_of, measure, quality_columns, words_of

DOCUMENT = (
    "The pump at Fenwick failed on 3 May. Engineer Maria Lowe replaced the seal at a cost of 1,250 dollars. "
    "No one was hurt, and the station went on with its second pump until the work was done in the evening."
)


def flags(
    summary: str, document: str = DOCUMENT, score: float | None = None, *, finished: bool = True
) -> list[str]:
    names: list[str] = quality_columns(summary, document, score, finished=finished)["flags"]
    return names


def test_words_and_numbers() -> None:
    assert words_of("F-481 cost 1,250.50 dollars; it's 3,5.") == [
        "F-481",
        "cost",
        "1250.50",
        "dollars",
        "it's",
        "3,5",
    ]


def fragments(words: list[str], source: list[str]) -> list[int]:
    """The reference implementation: every position of the document is tried."""
    lengths, i = [], 0
    while i < len(words):
        lengths_here = [
            next(
                (n for n, pair in enumerate(zip(words[i:], source[j:], strict=False)) if len(set(pair)) > 1),
                min(len(words) - i, len(source) - j),
            )
            for j in range(len(source))
        ]
        longest = max(lengths_here, default=0)
        if longest:
            lengths.append(longest)
        i += max(1, longest)
    return lengths


def test_fragments_are_matched_longest_first_from_the_left() -> None:
    words = ["a", "b", "c", "q", "f", "a", "z"]
    assert Source("a b c d e f a b x", words).fragments() == [3, 2]
    assert Source("a b", []).fragments() == [] and Source("a b", ["q"]).fragments() == []


WORDS = st.lists(st.sampled_from(["a", "b", "c", "the", "7", "x's", "Ab-c"]), max_size=30)


@given(WORDS, WORDS, st.integers(0, 12))
def test_the_measures_are_those_of_every_word_and_pair(
    summary: list[str], document: list[str], length: int
) -> None:
    """Against plain lists and sets of all words and pairs of the document."""
    words = [word.lower().removesuffix("'s") for word in summary]
    source = [word.lower().removesuffix("'s") for word in document]
    found = Source(" ".join(document), words)
    assert len(found) == len(source) and all((word in found) == (word in source) for word in words)
    assert found.fragments() == fragments(words, source)
    assert found.fragments(length) == fragments(words, source[:length])
    pairs = set(itertools.pairwise(source))
    quality = measure(" ".join(summary), " ".join(document))
    assert set(found.pairs) == pairs & set(itertools.pairwise(words))
    novel = [pair not in pairs for pair in itertools.pairwise(words)]
    assert quality.novel == pytest.approx(sum(novel) / len(novel) if novel else 0)
    assert quality.numbers == [word for word in summary if word == "7" and word not in source]


def test_blocks_of_a_long_document_are_read_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    summary = "The pump at Fenwick failed on 3 May. It cost 1,250 dollars."
    whole = measure(summary, DOCUMENT)
    for size in (1, 7, 30):
        monkeypatch.setattr("pipeline.tasks.quality._BLOCK", size)
        assert measure(summary, DOCUMENT) == whole


def test_coverage_and_density_as_published() -> None:
    quality = measure("the pump failed on 3 May", DOCUMENT)
    assert quality.coverage == 1.0 and quality.density == pytest.approx((2 * 2 + 4 * 4) / 6)
    assert quality.novel == pytest.approx(1 / 5)


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ("The pump at Fenwick failed on 3 May.", []),
        ("", ["empty"]),
        ("The pump failed.", ["short", "lead"]),
        ("The pump at Fenwick failed on 4 May.", ["numbers"]),
        ("The seal was replaced at a cost of 1250 dollars.", []),
        ("The seal was replaced at a cost of 3 dollars.", ["misplaced numbers"]),
        ("The pump at Fenwick failed and Boris replaced the seal.", ["names"]),
        ("The engineer Maria Lowe's seal was at Fenwick.", []),
        ("the pump failed on the pump failed on the pump failed on", ["repetition"]),
        ("Ancient rivers carve gentle valleys beneath distant mountains.", ["novel"]),
    ],
)
def test_flags_of_summaries(summary: str, expected: list[str]) -> None:
    assert flags(summary) == expected


def test_copies_of_the_beginning_are_flagged_only_in_long_documents() -> None:
    summary = "The pump at Fenwick failed on 3 May."
    assert "lead" in flags(summary, DOCUMENT + " and so on" * 100) and "lead" not in flags(summary)


def test_unfinished_and_unlikely_summaries() -> None:
    summary = "The pump at Fenwick failed on 3 May."
    assert flags(summary, finished=False) == ["unfinished"] and flags(summary, score=-2.0) == ["unlikely"]
    assert flags_of(measure("", ""), 0, None, finished=True) == ["empty"]


def test_the_log_probability_is_written_and_the_page_has_every_measure() -> None:
    columns = quality_columns("The pump at Fenwick failed on 3 May.", DOCUMENT, -2.0, finished=True)
    assert columns["quality"]["mean_log_probability"] == -2.0
    assert set(columns["quality"]) == {field.name for field in QUALITY}
    page = Path("docs/reference/quality-flags.md").read_text("utf-8")
    assert all(f"`{field.name}`" in page for field in QUALITY)


def test_references_have_no_flags_and_planted_faults_are_found() -> None:
    rows = pq.read_table(
        Path("demo/corpus/reports-00.parquet"), columns=["text", "reference_summary"]
    ).to_pylist()
    assert [flags(row["reference_summary"], row["text"]) for row in rows] == [[]] * len(rows)
    planted = measure_planted(0)
    assert all(
        row["recall"] >= 0.9 and row["precision"] >= 0.9 for name, row in planted.items() if "recall" in row
    )
