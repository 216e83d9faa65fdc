"""Runs: all of them, how far they are, and the ways to start and stop them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content

from srtui.pilot import SIGNS
from srtui.store.views import RunRow
from srtui.text import duration
from srtui.tui.screens.dashboard_screen import DashboardScreen, RunLine
from srtui.tui.widgets.table import Cell, Column, TableRow, Tone, VirtualTable
from srtui.tui.widgets.words import STATE_SIGNS, Words, bar, shown, stage_words

_TONES: dict[str, Tone] = {
    "running": "accent",
    "paused": "warn",
    "stopping": "warn",
    "stopped": "warn",
    "failed": "bad",
    "done": "good",
}


class RunsScreen(DashboardScreen):
    """The table of runs, and of the one under the cursor what it is."""

    MODE = "runs"
    HELP_TEXT = (
        "Every run in this store. The engine that works on a run is a process of its own: it continues when the "
        "dashboard is closed, and any number of dashboards may watch it. A run that was stopped, or whose engine "
        "died, resumes where it was."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "New run"),
        Binding("enter", "open", "Watch", show=False),
        Binding("p", "pause", "Start/pause"),
        Binding("x", "stop", "Stop"),
        Binding("w", "next", "What next"),
        Binding("c", "clone", "Clone"),
        Binding("d", "delete", "Delete"),
        Binding("m", "mark", "Mark to compare", show=False),
        Binding("v", "compare", "Compare marked", show=False),
    ]
    EVERY_SECOND = True
    DEFAULT_CSS = """
    RunsScreen #about { height: auto; max-height: 9; padding: 0 2; background: $surface; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown_run: int | None = None
        self._marked: list[int] = []

    def body(self) -> ComposeResult:
        """The table of runs, what is known of the chosen one, and the first run's help."""
        yield VirtualTable(
            [
                Column("name", "run"),
                Column("state", "state", 10),
                Column("stage", "stage", 26, from_width=100),
                Column("progress", "progress", 18),
                Column("kept", "kept", 15, right=True),
                Column("dataset", "dataset", 18, from_width=130),
                Column("started", "started", 12),
            ],
            id="runs",
        )
        yield Words(id="about")

    def on_mount(self) -> None:
        """Show the runs that the app has read."""
        self._show()

    async def read(self) -> None:
        """The table of runs, and what stands below it of the one under the cursor."""
        self._show()

    def _show(self) -> None:
        runs = self.dashboard.runs
        no_runs = self.dashboard.watched and not runs
        table = self.query_one(VirtualTable)
        table.set_class(no_runs, "hidden")
        self.query_one("#about").set_class(not runs, "hidden")
        if no_runs and not self.query("FirstRun"):
            from srtui.tui.widgets.first_run import FirstRun

            self.mount(FirstRun(self.dashboard.workspace.models), before="#about")
        elif runs:
            self.query("FirstRun").remove()
        first_rows = runs and not table.total
        table.show_rows([_row(r, r.id in self._marked) for r in runs])
        if self._shown_run != self.dashboard.run_id:
            self._shown_run = self.dashboard.run_id
            table.cursor = next((n for n, r in enumerate(runs) if r.id == self._shown_run), table.cursor)
        if first_rows:
            table.focus()
        self._about()

    @property
    def chosen(self) -> RunRow | None:
        """The run under the cursor."""
        row = self.query_one(VirtualTable).row
        return None if row is None else next((r for r in self.dashboard.runs if r.id == row.key), None)

    def _about(self) -> None:
        run = self.chosen
        if run is None:
            return
        description = run.recipe.get("description")
        lines = [
            Content.assemble(
                shown(run.name, "bold"),
                shown(f"  recipe {Path(run.recipe_path).name}: {description}" if description else "", "$dim"),
            )
        ]
        lines.append(
            shown(
                f"{run.dataset}: {run.samples:,} samples  ·  teacher {run.teacher}  ·  student {run.student}",
                "$dim",
            )
        )
        lines.append(_engine_line(run))
        if run.verdict is not None:
            word, sentence = run.verdict
            style = {"go": "$text-success", "worse": "$text-error"}.get(word, "$text-warning")
            lines.append(shown(f"{SIGNS.get(word, '?')} {sentence} (w: what next)", style))
        elif run.state == "done":
            lines.append(shown(_results_line(run), "$dim"))
        if run.error:
            lines.append(shown(f"✗ {run.error}", "$text-error"))
        self.query_one("#about", Words).show(Content("\n").join(lines))

    # -- what a person does -----------------------------------------------------------------

    @on(VirtualTable.Highlighted)
    def _moved(self, event: VirtualTable.Highlighted) -> None:
        if event.row is not None and self.has_focus_within:
            self.dashboard.run_id = event.row.key
            self.query_one(RunLine).show_run()
        self._about()

    @on(VirtualTable.Selected)
    def _selected(self) -> None:
        run = self.chosen
        if run is not None:
            self.dashboard.choose_run(run.id)
            self.dashboard.action_go("live" if run.state != "done" else "samples")

    def on_button_pressed(self) -> None:
        """Start the demo: its form is opened."""
        self._open_form("quickstart.toml")

    def _open_form(self, recipe: str | None = None, like: RunRow | None = None) -> None:
        from srtui.tui.screens.new_run import NewRun

        self.app.push_screen(NewRun(recipe, like), self.dashboard.start_words)

    def action_new(self) -> None:
        """Open the form of a new run."""
        self._open_form()

    def action_clone(self) -> None:
        """Open the form of a run like the chosen one."""
        if (run := self.chosen) is not None:
            self._open_form(like=run)

    def action_pause(self) -> None:
        """Pause the chosen run, or resume it; a finished one scores what was written by hand since."""
        run = self.chosen
        if run is None:
            return
        self.dashboard.choose_run(run.id)
        if run.state == "running":
            self._ask(run, "pause")
        elif run.state == "paused":
            self._ask(run, "resume")
        elif run.state == "stopping":
            self.notify(f"{run.name} is stopping; p resumes it when it has.", markup=False)
        elif run.state == "done":
            self.dashboard.write(
                lambda store: store.scores.unscored_by_hand(run.id),
                lambda waiting: self._finish(run, len(waiting)),
            )
        else:
            self.dashboard.start_engine(["resume", run.name])

    def _finish(self, run: RunRow, waiting: int) -> None:
        """A run that is done is started again only for texts that a person has written since."""
        if waiting:
            self.dashboard.start_engine(["resume", run.name])
        else:
            self.notify(f"{run.name} is done; c makes a run like it.", markup=False)

    def _ask(self, run: RunRow, kind: str) -> None:
        self.dashboard.write(lambda store: store.runs.ask(run.id, kind))
        self.notify(f"Asked {run.name} to {kind}; it does so after this step.", markup=False, timeout=3)

    def action_stop(self) -> None:
        """Ask the chosen run's engine to stop, once confirmed."""
        run = self.chosen
        if run is None:
            return
        from srtui.tui.screens.dialogs import Confirm

        if run.pid is None:
            self.notify(f"No engine works on {run.name}.", markup=False)
            return
        if run.state == "stopping":
            self.notify(f"{run.name} is stopping already: it finishes the step that it is in.", markup=False)
            return

        def stop(yes: bool | None) -> None:
            if yes:
                self._ask(run, "stop")

        question = f"Stop {run.name}?"
        words = "It finishes the step that it is in. Everything finished is stored, and p resumes from there."
        self.app.push_screen(Confirm(question, words, "Stop"), stop)

    def action_mark(self) -> None:
        """Mark a run, or take its mark away; the last two that were marked count."""
        run = self.chosen
        if run is None:
            return
        if run.id in self._marked:
            self._marked.remove(run.id)
        else:
            self._marked = [*self._marked, run.id][-2:]
        self._show()
        if len(self._marked) == 2:
            self.notify("v compares the two marked runs.", timeout=3)

    async def action_compare(self) -> None:
        """How the two marked runs differ."""
        if len(self._marked) != 2:
            self.notify("Mark two runs with m, then v compares them.", timeout=4)
            return
        a, b = sorted(self._marked)
        from srtui.tui.screens.dialogs import Reading
        from srtui.tui.screens.two_runs import comparison

        try:
            title, lines = await self.dashboard.ask(lambda v: comparison(v, a, b))
        except Exception as error:
            self.dashboard.report_error(error)
            return
        self.app.push_screen(Reading(title, "\n".join(lines)))

    def action_next(self) -> None:
        """What can be done with the run under the cursor."""
        run = self.chosen
        if run is None:
            return
        if run.state != "done":
            self.notify(
                f"{run.name} is {run.state}; when it is done, w says what can be done with it.", markup=False
            )
            return
        from srtui.tui.screens.dialogs import Menu
        from srtui.tui.screens.next_steps import steps_of, take_step

        def take(step: str | None) -> None:
            if step == "again":
                self._open_form(like=run)
            elif step is not None:
                self.run_worker(take_step(self.dashboard, run, step), group="next")

        self.app.push_screen(Menu(f"{run.name}: what next?", steps_of(run)), take)

    def action_delete(self) -> None:
        """Delete the chosen run, once its name was typed."""
        run = self.chosen
        if run is None:
            return

        from srtui.tui.screens.dialogs import Confirm

        def delete(yes: bool | None) -> None:
            if yes:
                self.dashboard.write(lambda store: store.runs.delete(run.id))

        words = (
            f"Its choices, outcomes, events and training record are deleted for good ({run.samples:,} samples). "
            "The texts that the teacher wrote and their scores stay, for other runs may use them; so do files "
            "under store/runs. Type the run's name to delete it."
        )
        self.app.push_screen(Confirm(f"Delete {run.name}?", words, "Delete", type_this=run.name), delete)


