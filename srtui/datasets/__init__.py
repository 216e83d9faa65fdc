"""Reading and writing instruction data, streaming, sniffed by content and never by name.

A file is a *container* (how records are laid out: a JSON array, JSON lines, CSV, Parquet, each perhaps
in gzip or zstd) of *records* in a *layout* (how a record holds a pair). A new layout or container is
one more file and one more line in its table below.

=========  ====================================================  =====================
layout     fields                                                containers
=========  ====================================================  =====================
alpaca     ``instruction``, ``input`` (optional), ``output``     all
sharegpt   ``conversations``: first human turn and its answer    JSON, JSONL, Parquet
messages   ``messages``: first user turn and its answer          JSON, JSONL, Parquet
columns    named by the caller, or common column names           all
=========  ====================================================  =====================
"""

from srtui.datasets.records import BadRow, Row
from srtui.datasets.reading import FORMATS, Reader, read
from srtui.datasets.writing import WRITERS, write

__all__ = ["FORMATS", "WRITERS", "BadRow", "Reader", "Row", "read", "write"]
