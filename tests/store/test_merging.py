"""Shards of one run, merged: the store is the one that a single run would have made, by what its rows say."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import bench_scale
from srtui import recipe as recipes
from srtui import student
from srtui.cli import app as commands
from srtui.errors import UserError
from srtui.pipeline import Engine, import_file, prepare, variants
from srtui.pipeline.rederive import faults
from srtui.pipeline.shards import merge
from srtui.sample import Pair
from srtui.store import Store, merging
from srtui.store.imports import NewRow
from srtui.store.shard_copier import ShardCopier
from srtui.workspace import Workspace
from tests.conftest import make_workspace
from tests.sql import sql_rows, sql_value
from tests.tui.scripted_store import make_demo_store

PAIRS = list(bench_scale.texts(60))
PARTS = (PAIRS[:25], PAIRS[20:45], PAIRS[45:])  # five samples are in two of them


class _Silent:
    def progress(self, progress: object) -> None:
        pass

    def event(self, level: str, message: str) -> None:
        pass


def made(
    root: Path, pair_folder: Path, pairs: list[Pair], *words: str, until: str | None = None
) -> Workspace:
    """A workspace with a finished run over ``pairs``."""
    workspace = make_workspace(root, pair_folder)
    path = workspace.recipes / "scale.toml"
    path.write_text(bench_scale.RECIPE)
    with Store(workspace.store_path) as store:
        rows = [NewRow(n, p, json.dumps(p._asdict())) for n, p in enumerate(pairs)]
        store.imports.add_samples("scale", f"{root.name}.jsonl", root.name * 8, "alpaca", rows)
        run, _ = prepare(workspace, store, recipes.load(path, list(words)), path)
        teacher = bench_scale.instant_teacher(pair_folder / "tiny.F16.gguf", "0" * 64, lambda: None)
        Engine(workspace, store, run, _Silent(), teacher=teacher).work(until)
    return workspace


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, pair_folder: Path) -> list[Workspace]:
    """One run over all, and the same over each part."""
    root = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        for module in (variants, student):
            patch.setattr(module, "open_scorer", bench_scale.InstantScorer)
        whole = made(root / "whole", pair_folder, PAIRS)
        return [whole, *(made(root / f"part{n}", pair_folder, part) for n, part in enumerate(PARTS))]


def says(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What a store's run holds, by its texts and not by ids."""
    queries = {
        "sample": "SELECT hex(digest), record, external_id FROM sample",
        "variant": "SELECT hex(s.digest), hex(v.digest), v.kind, v.origin, hex(p.digest), hex(g.key), v.response FROM "
        "variant v JOIN sample s ON s.id = v.sample_id LEFT JOIN variant p ON p.id = v.parent_id "
        "LEFT JOIN generation g ON g.id = v.generation_id",
        "generation": "SELECT hex(g.key), hex(v.digest), hex(w.digest), g.text, g.segments, g.parsed, g.attempt, a.model, "
        "a.sampler, f.pieces FROM generation g JOIN variant v ON v.id = g.parent_variant_id LEFT JOIN variant w "
        "ON w.id = g.variant_id JOIN asked a ON a.id = g.asked_id LEFT JOIN prompt_frame f ON f.id = g.frame_id",
        "span_loss": "SELECT hex(key), nll, tokens, truncated, reason FROM span_loss",
        "score": "SELECT hex(v.digest), s.metric, hex(s.conditional_key), hex(s.unconditional_key), s.value FROM score s "
        "JOIN variant v ON v.id = s.variant_id",
        "reflection": "SELECT hex(s.digest), f.stage, hex(v.digest), f.status, f.attempts FROM reflection f JOIN sample s "
        "ON s.id = f.sample_id JOIN variant v ON v.id = f.parent_variant_id",
        "candidate": "SELECT hex(s.digest), c.stage, c.ordinal, hex(v.digest) FROM candidate c JOIN sample s "
        "ON s.id = c.sample_id JOIN variant v ON v.id = c.variant_id",
        "decision": "SELECT hex(s.digest), d.stage, hex(v.digest), d.reflected, d.by_proxy, d.reason, "
        "(SELECT group_concat(hex(w.digest) || json_extract(j.value, '$[1]')) FROM json_each(d.compared) j JOIN variant w ON w.id = json_extract(j.value, '$[0]')) "
        "FROM decision d JOIN sample s ON s.id = d.sample_id JOIN variant v ON v.id = d.chosen_id",
        "outcome": "SELECT hex(s.digest), hex(v.digest), o.kept, o.reason, o.ifd, o.rifd FROM outcome o JOIN sample s "
        "ON s.id = o.sample_id JOIN variant v ON v.id = o.variant_id",
        "tally": "SELECT what, stage, detail, flags, n FROM tally",
        "score_bin": "SELECT metric, kind, reason, bin, n, truncated FROM score_bin",
    }
    with Store(path, read_only=True) as store:
        return {
            table: sorted(map(tuple, sql_rows(store, query)), key=repr) for table, query in queries.items()
        }


