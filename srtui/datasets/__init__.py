"""Instruction data in and out: files of other people's making, read with suspicion and streamed.

===========  =====================================================================================
format       what a record looks like
===========  =====================================================================================
alpaca       ``{"instruction", "input" (optional), "output"}`` in one JSON array, in JSON lines, or as
             objects one after the other; common other names (prompt, response, ...) are known
sharegpt     ``{"conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}, ...]}``
messages     ``{"messages": [{"role": "user", "content"}, {"role": "assistant", "content"}, ...]}``
csv, tsv     a header, then rows; separated by comma, semicolon, bar or tab; mapped columns
parquet      the same columns, or nested ``conversations`` / ``messages``
===========  =====================================================================================

Any of the text formats may be compressed with gzip or zstd. What a file is, is told from its bytes;
its name is never asked. Of a conversation the first user turn and the answer to it are taken.

:func:`read` gives a :class:`DatasetReader` over :class:`DataRow` and :class:`BadRow`; memory stays bounded
whatever the file holds. :func:`write` writes rows beside the target and renames, so that a failure
leaves the older file whole. Nothing is ever unpickled.

A record layout is one file in ``layouts/``, a kind of file one in ``containers/``; each has a line in
the registry of its folder.
"""

from srtui.datasets.preference import PREFERENCE_LAYOUTS, write_preferences
from srtui.datasets.reader import FORMATS, DatasetReader, read
from srtui.datasets.rows import MAX_FIELD, MAX_RECORD, REASONS, BadRow, DataRow
from srtui.datasets.writer import WRITABLE, write

__all__ = [
    "FORMATS",
    "MAX_FIELD",
    "MAX_RECORD",
    "PREFERENCE_LAYOUTS",
    "REASONS",
    "WRITABLE",
    "BadRow",
    "DataRow",
    "DatasetReader",
    "read",
    "write",
    "write_preferences",
]
