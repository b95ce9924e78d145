"""Whatever error a disk reports at one system call, no row is wrong, and the same command then succeeds."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.output.local import LocalStore
from pipeline.output.verify import verify
from tests.conftest import words
from tests.pipeline.crash import rows_of
from tests.pipeline.disk_faults import FaultyMachine

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler (cc)"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs LD_PRELOAD and /proc"),
]

# Every n-th call fails. 1 tries each of them, which takes many minutes.
STEP = int(os.environ.get("CALL_STEP", "61"))

SHORT = -1
ERRORS = {
    "EIO": errno.EIO,
    "ENOSPC": errno.ENOSPC,
    "EROFS": errno.EROFS,
    "EINTR": errno.EINTR,
    "ESTALE": errno.ESTALE,
    "short": SHORT,
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyMachine]:
    machine = FaultyMachine(tmp_path_factory.mktemp("machine"))
    yield machine
    machine.close()


@pytest.mark.parametrize("name", ERRORS)
def test_one_system_call_fails(name: str, machine: FaultyMachine, model_folder: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "files" / "corpus"
    corpus.mkdir(parents=True)
    for number in range(2):
        texts = [words(3 + n, 10 * number + n) for n in range(3)]
        ids = [f"d{number}-{n}" for n in range(3)]
        pq.write_table(pa.table({"doc_id": ids, "text": texts}), corpus / f"{number}.parquet")
    log, root = tmp_path / "log", {"FAULT_ROOT": str(tmp_path / "files"), "FIRST_PAUSE_S": "0.01"}
    first = tmp_path / "files" / "first"
    code, printed = machine.run(corpus, model_folder, first, FAULT_LOG=str(log), **root)
    assert code == 0, printed
    calls = log.read_text().splitlines()
    expected = rows_of(LocalStore(first))
    codes = []
    for number in range(1 + list(ERRORS).index(name) % STEP, len(calls) + 1, STEP):
        output = tmp_path / "files" / f"out-{number}"
        fault = {"FAULT_AT": str(number), "FAULT_ERRNO": str(ERRORS[name])}
        code, printed = machine.run(corpus, model_folder, output, **root, **fault)
        assert code in (0, 1, 2) and "Traceback" not in printed, (calls[number - 1], printed)
        assert code == 0 or "error: " in printed, (calls[number - 1], printed)
        codes.append(code)
        code, printed = machine.run(corpus, model_folder, output)
        assert code == 0, (calls[number - 1], printed)
        store = LocalStore(output)
        assert rows_of(store) == expected and verify(store).problems == [], calls[number - 1]
        shutil.rmtree(output)
    print(f"{name}: {len(codes)} of {len(calls)} calls failed, {codes.count(0)} runs were not disturbed")
