"""The last stage: QLoRA on what was selected, or on the pairs of what was chosen and what it beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from srtui.errors import UserError
from srtui.pipeline.context import Context
from srtui.pipeline.decontaminate import QuestionSearch, asked_in, known_prompts
from srtui.pipeline.holdout import asked, unseen
from srtui.pipeline.preference_data import (
    adapter_mark,
    first_adapter,
    pairs_to_train_on,
    reward_facts,
    trained_on_before,
    training_pairs,
    unseen_pairs,
    with_reference,
)
from srtui.pipeline.ranking import score_what_is_ranked, trained_on
from srtui.pipeline.recipe_models import student_path
from srtui.pipeline.training_record import TrainingRecord
from srtui.progress import Stopped
from srtui.sample import Pair
from srtui.store.conversations import conversations_of
from srtui.store.corpus import Variant
from srtui.store.figures import counts, means
from srtui.training import TrainingData, planned_steps

if TYPE_CHECKING:
    from srtui.pipeline.variants import VariantScorer
    from srtui.student import Span, SpanBuilder
    from srtui.training.training_pair import TrainingPair


def train_selected(context: Context) -> None:
    """Train the student's adapter, unless that is done; one that was begun is resumed from its last
    checkpoint. Raises Stopped when asked to stop."""
    store, run_id, watch, recipe = context.store, context.run.id, context.watch, context.recipe
    earlier = store.training.of_run(run_id)
    if earlier is not None and earlier.status != "running":
        return
    seed = recipe.seed if recipe.training.seed is None else recipe.training.seed
    settings = recipe.training.model_copy(update={"seed": seed})
    material = _samples(context) if settings.method == "sft" else _pairs(context)
    examples, left_out = material.examples, material.left_out
    steps = planned_steps(len(examples), settings)
    if earlier is not None and (earlier.examples, earlier.steps) == (len(examples), steps):
        training_id = earlier.id
    else:
        training_id = store.training.start(run_id, len(examples), steps)
    if left_out:
        why = ", ".join(f"{count:,} {reason}" for reason, count in sorted(left_out.items()))
        watch.event(
            "warning",
            f"{left_out.total():,} of the {material.chosen:,} {material.what} have no answer within "
            f"{recipe.prompt.max_length:,} tokens to train on and are left out ({why}).",
        )
    if not examples:
        reason = material.nothing
        store.training.finish(training_id, f"skipped: {reason}", 0, 0.0, None, {})
        watch.event("warning", f"Nothing was trained: {reason}.")
        return
    _look_at_the_run_before(context)
    endings = means(store, run_id).endings
    if endings["cut"]:
        watch.event(
            "warning",
            f"{endings['cut']:,} of the texts that are kept were cut short by an older srtui; "
            "a run of another name writes them anew.",
        )
    if endings["unknown"]:
        watch.event(
            "warning",
            f"{endings['unknown']:,} of the texts that are kept were imported, or written by an older srtui: "
            "whether they were cut short is not known.",
        )
    from srtui.student import StudentSource

    scorer = _starting_student(context)
    passes = steps * settings.batch_size / len(examples)
    _look_for_evaluation_prompts(context, material.texts, scorer, passes)
    watch.report_progress(0, steps, 0, {}, now=True)
    source = StudentSource(
        student_path(context.workspace, recipe.student.model, recipe.student.quantization),
        recipe.student.quantization,
        adapter=first_adapter(context.workspace, store, recipe),
    )
    watch.note_memory()  # a training counts its own peak from its beginning
    record = TrainingRecord(context, training_id, steps, scorer.spans.max_length)
    result = context.place.train(
        scorer.student,
        source,
        TrainingData(examples, settings, material.held_out, material.held_out_pairs),
        context.workspace.runs / context.run.name / "adapter",
        record,
        watch.should_stop,
    )
    context.unload_students()  # this one has an adapter now
    if result is None:
        raise Stopped
    if not result.changed:
        watch.event(
            "warning",
            "Training changed nothing: the adapter is what it was made with, so the tuned student is the "
            "untuned one. Look at training.learning_rate and training.epochs.",
        )
    store.training.finish(
        training_id,
        "done",
        result.tokens,
        result.seconds,
        str(result.adapter_dir.relative_to(context.workspace.root)),
        {
            "first_loss": result.first_loss,
            "last_loss": result.last_loss,
            "steps": result.steps,
            "kept_step": result.kept_step,
            "examples": len(examples),
            "arithmetic": result.arithmetic,
            "changed": result.changed,
            "held_out": result.held_out,
            **record.forecast_facts(result),
            **({"rewards": reward_facts(result.rewards)} if result.rewards else {}),
        },
    )


@dataclass(frozen=True)
class _Material:
    """What a training is given. ``what`` are the ``chosen`` things that examples were made of, of ``texts`` by sample;
    ``nothing`` says why there is no example."""

    examples: list[Any]
    held_out: dict[str, list[Span]]
    left_out: Counter[str]
    chosen: int
    what: str
    nothing: str
    texts: list[tuple[int, Pair]] = field(default_factory=list)
    held_out_pairs: list[TrainingPair] = field(default_factory=list)


def _starting_student(context: Context) -> VariantScorer:
    """The student that is trained: as it chose, or with the adapter of the run that it continues."""
    adapter = first_adapter(context.workspace, context.store, context.recipe)
    if adapter_mark(adapter) not in context.run.fingerprint:
        # Resumed, or trained again, when another run has come by that name.
        raise UserError(
            f"Run {context.run.name} was begun from another adapter than run {context.recipe.training.from_run} has "
            "now; start its recipe again with srtui run: all texts and scores are used again."
        )
    return context.variant_scorer() if adapter is None else context.tuned(adapter)


def _samples(context: Context) -> _Material:
    """The answers that were taken, and held-out ones."""
    store, run_id = context.store, context.run.id
    score_what_is_ranked(context)
    chosen = trained_on(store, store.runs.get(run_id), context.watch.should_stop)
    context.watch.raise_if_stopped()
    if not chosen:
        return _Material([], {}, Counter(), 0, "selected samples", "no sample was selected")
    variants = store.corpus.variants(v for _, v in chosen)
    spans = _starting_student(context).spans
    texts = [variants[v] for _, v in chosen]
    examples, left_out = _examples(spans, texts, conversations_of(store.conn, [s for s, _ in chosen]))
    sequences = len(examples) + left_out.total()
    if sequences < len(chosen):
        context.watch.event(
            "info",
            f"{len(chosen):,} selected samples are trained as {sequences:,} sequences: those of a conversation in "
            "which each continues the last, unchanged, are one, with a loss on each answer.",
        )
    seen_questions = {asked(v.pair) for v in variants.values()}
    return _Material(
        examples,
        _held_out(context, spans, seen_questions) if examples else {},
        left_out,
        len(chosen),
        "selected samples",
        "no selected sample has an answer to train on",
        [(v.sample_id, v.pair) for v in variants.values()],
    )


def _pairs(context: Context) -> _Material:
    """The pairs of the run's choices, with what the student makes of them before training, and held-out ones."""
    store, run, recipe = context.store, context.run, context.recipe
    pairs, maker = pairs_to_train_on(store, run, recipe, held_out=False)
    if not pairs:
        why = ", ".join(f"{count:,} {why}" for why, count in sorted(maker.left_out.items()) if count)
        return _Material([], {}, Counter(), 0, "pairs", f"no choice gives a pair ({why or 'none was made'})")
    scorer = _starting_student(context)
    examples, left_out = training_pairs(scorer.spans, pairs)
    seen_questions = {asked(p.pairs[0]) for p in pairs}
    set_aside = unseen_pairs(pairs_to_train_on(store, run, recipe, held_out=True)[0], seen_questions)
    held, _ = training_pairs(scorer.spans, set_aside)
    if recipe.training.method == "dpo":
        examples, without_reference = with_reference(context, scorer, examples)
        left_out += without_reference
        held, _ = with_reference(context, scorer, held)
    return _Material(
        examples, _held_out(context, scorer.spans, seen_questions), left_out, len(pairs), "pairs",
        "no pair has answers to train on", [(p.sample_id, text) for p in pairs for text in p.pairs], held,
    )  # fmt: skip


