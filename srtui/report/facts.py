"""All that a report says of a run, as one typed object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import srtui
from srtui.atomic import sha256_of
from srtui.data_map import DataMap, map_of_run
from srtui.evaluation.question import compares_with_control
from srtui.gates import GATES
from srtui.measures import MEASURES, STORED
from srtui.report.examples import Example, pick
from srtui.store import Store, figures
from srtui.store.distributions import ScoreSpread, distributions
from srtui.store.evaluations import Evaluation
from srtui.store.generations import PromptUse
from srtui.store.imports import DatasetFile
from srtui.store.runs import Run
from srtui.store.stages import STAGES, STEPS, StageProgress
from srtui.store.summary import RunSummary, summarise
from srtui.store.training import TrainingView
from srtui.store.views import Views
from srtui.wording import LABELS, reward_words, server_words, training_words

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Model:
    """A model that took part. ``sha256`` is of its file, or the student's identity in the store."""

    role: str
    name: str
    form: str
    identity: str


@dataclass(frozen=True)
class Step:
    """How many samples came through one step of the run."""

    name: str
    samples: int
    of: int
    why_not: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreShift:
    """A score of the same samples before, and of their final texts; values are ratios of perplexities."""

    metric: str
    before: list[float]
    after: list[float]


@dataclass(frozen=True)
class StageCost:
    """What a stage took on this machine. Tokens are those run through a model."""

    stage: str
    done: int
    total: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class TrainingFacts:
    """A training with its curves; losses are means in nats a token. ``words`` say what it was."""

    status: str
    examples: int
    steps: int
    tokens: int
    seconds: float
    words: list[str]
    adapter: str | None
    held_out: dict[str, dict[str, float]]
    metrics: dict[str, Points]
    method: str = "sft"
    rewards: list[str] = field(default_factory=list)
    """What held-out preference pairs say of it, with how many they are."""


@dataclass(frozen=True)
class Facts:
    """Everything that a report shows. Texts of the data are as they came: whoever renders escapes."""

    run: Run
    version: str
    seed: int
    summary: RunSummary
    models: list[Model]
    prompts: list[PromptUse]
    dataset: str
    sources: list[DatasetFile]
    flow: list[Step]
    changes: list[ScoreShift]
    spreads: list[ScoreSpread]
    overruled: int
    examples: list[Example]
    training: TrainingFacts | None
    costs: list[StageCost]
    evaluations: list[Evaluation]
    calibrations: list[Evaluation]
    warnings: list[str]
    map: DataMap
    has_control: bool
    """Whether an evaluation compares this run with the same training on the original data."""


def gather(store: Store, root: Path, run_id: int, *, examples: int = 3, seed: int | None = None) -> Facts:
    """Read a run back: all that its report shows. Raises UserError where there is no such run.

    Args:
        store: with the run.
        root: the workspace's folder, in which the adapter's file is looked for.
        run_id: of the run.
        examples: how many of each sort: best, worst, random.
        seed: by which the random ones are drawn; the recipe's if None.
    """
    run = store.runs.get(run_id)
    seed = run.recipe["seed"] if seed is None else seed
    views = Views(store.path)
    try:
        training = _training(views.training(run_id))
        shown = pick(store, views, run_id, examples, seed)
    finally:
        views.close()
    summary = summarise(store, run_id)
    evaluations = store.evaluations.all(run_id)
    return Facts(
        run=run,
        version=srtui.__version__,
        seed=seed,
        summary=summary,
        models=_models(store, root, run, training),
        prompts=store.generations.prompt_uses(run_id),
        dataset=store.corpus.dataset_name(run.dataset_id) or "",
        # The name only: where a file lay is nothing for a reader of the report.
        sources=[f._replace(path=PurePath(f.path).name) for f in store.imports.files(run.dataset_id)],
        flow=_flow(summary, training),
        changes=[
            ScoreShift(MEASURES[name].label, [b for b, _ in pairs], [a for _, a in pairs])
            for name in STORED
            if (pairs := figures.pairs(store.conn, run_id, name))
        ],
        spreads=distributions(store, run_id),
        overruled=summary.overruled,
        examples=shown,
        training=training,
        costs=_costs(summary.stages),
        evaluations=evaluations,
        calibrations=store.evaluations.all(kind="calibration"),
        warnings=[
            e.message for e in store.runs.events(run_id, limit=1000) if e.level in ("warning", "error")
        ],
        map=map_of_run(store, run),
        has_control=any(e.result and compares_with_control(store, e) for e in evaluations),
    )


