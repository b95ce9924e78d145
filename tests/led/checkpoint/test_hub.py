"""Published checkpoints by name, against a local server that implements the hub's API.

Each download runs in a process of its own with the real `huggingface_hub`. Only its pauses are shortened,
since it has no setting for them. Weights are on a second server, as with the hub, and that server must never
receive the token.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import led
from led.checkpoint import hub as led_hub
from led.checkpoint.files import ADAPTER_WEIGHTS, WEIGHT_FILES
from led.checkpoint.hub import resolve
from led.config import LEDConfig
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.tokenizer.tokenizer import LEDTokenizer
from tests.waiting import HANG_S, wait_until

FIRST, SECOND = "1f" * 20, "2e" * 20
TOKEN = "hf_SecretSecretSecretSecretSecretSec"
# `huggingface_hub` writes what it receives in pieces of this size; only whole ones outlive a cut.
PIECE = 10 * 2**20
SMALL = {
    "config.json": b"{}",
    "special_tokens_map.json": b'{"pad_token": "<pad>"}',
    "vocab.json": b'{"a": 0}',
    "merges.txt": b"#version: 0.2",
}

# `led.checkpoint.hub` alone, without torch: a process starts in a third of a second.
SCRIPT = """
import importlib.util, json, resource, sys, time, traceback
spec = importlib.util.spec_from_file_location("hub", sys.argv[1])
sys.modules["hub"] = hub = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hub)
sleep, pauses = time.sleep, []
time.sleep = lambda seconds: (pauses.append(seconds), sleep(min(seconds, 0.01)))
options = json.loads(sys.argv[2])
if largest := options.pop("largest_file", None):
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
said = {}
try:
    found = hub.resolve(**options)
    said = {"folder": str(found.folder), "revision": found.revision}
except FileNotFoundError as error:
    traceback.print_exc()
    said = {"refused": str(error)}
