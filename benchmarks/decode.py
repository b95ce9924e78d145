"""A step of decoding with four beams against transformers', and whether both write the same tokens.

A step is the CPU time from one call of the language-model head to the next, the median over a run; what comes
before the first (encoding, and the memory of the documents) is given apart.

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


def write(model: Any, batch: dict[str, torch.Tensor], steps: int) -> tuple[float, float, torch.Tensor]:
    """(seconds before the first step, median seconds of a step, the tokens) of writing `steps` tokens with
    four beams."""
    marks: list[float] = []
    hook = model.lm_head.register_forward_hook(lambda *_: marks.append(time.process_time()))
    begun = time.process_time()
    with torch.inference_mode():
        written = model.generate(**batch, num_beams=4, max_new_tokens=steps, min_new_tokens=steps)
    hook.remove()
    return marks[0] - begun, statistics.median(b - a for a, b in itertools.pairwise(marks)), written


def measure(tokens: int, count: int, dtype: str, steps: int, rounds: int, rival: str) -> dict[str, Any]:
    """Milliseconds per step and document of both, their ratio, the time before steps, and whether the tokens
    are equal."""
    ours, reference = pair(dtype, rival=rival)
    batch = padded(documents([tokens] * count))
    runs: dict[str, list[tuple[float, float, torch.Tensor]]] = {"led": [], "transformers": []}
    for _ in range(rounds):
        runs["led"].append(write(ours, batch, steps))
        runs["transformers"].append(write(reference, batch, steps))
    row: dict[str, Any] = {}
    for name, found in runs.items():
        row[f"{name} begin"] = statistics.median(begin for begin, _, _ in found) / count
        row[f"{name} ms"] = statistics.median(step for _, step, _ in found) / count * 1e3
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
        "--rival", default="float32", choices=["float32", "bfloat16"], help="the reference's type"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help="in this process and environment")
    args = parser.parse_args()
    if args.here:
        print(
            json.dumps(measure(args.tokens, args.documents, args.dtype, args.steps, args.rounds, args.rival))
        )
        return
    names = ("tokens", "documents", "dtype", "rival", "steps", "rounds")
    options = [text for name in names for text in (f"--{name}", str(getattr(args, name)))]
    found = in_both_environments("benchmarks.decode", options)
    for name, row in found.items():
        print(
            f"decoding {args.dtype} {args.documents} x {args.tokens} tokens, 4 beams, {name}: led {row['led ms']:.1f} ms per "
            f"step and document, transformers {args.rival} {row['transformers ms']:.1f}, {row['ratio']:.1f} x; before it "
            f"{row['led begin']:.2f} s and {row['transformers begin']:.2f} s; same tokens: {row['same_tokens']}"
        )
    print(json.dumps({"machine": machine(), **{name: getattr(args, name) for name in names}, **found}))


if __name__ == "__main__":
    main()
