"""What many generations share is stored once, and every one of them reads back as it was written."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srtui.errors import UserError
from srtui.sample import Pair, Turn
from srtui.store import Store
from srtui.store.asked import Frames, frame_of
from srtui.store.endings import packed
from srtui.store.generations import GenerationRow, NewAnswer
from srtui.store.imports import NewRow
from tests.sql import sql_rows, sql_value

BEFORE = Pair("Name a prime.", "", "Seven is one.")
MADE = GenerationRow(
    id=0, variant_id=None, created_at=0.0, key=b"\x02" + b"k" * 16, parent_variant_id=1, stage="response", model="m", model_sha256="ab" * 32,
    prompt_version="response-1-x", mode="guided", sampler='{"temperature": 0.7}', seed=1, attempt=1, candidate=0,
    prompt="", text="t", thinking="", critique="c", prompt_tokens=1, new_tokens=1, seconds=0.1, finish="end",
    segments=packed([("critique", "end", 1, 2)]), parsed="parsed",
)  # fmt: skip


def stored(path: Path, pairs: list[Pair]) -> Store:
    store = Store(path)
    rows = [NewRow(n, p, "{}") for n, p in enumerate(pairs)]
    store.imports.add_samples("d", "d", "0" * 64, "alpaca", rows)
    return store


def asked(pair: Pair, n: int, prompt: str) -> NewAnswer:
    made = MADE._replace(key=b"\x02" + n.to_bytes(16, "big"), parent_variant_id=n, prompt=prompt)
    return NewAnswer(made, n, pair, "response_reflected", pair._replace(response=f"Better {n}."))


def test_prompts_of_many_samples_are_one_frame_and_read_back(tmp_path: Path) -> None:
    pairs = [Pair(f"Name prime {n}.", "", f"It is {n} of them.") for n in range(1, 40)]
    pairs[7] = Pair("Say it.", "Say it.", "Say it.")  # no saying which is which
    pairs[9] = Pair("  spaced ", "", "\nout\n")

    def prompt(pair: Pair) -> str:
        return f"<sys>Judge.</sys>\n{pair.instruction.strip()}\n--\n{pair.response.strip()}\nGo:"

    with stored(tmp_path / "s.sqlite", pairs) as store:
        with store.transaction():
            made = store.generations.add_answers(
                [asked(pair, n, prompt(pair)) for n, pair in enumerate(pairs, 1)]
            )
        assert all(made)
        for n, pair in enumerate(pairs, 1):
            (row,) = store.generations.of_sample(n)
            assert row.prompt == prompt(pair)
            assert (row.model, row.model_sha256, row.mode, row.variant_id) == (
                "m", "ab" * 32, "guided", made[n - 1],
            )  # fmt: skip
            assert row == store.generations.with_key(row.key)
        assert sql_value(store, "SELECT count(*) FROM asked") == 1
        assert sql_value(store, "SELECT count(*) FROM prompt_frame") <= 3
        assert sql_value(store, "SELECT count(*) FROM generation WHERE frame_id IS NULL") == 0
        assert store.check() == [] and store.verify(deep=True).problems == []
        assert "ab" * 32 not in {r[0] for r in sql_rows(store, "SELECT model_sha256 FROM generation")}


@given(
    st.builds(Pair, *[st.text(alphabet="ab \n{}é", max_size=6)] * 3),
    st.lists(st.sampled_from(["ab", "\n", "x", "{}", 0, 1, 2, 3, 4, 5]), max_size=7),
)
def test_any_prompt_reads_back_byte_for_byte(pair: Pair, parts: list[str | int]) -> None:
    """Whatever the texts are, and wherever they stand: a frame gives the prompt, or there is none."""
    texts = (*pair.texts, *(text.strip() for text in pair.texts))
    prompt = "".join(texts[p] if isinstance(p, int) else p for p in parts)
    frame = frame_of(prompt, pair)
    if frame is not None:
        assert "".join(texts[p] if isinstance(p, int) else p for p in frame) == prompt


def test_what_has_a_history_keeps_its_prompt(tmp_path: Path) -> None:
    with stored(tmp_path / "s.sqlite", [BEFORE]) as store, store.transaction():
        talk = BEFORE._replace(history=(Turn("user", "Hello."),))
        text = f"{BEFORE.instruction}|{BEFORE.response}"
        assert Frames(store.conn).ids([(text, talk), (text, None)]) == [None, None]
        assert Frames(store.conn).ids([(text, BEFORE)]) == [1]


def test_rows_of_before_read_as_they_did(tmp_path: Path) -> None:
    """An earlier srtui's generation has all of it in its own row."""
    with stored(tmp_path / "s.sqlite", [BEFORE]) as store:
        with store.transaction():
            store.generations.add(MADE._replace(prompt="whole prompt"))
            store.conn.execute(
                "UPDATE generation SET asked_id = NULL, model = 'old', model_sha256 = 'cd', prompt_version = 'v0', "
                "mode = 'free', sampler = '{}'"
            )
        (row,) = store.generations.of_sample(1)
        assert (row.model, row.model_sha256, row.prompt_version, row.mode, row.sampler, row.prompt) == (
            "old", "cd", "v0", "free", "{}", "whole prompt",
        )  # fmt: skip


def test_the_same_text_twice_is_one_variant(tmp_path: Path) -> None:
    """Two candidates that wrote the same, and one that wrote what the sample is already."""
    with stored(tmp_path / "s.sqlite", [BEFORE]) as store:
        better = BEFORE._replace(response="Better.")
        three = [
            NewAnswer(MADE._replace(key=b"\x02" + bytes([n]) * 16, candidate=n), 1, BEFORE, "response_reflected", p)
            for n, p in enumerate([better, better, BEFORE, None])
        ]  # fmt: skip
        with store.transaction():
            made = store.generations.add_answers(three)
        assert made == [2, 2, 1, None]
        rows = sql_rows(store, "SELECT id, variant_id FROM generation ORDER BY id")
        assert [tuple(r) for r in rows] == [(1, 2), (2, 2), (3, 1), (4, None)]
        assert sql_value(store, "SELECT generation_id FROM variant WHERE id = 2") == 1


@pytest.mark.parametrize("pieces", ["[]", "[9]", "[-1]", '{"a": 1}', "x"])
def test_a_damaged_frame_is_one_sentence(tmp_path: Path, pieces: str) -> None:
    path = tmp_path / "s.sqlite"
    with stored(path, [BEFORE]) as store, store.transaction():
        store.generations.add(MADE._replace(prompt="Name a prime.|Seven is one."), about=BEFORE)
    with sqlite3.connect(path) as conn:
        conn.execute("UPDATE prompt_frame SET pieces = ?", (pieces,))
    with Store(path) as store, pytest.raises(UserError, match=r"prompt_frame 1: its pieces (is|are) damaged"):
        store.generations.of_sample(1)
