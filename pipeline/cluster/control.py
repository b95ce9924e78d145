"""What all processes of a run may look at, kept by the head of the cluster."""

from __future__ import annotations

import uuid

from ray.experimental import internal_kv


class RunControl:
    """That no other shard is to be begun, and which model copies came."""

    def __init__(self, run: str) -> None:
        self._stop, self._arrivals = f"led-stop-{run}".encode(), f"led-actor-{run}-".encode()

    def stop(self) -> None:
        """Let no other shard be begun."""
        internal_kv._internal_kv_put(self._stop, b"up", overwrite=True)

    def is_stopped(self) -> bool:
        """Is no other shard to be begun?"""
        return internal_kv._internal_kv_get(self._stop) is not None

    def register_replica(self) -> None:
        """A model copy came."""
        internal_kv._internal_kv_put(self._arrivals + uuid.uuid4().hex.encode(), b"", overwrite=True)

    def reset_replicas(self) -> None:
        """All model copies are gone."""
        for key in internal_kv._internal_kv_list(self._arrivals):
            internal_kv._internal_kv_del(key)

    def replicas_started(self) -> int:
        """How many model copies came so far, those that went again among them."""
        return len(internal_kv._internal_kv_list(self._arrivals))
