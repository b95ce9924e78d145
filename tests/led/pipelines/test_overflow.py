"""Documents of several chunks get what a plain loop over their chunks writes, whatever shares the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from led.generation.config import GenerationConfig
from led.generation.cross_attention_profile import profile_of
from led.generation.limits import SchedulerLimits
from led.generation.scheduler import Request, Scheduler
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.pipelines.chunk_queue import LongDocument
from led.pipelines.chunking import ChunkRules, Overflow, chunk_document
from led.pipelines.global_attention import GlobalAttention
from led.pipelines.inputs import EncodedInput, InputRules, InputText, encode_inputs
from led.pipelines.overflow import (
    ChunkFailed,
    DocumentSummarizer,
    DocumentSummary,
    OverflowRules,
)
from led.testing import tiny_model
from led.tokenizer.tokenizer import LEDTokenizer
from tests.conftest import words

LIMIT = 60
BEAMS = {"num_beams": 2, "max_new_tokens": 16, "no_repeat_ngram_size": 2}
GREEDY = {"max_new_tokens": 16, "no_repeat_ngram_size": 1, "min_new_tokens": 2}
RULES = ("first", "every:9")


def sentences(count: int, seed: int) -> str:
    return " ".join(f"{words(7, seed + i).capitalize()}." for i in range(count))


TEXTS = [
    "The pump failed.",
    sentences(36, 0),
    "",
    sentences(3, 500) + "\n" * 300 + sentences(3, 700),
    words(80, 3),  # no sentence ends
    "x" * 300,  # no words
    " \n ",
    sentences(9, 900) + "\n\n" + sentences(9, 950),
]


@pytest.fixture(scope="module")
def tokenizer() -> LEDTokenizer:
    return LEDTokenizer.learn([words(200, 0), "."], vocab_size=320)


@pytest.fixture(scope="module")
def model(tokenizer: LEDTokenizer) -> LEDForConditionalGeneration:
    model = tiny_model(seed=3, scale=8, vocab_size=len(tokenizer))
    with torch.no_grad():
        model.final_logits_bias[0, 2] = 1.0
    return model


def rules_of(tokenizer: LEDTokenizer) -> InputRules:
    return InputRules(GlobalAttention.parse(RULES).resolve(tokenizer, []))


class Run:
    """Summarizes texts with the given rules."""

    def __init__(
        self,
        model: LEDForConditionalGeneration,
        tokenizer: LEDTokenizer,
        overflow: Overflow,
        generation: dict[str, Any],
        *,
        overlap: int = 0,
        share: float | None = None,
        slots: int = 3,
        limit: int = LIMIT,
        bins: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.rules = OverflowRules(overflow, ChunkRules(limit, overlap, "sentence"), share)
        config = GenerationConfig(**generation)
        self.scheduler = Scheduler(
            model, config, SchedulerLimits(max_num_seqs=slots), attention=bins is not None
        )
        self.summarizer = DocumentSummarizer(
            self.scheduler,
            tokenizer,
            rules_of(tokenizer).global_tokens,
            self.rules,
            lambda tokens: tokenizer.decode(tokens, skip_special_tokens=True),
            bins,
        )

    def encode(self, texts: Sequence[str], prefix: str = "") -> list[EncodedInput]:
        inputs = [InputText(text, prefix) for text in texts]
        return encode_inputs(self.tokenizer, inputs, 1 << 30, rules_of(self.tokenizer), self.rules.chunks)

    def __call__(
        self, texts: Sequence[str], prefix: str = "", *, one_at_a_time: bool = False
    ) -> list[DocumentSummary]:
        documents = [
            LongDocument(item.input_ids, item.global_positions, item.leading, item.chunks)
            for item in self.encode(texts, prefix)
        ]
        found = dict(self.summarizer.run(documents, one_at_a_time=one_at_a_time))
        return [found[i] for i in range(len(texts))]


class Truth:
    """The same summaries, one chunk at a time, by `generate`."""

    def __init__(
        self,
        model: LEDForConditionalGeneration,
        tokenizer: LEDTokenizer,
        generation: dict[str, Any],
        share: float | None,
    ) -> None:
        self.model, self.tokenizer, self.generation, self.share = model, tokenizer, generation, share

    def write(self, before: list[int], part: list[int], positions: list[int], covered: float) -> list[int]:
        ids = [*before, *part, 2]
        mask = torch.zeros(1, len(ids), dtype=torch.long)
        mask[0, positions] = 1
        settings = dict(self.generation)
        if self.share is not None:
            least = max(1, settings.get("min_new_tokens", 1))
            longest = max(least, math.ceil(self.share * covered))
            settings["max_new_tokens"] = min(settings["max_new_tokens"], longest)
        out = self.model.generate(torch.tensor([ids]), global_attention_mask=mask, **settings)
        sequence = out[0].tolist()
        while len(sequence) > 2 and sequence[-1] == 1:
            sequence.pop()
        return sequence

    def level(self, item: EncodedInput, length: int) -> tuple[list[list[int]], list[int]]:
        """What is written for each chunk, and the tokens of each."""
        before, document = item.input_ids[: item.leading], item.input_ids[item.leading : -1]
        written, read = [], []
        for chunk in item.chunks:
            part = document[chunk.start : chunk.end]
            positions = [i for i in item.global_positions if i < item.leading]
            positions += [
                i - chunk.start
                for i in item.global_positions
                if item.leading + chunk.start <= i < item.leading + chunk.end
            ]
            if len(item.input_ids) - 1 in item.global_positions:
                positions.append(len(before) + len(part))
            covered = len(part) * length / max(1, len(document))
            written.append(self.write(before, part, positions, covered))
            read.append(len(before) + len(part) + 1)
        return written, read

    def decode(self, sequence: list[int]) -> str:
        return self.tokenizer.decode(sequence, skip_special_tokens=True)

    def summarize(
        self, run: Run, text: str, prefix: str
    ) -> tuple[str, list[int], list[tuple[int, int, str]]]:
        """The summary, the tokens read at each level, and the partial summaries."""
        [item] = run.encode([text], prefix)
        length = len(item.input_ids) - item.leading - 1
        written, read = self.level(item, length)
        partial = [
            (chunk.first_character, chunk.last_character, self.decode(each).strip())
            for chunk, each in zip(item.chunks, written, strict=True)
        ]
        levels, below = [sum(read)], length
        leading = item.input_ids[: item.leading]
        while True:
            if len(written) == 1:
                return self.decode(written[0]), levels, partial
            joined = "\n".join(filter(None, (self.decode(each).strip() for each in written)))
            if run.rules.overflow == "concat" or not joined:
                return joined, levels, partial
            # The prefix is not tokenized together with the summaries.
            [encoding] = self.tokenizer.encode_batch([joined])
            ids = [*leading, *encoding.ids[1:]]
            chunks = chunk_document(joined, encoding.offsets[1:-1], len(leading), run.rules.chunks)
            if len(chunks) > 1 and len(ids) - len(leading) - 1 >= below:
                return joined, levels, partial
            below = len(ids) - len(leading) - 1
            positions = rules_of(self.tokenizer).global_tokens.positions(ids, len(leading))
            following = EncodedInput(ids, positions, len(leading), chunks=tuple(chunks))
            written, read = self.level(following, length)
            levels.append(sum(read))


@pytest.mark.parametrize("overflow", ["concat", "fuse"])
@pytest.mark.parametrize(
    "case",
    [
        {"generation": BEAMS},
        {"generation": GREEDY, "overlap": 9},
        {"generation": BEAMS, "prefix": "pump: "},
        {"generation": BEAMS, "share": 0.1},
        {"generation": GREEDY, "share": 0.001},
        {"generation": BEAMS, "share": 1.0},
        {"generation": GREEDY, "limit": 36, "share": 0.3},
    ],
    ids=str,
)
def test_summaries_are_those_of_a_loop_over_the_chunks(
    model: LEDForConditionalGeneration, tokenizer: LEDTokenizer, case: dict[str, Any], overflow: Overflow
) -> None:
    settings = dict(case)
    prefix, generation = settings.pop("prefix", ""), settings.pop("generation")
    run = Run(model, tokenizer, overflow, generation, **settings)
    found = run(TEXTS, prefix)
    truth = Truth(model, tokenizer, generation, settings.get("share"))
    for text, summary in zip(TEXTS, found, strict=True):
        expected, levels, partial = truth.summarize(run, text, prefix)
        assert summary.texts == [expected]
        assert list(summary.level_tokens) == levels
        assert [(p.start, p.end, p.summary) for p in summary.partial_summaries] == partial
    assert max(len(summary.partial_summaries) for summary in found) > 5
    assert max(len(summary.level_tokens) for summary in found) >= (2 if overflow == "fuse" else 1)
    alone = [run([text], prefix)[0] for text in TEXTS]
    assert [s.texts for s in alone] == [s.texts for s in found]


def test_fusing_takes_as_many_levels_as_needed(
    model: LEDForConditionalGeneration, tokenizer: LEDTokenizer
) -> None:
    run = Run(model, tokenizer, "fuse", BEAMS, limit=36)
    # Random weights write bytes that are no text, which have more tokens than were written.
    run.summarizer._decode = lambda tokens: "the pump, the valve." if len(tokens) > 1 else ""
    [summary] = run([sentences(200, 0)])
    assert len(summary.level_tokens) >= 3
    assert list(summary.level_tokens) == sorted(summary.level_tokens, reverse=True)
    assert summary.output_tokens <= BEAMS["max_new_tokens"]


def test_a_document_within_the_limit_gets_what_it_gets_without_chunks(
    model: LEDForConditionalGeneration, tokenizer: LEDTokenizer
) -> None:
    texts = [text for text in TEXTS if len(tokenizer.encode(text)) <= LIMIT]
    exact = " ".join(["pump"] * 400)
    ids = tokenizer.encode(exact)[1 : LIMIT - 1]
    texts.append(tokenizer.decode(ids))
    assert len(tokenizer.encode(texts[-1])) == LIMIT and len(texts) == 4
    ways = [Run(model, tokenizer, way, BEAMS)(texts) for way in ("truncate", "concat", "fuse")]
    for summaries in zip(*ways, strict=True):
        assert len({(s.texts[0], s.score, s.output_tokens, s.level_tokens) for s in summaries}) == 1


def test_a_next_level_is_admitted_before_chunks_that_wait(
    model: LEDForConditionalGeneration, tokenizer: LEDTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No barrier between documents: the first one is fused while the last one has not started."""
    started: list[tuple[int, int]] = []
    request = DocumentSummarizer._request

    def record(self: DocumentSummarizer, progress: Any, level: Any, i: int) -> Request:
        started.append((id(progress), len(progress.levels)))
        return request(self, progress, level, i)

    monkeypatch.setattr(DocumentSummarizer, "_request", record)
    Run(model, tokenizer, "fuse", BEAMS, slots=2)([sentences(12, 0), sentences(60, 100), sentences(60, 300)])
    documents = list(dict.fromkeys(document for document, _ in started))
    first_fused = started.index((documents[0], 2))
    assert started.index((documents[2], 1)) > first_fused
    assert (documents[1], 1) in started[first_fused:]


