"""Generation: the one decoding loop, and `generate` over padded batches.

The loop: admit documents while there is room, take a step for all of them, search, retire those that are done. A document
leaves as soon as it finishes and another takes its place; what it writes does not depend on who shares the loop.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from led.beam_search import BeamSearch, Choice, GreedySearch, Result, Search, SearchRules
from led.generation_config import GenerationConfig
from led.logits_processors import AllowedTokens, Rows, ScoreFunction, build_processors, may_be_recorded
from led.looking import where_it_looked
from led.memory import free_bytes
from led.outputs import ModelOutput
from led.packing import PackedBatch, concatenate, pack
from led.paged import GraphStepper
from led.stepper import EagerStepper, Stepper

if TYPE_CHECKING:
    from led.model import LEDForConditionalGeneration


@dataclass(frozen=True)
class DecodingLimits:
    """What may be in flight at once: documents being decoded, tokens encoded in one packed batch, and bytes they hold.

    A document longer than `encoder_tokens` is encoded alone, and one that needs more than `memory_bytes` is decoded alone.
    `memory_bytes` counts the documents' memories and their rows' past. What is None the device decides: documents and
    tokens by its kind, and half of the memory it has left when the loop is made, the other half being for encoding and for
    what else runs there.

    Raises:
        ValueError: a limit is below 1.
    """

    documents: int | None = None
    encoder_tokens: int | None = None
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and value < 1:
                raise ValueError(f"{f.name} is {value}; it must be at least 1.")

    def on(self, device: torch.device) -> tuple[int, int, int]:
        """The limits in force on `device`: documents, tokens, bytes."""
        documents, tokens = (64, 131072) if device.type == "cuda" else (16, 16384)
        return self.documents or documents, self.encoder_tokens or tokens, self.memory_bytes or free_bytes(device) // 2


@dataclass(frozen=True)
class _Active:
    """A document being decoded: its number, its encoder ids, its source of chance."""

    index: int
    input_ids: Tensor
    generator: torch.Generator | None


class DecodingLoop:
    """The decoding loop over one model and one configuration.

    `run(documents)` yields (number of the document, Result) as they finish, in any order. Documents are packed batches of
    one; they are taken from the iterable only when there is room for them.

    `logits_processor` holds functions (input_ids (rows, length), scores (rows, V)) -> scores, called for one document at a
    time after the configuration's rules and before those of sampling; `prefix_allowed_tokens_fn` maps (number of the
    document, input_ids (length,)) to the ids that may follow (in sampling rows are numbered, see `prefix_allowed_tokens`).

    With `look_bins` every result says where its best text looked (`looking.py`), in that many parts of the document.

    `measured` adds up what the loop did: seconds of encoding and of decoding, steps, and over all steps the documents that
    took part (`document_steps`) and those for which there was a place (`places`).
    """

    def __init__(
        self,
        model: LEDForConditionalGeneration,
        config: GenerationConfig,
        limits: DecodingLimits | None = None,
        prompt: Sequence[int] | None = None,
        logits_processor: Sequence[ScoreFunction] = (),
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        look_bins: int | None = None,
    ) -> None:
        self.model, self.config, self._look_bins = model, config, look_bins
        self._documents, self._encoder_tokens, memory_bytes = (limits or DecodingLimits()).on(model.device)
        self.prompt = list(prompt) if prompt is not None else [config.decoder_start_token_id]
        max_length = config.longest(model.config, len(self.prompt))
        rules = SearchRules(
            config.num_beams,
            config.num_return_sequences,
            len(self.prompt),
            max_length,
            config.length_penalty,
            config.early_stopping,
            config.do_sample,
            config.eos_token_ids,
            config.pad_token_id,
        )
        beams = config.num_beams > 1
        self._log_probabilities = beams
        self._rows = config.num_beams if beams else config.num_return_sequences
        self._search: Search = (BeamSearch if beams else GreedySearch)(rules, model.device)
        self._processors = build_processors(config, len(self.prompt), max_length, logits_processor, prefix_allowed_tokens_fn)
        self._active: list[_Active] = []
        self.measured: dict[str, float] = dict.fromkeys(
            ("encode_seconds", "decode_seconds", "steps", "document_steps", "places"), 0
        )
        self._stepper: Stepper = (
            GraphStepper(
                model,
                self._search if may_be_recorded(config, logits_processor, prefix_allowed_tokens_fn) else None,
                self._documents,
                self._rows,
                max_length,
                memory_bytes,
            )
            if model.device.type == "cuda"
            else EagerStepper(model, self._rows, max_length, memory_bytes)
        )

    def run(self, documents: Iterable[PackedBatch]) -> Iterator[tuple[int, Result]]:
        """Decode every document; yields (its number in `documents`, Result) as soon as it is done.

        What an earlier call left undone is dropped.
        """
        self._drop()
        waiting = enumerate(documents)
        held: tuple[int, PackedBatch] | None = None
        while True:
            newcomers: list[tuple[int, PackedBatch]] = []
            while len(self._active) + len(newcomers) < self._documents:
                held = held or next(waiting, None)
                if held is None or not self._has_room(newcomers, held):
                    break
                newcomers.append(held)
                held = None
            begun = time.perf_counter()
            if newcomers:
                self._admit(newcomers)
            if not self._active:
                return
            encoded = time.perf_counter()
            taking_part = len(self._active)
            results = self._step()
            spent = (encoded - begun, time.perf_counter() - encoded, 1, taking_part, self._documents)
            self.measured = {name: self.measured[name] + more for name, more in zip(self.measured, spent, strict=True)}
            yield from results

    def _drop(self) -> None:
        """Retire all documents, those too that an error kept from coming in."""
        self._active = []
        self._search.retain([])
        self._stepper.drop()

    def _has_room(self, newcomers: Sequence[tuple[int, PackedBatch]], next_: tuple[int, PackedBatch]) -> bool:
        """May the next document come in with these newcomers? The first into an empty loop always may."""
        lengths = [document.cu_seqlens[-1] for _, document in (*newcomers, next_)]
        if newcomers and sum(lengths) > self._encoder_tokens:
            return False
        alone = not newcomers and not self._active
        return alone or self._stepper.has_room(lengths)

    @torch.inference_mode()
    def _admit(self, newcomers: Sequence[tuple[int, PackedBatch]]) -> None:
        """Encode the newcomers in one packed batch and give them their rows."""
        device = self.model.device
        batch = concatenate([document for _, document in newcomers]).to(device)
        self._stepper.admit(batch, self.model.led.encoder.encode(batch), self.prompt)
        self._search.admit([self.prompt] * len(newcomers))
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # so that its time is not taken for that of the step after it
        for index, document in newcomers:
            seed = self.config.seed
            generator = None if seed is None else torch.Generator(device).manual_seed(seed)
            assert document.input_ids is not None
            self._active.append(_Active(index, document.input_ids.to(device), generator))

    @torch.inference_mode()
    def _step(self) -> list[tuple[int, Result]]:
        """Decode one token of every row, let the search choose, and retire the documents that are done."""
        search = self._search
        choice = self._stepper.advance(search, self._choose)
        done = choice.done.tolist()
        results = [(a.index, self._looked(d, search.result(d))) for d, a in enumerate(self._active) if done[d]]
        if not results:
            self._stepper.keep(range(len(done)), choice.parents)
            return results
        stay = [d for d in range(len(done)) if not done[d]]
        self._active = [self._active[d] for d in stay]
        search.retain(stay)
        self._stepper.keep(stay, choice.parents.view(-1, self._rows)[stay].flatten())
        return results

    def _choose(self, search: Search, scores: Tensor) -> Choice:
        """Go on with a search from its rows' logits, which are used up."""
        rows = Rows(search.sequences, search.lengths, [a.input_ids for a in self._active], [a.index for a in self._active])
        if self._log_probabilities:
            # In their place: numbers for a whole vocabulary, made anew, cost as much in page faults as in arithmetic.
            torch.log_softmax(scores, -1, out=scores)
        for process in self._processors:
            scores = process(rows, scores)
        return search.step(scores, [a.generator for a in self._active])

    def _looked(self, document: int, result: Result) -> Result:
        """The result of a document that is still held, with where it looked if that is asked for."""
        if self._look_bins is None:
            return result
        memory, decoder = self._stepper.memory_of(document), self.model.led.decoder
        return replace(result, looked=where_it_looked(decoder, memory, result.sequences[0], self._look_bins))


