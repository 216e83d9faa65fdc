"""The dashboard's screens: one table. It loads no screen and not the framework, so that commands may name a screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Tab:
    """A screen of its own number.

    Attributes:
        mode: its name; ``MODE`` of its class.
        label: on the bar of tabs.
        module: its file in ``srtui/tui/screens/``, without ``.py``; imported when the screen is first opened.
        screen: its class there, a ``DashboardScreen``.
    """

    mode: str
    label: str
    module: str
    screen: str


TABS = (
    Tab("runs", "Runs", "runs", "RunsScreen"),
    Tab("live", "Live", "live", "LiveScreen"),
    Tab("samples", "Samples", "samples", "SamplesScreen"),
    Tab("scores", "Scores", "scores", "ScoresScreen"),
    Tab("training", "Training", "training", "TrainingScreen"),
    Tab("models", "Models", "models", "ModelsScreen"),
    Tab("log", "Log", "log", "LogScreen"),
    Tab("evaluation", "Evaluation", "evaluation", "EvaluationScreen"),
    Tab("data", "Data", "dataset_list", "DataScreen"),
)
"""In the order of their numbers, from 1 to 9, and 0 for a tenth; the last one that there is a key for."""


def class_of(module: str, name: str) -> type[Any]:
    """A screen's class, imported now."""
    screen_class: type[Any] = getattr(import_module(f"srtui.tui.screens.{module}"), name)
    return screen_class


def key_of(mode: str) -> str:
    """The key that opens a screen. Raises ValueError where there is none of this name."""
    return str(([tab.mode for tab in TABS].index(mode) + 1) % 10)


def numbered(mode: str) -> str:
    """A screen as sentences name it: ``8 Evaluation``. Raises ValueError where there is none of this name."""
    return f"{key_of(mode)} {next(tab.label for tab in TABS if tab.mode == mode)}"


def fitted(labels: Sequence[str], opened: int, room: int) -> tuple[list[str], str]:
    """The labels and the gap between them as they fit into ``room`` cells: the longest are cut first, down to the
    number, and that of the screen that is ``opened`` (an index, from 0) stays whole."""
    shown = list(labels)

    def width(gap: str) -> int:
        return 1 + sum(map(len, shown)) + len(gap) * (len(shown) - 1)

    if width("  ") <= room:
        return shown, "  "
    number = {n: len(label.split(maxsplit=1)[0]) for n, label in enumerate(labels)}
    while width(" ") > room:
        longest = max(
            (n for n in number if n != opened and len(shown[n]) > number[n]),
            key=lambda n: len(shown[n]),
            default=None,
        )
        if longest is None:
            break
        left = len(shown[longest]) - 1
        # A number, a space and a sign of what was cut say no more than the number.
        whole, first = labels[longest], number[longest]
        shown[longest] = whole[: left - 1] + "…" if left > first + 2 else whole[:first]
    return shown, " "
