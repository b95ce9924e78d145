"""State that all processes of a run share, in the key-value store of the cluster's head node."""

from __future__ import annotations

import uuid

from ray.experimental import internal_kv


class RunControl:
    """The stop request of a run, and the number of replicas that have started."""

    def __init__(self, run: str) -> None:
        self._stop, self._replicas = f"led-stop-{run}".encode(), f"led-replica-{run}-".encode()

    def stop(self) -> None:
        """Request a graceful shutdown. No further shard is started."""
        internal_kv._internal_kv_put(self._stop, b"1", overwrite=True)

    def is_stopped(self) -> bool:
        """True after a stop request."""
        return internal_kv._internal_kv_get(self._stop) is not None

    def register_replica(self) -> None:
        """Count one more replica as started."""
        internal_kv._internal_kv_put(self._replicas + uuid.uuid4().hex.encode(), b"", overwrite=True)

    def reset_replicas(self) -> None:
        """Set the number of started replicas to zero."""
        for key in internal_kv._internal_kv_list(self._replicas):
            internal_kv._internal_kv_del(key)

    def replicas_started(self) -> int:
        """The number of replicas that have started, including those that have ended."""
        return len(internal_kv._internal_kv_list(self._replicas))
