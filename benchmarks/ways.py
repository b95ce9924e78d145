"""Compares three ways to classify a long document: in chunks, whole, and with a decoder prompt.

A whole document needs as many decoder positions as tokens. Measures CPU seconds of one thread and the peak
memory beyond the weights, for a classifier of led-base's shape and one document.

    python -m benchmarks.ways --tokens 4096 16384
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.rival import LED_BASE, cpu_seconds, documents, machine
from led import LEDConfig, LEDForSequenceClassification
from led.pipelines.chunk_reader import read_chunks
from led.pipelines.chunking import chunk_bounds, chunk_inputs
from led.testing import TINY

# Decoder positions of each way.
POSITIONS = {"chunks": 1024, "whole": 16384, "prompt": 1024}


def measure(way: str, tokens: int, tiny: bool) -> dict[str, float]:
    """CPU seconds and peak bytes of one document."""
    torch.set_num_threads(1)
    shape: dict[str, Any] = {**(TINY if tiny else LED_BASE), "max_encoder_position_embeddings": 16384}
    shape |= {
        "max_decoder_position_embeddings": POSITIONS[way],
        "decoder_prompt": (2, 0) if way == "prompt" else (),
    }
    model = LEDForSequenceClassification(LEDConfig(**shape)).eval().pack()
    limit = model.config.max_input_tokens
    ids = (documents([tokens])[0] % (model.config.vocab_size - 5) + 5).tolist()
    bounds = chunk_bounds(tokens - 2, limit - 2, limit // 8)
    chunks = chunk_inputs([0, *ids[1:-1], 2], 1, [0], bounds)
    read_chunks(model, chunk_inputs([0, *ids[1:9], 2], 1, [0], [(0, 8)]), 16384)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, _ = cpu_seconds(lambda: read_chunks(model, chunks, 16384))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"chunks": len(chunks), "seconds": seconds, "peak_gb": peak * 1024 / 1e9}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--tiny", action="store_true", help="use tiny models")
    args = parser.parse_args(argv)
    rows = []
    for tokens in args.tokens:
        for way in POSITIONS:
            # In a new process, since the peak of a process never decreases.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = {"tokens": tokens, "way": way, **pool.apply(measure, (way, tokens, args.tiny))}
            rows.append(row)
            print(
                f"{tokens} tokens, {way}: {row['seconds']:.2f} s, {row['chunks']} chunks, "
                f"{row['peak_gb']:.2f} GB beyond the weights",
                flush=True,
            )
    print(json.dumps({"machine": machine(), "rows": rows}))


if __name__ == "__main__":
    main()
