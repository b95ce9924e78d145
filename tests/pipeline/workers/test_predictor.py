"""Reader and predictor without a cluster: rows in input order, with the model's results or a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from led.generation.config import GenerationConfig
from led.generation.generate import generate
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.planning.plan import Shard
from pipeline.tasks.base import InputLimits
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize
from pipeline.workers.predictor import Predictor
from pipeline.workers.reader import ShardReader, read_texts
from tests.conftest import words


def predict(model_folder: Path, path: Path, rows: int, **settings: Any) -> list[dict[str, Any]]:
    task = Summarize(SummarizeSettings(input=(str(path),), output="", model=str(model_folder), **settings))
    input_limits = task.input_limits(model_folder)
    table = ShardReader(task, str(model_folder), None, input_limits)(
        Shard("s", str(path), 0, rows, content="sha256:1f3a")
    )
    return Predictor(task, str(model_folder), None)(table).to_pylist()


def test_rows_are_the_models_answers_in_input_order(
    model_folder: Path, write_corpus: Callable[..., Path]
) -> None:
    texts = [words(n, n) for n in (3, 40, 1, 17, 25, 8)]
    rows = predict(
        model_folder, write_corpus(texts) / "000.parquet", 6, max_num_seqs=2, max_num_batched_tokens=30
    )
    assert [row["doc_id"] for row in rows] == [f"d{i}" for i in range(6)]
    model = LEDForConditionalGeneration.from_pretrained(model_folder)
    tokenizer = LEDTokenizer.from_pretrained(model_folder)
    config = GenerationConfig.from_pretrained(model_folder)
    for text, row in zip(texts, rows, strict=True):
        ids = tokenizer.encode(text)
        global_attention_mask = torch.zeros(1, len(ids), dtype=torch.long)
        global_attention_mask[:, 0] = 1
        out = generate(model, torch.tensor([ids]), None, global_attention_mask, generation_config=config)
        assert row["summary"] == tokenizer.decode(out.sequences[0], skip_special_tokens=True).strip()
        assert (row["status"], row["input_tokens"], row["chunks"]) == ("ok", len(ids), 1)
        assert row["score"] == pytest.approx(float(out.sequences_scores[0]), abs=1e-5)
        assert row["output_tokens"] == len(out.sequences[0]) - 1


def test_null_empty_and_blank_texts_are_failed_rows(
    model_folder: Path, write_corpus: Callable[..., Path]
) -> None:
    rows = predict(model_folder, write_corpus(["a pump", None, "", " \n", "x"]) / "000.parquet", 5)
    assert [(row["status"], row["stage"], row["reason"]) for row in rows] == [
        ("ok", None, None),
        ("failed", "read", "the text is null"),
        ("failed", "read", "the text is empty"),
        ("failed", "read", "the text is empty"),
        ("ok", None, None),
    ]
    assert all(row["summary"] is None for row in rows if row["status"] == "failed")


@pytest.mark.parametrize(("limit", "kept"), [(None, 128), (40, 40), (3, 3)])
def test_tokens_beyond_the_limit_are_truncated_and_counted(
    limit: int | None, kept: int, model_folder: Path, write_corpus: Callable[..., Path]
) -> None:
    text = words(200, 1)
    whole = len(LEDTokenizer.from_pretrained(model_folder).encode(text))
    [row] = predict(model_folder, write_corpus([text]) / "000.parquet", 1, max_input_tokens=limit)
    assert (row["input_tokens"], row["truncated_tokens"]) == (kept, whole - kept)


def test_a_document_that_fails_in_the_model_fails_alone(
    model_folder: Path, write_corpus: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = words(30, 99)
    length = len(LEDTokenizer.from_pretrained(model_folder).encode(poison))
    from led.model.encoder import LEDEncoder

    encode = LEDEncoder.encode

    def breaks(self: LEDEncoder, batch: Any, *rest: Any) -> torch.Tensor:
        if length in batch.lengths:
            raise RuntimeError("not enough memory: you tried to allocate 9 bytes")
        return encode(self, batch, *rest)

    monkeypatch.setattr(LEDEncoder, "encode", breaks)
    rows = predict(model_folder, write_corpus([words(4, 1), poison, words(5, 2)]) / "000.parquet", 3)
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert rows[1]["stage"] == "predict" and "not enough memory" in rows[1]["reason"]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_other_dtypes_give_rows_too(
    dtype: str, model_folder: Path, write_corpus: Callable[..., Path]
) -> None:
    rows = predict(
        model_folder, write_corpus([words(n, n) for n in (3, 60, 9)]) / "000.parquet", 3, dtype=dtype
    )
    assert all(row["status"] == "ok" and row["summary"] is not None for row in rows)


def test_samples_depend_on_the_seed_and_not_on_the_batch(
    model_folder: Path, write_corpus: Callable[..., Path]
) -> None:
    path = write_corpus([words(n, n) for n in (3, 60, 9, 30)]) / "000.parquet"
    drawn = {"num_beams": 1, "do_sample": True, "temperature": 2.0}
    first = predict(model_folder, path, 4, seed=1, **drawn)
    alone = predict(model_folder, path, 4, seed=1, max_num_seqs=1, **drawn)
    other = predict(model_folder, path, 4, seed=2, **drawn)
    assert [row["summary"] for row in first] == [row["summary"] for row in alone]
    assert [row["summary"] for row in first] != [row["summary"] for row in other]


def test_without_an_id_column_ids_are_made_from_file_and_row(
    model_folder: Path, write_corpus: Callable[..., Path]
) -> None:
    rows = predict(
        model_folder, write_corpus(["a", "b"]) / "000.parquet", 2, id_column=None, passthrough=("number",)
    )
    assert [(row["doc_id"], row["number"]) for row in rows] == [
        ("000.parquet-d7fb47c884a1:0", 0),
        ("000.parquet-d7fb47c884a1:1", 1),
    ]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.binary(),
        pa.large_binary(),
        pa.string_view(),
        pa.binary_view(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_texts_are_read_from_every_type_that_holds_them(kind: pa.DataType) -> None:
    column = pa.chunked_array([pa.array(["é", None, " ", "x" * 9], pa.string()).cast(kind)])
    texts = read_texts(column, 8)
    assert [text.text for text in texts] == ["é", None, None, None]
    assert [text.reason for text in texts] == [
        None,
        "the text is null",
        "the text is empty",
        "the text has 9 bytes, more than the 8 of --max-document-bytes; raise it to read the document",
    ]
    assert [text.text_hash is None for text in texts] == [False, True, False, False]


def test_bytes_that_are_not_utf_8_fail_alone_even_in_a_text_column() -> None:
    raw = pa.array([b"good", b"ab\xff", b"\xc3"], pa.binary())
    promised = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    for column in (raw, promised):
        texts = read_texts(pa.chunked_array([column]), 100)
        assert texts[0].text == "good"
        assert [text.reason for text in texts] == [
            None,
            "the text is not UTF-8 (byte 0xff at 2)",
            "the text is not UTF-8 (byte 0xc3 at 0)",
        ]
    assert read_texts(pa.chunked_array([pa.nulls(1)]), 9) == [(None, "the text is null", None)]


def test_the_document_itself_can_be_a_passthrough_column(model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"doc_id": "a", "text": "a pump", "n": 1}\n{"doc_id": "b", "text": ""}\n')
    given = SummarizeSettings(
        input=(str(path),), output="", model=str(model_folder), passthrough=("n", "text")
    )
    types = pa.schema({"n": pa.string(), "text": pa.string()})
    table = ShardReader(Summarize(given), str(model_folder), None, InputLimits(128, 128), types)(
        Shard("s", str(path), 0, 2)
    )
    assert table.select(["n", "text", "status"]).to_pylist() == [
        {"n": "1", "text": "a pump", "status": "ok"},
        {"n": None, "text": None, "status": "failed"},
    ]
