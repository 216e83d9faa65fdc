"""Training on preference pairs: DPO (Rafailov et al. 2023, arXiv 2305.18290) and its like.

A pair is two spans, the same that are scored and trained on elsewhere. Its loss is a function of the two
log-probabilities, each summed over its target's tokens by the chunked head (loss.py), and of those that the
reference gave before the first step: the student as training found it, without an adapter or with the one that
it starts from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import logsigmoid, relu

from srtui.recipe import TrainingSettings
from srtui.student import Head, Scorer, Span
from srtui.training.loss import MicroBatch, Objective, span_nlls
from srtui.training.training_pair import TrainingPair


@dataclass(frozen=True)
class PairBatch(MicroBatch):
    """Pairs for one pass: ``examples`` has their chosen spans, then their rejected ones. ``alone``: each goes through
    the student by itself."""

    references: tuple[tuple[float, float], ...] = ()
    alone: bool = False

    @classmethod
    def of(cls, pairs: Sequence[TrainingPair], packed: bool, alone: bool = False) -> PairBatch:
        """A batch of these pairs."""
        spans = [*(p.chosen for p in pairs), *(p.rejected for p in pairs)]
        return cls(tuple(spans), packed, tuple(p.reference for p in pairs), alone)

    @property
    def weight(self) -> int:
        """What the mean of a step's loss is over: pairs."""
        return len(self.references)


def objective_of(settings: TrainingSettings) -> Objective:
    """The loss of batches of pairs by the recipe's method; its figures are the margins of the rewards, and how many
    pairs have one above 0."""

    def loss(head: Head, batch: MicroBatch) -> tuple[Any, dict[str, Any]]:
        if not isinstance(batch, PairBatch):
            raise TypeError("a preference is trained on pairs")
        if batch.alone:
            nlls = torch.cat([span_nlls(head, MicroBatch((e,), batch.packed)) for e in batch.examples])
        else:
            nlls = span_nlls(head, batch)
        chosen, rejected = (-nlls).chunk(2)
        losses, margins = _terms(settings, chosen, rejected, batch.references, batch.examples)
        margins = margins.detach()
        return losses.sum(), {"reward_margin": margins.sum(), "reward_accuracy": (margins > 0).sum()}

    return loss


def _terms(
    settings: TrainingSettings,
    chosen: Any,
    rejected: Any,
    references: Sequence[tuple[float, float]],
    spans: Sequence[Span],
) -> tuple[Any, Any]:
    """Loss and margin of the rewards of each pair, both (pairs,).

    Args:
        settings: ``method``, ``loss`` and ``beta``.
        chosen: log-probability of each chosen target, (pairs,), in nats.
        rejected: of each rejected one.
        references: of both by the reference.
        spans: the chosen spans, then the rejected ones.
    """
    beta = settings.beta
    sizes = torch.tensor([span.target for span in spans], dtype=chosen.dtype, device=chosen.device).chunk(2)
    if settings.method == "orpo":
        # Hong et al. 2024, arXiv 2403.07691, equations 3 to 7: the odds of the mean token's probability.
        likely, unlikely = chosen / sizes[0], rejected / sizes[1]
        odds = _log_odds(likely) - _log_odds(unlikely)
        return -likely - beta * logsigmoid(odds), beta * (likely - unlikely)
    reference = torch.tensor(references, dtype=torch.float64).to(chosen.dtype).to(chosen.device)
    chosen_gain, rejected_gain = chosen - reference[:, 0], rejected - reference[:, 1]
    margins = beta * (chosen_gain - rejected_gain)
    if settings.loss == "hinge":
        return relu(1 - margins), margins
    if settings.loss == "ipo":
        # The log-ratios by token, as the authors confirmed to TRL's: sums would make the loss one of length.
        return (chosen_gain / sizes[0] - rejected_gain / sizes[1] - 1 / (2 * beta)) ** 2, margins
    return -logsigmoid(margins), margins


def _log_odds(log_probability: Any) -> Any:
    """log(p / (1 - p)) of log p; a probability that rounds to 1, whose odds have no end, counts as the next below."""
    below = log_probability.clamp(max=-torch.finfo(log_probability.dtype).eps)
    return below - torch.log(-torch.expm1(below))


def silence_dropout(model: Any) -> None:
    """Take dropout out of all of a model, the student's own too: architectures have it as modules, and as numbers
    that they hand to functions."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


@dataclass(frozen=True)
class Rewards:
    """What a student makes of pairs: their mean loss, and of each the margin of its rewards and its sample."""

    loss: float
    margins: tuple[float, ...]
    samples: tuple[int | None, ...] = ()

    @property
    def by_sample(self) -> list[list[float]]:
        """The margins, those of one sample's pairs together: they share an answer, and are no independent ones."""
        by_pair: dict[tuple[str, int], list[float]] = {}
        for n, margin in enumerate(self.margins):
            sample = self.samples[n] if self.samples else None
            by_pair.setdefault(("pair", n) if sample is None else ("sample", sample), []).append(margin)
        return list(by_pair.values())

    @property
    def margin(self) -> float:
        """The mean margin."""
        return math.fsum(self.margins) / len(self.margins)

    @property
    def accuracy(self) -> float:
        """The share of pairs with a margin above 0."""
        return sum(margin > 0 for margin in self.margins) / len(self.margins)


def held_out_rewards(
    scorer: Scorer, pairs: Sequence[TrainingPair], settings: TrainingSettings
) -> Rewards | None:
    """Of these pairs, by the scorer's student as it is now; None where none of them can be scored."""
    spans = [*(p.chosen for p in pairs), *(p.rejected for p in pairs)]
    nll_by_span = {n: loss.nll for n, loss in scorer.score(spans) if loss.reason is None}
    count = len(pairs)
    whole = [n for n in range(count) if n in nll_by_span and n + count in nll_by_span]
    if not whole:
        return None
    chosen, rejected = (
        torch.tensor([-(nll_by_span[n + offset] or 0.0) for n in whole], dtype=torch.float64)
        for offset in (0, count)
    )
    losses, margins = _terms(
        settings,
        chosen,
        rejected,
        [pairs[n].reference for n in whole],
        [*(pairs[n].chosen for n in whole), *(pairs[n].rejected for n in whole)],
    )
    return Rewards(float(losses.mean()), tuple(margins.tolist()), tuple(pairs[n].sample for n in whole))
