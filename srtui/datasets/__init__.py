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
its name is never asked. Of a conversation the first user turn and the answer to it are a row; with
``turns`` the last exchange or each of them is taken, with all that came before it.

:func:`read` gives a :class:`DatasetReader` over :class:`DataRow` and :class:`BadRow`; memory stays bounded
whatever the file holds. :func:`write` writes rows beside the target and renames, so that a failure
leaves the older file whole. Nothing is ever unpickled.

A record layout is one file in ``layouts/``, a kind of file one in ``containers/``; each has a line in
the registry of its folder.
"""

from srtui.datasets.conversations import CONVERSATION_FORMATS, WholeRecord, put_back
from srtui.datasets.layouts.base import LEFT_OUT, Conversation, Exchange, Rewritten
from srtui.datasets.reader import FORMATS, ConversationRow, DatasetReader, Turns, read
from srtui.datasets.rows import MAX_FIELD, MAX_RECORD, REASONS, BadRow, DataRow
from srtui.datasets.writer import WRITABLE, write

__all__ = [
    "CONVERSATION_FORMATS",
    "FORMATS",
    "LEFT_OUT",
    "MAX_FIELD",
    "MAX_RECORD",
    "REASONS",
    "WRITABLE",
    "BadRow",
    "Conversation",
    "ConversationRow",
    "DataRow",
    "DatasetReader",
    "Exchange",
    "Rewritten",
    "Turns",
    "WholeRecord",
    "put_back",
    "read",
    "write",
]