print(json.dumps({**said, "pauses": pauses}))
"""


@dataclass
class Answer:
    folder: Path = Path()
    revision: str | None = None
    refused: str = ""
    pauses: list[float] = field(default_factory=list)
    stderr: str = ""

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


@dataclass
class Asked:
    """A request: its purpose, its first byte, and its token."""

    method: str
    path: str
    start: int
    token: str


@dataclass
class Split:
    """After how many bytes of a body the connection ends, and how: closed, reset, or held until `release`."""

    after: int
    reset: bool = False
    hold: bool = False


class Hub:
    """One model, `owner/model`, with commits and branches, and `owner/adapter`, whose branch is `adapter`. It
    refuses `owner/gated` and `owner/private`."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {FIRST: {**SMALL, "model.safetensors": b"weights"}}
        self.refs = {"main": FIRST}
        self.asked: list[Asked] = []
        self.splits: Iterator[Split] = iter(())
        self.failing: dict[str, Iterator[int]] = {}
        self.headers: dict[str, str] = {}
        self.silent = False
        self.held, self.release = threading.Event(), threading.Event()
        handler = type("Handler", (Handler,), {"hub": self})
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self.url, self.cdn = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.release.set()
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def publish(self, commit: str, files: dict[str, bytes]) -> None:
        self.commits[commit] = files
        self.refs["main"] = commit

    def downloaded(self) -> list[str]:
        """The files whose bytes were requested, in alphabetical order."""
        return sorted(
            {
                a.path.rpartition("/")[2]
                for a in self.asked
                if a.method == "GET" and not a.path.startswith("/api")
            }
        )

    def starts(self) -> list[int]:
        """The first byte of each request for weights."""
        return [a.start for a in self.asked if a.method == "GET" and a.path.startswith("/cdn")]


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.split("?")[0]
        start = int((re.findall(r"bytes=(\d+)-", self.headers.get("Range", "")) or ["0"])[0])
        if "/owner/" not in path and not path.startswith("/cdn/"):
            # What `huggingface_hub` looks up for itself once a day is not what is tested here.
            return self.send(404, b"{}", {})
        self.hub.asked.append(Asked(self.command, path, start, self.headers.get("Authorization", "")))
        for prefix, statuses in self.hub.failing.items():
            if path.startswith(prefix) and (status := next(statuses, None)):
                return self.send(status, b"{}", self.hub.headers)
        if self.hub.silent:
            self.hub.release.wait(HANG_S)
        match path.strip("/").split("/"):
            case ["api", "models", "owner", "model", *rest]:
                self.describe(rest, "main")
            case ["api", "models", "owner", "adapter", *rest]:
                self.describe(rest, "adapter")
            case ["owner", "model" | "adapter", "resolve", commit, name]:
                self.point_to(commit, name)
            case ["cdn", commit, name]:
                self.hand_out(self.hub.commits[commit][name], start)
            case ["api", "models", "owner", "gated", *_]:
                self.send(403, b"{}", {"X-Error-Code": "GatedRepo"})
            case ["api", "models", "owner", "private", *_]:
                self.send(401, b'{"error": "Invalid username or password."}', {})
            case _:
                self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def describe(self, rest: list[str], branch: str) -> None:
        """The contents of a commit, as a model or as a tree. `branch` is what the hub calls main."""
        name = rest[1] if len(rest) == 2 and rest[1] != "main" else branch
        commit = self.hub.refs.get(name, name)
        if commit not in self.hub.commits:
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = self.hub.commits[commit]
        if rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": p, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                for p, b in files.items()
            ]
            return self.send(200, json.dumps(tree).encode(), {})
        model = {"id": "owner/model", "sha": commit, "siblings": [{"rfilename": p} for p in files]}
        self.send(200, json.dumps(model).encode(), {})

    def point_to(self, commit: str, name: str) -> None:
        """A small file itself, or where the weights are."""
        data = self.hub.commits[commit][name]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit}
        if not name.endswith((".safetensors", ".bin", ".h5")):
            return self.send(200, data, headers)
        there = {
            "Location": f"{self.hub.cdn}/cdn/{commit}/{name}",
            "X-Linked-Size": str(len(data)),
            "X-Linked-ETag": headers["ETag"],
        }
        self.send(302, b"", {**headers, **there})

    def hand_out(self, data: bytes, start: int) -> None:
        """Send bytes from `start` on, up to the next split."""
        part = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        self.send_head(206 if start else 200, len(data) - start, part)
        truncate = next(self.hub.splits, None)
        self.wfile.write(data[start : start + truncate.after] if truncate else data[start:])
        if truncate and truncate.hold:
            self.hub.held.set()
            self.hub.release.wait(HANG_S)
        if truncate and truncate.reset:
            # A socket that lingers for no time says RST instead of FIN when it is closed.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(self.connection.detach())
        self.close_connection = True

    def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_head(status, len(data), {"Content-Type": "application/json", **headers})
        if self.command == "GET":
            self.wfile.write(data)

    def send_head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def start(hub: Hub, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `resolve` with the given arguments in a new process."""

    def start(
        model: str = "owner/model", environment: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        inherited = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()
        }
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **(environment or {}),
        }
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, led_hub.__file__, json.dumps({"model": model, **options})],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**inherited, **settings},
        )

    return start


@pytest.fixture
def ask(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., Answer]:
    """The result of `resolve` in a process of its own."""

    def ask(model: str = "owner/model", environment: dict[str, str] | None = None, **options: Any) -> Answer:
        process = start(model, environment, **options)
        stdout, stderr = process.communicate(timeout=HANG_S)
        assert process.returncode == 0, stderr
        said = json.loads(stdout.splitlines()[-1])
        return Answer(**{**said, "folder": Path(said.get("folder", ""))}, stderr=stderr)

    return ask


Ask = Callable[..., Answer]


@pytest.fixture
def kept(hub: Hub, ask: Ask) -> Answer:
    """A first download. Its requests are forgotten."""
    answer = ask()
    assert answer.files() == hub.commits[FIRST] and answer.revision == FIRST
    hub.asked.clear()
    return answer


@pytest.fixture(scope="module")
def large() -> bytes:
    return random.Random(0).randbytes(2 * PIECE + 4 * 2**20)


# ---- which files ----


def test_a_real_checkpoint_arrives_whole_and_can_be_read(hub: Hub, ask: Ask, model_folder: Path) -> None:
    hub.publish(SECOND, {path.name: path.read_bytes() for path in model_folder.iterdir()})
    answer = ask()
    assert answer.files() == hub.commits[SECOND] and answer.revision == SECOND
    assert len(LEDTokenizer.from_pretrained(answer.folder)) == len(LEDTokenizer.from_pretrained(model_folder))


def test_an_adapter_and_its_base_are_downloaded_and_joined(
    hub: Hub, ask: Ask, model_folder: Path, tmp_path: Path
) -> None:
    hub.publish(SECOND, {path.name: path.read_bytes() for path in model_folder.iterdir()})
    name = "base_model.model.led.decoder.layers.0.fc1"
    parts = {f"{name}.lora_A.weight": torch.ones(2, 32), f"{name}.lora_B.weight": torch.ones(48, 2)}
    save_file(parts, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "owner/model"}
    files = {"adapter_config.json": json.dumps(config).encode()}
    hub.commits["c" * 40] = {
        **files,
        "adapter_model.safetensors": (tmp_path / "adapter_model.safetensors").read_bytes(),
    }
    hub.refs["adapter"] = "c" * 40
    answer = ask("owner/adapter")
    assert answer.revision == "c" * 40
    assert {"adapter_model.safetensors", "model.safetensors", "vocab.json"} <= answer.files().keys()
    base = LEDForConditionalGeneration.from_pretrained(model_folder).state_dict()
    merged = LEDForConditionalGeneration.from_pretrained(answer.folder).state_dict()
    changed = {name for name, x in merged.items() if not torch.equal(x, base[name])}
    assert changed == {"led.decoder.layers.0.fc1.weight"}
    torch.testing.assert_close(
        merged["led.decoder.layers.0.fc1.weight"], base["led.decoder.layers.0.fc1.weight"] + 4.0
    )
    hub.asked.clear()
    again = ask("owner/adapter", environment={"HF_HUB_OFFLINE": "1"})
    assert again.folder == answer.folder and not hub.asked


def test_settings_and_a_tokenizer_come_without_the_weights(hub: Hub, ask: Ask, model_folder: Path) -> None:
    hub.publish(SECOND, {path.name: path.read_bytes() for path in model_folder.iterdir()})
    answer = ask(weights=False)
    assert "config.json" in hub.downloaded() and "model.safetensors" not in hub.downloaded()
    assert LEDConfig.from_pretrained(answer.folder).d_model > 0


def test_models_tokenizers_settings_and_pipelines_take_a_published_name(
    hub: Hub, model_folder: Path, tmp_path: Path
) -> None:
    hub.publish(SECOND, {path.name: path.read_bytes() for path in model_folder.iterdir()})
    script = f"""
from led import GenerationConfig, LEDConfig, LEDForConditionalGeneration, LEDTokenizer, pipeline
name = "owner/model"
summarizer = pipeline("summarization", model=name, revision={SECOND!r})
print(summarizer("the pump failed")[0]["summary_text"] is not None)
assert LEDConfig.from_pretrained(name) == LEDForConditionalGeneration.from_pretrained(name).config
assert GenerationConfig.from_pretrained(name).num_beams == 2 and len(LEDTokenizer.from_pretrained(name))
"""
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        env={**os.environ, **settings},
    )
    assert done.returncode == 0 and done.stdout == "True\n", done.stderr
    assert (
        len([a for a in hub.asked if a.method == "GET" and a.path.endswith("model.safetensors")]) <= 2
    )  # and its redirect


SAFE = {"model.safetensors": b"safe"}
SAFE_SHARDS = {
    "model.safetensors.index.json": b'{"of": 2}',
    "model-00001-of-00002.safetensors": b"a",
    "model-00002-of-00002.safetensors": b"b",
}
BIN = {"pytorch_model.bin": b"bin"}
BIN_SHARDS = {"pytorch_model.bin.index.json": b'{"of": 1}', "pytorch_model-00001-of-00001.bin": b"c"}
OTHERS = {
    "tf_model.h5": b"tf",
    "flax_model.msgpack": b"flax",
    "onnx/model.onnx": b"onnx",
    "onnx/config.json": b"{}",
    "README.md": b"#",
    "trainer_state.json": b"{}",
    "training_args.bin": b"args",
    "optimizer.safetensors": b"o",
    ".gitattributes": b"",
}


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (SAFE | SAFE_SHARDS | BIN | BIN_SHARDS, SAFE),
        (SAFE_SHARDS | BIN | BIN_SHARDS, SAFE_SHARDS),
        (BIN | BIN_SHARDS, BIN),
        (BIN_SHARDS, BIN_SHARDS),
    ],
)
def test_only_the_files_that_are_read_are_downloaded(
    published: dict[str, bytes], expected: dict[str, bytes], hub: Hub, ask: Ask
) -> None:
    hub.publish(SECOND, {**SMALL, **published, **OTHERS})
    answer = ask()
    assert answer.files() == {**SMALL, **expected}
    assert hub.downloaded() == sorted({**SMALL, **expected})
    assert [a.path for a in hub.asked].count("/api/models/owner/model/revision/main") == 1
    hub.asked.clear()
    assert ask(environment={"HF_HUB_OFFLINE": "1"}).folder == answer.folder and not hub.asked


def test_weight_files_are_searched_in_the_order_they_are_read() -> None:
    assert tuple(kind[0] for kind in led_hub._WEIGHTS) == (*WEIGHT_FILES, *ADAPTER_WEIGHTS)


def test_every_file_that_is_read_is_downloaded() -> None:
    sources = [
        path.read_text("utf-8")
        for path in Path(led.__file__).parent.rglob("*.py")
        if path != Path(led_hub.__file__)
    ]
    read = set(re.findall(r'"([a-z]\w*(?:\.\w+)*\.(?:json|txt))"', "".join(sources)))
    assert "config.json" in read and read <= {
        *led_hub._SETTINGS,
        *(name for kind in led_hub._WEIGHTS for name in kind),
    }


def test_a_checkpoint_without_weights_is_refused(hub: Hub, ask: Ask) -> None:
    hub.publish(SECOND, {**SMALL, **OTHERS})
    assert f"owner/model at {SECOND} has no weights; it needs one of model.safetensors, " in ask().refused


# ---- pinned, kept, offline ----


def test_a_branch_is_pinned_to_the_commit_it_names_and_a_commit_stays(
    hub: Hub, ask: Ask, kept: Answer
) -> None:
    hub.publish(SECOND, {**SMALL, "model.safetensors": b"other weights"})
    assert ask(revision=FIRST).files() == hub.commits[FIRST]
    assert hub.downloaded() == []
    moved = ask()
    assert moved.revision == SECOND and moved.files() == hub.commits[SECOND]
    assert hub.downloaded() == ["model.safetensors"]
    hub.refs["v1.0"] = FIRST
    assert ask(revision="v1.0").folder == ask(revision=FIRST).folder == kept.folder


@pytest.mark.parametrize("revision", [None, "main", FIRST])
@pytest.mark.parametrize(
    "options",
    [{"environment": {"HF_HUB_OFFLINE": "1"}}, {"local_files_only": True}],
    ids=["offline", "local_files_only"],
)
def test_a_second_run_may_be_offline(
    revision: str | None, options: dict[str, Any], hub: Hub, ask: Ask, kept: Answer
) -> None:
    answer = ask(revision=revision, **options)
    assert (answer.folder, answer.revision) == (kept.folder, FIRST)
    assert not hub.asked


def test_without_the_hub_the_kept_commit_is_served_and_said(hub: Hub, ask: Ask, kept: Answer) -> None:
    hub.close()
    answer = ask()
    assert (answer.folder, answer.revision) == (kept.folder, FIRST)
    assert (
        f"owner/model: the hub does not answer; the cached commit {FIRST} of main is used." in answer.stderr
    )
    pinned = ask(revision=FIRST)
    assert pinned.folder == kept.folder and "does not answer" not in pinned.stderr


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (401, "", "the hub has no checkpoint owner/model"),
        (404, "RepoNotFound", "the hub has no checkpoint owner/model"),
        (403, "GatedRepo", "owner/model is gated"),
        (403, "", "owner/model was not downloaded: the hub answered 403"),
    ],
)
def test_a_hub_that_refuses_is_heard_though_files_are_kept(
    status: int, code: str, says: str, hub: Hub, ask: Ask, kept: Answer
) -> None:
    hub.failing["/api/models"] = repeat(status)
    hub.headers = {"X-Error-Code": code}
    assert ask().refused.startswith(says)
    assert ask(revision=FIRST).folder == kept.folder


def test_a_hub_that_says_nothing_is_not_waited_for(hub: Hub, ask: Ask, kept: Answer) -> None:
    hub.silent = True
    answer = ask(environment={"HF_HUB_ETAG_TIMEOUT": "1"})
    assert answer.folder == kept.folder and "the hub does not answer" in answer.stderr
    assert len(hub.asked) == 1


def test_a_failing_hub_is_waited_for_and_then_the_kept_commit_is_served(
    hub: Hub, ask: Ask, kept: Answer
) -> None:
    hub.failing["/api/models"] = repeat(503)
    answer = ask()
    assert answer.folder == kept.folder and "the hub does not answer" in answer.stderr
    assert answer.pauses[:4] == [1, 2, 4, 8]


# ---- resumed ----


def test_a_closed_connection_is_resumed_at_the_byte_it_reached(hub: Hub, ask: Ask, large: bytes) -> None:
    hub.publish(SECOND, {**SMALL, "model.safetensors": large})
    hub.splits = iter([Split(PIECE + 3 * 2**20), Split(PIECE + 2**20)])
    answer = ask()
    assert answer.files() == hub.commits[SECOND]
    assert hub.starts() == [0, PIECE, 2 * PIECE]


def test_a_reset_connection_is_tried_again(hub: Hub, ask: Ask, large: bytes) -> None:
    """`huggingface_hub` gives up at once after a reset, so it is called again.

    The file starts anew (2.4) or is resumed (0.36).
    """
    hub.publish(SECOND, {**SMALL, "model.safetensors": large})
    hub.splits = iter([Split(PIECE + 3 * 2**20, reset=True)])
    answer = ask()
    assert answer.files() == hub.commits[SECOND]
    assert len(hub.starts()) == 2 and hub.starts()[1] <= PIECE


def test_a_download_that_gave_up_is_completed_by_the_next_process(hub: Hub, ask: Ask, large: bytes) -> None:
    """Complete files are not requested again.

    The partial file starts anew (2.4) or is resumed (0.36), and is correct.
    """
    hub.publish(SECOND, {**SMALL, "model.safetensors": large})
    hub.splits = (Split(PIECE + 2**20 if number == 0 else 0) for number in range(1000))
    refused = ask().refused
    assert (
        "owner/model is neither a local folder nor completely downloaded, and the connection to the "
        "hub failed" in refused
    )
    assert "check the network" in refused and len(hub.starts()) < 60
    hub.splits = iter(())
    hub.asked.clear()
    assert ask().files() == hub.commits[SECOND]
    assert hub.downloaded() == ["model.safetensors"] and hub.starts() in ([0], [PIECE])


def test_a_killed_download_is_completed_by_the_next_process(
    hub: Hub, ask: Ask, start: Callable[..., subprocess.Popen[str]], tmp_path: Path, large: bytes
) -> None:
    """A file that SIGKILL interrupted starts anew in the next process (2.4) or is resumed (0.36).

    Its bytes are correct in both cases.
    """
    hub.publish(SECOND, {**SMALL, "model.safetensors": large})
    hub.splits = iter([Split(PIECE + 2**20, hold=True)])
    with start() as process:
        assert hub.held.wait(HANG_S)
        wait_until(lambda: sum(p.stat().st_size for p in tmp_path.rglob("*.incomplete")) >= PIECE, process)
        process.send_signal(signal.SIGKILL)
    hub.release.set()
    assert max(p.stat().st_size for p in tmp_path.rglob("*.incomplete")) == PIECE
    partial = ask(local_files_only=True).refused
    assert "owner/model" in partial and "download" in partial and "with a network" in partial
    hub.asked.clear()
    assert ask().files() == hub.commits[SECOND]
    assert "model.safetensors" in hub.downloaded() and hub.starts() in ([0], [PIECE])


# ---- refused ----


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "owner/none"}, "the hub has no checkpoint owner/none, or it is private"),
        ({"model": "owner/private"}, "the hub has no checkpoint owner/private, or it is private"),
        ({"model": "owner/gated"}, "owner/gated is gated: ask its owners for access, then log in"),
        (
            {"model": "owner/gated", "revision": FIRST},
            "owner/gated is gated: ask its owners for access, then log in",
        ),
        ({"revision": "v9"}, "owner/model has no revision v9; name a branch, tag or commit"),
        ({"revision": "9" * 40}, f"owner/model has no revision {'9' * 40}; name a branch, tag or commit"),
        ({"model": "owner/a--b"}, "owner/a--b is not a valid checkpoint name"),
    ],
)
def test_what_the_hub_refuses_is_said_plainly_and_the_token_is_not(
    options: dict[str, str], says: str, hub: Hub, ask: Ask
) -> None:
    answer = ask(**options, environment={"HF_TOKEN": TOKEN})
    assert answer.refused.startswith(says)
    assert TOKEN not in answer.stderr and answer.pauses == []
    assert {a.token for a in hub.asked} <= {f"Bearer {TOKEN}"}


def test_files_may_be_gated_where_the_model_is_not(hub: Hub, ask: Ask) -> None:
    hub.failing["/owner/model/resolve"] = repeat(403)
    hub.headers = {"X-Error-Code": "GatedRepo"}
    assert ask().refused.startswith("owner/model is gated")


def test_the_token_goes_to_the_hub_and_nowhere_else(hub: Hub, ask: Ask) -> None:
    answer = ask(environment={"HF_TOKEN": TOKEN})
    assert answer.files() == hub.commits[FIRST] and TOKEN not in answer.stderr
    tokens = {(a.path.startswith("/cdn"), a.token) for a in hub.asked}
    assert tokens == {(False, f"Bearer {TOKEN}"), (True, "")}


# Small files are asked for side by side, and each takes its share of the failures.
@pytest.mark.parametrize(("path", "times"), [("/api/models", 3), ("/owner/model/resolve", 8), ("/cdn", 3)])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failure_that_passes_is_waited_for(path: str, times: int, status: int, hub: Hub, ask: Ask) -> None:
    hub.failing[path] = repeat(status, times)
    answer = ask()
    assert answer.files() == hub.commits[FIRST] and answer.pauses


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/api/models", 429, "the hub accepts no more requests for now (429); wait a few minutes"),
        ("/api/models", 500, "the hub answered 500"),
        ("/api/models", 503, "the hub answered 503"),
        ("/owner/model/resolve", 503, "the hub answered 503"),
        ("/cdn", 429, "the hub accepts no more requests for now (429); wait a few minutes"),
        ("/cdn", 503, "the hub answered 503"),
    ],
)
def test_a_failure_that_stays_is_said_plainly(path: str, status: int, says: str, hub: Hub, ask: Ask) -> None:
    hub.failing[path] = repeat(status)
    assert ask().refused.startswith(f"owner/model was not downloaded: {says}")


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"Retry-After": "7"}, 7),
        ({"RateLimit": '"api";r=0;t=7'}, 7),
        ({"RateLimit": '"api";r=90;t=7'}, 1),
        ({"Retry-After": "86400"}, 300),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1),
    ],
)
def test_the_pause_that_the_hub_asks_for_is_kept(
    headers: dict[str, str], pause: int, hub: Hub, ask: Ask
) -> None:
    hub.failing["/api/models"] = iter([429])
    hub.headers = headers
    answer = ask()
    assert answer.files() == hub.commits[FIRST] and answer.pauses[:1] == [pause]


@pytest.mark.parametrize("revision", [None, FIRST])
def test_without_a_network_the_next_step_is_named(revision: str | None, hub: Hub, ask: Ask) -> None:
    hub.close()
    refused = ask(revision=revision).refused
    assert refused.startswith(
        "owner/model is neither a local folder nor completely downloaded, and the connection to the "
        "hub failed"
    )
    assert "Connection refused" in refused and "check the network and HF_ENDPOINT" in refused


def test_offline_without_a_kept_copy_the_next_step_is_named(hub: Hub, ask: Ask) -> None:
    refused = ask(environment={"HF_HUB_OFFLINE": "1"}).refused
    assert (
        "requests to the hub are turned off (HF_HUB_OFFLINE or local_files_only); download it once "
        "with a network" in refused
    )
    assert not hub.asked


def test_a_cache_folder_that_cannot_be_written_is_named(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    refused = ask(cache_dir=str(file)).refused
    assert refused.startswith(f"owner/model cannot be stored in {file} (")
    assert "set another cache_dir or HF_HOME" in refused


def test_a_disk_that_takes_no_more_is_said_plainly(hub: Hub, ask: Ask, tmp_path: Path, large: bytes) -> None:
    """A limit on file sizes stands in for a full disk: a write fails in the middle of a download."""
    hub.publish(SECOND, {**SMALL, "model.safetensors": large})
    refused = ask(largest_file=2**20).refused
    assert refused.startswith(f"owner/model cannot be stored in {tmp_path / 'home' / 'hub'} (")
    assert "free some space there" in refused
    assert ask().files() == hub.commits[SECOND]


@pytest.mark.parametrize("model", ["no-such-folder", "./none", "/no/such/folder", "a/b/c"])
def test_what_is_no_name_is_a_missing_folder(model: str) -> None:
    with pytest.raises(
        FileNotFoundError, match="does not exist; name a folder, or a checkpoint as owner/name"
    ):
        resolve(model)


def test_a_folder_is_taken_as_it_is(model_folder: Path) -> None:
    assert resolve(str(model_folder)) == led_hub.Checkpoint(model_folder, None, str(model_folder))