def _row(r: RunRow, marked: bool = False) -> TableRow:
    share = f"{bar(r.done, r.total, 7)} {r.done:,}/{r.total:,}" if r.stage and r.total else "-"
    return TableRow(
        r.id,
        (
            Cell(f"◆ {r.name}" if marked else r.name, "bold"),
            Cell(f"{STATE_SIGNS.get(r.state, '·')} {r.state}", _TONES.get(r.state, "")),
            Cell(stage_words(r), "dim"),
            Cell("████████ all" if r.state == "done" else share),
            Cell(f"{r.kept:,}/{r.samples:,}"),
            Cell(r.dataset, "dim"),
            Cell(_start_time(r.started_at), "dim"),
        ),
    )


def _engine_line(run: RunRow) -> Content:
    if run.pid is not None:
        activity = {
            "paused": "holds it; p resumes",
            "stopping": "finishes the step that it is in, then stops",
        }
        return shown(
            f"process {run.pid} on {run.host} {activity.get(run.state, 'is working on it')}", "$text-accent"
        )
    if run.state == "stopped":
        return Content.styled("no engine works on it; p resumes where it was", "$text-warning")
    if run.state == "done" and run.started_at and run.finished_at:
        return Content.styled(
            f"done {duration(run.finished_at - run.started_at)} after its start", "$text-success"
        )
    return Content("")


def _results_line(run: RunRow) -> str:
    """What there is of it now, and how to take it along."""
    parts = [f"made: {run.kept:,} pairs (srtui export {run.name})" if run.kept else "made: no pair was kept"]
    if run.adapter:
        parts.append(f"adapter {run.adapter} (srtui export-model {run.name})")
    elif run.trained and run.trained.startswith("skipped"):
        parts.append(f"no training, {run.trained.removeprefix('skipped: ')}")
    return "  ·  ".join([*parts, "w: what next"])


def _start_time(timestamp: float | None) -> str:
    if timestamp is None:
        return "-"
    form = (
        "%H:%M today"
        if time.strftime("%x") == time.strftime("%x", time.localtime(timestamp))
        else "%d %b %H:%M"
    )
    return time.strftime(form, time.localtime(timestamp))
