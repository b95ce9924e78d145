"""Whether the encoder's cost grows with the length alone: time per token of documents of 2k to 16k tokens,
taking turns.

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
    each = {n: took / int(n) * 1e6 for n, took in seconds.items()}
    spread = max(each.values()) / min(each.values()) - 1
    print(", ".join(f"{n} tokens {us:.0f} us each" for n, us in each.items()) + f"; within {spread:.0%}")
    print(json.dumps({"machine": machine(), "microseconds per token": each, "spread": spread}))


if __name__ == "__main__":
    main()
