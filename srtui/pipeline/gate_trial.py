"""What the gates would stop among the rewrites that a run has: to know a gate before a recipe turns it on."""

from __future__ import annotations

from dataclasses import dataclass, field

from srtui.gates import GATES, all_gates
from srtui.sample import Target
from srtui.store import Store
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


def try_gates(store: Store, run: Run, examples: int = EXAMPLES) -> GateTrials:
    """Ask every gate about every rewrite that a run had to choose from; nothing is stored."""
    by_name = {name: GateTrial(name, gate.words) for name, gate in GATES.items()}
    trials = GateTrials(run.name, 0, 0, 0, 0, list(by_name.values()))
    for rewrite in store.generations.rewrites(run.id):
        trials.rewrites += 1
        trials.taken += rewrite.taken
        target: Target = "instruction" if rewrite.stage == "instruction" else "response"
        signs = list(all_gates(rewrite.before, rewrite.after, target))
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
