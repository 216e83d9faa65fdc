"""HTTP to a server that a recipe names, over TCP or a Unix socket: the one place in srtui that opens a connection.

Only loopback addresses and Unix sockets are taken, unless the recipe says that others are meant. No proxy is
asked, and no redirection followed: what is connected to is what the recipe says.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from srtui.recipe.server_address import Address
from srtui.text import safe

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 3600.0  # a long text of a slow model behind a long queue; a stop closes the connection
_MOST = 64 * 2**20  # bytes of an answer


class NoAnswer(Exception):
    """The server could not be reached, or broke off."""


@dataclass(frozen=True)
class HttpResponse:
    """What a server said: its status, the JSON object, and where it is an error, that in a line."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def error(self) -> str:
        """What went wrong, in the server's words; empty where nothing did."""
        if self.status == 200:
            return ""
        error = self.body.get("error") or self.body.get("detail") or self.body.get("message") or self.body
        if isinstance(error, dict):
            error = error.get("message") or error
        return " ".join(safe(str(error)).split())[:200]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Connections:
    """A connection for each thread that asks, kept open from one request to the next."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._own = threading.local()
        self._open: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()

    def get(self, path: str) -> HttpResponse:
        """What is at ``path``. Raises NoAnswer."""
        return self._ask("GET", self._address.path + path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> HttpResponse:
        """The answer to ``body`` as JSON. Raises NoAnswer."""
        return self._ask("POST", self._address.path + path, json.dumps(body).encode())

    def properties(self) -> dict[str, Any]:
        """What a llama-server says of itself; empty where the server is another, or says nothing."""
        with suppress(NoAnswer):
            answer = self._ask("GET", "/props", None)
            return answer.body if answer.status == 200 else {}
        return {}

    def drop(self) -> None:
        """Break off whatever is on its way; the next request opens connections anew."""
        with self._lock:
            connections, self._open = self._open, set()
        for connection in connections:
            sock = connection.sock
            if sock is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _connect(self) -> http.client.HTTPConnection:
        address = self._address
        connection: http.client.HTTPConnection
        if address.unix:
            connection = _UnixConnection(address.unix, _CONNECT_SECONDS)
        elif address.scheme == "https":
            connection = http.client.HTTPSConnection(
                address.host, address.port, timeout=_CONNECT_SECONDS, context=ssl.create_default_context()
            )
        else:
            # The name must mean this machine, whatever a table of hosts says.
            host = "127.0.0.1" if address.host == "localhost" else address.host
            connection = http.client.HTTPConnection(host, address.port, timeout=_CONNECT_SECONDS)
        connection.connect()
        connection.sock.settimeout(_ANSWER_SECONDS)
        with self._lock:
            self._open.add(connection)
        return connection

    def _ask(self, method: str, path: str, body: bytes | None) -> HttpResponse:
        kept: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        self._own.connection = None
        connection = None
        try:
            connection = kept if kept in self._open else self._connect()
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            data = response.read(_MOST + 1)
            if response.length and len(data) <= _MOST:  # it was killed while it answered
                raise http.client.IncompleteRead(data, response.length)
            keep_alive = not response.will_close and len(data) <= _MOST
        except (OSError, http.client.HTTPException) as error:
            self._forget(connection)
            raise NoAnswer(str(error) or type(error).__name__) from error
        if keep_alive:
            self._own.connection = connection
        else:
            self._forget(connection)
        try:
            parsed = json.loads(data)
        except (ValueError, RecursionError):
            parsed = {"error": data[:200].decode("utf-8", "replace")}
        return HttpResponse(response.status, parsed if isinstance(parsed, dict) else {})

    def _forget(self, connection: http.client.HTTPConnection | None) -> None:
        if connection is None:
            return
        with self._lock:
            self._open.discard(connection)
        with suppress(OSError):
            connection.close()
