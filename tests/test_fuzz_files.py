"""Changed files are read or refused. `python -m tests.fuzz_files` tries many more."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz_files import fuzz, targets


def test_changed_files_are_read_or_refused(tmp_path: Path) -> None:
    for target, place in targets(tmp_path):
        assert fuzz(target, place, 100).total() == 100
