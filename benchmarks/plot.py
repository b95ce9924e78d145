"""Draws docs/figures/ from the results of the benchmarks on a Xeon, a GPU, and at scale on an EPYC.

The results are the last lines of the benchmarks' outputs.

    python -m benchmarks.plot
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

RESULTS, AT_SCALE = Path("benchmarks/results.jsonl"), Path("benchmarks/results-epyc.jsonl")
ON_GPU = Path("benchmarks/results-h200.jsonl")
FIGURES = Path("docs/figures")
COLORS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")
WIDTH, ROW, LEFT, TOP = 640, 20, 190, 46

# By environment of `benchmarks.rival`: the label in the figures.
ALLOCATORS = {"stock": "default allocator", "tuned": "tuned allocator"}

Bars = list[tuple[str, list[tuple[str, float]]]]


def bar_chart(title: str, unit: str, groups: Bars) -> str:
    """Grouped horizontal bars with their values. The gray text is legible on light and dark backgrounds."""
    names = list(dict.fromkeys(name for _, bars in groups for name, _ in bars))
    largest = max(value for _, bars in groups for _, value in bars)
    y, parts = TOP, []
    for label, bars in groups:
        middle = y + ROW * len(bars) / 2 + 4
        parts.append(f'<text x="{LEFT - 10}" y="{middle}" text-anchor="end">{escape(label)}</text>')
        for name, value in bars:
            width = (WIDTH - LEFT - 70) * value / largest
            color = COLORS[names.index(name)]
            parts.append(
                f'<rect x="{LEFT}" y="{y + 2}" width="{width:.1f}" height="{ROW - 5}" fill="{color}"/>'
            )
            parts.append(
                f'<text x="{LEFT + width + 5:.1f}" y="{y + ROW - 6}">{value:.3g} {escape(unit)}</text>'
            )
            y += ROW
        y += ROW // 2
    for i, name in enumerate(names):
        x = LEFT + 130 * i
        parts.append(f'<rect x="{x}" y="26" width="10" height="10" fill="{COLORS[i]}"/>')
        parts.append(f'<text x="{x + 15}" y="35">{escape(name)}</text>')
    return _svg(y, LEFT, title, parts)


def line_chart(title: str, unit: str, lines: dict[str, list[tuple[float, float]]]) -> str:
    """A line of values over seconds for each name. Both axes begin at zero."""
    last = max(x for points in lines.values() for x, _ in points)
    top = max(y for points in lines.values() for _, y in points) * 1.1
    width, height, left = WIDTH - 80, 180, 60
    parts = [f'<path d="M{left} {TOP}v{height}h{width}" fill="none" stroke="#808080"/>']
    parts += [
        f'<text x="{left - 6}" y="{TOP + 8}" text-anchor="end">{top:.0f} {escape(unit)}</text>',
        f'<text x="{left + width}" y="{TOP + height + 16}" text-anchor="end">{last:.0f} s</text>',
    ]
    for i, (name, points) in enumerate(lines.items()):
        coordinates = " ".join(
            f"{left + width * x / last:.1f},{TOP + height - height * y / top:.1f}" for x, y in points
        )
        parts.append(f'<polyline points="{coordinates}" fill="none" stroke="{COLORS[i]}" stroke-width="2"/>')
        parts.append(f'<rect x="{left + 250 * i}" y="26" width="10" height="10" fill="{COLORS[i]}"/>')
        parts.append(f'<text x="{left + 250 * i + 15}" y="35">{escape(name)}</text>')
    return _svg(TOP + height + 24, left, title, parts)


def _svg(height: int, left: int, title: str, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
    heading = f'<text x="{left}" y="16" font-size="14">{escape(title)}</text>'
    return f'{head} font-size="12" fill="#808080">{heading}{"".join(parts)}</svg>\n'


def on_cpu(results: Sequence[dict[str, Any]], benchmark: str, label: str) -> Bars:
    """The speedup over the reference, in both environments."""
    return [
        (label.format(**row), [(text, row[name]["ratio"]) for name, text in ALLOCATORS.items()])
        for row in results
        if row["benchmark"] == benchmark
    ]


def on_gpu(results: Sequence[dict[str, Any]], part: str, documents: str) -> Bars:
    """The speedup over the reference for each dtype, in one part of the comparison.

    If several runs have the same row, the last one is used.
    """
    groups: dict[str, dict[str, float]] = {}
    for row in (row for run in results for row in run["rows"] if "ratio" in row):
        name, dtype, label = row["what"].split(", ", 2)
        if name == part and label.startswith(documents):
            groups.setdefault(f"{part.split()[0]}, {label}", {})[dtype] = row["ratio"]
    return [(label, list(ratios.items())) for label, ratios in groups.items()]


def main() -> None:
    files = (RESULTS, AT_SCALE, ON_GPU)
    cpu, at_scale, gpu = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    encoders = on_cpu(cpu, "encoder", "{tokens} tokens, {dtype}")
    decoders = on_cpu(cpu, "decode", "{documents} x {tokens} tokens, {dtype}")
    steps = [
        (
            "{documents} x {tokens} tokens, {dtype}".format(**row),
            [
                ("led", row["stock"]["led ms"]),
                ("transformers, tuned allocator", row["tuned"]["transformers ms"]),
            ],
        )
        for row in cpu
        if row["benchmark"] == "decode"
    ]
    runs: Bars = [
        (
            f"{row['tokens']} in, {row['new_tokens']} out, {dtype}",
            [
                (text, row[name]["seconds"]["transformers"] / row[name]["seconds"][dtype])
                for name, text in ALLOCATORS.items()
            ],
        )
        for row in cpu
        if row["benchmark"] == "end_to_end"
        for dtype in row["stock"]["same"]
    ]
    charts = {
        "whole_runs": bar_chart("Parquet to Parquet: speedup over transformers", "x", sorted(runs)),
        "encoder": bar_chart("Encoder: speedup over transformers", "x", encoders),
        "decoding": bar_chart("Decoding step, 4 beams: speedup over transformers", "x", decoders),
        "steps": bar_chart("Milliseconds per step and document", "ms", steps),
        "gpu": bar_chart(
            f"{gpu[0]['device']}: speedup over transformers",
            "x",
            [bars for part in ("encoder", "step", "whole documents") for bars in on_gpu(gpu, part, "8 x")],
        ),
    }
    for row in (
        row for run in at_scale if run["benchmark"] == "scale" for row in run["rows"] if row["wall_s"] > 240
    ):
        # old names: a key of the results of version 0.1.0
        replicas = row.get("replicas", row.get("actors"))
        # end of old names
        samples = row["seen"]
        charts[f"scale_{replicas}"] = line_chart(
            f"{replicas} replicas, {row['shards_done']:,} shards: memory during the run",
            "MiB",
            {
                "the driver": [(s, driver) for s, driver, _ in samples],
                "all object stores": [(s, stored) for s, _, stored in samples if stored is not None],
            },
        )
    FIGURES.mkdir(parents=True, exist_ok=True)
    for name, chart in charts.items():
        (FIGURES / f"{name}.svg").write_text(chart)
        print(FIGURES / f"{name}.svg")


if __name__ == "__main__":
    main()
