"""What the three ways of reading a long document cost: windows, a decoder as long as the document, a decoder
prompt.

A classifier of led-base's shape reads one document; CPU seconds of one thread, and the most that the process
holds beyond the weights.

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
from led.pipelines.chunking import split
from led.testing import TINY

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
    windows = split(ids[1:-1], [0], [2], limit, limit // 8)
    read_chunks(model, split(ids[1:9], [0], [2], limit, 0), 16384)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, _ = cpu_seconds(lambda: read_chunks(model, windows, 16384))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"chunks": len(windows), "seconds": seconds, "peak_gb": peak * 1024 / 1e9}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--tiny", action="store_true", help="tiny models")
    args = parser.parse_args(argv)
    rows = []
    for tokens in args.tokens:
        for way in POSITIONS:
            # In a process of its own: a peak is the largest ever.
            with multiprocessing.get_context("spawn").Capacity(1) as pool:
                row = {"tokens": tokens, "way": way, **pool.apply(measure, (way, tokens, args.tiny))}
            rows.append(row)
            what = f"{tokens} tokens, {way}: {row['seconds']:.2f} s, {row['chunks']} windows"
            print(f"{what}, {row['peak_gb']:.2f} GB beyond the weights", flush=True)
    print(json.dumps({"machine": machine(), "rows": rows}))


if __name__ == "__main__":
    main()
