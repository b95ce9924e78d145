"""Measures whether the encoder's cost is linear in the length of a document.

It times the encoder for documents of 2k to 16k tokens and compares the time per token.

python -m benchmarks.linear_cost --rounds 3
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import torch

from benchmarks.rival import LED_BASE, documents, interleaved, machine
from led import LEDConfig, LEDForConditionalGeneration, pack_documents
from led.testing import spread_weights


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 4096, 8192, 16384])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    model = LEDForConditionalGeneration(LEDConfig(**LED_BASE)).eval()
    spread_weights(model, seed=0, scale=2)
    encoder = model.pack().led.encoder
    batches = {str(n): pack_documents([documents([n])[0].tolist()], [[0]]) for n in args.tokens}
    with torch.inference_mode():
        seconds, _ = interleaved({n: lambda b=b: encoder.encode(b) for n, b in batches.items()}, args.rounds)
    per_token = {n: s / int(n) * 1e6 for n, s in seconds.items()}
    spread = max(per_token.values()) / min(per_token.values()) - 1
    print(
        ", ".join(f"{n} tokens: {us:.0f} us each" for n, us in per_token.items()) + f"; spread {spread:.0%}"
    )
    print(json.dumps({"machine": machine(), "microseconds per token": per_token, "spread": spread}))


if __name__ == "__main__":
    main()
