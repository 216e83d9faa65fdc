"""Conversations through the whole loop, with models that take milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from srtui import datasets
from srtui import recipe as recipes
from srtui.cli import app
from srtui.errors import UserError
from srtui.hashing import key_of_ids
from srtui.pipeline import import_file, prepare
from srtui.pipeline.preference_data import pairs_to_train_on
from srtui.recipe import Recipe
from srtui.sample import Pair, Turn
from srtui.store import Store
from srtui.store.conversations import FOLLOWED
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import make_workspace, small_recipe
from tests.sql import sql_rows, sql_value

pytestmark = pytest.mark.model

TALK = [
    ("human", "Name a large river."),
    ("gpt", "The Nile is a large river."),
    ("human", "Where does it begin?"),
    ("gpt", "It begins at Lake Victoria."),
    ("human", "And where does it end?"),
    ("gpt", "It ends in the Mediterranean Sea."),
]
RECORDS: list[dict[str, Any]] = [
    {
        "id": "river",
        "topic": {"kind": "geography", "é": [1, 2.5, None]},
        "system": "You answer in one sentence.",
        "conversations": [{"from": r, "value": t, "mark": n} for n, (r, t) in enumerate(TALK)],
    },
    {"id": "tree", "conversations": [{"from": "human", "value": "Name a tree."}, {"from": "gpt", "value": "An oak."}]},
    {
        "id": "sky",
        "conversations": [
            {"from": "human", "value": "Why is the sky blue?"},
            {"from": "gpt", "value": "Air scatters blue light the most."},
            {"from": "human", "value": "And at sunset?"},
            {"from": "gpt", "value": "Then the light has lost its blue."},
            {"from": "human", "value": "Thanks!"},
        ],
    },
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, pair_folder: Path) -> Workspace:
    """A run on every answer of three conversations."""
    workspace = make_workspace(tmp_path_factory.mktemp("talk") / "ws", pair_folder)
    recipe = small_recipe(workspace, selection={"policy": "all"}, training={"held_out": 0.0})
    (workspace.recipes / "talk.json").write_text(json.dumps(RECORDS), encoding="utf-8")
    done = srtui(workspace, "run", str(recipe), "--json", "--set", "dataset=talk.json", "--set", "turns=each")
    assert done.returncode == 0, done.stderr
    return workspace


def test_every_answer_is_a_sample_and_knows_what_came_before(finished: Workspace) -> None:
    with Store(finished.store_path, read_only=True) as store:
        run = store.runs.named("small")
        originals = [v.pair for v in store.corpus.originals(run.id).values()]
        before = [Turn("system", "You answer in one sentence.")]
        before += [Turn("user" if role == "human" else "assistant", text) for role, text in TALK]
        assert [p.history for p in originals[:3]] == [tuple(before[:n]) for n in (1, 3, 5)]
        assert originals[3] == Pair("Name a tree.", "", "An oak.")
        assert len(originals) == 6
        # Its turns are stored once, not once a sample.
        assert sql_value(store, "SELECT count(*) FROM turn") == 7 + 2 + 4
        rows = sql_rows(
            store,
            "SELECT s.external_id, f.status FROM reflection f JOIN sample s ON s.id = f.sample_id "
            "WHERE f.stage = 'instruction' ORDER BY s.id",
        )
        stays = [(r[0], r[1] == FOLLOWED) for r in rows]
        assert stays == [
            ("river", True), ("river", True), ("river", False), ("tree", False), ("sky", True), ("sky", False)
        ]  # fmt: skip
        asked = [(g.prompt, g.prompt_version) for g in store.generations.of_sample(3)]
        for prompt, version in asked:
            talk = "System: You answer in one sentence.\n\nUser: Name a large river.\n\nAssistant: The Nile is a large river."
            assert f"Conversation so far:\n{talk}" in prompt
            assert version not in ("instruction-1-ffa20bbd", "response-1-8da4008d")
        assert store.check() == []
        assert store.verify(deep=True).problems == []


def test_a_conversation_comes_back_with_the_chosen_texts(finished: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = srtui(finished, "export", "small", "--format", "sharegpt", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "3 conversations and samples" in done.stdout
    written = json.loads(out.read_text(encoding="utf-8"))
    # What was not chosen anew is spelled as it was in the file.
    source, now = (
        (finished.recipes / "talk.json").read_text(encoding="utf-8"),
        out.read_text(encoding="utf-8"),
    )
    assert '"topic": {"kind": "geography", "\\u00e9": [1, 2.5, null]}' in now
    for turn in json.loads(source)[0]["conversations"][:3:2]:
        assert json.dumps(turn) in source and json.dumps(turn) in now
    with Store(finished.store_path, read_only=True) as store:
        final = {
            r[0]: (r[1], r[2])
            for r in sql_rows(
                store,
                "SELECT o.sample_id, v.instruction, v.response FROM outcome o JOIN variant v ON v.id = o.variant_id",
            )
        }
    assert [r["id"] for r in written] == ["river", "tree", "sky"]
    river = written[0]
    assert (river["topic"], river["system"]) == (RECORDS[0]["topic"], RECORDS[0]["system"])
    said = [turn["value"] for turn in river["conversations"]]
    assert [turn["mark"] for turn in river["conversations"]] == list(range(6))
    # What later turns refer to is as it was; answers are those that were chosen.
    assert (said[0], said[2]) == (TALK[0][1], TALK[2][1])
    assert said[1::2] == [final[n][1] for n in (1, 2, 3)]
    assert said[4] == final[3][0]
    assert said[1::2] != [text for _, text in TALK[1::2]], "nothing was rewritten: the test shows nothing"
    assert len(written[2]["conversations"]) == 4  # what nobody answered is left out

    as_messages = tmp_path / "out.jsonl"
    assert (
        srtui(finished, "export", "small", "--format", "messages", "--out", str(as_messages)).returncode == 0
    )
    other = [json.loads(line) for line in as_messages.read_text(encoding="utf-8").splitlines()]
    assert [m["content"] for m in other[0]["messages"]] == [RECORDS[0]["system"], *said]
    again = datasets.read(out, turns="each").conversations()
    assert [e.pair.response for row in again for e in row.conversation.exchanges] == [
        final[n][1] for n in final
    ]  # type: ignore[union-attr]


def test_show_folds_the_history_and_opens_it(finished: Workspace) -> None:
    folded = srtui(finished, "show", "3").stdout
    assert "5 turns before, the last by assistant: It begins at Lake Victoria." in folded
    assert "Name a large river." not in folded
    assert "Name a large river." in srtui(finished, "show", "3", "--history").stdout
    facts = json.loads(srtui(finished, "show", "3", "--json").stdout)
    assert facts["history"][0] == {"role": "system", "text": "You answer in one sentence."}
    assert facts["conversation"] == {"conversation_id": 1, "turn": 7, "turns": 7, "followed": False}


def test_a_preference_pair_has_what_came_before(finished: Workspace) -> None:
    """In the file, and in the spans that a training on preferences takes."""
    done = srtui(finished, "export", "small", "--format", "preference", "--out", "-")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    with Store(finished.store_path, read_only=True) as store:
        run = store.runs.named("small")
        before = {i: v.pair.history for i, v in store.corpus.originals(run.id).items()}
        pairs, _ = pairs_to_train_on(store, run, Recipe.model_validate(run.recipe), held_out=False)
    assert sum(bool(before[r["sample"]]) for r in records) >= 1
    for record in records:
        turns = [{"role": t.role, "content": t.text} for t in before[record["sample"]]]
        assert record["prompt"][:-1] == turns and "history" not in record
    assert len(pairs) == len(records)
    assert all(text.history == before[pair.sample_id] for pair in pairs for text in pair.pairs)


def _prepared(workspace: Workspace, store: Store, *changes: str) -> tuple[str, int]:
    """Name and samples of the dataset that a recipe on talk.json gets."""
    path = small_recipe(workspace)
    (workspace.recipes / "talk.json").write_text(json.dumps(RECORDS), encoding="utf-8")
    run, _ = prepare(workspace, store, recipes.load(path, ["dataset=talk.json", *changes]), path)
    (name,) = [d.name for d in store.corpus.datasets() if store.corpus.dataset_id(d.name) == run.dataset_id]
    return name, len(store.corpus.originals(run.id))


def test_a_dataset_of_other_turns_is_not_taken_for_a_recipes(pair_workspace: Workspace) -> None:
    with Store(pair_workspace.store_path) as store:
        assert _prepared(pair_workspace, store) == ("talk", 3)
        assert _prepared(pair_workspace, store, "turns=each") == ("talk-2", 6)
        assert _prepared(pair_workspace, store, "turns=each", "seed=2") == ("talk-2", 6)
        assert _prepared(pair_workspace, store, "turns=first") == ("talk-3", 3)
        assert _prepared(pair_workspace, store, "seed=3") == ("talk", 3)


def test_an_import_from_before_turns_is_that_of_first_exchanges(pair_workspace: Workspace) -> None:
    with Store(pair_workspace.store_path) as store:
        assert _prepared(pair_workspace, store, "turns=first") == ("talk", 3)
        with store.transaction():
            store.conn.execute("UPDATE import SET turns = NULL")  # as a store of then is migrated
        assert _prepared(pair_workspace, store, "turns=first", "seed=2") == ("talk", 3)
        assert _prepared(pair_workspace, store, "turns=each") == ("talk-2", 6)
        assert _prepared(pair_workspace, store) == ("talk-3", 3)


def test_a_run_from_before_turns_resumes(pair_workspace: Workspace) -> None:
    """Its recipe does not say what is taken, and the file was imported when the first exchange was by default."""
    path = small_recipe(pair_workspace)
    (pair_workspace.recipes / "talk.json").write_text(json.dumps(RECORDS), encoding="utf-8")
    recipe = recipes.load(path, ["dataset=talk.json"])
    with Store(pair_workspace.store_path) as store:
        imported = import_file(store, pair_workspace.recipes / "talk.json", "talk", turns="first")
        with store.transaction():
            store.conn.execute("UPDATE import SET turns = NULL")
        fingerprint = f"{recipe.fingerprint}-{key_of_ids('samples', 'ids', iter([1, 2, 3])).hex()[2:10]}"
        begun = store.runs.create(
            "small", imported.dataset_id, str(path), recipe.model_dump_json(), fingerprint,
            [(n, False) for n in (1, 2, 3)],
        )  # fmt: skip
        assert prepare(pair_workspace, store, recipe, path) == (begun, False)
        assert [d.name for d in store.corpus.datasets()] == ["talk"]  # nothing was imported anew
        # What is said, or another recipe, is another run.
        for changes in (["turns=last"], ["seed=5"]):
            run, is_new = prepare(
                pair_workspace, store, recipes.load(path, ["dataset=talk.json", *changes]), path
            )
            assert is_new and run.dataset_id != begun.dataset_id
        # It still resumes, though the file is there as it is taken now, too.
        assert prepare(pair_workspace, store, recipes.load(path, ["dataset=talk.json", "seed=5"]), path) == (
            run,
            False,
        )
        begun = store.runs.named("small")
        with store.transaction():
            store.conn.execute("DELETE FROM run WHERE id NOT IN (?, ?)", (begun.id, run.id))
        assert prepare(pair_workspace, store, recipe, path) == (begun, False)
        store.runs.update(begun.id, status="done")
    said = CliRunner().invoke(
        app,
        ["run", str(path), "--set", "dataset=talk.json"],
        env={"SRTUI_WORKSPACE": str(pair_workspace.root)},
    )
    assert said.exit_code == 0
    assert "Run small was begun over the file's conversations with --turns first, and resumes so" in " ".join(
        said.output.split()
    )


def test_a_named_dataset_of_other_turns_is_refused(pair_workspace: Workspace) -> None:
    with Store(pair_workspace.store_path) as store:
        assert _prepared(pair_workspace, store) == ("talk", 3)
        said = "turns = 'each', but dataset 'talk' was imported with --turns last; leave turns out"
        with pytest.raises(UserError, match=said):
            _prepared(pair_workspace, store, "dataset=talk", "turns=each")
        assert _prepared(pair_workspace, store, "dataset=talk", "seed=2") == ("talk", 3)
        # Rows have no turns, so nothing about them contradicts.
        assert _prepared(pair_workspace, store, "dataset=small.jsonl")[0] == "small"
        assert _prepared(pair_workspace, store, "dataset=small", "turns=each")[0] == "small"
        assert _prepared(pair_workspace, store, "dataset=small.jsonl", "turns=each")[0] == "small"
