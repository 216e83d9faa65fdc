"""What is held out is trained on under no other spelling."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srtui import recipe as recipes
from srtui.pipeline import holdout
from srtui.pipeline.holdout import alike, hold_out, question_key, unseen
from srtui.pipeline.prepare import prepare
from srtui.sample import Pair, digest
from srtui.store import Store
from srtui.store.corpus import Variant
from tests.conftest import make_workspace, small_recipe


def order(i: int) -> bytes:
    return digest(0, "held out", i)


def test_case_space_and_punctuation_make_no_other_question() -> None:
    same = {
        question_key(*asked)
        for asked in (
            ("Name three colours.", ""), ("name  three colours", ""), ("“Name three, COLOURS!”\n", " "),
            ("Name three", "colours"), ("Ｎａｍｅ three colours", ""),
        )
    }  # fmt: skip
    assert len(same) == 1
    assert question_key("Name two colours") not in same
    assert question_key("???") != question_key("!!!")
    assert question_key("给出三种颜色。") == question_key("给出三种颜色")


def the_plain_way(ids: list[int], share: float, groups: dict[int, int]) -> set[int]:
    """All ids sorted, and taken in that order as long as they, with those alike, find room."""
    room = min(round(len(ids) * share), len(ids) - 1) if share else 0
    chosen: set[int] = set()
    for i in sorted(ids, key=order):
        together = [n for n in ids if n == i or (i in groups and groups.get(n) == groups[i])]
        if i not in chosen and len(chosen) + len(together) <= room:
            chosen.update(together)
    return chosen


@pytest.mark.parametrize("more", [0, 1, 1000])
def test_few_that_are_looked_at_first_are_enough(monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    """Large groups that find no room are passed over, however many come first."""
    monkeypatch.setattr(holdout, "_MORE", more)
    groups = {n: n // 40 for n in range(400)}
    for share in (0.05, 0.12, 0.5):
        held = hold_out(lambda: range(500), share, order, groups)
        assert held == the_plain_way(list(range(500)), share, groups)


def test_letters_are_what_they_were() -> None:
    signs = [chr(n) for n in range(sys.maxunicode + 1) if not 0xD800 <= n < 0xE000]
    assert holdout._NO_LETTERS.sub("", "".join(signs)) == "".join(s for s in signs if s.isalnum())


@given(st.lists(st.integers(0, 12), min_size=2, max_size=60), st.floats(0, 0.6))
def test_those_alike_stand_on_one_side(words: list[int], share: float) -> None:
    rows = [(n, f"Question {word}?", "") for n, word in enumerate(words)]
    held = hold_out(lambda: range(len(rows)), share, order, alike(rows))
    assert held == the_plain_way(list(range(len(rows))), share, alike(rows))
    sides = {n: n in held for n in range(len(rows))}
    for word in set(words):
        assert len({sides[n] for n, other in enumerate(words) if other == word}) == 1
    assert sum(sides.values()) <= round(len(words) * share) and not all(sides.values())


def test_without_duplicates_the_split_is_as_it_was() -> None:
    ids = list(range(1, 101))
    first = set(sorted(ids, key=order)[:10])
    assert hold_out(lambda: ids, 0.1, order, {}) == first
    assert alike([(1, "a", ""), (2, "b", "")]) == {}


def test_a_run_shares_no_question_between_its_sides(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    path = small_recipe(workspace, samples=40, training={"held_out": 0.5})
    rows = [
        {"instruction": f"Say {n // 2}{'!' * (n % 2)}", "input": "", "output": f"Answer {n}."}
        for n in range(40)
    ]
    (workspace.root / "twice.json").write_text(json.dumps(rows))
    recipe = recipes.load(path, [f"dataset={workspace.root / 'twice.json'}"], None)
    with Store(workspace.store_path) as store:
        run, _ = prepare(workspace, store, recipe, path)
        held = set(store.decisions.held_out(run.id))
        texts = {i: v.pair.instruction.rstrip("!") for i, v in store.corpus.originals(run.id).items()}
        assert len(held) == 20
        assert not {texts[i] for i in held} & {t for i, t in texts.items() if i not in held}


def test_a_rewrite_that_asks_what_is_held_out_is_not_measured() -> None:
    held = [Variant(n, n, "original", "test", None, None, Pair(f"Say {n}.", "", "Yes.")) for n in range(3)]
    assert unseen(held, {question_key("say 1")}) == [held[0], held[2]]
