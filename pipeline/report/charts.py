"""Charts of the report as SVG, in units of a page that is 480 wide. Pure functions.

Functions return `Markup` in which all texts are escaped. Colors come from the CSS variables of `STYLE`,
which has values for light and dark mode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from markupsafe import Markup

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 480, 170, 48, 12, 24

STYLE = Markup("""
:root { --ink:#1b1f24; --soft:#57606a; --line:#d0d7de; --page:#fff; --bar:#2f6f9f; --mark:#b3401a; }
@media (prefers-color-scheme: dark) {
  :root { --ink:#e6edf3; --soft:#9aa4ae; --line:#30363d; --page:#0d1117; --bar:#6cb2e6; --mark:#ff9d6c; }
}
svg { width: 100%; height: auto; display: block; }
svg text { font: 13px system-ui, sans-serif; fill: var(--soft); }
svg text.marked { fill: var(--mark); }
.bar { fill: var(--bar); }
.axis { stroke: var(--line); }
.mark { stroke: var(--mark); stroke-dasharray: 4 3; }
.curve { fill: none; stroke: var(--bar); stroke-width: 2; }
""")

_EMPTY = Markup("<p>none</p>")

_BAR = Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">{}</rect>')
_TITLE = Markup("<title>{}</title>")
_LINE = Markup('<line class="{}" x1="{:.1f}" y1="{}" x2="{:.1f}" y2="{}"/>')
_TEXT = Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{}</text>')
_MARKED = Markup('<text class="marked" x="{:.1f}" y="{}" text-anchor="{}">{}</text>')
_CURVE = Markup('<polyline class="curve" points="{}"/>')
_CELL = Markup(
    '<rect class="bar" x="{:.2f}" width="{:.2f}" height="14" opacity="{:.2f}"><title>{:.1%}</title></rect>'
)


def short(value: float) -> str:
    """A number in few characters, such as 1,234 or 12.3k or 0.12."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.2g}"


def histogram(values: Mapping[int, int], bins: int = 24, marks: Mapping[str, int] | None = None) -> Markup:
    """The distribution of whole numbers, given as counts by value. `marks` are values drawn as vertical
    lines, by name."""
    if not values:
        return _EMPTY
    marks = marks or {}
    low, high = min(values), max([*values, *(value for value in marks.values() if value <= 2 * max(values))])
    width = max(1, -(-(high - low + 1) // bins))
    counts: Counter[int] = Counter()
    for value, count in values.items():
        counts[(value - low) // width] += count
    bars = (high - low) // width + 1
    highest = max(counts.values())
    step = (WIDTH - LEFT) / bars
    parts = _axes(f"{highest:,}", f"{low:,}", f"{low + bars * width - 1:,}")
    for i in range(bars):
        height = (HEIGHT - TOP - BOTTOM) * counts[i] / highest
        title = _TITLE.format(f"{low + i * width:,} to {low + (i + 1) * width - 1:,}: {counts[i]:,}")
        x, y = LEFT + i * step, HEIGHT - BOTTOM - height
        parts.append(_BAR.format(x, y, max(1.0, step - 1.5), height, title))
    for name, value in marks.items():
        if low <= value <= low + bars * width:
            parts += _mark(LEFT + (value - low) / width * step, f"{name} {value:,}")
    return _svg(parts)


def curve(points: Sequence[tuple[float, float]], unit: str, top: float | None = None) -> Markup:
    """Values over time, as (seconds, value). `top` is the upper end of the axis, by default the largest
    value."""
    if not points:
        return _EMPTY
    highest = top or max(y for _, y in points) or 1.0
    last = max(x for x, _ in points) or 1.0
    width, height = WIDTH - LEFT, HEIGHT - TOP - BOTTOM
    line = " ".join(
        f"{LEFT + x / last * width:.1f},{HEIGHT - BOTTOM - min(1.0, y / highest) * height:.1f}"
        for x, y in points
    )
    label = f"{highest:.0%}" if unit == "%" else f"{short(highest)} {unit}"
    return _svg([*_axes(label, "0 s", f"{short(last)} s"), _CURVE.format(line)])


def shares(values: Mapping[str, float], largest: float = 1.0) -> Markup:
    """A horizontal bar for each share by name. A bar of `largest` has full length."""
    parts = []
    for i, (name, value) in enumerate(values.items()):
        y, length = i * 24, 200 * min(1.0, value / largest) if largest else 0
        parts += [
            _TEXT.format(0, y + 16, "start", name),
            _BAR.format(190, y + 4, length, 15, ""),
            _TEXT.format(196 + length, y + 16, "start", f"{value:.1%}"),
        ]
    return _svg(parts, height=max(24, 24 * len(values)))


def strip(values: Sequence[float]) -> Markup:
    """A profile along a document: a cell for each value, darker for larger values."""
    largest = max(values, default=0.0) or 1.0
    width = WIDTH / max(1, len(values))
    cells = [
        _CELL.format(i * width, width + 0.3, max(0.04, value / largest), value)
        for i, value in enumerate(values)
    ]
    return _svg(cells, height=14)


def lengths_picture(lengths: Sequence[int], limit: int) -> str:
    """The content of an SVG file with the distribution of document lengths and the input limit."""
    marks = {name: tokens for name, tokens in {"1k": 1024, "4k": 4096}.items() if tokens <= max(lengths)}
    picture = str(histogram(Counter(lengths), 40, {"limit": limit, **marks}))
    picture = picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return picture.replace(">", f"><style>{STYLE}</style>", 1)


def _svg(parts: Sequence[Markup], height: int = HEIGHT) -> Markup:
    content = Markup().join(parts)
    return Markup('<svg viewBox="0 0 {} {}" role="img">{}</svg>').format(WIDTH, height, content)


def _axes(highest: str, first: str, last: str) -> list[Markup]:
    """The axes with the highest value, and the first and last value of the horizontal axis."""
    floor = HEIGHT - BOTTOM
    return [
        _LINE.format("axis", LEFT, floor, WIDTH, floor),
        _LINE.format("axis", LEFT, TOP, WIDTH, TOP),
        # A long label does not fit beside the axis, so it goes above it.
        _TEXT.format(LEFT - 6, TOP + 5, "end", highest)
        if len(highest) < 7
        else _TEXT.format(0, TOP - 1, "start", highest),
        _TEXT.format(LEFT, HEIGHT - 6, "start", first),
        _TEXT.format(WIDTH, HEIGHT - 6, "end", last),
    ]


def _mark(x: float, label: str) -> list[Markup]:
    anchor, shift = ("end", -4) if x > WIDTH / 2 else ("start", 4)
    return [
        _LINE.format("mark", x, TOP, x, HEIGHT - BOTTOM),
        _MARKED.format(x + shift, TOP + 14, anchor, label),
    ]
