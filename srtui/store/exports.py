"""What ``srtui export`` writes: the texts that a run keeps, or all of them, with their scores."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from srtui.measures import STORED
from srtui.store._query import fetch_value
from srtui.store.figures import SELECTED, setting_id_of


def export_rows(
    conn: sqlite3.Connection, run_id: int, *, all_variants: bool = False, top_percent: float | None = None
) -> Iterator[dict[str, Any]]:
    """Rows for an export, read as they are asked for: texts, ids, kind and scores of what is kept, or
    of every variant; with ``top_percent`` only the best by IFD of those that have one, the best first.

    Args:
        conn: of the store.
        run_id: of the run.
        all_variants: every variant of its samples, and not what is kept alone.
        top_percent: only the best of them; None for all.
    """
    rows, best, _ = _queries(all_variants, top_percent)
    values: dict[str, Any] = {"run": run_id, "setting": setting_id_of(conn, run_id)}
    if top_percent is not None:
        scored = fetch_value(conn, f"SELECT count(*) FROM ({best})", values)
        count = round(scored * top_percent / 100)
        values["count"] = max(count, 1 if scored and top_percent else 0)
    for row in conn.execute(rows, values):
        yield dict(row)


def unranked(conn: sqlite3.Connection, run_id: int, *, all_variants: bool = False) -> int:
    """How many of an export's rows have no IFD by the run's own student."""
    _, best, everything = _queries(all_variants, None)
    values = {"run": run_id, "setting": setting_id_of(conn, run_id)}
    ranked = fetch_value(conn, f"SELECT count(*) FROM ({best})", values)
    return int(fetch_value(conn, everything, values)) - int(ranked)


def _queries(all_variants: bool, top_percent: float | None) -> tuple[str, str, str]:
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
        f"FROM {base}{scores} " + where + (f"ORDER BY {order}" if order else "ORDER BY t.value DESC, t.id")
    )
    return rows, best, everything
