"""One test for each point at which a run may crash or be disturbed, on a disk.

The points at a write are tested on S3 too, where the stores differ. The server is that of moto.
`test_crash_sweep.py` covers every request to S3. The job is that of crash.py: the
real `pipeline.run` in a process that is really killed.
"""

from __future__ import annotations

import os
import resource
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import PipelineError
from pipeline.output import local
from pipeline.output.local import LocalStore
from pipeline.output.open_store import open_store
from pipeline.output.store import PROBE, Store
from pipeline.output.verify import status, verify
from pipeline.planning.plan import MANIFEST, PLAN, SUCCESS, Plan
from tests.conftest import words
from tests.pipeline.crash import Machine, rows_of
from tests.pipeline.s3 import KEYS, Proxy, moto_server, proxied
from tests.waiting import HANG_S

PLAN_ERROR, RUN_ERROR, KILLED = 2, 1, -signal.SIGKILL


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with moto_server() as url, proxied(url, "points") as proxy:
        yield proxy


@dataclass(frozen=True)
class Scene:
    """A corpus of seven documents in four shards, a machine to run it, and an empty output."""

    corpus: Path
    machine: Machine
    store: Store
    expected: list[dict[str, Any]]

    def dies(self, death: str) -> set[str]:
        """Run until the process is killed at this point. Returns the names of all files afterwards."""
        assert self.machine.run(self.store.url, death) == KILLED
        names = self.store.names()
        if PLAN in names:
            assert verify(self.store).problems == []
        else:
            assert names <= {PROBE}
        return names

    def resumes(self) -> None:
        """The same command succeeds, existing files stay unchanged, and every document is one row."""
        parts = {name: self.store.read(name) for name in self.store.names() if not name.startswith("_report")}
        assert self.machine.run(self.store.url) == 0
        assert all(self.store.read(name) == content for name, content in parts.items())
        assert verify(self.store).problems == [] and status(self.store).finished
        assert rows_of(self.store) == self.expected


@pytest.fixture(params=["disk"])
def scene(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    model_folder: Path,
    write_corpus: Callable[..., Path],
    proxy: Proxy,
) -> Scene:
    proxy.reset()
    texts: list[str | None] = [words(3 + n, n) for n in range(7)]
    texts[2] = None
    corpus = write_corpus(texts[:3], texts[3:])
    machine = Machine(corpus, model_folder, {**KEYS, "AWS_ENDPOINT_URL": proxy.url})
    undisturbed = str(tmp_path / "undisturbed")
    assert machine.run(undisturbed) == 0
    url = str(tmp_path / "out") if request.param == "disk" else f"s3://points/{uuid.uuid4().hex}"
    return Scene(corpus, machine, open_store(url), rows_of(LocalStore(undisturbed)))


both_stores = pytest.mark.parametrize("scene", ["disk", "s3"], indirect=True)
only_s3 = pytest.mark.parametrize("scene", ["s3"], indirect=True)


def parts(names: set[str]) -> int:
    return sum(name.startswith("part-") for name in names)


@both_stores
def test_before_the_plan(scene: Scene) -> None:
    assert scene.dies("before _plan") == {"_probe"}
    scene.resumes()


@both_stores
def test_plan_applied_reply_lost(scene: Scene) -> None:
    assert scene.dies("after _plan") == {"_probe", PLAN}
    scene.resumes()


@both_stores
def test_two_drivers_plan_at_once(scene: Scene) -> None:
    """With different settings: one plan is written, the other driver fails, and the first one finishes."""
    drivers = [scene.machine.start(scene.store.url, max_input_tokens=limit) for limit in (50, 60)]
    for driver in drivers:
        driver.join(HANG_S)
    assert sorted(driver.exitcode for driver in drivers) == [0, PLAN_ERROR]
    limit = 50 if drivers[0].exitcode == 0 else 60
    assert Plan.from_json(scene.store.read(PLAN)).config["input_limits"]["max_input_tokens"] == limit
    assert verify(scene.store).problems == [] and len(rows_of(scene.store)) == 7


def test_during_reading_and_tokenizing(scene: Scene) -> None:
    assert parts(scene.dies("in reading")) == 1
    scene.resumes()


def test_in_the_middle_of_inference(scene: Scene) -> None:
    assert parts(scene.dies("in predicting")) == 1
    scene.resumes()


def test_shard_built_but_not_sent(scene: Scene) -> None:
    assert parts(scene.dies("before part")) == 1
    scene.resumes()


def test_during_the_body_on_a_disk(scene: Scene) -> None:
    """Half of the file is written, under a hidden name."""
    assert parts(scene.dies("in body")) == 1
    assert len(list(Path(scene.store.url).glob(".part-*"))) == 1
    scene.resumes()


@only_s3
def test_during_the_body_on_s3(scene: Scene, proxy: Proxy) -> None:
    """Half of the request is sent, and no file is written."""
    proxy.reset(lambda n: "body" if n == 4 else "", scene.machine.kill)
    assert parts(scene.dies("")) == 1
    proxy.reset()
    scene.resumes()


