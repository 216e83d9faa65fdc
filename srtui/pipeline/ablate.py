"""The paper's ablations (tables 4 and 9) and the baselines that are hard to beat, as runs of one recipe.

Each arm is a run of its own, with another way to choose: it shares every stored text and score, takes
the full method's number of optimizer steps, and is resumed like any run after a kill. All are judged by the
loss of their tuned student on the same held-out samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from srtui import today
from srtui.errors import UserError
from srtui.measures import AT_LENGTH, MEASURES
from srtui.pipeline.engine import Engine
from srtui.pipeline.holdout import asked, unseen
from srtui.pipeline.place import Place, ThisProcess
from srtui.pipeline.prepare import prepare
from srtui.pipeline.ranking import trained_on
from srtui.pipeline.recipe_models import open_variant_scorer, student_path
from srtui.progress import Reporter, Stopped
from srtui.recipe import Recipe, parse
from srtui.store import Store
from srtui.store.runs import Run
from srtui.workspace import Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ALL = {"policy": "all"}
_ORIGINAL = {"instruction_by": "original", "response_by": "original"}


@dataclass(frozen=True)
class Arm:
    """One way to choose: what it is in words, and the ``[selection]`` keys that make it."""

    words: str
    selection: dict[str, Any] = field(default_factory=dict)
    on_request: bool = False
    """Run only where ``--only`` names it."""


ARMS = {
    "full": Arm("the recipe as it is"),
    "original": Arm("original data", {**_ALL, **_ORIGINAL}),
    "instruction": Arm(
        "instructions reflected", {**_ALL, "instruction_by": "reflected", "response_by": "original"}
    ),
    "response": Arm(
        "responses reflected", {**_ALL, "instruction_by": "original", "response_by": "reflected"}
    ),
    "both": Arm(
        "both reflected, none chosen", {**_ALL, "instruction_by": "reflected", "response_by": "reflected"}
    ),
    **{
        name: Arm(measure.arm, {"instruction_by": name, "response_by": name})
        for name, measure in MEASURES.items()
    },
    "top-ifd": Arm("as many originals, by IFD", {**_ORIGINAL, "policy": "keep", "top_by": "ifd"}),
    "top-random": Arm("as many originals, at random", {**_ALL, **_ORIGINAL, "top_by": "random"}),
    "facility": Arm(
        "as many originals, nearest to all the others", {**_ALL, **_ORIGINAL, "top_by": "facility"}
    ),
    "longest": Arm("as many originals, the longest answers", {**_ALL, **_ORIGINAL, "top_by": "length"}),
    **{
        name + AT_LENGTH: Arm(
            f"{measure.arm}, at equal length",
            {"instruction_by": name, "response_by": name, "length_control": True},
            on_request=True,
        )
        for name, measure in MEASURES.items()
        if measure.source != "draw"
    },
}


@dataclass(frozen=True)
class Interval:
    """A mean difference and its 95 % interval: nats a token, or shares of a win rate or an accuracy."""

    mean: float
    low: float
    high: float

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0: no difference is shown."""
        return self.low <= 0 <= self.high

    def within(self, bound: float) -> Interval:
        """Cut at -bound and bound, which a difference of shares cannot pass: a t interval over few does."""
        return Interval(self.mean, max(self.low, -bound), min(self.high, bound))


@dataclass(frozen=True)
class ArmResult:
    """One arm: what it trained on, and its held-out losses, means over samples and seeds.

    ``against_full`` is by set of held-out pairs; ``judged`` (the arm's win rate against the full method less one
    half) and ``choice`` (its accuracy less the full method's) are there where they were asked for, with
    ``accuracy`` itself and the ids of ``evaluations``. ``problem`` says why there is nothing.
    """

    arm: str
    words: str
    runs: list[str]
    samples: int = 0
    mean_length: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    against_full: dict[str, Interval] = field(default_factory=dict)
    judged: Interval | None = None
    accuracy: float | None = None
    choice: Interval | None = None
    evaluations: list[int] = field(default_factory=list)
    problem: str = ""


@dataclass(frozen=True)
class Comparison:
    """``sets``: how many held-out pairs there are of each kind. ``words``: what follows, in sentences."""

    recipe: str
    steps: int
    seeds: int
    sets: dict[str, int]
    rows: list[ArmResult]
    words: list[str]


