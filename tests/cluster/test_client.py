"""A cluster that this machine is no node of, through Ray's client; and clusters' tokens, wrong and missing ones."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

from srtui.cluster.address import ClusterAddress
from srtui.cluster.cluster_place import ClusterPlace
from srtui.cluster.pool import Pool
from srtui.errors import UserError
from srtui.pipeline import engine
from srtui.workspace import Workspace
from tests.cluster.conftest import ENVIRONMENT, Nodes
from tests.cluster.runs import Made, made, read, work
from tests.cluster.test_training_gang import Hears, elsewhere, in_one_process, same
from tests.commands import forked, srtui
from tests.conftest import small_recipe
from tests.training.conftest import tiny_folder

__all__ = ["tiny_folder"]
pytestmark = pytest.mark.model


def in_a_process(function: Callable[..., object], *given: object) -> None:
    """Run to its end by a process of its own: Ray's module is a client's for good once it was one."""
    for _ in range(
        3
    ):  # what Ray starts for a client may not come up on a busy machine, and Ray waits for it for ever
        process = forked(function, *given)
        process.join(120)
        if process.exitcode == 0:
            return
        process.kill()
    raise AssertionError(f"{function} ended with {process.exitcode}")


def joined(address: ClusterAddress, workers: int) -> ClusterPlace:
    """The place at ``address``, in a process that is forked from one which may be older than the cluster."""
    os.environ.update(ENVIRONMENT)
    return ClusterPlace(address, workers)


def _works(ground: Workspace, address: ClusterAddress) -> None:
    place = joined(address, 1)
    assert place._session.ray.util.client.ray.is_connected()
    came = made(ground, place)
    place.close()
    assert came.said() == []


def test_a_run_through_rays_client(ground: Workspace, alone: Made, nodes: Nodes) -> None:
    """The same texts, losses and decisions."""
    in_a_process(_works, ground, nodes.client_server())
    read(ground).same_as(alone)


def _trains(folder: Path, root: Path, address: ClusterAddress) -> None:
    place, hears = joined(address, 2), Hears()
    result = elsewhere(place, folder, root / "two" / "adapter", hears)
    place.close()
    assert result is not None and hears.saved_steps and not hears.notes
    one, _ = in_one_process(folder, root / "one" / "adapter")
    same(one, hears)


@pytest.mark.slow
def test_a_training_through_rays_client(nodes: Nodes, tiny_folder: Path, tmp_path: Path) -> None:
    """Checkpoints and the adapter come back through it."""
    in_a_process(_trains, tiny_folder, tmp_path, nodes.client_server())
    assert (tmp_path / "two" / "adapter" / "adapter_model.safetensors").is_file()


def _loses(ground: Workspace, address: ClusterAddress) -> None:
    """The head's client server, and what it has started for this client, are killed as texts are written."""
    os.environ["RAY_CLIENT_RECONNECT_GRACE_PERIOD"] = "1"
    engine.template_checked = lambda *_: nullcontext(lambda: None)
    place, listen, times = joined(address, 1), Pool._listen, itertools.count()

    def breaks(self: Pool) -> Any:
        came = listen(self)
        if came and next(times) == 1:
            for process in psutil.process_iter(["cmdline"]):
                if "ray.util.client.server" in (process.info["cmdline"] or []):
                    process.kill()
        return came

    Pool._listen = breaks  # type: ignore[method-assign]
    with pytest.raises(
        UserError, match=r"connection to the Ray cluster at ray://.* is lost .* resume the run"
    ):
        work(ground, place, "reflect-instruction")
    place.close()


@pytest.mark.slow
def test_a_lost_connection_ends_a_run_with_one_sentence(ground: Workspace, alone: Made, nodes: Nodes) -> None:
    """And the run is resumed where it was."""
    in_a_process(_loses, ground, nodes.client_server())
    assert 0 < len(read(ground).generations) < len(alone.generations)
    made(ground).same_as(alone)


@pytest.mark.parametrize(
    ("by_client", "token"),
    [(True, "0" * 64), (True, None), (False, "0" * 64)],
    ids=["client", "none", "node"],
)
def test_who_has_not_the_token_is_refused(
    pair_workspace: Workspace,
    nodes: Nodes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by_client: bool,
    token: str | None,
) -> None:
    """With one sentence, and before anything of the run is sent."""
    address = nodes.client_server() if by_client else nodes.address
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    environment = {"HOME": str(tmp_path)} | ({"RAY_AUTH_TOKEN": token} if token else {})
    recipe = small_recipe(pair_workspace, 4)
    done = srtui(pair_workspace, "run", str(recipe), "--on", str(address), env=environment)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "wants its token" in done.stderr and "RAY_AUTH_TOKEN_PATH" in done.stderr
    assert "Traceback" not in done.stderr


def test_where_nobody_answers(pair_workspace: Workspace, ray_environment: None) -> None:
    with socket.socket() as nobody:  # nobody listens on it
        nobody.bind(("127.0.0.1", 0))
        address = f"ray://127.0.0.1:{nobody.getsockname()[1]}"
        done = srtui(pair_workspace, "run", str(small_recipe(pair_workspace, 4)), "--on", address)
    assert done.returncode == 2
    assert f"No Ray cluster answers at {address}" in done.stderr
