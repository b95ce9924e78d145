"""Charts: every value is counted, marks are in the right place, empty input is no error."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from pipeline.report.charts import curve, histogram, lengths_picture, shares, short, strip


def test_a_histogram_counts_every_value() -> None:
    svg = histogram({1: 2, 5: 1, 100: 3}, marks={"limit": 50, "far": 10_000})
    counts = [int(part.split(":")[1].split("<")[0]) for part in svg.split("<title>")[1:]]
    assert sum(counts) == 6 and max(counts) == 3
    assert "limit 50" in svg and "far" not in svg
    assert histogram({}) == "<p>none</p>" and "<rect" in histogram({7: 1})


@pytest.mark.parametrize(
    "svg",
    [
        histogram({1: 2, 900: 1}, marks={"limit": 512}),
        curve([(0, 1.0), (5, 3.5)], "/s"),
        curve([(0, 0.0)], "%", 1.0),
        shares({"<b>": 0.5, "x": 0.0}),
        strip([0.1, 0.9]),
        strip([]),
        lengths_picture([100, 2000, 5000], 4096),
    ],
)
def test_charts_are_valid_svg_within_their_frame(svg: str) -> None:
    root = ElementTree.fromstring(svg)
    box = [float(v) for v in root.attrib["viewBox"].split()]
    for x, width in re.findall(r'<rect[^>]* x="([-.\d]+)"[^>]* width="([-.\d]+)"', svg):
        assert float(x) >= -1 and float(x) + float(width) <= box[2] + 2


def test_an_empty_curve_and_short_numbers() -> None:
    assert curve([], "/s") == "<p>none</p>"
    assert [short(x) for x in (0.123, 7.0, 1234.0, 12_345.0, 2.5e6)] == [
        "0.12",
        "7",
        "1,234",
        "12.3k",
        "2.5M",
    ]


def test_texts_are_escaped() -> None:
    for svg in (shares({"<a>": 0.5}), histogram({7: 1}, marks={"<a>": 7}), curve([(0, 1.0)], "<a>")):
        assert "&lt;a&gt;" in svg and "<a>" not in svg
