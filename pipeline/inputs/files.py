"""Finding files, knowing them again, and opening them: on disks, on S3 and on the Hugging Face hub, through
fsspec.

A local file is known by the SHA-256 of its bytes, a remote one by the etag its store gives, so that nothing
is downloaded to be known. Endpoint, region and credentials come the libraries' ordinary way
(AWS_ENDPOINT_URL, AWS_PROFILE, HF_TOKEN and the like) and never stand in an address here.

Not here: what is in a file (formats.py).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from glob import has_magic
from pathlib import PurePosixPath
from typing import IO, Any
from urllib.parse import unquote

import fsspec
import pyarrow as pa

from pipeline.errors import CorruptInput, PipelineError, PlanMismatch, Unreachable, UsageError, one_line
from pipeline.inputs.listing import Info, files_below, files_matching, is_local, protocol_of
from pipeline.retry import retrying

REMOTE = ("s3", "s3a", "hf")

TEXT = ".txt"
JSON_LINES = (".jsonl", ".ndjson", ".json")
COMPRESSED = (".gz", ".zst")
PARQUET = ".parquet"

_ENDINGS = "these are .parquet, .jsonl, .ndjson and .json (also .gz and .zst) and .txt"
_S3_ADVICE = "check its address, the endpoint (AWS_ENDPOINT_URL) and the credentials"
_ADVICE = {"s3": _S3_ADVICE, "s3a": _S3_ADVICE, "hf": "check its address, the network and HF_TOKEN"}
_READ_AHEAD = 8 << 20
_AT_ONCE = 32  # requests to a store in flight while files are found


@dataclass(frozen=True)
class FileEntry:
    """A file as its listing shows it, or a folder of texts as one.

    `path` is absolute, or an address. `stamp` is what shows that a file may have changed without reading it:
    the time of change of a local file in nanoseconds, the etag of a remote one. `members` are a folder's
    texts, by their path in it.
    """

    path: str
    size: int
    stamp: str
    members: tuple[FileEntry, ...] = ()

    @property
    def remote(self) -> bool:
        """Is it in a store, not on a disk?"""
        return "://" in self.path


def format_suffix(path: str) -> str | None:
    """`.parquet`, `.jsonl` or `.txt` by the name's ending, a compression left out; None for any other
    file."""
    suffix = PurePosixPath(path).suffix
    if _uncompressed(path) in JSON_LINES:
        return JSON_LINES[0]
    return suffix if suffix in (PARQUET, TEXT) else None


def find_files(inputs: Sequence[str]) -> list[FileEntry]:
    """The files that paths, addresses, folders and globs name, sorted, each once; the texts of an input stand
    as one folder.

    In folders, names that start with `.` or `_` are passed over (by globs too, unless they say so), and so is
    `.json`, which is more often a description of a corpus than the corpus.

    Raises:
        UsageError: an input does not exist, cannot be listed, or names no file that can be read.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        listings = list(pool.map(_find, inputs))
    seen: set[str] = set()
    files: list[FileEntry] = []
    texts: dict[str, list[FileEntry]] = {}
    for root, listed in listings:
        for file in listed:
            if file.path not in seen:
                (texts.setdefault(root, []) if format_suffix(file.path) == TEXT else files).append(file)
            seen.add(file.path)
    folders = [text_folder(root, members) for root, members in texts.items()]
    return sorted([*files, *folders], key=lambda file: file.path)


def text_folder(root: str, texts: Sequence[FileEntry]) -> FileEntry:
    """The texts under `root` as one input: one document per file, in the order of their names."""
    root = root.rstrip("/") + "/"
    members = tuple(
        sorted(
            (FileEntry(t.path.removeprefix(root), t.size, t.stamp) for t in texts),
            key=lambda member: member.path,
        )
    )
    stamp = _hash_listing(f"{m.path}\t{m.size}\t{m.stamp}" for m in members)
    return FileEntry(root, sum(m.size for m in members), stamp, members)


def content_id(found: FileEntry) -> str:
    """What a file is, whatever it is called: `sha256:…` of its bytes or `etag:…`; of a folder, of all its
    texts.

    Raises:
        Unreachable: it cannot be read.
    """
    if found.members:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            contents = pool.map(
                content_id, [FileEntry(found.path + m.path, m.size, m.stamp) for m in found.members]
            )
            listing = [f"{m.path}\t{m.size}\t{c}" for m, c in zip(found.members, contents, strict=True)]
        return "sha256:" + _hash_listing(listing)
    if found.remote:
        return f"etag:{found.stamp}"
    with input_errors(found.path), open(found.path, "rb") as opened:
        return "sha256:" + hashlib.file_digest(opened, "sha256").hexdigest()


def check_unchanged(path: str, content: str) -> None:
    """See that a remote file is still the one that was planned. Of local files and folders of texts, only
    planning sees it.

    Raises:
        PlanMismatch: it has another etag.
        Unreachable: its store does not answer.
    """
    if not content.startswith("etag:"):
        return
    with input_errors(path):
        fs, name = fsspec.core.url_to_fs(path)
        fs.invalidate_cache()  # and not `refresh`, for which the hub's file system leaves the etag out
        now = content_id(_found(fs, retrying(lambda: fs.info(name))))
    if now != content:
        raise PlanMismatch(
            f"{path} was changed after it was planned; choose another --output to read it as it is now."
        )


