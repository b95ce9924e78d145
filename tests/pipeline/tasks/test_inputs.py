"""Special tokens, global attention, prefixes and lists of texts, through the reader of each task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from led.checkpoint.hub import resolve
from led.generation.config import GenerationConfig
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.heads.question_answering import LEDForQuestionAnswering
from led.heads.sequence_classification import LEDForSequenceClassification
from led.pipelines.answer_spans import best_spans
from led.pipelines.chunking import ChunkInput
from led.pipelines.pipeline import pipeline
from led.testing import tiny_model
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.errors import UsageError
from pipeline.planning.plan import Shard
from pipeline.prepare import build_plan
from pipeline.tasks.answer import Answer
from pipeline.tasks.base import Task
from pipeline.tasks.classify import Classify
from pipeline.tasks.settings import AnswerSettings, ClassifySettings, SummarizeSettings
from pipeline.tasks.summarize import Summarize
from pipeline.workers.predictor import Predictor
from pipeline.workers.reader import ShardReader
from tests.conftest import words
from tests.pipeline.readers import make_reader

REPORTS = "the pump failed<doc-sep>the valve was stopped<doc-sep>water rose in the gallery"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the additional special token `<doc-sep>`."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = LEDTokenizer.learn([words(200, 0)], vocab_size=320, model_max_length=128)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<doc-sep>"]})
    tokenizer.save_pretrained(folder)
    tiny_model(seed=3, vocab_size=len(tokenizer), scale=6).save_pretrained(folder)
    GenerationConfig(num_beams=2, max_length=14).save_pretrained(folder)
    return folder


def summarize(model: Path, **settings: Any) -> Summarize:
    return Summarize(SummarizeSettings(input=("c",), output="o", model=str(model), **settings))


def rows_of(task: Task, model: Path, file: Path, count: int) -> list[dict[str, Any]]:
    task.run_config(model)
    table = ShardReader(task, str(model), None, task.input_limits(model))(Shard("s", str(file), 0, count))
    written = Predictor(task, str(model), None)(table)
    assert set(task.schema.names) <= set(written.column_names)
    return [
        {**row, "ids": ids, "globals": positions}
        for row, ids, positions in zip(
            written.to_pylist(),
            table["_input_ids"].to_pylist(),
            table["_global_positions"].to_pylist(),
            strict=True,
        )
    ]


def write(folder: Path, **columns: Any) -> Path:
    count = len(next(iter(columns.values())))
    table = pa.table({"doc_id": [f"d{i}" for i in range(count)], **columns})
    pq.write_table(table, folder / "corpus.parquet")
    return folder / "corpus.parquet"


def generated(model: Path, ids: list[int], positions: list[int]) -> str:
    loaded = LEDForConditionalGeneration.from_pretrained(model)
    mask = torch.zeros(1, len(ids), dtype=torch.long)
    mask[0, positions] = 1
    tokens = loaded.generate(torch.tensor([ids]), global_attention_mask=mask)
    return LEDTokenizer.from_pretrained(model).decode(tokens[0], skip_special_tokens=True).strip()


def test_separators_of_a_text_are_tokens_and_may_be_global(model: Path, tmp_path: Path) -> None:
    file = write(tmp_path, text=[REPORTS, "a </s> in the text"])
    tokenizer = LEDTokenizer.from_pretrained(model)
    separator = tokenizer.convert_tokens_to_ids("<doc-sep>")
    rules = ("first", "separator")
    rows = rows_of(summarize(model, global_attention=rules), model, file, 2)
    expected = tokenizer.encode(REPORTS)
    assert rows[0]["ids"] == expected and expected.count(separator) == 2
    places = [0, *(i for i, token in enumerate(expected) if token == separator)]
    assert rows[0]["globals"] == places and rows[0]["global_tokens"] == 3
    assert rows[0]["summary"] == generated(model, expected, places)
    assert rows[1]["ids"].count(2) == 1 and rows[1]["globals"] == [0]
    assert "global_tokens" not in rows_of(summarize(model), model, file, 2)[0]
    written = pipeline("summarization", model, global_attention=rules)([REPORTS, "a </s> in the text"])
    assert [row["summary"] for row in rows] == [each["summary_text"].strip() for each in written]


@pytest.mark.parametrize(
    ("mode", "added", "control"), [(None, True, False), ("parse", True, True), ("none", False, False)]
)
def test_special_tokens_of_a_text(model: Path, tmp_path: Path, mode: Any, added: bool, control: bool) -> None:
    file = write(tmp_path, text=["a<doc-sep>b </s> c"])
    task = summarize(model, special_tokens=mode)
    [row] = rows_of(task, model, file, 1)
    separator = LEDTokenizer.from_pretrained(model).convert_tokens_to_ids("<doc-sep>")
    assert ((separator in row["ids"]), row["ids"].count(2) == 2) == (added, control)
    assert task.run_config(model).get("special_tokens") == (
        {None: "additional"}.get(mode, mode) if added else None
    )


def test_a_list_of_texts_is_one_input(model: Path, tmp_path: Path) -> None:
    documents = [
        REPORTS.split("<doc-sep>"),
        ["the pump"],
        ["", " ", "water"],
        [words(60, i) for i in range(4)],
    ]
    file = write(tmp_path, text=pa.array(documents, pa.list_(pa.string())))
    task = summarize(model, multi_document=True, global_attention=("first", "separator"))
    rows = rows_of(task, model, file, 4)
    tokenizer = LEDTokenizer.from_pretrained(model)
    assert rows[0]["ids"] == tokenizer.encode(REPORTS)
    assert [each["truncated_tokens"] for each in rows[0]["documents"]] == [0, 0, 0]
    assert [each["input_tokens"] for each in rows[2]["documents"]] == [0, 0, len(rows[2]["ids"]) - 2]
    assert len(rows[3]["ids"]) == 128
    kept = [each["input_tokens"] for each in rows[3]["documents"]]
    assert max(kept) - min(kept) <= 1 and sum(kept) + 3 + 2 == 128
    cut = sum(each["truncated_tokens"] for each in rows[3]["documents"])
    assert rows[3]["truncated_tokens"] == cut > 0
    for row in rows:
        assert row["summary"] == generated(model, row["ids"], row["globals"])
    with pytest.warns(UserWarning, match=f"{cut} of its documents' were cut"):
        written = pipeline("summarization", model, global_attention=["first", "separator"])(documents)
    assert [row["summary"] for row in rows] == [each["summary_text"].strip() for each in written]


def test_lists_of_json_lines(model: Path, tmp_path: Path) -> None:
    values = [["the pump", "the valve"], "the pump", ["the pump", None], [], ["a", 3], None, ["\ud800 x"]]
    lines = [json.dumps({"doc_id": str(i), "text": value}) for i, value in enumerate(values)]
    file = tmp_path / "corpus.jsonl"
    file.write_text("\n".join(lines))
    rows = rows_of(summarize(model, multi_document=True), model, file, len(values))
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "failed", "failed", "failed", "ok"]
    assert [row["reason"] for row in rows[3:6]] == [
        "the list has no text",
        "the text is an array, not a string or an array of strings",
        "the text is null",
    ]
    assert rows[1]["ids"] == rows[2]["ids"] == LEDTokenizer.from_pretrained(model).encode("the pump")
    single = rows_of(summarize(model), model, file, len(values))
    assert [row["status"] for row in single] == ["failed", "ok", *["failed"] * 5]
    assert single[0]["reason"] == "the text is an array, not a string"


def test_prefixes(model: Path, tmp_path: Path) -> None:
    texts, prefixes = ["the pump", "the valve", "water"], ["gallery: ", None, "seven "]
    file = write(tmp_path, text=texts, facet=prefixes)
    tokenizer = LEDTokenizer.from_pretrained(model)
    rows = rows_of(summarize(model, prefix_column="facet", global_attention=("question",)), model, file, 3)
    for row, text, prefix in zip(rows, texts, prefixes, strict=True):
        assert row["ids"] == tokenizer.encode((prefix or "") + text)
        assert row["prefix"] == (prefix or "")
        assert (
            len(row["globals"]) == row["global_tokens"] == (1 if prefix is None else row["globals"][-1] + 1)
        )
    hashes = {row["text_hash"] for row in rows}
    assert len(hashes) == 3 and not hashes & {
        row["text_hash"] for row in rows_of(summarize(model), model, file, 3)
    }
    same = rows_of(summarize(model, prefix="gallery: "), model, file, 3)
    assert (
        same[0]["summary"] == rows_of(summarize(model, prefix_column="facet"), model, file, 3)[0]["summary"]
    )


def test_spans_of_a_column_are_global(model: Path, tmp_path: Path) -> None:
    text = "the pump at station seven was stopped"
    spans: list[Any] = [[[4, 8], [20, 25]], [], None, [[30, 99]]]
    file = write(tmp_path, text=[text] * 4, spans=pa.array(spans, pa.list_(pa.list_(pa.int64()))))
    task = summarize(model, global_attention=("column:spans", "first"))
    rows = rows_of(task, model, file, 4)
    tokenizer = LEDTokenizer.from_pretrained(model)
    marked = [tokenizer.decode([rows[0]["ids"][i]]).strip() for i in rows[0]["globals"][1:]]
    assert "".join(marked) == "pumpseven"
    assert rows[1]["globals"] == rows[2]["globals"] == [0]
    assert rows[3]["status"] == "failed" and "is not within the text of 37 characters" in rows[3]["reason"]
    assert len({row["text_hash"] for row in rows[:2]}) == 2 and rows[1]["text_hash"] == rows[2]["text_hash"]
    records = [[{"start": 4, "end": 8}]]
    file = write(tmp_path, text=[text], spans=records)
    [row] = rows_of(task, model, file, 1)
    assert row["globals"] == [0, *(i for i in rows[0]["globals"][1:] if i < 5)]


def test_chunks_of_labels_have_the_global_tokens_of_the_document(tmp_path: Path) -> None:
    folder = make_reader(tmp_path / "model", "label", num_labels=3)
    text = words(90, 1)
    file = write(tmp_path, text=[text, "the pump"])
    rules = ("first", "every:7")
    settings = {"global_attention": rules, "chunk_tokens": 32, "chunk_overlap": 5, "prefix": "seven "}
    task = Classify(ClassifySettings(input=("c",), output="o", model=str(folder), **settings))
    rows = rows_of(task, folder, file, 2)
    loaded, tokenizer = (
        LEDForSequenceClassification.from_pretrained(folder),
        LEDTokenizer.from_pretrained(folder),
    )
    for row, whole in zip(rows, (f"seven {text}", "seven the pump"), strict=True):
        ids = tokenizer.encode(whole)
        leading = 1 + len(tokenizer.encode("seven", add_special_tokens=False))
        global_positions = {i for i in range(len(ids)) if i % 7 == 0}
        assert row["global_tokens"] == len(global_positions)
        room, logits = 32 - leading - 1, []
        starts = [0]
        while starts[-1] + room < len(ids) - leading - 1:
            starts.append(starts[-1] + room - 5)
        for start in starts:
            places = [*range(leading), *range(leading + start, min(leading + start + room, len(ids) - 1))]
            places.append(len(ids) - 1)
            mask = torch.tensor([[int(i in global_positions) for i in places]])
            with torch.no_grad():
                logits.append(
                    loaded(torch.tensor([[ids[i] for i in places]]), global_attention_mask=mask).logits[0]
                )
        assert row["chunks"] == len(starts)
        expected = torch.stack(logits).mean(0).softmax(-1)
        scores = torch.tensor([each["score"] for each in row["scores"]])
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rules", [(), ("none",), ("first", "column:spans")])
def test_answers_with_other_global_tokens(tmp_path: Path, rules: tuple[str, ...]) -> None:
    folder = make_reader(tmp_path / "model", "answer")
    text = "the pump at station seven was stopped"
    file = write(tmp_path, text=[text], spans=[[[4, 8]]])
    task = Answer(
        AnswerSettings(
            input=("c",), output="o", model=str(folder), question=("why?",), global_attention=rules
        ),
        ("why?",),
    )
    [row] = rows_of(task, folder, file, 1)
    tokenizer = LEDTokenizer.from_pretrained(folder)
    asked = tokenizer.encode("why?")
    ids = [*asked, 2, *tokenizer.encode(text)[1:]]
    assert row["ids"] == ids
    if not rules:
        assert row["globals"] == list(range(len(asked) + 1)) and "global_tokens" not in row
    elif rules == ("none",):
        assert row["globals"] == [] and row["global_tokens"] == 0
    else:
        assert row["globals"][0] == 0
        marked = tokenizer.decode([ids[i] for i in row["globals"][1:]])
        assert marked.strip() == "pump"
    mask = torch.zeros(1, len(ids), dtype=torch.long)
    mask[0, row["globals"]] = 1
    with torch.no_grad():
        out = LEDForQuestionAnswering.from_pretrained(folder)(torch.tensor([ids]), global_attention_mask=mask)
    whole = ChunkInput(ids, 0, len(ids) - len(asked) - 2, len(asked) + 1, [])
    [best], null = best_spans([whole], [out.start_logits[0]], [out.end_logits[0]], 1, 30)
    assert row["null_score"] == pytest.approx(null, rel=1e-4)
    assert row["answer_start"] <= row["answer_end"] and row["answer_score"] >= best.score * (1 - 1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"global_attention": ("all",)}, "--global-attention is .*'all' is not a rule; use first"),
        (
            {"multi_document": True, "global_attention": ("tokens:<none>",)},
            "the global token '<none>' is not in the vocabulary",
        ),
        ({"document_separator": "|"}, "--document-separator is '|'; it needs --multi-document"),
        ({"truncate": "last"}, "--truncate is 'last'; it needs --multi-document"),
        ({"prefix": "a", "prefix_column": "b"}, "give either --prefix or --prefix-column"),
        (
            {"multi_document": True, "global_attention": ("column:x",)},
            "column: needs one text per document, so leave out --multi-document",
        ),
        ({}, r"holds list<.*>; --multi-document joins the texts of a list"),
        ({"prefix_column": "facet", "multi_document": True}, "has no column 'facet'"),
        (
            {"multi_document": True, "document_separator": "at the", "global_attention": ("separator",)},
            "global attention on separators needs one that is a single token",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_the_run(
    model: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write(corpus, text=pa.array([["a"]], pa.list_(pa.string())))
    with pytest.raises(UsageError, match=message):
        task = Summarize(
            SummarizeSettings(input=(str(corpus),), output=str(tmp_path / "o"), model=str(model), **settings)
        )
        build_plan(task, resolve(str(model)), None)


def test_the_settings_of_inputs_are_described(model: Path) -> None:
    described = summarize(model).describe_settings(model)
    assert (
        "global_attention first (default; for <doc-sep>, too, give --global-attention first separator)"
        in described
    )
    task = summarize(
        model, multi_document=True, global_attention=("first", "separator"), special_tokens="parse"
    )
    described = task.describe_settings(model)
    assert (
        "global_attention first separator (given), document_separator '<doc-sep>' (checkpoint)" in described
    )
    assert "truncate equal, special_tokens parse (given)" in described
