"""Where a server is that a recipe names: on this machine, unless the recipe says that another is meant."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from srtui.errors import UserError


@dataclass(frozen=True)
class Address:
    """Where a server is: a Unix socket, or a host and a port; ``path`` stands in front of what is asked."""

    scheme: str
    host: str
    port: int
    path: str
    unix: str | None = None

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def is_local(self) -> bool:
        """Whether it can only be this machine: a Unix socket, or a loopback address by number or as localhost."""
        if self.unix is not None or self.host == "localhost":
            return True
        with suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return False


def parse_address(text: str, *, allow_remote: bool = False) -> Address:
    """The address of an endpoint: ``http://127.0.0.1:8000/v1``, or ``unix:/run/model.sock``. Raises UserError
    where it is none, or is another machine's and ``allow_remote`` is not set."""
    if text.startswith("unix:"):
        unix = text.removeprefix("unix:").removeprefix("//")
        if not unix.startswith("/"):
            raise UserError(
                f"teacher.endpoint = {text!r}: write the whole path of a Unix socket, as unix:/run/x.sock."
            )
        return Address("http", "localhost", 80, "/v1", unix)
    try:
        parts = urlsplit(text)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise UserError(f"teacher.endpoint = {text!r} is no address ({error}); correct it.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise UserError(
            f"teacher.endpoint = {text!r} is no address of a server; write http://127.0.0.1:8000/v1, or unix:/run/x.sock."
        )
    address = Address(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))
    if not address.is_local and not allow_remote:
        raise UserError(
            f"teacher.endpoint = {text!r} is another machine's: the texts of the data would leave this one. "
            "teacher.allow_remote = true allows it."
        )
    return address
