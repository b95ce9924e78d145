"""The command as a user types it: exit codes and plain messages for everything that may be wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import read_output, words
from tests.jobs.commands import call, call_here

summarize = partial(call, "summarize_corpus")

pytestmark = pytest.mark.usefixtures("shared_cluster")


@pytest.fixture
def corpus(write_corpus: Callable[..., Path]) -> Path:
    return write_corpus([words(20, n) for n in range(6)])


def missing_input(corpus: Path, model: Path) -> list[object]:
    shutil.rmtree(corpus)
    return []


def no_documents(corpus: Path, model: Path) -> list[object]:
    pq.write_table(pq.read_table(corpus / "000.parquet").slice(0, 0), corpus / "000.parquet")
    return []


def no_files(corpus: Path, model: Path) -> list[object]:
    (corpus / "000.parquet").unlink()
    return []


def no_such_column(corpus: Path, model: Path) -> list[object]:
    return ["--text-column", "body"]


def wrong_type(corpus: Path, model: Path) -> list[object]:
    return ["--text-column", "number"]


def corrupt_file(corpus: Path, model: Path) -> list[object]:
    (corpus / "111.parquet").write_bytes((corpus / "000.parquet").read_bytes()[:-100])
    return []


def no_weights(corpus: Path, model: Path) -> list[object]:
    (model / "model.safetensors").unlink()
    return []


def broken_weights(corpus: Path, model: Path) -> list[object]:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    return []


def no_tokenizer(corpus: Path, model: Path) -> list[object]:
    for name in ("tokenizer.json", "vocab.json"):
        (model / name).unlink()
    return []


def wrong_config(corpus: Path, model: Path) -> list[object]:
    values = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**values, "attention_window": 7}))
    return []


def no_such_model(corpus: Path, model: Path) -> list[object]:
    shutil.rmtree(model)
    return []


def unknown_flag(corpus: Path, model: Path) -> list[object]:
    return ["--num-beem", "4"]


def wrong_value(corpus: Path, model: Path) -> list[object]:
    return ["--num-beams", "0"]


def too_long(corpus: Path, model: Path) -> list[object]:
    return ["--max-new-tokens", "5000"]


def limit_over_the_models(corpus: Path, model: Path) -> list[object]:
    return ["--max-input-tokens", "4000"]


def no_cluster_there(corpus: Path, model: Path) -> list[object]:
    return ["--ray-address", "127.0.0.1:9"]


@pytest.mark.parametrize(
    ("damage", "code", "says"),
    [
        (missing_input, 2, "error: the input .*corpus does not exist"),
        (no_files, 2, "error: the input .*corpus holds no file that can be read"),
        (no_documents, 2, "error: the input has no documents"),
        (no_such_column, 2, "error: .*000.parquet has no column 'body'; it has doc_id, text, number"),
        (wrong_type, 2, "error: column 'number' of .*000.parquet holds int64, not text"),
        (corrupt_file, 1, "error: .*111.parquet cannot be read"),
        (no_weights, 2, "error: --model: .*model has no weights; it needs one of model.safetensors"),
        (broken_weights, 2, "error: --model .*model.safetensors cannot be read as weights"),
        (no_tokenizer, 2, "error: --model .*has no tokenizer; it needs tokenizer.json"),
        (wrong_config, 2, "error: --model .*attention_window has 7; it must be an even number"),
        (no_such_model, 2, "error: --model: the model folder .*model does not exist"),
        (unknown_flag, 2, "Perhaps you meant:.*--num-beams"),
        (wrong_value, 2, "error: --num-beams is 0; it must be at least 1"),
        (too_long, 2, "error: .*max_length is 5001; this model's decoder has 64 positions"),
        (limit_over_the_models, 2, "error: --max-input-tokens is 4000; this model reads at most 128 tokens"),
        (no_cluster_there, 1, "error: the cluster 127.0.0.1:9 cannot be joined: .*refused"),
    ],
)
def test_bad_input_has_a_plain_message_and_its_exit_code(
    damage: Callable[[Path, Path], list[object]],
    code: int,
    says: str,
    corpus: Path,
    model_folder: Path,
    tmp_path: Path,
) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    extra = damage(corpus, model)
    done = call_here("summarize", "--input", corpus, "--output", tmp_path / "out", "--model", model, *extra)
    assert done.returncode == code, done.stderr
    assert re.search(says, done.stderr, re.DOTALL), done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("out/part-*")) == []


def test_unusual_documents_become_rows_and_the_run_succeeds(
    write_corpus: Callable[..., Path], model_folder: Path, tmp_path: Path
) -> None:
    texts = [
        None,
        "",
        "x",
        "\0\r\n\t",
        "</s><s><mask><pad>",
        "\U0001f600" * 300,
        "é" * 5000,
        "a" * 100_000,
        words(5, 1),
    ]
    corpus = write_corpus(texts)
    out = tmp_path / "out"
    done = summarize("--input", corpus, "--output", out, "--model", model_folder, "--max-new-tokens", 5)
    assert done.returncode == 0, done.stderr
    rows = {row["doc_id"]: row for row in read_output(out)}
    assert sorted(rows) == [f"d{i}" for i in range(9)]
    assert [rows[f"d{i}"]["reason"] for i in (0, 1)] == ["the text is null", "the text is empty"]
    assert all(rows[f"d{i}"]["status"] == "ok" for i in range(2, 9))
    assert rows["d2"]["input_tokens"] == 3 and rows["d7"]["truncated_tokens"] > 0
    assert "9 documents = 7 ok + 2 failed + 0 skipped" in done.stdout and (out / "_report.html").is_file()


def test_with_five_percent_malformed_input_all_other_documents_are_processed(
    model_folder: Path, tmp_path: Path
) -> None:
    """Null, empty, not UTF-8, too long, rotten pages, not JSON, a footer that is none: each a row or a line
    with its reason."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    texts: list[bytes | None] = [words(3 + n * 7 % 40, n).encode() for n in range(200)]
    reasons = {
        20: "the text is null",
        60: "the text is empty",
        90: "the text is not UTF-8 (byte 0xff at 2)",
        130: "the text has 6000 bytes",
    }
    texts[20], texts[60], texts[90], texts[130] = None, b" \n", b"ab\xff", b"a " * 3000
    table = pa.table({"doc_id": [f"d{n}" for n in range(200)], "text": texts})
    path = corpus / "a.parquet"
    pq.write_table(table, path, row_group_size=5, compression="none", use_dictionary=False)
    page = pq.ParquetFile(path).metadata.row_group(8).column(1).data_page_offset  # rows 40 to 45
    data = bytearray(path.read_bytes())
    data[page : page + 20] = bytes(20)
    path.write_bytes(data)
    (corpus / "b.parquet").write_bytes(data[:-50])
    good = [json.dumps({"doc_id": f"j{n}", "text": words(4, n)}) for n in range(20)]
    lines = corpus / "c.jsonl"
    lines.write_text("\n".join(['{"text": 7', *good[1:]]))

    arguments = [
        "--input",
        path,
        corpus / "b.parquet",
        lines,
        "--output",
        tmp_path / "out",
        "--model",
        model_folder,
        "--max-new-tokens",
        4,
        "--shard-documents",
        20,
        "--max-document-bytes",
        5000,
    ]
    refused = summarize(*arguments)
    assert (
        refused.returncode == 1
        and "b.parquet cannot be read" in refused.stderr
        and "--on-bad-shard skip" in refused.stderr
    )
    done = summarize(*arguments, "--on-bad-shard", "skip", "--max-failed", 0.03)
    assert done.returncode == 0, done.stderr
    assert "220 documents = 195 ok + 5 failed + 20 skipped; 0 truncated" in done.stdout
    assert re.search(r"skipped: .*b\.parquet cannot be read", done.stdout)
    rows = {row["doc_id"]: row for row in read_output(tmp_path / "out")}
    assert len(rows) == 220
    lost = {row["doc_id"].split(":")[1]: row for row in rows.values() if row["status"] == "skipped"}
    assert sorted(map(int, lost)) == list(range(40, 60))
    assert all(
        row["stage"] == "read" and "a.parquet cannot be read" in row["reason"] for row in lost.values()
    )
    failed = {name: row["reason"] for name, row in rows.items() if row["status"] == "failed"}
    assert {
        name: reason[: len(reasons[int(name[1:])])] for name, reason in failed.items() if name[0] == "d"
    } == {f"d{n}": reason for n, reason in reasons.items()}
    assert [reason for name, reason in failed.items() if name.startswith("c.jsonl-") and "not JSON" in reason]
    assert all(row["summary"] is not None for row in rows.values() if row["status"] == "ok")
    many = summarize(*arguments, "--on-bad-shard", "skip", "--max-failed", 2)
    assert (
        many.returncode == 3
        and f"The run finished nevertheless; see {tmp_path}/out/_report.html" in many.stderr
    )


