"""The generated bundles: one site, one kind, and only the last report's facts in the summary."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from demo.bundles import REPORTS, generate_bundle
from demo.compare_bundles import compare
from demo.make_bundles import make_rows
from demo.train_bundles import STAGES, make_batch, start_model
from demo.train_summarizer import TRAINING_SEEDS
from led.pipelines.global_attention import GlobalAttention
from led.pipelines.inputs import InputRules
from led.pipelines.joining import separator_ids
from led.tokenizer.tokenizer import LEDTokenizer

SUMMARIZER = Path("demo/checkpoints/led-reports-summary")


@pytest.mark.parametrize("words", [0, 60, 300])
def test_only_the_last_report_counts(words: int) -> None:
    counts = set()
    for seed in range(40):
        bundle = generate_bundle(seed, words)
        assert bundle == generate_bundle(seed, words)
        counts.add(len(bundle.texts))
        for fact in bundle.facts:
            assert fact in bundle.texts[-1] and fact in bundle.summary
        for fact in bundle.outdated:
            assert any(fact in text for text in bundle.texts[:-1])
        assert len(bundle.outdated) >= len(bundle.texts) - 1
    assert counts == set(range(REPORTS[0], REPORTS[1] + 1))


def test_batches_have_global_separators() -> None:
    tokenizer = LEDTokenizer.from_pretrained(SUMMARIZER)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<doc-sep>"]})
    separator = separator_ids(tokenizer)
    tokens = GlobalAttention.parse(("first", "separator")).resolve(tokenizer, separator)
    batch, labels = make_batch(STAGES[0], tokenizer, InputRules(tokens, separator), random.Random(0))
    assert batch.input_ids is not None and len(labels) == len(batch.lengths) > 1
    for document in batch.documents():
        assert document.input_ids is not None
        expected = document.input_ids == separator[0]
        expected[0] = True
        assert document.is_global.equal(expected) and 2 <= int(expected.sum()) <= REPORTS[1]


def test_training_starts_from_the_summarizer() -> None:
    tokenizer = LEDTokenizer.from_pretrained(SUMMARIZER)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<doc-sep>"]})
    model = start_model(SUMMARIZER, tokenizer)
    assert model.config.vocab_size == len(tokenizer)
    table = model.led.encoder.embed_positions.weight
    assert not table[0, :4].equal(table[256, :4]) and table.shape == (8192, 128)


def test_the_sample_is_what_its_script_makes_and_was_never_trained_on() -> None:
    rows = pq.read_table("demo/bundles").to_pylist()
    assert rows == make_rows(120, 2_000_000)
    assert TRAINING_SEEDS.start > 2_000_000 + 120


def test_facts_are_counted_over_all_summaries_of_a_bundle(tmp_path: Path) -> None:
    facts, outdated = [["a1", "a2"]] * 3, [["b1", "b2"]] * 3
    columns = {
        "doc_id": ["x", "y", "z"],
        "summary": ["a1 b1", "a2", None],
        "facts": facts,
        "outdated": outdated,
    }
    pq.write_table(pa.table(columns), tmp_path / "part-0.parquet")
    assert compare(tmp_path) == (3, 2 / 6, 1 / 6)
    pq.write_table(pa.table({**columns, "bundle": ["x", "x", "z"]}), tmp_path / "part-0.parquet")
    assert compare(tmp_path) == (2, 2 / 4, 1 / 4)
