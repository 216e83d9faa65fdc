"""What teachers wrote, and what became of it: generations, reflections, and the candidates that a student
compares. What is still to do is read off what is there, so a killed run resumes by asking again."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from srtui.sample import Pair
from srtui.store import asked
from srtui.store._query import fetch_row, fetch_rows, fetch_value
from srtui.store.corpus import NewText, batched

if TYPE_CHECKING:
    from srtui.store import Store


CAME_TO_SOMETHING = ("parsed", "unchanged")
"""What a generation's ``parsed`` says where its text could be used."""


class GenerationRow(NamedTuple):
    """A generation, its fields in the order of the table's columns. ``variant_id`` is the variant that it came to;
    ``created_at`` is in seconds since 1970. ``id`` and ``created_at`` are 0 on the way in: the store sets them."""

    id: int
    key: bytes
    parent_variant_id: int
    stage: str
    model: str
    model_sha256: str
    prompt_version: str
    mode: str
    sampler: str
    seed: int
    attempt: int
    candidate: int
    prompt: str
    text: str
    thinking: str
    critique: str
    prompt_tokens: int
    new_tokens: int
    seconds: float
    finish: str
    parsed: str
    variant_id: int | None
    created_at: float
    segments: str | None


_SELECT = (
    "SELECT "
    + ", ".join(f"{asked.COLUMNS.get(name, f'g.{name}')} AS {name}" for name in GenerationRow._fields)
    + ", g.frame_id, f.pieces, p.instruction, p.input, p.response "
    f"FROM generation g {asked.JOINS} JOIN variant p ON p.id = g.parent_variant_id"
)
# What is stored once for many stands in no row (srtui.store.asked).
_NAMES = tuple(
    name
    for name in GenerationRow._fields
    if name not in ("id", "variant_id", "created_at", "prompt", *asked.COLUMNS)
)
_values_of = attrgetter(*_NAMES)
_WRITTEN = (*_NAMES, *asked.COLUMNS, "prompt", "asked_id", "frame_id", "created_at")
_ADD = (
    f"INSERT INTO generation({', '.join(_WRITTEN)}) VALUES ({', '.join('?' * len(_WRITTEN))}) "
    f"ON CONFLICT(key) DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n in _WRITTEN if n != 'key')} "
    f"WHERE generation.parsed NOT IN {CAME_TO_SOMETHING}"
)
_ADD_NEW = f"INSERT INTO generation(id, {', '.join(_WRITTEN)}) VALUES (?, {', '.join('?' * len(_WRITTEN))})"


def _row(r: sqlite3.Row) -> GenerationRow:
    row = GenerationRow(*tuple(r)[: len(GenerationRow._fields)])
    return row if r["frame_id"] is None else row._replace(prompt=asked.prompt_of(r))


class Settled(NamedTuple):
    """What a sample's reflection came to: ``parsed``, or why there is no rewrite; ``candidates`` are the variants that
    the student compares with the text that was reflected on."""

    sample_id: int
    parent_variant_id: int
    status: str
    attempts: int
    candidates: Sequence[int]


@dataclass(frozen=True)
class NewAnswer:
    """A generation on its way into the store with what it came to: a rewrite of ``before``, or none. ``kind`` is the
    rewrite's, as the variant table has it."""

    generation: GenerationRow
    sample_id: int
    before: Pair
    kind: str
    rewrite: Pair | None


class PromptUse(NamedTuple):
    """How many texts that a run compared were written to one version of a prompt by one model."""

    stage: str
    prompt_version: str
    mode: str
    model: str
    model_sha256: str
    texts: int


class StoredReflection(NamedTuple):
    """A sample's reflection at one stage of a run. ``status`` is ``parsed``, or why there is no rewrite;
    ``attempts`` counts how often the teacher was asked."""

    run_id: int
    sample_id: int
    stage: str
    parent_variant_id: int
    status: str
    attempts: int


class StoredRewrite(NamedTuple):
    """A rewrite of a sample at one stage of a run, beside the text that it was written of; ``taken`` where the
    student chose it."""

    sample_id: int
    stage: str
    variant_id: int
    taken: bool
    before: Pair
    after: Pair


