"""Every file of a folder or a glob is found, through links. A folder that cannot be listed is an error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs

from pipeline.errors import UsageError
from pipeline.inputs.files import find_files
from pipeline.inputs.listing import files_below, files_matching

LOCAL = fsspec.filesystem("file")


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def names(root: Path, infos: Any) -> list[str]:
    return sorted(info["name"].removeprefix(f"{root}/") for info in infos)


def test_links_are_followed(tmp_path: Path) -> None:
    elsewhere = tree(tmp_path / "elsewhere", "a.txt", "deep/b.txt")
    corpus = tree(tmp_path / "corpus", "c.txt")
    (corpus / "a.txt").symlink_to(elsewhere / "a.txt")
    (corpus / "more").symlink_to(elsewhere / "deep")
    assert names(corpus, files_below(LOCAL, str(corpus))) == ["a.txt", "c.txt", "more/b.txt"]
    for pattern, expected in (
        ("*.txt", ["a.txt", "c.txt"]),
        ("*/*.txt", ["more/b.txt"]),
        ("none/*.txt", []),
        ("**/*.txt", ["a.txt", "c.txt", "more/b.txt"]),
        ("m*/b.txt", ["more/b.txt"]),
        ("[ab].*", ["a.txt"]),
    ):
        _, matching = files_matching(LOCAL, f"{corpus}/{pattern}")
        assert names(corpus, matching) == expected, pattern


def test_a_cycle_of_links_and_a_broken_link_are_errors(tmp_path: Path) -> None:
    corpus = tree(tmp_path / "corpus", "a.txt")
    (corpus / "again").symlink_to(corpus)
    with pytest.raises(UsageError, match=r"cannot be listed .*symbolic links"):
        find_files([str(corpus)])
    (corpus / "again").unlink()
    (corpus / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"cannot be listed .*gone\.txt"):
        find_files([str(corpus)])


def test_hidden_names_are_left_out_unless_a_glob_has_them(tmp_path: Path) -> None:
    corpus = tree(tmp_path / "corpus", "a.txt", "_b.txt", ".c/d.txt", "_e/f.txt")
    assert names(corpus, files_below(LOCAL, str(corpus))) == ["_b.txt", "a.txt"]
    found = find_files([str(corpus)])
    assert [member.path for member in found.files[0].members] == ["a.txt"]
    assert found.left_out == [f"{corpus}/_b.txt"]
    for pattern, expected in (
        ("**", ["a.txt"]),
        ("*.txt", ["a.txt"]),
        ("_*.txt", ["_b.txt"]),
        ("_e/*", ["_e/f.txt"]),
    ):
        assert names(corpus, files_matching(LOCAL, f"{corpus}/{pattern}")[1]) == expected, pattern


@pytest.mark.parametrize("pattern", ["", "/*/*.txt", "/**/*.txt"])
def test_a_folder_without_read_permission_is_an_error(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, scandir = tree(tmp_path / "corpus", "a.txt", "2024/b.txt", "_private/c.txt"), os.scandir

    def refused(folder: Any) -> Any:
        if Path(folder).name in ("2024", "_private"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(
        UsageError, match=r"cannot be listed \(PermissionError: .*2024'\); check its permissions"
    ):
        find_files([f"{corpus}{pattern}"])


def test_a_folder_that_a_store_does_not_list_is_an_error(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = s3fs.S3FileSystem()
    for name in ("a.txt", "2023/b.txt", "2024/c.txt", "2024/_d/e.txt"):
        fs.pipe_file(f"{s3_bucket}/{name}", b"x")
    bucket = s3_bucket.removeprefix("s3://")
    for pattern, expected in (
        ("/*.txt", ["a.txt"]),
        ("/*/*.txt", ["2023/b.txt", "2024/c.txt"]),
        ("/202[4]/*", ["2024/c.txt"]),
        ("/**/*.txt", ["2023/b.txt", "2024/c.txt", "a.txt"]),
        ("/none/*", []),
    ):
        assert names(Path(bucket), files_matching(fs, bucket + pattern)[1]) == expected, pattern
    listing = s3fs.S3FileSystem._lsdir

    async def refused(self: Any, path: str, *args: Any, **given: Any) -> Any:
        if "2024" in path:
            raise PermissionError("Access Denied")
        return await listing(self, path, *args, **given)

    monkeypatch.setattr(s3fs.S3FileSystem, "_lsdir", refused)
    with pytest.raises(
        UsageError, match=r"cannot be listed \(PermissionError: Access Denied\); check its address"
    ):
        find_files([f"{s3_bucket}/*/*.txt"])
