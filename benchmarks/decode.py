"""A step of decoding with four beams against transformers', and whether both write the same tokens.

The time of a step is that of a long run minus that of a short one, over the steps between, per document.

    python -m benchmarks.decode --tokens 4096 --documents 1 --dtype float32
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from benchmarks.rival import documents, in_both_environments, interleaved, machine, padded, pair

SHORT = 4


def measure(tokens: int, count: int, dtype: str, steps: int, rounds: int) -> dict[str, Any]:
    """Milliseconds per step and document of both, their ratio, the time before steps, and whether the tokens are equal."""
    ours, reference = pair(dtype)
    batch = padded(documents([tokens] * count))

    def write(model: Any, length: int) -> torch.Tensor:
        return model.generate(**batch, num_beams=4, max_new_tokens=length, min_new_tokens=length)

    calls = {
        (name, length): (lambda model=model, length=length: write(model, length))
        for name, model in (("led", ours), ("transformers", reference))
        for length in (SHORT, SHORT + steps)
    }
    with torch.inference_mode():
        seconds, written = interleaved({f"{name} {length}": call for (name, length), call in calls.items()}, rounds)
    row: dict[str, Any] = {}
    for name in ("led", "transformers"):
        short, long = seconds[f"{name} {SHORT}"], seconds[f"{name} {SHORT + steps}"]
        row[f"{name} ms"] = (long - short) / steps / count * 1e3
        row[f"{name} begin"] = short / count
    row["ratio"] = row["transformers ms"] / row["led ms"]
    row["same_tokens"] = torch.equal(written[f"led {SHORT + steps}"], written[f"transformers {SHORT + steps}"])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--documents", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help="in this process and environment")
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.tokens, args.documents, args.dtype, args.steps, args.rounds)))
        return
    names = ("tokens", "documents", "dtype", "steps", "rounds")
    options = [text for name in names for text in (f"--{name}", str(getattr(args, name)))]
    found = in_both_environments("benchmarks.decode", options)
    for name, row in found.items():
        print(f"decoding {args.dtype} {args.documents} x {args.tokens} tokens, 4 beams, {name}: led {row['led ms']:.1f} ms per "
              f"step and document, transformers {row['transformers ms']:.1f}, {row['ratio']:.1f} x; before the steps "
              f"{row['led begin']:.2f} s and {row['transformers begin']:.2f} s; same tokens: {row['same_tokens']}")  # fmt: skip
    print(json.dumps({"machine": machine(), **{name: getattr(args, name) for name in names}, **found}))


if __name__ == "__main__":
    main()
