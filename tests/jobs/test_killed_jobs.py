"""A job that is killed by SIGKILL or interrupted resumes with the same command, on a disk and on S3."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize
from tests.conftest import read_output, words
from tests.jobs.commands import command, environment, led_corpus
from tests.pipeline.readers import rows_of
from tests.pipeline.s3 import KEYS, moto_server
from tests.pipeline.same_rows import same_row
from tests.waiting import HANG_S, long_test, wait_until


@long_test
def test_kill_9_of_the_driver_loses_nothing_repeats_nothing_and_recomputes_nothing(
    write_corpus: Callable[..., Path], model_folder: Path, tmp_path: Path
) -> None:
    # Every tenth document is longer than the model's limit, and is read in chunks.
    texts = [words(3 + n % 100 if n % 10 else 500, n) for n in range(120)]
    corpus, out = write_corpus(texts[:50], texts[50:]), tmp_path / "out"
    run = command(
        "summarize_corpus",
        "--input",
        corpus,
        "--output",
        out,
        "--model",
        model_folder,
        "--shard-documents",
        4,
        "--max-new-tokens",
        40,
        "--min-new-tokens",
        40,
        "--overflow",
        "fuse",
        "--keep-partial-summaries",
    )
    rng = random.Random()
    kills = 0
    committed: dict[str, tuple[int, bytes]] = {}
    for _ in range(12):
        driver = subprocess.Popen(
            run, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        seen = len(committed)
        wait = rng.uniform(0.0, 3.0)
        # Until this attempt has committed something.
        wait_until(lambda seen=seen: len(list(out.glob("part-*"))) > seen, driver)
        try:
            driver.wait(wait)
        except subprocess.TimeoutExpired:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            kills += 1
        for name, (inode, data) in committed.items():
            part = out / name
            assert (part.stat().st_ino, part.read_bytes()) == (inode, data), f"{name} changed"
        committed |= {
            p.name: (p.stat().st_ino, p.read_bytes()) for p in out.glob("part-*") if p.name not in committed
        }
        assert len(committed) > seen
        if (out / "_SUCCESS").exists() or kills == 3:
            break
    final = subprocess.run(run, env=environment(), capture_output=True, text=True, timeout=HANG_S)
    assert final.returncode == 0, final.stderr
    assert kills >= 1, "the job ended before it could be killed; give it more documents"
    for name, (inode, data) in committed.items():
        assert ((out / name).stat().st_ino, (out / name).read_bytes()) == (inode, data), (
            f"{name} was computed again"
        )
    rows = {row["doc_id"]: row for row in read_output(out)}
    assert len(read_output(out)) == 120 and rows.keys() == {f"d{i}" for i in range(120)}
    assert sum(row["chunks"] > 1 for row in rows.values()) >= 12
    undisturbed = undisturbed_rows(model_folder, corpus)
    for doc_id, row in rows.items():
        assert same_row(row, {name: undisturbed[doc_id][name] for name in row})
    planned = json.loads((out / "_plan.json").read_text())["shards"]
    assert {p.name for p in out.glob("part-*")} == {f"part-{s['shard_id']}.parquet" for s in planned}
    print(f"{kills} kills, {len(committed)} of {len(planned)} shards kept from killed runs")


def undisturbed_rows(model: Path, corpus: Path) -> dict[str, dict[str, Any]]:
    """The same rows by ID, all of a file in one batch."""
    settings = SummarizeSettings(
        input=(str(corpus),),
        output="",
        model=str(model),
        max_new_tokens=40,
        min_new_tokens=40,
        overflow="fuse",
        keep_partial_summaries=True,
    )
    files = sorted(corpus.glob("*.parquet"))
    return {row["doc_id"]: row for file in files for row in rows_of(Summarize(settings), model, file)}


@long_test
def test_interrupting_ends_with_130_and_can_be_resumed(
    write_corpus: Callable[..., Path], model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    corpus = write_corpus([words(60, n) for n in range(400)])
    run = command(
        "summarize_corpus",
        "--input",
        corpus,
        "--output",
        out,
        "--model",
        model_folder,
        "--shard-documents",
        5,
        "--max-new-tokens",
        60,
        "--min-new-tokens",
        60,
    )
    driver = subprocess.Popen(run, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: list(out.glob("part-*")), driver)
    driver.send_signal(signal.SIGTERM)
    _, stderr = driver.communicate(timeout=HANG_S)
    assert driver.returncode == 130 and "rerun the same command to resume" in stderr
    assert subprocess.run(run, env=environment(), timeout=HANG_S).returncode == 0
    assert sorted(row["doc_id"] for row in read_output(out)) == sorted(f"d{i}" for i in range(400))


@long_test
def test_from_s3_to_s3_and_killed_in_the_middle(
    write_corpus: Callable[..., Path], model_folder: Path
) -> None:
    """The corpus and the results are on a store; nothing of its credentials is in what is written there."""
    texts = [words(3 + n % 50, n) for n in range(60)]
    folder = write_corpus(texts[:25], texts[25:])
    with moto_server() as url, pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_SECRET_ACCESS_KEY": "very-secret", "AWS_ENDPOINT_URL": url}.items():
            patch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        s3 = fsspec.filesystem("s3", use_listings_cache=False)
        s3.mkdir("nightly")
        s3.put(f"{folder}/", "nightly/corpus/", recursive=True)
        run = command(
            "summarize_corpus",
            "--input",
            "s3://nightly/corpus",
            "--output",
            "s3://nightly/out",
            "--model",
            model_folder,
            "--shard-documents",
            5,
            "--max-new-tokens",
            30,
            "--min-new-tokens",
            30,
        )
        driver = subprocess.Popen(
            run, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: s3.glob("nightly/out/part-*"), driver)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        final = subprocess.run(run, env=environment(), capture_output=True, text=True, timeout=HANG_S)
        assert final.returncode == 0, final.stderr
        assert (
            "60 documents = 60 ok" in final.stdout and "rows: s3://nightly/out/part-*.parquet" in final.stdout
        )
        verified = led_corpus("verify", "--output", "s3://nightly/out")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert "60/60 documents, 12/12 shards committed; finished" in verified.stdout
        written = b"".join(s3.cat(s3.find("nightly/out")).values())
        assert b"very-secret" not in written and b"very-secret" not in (final.stdout + final.stderr).encode()