def partitions(path: str) -> dict[str, str | None]:
    """The columns that a path's folders give in the manner of Hive: `…/year=2024/…` is `year`, as text."""
    pairs = [part.split("=", 1) for part in path.split("/")[:-1] if re.fullmatch(r"[^=]+=[^=]*", part)]
    return {key: None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for key, value in pairs}


@contextmanager
def open_file(path: str, *, exact: bool = False) -> Iterator[IO[bytes]]:
    """The file at a path or address. `exact` fetches just what is asked for; else reading runs ahead of the
    reader.

    Raises:
        OSError: it cannot be opened.
    """
    options: dict[str, Any] = {}
    if "://" in path:
        options = {"cache_type": "none"} if exact else {"cache_type": "readahead", "block_size": _READ_AHEAD}
    fs, name = fsspec.core.url_to_fs(path)
    with retrying(lambda: fs.open(name, "rb", **options)) as opened:
        yield opened


@contextmanager
def input_errors(what: str) -> Iterator[None]:
    """Names `what` in the error of whatever goes wrong inside, and tells bad bytes from a file that cannot be
    had.

    Raises:
        CorruptInput: the bytes are bad.
        Unreachable: it is gone, forbidden, or its store does not answer.
    """
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        # pyarrow raises a bare OSError without a number for bytes that make no sense.
        nonsense = type(error) is OSError and error.errno is None
        if nonsense or isinstance(error, pa.ArrowException | ValueError | EOFError):
            next_step = "repair or remove it, or pass over it with --on-bad-shard skip"
            raise CorruptInput(f"{what} cannot be read ({one_line(error)}); {next_step}.") from error
        raise Unreachable(
            f"{what} cannot be reached ({type(error).__name__}: {one_line(error)}); the same command goes on once it can."
        ) from error


def _find(given: str) -> tuple[str, list[FileEntry]]:
    """The folder that an input names, or that holds what it names; and its files."""
    scheme, _, rest = given.rpartition("://")
    if re.match(r"[^/]*:[^/]*@", rest):
        raise UsageError(
            f"an input on {scheme} carries credentials in its address; take them out and give them by environment, "
            "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    if scheme not in ("", "file", *REMOTE):
        raise UsageError(
            f"the input {given} is on {scheme}; inputs are local or mounted files, s3:// or hf://."
        )
    try:
        fs, path = fsspec.core.url_to_fs(given)
        return retrying(lambda: _list(fs, path, given))
    except UsageError:
        raise
    except Exception as error:
        says = f"{type(error).__name__}: {one_line(error)}"
        raise UsageError(
            f"the input {given} cannot be listed ({says}); {_ADVICE.get(scheme, 'check its permissions')}."
        ) from error


def _list(fs: Any, path: str, given: str) -> tuple[str, list[FileEntry]]:
    fs.invalidate_cache()
    try:
        info = fs.info(path)
    except FileNotFoundError:
        if not has_magic(path):
            hint = "name Parquet, JSON lines or text files, folders of them, or globs"
            raise UsageError(f"the input {given} does not exist; {hint}.") from None
        root, matching = files_matching(fs, path)
        inside = [info for info in matching if format_suffix(info["name"])]
    else:
        if info["type"] == "file":
            if format_suffix(path) is None:
                raise UsageError(f"the input {given} has no ending that says what it is; {_ENDINGS}.")
            root, inside = path.rpartition("/")[0], [info]
        else:
            # A hub's folder has other names than that of its listing.
            root, inside = info["name"].rstrip("/"), _one_kind(fs, info["name"].rstrip("/"), given)
    if not inside:
        hint = (
            ""
            if has_magic(path)
            else f" In a folder .json, and names that begin with _ or ., need a glob: {given}/*.json."
        )
        raise UsageError(f"the input {given} holds no file that can be read; {_ENDINGS}.{hint}")
    return _address(fs, root), [_found(fs, info) for info in inside]


def _one_kind(fs: Any, root: str, given: str) -> list[Info]:
    """The files under a folder, all of one kind."""
    kinds: dict[str, list[Info]] = {}
    for info in files_below(fs, root):
        kind = format_suffix(info["name"])
        if kind and _uncompressed(info["name"]) != ".json":
            kinds.setdefault(kind, []).append(info)
    if len(kinds) > 1:
        counts = " and ".join(f"{len(infos)} {kind}" for kind, infos in sorted(kinds.items()))
        raise UsageError(
            f"the folder {given} holds {counts} files; name those you mean with a glob such as {given}/**/*{min(kinds)}."
        )
    return next(iter(kinds.values()), [])


def _uncompressed(path: str) -> str:
    """The ending of a file's name, that of its compression left out."""
    name = PurePosixPath(path)
    return PurePosixPath(name.stem).suffix if name.suffix in COMPRESSED else name.suffix


def _hash_listing(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _found(fs: Any, info: Info) -> FileEntry:
    path = _address(fs, info["name"])
    if "://" not in path:
        stat = os.stat(path)
        return FileEntry(path, stat.st_size, str(stat.st_mtime_ns))
    etag = info.get("ETag") or info.get("blob_id")  # S3's name for it; the hub's
    if not etag:
        raise UsageError(
            f"{path} has no etag, so that a change of it would go unseen; copy it to a store that gives one."
        )
    return FileEntry(path, int(info["size"]), str(etag).strip('"'))


def _address(fs: Any, name: str) -> str:
    return name if is_local(fs) else f"{protocol_of(fs)}://{name}"
