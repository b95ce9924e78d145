"""Draws docs/figures/ from the last lines of the benchmarks: those of a Xeon, of a GPU, and of the runs at
scale on an EPYC.

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
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")
WIDTH, ROW, LEFT, TOP = 640, 20, 190, 46

Bars = list[tuple[str, list[tuple[str, float]]]]


def bar_chart(title: str, unit: str, groups: Bars) -> str:
    """Horizontal bars in groups, each with its value; grey text that reads on light and on dark."""
    names = list(dict.fromkeys(name for _, bars in groups for name, _ in bars))
    most = max(value for _, bars in groups for _, value in bars)
    y, parts = TOP, []
    for label, bars in groups:
        middle = y + ROW * len(bars) / 2 + 4
        parts.append(f'<text x="{LEFT - 10}" y="{middle}" text-anchor="end">{escape(label)}</text>')
        for name, value in bars:
            width = (WIDTH - LEFT - 70) * value / most
            colour = COLOURS[names.index(name)]
            parts.append(
                f'<rect x="{LEFT}" y="{y + 2}" width="{width:.1f}" height="{ROW - 5}" fill="{colour}"/>'
            )
            parts.append(
                f'<text x="{LEFT + width + 5:.1f}" y="{y + ROW - 6}">{value:.3g} {escape(unit)}</text>'
            )
            y += ROW
        y += ROW // 2
    for i, name in enumerate(names):
        x = LEFT + 130 * i
        parts.append(f'<rect x="{x}" y="26" width="10" height="10" fill="{COLOURS[i]}"/>')
        parts.append(f'<text x="{x + 15}" y="35">{escape(name)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="12"'
    return f'{head} fill="#808080"><text x="{LEFT}" y="16" font-size="14">{escape(title)}</text>{"".join(parts)}</svg>\n'


def line_chart(title: str, unit: str, lines: dict[str, list[tuple[float, float]]]) -> str:
    """Values over seconds, a line for each name, from zero."""
    longest = max(x for points in lines.values() for x, _ in points)
    blockwise_topk = max(y for points in lines.values() for _, y in points) * 1.1
    wide, high, left = WIDTH - 80, 180, 60
    parts = [f'<path d="M{left} {TOP}v{high}h{wide}" fill="none" stroke="#808080"/>']
    parts += [
        f'<text x="{left - 6}" y="{TOP + 8}" text-anchor="end">{blockwise_topk:.0f} {escape(unit)}</text>',
        f'<text x="{left + wide}" y="{TOP + high + 16}" text-anchor="end">{longest:.0f} s</text>',
    ]
    for i, (name, points) in enumerate(lines.items()):
        places = " ".join(
            f"{left + wide * x / longest:.1f},{TOP + high - high * y / blockwise_topk:.1f}" for x, y in points
        )
        parts.append(f'<polyline points="{places}" fill="none" stroke="{COLOURS[i]}" stroke-width="2"/>')
        parts.append(f'<rect x="{left + 250 * i}" y="26" width="10" height="10" fill="{COLOURS[i]}"/>')
        parts.append(f'<text x="{left + 250 * i + 15}" y="35">{escape(name)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {TOP + high + 24}" font-family="sans-serif" font-size'
    title = f'<text x="{left}" y="16" font-size="14">{escape(title)}</text>'
    return f'{head}="12" fill="#808080">{title}{"".join(parts)}</svg>\n'


def against(found: Sequence[dict[str, Any]], what: str, label: str) -> Bars:
    """How many times as fast as the reference, in both environments."""
    return [
        (label.format(**row), [(f"against {name}", row[name]["ratio"]) for name in ("stock", "tuned")])
        for row in found
        if row["benchmark"] == what
    ]


def on_gpu(found: Sequence[dict[str, Any]], part: str, documents: str) -> Bars:
    """How many times as fast as the reference in each type, of the rows of a part of the comparison; later
    runs count."""
    groups: dict[str, dict[str, float]] = {}
    for row in (row for run in found for row in run["rows"] if "ratio" in row):
        what, dtype, label = row["what"].split(", ", 2)
        if what == part and label.startswith(documents):
            groups.setdefault(f"{part.split()[0]}, {label}", {})[dtype] = row["ratio"]
    return [(label, list(ratios.items())) for label, ratios in groups.items()]


def main() -> None:
    files = (RESULTS, AT_SCALE, ON_GPU)
    found, at_scale, gpu = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    encoders = against(found, "encoder", "{tokens} tokens, {dtype}")
    decoders = against(found, "decode", "{documents} x {tokens} tokens, {dtype}")
    steps = [
        (
            "{documents} x {tokens} tokens, {dtype}".format(**row),
            [("led", row["stock"]["led ms"]), ("transformers, tuned", row["tuned"]["transformers ms"])],
        )
        for row in found
        if row["benchmark"] == "decode"
    ]
    runs: Bars = [
        (
            f"{row['tokens']} in, {row['new_tokens']} out, {dtype}",
            [
                (f"against {e}", row[e]["seconds"]["transformers"] / row[e]["seconds"][dtype])
                for e in ("stock", "tuned")
            ],
        )
        for row in found
        if row["benchmark"] == "end_to_end"
        for dtype in row["stock"]["same"]
    ]
    charts = {
        "whole_runs": bar_chart("Parquet to Parquet: times as fast as transformers", "x", sorted(runs)),
        "encoder": bar_chart("Encoder: times as fast as transformers", "x", encoders),
        "decoding": bar_chart("A step of decoding, 4 beams: times as fast as transformers", "x", decoders),
        "steps": bar_chart("Milliseconds per step and document", "ms", steps),
        "gpu": bar_chart(
            f"{gpu[0]['device']}: times as fast as transformers",
            "x",
            [bars for part in ("encoder", "step", "whole documents") for bars in on_gpu(gpu, part, "8 x")],
        ),
    }
    for row in (
        row for run in at_scale if run["benchmark"] == "scale" for row in run["rows"] if row["wall_s"] > 240
    ):
        charts[f"scale_{row['replicas']}"] = line_chart(
            f"{row['replicas']} model copies, {row['shards_done']:,} shards: memory during the run",
            "MiB",
            {
                "the driver": [(s, driver) for s, driver, _ in row["seen"]],
                "all object stores": [(s, held) for s, _, held in row["seen"] if held is not None],
            },
        )
    FIGURES.mkdir(parents=True, exist_ok=True)
    for name, chart in charts.items():
        (FIGURES / f"{name}.svg").write_text(chart)
        print(FIGURES / f"{name}.svg")


if __name__ == "__main__":
    main()
