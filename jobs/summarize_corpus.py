#!/usr/bin/env python3
"""Summarise every document of a corpus of Parquet, JSON lines or text files, exactly once.

python jobs/summarize_corpus.py --input corpus/ --output out/ --model MODEL
"""

from __future__ import annotations

import sys

from jobs.cli import exit_code, parse
from pipeline.config import SummarizeSettings


def main() -> None:
    settings = parse(SummarizeSettings, __doc__ or "")

    from pipeline.run import run
    from pipeline.tasks import Summarize

    result = run(Summarize(settings))
    counts = result.manifest
    done = f"{counts['ok']} ok + {counts['failed']} failed + {counts['skipped']} skipped"
    print(f"{counts['documents']} documents = {done}; {counts['truncated']} cut at the limit")
    if since := counts["since"]:
        why = f"; all were done again: {', '.join(since['redone_because'])}" if since["redone_because"] else ""
        print(f"{counts['carried']} of them carried over from {since['output']}{why}")
    for file in result.files_skipped:
        print(f"skipped: {file.skipped}")
    print(f"rows: {result.output}/part-*.parquet\nreport: {result.report}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
