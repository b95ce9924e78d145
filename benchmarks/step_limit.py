"""Measures the share of the processor's limit that a decoding step reaches, on one thread.

A step with four beams reads the decoder's weights, the vocabulary, and the keys and values of each document
once. The time of its bytes at the measured bandwidth is one limit, the time of its operations at the measured
matrix rate another. The limit of a step is the larger one of its linear layers, and then that of its
attention.

    python -m benchmarks.step_limit --tokens 1024 4096 16384 --documents 1 8 --dtype float32
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.rival import LED_BASE, machine, matrix_rate
from led import GenerationConfig, LEDConfig, LEDForConditionalGeneration, Scheduler, SchedulerLimits
from led.batch.packed_batch import PackedBatch
from led.generation.scheduler import Request
from led.testing import TINY, spread_weights

BEAMS = 4


def bandwidth(bytes_read: int = 1 << 29) -> float:
    """Bytes per second that one thread reads, as the best of eight products of a matrix and a vector."""
    matrix, vector = torch.ones(bytes_read // 4 // 4096, 4096), torch.ones(4096)

    def seconds(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return matrix.nbytes / min(seconds(lambda: matrix @ vector) for _ in range(8))


def step_work(config: LEDConfig, tokens: int, documents: int, itemsize: int) -> list[tuple[float, float]]:
    """(bytes, operations) of the linear layers of a step, and of its cross-attention."""
    d, layers = config.d_model, config.decoder_layers
    weights = layers * (6 * d * d + 2 * d * config.decoder_ffn_dim) + config.vocab_size * d
    rows, states = BEAMS * documents, 2 * layers * d * tokens * documents
    return [(weights * itemsize, 2 * weights * rows), (states * itemsize, 2 * states * BEAMS)]


def measure(
    model: LEDForConditionalGeneration, tokens: int, documents: int, steps: int, rates: tuple[float, float]
) -> dict[str, float]:
    """Milliseconds of a step, and the shares of the bandwidth and of the limit."""
    config = GenerationConfig().updated(num_beams=BEAMS, max_new_tokens=steps, min_new_tokens=steps)
    scheduler = Scheduler(model, config, SchedulerLimits(max_num_seqs=documents))
    d, generator = model.config.d_model, torch.Generator().manual_seed(0)
    states = torch.randn(tokens, d, generator=generator).to(model.dtype)
    is_global = torch.zeros(tokens, dtype=torch.bool)
    given = [Request(PackedBatch(None, (0, tokens), is_global, encoder_states=states))] * documents
    dict(scheduler.run(given))
    before = scheduler.measured
    dict(scheduler.run(given))
    spent = {name: value - before[name] for name, value in scheduler.measured.items()}
    seconds = spent["decode_seconds"] / spent["steps"]
    work = step_work(model.config, tokens, documents, model.dtype.itemsize)
    of_bytes = sum(size for size, _ in work) / rates[0]
    limit = sum(max(size / rates[0], operations / rates[1]) for size, operations in work)
    return {"ms": seconds * 1e3, "of bandwidth": of_bytes / seconds, "of limit": limit / seconds}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--documents", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try this benchmark")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    shape = {**TINY, "max_encoder_position_embeddings": 16384} if args.tiny else LED_BASE
    model = LEDForConditionalGeneration(LEDConfig(**shape)).eval()
    spread_weights(model, seed=0, scale=2)
    packed = model.to(getattr(torch, args.dtype)).pack()
    rates = bandwidth(), matrix_rate(args.dtype)
    found = {}
    for documents in args.documents:
        for tokens in args.tokens:
            row = found[f"{documents} x {tokens}"] = measure(packed, tokens, documents, args.steps, rates)
            print(
                f"step {args.dtype}, {documents} x {tokens} tokens, {BEAMS} beams: {row['ms']:.1f} ms, "
                f"{row['of bandwidth']:.2f} of the bandwidth, {row['of limit']:.2f} of the limit",
                flush=True,
            )
    print(
        json.dumps(
            {
                "machine": machine(),
                "dtype": args.dtype,
                "gb_s": rates[0] / 1e9,
                "gf_s": rates[1] / 1e9,
                **found,
            }
        )
    )


if __name__ == "__main__":
    main()