def paired_interval(arm: NDArray[Any], full: NDArray[Any]) -> Interval:
    """The mean of ``arm - full`` with a t interval over seeds and over samples, crossed.

    Both are (seeds, samples), paired in both ways. The variance of the mean in a two-way random-effects model
    is (MS_seeds + (MS_samples - MS_rest)) / (seeds * samples); each part takes the t quantile of its own
    degrees of freedom (Howe 1974), so few seeds that differ give a wide interval. (Seeds drawn anew from
    three would make three look like a population.) With one seed it is the ordinary t interval over samples,
    and what another seed would have changed is not in it.
    """
    from scipy.stats import t

    difference = arm - full
    seeds, samples = difference.shape
    mean = float(difference.mean())
    if samples < 2:
        return Interval(mean, -math.inf, math.inf)
    by_sample = seeds * float(difference.mean(axis=0).var(ddof=1))
    by_seed = residual = 0.0
    if seeds > 1:
        by_seed = samples * float(difference.mean(axis=1).var(ddof=1))
        residuals = difference - difference.mean(axis=0) - difference.mean(axis=1, keepdims=True) + mean
        residual = float((residuals**2).sum()) / ((seeds - 1) * (samples - 1))
    parts = [(by_seed, seeds - 1), (max(0.0, by_sample - residual), samples - 1)]
    squares = sum(float(t.ppf(0.975, n)) ** 2 * ms for ms, n in parts if n)
    half = math.sqrt(squares / (seeds * samples))
    return Interval(mean, mean - half, mean + half)


class Examiner(Protocol):
    """Compares the runs of an arm with those of the full method, seed by seed; returns the row with more in it."""

    def examine(self, row: ArmResult, runs: Sequence[Run], full: Sequence[Run]) -> ArmResult:
        """The arm's row with what this examiner found, comparing ``runs`` with the runs ``full`` of the same
        seeds."""


