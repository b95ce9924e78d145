"""Measures what global tokens cost in the encoder, against one global token and against transformers.

The global tokens are spread evenly over one document. Both encoders get the same mask and run alternately in
one process with one thread. A run against transformers at 16,384 tokens needs 12 GB.

    python -m benchmarks.global_tokens --tokens 4096 16384 --counts 0 1 20 300
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.rival import LED_BASE, documents, in_both_environments, interleaved, machine, padded, pair
from led import pack_documents
from led.testing import TINY


def measure(tokens: int, counts: list[int], rounds: int, shape: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds of both encoders for each number of global tokens, and the largest difference."""
    ours, reference = pair("float32", shape)
    [document] = documents([tokens])
    calls: dict[str, Callable[[], Any]] = {}
    for count in counts:
        positions = [i * tokens // count for i in range(count)]
        packed, batch = pack_documents([document.tolist()], [positions]), padded([document])
        mask = torch.zeros_like(batch["input_ids"])
        mask[0, positions] = 1
        batch["global_attention_mask"] = mask
        calls[f"led {count}"] = partial(ours.led.encoder.encode, packed)
        calls[f"transformers {count}"] = partial(_states, reference, batch)
    with torch.inference_mode():
        seconds, states = interleaved(calls, rounds)
    rows = {}
    for count in counts:
        led, rival = seconds[f"led {count}"], seconds[f"transformers {count}"]
        difference = (states[f"led {count}"] - states[f"transformers {count}"]).abs().max().item()
        rows[str(count)] = {
            "led": led,
            "transformers": rival,
            "ratio": rival / led,
            "to_one": led / seconds["led 1"],
            "difference": difference,
        }
    return rows


def _states(reference: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return reference.led.encoder(**batch).last_hidden_state[0]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 1, 20, 300])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help="measure in this process and environment")
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the benchmark")
    args = parser.parse_args(arguments)
    if args.here:
        shape = (
            {**TINY, "vocab_size": 50265, "max_encoder_position_embeddings": 1024} if args.tiny else LED_BASE
        )
        print(json.dumps(measure(args.tokens[0], args.counts, args.rounds, shape)))
        return
    for tokens in args.tokens:
        options = ["--tokens", str(tokens), "--rounds", str(args.rounds)]
        options += ["--counts", *map(str, args.counts)]
        results = in_both_environments("benchmarks.global_tokens", options)
        for name, rows in results.items():
            for count, row in rows.items():
                print(
                    f"{tokens} tokens, {count} global, {name}: led {row['led']:.2f} s, "
                    f"{row['to_one']:.2f} of one global token; transformers "
                    f"{row['transformers']:.2f} s, {row['ratio']:.2f} x; largest difference "
                    f"{row['difference']:.1e}"
                )
        print(json.dumps({"benchmark": "global_tokens", "machine": machine(), "tokens": tokens, **results}))


if __name__ == "__main__":
    main()
