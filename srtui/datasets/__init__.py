"""Instruction data in and out: files of other people's making, read with suspicion and streamed.

JSON is records of one of the layouts (``layouts.LAYOUTS``; each file there says what its records look like), in one
array, in lines, or one after the other. Of the other kinds of file (``containers/``), csv and tsv are a header,
then rows, separated by comma, semicolon, bar or tab, with mapped columns; Parquet has the same columns, or a
layout's nested ones.

Any of the text formats may be compressed with gzip or zstd. What a file is follows from its bytes;
its name is never asked. Of a conversation the first user turn and the answer to it are taken.

:func:`read` gives a :class:`DatasetReader` over :class:`DataRow` and :class:`BadRow`; memory stays bounded
whatever the file holds. :func:`write` writes rows beside the target and renames, so that a failure
leaves the older file whole. Nothing is ever unpickled.

A record layout is one file in ``layouts/``, a kind of file one in ``containers/``; each has a line in
the registry of its folder.
"""

from srtui.datasets.reader import FORMATS, DatasetReader, read
from srtui.datasets.rows import MAX_FIELD, MAX_RECORD, REASONS, BadRow, DataRow
from srtui.datasets.writer import WRITABLE, write

__all__ = [
    "FORMATS",
    "MAX_FIELD",
    "MAX_RECORD",
    "REASONS",
    "WRITABLE",
    "BadRow",
    "DataRow",
    "DatasetReader",
    "read",
    "write",
]
