"""The benchmarks run in miniature, and their last line is what they found, as JSON."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the reference, transformers, is not installed")


def last_line(capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> dict[str, Any]:
    importlib.import_module(f"benchmarks.{name}").main(list(arguments))
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.filterwarnings("ignore:this processor .* has no products")
def test_identity_counts_documents_written_alike(capsys: pytest.CaptureFixture[str]) -> None:
    found = last_line(
        capsys, "identity", "--tiny", "--documents", "6", "--longest", "300", "--new-tokens", "6"
    )
    assert found["documents"] == found["float32"]["same"] == 6
    assert found["float32"]["first difference"] is None
    assert set(found) >= {"machine", "bfloat16", "int8"}


def test_packing_computes_no_padding(capsys: pytest.CaptureFixture[str]) -> None:
    found = last_line(capsys, "lengths", "--documents", "3", "--corpora", "PubMed", "--reference-batch", "3")
    assert found["PubMed"]["led"] == 1.0 > found["PubMed"]["transformers"]


def test_end_to_end_writes_the_same_summaries(capsys: pytest.CaptureFixture[str]) -> None:
    small = (
        "--tiny",
        "--tokens",
        "100",
        "--new-tokens",
        "5",
        "--documents",
        "3",
        "--dtypes",
        "float32",
        "--here",
    )
    found = last_line(capsys, "end_to_end", *small)
    assert found["same"] == {"float32": 3}
    assert set(found["seconds"]) == {"float32", "transformers"}


@pytest.mark.parametrize("task", ["label", "answer"])
def test_readers_give_the_same_logits(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    small = (
        "--tiny",
        "--task",
        task,
        "--documents",
        "5",
        "--longest",
        "60",
        "--batch",
        "2",
        "--rounds",
        "1",
        "--here",
    )
    assert last_line(capsys, "readers", *small)["difference"] < 1e-4


def test_every_way_of_reading_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    rows = last_line(capsys, "ways", "--tiny", "--tokens", "1500")["rows"]
    assert [(row["way"], row["chunks"]) for row in rows] == [("chunks", 2), ("whole", 1), ("prompt", 1)]


def test_ctranslate2_writes_as_many_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed")
    small = ("--tiny", "--tokens", "40", "--documents", "2", "--steps", "3", "--rounds", "1")
    assert last_line(capsys, "ctranslate2_bart", *small)["documents"] == 2


def test_what_flags_attention_and_metrics_cost_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    found = last_line(capsys, "overhead", "--documents", "2", "--rounds", "1")
    assert all(found[f"{name} ratio"] > 0 for name in ("flags", "attention", "metrics"))


def test_global_tokens_give_the_same_states(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--tiny", "--here", "--tokens", "200", "--counts", "0", "1", "70", "--rounds", "1")
    found = last_line(capsys, "global_tokens", *small)
    assert set(found) == {"0", "1", "70"} and found["1"]["to_one"] == 1.0
    assert all(row["difference"] < 1e-4 for row in found.values())


def test_fusing_is_compared_with_reading(capsys: pytest.CaptureFixture[str]) -> None:
    settings = '{"chunk_tokens": 256}'
    model = "demo/checkpoints/led-reports-year"
    small = ("--documents", "2", "--rounds", "1", "--words", "300", "900", "--settings", settings)
    found = last_line(capsys, "overflow", "--model", model, *small)
    assert found["documents"] == 2 and found["chunks"] > 4
    assert found["fuse to read"] > 0 and 0 < found["slots used"] <= 1
