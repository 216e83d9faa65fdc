"""What a training on preferences is given: the run's pairs as spans, with what the reference makes of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from srtui.errors import UserError
from srtui.evaluation.statistics import bootstrap_mean, wilson
from srtui.models import file_sha256
from srtui.pipeline.holdout import asked
from srtui.pipeline.tuned import trained_adapter, trained_student
from srtui.preferences import PairMaker, PreferencePair, pair_maker
from srtui.recipe import Recipe
from srtui.store.comparisons import answer_comparisons

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from srtui.pipeline.context import Context
    from srtui.pipeline.variants import VariantScorer
    from srtui.prompts.prompt_set import TemplateText
    from srtui.store import Store
    from srtui.store.runs import Run
    from srtui.student import SpanBuilder
    from srtui.training.preference_loss import Rewards
    from srtui.training.training_pair import TrainingPair
    from srtui.workspace import Workspace


def pairs_to_train_on(
    store: Store, run: Run, recipe: Recipe, *, held_out: bool
) -> tuple[list[PreferencePair], PairMaker]:
    """The pairs of a run's choices, whether or not the sample itself is kept, and what gave none; a person's are
    among them whatever their margin.

    Args:
        store: where the choices are.
        run: whose choices.
        recipe: of the run; its training says which of the beaten answers count, and from which margin on.
        held_out: those of the samples that are held out, else of the others.
    """
    training = recipe.training
    maker = pair_maker(recipe, rejected=training.rejected, min_margin=training.min_margin, people_first=True)
    pairs = maker.pairs(answer_comparisons(store.conn, run.id, maker.stored_metric, held_out=held_out))
    return list(pairs), maker


def training_pairs(
    spans: SpanBuilder, pairs: Sequence[PreferencePair]
) -> tuple[list[TrainingPair], Counter[str]]:
    """The pairs as they are trained on, each answer with the end of its turn; and how many cannot be, by reason."""
    from srtui.student import Invalid
    from srtui.training.training_pair import TrainingPair

    examples: list[TrainingPair] = []
    left_out: Counter[str] = Counter()
    for pair in pairs:
        sides = [spans.forward(text)[0] for text in pair.pairs]
        why = next((side.reason for side in sides if isinstance(side, Invalid)), None)
        if why is not None:
            left_out[why] += 1
            continue
        chosen, rejected = (
            side.ended(spans.end_of_turn, spans.max_length) for side in sides if not isinstance(side, Invalid)
        )
        if chosen == rejected:
            left_out["both answers are cut to the same tokens"] += 1
        else:
            examples.append(TrainingPair(chosen, rejected, sample=pair.sample_id))
    return examples, left_out


def with_reference(
    context: Context, scorer: VariantScorer, pairs: Sequence[TrainingPair]
) -> tuple[list[TrainingPair], Counter[str]]:
    """The pairs with the log-probabilities of ``scorer``'s student as it is, which are stored like all losses: most
    of them are there from the choices. Raises Stopped when asked to stop."""
    spans = [span for pair in pairs for span in (pair.chosen, pair.rejected)]
    losses = scorer.span_losses(spans, context.watch.should_stop)
    context.watch.raise_if_stopped()
    referenced: list[TrainingPair] = []
    left_out: Counter[str] = Counter()
    for n, pair in enumerate(pairs):
        chosen, rejected = losses[2 * n : 2 * n + 2]
        if chosen.nll is None or rejected.nll is None:
            left_out[chosen.reason or rejected.reason or "no loss"] += 1
        else:
            referenced.append(replace(pair, reference=(-chosen.nll, -rejected.nll)))
    return referenced, left_out


def unseen_pairs(pairs: Sequence[PreferencePair], seen_questions: set[int]) -> list[PreferencePair]:
    """Those whose question is none of ``seen_questions`` (keys of :func:`srtui.pipeline.holdout.asked`)."""
    return [p for p in pairs if asked(p.pairs[0]) not in seen_questions]


def first_adapter(workspace: Workspace, store: Store, recipe: Recipe) -> Path | None:
    """The adapter that a recipe's training starts from, None where it makes a new one. Raises UserError where there
    is none, or where it is not one of this student and these settings."""
    name, settings = recipe.training.from_run, recipe.training
    if name is None:
        return None
    before = store.runs.named(name)
    student_before, student = before.recipe["student"], recipe.student
    if (student_before["model"], student_before["quantization"]) != (student.model, student.quantization):
        raise UserError(
            f"training.from_run = {name!r}: its student is {student_before['model']} in {student_before['quantization']}, and this "
            f"recipe's is {student.model} in {student.quantization}; set student.model and student.quantization to the same."
        )
    if before.recipe["prompt"]["template"] != recipe.prompt.template:
        raise UserError(
            f"training.from_run = {name!r}: it was trained under the template {before.recipe['prompt']['template']!r}; "
            "set prompt.template to the same."
        )
    if _layout(Recipe.model_validate(before.recipe)) != _layout(recipe):
        raise UserError(
            f"training.from_run = {name!r}: its prompts file has other words for the template "
            f"{recipe.prompt.template!r}; name the same file in prompts."
        )
    trained_student(workspace, store, before)
    trained = {**type(settings)().model_dump(), **before.recipe.get("training", {})}
    for key in ("lora_rank", "lora_alpha", "rslora", "dora"):
        if trained[key] != getattr(settings, key):
            raise UserError(
                f"training.from_run = {name!r}: its adapter has {key} = {trained[key]}; set training.{key} to the same."
            )
    folder = trained_adapter(workspace, store, before)
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"{folder}: its adapter_model.safetensors is not there any more; run {name} again.")
    return folder


def adapter_mark(adapter: Path | None) -> str:
    """What a run's fingerprint has of the adapter that its training starts from; "" where it starts from none."""
    return "" if adapter is None else f"-{file_sha256(adapter / 'adapter_model.safetensors')[:8]}"


def _layout(recipe: Recipe) -> TemplateText | None:
    """What the recipe's own prompts file makes of its template; None where it leaves it as it is."""
    return recipe.prompts.templates.get(recipe.prompt.template) if recipe.prompts else None


def trained_on_before(store: Store, recipe: Recipe, run: Run) -> int:
    """How many samples that this run holds out the run that it starts from has trained on."""
    if recipe.training.from_run is None:
        return 0
    before = store.runs.named(recipe.training.from_run)
    samples_before = {sample for sample, _ in store.decisions.selected(before.id, held_out=False)}
    return len(samples_before.intersection(store.decisions.held_out(run.id)))


def reward_facts(rewards: Rewards) -> dict[str, Any]:
    """Margin and accuracy of held-out pairs with their intervals, as a training's result keeps them. The pairs of
    one sample count as one, with their mean; ``n`` are samples."""
    groups = rewards.by_sample
    above = math.fsum(sum(margin > 0 for margin in group) / len(group) for group in groups)
    return {
        "margin": bootstrap_mean([math.fsum(group) / len(group) for group in groups]),
        "accuracy": wilson(above, len(groups)),
    }
