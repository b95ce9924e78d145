"""Compares the encoder with that of transformers, and with the limit of the processor.

One document is encoded at a time.

    python -m benchmarks.encoder --tokens 4096 --dtype float32
"""

from __future__ import annotations

import argparse
import json

import torch

from benchmarks.rival import documents, in_both_environments, interleaved, machine, matrix_rate, padded, pair
from led import pack_documents

# Operations per token and layer of led-base, for the products with weights and a window of 1,025 keys.
PER_TOKEN = 2 * (4 * 768**2 + 2 * 768 * 3072) + 4 * 768 * 1025
LAYERS = 6


def measure(tokens: int, dtype: str, rounds: int, rival: str) -> dict[str, float]:
    """CPU seconds of both encoders, their ratio, the largest difference, and the share of the limit."""
    ours, reference = pair(dtype, rival=rival)
    [document] = documents([tokens])
    packed, batch = pack_documents([document.tolist()], [[0]]), padded([document])
    with torch.inference_mode():
        seconds, states = interleaved(
            {
                "led": lambda: ours.led.encoder.encode(packed),
                "transformers": lambda: reference.led.encoder(**batch).last_hidden_state[0],
            },
            rounds,
        )
    difference = (states["led"].float() - states["transformers"].float()).abs().max().item()
    rate = matrix_rate(dtype)
    return {
        **seconds,
        "ratio": seconds["transformers"] / seconds["led"],
        "difference": difference,
        "matrix_rate": rate,
        "share_of_limit": LAYERS * tokens * PER_TOKEN / rate / seconds["led"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "int8"])
    parser.add_argument(
        "--rival", default="float32", choices=["float32", "bfloat16"], help="dtype of the reference"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help="measure in this process and environment")
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.tokens, args.dtype, args.rounds, args.rival)))
        return
    names = ("tokens", "dtype", "rival", "rounds")
    options = [text for name in names for text in (f"--{name}", str(getattr(args, name)))]
    results = in_both_environments("benchmarks.encoder", options)
    for name, row in results.items():
        print(
            f"encoder {args.dtype} {args.tokens} tokens, {name}: led {row['led']:.2f} s, transformers "
            f"{args.rival} {row['transformers']:.2f} s, {row['ratio']:.2f} x; {row['share_of_limit']:.2f} of "
            f"the limit at {row['matrix_rate'] / 1e9:.0f} GF/s; largest difference {row['difference']:.1e}"
        )
    print(json.dumps({"machine": machine(), **{name: getattr(args, name) for name in names}, **results}))


if __name__ == "__main__":
    main()