class Ablation:
    """Runs the arms of one recipe and compares them. Whatever is stored is not done again."""

    def __init__(
        self,
        workspace: Workspace,
        store: Store,
        recipe: Recipe,
        recipe_path: Path,
        reporter: Reporter,
        should_stop: Callable[[], bool] = lambda: False,
        examiners: Sequence[Examiner] = (),
        place: Place | None = None,
    ) -> None:
        """``examiners`` compare the arms beside their losses: a judge, multiple choice. ``place``: where models run, by
        default in this process."""
        self._examiners, self._place = examiners, place or ThisProcess()
        if not recipe.training.enabled or recipe.training.held_out == 0:
            raise UserError(
                f"{recipe_path}: an ablation compares tuned students on held-out samples; it needs "
                "training.enabled = true and training.held_out above 0."
            )
        if recipe.training.method != "sft":
            raise UserError(
                f"{recipe_path}: an ablation trains each arm on the answers that it chose; its random arms and arms by rule "
                'have no preferences to train on. Set training.method = "sft".'
            )
        self._workspace, self._store, self._path = workspace, store, recipe_path
        self._recipe, self._reporter, self._should_stop = recipe, reporter, should_stop
        self._day = ""  # the full method's run has it

    def work(self, only: Sequence[str] = (), seeds: int = 1) -> Comparison:
        """Train what is not trained yet, and compare. Raises Stopped, and UserError where the recipe
        itself selects nothing to train on."""
        full = self._run(self._recipe)
        training = self._store.training.of_run(full.id)
        if training is None or training.status != "done":
            raise UserError(
                f"Run {full.name} has trained no adapter ({training.status if training else 'no training'}); "
                f"there is nothing to compare with: srtui status {full.name} says why."
            )
        steps, size = int(training.result["steps"]), int(training.examples)
        sets = self._held_out(full)
        base = self._losses(None, sets)
        rows: list[ArmResult] = []
        trained: dict[str, list[Run]] = {}
        for name, arm in ARMS.items():
            if name != "full" and (name not in only if only else arm.on_request):
                continue
            runs: list[Run] = []
            try:
                for seed in range(seeds):
                    runs.append(
                        full if name == "full" and not seed else self._arm(name, arm, seed, steps, size)
                    )
                if not all(self._adapter(run) for run in runs):
                    raise UserError("nothing was selected, so nothing was trained; give it more samples")
            except UserError as error:
                rows.append(ArmResult(name, arm.words, [r.name for r in runs], problem=str(error)))
                continue
            trained[name] = runs
        measured = self._unseen(sets, [run for runs in trained.values() for run in runs])
        base = {kind: np.where(measured[kind], values, np.nan) for kind, values in base.items()}
        table: dict[str, dict[str, NDArray[Any]]] = {}
        for name, runs in trained.items():
            losses = [self._losses(self._adapter(run), sets) for run in runs]
            table[name] = {
                kind: np.where(measured[kind], np.stack([f[kind] for f in losses]), np.nan) for kind in sets
            }
            row = self._row(name, ARMS[name], runs, table)
            for examiner in self._examiners:
                row = examiner.examine(row, runs, trained["full"])
            rows.append(row)
        order = list(ARMS)
        rows.sort(key=lambda row: order.index(row.arm))
        counts = {kind: int(np.isfinite(base[kind]).sum()) for kind in sets}
        untuned = {kind: float(np.nanmean(values)) for kind, values in base.items()}
        rows.insert(0, ArmResult("untuned", "the student before training", [], losses=untuned))
        words = _words(rows, counts, seeds)
        return Comparison(self._recipe.name, steps, seeds, counts, rows, words)

    def _arm(self, name: str, arm: Arm, seed: int, steps: int, size: int) -> Run:
        recipe_fields = self._recipe.model_dump(mode="json", exclude_defaults=True)
        first = self._recipe.seed if self._recipe.training.seed is None else self._recipe.training.seed
        recipe_fields["name"] = f"{self._recipe.name}.{name}" + (f".s{seed}" if seed else "")
        recipe_fields["selection"] = {**recipe_fields.get("selection", {}), **arm.selection}
        if "top_by" in arm.selection:
            recipe_fields["selection"]["top_count"] = size
        recipe_fields["training"] = {
            **recipe_fields.get("training", {}),
            "steps": steps,
            "seed": first + seed,
        }
        return self._run(parse(recipe_fields, f"{self._path}, arm {name}"))

    def _run(self, recipe: Recipe) -> Run:
        run, new = prepare(self._workspace, self._store, recipe, self._path)
        self._day = self._day or run.date
        if new and run.date != self._day:
            # The arms share texts and losses, so their prompts are of one day.
            self._store.runs.update(run.id, date=self._day)
            run = self._store.runs.get(run.id)
        if run.status == "done":
            return run
        self._reporter.event("info", f"Run {run.name}")
        return Engine(
            self._workspace, self._store, run, self._reporter, self._should_stop, place=self._place
        ).work()

    def _adapter(self, run: Run) -> Path | None:
        training = self._store.training.of_run(run.id)
        return self._workspace.root / training.adapter if training and training.adapter else None

    def _held_out(self, full: Run) -> dict[str, list[int]]:
        """Variants that no arm has trained on: the originals, and the teacher's answers in the full run."""
        held = set(self._store.decisions.held_out(full.id))
        originals = [v.id for i, v in self._store.corpus.originals(full.id).items() if i in held]
        reflected = [v for i, v in self._store.generations.first_candidates(full.id, "response") if i in held]
        return {kind: ids for kind, ids in (("original", originals), ("reflected", reflected)) if ids}

    def _unseen(self, sets: dict[str, list[int]], runs: Sequence[Run]) -> dict[str, NDArray[Any]]:
        """Which held-out variants ask what no arm was trained on; a rewrite may have become the same question."""
        trained = self._store.corpus.variants({v for run in runs for _, v in trained_on(self._store, run)})
        seen_questions = {asked(v.pair) for v in trained.values()}
        held = self._store.corpus.variants({v for ids in sets.values() for v in ids})
        kept = {v.id for v in unseen(list(held.values()), seen_questions)}
        return {kind: np.array([v in kept for v in ids]) for kind, ids in sets.items()}

    def _losses(self, adapter: Path | None, sets: dict[str, list[int]]) -> dict[str, NDArray[Any]]:
        """L(y|x) of the held-out variants by the student with ``adapter``; NaN where there is none."""
        from srtui.student import StudentSource

        today.freeze(self._day)
        chosen = self._recipe.student
        path = student_path(self._workspace, chosen.model, chosen.quantization)
        source = StudentSource(path, chosen.quantization, self._recipe.scoring.batch_tokens, adapter)
        student, scorer = self._place.student(source, self._reporter.event)
        try:
            variant_scorer = open_variant_scorer(
                self._store,
                self._recipe,
                path,
                chosen.model,
                chosen.quantization,
                student=student,
                scorer=scorer,
                devices=self._place.parallel,
            )
            everything = [v for ids in sets.values() for v in ids]
            losses = variant_scorer.conditional(everything, self._should_stop)
        finally:
            student.close()  # the next arm loads its own
        if self._should_stop():
            raise Stopped
        return {kind: np.array([losses.get(v, np.nan) for v in ids]) for kind, ids in sets.items()}

    def _row(
        self, name: str, arm: Arm, runs: list[Run], table: dict[str, dict[str, NDArray[Any]]]
    ) -> ArmResult:
        chosen = [v for run in runs for _, v in trained_on(self._store, run)]
        texts = self._store.corpus.variants(set(chosen))
        against = {}
        for kind, losses in table[name].items():
            full = table["full"][kind]
            is_known = np.isfinite(losses).all(axis=0) & np.isfinite(full).all(axis=0)
            if name != "full" and is_known.any():
                against[kind] = paired_interval(losses[:, is_known], full[:, is_known])
        return ArmResult(
            name,
            arm.words,
            [r.name for r in runs],
            samples=round(len(chosen) / len(runs)),
            mean_length=float(np.mean([len(texts[v].pair.response) for v in chosen])) if chosen else 0.0,
            losses={kind: float(np.nanmean(losses)) for kind, losses in table[name].items()},
            against_full=against,
        )


