"""``srtui data look``: what is in the data, before and after."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from srtui.data_map import map_of_dataset, map_of_run, principal_plane
from srtui.pipeline import import_file
from srtui.pipeline.look import look_at_dataset, look_at_run
from srtui.report.facts import gather
from srtui.report.render import html, markdown
from srtui.store import Store
from srtui.subsets import clusters, directions
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import small_recipe


def test_a_dataset_in_figures(workspace: Workspace, tmp_path: Path) -> None:
    rows = [
        {"instruction": "Name it.", "input": "a thing", "output": "def f():\n    return 1"},
        {"instruction": "Say what is in the house and why it is there.", "input": "", "output": "The cat is in the house."},
        {"instruction": "Sage es auf Deutsch.", "input": "", "output": "Die Katze ist nicht in dem Haus und das ist auch gut."},
    ]  # fmt: skip
    file = tmp_path / "d.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    with Store(workspace.store_path) as store:
        import_file(store, file, "d")
        found = look_at_dataset(store, "d", 1)
    assert (found.before.texts, found.before.with_input, found.before.with_code) == (3, 1, 1)
    assert found.before.languages["German"] == 1
    assert found.before.response_length[1] == np.median([len(row["output"]) for row in rows])
    assert found.after is None
    assert found.before.near_duplicates == 0
    words = " ".join(srtui(workspace, "data", "look", "d").stdout.split())
    assert "with code 33%" in words
    printed = json.loads(srtui(workspace, "data", "look", "d", "--json").stdout)
    assert printed["before"]["texts"] == 3


def test_near_duplicates_are_counted_on_each_side(workspace: Workspace, tmp_path: Path) -> None:
    long = "Bees that visit many kinds of flower live longer than bees that visit only a single one of them."
    rows = [
        {"instruction": "Say something of bees.", "input": "", "output": f"{long} {end}"}
        for end in ("So it is.", "So it was.", "So it will be.")
    ]
    rows.append({"instruction": "Name a river.", "input": "", "output": "The Rhine."})
    file = tmp_path / "d.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    with Store(workspace.store_path) as store:
        import_file(store, file, "d")
        assert look_at_dataset(store, "d", 1).before.near_duplicates == 2
    words = " ".join(srtui(workspace, "data", "look", "d").stdout.split())
    assert "near-duplicates 50%" in words
    assert "srtui data embed d --student NAME" in words


def test_clusters_and_plane_find_what_is_there() -> None:
    random = np.random.default_rng(1)
    centres = random.normal(size=(3, 12)) * 4
    vectors = np.concatenate([centre + random.normal(size=(40, 12)) * 0.1 for centre in centres])
    units = directions(vectors.astype(np.float32))
    labels = clusters(units, 3)
    assert [len(set(labels[n : n + 40].tolist())) for n in (0, 40, 80)] == [1, 1, 1]
    assert len(set(labels.tolist())) == 3
    assert (clusters(units, 3) == labels).all()
    plane = principal_plane(units)
    _, sizes, axes = np.linalg.svd(units - units.mean(axis=0), full_matrices=False)
    expected = np.abs((units - units.mean(axis=0)) @ axes[:2].T)
    assert plane.shape == (120, 2)
    assert np.allclose(np.abs(plane), expected, atol=1e-4)
    assert sizes[1] > sizes[2]


def test_a_run_before_and_after_with_topics_and_a_map(pair_workspace: Workspace) -> None:
    recipe = small_recipe(
        pair_workspace,
        20,
        selection={"instruction_by": "original", "response_by": "original", "policy": "all"},
        training={"enabled": False},
    )
    srtui(pair_workspace, "run", str(recipe))
    with Store(pair_workspace.store_path, read_only=True) as store:
        run = store.runs.named("small")
        found = look_at_run(store, run)
        assert found.after is not None
        assert (found.before.texts, found.after.texts, found.map.topics) == (20, 20, [])
        assert "A map of the originals" not in html(gather(store, pair_workspace.root, run.id))
    words = srtui(pair_workspace, "data", "look", "--run", "small", "--embed").stdout
    assert "clusters of the embeddings of 20 originals" in " ".join(words.split())
    with Store(pair_workspace.store_path, read_only=True) as store:
        run = store.runs.named("small")
        found = look_at_run(store, run)
        assert (found.map.embedded, len(found.map.points)) == (20, 20)
        assert [point.sample_id for point in found.map.points] == store.runs.sample_ids(run.id)
        whole = look_at_dataset(store, found.dataset, run.dataset_id)
        assert [topic.before for topic in whole.map.topics] == [topic.before for topic in found.map.topics]
        assert {topic.after for topic in whole.map.topics} == {0}
        assert sum(topic.before for topic in found.map.topics) == 20
        some = map_of_run(store, run, most=6)
        assert (some.samples, some.step) == (20, 4)
        assert [point.sample_id for point in some.points] == store.runs.sample_ids(run.id)[::4]
        assert {point.fate for point in some.points} == {"kept"}
        assert all(topic.after == topic.before for topic in found.map.topics)
        facts = gather(store, pair_workspace.root, run.id)
        assert "A map of the originals by the student" in html(facts)
        assert "Topics" in markdown(facts)


def test_a_map_of_a_dataset_says_what_new_runs_leave_out(workspace: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "d.json"
    rows = [{"instruction": f"Say {n}.", "input": "", "output": "So."} for n in range(30)]
    file.write_text(json.dumps(rows), encoding="utf-8")
    random = np.random.default_rng(1)
    with Store(workspace.store_path) as store:
        import_file(store, file, "d")
        assert map_of_dataset(store, 1).points == []
        setting = store.scores.setting("made", "made", "made", "made", "default", 0)
        ids = store.corpus.original_ids_of(1, 0, 30)
        store.embeddings.add(setting, ((v, random.normal(size=8).astype(np.float32)) for _, v in ids[:20]))
        store.datasets.leave_out([3, 5], "near-duplicate")
        drawn = map_of_dataset(store, 1)
        assert (drawn.embedded, drawn.samples, drawn.step) == (20, 30, 1)
        assert {p.sample_id for p in drawn.points if p.fate == "left out"} == {3, 5}
        assert {p.fate for p in drawn.points if p.sample_id not in (3, 5)} == {"in the data"}
        half = map_of_dataset(store, 1, most=15)
        assert [p.sample_id for p in half.points] == list(range(1, 21, 2))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Name a dataset, or a run with --run."),
        (["d", "--embed"], "--embed needs --run"),
        (["nothing"], "There is no dataset 'nothing'"),
    ],
)
def test_bad_words_are_refused(workspace: Workspace, words: list[str], message: str) -> None:
    Store(workspace.store_path).close()
    done = srtui(workspace, "data", "look", *words)
    assert done.returncode == 2
    assert message in done.stderr
