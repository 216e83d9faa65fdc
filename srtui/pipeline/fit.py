"""What of a recipe will lie on a GPU in each stage, planned from headers alone (``srtui models fit``).

The arithmetic is the one that the stages themselves plan with (srtui.models.memory, srtui.training.preflight),
over a card that need not be in this machine. On a GPU the teacher and the student are loaded in turn, so each
stage has the whole card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from srtui import models
from srtui.errors import UserError
from srtui.models.gguf_header import read_gguf
from srtui.models.memory import (
    DEVICE_SHARE,
    GPU_SLOTS,
    KV_BYTES,
    USUAL_LENGTH,
    TeacherShape,
    cells_that_fit,
    compute_bytes,
    least_cells,
    plan_teacher,
    scoring_tokens,
    slots_that_fit,
    token_bytes,
)
from srtui.recipe import Recipe
from srtui.student import Span
from srtui.student.weights import BYTES_A_WEIGHT, plan_weights
from srtui.training.loss import CHUNK_BYTES
from srtui.training.preflight import Shape, needed_bytes, what_would_fit

DRIVER_BYTES = 600_000_000
"""What a card's driver, a CUDA context and the libraries' kernels take before any model; an assumption."""

CARDS = (8, 12, 16, 24, 48, 80, 141)
"""Memory of usual cards, GB."""


@dataclass(frozen=True)
class Decoder:
    """A usual decoder of its size: ``layers``, hidden and inner widths, the width of keys (all heads
    together), the vocabulary, and whether its output is its embeddings."""

    layers: int
    hidden: int
    inner: int
    key_value: int
    vocabulary: int
    tied: bool = False

    @property
    def layer(self) -> int:
        """Weights of one layer's matrices: query and output, key and value, gate, up and down."""
        return 2 * self.hidden**2 + 2 * self.hidden * self.key_value + 3 * self.hidden * self.inner

    @property
    def adapter_width(self) -> int:
        """Inputs and outputs of a layer's seven matrices together: what LoRA takes for each rank."""
        return 4 * self.hidden + 2 * (self.hidden + self.key_value) + 3 * (self.hidden + self.inner)


# Shapes of published open models of these sizes (their config.json): Llama 3.2 1B and 3B, Llama 3.1 8B,
# Qwen 2.5 14B and 32B.
DECODERS = {
    "1B": Decoder(16, 2048, 8192, 512, 128_256, tied=True),
    "3B": Decoder(28, 3072, 8192, 1024, 128_256, tied=True),
    "8B": Decoder(32, 4096, 14336, 1024, 128_256),
    "14B": Decoder(48, 5120, 13824, 1024, 152_064),
    "32B": Decoder(64, 5120, 27648, 1024, 152_064),
}
"""What stands for a model that is not at hand, by its size."""

# Bits a weight in layers and in the output, by llama.cpp's recipes of quantization (mixtures, so about).
_BITS = {
    "Q3_K_M": (3.95, 6.56), "Q4_0": (4.5, 6.56), "Q4_K_M": (4.83, 6.56), "Q5_K_M": (5.67, 6.56),
    "Q6_K": (6.56, 6.56), "Q8_0": (8.5, 8.5), "F16": (16.0, 16.0),
}  # fmt: skip


@dataclass(frozen=True)
class StudentNeeds:
    """A student as memory sees it: the bytes of its ``weights``, and its shape with adapters for training."""

    weights: int
    shape: Shape


@dataclass(frozen=True)
class StagePlan:
    """One stage on one card. ``parts`` are what is resident and its bytes; ``free`` what the card has for
    them; ``fits`` whether it runs there at all; ``words`` says how, or what to set."""

    stage: str
    model: str
    parts: dict[str, int]
    free: int
    fits: bool
    words: str

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())


def plan_recipe(
    folder: Path,
    recipe: Recipe,
    gpu_memory: int,
    *,
    host_memory: int,
    teacher: str | None = None,
    student: str | None = None,
) -> list[StagePlan]:
    """The stages of a recipe on a card of ``gpu_memory`` bytes.

    Args:
        folder: models/.
        recipe: whose settings and models are planned.
        gpu_memory: bytes that the card has in all.
        host_memory: bytes that the computer has free, for layers that the card has no room for.
        teacher: a size with a quantization, such as "8B-Q4_K_M", in place of the recipe's teacher.
        student: a size such as "8B", in place of the recipe's student.

    Returns:
        A plan for reflecting, choosing and, where the recipe trains, training.

    Raises:
        UserError: for a model that is not in ``folder``, or a size that is not known.
    """
    free = max(0, gpu_memory - DRIVER_BYTES)
    plans = []
    if teacher or not recipe.teacher.endpoint:  # a server's memory is the server's
        shape = usual_teacher(teacher) if teacher else _teacher_of(folder, recipe.teacher.model)
        plans.append(plan_reflecting(shape, teacher or recipe.teacher.model, recipe, free, host_memory))
    if recipe.student.quantization == "gguf":
        return plans
    rank = recipe.training.lora_rank
    needs = (
        usual_student(student, recipe.student.quantization, rank)
        if student
        else _student_of(folder, recipe.student.model, recipe.student.quantization, rank)
    )
    name = student or recipe.student.model
    plans.append(plan_choosing(needs, name, free))
    if recipe.training.enabled:
        plans.append(plan_training(needs, name, recipe, free))
    return plans


