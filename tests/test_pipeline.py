"""The whole loop: what it does, that it resumes; with the demo's models, that it stays offline."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from srtui import recipe as recipes
from srtui.llama.tuning import machine
from srtui.pipeline import Engine, prepare
from srtui.progress import Progress
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.endings import CUT
from srtui.store.summary import summarise
from srtui.workspace import Workspace
from tests.attack.ground import Ground, Outcome
from tests.commands import Command, srtui
from tests.conftest import ROOT, make_workspace, small_recipe
from tests.sql import sql_row, sql_rows, sql_value

pytestmark = pytest.mark.model


def decided(workspace: Workspace) -> list[tuple[Any, ...]]:
    """What a run decided, by texts rather than by row ids."""
    with Store(workspace.store_path, read_only=True) as store:
        return [
            tuple(r)
            for r in sql_rows(
                store,
                "SELECT s.row, d.stage, v.instruction, v.input, v.response, d.reason, o.kept, o.reason FROM decision d "
                "JOIN sample s ON s.id = d.sample_id JOIN variant v ON v.id = d.chosen_id "
                "LEFT JOIN outcome o ON o.run_id = d.run_id AND o.sample_id = d.sample_id ORDER BY s.row, d.stage",
            )
        ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, pair_folder: Path) -> tuple[Workspace, dict[str, Any]]:
    """One small run, undisturbed, from the command line."""
    workspace = make_workspace(tmp_path_factory.mktemp("finished") / "ws", pair_folder)
    done = srtui(workspace, "run", str(small_recipe(workspace)), "--json", "--set", "selection.policy=keep")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return workspace, lines[-1]


def test_the_summary_is_whole_and_true(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, figures = finished
    assert (figures["type"], figures["status"], figures["samples"]) == ("summary", "done", 6)
    for stage in ("instruction", "response"):
        r = figures["reflections"][stage]
        assert r["asked"] == r["first_try"] + r["after_retries"] + sum(r["failed"].values()) == 6
        assert figures["accepted"][stage]["decided"] == 6
    assert figures["kept"] + sum(figures["dropped"].values()) == 6
    # Of the texts as they are in the end: a new answer may lower the IFD that its instruction was chosen by.
    assert min(figures[metric][when] for metric in ("ifd", "rifd") for when in ("before", "after")) > 0
    training = figures["training"]
    assert training["status"] == "done"
    assert training["result"]["first_loss"] > 0
    assert figures["peak_memory_mb"] > 100
    adapter = workspace.root / training["adapter"]
    assert {p.name for p in adapter.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert not [p for p in adapter.parent.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]


def test_decisions_follow_from_the_stored_scores(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, _ = finished
    with Store(workspace.store_path, read_only=True) as store:
        rows = sql_rows(store, "SELECT stage, chosen_id, compared FROM decision")
        assert len(rows) == 12
        for r in rows:
            compared = json.loads(r["compared"])
            scores = {v: s for v, s, _ in compared if s is not None}
            if len(scores) == 2:
                best = max if r["stage"] == "instruction" else min
                assert scores[r["chosen_id"]] == best(scores.values())
        assert store.check() == []
        generations = [
            g for sample in store.corpus.each_sample_id(1) for g in store.generations.of_sample(sample)
        ]
        assert generations
        for g in generations:
            assert len(g.model_sha256) == 64
            assert json.loads(g.sampler)["temperature"] > 0
            assert g.prompt_version.startswith(f"{g.stage}-1-")


def test_no_rewrite_was_cut_short(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, figures = finished
    with Store(workspace.store_path, read_only=True) as store:
        ended = {
            g["id"]: {part: finish for part, finish, *_ in json.loads(g["segments"])}
            for g in sql_rows(store, "SELECT id, segments FROM generation")
        }
        made = [
            r[0]
            for r in sql_rows(
                store, "SELECT v.generation_id FROM candidate c JOIN variant v ON v.id = c.variant_id"
            )
        ]
        status = dict(sql_rows(store, "SELECT id, parsed FROM generation"))
    assert made
    for n in made:
        assert all(finish not in CUT for part, finish in ended[n].items() if part != "critique")
    for n, parts in ended.items():
        assert set(parts) <= {"critique", "instruction", "response"}
        last = list(parts)[-1]
        if parts[last] == "length":
            assert status[n] == f"cut_{last}"
    assert figures["endings"]["cut"] == figures["endings"]["unknown"] == 0


def test_base_and_tuned_answer_side_by_side(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, _ = finished
    words = ["chat", "small", "--tokens", "12"]
    asked = srtui(workspace, *words, "--json", "--say", "Name three trees.", "--say", "What is ice?")
    answers = [json.loads(line) for line in asked.stdout.splitlines()]
    assert [a["instruction"] for a in answers] == ["Name three trees.", "What is ice?"], asked.stderr
    assert all(a["base"].strip() for a in answers)
    piped = srtui(workspace, *words, input="Name three trees.\n\n/quit\nnever asked\n")
    assert piped.stdout == f"base: {answers[0]['base'].strip()}\ntuned: {answers[0]['tuned'].strip()}\n"
    assert "Warning" not in piped.stderr


def test_the_tuned_student_teaches_the_next_round(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, first = finished
    words = ["run", "recipes/small.toml", "--set", "selection.policy=keep", "--set", "training.enabled=false"]
    done = srtui(workspace, *words, "--teacher-from", "small", "--json", "--limit", "2")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert [r["run"] for r in figures["rounds"]] == ["small", "small-2"]
    assert figures["rounds"][0]["held_out_after"] == (
        first["training"]["result"]["held_out"].get("original", {}).get("after")
    )
    with Store(workspace.store_path, read_only=True) as store:
        models = [store.runs.named(name).teacher for name in ("small", "small-2")]
        assert models[0] and models[1] and models[0]["sha256"] != models[1]["sha256"]
        assert models[1]["name"].startswith("small-") and models[1]["name"].endswith(".Q8_0")
    made = workspace.models / f"{models[1]['name']}.gguf"
    stamp = made.stat().st_mtime_ns
    again = srtui(workspace, *words, "--teacher-from", "small", "--limit", "2")
    assert "nothing was left to do" in again.stdout
    assert "teacher" in again.stdout and "small-2" in again.stdout  # the rounds, side by side
    assert made.stat().st_mtime_ns == stamp
    made.unlink()

    none = srtui(workspace, *words, "--teacher-from", "small-2")
    assert none.returncode == 2
    assert "Run small-2 has trained no adapter" in none.stderr


def test_a_finished_run_is_not_done_again(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, _ = finished
    before = decided(workspace)
    again = srtui(workspace, "run", "recipes/small.toml", "--set", "selection.policy=keep")
    assert again.returncode == 0
    assert "nothing was left to do" in again.stdout
    assert decided(workspace) == before


def test_show_status_and_export(finished: tuple[Workspace, dict[str, Any]], tmp_path: Path) -> None:
    workspace, figures = finished

    def here(workspace: Workspace, *words: str) -> Outcome:
        return Ground(workspace.root.parent).run(*words)

    shown = here(workspace, "show", "1", "--raw")
    assert shown.code == 0
    assert "Variant 1: original" in shown.out
    assert "IFD" in shown.out
    facts = json.loads(here(workspace, "show", "1", "--json").out)
    assert set(facts["runs"]["small"]["decisions"]) == {"instruction", "response"}
    assert json.loads(here(workspace, "status", "--json").out)["runs"][0]["run"] == "small"
    assert "small" in here(workspace, "status").out
    counts = {}
    for what in ("selected", "all-variants"):
        for format, name in (
            ("alpaca", "a.json"),
            ("messages", "m.jsonl"),
            ("sharegpt", "s.json"),
            ("parquet", "p.parquet"),
        ):
            target = tmp_path / name
            done = here(
                workspace, "export", "small", "--format", format, "--out", str(target), "--what", what
            )
            assert done.code == 0, done.err
            fresh = make_workspace(tmp_path / f"{what}-{format}" / "ws")
            back = here(fresh, "import", str(target), "--name", "back", "--json")
            assert back.code == 0, back.err
            counts[what, format] = json.loads(back.out)["read"]
    assert {counts["selected", f] for f in ("alpaca", "messages", "sharegpt", "parquet")} == {figures["kept"]}
    assert counts["all-variants", "alpaca"] > figures["samples"]
    top = here(workspace, "export", "small", "--out", str(tmp_path / "top.json"), "--top-k-percent", "30")
    assert top.code == 0
    best = json.loads((tmp_path / "top.json").read_text())
    assert len(best) == round(figures["kept"] * 0.3)


def test_another_student_without_a_teacher_call(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, _ = finished
    with Store(workspace.store_path) as store:
        before = store.counts()["generation"]
        path = small_recipe(
            workspace,
            reflection={"source": "store"},
            student={"quantization": "f32"},
            training={"enabled": False},
            teacher={"model": "no-such-model"},
        )
        what = recipes.load(path, ["name=rescored"])
        run, is_new = prepare(workspace, store, what, path)
        assert is_new
        Engine(workspace, store, run, _Silent()).work()
        assert store.counts()["generation"] == before
        summary = summarise(store, run.id)
        assert summary.accepted["instruction"].decided == 6
        assert summary.reflections["instruction"].first_try == 6


class _Silent:
    def progress(self, progress: object) -> None:
        pass

    def event(self, level: str, message: str) -> None:
        pass


def test_killed_at_twenty_moments(tmp_path: Path, pair_folder: Path) -> None:
    """kill -9 and resume, twenty times, in the middle of commits and of decodes: nothing lost, nothing
    double, the same decisions.

    One thread makes llama.cpp's arithmetic the same whatever was done before the kill.
    """
    settings: dict[str, dict[str, object]] = {
        "teacher": {"slots": 3, "threads": 1},
        "training": {"enabled": False},
    }
    calm = make_workspace(tmp_path / "calm", pair_folder)
    assert srtui(calm, "run", str(small_recipe(calm, 40, **settings))).returncode == 0
    wild = make_workspace(tmp_path / "wild", pair_folder)
    recipe = small_recipe(wild, 40, **settings)
    # The first commits of a process import and take the lease; from each start on the work gets further.
    moments = random.Random(11)
    plan = [("commit", n) for n in (1, 2, 3, 5, 8)]
    plan += [(moments.choice(("commit", "decode")), moments.randint(5, 20)) for _ in range(15)]
    kills: Counter[str] = Counter()
    for event, number in plan:
        done = srtui(wild, "run", str(recipe), kill_at=(event, number))
        kills[event] += done.returncode == -signal.SIGKILL
        if wild.store_path.exists():
            with Store(wild.store_path, read_only=True) as store:
                assert store.check() == []
    assert kills["commit"] >= 8 and kills["decode"] >= 4, kills
    done = srtui(wild, "run", str(recipe))
    assert done.returncode == 0, done.stderr
    assert decided(wild) == decided(calm)
    with Store(wild.store_path, read_only=True) as a, Store(calm.store_path, read_only=True) as b:
        for table in (
            "sample",
            "variant",
            "generation",
            "reflection",
            "candidate",
            "decision",
            "outcome",
            "score",
        ):
            assert a.counts()[table] == b.counts()[table], table


def test_ctrl_c_stops_after_the_step_and_says_how_to_go_on(pair_workspace: Workspace) -> None:
    recipe = small_recipe(pair_workspace, 56, training={"enabled": False})
    engine = Command(pair_workspace, "run", str(recipe), "--json")
    engine.until(lambda: '"stage": "reflect-instruction"' in engine.stdout)
    engine.send_signal(signal.SIGSTOP)
    second = srtui(pair_workspace, "run", str(recipe))
    assert second.returncode == 2
    assert f"process {engine.pid}" in second.stderr
    engine.send_signal(signal.SIGCONT)
    engine.send_signal(signal.SIGINT)
    stopped = engine.wait()
    assert stopped.returncode == 130
    assert "Ctrl-C again" in stopped.stderr
    with Store(pair_workspace.store_path, read_only=True) as store:
        run = store.runs.named("small")
        assert run.status == "stopped"
        assert store.runs.holder(run.id) is None
    assert srtui(pair_workspace, "run", str(recipe)).returncode == 0


def test_a_proxy_decides_what_is_clear(pair_workspace: Workspace) -> None:
    """The student itself scores near ties and a few others; what the proxy alone would have changed is reported."""
    recipe = small_recipe(
        pair_workspace,
        training={"enabled": False},
        selection={"policy": "keep"},
        scoring={"proxy": "tiny", "proxy_quantization": "nf4", "proxy_margin": 1e-6},
        student={"quantization": "f32"},
    )
    done = srtui(pair_workspace, "run", str(recipe), "--json")
    assert done.returncode == 0, done.stderr
    events = [e["message"] for e in map(json.loads, done.stdout.splitlines()) if e["type"] == "event"]
    assert any("tiny alone would have changed" in message for message in events)
    with Store(pair_workspace.store_path, read_only=True) as store:
        kinds = {r[0] for r in sql_rows(store, "SELECT quantization FROM scoring_setting")}
        assert kinds == {"nf4", "f32"}
        assert store.runs.named("small").status == "done"
        assert sql_value(store, "SELECT count(*) FROM outcome") == 6


def test_scores_are_printed(finished: tuple[Workspace, dict[str, Any]], tmp_path: Path) -> None:
    workspace, _ = finished
    reported = srtui(workspace, "scores", "small")
    assert reported.returncode == 0
    assert "IFD    original" in reported.stdout
    figures = json.loads(srtui(workspace, "scores", "small", "--json").stdout)["scores"]
    original = next(f for f in figures if (f["metric"], f["kind"]) == ("ifd", "original"))
    assert sum(original["histogram"]) == original["scored"] > 0
    csv = srtui(workspace, "scores", "small", "--csv", "-").stdout.splitlines()
    assert csv[0].startswith("sample,variant,kind,metric,value")
    assert len(csv) - 1 == sum(f["scored"] + sum(f["invalid"].values()) for f in figures)


def test_a_text_by_hand_is_scored_like_any_other(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, _ = finished
    with Store(workspace.store_path) as store:
        run = store.runs.named("small")
        sample, original = sql_row(
            store, "SELECT sample_id, id FROM variant WHERE kind = 'original' LIMIT 1"
        ) or (
            0,
            0,
        )
        pair = Pair("Why is the sky blue?", "", "Because air scatters blue light more than red light.")
        made, _ = store.marks.write_variant(sample, original, pair)
    done = srtui(workspace, "resume", "small")
    assert done.returncode == 0, done.stderr
    with Store(workspace.store_path, read_only=True) as store:
        scores = store.scores.of_sample(sample, run.setting_id or 0)[made]
        assert 0 < (scores["ifd"].value or 0) < 2
        assert 0 < (scores["rifd"].value or 0) < 2
        assert store.runs.named("small").status == "done"


def test_a_forecast_is_kept_beside_what_it_took(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, _ = finished
    with Store(workspace.store_path, read_only=True) as store:
        run = store.runs.named("small")
        training = store.training.of_run(run.id)
        assert training is not None
        student = run.recipe["student"]
        (forecast, took), *_ = store.training.past_forecasts(
            student["model"], student["quantization"], machine()
        )
        assert took == {"seconds": training.seconds, "memory": training.result["took"]["memory"]}
        assert forecast["seconds"] == training.plan["seconds"] and forecast["memory"] > 0
        assert store.training.past_forecasts(student["model"], student["quantization"], "another") == []
        assert store.training.past_forecasts("another", student["quantization"], machine()) == []


def test_templates_are_compared(finished: tuple[Workspace, dict[str, Any]]) -> None:
    workspace, _ = finished
    done = srtui(workspace, "scores", "small", "--templates", "--sample", "3", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["templates"]
    assert [f["template"] for f in found] == ["alpaca", "vicuna", "wizardlm", "chat"]
    assert [f["chosen"] for f in found] == [True, False, False, False]
    assert all(f["scored"] == 3 for f in found)
    assert len({f["mean"] for f in found}) == 4


def test_nothing_reaches_for_the_network(tmp_path: Path, models_folder: Path) -> None:
    """Import, run and export in a process whose sockets are watched: none is ever connected."""
    workspace = make_workspace(tmp_path / "ws", models_folder)
    recipe = small_recipe(workspace, 2, selection={"policy": "keep"}, training={"held_out": 0.0})
    code = """
