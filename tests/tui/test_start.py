"""How the dashboard opens, and that an engine heeds what it asks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from srtui.pipeline import Engine
from srtui.pipeline.choose import Choosing
from srtui.pipeline.context import Context
from srtui.pipeline.watch import Watch
from srtui.sample import Pair
from srtui.store import Store
from srtui.tui.app import Dashboard
from srtui.tui.processes import start
from srtui.tui.tabs import key_of
from srtui.workspace import Workspace
from tests.tui.driving import dashboard, press, text


def srtui(
    workspace: Workspace, *words: str, code: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *(["-c", code] if code else ["-m", "srtui", *words])],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"SRTUI_WORKSPACE": str(workspace.root)} | environment,
        timeout=120,
    )


def test_without_a_terminal_it_says_what_to_run_instead(empty: Workspace) -> None:
    done = srtui(empty)
    assert done.returncode == 2
    assert "srtui status" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_dashboard_loads_nothing_heavy(empty: Workspace) -> None:
    code = (
        "import importlib, sys, srtui.tui.app\n"
        "for s in 'runs live samples sample scores training models log evaluation new_run dialogs'.split():\n"
        "    importlib.import_module('srtui.tui.screens.' + s)\n"
        "heavy = {'torch', 'transformers', 'llama_cpp', 'pandas', 'numpy', 'pyarrow', 'gguf', 'typer'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    assert "HEAVY []" in srtui(empty, code=code).stdout


async def test_an_engine_that_fails_is_told_with_its_last_line(demo: Workspace) -> None:
    async with dashboard(demo) as (app, pilot):
        app.started.append(start(demo, ["run", "recipes/none.toml"]))
        for _ in range(100):
            await pilot.pause(0.2)
            if app.problems:
                break
        assert "there is no such recipe" in app.problems[0].sentence
        await press(pilot, key_of("log"))
        assert "there is no such recipe" in text(app)


class Quiet:
    def progress(self, progress: object) -> None: ...

    def event(self, level: str, message: str) -> None: ...


def test_a_pause_holds_the_engine_and_counts_in_no_rate(demo: Workspace) -> None:
    def wait(states: list[str], status: str) -> None:
        for _ in range(100):
            with Store(demo.store_path, read_only=True) as reader:
                states.append(reader.runs.named("another-seed").status)
            if states[-1] == status:
                return
            time.sleep(0.05)
        raise AssertionError(f"never {status}: {states[-1]}")

    def face() -> None:
        with Store(demo.store_path) as asker:
            run_id = asker.runs.named("another-seed").id
            asker.runs.ask(run_id, "pause")
            wait(seen, "paused")
            time.sleep(0.5)
            asker.runs.ask(run_id, "resume")
            wait(seen, "running")
            asker.runs.ask(run_id, "stop")

    seen: list[str] = []
    with Store(demo.store_path) as store:
        watch = Watch(store, store.runs.named("another-seed").id, Quiet(), lambda: False)
        watch.start("reflect-response")
        clock, steps = watch._clock, 0
        asker = threading.Thread(target=face)
        asker.start()
        until = time.monotonic() + 20
        while not watch.should_stop() and time.monotonic() < until:
            steps += 1
            time.sleep(0.02)
        asker.join()
        assert watch._stopped
        assert watch._clock - clock >= 0.5
        assert [e.message for e in store.runs.events(store.runs.named("another-seed").id)][-2:] == [
            "Paused.",
            "Resumed.",
        ]


def test_texts_by_hand_are_scored_when_a_run_goes_on(
    demo: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[int], str]] = []

    def score(self: Choosing, judge: object, ids: Iterable[int], metric: str, report_share: object) -> None:
        asked.append((list(ids), metric))

    monkeypatch.setattr(Choosing, "_score", score)
    monkeypatch.setattr(Context, "variant_scorer", lambda self: None)  # the real one is in test_pipeline
    with Store(demo.store_path) as store:
        run = store.runs.named("quickstart")
        assert store.scores.unscored_by_hand(run.id) == []
        made, _ = store.marks.write_variant(
            1, 1, Pair("Why is the sky blue?", "", "Because air scatters blue light.")
        )
        assert store.scores.unscored_by_hand(run.id) == [made]
        Engine(demo, store, run, Quiet()).work()
        assert store.runs.get(run.id).status == "done"
        assert [a for a in asked if a[0]] == [([made], "ifd"), ([made], "rifd")]


def test_a_log_is_kept_of_what_an_engine_says(empty: Workspace, tmp_path: Path) -> None:
    started = start(empty, ["run", "recipes/none.toml"])
    assert started.process.wait(60) == 2
    assert "no such recipe" in (started.failure() or "")
    assert started.log.parent == empty.runs


async def test_the_theme_is_remembered(empty: Workspace, tmp_path: Path) -> None:
    kept = tmp_path / "settings" / "dashboard.json"
    async with Dashboard(empty, kept).run_test() as pilot:
        assert pilot.app.theme == "srtui-dark"
        assert not kept.exists()
        await press(pilot, "f2")
    async with Dashboard(empty, kept).run_test() as pilot:
        assert pilot.app.theme == "srtui-light"
    for damaged in ('{"theme": 5}', '{"theme": "of a plugin that is gone"}', "[]", "{"):
        kept.write_text(damaged)
        async with Dashboard(empty, kept).run_test() as pilot:
            assert pilot.app.theme == "srtui-dark"


async def test_a_theme_that_cannot_be_remembered_is_said(empty: Workspace, tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("a file, where a folder should be")
    async with Dashboard(empty, tmp_path / "settings" / "dashboard.json").run_test() as pilot:
        await press(pilot, "f2")
        assert pilot.app.theme == "srtui-light"
        assert "cannot be remembered" in pilot.app.problems[-1].sentence
