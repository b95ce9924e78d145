"""The outputs of the models: dataclasses with the field names of the reference.

Shapes: B documents, N encoder columns, N' encoder columns padded to a multiple of the largest window, T
decoder positions, S all decoder positions including cached ones, H heads, E = d_model, L layers, x largest
number of global tokens in a document of the batch, w two-sided `attention_window` of the layer, V vocabulary,
C labels.
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
    """Base class of the outputs. Fields are read as `out.logits`, `out["logits"]` or `out[0]`.

    An output is also a mapping of the fields that are not None.

    Raises:
        KeyError: there is no field of this name, or it is None.
    """

    def keys(self) -> tuple[str, ...]:
        """The names of the fields that are not None, in order."""
        names = (f.name for f in fields(self))  # type: ignore[arg-type]
        return tuple(name for name in names if getattr(self, name) is not None)

    def values(self) -> tuple[Any, ...]:
        """The values of the fields that are not None, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Names and values of the fields that are not None, in order."""
        return tuple((name, getattr(self, name)) for name in self.keys())

    def to_tuple(self) -> tuple[Any, ...]:
        """The values of the fields that are not None, as a model returns them with `return_dict=False`."""
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
    """The output of the encoder, in the reference's layout.

    - `last_hidden_state` (B, N, E)
    - `hidden_states` are L + 1 tensors (B, N, E), the embeddings first
    - `attentions` are L tensors (B, H, N, x + w + 1). A row has a token's weights of the global tokens, then
      those of its window. The token itself is at x + w / 2. Rows of global and hidden tokens are zero.
    - `global_attentions` are L tensors (B, H, N', x) with each global token's weights of all tokens. If a
      document has fewer than x global tokens, the weights of the missing ones are uniform. The field is None
      if no document has any.

    Source: arXiv:2004.05150, section 3.1.
    """

    last_hidden_state: Tensor
    hidden_states: States | None = None
    attentions: States | None = None
    global_attentions: States | None = None


@dataclass
class LEDSeq2SeqModelOutput(ModelOutput):
    """The output of `LEDModel`.

    - `last_hidden_state` (B, T, E) of the decoder
    - `decoder_hidden_states` are L + 1 tensors (B, T, E)
    - `decoder_attentions` are L tensors (B, H, T, S)
    - `cross_attentions` are L tensors (B, H, T, N)
    - the encoder's fields are as in `LEDEncoderBaseModelOutput`

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
    """The output of `LEDForConditionalGeneration`.

    `logits` are (B, T, V). `loss` () needs labels. The other fields are as in `LEDSeq2SeqModelOutput`.

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
    """The output of `LEDForSequenceClassification`.

    `logits` are (B, C). `loss` () needs labels. The other fields are as in `LEDSeq2SeqModelOutput`.

    Source: the reference, transformers 4. arXiv:2004.05150 has no classification head for LED.
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
    """The output of `LEDForQuestionAnswering`.

    `start_logits` and `end_logits` are (B, T). `loss` () needs start and end positions. The other fields are
    as in `LEDSeq2SeqModelOutput`.

    Source: the reference. arXiv:2004.05150 has no question-answering head for LED.
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
