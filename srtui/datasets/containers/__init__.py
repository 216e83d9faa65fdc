"""Kinds of file that hold records: one file a kind, all listed here.

A container is opened on a :class:`~srtui.datasets.source.DataSource` and yields what
:data:`~srtui.datasets.rows.Found` describes, again from the beginning each time it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from srtui.datasets.containers.delimited import Delimited
from srtui.datasets.containers.json_text import JsonText
from srtui.datasets.containers.parquet import Parquet
from srtui.datasets.rows import Found
from srtui.datasets.source import DataSource
from srtui.errors import UserError


class Container(Protocol):
    """An open file of records."""

    name: str
    """``json``, ``csv``, ``tsv`` or ``parquet``."""

    columns: Mapping[str, str]
    """Where it is a table: which column holds which text."""

    @property
    def position(self) -> int:
        """Bytes of the file on disk that were read so far."""
        ...

    def records(self) -> Iterator[Found]:
        """The file's records from its beginning, one by one, as srtui.datasets.rows.Found says."""


FORCED = ("csv", "tsv", "parquet")
"""The kinds that a caller may insist on by name."""


def open_container(source: DataSource, forced: str | None, columns: Mapping[str, str]) -> Container:
    """The container that the content shows, or the one of :data:`FORCED` that the caller names.

    Raises UserError for content of no known kind, and for a table that lacks the columns.
    """
    if forced == "parquet" or (forced is None and Parquet.recognises(source.head)):
        return Parquet(source, columns)
    if forced is None and JsonText.recognises(source):
        return JsonText(source)
    if forced is None and b"\0" in source.head[:1024].split(b"\n")[0]:
        raise UserError(
            f"{source.path} is binary data of no known kind; give JSON, JSON lines, CSV or Parquet."
        )
    return Delimited(source, forced, columns)


__all__ = ["FORCED", "Container", "open_container"]
