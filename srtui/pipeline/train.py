"""The last stage: QLoRA on what was selected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtui.pipeline.context import Context, student_path
from srtui.store.corpus import Variant

if TYPE_CHECKING:
    from srtui.scoring import SpanBuilder
    from srtui.training import TrainExample


def train_selected(context: Context) -> None:
    """Train the student's adapter, unless that is done. Raises Stopped when asked to stop."""
    from srtui.training import TrainingConfig, planned_steps, train

    runs, run_id, watch, recipe = context.store.runs, context.run.id, context.watch, context.recipe
    finished = runs.training(run_id)
    if finished is not None and finished["status"] != "running":
        return
    chosen = context.store.work.selected(run_id, held_out=False)
    settings = recipe.training.model_dump(exclude={"enabled", "held_out"})
    config = TrainingConfig(**settings, seed=recipe.seed)
    steps = planned_steps(len(chosen), config)
    training_id = runs.start_training(run_id, len(chosen), steps)
    if not chosen:
        reason = "no sample was selected"
        runs.finish_training(training_id, f"skipped: {reason}", 0, 0.0, None, {})
        watch.event("warning", f"Nothing was trained: {reason}.")
        return
    judge = context.judge()
    variants = context.store.corpus.variants(v for _, v in chosen)
    examples = _examples(judge.spans, [variants[v] for _, v in chosen])
    held = _held_out(context, judge.spans)
    told = {"tokens": 0}

    def on_metric(step: int, values: dict[str, float]) -> None:
        told["tokens"] = int(values.get("tokens", told["tokens"]))
        runs.training_metrics(training_id, step, values)
        detail = {k: round(v, 4) for k, v in values.items() if k in ("loss", "learning_rate")}
        watch.tell(min(step, steps), steps, told["tokens"], detail, now=True)

    watch.tell(0, steps, 0, {}, now=True)
    result = train(
        student_path(context.workspace, recipe.student.model, recipe.student.quantization),
        examples,
        held,
        config,
        context.workspace.runs / context.run.name / "adapter",
        on_metric=on_metric,
        should_stop=watch.should_stop,
        student=judge.student,
    )
    context.forget_students()  # this one has an adapter now
    watch.raise_if_stopped()
    runs.finish_training(
        training_id,
        "done",
        result.tokens,
        result.seconds,
        str(result.adapter_dir.relative_to(context.workspace.root)),
        {
            "first_loss": result.first_loss,
            "last_loss": result.last_loss,
            "steps": result.steps,
            "examples": len(examples),
            "held_out": result.held_out,
        },
    )


def _examples(spans: SpanBuilder, variants: list[Variant]) -> list[TrainExample]:
    """The very spans that were scored."""
    from srtui.scoring import Invalid
    from srtui.training import TrainExample

    made = (spans.forward(variant.pair)[0] for variant in variants)
    return [TrainExample(span.ids, span.target) for span in made if not isinstance(span, Invalid)]


def _held_out(context: Context, spans: SpanBuilder) -> dict[str, list[TrainExample]]:
    """Held-out samples with their original responses, and with those that were selected."""
    store, run_id = context.store, context.run.id
    ids = set(store.work.held_out(run_id))
    originals = [v for i, v in store.corpus.originals(run_id).items() if i in ids]
    chosen = [v for _, v in store.work.selected(run_id, held_out=True)]
    held = {
        "original": _examples(spans, originals),
        "selected": _examples(spans, list(store.corpus.variants(chosen).values())),
    }
    return {name: examples for name, examples in held.items() if examples}
