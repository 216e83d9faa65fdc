"""The store: migrations, sentences for what can go wrong, idempotent work, leases."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from srtui.errors import UserError
from srtui.sample import Pair
from srtui.store import Store, explain
from srtui.store.imports import NewRow, RefusedRow
from tests.conftest import RECIPE
from tests.sql import sql_row, sql_rows, sql_value


def row(n: int, text: str = "") -> NewRow:
    return NewRow(n, Pair(f"instruction {text or n}", "", f"response {text or n}"), "{}", str(n))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store" / "s.sqlite")


def a_run(store: Store, samples: int = 2) -> int:
    done = store.imports.add_samples("d", "f", "sha", "alpaca", [row(n) for n in range(samples)])
    ids = [r[0] for r in sql_rows(store, "SELECT id FROM sample")]
    return store.runs.create("r", done.dataset_id, "r.toml", RECIPE, "f", [(i, False) for i in ids]).id


def test_settings_that_keep_data_safe(store: Store) -> None:
    assert sql_value(store, "PRAGMA journal_mode") == "wal"
    assert sql_value(store, "PRAGMA foreign_keys") == 1
    with pytest.raises(sqlite3.IntegrityError):
        store.conn.execute("INSERT INTO run_sample VALUES (99, 99, 0)")


def test_opening_again_changes_nothing(store: Store) -> None:
    a_run(store)
    counts = store.counts()
    store.close()
    assert Store(store.path).counts() == counts
    assert Store(store.path, read_only=True).check() == []


def test_a_store_with_tables_that_are_not_known_here(store: Store) -> None:
    store.conn.execute("UPDATE _sqlite_migrations SET name = '9999_future' WHERE name LIKE '0003%'")
    store.conn.commit()
    store.close()
    before = store.path.read_bytes()
    with pytest.raises(
        UserError, match=r"its 9999_future is not known here.*open it with that one, or update this one"
    ):
        Store(store.path)
    assert store.path.read_bytes() == before


def test_files_that_are_no_store(tmp_path: Path) -> None:
    text = tmp_path / "text.sqlite"
    text.write_text("not a database, " * 100)
    with pytest.raises(UserError, match="not a SQLite file"):
        Store(text)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as conn:
        conn.execute("CREATE TABLE theirs(x)")
    with pytest.raises(UserError, match="not a srtui store"):
        Store(other)
    with pytest.raises(UserError, match="no store yet"):
        Store(tmp_path / "none.sqlite", read_only=True)
    with pytest.raises(UserError):
        Store(text / "below-a-file.sqlite")


def test_a_corrupted_file_is_said_and_left(store: Store) -> None:
    a_run(store, 400)
    store.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    data = bytearray(store.path.read_bytes())
    for at in range(8192, len(data), 4096):
        data[at : at + 64] = os.urandom(64)
    store.path.write_bytes(data)
    with pytest.raises(UserError, match=r"damaged|not a SQLite file"):
        try:
            with Store(store.path) as damaged:
                assert damaged.check()
                sql_rows(damaged, "SELECT * FROM variant")
                raise sqlite3.DatabaseError("database disk image is malformed")
        except sqlite3.DatabaseError as error:
            raise explain(error, store.path) from error
    assert store.path.read_bytes() == data


def test_a_full_disk_leaves_what_was(store: Store) -> None:
    a_run(store)
    before = store.counts()
    store.conn.execute(f"PRAGMA max_page_count = {sql_value(store, 'PRAGMA page_count') + 2}")
    with pytest.raises(sqlite3.OperationalError) as caught:
        store.imports.add_samples(
            "big", "f", "sha2", "alpaca", (row(n, "x" * 9000 + str(n)) for n in range(500))
        )
    assert "disk is full" in str(explain(caught.value, store.path))
    assert store.counts() == before
    assert store.check() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "ro"
    folder.mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"cannot be opened|read-only"):
        Store(folder / "s.sqlite")


def test_every_sentence_names_the_file() -> None:
    for said in (
        "database or disk is full",
        "attempt to write a readonly database",
        "database is locked",
        "odd",
    ):
        sentence = str(explain(sqlite3.OperationalError(said), Path("a/b.sqlite")))
        assert sentence.startswith("a/b.sqlite: ")
        assert "\n" not in sentence


def test_duplicates_are_kept_once_and_bad_rows_recorded(store: Store) -> None:
    rows = [row(0), row(1), row(2, "0"), RefusedRow(4, "empty_output", "")]
    rows.append(NewRow(4, row(0).pair, "{}"))
    done = store.imports.add_samples("d", "f.json", "sha", "alpaca", rows)
    assert (done.read, done.new, done.duplicate, done.bad) == (5, 2, 2, 1)
    assert store.imports.bad_rows(done.dataset_id)[0].reason == "empty_output"
    again = store.imports.earlier("d", "sha", "original")
    assert again is not None
    assert again.already


def test_a_file_with_no_good_row_stores_nothing(store: Store) -> None:
    with pytest.raises(UserError, match="no good row among 2; not_json x 2, first at line 1"):
        store.imports.add_samples(
            "d", "f", "s", "jsonl", [RefusedRow(1, "not_json", ""), RefusedRow(2, "not_json", "")]
        )
    assert not any(n for name, n in store.counts().items() if not name.startswith("_"))


def test_variants_are_content_addressed(store: Store) -> None:
    a_run(store)
    sample, original = sql_row(store, "SELECT sample_id, id FROM variant LIMIT 1")  # type: ignore[misc]
    pair = Pair("new", "", "text")
    first, is_new = store.corpus.add_variant(sample, "instruction_reflected", "teacher", original, None, pair)
    second, again = store.corpus.add_variant(sample, "response_reflected", "person", original, None, pair)
    assert (first, is_new, again) == (second, True, False)
    assert store.corpus.variants_of(sample)[1].pair == pair


def test_rewrites_from_elsewhere_find_their_samples(store: Store) -> None:
    store.imports.add_samples("d", "f", "sha", "alpaca", [row(n) for n in range(3)])
    by_position = [NewRow(n, Pair(f"better {n}", "", f"r {n}"), "{}") for n in range(3)]
    done = store.imports.add_rewrites(
        "d",
        "g",
        "s2",
        "alpaca",
        "instruction_reflected",
        [*by_position, NewRow(7, row(1).pair, "{}")],
        "position",
    )
    assert (done.new, done.unmatched) == (3, 1)
    by_text = [
        NewRow(0, Pair("better 2", "", "the best"), "{}"),
        NewRow(1, Pair("instruction 0", "", "fine"), "{}"),
    ]
    done = store.imports.add_rewrites("d", "h", "s3", "alpaca", "response_reflected", by_text, "instruction")
    assert done.new == 2
    parents = {
        r["response"]: r["parent"]
        for r in sql_rows(
            store,
            "SELECT v.response, p.instruction AS parent FROM variant v JOIN variant p ON p.id = v.parent_id",
        )
    }
    assert parents["the best"] == "better 2"
    assert parents["fine"] == "instruction 0"
    with pytest.raises(UserError, match="none of its 1 rows matches"):
        store.imports.add_rewrites(
            "d",
            "i",
            "s4",
            "alpaca",
            "response_reflected",
            [NewRow(0, Pair("other", "", "x"), "{}")],
            "instruction",
        )


def test_work_twice_is_harmless(store: Store) -> None:
    run_id = a_run(store)
    sample, variant = store.generations.to_reflect(run_id, "instruction")[0]
    for _ in range(2):
        store.generations.add_reflection(run_id, sample, "instruction", variant, "unparsed", 3, [])
        store.decisions.add(run_id, sample, "instruction", variant, False, "why", [(variant, None, "x")])
    assert store.counts()["decision"] == store.counts()["reflection"] == 1
    assert sample not in dict(store.generations.to_reflect(run_id, "instruction"))
    assert sample in dict(store.generations.to_reflect(run_id, "response"))


def test_a_second_engine_is_told_who_holds_the_run(store: Store) -> None:
    run_id = a_run(store)
    lease = store.runs.acquire(run_id)
    with pytest.raises(UserError, match=rf"worked on by process {os.getpid()} on"):
        store.runs.acquire(run_id)
    lease.release()
    store.runs.acquire(run_id).release()


def test_a_dead_engines_lease_is_taken_over(store: Store) -> None:
    run_id = a_run(store)
    code = (
        "import os, sys; from pathlib import Path; from srtui.store import Store\n"
        f"Store(Path({str(store.path)!r})).runs.acquire({run_id}); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert sql_value(store, "SELECT count(*) FROM lease") == 1
    assert store.runs.holder(run_id) is None
    store.runs.acquire(run_id).release()


def test_backup_and_vacuum(store: Store, tmp_path: Path) -> None:
    a_run(store)
    target = tmp_path / "copy.sqlite"
    store.backup(target)
    assert Store(target).counts() == store.counts()
    with pytest.raises(UserError, match="exists already"):
        store.backup(target)
    store.vacuum()
    assert store.check() == []
