"""The report in a browser: narrow and wide windows, light and dark mode. Needs Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.browser import CHROMIUM, look_at
from tests.pipeline.report.test_page import MALICIOUS, full_page

PAPER = {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
def test_a_browser_shows_the_whole_page_and_runs_no_document(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(full_page(), "utf-8")
    for look in look_at(path, tmp_path / "profile", (400, 1400), ("light", "dark")):
        (tmp_path / f"{look.width}-{look.scheme}.png").write_bytes(look.picture)  # for manual inspection
        seen = look.page
        assert look.errors == []
        assert seen["title"] == "Run report" and MALICIOUS in seen["text"], "texts appear unchanged"
        assert seen["wide"] <= look.width, "the page fits the window"
        assert len(seen["plots"]) > 50 and all(
            wide > 100 and high > 10 and shapes for wide, high, shapes in seen["plots"]
        )
        assert seen["paper"] == PAPER[look.scheme]
