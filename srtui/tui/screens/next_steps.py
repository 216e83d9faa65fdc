"""What can be done with a run that is done: the steps, each by a key, and how each is started."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from srtui.store.views import RunRow
from srtui.tui import checks
from srtui.tui.screens.dialogs import AskText, Dialog, Reading
from srtui.tui.widgets.words import shown

if TYPE_CHECKING:
    from srtui.tui.app import Dashboard


@dataclass(frozen=True)
class NextStep:
    """One thing to do next: ``name`` for the program, a key, and what it does in a sentence."""

    name: str
    key: str
    words: str


def steps_of(run: RunRow) -> list[NextStep]:
    """What there is to do with a run as it is, the likeliest first."""
    if run.recipe.get("pilot"):
        return [
            NextStep("read", "v", "See what the pilot came to: figures, examples, verdict"),
            NextStep("whole", "s", "Start the whole run, with the pilot's advice taken"),
            NextStep("again", "c", "Change its settings first: the form, filled in as here"),
        ]
    steps = []
    if run.overruled and run.adapter:
        steps.append(
            NextStep("retrain", "a", f"Train again with your {run.overruled:,} changes; all else is reused")
        )
    if run.adapter:
        steps += [
            NextStep(
                "control",
                "o",
                "Compare with the original-data control: the same training on the original data",
            ),
            NextStep("chat", "t", "Chat: the untuned and the tuned student side by side"),
            NextStep("export-model", "m", "Export the tuned student"),
        ]
    steps.append(NextStep("export", "e", "Export the data that it selected"))
    steps.append(NextStep("report", "r", "Write the report"))
    if run.adapter:
        steps.append(NextStep("round", "n", "Next round: the tuned student is the teacher"))
        steps.append(NextStep("judge", "j", "Judge it: a judge model, multiple choice, or you"))
    return steps


class NextSteps(Dialog[str | None]):
    """Dismissed with the name of a step, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "take", "Take"),
        Binding("escape", "cancel", "Cancel"),
    ]

    def __init__(self, run: RunRow) -> None:
        super().__init__()
        self._run, self._steps = run, steps_of(run)

    def compose(self) -> ComposeResult:
        """The steps, one below the other."""
        with Vertical(classes="dialog"):
            yield Static(shown(f"{self._run.name}: what next?"), classes="title")
            yield OptionList(
                *(
                    Option(Content.assemble((f"{step.key}  ", "bold $text-accent"), step.words), id=step.name)
                    for step in self._steps
                )
            )

    def on_mount(self) -> None:
        """Let the arrows move through the steps."""
        self.query_one(OptionList).focus()

    def on_key(self, event: events.Key) -> None:
        """A step's own key takes it."""
        for step in self._steps:
            if event.key == step.key:
                event.stop()
                self.dismiss(step.name)

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_id)

    def action_take(self) -> None:
        """The one under the cursor."""
        options = self.query_one(OptionList)
        if options.highlighted is not None:
            self.dismiss(self._steps[options.highlighted].name)

    def action_cancel(self) -> None:
        """Do nothing."""
        self.dismiss(None)


async def take_step(app: Dashboard, run: RunRow, step: str) -> None:
    """Do the step of this name for a run that is done; what goes wrong is reported by the app.

    ``again`` is none of these: the form of a run belongs to the screen of runs.
    """
    try:
        if step in ("read", "whole"):
            await _take_pilot_step(app, run, step)
        elif step == "control":
            app.start_engine(["ablate", *checks.same_again(run), "--only", "original"])
        elif step == "round":
            app.start_engine(["run", *checks.same_again(run), "--teacher-from", run.name])
        elif step in ("retrain", "report"):
            app.start_engine([step, run.name])
        elif step == "judge":
            app.action_go("evaluation")
        elif step == "chat":
            with app.suspend():
                subprocess.run([sys.executable, "-P", "-m", "srtui", "chat", run.name], check=False)
        elif step == "export":
            _ask_for_data_file(app, run)
        else:
            _ask_for_model_form(app, run)
    except Exception as error:
        app.report_error(error)


async def _take_pilot_step(app: Dashboard, run: RunRow, step: str) -> None:
    from srtui.pilot.pilot_words import reading
    from srtui.pilot.result import PilotResult

    result = await app.ask(lambda v: v.pilot(run.id))
    if result is None:
        app.notify("This pilot has no result; p resumes it.", severity="warning")
    elif step == "read":
        app.push_screen(Reading(run.name, reading(PilotResult.from_json(result))))
    else:
        app.start_engine(["run", *checks.same_again(run, result["verdict"]["set"])])


def _ask_for_data_file(app: Dashboard, run: RunRow) -> None:
    def export(file: str | None) -> None:
        if file:
            form = "parquet" if file.endswith(".parquet") else "alpaca"
            app.start_engine(["export", run.name, "--format", form, "--out", file])

    words = "The file to write, in the workspace: Alpaca's JSON, or Parquet where its name ends so."
    app.push_screen(AskText("Export data", words, f"{run.name}.json"), export)


def _ask_for_model_form(app: Dashboard, run: RunRow) -> None:
    def export_model(form: str | None) -> None:
        if form:
            kind, _, quantization = form.strip().partition(" ")
            options = ["--quantize", quantization.strip()] if quantization.strip() else []
            app.start_engine(["export-model", run.name, "--to", kind, *options])

    words = "gguf with a quantization (F16, Q8_0, Q4_K_M), merged, adapter or gguf-adapter."
    app.push_screen(AskText("Export the tuned student", words, "gguf Q8_0"), export_model)
