"""The plan: every row in exactly one shard, names from content, and a plain word on what changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import CorruptOutput
from pipeline.inputs.read import InputFile
from pipeline.planning.plan import Plan, make_plan, plan_differences, remaining


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
def test_what_remains_is_what_has_no_result(rows: list[int], data: st.DataObject) -> None:
    plan = make_plan(files(*rows), {}, 4)
    done = data.draw(st.sets(st.sampled_from(plan.shards)))
    left = remaining(plan, {s.part for s in done} | {"_plan.json", "part-of-another-run.parquet"})
    assert left == [s for s in plan.shards if s not in done]


def test_a_shard_is_named_by_bytes_range_settings_and_model() -> None:
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


def test_differences_name_what_was_and_what_is() -> None:
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
    ],
)
def test_a_plan_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptOutput, match="is not a plan of this system"):
        Plan.from_json(data)
