"""What variants are compared by: one table of measures, and IFD and r-IFD as pure mathematics (Li et al., ACL 2024,
sections 2 and 3).

To add a measure, copy the row of ``MEASURES`` that is nearest to it and write its formula above the table. Recipes
(``selection.instruction_by``), labels, the Scores screen, listing, exports, ablations and ``srtui db check --deep``
follow from the row. What is not a function of the student's losses needs a new ``Source``, and a method for it
in ``srtui/pipeline/values.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from srtui.sample import Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

Metric = str
"""The name of a measure that is stored as a score: one of ``STORED``."""
Source = Literal["losses", "tokens", "encoder", "rater", "combination", "draw"]
"""What a measure is computed from: the student's losses of a variant, its losses token by token, the sentence encoder
(srtui.student.sentence_encoder), a GGUF that rates (srtui.evaluation.rater), other measures by the weights of a file, or a
draw from the recipe's seed and the text."""
Direction = Literal["forward", "reverse"]
"""Which text the student predicts: y, given x and alone; or x, given the reverse prompt of y and alone."""
LOSS_NAMES: dict[Direction, tuple[str, str]] = {"forward": ("L(y|x)", "L(y)"), "reverse": ("L(x|y)", "L(x)")}
"""What faces call the two losses of a direction, the conditional one first."""


@dataclass(frozen=True)
class SpanLoss:
    """The loss of a target: ``nll`` is summed over its ``tokens``, in nats. With a ``reason`` there
    is no loss, and ``nll`` is None. Stored as it is computed. ``by_token`` (tokens,) has each token's own
    loss in nats where it was asked for."""

    nll: float | None
    tokens: int
    truncated: bool = False
    reason: str | None = None
    by_token: NDArray[Any] | None = field(default=None, compare=False, repr=False)

    @property
    def mean(self) -> float:
        """Mean NLL, nats a token: L(y|x) or L(y). Raises ValueError where there is no loss."""
        if self.nll is None:
            raise ValueError(f"a span without a loss ({self.reason}) has no mean")
        return self.nll / self.tokens


Value = tuple[float | None, str | None]
"""A measure's value, or None and the reason why there is none. Never a zero for a failure."""


def perplexity(loss: SpanLoss) -> float:
    """exp of the mean NLL."""
    return math.exp(loss.mean)


def ifd(conditional: SpanLoss, unconditional: SpanLoss) -> Value:
    """IFD(y|x) = ppl(y|x) / ppl(y): the ratio, or None and the reason."""
    return _ratio(conditional, unconditional)


def rifd(conditional: SpanLoss, unconditional: SpanLoss) -> Value:
    """r-IFD(x|y) = ppl(x | prompt(y)) / ppl(x): the ratio, or None and the reason."""
    return _ratio(conditional, unconditional)


def conditional_perplexity(conditional: SpanLoss, unconditional: SpanLoss) -> Value:
    """ppl(y|x) or ppl(x | prompt(y)): the numerator of IFD or of r-IFD, whatever became of the denominator."""
    return (None, NOTHING_TO_SCORE) if conditional.reason is not None else (perplexity(conditional), None)


def _ratio(conditional: SpanLoss, unconditional: SpanLoss) -> Value:
    for loss in (conditional, unconditional):
        if loss.reason is not None:
            return None, loss.reason
        if loss.tokens <= 0:
            return None, "empty_target"
        if loss.nll is None or not math.isfinite(loss.nll):
            return None, "non_finite"
    try:
        value = math.exp(conditional.mean - unconditional.mean)
    except OverflowError:
        return None, "non_finite"
    # exp underflows to 0 for a difference below -745 nats a token: no language model says that.
    return (value, None) if value > 0 else (None, "non_finite")


def likelihood(conditional: SpanLoss, unconditional: SpanLoss) -> Value:
    """log p(y|x) / tokens of y, in nats a token: how probable the student finds a response, length-normalised
    (GRAPE, Zhang et al. 2025, arXiv 2502.04194); L(y) plays no part."""
    return (None, NOTHING_TO_SCORE) if conditional.reason is not None else (-conditional.mean, None)


