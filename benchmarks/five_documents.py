"""Summarizes five documents of the demo by a job, to compare two kinds of machines.

    python -m benchmarks.five_documents --output /tmp/x86
    python -m benchmarks.five_documents --output /tmp/arm     # on the other machine
    python -m benchmarks.five_documents --output /tmp/arm --compare /tmp/x86

The output holds the job's rows, and the encoder's states of each document.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch

from led import LEDForConditionalGeneration, LEDTokenizer, pack_documents
from led.ops.cpu_capabilities import cpu

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "demo/checkpoints/led-reports-summary"
DOCUMENTS, TOKENS, NEW_TOKENS = 5, 256, 24


def run(output: Path) -> None:
    """Write `results.json` and `states.pt` into the folder."""
    output.mkdir(parents=True)
    table = pq.read_table(ROOT / "demo/corpus/reports-00.parquet").slice(0, DOCUMENTS)
    pq.write_table(table, output / "five.parquet")
    start = time.monotonic()
    command = ["-m", "jobs.cli", "summarize", "--input", output / "five.parquet", "--output", output / "rows"]
    command += ["--model", MODEL, "--max-input-tokens", TOKENS, "--replicas", 1]
    command += ["--max-new-tokens", NEW_TOKENS]
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=ROOT)
    seconds = time.monotonic() - start
    parts = [pq.ParquetFile(part).read() for part in (output / "rows").glob("part-*")]
    rows = [row for part in parts for row in part.to_pylist()]
    tokenizer, model = LEDTokenizer.from_pretrained(MODEL), LEDForConditionalGeneration.from_pretrained(MODEL)
    model.pack()
    texts = table["text"].to_pylist()
    ids = tokenizer(texts, truncation=True, max_length=TOKENS)["input_ids"]
    with torch.inference_mode():
        states = [model.led.encoder.encode(pack_documents([each], [[0]])) for each in ids]
    torch.save(states, output / "states.pt")
    results = {
        "machine": f"{platform.machine()}, {cpu().instruction_set}, torch {torch.__version__}",
        "seconds": round(seconds),
        "rows": {row["doc_id"]: [row["status"], row["summary"], row["score"]] for row in rows},
    }
    (output / "results.json").write_text(json.dumps(results, indent=1))


def compare(folder: Path, other: Path) -> str:
    """The differences of two results, as a sentence."""
    a, b = (json.loads((each / "results.json").read_text()) for each in (folder, other))
    pairs = [(a["rows"][name], b["rows"][name]) for name in a["rows"]]
    same = sum(x[:2] == y[:2] for x, y in pairs)
    score = max(abs(x[2] - y[2]) for x, y in pairs)
    states = zip(torch.load(folder / "states.pt"), torch.load(other / "states.pt"), strict=True)
    difference = max((x - y).abs().max().item() for x, y in states)
    return (
        f"{a['machine']}, {a['seconds']} s, and {b['machine']}, {b['seconds']} s: {same} of {len(pairs)} "
        f"summaries the same, largest difference of scores {score:.1e}, of encoder states {difference:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--compare", type=Path, help="only compare the output with this folder")
    args = parser.parse_args()
    if args.compare is None:
        run(args.output)
    else:
        print(compare(args.output, args.compare))


if __name__ == "__main__":
    main()
