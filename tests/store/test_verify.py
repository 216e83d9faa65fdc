"""`srtui db check`: SQLite's pages, and the texts on them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from srtui.cli import app
from srtui.errors import UserError
from srtui.evaluation.writing import file_answer
from srtui.sample import Pair
from srtui.store import Store, figures, verify
from srtui.store.connection import open_read_only
from srtui.store.imports import NewRow
from srtui.workspace import Workspace
from tests.conftest import RECIPE
from tests.sql import sql_value


@pytest.fixture
def store(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SRTUI_WORKSPACE", str(workspace.root))
    store = Store(workspace.store_path)
    rows = [
        NewRow(
            n,
            Pair(f"instruction {n}", "", f"the answer number {n}"),
            f'{{"prompt": "instruction {n}", "response": "the answer number {n}"}}',
        )
        for n in range(60)
    ]
    store.imports.add_samples("d", "f", "sha", "alpaca", rows)
    store.scores.setting("s", "id", "nf4", "alpaca", "default", 64)
    answer = file_answer("an answer from a file", "m")
    with store.transaction():
        store.conn.execute(
            "INSERT INTO answer(key, origin, model, model_sha256, template, sampler, seed, prompt, text, finish, "
            "prompt_tokens, new_tokens, seconds, created_at) VALUES (?, 'file', 'm', '', '', '{}', 0, '', ?, 'end', 0, 0, 0, 0)",
            (answer.key, answer.text),
        )
    store.close()
    return store


def flip(path: Path, text: bytes) -> None:
    """One bit of a text, in the file itself."""
    data = bytearray(path.read_bytes())
    assert data.count(text) >= 1
    at = -1
    while (at := data.find(text, at + 1)) >= 0:
        data[at + 3] ^= 1
    path.write_bytes(data)


def check(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["db", "check", *words])
    return done.exit_code, done.output + (
        str(done.exception) if isinstance(done.exception, UserError) else ""
    )


def test_a_sound_store(store: Store) -> None:
    for words in ([], ["--deep"]):
        code, said = check(*words)
        assert code == 0, said
        assert "60 texts compared with their digests." in said


@pytest.mark.parametrize("text", [b"the answer number 17", b"instruction 17"])
def test_a_flipped_bit_in_a_text_is_seen(store: Store, text: bytes) -> None:
    flip(store.path, text)
    with Store(store.path, read_only=True) as damaged:
        assert damaged.check() == []  # SQLite sees nothing wrong
        variant = sql_value(
            damaged,
            "SELECT id FROM variant WHERE digest = ?",
            (Pair("instruction 17", "", "the answer number 17").digest,),
        )
    code, said = check()
    assert code != 0
    assert f"variant {variant} of sample {variant}: its text is not the one that was stored" in said
    assert "restore a copy" in said


def test_what_is_beyond_the_quick_check_is_seen_by_the_deep_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "QUICK", 10)
    flip(store.path, b"the answer number 55")
    code, said = check()
    assert code == 0
    assert "10 texts compared with their digests of 60; --deep compares them all." in said
    assert check("--deep")[0] != 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE variant SET digest = zeroblob(16) WHERE id = 3", "variant 3 of sample 3"),
        ("UPDATE variant SET response = CAST(X'ff' AS TEXT) WHERE id = 3", "variant 3 of sample 3"),
        ("UPDATE sample SET digest = randomblob(16) WHERE id = 4", "sample 4: its original text"),
        ("UPDATE sample SET record = '{\"n' WHERE id = 4", "sample 4: its record is damaged"),
        ("UPDATE answer SET text = 'an answer from a fine'", "answer 1: its text"),
        ("UPDATE answer SET key = randomblob(18)", "answer 1: its key is damaged"),
        ("UPDATE scoring_setting SET max_length = 65", "scoring setting 1"),
        ("UPDATE scoring_setting SET digest = randomblob(17)", "scoring setting 1"),
        (
            "INSERT INTO run(id, name, dataset_id, recipe_path, recipe, fingerprint, status, created_at) "
            "VALUES (9, 'r', 1, '', '{', '', 'new', 0)",
            "run 9: its recipe is damaged",
        ),
    ],
)
def test_each_digest_and_key_is_compared(store: Store, change: str, says: str) -> None:
    conn = sqlite3.connect(store.path)
    conn.execute(change)
    conn.commit()
    conn.close()
    problems = Store(store.path, read_only=True).verify(deep=True).problems
    assert any(says in p for p in problems), problems


def test_a_scoring_setting_of_the_first_scheme_is_sound(store: Store) -> None:
    from srtui.hashing import scheme_1

    with Store(store.path) as old, old.transaction():
        old.conn.execute("UPDATE scoring_setting SET digest = ?", (scheme_1("id", "alpaca", "default", 64),))
    assert Store(store.path, read_only=True).verify().problems == []


def test_many_problems_are_counted(store: Store) -> None:
    conn = sqlite3.connect(store.path)
    conn.execute("UPDATE variant SET response = response || '!'")
    conn.commit()
    conn.close()
    problems = Store(store.path, read_only=True).verify(deep=True).problems
    assert len(problems) == 21
    assert problems[-1] == "and 40 more like these"


def test_a_run_that_writes_meanwhile_is_no_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept and what is counted again are of one moment; the engine commits between the two questions."""
    from srtui.pipeline import rederive
    from srtui.store import derivations

    with Store(store.path) as writer:
        run = writer.runs.create("r", 1, "r.toml", RECIPE, "f", [(n, False) for n in range(1, 61)])
        figures.means(writer, run.id)  # keeps its sums
        seen = []

        def write(statement: str) -> None:
            """As the first of the counted rows is about to be read again."""
            if "GROUP BY 1, 2, 3, 4" not in statement and "total(length(v0.response))" not in statement:
                return
            seen.append(statement)
            with writer.transaction():
                writer.conn.execute(
                    "INSERT INTO reflection VALUES (?, ?, 'instruction', ?, 'parsed', 1)",
                    (run.id, len(seen), len(seen)),
                )
                writer.conn.execute(
                    "INSERT INTO outcome(run_id, sample_id, variant_id, kept, reason) VALUES (?, ?, ?, 1, 'selected')",
                    (run.id, len(seen), len(seen)),
                )
            figures.means(writer, run.id)

        def watched(path: Path) -> sqlite3.Connection:
            conn = open_read_only(path)
            conn.set_trace_callback(write)
            return conn

        monkeypatch.setattr(derivations, "open_read_only", watched)
        with Store(store.path, read_only=True) as reader:
            reader.conn.set_trace_callback(write)
            found = [fault for fault in rederive.faults(reader) if not fault.startswith("outcome ")]
        assert found == [] and len(seen) == 3


