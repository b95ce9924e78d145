"""Whether ragged documents, decoded together, are written as transformers writes each of them alone.

Lengths are drawn evenly between two bounds, and 0, 1 and 20 tokens are global in turn. In float32 every token
must be the reference's. For the other kinds: how many documents are, and where the others first part. The
reference computes in float32.

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
from led.generation.scheduler import Scheduler, SchedulerLimits
from led.testing import TINY

GLOBALS = (0, 1, 20)


def corpus(count: int, shortest: int, longest: int) -> list[tuple[torch.Tensor, list[int]]]:
    """Documents and the places of their global tokens."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    rows = []
    for i, row in enumerate(documents(lengths)):
        places = torch.randperm(len(row), generator=generator)[: GLOBALS[i % 3]].sort().values
        rows.append((row, [0] if GLOBALS[i % 3] == 1 else places.tolist()))
    return rows


def reference_tokens(
    reference: Any, rows: list[tuple[torch.Tensor, list[int]]], settings: dict[str, int]
) -> Iterator[list[int]]:
    """What the reference writes for each document alone."""
    for row, places in rows:
        global_positions = torch.zeros(1, len(row), dtype=torch.long)
        global_positions[0, places] = 1
        with torch.inference_mode():
            ids, ones, global_positions = (
                x.to(reference.device)
                for x in (row[None], torch.ones_like(global_positions), global_positions)
            )
            written = reference.generate(
                ids, attention_mask=ones, global_attention_mask=global_positions, **settings
            )
        yield written[0].tolist()


def first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    """The first place where two sequences differ."""
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
    parser.add_argument("--tiny", action="store_true", help="a tiny model")
    args = parser.parse_args(argv)
    shape = {**TINY, "vocab_size": 50265, "max_encoder_position_embeddings": 16384} if args.tiny else LED_BASE
    rows = corpus(args.documents, args.shortest, args.longest)
    lengths = [len(row) for row, _ in rows]
    print(
        f"{len(rows)} documents of {min(lengths)} to {max(lengths)} tokens with 0, 1 and 20 globals in turn; at most "
        f"{args.new_tokens} tokens written with 4 beams"
    )
    settings = {"num_beams": 4, "max_new_tokens": args.new_tokens}
    _, reference = pair("float32", shape)
    expected = list(reference_tokens(reference, rows, settings))
    found: dict[str, Any] = {}
    for dtype in args.dtypes:
        ours, _ = pair(dtype, shape)
        loop = Scheduler(ours, GenerationConfig().updated(**settings), SchedulerLimits(documents=8))
        packed = pack_documents([row.tolist() for row, _ in rows], [places for _, places in rows])
        written = {i: result.sequences[0] for i, result in loop.run(packed.documents())}
        parted = [
            first_difference(written[i], theirs) for i, theirs in enumerate(expected) if written[i] != theirs
        ]
        found[dtype] = {
            "same": len(rows) - len(parted),
            "first difference": statistics.median(parted) if parted else None,
        }
        end = f"; the others part at token {found[dtype]['first difference']} (median)" if parted else ""
        print(
            f"{dtype}: {found[dtype]['same']} of {len(rows)} documents as the reference writes them{end}",
            flush=True,
        )
    print(json.dumps({"machine": machine(), "documents": len(rows), **found}))


if __name__ == "__main__":
    main()
