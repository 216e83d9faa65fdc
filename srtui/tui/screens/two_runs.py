"""Two runs beside each other: recipes, decisions, scores, losses on the same held-out samples, verdicts."""

from __future__ import annotations

from srtui.evaluation.result_words import estimate_words, headline
from srtui.measures import MEASURES, STORED
from srtui.store.views import Views
from srtui.text import number
from srtui.tui.tabs import numbered
from srtui.wording import compared_words, held_out_name, otherwise_words

_BINS = 1  # the means of histograms are wanted, and not their steps


def comparison(views: Views, a: int, b: int) -> tuple[str, list[str]]:
    """The names of two runs, and in lines how they differ."""
    compared, samples = views.compared(a, b)
    states = {run.id: run.state for run in views.runs()}
    lines = [
        f"{name} is {states[run]}: what it has not decided yet counts for nothing here."
        for name, run in ((compared.a, a), (compared.b, b))
        if states.get(run, "done") != "done"
    ] + compared_words(compared)
    for name in STORED:
        means = [views.histogram(run, name, 1.0, _BINS)[1] for run in (a, b)]
        if None not in means:
            lines.append(
                f"Mean {MEASURES[name].label} of the final texts: {number(means[0])} in A, {number(means[1])} in B."
            )
    if compared.held_out.same:
        lines += _losses(views, a, b)
    lines += _verdicts(views, a, b)
    for sample in samples:
        lines += ["", *otherwise_words(sample, compared.a, compared.b)]
    remaining = sum(compared.otherwise.values()) - len(samples)
    if remaining > 0:
        limit = remaining + len(samples)
        lines += ["", f"{remaining:,} more: srtui diff {compared.a} {compared.b} --limit {limit}"]
    return f"{compared.a} and {compared.b}", lines


def _losses(views: Views, a: int, b: int) -> list[str]:
    """Losses on the same held-out samples, before and after each training."""
    held_out = [t.result.get("held_out", {}) if (t := views.training(run)) else {} for run in (a, b)]
    return [
        f"Held-out loss, {held_out_name(name)} (lower is better): "
        + ", ".join(
            f"{number(held[name]['before'])} → {number(held[name]['after'])} in {which}"
            for which, held in zip("AB", held_out, strict=True)
        )
        + "."
        for name in held_out[0]
        if name in held_out[1]
    ]


def _verdicts(views: Views, a: int, b: int) -> list[str]:
    """What evaluations of these two against each other came to, the newest first."""
    lines = []
    for e in views.evaluations.all(a):
        if {e.run_a_id, e.run_b_id} == {a, b} and (figure := headline(e.result)):
            lines.append(
                f"{e.kind}, judged by {e.judge or 'people'}: {e.contestant_a} against {e.contestant_b}: "
                f"{estimate_words(figure, 2)} (evaluation {e.id})."
            )
    return lines or [
        f"No evaluation has set the two against each other yet; n on {numbered('evaluation')} does."
    ]
