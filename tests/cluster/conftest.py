"""A Ray cluster for the tests, on the loopback address and with a token; models of milliseconds."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from srtui.cluster import Limits
from srtui.cluster.address import ClusterAddress
from srtui.cluster.ray_inside import knock
from srtui.workspace import Workspace

TOKEN = "f" * 64
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_worker_niceness": "0",
    # A node that is gone is missed after two seconds and not after half a minute; one that is slow to answer is not.
    "GRPC_ENABLE_FORK_SUPPORT": "0",  # or what Ray's client server starts may die as it is forked
    "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "300",
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "400",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
}


@pytest.fixture(scope="session")
def ray_environment() -> None:
    """What Ray reads as it is imported. Skips where it is not installed."""
    if find_spec("ray") is None:
        pytest.skip("ray is not installed here: pip install 'srtui[ray]'")
    os.environ.update(ENVIRONMENT)


class Nodes:
    """A cluster of this machine's: a head, and nodes that come and go."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = _tried(lambda: Cluster(initialize_head=True, head_node_args=self._node(2)))

    @staticmethod
    def _node(cpus: int) -> dict[str, Any]:
        return {
            "num_cpus": cpus,
            "num_gpus": 0,
            "object_store_memory": 80 * 2**20,
        }

    @property
    def address(self) -> ClusterAddress:
        return ClusterAddress(str(self.cluster.address))

    def add(self, cpus: int = 2) -> Any:
        return _tried(lambda: self.cluster.add_node(**self._node(cpus)))

    def client_server(self) -> ClusterAddress:
        """The head's server for clients that are no node of the cluster, started when it is first asked for."""
        head = self.cluster.head_node
        server = head.all_processes.get("ray_client_server")
        if not server or server[0].process.poll() is not None:
            head.all_processes.pop("ray_client_server", None)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                head._ray_params.ray_client_server_port = probe.getsockname()[1]
            head.start_ray_client_server()
        address = f"127.0.0.1:{head._ray_params.ray_client_server_port}"
        until = time.monotonic() + 120
        while knock(address, True, 5) != "open":
            assert time.monotonic() < until
            time.sleep(0.2)
        return ClusterAddress(f"ray://{address}")

    def remove(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)


def _tried(start: Callable[[], Any]) -> Any:
    """Ray's parts wait for each other for seconds only: on a busy machine it may need another try."""
    from srtui.cluster.ray_inside import lean_start

    for attempt in range(3):
        try:
            with lean_start():
                return start()
        except Exception:
            if attempt == 2:
                raise
    raise AssertionError


@pytest.fixture(scope="session")
def nodes(ray_environment: None) -> Iterator[Nodes]:
    there = Nodes()
    yield there
    there.cluster.shutdown()


@pytest.fixture
def place(nodes: Nodes) -> Iterator[Callable[..., Any]]:
    """Opens places on the cluster: ``place(workers=2, silent=300)``."""
    from srtui.cluster.cluster_place import ClusterPlace

    opened: list[Any] = []

    def make(workers: int = 2, silent: float = 300, address: ClusterAddress | None = None) -> ClusterPlace:
        opened.append(ClusterPlace(address or nodes.address, workers, Limits(silent=silent)))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture(scope="session")
def alone(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one process makes of the samples, whole."""
    from tests.cluster.runs import made, workspace_of

    workspace = workspace_of(tmp_path_factory.mktemp("alone"), pair_folder)
    return made(workspace)


@pytest.fixture
def ground(tmp_path: Path, pair_folder: Path) -> Workspace:
    from tests.cluster.runs import workspace_of

    return workspace_of(tmp_path / "ws", pair_folder)