# -- the stages: pure ---------------------------------------------------------------------------------------


def plan_reflecting(shape: TeacherShape, name: str, recipe: Recipe, free: int, host_memory: int) -> StagePlan:
    """The teacher and its KV cache. Layers first, then slots: as the teacher itself plans.

    Args:
        shape: the teacher.
        name: what it is called.
        recipe: for its context, slots, batch and KV type.
        free: bytes that the card has for it.
        host_memory: bytes free in the computer, for the layers that stay there.
    """
    settings = recipe.teacher
    length = USUAL_LENGTH if settings.context == "auto" else settings.context
    requested = GPU_SLOTS if settings.slots == "auto" else settings.slots
    batch = 512 if settings.batch_tokens == "auto" else settings.batch_tokens
    element = KV_BYTES[settings.kv_type]
    cells = least_cells(settings.slots, settings.context)
    plan = plan_teacher(shape, cells, [free], batch=batch, element=element)
    layers, asked = plan.layers, settings.gpu_layers
    if asked != "auto":  # llama.cpp counts the output as one layer, the first to go; -1 is all
        layers = plan.of if asked < 0 else min(max(0, asked - 1), plan.of)
    weights, cell = shape.on_device(layers), shape.kv * element
    compute = compute_bytes(batch, shape.vocabulary, shape.hidden, shape.inner) if layers else 0
    host = sum(shape.layers) - sum(shape.layers[len(shape.layers) - layers :])
    cells = cells_that_fit(
        cell, plan.of, [(layers, max(0, free - weights))], host=max(0, host_memory - host), compute=compute
    )
    slots = slots_that_fit(requested, length, cells)
    parts = {
        "weights": weights,
        "KV cache": round(cell * layers * (slots + 1) * length) if slots else 0,
        "compute": compute,
    }
    fits = slots > 0 and sum(parts.values()) <= free
    on = (
        f"all {plan.of} layers"
        if layers == plan.of
        else f"{layers} of {plan.of} layers, the others slower in RAM"
    )
    words = f"{on}; {slots} of {requested} sequences of {length:,} tokens at once"
    if not fits or slots < requested or layers < plan.of:
        words += _less_for_the_teacher(recipe)
    return StagePlan("reflect", name, parts, free, fits, words)


def _less_for_the_teacher(recipe: Recipe) -> str:
    settings = recipe.teacher
    if settings.kv_type in ("f16", "f32"):
        return '; teacher.kv_type = "q8_0" halves the cache'
    if settings.context == "auto" or settings.context > USUAL_LENGTH:
        return f"; teacher.context = {USUAL_LENGTH} makes room"
    return "; a smaller quantization makes room"


def plan_choosing(needs: StudentNeeds, name: str, free: int) -> StagePlan:
    """The student while it scores: weights, a pass of as many tokens as its memory gives, a chunk of logits."""
    room = max(0, free - needs.weights)
    token = token_bytes(needs.shape.hidden, needs.shape.inner)
    tokens = scoring_tokens(token, room, "cuda")
    parts = {"weights": needs.weights, "activations": tokens * token, "logits": 3 * CHUNK_BYTES}
    fits = sum(parts.values()) <= free  # a pass is planned over half of what the weights leave
    words = f"{tokens:,} tokens a pass" if fits else "choose a smaller student"
    return StagePlan("choose", name, parts, free, fits, words)


