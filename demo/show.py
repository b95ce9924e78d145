"""Show the summaries of a short, a medium and a long document of a summarization run.

python -m demo.show --output out/demo
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import pyarrow.parquet as pq

WIDTH = 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    rows = [
        row
        for part in sorted(output.glob("part-*.parquet"))
        for row in pq.ParquetFile(part).read().to_pylist()
    ]
    written = sorted((row for row in rows if row["status"] == "ok"), key=lambda row: row["input_tokens"])
    for row in (written[len(written) // 10], written[len(written) // 2], written[-1]):
        print(f"\n{row['doc_id']}, {row['input_tokens']} tokens")
        for name, column in (("summary", "summary"), ("reference", "reference_summary")):
            print(textwrap.fill(f"{name:>10}: {row[column]}", WIDTH, subsequent_indent=" " * 12))
    print(f"\nrows:   {output}/part-*.parquet\nreport: {output.absolute() / '_report.html'}")


if __name__ == "__main__":
    main()
