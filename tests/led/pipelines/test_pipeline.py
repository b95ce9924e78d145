"""Pipelines give the results of tokenizer, model and search by hand, whatever a text is batched with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from led.batch.packed_batch import PackedBatch
from led.generation.limits import SchedulerLimits
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.heads.question_answering import LEDForQuestionAnswering
from led.heads.sequence_classification import LEDForSequenceClassification
from led.pipelines.pipeline import pipeline
from led.testing import spread_weights, tiny_config
from led.tokenizer.tokenizer import LEDTokenizer
from tests.conftest import words

LENGTHS = (0, 1, 5, 30, 62, 63, 64, 200)
TEXTS = [words(n, n) for n in LENGTHS]


@pytest.fixture(scope="module")
def tokenizer(model_folder: Path) -> LEDTokenizer:
    return LEDTokenizer.from_pretrained(model_folder)


def model_of(cls: Any, tokenizer: LEDTokenizer, **changes: Any) -> Any:
    """A model with spread-out random weights. By default encoder and decoder have 64 positions."""
    changes = {"max_encoder_position_embeddings": 64, **changes}
    model = cls(tiny_config(vocab_size=len(tokenizer), **changes))
    spread_weights(model, seed=5, scale=8)
    return model.eval()


def test_summaries_are_those_of_generate_and_do_not_depend_on_neighbours(
    model_folder: Path, tokenizer: LEDTokenizer
) -> None:
    summarize = pipeline("summarization", model=model_folder, limits=SchedulerLimits(max_num_seqs=3))
    with pytest.warns(UserWarning, match=r"text 7 has \d+ tokens; the last \d+ were cut"):
        together = summarize(TEXTS, num_beams=3)
    model = LEDForConditionalGeneration.from_pretrained(model_folder)
    for text, result in zip(TEXTS, together, strict=True):
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)["input_ids"]
        mask = torch.zeros_like(ids)
        mask[:, 0] = 1
        written = model.generate(ids, global_attention_mask=mask, num_beams=3)
        assert result["summary_text"] == tokenizer.decode(written[0], skip_special_tokens=True)
    assert [set(result) for result in together[:-1]] == [{"summary_text"}] * 7
    assert together[-1]["truncated_tokens"] > 0
    assert summarize(TEXTS[2], num_beams=3) == [together[2]]
    several = summarize(TEXTS[2:4], num_beams=3, num_return_sequences=2)
    assert len(several) == 4 and several[0] == together[2] and several[2] == together[3]
    with pytest.raises(ValueError, match=r"text 0 has \d+ tokens; this model reads at most 128"):
        summarize(TEXTS[-1], truncation=False)
    assert list(pipeline("text2text-generation", model=model_folder)("one")[0]) == ["generated_text"]


def test_global_attention_may_be_left_out(model_folder: Path, tokenizer: LEDTokenizer) -> None:
    plain = pipeline("summarization", model=model_folder, global_attention=False)
    model = LEDForConditionalGeneration.from_pretrained(model_folder)
    ids = tokenizer(TEXTS[3], return_tensors="pt")["input_ids"]
    assert plain(TEXTS[3])[0]["summary_text"] == tokenizer.decode(
        model.generate(ids)[0], skip_special_tokens=True
    )


@pytest.mark.parametrize("problem", [None, "multi_label_classification", "regression"])
def test_labels_are_those_of_the_model_and_chunks_are_pooled(
    tokenizer: LEDTokenizer, problem: str | None
) -> None:
    model = model_of(LEDForSequenceClassification, tokenizer, num_labels=3, problem_type=problem)
    classify = pipeline("text-classification", model, tokenizer)
    assert classify([]) == []
    rows = []
    for text in TEXTS:
        ids = tokenizer.encode(text)[1:-1]
        parts = [[0, *ids[i : i + 62], 2] for i in range(0, max(1, len(ids) - 8), 62 - 8)]
        logits = []
        for part in parts:
            batch = {"input_ids": torch.tensor([part]), "global_attention_mask": torch.eye(1, len(part))}
            logits.append(model(**batch).logits[0].detach())
        stacked = torch.stack(logits)
        rows.append(stacked.amax(0) if problem == "multi_label_classification" else stacked.mean(0))
    torch.testing.assert_close(classify.logits(TEXTS), torch.stack(rows), atol=1e-5, rtol=0)
    apply = {None: torch.softmax, "regression": lambda x, _: x}.get(problem, lambda x, _: x.sigmoid())
    for row, ranked in zip(rows, classify(TEXTS, top_k=None), strict=True):
        scores = apply(row, -1)
        assert [r["label"] for r in ranked] == [f"LABEL_{i}" for i in scores.argsort(descending=True)]
        torch.testing.assert_close(
            torch.tensor([r["score"] for r in ranked]), scores.sort(descending=True).values, atol=1e-5, rtol=0
        )
    best = classify(TEXTS)
    assert best == [ranked[0] for ranked in classify(TEXTS, top_k=2)]
    assert (
        classify(TEXTS[4])[0]["label"] == best[4]["label"]
        and classify(TEXTS[4], top_k=2)[0]["label"] == best[4]["label"]
    )


def test_answers_are_spans_of_the_document(tokenizer: LEDTokenizer) -> None:
    model = model_of(LEDForQuestionAnswering, tokenizer)
    answer = pipeline("question-answering", model, tokenizer)
    contexts = ["Größe 🎉: " + text + " naïve 日本語" for text in TEXTS]
    for align in (True, False):
        found = answer(
            question="which pump ☂?", context=contexts, top_k=3, align_to_words=align, doc_stride=9
        )
        for context, answers in zip(contexts, found, strict=True):
            assert len(answers) == 3 and answers == sorted(answers, key=lambda a: -a["score"])
            for item in answers:
                assert context[item["start"] : item["end"]] == item["answer"] and 0 < item["score"] <= 1
    one = answer(question="which pump ☂?", context=contexts[3])
    assert one == answer({"question": "which pump ☂?", "context": contexts[3]}) and isinstance(one, dict)
    assert answer([{"question": "which pump ☂?", "context": contexts[3]}]) == [one]
    assert answer(question=["a", "b"], context=contexts[3])[1] == answer(question="b", context=contexts[3])


def test_an_answer_is_the_best_pair_of_the_models_scores(tokenizer: LEDTokenizer) -> None:
    model = model_of(LEDForQuestionAnswering, tokenizer)
    question, context = "what failed", words(20, 3)
    batch = tokenizer(question, context, return_tensors="pt")
    prefix = len(tokenizer.encode(question)) + 1
    ids = batch["input_ids"]
    global_positions = torch.zeros_like(ids)
    global_positions[:, :prefix] = 1
    with torch.no_grad():
        out = model(ids, global_attention_mask=global_positions)
    places = [0, *range(prefix, ids.shape[1] - 1)]
    start, end = out.start_logits[0, places].softmax(0), out.end_logits[0, places].softmax(0)
    pairs = {
        (i, j): float(start[i] * end[j])
        for i in range(1, len(places))
        for j in range(i, min(i + 4, len(places)))
    }
    (i, j), score = max(pairs.items(), key=lambda item: item[1])
    offsets = tokenizer.encode_batch([context])[0].offsets
    found = pipeline("question-answering", model, tokenizer)(
        question=question,
        context=context,
        max_answer_len=4,
        align_to_words=False,
        handle_impossible_answer=True,
        top_k=9,
    )
    best = next(item for item in found if item["answer"])
    assert (best["start"], best["end"]) == (offsets[i][0], offsets[j][1])
    assert best["score"] == pytest.approx(score, rel=1e-4)
    [null] = [
        item
        for item in pipeline("question-answering", model, tokenizer)(
            question=question, context=context, handle_impossible_answer=True, top_k=2000
        )
        if item["end"] == 0
    ]
    assert null["score"] == pytest.approx(float(start[0] * end[0]), rel=1e-4) and null["answer"] == ""


@pytest.mark.parametrize(
    ("task", "arguments", "says"),
    [
        ("summarization", {"texts": [None]}, "input 0 is NoneType; it must be a text"),
        ("summarization", {"texts": "a", "num_beems": 2}, "num_beems is not a generation setting"),
        ("text-classification", {"texts": ["a", 3]}, "input 1 is int; it must be a text"),
        (
            "text-classification",
            {"texts": "a", "topk": 3},
            "topk is not an argument of this pipeline; use top_k",
        ),
        ("text-classification", {"texts": "a", "top_k": 0}, "top_k is 0; it must be at least 1"),
        (
            "text-classification",
            {"texts": "a", "function_to_apply": "tanh"},
            "function_to_apply is 'tanh'; use one of softmax",
        ),
        ("question-answering", {"question": "a"}, "give a question and a context"),
        (
            "question-answering",
            {"question": ["a", "b"], "context": ["c"] * 3},
            "2 questions were given for 3 contexts",
        ),
        (
            "question-answering",
            {"inputs": [{"question": "a"}]},
            "every input must be a dict with a question and a context",
        ),
        ("question-answering", {"question": "a", "context": "b", "top_k": 0}, "top_k is 0"),
        (
            "question-answering",
            {"question": "a", "context": "b", "max_seq_len": 65},
            "max_seq_len is 65; this model reads",
        ),
        (
            "question-answering",
            {"question": words(99, 1), "context": "b"},
            "leave no room for the document in a chunk of 64",
        ),
    ],
)
def test_a_bad_call_is_refused_plainly(
    task: str, arguments: dict[str, Any], says: str, tokenizer: LEDTokenizer
) -> None:
    cls = {
        "summarization": LEDForConditionalGeneration,
        "text-classification": LEDForSequenceClassification,
        "question-answering": LEDForQuestionAnswering,
    }[task]
    call = pipeline(task, model_of(cls, tokenizer), tokenizer)
    texts = [arguments.pop("texts")] if "texts" in arguments else []
    with pytest.raises(ValueError, match=re.escape(says)):
        call(*texts, **arguments)


def test_a_bad_model_is_refused_plainly(model_folder: Path, tokenizer: LEDTokenizer) -> None:
    model = LEDForConditionalGeneration.from_pretrained(model_folder)
    with pytest.raises(ValueError, match="task is 'translation'; use one of summarization"):
        pipeline("translation", model_folder)
    with pytest.raises(
        ValueError, match="takes a LEDForQuestionAnswering and its tokenizer; a LEDForConditionalGeneration"
    ):
        pipeline("question-answering", model, tokenizer)
    with pytest.raises(ValueError, match="was given without a tokenizer"):
        pipeline("summarization", model)
    with pytest.raises(ValueError, match=r"4 missing: classification_head.dense.weight.*pass new_head=True"):
        pipeline("text-classification", model_folder)
    with pytest.raises(FileNotFoundError, match=r"the model folder \./none does not exist"):
        pipeline("summarization", "./none")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device is 0; torch finds 0 GPUs here: use 'cpu' or 'auto'"):
            pipeline("summarization", model_folder, device=0)


def test_the_published_snippets_run_after_changing_the_import(model_folder: Path) -> None:
    """The snippets of the reference's page about LED, with another checkpoint and device."""
    from led import (
        LEDForConditionalGeneration as AutoModelForSeq2SeqLM,
        LEDTokenizer as AutoTokenizer,
        pipeline,
    )

    summarizer = pipeline(task="summarization", model=str(model_folder), dtype=torch.float16, device=-1)
    [first] = summarizer("""Plants are among the most remarkable and essential life forms on Earth.""")
    assert isinstance(first["summary_text"], str)

    tokenizer = AutoTokenizer.from_pretrained(str(model_folder))
    model = AutoModelForSeq2SeqLM.from_pretrained(str(model_folder), dtype=torch.float16, device_map="auto")
    input_ids = tokenizer("""Plants are remarkable.""", return_tensors="pt").to(model.device)
    global_attention_mask = torch.zeros_like(input_ids.input_ids).to(model.device)
    global_attention_mask[:, 0] = 1
    output = model.generate(
        **input_ids, global_attention_mask=global_attention_mask, cache_implementation="static"
    )
    assert isinstance(tokenizer.decode(output[0], skip_special_tokens=True), str)


