"""What a training will take, known before it starts: steps, tokens, time and memory."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from srtui.models.memory import free_bytes, inner_width
from srtui.recipe import TrainingSettings
from srtui.student import Span
from srtui.training.plan import plan_steps


@dataclass(frozen=True)
class Shape:
    """What memory depends on in a student with its adapters; ``element`` is bytes of an activation,
    ``matrix`` elements of the largest weight matrix that is stored in 4 or 8 bits (else 0)."""

    layers: int
    hidden: int
    inner: int
    key_value: int
    vocabulary: int
    trainable: int
    element: int
    matrix: int = 0

    @classmethod
    def of(cls, model: Any, element: int) -> Shape:
        """Of a loaded model with adapters."""
        config = model.config.get_text_config()
        hidden, heads = int(config.hidden_size), int(getattr(config, "num_attention_heads", None) or 1)
        inner = inner_width(model)
        head = int(getattr(config, "head_dim", None) or hidden // heads)
        quantized = getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)
        return cls(
            layers=int(config.num_hidden_layers),
            hidden=hidden,
            inner=inner,
            key_value=int(getattr(config, "num_key_value_heads", None) or heads) * head,
            vocabulary=int(getattr(model.get_output_embeddings(), "out_features", 0) or config.vocab_size),
            trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
            element=element,
            matrix=hidden * inner if quantized else 0,
        )


@dataclass(frozen=True)
class PastForecast:
    """What came of one forecast: how often what was computed the training took in its steps and in memory (which
    corrects the next ones), and how far what was shown was off."""

    seconds_ratio: float
    memory_ratio: float
    shown_seconds_off: float
    shown_memory_off: float


def _correction(ratios: Sequence[float]) -> float:
    """The median: one training beside something else that used the machine moves it little."""
    return statistics.median(ratios) if ratios else 1.0


def _minutes(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes / 60:.1f} hours" if minutes >= 90 else f"{max(minutes, 0.1):.1f} minutes"


@dataclass(frozen=True)
class Preflight:
    """``tokens`` of all epochs, ``seconds`` for all steps, by one real pass; ``memory`` and ``free`` in bytes, beyond
    what the loaded student has taken, which is ``loaded``; ``truncated`` samples lost their end to prompt.max_length.
    ``fixed`` are seconds beside the steps, for held-out losses. ``past`` is what came of earlier forecasts here, and
    corrects ``likely_seconds`` and ``likely_memory``, which are for people."""

    samples: int
    truncated: int
    tokens: int
    targets: int
    steps: int
    seconds: float
    memory: int
    free: int
    packed: bool
    gradient_checkpointing: bool
    loaded: int = 0
    fixed: float = 0.0
    past: Sequence[PastForecast] = ()

    @property
    def likely_seconds(self) -> float:
        """In steps, corrected by what came of earlier forecasts."""
        return self.seconds * _correction([p.seconds_ratio for p in self.past])

    @property
    def likely_memory(self) -> float:
        """Bytes in all, the loaded student with them, corrected as well."""
        return (self.loaded + self.memory) * _correction([p.memory_ratio for p in self.past])

    def facts(self) -> dict[str, Any]:
        """Its fields, for a result's JSON."""
        return {name: value for name, value in asdict(self).items() if name != "past"}

    def sentence(self, max_length: int, examples: str = "samples") -> str:
        """All of it, for a person; ``examples`` is trained on."""
        cut = "none is cut"
        if self.truncated:
            share = self.truncated / self.samples
            cut = f"{self.truncated:,} of them ({share:.1%}) are cut at prompt.max_length = {max_length:,}"
        beside = f", with {_minutes(self.fixed)} for held-out losses" if self.fixed >= 6 else ""
        return (
            f"Training on {self.samples:,} {examples}; {cut}. {self.tokens:,} tokens in {self.steps:,} steps will "
            f"take about {_minutes(self.likely_seconds + self.fixed)}{beside}, and {self.likely_memory / 1e9:.1f} GB of "
            f"memory, the loaded student in it ({self.free / 1e9:.1f} GB are free beside it). {self._past_words()}"
        )

    def _past_words(self) -> str:
        if not self.past:
            return (
                "No training of this student was forecast here before, so how far that is off is not known."
            )
        time = ", ".join(f"{p.shown_seconds_off:+.0%}" for p in self.past)
        memory = ", ".join(f"{p.shown_memory_off:+.0%}" for p in self.past)
        return f"It took so much more than forecast the last times here: {time} time, {memory} memory."


