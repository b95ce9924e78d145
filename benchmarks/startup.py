"""Measures where the seconds of a small job go: until it is planned, the cluster is ready, the first shard is
committed, and the command ends.

    python -m benchmarks.startup --documents 10 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.rival import machine

MODEL = "demo/checkpoints/led-reports-summary"

# The events that end the first phases.
_EVENTS = {"started": "planned", "cluster ready": "cluster ready"}


def run_job(folder: Path, documents: int) -> dict[str, float]:
    """Seconds since the start of the command, by what had happened then."""
    corpus, output, log = folder / "corpus.parquet", folder / "out", folder / "log.jsonl"
    pq.write_table(pq.read_table("demo/corpus").slice(0, documents), corpus)
    command = [sys.executable, "jobs/summarize_corpus.py", "--input", str(corpus), "--output", str(output)]
    command += ["--model", MODEL, "--log-file", str(log)]
    start = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = {"ended": time.time() - start}
    for line in log.read_text().splitlines():
        values = json.loads(line)
        if values.get("event") in _EVENTS:
            seconds[_EVENTS[values["event"]]] = datetime.fromisoformat(values["time"]).timestamp() - start
    seconds["first commit"] = min(part.stat().st_mtime for part in output.glob("part-*")) - start
    return dict(sorted(seconds.items(), key=lambda item: item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    runs = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(run_job(Path(folder), args.documents))
    found = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    text = ", ".join(f"{name} after {seconds:.1f} s" for name, seconds in found.items())
    print(f"a job of {args.documents} documents: {text}")
    print(json.dumps({"machine": machine(), "documents": args.documents, **found}))


if __name__ == "__main__":
    main()
