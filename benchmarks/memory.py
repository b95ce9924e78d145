"""Peak memory beyond the weights while one long document is summarised with four beams, each library in a
process of its own.

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
    """Gigabytes of the highest resident set above what stood when the model was loaded."""
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
    parser.add_argument("--only", choices=["led", "transformers"], help="in this process")
    args = parser.parse_args()
    if args.only:
        print(measure(args.only, args.tokens))
        return
    found = {}
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
        found[library] = float(
            subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]
        )
    print(
        f"{args.tokens} tokens, 4 beams, float32: led {found['led']:.2f} GB beyond the weights, transformers "
        f"{found['transformers']:.2f} GB, {found['led'] / found['transformers']:.2f} of it"
    )
    print(json.dumps({"machine": machine(), "tokens": args.tokens, "gigabytes": found}))


if __name__ == "__main__":
    main()
