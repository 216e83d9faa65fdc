"""The command palette: every action of every screen, what can be done with the run, the runs, and the app's own."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from textual.app import SystemCommand
from textual.binding import Binding
from textual.screen import Screen

from srtui.text import safe
from srtui.tui.tabs import TABS, class_of, key_of, numbered

if TYPE_CHECKING:
    from srtui.tui.app import Dashboard

_OF_ALL = ("srtui.tui.screens.dashboard_screen",)
"""What every screen has is a command of the screen that is open."""


def commands(app: Dashboard, screen: Screen[Any]) -> Iterable[SystemCommand]:
    """What the palette offers over ``screen``."""
    of_action: set[str] = set()  # a second key of one makes it no second command
    for active in screen.active_bindings.values():
        binding = active.binding
        if (
            active.enabled
            and binding.action not in of_action
            and binding.description
            and type(active.node).__module__.startswith("srtui.tui.screens")
        ):
            of_action.add(binding.action)
            key = app.get_key_display(binding)
            yield SystemCommand(
                binding.description,
                f"Here, by {key}",
                partial(app.run_action, binding.action, active.node),
            )
    for tab in TABS:
        yield SystemCommand(tab.label, f"Open screen {key_of(tab.mode)}", partial(app.action_go, tab.mode))
    yield from _elsewhere(app)
    yield from _next(app)
    for run in app.runs[:20]:
        yield SystemCommand(
            f"Run {safe(run.name)}", f"Show this run ({run.state})", partial(app.choose_run, run.id)
        )
    yield SystemCommand("Light or dark", "Change between the light and the dark theme", app.action_light)
    yield SystemCommand("Work in progress", "What was started, how far it is, its output", app.action_work)
    yield SystemCommand("Keys", "What the keys do here", app.action_help)
    yield SystemCommand("Quit", "Close the dashboard; runs continue", app.action_quit)


def _elsewhere(app: Dashboard) -> Iterable[SystemCommand]:
    """What the other screens can do: a command opens its screen and does it there."""
    for tab in TABS:
        if tab.mode == app.current_mode:
            continue
        kinds = [k for k in class_of(tab.module, tab.screen).__mro__ if k.__module__ not in _OF_ALL]
        own = [k for k in kinds if k.__module__.startswith("srtui.tui.screens")]
        for binding in (b for kind in own for b in kind.__dict__.get("BINDINGS", ())):
            if isinstance(binding, Binding) and binding.description:
                yield SystemCommand(
                    f"{tab.label}: {binding.description}",
                    f"On {numbered(tab.mode)}, by {app.get_key_display(binding)}",
                    partial(_do_elsewhere, app, tab.mode, binding.action),
                )


def _next(app: Dashboard) -> Iterable[SystemCommand]:
    """What can be done with the run that the screens are about, and what can be evaluated."""
    from srtui.tui.screens.next_steps import begin_evaluation, steps_of, take_step
    from srtui.tui.screens.work_forms import KINDS

    run = app.current_run
    if run is not None and run.state == "done":
        for step in steps_of(run):
            if step.name != "again":  # the form of a run is a command of Runs
                yield SystemCommand(
                    f"{safe(run.name)}: {step.words}",
                    f"On {numbered('runs')}, by w then {step.key}",
                    partial(take_step, app, run, step.name),
                )
    for name, key, words in KINDS:
        yield SystemCommand(
            f"Evaluate: {words}",
            f"On {numbered('evaluation')}, by n then {key}",
            partial(begin_evaluation, app, run, name),
        )


async def _do_elsewhere(app: Dashboard, mode: str, action: str) -> None:
    await app.switch_mode(mode)

    async def act() -> None:
        await app.run_action(action, app.screen)

    app.call_after_refresh(act)
