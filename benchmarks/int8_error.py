"""Measures the error of 8-bit products by instruction set: of single layers, and of the encoder.

Each row is computed in a process of its own, with the limits of that instruction set. `usual steps` are those
that do not regard overflowing sums.

    python -m benchmarks.int8_error
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.instruction_sets import LEVELS
from benchmarks.rival import documents, machine
from led import LEDForConditionalGeneration, pack_documents
from led.model import inference_packing
from led.ops import prepacked_linear
from led.ops.cpu_capabilities import cpu
from led.ops.prepacked_linear import QuantizedLinear

MODEL = Path(__file__).parent.parent / "demo/checkpoints/led-reports-summary"


def relative_error(result: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean square of the difference, relative to that of the exact result."""
    return ((result - exact).square().mean().sqrt() / exact.square().mean().sqrt()).item()


@torch.inference_mode()
def measure(usual_steps: bool) -> dict[str, float]:
    """The errors in this process and environment."""
    if usual_steps:
        steps = prepacked_linear.int8_steps
        prepacked_linear.int8_steps = lambda weight, pairs_saturate: steps(weight, False)
        inference_packing.can_quantize = lambda: True
    torch.manual_seed(0)
    exact = LEDForConditionalGeneration.from_pretrained(MODEL)
    errors = []
    for layer in exact.modules():
        if isinstance(layer, nn.Linear):
            x = torch.randn(256, layer.in_features)
            errors.append(relative_error(QuantizedLinear(layer)(x), layer(x)))
    document = documents([2048])[0].remainder(exact.config.vocab_size)
    batch = pack_documents([document.tolist()], [[0]])
    states = exact.led.encoder.encode(batch)
    packed = LEDForConditionalGeneration.from_pretrained(MODEL).pack(int8=True).led.encoder.encode(batch)
    return {
        "layer, median": statistics.median(errors),
        "layer, largest": max(errors),
        "encoder": relative_error(packed, states),
        "encoder, largest difference": (packed - states).abs().max().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--here", action="store_true", help="measure in this process and environment")
    parser.add_argument("--usual-steps", action="store_true", help="as if no sum overflowed")
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.usual_steps)))
        return
    results: dict[str, Any] = {}
    for level in LEVELS:
        if level.flag in cpu().flags:
            for usual in (True, False):
                command = [sys.executable, "-W", "ignore", "-m", "benchmarks.int8_error", "--here"]
                command += ["--usual-steps"] * usual
                environment = {**os.environ, **level.environment}
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                row = json.loads(done.stdout.splitlines()[-1])
                name = f"{level.name}, {'usual steps' if usual else 'steps in use'}"
                results[name] = row
                print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in row.items()), flush=True)
    print(json.dumps({"machine": machine(), **results}))


if __name__ == "__main__":
    main()
