"""What the gates would stop among the rewrites that a run has: to know a gate before a recipe turns it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from srtui.gates import GATES, TEXT_GATES, Gated, all_gates
from srtui.pipeline.coherence import Coherence
from srtui.pipeline.embedding import Embedder
from srtui.pipeline.recipe_models import CHUNK
from srtui.pipeline.values import fitted_on
from srtui.recipe import Recipe
from srtui.sample import Target
from srtui.store import Store
from srtui.store.corpus import batched
from srtui.store.runs import Run

EXAMPLES = 3
"""Stopped rewrites of each gate that are named."""


@dataclass
class StoppedRewrite:
    """A rewrite that a gate would stop: its sample, the stage that wrote it, and why."""

    sample_id: int
    stage: str
    variant_id: int
    reason: str


@dataclass
class GateTrial:
    """One gate over a run's rewrites: how many it would stop, how many of these the student took, the first few."""

    gate: str
    words: str
    stopped: int = 0
    taken: int = 0
    examples: list[StoppedRewrite] = field(default_factory=list)


@dataclass
class GateTrials:
    """All gates over the ``rewrites`` of a run. ``any_stopped`` counts rewrites that at least one would stop, and
    ``any_taken`` those of them that the student took, of ``taken`` in all."""

    run: str
    rewrites: int
    taken: int
    any_stopped: int
    any_taken: int
    gates: list[GateTrial]


def try_gates(
    store: Store, run: Run, examples: int = EXAMPLES, coherence: Coherence | None = None
) -> GateTrials:
    """Ask every gate about every rewrite that a run had to choose from; no decision is stored.

    Args:
        store: with the run.
        run: whose rewrites they are.
        examples: stopped rewrites of each gate that are named.
        coherence: asked too, where it is given; the other gates look at the texts alone.
    """
    asked = (*TEXT_GATES, "coherence") if coherence is not None else TEXT_GATES
    by_name = {name: GateTrial(name, GATES[name].words) for name in asked}
    trials = GateTrials(run.name, 0, 0, 0, 0, list(by_name.values()))
    for block in batched(store.generations.rewrites(run.id), CHUNK):
        incoherent = (
            coherence.reasons([(r.before, r.after) for r in block]) if coherence else [""] * len(block)
        )
        for rewrite, why in zip(block, incoherent, strict=True):
            trials.rewrites += 1
            trials.taken += rewrite.taken
            target: Target = "instruction" if rewrite.stage == "instruction" else "response"
            signs = list(all_gates(rewrite.before, rewrite.after, target))
            if why:
                signs.append(Gated("coherence", f"{GATES['coherence'].words}: {why}"))
            trials.any_stopped += bool(signs)
            trials.any_taken += bool(signs) and rewrite.taken
            for name, reason in signs:
                trial = by_name[name]
                trial.stopped += 1
                trial.taken += rewrite.taken
                if len(trial.examples) < examples:
                    trial.examples.append(
                        StoppedRewrite(rewrite.sample_id, rewrite.stage, rewrite.variant_id, reason)
                    )
    return trials


def coherence_of(
    store: Store, run: Run, embedder: Embedder, should_stop: Callable[[], bool] = lambda: False
) -> Coherence:
    """The gate ``coherence`` as a run's recipe has it, whether it is on there or not.

    Args:
        store: where the run is.
        run: whose originals it is fitted on.
        embedder: what embeds texts.
        should_stop: asked between passes; after a stop the gate is of no use.
    """
    recipe = Recipe.model_validate(run.recipe)
    ids = fitted_on(store, run.id, recipe.seed)
    variants = store.corpus.variants(ids)
    return Coherence(embedder, [variants[i].pair for i in ids], recipe.gates.coherence_percent, should_stop)
