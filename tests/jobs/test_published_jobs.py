"""Bundles of documents, and a LoRA adapter, each in one command that is killed once and resumed."""

from __future__ import annotations

import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import read_output, words
from tests.jobs.commands import command, environment, led_corpus
from tests.published import PUBLISHED, make
from tests.waiting import HANG_S, long_test, wait_until

ROWS = 60


def bundles(folder: Path) -> Path:
    """Rows of 3 to 40 documents each."""
    rng = random.Random(0)
    texts = [[words(rng.randint(1, 30), 100 * i + n) for n in range(rng.randint(3, 40))] for i in range(ROWS)]
    return write(folder, pa.array(texts, pa.list_(pa.string())))


def single(folder: Path) -> Path:
    return write(folder, pa.array([words(3 + i, i) for i in range(ROWS)]))


def write(folder: Path, texts: pa.Array) -> Path:
    folder.mkdir()
    table = pa.table({"doc_id": [f"d{i}" for i in range(ROWS)], "documents": texts})
    pq.write_table(table, folder / "corpus.parquet", row_group_size=10)
    return folder


@long_test
@pytest.mark.parametrize(
    ("name", "corpus", "flags"),
    [
        ("allenai/PRIMERA", bundles, ["--multi-document", "--global-attention", "first", "separator"]),
        ("a QLoRA adapter of led-large-16384", single, []),
    ],
    ids=["bundles", "adapter"],
)
def test_killed_once_and_resumed(name: str, corpus: Any, flags: list[str], tmp_path: Path) -> None:
    [checkpoint] = [each for each in PUBLISHED if each.name == name]
    model, out = make(checkpoint, tmp_path / "model"), tmp_path / "out"
    run = command(
        "summarize_corpus",
        *("--input", corpus(tmp_path / "corpus"), "--output", out, "--model", model),
        *("--text-column", "documents", "--shard-documents", 4, *flags),
        *("--max-new-tokens", 40, "--min-new-tokens", 40),
    )
    settings = {**environment(), "HF_HUB_CACHE": str(tmp_path / "cache")}
    driver = subprocess.Popen(run, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: list(out.glob("part-*")), driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    kept = {part: part.read_bytes() for part in out.glob("part-*")}
    assert kept and not (out / "_SUCCESS").exists()
    final = subprocess.run(run, env=settings, capture_output=True, text=True, timeout=HANG_S)
    assert final.returncode == 0, final.stderr
    assert all(part.read_bytes() == data for part, data in kept.items())
    verified = led_corpus("verify", "--output", out)
    assert f"Verified: {ROWS} documents, {ROWS} rows, no duplicates" in verified.stdout, verified.stderr
    rows = read_output(out)
    assert {row["status"] for row in rows} == {"ok"}
    if flags:
        assert "global_attention first separator (given)" in final.stderr
        assert all(3 <= len(row["documents"]) <= 40 for row in rows)
        separators = [max(0, sum(d["input_tokens"] > 0 for d in row["documents"]) - 1) for row in rows]
        assert [row["global_tokens"] for row in rows] == [1 + count for count in separators]
