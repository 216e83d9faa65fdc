"""What SQLite reads for each query that an engine, the dashboard or a command sends: by an index, never a whole
table that grows with the samples. Queries are collected as they are sent, and explained on the same tables."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_scale
from srtui import recipe as recipes
from srtui.pipeline import Engine, import_file, prepare, variants
from srtui.pipeline.prepare import with_changes
from srtui.pipeline.shards import merge
from srtui.store import Store
from srtui.store.imports import NewRow
from srtui.workspace import Workspace
from tests.conftest import make_workspace, small_recipe
from tests.store.test_merging import TALKS
from tests.store.test_scale import GROWING
from tests.tui.driving import dashboard, press
from tests.tui.scripted_store import make_demo_store

TABLES = GROWING | {
    "conversation", "turn", "exchange", "exchange_again", "gated", "left_out", "near_duplicate", "embedding",
    "token_loss", "note", "flag",
}  # fmt: skip
"""What grows with the samples, or may."""

# What ANALYZE finds of a run over 5,000 samples (benchmarks/bench_scale.py); where a number is in the thousands it grows
# with the samples. Nothing of ours has SQLite collect such, but a person may, and plans follow them.
STATISTICS = {
    ("candidate", "candidate"): "10000 10000 2 1 1", ("decision", "decision"): "10000 10000 2 1",
    ("generation", "generation_parent"): "10494 2 1", ("generation", "sqlite_autoindex_generation_1"): "10494 1",
    ("outcome", "outcome"): "5000 5000 1", ("reflection", "reflection"): "10000 10000 2 1",
    ("run", "run_setting"): "1 1", ("run_sample", "run_sample"): "5000 5000 1",
    ("sample", "sqlite_autoindex_sample_1"): "5000 5000 1", ("score", "score"): "22468 2 2 1",
    ("score_bin", "score_bin"): "7818 7818 3909 1303 1303 1", ("span_loss", "span_loss"): "34992 1",
    ("tally", "tally"): "13 13 4 3 2 1", ("variant", "sqlite_autoindex_variant_1"): "15000 3 1",
    ("variant", "variant_original"): "5000 1", ("variant", "variant_parent"): "10000 2",
    ("exchange", "exchange_conversation"): "5000 4", ("asked", "sqlite_autoindex_asked_1"): "2 2 2 1 1 1",
    ("prompt_frame", "sqlite_autoindex_prompt_frame_1"): "4 1", ("overrule", "overrule_sample"): "12 12 1",
}  # fmt: skip

READS_ALL = {
    r"^INSERT INTO run_sample": "what a new run is over, once",
    # A whole dataset is what a new run is over, once; its index is read, in order.
    r"SELECT (count\(\*\)|id) FROM sample": "the samples of a dataset",
    # Names of datasets with how many samples they have.
    r"SELECT d\.name, \(SELECT count": "the sizes of the datasets",
    # Rows of what was left out alone, and on the Data screen alone, which counts them by their reasons.
    r"^SELECT l\.why, count": "what new runs leave out of a dataset",
}
"""Queries that may read a whole table, each with why; as regular expressions."""


class Heard:
    """Every statement of every connection that is opened while it listens."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.said: dict[str, str] = {}
        self.temporary: dict[str, None] = {}  # tables that a connection makes for itself
        connect = sqlite3.connect

        def traced(*given: Any, **named: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*given, **named)
            connection.set_trace_callback(self._hear)
            return connection

        patch.setattr(sqlite3, "connect", traced)

    def _hear(self, statement: str) -> None:
        if re.match(r"\s*CREATE TEMP", statement):
            self.temporary.setdefault(statement)
        if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", statement):
            # One of each shape: values do not change how tables are read.
            shape = re.sub(r"X?'(?:[^']|'')*'|\b\d+(\.\d+)?\b", "?", statement)
            shape = re.sub(r"\?(, ?\?)+", "?", shape)
            self.said.setdefault(shape, statement)


