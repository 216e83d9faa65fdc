"""How teachers were asked: what many generations have in common is stored once.

``asked`` has which model wrote, to which version of the words, in which mode, drawn how. ``prompt_frame`` has what
prompts share: a prompt is its frame with the texts of the pair that it asks about put in, byte for byte, or it is
stored as it is. A generation that an earlier srtui stored has all of it in its own row, and keeps it there.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from srtui.errors import UserError
from srtui.sample import Pair, digest
from srtui.store._query import fetch_value
from srtui.store.stored import stored

if TYPE_CHECKING:
    from srtui.store.generations import GenerationRow

Pieces = tuple[str | int, ...]
"""A frame: texts, and between them the numbers of a pair's texts (:func:`_slots`)."""
_RECENT = 8  # frames that are tried: with and without an input, of two targets, in two ways

JOINS = "LEFT JOIN asked a ON a.id = g.asked_id LEFT JOIN prompt_frame f ON f.id = g.frame_id"
"""What a query of ``generation g`` needs to read what is stored once."""
COLUMNS = {
    name: f"coalesce(a.{name}, g.{name})"
    for name in ("model", "model_sha256", "prompt_version", "mode", "sampler")
}
"""By name, such a query's column."""


def asked_ids(conn: sqlite3.Connection, generations: Iterable[GenerationRow]) -> list[int]:
    """The id of how each was asked, made where there is none yet; within a transaction."""
    id_of: dict[tuple[str, ...], int] = {}
    ids = []
    for generation in generations:
        columns = (
            generation.model,
            generation.model_sha256,
            generation.prompt_version,
            generation.mode,
            generation.sampler,
        )
        if columns not in id_of:
            conn.execute(
                "INSERT OR IGNORE INTO asked(model, model_sha256, prompt_version, mode, sampler) VALUES (?,?,?,?,?)",
                columns,
            )
            id_of[columns] = fetch_value(
                conn,
                "SELECT id FROM asked WHERE model = ? AND model_sha256 = ? AND prompt_version = ? AND mode = ? "
                "AND sampler = ?",
                columns,
            )
        ids.append(id_of[columns])
    return ids


class Frames:
    """Finds the frames of prompts; those that fitted last are tried first."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self._recent: list[Pieces] = []

    def ids(self, prompts: Iterable[tuple[str, Pair | None]]) -> list[int | None]:
        """The id of each prompt's frame, made where there is none yet; None where the prompt is stored as it is.
        ``prompts`` are with the pair that each asks about, where that is known. Within a transaction."""
        id_of: dict[Pieces, int] = {}
        ids: list[int | None] = []
        for prompt, pair in prompts:
            pieces = None if pair is None or pair.history else self._frame(prompt, pair)
            if pieces is not None and pieces not in id_of:
                text = json.dumps(pieces, ensure_ascii=False)
                address = digest("prompt frame", text)
                self._conn.execute(
                    "INSERT OR IGNORE INTO prompt_frame(digest, pieces) VALUES (?,?)", (address, text)
                )
                query = "SELECT id FROM prompt_frame WHERE digest = ?"
                id_of[pieces] = fetch_value(self._conn, query, (address,))
            ids.append(None if pieces is None else id_of[pieces])
        return ids

    def _frame(self, prompt: str, pair: Pair) -> Pieces | None:
        slots = _slots(pair)
        for n, pieces in enumerate(self._recent):
            if _filled(pieces, slots) == prompt:
                self._recent.insert(0, self._recent.pop(n))
                return pieces
        frame = frame_of(prompt, pair)
        if frame is not None:
            self._recent.insert(0, frame)
            del self._recent[_RECENT:]
        return frame


def frame_of(prompt: str, pair: Pair) -> Pieces | None:
    """The frame of a prompt about ``pair``; None where its texts do not stand in it once each, so that it cannot be
    said which words are the frame's. An input need not stand in it."""
    slots = _slots(pair)
    places: list[tuple[int, int, int]] = []  # from, to, which text
    for text in range(3):
        if not slots[text].strip():
            continue
        # As it is, or without the white space around it.
        which = next((n for n in (text, text + 3) if prompt.count(slots[n]) == 1), None)
        if which is None:
            if text == 1 and slots[text + 3] not in prompt:
                continue
            return None
        start = prompt.index(slots[which])
        places.append((start, start + len(slots[which]), which))
    places.sort()
    pieces: list[str | int] = []
    end = 0
    for start, stop, which in places:
        if start < end:
            return None
        pieces += [prompt[end:start], which]
        end = stop
    return (*pieces, prompt[end:])


def prompt_of(row: sqlite3.Row) -> str:
    """The prompt of a generation: ``row`` has its ``prompt``, its frame's id as ``frame_id`` and ``pieces``, and the
    texts of its variant as ``instruction``, ``input`` and ``response``. Raises UserError where the frame is damaged."""
    if row["frame_id"] is None:
        return str(row["prompt"])
    pieces = _pieces(row["frame_id"], row["pieces"])
    return _filled(pieces, _slots(Pair(row["instruction"], row["input"], row["response"])))


def _slots(pair: Pair) -> Sequence[str]:
    """What the numbers of a frame stand for: instruction, input and response, then each without the white space
    around it."""
    return (*pair.texts, *(text.strip() for text in pair.texts))


def _filled(pieces: Pieces, slots: Sequence[str]) -> str:
    return "".join([slots[piece] if type(piece) is int else piece for piece in pieces])  # type: ignore[misc]


@lru_cache(64)
def _pieces(frame_id: int, text: Any) -> Pieces:
    pieces = stored({"id": frame_id, "pieces": text}, "prompt_frame", "pieces")
    if not pieces or not all(isinstance(piece, str) or 0 <= piece < 6 for piece in pieces):
        raise UserError(
            f"prompt_frame {frame_id}: its pieces are damaged; restore a copy made by srtui db backup."
        )
    return tuple(pieces)