@only_s3
def test_part_applied_reply_lost(scene: Scene, proxy: Proxy) -> None:
    """The writer survives, and finds its own part."""
    proxy.reset(lambda n: "lost" if n == 4 else "")
    scene.resumes()


@both_stores
def test_committed_but_the_driver_receives_no_reply(scene: Scene) -> None:
    assert parts(scene.dies("after part")) == 2
    scene.resumes()


@only_s3
def test_a_late_request_arrives_after_the_retry(scene: Scene, proxy: Proxy) -> None:
    proxy.reset(lambda n: "late" if n == 4 else "", scene.machine.kill)
    scene.dies("")
    proxy.reset()
    scene.resumes()
    before = {name: scene.store.read(name) for name in scene.store.names()}
    assert proxy.land() == [412]
    assert {name: scene.store.read(name) for name in scene.store.names()} == before


def test_a_writer_that_pauses_before_its_link_finds_the_part_of_another(scene: Scene) -> None:
    paused = scene.machine.start(scene.store.url, "stop before link")
    while not list(Path(scene.store.url).glob(".part-*")):
        time.sleep(0.01)
    scene.resumes()
    before = {name: scene.store.read(name) for name in scene.store.names()}
    os.kill(paused.pid, signal.SIGCONT)
    paused.join(HANG_S)
    assert paused.exitcode == 0
    assert {name: scene.store.read(name) for name in before if name != "_report.html"} == {
        name: content for name, content in before.items() if name != "_report.html"
    }


def test_input_changed_between_runs(scene: Scene) -> None:
    scene.dies("after part")
    file = scene.corpus / "001.parquet"
    whole = file.read_bytes()
    table = pq.read_table(file)
    pq.write_table(table.set_column(1, "text", pa.array(["something else"] * len(table))), file)
    names = scene.store.names()
    assert scene.machine.run(scene.store.url) == PLAN_ERROR and scene.store.names() == names
    file.write_bytes(whole)
    scene.resumes()


def test_configuration_or_model_changed(scene: Scene, model_folder: Path, tmp_path: Path) -> None:
    scene.dies("after part")
    names = scene.store.names()
    assert scene.machine.run(scene.store.url, num_beams=1) == PLAN_ERROR
    other = tmp_path / "model"
    other.mkdir()
    for file in model_folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    assert scene.machine.run(scene.store.url, model=str(other)) == PLAN_ERROR
    assert scene.store.names() == names
    scene.resumes()


def test_between_the_last_shard_and_the_manifest(scene: Scene) -> None:
    names = scene.dies("before _manifest")
    assert parts(names) == 4 and MANIFEST not in names
    scene.resumes()


@both_stores
def test_manifest_applied_reply_lost(scene: Scene) -> None:
    names = scene.dies("after _manifest")
    assert MANIFEST in names and SUCCESS not in names
    scene.resumes()


def test_between_the_manifest_and_the_success_marker(scene: Scene) -> None:
    names = scene.dies("before _SUCCESS")
    assert MANIFEST in names and SUCCESS not in names
    scene.resumes()


@only_s3
def test_the_listing_fails_in_the_middle(scene: Scene, proxy: Proxy) -> None:
    """A failed page of the listing is requested again. Half a listing is never used."""
    scene.dies("after part")
    names = scene.store.names()
    proxy.reset()
    proxy.page, proxy.listing_fault = 1, lambda n: "503" if n == 1 else ""
    assert scene.store.names() == names and proxy.listings > len(names)
    proxy.page, proxy.listing_fault = 1, lambda n: "503" if n in (1, 4, 9) else ""
    scene.resumes()


def test_the_disk_is_full(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel limits the size of files. The partial file is removed, the message names it, and other files
    stay."""
    scene.dies("after part")
    names = scene.store.names()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(
            PipelineError, match=r"part-x cannot be written \(File too large\); make room, then rerun"
        ):
            scene.store.create("part-x", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert scene.store.names() == names and not list(Path(scene.store.url).glob(".part-x*"))
    scene.resumes()


def test_sigterm(scene: Scene) -> None:
    driver = scene.machine.start(scene.store.url)
    while driver.is_alive() and not parts(scene.store.names()):
        time.sleep(0.005)
    driver.terminate()
    driver.join(HANG_S)
    assert driver.exitcode in (130, 0)
    scene.resumes()


@both_stores
def test_two_runs_overlap(scene: Scene) -> None:
    drivers = [scene.machine.start(scene.store.url) for _ in range(3)]
    for driver in drivers:
        driver.join(HANG_S)
    assert [driver.exitcode for driver in drivers] == [0, 0, 0]
    scene.resumes()


def test_power_loss(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are on the disk before the file has its name, and the name is on the disk before the write
    returns."""
    order: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "link")}

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        order.append("folder" if path.is_dir() else f"bytes {path.stat().st_size}")
        real["fsync"](descriptor)

    def link(source: Path, target: Path) -> None:
        order.append("name")
        real["link"](source, target)

    monkeypatch.setattr(local.os, "fsync", fsync)
    monkeypatch.setattr(local.os, "link", link)
    scene.store.create("part-x", bytes(3000))
    assert order == ["bytes 3000", "name", "folder"]
