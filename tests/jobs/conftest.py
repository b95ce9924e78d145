"""A Ray cluster that the jobs of a test module share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster

from pipeline.cluster.session import KEEP_WORKERS


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[None]:
    """Jobs join this cluster through RAY_ADDRESS, and find its workers already started."""
    head = {"num_cpus": os.cpu_count(), "include_dashboard": False, "_system_config": KEEP_WORKERS}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    os.environ["RAY_ADDRESS"] = cluster.address
    yield
    del os.environ["RAY_ADDRESS"]
    cluster.shutdown()
