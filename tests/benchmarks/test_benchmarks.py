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


def test_natural_lengths_are_written_alike_and_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--tokens", "64", "--written", "9", "--documents", "5", "--slots", "2", "--rival", "5")
    found = last_line(capsys, "natural_lengths", "--tiny", "--here", *small)
    assert found["same_tokens"] == "5 of 5"
    assert 0.5 < found["slot_utilization"] <= 1 and found["simulated"] > 0


def test_the_simulated_scheduler_gains_from_encoding_ahead(capsys: pytest.CaptureFixture[str]) -> None:
    found = last_line(capsys, "simulate_scheduler", "--documents", "2560")["h200"]
    assert len(found) == 9
    for row in found.values():
        assert max(row["stream"], row["shards"]) < row["ahead"] < row["slots"] <= row["limit"]
    assert found["4096/128"]["slots"] > 0.9 * found["4096/128"]["limit"]


def test_the_simulation_counts_what_the_scheduler_counts() -> None:
    """Slot utilization and steps of the real scheduler, with documents that end at the same lengths."""
    from benchmarks import natural_lengths, simulate_scheduler as simulator
    from benchmarks.rival import documents
    from led import LEDConfig, LEDForConditionalGeneration, SchedulerLimits
    from led.generation.admission import AdmissionRules, EncodingCosts

    model = LEDForConditionalGeneration(LEDConfig(**natural_lengths.SMALL)).eval()
    lengths, steps = [30, 60, 9, 41, 25, 12, 50], [3, 8, 2, 9, 4, 4, 7]
    given = natural_lengths.requests(documents(lengths), steps)
    measured = natural_lengths.decode(model, 3, 9, given)[1]
    rules = AdmissionRules.for_device(SchedulerLimits(), "cpu", 32 * 4, 2**30)
    simulated = simulator.simulate(
        list(map(simulator.Document, lengths, steps)),
        3,
        rules,
        EncodingCosts(1, 0),
        simulator.StepCosts(1, 0, 0),
    )
    assert simulated.decode_s == measured["steps"]
    assert simulated.slot_utilization == pytest.approx(measured["document_steps"] / measured["slot_steps"])


def test_reading_counts_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    found = last_line(capsys, "reading", "--rows", "300")["reading"]
    assert set(found) == {"row groups of a shard", "one row group", "gzip"}
    assert all(cost["300"]["read_cpu_s"] > 0 for cost in found.values())


def test_steps_are_compared_with_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--tokens", "64", "--documents", "1", "2", "--steps", "4")
    found = last_line(capsys, "step_limit", "--tiny", *small)
    for row in (found["1 x 64"], found["2 x 64"]):
        assert row["ms"] > 0 and 0 < row["of bandwidth"] <= row["of limit"] * (1 + 1e-9)
