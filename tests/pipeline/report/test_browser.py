"""The report as a browser shows it, on a telephone and on a desk, in light and dark; needs Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.pipeline.test_report import HOSTILE, whole_page

from tests.pipeline.browser import CHROMIUM, look_at

PAPER = {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
def test_a_browser_shows_all_of_it_and_runs_nothing_of_its_texts(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(whole_page(), "utf-8")
    for look in look_at(path, tmp_path / "profile", (400, 1400), ("light", "dark")):
        (tmp_path / f"{look.width}-{look.scheme}.png").write_bytes(look.picture)  # for people to look at
        seen = look.page
        assert look.errors == []
        assert seen["title"] == "Run report" and HOSTILE in seen["text"], "texts are shown as they are"
        assert seen["wide"] <= look.width, "nothing is wider than the window"
        assert len(seen["plots"]) > 50 and all(
            wide > 100 and high > 10 and shapes for wide, high, shapes in seen["plots"]
        )
        assert seen["paper"] == PAPER[look.scheme]
