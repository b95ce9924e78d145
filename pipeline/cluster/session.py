"""The Ray cluster of a run: join one or start one, list its nodes, and translate Ray's errors."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import RayError, RayTaskError

from pipeline.cluster.capacity import Node
from pipeline.errors import PipelineError, UsageError, one_line
from pipeline.logs import event

# Ray stops a worker process after one idle second if a node has more processes than CPUs. Every shard would
# then wait for a new process to import everything. Other clusters set
# RAY_idle_worker_killing_time_threshold_ms.
KEEP_WORKERS = {"idle_worker_killing_time_threshold_ms": 3_600_000}

# With this variable at 0, Ray's processes listen on 127.0.0.1 only. That is its default on Windows and macOS.
_REACHABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"

# The longest path of a temporary folder. A socket has at most 107 characters, of which Ray's folders take 68.
_LONGEST_FOLDER = 107 - 68

# Bytes that Ray needs for logs and sockets.
_LEAST_SPACE = 32 << 20

# Called in every worker before it imports anything of this project.
_WORKER_SETUP = "led_corpus.use_own_packages"

# Ray's own limits for the start of its processes are 20 seconds and more.
TIMED_OUT_AFTER_S = 15.0

# Ray Data appends to an error how often it tried and how to let it try more often.
_RETRY_NOTE = re.compile(r"(^|\n|\\n|: ')Failed to .* after \d+/\d+ attempts.*", re.DOTALL)


def join_cluster(
    address: str | None = None, metrics_port: int | None = None, start_seconds: float = 300.0
) -> None:
    """Join the cluster at `address`, or of the job, or start one on this machine within `start_seconds`.

    A cluster that is started here is reached from this machine only. It serves its metrics on
    `metrics_port`. Signal handlers stay as they are.

    Raises:
        UsageError: the port for metrics is taken.
        PipelineError: the cluster cannot be joined or started.
    """
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        _check_port_free(metrics_port)
        # As Ray chooses it. It creates the folder if it does not exist.
        temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
        check_temporary_folder(temporary)
    handler = signal.getsignal(signal.SIGTERM)
    local: dict[str, Any] = {}
    if not address:
        local = {
            "include_dashboard": False,
            "_metrics_export_port": metrics_port,
            "_system_config": KEEP_WORKERS,
        }

    def init() -> None:
        # Without an address, Ray would join the cluster that was last started on this machine.
        ray.init(
            address=address or "local",
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={"worker_process_setup_hook": _WORKER_SETUP},
            **local,
        )

    if address:
        try:
            _check_reachable(address)
            init()
        except (OSError, RuntimeError, ValueError) as error:
            raise PipelineError(
                f"the cluster {address} cannot be joined: {one_line(error)} Check --ray-address, and that "
                "the cluster runs the same versions of Ray and Python."
            ) from error
    else:
        with _this_machine_only():
            start_cluster(init, start_seconds)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # During a graceful shutdown, fewer tasks are left than could run.
    warnings.filterwarnings("ignore", "The maximum number of concurrent tasks")


def check_temporary_folder(folder: str) -> None:
    """Check that Ray can keep its session in a folder. It would start in vain for minutes otherwise.

    Raises:
        PipelineError: the folder has too long a path, is not writable, or is full.
    """
    advice = "Set TMPDIR to another folder, then rerun the same command."
    if len(folder) > _LONGEST_FOLDER:
        raise PipelineError(
            f"Ray cannot start: the path of the temporary folder {folder} has {len(folder)} characters, and "
            f"its sockets need one of at most {_LONGEST_FOLDER}. {advice}"
        )
    for each in (folder, os.path.join(folder, "ray")):
        if os.path.exists(each) and not os.access(each, os.W_OK | os.X_OK):
            raise PipelineError(
                f"Ray cannot start: this user may not write to {each}, perhaps because it belongs to "
                f"another. {advice}"
            )
    if os.path.exists(folder) and shutil.disk_usage(folder).free < _LEAST_SPACE:
        raise PipelineError(
            f"Ray cannot start: the disk of the temporary folder {folder} is full. Make room. Or: {advice}"
        )


@contextmanager
def _this_machine_only() -> Iterator[None]:
    """Start a cluster that other machines cannot reach."""
    before = os.environ.get(_REACHABLE), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[_REACHABLE], ray_constants.ENABLE_RAY_CLUSTER = "0", False  # Ray has read the variable already
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before[1]
        if before[0] is None:
            del os.environ[_REACHABLE]
        else:
            os.environ[_REACHABLE] = before[0]


def _check_port_free(port: int | None) -> None:
    """Check that no other program listens on the port for metrics. Ray itself would find out after a minute.

    Raises:
        UsageError: one does.
    """
    if not port:
        return
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError as error:
            raise UsageError(
                f"--metrics-port is {port}, which cannot be used ({error.strerror}); choose another port."
            ) from error


def start_cluster(init: Callable[[], None], seconds: float) -> None:
    """Start a local cluster by `init`, which may wait for Ray's processes in vain on a busy machine.

    An attempt that fails after `TIMED_OUT_AFTER_S` has timed out, and is repeated until `seconds` have
    passed. One that fails earlier has another cause and is not repeated.

    Raises:
        PipelineError: the cluster did not start.
    """
    start, attempts = time.monotonic(), 0
    while True:
        attempts, attempt_start = attempts + 1, time.monotonic()
        try:
            return init()
        except Exception as error:  # a start that times out raises a plain Exception
            _kill_processes(error)
            ray.shutdown()
            now = time.monotonic()
            if now - attempt_start < TIMED_OUT_AFTER_S:
                raise PipelineError(
                    f"Ray cannot start on this machine: {one_line(error)} `led-corpus doctor` shows what is "
                    "missing."
                ) from error
            if now - start >= seconds:
                raise PipelineError(
                    f"Ray did not start on this machine within {now - start:.0f} seconds, in {attempts} "
                    f"attempts: {one_line(error)} The machine is too busy or short of memory. Rerun the same "
                    "command later, or raise --ray-start-seconds."
                ) from error
            event("ray start repeated", attempt=attempts, reason=one_line(error))


def _kill_processes(error: Exception) -> None:
    """Kill what a failed attempt has started. Ray itself would do that only when this process ends."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        kill = getattr(frame.f_locals.get("self"), "kill_all_processes", None)
        if kill is not None:
            kill(check_alive=False, allow_graceful=False)


def _check_reachable(address: str | None) -> None:
    """Connect to `host:port` once. Ray itself would wait for minutes, and not always end."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "//" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def cluster_nodes() -> list[Node]:
    """The nodes that are alive."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(each.get("CPU", 0.0), each.get("GPU", 0.0)) for each in resources]


@contextmanager
def translate_ray_errors() -> Iterator[None]:
    """Raise Ray's errors as a `PipelineError`. An error of this package in a worker keeps its type and
    message.

    Raises:
        PipelineError: a worker or the cluster failed.
    """
    try:
        yield
    except RayTaskError as error:
        cause = error.cause
        while isinstance(cause, RayTaskError):
            cause = cause.cause
        text = _RETRY_NOTE.sub("", str(cause))
        if isinstance(cause, PipelineError):
            raise type(cause)(text) from None
        reason = (
            f"{type(cause).__name__}: {one_line(Exception(text)).rstrip('.')}"
            if text
            else type(cause).__name__
        )
        raise PipelineError(f"a worker failed: {reason}. Rerun the same command to resume.") from error
    except RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise PipelineError(f"the cluster failed: {last} Rerun the same command to resume.") from error