def _look_at_the_run_before(context: Context) -> None:
    """Say what of the run whose adapter training starts from is not as people would think."""
    name, store = context.recipe.training.from_run, context.store
    if name is None:
        return
    if shared := trained_on_before(store, context.recipe, context.run):
        context.watch.event(
            "warning",
            f"{shared:,} samples that this run holds out were trained on by run {name}: what is "
            "measured on them says nothing of unseen ones. Give both runs the same seed and training.held_out.",
        )
    overruled_before, overruled_now = (
        counts(store.conn, run.id).overruled for run in (store.runs.named(name), context.run)
    )
    if overruled_before and not overruled_now:
        context.watch.event(
            "warning",
            f"A person took {overruled_before:,} texts in run {name} and none in this one: a choice is of its run, so training "
            f"does not see these. Take them here, and then: srtui retrain {context.run.name}",
        )


_WORTH = 0.1
"""The share of the training's own work that a search by meaning may take before it."""


def _look_for_evaluation_prompts(
    context: Context, texts: list[tuple[int, Pair]], scorer: VariantScorer, passes: float
) -> None:
    """Say how many of the texts that are trained on hold a prompt that this workspace has evaluated with: by their
    words, and by meaning where that costs little. Raises Stopped.

    Args:
        context: of the run.
        texts: by sample id, what is trained on.
        scorer: the student that is trained, which embeds.
        passes: how often each text is trained on.
    """
    prompts = known_prompts(context.store)
    if not len(prompts):
        return
    # A training step is a pass forwards and one backwards, which costs twice as much.
    questions = [asked_in(pair)[0] for _, pair in texts]
    read = sum(map(len, questions)) + sum(map(len, prompts.texts))
    share = read / max(1.0, 3 * passes * sum(len(text) for _, pair in texts for text in pair.texts))
    meaning = None
    if share <= _WORTH:
        meaning = QuestionSearch(scorer, prompts.texts, questions, should_stop=context.watch.should_stop)
    else:
        context.watch.event(
            "info",
            f"Evaluation prompts are looked for by their words alone: by meaning it would take {share:.0%} of what "
            "training takes. srtui data decontaminate --student does it.",
        )
    overlaps = prompts.search(texts, meaning)
    contamination = overlaps.contamination
    context.store.datasets.set_contamination(context.run.id, contamination)
    if contamination.held:
        sample_ids = ", ".join(str(prompt.sample_id) for prompt in overlaps.found[:3])
        context.watch.event(
            "warning",
            f"{contamination.held:,} of the {contamination.texts:,} texts that are trained on hold a prompt that this workspace has "
            f"evaluated with (samples {sample_ids}{', ...' if len(overlaps.found) > 3 else ''}); leave them out with: "
            "srtui data decontaminate --drop",
        )
    if near := [overlap for overlap in overlaps.found if overlap.kind == "meaning"]:
        sample_ids = ", ".join(f"{overlap.sample_id} ({overlap.cosine:.2f})" for overlap in near[:3])
        context.watch.event(
            "info",
            f"{len(near):,} of the texts that are trained on may ask in other words what this workspace has evaluated "
            f"with (samples {sample_ids}{', ...' if len(near) > 3 else ''}): worth a look.",
        )


