"""Compares the peak memory, beyond the weights, of summarizing a long document with four beams.

Each library is measured in its own process.

    python -m benchmarks.memory --tokens 16384
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.loading import resident
from benchmarks.rival import documents, machine, padded, pair


def measure(library: str, tokens: int) -> float:
    """The increase of the peak resident set after the model was loaded, in gigabytes."""
    ours, reference = pair("float32")
    model = {"led": ours, "transformers": reference}[library]
    del ours, reference
    batch = padded(documents([tokens]))
    model.generate(**padded(documents([64])), num_beams=4, max_new_tokens=4)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    with torch.inference_mode():
        model.generate(**batch, num_beams=4, max_new_tokens=6, min_new_tokens=6)
    return (resident("VmHWM") - before) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument(
        "--only", choices=["led", "transformers"], help="measure this library in this process"
    )
    args = parser.parse_args()
    if args.only:
        print(measure(args.only, args.tokens))
        return
    results = {}
    for library in ("led", "transformers"):
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "benchmarks.memory",
            "--tokens",
            str(args.tokens),
            "--only",
            library,
        ]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results[library] = float(process.stdout.split()[-1])
    print(
        f"{args.tokens} tokens, 4 beams, float32: led {results['led']:.2f} GB beyond the weights, "
        f"transformers {results['transformers']:.2f} GB, ratio {results['led'] / results['transformers']:.2f}"
    )
    print(json.dumps({"machine": machine(), "tokens": args.tokens, "gigabytes": results}))


if __name__ == "__main__":
    main()
