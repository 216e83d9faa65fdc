"""The tuned student of a run: where it lies, out as files, and as the teacher of the next round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from srtui import models
from srtui.errors import UserError
from srtui.models import Exported, Form
from srtui.recipe import Recipe
from srtui.store import Store
from srtui.store.runs import Run
from srtui.workspace import Workspace

TEACHER_QUANTIZATION = "Q8_0"


def trained_adapter(workspace: Workspace, store: Store, run: Run) -> Path:
    """The folder of a run's adapter. Raises UserError where it has trained none."""
    training = store.training.of_run(run.id)
    if training is None or training.status != "done" or not training.adapter:
        state = training.status if training else "it has not come to it"
        raise UserError(
            f"Run {run.name} has trained no adapter ({state}); srtui status {run.name} says how far it is."
        )
    folder = workspace.root / str(training.adapter)
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not there any more: the adapter of run {run.name} was moved or deleted; put it back, or train again with srtui run."
        )
    return folder


def trained_student(workspace: Workspace, store: Store, run: Run) -> Path:
    """The folder of the student that the adapter was trained on. Raises UserError where it has changed."""
    student = models.resolve_student(workspace.models, run.recipe["student"]["model"])
    setting = store.scores.setting_by_id(run.setting_id)
    if setting is not None:
        from srtui.student.model import model_sha256, weights_sha256

        # An earlier srtui named a student by its model's files alone.
        identities = (weights_sha256(student)[:32], model_sha256(student)[:32])
        if not setting.student_id.startswith(identities):
            raise UserError(
                f"{student} has changed since run {run.name} was trained on it; put the old weights back, "
                "or run the recipe again."
            )
    return student


def trained_arithmetic(store: Store, run: Run) -> str:
    """The type that the student computed in while it was trained: float32 or bfloat16."""
    training = store.training.of_run(run.id)
    arithmetic = training.result.get("arithmetic") if training else None
    if arithmetic:
        return str(arithmetic)
    # A training of an earlier version: the student's identity has it.
    setting = store.scores.setting_by_id(run.setting_id)
    return "bfloat16" if setting is not None and "bfloat16" in setting.student_id.split(":") else "float32"


def export_tuned(
    workspace: Workspace,
    store: Store,
    run: Run,
    form: Form,
    out: Path | None = None,
    *,
    original_base: bool = False,
    quantization: str | None = None,
    force: bool = False,
    report_line: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write the tuned student as ``form``; in models/ or with its run, where ``out`` is None.

    ``original_base`` adds the adapter to the weights as they are stored, and not as the student held
    them in training. Raises UserError as ``models.export_model`` does.

    Args:
        workspace: whose models/ it goes to.
        store: with the training.
        run: whose student.
        form: adapter, merged, gguf-adapter or gguf.
        out: where to write; None for models/ or the run's folder.
        original_base: whether the weights are taken as stored.
        quantization: of a GGUF; None for F16.
        force: whether what is at ``out`` may be replaced.
        report_line: gets a line for each step that takes a while.
    """
    adapter = trained_adapter(workspace, store, run)
    # A name in models/ can be said in a recipe; adapters are no models, so they lie with their run.
    places = {
        "adapter": workspace.runs / run.name / "exported-adapter",
        "merged": workspace.models / run.name,
        "gguf-adapter": workspace.runs / run.name / "adapter.gguf",
        "gguf": workspace.models / f"{run.name}.{(quantization or 'F16').upper()}.gguf",
    }
    return models.export_model(
        form,
        adapter,
        trained_student(workspace, store, run),
        out or places[form],
        name=run.name,
        trained_as="f32" if original_base else run.recipe["student"]["quantization"],
        arithmetic=trained_arithmetic(store, run),
        quantization=quantization,
        force=force,
        report_line=report_line,
    )


def as_teacher(
    workspace: Workspace, store: Store, run: Run, report_line: Callable[[str], None] = lambda line: None
) -> str:
    """The name in models/ of a run's tuned student as a GGUF, made where it is not there yet.

    The adapter's hash is part of the name: a run that is trained anew is another teacher.

    Args:
        workspace: whose models/ it goes to.
        store: with the training.
        run: whose student.
        report_line: gets what is done.
    """
    weights = trained_adapter(workspace, store, run) / "adapter_model.safetensors"
    name = f"{run.name}-{models.file_sha256(weights)[:8]}.{TEACHER_QUANTIZATION}"
    path = workspace.models / f"{name}.gguf"
    if not path.is_file():
        export_tuned(
            workspace, store, run, "gguf", path, quantization=TEACHER_QUANTIZATION, report_line=report_line
        )
    return name


def next_round(
    workspace: Workspace,
    store: Store,
    recipe: Recipe,
    before: Run,
    report_line: Callable[[str], None] = lambda line: None,
) -> Recipe:
    """``recipe`` with the tuned student of the run ``before`` as its teacher, and the link to that run.

    Args:
        workspace: whose models/ the teacher goes to.
        store: with the training.
        recipe: of the next round.
        before: the run whose student teaches it.
        report_line: gets what is done.
    """
    name = as_teacher(workspace, store, before, report_line)
    teacher = recipe.teacher.model_copy(update={"model": name, "adapter": None, "from_run": before.name})
    return recipe.model_copy(update={"teacher": teacher})
