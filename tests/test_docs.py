"""The reference of the settings is what the dataclasses say."""

from __future__ import annotations

from pathlib import Path

from docs.make_settings import page


def test_the_settings_page_is_made_from_the_dataclasses() -> None:
    assert Path("docs/settings.md").read_text("utf-8") == page(), "run: python -m docs.make_settings > docs/settings.md"
