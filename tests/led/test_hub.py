"""A published checkpoint by name, against a local server that speaks the hub's API."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from led.hub import resolve

COMMIT = "1f" * 20
SCRIPT = """
import sys
from led.hub import resolve
try:
    found = resolve(sys.argv[1], *sys.argv[2:])
    print(found.folder, found.revision)
except FileNotFoundError as error:
    sys.exit(f"refused: {error}")
"""


class Hub(BaseHTTPRequestHandler):
    """Serves one model, `owner/model`; `owner/gated` asks for access; everything else is not found."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.asked.append(f"{self.command} {self.path}")
        parts = self.path.split("?")[0].strip("/").split("/")
        if "gated" in parts:
            return self._send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
        if parts[:4] == ["api", "models", "owner", "model"]:
            if parts[4:] == ["tree", COMMIT]:
                tree = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "0"} for p in self.folder.iterdir()]
                return self._send(200, json.dumps(tree).encode(), {}, body)
            if parts[4:] not in ([], ["revision", "main"], ["revision", COMMIT]):
                return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
            files = [{"rfilename": p.name} for p in sorted(self.folder.iterdir())]
            return self._send(200, json.dumps({"id": "owner/model", "sha": COMMIT, "siblings": files}).encode(), {}, body)
        if parts[:3] == ["owner", "model", "resolve"]:
            data = (self.folder / parts[4]).read_bytes()
            etag = hashlib.sha256(data).hexdigest()
            return self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body)
        return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data)), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(model_folder: Path, tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    Hub.folder, Hub.asked = model_folder, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()


def ask(server: ThreadingHTTPServer, home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
                "PYTHONPATH": str(Path(__file__).parents[2]), **more}  # fmt: skip
    return subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **settings})  # fmt: skip


def test_a_name_becomes_a_folder_pinned_to_its_commit_and_is_kept(
    hub: ThreadingHTTPServer, model_folder: Path, tmp_path: Path
) -> None:
    first = ask(hub, tmp_path, "owner/model")
    assert first.returncode == 0, first.stderr
    folder, revision = first.stdout.split()
    assert revision == COMMIT
    assert {p.name for p in Path(folder).iterdir()} == {p.name for p in model_folder.iterdir()}
    assert (Path(folder) / "model.safetensors").read_bytes() == (model_folder / "model.safetensors").read_bytes()
    Hub.asked.clear()
    offline = ask(hub, tmp_path, "owner/model", HF_HUB_OFFLINE="1")
    assert offline.stdout == first.stdout and not Hub.asked
    assert ask(hub, tmp_path, "owner/model", COMMIT).stdout == first.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["owner/none"], "the hub has no checkpoint owner/none"),
        (["owner/gated"], "owner/gated is gated: ask its owners"),
        (["owner/model", "v9"], "owner/model has no revision v9"),
    ],
)
def test_what_the_hub_refuses_is_said_plainly(
    arguments: list[str], says: str, hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    asked = ask(hub, tmp_path, *arguments)
    assert asked.returncode == 1 and f"refused: {says}" in asked.stderr, asked.stderr


def test_without_a_network_the_next_step_is_named(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    asked = ask(hub, tmp_path, "owner/model", HF_HUB_OFFLINE="1")
    assert "neither a folder here nor downloaded" in asked.stderr, asked.stderr


@pytest.mark.parametrize("model", ["no-such-folder", "./none", "/no/such/folder", "a/b/c"])
def test_what_is_no_name_is_a_missing_folder(model: str) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist; name a folder, or a checkpoint as owner/name"):
        resolve(model)
