"""What ``srtui export`` writes: the texts that a run keeps, or all of them, with their scores."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from srtui.measures import STORED
from srtui.sample import Turn
from srtui.store._query import batched, fetch_rows, fetch_value
from srtui.store.conversations import (
    StoredConversation,
    TakenExchange,
    has_conversations,
    histories,
    stored_conversation,
)
from srtui.store.figures import SELECTED, setting_id_of

_CHUNK = 500


class ExportRow(NamedTuple):
    """A text of an export. ``sample`` and ``variant`` are ids; ``scores`` by stored measure, under the run's own
    setting; ``history`` is None where the run has no conversations."""

    sample: int
    variant: int
    kind: str
    instruction: str
    input: str
    response: str
    scores: dict[str, float | None]
    history: Sequence[Turn] | None = None

    def record(self) -> dict[str, Any]:
        """What srtui.datasets writes of it: each score in a column of its name."""
        record: dict[str, Any] = self._asdict()
        history, scores = record.pop("history"), record.pop("scores")
        return {**record, **scores, **({} if history is None else {"history": history})}


def export_rows(
    conn: sqlite3.Connection,
    run_id: int,
    *,
    all_variants: bool = False,
    top_percent: float | None = None,
    alone: bool = False,
) -> Iterator[ExportRow]:
    """Rows for an export, read as they are asked for: texts, ids, kind and scores of what is kept, or
    of every variant; with ``top_percent`` only the best by IFD of those that have one, the best first; ``alone``
    only samples that are of no conversation. Where a run has conversations, each row has its ``history``.

    Args:
        conn: of the store.
        run_id: of the run.
        all_variants: every variant of its samples, and not what is kept alone.
        top_percent: only the best of them; None for all.
        alone: as above.
    """
    rows, best, _ = _queries(all_variants, top_percent, alone)
    values: dict[str, Any] = {"run": run_id, "setting": setting_id_of(conn, run_id)}
    if top_percent is not None:
        scored = fetch_value(conn, f"SELECT count(*) FROM ({best})", values)
        count = round(scored * top_percent / 100)
        values["count"] = max(count, 1 if scored and top_percent else 0)
    cursor = conn.execute(rows, values)
    if not has_conversations(conn, run_id):
        yield from (_export_row(row) for row in cursor)
        return
    for chunk in batched(cursor, _CHUNK):
        before = histories(conn, (row["sample"] for row in chunk))
        for row in chunk:
            yield _export_row(row, before.get(row["sample"], ()))


def _export_row(row: sqlite3.Row, history: Sequence[Turn] | None = None) -> ExportRow:
    return ExportRow(
        sample=row["sample"],
        variant=row["variant"],
        kind=row["kind"],
        instruction=row["instruction"],
        input=row["input"],
        response=row["response"],
        scores={name: row[name] for name in STORED},
        history=history,
    )


def any_exchange_dropped(conn: sqlite3.Connection, run_id: int) -> bool:
    """Whether an answer of a conversation is not kept by this run; a person may keep it all the same."""
    has_any = fetch_value(
        conn,
        "SELECT 1 FROM run_sample rs JOIN exchange e ON e.sample_id = rs.sample_id LEFT JOIN outcome o "
        "ON o.run_id = rs.run_id AND o.sample_id = rs.sample_id WHERE rs.run_id = ? AND o.kept IS NOT 1 LIMIT 1",
        (run_id,),
    )
    return has_any is not None


def export_conversations(
    conn: sqlite3.Connection, run_id: int
) -> Iterator[tuple[StoredConversation, list[TakenExchange]]]:
    """The conversations of which a run keeps an exchange, in the order of their import, each with those of its
    exchanges that are in the run, read as they are asked for."""
    ids = conn.execute(
        "SELECT id FROM conversation WHERE dataset_id = (SELECT dataset_id FROM run WHERE id = ?) ORDER BY id",
        (run_id,),
    )
    for chunk in batched((int(r[0]) for r in ids), _CHUNK):
        values = {"run": run_id, "ids": json.dumps(chunk)}
        places = fetch_rows(
            conn,
            "WITH wanted(id) AS (SELECT value FROM json_each(:ids)), place(conversation_id, answer, sample_id) AS ("
            "SELECT e.conversation_id, e.answer_id, e.sample_id FROM wanted w JOIN exchange e ON e.conversation_id = w.id "
            "UNION ALL SELECT a.conversation_id, a.answer_id, a.sample_id FROM wanted w JOIN exchange_again a "
            "ON a.conversation_id = w.id) SELECT p.conversation_id, p.answer - p.conversation_id AS answer, p.sample_id "
            "FROM place p JOIN run_sample rs ON rs.run_id = :run AND rs.sample_id = p.sample_id ORDER BY 1, 2",
            values,
        )
        values["ids"] = json.dumps(sorted({r["sample_id"] for r in places}))
        of_sample = SELECTED.removesuffix(" ORDER BY o.sample_id")
        kept = {
            r["sample_id"]: tuple(r)[1:]
            for r in fetch_rows(
                conn,
                f"SELECT k.sample_id, v.instruction, v.input, v.response FROM ({of_sample} AND o.sample_id IN "
                "(SELECT value FROM json_each(:ids))) k JOIN variant v ON v.id = k.variant_id",
                values,
            )
        }
        for conversation_id, group in groupby(places, key=lambda r: int(r["conversation_id"])):
            exchanges = []
            for r in group:
                instruction, input, response = kept.get(r["sample_id"], ("", "", ""))
                stands = r["sample_id"] in kept
                exchanges.append(
                    TakenExchange(r["answer"], r["sample_id"], instruction, input, response, stands)
                )
            if any(exchange.kept for exchange in exchanges):
                yield stored_conversation(conn, conversation_id), exchanges


def unranked(conn: sqlite3.Connection, run_id: int, *, all_variants: bool = False) -> int:
    """How many of an export's rows have no IFD by the run's own student."""
    _, best, everything = _queries(all_variants, None)
    values = {"run": run_id, "setting": setting_id_of(conn, run_id)}
    ranked = fetch_value(conn, f"SELECT count(*) FROM ({best})", values)
    return int(fetch_value(conn, everything, values)) - int(ranked)


def _queries(all_variants: bool, top_percent: float | None, alone: bool = False) -> tuple[str, str, str]:
    """The query of an export, that of the ids it ranks, and that of how many there are in all; parameters are
    run, setting and count."""
    base = (
        "run_sample rs JOIN variant v ON v.sample_id = rs.sample_id "
        if all_variants
        else f"({SELECTED}) k JOIN variant v ON v.id = k.variant_id "
    )
    where = "WHERE rs.run_id = :run " if all_variants else ""
    best = (
        f"SELECT v.id, i.value FROM {base} JOIN score i ON i.variant_id = v.id AND i.setting_id = :setting "
        f"AND i.metric = 'ifd' AND i.value IS NOT NULL {where}"
    )
    everything = f"SELECT count(*) FROM {base}{where}"
    order = "v.sample_id, v.id"
    if top_percent is not None:
        # Ids and scores are sorted, and texts fetched one by one: these would not fit into memory.
        base = f"({best} ORDER BY i.value DESC, v.id LIMIT :count) t CROSS JOIN variant v ON v.id = t.id "
        where, order = "", ""
    elif not all_variants:
        order = "k.sample_id"
    else:
        order = "rs.sample_id, v.id"
    values = ", ".join(f"{name}.value AS {name}" for name in STORED)
    scores = " ".join(
        f"LEFT JOIN score {name} ON {name}.variant_id = v.id AND {name}.setting_id = :setting "
        f"AND {name}.metric = '{name}'"
        for name in STORED
    )
    rows = (
        f"SELECT v.sample_id AS sample, v.id AS variant, v.kind, v.instruction, v.input, v.response, {values} "
        f"FROM {base}{scores} "
        + where
        + ("WHERE NOT EXISTS (SELECT 1 FROM exchange e WHERE e.sample_id = v.sample_id) " if alone else "")
        + (f"ORDER BY {order}" if order else "ORDER BY t.value DESC, t.id")
    )
    return rows, best, everything
