"""A store with runs over conversations, one of them trained on preference pairs, as engines leave them."""

from __future__ import annotations

import math

from srtui.pipeline import import_file
from srtui.store import Store
from srtui.store.comparisons import answer_comparisons
from srtui.workspace import Workspace
from tests.tui.scripted_store import ROOT, Script, at_a_fixed_time

PAIRS = "preferred"
"""The run that is trained on pairs."""
FILE = ROOT / "recipes" / "conversations.json"


def make_conversations(workspace: Workspace) -> None:
    """Two runs over every answer of recipes/conversations.json: "talks", trained on answers, and "preferred", on the
    pairs of its choices, with held-out ones."""
    with Store(workspace.store_path) as store:
        import_file(store, FILE, "conversations", turns="each")
        for n, (name, changes) in enumerate(
            {"talks": (), PAIRS: ("training.method=dpo", "training.from_run=talks")}.items()
        ):
            script = Script(workspace, store, name, 7 + n, *changes).begin([], "conversations")
            script.reflect("instruction").choose("instruction").reflect("response").choose("response")
            script.settle()
            (train_on_pairs if changes else Script.train)(script)
            script.finish()
        at_a_fixed_time(store)


def train_on_pairs(script: Script, steps: int = 40) -> None:
    """A loss that begins at log 2, and a margin that grows."""
    store, run_id = script.store, script.run_id
    pairs = sum(len(c.answers) > 1 for c in answer_comparisons(store.conn, run_id, "rifd", held_out=False))
    training = store.training.start(run_id, pairs, steps)
    plan = {
        "samples": pairs, "truncated": 0, "tokens": 900 * steps, "targets": 300 * steps, "steps": steps,
        "seconds": 3.0 * steps, "memory": 900_000_000, "free": 5_600_000_000, "packed": True,
        "gradient_checkpointing": False,
    }  # fmt: skip
    store.training.set_plan(training, plan)
    for step in range(1, steps + 1):
        margin = 0.45 * (1 - math.exp(-step / 15)) + script.random.gauss(0, 0.05)
        values = {
            "loss": math.log1p(math.exp(-margin)), "reward_margin": margin,
            "reward_accuracy": min(1.0, 0.5 + margin / 2), "learning_rate": 5e-5 * (1 - step / (steps + 1)),
            "tokens": 900.0 * step, "seconds": 3.0 * step, "memory_mb": 1250.0,
        }  # fmt: skip
        store.training.add_metrics(training, step, values)
    rewards = {
        "margin": {"value": 0.312, "low": 0.104, "high": 0.521, "n": 17},
        "accuracy": {"value": 0.706, "low": 0.469, "high": 0.867, "n": 17},
    }
    held = {
        "original": {"before": 2.61, "after": 2.64, "samples": 17},
        "preference": {"before": 0.693, "after": 0.581, "samples": 17},
    }
    result = {
        "first_loss": 0.69, "last_loss": 0.52, "steps": steps, "examples": pairs, "held_out": held, "rewards": rewards,
    }  # fmt: skip
    adapter = f"store/runs/{script.recipe.name}/adapter"
    store.training.finish(training, "done", 900 * steps, 3.0 * steps, adapter, result)
    store.runs.progress(run_id, "train", steps, steps, 900 * steps, 3.0 * steps, {"loss": 0.52})
