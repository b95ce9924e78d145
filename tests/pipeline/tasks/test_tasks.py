"""Labels and answers are those of the model for the whole document, at any length. Errors have reasons."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from led.config import LEDConfig
from led.heads.question_answering import LEDForQuestionAnswering
from led.heads.sequence_classification import LEDForSequenceClassification
from led.pipelines.pipeline import pipeline
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.errors import UsageError
from pipeline.planning.plan import Shard
from pipeline.tasks.answer import Answer
from pipeline.tasks.classify import Classify
from pipeline.tasks.settings import AnswerSettings, ClassifySettings
from pipeline.workers.reader import ShardReader
from tests.conftest import words
from tests.pipeline.readers import Corpus, make_reader, rows_of

MULTI_BYTE = "été à Ōsaka 日本 🎈 "


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labels, with an input limit of 64 tokens."""
    names = {0: "low", 1: "medium", 2: "high"}
    return make_reader(
        tmp_path_factory.mktemp("classifier"),
        "label",
        id2label=names,
        problem_type="single_label_classification",
    )


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reader(tmp_path_factory.mktemp("answerer"), "answer")


def classify(model: Path, corpus: Path, **settings: Any) -> Classify:
    return Classify(ClassifySettings(input=(str(corpus),), output="out", model=str(model), **settings))


def ask(model: Path, corpus: Path, **settings: Any) -> Answer:
    given = (
        settings
        if settings.keys() & {"question_column", "questions_file"}
        else {"question": ("station?",), **settings}
    )
    return Answer.of(AnswerSettings(input=(str(corpus),), output="out", model=str(model), **given))