def training_bytes(
    shape: Shape, tokens: int, targets: int, *, dropout: bool, gradient_checkpointing: bool, optimizer: str
) -> int:
    """Memory that training takes beyond the loaded student with its adapters, for passes of at most
    ``tokens`` tokens (padding counted) with ``targets`` target tokens.

    A layer keeps for the backward pass: its input and its middle (two residuals); query, key, value and
    what attention gives; gate, up and their product; and for each adapter its input, which dropout
    makes a copy of, with a mask of a byte. Frozen weights need no input kept.

    Args:
        shape: of the student.
        tokens: of the largest pass, padding counted.
        targets: of the largest pass.
        dropout: whether adapters drop out.
        gradient_checkpointing: whether layers are computed twice.
        optimizer: as a recipe names it.
    """
    h, f, kv = shape.hidden, shape.inner, shape.key_value
    kept = 4 * h + 2 * kv + 3 * f
    adapters = 6 * h + f if dropout else 3 * h + f
    layer = (kept + adapters) * shape.element + (adapters if dropout else 0)
    kept_layers = shape.layers * h * shape.element + layer if gradient_checkpointing else shape.layers * layer
    # The head: three of a chunk's logits at once (logits, probabilities, a product of them), in float32.
    rows = min(targets, max(1, min(2048, 128 * 2**20 // (4 * shape.vocabulary))))
    head = 3 * 4 * rows * shape.vocabulary + 2 * targets * h * shape.element
    state = {"adamw": 8, "paged_adamw_8bit": 2}[optimizer] + 4  # and the gradient
    return round(tokens * kept_layers + head + shape.trainable * state + 2 * shape.matrix * shape.element)


def largest_pass(steps: Sequence[Sequence[Sequence[int]]], lengths: Sequence[int], *, packed: bool) -> int:
    """Tokens of the largest micro-batch, padding counted."""
    return max(
        sum(lengths[i] for i in micro) if packed else len(micro) * max(lengths[i] for i in micro)
        for step in steps
        for micro in step
    )


def needed_bytes(
    shape: Shape,
    examples: Sequence[Span],
    settings: TrainingSettings,
    *,
    packed: bool,
    gradient_checkpointing: bool,
    optimizer: str,
    max_length: int | None = None,
) -> int:
    """``training_bytes`` of the largest micro-batch of a training, samples cut at ``max_length``.

    Args:
        shape: of the student.
        examples: all of the training.
        settings: of the training.
        packed: whether samples share a row.
        gradient_checkpointing: whether layers are computed twice.
        optimizer: as a recipe names it.
        max_length: in tokens; None leaves samples as they are.
    """
    cut = [min(len(e.ids), max_length or len(e.ids)) for e in examples]
    tokens = largest_pass(plan_steps(cut, settings, packed=packed), cut, packed=packed)
    return training_bytes(
        shape,
        tokens,
        min(tokens, settings.micro_batch_size * max(len(e.targets) for e in examples)),
        dropout=settings.lora_dropout > 0 and settings.method == "sft",
        gradient_checkpointing=gradient_checkpointing,
        optimizer=optimizer,
    )


def what_would_fit(
    free: int,
    shape: Shape,
    examples: Sequence[Span],
    settings: TrainingSettings,
    *,
    packed: bool,
    gradient_checkpointing: bool,
    optimizer: str,
    texts: int = 1,
) -> str:
    """The least change of settings that fits ``free`` bytes, as words to set; "" where none does.

    Smaller passes first: they change no result. Then layers computed twice, which changes none
    either, and costs time. Shorter samples last.

    Args:
        free: bytes of the device.
        shape: of the student.
        examples: all of the training.
        settings: of the training.
        packed: whether samples share a row.
        gradient_checkpointing: whether layers are computed twice already.
        optimizer: as a recipe names it.
        texts: of an example: one, or the two of a pair.
    """
    sizes = [n for n in range(settings.micro_batch_size, 0, -1) if settings.batch_size % n == 0]
    longest = max(len(e.ids) for e in examples) // texts
    lengths = [longest // 2**n for n in range(1, 6) if longest // 2**n >= 64]
    passes = {"packed": packed, "optimizer": optimizer}
    for checkpointing in dict.fromkeys((gradient_checkpointing, True)):
        for size in sizes:
            smaller = settings.model_copy(update={"micro_batch_size": size})
            if needed_bytes(shape, examples, smaller, gradient_checkpointing=checkpointing, **passes) <= free:  # type: ignore[arg-type]
                words = [f"training.micro_batch_size = {size}"] if size != settings.micro_batch_size else []
                return " and ".join(
                    [
                        *words,
                        *(
                            ["training.gradient_checkpointing = true"]
                            if checkpointing != gradient_checkpointing
                            else []
                        ),
                    ]
                )
    single = settings.model_copy(update={"micro_batch_size": 1})
    for length in lengths:
        tokens = length * texts
        if (
            needed_bytes(shape, examples, single, gradient_checkpointing=True, max_length=tokens, **passes)  # type: ignore[arg-type]
            <= free
        ):
            return (
                "training.micro_batch_size = 1, training.gradient_checkpointing = true and "
                f"prompt.max_length = {length}"
            )
    return ""


def diverged(losses: Sequence[float], vocabulary: int) -> bool:
    """Whether the last losses (nats a token) say that training has blown up.

    It has where the mean of the last four is above ln(vocabulary), the loss of guessing every token
    alike, and above twice the median of the up to 128 before them (eight at least). Four, since one
    step of short odd answers may well be that bad; twice the median, since a student may begin there.
    """
    if len(losses) < 12:
        return False
    earlier = sorted(losses[-132:-4])
    recent = math.fsum(losses[-4:]) / 4
    return recent > max(math.log(vocabulary), 2 * earlier[len(earlier) // 2])


__all__ = [
    "Preflight",
    "Shape",
    "diverged",
    "free_bytes",
    "largest_pass",
    "needed_bytes",
    "training_bytes",
    "what_would_fit",
]
