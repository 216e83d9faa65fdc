"""What a pilot may come to, without one."""

from __future__ import annotations

from srtui.evaluation.statistics import no_estimate, wilson
from srtui.pilot.result import Forecast, PilotExample, PilotResult, StratumCount, TargetResult
from srtui.pilot.verdict import Verdict

NONE = no_estimate()
TARGET = TargetResult(24, 20, 0, {"cut_response": 4}, wilson(20, 24), wilson(4, 24), wilson(9, 20))
RESULT = PilotResult(
    run="quickstart.pilot",
    recipe="quickstart",
    teacher="t",
    student="s",
    samples=24,
    of=5000,
    strata=[StratumCount("plain", 10, 90, 5000, 24)],
    targets={"instruction": TARGET, "response": TARGET},
    limits=[],
    kept=wilson(9, 24),
    gates={"about_the_task": wilson(1, 20)},
    active_gates=[],
    template="alpaca",
    at_or_over_one=wilson(2, 24),
    forecast=Forecast(4976, 30.0, {}, NONE, NONE, NONE, 5e8, {}, []),
    examples=[
        PilotExample(1, 0, ("old words", "", "x"), ("new words", "", "y"), {"response": True}, "taken")
    ],
    verdict=Verdict("change", "raise answer_tokens to 640 first.", ["reflection.answer_tokens=640"]),
)
