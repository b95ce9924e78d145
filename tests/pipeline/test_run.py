"""The whole run on a real cluster of three raylets: every document once, the same rows as without a cluster, resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.cluster_utils import Cluster

from pipeline.config import SummarizeSettings
from pipeline.errors import CorruptInput, PlanMismatch, UsageError
from pipeline.predictor import Predictor
from pipeline.reader import ShardReader
from pipeline.run import run
from pipeline.shards import MANIFEST, PLAN, SUCCESS, Shard
from pipeline.tasks import Summarize
from tests.conftest import read_output, words


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Cluster]:
    """Three raylets of one CPU each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def job(model_folder: Path, corpus: Path, output: Path, **settings: Any) -> Summarize:
    given = {"shard_documents": 4, "actors": 2, "passthrough": ("number",), **settings}
    return Summarize(SummarizeSettings(input=(str(corpus),), output=str(output), model=str(model_folder), **given))


def test_every_document_is_one_row_equal_to_the_bare_predictors(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    texts: list[str | None] = [words(1 + n * 7 % 90, n) for n in range(21)]
    texts[5], texts[17] = None, ""
    corpus = write_corpus(texts[:13], texts[13:])
    task = job(model_folder, corpus, tmp_path / "out")
    result = run(task)

    rows = {row["doc_id"]: row for row in read_output(tmp_path / "out")}
    assert sorted(rows) == sorted(f"d{i}" for i in range(21)) and result.shards_done == 6
    assert {row["doc_id"] for row in rows.values() if row["status"] == "failed"} == {"d5", "d17"}
    reader, predictor = ShardReader(task, str(model_folder), None, 128), Predictor(task, str(model_folder), None)
    for path, count in (("000.parquet", 13), ("001.parquet", 8)):
        for expected in predictor(reader(Shard("x", str(corpus / path), 0, count))).to_pylist():
            got = rows[expected["doc_id"]]
            assert got["score"] == pytest.approx(expected["score"], abs=1e-5)
            assert {k: v for k, v in got.items() if k != "score"} == {k: expected[k] for k in got if k != "score"}

    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (manifest["documents"], manifest["ok"], manifest["failed"]) == (21, 19, 2)
    part = next((tmp_path / "out").glob("part-*.parquet"))
    facts = json.loads(pq.read_schema(part).metadata[b"led.facts"])
    assert facts["weights_sha256"] and facts["plan"] == manifest["plan"] and facts["generation"]["num_beams"] == 2


def test_a_run_goes_on_from_what_is_committed(model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path) -> None:
    task = job(model_folder, write_corpus([words(9, n) for n in range(20)]), tmp_path / "out")
    run(task)
    parts = sorted((tmp_path / "out").glob("part-*"))
    before = {part: (part.stat().st_ino, part.read_bytes()) for part in parts}
    for name in (MANIFEST, SUCCESS):
        (tmp_path / "out" / name).unlink()
    lost = parts[1]
    lost.unlink()
    assert run(replace(task, settings=replace(task.settings, actors=1, documents_in_flight=2))).shards_done == 1
    for part in parts:
        if part != lost:
            assert (part.stat().st_ino, part.read_bytes()) == before[part]
    strip = [{k: v for k, v in row.items() if k != "score"} for row in pq.read_table(lost).to_pylist()]
    old = pq.read_table(pa.BufferReader(before[lost][1])).to_pylist()
    assert strip == [{k: v for k, v in row.items() if k != "score"} for row in old]
    assert run(task).shards_done == 0


def test_another_plan_in_the_folder_is_refused_with_what_differs(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    corpus = write_corpus([words(3, n) for n in range(5)])
    task = job(model_folder, corpus, tmp_path / "out")
    run(task)
    plan = (tmp_path / "out" / PLAN).read_bytes()
    with pytest.raises(PlanMismatch, match=r"generation\.num_beams: was 2, is 3"):
        run(job(model_folder, corpus, tmp_path / "out", num_beams=3))
    pq.write_table(pq.read_table(corpus / "000.parquet").slice(1), corpus / "000.parquet")
    with pytest.raises(PlanMismatch, match=r"input changed: .*000\.parquet"):
        run(task)
    assert (tmp_path / "out" / PLAN).read_bytes() == plan


def test_a_shard_far_larger_than_a_default_block_stays_whole(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    corpus = write_corpus([words(5, 0)] * 40)
    path = corpus / "000.parquet"
    ballast = pa.array([str(i) * (2_500_000 if i > 9 else 5_000_000) for i in range(40)])
    pq.write_table(pq.read_table(path).append_column("ballast", ballast), path, compression="zstd")
    run(job(model_folder, corpus, tmp_path / "out", shard_documents=40, passthrough=("ballast",)))
    [part] = (tmp_path / "out").glob("part-*")
    rows = pq.read_table(part)
    assert rows["doc_id"].to_pylist() == [f"d{i}" for i in range(40)]
    assert rows["ballast"].nbytes > 190e6


def test_rows_that_rot_after_the_plan_name_their_file(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    corpus = write_corpus([words(50, n) for n in range(8)])
    path = corpus / "000.parquet"
    data = bytearray(path.read_bytes())
    data[8:200] = bytes(192)  # the pages of the first column; the footer stays whole
    path.write_bytes(data)
    with pytest.raises(CorruptInput, match=r"rows 0 to 4 of .*000\.parquet cannot be read"):
        run(job(model_folder, corpus, tmp_path / "out"))
    assert SUCCESS not in {p.name for p in (tmp_path / "out").iterdir()}


def test_a_cluster_that_can_never_hold_the_actors_is_refused_at_once(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    corpus = write_corpus(["x"] * 200)
    with pytest.raises(UsageError, match=r"--actors is 50; the cluster has 3 CPUs"):
        run(job(model_folder, corpus, tmp_path / "out", actors=50, shard_documents=1))