def _words(rows: Sequence[ArmResult], counts: dict[str, int], seeds: int) -> list[str]:
    """What follows from the table, and what does not."""
    sentences = []
    for kind, count in counts.items():
        losses = [(r.arm, -i.low, -i.high) for r in rows if (i := r.against_full.get(kind)) is not None]
        sentences += _verdicts(f"On {count} held-out {kind} pairs", losses)  # a lower loss is better
    sentences += _verdicts("By the judge", [(r.arm, r.judged.low, r.judged.high) for r in rows if r.judged])
    sentences += _verdicts(
        "By multiple choice", [(r.arm, r.choice.low, r.choice.high) for r in rows if r.choice]
    )
    if any(row.arm == "original" and row.against_full for row in rows):
        sentences.append(
            "Whether reflecting and choosing helped is asked by the arm original, the same training on the original "
            "data; the untuned student only shows whether any training does."
        )
    arms = sum(bool(r.against_full) for r in rows)
    if arms:
        sentences.append(
            f"The intervals are of 95 % each, for {arms} comparisons: about one in twenty would seem to differ by "
            "chance alone."
        )
    if seeds == 1:
        sentences.append(
            "One seed: what another seed would have changed is not in the intervals; see --seeds."
        )
    return sentences


def _verdicts(where: str, intervals: Sequence[tuple[str, float, float]]) -> list[str]:
    """A sentence on (arm, the bounds of how much better it is than the full method)."""
    groups = {
        "did better than the full method": [arm for arm, *bounds in intervals if min(bounds) > 0],
        "did worse than the full method": [arm for arm, *bounds in intervals if max(bounds) < 0],
        "differ from it by no more than noise": [
            arm for arm, *bounds in intervals if min(bounds) <= 0 <= max(bounds)
        ],
    }
    parts = [f"{', '.join(arms)} {sentence}" for sentence, arms in groups.items() if arms]
    return [f"{where}: {'; '.join(parts)}."] if parts else []


def check_arms(names: Sequence[str]) -> None:
    """UserError where a name is no arm."""
    for name in names:
        if name not in ARMS:
            raise UserError(f"--only {name}: the arms are {', '.join(ARMS)}.")


__all__ = ["ARMS", "Ablation", "Arm", "ArmResult", "Comparison", "Interval", "check_arms", "paired_interval"]
