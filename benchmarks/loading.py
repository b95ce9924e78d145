"""Compares loading a checkpoint of led-large's size with transformers: peak memory and time.

Each memory measurement has its own process. It is the increase of the peak resident set during loading,
including file pages. Times are measured in one process, with both libraries alternately. Every page of the
weights is read once after loading, because mapped weights are read from disk on first use.

    python -m benchmarks.loading --folder /tmp/led-large
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from led import LEDConfig, LEDForConditionalGeneration

# The cases (library, dtype), in the order of the table.
CASES = [("led", "float32"), ("transformers", "float32"), ("led", "bfloat16"), ("transformers", "bfloat16")]


def load(library: str, folder: Path, dtype: str) -> Any:
    """Load the model and read every page of its weights."""
    model_class: Any = LEDForConditionalGeneration
    if library == "transformers":
        import transformers

        model_class = transformers.LEDForConditionalGeneration
    model = model_class.from_pretrained(str(folder), dtype=getattr(torch, dtype))
    with torch.no_grad():
        for p in model.parameters():
            p.view(-1)[:: 4096 // p.element_size()].sum()
    return model


def resident(name: str) -> int:
    """The bytes in the line `name` of /proc/self/status."""
    [line] = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name)]
    return int(line.split()[1]) * 1024


def measure_memory(library: str, folder: Path, dtype: str) -> None:
    """Print the increase of the peak during loading, as a multiple of the weights' size.

    This must run in a new process.
    """
    torch.zeros(1).sum()
    if library == "transformers":
        import transformers

        transformers.LEDForConditionalGeneration  # noqa: B018
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    model = load(library, folder, dtype)
    weights = sum(p.nbytes for p in model.parameters())
    print((resident("VmHWM") - before) / weights)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="folder of the checkpoint, created if it does not exist"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", nargs=2, metavar=("LIBRARY", "DTYPE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        measure_memory(args.memory_of[0], args.folder, args.memory_of[1])
        return
    if not (args.folder / "model.safetensors").exists():
        LEDForConditionalGeneration(LEDConfig(attention_window=1024)).save_pretrained(args.folder)
    size = (args.folder / "model.safetensors").stat().st_size
    rows: dict[str, dict[str, float]] = {}
    for library, dtype in CASES:
        command = [
            sys.executable,
            "-m",
            "benchmarks.loading",
            "--folder",
            str(args.folder),
            "--memory-of",
            library,
            dtype,
        ]
        process = subprocess.run(command, capture_output=True, text=True, check=True)
        rows[f"{library} {dtype}"] = {"peak over weights": float(process.stdout.split()[-1])}
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(args.rounds + 1):
        for library, dtype in CASES:
            start = time.perf_counter()
            load(library, args.folder, dtype)
            times[f"{library} {dtype}"].append(time.perf_counter() - start)
    processor = platform.processor() or platform.machine()
    print(f"{size / 1e9:.2f} GB of weights; {processor}; torch {torch.__version__}")
    for name, row in rows.items():
        row["seconds"] = statistics.median(times[name][1:])
        print(f"{name:24s} peak {row['peak over weights']:.2f} x the weights, {row['seconds']:.2f} s")
    for dtype in ("float32", "bfloat16"):
        ratio = rows[f"transformers {dtype}"]["seconds"] / rows[f"led {dtype}"]["seconds"]
        rows[f"led {dtype}"]["times faster"] = ratio
        print(f"{dtype}: transformers takes {ratio:.2f} x as long")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