def scans(path: Path, statements: Iterable[str], temporary: Iterable[str] = ()) -> list[tuple[str, str]]:
    """(what is read, by which statement) of growing tables that are read from one end to the other: as SQLite plans
    without statistics, which is how stores are, and with those of a million samples."""
    statements = list(statements)
    found = _scans(path, statements, temporary)
    counted = path.with_name("counted.sqlite")
    with closing(sqlite3.connect(path)) as conn, closing(sqlite3.connect(counted)) as copy:
        conn.backup(copy)
        copy.execute("ANALYZE")
        copy.execute("DELETE FROM sqlite_stat1")
        rows = [
            (*of, re.sub(r"\d{4,}", lambda m: str(200 * int(m[0])), stat)) for of, stat in STATISTICS.items()
        ]
        copy.executemany("INSERT INTO sqlite_stat1 VALUES (?,?,?)", rows)
        copy.commit()
    found += _scans(counted, statements, temporary)
    counted.unlink()
    return list(dict.fromkeys(found))


def _scans(path: Path, statements: Iterable[str], temporary: Iterable[str]) -> list[tuple[str, str]]:
    found = []
    with closing(sqlite3.connect(path)) as conn:
        conn.create_function("has_code", 1, lambda text: 0, deterministic=True)
        conn.create_function("own_key", 3, lambda *given: b"", deterministic=True)
        if any("shard." in statement for statement in statements):
            conn.execute("ATTACH ? AS shard", (str(path),))
        for table in temporary:
            conn.execute(re.sub(r"TABLE (?!IF)", "TABLE IF NOT EXISTS ", table))
        for statement in statements:
            if "sqlite_" in statement or "variant_text" in statement:
                continue  # the file's own tables, and the text index, which is asked by words
            words = re.sub(r"[(),]", " ", statement).split()
            words = [re.sub(r"^(main|shard)\.", "", word) for word in words]
            names = {alias: table for table, alias in pairwise(words) if table in TABLES}
            for _, _, _, step in conn.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall():
                if not step.startswith("SCAN "):
                    continue
                name = step.split()[1]
                limited = re.search(rf"FROM {name} (ORDER BY \w+( DESC)? )?LIMIT 1\b", statement)
                allowed = any(re.search(why, statement) for why in READS_ALL)
                if names.get(name, name) in TABLES and not limited and not allowed:
                    found.append((step, statement))
    return found


def test_a_scan_is_found(workspace: Workspace) -> None:
    """The check itself: what it is to refuse, it refuses."""
    with Store(workspace.store_path):
        pass
    whole = "SELECT count(*) FROM variant WHERE response = 'x'"
    by_index = "SELECT v.id FROM variant v WHERE v.sample_id = 1"
    joined = "SELECT 1 FROM decision d, outcome o WHERE d.reason = o.reason"
    assert [sql for _, sql in scans(workspace.store_path, [whole, by_index])] == [whole]
    assert len(scans(workspace.store_path, [joined])) == 2


class _Silent:
    def progress(self, progress: object) -> None:
        pass

    def event(self, level: str, message: str) -> None:
        pass


