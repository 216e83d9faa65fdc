"""Conversations: their turns once, whatever samples they have, and how to find both from each other.

A conversation's id is that of its first turn, and its turns' ids follow each other. A sample that is one of its
exchanges has a row in ``exchange``: its history are the turns before its user turn. Where a second conversation
begins like one that is stored, their common exchanges are one sample, and ``exchange_again`` says where else it
stands.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from srtui.sample import History, Turn, history_digest, pair_digest
from srtui.store._query import batched, fetch_row, fetch_rows, fetch_value

FOLLOWED = "followed"
"""What a reflection on an instruction came to that later turns refer to: the teacher was not asked."""


@dataclass(frozen=True)
class NewConversation:
    """One good record of a file on its way in. ``exchanges`` are (answer's turn, its texts, followed)."""

    number: int
    turns: Sequence[Turn]
    places: Sequence[tuple[int, int]]
    exchanges: Sequence[tuple[int, tuple[str, str, str], bool]]
    layout: str
    record: str
    external_id: str | None = None


class StoredConversation(NamedTuple):
    """A conversation as it was imported; ``places`` are (first entry in the record's list, entries) by turn."""

    id: int
    layout: str
    record: str
    turns: list[Turn]
    places: list[tuple[int, int]]


class TakenExchange(NamedTuple):
    """A sample at its place in a conversation, with what a run made of it: its text, and whether it is kept.
    ``answer`` is the response's turn, from 0."""

    answer: int
    sample_id: int
    instruction: str
    input: str
    response: str
    kept: bool


class ConversationPlace(NamedTuple):
    """Where a sample stands: in which conversation, its response's turn (from 1), how many turns that has, and
    whether another exchange follows."""

    conversation_id: int
    turn: int
    turns: int
    followed: bool


def histories(conn: sqlite3.Connection, sample_ids: Iterable[int]) -> dict[int, Sequence[Turn]]:
    """By sample the turns before its exchange; samples without any are left out."""
    turns_of: dict[int, Sequence[Turn]] = {}
    if fetch_value(conn, "SELECT 1 FROM exchange LIMIT 1") is None:
        return turns_of
    read_of, turns = 0, list[Turn]()
    for chunk in batched(dict.fromkeys(sample_ids), 500):
        rows = fetch_rows(
            conn,
            "SELECT sample_id, conversation_id, answer_id - 1 FROM exchange "
            f"WHERE sample_id IN ({','.join('?' * len(chunk))}) ORDER BY conversation_id, answer_id",
            chunk,
        )
        # A conversation's turns are read once and shared: the histories of its samples begin alike.
        for conversation_id, of in groupby(rows, key=lambda r: int(r[1])):
            ends = {int(r[0]): int(r[2]) for r in of}
            if conversation_id != read_of:
                read_of, turns = conversation_id, []
            new_turns = fetch_rows(
                conn,
                "SELECT role, text FROM turn WHERE id >= ? AND id < ? ORDER BY id",
                (conversation_id + len(turns), max(ends.values())),
            )
            turns.extend(Turn(r[0], r[1]) for r in new_turns)
            turns_of.update(
                (i, History(turns, end - conversation_id)) for i, end in ends.items() if end > conversation_id
            )
    return turns_of


def has_conversations(conn: sqlite3.Connection, run_id: int) -> bool:
    """Whether a sample of this run is an exchange of a conversation."""
    exchange = fetch_value(
        conn,
        "SELECT 1 FROM conversation c JOIN exchange e ON e.conversation_id = c.id WHERE c.dataset_id = "
        "(SELECT dataset_id FROM run WHERE id = ?) LIMIT 1",
        (run_id,),
    )
    return exchange is not None


def of_conversations(conn: sqlite3.Connection, dataset_id: int) -> bool:
    """Whether a sample of this dataset is an exchange of a conversation."""
    exchange = fetch_value(
        conn,
        "SELECT 1 FROM conversation c JOIN exchange e ON e.conversation_id = c.id WHERE c.dataset_id = ? LIMIT 1",
        (dataset_id,),
    )
    return exchange is not None


def place_of(conn: sqlite3.Connection, sample_id: int) -> ConversationPlace | None:
    """Where a sample stands in its conversation; None where it is of none."""
    row = fetch_row(
        conn,
        "SELECT e.conversation_id, e.answer_id - e.conversation_id + 1, c.turns, e.followed FROM exchange e "
        "JOIN conversation c ON c.id = e.conversation_id WHERE e.sample_id = ?",
        (sample_id,),
    )
    return ConversationPlace(row[0], row[1], row[2], bool(row[3])) if row else None


def conversation_ids(conn: sqlite3.Connection, dataset_id: int) -> dict[int, tuple[int, bool]]:
    """By sample of a dataset the conversation that it is of, and whether it opens it: no turn came before but the
    system's."""
    rows = fetch_rows(
        conn,
        "SELECT e.sample_id, e.conversation_id, NOT EXISTS (SELECT 1 FROM turn t WHERE t.id >= e.conversation_id "
        "AND t.id < e.answer_id - 1 AND t.role <> 'system') FROM conversation c JOIN exchange e "
        "ON e.conversation_id = c.id WHERE c.dataset_id = ?",
        (dataset_id,),
    )
    return {int(r[0]): (int(r[1]), bool(r[2])) for r in rows}


def conversations_of(conn: sqlite3.Connection, sample_ids: Iterable[int]) -> dict[int, int]:
    """By sample the conversation that it is of; those of none are left out."""
    conversation_of: dict[int, int] = {}
    for chunk in batched(sample_ids, 500):
        marks = ",".join("?" * len(chunk))
        rows = fetch_rows(
            conn, f"SELECT sample_id, conversation_id FROM exchange WHERE sample_id IN ({marks})", chunk
        )
        conversation_of.update((int(r[0]), int(r[1])) for r in rows)
    return conversation_of


def followed(conn: sqlite3.Connection, run_id: int) -> set[int]:
    """The samples of a run whose exchange others of its conversation follow, and refer to."""
    return {
        int(r[0])
        for r in fetch_rows(
            conn,
            "SELECT e.sample_id FROM run_sample rs JOIN exchange e ON e.sample_id = rs.sample_id "
            "WHERE rs.run_id = ? AND e.followed = 1",
            (run_id,),
        )
    }


def conversation_ends(conn: sqlite3.Connection, run_id: int) -> list[int]:
    """The samples of a run that something came before and no exchange comes after."""
    rows = fetch_rows(
        conn,
        "SELECT e.sample_id FROM run_sample rs JOIN exchange e ON e.sample_id = rs.sample_id "
        "WHERE rs.run_id = ? AND e.followed = 0 AND e.history IS NOT NULL ORDER BY e.sample_id",
        (run_id,),
    )
    return [int(r[0]) for r in rows]


def history_of(conn: sqlite3.Connection, sample_id: int) -> bytes | None:
    """The digest of a sample's history; None where it has none."""
    digest: bytes | None = fetch_value(conn, "SELECT history FROM exchange WHERE sample_id = ?", (sample_id,))
    return digest


def stored_conversation(conn: sqlite3.Connection, conversation_id: int) -> StoredConversation:
    """A conversation with its turns."""
    row = fetch_row(
        conn, "SELECT id, layout, record, turns FROM conversation WHERE id = ?", (conversation_id,)
    )
    assert row is not None  # noqa: S101 - ids come from exchanges, whose foreign key it is
    turns = fetch_rows(
        conn,
        "SELECT role, text, place, places FROM turn WHERE id >= ? AND id < ? ORDER BY id",
        (conversation_id, conversation_id + row["turns"]),
    )
    return StoredConversation(
        row["id"],
        row["layout"],
        row["record"],
        [Turn(t[0], t[1]) for t in turns],
        [(t[2], t[3]) for t in turns],
    )


def insert(
    conn: sqlite3.Connection,
    dataset_id: int,
    conversations: Sequence[NewConversation],
    next_sample: int,
    next_turn: int,
    now: float,
) -> tuple[int, int, int]:
    """Store conversations and their samples.

    Args:
        conn: of the store, in a transaction.
        dataset_id: what they belong to.
        conversations: what was read.
        next_sample: the first sample id that is free.
        next_turn: the first turn id that is free.
        now: seconds since 1970.

    Returns:
        How many samples there were, how many of them are new, and how many turns were given an id.
    """
    samples: list[tuple[Any, ...]] = []
    variants, exchanges, turns, kept = [], [], [], []
    first = turn_id = next_turn
    for c in conversations:
        kept.append((turn_id, dataset_id, c.number, c.external_id, c.layout, len(c.turns), c.record))
        digests: list[bytes | None] = [None]
        for turn in c.turns:
            digests.append(history_digest((turn,), digests[-1]))
        turns += [
            (turn_id + n, t.role, t.text, place, size)
            for n, (t, (place, size)) in enumerate(zip(c.turns, c.places, strict=True))
        ]
        for answer, texts, is_followed in c.exchanges:
            sample_id, history = next_sample + len(samples), digests[answer - 1]
            key = pair_digest(*texts, history)
            samples.append((sample_id, dataset_id, c.number, c.external_id, key))
            variants.append((sample_id, key, *texts, now, sample_id))
            exchanges.append((sample_id, turn_id, turn_id + answer, is_followed, history))
        turn_id += len(c.turns)
    # The record is its conversation's: it is kept once.
    inserted = conn.executemany(
        "INSERT OR IGNORE INTO sample(id, dataset_id, row, external_id, digest, record) VALUES (?,?,?,?,?,'{}')",
        samples,
    ).rowcount
    conn.executemany(
        "INSERT INTO variant(sample_id, digest, kind, origin, instruction, input, response, created_at) "
        "SELECT ?, ?, 'original', 'dataset', ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM sample WHERE id = ?)",
        variants,
    )
    conn.executemany("INSERT INTO conversation VALUES (?,?,?,?,?,?,?)", kept)
    conn.executemany("INSERT INTO turn VALUES (?,?,?,?,?)", turns)
    conn.executemany(
        "INSERT INTO exchange SELECT ?1, ?2, ?3, ?4, ?5 WHERE EXISTS (SELECT 1 FROM sample WHERE id = ?1)",
        exchanges,
    )
    if inserted < len(samples):
        conn.executemany(
            "INSERT OR IGNORE INTO exchange_again SELECT ?, ?, s.id FROM sample s WHERE s.dataset_id = ? "
            "AND s.digest = ? AND s.id <> ?",
            [(e[1], e[2], dataset_id, s[4], s[0]) for s, e in zip(samples, exchanges, strict=True)],
        )
        # Where one of its places has turns behind it that refer to it, its instruction stays as it is.
        conn.executemany(
            "UPDATE exchange SET followed = 1 WHERE followed = 0 AND sample_id IN "
            "(SELECT id FROM sample WHERE dataset_id = ? AND digest = ?)",
            [(dataset_id, s[4]) for s, e in zip(samples, exchanges, strict=True) if e[3]],
        )
        _drop_repeated(conn, first)
    return len(samples), inserted, turn_id - next_turn


def _drop_repeated(conn: sqlite3.Connection, first: int) -> None:
    """Of the conversations from this id on, take away those that add no sample: they are duplicates."""
    repeated = fetch_rows(
        conn,
        "SELECT id, turns FROM conversation c WHERE id >= ? AND NOT EXISTS "
        "(SELECT 1 FROM exchange e WHERE e.conversation_id = c.id)",
        (first,),
    )
    conn.executemany("DELETE FROM exchange_again WHERE conversation_id = ?", [(r[0],) for r in repeated])
    conn.executemany("DELETE FROM turn WHERE id >= ? AND id < ?", [(r[0], r[0] + r[1]) for r in repeated])
    conn.executemany("DELETE FROM conversation WHERE id = ?", [(r[0],) for r in repeated])


def next_turn_id(conn: sqlite3.Connection) -> int:
    """The first turn id that is free."""
    return int(fetch_value(conn, "SELECT coalesce(max(id), 0) + 1 FROM turn"))
