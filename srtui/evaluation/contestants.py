"""Who is compared: runs, models, adapters, files of answers, by the names that a user gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from srtui import models, today
from srtui.atomic import sha256_of
from srtui.errors import UserError
from srtui.evaluation.sources import answers_of
from srtui.files import expand_home, parse_json, read_bytes
from srtui.prompts import PromptSet, template_names, template_version
from srtui.prompts import template as prompt_template
from srtui.recipe import Recipe
from srtui.store import Store
from srtui.workspace import Workspace


@dataclass(frozen=True)
class Contestant:
    """One side of an evaluation.

    ``student`` is a safetensors folder with or without a peft adapter, ``gguf`` a GGUF with or without
    a LoRA in GGUF, ``file`` texts that were written elsewhere (``texts``, by what was asked).
    ``template`` is "" where the model's own chat template is to be used if it has one; ``prompts`` is the
    prompts file of its run.
    """

    name: str
    kind: Literal["student", "gguf", "file"]
    path: Path
    sha256: str
    adapter: Path | None = None
    adapter_sha256: str | None = None
    quantization: str = ""
    template: str = ""
    run_id: int | None = None
    prompts: PromptSet | None = None
    texts: Mapping[str, str] | None = None

    @property
    def date(self) -> str | None:
        """Today, where its chat template writes the date into its prompts."""
        uses_chat = self.kind == "gguf" or (self.kind == "student" and self.template in ("", "chat"))
        return date_written(self.path) if uses_chat else None

    @property
    def template_version(self) -> str:
        """Which words a student's template stands for; "" where the model brings its own layout."""
        if self.kind != "student":
            return ""
        names = [self.template] if self.template else ["chat", "alpaca"]  # the second where it has no chat
        return "+".join(_template_version(name, self.prompts, self.path) for name in names)

    @property
    def identity(self) -> dict[str, Any]:
        """What is stored with an evaluation: all but the texts, and no path of this machine."""
        stored = asdict(self) | {"path": self.path.name, "adapter": self.adapter and self.adapter.name}
        del stored["texts"], stored["run_id"], stored["name"], stored["prompts"]
        return stored | ({"template_version": self.template_version} if self.template_version else {})


def date_written(model: Path) -> str | None:
    """Today, where the chat template of the GGUF or safetensors folder ``model`` writes the date."""
    return today.written_into(_chat_template(model))


def _template_version(name: str, prompts: PromptSet | None, student: Path) -> str:
    """As scores and training have it."""
    version = students_template_version(name, prompts, student)
    return version or template_version(name, prompts)  # whoever loads the model says what is wrong with it


def students_template_version(name: str, prompts: PromptSet | None, student: Path) -> str | None:
    """The version that scores of the safetensors folder ``student`` have: a chat template that opens a <think>
    block has one of its own, for which its tokenizer is loaded, and None where that cannot be."""
    if name != "chat" or "<think>" not in (_chat_template(student) or ""):
        return template_version(name, prompts)  # without loading anything
    try:
        return prompt_template(name, _tokenizer(student), prompts).version
    except (UserError, OSError, ValueError, KeyError):
        return None