def test_an_engine_reads_by_indices(pair_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with retries and training, resumed at each stage, and one from the store's own texts."""
    workspace, policy = pair_workspace, {"policy": "keep"}
    Store(workspace.store_path).close()  # making the tables reads what there is, which is nothing
    heard = Heard(monkeypatch)
    path = small_recipe(workspace, 6, selection=policy, student={"quantization": "f32"})
    with Store(workspace.store_path) as store:
        for stage in (
            "reflect-instruction",
            "choose-instruction",
            "reflect-response",
            "choose-response",
            None,
        ):
            run, _ = prepare(workspace, store, recipes.load(path), path)
            Engine(workspace, store, run, _Silent()).work(stage)
        again = recipes.load(
            path, ["name=again", "reflection.source=store", "training.enabled=false", "seed=2"]
        )
        run, is_new = prepare(workspace, store, again, path)
        assert is_new
        Engine(workspace, store, run, _Silent()).work()
        assert {r.status for r in store.runs.all()} == {"done"}
    monkeypatch.undo()
    assert len(heard.said) > 40
    assert any("INSERT INTO outcome" in sql or "INTO outcome" in sql for sql in heard.said)
    assert scans(workspace.store_path, heard.said.values(), heard.temporary) == []


async def test_the_dashboard_reads_by_indices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every screen, the samples sorted, searched and filtered."""
    workspace = make_workspace(tmp_path / "ws")
    make_demo_store(workspace)
    heard = Heard(monkeypatch)
    async with dashboard(workspace) as (_, pilot):
        for screen in "1234567890":
            await press(pilot, screen)
        await press(
            pilot, "3", "s", "s", "s", "/", "b", "e", "s", "t", "enter", "enter", "escape", "f", "escape"
        )
    monkeypatch.undo()
    assert any("FROM sample" in sql or "run_sample" in sql for sql in heard.said)
    assert scans(workspace.store_path, heard.said.values(), heard.temporary) == []


def test_other_ways_of_a_run_read_by_indices(
    tmp_path: Path, pair_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conversations, gates, a proxy, length taken out, candidates, a pilot's samples, what a person overruled, a second
    run over what is there, and all of it merged into another store."""
    monkeypatch.setattr(variants, "open_scorer", bench_scale.InstantScorer)
    workspace = make_workspace(tmp_path / "ws", pair_folder)
    path, file = workspace.recipes / "scale.toml", tmp_path / "talks.json"
    path.write_text(bench_scale.RECIPE)
    file.write_text(json.dumps(TALKS))
    ways = (
        ["name=first", "reflection.candidates=2"],
        ["name=gated", "gates.language=true", "gates.refusal=true", "selection.policy=keep"],
        ["name=proxied", "scoring.proxy=tiny", "scoring.proxy_quantization=f32"],
        ["name=controlled", "selection.length_control=true"],
        ["name=other", "selection.response_by=likelihood", "selection.instruction_by=original", "pilot=6"],
        ["name=again", "reflection.source=store", "seed=3"],
    )
    with Store(workspace.store_path) as store:
        rows = [NewRow(n, p, json.dumps(p._asdict())) for n, p in enumerate(bench_scale.texts(12))]
        store.imports.add_samples("scale", "scale.jsonl", "0" * 64, "alpaca", rows)
        import_file(store, file, "talks", turns="each")
    other = make_workspace(tmp_path / "other", pair_folder)
    Store(other.store_path).close()  # making the tables reads what there is, which is nothing
    heard = Heard(monkeypatch)
    with Store(workspace.store_path) as store:
        for dataset in ("scale", "talks"):
            for words in ways:
                recipe = recipes.load(path, [*words, f"dataset={dataset}", f"{words[0]}-{dataset}"])
                run, _ = prepare(workspace, store, recipe, path)
                for until in ("reflect-instruction", None):  # it is resumed
                    teacher = bench_scale.instant_teacher(
                        pair_folder / "tiny.F16.gguf", "0" * 64, lambda: None
                    )
                    Engine(workspace, store, run, _Silent(), teacher=teacher).work(until)
            first = store.runs.named(f"first-{dataset}")
            sample, original = next(iter(store.corpus.originals(first.id).items()))
            store.marks.overrule(first.id, sample, original.id, "")
            with_changes(store, first)
        assert {r.status for r in store.runs.all()} == {"done", "new"}
    with Store(other.store_path) as store:
        for name in ("first-scale", "gated-talks"):
            merge(store, [workspace.store_path], name, None, lambda line: None)
    monkeypatch.undo()
    assert len(heard.said) > 100
    assert any("INTO main.generation" in sql for sql in heard.said)
    assert scans(workspace.store_path, heard.said.values(), heard.temporary) == []
