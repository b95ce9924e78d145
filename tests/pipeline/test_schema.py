"""Blocks of several shards are divided where one shard ends."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.schema import split_by_shard


@pytest.mark.parametrize("names", [[], ["a"], ["a", "a", "b", "c", "c"], ["b", "a"]])
def test_each_shard_of_a_block_is_a_table_in_order(names: list[str]) -> None:
    numbers = list(range(len(names)))
    block = pa.table({"_shard": pa.array(names, pa.string()), "n": pa.array(numbers, pa.int64())})
    halves = pa.concat_tables([block.slice(0, 1), block.slice(1)])
    for table in (block, halves):
        found = split_by_shard(table)
        assert [part["_shard"].unique().to_pylist() for part in found] == [[n] for n in dict.fromkeys(names)]
        assert [n for part in found for n in part["n"].to_pylist()] == numbers
    assert split_by_shard(pa.table({})) == []