def _examples(
    spans: SpanBuilder, variants: list[Variant], of: Mapping[int, int] | None = None
) -> tuple[list[Span], Counter[str]]:
    """The spans that were scored, each with the end of its turn; and how many have none, by reason. Where
    conversations are given, ``of`` (by sample), those of one are one sequence as far as that is the same."""
    from srtui.student import Invalid
    from srtui.student.spans import as_one

    spans_made: list[Span] = []
    together: dict[int, list[Span]] = {}
    left_out: Counter[str] = Counter()
    for variant in variants:
        span, _ = spans.forward(variant.pair)
        if isinstance(span, Invalid):
            left_out[span.reason] += 1
            continue
        span = span.ended(spans.end_of_turn, spans.max_length)
        conversation = (of or {}).get(variant.sample_id)
        if conversation is None:
            spans_made.append(span)
        else:
            together.setdefault(conversation, []).append(span)
    for group in together.values():
        spans_made += as_one(group)
    return spans_made, left_out


def _held_out(context: Context, spans: SpanBuilder, seen_questions: set[int]) -> dict[str, list[Span]]:
    """Held-out samples with their original responses, and with those that were selected; none whose question
    (``seen_questions``, by key) is trained on, be it that a rewrite made it so."""
    store, run_id = context.store, context.run.id
    originals = list(store.corpus.originals(run_id, held_out=True).values())
    chosen = store.corpus.variants(v for _, v in store.decisions.selected(run_id, held_out=True))
    held = {"original": originals, "selected": list(chosen.values())}
    kept = {name: unseen(variants, seen_questions) for name, variants in held.items()}
    dropped = sum(len(held[name]) - len(kept[name]) for name in held)
    if dropped:
        context.watch.event(
            "info", f"{dropped:,} held-out texts ask what a training text asks and are not measured."
        )
    held_out_spans = {name: _examples(spans, variants)[0] for name, variants in kept.items()}
    return {name: examples for name, examples in held_out_spans.items() if examples}
