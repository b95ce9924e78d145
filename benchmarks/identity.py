"""Counts the documents that get the same tokens in a batch as from transformers, one at a time.

Documents have random lengths and 0, 1 or 20 global tokens, and are decoded together. The reference computes
in float32. In float32, all tokens must be equal. For other dtypes, the number of equal documents is reported,
and the median position of the first difference in the others.

    python -m benchmarks.identity --documents 51 --dtype float32
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.rival import LED_BASE, documents, machine, pair
from led import GenerationConfig
from led.batch.packed_batch import pack_documents
from led.generation.limits import SchedulerLimits
from led.generation.scheduler import Scheduler
from led.testing import TINY

GLOBALS = (0, 1, 20)


def corpus(count: int, shortest: int, longest: int) -> list[tuple[torch.Tensor, list[int]]]:
    """Random documents and the positions of their global tokens."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    rows = []
    for i, row in enumerate(documents(lengths)):
        positions = torch.randperm(len(row), generator=generator)[: GLOBALS[i % 3]].sort().values
        rows.append((row, [0] if GLOBALS[i % 3] == 1 else positions.tolist()))
    return rows


def reference_tokens(
    reference: Any, rows: list[tuple[torch.Tensor, list[int]]], settings: dict[str, int]
) -> Iterator[list[int]]:
    """Yield the tokens that the reference generates for each document alone."""
    for row, positions in rows:
        global_mask = torch.zeros(1, len(row), dtype=torch.long)
        global_mask[0, positions] = 1
        with torch.inference_mode():
            ids, mask, global_mask = (
                x.to(reference.device) for x in (row[None], torch.ones_like(global_mask), global_mask)
            )
            tokens = reference.generate(
                ids, attention_mask=mask, global_attention_mask=global_mask, **settings
            )
        yield tokens[0].tolist()


def first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    """The first position at which two sequences differ."""
    return next((t for t, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=51)
    parser.add_argument("--shortest", type=int, default=30)
    parser.add_argument("--longest", type=int, default=3000)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "int8"])
    parser.add_argument("--tiny", action="store_true", help="use a tiny model")
    args = parser.parse_args(argv)
    shape = {**TINY, "vocab_size": 50265, "max_encoder_position_embeddings": 16384} if args.tiny else LED_BASE
    rows = corpus(args.documents, args.shortest, args.longest)
    lengths = [len(row) for row, _ in rows]
    print(
        f"{len(rows)} documents of {min(lengths)} to {max(lengths)} tokens with 0, 1 or 20 global tokens; at "
        f"most {args.new_tokens} new tokens with 4 beams"
    )
    settings = {"num_beams": 4, "max_new_tokens": args.new_tokens}
    _, reference = pair("float32", shape)
    expected = list(reference_tokens(reference, rows, settings))
    results: dict[str, Any] = {}
    for dtype in args.dtypes:
        ours, _ = pair(dtype, shape)
        scheduler = Scheduler(ours, GenerationConfig().updated(**settings), SchedulerLimits(max_num_seqs=8))
        packed = pack_documents([row.tolist() for row, _ in rows], [positions for _, positions in rows])
        tokens = {i: hypotheses.sequences[0] for i, hypotheses in scheduler.run(packed.documents())}
        differences = [
            first_difference(tokens[i], theirs) for i, theirs in enumerate(expected) if tokens[i] != theirs
        ]
        results[dtype] = {
            "same": len(rows) - len(differences),
            "first difference": statistics.median(differences) if differences else None,
        }
        position = results[dtype]["first difference"]
        end = f"; the others first differ at token {position} (median)" if differences else ""
        print(
            f"{dtype}: {results[dtype]['same']} of {len(rows)} documents have the reference's tokens{end}",
            flush=True,
        )
    print(json.dumps({"machine": machine(), "documents": len(rows), **results}))


if __name__ == "__main__":
    main()
