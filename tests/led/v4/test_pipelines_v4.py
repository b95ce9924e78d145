"""The pipelines give the results of transformers 4.57, for whole texts without global attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from led.pipelines.pipeline import pipeline
from led.testing import TINY, spread_weights
from led.tokenizer.tokenizer import LEDTokenizer
from tests.conftest import words

ABSENT = "the reference, transformers 4.57, is not installed: make test-parity"
transformers = pytest.importorskip("transformers", reason=ABSENT)
if not transformers.__version__.startswith("4."):
    pytest.skip(ABSENT, allow_module_level=True)

TEXTS = ["", "Größe 🎉, naïve 日本語: the pump at station seven.", *(words(n, n) for n in (1, 4, 17, 25))]


def saved(cls: Any, folder: Path, **changes: Any) -> Any:
    """The reference's model of this class with spread-out weights, saved in `folder` beside the tokenizer."""
    tokenizer = LEDTokenizer.learn([words(200, 0)], vocab_size=320, model_max_length=128)
    tokenizer.save_pretrained(folder)
    model = cls(transformers.LEDConfig(**{**TINY, "vocab_size": 320, **changes}))
    spread_weights(model, seed=2, scale=8)
    model.save_pretrained(folder)
    return transformers.LEDTokenizerFast.from_pretrained(folder), model.eval()


def test_summaries(tmp_path: Path) -> None:
    tokenizer, model = saved(transformers.LEDForConditionalGeneration, tmp_path)
    defaults = pipeline("summarization", tmp_path)._settings({}).generation
    # The reference's 256 tokens and 4 beams, as far as the decoder's 64 positions go.
    assert (defaults.max_new_tokens, defaults.num_beams) == (64, 4)
    theirs = transformers.pipeline("summarization", model=model, tokenizer=tokenizer)
    ours = pipeline("summarization", tmp_path, global_attention=False)
    short = {"max_new_tokens": 20, "no_repeat_ngram_size": 0}  # 3 is a default of ours alone
    for settings in (
        short,
        {**short, "num_beams": 3, "min_length": 10},
        {**short, "num_beams": 2, "num_return_sequences": 2},
    ):
        for text in TEXTS:
            expected = [
                item["summary_text"] for item in theirs(text, clean_up_tokenization_spaces=False, **settings)
            ]
            assert [item["summary_text"] for item in ours(text, **settings)] == expected
    single = "hello . I 'm here , do n't go"
    cleaned = {**short, "clean_up_tokenization_spaces": True}
    assert ours(single, **cleaned) == theirs(single, **cleaned)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (3, None),
        (1, None),
        (3, "multi_label_classification"),
        (2, "regression"),
        (3, "single_label_classification"),
    ],
)
def test_labels(tmp_path: Path, labels: int, problem: str | None) -> None:
    changes = {"num_labels": labels, "problem_type": problem}
    tokenizer, model = saved(transformers.LEDForSequenceClassification, tmp_path, **changes)
    theirs = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
    ours = pipeline("text-classification", tmp_path, global_attention=False)
    same(ours(TEXTS), [theirs(text)[0] for text in TEXTS])
    same(ours(TEXTS[2]), theirs(TEXTS[2]))
    for how in ({"top_k": None}, {"top_k": 2}, {"top_k": 1, "function_to_apply": "sigmoid"}):
        same(ours(TEXTS, **how), [theirs(text, **how) for text in TEXTS])
        same(ours(TEXTS[2], **how), theirs(TEXTS[2], **how))


def test_answers(tmp_path: Path) -> None:
    tokenizer, model = saved(transformers.LEDForQuestionAnswering, tmp_path)
    theirs = transformers.pipeline("question-answering", model=model, tokenizer=tokenizer)
    ours = pipeline("question-answering", tmp_path, global_attention=False)
    contexts = [text for text in TEXTS if text]  # the reference refuses an empty one
    for how in (
        {},
        {"max_answer_len": 3},
        {"align_to_words": False},
        {"handle_impossible_answer": True, "top_k": 3},
    ):
        for context in contexts:
            mine, other = (qa(question="what failed?", context=context, **how) for qa in (ours, theirs))
            # The reference ranks tokens that are no candidates too, at nought.
            same(mine, [item for item in other if item["score"]] if isinstance(other, list) else other)
    same(ours(question=["a"] * 2, context=contexts[:2]), theirs(question=["a"] * 2, context=contexts[:2]))


def same(mine: Any, theirs: Any) -> None:
    """Equal except for the rounding of scores."""
    if isinstance(theirs, list):
        assert isinstance(mine, list) and len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            same(a, b)
    else:
        assert mine.keys() == theirs.keys()
        torch.testing.assert_close(mine.pop("score"), theirs.pop("score"), atol=1e-5, rtol=1e-4)
        assert mine == theirs
