"""What the pipelines of all tasks share: how texts become model inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from led.model.pretrained import LEDPreTrainedModel
from led.pipelines.chunking import ChunkRules
from led.pipelines.global_attention import GlobalAttention
from led.pipelines.inputs import EncodedInput, InputRules, InputText, Span, encode_inputs
from led.pipelines.joining import Truncation, separator_ids
from led.tokenizer.tokenizer import LEDTokenizer

PipelineOutput = dict[str, Any]

# A text, or the texts of several documents that make one input.
Text = str | Sequence[str]

# Tokens encoded in one packed batch. A longer document is encoded alone.
MAX_NUM_BATCHED_TOKENS = 16384


class Pipeline:
    """A model with its tokenizer. A call takes one text or several and returns dicts.

    `global_attention` is a rule or a list of rules. True stands for the task's own, False for none.
    `document_separator` and `truncate_documents` say how the documents of one input are joined.
    """

    model: LEDPreTrainedModel
    own_rules: ClassVar[tuple[str, ...]] = ("first",)

    def __init__(
        self,
        tokenizer: LEDTokenizer,
        *,
        global_attention: bool | str | Sequence[str] = True,
        document_separator: str | None = None,
        truncate_documents: Truncation = "equal",
    ) -> None:
        self.tokenizer = tokenizer
        if isinstance(global_attention, bool):
            rules = self.own_rules if global_attention else ("none",)
        else:
            rules = (global_attention,) if isinstance(global_attention, str) else tuple(global_attention)
        separator = separator_ids(tokenizer, document_separator)
        try:
            parsed = GlobalAttention.parse(rules)
            if parsed.column is not None:
                raise ValueError("column:NAME is for tables; pass global_spans in the call")
            global_tokens = parsed.resolve(tokenizer, separator)
        except ValueError as error:
            raise ValueError(f"global_attention: {error}.") from error
        self.rules = InputRules(global_tokens, separator, truncate_documents)

    def encode(
        self,
        texts: Sequence[Text],
        limit: int,
        prefixes: Sequence[str],
        spans: Sequence[Sequence[Span]] = (),
        chunk_rules: ChunkRules | None = None,
    ) -> list[EncodedInput]:
        """The model inputs of these texts, each with its prefix and the spans of its global tokens."""
        inputs = [
            InputText(text if isinstance(text, str) else tuple(text), prefixes[i], spans[i] if spans else ())
            for i, text in enumerate(texts)
        ]
        return encode_inputs(self.tokenizer, inputs, limit, self.rules, chunk_rules)


def as_inputs(texts: str | Sequence[Text]) -> list[Text]:
    """One input or several as a list. An input is a text, or a list of texts.

    Raises:
        ValueError: an input is neither.
    """
    several: list[Text] = [texts] if isinstance(texts, str) else list(texts)
    for i, item in enumerate(several):
        parts = item if isinstance(item, list | tuple) and item else [item]
        if not all(isinstance(part, str) for part in parts):
            raise ValueError(
                f"input {i} is {type(item).__name__}; it must be a text (str), or a list of texts with at "
                "least one."
            )
    return several


def as_texts(texts: str | Sequence[str]) -> list[str]:
    """One text or several as a list.

    Raises:
        ValueError: an input is not a string.
    """
    several = [texts] if isinstance(texts, str) else list(texts)
    for i, text in enumerate(several):
        if not isinstance(text, str):
            raise ValueError(f"input {i} is {type(text).__name__}; it must be a text (str).")
    return several
