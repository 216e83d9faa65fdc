"""The models that a recipe names: where they lie, what lays their prompts out, and a student that scores as it says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srtui import models
from srtui.errors import UserError
from srtui.files import read_text
from srtui.recipe import Recipe, TeacherSettings
from srtui.store import Store
from srtui.workspace import Workspace

if TYPE_CHECKING:
    from srtui.pipeline.variants import VariantScorer
    from srtui.student import Quantization, Student

CHUNK = 1024  # variants worked on together: bounds memory, and what a kill loses
_DEVICES_A_CHUNK = 4  # that it keeps busy: where more score, more is worked on together


def student_path(
    workspace: Workspace, name: str, quantization: str, report_line: Callable[[str], None] = lambda line: None
) -> Path:
    """The safetensors folder, or for ``gguf`` the file, of a student by name.

    Args:
        workspace: whose models/ is searched.
        name: as a recipe has it.
        quantization: as a recipe has it; gguf means a file.
        report_line: gets a line of a conversion that takes a while.
    """
    if quantization == "gguf":
        return models.resolve_teacher(workspace.models, name)
    return models.resolve_student(workspace.models, name, report_line)


def endpoint_template(folder: Path, settings: TeacherSettings, near: Path) -> str | None:
    """The chat template of an endpoint's model: what the recipe names, else that of the model of its name in
    ``folder``; None where the server has to say. Raises UserError where what is named has none."""
    name = settings.chat_template
    if name is not None:
        if name.endswith(".jinja"):
            return read_text(near / name if (near / name).is_file() else Path(name))
        template = models.inspect(models.find(folder, name), with_hash=False).chat_template
        if not template:
            raise UserError(
                f"teacher.chat_template = {name!r}: that model has no chat template; name another, or a .jinja file."
            )
        return template
    with suppress(UserError):
        return models.inspect(models.find(folder, settings.model), with_hash=False).chat_template
    return None


def devices_factor(devices: int) -> int:
    """How many times what one device works on together is taken, for so many to be busy."""
    return -(-devices // _DEVICES_A_CHUNK)


def open_variant_scorer(
    store: Store,
    recipe: Recipe,
    path: Path,
    name: str,
    quantization: Quantization,
    template: str | None = None,
    student: Student | None = None,
    scorer: Any = None,
    devices: int = 1,
    histories: bool = False,
) -> VariantScorer:
    """A student that scores as the recipe says; under another ``template``, where one is given.

    Args:
        store: where its losses and scores go.
        recipe: whose template, protocol and lengths hold.
        path: of the student.
        name: that scores are stored under.
        quantization: how its weights are held.
        template: takes the place of the recipe's.
        student: the one at ``path``, where it is loaded already.
        scorer: what runs its spans, where that is open already.
        devices: how many the scorer runs on.
        histories: whether texts may have one.
    """
    from srtui.pipeline.variants import VariantScorer

    return VariantScorer(
        store,
        path,
        quantization,
        name=name,
        template_name=template or recipe.prompt.template,
        protocol=recipe.scoring.protocol,
        max_length=recipe.prompt.max_length,
        batch_tokens=recipe.scoring.batch_tokens,
        student=student,
        scorer=scorer,
        blocks=devices_factor(devices),
        prompts=recipe.prompts,
        histories=histories,
        embeds=recipe.selection.embeds and recipe.selection.embedded_by == "student",
    )