@pytest.mark.parametrize(
    ("format", "record"),
    [
        ("auto", '{"instruction": "i", "output": "o", "x": ' + "[" * 1010 + "]" * 1010 + "}"),
        ("auto", '{"instruction": "no", "instruction": "i", "output": "o", "x": "\\ud800"}'),
        # Both lists of turns; the one that was asked for has its text in parts.
        ("messages", '{"conversations": [{"from": "human", "value": "no"}, {"from": "gpt", "value": "o"}], "messages": '
                     '[{"role": "user", "content": [{"type": "text", "text": "i "}, {"type": "text", "text": "j"}]}, '
                     '{"role": "assistant", "content": "o"}]}'),
    ],
    ids=["nested as deep as is read", "what only Python reads", "another layout than is seen first"],
)  # fmt: skip
def test_what_was_imported_is_no_damage(workspace: Workspace, format: str, record: str) -> None:
    from srtui.datasets.reader import read
    from srtui.datasets.rows import BadRow
    from srtui.pipeline.rederive import faults

    file = workspace.root / "d.jsonl"
    file.write_text(record + "\n", encoding="utf-8")
    (row,) = read(file, format)
    assert not isinstance(row, BadRow)
    with Store(workspace.store_path) as store:
        store.imports.add_samples("d", "f", "sha", "json", [NewRow(row.number, row.pair, row.record, row.id)])
        assert store.verify(deep=True).problems == [] and list(faults(store)) == []