def reflections_of(
    conn: sqlite3.Connection, run_id: int | None, sample_id: int
) -> dict[str, StoredReflection]:
    """A sample's reflections in a run, by stage."""
    query = (
        "SELECT run_id, sample_id, stage, parent_variant_id, status, attempts FROM reflection "
        "WHERE run_id = ? AND sample_id = ?"
    )
    return {r["stage"]: StoredReflection(*r) for r in fetch_rows(conn, query, (run_id, sample_id))}


class Generations:
    """``store.generations``: what each run asked of its teacher, and the answers, which all runs share."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._frames = asked.Frames(store.conn)

    def to_reflect(
        self, run_id: int, stage: str, after: int = 0, limit: int | None = None
    ) -> list[tuple[int, int]]:
        """(sample id, variant id to reflect on) of the samples not yet reflected on.

        Args:
            run_id: of the run.
            stage: instruction or response.
            after: only samples behind this one.
            limit: the first so many; None for all.
        """
        open_ones = (
            "SELECT rs.sample_id, v.id FROM run_sample rs CROSS JOIN variant v ON v.sample_id = rs.sample_id AND "
            "v.kind = 'original' WHERE rs.run_id = ?1 AND rs.sample_id > ?2 AND NOT EXISTS (SELECT 1 FROM reflection f "
            "WHERE f.run_id = ?1 AND f.sample_id = rs.sample_id AND f.stage = 'instruction') "
            "ORDER BY rs.sample_id LIMIT ?3"
            if stage == "instruction"
            else "SELECT d.sample_id, d.chosen_id FROM decision d WHERE d.run_id = ?1 AND d.sample_id > ?2 "
            "AND d.stage = 'instruction' AND NOT EXISTS (SELECT 1 FROM reflection f WHERE f.run_id = ?1 AND "
            "f.sample_id = d.sample_id AND f.stage = 'response') ORDER BY d.sample_id LIMIT ?3"
        )
        values = (run_id, after, -1 if limit is None else limit)
        return [(r[0], r[1]) for r in fetch_rows(self._store.conn, open_ones, values)]

    def with_key(self, *keys: bytes | None) -> GenerationRow | None:
        """The stored generation with the first of these keys that one has."""
        for key in keys:
            row = key and fetch_row(self._store.conn, f"{_SELECT} WHERE g.key = ?", (key,))
            if row:
                return _row(row)
        return None

    def with_keys(self, keys: Iterable[bytes]) -> dict[bytes, GenerationRow]:
        """The stored generations among ``keys``."""
        return {
            row["key"]: _row(row)
            for chunk in batched(keys, 500)
            for row in fetch_rows(
                self._store.conn, f"{_SELECT} WHERE g.key IN ({','.join('?' * len(chunk))})", chunk
            )
        }

    def has_first_keys(self) -> bool:
        """Whether generations are stored under keys of the first scheme, of 16 bytes."""
        # Keys of the second begin with its number: so one of the first lies beyond them, or is the first of all.
        return bool(
            fetch_rows(
                self._store.conn,
                "SELECT 1 FROM (SELECT key FROM generation ORDER BY key LIMIT 1) WHERE length(key) = 16 UNION ALL "
                "SELECT 1 FROM (SELECT key FROM generation ORDER BY key DESC LIMIT 1) WHERE length(key) = 16",
            )
        )

    def add(self, generation: GenerationRow, *, about: Pair | None = None, is_new: bool = False) -> int:
        """The id of this generation; the same key is stored once, in the place of a text that came to nothing
        where there is one: it was refused, or asked again where there is more room. What came to something stays.
        ``about`` is the pair that its prompt asks about, where that is known; ``is_new`` is for a caller who has looked,
        in this transaction, and found none of its key."""
        (values,) = self._values([(generation, about)])
        cursor = self._store.conn.execute(_ADD, values)
        if is_new and cursor.lastrowid:
            return int(cursor.lastrowid)
        return int(
            fetch_value(self._store.conn, "SELECT id FROM generation WHERE key = ?", (generation.key,))
        )

    def add_answers(self, answers: Sequence[NewAnswer]) -> list[int | None]:
        """Store answers whose keys are not there, and the variants that they came to; for a caller who has looked, in
        this transaction, which all of it is a part of. Returns each one's variant, None where it came to none."""
        if not answers:
            return []
        conn, now = self._store.conn, time.time()
        first = 1 + int(fetch_value(conn, "SELECT coalesce(max(id), 0) FROM generation"))
        rows = self._values([(a.generation, a.before) for a in answers], now)
        conn.executemany(_ADD_NEW, [(first + n, *row) for n, row in enumerate(rows)])
        texts = [
            NewText(a.sample_id, a.kind, a.generation.parent_variant_id, first + n, a.rewrite)
            for n, a in enumerate(answers)
            if a.rewrite is not None
        ]
        variant_ids = self._store.corpus.add_texts(texts, now)
        # A generation and its variant point at each other. To write both ids at once, with the check of them put off,
        # would read all of one table for each row of the other.
        conn.executemany(
            "UPDATE generation SET variant_id = ? WHERE id = ?",
            [(variant, text.generation_id) for variant, text in zip(variant_ids, texts, strict=True)],
        )
        each = iter(variant_ids)
        return [None if a.rewrite is None else next(each) for a in answers]

    def _values(
        self, generations: Sequence[tuple[GenerationRow, Pair | None]], now: float | None = None
    ) -> list[tuple[Any, ...]]:
        """The columns of rows; with each the pair that its prompt asks about, where that is known."""
        conn, now = self._store.conn, time.time() if now is None else now
        asked_ids = asked.asked_ids(conn, [g for g, _ in generations])
        frames = self._frames.ids((g.prompt, pair) for g, pair in generations)
        empty = ("",) * len(asked.COLUMNS)
        return [
            (*_values_of(g), *empty, "" if frame else g.prompt, asked_id, frame, now)
            for (g, _), asked_id, frame in zip(generations, asked_ids, frames, strict=True)
        ]

    def set_variant(self, generation_id: int, variant_id: int) -> None:
        """This generation came to this variant."""
        self._store.conn.execute(
            "UPDATE generation SET variant_id = ? WHERE id = ?", (variant_id, generation_id)
        )

    def of_sample(self, sample_id: int) -> list[GenerationRow]:
        """All generations from texts of a sample, whichever run asked for them, the oldest first."""
        return [
            _row(r)
            for r in fetch_rows(
                self._store.conn, f"{_SELECT} WHERE p.sample_id = ? ORDER BY g.id", (sample_id,)
            )
        ]

    def add_reflection(
        self,
        run_id: int,
        sample_id: int,
        stage: str,
        parent_variant_id: int,
        status: str,
        attempts: int,
        candidates: Sequence[int],
    ) -> None:
        """A sample's reflection at ``stage`` is done, with the variants that the student compares.

        Args:
            run_id: of the run.
            sample_id: of the sample.
            stage: instruction or response.
            parent_variant_id: the text that was reflected on.
            status: parsed, or why there is no rewrite.
            attempts: how often the teacher was asked.
            candidates: the rewrites' variants, in their order.
        """
        self.add_reflections(
            run_id, stage, [Settled(sample_id, parent_variant_id, status, attempts, candidates)]
        )

    def add_reflections(self, run_id: int, stage: str, settled: Sequence[Settled]) -> None:
        """The reflections of these samples at ``stage`` are done; as :meth:`add_reflection` of each."""
        conn = self._store.conn
        conn.executemany(
            "INSERT OR IGNORE INTO reflection(run_id, sample_id, stage, parent_variant_id, status, attempts) "
            "VALUES (?,?,?,?,?,?)",
            [(run_id, s.sample_id, stage, s.parent_variant_id, s.status, s.attempts) for s in settled],
        )
        conn.executemany(
            "INSERT OR IGNORE INTO candidate(run_id, sample_id, stage, ordinal, variant_id) VALUES (?,?,?,?,?)",
            [
                (run_id, s.sample_id, stage, n, variant_id)
                for s in settled
                for n, variant_id in enumerate(s.candidates)
            ],
        )

    def leave_unasked(self, run_id: int, stage: str, samples: Iterable[tuple[int, int]]) -> None:
        """These samples (with the variants they have) get no reflection at ``stage``: the recipe wants none."""
        with self._store.transaction():
            self.add_reflections(run_id, stage, [Settled(s, v, "not_asked", 0, ()) for s, v in samples])

    def reflections_of(self, run_id: int, sample_id: int) -> dict[str, StoredReflection]:
        """A sample's reflections in a run, by stage."""
        return reflections_of(self._store.conn, run_id, sample_id)

    def reflected(self, run_id: int, stage: str) -> int:
        """How many samples of a run have been reflected on at ``stage``."""
        return self._store.runs.tallied(run_id, "reflection", stage)

    def any_reflected(self, run_id: int) -> bool:
        """Whether the run has reflected on a sample already."""
        return bool(
            fetch_rows(self._store.conn, "SELECT 1 FROM reflection WHERE run_id = ? LIMIT 1", (run_id,))
        )

    def reflections_by_status(self, run_id: int, stage: str) -> dict[str, int]:
        """Samples reflected on at ``stage`` by what came of it; ``retried`` are those parsed after the first try."""
        return {
            r[0]: r[1]
            for r in fetch_rows(
                self._store.conn,
                "SELECT CASE WHEN detail = 'parsed' AND flags > 0 THEN 'retried' ELSE detail END, sum(n) "
                "FROM tally WHERE run_id = ? AND what = 'reflection' AND stage = ? GROUP BY 1",
                (run_id, stage),
            )
        }

    def prompt_uses(self, run_id: int) -> list[PromptUse]:
        """Which prompts and models wrote the texts that a run compared, by stage and version."""
        return [
            PromptUse(*r)
            for r in fetch_rows(
                self._store.conn,
                f"SELECT g.stage, {', '.join(asked.COLUMNS[n] for n in PromptUse._fields[1:5])}, count(*) AS texts "
                "FROM candidate c JOIN variant v ON v.id = c.variant_id JOIN generation g ON g.id = v.generation_id "
                f"{asked.JOINS} WHERE c.run_id = ? GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2",
                (run_id,),
            )
        ]

    def rewrites(self, run_id: int) -> Iterator[StoredRewrite]:
        """Every rewrite that a run had to choose from, in order, read as they are asked for."""
        texts = ", ".join(f"{v}.instruction, {v}.input, {v}.response" for v in ("a", "b"))
        rows = self._store.conn.execute(
            f"SELECT c.sample_id, c.stage, c.variant_id, coalesce(d.chosen_id = c.variant_id, 0), {texts} "
            "FROM candidate c JOIN reflection f ON f.run_id = c.run_id AND f.sample_id = c.sample_id "
            "AND f.stage = c.stage JOIN variant a ON a.id = f.parent_variant_id JOIN variant b ON b.id = c.variant_id "
            "LEFT JOIN decision d ON d.run_id = c.run_id AND d.sample_id = c.sample_id AND d.stage = c.stage "
            "WHERE c.run_id = ? ORDER BY c.sample_id, c.stage, c.ordinal",
            (run_id,),
        )
        return (StoredRewrite(r[0], r[1], r[2], bool(r[3]), Pair(*r[4:7]), Pair(*r[7:10])) for r in rows)

    def first_candidates(self, run_id: int, stage: str) -> list[tuple[int, int]]:
        """(sample id, variant id) of the teacher's first rewrite of each sample at ``stage``, taken or not."""
        return [
            (r[0], r[1])
            for r in fetch_rows(
                self._store.conn,
                "SELECT sample_id, variant_id FROM candidate WHERE run_id = ? AND stage = ? AND ordinal = 0 "
                "ORDER BY sample_id",
                (run_id, stage),
            )
        ]
