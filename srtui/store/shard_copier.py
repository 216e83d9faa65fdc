"""A page of a shard's samples, with all that its run made of them, copied into the store that it is attached to.

Each statement reads ``shard`` and writes ``main``; what a row's id is here stands beside its id there in tables of this
connection's own, so that the next statement finds it.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from srtui.errors import UserError
from srtui.hashing import digest
from srtui.store._query import fetch_row, fetch_rows, fetch_value
from srtui.store.conversations import next_turn_id
from srtui.store.generations import CAME_TO_SOMETHING
from srtui.store.stored import stored

_ROUNDING = 0.01  # of a loss: what is further apart was not made by the same weights

_TEMPORARY = """
CREATE TEMP TABLE IF NOT EXISTS sample_now(old INTEGER PRIMARY KEY, new INTEGER);
CREATE TEMP TABLE IF NOT EXISTS variant_now(old INTEGER PRIMARY KEY, new INTEGER, is_new INTEGER);
CREATE TEMP TABLE IF NOT EXISTS asked_now(old INTEGER PRIMARY KEY, new INTEGER);
CREATE TEMP TABLE IF NOT EXISTS frame_now(old INTEGER PRIMARY KEY, new INTEGER);
CREATE TEMP TABLE IF NOT EXISTS setting_now(old INTEGER PRIMARY KEY, new INTEGER);
CREATE TEMP TABLE IF NOT EXISTS loss_now(old BLOB PRIMARY KEY, new BLOB) WITHOUT ROWID
"""


class ShardCopier:
    """Takes pages of a shard's run into a run of this store."""

    def __init__(
        self, conn: sqlite3.Connection, path: Path, from_run: int, run_id: int, dataset_id: int
    ) -> None:
        """Makes the tables that ids stand in.

        Args:
            conn: of this store, with the shard attached as ``shard``.
            path: the shard's, for sentences.
            from_run: the run there.
            run_id: the run here.
            dataset_id: of this store, which the samples go into.
        """
        self._conn, self._path = conn, path
        self._from, self._run_id, self._dataset_id = from_run, run_id, dataset_id
        for statement in _TEMPORARY.split(";"):
            conn.execute(statement)
        conn.create_function("own_key", 3, _own_key, deterministic=True)

    def take(self, page: list[int]) -> int:
        """Take these samples of the shard, by their ids there; how many of them this store did not have. Within a
        transaction. Raises UserError where the two contradict each other."""
        conn, run_id = self._conn, self._run_id
        for table in ("sample_now", "variant_now", "loss_now"):
            conn.execute(f"DELETE FROM temp.{table}")
        conn.executemany("INSERT INTO temp.sample_now(old) VALUES (?)", [(i,) for i in page])
        new = self._samples()
        self._conversations()
        conn.execute(
            "INSERT OR IGNORE INTO main.run_sample(run_id, sample_id, held_out) SELECT ?, m.new, r.held_out FROM "
            "temp.sample_now m JOIN shard.run_sample r ON r.run_id = ? AND r.sample_id = m.old ORDER BY m.new",
            (run_id, self._from),
        )
        self._texts()
        self._scores()
        self._choices()
        self._marks()
        return new

    def _samples(self) -> int:
        conn, dataset_id = self._conn, self._dataset_id
        new_count = conn.execute(
            "INSERT OR IGNORE INTO main.sample(dataset_id, row, external_id, digest, record) SELECT ?, s.row, "
            "s.external_id, s.digest, s.record FROM temp.sample_now m JOIN shard.sample s ON s.id = m.old ORDER BY m.old",
            (dataset_id,),
        ).rowcount
        conn.execute(
            "UPDATE temp.sample_now SET new = (SELECT t.id FROM shard.sample s JOIN main.sample t ON t.dataset_id = ? "
            "AND t.digest = s.digest WHERE s.id = sample_now.old)",
            (dataset_id,),
        )
        return new_count

    def _conversations(self) -> None:
        """The conversations that samples of the page are exchanges of, with their turns."""
        conn, dataset_id = self._conn, self._dataset_id
        for row in fetch_rows(
            conn,
            "SELECT DISTINCT c.id, c.turns FROM temp.sample_now m CROSS JOIN shard.exchange e ON e.sample_id = m.old "
            "CROSS JOIN shard.conversation c ON c.id = e.conversation_id ORDER BY c.id",
        ):
            # It is here already where one of its samples stands in a conversation of the same record.
            own_id = fetch_value(
                conn,
                "SELECT t.id FROM shard.conversation c JOIN shard.exchange e ON e.conversation_id = c.id JOIN shard.sample s "
                "ON s.id = e.sample_id JOIN main.sample n ON n.dataset_id = ?2 AND n.digest = s.digest JOIN main.exchange h "
                "ON h.sample_id = n.id JOIN main.conversation t ON t.id = h.conversation_id AND t.record = c.record "
                "AND t.layout = c.layout AND t.turns = c.turns WHERE c.id = ?1 LIMIT 1",
                (row["id"], dataset_id),
            )
            if own_id is None:
                own_id = next_turn_id(conn)
                conn.execute(
                    "INSERT INTO main.conversation SELECT ?, ?, row, external_id, layout, turns, record "
                    "FROM shard.conversation WHERE id = ?",
                    (own_id, dataset_id, row["id"]),
                )
                conn.execute(
                    "INSERT INTO main.turn SELECT id + ?, role, text, place, places FROM shard.turn "
                    "WHERE id >= ? AND id < ?",
                    (own_id - row["id"], row["id"], row["id"] + row["turns"]),
                )
            shift = own_id - row["id"]
            # A sample that stands in another conversation here stands in this one again.
            conn.execute(
                "INSERT OR IGNORE INTO main.exchange_again SELECT ?1, e.answer_id + ?2, m.new FROM temp.sample_now m JOIN "
                "shard.exchange e ON e.sample_id = m.old AND e.conversation_id = ?3 JOIN main.exchange h "
                "ON h.sample_id = m.new AND h.conversation_id <> ?1",
                (own_id, shift, row["id"]),
            )
            conn.execute(
                "INSERT OR IGNORE INTO main.exchange SELECT m.new, ?1, e.answer_id + ?2, e.followed, e.history FROM "
                "temp.sample_now m JOIN shard.exchange e ON e.sample_id = m.old AND e.conversation_id = ?3",
                (own_id, shift, row["id"]),
            )
            conn.execute(
                "INSERT OR IGNORE INTO main.exchange_again SELECT ?1, a.answer_id + ?2, n.id FROM shard.exchange_again a "
                "JOIN shard.sample s ON s.id = a.sample_id JOIN main.sample n ON n.dataset_id = ?4 AND n.digest = s.digest "
                "WHERE a.conversation_id = ?3",
                (own_id, shift, row["id"], dataset_id),
            )

    def _texts(self) -> None:
        """The samples' variants, and the generations that were made of them."""
        conn = self._conn
        last = fetch_value(conn, "SELECT coalesce(max(id), 0) FROM main.variant")
        conn.execute(
            "INSERT OR IGNORE INTO main.variant(sample_id, digest, kind, origin, instruction, input, response, created_at) "
            "SELECT m.new, v.digest, v.kind, v.origin, v.instruction, v.input, v.response, v.created_at "
            "FROM temp.sample_now m CROSS JOIN shard.variant v ON v.sample_id = m.old ORDER BY v.id"
        )
        conn.execute(
            "INSERT INTO temp.variant_now SELECT v.id, t.id, t.id > ? FROM temp.sample_now m CROSS JOIN shard.variant v "
            "ON v.sample_id = m.old CROSS JOIN main.variant t ON t.sample_id = m.new AND t.digest = v.digest",
            (last,),
        )
        columns = (
            "stage, model, model_sha256, prompt_version, mode, sampler, seed, attempt, candidate, prompt, text, thinking, "
            "critique, prompt_tokens, new_tokens, seconds, finish, parsed, created_at, segments"
        )
        updated = ", ".join(
            f"{n} = excluded.{n}"
            for n in (*columns.split(", "), "variant_id", "parent_variant_id", "asked_id", "frame_id")
        )
        # One that came to nothing gives way, as when it is asked again.
        conn.execute(
            f"INSERT INTO main.generation(key, {columns}, parent_variant_id, variant_id, asked_id, frame_id) SELECT g.key, "
            f"{', '.join(f'g.{n}' for n in columns.split(', '))}, m.new, w.new, a.new, f.new FROM temp.variant_now m "
            "CROSS JOIN shard.generation g ON g.parent_variant_id = m.old LEFT JOIN temp.variant_now w "
            "ON w.old = g.variant_id LEFT JOIN temp.asked_now a ON a.old = g.asked_id "
            "LEFT JOIN temp.frame_now f ON f.old = g.frame_id WHERE true ORDER BY g.id ON CONFLICT(key) DO UPDATE SET "
            f"{updated} WHERE generation.parsed NOT IN {CAME_TO_SOMETHING}"
        )
        conn.execute(
            "UPDATE main.variant SET parent_id = (SELECT p.new FROM temp.variant_now m JOIN shard.variant v ON v.id = m.old "
            "JOIN temp.variant_now p ON p.old = v.parent_id WHERE m.new = variant.id), generation_id = (SELECT t.id FROM "
            "temp.variant_now m JOIN shard.variant v ON v.id = m.old JOIN shard.generation g ON g.id = v.generation_id "
            "JOIN main.generation t ON t.key = g.key WHERE m.new = variant.id) "
            "WHERE id IN (SELECT new FROM temp.variant_now WHERE is_new)"
        )

    def _scores(self) -> None:
        """The scores of the page's variants, in every way of scoring, and the losses that they are made of."""
        conn = self._conn
        for column in ("conditional_key", "unconditional_key"):
            conn.execute(
                f"INSERT OR IGNORE INTO temp.loss_now SELECT s.{column}, s.{column} FROM temp.variant_now m CROSS JOIN "
                f"shard.score s ON s.variant_id = m.old WHERE s.{column} IS NOT NULL"
            )
        differing = fetch_row(
            conn,
            "SELECT l.key, l.nll, t.nll FROM temp.loss_now n CROSS JOIN shard.span_loss l ON l.key = n.old JOIN main.span_loss t "
            "ON t.key = n.old WHERE (l.nll IS NULL) <> (t.nll IS NULL) OR l.tokens <> t.tokens "
            f"OR abs(l.nll - t.nll) > {_ROUNDING} * max(abs(t.nll), 1.0) LIMIT 1",
        )
        if differing is not None:
            raise UserError(
                f"{self._path}: it has another loss than this store of the same tokens by the same student ({differing[1]} and "
                f"{differing[2]} nats), which is more than rounding: their scores do not compare: run that shard again in a store of its own."
            )
        conn.execute(
            "UPDATE temp.loss_now SET new = (SELECT own_key(l.key, l.nll, l.tokens) FROM shard.span_loss l "
            "WHERE l.key = loss_now.old) WHERE EXISTS (SELECT 1 FROM shard.span_loss l JOIN main.span_loss t "
            "ON t.key = l.key WHERE l.key = loss_now.old AND l.nll <> t.nll)"
        )
        conn.execute(
            "INSERT OR IGNORE INTO main.span_loss(key, nll, tokens, truncated, reason) SELECT n.new, l.nll, l.tokens, "
            "l.truncated, l.reason FROM temp.loss_now n CROSS JOIN shard.span_loss l ON l.key = n.old"
        )
        conn.execute(
            "INSERT OR IGNORE INTO main.score(variant_id, setting_id, metric, conditional_key, unconditional_key, value, "
            "reason) SELECT m.new, w.new, s.metric, c.new, u.new, s.value, s.reason FROM temp.variant_now m CROSS JOIN "
            "shard.score s ON s.variant_id = m.old JOIN temp.setting_now w ON w.old = s.setting_id LEFT JOIN "
            "temp.loss_now c ON c.old = s.conditional_key LEFT JOIN temp.loss_now u ON u.old = s.unconditional_key"
        )

    def _choices(self) -> None:
        """Reflections, candidates, gates, decisions and outcomes of the page."""
        conn, run_id, of_both = self._conn, self._run_id, (self._run_id, self._from)
        variants = {r[0]: r[1] for r in fetch_rows(conn, "SELECT old, new FROM temp.variant_now")}
        samples = "temp.sample_now m CROSS JOIN shard.{table} x ON x.run_id = ?2 AND x.sample_id = m.old"
        conn.execute(
            "INSERT OR IGNORE INTO main.reflection(run_id, sample_id, stage, parent_variant_id, status, attempts) "
            f"SELECT ?1, m.new, x.stage, v.new, x.status, x.attempts FROM {samples.format(table='reflection')} "
            "JOIN temp.variant_now v ON v.old = x.parent_variant_id",
            of_both,
        )
        conn.execute(
            "INSERT OR IGNORE INTO main.candidate(run_id, sample_id, stage, ordinal, variant_id) "
            f"SELECT ?1, m.new, x.stage, x.ordinal, v.new FROM {samples.format(table='candidate')} "
            "JOIN temp.variant_now v ON v.old = x.variant_id",
            of_both,
        )
        conn.execute(
            "INSERT OR IGNORE INTO main.gated(run_id, sample_id, stage, variant_id, gate, reason) "
            f"SELECT ?1, m.new, x.stage, v.new, x.gate, x.reason FROM {samples.format(table='gated')} "
            "JOIN temp.variant_now v ON v.old = x.variant_id",
            of_both,
        )
        decided = []
        for r in fetch_rows(
            conn,
            f"SELECT m.new AS here, x.*, t.chosen_id AS chosen_here FROM {samples.format(table='decision')} LEFT JOIN "
            "main.decision t ON t.run_id = ?1 AND t.sample_id = m.new AND t.stage = x.stage ORDER BY m.new, x.stage",
            of_both,
        ):
            chosen = variants[r["chosen_id"]]
            if r["chosen_here"] not in (None, chosen):
                raise UserError(
                    f"{self._path}: its sample {r['sample_id']} is one that another shard has too, and they chose otherwise "
                    f"for its {r['stage']}; leave it out of one of them."
                )
            compared = [
                (variants.get(v, v), score, why) for v, score, why in stored(r, "decision", "compared")
            ]
            text = json.dumps(compared, separators=(",", ":"))
            decided.append(
                (
                    run_id,
                    r["here"],
                    r["stage"],
                    chosen,
                    r["reflected"],
                    r["reason"],
                    text,
                    r["created_at"],
                    r["by_proxy"],
                    r["margin"],
                )
            )
        conn.executemany(
            "INSERT OR IGNORE INTO main.decision(run_id, sample_id, stage, chosen_id, reflected, reason, compared, "
            "created_at, by_proxy, margin) VALUES (?,?,?,?,?,?,?,?,?,?)",
            decided,
        )
        conn.execute(
            "INSERT OR IGNORE INTO main.outcome(run_id, sample_id, variant_id, kept, reason, ifd, rifd, setting_id) "
            f"SELECT ?1, m.new, v.new, x.kept, x.reason, x.ifd, x.rifd, w.new FROM {samples.format(table='outcome')} "
            "JOIN temp.variant_now v ON v.old = x.variant_id LEFT JOIN temp.setting_now w ON w.old = x.setting_id",
            of_both,
        )

    def _marks(self) -> None:
        """What people said of the page's samples."""
        conn = self._conn
        conn.execute(
            "INSERT INTO main.overrule(run_id, sample_id, variant_id, note, created_at, undone_at) SELECT ?1, m.new, v.new, "
            "o.note, o.created_at, o.undone_at FROM shard.overrule o JOIN temp.sample_now m ON m.old = o.sample_id "
            "JOIN temp.variant_now v ON v.old = o.variant_id WHERE o.run_id = ?2 AND o.undone_at IS NULL AND NOT EXISTS "
            "(SELECT 1 FROM main.overrule t WHERE t.run_id = ?1 AND t.sample_id = m.new AND t.undone_at IS NULL)",
            (self._run_id, self._from),
        )
        conn.execute(
            "INSERT INTO main.note(sample_id, text, created_at) SELECT m.new, n.text, n.created_at FROM temp.sample_now m "
            "CROSS JOIN shard.note n ON n.sample_id = m.old WHERE NOT EXISTS (SELECT 1 FROM main.note t WHERE "
            "t.sample_id = m.new AND t.text = n.text AND t.created_at = n.created_at) ORDER BY n.id"
        )
        conn.execute(
            "INSERT OR IGNORE INTO main.flag(sample_id, created_at) SELECT m.new, f.created_at FROM temp.sample_now m "
            "CROSS JOIN shard.flag f ON f.sample_id = m.old"
        )
        conn.execute(
            "INSERT OR IGNORE INTO main.left_out(sample_id, why) SELECT m.new, l.why FROM temp.sample_now m "
            "CROSS JOIN shard.left_out l ON l.sample_id = m.old"
        )


def _own_key(key: bytes, nll: Any, tokens: Any) -> bytes:
    """Where a loss stands that is not the one that a store has under ``key``."""
    return key + digest("a shard's loss", nll, tokens)[:4]
