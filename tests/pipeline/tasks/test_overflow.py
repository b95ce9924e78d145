"""Rows of documents beyond the input limit: truncated, joined from chunks, or fused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from led.heads.conditional_generation import LEDForConditionalGeneration
from led.pipelines.pipeline import pipeline
from led.testing import spread_weights
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.errors import UsageError
from pipeline.tasks.base import RequestedRow, RowInput
from pipeline.tasks.classify import Classify
from pipeline.tasks.settings import ClassifySettings, SummarizeSettings
from pipeline.tasks.summarize import Summarize
from tests.conftest import words
from tests.pipeline.readers import make_reader, rows_of

LIMIT = 128


def sentences(count: int, seed: int) -> str:
    return " ".join(f"{words(6, seed + i).capitalize()}." for i in range(count))


def text_of(tokenizer: LEDTokenizer, tokens: int) -> str:
    """A text of exactly `tokens` tokens, with the special tokens."""
    text = "pump " * tokens
    ids = tokenizer.encode(text, add_special_tokens=False)[: tokens - 2]
    text = tokenizer.decode(ids)
    assert len(tokenizer.encode(text)) == tokens
    return text


@pytest.fixture(scope="module")
def model(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that writes more than the end of the text."""
    folder = tmp_path_factory.mktemp("writer") / "model"
    shutil.copytree(model_folder, folder)
    loaded = LEDForConditionalGeneration.from_pretrained(folder)
    spread_weights(loaded, seed=3, scale=8)
    loaded.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(model_folder: Path) -> list[str]:
    tokenizer = LEDTokenizer.from_pretrained(model_folder)
    exact = [text_of(tokenizer, n) for n in (3, LIMIT - 1, LIMIT, LIMIT + 1, 2 * LIMIT, 10 * LIMIT)]
    return [
        *exact,
        sentences(80, 0),
        sentences(5, 300) + " \n" * 400 + sentences(5, 400),
        words(400, 3),
        "x" * 2000,
    ]


def summarize(model: Path, file: Path, **settings: Any) -> Summarize:
    return Summarize(SummarizeSettings(input=(str(file),), output="", model=str(model), **settings))


@pytest.mark.parametrize("overflow", ["concat", "fuse"])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"chunk_tokens": 64, "chunk_overlap": 10, "prefix": "pump: "},
        {"chunk_ends": "token", "summary_tokens_per_input": 0.05},
    ],
    ids=str,
)
def test_rows_are_what_the_pipeline_writes(
    model: Path,
    write_corpus: Callable[..., Path],
    texts: list[str],
    given: dict[str, Any],
    overflow: Any,
) -> None:
    file = write_corpus(texts) / "000.parquet"
    task = summarize(model, file, overflow=overflow, keep_partial_summaries=True, **given)
    rows = rows_of(task, model, file)
    results = pipeline("summarization", model=model)(texts, overflow=overflow, **given)
    for text, row, result in zip(texts, rows, results, strict=True):
        assert row["status"] == "ok" and row["truncated_tokens"] == 0
        assert row["summary"] == result["summary_text"].strip()
        assert row["partial_summaries"] == result["partial_summaries"]
        assert (row["level_tokens"], row["levels"]) == (result["level_tokens"], len(row["level_tokens"]))
        parts = row["partial_summaries"]
        assert row["chunks"] == len(parts)
        if "chunk_ends" not in given:
            assert all(text[p["start"] : p["end"]].strip() for p in parts), "blank chunks are left out"
        if row["input_tokens"] <= given.get("chunk_tokens", LIMIT):
            assert row["levels"] == row["chunks"] == 1 and row["level_tokens"] == [row["input_tokens"]]
        else:
            assert row["chunks"] > 1
            blank = [text[a["end"] : b["start"]] for a, b in pairwise(parts)]
            assert not "".join(blank).strip(), "only white space may be left out"
    levels = max(row["levels"] for row in rows)
    assert levels >= 2 if overflow == "fuse" else levels == 1


def test_documents_within_the_limit_give_the_same_rows_as_without(
    model: Path, write_corpus: Callable[..., Path], texts: list[str]
) -> None:
    file = write_corpus(texts) / "000.parquet"
    settings: dict[str, Any] = {"attention": True}
    plain = rows_of(summarize(model, file, **settings), model, file)
    for overflow in ("concat", "fuse"):
        rows = rows_of(summarize(model, file, overflow=overflow, **settings), model, file)
        for row, expected in zip(rows, plain, strict=True):
            if expected["truncated_tokens"] == 0:
                internal = {name for name in row if name.startswith("_")}
                same = row.keys() - internal - {"levels", "level_tokens"}
                assert {name: row[name] for name in same} == {name: expected[name] for name in same}
            assert sum(row["attention"]) == pytest.approx(1, abs=1e-4)
        assert sum(row["truncated_tokens"] > 0 for row in plain) == sum(row["chunks"] > 1 for row in rows)


