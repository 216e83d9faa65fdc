"""What a training reports, into the store and to whoever watches; and how far its forecast was off."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from srtui.llama.tuning import machine
from srtui.training import Listener, Preflight, TrainingResult, WrittenCheckpoint
from srtui.training.preflight import PastForecast

if TYPE_CHECKING:
    from srtui.pipeline.context import Context


class TrainingRecord(Listener):
    """What training reports, into the store and to whoever watches."""

    def __init__(self, context: Context, training_id: int, steps: int, max_length: int) -> None:
        self._context, self._id, self._steps, self._max_length = context, training_id, steps, max_length
        self._tokens_before = 0
        self._planned: Preflight | None = None
        self._resumed = False
        self._machine = machine()
        self._what = "samples" if context.recipe.training.method == "sft" else "pairs"

    def planned(self, facts: Preflight) -> None:
        """The plan into the store, and its forecast to people."""
        facts = replace(facts, past=self._past())
        self._planned = facts
        self._context.store.training.set_plan(self._id, facts.facts())
        self._context.watch.event("info", facts.sentence(self._max_length, self._what))

    def _past(self) -> list[PastForecast]:
        """What came of forecasts of this student's trainings on this machine."""
        student, pasts = self._context.recipe.student, []
        for f, took in self._context.store.training.past_forecasts(
            student.model, student.quantization, self._machine
        ):
            if min(*f.values(), took["memory"], took["seconds"]) > 0:
                pasts.append(
                    PastForecast(
                        seconds_ratio=took["seconds"] / f["seconds"],
                        memory_ratio=took["memory"] / f["memory"],
                        shown_seconds_off=took["seconds"] / f["shown_seconds"] - 1,
                        shown_memory_off=took["memory"] / f["shown_memory"] - 1,
                    )
                )
        return pasts

    def forecast_facts(self, result: TrainingResult) -> dict[str, Any]:
        """What was forecast, and what it took, for the result; nothing of a training that was resumed, whose forecast
        is of its rest, and of one elsewhere."""
        facts = self._planned
        if facts is None or self._resumed or self._context.place.workers():
            return {}
        return {
            "forecast": {
                "machine": self._machine,
                "seconds": facts.seconds,
                "memory": facts.loaded + facts.memory,
                "shown_seconds": facts.likely_seconds,
                "shown_memory": facts.likely_memory,
            },
            "took": {"seconds": result.seconds, "memory": result.memory},
        }

    def begins(self, step: int, tokens: int) -> None:
        """Metrics of later steps go: they are trained once more."""
        self._tokens_before = tokens
        self._resumed = step > 0
        self._context.store.training.rewind(self._id, step)
        if step:
            self._context.watch.event(
                "info", f"Training resumes from the checkpoint of step {step} of {self._steps}."
            )

    def metric(self, step: int, values: dict[str, float]) -> None:
        """The figures of a step."""
        self._context.store.training.add_metrics(self._id, step, values)
        detail = {k: round(v, 6) for k, v in values.items() if k in ("loss", "learning_rate")}
        tokens = round(values["tokens"]) - self._tokens_before
        self._context.watch.report_progress(step, self._steps, tokens, detail, now=True)

    def saved(self, written: WrittenCheckpoint) -> None:
        """A checkpoint is there."""
        path = str(written.path.relative_to(self._context.workspace.root))
        self._context.store.training.add_checkpoint(
            self._id, written.step, path, written.bytes, written.seconds
        )

    def removed(self, step: int) -> None:
        """A checkpoint made room."""
        self._context.store.training.mark_checkpoint(self._id, step, "removed")

    def refused(self, step: int, why: str) -> None:
        """A checkpoint is damaged."""
        self._context.store.training.mark_checkpoint(self._id, step, "corrupt")
        self._context.watch.event(
            "warning", f"The checkpoint of step {step} is not used: {why}. The one before it is."
        )

    def note(self, message: str) -> None:
        """A sentence for people."""
        self._context.watch.event("info", message)
