"""A recipe: every knob of a run, in TOML, validated, with the paper's values as defaults."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from srtui.errors import UserError
from srtui.fields import mistake, nearest
from srtui.files import at_home, parse_toml, read_text
from srtui.hashing import key, scheme_1
from srtui.prompts import PromptSet, read_prompts, template_names

Auto = Literal["auto"]
Share = Annotated[float, Field(ge=0, le=1)]
# What a 32-bit integer holds: llama.cpp takes no more, and SQLite's columns would take 64 bits.
MOST = 2**31 - 1
Count = Annotated[int, Field(ge=1, le=MOST)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TeacherSettings(Section):
    """The GGUF model that criticises and rewrites, and how llama.cpp runs it. ``context`` is the most
    tokens that one sequence may have, prompt and answer. ``from_run`` names the run whose tuned student
    this is: the round before."""

    model: str = "smollm2-135m"
    adapter: str | None = None
    from_run: str | None = None
    context: Auto | Count = "auto"
    slots: Auto | Count = "auto"
    batch_tokens: Auto | Count = "auto"
    gpu_layers: Auto | Annotated[int, Field(ge=-1, le=MOST)] = "auto"
    threads: Auto | Annotated[int, Field(ge=1, le=4096)] = "auto"
    flash_attention: Auto | bool = "auto"
    kv_type: Literal["f32", "f16", "q8_0", "q4_0"] = "f16"


class SamplingSettings(Section):
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.7
    top_p: Share = 0.95
    top_k: Annotated[int, Field(ge=0, le=MOST)] = 40
    min_p: Share = 0.05
    repeat_penalty: Annotated[float, Field(ge=0.5, le=3)] = 1.1


class ReflectionSettings(Section):
    """What is asked of the teacher. ``source = "store"`` asks nothing and uses what is stored.

    ``critique_tokens``, ``instruction_tokens`` and ``answer_tokens`` are the most that each may have at the
    first try; a retry may write more of an instruction or answer, since one that is cut off is not used.
    ``thinking_tokens`` are what a reasoning teacher may think beside that, in mode ``free``; in mode
    ``guided`` it is not made to think."""

    source: Literal["teacher", "store"] = "teacher"
    mode: Literal["guided", "free"] = "guided"
    instruction_criteria: str = "instruction"
    response_criteria: str = "response"
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    candidates: Annotated[int, Field(ge=1, le=64)] = 1
    critique_tokens: Count = 256
    instruction_tokens: Count = 256
    answer_tokens: Count = 768
    thinking_tokens: Count = 1024


class StudentSettings(Section):
    """The model that chooses and is then trained."""

    model: str = "smollm2-135m"
    quantization: Literal["nf4", "bf16", "int8", "f32", "gguf"] = "nf4"


class PromptSettings(Section):
    template: str = "alpaca"
    max_length: Annotated[int, Field(ge=16, le=MOST)] = 2048


class ScoringSettings(Section):
    """``proxy`` is a smaller student that decides what is clear; the student itself is asked where two
    scores, or a score and 1, are within ``proxy_margin`` of each other (as a difference of logarithms)."""

    protocol: Literal["default", "paper"] = "default"
    batch_tokens: Auto | Count = "auto"
    template_warning: Literal["warn", "stop"] = "warn"
    proxy: str = ""
    proxy_quantization: Literal["nf4", "bf16", "int8", "f32", "gguf"] = "nf4"
    proxy_margin: Annotated[float, Field(gt=0)] = 0.1


By = Literal["ifd", "rifd", "perplexity", "coherence", "random", "original", "reflected"]


class SelectionSettings(Section):
    """Which variant goes on, and which of the winners are trained on. The defaults are the paper's
    method, the other values its ablations. ``encoder``, a sentence encoder's folder, is for coherence.

    ``top_percent`` or ``top_count`` trains on the best of them only, as the paper's low-data runs do: by
    IFD, or by IFD and r-IFD together. The longest responses, and lots, are baselines."""

    instruction_by: By = "ifd"
    response_by: By = "rifd"
    policy: Literal["paper", "keep", "all"] = "paper"
    encoder: str = ""
    top_percent: Annotated[float, Field(gt=0, le=100)] = 100.0
    top_count: Count | None = None
    top_by: Literal["ifd", "both", "length", "random"] = "ifd"


class TrainingSettings(Section):
    """QLoRA finetuning of the student on what was selected. ``seed`` is the recipe's where it is not
    given; ``steps``, where it is, is how many optimizer steps are taken, whatever ``epochs`` says.

    ``rslora``, ``dora`` and ``neftune_alpha`` (0 is off) are variants of the method. ``packing`` puts
    the samples of a pass end to end in place of padding them, where the student's attention allows it.
    ``gradient_checkpointing`` computes layers twice to save memory; by default on a GPU. Checkpoints are
    written every ``checkpoint_steps`` (by default about every five minutes), the last
    ``checkpoints_kept`` are kept. Held-out losses are measured every ``evaluation_steps``;
    ``early_stopping`` ends training after so many of them that were no better, 0 never."""

    enabled: bool = True
    epochs: Annotated[float, Field(gt=0, le=10_000)] = 3.0
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    batch_size: Count = 16
    micro_batch_size: Count = 4
    warmup_ratio: Share = 0.03
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    optimizer: Literal["auto", "adamw", "paged_adamw_8bit"] = "auto"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    lora_rank: Annotated[int, Field(ge=1, le=4096)] = 16
    lora_alpha: Count = 32
    lora_dropout: Share = 0.05
    rslora: bool = False
    dora: bool = False
    neftune_alpha: Annotated[float, Field(ge=0)] = 0.0
    packing: Auto | bool = "auto"
    gradient_checkpointing: Auto | bool = "auto"
    checkpoint_steps: Auto | Count = "auto"
    checkpoints_kept: Count = 2
    evaluation_steps: Auto | Count = "auto"
    early_stopping: Annotated[int, Field(ge=0, le=MOST)] = 0
    held_out: Share = 0.1
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    steps: Count | None = None

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> Self:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size = {self.batch_size} must be a multiple of micro_batch_size = "
                f"{self.micro_batch_size}"
            )
        if self.early_stopping and not self.held_out:
            raise ValueError(
                f"early_stopping = {self.early_stopping} watches the loss on held-out samples; set held_out above 0"
            )
        return self


class Recipe(Section):
    """One run, described. ``dataset`` is a file beside the recipe or in the workspace, or the name
    of an imported dataset. ``prompts`` is, in a recipe file, the path of a prompts file (relative to the
    recipe): its templates, reverse prompt and teacher prompts take the place of srtui's own, and its
    sampling that of ``[sampler]``'s defaults. A loaded recipe has its contents, and so has a run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
    description: str = ""
    dataset: str
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    limit: Count | None = None
    prompts: PromptSet | None = None
    teacher: TeacherSettings = TeacherSettings()
    sampler: SamplingSettings = SamplingSettings()
    reflection: ReflectionSettings = ReflectionSettings()
    student: StudentSettings = StudentSettings()
    prompt: PromptSettings = PromptSettings()
    scoring: ScoringSettings = ScoringSettings()
    selection: SelectionSettings = SelectionSettings()
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _a_gguf_is_not_trained(self) -> Self:
        if self.student.quantization == "gguf" and self.training.enabled:
            raise ValueError(
                'student.quantization = "gguf" can choose and not be trained; set training.enabled = false'
            )
        return self

    @model_validator(mode="after")
    def _the_template_is_there(self) -> Self:
        names = template_names(self.prompts)
        if self.prompt.template not in names:
            raise ValueError(f"prompt.template = {self.prompt.template!r} is not one of {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _choices_can_be_made(self) -> Self:
        by = {self.selection.instruction_by, self.selection.response_by}
        if "coherence" in by and not self.selection.encoder:
            raise ValueError(
                "a choice by coherence needs selection.encoder, the name or folder of a sentence encoder"
            )
        if self.scoring.proxy and not by <= {"ifd", "rifd"}:
            raise ValueError('scoring.proxy can stand in for IFD and r-IFD only; set it to ""')
        return self

    @property
    def fingerprint(self) -> str:
        """Changes when anything changes that a run's decisions or weights depend on.

        Defaults are left out, so that a key that a later version adds changes no earlier run's.
        """
        return "2" + key("recipe", recipe=self._deciding()).hex()[2:14]

    @property
    def first_fingerprint(self) -> str:
        """The fingerprint that a run of this recipe has where it was stored before keys had a scheme."""
        return scheme_1(repr(sorted(self._deciding().items()))).hex()[:12]

    def _deciding(self) -> dict[str, Any]:
        """What is not as it is by default, and not for speed or safety alone."""
        what = self.model_dump(mode="json", exclude={"description"}, exclude_defaults=True)
        for speed_only in ("slots", "batch_tokens", "gpu_layers", "threads"):
            what.get("teacher", {}).pop(speed_only, None)
        what.get("scoring", {}).pop("batch_tokens", None)
        for safety_only in ("checkpoint_steps", "checkpoints_kept"):
            what.get("training", {}).pop(safety_only, None)
        return {name: value for name, value in what.items() if value != {}}


def load(path: Path, overrides: list[str] | None = None, limit: int | None = None) -> Recipe:
    """Read a recipe; ``overrides`` are ``section.key=value`` words, the value in TOML or bare text.

    Raises UserError, one sentence with the file, the key, and the nearest valid key.
    """
    if path.parent.is_dir() and not os.path.lexists(path):
        near = nearest(path.name, [p.name for p in path.parent.glob("*.toml")])
        raise UserError(f"{path}: there is no such recipe{near}.")
    data = parse_toml(read_text(path), str(path))
    for word in overrides or []:
        _override(data, word)
    if limit is not None:
        data["limit"] = limit
    data.setdefault("name", path.stem)
    _read_prompts_file(data, path)
    return parse(data, str(path))


def parse(data: dict[str, Any], source: str) -> Recipe:
    """Validate ``data``; ``source`` names it in the error."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{source}: {mistake(error, Recipe)}") from None


def _read_prompts_file(data: dict[str, Any], recipe: Path) -> None:
    """Put the contents of the prompts file in the place of its name, and its sampling below the recipe's."""
    name = data.get("prompts")
    if not isinstance(name, str):
        return
    if not name:
        del data["prompts"]
        return
    file = at_home(name)
    places = [file] if file.is_absolute() else [recipe.parent / file, file]
    found = next((p for p in places if os.path.lexists(p)), places[0])
    prompts = read_prompts(found)
    try:
        SamplingSettings.model_validate(prompts.sampling)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{found}: sampling.{first['loc'][0]} = {first['input']}: {first['msg']}.") from None
    data["prompts"] = prompts.model_dump(mode="json")
    sampler = data.get("sampler", {})
    if isinstance(sampler, dict):
        data["sampler"] = {**prompts.sampling, **sampler}


def _override(data: dict[str, Any], word: str) -> None:
    key, equals, raw = word.partition("=")
    if not equals or not key:
        raise UserError(f"--set {word}: write it as section.key=value, for example --set training.epochs=1")
    try:
        value: Any = tomllib.loads(f"v = {raw}")["v"]
    except (ValueError, RecursionError):
        value = raw
    *sections, last = key.split(".")
    place = data
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise UserError(f"--set {word}: {section} is not a section.")
    place[last] = value
