"""How much a teacher's own rating prefers what it has rewritten.

A model tends to prefer its own words (Panickssery et al. 2024, arXiv 2404.13076), so this says more about the teacher
than about the rewrites: one that prefers nearly all of its own tells nobody which of them are good.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from srtui.errors import UserError
from srtui.evaluation.rater import Rater
from srtui.evaluation.statistics import Estimate, no_estimate, wilson
from srtui.progress import Progress, Reporter, Stopped
from srtui.recipe import Recipe
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.sample_view import SampleView
from srtui.workspace import Workspace


def own_rating(
    workspace: Workspace,
    store: Store,
    recipe: Recipe,
    views: Sequence[SampleView],
    reporter: Reporter,
    should_stop: Callable[[], bool],
) -> Estimate:
    """The share of new answers that the teacher, shown both in either order, prefers to the answer before; without a
    value where it has no local file, where there is no new answer, and where it cannot judge. What it says is stored.

    Args:
        workspace: where the teacher lies.
        store: which keeps what it says.
        recipe: which names it.
        views: the samples.
        reporter: is told that it is asked.
        should_stop: asked after each answer.

    Raises:
        Stopped: when asked to stop.
    """
    pairs = [pair for view in views if (pair := _old_and_new(view)) is not None]
    if (
        not pairs
        or recipe.reflection.source != "teacher"
        or recipe.teacher.endpoint
        or not recipe.teacher.model
    ):
        return no_estimate()
    try:
        rater = Rater(store, workspace.models, recipe.teacher.model)
    except UserError:
        return no_estimate()
    began, tokens_so_far = time.monotonic(), 0

    def report_share(tokens: int, share: float) -> None:
        nonlocal tokens_so_far
        tokens_so_far += tokens
        done = round(share * len(pairs))
        reporter.progress(Progress("rate-pairs", done, len(pairs), tokens_so_far, time.monotonic() - began))

    report_share(0, 0.0)
    preferences = rater.preferences(pairs, report_share, should_stop)
    new_is_better = [1 - old for old, _ in preferences if old is not None]
    if should_stop():
        raise Stopped
    return wilson(
        sum(1.0 if p > 0.5 else 0.5 if p == 0.5 else 0.0 for p in new_is_better), len(new_is_better)
    )


def _old_and_new(view: SampleView) -> tuple[Pair, str] | None:
    """The pair whose answer was rewritten, and the new answer; None where there is none."""
    reflection, new = view.reflections.get("response"), view.variant(view.rewrites.get("response"))
    old = view.variant(reflection.parent_variant_id) if reflection else None
    if old is None or new is None:
        return None
    return Pair(old.instruction, old.input, old.response, view.history), new.response
