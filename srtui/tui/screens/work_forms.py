"""What can be started about runs and models, each as a form whose fields have proposals: evaluations, calibrations,
ablations, exports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from srtui.errors import UserError
from srtui.store.views import RunRow
from srtui.tui import checks
from srtui.tui.screens.command_form import (
    CommandForm,
    FormField,
    Values,
    existing_path,
    filled,
    whole_number,
)

if TYPE_CHECKING:
    from srtui.tui.app import Dashboard
    from srtui.workspace import Workspace

_QUESTIONS = ("*.jsonl", "*.json")
_MODEL_FORMS = ("gguf", "merged", "adapter", "gguf-adapter")
_PROPOSED_FORMAT = "alpaca"  # what `srtui export` writes where no format is named
_ARMS = "original,random"
"""The arms that a form proposes: the control, and chance."""

KINDS = (
    ("pairwise", "p", "A judge model compares the answers of two, in both orders"),
    ("human", "h", "People compare without knowing whose answer is whose"),
    ("choice", "c", "Multiple choice, by lm-eval's task files"),
    ("turns", "t", "Questions of several turns, each answer scored by a judge model"),
    ("winrate", "w", "How often it is preferred to a file of reference answers"),
    ("calibrate", "j", "What is a judge model worth? Held against known judgements"),
    (
        "measures",
        "m",
        "What are IFD, r-IFD and the others worth with this student? Held against known preferences",
    ),
)
"""Evaluations and calibrations that a dashboard starts: name, key, and what each does."""


@dataclass(frozen=True)
class Offers:
    """What a field can name, each with a few words."""

    contestants: Sequence[tuple[str, str]]
    judges: Sequence[tuple[str, str]]
    files: Sequence[tuple[str, str]]


async def offers(app: Dashboard) -> Offers:
    """What this workspace has: tuned students and their bases, GGUF files, data files and tasks."""
    runs = [r for r in app.runs if r.adapter]
    contestants = [
        pair
        for r in runs
        for pair in ((r.name, "its tuned student"), (f"base:{r.name}", "the same student untuned"))
    ]
    judges = await asyncio.to_thread(checks.choices_for, "teacher", app.workspace, {})
    files = await asyncio.to_thread(_files, app.workspace)
    return Offers(contestants, judges, files)


def _files(workspace: Workspace) -> list[tuple[str, str]]:
    from srtui.tui.screens.import_form import files_in

    tasks = [
        (str(p.relative_to(workspace.root)), "task files")
        for p in sorted(workspace.recipes.glob("*"))  # of which there may be none
        if p.is_dir() and any(p.glob("*.yaml"))
    ]
    return [*tasks, *files_in(workspace)]


def evaluation_form(app: Dashboard, kind: str, run: RunRow | None, there_is: Offers) -> CommandForm:
    """The form of an evaluation or a calibration.

    Args:
        app: whose workspace it is about.
        kind: of :data:`KINDS`.
        run: the one that the screen is about; what it trained is proposed.
        there_is: what fields can name.
    """
    root = app.workspace.root
    a = run.name if run is not None and run.adapter else next((n for n, _ in there_is.contestants), "")
    judge = next((name for name, _ in there_is.judges), "")
    contestant = FormField(
        "a", "whose answers (A)", a, "a run, a model, a file of answers", choices=there_is.contestants
    )
    other = FormField("b", "against (B)", f"base:{a}" if a else "", "as A", choices=there_is.contestants)
    referee = FormField(
        "judge", "judge model", judge, "a GGUF in models/, not one of A's or B's", choices=there_is.judges
    )
    limit = FormField("limit", "first rows only", "", "all of them")

    def file(label: str, proposal: str = "") -> FormField:
        value = proposal if proposal and (root / proposal).exists() else ""
        return FormField("file", label, value, "a file of the workspace, or a path", choices=there_is.files)

    prompts = file("prompts", "recipes/eval-prompts.jsonl")
    if kind == "measures":
        recipe = Path(run.recipe_path) if run is not None else app.workspace.recipes / "quickstart.toml"
        fields = [
            file("preferences"),
            FormField("recipe", "student as in", str(recipe), "a recipe"),
            limit,
        ]
    else:
        fields = {
            "pairwise": [contestant, other, prompts, referee, limit],
            "human": [contestant, other, prompts, limit],
            "choice": [contestant, file("tasks", "recipes/choice"), limit],
            "turns": [contestant, file("questions", "recipes/eval-questions.jsonl"), referee, limit],
            "winrate": [contestant, file("reference"), referee, limit],
            "calibrate": [file("known judgements"), referee, limit],
        }[kind]

    def build(values: Values) -> list[str]:
        for line in fields:
            if line.name != "limit" and not values[line.name]:
                raise UserError(f"{line.label}: name one.")
        whole_number(values, "limit", "first rows only")
        existing_path(root, values["file"])
        return filled(_words(kind, values), values, limit="--limit")

    explanation = {
        "human": "The answers are written first; then h on this screen lets people judge, one by one.",
        "calibrate": "Its agreement with judgements that are known, and whether that beats chance.",
        "measures": "How often each measure prefers the answer that somebody knows to be better.",
    }.get(kind, "Answers and judgements are stored as they come: the same evaluation again resumes.")
    title = next(words for name, _, words in KINDS if name == kind)
    return CommandForm(title, explanation, fields, build)


def _words(kind: str, values: Values) -> list[str]:
    if kind == "measures":
        return ["choose", "calibrate", values["file"], "--recipe", values["recipe"]]
    if kind == "calibrate":
        return ["eval", "calibrate", values["file"], "--judge", values["judge"]]
    option = {"choice": "--tasks", "turns": "--questions", "winrate": "--reference"}.get(kind, "--prompts")
    contestants = [values[name] for name in ("a", "b") if name in values]
    words = ["eval", kind, *contestants, option, values["file"]]
    if kind == "human":
        return [*words, "--no-ask"]
    return words if kind == "choice" else [*words, "--judge", values["judge"]]


def ablation_form(app: Dashboard, run: RunRow) -> CommandForm:
    """The form of an ablation of a run's recipe: other ways to choose, the same texts and steps."""
    words = checks.same_again(run)

    def build(values: Values) -> list[str]:
        whole_number(values, "seeds", "trainings of each")
        return filled(["ablate", *words], values, only="--only", seeds="--seeds")

    return CommandForm(
        f"What is each part of {run.name} worth?",
        "Each arm is a run with another way to choose, and the same texts, scores and number of steps. Its table stands in "
        "the output when all are done (F3), its runs on 1 Runs.",
        [
            FormField("only", "arms", _ARMS, "all of them: names with commas between"),
            FormField("seeds", "trainings of each", "1"),
        ],
        build,
    )