def token_difference(conditional: SpanLoss, unconditional: SpanLoss) -> NDArray[Any] | None:
    """Loss given the instruction less loss without it, token by token (tokens,) in nats; None where the passes do
    not have the same tokens, as under protocol ``paper``, or were not kept token by token."""
    if conditional.by_token is None or unconditional.by_token is None:
        return None
    if len(conditional.by_token) != len(unconditional.by_token):
        return None
    difference: NDArray[Any] = conditional.by_token - unconditional.by_token
    return difference


AT_LENGTH = "-at-length"
"""Behind a measure's name: its length-controlled version."""


@dataclass(frozen=True)
class LengthLine:
    """A measure's level as a straight line in the logarithm of a response's characters."""

    slope: float
    offset: float

    def residual(self, level: float, characters: int) -> float:
        """The level with length taken out: its distance from the line."""
        return level - self.offset - self.slope * math.log(max(characters, 1))


def length_line(rows: Sequence[tuple[float, int]]) -> LengthLine | str:
    """The least-squares line through (level, characters); or why there is none."""
    if len(rows) < 3:
        return "fewer than three texts have a value"
    logs = [math.log(max(characters, 1)) for _, characters in rows]
    middle, mean = math.fsum(logs) / len(rows), math.fsum(level for level, _ in rows) / len(rows)
    spread = math.fsum((x - middle) ** 2 for x in logs)
    if spread == 0:
        return "all texts are of one length"
    slope = (
        math.fsum((x - middle) * (level - mean) for x, (level, _) in zip(logs, rows, strict=True)) / spread
    )
    return LengthLine(slope, mean - slope * middle)


INFORMATIVE = 0.5
"""The share of a data set's response tokens that S-IFD counts (T-SHIRT's released default)."""


def informative_threshold(differences: Sequence[NDArray[Any]], share: float = INFORMATIVE) -> float:
    """The |difference| above which a token is informative: one percentile over all tokens of a data set.

    ``differences`` are arrays (tokens,) of loss given the instruction less loss without, in nats. Raises
    ValueError where there is no token (T-SHIRT, Fu et al. 2025, arXiv 2506.01317).
    """
    import numpy as np

    if not sum(len(d) for d in differences):
        raise ValueError("there is no token to take a percentile of")
    return float(np.quantile(np.abs(np.concatenate(differences)), 1 - share))


def selective_ifd(difference: NDArray[Any], threshold: float) -> float:
    """S-IFD: exp of the mean difference (tokens,) over the informative tokens, those whose |difference| is above
    ``threshold``; 1 where none is. With a threshold below 0 it is IFD."""
    import numpy as np

    counted = np.asarray(difference, dtype=float)[np.abs(difference) > threshold]
    return math.exp(float(counted.mean())) if len(counted) else 1.0


def share_at_or_over_one(values: Sequence[float]) -> float:
    """Share of scores that the selection drops."""
    return sum(v >= 1 for v in values) / len(values) if values else 0.0


NOTHING_TO_SCORE = "nothing to score"
"""Why a variant has no value where one of its texts is blank, or has no loss."""