def test_chunks_have_the_tokens_that_the_tokenizer_places(model_folder: Path) -> None:
    """They may differ from those that begin and end a written text."""
    tokenizer = LEDTokenizer.from_pretrained(model_folder)
    tokenizer.cls_token, tokenizer.sep_token = "<mask>", "<unk>"
    model, seen = model_of(LEDForQuestionAnswering, tokenizer), list[list[int]]()
    read = model.forward_packed

    def watch(batch: PackedBatch, *given: Any, **named: Any) -> Any:
        seen.append(batch.input_ids.tolist())
        return read(batch, *given, **named)

    model.forward_packed = watch
    pipeline("question-answering", model=model, tokenizer=tokenizer)(question="what", context="the pump")
    assert seen == [tokenizer("what", "the pump")["input_ids"]]
    assert seen[0][0] == tokenizer.cls_token_id and seen[0].count(tokenizer.sep_token_id) == 3


def test_a_tokenizer_larger_than_the_embedding_is_refused(tokenizer: LEDTokenizer) -> None:
    rows = len(tokenizer) - 1
    model = LEDForConditionalGeneration(tiny_config(vocab_size=rows))
    with pytest.raises(ValueError, match=rf"has the id {rows} .* embedding has {rows} rows"):
        pipeline("summarization", model=model, tokenizer=tokenizer)


