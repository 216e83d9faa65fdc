"""The paper's ablations (tables 4 and 9) and the baselines that are hard to beat, as runs of one recipe.

Each arm is a run of its own, with another way to choose: it shares every stored text and score, takes
the full method's number of optimizer steps, and goes on like any run after a kill. All are judged by the
loss of their tuned student on the same held-out samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srtui.errors import UserError
from srtui.pipeline.context import open_judge, student_path
from srtui.pipeline.engine import Engine
from srtui.pipeline.prepare import prepare
from srtui.pipeline.train import trained_on
from srtui.progress import Reporter, Stopped
from srtui.recipe import Recipe, parse
from srtui.store import Store
from srtui.store.runs import Run
from srtui.workspace import Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RESAMPLES = 10_000
_ALL = {"policy": "all"}
_ORIGINAL = {"instruction_by": "original", "response_by": "original"}


@dataclass(frozen=True)
class Arm:
    """One way to choose: what it is in words, and the ``[selection]`` keys that make it."""

    words: str
    selection: dict[str, Any] = field(default_factory=dict)


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
    "random": Arm("chosen by lot", {"instruction_by": "random", "response_by": "random"}),
    "coherence": Arm("chosen by coherence", {"instruction_by": "coherence", "response_by": "coherence"}),
    "perplexity": Arm("chosen by perplexity", {"instruction_by": "perplexity", "response_by": "perplexity"}),
    "ifd": Arm("chosen by IFD only", {"instruction_by": "ifd", "response_by": "ifd"}),
    "rifd": Arm("chosen by r-IFD only", {"instruction_by": "rifd", "response_by": "rifd"}),
    "top-ifd": Arm("as many originals, by IFD", {**_ORIGINAL, "policy": "keep", "top_by": "ifd"}),
    "top-random": Arm("as many originals, by lot", {**_ALL, **_ORIGINAL, "top_by": "random"}),
    "longest": Arm("as many originals, the longest answers", {**_ALL, **_ORIGINAL, "top_by": "length"}),
}


@dataclass(frozen=True)
class Interval:
    """A mean difference and its 95 % interval, in nats a token."""

    mean: float
    low: float
    high: float

    @property
    def within_noise(self) -> bool:
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Row:
    """One arm: what it trained on, and its held-out losses, means over samples and seeds.

    ``against_full`` is by set of held-out pairs; ``problem`` says why there is nothing.
    """

    arm: str
    words: str
    runs: list[str]
    samples: int = 0
    mean_length: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    against_full: dict[str, Interval] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Comparison:
    """``sets``: how many held-out pairs there are of each kind. ``words``: what follows, in sentences."""

    recipe: str
    steps: int
    seeds: int
    sets: dict[str, int]
    rows: list[Row]
    words: list[str]


def paired_interval(arm: NDArray[Any], full: NDArray[Any], seed: int) -> Interval:
    """The mean of ``arm - full`` with a percentile bootstrap over seeds and over samples.

    Both are (seeds, samples), paired in both ways. With one seed only the samples are drawn anew, and
    what another seed would have changed is not in the interval.
    """
    difference = arm - full
    random = np.random.default_rng(seed)
    seeds, samples = difference.shape
    drawn_seeds = random.integers(0, seeds, (_RESAMPLES, seeds))
    drawn_samples = random.integers(0, samples, (_RESAMPLES, samples))
    means = np.array(
        [
            difference[np.ix_(some, others)].mean()
            for some, others in zip(drawn_seeds, drawn_samples, strict=True)
        ]
    )
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(difference.mean()), float(low), float(high))


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
    ) -> None:
        if not recipe.training.enabled or recipe.training.held_out == 0:
            raise UserError(
                f"{recipe_path}: an ablation compares tuned students on held-out samples; it needs "
                "training.enabled = true and training.held_out above 0."
            )
        self._workspace, self._store, self._path = workspace, store, recipe_path
        self._recipe, self._reporter, self._should_stop = recipe, reporter, should_stop

    def work(self, only: Sequence[str] = (), seeds: int = 1) -> Comparison:
        """Train what is not trained yet, and compare. Raises Stopped, and UserError where the recipe
        itself selects nothing to train on."""
        full = self._run(self._recipe)
        training = self._store.runs.training(full.id)
        if training is None or training["status"] != "done":
            raise UserError(
                f"Run {full.name} has trained no adapter ({training['status'] if training else 'no training'}); "
                "there is nothing to compare with."
            )
        steps, size = int(training["result"]["steps"]), int(training["examples"])
        sets = self._held_out(full)
        base = self._losses(None, sets)
        rows, words = [], []
        table: dict[str, dict[str, NDArray[Any]]] = {}
        for name, arm in ARMS.items():
            if name != "full" and only and name not in only:
                continue
            runs: list[Run] = []
            try:
                for seed in range(seeds):
                    runs.append(
                        full if name == "full" and not seed else self._arm(name, arm, seed, steps, size)
                    )
                if not all(self._adapter(run) for run in runs):
                    raise UserError("nothing was selected, so nothing was trained")
            except UserError as error:
                rows.append(Row(name, arm.words, [r.name for r in runs], problem=str(error)))
                continue
            found = [self._losses(self._adapter(run), sets) for run in runs]
            table[name] = {kind: np.stack([f[kind] for f in found]) for kind in sets}
            rows.append(self._row(name, arm, runs, table))
        counts = {kind: int(np.isfinite(base[kind]).sum()) for kind in sets}
        untuned = {kind: float(np.nanmean(values)) for kind, values in base.items()}
        rows.insert(0, Row("untuned", "the student before training", [], losses=untuned))
        words = _words(rows, counts, seeds)
        return Comparison(self._recipe.name, steps, seeds, counts, rows, words)

    def _arm(self, name: str, arm: Arm, seed: int, steps: int, size: int) -> Run:
        what = self._recipe.model_dump(mode="json", exclude_defaults=True)
        first = self._recipe.seed if self._recipe.training.seed is None else self._recipe.training.seed
        what["name"] = f"{self._recipe.name}.{name}" + (f".s{seed}" if seed else "")
        what["selection"] = {**what.get("selection", {}), **arm.selection}
        if "top_by" in arm.selection:
            what["selection"]["top_count"] = size
        what["training"] = {**what.get("training", {}), "steps": steps, "seed": first + seed}
        return self._run(parse(what, f"{self._path}, arm {name}"))

    def _run(self, recipe: Recipe) -> Run:
        run, _ = prepare(self._workspace, self._store, recipe, self._path)
        if run.status == "done":
            return run
        self._reporter.event("info", f"Run {run.name}")
        return Engine(self._workspace, self._store, run, self._reporter, self._should_stop).work()

    def _adapter(self, run: Run) -> Path | None:
        training = self._store.runs.training(run.id)
        return self._workspace.root / training["adapter"] if training and training["adapter"] else None

    def _held_out(self, full: Run) -> dict[str, list[int]]:
        """Variants that no arm has trained on: the originals, and the teacher's answers in the full run."""
        held = set(self._store.work.held_out(full.id))
        originals = [v.id for i, v in self._store.corpus.originals(full.id).items() if i in held]
        reflected = [v for i, v in self._store.work.first_candidates(full.id, "response") if i in held]
        return {kind: ids for kind, ids in (("original", originals), ("reflected", reflected)) if ids}

    def _losses(self, adapter: Path | None, sets: dict[str, list[int]]) -> dict[str, NDArray[Any]]:
        """L(y|x) of the held-out variants by the student with ``adapter``; NaN where there is none."""
        from srtui.scoring import Student

        chosen = self._recipe.student
        path = student_path(self._workspace, chosen.model, chosen.quantization)
        student = Student.load(path, chosen.quantization, adapter=adapter)
        try:
            judge = open_judge(
                self._store, self._recipe, path, chosen.model, chosen.quantization, student=student
            )
            everything = [v for ids in sets.values() for v in ids]
            found = judge.conditional(everything, self._should_stop)
        finally:
            student.close()  # the next arm loads its own
        if self._should_stop():
            raise Stopped
        return {kind: np.array([found.get(v, np.nan) for v in ids]) for kind, ids in sets.items()}

    def _row(self, name: str, arm: Arm, runs: list[Run], table: dict[str, dict[str, NDArray[Any]]]) -> Row:
        chosen = [v for run in runs for _, v in trained_on(self._store, run)]
        texts = self._store.corpus.variants(set(chosen))
        against = {}
        for kind, losses in table[name].items():
            full = table["full"][kind]
            both = np.isfinite(losses).all(axis=0) & np.isfinite(full).all(axis=0)
            if name != "full" and both.any():
                against[kind] = paired_interval(losses[:, both], full[:, both], self._recipe.seed)
        return Row(
            name,
            arm.words,
            [r.name for r in runs],
            samples=round(len(chosen) / len(runs)),
            mean_length=float(np.mean([len(texts[v].pair.response) for v in chosen])) if chosen else 0.0,
            losses={kind: float(np.nanmean(losses)) for kind, losses in table[name].items()},
            against_full=against,
        )


