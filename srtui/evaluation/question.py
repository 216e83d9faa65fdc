"""Which question a comparison answers, in a sentence for its reader.

A tuned student beats its untuned base after nearly any finetuning. What reflecting and choosing is worth is
asked by the same training on the original data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srtui.recipe import Recipe, parse
from srtui.store import Store
from srtui.store.evaluations import Evaluation
from srtui.store.runs import Run

_ARE_ORIGINAL = {"instruction_by": "original", "response_by": "original"}
_SAY_NOTHING = {"name", "description", "teacher", "sampler", "reflection"}
"""What differs between a run and its control, or changes nothing where data are the originals."""


def question_of(store: Store, e: Evaluation) -> str | None:
    """The sentence of a comparison; None for kinds that compare nothing."""
    if e.kind == "winrate":
        return (
            f"This asks how often {e.contestant_a} is preferred to {e.contestant_b}; it says nothing of why. Two runs "
            "against the same reference can be compared by it."
        )
    if e.kind not in ("pairwise", "human"):
        return None
    sides = [_side(store, e.run_a_id, e.identity_a), _side(store, e.run_b_id, e.identity_b)]
    tuned = [run for run, is_tuned in sides if run is not None and is_tuned]
    if len(tuned) == 1 and all(run is not None and run.id == tuned[0].id for run, _ in sides):
        name = tuned[0].name
        return (
            f"This asks whether training made {name} better than its untuned base, which nearly any finetuning does. "
            "Whether reflecting and choosing helped is another question; its control is the same training on the "
            f"original data: srtui ablate {_shown_recipe(tuned[0])} --only original, then compare {name} with "
            f"{name}.original."
        )
    if len(tuned) == 2:
        return _of_two(store, tuned[0], tuned[1])
    return "This compares two models as they are; it does not say what made one of them better."


def compares_with_control(store: Store, e: Evaluation) -> bool:
    """Whether one side is the other's control: the same training on the original data."""
    if e.kind not in ("pairwise", "human"):
        return False
    a, b = _side(store, e.run_a_id, e.identity_a), _side(store, e.run_b_id, e.identity_b)
    if a[0] is None or b[0] is None or not (a[1] and b[1]):
        return False
    return _is_original(a[0]) != _is_original(b[0]) and not _outside_selection(_differ(store, a[0], b[0]))


def _differ(store: Store, a: Run, b: Run) -> list[str]:
    """What differs between two trainings, the steps that were planned and the dataset among it."""
    differ = set(differences(a.recipe, b.recipe))
    trainings = [store.training.of_run(run.id) for run in (a, b)]
    steps = [training and training.steps for training in trainings]
    if steps[0] != steps[1]:
        differ.add("training.steps")
    if a.dataset_id != b.dataset_id:
        differ.add("dataset")
    return sorted(differ)


def _outside_selection(differ: list[str]) -> list[str]:
    return [key for key in differ if not key.startswith("selection.")]


def _of_two(store: Store, a: Run, b: Run) -> str:
    differ = _differ(store, a, b)
    elsewhere = _outside_selection(differ)
    original = [run for run in (a, b) if _is_original(run)]
    if len(original) == 1 and not elsewhere:
        other = b if original[0].id == a.id else a
        return (
            f"This asks whether the data that {other.name} reflected and chose make a better student than the same "
            f"training on the original data ({original[0].name}): the control that says whether the method helped."
        )
    if not differ:
        return (
            f"{a.name} and {b.name} differ in nothing that trains; this asks how much chance there is in it."
        )
    if not elsewhere:
        return (
            f"This asks what another way to choose is worth: {a.name} and {b.name} differ in {_list(differ)} alone. "
            "Whether the method helped is asked by the same training on the original data."
        )
    return (
        f"{a.name} and {b.name} differ in {_list(differ)}, so which of them made it better does not follow from "
        "this. Whether the method helped is asked by the same training on the original data."
    )


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Keys of two stored recipes, as section.key, that differ and matter for what was trained.

    Steps and epochs are one: an arm takes the full method's number of steps.
    """
    first, second = (_flat(parse(dict(recipe), "The recipe of a stored run")) for recipe in (a, b))
    return sorted(key for key in first if first[key] != second[key])


def _flat(recipe: Recipe) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in recipe.model_dump(exclude=_SAY_NOTHING).items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    # An arm's length is written in steps where the full method's is in epochs; its number is the same.
    for name in ("training.steps", "training.epochs", "selection.top_count"):
        flat.pop(name)
    seed = flat.pop("training.seed")
    flat["training.seed"] = recipe.seed if seed is None else seed
    return flat


def _is_original(run: Run) -> bool:
    selection = run.recipe.get("selection", {})
    return all(selection.get(key) == value for key, value in _ARE_ORIGINAL.items())


def _side(store: Store, run_id: int | None, identity: Mapping[str, Any] | None) -> tuple[Run | None, bool]:
    """The run that a contestant is of, and whether it is its tuned student."""
    run = next((r for r in store.runs.all() if r.id == run_id), None) if run_id is not None else None
    return run, bool(identity and identity.get("adapter"))


def _shown_recipe(run: Run) -> str:
    return Path(run.recipe_path).name or "RECIPE"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
