"""What can be done with a run that is done: the steps, each by a key, and how each is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtui.store.views import RunRow
from srtui.tui import checks
from srtui.tui.screens.dialogs import Menu, NextStep, Reading

if TYPE_CHECKING:
    from srtui.tui.app import Dashboard


def steps_of(run: RunRow) -> list[NextStep]:
    """What there is to do with a run as it is, the likeliest first."""
    if run.recipe.get("pilot"):
        return [
            NextStep("read", "v", "See what the pilot came to: figures, examples, verdict"),
            NextStep("whole", "s", "Start the whole run, with the pilot's advice taken"),
            NextStep("again", "c", "Change its settings first: the form, filled in as here"),
        ]
    steps = []
    if run.changed:
        changes = f"{run.changed:,} change{'' if run.changed == 1 else 's'}"
        steps.append(NextStep("retrain", "a", f"Train again with your {changes}; all else is reused"))
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
        steps.append(NextStep("judge", "j", "Judge it: a judge model, multiple choice, people; or calibrate"))
    steps.append(NextStep("ablate", "b", "What each part is worth: an ablation of its recipe"))
    return steps


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
            choose_evaluation(app, run)
        elif step == "chat":
            from srtui.tui.screens.chat_screen import ChatScreen

            app.push_screen(ChatScreen(run))
        else:
            from srtui.tui.screens.work_forms import FORMS

            app.push_screen(FORMS[step](app, run), app.start_words)
    except Exception as error:
        app.report_error(error)


async def begin_evaluation(app: Dashboard, run: RunRow | None, kind: str) -> None:
    """Open the form of one kind of evaluation, and start what it was left with."""
    from srtui.tui.screens.work_forms import evaluation_form, offers

    try:
        app.push_screen(evaluation_form(app, kind, run, await offers(app)), app.start_words)
    except Exception as error:
        app.report_error(error)


def choose_evaluation(app: Dashboard, run: RunRow | None) -> None:
    """Ask for a kind of evaluation, then for what it is about, and start it."""
    from srtui.tui.screens.work_forms import KINDS

    def fill_in(kind: str | None) -> None:
        if kind is not None:
            app.run_worker(begin_evaluation(app, run, kind), group="next")

    title = "Evaluate or calibrate" if run is None else f"{run.name}: evaluate or calibrate"
    app.push_screen(Menu(title, [NextStep(*kind) for kind in KINDS]), fill_in)


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
