"""Errors of output folders name the folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.output import local
from pipeline.output.local import LocalStore


def refused(*_: Any, **__: Any) -> Any:
    raise PermissionError(13, "Permission denied")


def test_a_folder_under_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = LocalStore(tmp_path / "file" / "out")
    for call in (store.names, lambda: store.read("a")):
        with pytest.raises(
            UsageError,
            match=r"the output folder .*/file/out cannot be used \(Not a directory\); give another",
        ):
            call()


@pytest.mark.parametrize(("module", "name"), [(os, "scandir"), (local, "_ResultFile"), (Path, "is_file")])
def test_a_folder_that_is_forbidden_is_named(
    module: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LocalStore(tmp_path).create("a", b"x")
    with (
        monkeypatch.context() as patch,
        pytest.raises(UsageError, match=r"cannot be used \(Permission denied\); give another"),
    ):
        patch.setattr(module, name, refused)
        store = LocalStore(tmp_path)
        store.names()
        store.read("a")
