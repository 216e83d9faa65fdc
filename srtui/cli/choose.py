"""srtui choose: what the student's choices are worth."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srtui.cli.base import MOST, AsJson, Force, Overrides, app, open_store
from srtui.cli.completion import model_names, recipe_files
from srtui.cli.output import outputs_of, print_json, print_line

if TYPE_CHECKING:
    from srtui.evaluation.known_pairs import Preferences
    from srtui.recipe import Recipe
    from srtui.store import Store
    from srtui.store.calibrations import Calibration
    from srtui.student.sentence_encoder import SentenceEncoder
    from srtui.workspace import Workspace

choose_app = typer.Typer(
    help="What is a choice worth? Measures held against known preferences.", no_args_is_help=True
)
app.add_typer(choose_app, name="choose")


@choose_app.command(epilog="Example: srtui choose calibrate pairs.jsonl --recipe recipes/quickstart.toml")
def calibrate(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Rows of instruction, answer_1, answer_2, preference (1, 2 or ties); or the id of an srtui eval human.",
        ),
    ],
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="The recipe whose student, template and protocol are meant.", autocompletion=recipe_files
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(help="Another student, as a recipe's student.model.", autocompletion=model_names),
    ] = None,
    set_: Overrides = None,
    rater: Annotated[
        str | None, typer.Option(help="A GGUF whose scores and preferences are held against the pairs, too.")
    ] = None,
    fit: Annotated[
        Path | None,
        typer.Option(
            help="Write the weights of a combination of measures, for a recipe's selection.weights."
        ),
    ] = None,
    force: Force = False,
    limit: Annotated[int | None, typer.Option(min=1, max=MOST, help="Only the first N pairs.")] = None,
    as_json: AsJson = False,
) -> None:
    """What is each measure worth with this student: does it prefer the answers that somebody knows to be better?

    Agreement has a 95 % interval, and is held against chance and against simply taking the longer answer. Losses
    are stored as they come: the same command resumes.
    """
    from srtui import today
    from srtui.atomic import replacing
    from srtui.cli.calibration_tables import print_calibration
    from srtui.cli.reporters import reported_work
    from srtui.evaluation.combination import refuse_too_few
    from srtui.evaluation.rater import Rater
    from srtui.pipeline.calibrate import CalibrationRun
    from srtui.pipeline.recipe_models import open_variant_scorer, student_path
    from srtui.recipe.measure_weights import weights_text
    from srtui.student import Student

    workspace, store = open_store()
    with store:
        preferences = _preferences(store, files, limit)
        outputs = outputs_of(store, workspace)
        if fit is not None:
            outputs.check(fit, force)
            refuse_too_few(sum(p.preferred != 0 for p in preferences.pairs))
        settings = _recipe(recipe, student, set_ or [])
        today.freeze(today.of_timestamp(time.time()))
        rating = Rater(store, workspace.models, rater) if rater else None
        model, quantization = settings.student.model, settings.student.quantization
        with reported_work(
            as_json, store.path.parent, json_lines=False, stored="every loss that was computed"
        ) as (face, should_stop):
            path = student_path(workspace, model, quantization, lambda line: face.event("info", line))
            loaded = Student.load(path, quantization, report_line=lambda line: face.event("warning", line))
            scorer = open_variant_scorer(store, settings, path, model, quantization, student=loaded)
            try:
                calibration_run = CalibrationRun(
                    store, scorer, preferences, face, should_stop, rating, _encoder(workspace, settings)
                )
                calibration = calibration_run.work()
                weights = calibration_run.weights(calibration) if fit is not None else None
            finally:
                scorer.close()
        if fit is not None and weights is not None:
            with replacing(fit) as file:
                file.write(weights_text(weights).encode("utf-8"))
            outputs.wrote(fit)
        if as_json:
            print_json("choice-calibration", json_of(calibration))
            return
        print_calibration(calibration)
        if fit is not None:
            print_line(
                f"\n{fit}: the weights of {len(calibration.result['weights'])} parts; a recipe takes them with selection.weights, "
                'and response_by = "combined".'
            )


def _encoder(workspace: Workspace, recipe: Recipe) -> SentenceEncoder | None:
    """The recipe's sentence encoder, for coherence; None where it names none."""
    from srtui import models

    if not recipe.selection.encoder:
        return None
    from srtui.student.sentence_encoder import SentenceEncoder

    return SentenceEncoder(models.find(workspace.models, recipe.selection.encoder))


def json_of(calibration: Calibration) -> dict[str, Any]:
    """The result as ``--json`` prints it."""
    return {"id": calibration.id, "source": calibration.source, **calibration.result}


def _preferences(store: Store, files: list[str], limit: int | None) -> Preferences:
    """The pairs of files, or of evaluations by their ids; a file of that name comes first."""
    from srtui.errors import UserError
    from srtui.evaluation.known_pairs import preferences_of_people, read_preferences

    ids = [word for word in files if word.isdecimal() and not Path(word).exists()]
    if not ids:
        return read_preferences([Path(word) for word in files], limit)
    if len(files) > 1:
        raise UserError("Name files, or the id of one evaluation by people.")
    return preferences_of_people(store.evaluations, int(ids[0]), limit)


def _recipe(path: Path | None, student: str | None, overrides: list[str]) -> Recipe:
    """The recipe that says how texts are scored; without one, the defaults."""
    from srtui.errors import UserError
    from srtui.recipe import from_words, load

    words = [*overrides, *([f"student.model={student}"] if student else [])]
    if path is not None:
        return load(path, words)
    if not student:
        raise UserError("Which student? Name a recipe with --recipe, or a model with --student.")
    return from_words(
        {"name": "calibrate", "dataset": "none", "training": {"enabled": False}}, words, "--set"
    )