@cache
def _tokenizer(student: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(student, local_files_only=True, trust_remote_code=False)


@cache
def _chat_template(model: Path) -> str | None:
    try:
        return models.inspect(model, with_hash=False).chat_template
    except UserError:
        return None  # whoever loads the model says what is wrong with it


def find_contestant(workspace: Workspace, store: Store, name: str, template: str | None = None) -> Contestant:
    """The contestant called ``name``: a run, ``base:RUN``, a file of answers (.json, .jsonl), an adapter
    folder, a model, or ``MODEL+ADAPTER``.

    ``template`` takes the place of a student's own; a GGUF has its chat template, a file needs none.
    Raises UserError that says what the name could have been.

    Args:
        workspace: whose models/ is searched.
        store: whose runs are.
        name: as the user wrote it.
        template: a student's prompt template; None for its own.
    """
    is_base = name.startswith("base:")
    run_name = name.removeprefix("base:")
    if is_base or any(r.name == run_name for r in store.runs.all()):
        return _of_run(workspace, store, run_name, is_base, template)
    _check_template(template, None)
    path = expand_home(name)
    if path.suffix in (".json", ".jsonl"):
        return Contestant(name, "file", path, sha256_of(path), texts=answers_of(path))
    if (path / "adapter_config.json").is_file():
        return _of_adapter(workspace, store, name, path, template)
    model_name, plus, adapter_name = name.partition("+")
    if plus and not path.exists():
        model = models.find(workspace.models, model_name)
        return _of_model(name, model, _adapter(workspace, adapter_name, model), template)
    try:
        return _of_model(name, models.find(workspace.models, name), None, template)
    except UserError as error:
        runs = ", ".join(r.name for r in store.runs.all()) or "none so far"
        raise UserError(f"{str(error).rstrip('.')}; or name a run: {runs}.") from error


def same_weights(
    workspace: Workspace, store: Store, judge: str, sha256: str, contestants: Sequence[Contestant]
) -> list[str]:
    """Sentences where the judge is the teacher of a run that it judges, or a contestant itself: judges
    favour texts of their own (Panickssery et al. 2024, arXiv 2404.13076).

    Args:
        workspace: whose models/ is searched.
        store: whose runs are.
        judge: the judge's name.
        sha256: of the judge's file.
        contestants: those that it judges.
    """
    sentences = []
    runs = {run.id: run for run in store.runs.all()}
    for contestant in contestants:
        if contestant.sha256 == sha256:
            sentences.append(
                f"The judge {judge} is {contestant.name} itself, the same weights; judges favour what they wrote."
            )
        run = (
            runs.get(contestant.run_id)
            if contestant.run_id is not None and contestant.adapter is not None
            else None
        )
        if run is not None and _teacher_sha256(workspace, run.recipe) == sha256:
            sentences.append(
                f"The judge {judge} is the teacher of {contestant.name}, the same weights; it favours what was learned "
                "from it. Take another judge."
            )
    return sentences


def _teacher_sha256(workspace: Workspace, recipe: Mapping[str, Any]) -> str | None:
    """Of the teacher's file as it is here; None where it is not."""
    try:
        path = models.resolve_teacher(workspace.models, Recipe.model_validate(recipe).teacher.model)
        return models.file_sha256(path)
    except (UserError, OSError):
        return None


def _of_run(workspace: Workspace, store: Store, name: str, is_base: bool, template: str | None) -> Contestant:
    run = store.runs.named(name)
    recipe = Recipe.model_validate(run.recipe)
    student = recipe.student
    adapter = None
    if not is_base:
        training = store.training.of_run(run.id)
        adapter = workspace.root / training.adapter if training and training.adapter else None
        if adapter is None or not adapter.is_dir():
            raise UserError(
                f"Run {name!r} has no trained adapter; train it first (srtui resume {name}), or compare its "
                f"student as it was: base:{name}."
            )
    shown = f"base:{name}" if is_base else name
    _check_template(template, recipe.prompts)
    template = template or recipe.prompt.template
    if student.quantization == "gguf":
        path = models.resolve_teacher(workspace.models, student.model)
        return Contestant(shown, "gguf", path, models.file_sha256(path), run_id=run.id)
    path = models.resolve_student(workspace.models, student.model)
    return _student(shown, path, adapter, student.quantization, template, run.id, recipe.prompts)


def _of_adapter(
    workspace: Workspace, store: Store, name: str, path: Path, template: str | None
) -> Contestant:
    """An adapter folder: its run is asked for the student and template, else its own configuration."""
    for run in store.runs.all():
        training = store.training.of_run(run.id)
        if training and training.adapter and (workspace.root / training.adapter).resolve() == path.resolve():
            recipe = Recipe.model_validate(run.recipe)
            student = models.resolve_student(workspace.models, recipe.student.model)
            chosen = template or recipe.prompt.template
            return _student(name, student, path, recipe.student.quantization, chosen, run.id, recipe.prompts)
    try:
        file = path / "adapter_config.json"
        base = str(parse_json(read_bytes(file), str(file))["base_model_name_or_path"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{file} does not say which model it adapts ({error}); name it as MODEL+{path}."
        ) from error
    try:
        student = models.resolve_student(workspace.models, base if Path(base).is_dir() else Path(base).name)
    except UserError as error:
        raise UserError(
            f"{path} is an adapter of {base}, which is not here; name it as MODEL+{path}."
        ) from error
    return _student(name, student, path, "nf4", template or "", None)


def _adapter(workspace: Workspace, name: str, model: Path) -> Path:
    for path in (expand_home(name), workspace.models / name, workspace.models / f"{name}.gguf"):
        if path.is_file() if model.is_file() else (path / "adapter_config.json").is_file():
            return path
    expected = "a LoRA in GGUF" if model.is_file() else "a folder with adapter_config.json"
    raise UserError(f"{name} is not an adapter for {model.name}: that would be {expected}; name one.")


def _of_model(name: str, path: Path, adapter: Path | None, template: str | None) -> Contestant:
    if path.is_dir():
        return _student(name, path, adapter, "nf4", template or "", None)
    path = models.resolve_teacher(path.parent, str(path))
    sha256 = models.file_sha256(path)
    return Contestant(name, "gguf", path, sha256, adapter, models.file_sha256(adapter) if adapter else None)


def _student(
    name: str,
    path: Path,
    adapter: Path | None,
    quantization: str,
    template: str,
    run_id: int | None,
    prompts: PromptSet | None = None,
) -> Contestant:
    from srtui.student.model import weights_sha256

    weights = adapter / "adapter_model.safetensors" if adapter else None
    if weights is not None and not weights.is_file():
        raise UserError(
            f"{adapter}: no adapter_model.safetensors in it; other formats are not read; save it as safetensors."
        )
    return Contestant(
        name,
        "student",
        path,
        weights_sha256(path),
        adapter,
        models.file_sha256(weights) if weights else None,
        quantization,
        template,
        run_id,
        prompts,
    )


def _check_template(name: str | None, prompts: PromptSet | None) -> None:
    names = template_names(prompts)
    if name is not None and name not in names:
        raise UserError(f"--template {name}: it can be {', '.join(names)}.")
