"""What the tests share: a tiny checkpoint and corpora of words it knows."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from led.generation.config import GenerationConfig
from led.testing import tiny_model
from led.tokenizer.tokenizer import LEDTokenizer

# Hypothesis imports this module in the middle of a test, and pytest rewrites what it imports. In CPython 3.11
# that fails (SystemError) if another thread parses Python code at that moment.
with suppress(ImportError):  # the environment of the parity tests does not have it
    import hypothesis.internal.conjecture.optimiser  # noqa: F401

# Ray runs its workers with a lower priority than other processes. On a busy machine they would get no CPU.
os.environ.setdefault("RAY_worker_niceness", "0")

# Parts of paths of the tests that take longest: they wait for servers and processes.
_LONGEST = (
    "/jobs/test_killed_jobs.py",
    "/output/test_request_faults.py",
    "/pipeline/test_run.py",
    "/tests/jobs/",
    "/infra/test_dashboard.py",
    "/tests/pipeline/",
)

WORDS = "the pump at station seven was stopped after a bearing failed and water rose in the lower gallery"


def words(count: int, seed: int) -> str:
    """`count` words in a random order that depends on `seed`."""
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS.split()) for _ in range(count))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes go first, so that the short ones fill the end of a parallel run."""
    items.sort(
        key=lambda item: next((i for i, part in enumerate(_LONGEST) if part in str(item.path)), len(_LONGEST))
    )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint folder, made once."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def make_checkpoint(folder: Path) -> Path:
    """A complete checkpoint folder: tiny random weights, a tokenizer, generation settings."""
    tokenizer = LEDTokenizer.learn([words(200, 0)], vocab_size=320, model_max_length=128)
    model = tiny_model(seed=3, vocab_size=len(tokenizer))
    with torch.no_grad():
        model.final_logits_bias[0, 2] = 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    GenerationConfig(num_beams=2, max_length=12).save_pretrained(folder)
    return folder


@pytest.fixture
def write_corpus(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of Parquet files, one per list of texts; ids are `d<number>`, counted over all
    files. `columns` are further columns, with a value for each document of all files."""

    def write(*files: list[str | None], name: str = "corpus", row_group: int = 5, **columns: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        first = 0
        for number, texts in enumerate(files):
            ids = [f"d{first + i}" for i in range(len(texts))]
            table = pa.table(
                {
                    "doc_id": ids,
                    "text": pa.array(texts, pa.string()),
                    "number": range(first, first + len(texts)),
                    **{column: values[first : first + len(texts)] for column, values in columns.items()},
                }
            )
            pq.write_table(table, folder / f"{number:03d}.parquet", row_group_size=row_group)
            first += len(texts)
        return folder

    return write


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server in this process, which the environment names as the one to use."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "who")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "keep-this-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_server: str, request: pytest.FixtureRequest) -> str:
    """A new bucket, by its address."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # other tests have servers of their own
    name = "b-" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


def read_output(folder: Path) -> list[dict[str, Any]]:
    """All committed rows of an output folder."""
    return [row for part in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]
