"""What a pilot came to, as it is stored and as ``srtui pilot --json`` prints it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from srtui.errors import UserError
from srtui.evaluation.statistics import Estimate, no_estimate
from srtui.pilot.limits import Limit
from srtui.pilot.strata import Stratum
from srtui.pilot.verdict import Verdict


@dataclass(frozen=True)
class StratumCount:
    """A stratum without its ids: lengths in characters, ``of`` samples in the data set, ``chosen`` in the pilot."""

    kind: str
    shortest: int
    longest: int
    of: int
    chosen: int

    @classmethod
    def of_stratum(cls, s: Stratum) -> StratumCount:
        """Its counts."""
        return cls(s.kind, s.shortest, s.longest, s.of, len(s.chosen))


@dataclass(frozen=True)
class TargetResult:
    """What became of the samples at one target. ``failed`` is by reason, ``gated`` counts rewrites that gates of the
    recipe have stopped; shares have Wilson intervals."""

    asked: int
    first_try: int
    after_retries: int
    failed: dict[str, int]
    parsed: Estimate
    cut: Estimate
    taken: Estimate
    gated: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Forecast:
    """What the whole run takes beside what the pilot has done, in seconds and bytes. ``fixed`` are seconds that do not
    depend on the number of samples; ``total`` is with them and without training; ``training`` is by earlier
    trainings of this student here, without a value where there was none. ``disk`` is the store's growth, ``memory``
    the most that the pilot's engine held. ``history``: stages whose speed is that of earlier runs, since all of
    the pilot's work was stored already."""

    left: int
    fixed: float
    stages: dict[str, Estimate]
    total: Estimate
    training: Estimate
    disk: Estimate
    memory: float
    speed: dict[str, float]
    history: list[str]
    past: list[float] = field(default_factory=list)
    """How much more than forecast the runs of earlier pilots took here, as a share, the newest first; the total is
    corrected by them."""


@dataclass(frozen=True)
class PilotExample:
    """One sample before and after: (instruction, input, response). ``gates`` are the reasons by the gates of
    srtui.gates that stop, or would stop, one of its rewrites; ``taken`` says by target whether the student took it."""

    sample: int
    row: int
    before: tuple[str, str, str]
    after: tuple[str, str, str] | None
    taken: dict[str, bool]
    why: str
    gates: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PilotResult:
    """All of it. ``of`` is how many samples the run will have; ``gates`` are, by gate, shares of the samples with a
    rewrite that it would stop, also where the recipe has it off (``active_gates`` are on)."""

    run: str
    recipe: str
    teacher: str
    student: str
    samples: int
    of: int
    strata: list[StratumCount]
    targets: dict[str, TargetResult]
    limits: list[Limit]
    kept: Estimate
    gates: dict[str, Estimate]
    active_gates: list[str]
    template: str
    at_or_over_one: Estimate
    forecast: Forecast
    examples: list[PilotExample]
    verdict: Verdict
    calibrated: list[str] = field(default_factory=list)
    """What is known of each measure that it chose by, with this student, a sentence each."""
    own_rating: Estimate = field(default_factory=no_estimate)
    """The share of the new answers that the teacher itself, shown both in either order, prefers to the old ones."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PilotResult:
        """What was stored, read back. Raises UserError where something of it is missing."""
        try:
            return cls._from_json(value)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"What the pilot came to does not read ({error!r}): delete its run in the dashboard, and pilot again."
            ) from error

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> PilotResult:
        return cls(
            **{
                **value,
                "strata": [StratumCount(**s) for s in value["strata"]],
                "targets": {name: TargetResult(**t) for name, t in value["targets"].items()},
                "limits": [Limit(**x) for x in value["limits"]],
                "forecast": Forecast(**value["forecast"]),
                "examples": [
                    PilotExample(
                        **{
                            **e,
                            "before": tuple(e["before"]),
                            "after": tuple(e["after"]) if e["after"] else None,
                        }
                    )
                    for e in value["examples"]
                ],
                "verdict": Verdict(**value["verdict"]),
            }
        )