def _words(rows: Sequence[Row], counts: dict[str, int], seeds: int) -> list[str]:
    """What follows from the table, and what does not."""
    said = []
    for kind, count in counts.items():
        groups: dict[str, list[str]] = {"better": [], "worse": [], "noise": []}
        for row in rows:
            interval = row.against_full.get(kind)
            if interval is not None:
                verdict = "noise" if interval.within_noise else "worse" if interval.mean > 0 else "better"
                groups[verdict].append(row.arm)
        parts = [
            f"{', '.join(groups[verdict])} {sentence}"
            for verdict, sentence in (
                ("better", "did better than the full method"),
                ("worse", "did worse than the full method"),
                ("noise", "differ from it by no more than noise"),
            )
            if groups[verdict]
        ]
        if parts:
            said.append(f"On {count} held-out {kind} pairs: {'; '.join(parts)}.")
    arms = sum(bool(r.against_full) for r in rows)
    if arms:
        said.append(
            f"The intervals are of 95 % each, for {arms} comparisons: about one in twenty would seem to differ by "
            "chance alone."
        )
    if seeds == 1:
        said.append("One seed: what another seed would have changed is not in the intervals; see --seeds.")
    return said


def check_arms(names: Sequence[str]) -> None:
    """UserError where a name is no arm."""
    for name in names:
        if name not in ARMS:
            raise UserError(f"--only {name}: the arms are {', '.join(ARMS)}.")


__all__ = ["ARMS", "Ablation", "Arm", "Comparison", "Interval", "Row", "check_arms", "paired_interval"]
