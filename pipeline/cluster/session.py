"""The Ray cluster of a run: join one or start one, list its nodes, and translate Ray's errors."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.cluster.capacity import Node
from pipeline.errors import PipelineError, one_line
from pipeline.settings import RunSettings

# Ray stops a worker process after one idle second if a node has more processes than CPUs. Every shard would
# then wait for a new process to import everything. Other clusters set
# RAY_idle_worker_killing_time_threshold_ms.
KEEP_WORKERS = {"idle_worker_killing_time_threshold_ms": 3_600_000}

# Ray Data appends to an error how often it tried and how to let it try more often.
_RETRY_NOTE = re.compile(r"(^|\n|\\n|: ')Failed to .* after \d+/\d+ attempts.*", re.DOTALL)


def join_cluster(settings: RunSettings) -> None:
    """Join the cluster of --ray-address, or of the job, or start one on this machine. Signal handlers stay as
    they are.

    Raises:
        PipelineError: the cluster cannot be joined.
    """
    if ray.is_initialized():
        return
    address = settings.ray_address or os.environ.get("RAY_ADDRESS")
    if not address:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    handler = signal.getsignal(signal.SIGTERM)
    local: dict[str, Any] = {}
    if not address:
        local = {
            "include_dashboard": False,
            "_metrics_export_port": settings.metrics_port,
            "_system_config": KEEP_WORKERS,
        }
    try:
        _check_reachable(address)
        # Without an address, Ray would join the cluster that was last started on this machine.
        ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **local)
    except (OSError, RuntimeError, ValueError) as error:
        raise PipelineError(
            f"the cluster {address or 'of this machine'} cannot be joined: {one_line(error)} Check "
            "--ray-address, and that the cluster runs the same versions of Ray and Python."
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # During a graceful shutdown, fewer tasks are left than could run.
    warnings.filterwarnings("ignore", "The maximum number of concurrent tasks")


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
