"""The plan: every row is in exactly one shard, IDs depend on content, and differences are listed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from pipeline.errors import CorruptOutput
from pipeline.inputs.read import InputFile
from pipeline.inputs.splits import Split
from pipeline.planning.plan import (
    PLAN_VERSION,
    Plan,
    Shard,
    config_differences,
    execution_order,
    make_plan,
    plan_differences,
    remaining,
)
from pipeline.settings import fingerprint


def files(*rows: int) -> list[InputFile]:
    return [InputFile(f"/in/{i}", 10 * n, n, f"hash{i}", "5") for i, n in enumerate(rows)]


@given(st.lists(st.integers(0, 50), max_size=6), st.integers(1, 20))
def test_every_row_is_in_exactly_one_shard(rows: list[int], shard_documents: int) -> None:
    plan = make_plan(files(*rows), {"a": 1}, shard_documents)
    covered = [(s.path, row) for s in plan.shards for row in range(s.start, s.stop)]
    assert covered == [(f.path, row) for f in files(*rows) for row in range(f.rows)]
    assert all(0 < s.documents <= shard_documents for s in plan.shards)
    assert len({s.part for s in plan.shards}) == len(plan.shards)
    assert Plan.from_json(plan.to_json()) == plan


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.data())
def test_shards_without_a_result_remain(rows: list[int], data: st.DataObject) -> None:
    plan = make_plan(files(*rows), {}, 4)
    done = data.draw(st.sets(st.sampled_from(plan.shards)))
    todo = remaining(plan, {s.part for s in done} | {"_plan.json", "part-of-another-run.parquet"})
    assert todo == [s for s in plan.shards if s not in done]


def test_a_shard_id_depends_on_bytes_range_settings_and_model() -> None:
    plan = make_plan(files(10), {"weights_sha256": "a"}, 5)
    others = [
        make_plan(files(10), {"weights_sha256": "b"}, 5),
        make_plan(files(10), {"weights_sha256": "a"}, 6),
        make_plan([replace(files(10)[0], content="other")], {"weights_sha256": "a"}, 5),
    ]
    for other in others:
        assert not {s.shard_id for s in plan.shards} & {s.shard_id for s in other.shards}
    touched = make_plan([replace(files(10)[0], stamp="99")], {"weights_sha256": "a"}, 5)
    assert touched.shards == plan.shards


def test_differences_have_the_old_and_the_new_value() -> None:
    before = make_plan(
        files(3, 4), {"settings": {"num_beams": 2, "dtype": "float32"}, "code_version": "1"}, 2
    )
    now = make_plan(
        [replace(files(3)[0], content="new"), InputFile("/in/9", 1, 1, "h", "1")],
        {"settings": {"num_beams": 4, "dtype": "float32"}, "code_version": "1"},
        2,
    )
    assert plan_differences(before, before) == []
    assert plan_differences(before, now) == [
        "settings.num_beams: was 2, is 4",
        "input removed: /in/1",
        "input added: /in/9",
        "input changed: /in/0",
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"version": 1}',
        b'{"version": 2, "sha256": "", "facts": {}, "inputs": [1], "shards": []}',
        b'{"version": 3, "sha256": "", "config": {}, "inputs": [1], "shards": []}',
    ],
)
def test_other_json_is_not_a_plan(data: bytes) -> None:
    with pytest.raises(CorruptOutput, match="is not a plan of this system"):
        Plan.from_json(data)


def test_names_of_a_shard() -> None:
    shard = Shard("id", "/in/a.parquet", 2, 5, content="hash")
    assert shard.source == f"a.parquet-{hashlib.sha256(b'hash').hexdigest()[:12]}"
    assert (shard.part, shard.documents, shard.split) == ("part-id.parquet", 3, Split(2, 5, 0, ()))


def test_counts_of_a_plan() -> None:
    bad = replace(files(1)[0], rows=0, skipped="it is empty")
    plan = make_plan([*files(3, 4), bad], {"a": 1}, 2)
    assert (plan.documents, plan.skipped, plan.fingerprint) == (7, [bad], fingerprint({"a": 1}))


def signed(values: dict[str, Any]) -> bytes:
    """A plan file of these values, with the hash that belongs to them."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return json.dumps(values | {"sha256": digest}).encode()


def test_a_changed_plan_and_one_of_another_version_are_refused() -> None:
    plan = make_plan(files(3), {"b": 1, "a": 1}, 2)
    values = json.loads(plan.to_json())
    assert values["version"] == PLAN_VERSION == 3
    for other in ("0" * 64, "f" * 64):
        with pytest.raises(CorruptOutput, match="it was changed after it was written"):
            Plan.from_json(json.dumps(values | {"sha256": other}).encode())
    del values["sha256"]
    assert Plan.from_json(signed(values)) == plan
    assert Plan.from_json(signed(dict(reversed(values.items())))) == plan
    for version in (1, 4):
        with pytest.raises(CorruptOutput, match=f"version {version}"):
            Plan.from_json(signed(values | {"version": version}))


def test_every_kind_of_difference_of_a_config_is_listed() -> None:
    before = {"settings": {"a": 2, "b": 1}, "n": 2, "m": 1, "old": {"x": 1}, "same": [0]}
    now = {"settings": {"a": 1, "b": 2}, "n": 1, "m": 2, "old": None, "same": [0]}
    assert config_differences(before, now) == [
        "m: was 1, is 2",
        "n: was 2, is 1",
        "old: was {'x': 1}, is None",
        "settings.a: was 2, is 1",
        "settings.b: was 1, is 2",
    ]


def test_a_skipped_file_that_became_readable_is_a_difference() -> None:
    [file] = files(3)
    skipped, readable = (make_plan([f], {}, 2) for f in (replace(file, skipped="it is torn"), file))
    assert plan_differences(skipped, readable) == ["input skipped before, readable now: /in/0"]
    assert plan_differences(skipped, skipped) == plan_differences(readable, skipped) == []


def test_the_order_is_random_except_within_what_must_be_read_from_its_start() -> None:
    splits = {
        "large": [Split(start, start + 10, skipped_rows=start % 40) for start in range(0, 80, 10)],
        "small": [Split(start, start + 10) for start in range(0, 200, 10)],
    }
    inputs = [InputFile(path, 1, parts[-1].stop, f"sha256:{path}", "") for path, parts in splits.items()]
    plan = make_plan(inputs, {}, 10, splits)
    order = execution_order(plan.shards)
    assert sorted(order, key=lambda s: (s.path, s.start)) == list(plan.shards)
    large = [i for i, shard in enumerate(order) if shard.path == "large"]
    first, second = large[:4], large[4:]
    assert first == list(range(first[0], first[0] + 4)) and second == list(range(second[0], second[0] + 4))
    starts = [[order[i].start for i in part] for part in (first, second)]
    assert sorted(starts) == [[0, 10, 20, 30], [40, 50, 60, 70]]
    small = [shard.start for shard in order if shard.path == "small"]
    assert small != sorted(small)
    rest = [shard for shard in order if shard.start % 20]
    assert execution_order(rest[::-1]) == execution_order(rest)
