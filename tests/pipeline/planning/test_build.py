"""From inputs to a plan, and to the same plan again without opening unchanged files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import CorruptInput, UsageError
from pipeline.inputs.jsonl import JsonLines
from pipeline.inputs.parquet import Parquet
from pipeline.planning.build import inspect_inputs, plan_inputs
from pipeline.planning.plan import Plan, plan_differences
from pipeline.schema import TaskInfo
from pipeline.settings import RunSettings


def settings(*inputs: Path, **given: object) -> RunSettings:
    whole = {"shard_documents": 4, "passthrough": ("number",), **given}
    return RunSettings(input=tuple(map(str, inputs)), output="out", model="m", **whole)


def planned(given: RunSettings, before: Plan | None = None) -> Plan:
    return plan_inputs(inspect_inputs(given, before), {"weights_sha256": "w"}, given, TaskInfo(), before)


@pytest.fixture
def corpus(write_corpus: Callable[..., Path]) -> Path:
    return write_corpus(["x"] * 9, ["y"] * 3)


def test_a_resumed_run_opens_no_unchanged_file(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = corpus / "c.jsonl"
    lines.write_text("".join(json.dumps({"doc_id": f"j{n}", "text": "z"}) + "\n" for n in range(5)))
    given = settings(corpus / "000.parquet", corpus / "001.parquet", lines, passthrough=())
    frozen = Plan.from_json(planned(given).to_json())
    assert frozen.documents == 17 and {s.offset for s in frozen.shards if s.path.endswith("jsonl")} > {0}
    for kind in (Parquet, JsonLines):
        monkeypatch.setattr(kind, "inspect", lambda *_: pytest.fail("opened"))
        monkeypatch.setattr(kind, "stream", lambda *_: pytest.fail("opened"))
    again = planned(given, frozen)
    assert again == frozen and plan_differences(frozen, again) == []


def test_passthrough_types_are_kept_in_the_plan(corpus: Path) -> None:
    frozen = planned(settings(corpus))
    assert frozen.passthrough == pa.schema({"number": pa.int64()})
    assert planned(settings(corpus), frozen).passthrough == frozen.passthrough


def test_a_skipped_file_stays_skipped_until_it_changes(corpus: Path) -> None:
    bad = corpus / "001.parquet"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-9])
    with pytest.raises(CorruptInput, match=r"001\.parquet cannot be read"):
        planned(settings(corpus))
    skip = settings(corpus, on_bad_shard="skip")
    frozen = planned(skip)
    assert [file.path for file in frozen.skipped] == [str(bad)] and frozen.documents == 9
    assert planned(skip, frozen) == frozen
    with pytest.raises(CorruptInput):
        planned(settings(corpus), frozen)
    bad.write_bytes(whole)
    assert plan_differences(frozen, planned(skip, frozen)) == [f"input changed: {bad}"]


def test_an_input_without_a_document_is_refused(corpus: Path) -> None:
    (corpus / "000.parquet").write_bytes(b"")
    (corpus / "001.parquet").unlink()
    with pytest.raises(UsageError, match="the input has no documents: 1 files, 1 of them unreadable"):
        planned(settings(corpus, on_bad_shard="skip"))


def test_ids_are_compared_when_a_run_is_planned_first(corpus: Path) -> None:
    (corpus / "002.parquet").write_bytes((corpus / "001.parquet").read_bytes())
    with pytest.raises(UsageError, match="3 document IDs occur more than once, such as d10, d11, d9"):
        planned(settings(corpus))
    kept = planned(settings(corpus, on_duplicate_id="keep"))
    assert kept.documents == 15
    assert planned(settings(corpus), kept) == kept


def test_settings_of_failure_handling_do_not_change_the_fingerprint(corpus: Path) -> None:
    given = settings(corpus)
    changed = replace(given, on_bad_shard="skip", on_duplicate_id="keep", max_failed=3.0)
    assert changed.fingerprinted_settings() == given.fingerprinted_settings()
    assert replace(given, max_document_bytes=5).fingerprinted_settings() != given.fingerprinted_settings()