def with_problem(model: Path, folder: Path, **changes: Any) -> Path:
    """The same checkpoint with other fields in its config.json."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


# ---- classification


def test_labels_are_those_of_the_forward_pass(classifier: Path, write_corpus: Corpus) -> None:
    texts = [words(n, n) for n in (1, 7, 20, 3)]
    rows = rows_of(classify(classifier, Path("c")), classifier, write_corpus(texts) / "000.parquet")
    model, tokenizer = (
        LEDForSequenceClassification.from_pretrained(classifier).eval(),
        LEDTokenizer.from_pretrained(classifier),
    )
    for row, text in zip(rows, texts, strict=True):
        ids = torch.tensor([tokenizer.encode(text)])
        is_global = torch.zeros_like(ids)
        is_global[:, 0] = 1
        with torch.no_grad():
            expected = model(ids, global_attention_mask=is_global).logits.softmax(-1)[0]
        assert [score["score"] for score in row["scores"]] == pytest.approx(expected.tolist(), abs=1e-5)
        assert [score["label"] for score in row["scores"]] == ["low", "medium", "high"]
        assert row["label"] == row["labels"][0] == ["low", "medium", "high"][int(expected.argmax())]
        assert (row["label_score"], row["chunks"]) == (pytest.approx(float(expected.max()), abs=1e-5), 1)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_logits_of_chunks_are_pooled_before_the_softmax(
    pooling: str, classifier: Path, write_corpus: Corpus
) -> None:
    text = words(90, 1)
    task = classify(classifier, Path("c"), pooling=pooling, chunk_tokens=32, chunk_overlap=10)
    [row] = rows_of(task, classifier, write_corpus([text]) / "000.parquet")
    model, tokenizer = (
        LEDForSequenceClassification.from_pretrained(classifier).eval(),
        LEDTokenizer.from_pretrained(classifier),
    )
    ids = tokenizer.encode(text)[1:-1]
    logits, start = [], 0
    while start == 0 or start + 10 < len(ids):
        chunk = torch.tensor([[0, *ids[start : start + 30], 2]])
        with torch.no_grad():
            logits.append(model(chunk, global_attention_mask=(chunk == 0).long()).logits[0])
        start += 20
    by_chunk = torch.stack(logits)
    pooled = by_chunk.mean(0) if pooling == "mean" else by_chunk.amax(0)
    assert (
        row["chunks"] == len(logits) and row["input_tokens"] == len(ids) + 2 and row["truncated_tokens"] == 0
    )
    assert [score["score"] for score in row["scores"]] == pytest.approx(pooled.softmax(-1).tolist(), abs=1e-5)


def test_several_labels_are_assigned_by_their_thresholds(
    classifier: Path, write_corpus: Corpus, tmp_path: Path
) -> None:
    model = with_problem(classifier, tmp_path / "several", problem_type="multi_label_classification")
    file = write_corpus([words(20, 3)]) / "000.parquet"
    [row] = rows_of(classify(model, Path("c"), threshold=0.0), model, file)
    assert sorted(row["labels"]) == ["high", "low", "medium"] and row["label"] == row["labels"][0]
    scores = {score["label"]: score["score"] for score in row["scores"]}
    assert row["label_score"] == max(scores.values()) == scores[row["label"]] and sum(
        scores.values()
    ) != pytest.approx(1)
    others = tuple(f"{name}=1" for name in ("low", "medium"))
    [row] = rows_of(classify(model, Path("c"), threshold=0.0, label_thresholds=others), model, file)
    assert row["labels"] == ["high"] == [row["label"]]
    [row] = rows_of(classify(model, Path("c"), threshold=1.0, labels_only=True), model, file)
    assert (row["labels"], row["label"]) == ([], None) and "scores" not in row


def test_a_threshold_can_exclude_the_best_label(classifier: Path, write_corpus: Corpus) -> None:
    [row] = rows_of(
        classify(classifier, Path("c"), threshold=1.0), classifier, write_corpus(["a pump"]) / "000.parquet"
    )
    assert row["label"] is None and row["labels"] == [] and 0 < row["label_score"] < 1


def test_a_regression_writes_the_value(tmp_path: Path, write_corpus: Corpus) -> None:
    model = make_reader(tmp_path / "value", "label", num_labels=1)
    [row] = rows_of(classify(model, Path("c")), model, write_corpus(["a pump"]) / "000.parquet")
    loaded, tokenizer = (
        LEDForSequenceClassification.from_pretrained(model).eval(),
        LEDTokenizer.from_pretrained(model),
    )
    ids = torch.tensor([tokenizer.encode("a pump")])
    with torch.no_grad():
        expected = float(loaded(ids, global_attention_mask=(ids == 0).long()).logits)
    assert (
        row["label"] is None
        and row["labels"] is None
        and row["label_score"] == pytest.approx(expected, abs=1e-5)
    )
    with pytest.raises(UsageError, match="--threshold is for labels; this checkpoint gives values"):
        classify(model, Path("c"), threshold=0.5).run_config(model)


def test_settings_that_do_not_fit_the_checkpoint_are_refused_before_the_run(
    classifier: Path, answerer: Path, tmp_path: Path, model_folder: Path
) -> None:
    with pytest.raises(UsageError, match="no label 'hight'; it has low, medium, high"):
        classify(classifier, Path("c"), label_thresholds=("hight=0.5",)).run_config(classifier)
    with pytest.raises(UsageError, match="two classes one name"):
        model = with_problem(classifier, tmp_path / "same", id2label={"0": "a", "1": "a", "2": "b"})
        classify(model, Path("c")).run_config(model)
    with pytest.raises(UsageError, match="--chunk-tokens is 65; this model reads at most 64 tokens at once"):
        classify(classifier, Path("c"), chunk_tokens=65).input_limits(classifier)
    with pytest.raises(
        UsageError, match="--chunk-overlap is 30; a chunk of 32 tokens would have no new tokens"
    ):
        classify(classifier, Path("c"), chunk_tokens=32, chunk_overlap=30).input_limits(classifier)
    for wrong in (model_folder, answerer):
        with pytest.raises(ValueError, match="classification_head"):
            classify(wrong, Path("c")).run_config(wrong)
    with pytest.raises(UsageError, match=r"write name=0\.7"):
        classify(classifier, Path("c"), label_thresholds=("high",))


def test_labels_missing_from_the_config_have_the_names_of_the_reference(
    classifier: Path, tmp_path: Path, write_corpus: Corpus
) -> None:
    model = with_problem(classifier, tmp_path / "unnamed", id2label=None, num_labels=3)
    [row] = rows_of(classify(model, Path("c")), model, write_corpus(["a pump"]) / "000.parquet")
    assert [score["label"] for score in row["scores"]] == ["LABEL_0", "LABEL_1", "LABEL_2"]


# ---- documents of any length, three ways


LENGTHS = (1, 1023, 1024, 1025, 16384, 16385, 100_000)

WAYS = {
    "chunks": {"max_encoder_position_embeddings": 16384, "max_decoder_position_embeddings": 1024},
    "whole": {"max_encoder_position_embeddings": 16384, "max_decoder_position_embeddings": 16384},
    "prompt": {
        "max_encoder_position_embeddings": 16384,
        "max_decoder_position_embeddings": 8,
        "decoder_prompt": [2, 0],
    },
}


def text_of(tokenizer: LEDTokenizer, tokens: int) -> str:
    """A text of this many tokens, without special tokens."""
    text = ("a!" * tokens)[:tokens]
    assert len(tokenizer.encode(text)) == tokens + 2
    return text


@pytest.mark.parametrize(
    ("kind", "way"), [("label", "chunks"), ("label", "prompt"), *(("answer", way) for way in WAYS)]
)
def test_documents_of_every_length(kind: str, way: str, tmp_path: Path, write_corpus: Corpus) -> None:
    model = make_reader(
        tmp_path / "m", kind, attention_window=16, decoder_layers=1, encoder_layers=1, **WAYS[way]
    )
    limit = LEDConfig.from_pretrained(model).max_input_tokens
    assert limit == (1024 if way == "chunks" else 16384)
    tokenizer = LEDTokenizer.from_pretrained(model)
    before = len(tokenizer.encode("station?")) + 1 if kind == "answer" else 1
    # Lengths include special tokens and the question. The shortest text has one token of its own.
    # The time of a decoder as long as its document grows with the square of the length.
    lengths = LENGTHS[:6] if way == "whole" else LENGTHS
    texts = [text_of(tokenizer, max(1, n - before - 1)) for n in lengths]
    file = write_corpus(texts) / "000.parquet"
    task = classify(model, Path("c")) if kind == "label" else ask(model, Path("c"))
    rows = rows_of(task, model, file)
    assert [row["status"] for row in rows] == ["ok"] * len(lengths) and {
        row["truncated_tokens"] for row in rows
    } == {0}
    assert [row["input_tokens"] for row in rows] == [before + 2, *lengths[1:]]
    chunks = [row["chunks"] for row in rows]
    assert chunks[:3] == [1, 1, 1] and (chunks[3] > 1) == (chunks[4] > 1) == (way == "chunks")
    assert chunks[5] > 1 and chunks[-1] > (1 if way == "whole" else 6)
    for row, text in zip(rows, texts, strict=True):
        if kind == "answer":
            assert text[row["answer_start"] : row["answer_end"]] == row["answer"] != ""
        else:
            assert row["label"] in ("LABEL_0", "LABEL_1")
    [short] = rows_of(
        classify(model, Path("c"), max_input_tokens=40)
        if kind == "label"
        else ask(model, Path("c"), max_input_tokens=40),
        model,
        write_corpus([texts[1]], name="short") / "000.parquet",
    )
    assert (short["input_tokens"], short["truncated_tokens"], short["chunks"]) == (40, 1023 - 40, 1)


@pytest.mark.parametrize("kind", ["label", "answer"])
def test_whole_documents_and_chunks_agree_if_one_chunk_is_enough(
    kind: str, tmp_path: Path, write_corpus: Corpus
) -> None:
    positions = {"max_encoder_position_embeddings": 512, "max_decoder_position_embeddings": 512}
    model = make_reader(tmp_path / "m", kind, **positions)
    file = write_corpus([words(n, n) for n in (1, 5, 17, 25, 60)]) / "000.parquet"
    make = classify if kind == "label" else ask
    whole = rows_of(make(model, Path("c")), model, file)
    chunked = rows_of(make(model, Path("c"), chunk_tokens=64), model, file)
    assert [row["chunks"] for row in whole] == [1] * 5 and [row["chunks"] for row in chunked][:3] == [1] * 3
    assert chunked[4]["chunks"] > 1
    score = "label_score" if kind == "label" else "answer_score"
    for a, b in zip(whole, chunked, strict=True):
        if b["chunks"] == 1:
            assert a[score] == pytest.approx(b[score], abs=1e-5)
            assert {k: v for k, v in a.items() if "score" not in k and k not in ("_measured", "answers")} == {
                k: v for k, v in b.items() if "score" not in k and k not in ("_measured", "answers")
            }


# ---- answers


def test_answers_are_spans_of_texts_with_multibyte_characters(answerer: Path, write_corpus: Corpus) -> None:
    texts = [MULTI_BYTE * n + words(n, n) + " " + MULTI_BYTE for n in (1, 2, 5, 9, 14)]
    rows = rows_of(
        ask(answerer, Path("c"), question=("日本?", "pump"), n_best=4),
        answerer,
        write_corpus(texts) / "000.parquet",
    )
    assert len(rows) == 10
    for row in rows:
        text = texts[int(row["doc_id"][1:])]
        assert row["status"] == "ok" and text[row["answer_start"] : row["answer_end"]] == row["answer"]
        assert 1 <= len(row["answers"]) <= 4
        assert row["answers"][0]["answer"] == row["answer"]
        for answer in row["answers"]:
            assert text[answer["start"] : answer["end"]] == answer["answer"]
        scores = [answer["score"] for answer in row["answers"]]
        assert scores == sorted(scores, reverse=True) and scores[0] == row["answer_score"]


def test_answers_are_those_of_the_pipeline(answerer: Path, write_corpus: Corpus) -> None:
    texts = [words(n, n) for n in (4, 30, 90)]
    rows = rows_of(
        ask(answerer, Path("c"), max_answer_tokens=15, chunk_overlap=8),
        answerer,
        write_corpus(texts) / "000.parquet",
    )
    answer = pipeline("question-answering", model=answerer)
    for row, text in zip(rows, texts, strict=True):
        expected = answer(question="station?", context=text, doc_stride=8)
        assert (row["answer"], row["answer_start"], row["answer_end"]) == (
            expected["answer"],
            expected["start"],
            expected["end"],
        )
        assert row["answer_score"] == pytest.approx(expected["score"], abs=1e-5)


def test_no_answer_is_written_if_it_is_more_likely(answerer: Path, write_corpus: Corpus) -> None:
    file = write_corpus([words(9, n) for n in range(6)]) / "000.parquet"
    always = rows_of(ask(answerer, Path("c")), answerer, file)
    never = rows_of(ask(answerer, Path("c"), no_answer_threshold=-1.0), answerer, file)
    even = rows_of(ask(answerer, Path("c"), no_answer_threshold=0.0), answerer, file)
    assert all(row["answer"] is not None for row in always) and all(row["answer"] is None for row in never)
    assert all(row["answer_start"] is None and row["answers"] for row in never)
    assert [row["answer"] is None for row in even] == [
        row["null_score"] > row["answer_score"] for row in even
    ]


def corpus_with(folder: Path, texts: list[str | None], questions: pa.Array) -> Path:
    folder.mkdir()
    ids = [f"d{i}" for i in range(len(texts))]
    pq.write_table(
        pa.table({"doc_id": ids, "text": texts, "asked": questions, "n": list(range(len(texts)))}),
        folder / "0.parquet",
    )
    return folder / "0.parquet"


def test_a_column_may_hold_one_or_several_questions(answerer: Path, tmp_path: Path) -> None:
    texts: list[str | None] = ["a pump", None, "the gallery", "a pump", "the pump", "a bearing"]
    lists = pa.array([["pump?", "when?"], ["pump?", "why?"], [], None, ["pump?", " ", None], ["pump?"]])
    long = "pump " * 80
    records = pa.array(
        [[{"question": q} for q in qs] if (qs := value) is not None else None for value in lists.to_pylist()]
    )
    for name, column in (("lists", lists), ("records", records)):
        file = corpus_with(tmp_path / name, texts, column)
        rows = rows_of(ask(answerer, file, question_column="asked", passthrough=("n",)), answerer, file)
        assert [(row["doc_id"], row["question_number"], row["n"]) for row in rows] == [
            ("d0", 0, 0),
            ("d0", 1, 0),
            ("d1", 0, 1),
            ("d1", 1, 1),
            ("d2", 0, 2),
            ("d3", 0, 3),
            ("d4", 0, 4),
            ("d4", 1, 4),
            ("d4", 2, 4),
            ("d5", 0, 5),
        ]
        assert [row["reason"] for row in rows] == [
            None,
            None,
            "the text is null",
            "the text is null",
            "the document has no question in column 'asked'",
            "the document has no question in column 'asked'",
            None,
            "ValueError: the question is empty",
            "ValueError: the question is empty",
            None,
        ]
        assert len({row["text_hash"] for row in rows if row["status"] == "ok"}) == 4
    file = corpus_with(tmp_path / "single", texts[:1] * 3, pa.array(["pump?", None, long]))
    rows = rows_of(ask(answerer, file, question_column="asked"), answerer, file)
    assert [row["status"] for row in rows] == ["ok", "failed", "failed"]
    assert "leave no room for the document in a chunk of 64; shorten the question" in rows[2]["reason"]
    file = corpus_with(tmp_path / "numbers", texts[:1], pa.array([7]))
    with pytest.raises(
        UsageError, match="--question-column asked holds int; it must hold texts, lists of texts"
    ):
        rows_of(ask(answerer, file, question_column="asked"), answerer, file)


def test_a_column_of_json_lines_may_hold_one_or_several_questions(answerer: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    asked = [["pump?", "when?"], [], "[a] pump?", [{"question": "pump?"}], [{"answer": "x"}]]
    path.write_text(
        "".join(
            json.dumps({"doc_id": f"d{n}", "text": "a pump", "asked": q}) + "\n" for n, q in enumerate(asked)
        )
    )
    task = ask(answerer, path, question_column="asked", passthrough=("asked",))
    table = ShardReader(task, str(answerer), None, task.input_limits(answerer))(Shard("s", str(path), 0, 5))
    nothing, other = (
        "the document has no question in column 'asked'",
        "a record in column 'asked' has no field `question`",
    )
    assert [(row["doc_id"], row["question"], row["reason"]) for row in table.to_pylist()] == [
        ("d0", "pump?", None),
        ("d0", "when?", None),
        ("d1", None, nothing),
        ("d2", "[a] pump?", None),
        ("d3", "pump?", None),
        ("d4", None, other),
    ]
    assert table["asked"].to_pylist()[:3] == ['["pump?", "when?"]'] * 2 + ["[]"]


def test_invalid_questions_are_refused_before_the_run(answerer: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give the questions in one way"):
        AnswerSettings(input=("a",), output="b", model="c")
    with pytest.raises(UsageError, match="give the questions in one way"):
        AnswerSettings(input=("a",), output="b", model="c", question=("x",), question_column="y")
    with pytest.raises(UsageError, match="--question is empty; write a question"):
        ask(answerer, Path("c"), question=("pump?", "  "))
    with pytest.raises(
        UsageError,
        match=r"tokens with the special tokens; a chunk has 64, document included. Shorten the question",
    ):
        ask(answerer, Path("c"), question=("pump " * 80,)).run_config(answerer)
    with pytest.raises(UsageError, match=r"--questions-file .* cannot be read"):
        ask(answerer, Path("c"), questions_file=str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(UsageError, match="has no questions; write one per line"):
        ask(answerer, Path("c"), questions_file=str(tmp_path / "empty.txt"))
    (tmp_path / "two.txt").write_text("where?\n\n when? \n")
    assert ask(answerer, Path("c"), questions_file=str(tmp_path / "two.txt")).questions == ("where?", "when?")


def test_spans_lie_in_the_document_and_in_one_chunk(answerer: Path, write_corpus: Corpus) -> None:
    """Compared with every span of every chunk, scored by the forward pass of the model."""
    text = words(70, 4)
    task = ask(
        answerer, Path("c"), chunk_tokens=32, chunk_overlap=6, align_to_words=False, max_answer_tokens=5
    )
    [row] = rows_of(task, answerer, write_corpus([text]) / "000.parquet")
    model, tokenizer = (
        LEDForQuestionAnswering.from_pretrained(answerer).eval(),
        LEDTokenizer.from_pretrained(answerer),
    )
    before, encoding = [*tokenizer.encode("station?"), 2], tokenizer.encode_batch([text])[0]
    ids, room = encoding.ids[1:-1], 32 - len(before) - 1
    best, start = (float("-inf"), 0, 0), 0
    while start == 0 or start + 6 < len(ids):
        part = ids[start : start + room]
        chunk = torch.tensor([[*before, *part, 2]])
        is_global = torch.zeros_like(chunk)
        is_global[:, : len(before)] = 1
        with torch.no_grad():
            out = model(chunk, global_attention_mask=is_global)
        a, b = (x[0, len(before) : len(before) + len(part)] for x in (out.start_logits, out.end_logits))
        for i in range(len(part)):
            for j in range(i, min(i + 5, len(part))):
                best = max(best, (float(a[i] + b[j]), start + i, start + j))
        start += room - 6
    _, first, last = best
    assert (row["answer_start"], row["answer_end"]) == (
        encoding.offsets[first + 1][0],
        encoding.offsets[last + 1][1],
    )


def test_processes_that_read_or_commit_load_no_torch(classifier: Path, write_corpus: Corpus) -> None:
    path = write_corpus(["a pump", "a valve"]) / "000.parquet"
    code = f"""
import sys
import pipeline.cluster.actor, pipeline.cluster.sink, pipeline.cluster.source
from pipeline.planning.plan import Shard
from pipeline.tasks.settings import ClassifySettings
from pipeline.tasks.classify import Classify
from pipeline.workers.reader import ShardReader
task = Classify(ClassifySettings(input=("i",), output="o", model={str(classifier)!r}))
reader = ShardReader(task, {str(classifier)!r}, None, task.input_limits({str(classifier)!r}))
assert reader(Shard("s", {str(path)!r}, 0, 2))["status"].to_pylist() == ["ok", "ok"]
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
