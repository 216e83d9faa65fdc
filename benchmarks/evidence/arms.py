"""The arms: ways to choose between an original and its rewrite, and ways to take a part of the rewrites."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from srtui.gates import TEXT_GATES
from srtui.measures import AT_LENGTH, MEASURES

Replay = Literal["strong", "mixed"]
ORIGINAL = "original"
"""The arm that all others are compared with."""


@dataclass(frozen=True)
class Arm:
    """One way to choose.

    Attributes:
        name: in the table.
        words: what it is.
        selection: its keys of a recipe's ``[selection]``.
        measure: the measure that it chooses by, as a calibration calls it; "" where it chooses by none.
        needs: what has to be there: a rater, or a combination's weights.
        gated: whether the recipe's gates of texts are on.
        part: of all prompts, the share that it trains on.
        known: whether it takes what GPT-4 said is better, which only the mixed replay knows.
        on_request: run only where it is named.
    """

    name: str
    words: str
    selection: dict[str, Any] = field(default_factory=dict)
    measure: str = ""
    needs: Literal["", "rater", "weights"] = ""
    gated: bool = False
    part: float = 1.0
    known: bool = False
    on_request: bool = False

    @property
    def gates(self) -> dict[str, bool]:
        """The recipe's ``[gates]``: all that are signs in the text alone."""
        return dict.fromkeys(TEXT_GATES, True) if self.gated else {}


_NEEDS: dict[str, Literal["", "rater", "weights"]] = {"rater": "rater", "combination": "weights"}
_BY_LOSSES = ("rifd", "ifd", "likelihood", "s-ifd")
_BY_MORE = ("combined", "teacher-score")
_HALF = 0.5


def _by(name: str, *, at_length: bool = False) -> Arm:
    measure = MEASURES[name]
    return Arm(
        name + (AT_LENGTH if at_length else ""),
        f"the better by {measure.label}" + (" at equal length" if at_length else ""),
        {"response_by": name} | ({"length_control": True} if at_length else {}),
        measure=name + (AT_LENGTH if at_length else ""),
        needs=_NEEDS.get(measure.source, ""),
        on_request=at_length,
    )


def _half(name: str, words: str, by: str) -> Arm:
    return Arm(name, f"half of the rewrites: {words}", {"response_by": "reflected", "top_by": by}, part=_HALF)


ARMS = (
    Arm(ORIGINAL, "every original", {"response_by": "original"}),
    Arm("rewrites", "every rewrite", {"response_by": "reflected"}),
    Arm("known", "what GPT-4 said is better", {"response_by": "reflected"}, known=True),
    Arm("random", "either, at random", {"response_by": "random"}),
    *(_by(name) for name in _BY_LOSSES),
    # Another name than this arm had while it asked the gate on coherence too: parts of that one are no part of it.
    Arm("text-gates", "every rewrite that no gate of texts stops", {"response_by": "reflected"}, gated=True),
    _half("half-random", "drawn", "random"),
    _half("half-longest", "the longest", "length"),
    _half("half-ifd", "of the highest IFD", "ifd"),
    _half("half-facility", "those that lie nearest to all", "facility"),
    *(_by(name) for name in _BY_MORE),
    *(_by(name, at_length=True) for name in (*_BY_LOSSES, *_BY_MORE)),
)


def by_name(name: str) -> Arm:
    """The arm of this name."""
    return next(arm for arm in ARMS if arm.name == name)


def arms_of(replay: Replay, only: list[str]) -> list[Arm]:
    """The arms of a replay in their order: those named, or all that are not on request."""
    return [
        arm
        for arm in ARMS
        if (arm.name in (ORIGINAL, *only) if only else not arm.on_request)
        and (replay == "mixed" or not arm.known)
    ]
