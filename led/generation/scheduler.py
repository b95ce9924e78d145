"""The continuous-batching scheduler: admit documents while there is room, decode a step, retire finished
documents.

A document leaves its slot as soon as it finishes, and another takes the slot. Documents are encoded in
groups, some of them ahead of their slots (see `admission.py`). What a document gets does not depend on the
other documents.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from led.batch.packed_batch import PackedBatch, concatenate
from led.generation.admission import AdmissionRules, Pack
from led.generation.config import GenerationConfig
from led.generation.cross_attention_profile import summed_cross_attention
from led.generation.cuda_graph_runner import CudaGraphRunner
from led.generation.limits import SchedulerLimits
from led.generation.logits_processors import AllowedTokens, Rows, ScoreFunction, build_processors
from led.generation.memory_budget import free_bytes, kv_cache_bytes
from led.generation.runner import DecodeRunner, EagerRunner, LanguageModel
from led.generation.search import BeamSearch, GreedySearch, Hypotheses, Search, SearchConfig, StepOutput


@dataclass(frozen=True)
class Request:
    """A document to decode, a packed batch of one. `max_new_tokens` is its own limit, at most the config's.

    Raises:
        ValueError: the limit is below 1.
    """

    document: PackedBatch
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1.")


@dataclass(frozen=True)
class _Active:
    """A document in a slot: its number, its encoder ids, its random generator."""

    number: int
    input_ids: Tensor
    generator: torch.Generator | None


class Scheduler:
    """Continuous batching of one model with one generation config.

    `run(documents)` yields (number of the document, Hypotheses) as documents finish, in any order. Documents
    are requests, or packed batches of one document. They are taken from the iterable only when there is room
    for them. An iterable whose next document depends on the results of earlier ones yields None while it
    waits for a result.

    `logits_processor` holds functions (input_ids (rows, length), scores (rows, V)) -> scores. They are called
    for one document at a time, after the processors of the config and before those of sampling.
    `prefix_allowed_tokens_fn` maps (number of the document, input_ids (length,)) to the allowed next ids. In
    sampling, rows are numbered instead (see `prefix_allowed_tokens`).

    With `attention`, results have the cross-attention to each token of the document.

    `measured` adds up seconds of encoding and of decoding, `steps`, `document_steps` (documents in each step,
    summed) and `slot_steps` (slots in each step, summed).
    """

    def __init__(
        self,
        model: LanguageModel,
        config: GenerationConfig,
        limits: SchedulerLimits | None = None,
        prompt: Sequence[int] | None = None,
        logits_processor: Sequence[ScoreFunction] = (),
        prefix_allowed_tokens_fn: AllowedTokens | None = None,
        *,
        attention: bool = False,
    ) -> None:
        self.model, self.config, self._attention = model, config, attention
        device = model.device
        limits = limits or SchedulerLimits()
        memory_bytes = limits.memory_bytes or free_bytes(device) // 2
        state_bytes = model.config.d_model * model.dtype.itemsize
        self._rules = AdmissionRules.for_device(limits, device.type, state_bytes, memory_bytes)
        memory_bytes -= self._rules.ahead_tokens * state_bytes
        self.prompt = list(prompt) if prompt is not None else [config.decoder_start_token_id]
        max_length = config.max_sequence_length(model.config, len(self.prompt))
        search_config = SearchConfig(
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
        self._uses_beams = config.num_beams > 1
        self._max_length = max_length
        self._rows = config.num_beams if self._uses_beams else config.num_return_sequences
        slot_bytes = kv_cache_bytes(model.config, 0, self._rows, max_length, model.dtype.itemsize)
        self._slots = limits.slots(device.type, memory_bytes, slot_bytes)
        self._search: Search = (BeamSearch if self._uses_beams else GreedySearch)(search_config, device)
        self._processors = build_processors(
            config, len(self.prompt), logits_processor, prefix_allowed_tokens_fn
        )
        self._active: list[_Active] = []
        self._encoded: deque[tuple[int, Request]] = deque()  # documents that wait for a slot
        names = ("encode_seconds", "decode_seconds", "steps", "document_steps", "slot_steps")
        self.measured: dict[str, float] = dict.fromkeys(names, 0)
        self._runner: DecodeRunner
        if device.type == "cuda":
            capturable = self._search.capturable and all(
                processor.capturable for processor in self._processors
            )
            captured = self._search if capturable else None
            self._runner = CudaGraphRunner(model, captured, self._slots, self._rows, max_length, memory_bytes)
        else:
            self._runner = EagerRunner(model, self._rows, max_length, memory_bytes)

    def run(self, documents: Iterable[PackedBatch | Request | None]) -> Iterator[tuple[int, Hypotheses]]:
        """Decode every document. Yields (its number in `documents`, Hypotheses) as soon as it is done.

        Numbers count documents, not Nones. Unfinished documents of an earlier call are dropped.

        Raises:
            RuntimeError: the iterable waits for a result, but no document is being decoded.
        """
        self._clear()
        waiting = _Lookahead(documents)
        while True:
            start = time.perf_counter()
            with torch.inference_mode():
                if new := self._take(waiting):
                    self._encode(new)
                if admitted := self._admissible():
                    self._admit(admitted)
                if not self._active:
                    if waiting.is_paused:
                        raise RuntimeError("the documents wait for a result, and none is being decoded")
                    return
                encoded, active = time.perf_counter(), len(self._active)
                output = self._runner.step(self._search, self._select_tokens)
                finished = self._retire(output)
            spent = (encoded - start, time.perf_counter() - encoded, 1, active, self._slots)
            self.measured = {
                name: self.measured[name] + n for name, n in zip(self.measured, spent, strict=True)
            }
            yield from finished

    def _clear(self) -> None:
        """Empty all slots, also of documents whose admission failed."""
        self._active = []
        self._encoded.clear()
        self._search.retain([])
        self._runner.clear()

    @property
    def _free_slots(self) -> int:
        """Slots for which no document is encoded."""
        return self._slots - len(self._active) - len(self._encoded)

    def _take(self, waiting: _Lookahead) -> list[tuple[int, Request]]:
        """The next documents to encode, if there are free slots. An empty scheduler always takes one."""
        new: list[tuple[int, Request]] = []
        lengths = [request.document.cu_seqlens[-1] for _, request in self._encoded]
        pack = Pack(self._rules, self._free_slots)
        while pack.slots > 0 and (request := waiting.next) is not None:
            length = request[1].document.cu_seqlens[-1]
            if not pack.accepts(length):
                break
            if pack.has_slot:
                lengths.append(length)
                if (new or self._encoded or self._active) and not self._runner.has_room(lengths):
                    break
            pack.add(length)
            new.append(request)
            waiting.advance()
        return new

    def _encode(self, new: Sequence[tuple[int, Request]]) -> None:
        """Encode documents in one packed batch."""
        device, slots = self.model.device, self._free_slots
        batch = concatenate([request.document for _, request in new]).to(device)
        states = batch.encoder_states
        if states is None:
            states = self.model.led.encoder.encode(batch, batch.inputs_embeds)
        documents = replace(batch, inputs_embeds=None, encoder_states=states).documents()
        for i, ((number, request), document) in enumerate(zip(new, documents, strict=True)):
            if i >= slots:  # a copy, since a slice would keep the states of the whole batch
                document = replace(document, encoder_states=states[slice(*batch.spans[i])].clone())
            self._encoded.append((number, replace(request, document=document)))
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # so that encoding time is not counted as decoding time

    def _admissible(self) -> list[tuple[int, Request]]:
        """The encoded documents that slots and memory are free for. They no longer wait."""
        admitted: list[tuple[int, Request]] = []
        while self._encoded and len(self._active) + len(admitted) < self._slots:
            lengths = [request.document.cu_seqlens[-1] for _, request in (*admitted, self._encoded[0])]
            if (admitted or self._active) and not self._runner.has_room(lengths):
                break
            admitted.append(self._encoded.popleft())
        return admitted

    def _admit(self, new: Sequence[tuple[int, Request]]) -> None:
        """Put encoded documents into slots."""
        device = self.model.device
        batch = concatenate([request.document for _, request in new])
        assert batch.encoder_states is not None
        self._runner.add(batch, batch.encoder_states, self.prompt)
        self._search.add([self.prompt] * len(new), [self._limit(request) for _, request in new])
        for number, request in new:
            seed = self.config.seed
            generator = None if seed is None else torch.Generator(device).manual_seed(seed)
            ids = request.document.input_ids
            ids = torch.empty(0, dtype=torch.long) if ids is None else ids
            self._active.append(_Active(number, ids.to(device), generator))

    def _limit(self, request: Request) -> int:
        """The length at which a document is done in any case."""
        if request.max_new_tokens is None:
            return self._max_length
        return min(self._max_length, len(self.prompt) + request.max_new_tokens)

    def _select_tokens(self, search: Search, scores: Tensor) -> StepOutput:
        """Apply the logits processors and one search step to the rows' logits, which are overwritten."""
        active = self._active
        ids, numbers = [document.input_ids for document in active], [document.number for document in active]
        rows = Rows(search.sequences, search.lengths, search.max_lengths, ids, numbers)
        if self._uses_beams:
            # In place: allocating scores of a whole vocabulary costs as much in page faults as the
            # arithmetic.
            torch.log_softmax(scores, -1, out=scores)
        for processor in self._processors:
            scores = processor.apply(rows, scores)
        return search.step(scores, [document.generator for document in active])

    def _retire(self, output: StepOutput) -> list[tuple[int, Hypotheses]]:
        """The hypotheses of the documents that are done. Their slots become free."""
        done = output.is_done.tolist()
        finished = [(a.number, self._hypotheses(slot)) for slot, a in enumerate(self._active) if done[slot]]
        if not finished:
            self._runner.keep(range(len(done)), output.beam_idx)
            return finished
        kept = [slot for slot in range(len(done)) if not done[slot]]
        self._active = [self._active[slot] for slot in kept]
        self._search.retain(kept)
        self._runner.keep(kept, output.beam_idx.view(-1, self._rows)[kept].flatten())
        return finished

    def _hypotheses(self, slot: int) -> Hypotheses:
        """The hypotheses of the document in a slot, with its cross-attention if that is requested."""
        hypotheses = self._search.hypotheses(slot)
        if not self._attention:
            return hypotheses
        decoder, document = self.model.led.decoder, self._runner.document(slot)
        return replace(
            hypotheses, attention=summed_cross_attention(decoder, document, hypotheses.sequences[0])
        )


class _Lookahead:
    """Numbered documents of an iterable. `next` is the next one, or None at the end or if the iterable waits.
    `advance` consumes it. `is_paused` tells whether the iterable waited when it was last asked."""

    def __init__(self, documents: Iterable[PackedBatch | Request | None]) -> None:
        self._documents = iter(documents)
        self._next: Request | None = None
        self._number = 0
        self.is_paused = False

    @property
    def next(self) -> tuple[int, Request] | None:
        if self._next is None:
            try:
                document = next(self._documents)
            except StopIteration:
                self.is_paused = False
                return None
            self.is_paused = document is None
            self._next = Request(document) if isinstance(document, PackedBatch) else document
        return None if self._next is None else (self._number, self._next)

    def advance(self) -> None:
        self._next = None
        self._number += 1
