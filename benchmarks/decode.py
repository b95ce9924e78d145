"""Compares a decoding step with four beams with that of transformers, and the generated tokens.

The time of a step is the median CPU time between two calls of the language-model head. The time before the
first call, for encoding and the cross-attention KV cache, is reported separately.

    python -m benchmarks.decode --tokens 4096 --documents 1 --dtype float32
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from typing import Any

import torch

from benchmarks.rival import documents, in_both_environments, machine, padded, pair


def generate(model: Any, batch: dict[str, torch.Tensor], steps: int) -> tuple[float, float, torch.Tensor]:
    """Generate `steps` tokens with four beams.

    Returns the seconds before the first step, the median seconds of a step, and the tokens.
    """
    times: list[float] = []
    hook = model.lm_head.register_forward_hook(lambda *_: times.append(time.process_time()))
    start = time.process_time()
    with torch.inference_mode():
        tokens = model.generate(**batch, num_beams=4, max_new_tokens=steps, min_new_tokens=steps)
    hook.remove()
    return times[0] - start, statistics.median(b - a for a, b in itertools.pairwise(times)), tokens


def measure(tokens: int, count: int, dtype: str, steps: int, rounds: int, rival: str) -> dict[str, Any]:
    """Milliseconds per step and document of both libraries, their ratio, and whether the tokens are equal.

    `begin` are seconds per document before the first step.
    """
    ours, reference = pair(dtype, rival=rival)
    batch = padded(documents([tokens] * count))
    runs: dict[str, list[tuple[float, float, torch.Tensor]]] = {"led": [], "transformers": []}
    for _ in range(rounds):
        runs["led"].append(generate(ours, batch, steps))
        runs["transformers"].append(generate(reference, batch, steps))
    row: dict[str, Any] = {}
    for name, results in runs.items():
        row[f"{name} begin"] = statistics.median(begin for begin, _, _ in results) / count
        row[f"{name} ms"] = statistics.median(step for _, step, _ in results) / count * 1e3
    row["ratio"] = row["transformers ms"] / row["led ms"]
    row["same_tokens"] = torch.equal(runs["led"][0][2], runs["transformers"][0][2])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--documents", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "int8"])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument(
        "--rival", default="float32", choices=["float32", "bfloat16"], help="dtype of the reference"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help="measure in this process and environment")
    args = parser.parse_args()
    if args.here:
        print(
            json.dumps(measure(args.tokens, args.documents, args.dtype, args.steps, args.rounds, args.rival))
        )
        return
    names = ("tokens", "documents", "dtype", "rival", "steps", "rounds")
    options = [text for name in names for text in (f"--{name}", str(getattr(args, name)))]
    results = in_both_environments("benchmarks.decode", options)
    for name, row in results.items():
        print(
            f"decoding {args.dtype} {args.documents} x {args.tokens} tokens, 4 beams, {name}: led "
            f"{row['led ms']:.1f} ms per step and document, transformers {args.rival} "
            f"{row['transformers ms']:.1f}, {row['ratio']:.1f} x; before the first step "
            f"{row['led begin']:.2f} s and {row['transformers begin']:.2f} s; same tokens: "
            f"{row['same_tokens']}"
        )
    print(json.dumps({"machine": machine(), **{name: getattr(args, name) for name in names}, **results}))


if __name__ == "__main__":
    main()
