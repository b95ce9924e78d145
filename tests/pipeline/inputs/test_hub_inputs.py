"""Inputs on hf://, read with the real `huggingface_hub` from a local server with the hub's API."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.waiting import HANG_S

ROOT = Path(__file__).parents[3]
COMMIT = "1f" * 20

SCRIPT = """
import json, sys
from pipeline.errors import PipelineError
from pipeline.inputs.files import check_unchanged, content_id, find_files
from pipeline.inputs.read import inspect_file, read_rows
from pipeline.inputs.splits import Split
replies = []
for given in json.loads(sys.argv[1]):
    try:
        files = find_files([given]).files
        for file in files:
            inspected = inspect_file(file, 10, {}, skip_bad=False, max_bytes=1 << 20)
            check_unchanged(file.path, content_id(file))
            split = Split(0, inspected.file.rows, members=inspected.splits[0].members)
            texts = read_rows(file.path, split, "text", ["text"], 1 << 20).table["text"].to_pylist()
            texts = [text.decode() if isinstance(text, bytes) else text for text in texts]
            replies.append([file.path, texts])
    except PipelineError as error:
        replies.append(str(error))
files = find_files(["hf://datasets/who/what/data/a.parquet"]).files
try:
    check_unchanged(files[0].path, "etag:another")
except PipelineError as error:
    replies.append(str(error))
print(json.dumps(replies))
"""


class Hub(BaseHTTPRequestHandler):
    """One dataset, `who/what`, with one branch."""

    files: dict[str, bytes]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0].strip("/"))
        answers = {
            r"api/datasets/who/what(/revision/\w+)?": self.about,
            r"api/datasets/who/what/tree/\w+/?(.*)": self.tree,
            r"datasets/who/what/resolve/\w+/(.*)": self.bytes_of,
        }
        for pattern, answer in answers.items():
            if found := re.fullmatch(pattern, path):
                return answer(found[1] or "")
        self.give(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def about(self, _: str) -> None:
        self.give(200, json.dumps({"id": "who/what", "sha": COMMIT, "siblings": []}).encode())

    def tree(self, folder: str) -> None:
        """The entries of a folder, or all files below it if the request is recursive."""
        inside = {
            name: data for name, data in self.files.items() if not folder or name.startswith(f"{folder}/")
        }
        entries: dict[str, dict[str, Any]] = {}
        for name, data in inside.items():
            top = name[len(folder) :].strip("/").split("/")[0]
            if (
                top == name.rpartition("/")[2]
                or "recursive=True" in self.path
                or "recursive=true" in self.path
            ):
                entries[name] = {
                    "type": "file",
                    "path": name,
                    "size": len(data),
                    "oid": hashlib.sha1(data).hexdigest(),
                }
            else:
                entries[top] = {
                    "type": "directory",
                    "path": f"{folder}/{top}".strip("/"),
                    "size": 0,
                    "oid": "0" * 40,
                }
        if not inside:
            return self.give(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        self.give(200, json.dumps(list(entries.values())).encode())

    def bytes_of(self, name: str) -> None:
        data, asked = self.files[name], re.findall(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        etag = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if not asked:
            return self.give(200, data, etag)
        start, stop = int(asked[0][0]), int(asked[0][1] or len(data) - 1) + 1
        self.give(206, data[start:stop], {**etag, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})

    def give(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Callable[..., list[Any]]]:
    """A function that reads inputs in a process of its own."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["one", "two"]}), sink)
    lines = b'{"text": "three"}\n{"text": "four"}\n'
    files = {
        "data/a.parquet": sink.getvalue().to_pybytes(),
        "data/deep/b.jsonl": lines,
        "texts/c.txt": b"five",
        "README.md": b"x",
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Hub,), {"files": files}))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    inherited = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()
    }
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(ROOT),
    }

    def read(*inputs: str) -> list[Any]:
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, json.dumps(inputs)]
        done = subprocess.run(
            command,
            env={**inherited, **settings},
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        replies: list[Any] = json.loads(done.stdout.splitlines()[-1])
        return replies

    yield read
    server.shutdown()
    server.server_close()


def test_a_published_corpus_is_found_read_and_checked_for_changes(read: Callable[..., list[Any]]) -> None:
    root = "hf://datasets/who/what"
    parquet, lines = (
        [f"{root}/data/a.parquet", ["one", "two"]],
        [f"{root}/data/deep/b.jsonl", ["three", "four"]],
    )
    replies = read(
        f"{root}/data/a.parquet",
        f"{root}/data/*.parquet",
        f"{root}/*/*/*.jsonl",
        f"{root}/**/*.jsonl",
        f"{root}/texts",
        f"{root}/data/none*.parquet",
        f"{root}/data",
    )
    assert replies[:5] == [parquet, parquet, lines, lines, [f"{root}/texts/", ["five"]]]
    assert (
        "holds no file that can be read" in replies[5] and "holds 1 .jsonl and 1 .parquet files" in replies[6]
    )
    assert f"{root}/data/a.parquet was changed after it was planned" in replies[7] and len(replies) == 8