@dataclass(frozen=True)
class Measure:
    """What the variants of a choice can be compared by: a row of ``MEASURES``.

    Attributes:
        name: in recipes and in the store; never changed once released.
        label: in sentences and tables.
        arm: what ``srtui ablate`` calls the runs that choose by it.
        source: what its values are computed from.
        higher_instruction: whether the higher value wins where an instruction is chosen, else the lower one.
        higher_response: the same where a response is chosen.
        losses: of source ``losses``, the directions whose losses ``formula`` takes; ``target`` is forward where an
            instruction is chosen and reverse where a response is.
        formula: of source ``losses``: the conditional and the unconditional loss of each of these directions, in this
            order -> the value, or None and the reason.
        is_ratio: its values are ratios, which compare by their logarithms (``level``).
        before: where it is stored as a score of every text that the student reads, and shown in Scores: which text's
            score the final one is shown beside, the dataset's or the one before the new response. None where it is not
            stored and is computed anew for each choice. A stored measure has one direction: a row of the table
            ``score`` has the keys of two losses.

    Raises ValueError where these do not fit together.
    """

    name: str
    label: str
    arm: str
    source: Source
    higher_instruction: bool
    higher_response: bool
    losses: tuple[Direction | Literal["target"], ...] = ()
    formula: Callable[..., Value] | None = None
    is_ratio: bool = False
    before: Literal["original", "response"] | None = None

    def __post_init__(self) -> None:
        if self.stored and not self.name.isidentifier():
            raise ValueError(f"{self.name}: it names columns, so it has letters, digits and _ alone")
        if (self.source == "losses") != bool(self.losses and self.formula):
            raise ValueError(
                f"{self.name}: losses and a formula of them go with the source losses, and no other"
            )
        if self.stored and self.losses not in (("forward",), ("reverse",)):
            raise ValueError(f"{self.name}: what is stored is a formula of the two losses of one direction")

    @property
    def stored(self) -> bool:
        """Whether its values are stored as scores and shown in Scores."""
        return self.before is not None

    def higher_wins(self, target: Target) -> bool:
        """Whether the higher value wins where this target is chosen."""
        return self.higher_instruction if target == "instruction" else self.higher_response

    def preferred_level(self, value: float) -> float:
        """Its level turned so that the higher one is preferred where a response is chosen."""
        return self.level(value) if self.higher_response else -self.level(value)

    def level(self, value: float) -> float:
        """A value on a scale where differences compare: the logarithm of a ratio."""
        return math.log(value) if self.is_ratio else value

    def directions(self, target: Target) -> tuple[Direction, ...]:
        """The directions whose losses ``formula`` takes where this target is chosen."""
        of_target: Direction = "forward" if target == "instruction" else "reverse"
        return tuple(of_target if d == "target" else d for d in self.losses)

    @property
    def loss_names(self) -> tuple[str, str]:
        """What faces call the two losses that a stored measure is made of, the conditional one first."""
        return LOSS_NAMES[self.directions("response")[0]]

    def value(self, *losses: SpanLoss) -> Value:
        """The value by the losses of its directions, the conditional one of each first.

        Raises ValueError for a measure that is not computed from losses.
        """
        if self.formula is None:
            raise ValueError(f"{self.name} is not computed from losses")
        return self.formula(*losses)


_ROWS = (
    Measure(
        "random", "random number", "chosen at random", "draw", higher_instruction=True, higher_response=True
    ),
    Measure(
        "coherence",
        "coherence",
        "chosen by coherence",
        "encoder",
        higher_instruction=True,
        higher_response=True,
    ),
    # The paper does not say which perplexity, nor its direction: a ratio's numerator here, with that ratio's direction.
    Measure(
        "perplexity",
        "perplexity",
        "chosen by perplexity",
        "losses",
        higher_instruction=True,
        higher_response=False,
        losses=("target",),
        formula=conditional_perplexity,
        is_ratio=True,
    ),
    Measure(
        "likelihood",
        "likelihood",
        "chosen by likelihood",
        "losses",
        higher_instruction=True,
        higher_response=True,
        losses=("forward",),
        formula=likelihood,
    ),
    Measure(
        "s-ifd",
        "S-IFD",
        "chosen by S-IFD",
        "tokens",
        higher_instruction=True,
        higher_response=True,
        is_ratio=True,
    ),
    Measure(
        "teacher-score",
        "the rater's score",
        "chosen by a rater",
        "rater",
        higher_instruction=True,
        higher_response=True,
    ),
    Measure(
        "combined",
        "the combination",
        "chosen by a combination",
        "combination",
        higher_instruction=True,
        higher_response=True,
    ),
    Measure(
        "ifd",
        "IFD",
        "chosen by IFD only",
        "losses",
        higher_instruction=True,
        higher_response=True,
        losses=("forward",),
        formula=ifd,
        is_ratio=True,
        before="original",
    ),
    Measure(
        "rifd",
        "r-IFD",
        "chosen by r-IFD only",
        "losses",
        higher_instruction=False,
        higher_response=False,
        losses=("reverse",),
        formula=rifd,
        is_ratio=True,
        before="response",
    ),
)

MEASURES: dict[str, Measure] = {row.name: row for row in _ROWS}
"""By name, in the order of the paper's ablations (its tables 4 and 9): instructions are chosen by IFD and responses
by r-IFD, and the tables try the others."""
STORED: tuple[str, ...] = tuple(row.name for row in _ROWS if row.stored)
"""The measures whose values are stored as scores, and shown in Scores, listing and exports."""
FILTERS: tuple[str, str] = ("ifd", "rifd")
"""The scores that drop a pair where they are at or above 1 (section 3); a sample's outcome has both."""
SCORE_OF: dict[Direction, str] = {"forward": "ifd", "reverse": "rifd"}
"""By direction, the stored score whose two losses are that direction's."""