def test_summaries_of_long_documents(model_folder: Path) -> None:
    summarize = pipeline("summarization", model=model_folder)
    text = ". ".join(words(9, n) for n in range(60))
    [cut] = summarize(text[:400])
    for overflow in ("concat", "fuse"):
        long, short = summarize([text, text[:400]], overflow=overflow, chunk_tokens=64)
        assert short["summary_text"] == cut["summary_text"] or len(short["partial_summaries"]) > 1
        parts = long["partial_summaries"]
        assert len(parts) > 3 and "truncated_tokens" not in long and sum(long["level_tokens"]) > 400
        assert (parts[0]["start"], parts[-1]["end"]) == (0, len(text))
    for wrong, message in (
        ({"overflow": "cut"}, "overflow is 'cut'; use one of truncate, concat, fuse"),
        ({"overflow": "fuse", "chunk_ends": "page"}, "chunk_ends is 'page'; use one of token, sentence"),
        ({"overflow": "fuse", "chunk_tokens": 129}, "chunk_tokens is 129; it must be from 3 to the 128"),
        ({"overflow": "fuse", "chunk_overlap": 126}, "chunk_overlap is 126; it must be from 0 to 125"),
        ({"chunk_tokens": 64}, "chunk_tokens is 64; it needs overflow concat or fuse"),
        ({"overflow": "fuse", "chunk_tokens": 20}, "fuse needs chunks that are twice as long"),
        ({"overflow": "concat", "num_return_sequences": 2}, "num_return_sequences is 2; chunks have one"),
    ):
        with pytest.raises(ValueError, match=message):
            summarize(text, **wrong)