def test_duplicate_ids_are_refused_or_kept(corpus: Path, model_folder: Path, tmp_path: Path) -> None:
    shutil.copy(corpus / "000.parquet", corpus / "copy.parquet")
    base = ["--input", corpus, "--output", tmp_path / "out", "--model", model_folder, "--max-new-tokens", 3]
    done = summarize(*base)
    assert done.returncode == 2 and "6 document IDs occur more than once, such as d0, d1" in done.stderr
    assert not (tmp_path / "out" / "_plan.json").exists()
    assert summarize(*base, "--on-duplicate-id", "keep").returncode == 0
    assert len(read_output(tmp_path / "out")) == 12


def test_another_runs_folder_is_refused_with_the_difference(
    corpus: Path, model_folder: Path, tmp_path: Path
) -> None:
    base = ["--input", corpus, "--output", tmp_path / "out", "--model", model_folder, "--max-new-tokens", 3]
    assert summarize(*base).returncode == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    done = summarize(*base, "--num-beams", 3)
    assert done.returncode == 2
    assert "generation.num_beams: was 2, is 3" in done.stderr and "another --output" in done.stderr
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}


def test_settings_come_from_yaml_with_flags_over_them(
    corpus: Path, model_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"input: [{corpus}]\noutput: {tmp_path / 'out'}\nmodel: {model_folder}\nnum_beams: 4\n")
    done = summarize("--config", file, "--num-beams", 3, "--print-config")
    assert done.returncode == 0 and "num_beams: 3" in done.stdout and f"- {corpus}" in done.stdout
    file.write_text("num_beans: 4\n")
    done = summarize("--config", file)
    assert (
        done.returncode == 2
        and "key 'num_beans', which is not a setting; did you mean num_beams?" in done.stderr
    )


def test_pyarrow_reads_the_folder_as_one_table(corpus: Path, model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert (
        summarize(
            "--input", corpus, "--output", out, "--model", model_folder, "--shard-documents", 2
        ).returncode
        == 0
    )
    table = pq.read_table(out)
    assert len(table) == 6 and table.schema.field("summary").type == pa.string()
