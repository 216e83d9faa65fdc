"""What Ray has no setting for. All of it is left as Ray has it where another version has it elsewhere; what matters
for safety is looked at afterwards (srtui.cluster.session)."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

_NOT_STARTED = ("start_monitor", "start_log_monitor", "start_api_server")
_PATIENCE = (
    300.0  # seconds that Ray's processes have to come up; Ray itself waits 30, too few on a busy machine
)


def keep_off_stdout() -> None:
    """What raylets say of workers that died would go to stdout, where results are; it goes where libraries' words go
    (srtui.noise)."""
    inner: Any = importlib.import_module("ray._private.worker")
    inner.print_to_stdstream = _to_the_log


def _to_the_log(data: Mapping[str, Any], **_: Any) -> None:
    print(*data.get("lines", ()), sep="\n", file=sys.stderr)


def needs_token() -> bool:
    """Whether Ray's processes on this node ask for a token; asked in a worker, whose environment is its node's."""
    inner: Any = importlib.import_module("ray._raylet")
    try:
        return bool(inner.get_authentication_mode() != inner.AuthenticationMode.DISABLED)
    except AttributeError:
        return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def knock(host_and_port: str, is_client_server: bool, seconds: float) -> Literal["open", "token", "nobody"]:
    """Whether a cluster's head, or its server for clients, answers there: "token" where it wants another one than this
    process has. Ray itself asks again and again for a minute, and says then that it came to nothing."""
    grpc: Any = importlib.import_module("grpc")
    try:
        channel = importlib.import_module("ray._private.grpc_utils").init_grpc_channel(
            host_and_port, options=(), asynchronous=False
        )
        ask, question = (_of_a_client_server if is_client_server else _of_a_head)(channel)
    except (ImportError, AttributeError, TypeError):
        return "open"  # Ray says for itself what is wrong
    try:
        ask(question, timeout=seconds)
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return "token"
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return "nobody"
    finally:
        channel.close()
    return "open"


def _of_a_client_server(channel: Any) -> tuple[Callable[..., Any], Any]:
    messages: Any = importlib.import_module("ray.core.generated.ray_client_pb2")
    stubs: Any = importlib.import_module("ray.core.generated.ray_client_pb2_grpc")
    question = messages.ClusterInfoRequest(type=messages.ClusterInfoType.PING)
    return stubs.RayletDriverStub(channel).ClusterInfo, question


def _of_a_head(channel: Any) -> tuple[Callable[..., Any], Any]:
    messages: Any = importlib.import_module("ray.core.generated.gcs_service_pb2")
    stubs: Any = importlib.import_module("ray.core.generated.gcs_service_pb2_grpc")
    return stubs.NodeInfoGcsServiceStub(channel).CheckAlive, messages.CheckAliveRequest()


@contextmanager
def lean_start() -> Iterator[None]:
    """Ray that is started meanwhile has loopback addresses, no autoscaler, no dashboard process (which runs without a
    dashboard too, and asks cloud providers where it is) and no monitor of logs; it has time to come up."""
    constants: Any = importlib.import_module("ray._private.ray_constants")
    services: Any = importlib.import_module("ray._private.services")
    node: Any = importlib.import_module("ray._private.node").Node
    constants.ENABLE_RAY_CLUSTER = False  # read from the environment where ray is imported first
    before = {name: getattr(node, name) for name in _NOT_STARTED if hasattr(node, name)}
    get_node = getattr(services, "get_node", None)
    for name in before:
        setattr(node, name, lambda self, *_, **__: None)
    if get_node is not None:
        services.get_node = _patiently(get_node)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(node, name, method)
        if get_node is not None:
            services.get_node = get_node


def _patiently(ask: Callable[..., Any]) -> Callable[..., Any]:
    """``ask``, again and again while it raises RuntimeError."""

    def patient(*given: Any, **named: Any) -> Any:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return ask(*given, **named)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    return patient