def merged(root: Path, pair_folder: Path, parts: list[Workspace], **more: Any) -> Path:
    workspace = make_workspace(root, pair_folder)
    with Store(workspace.store_path) as store:
        merge(store, [part.root for part in parts], None, None, lambda line: None, **more)
    return workspace.store_path


def sound(path: Path) -> None:
    with Store(path, read_only=True) as store:
        assert store.check() == []
        assert store.verify(deep=True).problems == []
        assert list(faults(store)) == []


def test_merged_shards_are_the_run_over_all(
    shards: list[Workspace], tmp_path: Path, pair_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of a page and the order of shards; and a second time adds nothing."""
    whole = says(shards[0].store_path)
    assert len(whole["decision"]) == 120
    for n, (page, order) in enumerate(((7, (1, 2, 3)), (1000, (3, 1, 2)))):
        monkeypatch.setattr(merging, "PAGE", page)
        path = merged(tmp_path / str(n), pair_folder, [shards[i] for i in order])
        assert says(path) == whole
        sound(path)
        with Store(path) as store:
            before = store.counts()
            merge(store, [shards[i].root for i in order], None, None, lambda line: None)
            assert {k: v for k, v in store.counts().items() if k != "event"} == {
                k: v for k, v in before.items() if k != "event"
            }
            run = store.runs.named("scale")
            assert (run.status, run.setting_id) == ("done", 1) and run.teacher is not None
            stage = store.runs.stages(run.id)["reflect-instruction"]
            assert (stage.done, stage.total) == (60, 60)
        assert says(path) == whole


def test_the_recipe_over_the_whole_finds_the_merged_run(
    shards: list[Workspace], tmp_path: Path, pair_folder: Path
) -> None:
    path = merged(tmp_path / "ws", pair_folder, shards[1:])
    workspace = Workspace(tmp_path / "ws")
    recipe = workspace.recipes / "scale.toml"
    recipe.write_text(bench_scale.RECIPE)
    with Store(path) as store:
        run, is_new = prepare(workspace, store, recipes.load(recipe), recipe)
        assert not is_new and run.name == "scale"
        assert store.runs.sample_count(run.id) == 60


def test_a_merge_that_is_killed_goes_on(
    shards: list[Workspace], tmp_path: Path, pair_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any page, and in the middle of one."""
    monkeypatch.setattr(merging, "PAGE", 10)
    workspace = make_workspace(tmp_path / "ws", pair_folder)
    parts = [shard.root for shard in shards[1:]]
    inner: dict[str, Callable[..., Any]] = {n: getattr(ShardCopier, n) for n in ("take", "_choices")}
    calls = {"n": 0}

    def dies(name: str, at: int) -> Callable[..., Any]:
        def call(self: Any, *given: Any) -> Any:
            calls["n"] += 1
            if calls["n"] == at:
                raise KeyboardInterrupt
            return inner[name](self, *given)

        return call

    for name, at in (("take", 1), ("take", 3), ("_choices", 1), ("_choices", 2), ("take", 2)):
        calls["n"] = 0
        with monkeypatch.context() as patch, Store(workspace.store_path) as store:
            patch.setattr(ShardCopier, name, dies(name, at))
            with pytest.raises(KeyboardInterrupt):
                merge(store, parts, None, None, lambda line: None)
            assert not store.conn.in_transaction and store.check() == []
    with Store(workspace.store_path) as store:
        merge(store, parts, None, None, lambda line: None)
    assert says(workspace.store_path) == says(shards[0].store_path)
    sound(workspace.store_path)


def test_a_shard_that_got_further_is_taken_again(
    tmp_path: Path, pair_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (variants, student):
        monkeypatch.setattr(module, "open_scorer", bench_scale.InstantScorer)
    part = made(tmp_path / "part", pair_folder, PAIRS[:12], until="choose-instruction")
    path = merged(tmp_path / "ws", pair_folder, [part])
    with Store(path, read_only=True) as store:
        assert (store.runs.named("scale").status, store.decisions.settled(1)) == ("stopped", 0)
    with Store(part.store_path) as store:
        run = store.runs.named("scale")
        teacher = bench_scale.instant_teacher(pair_folder / "tiny.F16.gguf", "0" * 64, lambda: None)
        Engine(part, store, run, _Silent(), teacher=teacher).work()
    with Store(path) as store:
        done = merge(store, [part.store_path], None, None, lambda line: None)
        assert (done.settled, store.runs.named("scale").status) == (12, "done")
    assert says(path) == says(part.store_path)


def test_losses_with_other_last_digits_stay_beside_each_other(
    shards: list[Workspace], tmp_path: Path, pair_folder: Path
) -> None:
    """A machine's sums end in other digits: each shard's scores follow from its own losses, and nothing is damaged."""
    parts = []
    for n, shard in enumerate(shards[1:3]):
        with Store(shard.store_path) as store:
            store.backup(tmp_path / f"{n}.sqlite")
        parts.append(tmp_path / f"{n}.sqlite")
    key = set(says(parts[0])["span_loss"]) & set(says(parts[1])["span_loss"])
    assert key  # of the samples that both have, at least
    with sqlite3.connect(parts[1]) as conn:
        conn.execute("UPDATE span_loss SET nll = nll * (1 + 1e-9)")
    workspace = make_workspace(tmp_path / "ws", pair_folder)
    with Store(workspace.store_path) as store:
        for _ in range(2):
            merge(store, parts, None, None, lambda line: None)
            beside = sql_value(store, "SELECT count(*) FROM span_loss WHERE length(key) > 17")
            assert beside == len(key)
    with sqlite3.connect(parts[1]) as conn:
        conn.execute("UPDATE span_loss SET nll = nll * 2")
    with Store(workspace.store_path) as store, pytest.raises(UserError, match="more than rounding"):
        merge(store, [parts[1]], None, None, lambda line: None)


TALKS = [
    {"id": name, "messages": [
        {"role": "system", "content": "You are brief."}, {"role": "user", "content": f"Name a {name}."},
        {"role": "assistant", "content": f"One {name}."}, {"role": "user", "content": "Another one."},
        {"role": "assistant", "content": f"A second {name}."}]}
    for name in ("river", "tree", "star", "king")
]  # fmt: skip


def test_conversations_come_with_their_turns(
    tmp_path: Path, pair_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once each, also where a page ends in the middle of one, or two shards have it."""
    for module in (variants, student):
        monkeypatch.setattr(module, "open_scorer", bench_scale.InstantScorer)
    monkeypatch.setattr(merging, "PAGE", 3)
    stores = []
    for n, talks in enumerate((TALKS, TALKS[:3], TALKS[2:])):
        workspace = make_workspace(tmp_path / str(n), pair_folder)
        file, path = workspace.root / f"talks{n}.json", workspace.recipes / "scale.toml"
        file.write_text(json.dumps(talks))
        path.write_text(bench_scale.RECIPE)
        with Store(workspace.store_path) as store:
            import_file(store, file, "scale", turns="each")
            run, _ = prepare(workspace, store, recipes.load(path), path)
            teacher = bench_scale.instant_teacher(pair_folder / "tiny.F16.gguf", "0" * 64, lambda: None)
            Engine(workspace, store, run, _Silent(), teacher=teacher).work()
        stores.append(workspace)
    path = merged(tmp_path / "ws", pair_folder, stores[1:])
    assert says(path) == says(stores[0].store_path)
    queries = (
        "SELECT c.record, c.layout, c.turns, group_concat(t.role || t.text || t.place || t.places) FROM conversation c JOIN "
        "turn t ON t.id >= c.id AND t.id < c.id + c.turns GROUP BY c.id ORDER BY c.record",
        "SELECT hex(s.digest), e.answer_id - e.conversation_id, e.followed, hex(e.history) FROM exchange e JOIN sample s "
        "ON s.id = e.sample_id ORDER BY 1",
    )
    with Store(path, read_only=True) as ours, Store(stores[0].store_path, read_only=True) as one:
        for query in queries:
            assert [tuple(r) for r in sql_rows(ours, query)] == [tuple(r) for r in sql_rows(one, query)]
        assert sql_value(ours, "SELECT count(*) FROM turn") == 20
    sound(path)


CONTRADICTIONS = {
    "another recipe": (
        "UPDATE run SET recipe = json_set(recipe, '$.seed', 7)", "the recipe of run scale is not that of run scale"),
    "another teacher": (
        "UPDATE run SET teacher = json_set(teacher, '$.sha256', 'ff')", "written by another teacher .*sha256"),
    "another student": ("UPDATE scoring_setting SET digest = X'02'", "scored by another student"),
    "another choice": (
        "UPDATE decision SET chosen_id = (SELECT parent_variant_id FROM reflection f WHERE f.sample_id = decision.sample_id "
        "AND f.stage = decision.stage), reflected = 0 WHERE stage = 'response'", "another shard has too, and they chose"),
    "a pilot": ("UPDATE run SET recipe = json_set(recipe, '$.pilot', 5)", "its runs are none; say which one"),
}  # fmt: skip


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_what_contradicts_is_one_sentence(
    shards: list[Workspace], tmp_path: Path, pair_folder: Path, what: str
) -> None:
    sql, sentence = CONTRADICTIONS[what]
    with Store(shards[2].store_path) as store:
        store.backup(tmp_path / "other.sqlite")
    with sqlite3.connect(tmp_path / "other.sqlite") as conn:
        conn.execute(sql)
    path = merged(tmp_path / "ws", pair_folder, [shards[1]])
    before = says(path)
    with Store(path) as store, pytest.raises(UserError, match=sentence):
        merge(store, [tmp_path / "other.sqlite"], None, None, lambda line: None)
    assert says(path) == before
    sound(path)


def test_by_the_command(shards: list[Workspace], tmp_path: Path, pair_folder: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", pair_folder)

    def run(*words: str) -> Any:
        return CliRunner().invoke(
            commands, ["db", "merge", *words], env={"SRTUI_WORKSPACE": str(workspace.root)}
        )

    done = run(*(str(shard.root) for shard in shards[1:]), "--as", "all")
    assert done.exit_code == 0, done.output
    assert "25 samples, 25 new here, 25 settled" in done.output and "25 samples, 20 new here" in done.output
    assert "Run all: 60 samples, 60 of them settled. Continue with: srtui resume all" in done.output
    again = run(str(shards[1].store_path), "--as", "all", "--json")
    merged_into = {"run": "all", "shards": 1, "samples": 60, "settled": 60}
    assert json.loads(again.output) == {"srtui_json": 1, "type": "merge", **merged_into}
    for words, sentence in (
        ((str(workspace.root),), "is the store that shards are merged into"),
        ((str(tmp_path / "none.sqlite"),), "there is no store yet"),
        ((str(shards[1].root), "--run", "no"), "There is no run 'no'"),
    ):
        refused = run(*words)
        assert refused.exit_code == 2 or isinstance(refused.exception, UserError)
        assert sentence in refused.output + str(refused.exception)


def test_what_is_here_already_is_no_shards(
    shards: list[Workspace], tmp_path: Path, pair_folder: Path
) -> None:
    workspace = make_workspace(tmp_path / "ws", pair_folder)
    make_demo_store(workspace)
    with Store(workspace.store_path) as store:
        taken = store.runs.all()[0].name
        with pytest.raises(UserError, match="that is not made of shards"):
            merge(store, [shards[1].root], None, taken, lambda line: None)
        dataset = store.corpus.datasets()[0].name
        with pytest.raises(UserError, match=r"There is a (run|dataset)"):
            merge(store, [shards[1].root], None, dataset, lambda line: None)
        merge(store, [shards[1].root], None, "beside", lambda line: None)
        assert store.runs.sample_count(store.runs.named("beside").id) == 25
        assert store.check() == [] and list(faults(store)) == []