def test_a_chunk_that_fails_fails_its_document_by_name(
    model: Path, write_corpus: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from led.model.encoder import LEDEncoder

    tokenizer = LEDTokenizer.from_pretrained(model)
    bad = sentences(30, 0) + " ZZZ. " + sentences(30, 100)
    others = [sentences(40, 500), "a pump"]
    token = set(tokenizer.encode(" ZZZ")) - set(tokenizer.encode(bad.replace("ZZZ", "") + others[0]))
    encode = LEDEncoder.encode

    def failing(self: Any, batch: Any, *rest: Any) -> Any:
        if token & set(batch.input_ids.tolist()):
            raise ArithmeticError("boom")
        return encode(self, batch, *rest)

    monkeypatch.setattr(LEDEncoder, "encode", failing)
    file = write_corpus([others[0], bad, others[1]]) / "000.parquet"
    rows = rows_of(summarize(model, file, overflow="fuse"), model, file)
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert rows[1]["stage"] == "predict" and rows[1]["summary"] is None
    place = rows[1]["reason"].split("characters ")[1].split(":")[0]
    start, end = map(int, place.split(" to "))
    assert "ZZZ" in bad[start:end] and "ArithmeticError: boom" in rows[1]["reason"]
    monkeypatch.setattr(LEDEncoder, "encode", encode)
    whole = rows_of(summarize(model, file, overflow="fuse"), model, file)
    assert [rows[i]["summary"] for i in (0, 2)] == [whole[i]["summary"] for i in (0, 2)]


def test_several_documents_of_one_input_are_read_in_chunks(model: Path, tmp_path: Path) -> None:
    documents = [[sentences(20, 0), " ", sentences(30, 50)], ["a pump", "a valve"]]
    file = tmp_path / "lists.parquet"
    pq.write_table(pa.table({"doc_id": ["a", "b"], "text": documents}), file)
    task = summarize(
        model,
        file,
        overflow="concat",
        multi_document=True,
        prefix="pump: ",
        keep_partial_summaries=True,
    )
    rows = rows_of(task, model, file)
    whole = "\n\n".join(documents[0])
    parts = rows[0]["partial_summaries"]
    assert rows[0]["chunks"] == len(parts) > 2 and rows[1]["chunks"] == 1
    assert json.loads(rows[0]["_measured"])["chunked_rows"] == 1
    assert parts[0]["start"] == 0 and parts[-1]["end"] == len(whole)
    assert all(a["end"] <= b["start"] for a, b in pairwise(parts))
    covered = "".join(whole[p["start"] : p["end"]] for p in parts)
    assert covered.split() == whole.split()
    assert [d["truncated_tokens"] for d in rows[0]["documents"]] == [0, 0, 0]


def test_a_limit_of_input_tokens_truncates_before_chunks(
    model: Path, write_corpus: Callable[..., Path]
) -> None:
    file = write_corpus([sentences(80, 0)]) / "000.parquet"
    [row] = rows_of(summarize(model, file, overflow="concat", max_input_tokens=200), model, file)
    assert row["input_tokens"] == 200 and row["truncated_tokens"] > 0 and row["chunks"] == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"overflow": "fuse", "chunk_tokens": 23}, "fuse needs chunks that are twice as long"),
        ({"overflow": "concat", "chunk_tokens": 129}, "--chunk-tokens is 129; this model reads at most 128"),
        ({"overflow": "concat", "chunk_overlap": 126}, "--chunk-overlap is 126; a chunk of 128 tokens would"),
    ],
)
def test_settings_that_do_not_fit_the_checkpoint_are_refused(
    model: Path, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        summarize(model, tmp_path, **given).run_config(model)


def test_chunks_of_labels_may_end_at_sentences(tmp_path: Path, write_corpus: Callable[..., Path]) -> None:
    folder = make_reader(tmp_path / "model", "label", num_labels=3)
    text = sentences(60, 0)
    file = write_corpus([text]) / "000.parquet"
    settings = ClassifySettings(input=(str(file),), output="", model=str(folder), chunk_ends="sentence")
    task = Classify(settings)
    tokenizer = LEDTokenizer.from_pretrained(folder)
    limits = task.input_limits(folder)
    [document] = task.encode(tokenizer, [RowInput(text, RequestedRow({}))], limits)
    assert len(document.chunks) > 3
    assert all(text[: c.last_character].rstrip().endswith(".") for c in document.chunks)
    [row] = rows_of(task, folder, file)
    assert row["chunks"] == len(document.chunks) and row["label"]
