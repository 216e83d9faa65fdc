"""Instruction data in and out: files of other people's making, read with suspicion and streamed.

JSON is records of one of the layouts (``layouts.LAYOUTS``; each file there says what its records look like), in one
array, in lines, or one after the other. Of the other kinds of file (``containers/``), csv and tsv are a header,
then rows, separated by comma, semicolon, bar or tab, with mapped columns; Parquet has the same columns, or a
layout's nested ones.

Any of the text formats may be compressed with gzip or zstd. What a file is follows from its bytes;
its name is never asked. Of a conversation the first user turn and the answer to it are a row; with
``turns`` the last exchange or each of them is taken, with all that came before it.

:func:`read` gives a :class:`DatasetReader` over :class:`DataRow` and :class:`BadRow`; memory stays bounded
whatever the file holds. :func:`write` writes rows beside the target and renames, so that a failure
leaves the older file whole. Nothing is ever unpickled.

A record layout is one file in ``layouts/``, a kind of file one in ``containers/``; each has a line in
the registry of its folder.
"""

from srtui.datasets.layouts.layout import LEFT_OUT, Conversation, Exchange, Rewritten
from srtui.datasets.pair_files import PREFERENCE_LAYOUTS, write_preferences
from srtui.datasets.reader import FORMATS, ConversationRow, DatasetReader, Turns, read
from srtui.datasets.rows import MAX_FIELD, MAX_RECORD, REASONS, BadRow, DataRow
from srtui.datasets.whole_records import CONVERSATION_FORMATS, WholeRecord, put_back
from srtui.datasets.writer import WRITABLE, led_by, write

__all__ = [
    "CONVERSATION_FORMATS",
    "FORMATS",
    "LEFT_OUT",
    "MAX_FIELD",
    "MAX_RECORD",
    "PREFERENCE_LAYOUTS",
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
    "led_by",
    "put_back",
    "read",
    "write",
    "write_preferences",
]
