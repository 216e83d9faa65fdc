"""A small run, in this process or elsewhere, and what came of it by its texts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srtui import recipe as recipes
from srtui.pipeline import Engine, prepare
from srtui.pipeline.place import Place
from srtui.store import Store
from srtui.workspace import Workspace
from tests.conftest import make_workspace, small_recipe
from tests.sql import sql_rows, sql_value

SAMPLES = 16


def workspace_of(root: Path, pair_folder: Path) -> Workspace:
    workspace = make_workspace(root, pair_folder)
    small_recipe(
        workspace, SAMPLES, training={"enabled": False, "held_out": 0.0}, student={"quantization": "f32"}
    )
    return workspace


@dataclass
class Made:
    """By texts and not by ids of rows: generations with their rewrites' fate, losses, decisions."""

    generations: list[tuple[Any, ...]]
    reflections: list[tuple[Any, ...]]
    losses: list[tuple[Any, ...]]
    decisions: list[tuple[Any, ...]]
    outcomes: list[tuple[Any, ...]]
    doubled: int
    events: list[tuple[str, str]] = field(default_factory=list, compare=False)

    def same_as(self, other: Made) -> None:
        """Nothing is lost, nothing is there twice, and all is equal to the last bit."""
        for name in ("generations", "reflections", "losses", "decisions", "outcomes"):
            assert getattr(self, name) == getattr(other, name), name
        assert self.doubled == 0

    def said(self, *words: str) -> list[str]:
        """The warnings that have all these words."""
        return [line for level, line in self.events if level == "warning" and all(w in line for w in words)]


class Hears:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.seen: list[Any] = []

    def progress(self, progress: Any) -> None:
        self.seen.append(progress)

    def event(self, level: str, message: str) -> None:
        self.events.append((level, message))


def work(
    workspace: Workspace,
    place: Place | None,
    until: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Hears:
    """One engine's work on the run."""
    face = Hears()
    path = workspace.recipes / "small.toml"
    with Store(workspace.store_path) as store:
        run, _ = prepare(workspace, store, recipes.load(path), path)
        Engine(workspace, store, run, face, should_stop, place=place).work(until)
    return face


def read(workspace: Workspace, events: list[tuple[str, str]] | None = None) -> Made:
    with Store(workspace.store_path, read_only=True) as store:
        assert store.check() == []
        texts = {
            r[0]: tuple(r[1:])
            for r in sql_rows(store, "SELECT id, instruction, input, response FROM variant")
        }

        def rows(query: str) -> list[tuple[Any, ...]]:
            return [tuple(r) for r in sql_rows(store, query)]

        return Made(
            rows("SELECT key, text, seed, attempt, finish, parsed FROM generation ORDER BY key"),
            rows("SELECT sample_id, stage, status, attempts FROM reflection ORDER BY sample_id, stage"),
            rows("SELECT key, nll, tokens, reason FROM span_loss ORDER BY key"),
            [
                (sample, stage, texts[chosen], reason)
                for sample, stage, chosen, reason in rows(
                    "SELECT sample_id, stage, chosen_id, reason FROM decision ORDER BY sample_id, stage"
                )
            ],
            [
                (sample, texts[variant], kept, reason)
                for sample, variant, kept, reason in rows(
                    "SELECT sample_id, variant_id, kept, reason FROM outcome ORDER BY sample_id"
                )
            ],
            sql_value(store, "SELECT count(*) - count(DISTINCT key) FROM generation"),
            events or [],
        )


def made(workspace: Workspace, place: Place | None = None, until: str | None = None) -> Made:
    """Work on the run and read what came of it."""
    face = work(workspace, place, until)
    return read(workspace, face.events)


def meanwhile(action: Callable[[], object]) -> threading.Thread:
    """``action`` in a thread, while an engine works in this one."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread
