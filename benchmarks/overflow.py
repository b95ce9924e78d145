"""Measures what fusing costs beside reading: documents of 16,000 to 200,000 tokens in chunks.

`fuse` is the whole task, by the class that jobs use. Two ways of reading the same tokens once are measured
beside it, and `concat`. All run alternately in one process.

* `read`: the chunks are encoded in packed batches of the same size. One summary is written for each document,
  and it attends to all of the document's chunks.
* `encode`: the same, but the summary attends only to what fuse reads at its last level.

    python -m benchmarks.overflow --model demo/checkpoints/led-reports-year --documents 20 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.rival import interleaved, machine
from demo.years import generate_year
from led.batch.packed_batch import PackedBatch, pack_documents
from led.generation.limits import SchedulerLimits
from led.generation.scheduler import Scheduler
from led.pipelines.chunking import by_budget
from led.pipelines.overflow import DocumentSummarizer
from pipeline.checkpoint import load_tokenizer
from pipeline.tasks.base import RequestedRow, RowInput, chunks_of
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize


def texts_of(documents: int, words: tuple[int, int]) -> list[str]:
    """Files of years, with lengths spread evenly on a logarithmic scale, the longest first."""
    rng = random.Random(4_000_000)
    drawn = [round(math.exp(rng.uniform(*map(math.log, words)))) for _ in range(documents)]
    return [generate_year(4_000_000 + i, length).text for i, length in enumerate(sorted(drawn, reverse=True))]


def measure(model: str, texts: Sequence[str], rounds: int, settings: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds of each way, and the shares of the scheduler's slots that were used."""
    torch.set_num_threads(1)
    folder = Path(model)
    common: dict[str, Any] = {"input": ("i",), "output": "o", "model": model, "flags": False, **settings}
    fuse, concat = (Summarize(SummarizeSettings(overflow=way, **common)) for way in ("fuse", "concat"))
    documents = [RowInput(text, RequestedRow({})) for text in texts]
    inputs = fuse.encode(load_tokenizer(folder, None), documents, fuse.input_limits(folder))
    summarizer, joiner = fuse.load(folder), concat.load(folder)
    chunks = [chunk for document in inputs for chunk in chunks_of(document)]
    last = _last_levels(lambda: dict(summarizer.predict(inputs)))
    before = summarizer.measured
    encoder, scheduler = summarizer.model.led.encoder, Scheduler(summarizer.model, summarizer.generation)
    budget = SchedulerLimits().num_batched_tokens(summarizer.model.device.type)

    def encode_chunks() -> dict[int, torch.Tensor]:
        states: dict[int, torch.Tensor] = {}
        with torch.inference_mode():
            for group in by_budget([len(chunk.input_ids) for chunk in chunks], budget):
                ids, positions = zip(
                    *((chunks[i].input_ids, chunks[i].global_positions) for i in group), strict=True
                )
                batch = pack_documents(ids, positions)
                encoded = encoder.encode(batch)
                states |= {i: encoded[a:b] for i, (a, b) in zip(group, batch.spans, strict=True)}
        return states

    def read() -> None:
        states, first, batches = encode_chunks(), 0, []
        for document in inputs:
            count = max(1, len(document.chunks))
            whole = torch.cat([states[i] for i in range(first, first + count)])
            is_global = torch.zeros(len(whole), dtype=torch.bool)
            batches.append(PackedBatch(None, (0, len(whole)), is_global, encoder_states=whole))
            first += count
        list(scheduler.run(batches))

    def encode() -> None:
        encode_chunks()
        list(scheduler.run(pack_documents([c.input_ids], [c.global_positions]) for c in last))

    calls: dict[str, Callable[[], Any]] = {
        "fuse": lambda: dict(summarizer.predict(inputs)),
        "read": read,
        "encode": encode,
        "concat": lambda: dict(joiner.predict(inputs)),
    }
    seconds, _ = interleaved(calls, rounds)
    measured = {name: value - before[name] for name, value in summarizer.measured.items()}
    return {
        "documents": len(texts),
        "tokens": sum(len(document.input_ids) for document in inputs),
        "chunks": len(chunks),
        **{f"{name} seconds": value for name, value in seconds.items()},
        "fuse to read": seconds["fuse"] / seconds["read"],
        "fuse to encode": seconds["fuse"] / seconds["encode"],
        "fuse to concat": seconds["fuse"] / seconds["concat"],
        "encoding share of fuse": measured["encode_seconds"]
        / (measured["encode_seconds"] + measured["decode_seconds"]),
        "slots used": measured["document_steps"] / measured["slot_steps"],
    }


def _last_levels(run: Callable[[], Any]) -> list[Any]:
    """The model inputs of the last level of each document."""
    found: list[Any] = []
    summary = DocumentSummarizer._summary

    def record(self: DocumentSummarizer, progress: Any) -> Any:
        found.extend(progress.levels[-1].inputs)
        return summary(self, progress)

    DocumentSummarizer._summary = record  # type: ignore[method-assign]
    try:
        run()
    finally:
        DocumentSummarizer._summary = summary  # type: ignore[method-assign]
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--words", type=int, nargs=2, default=(11_700, 143_000))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--settings", type=json.loads, default={}, help="further settings, as JSON")
    args = parser.parse_args(argv)
    results = measure(args.model, texts_of(args.documents, tuple(args.words)), args.rounds, args.settings)
    for name, value in results.items():
        print(f"{name:<24}{value:,.3f}" if isinstance(value, float) else f"{name:<24}{value:,}")
    print(json.dumps({"machine": machine(), **vars(args), **results}))


if __name__ == "__main__":
    main()
