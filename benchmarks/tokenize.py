"""Compares tokenizing in the reader with the bare `tokenizers` library. Both use all cores, alternately.

python -m benchmarks.tokenize
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import pyarrow.parquet as pq
from tokenizers import Tokenizer

from benchmarks.rival import machine
from led import LEDTokenizer
from pipeline.tasks.base import InputLimits, RowInput
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize

MODEL = "demo/checkpoints/led-reports-summary"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    texts = pq.read_table("demo/corpus", columns=["text"])["text"].to_pylist() * 4
    size = sum(len(text.encode()) for text in texts)
    ours, library = LEDTokenizer.from_pretrained(MODEL), Tokenizer.from_file(f"{MODEL}/tokenizer.json")
    task = Summarize(SummarizeSettings(input=("x",), output="x", model=MODEL))
    calls = {
        "tokenizers": lambda: library.encode_batch(texts),
        "reader": lambda: task.encode(ours, [RowInput(text, {}) for text in texts], InputLimits(8192, 8192)),
        "call": lambda: ours(texts, truncation=True, max_length=8192),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    rates = {name: size / statistics.median(seconds) / 1e6 for name, seconds in times.items()}
    for name, rate in rates.items():
        print(f"{name:10s} {rate:6.2f} MB/s, {rate / rates['tokenizers']:.0%} of the library's")
    print(json.dumps({"machine": machine(), "megabytes_per_s": rates}))


if __name__ == "__main__":
    main()
