"""Does the student know the prompt template? Where it does not, every IFD is too high."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import nsmallest
from typing import TYPE_CHECKING

from srtui import today
from srtui.errors import UserError
from srtui.hashing import draw_of_each
from srtui.pipeline.context import Context, open_judge, student_path
from srtui.prompts import template_names
from srtui.recipe import Recipe
from srtui.store import Store
from srtui.store.distributions import spread
from srtui.store.runs import Run
from srtui.workspace import Workspace

if TYPE_CHECKING:
    from srtui.pipeline.variants import VariantScorer

SAMPLE = 48
_DRAWN_FROM = 100_000  # samples: of a larger run, every second or third one
SHARE = 1 / 3


def check_template(context: Context) -> None:
    """Warn, or stop, before teacher time is spent, where too many originals have IFD >= 1.

    Raises UserError where the recipe says ``scoring.template_warning = "stop"``.
    """
    from srtui.student import share_at_or_over_one

    recipe, watch = context.recipe, context.watch
    if context.store.generations.any_reflected(context.run.id):
        return
    some = _some_originals(context.store, context.run, recipe.seed, SAMPLE)
    watch.start("check-template")
    judge = context.proxy() if recipe.scoring.proxy else context.judge()
    tokens, reused = 0, len(judge.scores(some, "ifd"))
    for more, part in judge.score(some, "ifd", watch.should_stop):
        tokens += more
        watch.report_progress(int(part * len(some)), len(some), tokens, {"reused": reused})
    watch.raise_if_stopped()
    watch.report_progress(len(some), len(some), tokens, {"reused": reused}, now=True)
    values = _values(judge, some)
    share = share_at_or_over_one(values)
    if share <= SHARE:
        return
    sentence = (
        f"{share:.0%} of {len(values)} original pairs have IFD >= 1 under the {recipe.prompt.template!r} "
        "template: the student does not know it, or the answers do not follow their instructions. Compare "
        "another prompt.template before you trust the choices"
    )
    if recipe.scoring.template_warning == "stop":
        raise UserError(f'{sentence}; scoring.template_warning = "warn" continues all the same.')
    watch.event("warning", f"{sentence}.")


@dataclass(frozen=True)
class TemplateScores:
    """How IFD is spread under one prompt template (:class:`srtui.store.distributions.Spread` has the fields);
    ``chosen``: it is the run's own; ``problem`` says why there are no scores."""

    template: str
    chosen: bool
    scored: int
    mean: float | None
    quantiles: dict[str, float]
    at_or_over_one: int
    histogram: list[int]
    problem: str = ""


def compare_templates(
    workspace: Workspace, store: Store, run: Run, count: int, report_line: Callable[[str], None]
) -> list[TemplateScores]:
    """IFD of ``count`` originals of a run under every prompt template, by the run's own student.

    Each is a way of scoring of its own, stored as such; the share at or over 1 shows which template
    the student knows.

    Args:
        workspace: whose models/ has the student.
        store: where the scores go.
        run: whose originals and student.
        count: of originals.
        report_line: hears what is loaded.
    """
    today.freeze(run.date)
    recipe = Recipe.model_validate(run.recipe)
    student = recipe.student
    some = _some_originals(store, run, recipe.seed, count)
    path = student_path(workspace, student.model, student.quantization, report_line)
    found: list[TemplateScores] = []
    judge: VariantScorer | None = None
    for name in template_names(recipe.prompts):
        chosen = name == recipe.prompt.template
        loaded = judge.student if judge else None
        try:
            judge = open_judge(store, recipe, path, student.model, student.quantization, name, loaded)
        except UserError as error:  # a student without a chat template
            found.append(TemplateScores(name, chosen, **vars(spread([])), problem=str(error)))
            continue
        report_line(f"{name}: scoring {len(some)} originals ...")
        for _ in judge.score(some, "ifd"):
            pass
        found.append(TemplateScores(name, chosen, **vars(spread(_values(judge, some)))))
    if judge is not None:
        judge.close()
    return found


def _some_originals(store: Store, run: Run, seed: int, count: int) -> list[int]:
    """The same ones for the same seed."""
    every = max(1, store.runs.sample_count(run.id) // _DRAWN_FROM)
    return nsmallest(
        count, store.corpus.each_original_id(run.id, every), key=draw_of_each(seed, "template")
    )


def _values(judge: VariantScorer, variant_ids: list[int]) -> list[float]:
    return [value for value, _ in judge.scores(variant_ids, "ifd").values() if value is not None]
