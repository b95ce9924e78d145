"""Compares the forecast of `plan` with the actual run, on three corpora of different lengths.

python -m benchmarks.forecast --documents 240
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.rival import machine
from demo.reports import generate_report

MODEL = "demo/checkpoints/led-reports-summary"

# By name: the smallest and the largest number of words in a report, and the share of reports with `LONGEST`
# words. The other lengths are distributed evenly on a logarithmic scale.
MIXES = {"short": (60, 500, 0.0), "mixed": (100, 4600, 0.0), "mostly short, some long": (80, 300, 0.15)}

LONGEST = 4600  # words


def write_corpus(folder: Path, mix: tuple[int, int, float], documents: int) -> None:
    """Write reports of these lengths to eight files."""
    low, high, long = mix
    rng = random.Random(f"{mix}")
    folder.mkdir(parents=True)
    texts = []
    for n in range(documents):
        words = (
            LONGEST if rng.random() < long else round(math.exp(rng.uniform(math.log(low), math.log(high))))
        )
        texts.append(generate_report(2**40 + n, words).text)
    size = -(-documents // 8)
    for start in range(0, documents, size):
        rows = texts[start : start + size]
        table = pa.table({"doc_id": [f"d{start + i}" for i in range(len(rows))], "text": rows})
        pq.write_table(table, folder / f"{start:05}.parquet")


def measure(mix: tuple[int, int, float], documents: int, seconds: float, sampled: int) -> dict[str, Any]:
    """The forecast and the actual seconds of the command, input tokens and output tokens."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, out = Path(folder) / "corpus", Path(folder) / "out"
        write_corpus(corpus, mix, documents)
        job = [sys.executable, "jobs/summarize_corpus.py"]
        settings = ["--input", str(corpus), "--output", str(out), "--model", MODEL]
        sizes = ["--sample-documents", str(sampled), "--calibration-seconds", str(seconds)]
        subprocess.run(
            [*job, "plan", *settings, *sizes],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        forecast = json.loads((out / "_forecast.json").read_text())
        start = time.monotonic()
        subprocess.run([*job, *settings], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        elapsed = time.monotonic() - start
        manifest = json.loads((out / "_manifest.json").read_text())
    actual = {
        "seconds": elapsed,
        "input_tokens": manifest["input_tokens"],
        "output_tokens": manifest["output_tokens"],
    }
    return {
        name: {**forecast[name], "actual": value, "error": value / forecast[name]["value"] - 1}
        for name, value in actual.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=480)
    parser.add_argument("--sampled", type=int, default=300, help="documents whose lengths are measured")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds of calibration")
    args = parser.parse_args(argv)
    rows = {}
    for name, mix in MIXES.items():
        rows[name] = measure(mix, args.documents, args.seconds, args.sampled)
        for quantity, row in rows[name].items():
            print(
                f"{name}, {quantity}: forecast {row['value']:,.0f} ({row['low']:,.0f} to "
                f"{row['high']:,.0f}), actual {row['actual']:,.0f}, {row['error']:+.1%}",
                flush=True,
            )
    print(json.dumps({"machine": machine(), "documents": args.documents, **rows}))


if __name__ == "__main__":
    main()