def _models(store: Store, root: Path, run: Run, training: TrainingFacts | None) -> list[Model]:
    listed = []
    if run.teacher:
        t = run.teacher
        size = f"{t['parameters'] / 1e6:,.0f} M parameters, " if t.get("parameters") else ""
        listed.append(
            Model(
                "teacher",
                t.get("name") or "",
                server_words(run.recipe) or f"{size}{t.get('quantization') or ''}",
                t.get("sha256") or "",
            )
        )
        if t.get("adapter_sha256"):
            listed.append(Model("teacher's adapter", "", "LoRA", t["adapter_sha256"]))
    else:
        listed.append(
            Model(
                "teacher", run.recipe["teacher"]["model"] or "", server_words(run.recipe) or "not loaded", ""
            )
        )
    setting = store.scores.setting_by_id(run.setting_id)
    student = run.recipe["student"]
    listed.append(
        Model("student", student["model"], student["quantization"], setting.student_id if setting else "")
    )
    if training is not None and training.adapter:
        file = root / training.adapter / "adapter_model.safetensors"
        digest = sha256_of(file) if file.is_file() else ""
        listed.append(Model("adapter", training.adapter, "LoRA", digest or "the file is not there any more"))
    return listed


def _flow(summary: RunSummary, training: TrainingFacts | None) -> list[Step]:
    samples = summary.samples
    steps = [Step("samples", samples, samples)]
    for target, word in (("instruction", "instruction"), ("response", "answer")):
        written = summary.reflections[target]
        steps.append(
            Step(
                f"{word} rewritten",
                written.parsed,
                written.asked,
                written.failed,
            )
        )
        if stopped := summary.gated[target]:
            choices = summary.accepted[target].choices
            words = {GATES[gate].words if gate in GATES else gate: n for gate, n in stopped.items()}
            steps.append(Step(f"{word} with a rewrite that passed the gates", choices, written.parsed, words))
        accepted = summary.accepted[target]
        steps.append(Step(f"new {word} taken", accepted.taken, accepted.choices))
    kept, dropped = summary.kept, summary.dropped
    steps.append(Step(LABELS["kept"], kept, kept + sum(dropped.values()), dropped))
    if training is not None:
        steps.append(Step(LABELS["trained on"], training.examples, kept, _not_trained_on(summary)))
    return steps


def _not_trained_on(summary: RunSummary) -> dict[str, int]:
    why = {
        LABELS["held out"]: summary.kept_held_out,
        LABELS["changed since"]: summary.training.changed_since if summary.training else 0,
    }
    return {reason: count for reason, count in why.items() if count}


def _training(row: TrainingView | None) -> TrainingFacts | None:
    if row is None:
        return None
    return TrainingFacts(
        status=row.status,
        examples=row.trained_on,
        steps=row.steps,
        tokens=row.tokens,
        seconds=row.seconds,
        words=training_words(
            row.trained_on,
            row.step_losses,
            row.seconds,
            row.tokens_a_second,
            row.changed_since,
            row.method,
        ),
        adapter=row.adapter,
        held_out=row.result.get("held_out", {}),
        metrics=row.metrics,
        method=row.method,
        rewards=reward_words(row.result),
    )


def _costs(stages: Mapping[str, StageProgress]) -> list[StageCost]:
    order = {name: n for n, name in enumerate((*STEPS, "check-template", *STAGES))}
    return [
        StageCost(name, s.done, s.total, s.tokens, s.seconds)
        for name, s in sorted(stages.items(), key=lambda item: order.get(item[0], len(order)))
    ]