@dataclass
class GenerateOutput(ModelOutput):
    """`sequences` (B * num_return_sequences, L), padded on the right; `sequences_scores` (B * num_return_sequences,)."""

    sequences: Tensor
    sequences_scores: Tensor


def generate(
    model: LEDForConditionalGeneration,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    global_attention_mask: Tensor | None = None,
    decoder_input_ids: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    limits: DecodingLimits | None = None,
    logits_processor: Sequence[ScoreFunction] | None = None,
    prefix_allowed_tokens_fn: AllowedTokens | None = None,
    **settings: Any,
) -> GenerateOutput:
    """Write a continuation for every document of a padded batch.

    `input_ids` (B, N) and the masks (B, N) as in `LEDModel.forward`; without `attention_mask`, padding tokens are hidden.
    `decoder_input_ids` (1 or B, P) is a prompt, the same for all documents; a start token is put before it where it has
    none. `settings` change single fields of `generation_config`; the two functions are those of `DecodingLoop`.

    Raises:
        ValueError: a setting breaks a rule, or the output would outgrow the decoder's positions.
    """
    config = (generation_config or GenerationConfig()).updated(**settings)
    if attention_mask is None:
        attention_mask = (input_ids != config.pad_token_id).long()
    shape = (input_ids.shape[0], input_ids.shape[1])
    batch = pack(input_ids, attention_mask, global_attention_mask, shape, input_ids.device, trim=True)
    prompt = None
    if decoder_input_ids is not None:
        if bool((decoder_input_ids != decoder_input_ids[:1]).any()):
            raise ValueError("decoder_input_ids differ between documents; decode documents with one prompt at a time.")
        prompt = decoder_input_ids[0].tolist()
        if prompt[0] != config.decoder_start_token_id:
            prompt = [config.decoder_start_token_id, *prompt]
    loop = DecodingLoop(model, config, limits, prompt, logits_processor or (), prefix_allowed_tokens_fn)
    results = dict(loop.run(batch.documents()))
    ordered = [results[i] for i in range(shape[0])]
    rows = [torch.tensor(row, dtype=torch.long) for result in ordered for row in result.sequences]
    sequences = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=config.pad_token_id)
    scores = torch.tensor([score for result in ordered for score in result.scores])
    return GenerateOutput(sequences.to(input_ids.device), scores.to(input_ids.device))