import socket, sys
tried = []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind"):
        tried.append((event, repr(args[-1])))
        raise PermissionError(f"{event} {args}")
sys.addaudithook(watch)
import os
from srtui.cli import main
for words in (["import", "recipes/small.jsonl"], ["run", "recipes/small.toml"], ["export", "small", "--out", "x.json"]):
    sys.argv = ["srtui", *words]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, (words, end.code)
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    assert os.environ[name] == "1"
assert "transformers" in sys.modules and "peft" in sys.modules
print("TRIED", tried)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=workspace.root,
        env={**os.environ, "SRTUI_WORKSPACE": str(workspace.root)},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert "TRIED []" in done.stdout
    assert recipe.exists()


def test_progress_never_passes_its_end_where_prompts_are_too_long(
    pair_workspace: Workspace,
) -> None:
    """Each candidate of a prompt that is too long is refused by itself; the sample counts once."""
    path = small_recipe(
        pair_workspace,
        2,
        teacher={"context": 64},
        student={"quantization": "f32"},
        reflection={"candidates": 3},
        training={"enabled": False},
    )
    reported: list[tuple[str, int, int]] = []

    class Listens:
        def progress(self, progress: Progress) -> None:
            reported.append((progress.stage, progress.done, progress.total))

        def event(self, level: str, message: str) -> None:
            pass

    with Store(pair_workspace.store_path) as store:
        run, _ = prepare(pair_workspace, store, recipes.load(path), path)
        Engine(pair_workspace, store, run, Listens()).work("reflect-instruction")
        rows = sql_rows(store, "SELECT status, count(*) FROM reflection GROUP BY status")
    assert [tuple(r) for r in rows] == [("too_long", 2)]
    assert [t for t in reported if t[0] == "reflect-instruction"][-1][1:] == (2, 2)
    assert all(done <= total for _, done, total in reported)


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a process does not begin with its parent's peak"
)
def test_a_process_started_by_a_large_one_does_not_count_its_memory() -> None:
    """A dashboard with a large store starts engines; their forecasts learn from their own peaks."""
    asked = "from srtui.pipeline.watch import peak_memory_mb; print(peak_memory_mb())"
    large = (
        "import os, sys\n"
        "held = bytearray(os.urandom(1)) * 1_500_000_000\n"
        "if (child := os.fork()) == 0:\n"
        f"    os.execv(sys.executable, [sys.executable, '-c', {asked!r}])\n"
        "os.waitpid(child, 0)"
    )
    done = subprocess.run([sys.executable, "-c", large], capture_output=True, text=True, check=True, cwd=ROOT)
    assert 20 < float(done.stdout) < 1_000


def test_a_run_says_how_many_rewrites_its_measure_could_not_compare(pair_workspace: Workspace) -> None:
    """Their originals stay, and the share of rewrites that were taken would read as if they had lost."""
    recipe = small_recipe(pair_workspace, 12, training={"enabled": False, "held_out": 0.0})
    done = srtui(pair_workspace, "run", str(recipe), "--json", "--set", "prompt.max_length=64")
    assert done.returncode == 0, done.stderr
    with Store(pair_workspace.store_path, read_only=True) as store:
        stayed = sql_rows(
            store,
            "SELECT stage, count(*) FROM decision WHERE reason LIKE '% has no %' GROUP BY stage ORDER BY stage",
        )
        counts = {str(stage): int(count) for stage, count in stayed}
        said = [
            e.message for e in store.runs.events(1, 500) if e.level == "warning" and "compared" in e.message
        ]
    assert counts["instruction"] and counts["response"]
    for stage, label in (("instruction", "IFD"), ("response", "r-IFD")):
        (words,) = (w for w in said if f" of 12 rewrites could not be compared by {label}," in w)
        assert words.startswith(f"{counts[stage]} of 12")
        assert f"{counts[stage]} target_truncated. prompt.max_length = 64 cuts" in words