def test_summaries_that_get_no_shorter_are_joined(
    model: LEDForConditionalGeneration, tokenizer: LEDTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(model, tokenizer, "fuse", BEAMS)
    run.summarizer._decode = lambda tokens: "pump valve water " * 40
    [summary] = run([sentences(30, 0)])
    assert len(summary.level_tokens) == 1 and not summary.is_finished
    assert summary.texts[0].count("pump") == 40 * len(summary.partial_summaries)


def test_a_chunk_that_fails_is_named(
    model: LEDForConditionalGeneration, tokenizer: LEDTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = sentences(20, 0) + " Zzz. " + sentences(20, 100)
    bad = set(tokenizer.encode(" Zzz", add_special_tokens=False)) - set(tokenizer.encode(text[:100]))
    encode = model.led.encoder.encode

    def failing(batch: Any, *rest: Any) -> Any:
        if bad & set(batch.input_ids.tolist()):
            raise ArithmeticError("boom")
        return encode(batch, *rest)

    monkeypatch.setattr(model.led.encoder, "encode", failing)
    run = Run(model, tokenizer, "fuse", BEAMS)
    [item] = run.encode([text])
    number = next(i for i, c in enumerate(item.chunks) if "Zzz" in text[c.first_character : c.last_character])
    chunk = item.chunks[number]
    place = f"chunk {number + 1} of {len(item.chunks)}, characters {chunk.first_character} to "
    with pytest.raises(ArithmeticError, match="boom"):
        run([text])
    with pytest.raises(ChunkFailed, match=f"^{place}{chunk.last_character}: ArithmeticError: boom"):
        run([text], one_at_a_time=True)
    assert len(run([sentences(20, 0)])[0].partial_summaries) > 1, "the scheduler works on"


def test_one_at_a_time_writes_the_same(model: LEDForConditionalGeneration, tokenizer: LEDTokenizer) -> None:
    run = Run(model, tokenizer, "fuse", BEAMS)
    [alone], [together] = run([TEXTS[1]], one_at_a_time=True), run([TEXTS[1]])
    assert (alone.texts, alone.level_tokens) == (together.texts, together.level_tokens)
    assert alone.partial_summaries == together.partial_summaries
    assert alone.score == pytest.approx(together.score, abs=1e-5)


@pytest.mark.parametrize("prefix", ["", "pump: "])
def test_the_attention_profile_is_over_the_whole_document(
    model: LEDForConditionalGeneration, tokenizer: LEDTokenizer, prefix: str
) -> None:
    bins, text = 8, sentences(8, 0)
    run = Run(model, tokenizer, "fuse", BEAMS, bins=bins)
    [item] = run.encode([text], prefix)
    document = item.input_ids[item.leading : -1]
    assert len(item.chunks) == 2

    def attention(part: list[int], positions: list[int]) -> torch.Tensor:
        single = LongDocument([*item.input_ids[: item.leading], *part, 2], positions, item.leading)
        seen = []
        original = DocumentSummarizer._profile
        run.summarizer._profile = lambda progress: seen.append(progress.levels[0].attentions[0])  # type: ignore
        list(run.summarizer.run([single]))
        run.summarizer._profile = original.__get__(run.summarizer)  # type: ignore[method-assign]
        whole = seen[0]
        inner = whole[item.leading : -1].clone()
        inner[0] += whole[: item.leading].sum()
        inner[-1] += whole[-1]
        return inner

    rules = rules_of(tokenizer).global_tokens
    [fused] = run([text], prefix)
    joined = [p.summary for p in fused.partial_summaries]
    [both] = run.encode(["\n".join(joined)])
    ids = [*item.input_ids[: item.leading], *both.input_ids[1:]]
    over_summaries = attention(both.input_ids[1:-1], rules.positions(ids, item.leading))
    first_tokens = len(run.encode([joined[0] + "\n"])[0].input_ids) - 2
    weights = over_summaries[:first_tokens].sum(), over_summaries[first_tokens:].sum()
    expected = torch.zeros(len(document))
    for chunk, weight in zip(item.chunks, weights, strict=True):
        part = document[chunk.start : chunk.end]
        positions = [i for i in item.global_positions if i < item.leading]
        positions += [
            i - chunk.start
            for i in item.global_positions
            if item.leading + chunk.start <= i < item.leading + chunk.end
        ]
        own = attention(part, positions)
        expected[chunk.start : chunk.end] += own / own.sum() * weight
    assert fused.attention_profile == pytest.approx(profile_of(expected, bins), abs=0.01)
    assert sum(fused.attention_profile or []) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("rules", "generation", "message"),
    [
        (
            ("fuse", 33, None),
            {},
            "fuse needs chunks that are twice as long as their summaries: a chunk has 33",
        ),
        (
            ("concat", 60, None),
            {"num_return_sequences": 2},
            "num_return_sequences is 2; chunks have one summary",
        ),
        (("truncate", 60, 0.0), {}, "summary_tokens_per_input is 0.0; it must be above 0 and at most 1"),
        (("truncate", 60, 1.5), {}, "summary_tokens_per_input is 1.5"),
    ],
)
def test_rules_that_cannot_work_are_refused(
    rules: tuple[Overflow, int, float | None], generation: dict[str, Any], message: str
) -> None:
    overflow, tokens, share = rules
    checked = OverflowRules(overflow, ChunkRules(tokens), share)
    with pytest.raises(ValueError, match=message):
        checked.check(GenerationConfig(num_beams=2, **generation), 16)
    OverflowRules("fuse", ChunkRules(34), 1.0).check(GenerationConfig(), 16)
