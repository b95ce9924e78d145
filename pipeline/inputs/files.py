"""Find, identify and open input files on local disks, S3 and the Hugging Face hub, through fsspec.

The content ID of a local file is the SHA-256 of its bytes. That of a remote file is the etag of its store, so
nothing is downloaded to identify a file. The libraries take endpoint, region and credentials from the
environment (AWS_ENDPOINT_URL, AWS_PROFILE, HF_TOKEN). An address here never holds credentials.

This module does not read the content of files. `formats.py` does.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from glob import has_magic
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa

from pipeline.errors import (
    CorruptInput,
    PipelineError,
    PlanMismatch,
    Unreachable,
    UsageError,
    check_no_credentials,
    one_line,
    printable,
)
from pipeline.file_systems import REMOTE, locate
from pipeline.inputs.listing import Info, files_below, files_matching, is_hidden, is_local, protocol_of
from pipeline.remote import error_code, open_object, refusal, stat
from pipeline.retry import retrying
from pipeline.tables.open import is_delta, is_iceberg
from pipeline.tables.snapshot import read_snapshot

TEXT = ".txt"
JSON_LINES = (".jsonl", ".ndjson", ".json")
COMPRESSED = (".gz", ".zst")
PARQUET = ".parquet"

_ENDINGS = "names must end in .parquet, .jsonl, .ndjson or .json (also .gz and .zst), or .txt"
# What to do about formats that are not read but that many corpora have.
_NOT_READ = {
    ".csv": "CSV is not read; convert it to Parquet, for example with DuckDB or pandas",
    ".tsv": "TSV is not read; convert it to Parquet, for example with DuckDB or pandas",
    ".md": "Markdown is read as text if its names end in .txt",
    ".pdf": "PDF is not read; extract the text first",
    ".docx": "Word is not read; extract the text first",
    ".html": "HTML is not read; extract the text first",
}
_S3_ADVICE = "check its address, the endpoint (AWS_ENDPOINT_URL) and the credentials"
_ADVICE = {"s3": _S3_ADVICE, "s3a": _S3_ADVICE, "hf": "check its address, the network and HF_TOKEN"}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LARGEST_POINTER = 1024
_IS_UTF_16 = "it is not in UTF-8 but in UTF-16 or UTF-32"
_IS_LFS = "it is a Git LFS pointer, not the file itself"

# What is wrong with a file, by words in the error of a library: what to say, and what to do.
_CAUSES = (
    (_IS_UTF_16, "is not in UTF-8 but in UTF-16 or UTF-32", "convert it to UTF-8"),
    (_IS_LFS, "is a Git LFS pointer, not the file itself", "fetch the file with `git lfs pull`"),
    ("ncrypted", "is encrypted", "decrypt it first"),
    (
        "requires too much memory",
        "was compressed with a window of more than 128 MiB, as zstd --long=31 does",
        "compress it again without --long",
    ),
)

_MALFORMED = (pa.ArrowException, ValueError, EOFError, gzip.BadGzipFile, zlib.error)

_READ_AHEAD = 8 << 20
_AT_ONCE = 32  # parallel requests to a store


@dataclass(frozen=True)
class FileEntry:
    """An input file, or a folder of texts, as the listing has it.

    `path` is an absolute path or an address. A change of `stamp` means that the file may have changed. It is
    the modification time of a local file in nanoseconds, or the etag of a remote one. `members` are the texts
    of a folder, with paths relative to it.
    """

    path: str
    size: int
    stamp: str
    members: tuple[FileEntry, ...] = ()

    @property
    def remote(self) -> bool:
        """True if the file is in a store, not on a disk."""
        return "://" in self.path


class FoundFiles(NamedTuple):
    """The files of all inputs, and the paths of files in folders that are left out. `tables` has the version
    of each table by its address."""

    files: list[FileEntry]
    left_out: list[str]
    tables: dict[str, str]


class _Listing(NamedTuple):
    """The files of one input, the folder that holds them, the files in it that are left out, and the version
    of the snapshot if the input is a table."""

    root: str
    files: list[FileEntry]
    left_out: list[str]
    version: str | None = None


def format_suffix(path: str) -> str | None:
    """The format of a file by its name, in any case, without compression: `.parquet`, `.jsonl` or `.txt`.

    None for other files.
    """
    suffix = PurePosixPath(path).suffix.lower()
    if _uncompressed(path) in JSON_LINES:
        return JSON_LINES[0]
    return suffix if suffix in (PARQUET, TEXT) else None


def compression_of(path: str) -> str | None:
    """The compression of a file by its name, in any case: `.gz`, `.zst` or None."""
    suffix = PurePosixPath(path).suffix.lower()
    return suffix if suffix in COMPRESSED else None


def find_files(inputs: Sequence[str], tables: Mapping[str, str] | None = None) -> FoundFiles:
    """The files of all inputs, sorted, without duplicates. Inputs are paths, addresses, folders, globs and
    tables. `tables` has the versions of tables to read, by address, instead of the newest.

    The texts of one input become one folder. In folders, names that start with `.` or `_` are left out.
    Globs leave them out too, unless the pattern has such a name. Folders also leave out `.json` files,
    which usually describe a corpus.

    Raises:
        UsageError: an input does not exist, cannot be listed, has no readable file, or holds a table.
    """
    versions = tables or {}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        listings = list(pool.map(lambda given: _find(given, versions.get(given.rstrip("/"))), inputs))
    seen: set[str] = set()
    files: list[FileEntry] = []
    texts: dict[str, list[FileEntry]] = {}
    for listing in listings:
        for file in listing.files:
            if file.path not in seen:
                of_format = texts.setdefault(listing.root, []) if format_suffix(file.path) == TEXT else files
                of_format.append(file)
            seen.add(file.path)
    folders = [text_folder(root, members) for root, members in texts.items()]
    left_out = sorted({path for listing in listings for path in listing.left_out} - seen)
    pairs = zip(inputs, listings, strict=True)
    found = {given.rstrip("/"): listing.version for given, listing in pairs if listing.version is not None}
    return FoundFiles(sorted([*files, *folders], key=lambda file: file.path), left_out, found)


def text_folder(root: str, texts: Sequence[FileEntry]) -> FileEntry:
    """The texts below `root` as one input, with one document per file, sorted by name."""
    root = root.rstrip("/") + "/"
    members = tuple(
        sorted(
            (FileEntry(t.path.removeprefix(root), t.size, t.stamp) for t in texts),
            key=lambda member: member.path,
        )
    )
    stamp = _hash_listing(f"{m.path}\t{m.size}\t{m.stamp}" for m in members)
    return FileEntry(root, sum(m.size for m in members), stamp, members)


def content_id(entry: FileEntry) -> str:
    """The content ID of a file, `sha256:…` or `etag:…`, which its name does not change.

    The content ID of a folder covers all its texts.

    Raises:
        Unreachable: the file cannot be read.
    """
    if entry.members:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            contents = pool.map(
                content_id, [FileEntry(entry.path + m.path, m.size, m.stamp) for m in entry.members]
            )
            listing = [f"{m.path}\t{m.size}\t{c}" for m, c in zip(entry.members, contents, strict=True)]
        return "sha256:" + _hash_listing(listing)
    if entry.remote:
        return f"etag:{entry.stamp}"
    with input_errors(entry.path), open(entry.path, "rb") as opened:
        return "sha256:" + hashlib.file_digest(opened, "sha256").hexdigest()


def check_unchanged(path: str, content: str) -> None:
    """Check that a remote file has not changed since it was planned.

    Local files and folders of texts are compared only when a run is planned.

    Raises:
        PlanMismatch: the file has another etag.
        Unreachable: the store does not answer.
    """
    if not content.startswith("etag:"):
        return
    with input_errors(path):
        now = content_id(current_entry(path))
    if now != content:
        raise PlanMismatch(
            f"{path} was changed after it was planned; choose another --output to read the new content."
        )


def check_same_content(path: str, content: str) -> None:
    """Check that a file, also one on a local disk, has the same content as when it was planned.

    Raises:
        PlanMismatch: it has another.
        Unreachable: it cannot be read.
    """
    check_unchanged(path, content)
    if content.startswith("sha256:") and not path.endswith("/"):
        now = content_id(current_entry(path))
        if now != content:
            raise PlanMismatch(f"{path} was changed after it was planned.")


def current_entry(path: str) -> FileEntry:
    """A file as it is now."""
    fs, name = locate(path)
    fs.invalidate_cache()  # with `refresh`, the hub's file system would leave the etag out
    return _entry(fs, retrying(lambda: stat(fs, name)))


def partitions(path: str) -> dict[str, str | None]:
    """The Hive columns of a path: `…/year=2024/…` has the column `year` with the text `2024`."""
    path = printable(path)
    pairs = [part.split("=", 1) for part in path.split("/")[:-1] if re.fullmatch(r"[^=]+=[^=]*", part)]
    return {key: None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for key, value in pairs}


@contextmanager
def open_file(path: str, *, exact: bool = False) -> Iterator[IO[bytes]]:
    """Open the file at a path or address. With `exact`, only the requested bytes are fetched, without
    read-ahead.

    Raises:
        OSError: the file cannot be opened.
    """
    fs, name = locate(path)
    if getattr(fs, "async_impl", False):
        found = retrying(lambda: stat(fs, name))
        with open_object(fs, name, found, 0 if exact else _READ_AHEAD) as opened:
            yield opened
        return
    options: dict[str, Any] = {}
    if not is_local(fs):
        options = {"cache_type": "none"} if exact else {"cache_type": "readahead", "block_size": _READ_AHEAD}
    with retrying(lambda: fs.open(name, "rb", **options)) as opened:
        yield opened


@contextmanager
def input_errors(what: str) -> Iterator[None]:
    """Raise any error inside as one of this package that names `what`.

    Raises:
        CorruptInput: the bytes are bad.
        Unreachable: the file is gone or forbidden, or its store does not answer.
    """
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        what = printable(what)
        if error_code(error) == "PreconditionFailed":
            raise PlanMismatch(
                f"{what} was changed while it was read; choose another --output to read the new content."
            ) from error
        for sign, cause, remedy in _CAUSES:
            if sign in str(error):
                raise CorruptInput(
                    f"{what} {cause}; {remedy}, or skip it with --on-bad-shard skip."
                ) from error
        # For malformed bytes, pyarrow raises a bare OSError without a number.
        malformed = type(error) is OSError and error.errno is None
        if malformed or isinstance(error, _MALFORMED):
            next_step = "repair or remove it, or skip it with --on-bad-shard skip"
            raise CorruptInput(f"{what} cannot be read ({one_line(error)}); {next_step}.") from error
        said, cure = refusal(error)
        then = f"{cure[0].upper()}{cure[1:]}" if cure else "Once it can be reached"
        raise Unreachable(
            f"{what} cannot be reached ({type(error).__name__}: {said}). {then}, rerun the same command "
            "to resume."
        ) from error


def check_no_pointer(entry: FileEntry) -> None:
    """Check that a file is not the pointer that Git LFS leaves in its place.

    Raises:
        ValueError: it is.
    """
    if not entry.members and 0 < entry.size <= _LARGEST_POINTER:
        with open_file(entry.path, exact=True) as opened:
            if opened.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise ValueError(_IS_LFS)


def check_text_start(start: bytes) -> None:
    """Check that the first bytes of a file are those of a text in UTF-8, not of another kind of file.

    Raises:
        ValueError: they are of UTF-16 or UTF-32, or of a Git LFS pointer.
    """
    if start.startswith(_LFS_POINTER):
        raise ValueError(_IS_LFS)
    # In UTF-16 and UTF-32, at least every other byte of ASCII text is zero.
    zeros = [start[i : i + 3 : 2] == b"\0\0" for i in (0, 1)]
    if start.startswith(_UTF_16) or (any(zeros) and any(start[:4])):
        raise ValueError(_IS_UTF_16)


def _find(given: str, version: str | None) -> _Listing:
    """The files of an input. `version` is that of a table to read."""
    scheme = given.partition("://")[0] if "://" in given else ""
    check_no_credentials(given, "--input")
    if scheme not in ("", "file", *REMOTE) and not is_iceberg(given):
        raise UsageError(
            f"the input {given} is on {scheme}; inputs must be local or mounted files, s3:// or hf://."
        )
    try:
        if is_iceberg(given):
            return _of_table(given, version)
        fs, path = locate(given)
        may_be_table = not has_magic(path) and format_suffix(path) is None
        if may_be_table and retrying(lambda: is_delta(given)):
            return _of_table(given, version)
        return retrying(lambda: _list(fs, path, given))
    except UsageError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UsageError(
            f"the input {given} cannot be listed ({reason}); {_ADVICE.get(scheme, 'check its permissions')}."
        ) from error


def _of_table(given: str, version: str | None) -> _Listing:
    """The files of a snapshot of a table."""
    snapshot = read_snapshot(given, version)
    if not snapshot.files:
        raise UsageError(f"the table {given} has no rows.")

    def entry(address: str) -> FileEntry:
        fs, name = locate(address)
        return _entry(fs, retrying(lambda: stat(fs, name)))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return _Listing(given, list(pool.map(entry, snapshot.files)), [], snapshot.version)


def _list(fs: Any, path: str, given: str) -> _Listing:
    fs.invalidate_cache()
    left_out: list[Info] = []
    try:
        info = stat(fs, path)
        # A store may have an empty object of the same name as a folder.
        if info["type"] == "file" and not info["size"] and format_suffix(path) is None and not is_local(fs):
            below = fs.ls(path + "/", detail=True)
            info = {"name": path, "type": "directory"} if below else info
    except FileNotFoundError:
        if not has_magic(path):
            hint = "give Parquet, JSON lines or text files, folders of them, or globs"
            raise UsageError(f"the input {given} does not exist; {hint}.") from None
        root, matching = files_matching(fs, path)
        inside = [info for info in matching if format_suffix(info["name"])]
        left_out = [info for info in matching if not format_suffix(info["name"])]
    else:
        if info["type"] == "file":
            if format_suffix(path) is None:
                note = _NOT_READ.get(
                    PurePosixPath(path).suffix.lower(), "it has no known file name extension"
                )
                raise UsageError(f"the input {given} cannot be read: {note}. {_ENDINGS.capitalize()}.")
            root, inside = path.rpartition("/")[0], [info]
        else:
            # On the hub, a folder's name in the listing differs from the requested one.
            root = info["name"].rstrip("/")
            inside, left_out = _one_format(fs, root, given)
    if not inside:
        hint = f" For .json files, and for names that begin with _ or ., use a glob: {given}/*.json."
        hint = "" if has_magic(path) else hint
        found = {PurePosixPath(info["name"]).suffix.lower() for info in left_out}
        notes = "".join(f" {note}." for suffix, note in _NOT_READ.items() if suffix in found)
        raise UsageError(f"the input {given} holds no file that can be read; {_ENDINGS}.{notes}{hint}")
    files = [_entry(fs, info) for info in inside]
    return _Listing(_address(fs, root), files, [_address(fs, info["name"]) for info in left_out])


def _one_format(fs: Any, root: str, given: str) -> tuple[list[Info], list[Info]]:
    """The files below a folder, which must have one format, and those that are left out."""
    kinds: dict[str, list[Info]] = {}
    left_out: list[Info] = []
    for info in files_below(fs, root):
        kind = format_suffix(info["name"])
        if is_hidden(info["name"], root):
            left_out += [info] if kind else []
        elif kind and _uncompressed(info["name"]) != ".json":
            kinds.setdefault(kind, []).append(info)
        else:
            left_out.append(info)
    if len(kinds) > 1:
        counts = " and ".join(f"{len(infos)} {kind}" for kind, infos in sorted(kinds.items()))
        raise UsageError(
            f"the folder {given} holds {counts} files; choose one format with a glob such as "
            f"{given}/**/*{min(kinds)}."
        )
    return next(iter(kinds.values()), []), left_out


def _uncompressed(path: str) -> str:
    """The extension of a file name, without that of a compression."""
    name = PurePosixPath(path)
    suffix = PurePosixPath(name.stem).suffix if compression_of(path) else name.suffix
    return suffix.lower()


def _hash_listing(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _entry(fs: Any, info: Info) -> FileEntry:
    path = _address(fs, info["name"])
    if "://" not in path:
        stat = os.stat(path)
        return FileEntry(path, stat.st_size, str(stat.st_mtime_ns))
    etag = info.get("ETag") or info.get("blob_id")  # the names that S3 and the hub use
    if not etag:
        raise UsageError(
            f"{path} has no etag, so a change could not be detected; copy it to a store that has etags."
        )
    return FileEntry(path, int(info["size"]), str(etag).strip('"'))


def _address(fs: Any, name: str) -> str:
    return name if is_local(fs) else f"{protocol_of(fs)}://{name}"
