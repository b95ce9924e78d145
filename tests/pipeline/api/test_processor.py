"""A task as a step of a user's own Ray Data pipeline, on two raylets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.data.expressions import col

from pipeline.api import build_processor, read_results, run
from pipeline.cluster.session import KEEP_WORKERS
from pipeline.errors import UsageError
from pipeline.workers.crashes import QUARANTINE_REASON
from tests.conftest import words
from tests.pipeline.poison import BREAKS, KILLS, BrittleTask
from tests.pipeline.readers import make_reader
from tests.pipeline.same_rows import same_row
from tests.pipeline.tasks.own_tasks import write_shout
from tests.waiting import long_test

# Ray says so of every small dataset.
pytestmark = pytest.mark.filterwarnings("ignore:The minimum number of concurrent:UserWarning")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Cluster]:
    """Two raylets of two CPUs each, which keep their processes."""
    head = {"num_cpus": 2, "include_dashboard": False, "_system_config": KEEP_WORKERS}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def table(count: int, **changed: str | None) -> pa.Table:
    """Documents of many lengths, with columns that Python values do not hold. `changed` texts are by ID."""
    texts = [words(3 + n * 7 % 90, n) for n in range(count)]
    for name, text in changed.items():
        texts[int(name[1:])] = text  # type: ignore[call-overload]
    return pa.table(
        {
            "doc_id": [f"d{n}" for n in range(count)],
            "text": pa.array(texts, pa.string()),
            "number": range(count),
            "place": [{"line": n, "tags": ["a"] * (n % 3)} for n in range(count)],
            "moment": pa.array(range(count), pa.timestamp("ns", "UTC")),
        }
    )


def by_id(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {row["doc_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_rows_are_those_of_the_job_between_the_users_own_steps(model_folder: Path, tmp_path: Path) -> None:
    documents = table(70, d5=None, d17="")
    (tmp_path / "corpus").mkdir()
    pq.write_table(documents, tmp_path / "corpus" / "a.parquet")
    settings = {"model": str(model_folder), "replicas": 2}
    run("summarize", input=tmp_path / "corpus", output=tmp_path / "out", progress=False, **settings)
    expected = by_id(read_results(str(tmp_path / "out")).arrow().to_pylist())

    processor = build_processor("summarize", batch_documents=16, **settings)
    dataset = ray.data.from_arrow(documents).map(lambda row: {**row, "size": len(row["text"] or "")})
    rows = by_id(processor(dataset).filter(expr=col("number") != 4).take_all())
    assert set(rows) == set(expected) - {"d4"}
    for name, row in rows.items():
        own, of_job = (
            {column: each[column] for column in processor.columns} for each in (row, expected[name])
        )
        assert same_row(own, of_job)
    assert rows["d3"]["size"] == len(documents["text"][3].as_py())
    failed = {name: (row["stage"], row["reason"]) for name, row in rows.items() if row["status"] == "failed"}
    assert failed == {"d5": ("read", "the text is null"), "d17": ("read", "the text is empty")}


def test_columns_and_their_types_stay_and_order_is_kept_on_request(model_folder: Path) -> None:
    documents = table(60)
    processor = build_processor(
        "summarize", model=str(model_folder), replicas=1, batch_documents=4, preserve_order=True, flags=False
    )
    dataset = ray.data.from_arrow([documents.slice(n, 7) for n in range(0, 60, 7)])
    found = pa.concat_tables(ray.get(processor(dataset).to_arrow_refs()))
    assert found["doc_id"].to_pylist() == documents["doc_id"].to_pylist()
    for name in documents.column_names:
        assert found.schema.field(name).type == documents.schema.field(name).type
        assert found[name].to_pylist() == documents[name].to_pylist()
    assert found.column_names == [*documents.column_names, *processor.columns]
    assert processor.columns == [
        *("status", "stage", "reason", "input_tokens", "truncated_tokens", "truncated_characters", "chunks"),
        *("summary", "output_tokens", "finish_reason", "score"),
    ]


@long_test
def test_arrays_pass_and_one_large_block_is_divided(model_folder: Path) -> None:
    images = np.arange(40 * 6, dtype=np.float32).reshape(40, 2, 3)
    dataset = ray.data.from_numpy(images).map(
        lambda row: {"image": row["data"], "text": words(4, int(row["data"][0, 0]))}
    )
    dataset = dataset.repartition(1)
    processor = build_processor(
        "summarize", model=str(model_folder), batch_documents=8, replicas=1, flags=False
    )
    rows = processor(dataset).take_all()
    assert sorted(float(row["image"][0, 0]) for row in rows) == [6.0 * n for n in range(40)]
    assert all(row["image"].shape == (2, 3) and row["status"] == "ok" for row in rows)


@long_test
def test_rows_of_several_questions_repeat_the_columns(tmp_path: Path) -> None:
    model = make_reader(tmp_path / "model", "answer")
    documents = table(6, d2=None)
    processor = build_processor("answer", model=str(model), question=["when?", "pump?"], replicas=1)
    rows = processor(ray.data.from_arrow(documents)).take_all()
    asked = {(row["doc_id"], row["question_number"], row["number"]) for row in rows}
    assert asked == {(f"d{n}", q, n) for n in range(6) for q in range(2)} and len(rows) == 12
    assert {row["doc_id"] for row in rows if row["status"] == "failed"} == {"d2"}


@long_test
def test_a_task_of_ones_own(model_folder: Path, tmp_path: Path) -> None:
    processor = build_processor(write_shout(tmp_path / "mine"), model=str(model_folder), mark="?", replicas=1)
    rows = by_id(processor(ray.data.from_arrow(table(9, d4="rose and pump"))).take_all())
    assert rows["d4"]["reason"] == "roses are not shouted"
    assert all(row["shout"].endswith("?") for name, row in rows.items() if row["status"] == "ok")


@long_test
def test_a_document_that_fails_or_kills_its_replica_is_a_failed_row(model_folder: Path) -> None:
    documents = table(40, d7=BREAKS + " pump", d19=KILLS + " pump")
    processor = build_processor(
        BrittleTask, model=str(model_folder), batch_documents=8, replicas=1, flags=False
    )
    rows = by_id(processor(ray.data.from_arrow(documents)).take_all())
    assert len(rows) == 40
    failed = {name: row["reason"] for name, row in rows.items() if row["status"] == "failed"}
    assert failed == {"d7": "KeyError: 'position 7'", "d19": QUARANTINE_REASON}


def test_what_cannot_be_processed_is_said_first(model_folder: Path) -> None:
    model = str(model_folder)
    for settings, message in (
        ({"output": "o"}, "output is for runs over files"),
        ({"num_beam": 3}, "'num_beam' is not a setting; did you mean num_beams?"),
        ({"num_beams": 0}, "--num-beams is 0; it must be at least 1"),
        ({"batch_documents": 0}, "batch_documents is 0"),
    ):
        with pytest.raises(UsageError, match=message.replace("?", r"\?")):
            build_processor("summarize", model=model, **settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--model"):
        build_processor("summarize", model="/no/such/model")
    with pytest.raises(UsageError, match=r"model .*: .*classif"):
        build_processor("classify", model=model)
    processor = build_processor("summarize", model=model, replicas=1)
    with pytest.raises(UsageError, match="has no column text; it has doc_id, body"):
        processor(ray.data.from_arrow(table(3).select(["doc_id", "text"]).rename_columns(["doc_id", "body"])))
    with pytest.raises(UsageError, match="has the column summary, which the task summarize adds"):
        processor(ray.data.from_arrow(table(3).append_column("summary", [["a"] * 3])))
    numbers = table(3).set_column(1, "text", [[1, 2, 3]])
    with pytest.raises(Exception, match="column 'text' holds int64; it must hold texts"):
        processor(ray.data.from_arrow(numbers)).take_all()


@long_test
def test_an_empty_dataset_stays_empty(model_folder: Path) -> None:
    processor = build_processor("summarize", model=str(model_folder), replicas=1)
    assert processor(ray.data.from_arrow(table(3)).filter(expr=col("number") < 0)).take_all() == []
