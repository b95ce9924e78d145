"""What the models return: dataclasses whose fields carry the reference's names.

Shapes: B documents, N encoder columns, N' the same up to a multiple of the largest window, T decoder
positions, S decoder positions with those before them, H heads, E = d_model, L layers, x most global
tokens of a document in the batch, w the layer's two-sided `attention_window`, V vocabulary, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from led.kv_cache.decoder_cache import DecoderCache

States = tuple[Tensor, ...]


class ModelOutput:
    """A result that reads by name (`out.logits`, `out["logits"]`), by place (`out[0]`) and as a mapping of
    what is not None.

    Raises:
        KeyError: a name that is no field, or is None here.
    """

    def keys(self) -> tuple[str, ...]:
        """The names of the fields that are not None, in order."""
        names = (f.name for f in fields(self))  # type: ignore[arg-type]
        return tuple(name for name in names if getattr(self, name) is not None)

    def values(self) -> tuple[Any, ...]:
        """The fields that are not None, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Names and fields that are not None, in order."""
        return tuple((name, getattr(self, name)) for name in self.keys())

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, in order: what a model returns with `return_dict=False`."""
        return self.values()

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.values()[key]
        if key not in self.keys():
            raise KeyError(f"{key} is not in this output; it has {', '.join(self.keys())}.")
        return getattr(self, key)

    def __contains__(self, key: str) -> bool:
        return key in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


@dataclass
class LEDEncoderBaseModelOutput(ModelOutput):
    """The encoder's states; the layout is the reference's.

    `last_hidden_state` (B, N, E); `hidden_states` L + 1 of (B, N, E), the embeddings first; `attentions` L of
    (B, H, N, x + w + 1): first what a token pays to the global tokens, then to its window, itself at x + w /
    2; the rows of global and of hidden tokens are zero. `global_attentions` L of (B, H, N', x): what each
    global token pays to every token, evenly spread where a document has fewer than x; None where no document
    has any.

    Source: arXiv:2004.05150, section 3.1.
    """

    last_hidden_state: Tensor
    hidden_states: States | None = None
    attentions: States | None = None
    global_attentions: States | None = None


@dataclass
class LEDSeq2SeqModelOutput(ModelOutput):
    """`LEDModel`'s result: `last_hidden_state` (B, T, E) of the decoder; decoder states L + 1 of (B, T, E),
    its attentions L of (B, H, T, S), cross-attentions L of (B, H, T, N); the encoder's fields as in
    `LEDEncoderBaseModelOutput`.

    Source: arXiv:2004.05150, section 7.
    """

    last_hidden_state: Tensor
    past_key_values: DecoderCache | None = None
    decoder_hidden_states: States | None = None
    decoder_attentions: States | None = None
    cross_attentions: States | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: States | None = None
    encoder_attentions: States | None = None
    encoder_global_attentions: States | None = None


@dataclass
class LEDSeq2SeqLMOutput(ModelOutput):
    """`LEDForConditionalGeneration`'s result: `loss` () where labels were given, `logits` (B, T, V); the
    other fields as in `LEDSeq2SeqModelOutput`.

    Source: arXiv:2004.05150, section 7.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DecoderCache | None = None
    decoder_hidden_states: States | None = None
    decoder_attentions: States | None = None
    cross_attentions: States | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: States | None = None
    encoder_attentions: States | None = None
    encoder_global_attentions: States | None = None


@dataclass
class LEDSeq2SeqSequenceClassifierOutput(ModelOutput):
    """`LEDForSequenceClassification`'s result: `loss` () where labels were given, `logits` (B, C); the other
    fields as in `LEDSeq2SeqModelOutput`.

    Source: the reference, transformers 4; arXiv:2004.05150 has no classification head for LED.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DecoderCache | None = None
    decoder_hidden_states: States | None = None
    decoder_attentions: States | None = None
    cross_attentions: States | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: States | None = None
    encoder_attentions: States | None = None
    encoder_global_attentions: States | None = None


@dataclass
class LEDSeq2SeqQuestionAnsweringModelOutput(ModelOutput):
    """`LEDForQuestionAnswering`'s result: `loss` () where positions were given, `start_logits` and
    `end_logits` (B, T); the other fields as in `LEDSeq2SeqModelOutput`.

    Source: the reference; arXiv:2004.05150 has no question-answering head for LED.
    """

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    past_key_values: DecoderCache | None = None
    decoder_hidden_states: States | None = None
    decoder_attentions: States | None = None
    cross_attentions: States | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: States | None = None
    encoder_attentions: States | None = None
    encoder_global_attentions: States | None = None
