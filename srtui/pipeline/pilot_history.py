"""What came of earlier pilots' forecasts in this store: they correct the next one, and say how far it may be off."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from srtui.errors import UserError
from srtui.evaluation.statistics import Estimate
from srtui.pilot.result import Forecast
from srtui.store import Store
from srtui.store.stages import STEPS

_LOOP = ("reflect-instruction", "choose-instruction", "reflect-response", "choose-response")
_LOOKED_AT = 20
_SHOWN = 5


class ForecastOutcome(NamedTuple):
    """What a whole run took beside its pilot: over what was computed, and over what was shown, less one."""

    ratio: float
    off: float


def forecast_outcomes(store: Store, teacher: str, student: str) -> list[ForecastOutcome]:
    """Of the pilots with this teacher and student whose whole run is done and computed exactly the rest, the newest
    first."""
    outcomes: list[ForecastOutcome] = []
    for pilot in store.runs.pilots(_LOOKED_AT):
        if (pilot["teacher"], pilot["student"]) != (teacher, student):
            continue
        try:
            run = store.runs.named(pilot["recipe"])
        except UserError:  # it was not run, or is gone
            continue
        forecast, stages = pilot["forecast"], store.runs.stages(run.id)
        loop = [stages[name] for name in _LOOP if name in stages]
        fresh = {stage.done - stage.reused for stage in loop if stage.stage.startswith("reflect-")}
        shown, parts = forecast["total"]["value"], [e["value"] for e in forecast["stages"].values()]
        if run.status != "done" or fresh != {forecast["left"]} or not shown or None in parts:
            continue
        took = sum(s.seconds for s in loop)
        took += sum(s.seconds for name, s in stages.items() if name in (*STEPS, "check-template"))
        computed = forecast["fixed"] + sum(parts)
        if took > 0 and computed > 0:
            outcomes.append(ForecastOutcome(took / computed, took / shown - 1))
    return outcomes[:_SHOWN]


def corrected(forecast: Forecast, outcomes: Sequence[ForecastOutcome]) -> Forecast:
    """A forecast whose total is what such runs took here, by the median of the outcomes; as it was without any."""
    if not outcomes:
        return forecast
    ratio, total = statistics.median(o.ratio for o in outcomes), forecast.total

    def scaled(value: float | None) -> float | None:
        return None if value is None else value * ratio

    likely = Estimate(
        value=scaled(total["value"]), low=scaled(total["low"]), high=scaled(total["high"]), n=total["n"]
    )
    return replace(forecast, total=likely, past=[o.off for o in outcomes])
