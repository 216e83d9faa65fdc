"""What ``--on`` says: Ray on this machine, or a cluster that is there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from srtui.errors import UserError
from srtui.files import read_text

_CLIENT = "ray://"
_CLIENT_PORT = 10001  # of Ray's client server, where an address names none
_HOST_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]{1,253})(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True)
class ClusterAddress:
    """``ray`` is as Ray takes it; None starts Ray on this machine."""

    ray: str | None

    @property
    def is_local(self) -> bool:
        """Whether Ray is started here, and ended with the run."""
        return self.ray is None

    @property
    def door(self) -> tuple[str, bool]:
        """HOST:PORT of a cluster, and whether a server for clients is there and not the head itself."""
        word = self.ray or ""
        return word.removeprefix(_CLIENT), word.startswith(_CLIENT)

    def __str__(self) -> str:
        return self.ray or "this machine"


def parse_place(text: str) -> ClusterAddress:
    """The address that ``--on`` names: ``ray`` (this machine), ``ray://HOST[:PORT]`` (a cluster's client server),
    ``HOST:PORT`` (the cluster that this machine is a node of), or a file that holds one of the two.

    Raises UserError for anything else.
    """
    word = text.strip()
    if word == "ray":
        return ClusterAddress(None)
    if (address := _address(word)) is not None:
        return address
    path = Path(word).expanduser()
    if path.is_file():
        lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        address = _address(lines[0]) if len(lines) == 1 else None
        if address is None:
            raise UserError(
                f"--on {word}: the file has to hold one line, ray://HOST:PORT or HOST:PORT, and nothing else."
            )
        return address
    raise UserError(
        f"--on {word}: write ray for Ray on this machine, ray://HOST or HOST:PORT for a cluster, or the name of a file "
        "that holds a cluster's address."
    )


def _address(word: str) -> ClusterAddress | None:
    is_client = word.startswith(_CLIENT)
    match = _HOST_PORT.fullmatch(word.removeprefix(_CLIENT))
    if match is None or (match["port"] is None and not is_client):
        return None
    port = int(match["port"] or _CLIENT_PORT)
    if not 0 < port < 65536:
        return None
    return ClusterAddress(f"{_CLIENT if is_client else ''}{match['host']}:{port}")
