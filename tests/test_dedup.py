"""``srtui data dedup`` and ``srtui import --dedup``: groups are shown, and only then marked or left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srtui.pipeline import import_file, prepare
from srtui.pipeline.dedup import find_duplicates, text_of
from srtui.recipe import parse
from srtui.sample import Pair, Turn
from srtui.store import Store
from srtui.workspace import Workspace
from tests.commands import srtui

LONG = (
    "Bees that visit many kinds of flower live longer than bees that visit one, since their food holds more kinds of "
    "pollen, and larvae that are fed with it fall ill less often in spring and in autumn of the same year"
)


def row(instruction: str, output: str) -> dict[str, str]:
    return {"instruction": instruction, "input": "", "output": output}


ROWS = [
    row("What do bees eat?", LONG),
    row("Name a prime.", "Seven."),
    row("What do bees eat?", f"{LONG}."),
    row("What DO bees eat?!", f"{LONG} again"),
    row("Name a river and say where it flows.", "The Rhine, from the Alps to the North Sea."),
]


@pytest.fixture
def imported(workspace: Workspace, tmp_path: Path) -> Workspace:
    file = tmp_path / "bees.json"
    file.write_text(json.dumps(ROWS), encoding="utf-8")
    with Store(workspace.store_path) as store:
        import_file(store, file, "bees")
    return workspace


def test_groups_are_shown_and_nothing_is_changed(imported: Workspace) -> None:
    printed = json.loads(srtui(imported, "data", "dedup", "bees", "--json").stdout)
    assert (printed["samples"], printed["duplicates"], printed["group_count"]) == (5, 2, 1)
    group = printed["groups"][0]
    assert group["kept"] == [1]
    assert [one[0] for one in group["others"]] == [3, 4]
    assert all(0.8 <= one[2] <= 1 for one in group["others"])
    words = " ".join(srtui(imported, "data", "dedup", "bees").stdout.split())
    assert "3 alike, sample 1 stays" in words
    assert "2 of 5 samples (40%) are near-duplicates of others, in 1 group:" in words
    with Store(imported.store_path, read_only=True) as store:
        assert len(list(store.corpus.each_sample_id(1))) == 5
        assert store.datasets.near_duplicates(1) == 0


def test_marked_samples_are_taken_and_dropped_ones_are_not(imported: Workspace) -> None:
    recipe = parse({"name": "r", "dataset": "bees", "training": {"held_out": 0.5}}, "test")
    srtui(imported, "data", "dedup", "bees", "--mark")
    with Store(imported.store_path) as store:
        assert (store.datasets.near_duplicates(1), store.datasets.left_out(1)) == (2, {})
        before, _ = prepare(imported, store, recipe, imported.recipes / "r.toml")
        assert store.runs.sample_count(before.id) == 5
    srtui(imported, "data", "dedup", "bees", "--drop")
    with Store(imported.store_path) as store:
        assert (store.datasets.near_duplicates(1), store.datasets.left_out(1)) == (2, {"near-duplicate": 2})
        after, is_new = prepare(imported, store, recipe, imported.recipes / "r.toml")
        assert is_new
        assert store.runs.sample_ids(after.id) == [1, 2, 5]
        found = store.datasets.near_duplicate_of(4)
        assert found is not None
        assert found.of_sample_id == 1
        assert store.corpus.size(1) == 5  # nothing is deleted
        assert store.runs.sample_count(before.id) == 5  # an earlier run stays as it was
    again = srtui(imported, "data", "dedup", "bees", "--threshold", "1", "--mark").stdout
    assert "What was left out as a near-duplicate before (2 samples) is forgotten for it." in again
    srtui(imported, "data", "dedup", "bees", "--drop")
    assert "2 marks are gone" in srtui(imported, "data", "dedup", "bees", "--undo").stdout
    with Store(imported.store_path, read_only=True) as store:
        assert len(list(store.corpus.each_sample_id(1))) == 5


def test_an_import_can_drop_them(workspace: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "bees.json"
    file.write_text(json.dumps(ROWS), encoding="utf-8")
    printed = srtui(workspace, "import", str(file), "--dedup", "drop").stdout
    assert "bees: 2 near-duplicates left out of new runs" in printed
    with Store(workspace.store_path, read_only=True) as store:
        assert list(store.corpus.each_sample_id(1)) == [1, 2, 5]


def test_what_goes_is_like_what_stays(workspace: Workspace, tmp_path: Path) -> None:
    """A chain of texts, each like the next and the last unlike the first, is not cut to its first."""
    words = [f"word{n}" for n in range(100)]
    chain = [row("Say it.", " ".join([*words[: 60 + step], f"end{step}"])) for step in range(0, 40, 4)]
    file = tmp_path / "chain.json"
    file.write_text(json.dumps(chain), encoding="utf-8")
    with Store(workspace.store_path) as store:
        import_file(store, file, "chain")
        found = find_duplicates(store, "chain", 1, "response", 0.8)
        assert len(found.groups) == 1
        assert 1 < len(found.groups[0].kept) < 5
        assert all(one.similarity >= 0.8 for one in found.found())
        assert {one.of_sample_id for one in found.found()} <= set(found.groups[0].kept)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nobody"], "There is no dataset 'nobody'; there are: bees."),
        (["bees", "--by", "smell"], "--by smell: it can be pair, instruction, response, meaning."),
        (["bees", "--mark", "--drop"], "Only one of --mark, --drop and --undo can be given."),
    ],
)
def test_bad_words_are_refused_in_a_sentence(imported: Workspace, words: list[str], message: str) -> None:
    done = srtui(imported, "data", "dedup", *words)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_turn_before_belongs_to_what_is_asked() -> None:
    go_on = Pair(
        "Go on.", "", "As you like.", (Turn("user", "Tell me of bees."), Turn("assistant", "Bees fly."))
    )
    other = go_on._replace(history=(Turn("user", "Tell me of rivers."), Turn("assistant", "Rivers flow.")))
    assert text_of(go_on, "pair") == "Bees fly.\nGo on.\n\nAs you like."
    assert text_of(go_on, "instruction") != text_of(other, "instruction")
    assert text_of(go_on, "response") == text_of(other, "response")
    assert text_of(Pair("Ask.", "this", "No."), "pair") == "Ask.\nthis\nNo."