def plan_training(needs: StudentNeeds, name: str, recipe: Recipe, free: int) -> StagePlan:
    """QLoRA at its largest: every sample as long as ``prompt.max_length``.

    Args:
        needs: of the student.
        name: of the student, for people.
        recipe: whose lengths and training.
        free: bytes of the card.
    """
    settings, length = recipe.training, recipe.prompt.max_length
    texts = 1 if settings.method == "sft" else 2  # of a pair, both go through the student in one pass
    longest = Span(tuple(range(length)) * texts, (length - 1) * texts)
    examples: Sequence[Span] = [longest] * settings.batch_size
    checkpointing = settings.gradient_checkpointing
    memory_settings: dict[str, Any] = {
        "packed": settings.packing is not False and not settings.neftune_alpha,
        "gradient_checkpointing": True if checkpointing == "auto" else checkpointing,
        "optimizer": "paged_adamw_8bit" if settings.optimizer == "auto" else settings.optimizer,
    }
    # A training plans beside a student that has its adapters already, in float32.
    adapters = 4 * needs.shape.trainable
    room = round(DEVICE_SHARE * free) - needs.weights - adapters
    need = needed_bytes(needs.shape, examples, settings, **memory_settings)
    parts = {"weights": needs.weights, "adapters, gradients, activations": adapters + need}
    if need <= room:
        how_computed = (
            "layers computed twice" if memory_settings["gradient_checkpointing"] else "activations kept"
        )
        words = f"passes of {settings.micro_batch_size * texts} x {length:,} tokens at most, {how_computed}"
        return StagePlan("train", name, parts, free, True, words)
    fitting = what_would_fit(max(0, room), needs.shape, examples, settings, texts=texts, **memory_settings)
    words = f"set {fitting}" if fitting else "choose a smaller student"
    return StagePlan("train", name, parts, free, False, words)


# -- the models ---------------------------------------------------------------------------------------------


def usual_teacher(words: str) -> TeacherShape:
    """The teacher that "8B-Q4_K_M", say, stands for. Raises UserError where the words name none."""
    size, _, quantization = words.partition("-")
    quantization = quantization or "Q4_K_M"
    if size not in DECODERS or quantization not in _BITS:
        raise UserError(
            f"--teacher {words}: write a size of {', '.join(DECODERS)} and a quantization of {', '.join(_BITS)}, "
            "as in 8B-Q4_K_M."
        )
    decoder, (bits, output) = DECODERS[size], _BITS[quantization]
    return TeacherShape(
        layers=(round(decoder.layer * bits / 8),) * decoder.layers,
        output=round(decoder.vocabulary * decoder.hidden * output / 8),
        kv=2 * decoder.key_value,
        vocabulary=decoder.vocabulary,
        hidden=decoder.hidden,
        inner=decoder.inner,
    )


def usual_student(words: str, quantization: str, rank: int) -> StudentNeeds:
    """The student that "8B", say, stands for, with adapters of ``rank``. Raises UserError where the words name
    none."""
    if words not in DECODERS:
        raise UserError(f"--student {words}: write a size of {', '.join(DECODERS)}.")
    decoder = DECODERS[words]
    element = 4 if quantization == "f32" else 2
    embeddings = decoder.vocabulary * decoder.hidden * (1 if decoder.tied else 2)
    layers = decoder.layer * decoder.layers
    return StudentNeeds(
        round(layers * BYTES_A_WEIGHT.get(quantization, element) + embeddings * element),
        Shape(
            layers=decoder.layers,
            hidden=decoder.hidden,
            inner=decoder.inner,
            key_value=decoder.key_value,
            vocabulary=decoder.vocabulary,
            trainable=rank * decoder.adapter_width * decoder.layers,
            element=2,
            matrix=decoder.hidden * decoder.inner if quantization in BYTES_A_WEIGHT else 0,
        ),
    )


def _teacher_of(folder: Path, name: str) -> TeacherShape:
    try:
        path = models.resolve_teacher(folder, name)
    except UserError as error:
        raise UserError(f"{error} To plan without it, give a size: --teacher 8B-Q4_K_M.") from error
    shape = read_gguf(path).shape
    if shape is None:
        raise UserError(f"{path}: its header does not say its shape; give a size: --teacher 8B-Q4_K_M.")
    return shape


def _student_of(folder: Path, name: str, quantization: str, rank: int) -> StudentNeeds:
    try:
        path = models.resolve_student(folder, name)
    except UserError as error:
        raise UserError(f"{error} To plan without it, give a size: --student 8B.") from error
    from srtui.student.weights import without_weights

    model = without_weights(path)
    weights = plan_weights(path, quantization, 4 if quantization == "f32" else 2)
    if model is None or weights is None:
        raise UserError(
            f"{path}: its config.json names no model that transformers can build; give --student 8B."
        )
    import torch

    head = model.get_output_embeddings()
    widths = sum(
        m.in_features + m.out_features
        for m in model.modules()
        if isinstance(m, torch.nn.Linear) and m is not head
    )
    shape = Shape.of(model, 2)
    quantized = quantization in BYTES_A_WEIGHT
    return StudentNeeds(
        weights.size,
        replace(shape, trainable=rank * widths, matrix=shape.hidden * shape.inner if quantized else 0),
    )


__all__ = [
    "CARDS",
    "DECODERS",
    "DRIVER_BYTES",
    "Decoder",
    "StagePlan",
    "StudentNeeds",
    "plan_choosing",
    "plan_recipe",
    "plan_reflecting",
    "plan_training",
    "usual_student",
    "usual_teacher",
]