def data_form(app: Dashboard, run: RunRow) -> CommandForm:
    """The form of an export of what a run selected."""
    from srtui.datasets import (  # here: the dashboard is there before they are loaded
        PREFERENCE_LAYOUTS,
        WRITABLE,
    )

    formats = (_PROPOSED_FORMAT, *(name for name in WRITABLE if name != _PROPOSED_FORMAT), "preference")
    layouts = tuple(PREFERENCE_LAYOUTS)

    def build(values: Values) -> list[str]:
        form = values["format"]
        ending = ".parquet" if form == "parquet" else ".jsonl" if form == "preference" else ".json"
        out = values["file"] or f"{run.name}{ending}"
        words = ["export", run.name, "--format", form, "--out", out]
        if form == "preference" and values["layout"] != layouts[0]:
            words += ["--layout", values["layout"]]
        percent = values["percent"]
        if percent:
            try:
                if not 0 < float(percent) <= 100:
                    raise ValueError
            except ValueError:
                raise UserError(
                    "only the best by IFD: give a number of percent, or nothing for all."
                ) from None
            words += ["--top-k-percent", percent]
        return words

    return CommandForm(
        f"Export the data of {run.name}",
        f"{run.kept:,} pairs, as the run left them with what you have overruled since.",
        [
            FormField("format", "format", options=formats),
            FormField("file", "file", "", f"{run.name}.json, in the workspace"),
            FormField("percent", "best by IFD, %", "", "all of them"),
            FormField("layout", "layout of pairs", options=layouts),
        ],
        build,
    )


def model_form(app: Dashboard, run: RunRow) -> CommandForm:
    """The form of an export of a run's tuned student."""

    def build(values: Values) -> list[str]:
        words = ["export-model", run.name, "--to", values["to"]]
        if values["to"] != "gguf":
            return words
        return filled(words, values, quantization="--quantize")

    return CommandForm(
        f"Export the tuned student of {run.name}",
        "gguf is for llama.cpp and for a recipe's teacher.model; merged for transformers; adapter for peft.",
        [
            FormField("to", "as", options=_MODEL_FORMS),
            FormField("quantization", "quantization", "Q8_0", "F16"),
        ],
        build,
    )


FORMS: dict[str, Callable[[Dashboard, RunRow], CommandForm]] = {
    "export": data_form,
    "export-model": model_form,
    "ablate": ablation_form,
}
"""By step of What next, its form."""
