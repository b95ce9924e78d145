"""The README: its snippet runs, what it names exists, and it stays short."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from docs.make_settings import SECTIONS
from pipeline.settings import RunSettings
from tests.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_python_snippet_runs() -> None:
    [snippet] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 50


def test_make_targets_and_flags_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    used = set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE))
    assert {"demo", "test"} <= used <= targets
    names = {field.name for kind in (RunSettings, *SECTIONS.values()) for field in fields(kind)}
    flags = {flag.replace("-", "_") for flag in re.findall(r"`--([a-z-]+)", README)}
    assert flags <= names


def test_it_is_short_and_has_no_absolute_paths() -> None:
    assert len(README.splitlines()) <= 120
    assert not re.search(r"(?<![\w.])/(?:work|tmp|root)/", README)
