"""Dashboards over stores as real runs leave them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from srtui.store import Store
from srtui.tui.screens import live
from srtui.workspace import Workspace
from tests.tui.driving import MACHINE
from tests.tui.scripted_store import make_demo_store


@pytest.fixture(autouse=True)
def same_everywhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same clock, machine and terminal wherever the tests run."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(live, "_machine", lambda folder, cpu: MACHINE)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace, _ = Workspace.create(tmp_path_factory.mktemp("made") / "ws")
    make_demo_store(workspace)
    return workspace


@pytest.fixture
def demo(made: Workspace, tmp_path: Path) -> Workspace:
    """A workspace with three runs: done, stopped, and at work; each test has its own."""
    workspace, _ = Workspace.create(tmp_path / "ws")
    with Store(made.store_path) as store:
        store.backup(workspace.store_path)
    return workspace


@pytest.fixture
def empty(tmp_path: Path) -> Workspace:
    workspace, _ = Workspace.create(tmp_path / "ws")
    return workspace
