"""Write the held-out sample of years: files of 16,000 to 200,000 tokens, one row each.

    python -m demo.make_years --out out/years-input

The columns are doc_id, text, reference_summary and facts. `facts` are strings that a good summary contains
verbatim. Lengths are distributed evenly on a logarithmic scale. No file can be in the training data.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from demo.years import generate_year

SCHEMA = pa.schema(
    [
        pa.field("doc_id", pa.string()),
        pa.field("text", pa.string()),
        pa.field("reference_summary", pa.string()),
        pa.field("facts", pa.list_(pa.string())),
    ]
)

WORDS = (11_700, 143_000)  # about 16,000 to 200,000 tokens


def make_rows(documents: int, seed: int, words: tuple[int, int] = WORDS) -> list[dict[str, object]]:
    """The rows of the sample. All seeds must be below those of the training."""
    rng = random.Random(seed)
    rows: list[dict[str, object]] = []
    for i in range(documents):
        length = round(math.exp(rng.uniform(math.log(words[0]), math.log(words[1]))))
        year = generate_year(seed + i, length)
        rows.append(
            {
                "doc_id": f"year-{i:03d}",
                "text": year.text,
                "reference_summary": year.summary,
                "facts": list(year.facts.values()),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=60)
    parser.add_argument("--seed", type=int, default=3_000_000)
    args = parser.parse_args()
    rows = make_rows(args.documents, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), args.out / "years.parquet", compression="zstd")
    print(f"{len(rows)} files in {args.out}")


if __name__ == "__main__":
    main()
