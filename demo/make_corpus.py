"""Write the held-out sample corpus: generated reports in Parquet files.

    python -m demo.make_corpus --out demo/corpus

The columns are doc_id, kind, text, reference_summary, facts, reference_label, and questions with answers.
`facts` are strings that a good summary contains verbatim. Lengths are distributed evenly on a logarithmic
scale. No report can be in the training data.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from demo.reports import generate_report

SCHEMA = pa.schema(
    [
        pa.field("doc_id", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("text", pa.string()),
        pa.field("reference_summary", pa.string()),
        pa.field("facts", pa.list_(pa.string())),
        pa.field("reference_label", pa.string()),
        pa.field(
            "questions",
            pa.list_(pa.struct([pa.field("question", pa.string()), pa.field("answer", pa.string())])),
        ),
    ]
)

WORDS = (210, 4200)  # about 300 to 6,000 tokens


def make_rows(documents: int, seed: int) -> list[dict[str, object]]:
    """The rows of the corpus. All seeds must be below those of the training."""
    rng = random.Random(seed)
    rows: list[dict[str, object]] = []
    for i in range(documents):
        words = round(math.exp(rng.uniform(math.log(WORDS[0]), math.log(WORDS[1]))))
        report = generate_report(seed + i, words)
        rows.append(
            {
                "doc_id": f"report-{i:04d}",
                "kind": report.kind,
                "text": report.text,
                "reference_summary": report.summary,
                "facts": list(report.facts.values()),
                "reference_label": report.label,
                "questions": [{"question": q, "answer": a} for q, a in report.questions],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=240)
    parser.add_argument("--files", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1_000_000)
    args = parser.parse_args()
    rows = make_rows(args.documents, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    for file in range(args.files):
        share = rows[file * len(rows) // args.files : (file + 1) * len(rows) // args.files]
        pq.write_table(
            pa.Table.from_pylist(share, SCHEMA), args.out / f"reports-{file:02d}.parquet", compression="zstd"
        )
    print(f"{len(rows)} reports in {args.files} files in {args.out}")


if __name__ == "__main__":
    main()
