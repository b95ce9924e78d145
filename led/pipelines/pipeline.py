"""`pipeline`: texts to summaries, labels or answers in one call, as in the pipelines of transformers 4.

    from led import pipeline

    summarize = pipeline("summarization", model="allenai/led-large-16384-arxiv")
    summarize(["A long text …", "Another …"], num_beams=4)

Documents are packed without padding and decoded with continuous batching. A document that is too long for
the model is split into chunks for labels and answers. For a summary, `overflow` says whether it is truncated,
with a warning, or split. `<s>` and the question attend to the whole document (arXiv:2004.05150, section 3.1).
`global_attention` chooses other tokens, by the rules of `led/pipelines/global_attention.py`. False turns it
off, as in the reference's pipelines.

For whole corpora use the batch system (`jobs/`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from led.generation.limits import SchedulerLimits
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.heads.question_answering import LEDForQuestionAnswering
from led.heads.sequence_classification import LEDForSequenceClassification
from led.model.pretrained import LEDPreTrainedModel
from led.pipelines.joining import Truncation
from led.pipelines.question_answering import QuestionAnsweringPipeline
from led.pipelines.text_classification import TextClassificationPipeline
from led.pipelines.text_generation import Text2TextPipeline
from led.tokenizer.tokenizer import LEDTokenizer

_TASKS: dict[str, type[LEDPreTrainedModel]] = {
    "summarization": LEDForConditionalGeneration,
    "text2text-generation": LEDForConditionalGeneration,
    "text-classification": LEDForSequenceClassification,
    "sentiment-analysis": LEDForSequenceClassification,
    "question-answering": LEDForQuestionAnswering,
}


def pipeline(
    task: str,
    model: str | Path | LEDPreTrainedModel,
    tokenizer: LEDTokenizer | str | Path | None = None,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str | None = torch.float32,
    device: torch.device | str | int = "cpu",
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    limits: SchedulerLimits | None = None,
    global_attention: bool | str | Sequence[str] = True,
    document_separator: str | None = None,
    truncate_documents: Truncation = "equal",
) -> Text2TextPipeline | TextClassificationPipeline | QuestionAnsweringPipeline:
    """Create a pipeline for `task`.

    Tasks: "summarization", "text2text-generation", "text-classification" (or "sentiment-analysis") and
    "question-answering".

    `model` is a folder, a hub name or a loaded model. A loaded model needs a `tokenizer`. The other arguments
    are those of `from_pretrained`. A model that is loaded here is packed for inference. `limits` bounds the
    documents and tokens that summarization processes at once.

    `global_attention` has the rules for global tokens, for example ["first", "separator"]. True means the
    task's own: `<s>`, and for answers the question. `document_separator` joins the texts of an input that is
    a list, by default the checkpoint's own token such as `<doc-sep>`, or else its sep token.
    `truncate_documents` says how they are shortened: "equal", "proportional", "last" or "primera".

    Raises:
        ValueError: the task is unknown, or the model does not fit it.
        FileNotFoundError: the model does not exist.
        CheckpointError: the weights are not those of the task.
    """
    if task not in _TASKS:
        raise ValueError(f"task is {task!r}; use one of {', '.join(_TASKS)}.")
    cls = _TASKS[task]
    if isinstance(model, LEDPreTrainedModel):
        if not isinstance(model, cls) or tokenizer is None:
            raise ValueError(
                f"{task} takes a {cls.__name__} and its tokenizer; a {type(model).__name__} was "
                f"given{' without a tokenizer' if tokenizer is None else ''}."
            )
        loaded: LEDPreTrainedModel = model
    else:
        source: dict[str, Any] = {
            "revision": revision,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
        }
        loaded = cls.from_pretrained(model, dtype=dtype, device=device, **source).pack()
        tokenizer = LEDTokenizer.from_pretrained(model, **source) if tokenizer is None else tokenizer
    if not isinstance(tokenizer, LEDTokenizer):
        tokenizer = LEDTokenizer.from_pretrained(tokenizer)
    tokenizer.check_embedding(loaded.config.vocab_size)
    inputs: dict[str, Any] = {
        "global_attention": global_attention,
        "document_separator": document_separator,
        "truncate_documents": truncate_documents,
    }
    if isinstance(loaded, LEDForConditionalGeneration):
        return Text2TextPipeline(loaded, tokenizer, task, limits, **inputs)
    if isinstance(loaded, LEDForSequenceClassification):
        return TextClassificationPipeline(loaded, tokenizer, **inputs)
    assert isinstance(loaded, LEDForQuestionAnswering)
    return QuestionAnsweringPipeline(loaded, tokenizer, **inputs)
