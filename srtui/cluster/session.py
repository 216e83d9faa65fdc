"""Ray: started on this machine for one run, or a cluster that is joined.

On this machine all of Ray's processes listen on the loopback address alone, its dashboard and its usage reports are
off, and a token that nobody else has is asked for every call. What Ray's processes would ask by HTTP (cloud providers'
metadata services, what machine they are on) is sent to a closed port of this machine.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from srtui.cluster.address import ClusterAddress
from srtui.cluster.placement import Node
from srtui.cluster.ray_inside import keep_off_stdout, knock, lean_start
from srtui.cluster.worker_messages import Whereabouts
from srtui.errors import UserError

_NOWHERE = "http://127.0.0.1:9"  # the discard port of this machine, where nobody listens
_LASTING = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": _NOWHERE,  # one that says that reports are off is sent otherwise
    "RAY_AUTH_MODE": "token",
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_worker_niceness": "0",  # models are the work itself, and not to give way to everything else
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TQDM": "0",
}
# Ray's own switch for systems whose firewalls ask: its servers bind to 127.0.0.1, and it asks nobody for its address.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_PROXIES = {name: _NOWHERE for word in ("http_proxy", "https_proxy") for name in (word, word.upper())}
_TEMPORARY = "srtui-ray-"
_LONGEST_FOLDER = 24  # characters: sockets lie in it, and a socket's name has 107 at most
_KNOCK = 10.0  # seconds that a client server may take to answer
_TRIES = 3  # to start Ray, whose parts wait for each other for seconds only: too few on a busy machine
_STORE_BYTES = (
    100 * 2**20,
    2**30,
)  # the least and the most of Ray's shared memory, which is taken as it is used


class Session:
    """Ray as it was started or joined; ``close`` ends what was started."""

    def __init__(self, address: ClusterAddress) -> None:
        """Raises UserError where ray is not installed, or no cluster answers."""
        self.address = address
        self.lost = False
        """Whether the connection to a cluster's client server broke: nothing can be asked any more."""
        self.folder: Path | None = None
        """Of this run's Ray on this machine; None where a cluster was joined."""
        # Ray reads some of its environment as it is imported.
        if address.is_local:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            os.environ.update(_LASTING)
            with _environment(_LOOPBACK | _PROXIES), _own_signals():
                self.ray = _import()
                self._start()
        else:
            os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            self.ray = _import()
            self._join()

    def _start(self) -> None:
        _sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY}{os.getpid()}-", dir=_short_folder()))
        free = psutil.virtual_memory().available
        for attempt in range(1, _TRIES + 1):
            try:
                with lean_start():
                    context = self.ray.init(
                        address="local",
                        num_cpus=processors(),
                        include_dashboard=False,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        object_store_memory=int(min(max(free // 16, _STORE_BYTES[0]), _STORE_BYTES[1])),
                        _temp_dir=str(self.folder),
                    )
                break
            except Exception as error:
                self.ray.shutdown()
                if attempt == _TRIES:
                    self.close()
                    raise UserError(
                        f"Ray does not start on this machine ({_first_line(error)}); without --on a run needs no Ray."
                    ) from error
        where = str(context.address_info["node_ip_address"])
        if not ipaddress.ip_address(where).is_loopback:
            self.close()
            raise UserError(
                f"This version of Ray would listen on {where} and not on the loopback address alone, so it was not used; "
                "install the one that srtui was tested with: pip install 'srtui[ray]'"
            )

    def _join(self) -> None:
        with _own_signals():
            try:
                answer = knock(*self.address.door, _KNOCK)
                if answer == "token":
                    raise UserError(self._no_token())
                if answer == "nobody":
                    raise UserError(
                        f"No Ray cluster answers at {self.address}; see on its head node whether it runs (ray status). "
                        "HOST:PORT is the head's own port (6379), ray://HOST:PORT that of its server for clients (10001), "
                        "which needs ray[client] there."
                    )
                self.ray.init(address=self.address.ray, log_to_driver=False, logging_level=logging.ERROR)
            except UserError:
                raise
            except self.ray.exceptions.AuthenticationError as error:
                raise UserError(self._no_token()) from error
            except Exception as error:
                if "token" in str(error).lower():
                    raise UserError(self._no_token()) from error
                raise UserError(
                    f"No Ray cluster can be joined at {self.address} ({_first_line(error)}); see on its head node whether it "
                    "runs (ray status)."
                ) from error

    def _no_token(self) -> str:
        return (
            f"The Ray cluster at {self.address} wants its token: put it into ~/.ray/auth_token here too, or name its file "
            "in RAY_AUTH_TOKEN_PATH."
        )

    def check_token(self, where: Whereabouts) -> None:
        """Raises UserError where a node takes work from anyone, unless RAY_AUTH_MODE=disabled says that this is meant."""
        if not where.has_token and os.environ.get("RAY_AUTH_MODE", "").lower() != "disabled":
            raise UserError(
                f"Node {where.node} of the Ray cluster runs what anyone who reaches it sends, for Ray was started there "
                "without token authentication; start it with RAY_AUTH_MODE=token (docs/cluster.md)."
            )

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Raises UserError where the connection to a cluster's client server is lost meanwhile."""
        try:
            yield
        except ConnectionError as error:
            self.lost = True
            raise UserError(
                f"The connection to the Ray cluster at {self.address} is lost ({_first_line(error)}). What was finished is "
                "stored; resume the run when the cluster is back."
            ) from error

    def nodes(self) -> list[Node]:
        """The machines that are there now."""
        return [
            Node(
                row["NodeID"],
                str(row.get("NodeManagerHostname") or row.get("NodeManagerAddress")),
                float(row["Resources"].get("CPU", 0)),
                float(row["Resources"].get("GPU", 0)),
            )
            for row in self.ray.nodes()
            if row.get("Alive")
        ]

    def close(self) -> None:
        """End what was started, or leave the cluster; nothing can be asked afterwards."""
        with contextlib.suppress(Exception), _own_signals():
            self.ray.shutdown()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _import() -> Any:
    try:
        import ray
        import ray.exceptions
        import ray.util.scheduling_strategies

        keep_off_stdout()
    except ImportError as error:
        raise UserError(
            "--on needs Ray, which is not installed here; install it with: pip install 'srtui[ray]'"
        ) from error
    return ray


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _short_folder() -> str | None:
    """Where temporary files go, or /tmp where that is too long a name."""
    usual = tempfile.gettempdir()
    return "/tmp" if len(usual) > _LONGEST_FOLDER and os.access("/tmp", os.W_OK) else usual  # noqa: S108 - mkdtemp in it


def _sweep() -> None:
    """Remove what runs left behind that were killed."""
    for folder in Path(_short_folder() or "").glob(f"{_TEMPORARY}*"):
        owner = folder.name.removeprefix(_TEMPORARY).partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """With these set, for processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes the signals of the process that starts it; they stay what they were."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    before = {n: signal.getsignal(n) for n in numbers}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not the main thread: then Ray took none
            for number, handler in before.items():
                signal.signal(number, handler)
