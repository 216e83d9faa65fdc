"""What is held out is trained on under no other spelling."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from srtui import recipe as recipes
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


@given(st.lists(st.integers(0, 12), min_size=2, max_size=60), st.floats(0, 0.6))
def test_those_alike_stand_on_one_side(words: list[int], share: float) -> None:
    rows = [(n, f"Question {word}?", "") for n, word in enumerate(words)]
    sides = dict(hold_out([n for n, _, _ in rows], share, order, alike(rows)))
    for word in set(words):
        assert len({sides[n] for n, other in enumerate(words) if other == word}) == 1
    assert sum(sides.values()) <= round(len(words) * share) and not all(sides.values())


def test_without_duplicates_the_split_is_as_it_was() -> None:
    ids = list(range(1, 101))
    first = set(sorted(ids, key=order)[:10])
    assert dict(hold_out(ids, 0.1, order, {})) == {i: i in first for i in ids}
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
