"""The work: import, calibrate, choose, train, measure. Every part goes through srtui's own pipeline and store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.evidence.arms import ORIGINAL, Arm, Replay, arms_of, by_name
from benchmarks.evidence.data import Prompt, Prompts, read_prompts, write_pairs, write_rows, write_tasks
from benchmarks.evidence.results import Budget, Part, Results
from srtui import models
from srtui.errors import UserError
from srtui.evaluation import multiple_choice
from srtui.evaluation.contestants import find_contestant
from srtui.evaluation.known_pairs import read_preferences
from srtui.hashing import key
from srtui.pipeline import Engine, import_file, prepare
from srtui.pipeline.calibrate import CalibrationRun
from srtui.pipeline.ranking import trained_on
from srtui.pipeline.recipe_models import open_variant_scorer
from srtui.pipeline.variants import VariantScorer
from srtui.progress import Reporter, Stopped
from srtui.prompts import template
from srtui.recipe import Recipe, parse
from srtui.recipe.measure_weights import MeasureWeights
from srtui.store import Store
from srtui.store.calibrations import calibrations_of
from srtui.store.runs import Run
from srtui.store.training import metrics_of
from srtui.student import Student
from srtui.workspace import Workspace

HELD_OUT = "held-out"
TEMPLATE = "alpaca"
CALIBRATED_AT = 2048
"""Tokens at which the texts of a calibration are cut: what a measure is worth should not depend on how little of each
text an arm can afford."""


@dataclass(frozen=True)
class Size:
    """How much is done. ``prompts`` are trained on, ``held_out`` ones measured; ``pairs`` calibrate the
    measures; texts are cut at ``max_length`` tokens; ``questions`` of each task are asked."""

    prompts: int
    held_out: int
    pairs: int
    max_length: int
    steps: int
    batch_size: int
    questions: int
    learning_rate: float = 5e-4
    lora_rank: int = 8


WHOLE = Size(256, 120, 400, 1024, 64, 8, 120)
QUICK = Size(64, 48, 400, 384, 8, 4, 24, learning_rate=2e-3)


@dataclass(frozen=True)
class Plan:
    """What was asked for. ``rater`` names a GGUF, or is "" for none."""

    data: Path
    students: tuple[str, ...]
    quantization: str
    replays: tuple[Replay, ...]
    budgets: tuple[Budget, ...]
    arms: tuple[str, ...]
    seeds: int
    rater: str
    size: Size


class Evidence:
    """Does what is not done. Raises Stopped when asked to stop; everything finished is kept."""

    def __init__(
        self,
        plan: Plan,
        workspace: Workspace,
        store: Store,
        results: Results,
        reporter: Reporter,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._plan, self._workspace, self._store = plan, workspace, store
        self._results, self._reporter, self._should_stop = results, reporter, should_stop
        self._files = workspace.root / "data"
        self.prompts: Prompts = read_prompts(
            plan.data, plan.size.prompts, plan.size.held_out, plan.size.max_length
        )
        self._tasks = self._files / f"tasks-{plan.size.held_out}"
        self._pairs = self._files / (
            f"pairs-{plan.size.prompts}-{plan.size.held_out}-{plan.size.max_length}.jsonl"
        )
        self._mark = key("size", **self._size).hex()[2:8]
        self._weights: dict[str, MeasureWeights | None] = {}

    def work(self) -> None:
        """All parts, in an order of which any beginning says something: the first seed of every arm first."""
        self._import()
        for student in self._plan.students:
            self._untuned(student)
            for seed in range(self._plan.seeds):
                for budget in self._plan.budgets:
                    for replay in self._plan.replays:
                        for arm in arms_of(replay, list(self._plan.arms)):
                            self._arm(student, replay, arm, budget, seed)

    def weights(self, student: str) -> MeasureWeights | None:
        """The combination that the arm ``combined`` chooses by, fitted on pairs of prompts that are neither trained on
        nor held out; None where there is none. What each measure is worth is found on the way. Raises Stopped."""
        if student not in self._weights:
            pairs = write_pairs(self._pairs, self.prompts, self._plan.data)
            known = read_preferences([pairs], self._plan.size.pairs)
            with self._judge(student, max_length=CALIBRATED_AT) as judge:
                run = CalibrationRun(self._store, judge, known, self._reporter, self._should_stop)
                calibration = run.work()
                there = bool(calibration.result["weights"])
                self._weights[student] = run.weights(calibration) if there else None
        return self._weights[student]

    def done(self, results: Results, student: str) -> list[Part]:
        """The parts of a student that are of this plan's size, whichever arms and seeds the plan has."""
        return [part for part in results if part.student == student and part.size == self._size]

    def known_agreements(self, student: str) -> dict[str, Any] | None:
        """The figures of the student's last calibration here, by measure; None before there is one."""
        for run in self._store.runs.all():
            if run.recipe["student"]["model"] == student and run.setting_id is not None:
                for calibration in calibrations_of(self._store.conn, run.setting_id):
                    measures: dict[str, Any] = calibration.result["measures"]
                    return measures
        return None

    # -- data

    def _import(self) -> None:
        """The prompts' originals and rewrites, one data set a replay; and the third model's answers to held-out ones."""
        trained, held_out = self.prompts.trained, self.prompts.held_out
        for replay in self._plan.replays:
            self._import_replay(self._dataset(replay), trained, replay)
            if replay == "mixed":
                preferred = [p for p in trained if p.better]
                self._import_replay(self._dataset(replay, known=True), trained, replay, preferred)
        rows = [{"instruction": p.instruction, "output": p.third} for p in held_out]
        name = self._held_out
        import_file(self._store, write_rows(self._files / f"{name}.jsonl", rows), name)
        words = template(TEMPLATE)
        write_tasks(self._tasks, held_out, lambda instruction: words.forward(instruction, ""))

    def _import_replay(
        self, name: str, prompts: Sequence[Prompt], replay: Replay, rewritten: Sequence[Prompt] | None = None
    ) -> None:
        originals = [{"instruction": p.instruction, "output": p.original} for p in prompts]
        import_file(self._store, write_rows(self._files / f"{name}.jsonl", originals), name)
        rewrites = [
            {"instruction": p.instruction, "output": p.rewrite(replay)}
            for p in (prompts if rewritten is None else rewritten)
        ]
        path = write_rows(self._files / f"{name}.rewrites.jsonl", rewrites)
        import_file(self._store, path, name, as_variant="response_reflected", match="instruction")

    def _dataset(self, replay: Replay, *, known: bool = False) -> str:
        size = self._plan.size
        return f"{replay}{'-known' if known else ''}-{size.prompts}-{size.held_out}-{size.max_length}"

    @property
    def _held_out(self) -> str:
        return f"{HELD_OUT}-{self._plan.size.held_out}"

    # -- arms

    def _untuned(self, student: str) -> None:
        name = self._key(student, "", "untuned", "steps", 0, 0)
        if name in self._results:
            return
        self._reporter.event("info", f"{student}, untuned")
        losses = self._losses(student, None)
        asked = self._choices(str(self._folder(student)))
        self._results.add(
            Part(name, student, self._size, "", "untuned", "steps", 0, losses=losses, choices=asked)
        )

    def _arm(self, student: str, replay: Replay, arm: Arm, budget: Budget, seed: int) -> None:
        if not self._can(student, arm):
            return
        steps = self._steps(student, replay, arm, budget, seed)
        name = self._key(student, replay, arm.name, budget, seed, steps)
        if name in self._results:
            return
        self._reporter.event(
            "info", f"{student}, {replay}, {arm.name}, equal {budget}, seed {seed}: {steps} steps"
        )
        run = self._run(self._recipe(student, replay, arm, seed, steps, budget))
        training = self._store.training.of_run(run.id)
        if training is None or training.adapter is None:
            raise UserError(f"Run {run.name} trained nothing; the evidence has no part for it.")
        chosen = trained_on(self._store, run)
        texts = self._store.corpus.variants({v for _, v in chosen})
        part = Part(
            name, student, self._size, replay, arm.name, budget, seed, steps, training.tokens, len(chosen),
            sum(texts[v].kind != "original" for _, v in chosen),
            self._right(run, replay, arm),
            sum(len(texts[v].pair.response) for _, v in chosen) / len(chosen),
            self._losses(student, self._workspace.root / training.adapter),
        )  # fmt: skip
        if budget == "steps":
            part = replace(part, choices=self._choices(run.name))
        self._results.add(part)

    def _can(self, student: str, arm: Arm) -> bool:
        """Whether all that the arm needs is there; says what is not."""
        if arm.needs == "rater" and not self._plan.rater:
            self._reporter.event("info", f"{arm.name} is left out: --rater names no model.")
            return False
        if arm.needs == "weights" and self.weights(student) is None:
            self._reporter.event("info", f"{arm.name} is left out: too few pairs to fit a combination on.")
            return False
        return True

    def _right(self, run: Run, replay: Replay, arm: Arm) -> int | None:
        """Of all choices of a run, how many took the answer that GPT-4 said is better."""
        if replay != "mixed" or arm.part < 1:
            return None
        better = {p.instruction: p.better for p in self.prompts.trained}
        texts = self._store.corpus.variants({v for _, v in self._store.decisions.selected(run.id)})
        return sum((t.kind != "original") == better[t.pair.instruction] for t in texts.values())

    def _steps(self, student: str, replay: Replay, arm: Arm, budget: Budget, seed: int) -> int:
        """How many optimizer steps an arm takes: the plan's, or as many as come nearest to the tokens that the
        original's took."""
        whole = self._plan.size.steps
        if budget == "steps" or arm.name == ORIGINAL:
            return whole
        original, own = (
            self._at_equal_steps(student, replay, some, seed) for some in (by_name(ORIGINAL), arm)
        )
        run = self._run(self._recipe(student, replay, arm, seed, whole, "steps"))
        training = self._store.training.of_run(run.id)
        assert training is not None
        so_far = [value for _, value in metrics_of(self._store.conn, training.id)["tokens"]]
        if so_far[-1] >= original.tokens:
            return 1 + min(range(whole), key=lambda n: abs(so_far[n] - original.tokens))
        return max(whole, round(whole * original.tokens / own.tokens))

    def _at_equal_steps(self, student: str, replay: Replay, arm: Arm, seed: int) -> Part:
        """The arm at equal steps, which says how many tokens a step takes; done here where it is not asked for itself."""
        self._arm(student, replay, arm, "steps", seed)
        return self._results[self._key(student, replay, arm.name, "steps", seed, self._plan.size.steps)]

    def _run(self, recipe: Recipe) -> Run:
        run, _ = prepare(self._workspace, self._store, recipe, self._workspace.recipes / "evidence.toml")
        if run.status == "done":
            return run
        return Engine(self._workspace, self._store, run, self._reporter, self._should_stop).work()

    def _recipe(
        self,
        student: str,
        replay: Replay = "strong",
        arm: Arm | None = None,
        seed: int = 0,
        steps: int = 1,
        budget: Budget = "steps",
    ) -> Recipe:
        """Of one run; without an arm, what says how is scored."""
        size = self._plan.size
        selection: dict[str, Any] = {"instruction_by": "original", "policy": "all"}
        if arm is not None:
            selection |= arm.selection
            if arm.part < 1:
                selection["top_count"] = round(size.prompts * arm.part)
            if arm.needs == "rater":
                selection["rater"] = self._plan.rater
            if arm.needs == "weights" and (weights := self.weights(student)) is not None:
                selection["weights"] = weights.model_dump()
        described = {
            # An adapter's folder has its run's name: runs of two sizes have two.
            "name": f"{student}.{replay}.{arm.name if arm else 'none'}.{budget}.s{seed}.{self._mark}",
            "dataset": self._dataset(replay, known=arm is not None and arm.known),
            "seed": seed,
            "reflection": {"source": "store"},
            "student": {"model": student, "quantization": self._plan.quantization},
            "prompt": {"template": TEMPLATE, "max_length": size.max_length},
            "gates": arm.gates if arm else {},
            "selection": selection,
            "training": {
                "steps": steps,
                "batch_size": size.batch_size,
                "micro_batch_size": 1,
                "learning_rate": size.learning_rate,
                "lora_rank": size.lora_rank,
                "lora_alpha": 2 * size.lora_rank,
                "held_out": 0.0,
            },
        }
        return parse(described, f"the evidence's arm {arm.name if arm else ''}")

    def _key(self, student: str, replay: str, arm: str, budget: str, seed: int, steps: int) -> str:
        """Of all that a part depends on."""
        size = asdict(self._plan.size) | {"steps": steps, "fitting": True}
        return key(
            "evidence", student=student, quantization=self._plan.quantization, replay=replay, arm=arm,
            budget=budget, seed=seed, rater=self._plan.rater if arm == "teacher-score" else None, size=size,
        ).hex()  # fmt: skip

    @property
    def _size(self) -> dict[str, Any]:
        """What parts of one table have in common."""
        return asdict(self._plan.size) | {"quantization": self._plan.quantization, "fitting": True}

    # -- figures

    def _folder(self, student: str) -> Path:
        return models.resolve_student(self._workspace.models, student)

    @contextmanager
    def _judge(
        self, student: str, adapter: Path | None = None, max_length: int | None = None
    ) -> Iterator[VariantScorer]:
        """The student, with an adapter or as it is, as the runs score by it, at their length or another."""
        recipe, folder = self._recipe(student), self._folder(student)
        if max_length is not None:
            prompt = recipe.prompt.model_copy(update={"max_length": max_length})
            recipe = recipe.model_copy(update={"prompt": prompt})
        loaded = Student.load(folder, recipe.student.quantization, adapter=adapter)
        try:
            yield open_variant_scorer(
                self._store, recipe, folder, student, recipe.student.quantization, student=loaded
            )
        finally:
            loaded.close()

    def _losses(self, student: str, adapter: Path | None) -> list[float | None]:
        """L(y|x) of the third model's answers, nats a token, by the student with this adapter. Raises Stopped."""
        corpus = self._store.corpus
        dataset = corpus.dataset_id(self._held_out)
        assert dataset is not None
        of = {v.pair.instruction: v.id for s in corpus.each_sample_id(dataset) for v in corpus.variants_of(s)}
        with self._judge(student, adapter) as judge:
            losses = judge.conditional(of.values(), self._should_stop)
        if self._should_stop():
            raise Stopped
        return [losses.get(of[p.instruction]) for p in self.prompts.held_out]

    def _choices(self, contestant: str) -> dict[str, list[float]]:
        """By task, which questions are answered right: by a run's student, or a model."""
        one = replace(
            find_contestant(self._workspace, self._store, contestant), quantization=self._plan.quantization
        )
        done = multiple_choice.evaluate(
            self._store, one, self._tasks, self._plan.size.questions, None, self._reporter, self._should_stop
        )
        asked: dict[str, list[float]] = {}
        items = {item.item: item.category for item in self._store.evaluations.items(done.id)}
        for judgement in self._store.evaluations.judgements(done.id):
            asked.setdefault(items[judgement.item], []).append(judgement.score_a or 0.0)
        return asked
