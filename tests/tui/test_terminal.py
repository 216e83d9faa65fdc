"""The dashboard as a person has it: in a real terminal, with a real engine and real models."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from srtui.errors import UserError
from srtui.store import Store
from srtui.tui.tabs import key_of
from srtui.workspace import Workspace
from tests.conftest import small_recipe
from tests.sql import sql_rows
from tests.tui.terminal import Terminal

Open = Callable[..., Terminal]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Open]:
    """Opens dashboards; those that a test leaves open are ended with it."""
    opened: list[Terminal] = []

    def open_one(workspace: Workspace, **size: int) -> Terminal:
        environment = dict(os.environ) | {
            "SRTUI_WORKSPACE": str(workspace.root),
            "XDG_CONFIG_HOME": str(tmp_path / "settings"),
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "OMP_NUM_THREADS": "1",
            "LANG": "C.UTF-8",
        }
        for name in ("COLUMNS", "LINES"):  # a terminal says its own size
            environment.pop(name, None)
        opened.append(Terminal([sys.executable, "-m", "srtui"], environment, **size))
        return opened[-1]

    yield open_one
    for one in opened:
        one.kill()


def stored(workspace: Workspace, sql: str) -> list[tuple[Any, ...]]:
    with Store(workspace.store_path, read_only=True) as store:
        return [tuple(r) for r in sql_rows(store, sql)]


@pytest.fixture
def small(pair_workspace: Workspace) -> Iterator[Workspace]:
    """A workspace with a recipe of seconds; an engine that a failed test leaves behind is ended."""
    small_recipe(pair_workspace, 4, training={"held_out": 0})
    yield pair_workspace
    if pair_workspace.store_path.exists():
        for (pid,) in stored(pair_workspace, "SELECT pid FROM lease"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.model
def test_a_run_is_started_left_found_again_paused_resumed_and_finished(
    small: Workspace, terminal: Open
) -> None:
    first = terminal(small)
    first.shows("No runs yet")
    first.press("n")
    first.shows("quickstart.toml", "56 rows")
    first.press("enter", "down", "down", "enter")
    first.shows("small.jsonl", "4 rows")
    first.press(*["tab"] * 5, "3", "ctrl+s")
    engine = held_still(small)  # its models would be ready before a person has looked twice
    first.shows("running")

    first.press("q")
    assert first.ends() == 0
    os.kill(engine, 0)  # it goes on without the dashboard

    second, beside = terminal(small), terminal(small, columns=80, lines=24)
    for each in (second, beside):
        each.shows("small", "running")
    second.press("p")
    os.kill(engine, signal.SIGCONT)
    for each in (second, beside):
        each.shows("paused")
    assert stored(small, "SELECT status FROM run") == [("paused",)]
    progress = stored(small, "SELECT stage, done, tokens FROM stage_progress ORDER BY stage")
    time.sleep(1.5)
    assert stored(small, "SELECT stage, done, tokens FROM stage_progress ORDER BY stage") == progress

    second.kill()  # a dashboard that crashes takes nothing with it
    assert stored(small, "SELECT pid FROM lease") == [(engine,)]
    beside.press("p")
    beside.shows("✓ done", "3/3" if kept(small) == 3 else "/3", within=300)

    assert stored(small, "SELECT name, status, stage FROM run") == [("small", "done", None)]
    assert stored(small, "SELECT count(*) FROM lease") == [(0,)]
    assert stored(small, "SELECT count(*) FROM outcome") == [(3,)]
    assert {s for (s,) in stored(small, "SELECT stage FROM decision")} == {"instruction", "response"}
    assert len(stored(small, "SELECT 1 FROM training_run WHERE status <> 'running'")) == 1
    said = [m for (m,) in stored(small, "SELECT message FROM event ORDER BY id")]
    assert said.index("Paused.") < said.index("Resumed.")
    assert [k for (k,) in stored(small, "SELECT kind FROM request ORDER BY id")] == ["pause", "resume"]

    beside.press(key_of("samples"))
    beside.shows("3 samples")
    beside.press("enter")
    beside.shows("Sample 1", "Original")
    beside.resize(150, 45)
    beside.shows("Rewritten instruction", "Rewritten answer")
    beside.press("escape", "q")
    assert beside.ends() == 0


def held_still(workspace: Workspace) -> int:
    """The process of the engine as soon as it has the run, stopped until it gets SIGCONT."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(UserError):  # no store yet
            for (pid,) in stored(workspace, "SELECT pid FROM lease"):
                os.kill(pid, signal.SIGSTOP)
                return int(pid)
        time.sleep(0.01)
    raise AssertionError("no engine has begun")


def kept(workspace: Workspace) -> int:
    return int(stored(workspace, "SELECT count(*) FROM outcome WHERE kept = 1")[0][0])


def test_the_theme_of_the_last_time_and_a_terminal_left_as_it_was(empty: Workspace, terminal: Open) -> None:
    for key, ground in (("f2", "f7f6f2"), ("f2", "14171c")):
        one = terminal(empty)
        one.shows("No runs yet")
        before = one.ground
        assert not one.has_cursor
        one.press(key)
        one.read(0.5)
        assert one.ground == ground != before
        one.press("q")
        assert one.ends() == 0
        assert one.has_cursor


def test_the_window_may_be_dragged_about(demo: Workspace, terminal: Open) -> None:
    one = terminal(demo)
    one.shows("at-work")
    for columns, lines in ((30, 8), (200, 60), (10, 3), (80, 24)):
        one.resize(columns, lines)
        for key in "1234567812":
            one.press(key)
    one.shows("stages", "at-work")
    one.press(key_of("log"))
    one.shows("message")
    assert "this dashboard" not in one.text  # where its own problems would stand
    one.press("q")
    assert one.ends() == 0
