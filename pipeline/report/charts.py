"""Plots as SVG, drawn in units of a page 480 wide; colours are the page's (`STYLE`), for light and dark.
Pure."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 480, 170, 48, 12, 24

STYLE = """
:root{--ink:#1b1f24;--soft:#57606a;--line:#d0d7de;--page:#fff;--bar:#2f6f9f;--mark:#b3401a}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa4ae;--line:#30363d;--page:#0d1117;--bar:#6cb2e6;--mark:#ff9d6c}}
svg{width:100%;height:auto;display:block}svg text{font:13px system-ui,sans-serif;fill:var(--soft)}
.bar{fill:var(--bar)}.axis{stroke:var(--line)}.mark{stroke:var(--mark);stroke-dasharray:4 3}svg text.marked{fill:var(--mark)}
.curve{fill:none;stroke:var(--bar);stroke-width:2}
"""


def escaped(value: object) -> str:
    """`value` as text of a page."""
    return html.escape(str(value))


def short(value: float) -> str:
    """A number in few characters: 1,234 or 12.3k or 0.12."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.2g}"


def histogram(values: Mapping[int, int], bins: int = 24, marks: Mapping[str, int] | None = None) -> str:
    """Whole numbers, given as value to count; a mark is a named value, drawn as a line."""
    if not values:
        return "<p>none</p>"
    marks = marks or {}
    low, high = min(values), max([*values, *(value for value in marks.values() if value <= 2 * max(values))])
    width = max(1, -(-(high - low + 1) // bins))
    counts: Counter[int] = Counter()
    for value, count in values.items():
        counts[(value - low) // width] += count
    shown = (high - low) // width + 1
    tallest = max(counts.values())
    step = (WIDTH - LEFT) / shown
    parts = _axes(f"{tallest:,}", f"{low:,}", f"{low + shown * width - 1:,}")
    for place in range(shown):
        tall = (HEIGHT - TOP - BOTTOM) * counts[place] / tallest
        title = f"{low + place * width:,} to {low + (place + 1) * width - 1:,}: {counts[place]:,}"
        parts.append(
            f'<rect class="bar" x="{LEFT + place * step:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" '
            f'width="{max(1.0, step - 1.5):.1f}" height="{tall:.1f}"><title>{title}</title></rect>'
        )
    for name, value in marks.items():
        if low <= value <= low + shown * width:
            parts += _mark(LEFT + (value - low) / width * step, f"{name} {value:,}")
    return _svg(parts)


def curve(points: Sequence[tuple[float, float]], unit: str, top: float | None = None) -> str:
    """Values over seconds; `top` is the highest that there can be."""
    if not points:
        return "<p>none</p>"
    highest = top or max(y for _, y in points) or 1.0
    last = max(x for x, _ in points) or 1.0
    width, tall = WIDTH - LEFT, HEIGHT - TOP - BOTTOM
    line = " ".join(
        f"{LEFT + x / last * width:.1f},{HEIGHT - BOTTOM - min(1.0, y / highest) * tall:.1f}"
        for x, y in points
    )
    shown = f"{highest:.0%}" if unit == "%" else f"{short(highest)} {unit}"
    parts = _axes(shown, "0 s", f"{short(last)} s")
    return _svg([*parts, f'<polyline class="curve" points="{line}"/>'])


def shares(values: Mapping[str, float], most: float = 1.0) -> str:
    """A bar for each name, as long as its share of `most`."""
    rows = []
    for i, (name, value) in enumerate(values.items()):
        y, long = i * 24, 200 * min(1.0, value / most) if most else 0
        rows.append(
            f'<text x="0" y="{y + 16}">{escaped(name)}</text>'
            f'<rect class="bar" x="190" y="{y + 4}" width="{long:.1f}" height="15"/>'
            f'<text x="{196 + long:.1f}" y="{y + 16}">{value:.1%}</text>'
        )
    return _svg(rows, height=max(24, 24 * len(values)))


def strip(values: Sequence[float]) -> str:
    """Where something lies along a document: a cell for each value, the darker the more."""
    most = max(values, default=0.0) or 1.0
    width = WIDTH / max(1, len(values))
    cells = [
        f'<rect class="bar" x="{i * width:.2f}" width="{width + 0.3:.2f}" height="14" opacity="{max(0.04, v / most):.2f}">'
        f"<title>{v:.1%}</title></rect>"
        for i, v in enumerate(values)
    ]
    return _svg(cells, height=14)


def lengths_picture(lengths: Sequence[int], limit: int) -> str:
    """A picture file of the distribution of lengths, with the limit of what is read."""
    marks = {"limit": limit, "1k": 1024, "4k": 4096}
    plot = histogram(
        Counter(lengths), 40, {name: v for name, v in marks.items() if v <= max(lengths)} | {"limit": limit}
    )
    return plot.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        ">", f"><style>{STYLE}</style>", 1
    )


def _svg(parts: Sequence[str], height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(parts)}</svg>'


def _axes(highest: str, first: str, last: str) -> list[str]:
    floor = HEIGHT - BOTTOM
    return [
        f'<line class="axis" x1="{LEFT}" y1="{floor}" x2="{WIDTH}" y2="{floor}"/>',
        f'<line class="axis" x1="{LEFT}" y1="{TOP}" x2="{WIDTH}" y2="{TOP}"/>',
        f'<text x="{LEFT - 6}" y="{TOP + 5}" text-anchor="end">{escaped(highest)}</text>'
        if len(highest) < 7
        else f'<text x="0" y="{TOP - 1}">{escaped(highest)}</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 6}">{escaped(first)}</text>',
        f'<text x="{WIDTH}" y="{HEIGHT - 6}" text-anchor="end">{escaped(last)}</text>',
    ]


def _mark(x: float, name: str) -> list[str]:
    anchor, shift = ("end", -4) if x > WIDTH / 2 else ("start", 4)
    return [
        f'<line class="mark" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>',
        f'<text class="marked" x="{x + shift:.1f}" y="{TOP + 14}" text-anchor="{anchor}">{escaped(name)}</text>',
    ]
