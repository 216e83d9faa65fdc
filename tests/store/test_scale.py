"""What keeps a million samples readable: no query over all of a table that grows with the samples, counts
that are always those of the rows, exports that are read as they are written."""

from __future__ import annotations

import json
import random
import sqlite3
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from srtui.cli import app as commands
from srtui.sample import Pair
from srtui.store import Store, figures
from srtui.store._sqlite_utils import Database
from srtui.store.connection import pages_in_log
from srtui.store.distributions import distributions
from srtui.store.exports import export_rows
from srtui.store.schema import SCRIPTS, migrations, statements
from srtui.workspace import Workspace
from tests.sql import sql_row, sql_rows
from tests.tui.scripted_store import Script, demo_pairs, make_demo_store

GROWING = {
    "sample", "variant", "generation", "span_loss", "score", "run_sample", "reflection", "candidate", "decision",
    "outcome", "overrule", "score_bin", "tally",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace, _ = Workspace.create(tmp_path_factory.mktemp("scale") / "ws")
    make_demo_store(workspace)
    with Store(workspace.store_path) as store:
        store.marks.overrule(1, 1, 1)
        figures.means(store, 1)
    return workspace


def asked_by(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """The queries of one command, with their values in them."""
    asked: list[str] = []
    opened = Store.__init__

    def init(self: Store, *given: Any, **named: Any) -> None:
        opened(self, *given, **named)
        self.conn.set_trace_callback(asked.append)

    monkeypatch.setattr(Store, "__init__", init)
    done = CliRunner().invoke(commands, [*words], env={"SRTUI_WORKSPACE": str(workspace.root)})
    monkeypatch.undo()
    assert done.exit_code == 0, done.output
    return [sql for sql in asked if sql.lstrip().startswith("SELECT")]


def plan(workspace: Workspace, sql: str) -> list[str]:
    with Store(workspace.store_path, read_only=True) as store:
        store.conn.create_function("has_code", 1, lambda text: 0, deterministic=True)
        return [r["detail"] for r in sql_rows(store, f"EXPLAIN QUERY PLAN {sql}")]


COMMANDS = [
    ["status"],
    ["status", "quickstart"],
    ["scores", "quickstart"],
    ["scores", "quickstart", "--csv", "-"],
    ["export", "quickstart", "--out", "OUT"],
    ["export", "quickstart", "--out", "OUT", "--top-k-percent", "30"],
    ["export", "quickstart", "--out", "OUT", "--what", "all-variants"],
    ["export", "quickstart", "--out", "OUT", "--format", "preference", "--people-first"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_command_reads_a_whole_table(
    made: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    queries = asked_by(made, monkeypatch, *[w.replace("OUT", str(tmp_path / "out.json")) for w in words])
    assert queries
    for sql in queries:
        names = alias_tables(sql)
        for step in plan(made, sql):
            if step.startswith("SCAN"):
                assert names.get(step.split()[1], step.split()[1]) not in GROWING, (step, sql)
            # The best by IFD are sorted, by their ids alone; of all variants, those of one sample at a time.
            if "--top-k-percent" not in words:
                assert not any("TEMP B-TREE FOR ORDER BY" in step for step in plan(made, sql)), sql


def alias_tables(sql: str) -> dict[str, str]:
    """Table by alias, as far as a query names them."""
    words = sql.replace(",", " ").replace("(", " ").replace(")", " ").split()
    return {
        alias: table
        for table, alias in pairwise(words)
        if table in GROWING and alias.upper() not in ("ON", "WHERE", "JOIN", "LEFT", "ORDER", "GROUP")
    }


def test_status_of_all_runs_reads_counts_only(made: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that grows with the samples, but for what a person has overruled."""
    for sql in asked_by(made, monkeypatch, "status"):
        for step in plan(made, sql):
            table = alias_tables(sql).get(step.split()[1], step.split()[1])
            if table in GROWING - {"tally"}:
                assert "JOIN outcome" in sql
                assert plan(made, sql)[0].startswith("SEARCH p USING INDEX overrule_sample")


def test_status_of_a_run_reads_its_samples_once(made: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no engine has summed them up: the store is an older srtui's, or another run scored their texts."""

    def grown() -> set[str]:
        found = set()
        for sql in asked_by(made, monkeypatch, "status", "another-seed"):
            if "FROM overrule p" in sql:  # as many as a person has overruled
                continue
            for step in plan(made, sql):
                words = step.split()
                if words[0] in ("SCAN", "SEARCH"):
                    found.add(alias_tables(sql).get(words[1], words[1]))
        return found & (GROWING - {"tally", "score_bin", "overrule"})

    with sqlite3.connect(made.store_path) as conn:
        conn.execute("DELETE FROM run_sums")
    assert {"outcome", "variant", "score"} <= grown()
    assert pages_in_log(made.store_path) == 0  # a copy of the one file has them
    assert grown() == set()
    with sqlite3.connect(made.store_path) as conn:
        sums = conn.execute("SELECT sums FROM run_sums").fetchone()[0]
        conn.execute("UPDATE run_sums SET sums = 'x'")
    assert grown()
    with sqlite3.connect(made.store_path) as conn:
        assert conn.execute("SELECT sums FROM run_sums").fetchone()[0] == sums


def the_slow_way(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """What the counting tables must hold, from the rows."""
    tally = """
        SELECT run_id, 'sample', '', '', held_out, count(*) FROM run_sample GROUP BY run_id, held_out UNION ALL
        SELECT run_id, 'reflection', stage, status, attempts > 1, count(*) FROM reflection GROUP BY 1, 3, 4, 5 UNION ALL
        SELECT run_id, 'decision', stage, '', reflected + 2 * (json_array_length(compared) > 1), count(*) FROM decision
            GROUP BY 1, 3, 5 UNION ALL
        SELECT o.run_id, 'outcome', '', o.reason, o.kept + 2 * rs.held_out, count(*) FROM outcome o
            JOIN run_sample rs ON rs.run_id = o.run_id AND rs.sample_id = o.sample_id GROUP BY 1, 4, 5
    """
    bins = """
        SELECT r.id, s.metric, v.kind, CASE WHEN s.value IS NULL THEN s.reason ELSE '' END, count(*), round(total(s.value), 6)
        FROM run r JOIN run_sample rs ON rs.run_id = r.id JOIN variant v ON v.sample_id = rs.sample_id
        JOIN score s ON s.variant_id = v.id AND s.setting_id = r.setting_id GROUP BY 1, 2, 3, 4
    """
    return {
        "tally": sorted(map(tuple, sql_rows(store, tally))),
        "bins": sorted(map(tuple, sql_rows(store, bins))),
    }


def kept_counts(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    bins = (
        "SELECT run_id, metric, kind, reason, sum(n), round(sum(total), 6) FROM score_bin GROUP BY 1, 2, 3, 4"
    )
    return {
        "tally": sorted(map(tuple, sql_rows(store, "SELECT * FROM tally"))),
        "bins": sorted(map(tuple, sql_rows(store, bins))),
    }


def test_counts_are_those_of_the_rows(made: Workspace, tmp_path: Path) -> None:
    """Whoever writes: work done twice, runs over scored texts, texts without a score, runs deleted."""
    path = tmp_path / "copy.sqlite"
    with Store(made.store_path) as store:
        store.backup(path)
    workspace, _ = Workspace.create(tmp_path / "ws")
    with Store(path) as store:
        assert kept_counts(store) == the_slow_way(store)
        rows = sql_row(store, "SELECT * FROM outcome LIMIT 1")
        assert rows is not None
        with store.transaction():
            store.decisions.add_outcome(
                *tuple(rows)[:3], bool(rows["kept"]), rows["reason"], rows["ifd"], rows["rifd"]
            )
            variant, _ = store.marks.write_variant(2, 2, Pair("Mine.", "", "And my answer."))
            store.conn.execute(
                "INSERT INTO score VALUES (?, 1, 'ifd', NULL, NULL, NULL, 'target_truncated')", (variant,)
            )
            store.conn.execute(
                "INSERT OR IGNORE INTO score VALUES (?, 1, 'ifd', NULL, NULL, 9.0, NULL)", (variant,)
            )
        # A run over texts that are scored already gets its setting, another, and the first again.
        late = Script(workspace, store, "late", 12).begin(demo_pairs())
        other = store.scores.setting("another", "def", "nf4", "alpaca", "default", 1024)
        for setting in (other, late.setting, None, late.setting):
            store.runs.update(late.run_id, setting_id=setting)
            assert kept_counts(store) == the_slow_way(store)
        with store.transaction():  # no code of ours adds a sample to a run that scores, and yet
            store.conn.execute("DELETE FROM run_sample WHERE run_id = ? AND sample_id > 50", (late.run_id,))
            store.conn.execute("DELETE FROM tally WHERE run_id = ?", (late.run_id,))
            store.conn.execute("DELETE FROM score_bin WHERE run_id = ?", (late.run_id,))
            store.conn.execute(
                "INSERT INTO run_sample SELECT run_id, sample_id + 10, held_out FROM run_sample WHERE run_id = ? "
                "AND sample_id > 40",
                (late.run_id,),
            )
        store.runs.delete(1)
        assert {r[0] for r in kept_counts(store)["tally"]} == {2, 3, late.run_id}
        assert store.check() == []


def test_a_store_of_before_is_counted_when_it_is_opened(made: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    conn = sqlite3.connect(path)
    migrations.ensure_migrations_table(Database(conn, execute_plugins=False))
    before = [name for name in SCRIPTS if name < "0008"]
    for name in before:
        for statement in statements(SCRIPTS[name]):
            conn.execute(statement)
        conn.execute(
            "INSERT INTO _sqlite_migrations(migration_set, name, applied_at) VALUES ('srtui', ?, '2026-01-01')",
            (name,),
        )
    conn.execute("ATTACH ? AS made", (str(made.store_path),))
    for (table,) in conn.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
        if not table.startswith(("sqlite", "_sqlite", "variant_text")):
            columns = ", ".join(f'"{r[1]}"' for r in conn.execute(f"PRAGMA main.table_info({table})"))
            conn.execute(f"INSERT INTO main.{table}({columns}) SELECT {columns} FROM made.{table}")
    conn.execute("DELETE FROM main.lease")
    conn.commit()
    conn.close()
    with Store(path, read_only=True) as store, Store(made.store_path, read_only=True) as new:
        assert kept_counts(store) == the_slow_way(store) == kept_counts(new)
        assert figures.counts(store.conn, 1) == figures.counts(new.conn, 1)
        assert figures.means(store, 1) == figures.means(new, 1)


def test_quantiles_are_off_by_no_more_than_they_say(tmp_path: Path) -> None:
    draw = random.Random(3)
    workspace, _ = Workspace.create(tmp_path / "ws")
    with Store(workspace.store_path) as store:
        script = Script(workspace, store).begin([Pair(f"Say {n}.", "", "Yes.") for n in range(400)])
        values = sorted(draw.lognormvariate(-0.2, 1.0) for _ in range(400))
        with store.transaction():
            store.conn.executemany(
                "INSERT INTO score VALUES (?, ?, 'ifd', NULL, NULL, ?, NULL)",
                [(n, script.setting, value) for n, value in enumerate(values, 1)],
            )
        (found,) = distributions(store, script.run_id)
        from srtui.store.distributions import quantile

        for share, value in found.quantiles.items():
            exact = quantile(values, float(share))
            assert value == pytest.approx(exact, abs=0.0005 if exact < 3.9 else 0.1)
        assert found.at_or_over_one == sum(v >= 1 for v in values)
        assert found.histogram == [sum(n == min(19, int(v * 10)) for v in values) for n in range(20)]


def test_an_export_is_read_as_it_is_written(made: Workspace) -> None:
    with Store(made.store_path, read_only=True) as store:
        for given in ({}, {"all_variants": True}, {"top_percent": 30.0}):
            rows = export_rows(store.conn, 1, **given)  # type: ignore[arg-type]
            assert iter(rows) is rows
            assert next(rows).variant
        best = list(export_rows(store.conn, 1, top_percent=30.0))
        whole = [r for r in export_rows(store.conn, 1) if r.scores["ifd"] is not None]
        assert (
            best
            == sorted(whole, key=lambda r: (-(r.scores["ifd"] or 0), r.variant))[: round(len(whole) * 0.3)]
        )
        assert len(list(export_rows(store.conn, 1, top_percent=0.01))) == 1
        assert list(export_rows(store.conn, 1, top_percent=0)) == []
        everything = list(export_rows(store.conn, 1, all_variants=True))
        assert [r.variant for r in everything] == [
            r[0]
            for r in sql_rows(
                store,
                "SELECT v.id FROM variant v JOIN run_sample rs ON rs.run_id = 1 AND rs.sample_id = v.sample_id "
                "ORDER BY v.sample_id, v.id",
            )
        ]
        assert json.dumps(everything[0].record())
