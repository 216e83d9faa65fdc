"""A run read back as figures: what the end of ``srtui run`` and ``srtui status`` print.

The fields, in their order, are the keys of ``--json``, so a new one goes where scripts will not miss it:
at the end of its class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from srtui.measures import AT_LENGTH, MEASURES
from srtui.store import figures
from srtui.store.calibrations import Calibration, calibrations_of
from srtui.store.figures import MeanChange
from srtui.store.runs import state_now
from srtui.store.stages import StageProgress
from srtui.store.training import StoredTraining
from srtui.store.whole_datasets import Contamination

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from srtui.sample import Target
    from srtui.store import Store
    from srtui.store.runs import Run


@dataclass(frozen=True)
class Rewrites:
    """What became of the samples that the teacher was asked about, for one target; ``failed`` by reason."""

    asked: int
    first_try: int
    after_retries: int
    failed: dict[str, int]

    @property
    def parsed(self) -> int:
        """Samples with a rewrite that could be read, at whichever try."""
        return self.first_try + self.after_retries


@dataclass(frozen=True)
class Choices:
    """Of the samples that had a rewrite to choose (``choices``), how many did the student take?"""

    decided: int
    choices: int
    taken: int
    share: float | None


@dataclass(frozen=True)
class KeptScores:
    """Mean scores of what is kept; None where nothing has one."""

    ifd: float | None
    rifd: float | None


@dataclass(frozen=True)
class Lengths:
    """Mean characters of a response, and the share of responses with code: of the originals, and of
    what is kept."""

    before: float | None
    after: float | None
    code_before: float | None
    code_after: float | None


@dataclass(frozen=True)
class Round:
    """One round in a line: what its teacher wrote was worth, and what its student became. Losses are means
    over the held-out original pairs, in nats a token."""

    run: str
    teacher: str
    parsed_share: float | None
    taken_share: dict[str, float | None]
    kept: int
    ifd: float | None
    rifd: float | None
    held_out_before: float | None
    held_out_after: float | None


@dataclass(frozen=True)
class MeasureStanding:
    """What is known of the measure that a target was chosen by, with this run's student: the verdict of the last
    calibration that knows it (of a combination, with its very weights; of a rater's score or coherence, by the same
    model), None where there is none. Triples are a value with its 95 % interval."""

    measure: str
    verdict: str | None
    agreement: list[float | None] | None
    like_length: list[float | None] | None
    pairs: int
    calibration: int | None
    sentence: str


@dataclass(frozen=True)
class RunSummary:
    """The figures of one run (docs/figures.md). ``reflections`` and ``accepted`` are by target; ``seconds``
    are those of all stages, ``peak_memory_mb`` is in 10^6 bytes."""

    run: str
    status: str
    stage: str | None
    error: str | None
    samples: int
    held_out: int
    teacher: str | None
    student: str
    quantization: str
    reflections: dict[str, Rewrites]
    accepted: dict[str, Choices]
    ifd: MeanChange
    rifd: MeanChange
    kept_scores: KeptScores
    length: Lengths
    endings: dict[str, int]
    kept: int
    kept_held_out: int
    overruled: int
    dropped: dict[str, int]
    truncated: int
    training: StoredTraining | None
    stages: dict[str, StageProgress]
    peak_memory_mb: int
    seconds: float
    rounds: list[Round]
    gated: dict[str, dict[str, int]]
    """By target and gate, the rewrites that were not compared."""
    contamination: Contamination | None
    """Evaluation prompts in what is trained on; None before training, and where nothing was evaluated yet."""
    measures: dict[str, MeasureStanding]
    """By target, where it was chosen by a measure and the student has scored."""
    workers: list[dict[str, Any]]
    """What each worker of a run that is worked on elsewhere is doing (docs/cluster.md)."""


def summarise(store: Store, run_id: int) -> RunSummary:
    """The figures of one run, as srtui.store.figures defines them; true at any moment."""
    run = store.runs.get(run_id)
    counts, means = figures.counts(store.conn, run_id), figures.means(store, run_id)
    stages = store.runs.stages(run_id)
    return RunSummary(
        run=run.name,
        status=state_now(run.status, store.runs.holder(run_id) is not None),
        stage=run.stage,
        error=run.error,
        samples=counts.samples,
        held_out=counts.held_out,
        teacher=(run.teacher or {}).get("name"),
        student=run.recipe["student"]["model"],
        quantization=run.recipe["student"]["quantization"],
        reflections={
            target: Rewrites(c.asked, c.first_try, c.after_retries, c.failed)
            for target, c in counts.targets.items()
        },
        accepted={target: _choices(c) for target, c in counts.targets.items()},
        ifd=means.ifd,
        rifd=means.rifd,
        kept_scores=KeptScores(means.kept_ifd, means.kept_rifd),
        length=Lengths(means.length, means.kept_length, means.code, means.kept_code),
        endings=means.endings,
        kept=counts.kept,
        kept_held_out=counts.kept_held_out,
        overruled=counts.overruled,
        dropped=counts.dropped,
        truncated=means.truncated,
        training=store.training.of_run(run_id),
        stages=stages,
        peak_memory_mb=round(run.peak_memory_mb),
        seconds=sum(s.seconds for s in stages.values()),
        rounds=[
            _round(store, r, counts, means)
            if r.id == run_id
            else _round(store, r, figures.counts(store.conn, r.id), figures.means(store, r.id))
            for r in _rounds(store, run)
        ],
        gated={target: c.gated for target, c in counts.targets.items()},
        contamination=store.datasets.contamination(run_id),
        measures=_measures(store, run),
        workers=store.runs.workers(run_id),
    )


_NO_MEASURE = {"original", "reflected", "random"}


def _measures(store: Store, run: Run) -> dict[str, MeasureStanding]:
    if run.setting_id is None:
        return {}
    calibrations = calibrations_of(store.conn, run.setting_id)
    chosen = run.recipe.get("selection", {})
    # As the recipe's keys have it by default: a stored recipe may leave them out.
    by: dict[Target, str] = {
        "instruction": chosen.get("instruction_by", "ifd"),
        "response": chosen.get("response_by", "rifd"),
    }
    version = AT_LENGTH if chosen.get("length_control") else ""
    weights = chosen.get("weights")
    return {
        target: _standing(
            name + version,
            [c for c in calibrations if _holds_for(name, target, run, c.result)],
            _of_the_file(weights) if name == "combined" and weights else "",
        )
        for target, name in by.items()
        if name not in _NO_MEASURE
    }


def _holds_for(measure: str, target: Target, run: Run, result: Mapping[str, Any]) -> bool:
    """Whether what a calibration with the run's student found of a measure holds for this choice, too: it held answers
    against each other, and beside the student a measure may have a rater, an encoder or weights of its own."""
    of = MEASURES[measure]
    if target == "instruction" and (
        of.directions("instruction") != of.directions("response")
        or of.higher_instruction != of.higher_response
    ):
        return False
    chosen, found = run.recipe.get("selection", {}), result.get(of.source) or {}
    match of.source:
        case "rater" if name := chosen.get("rater"):
            return bool(found) and (
                name == found["name"] or PurePath(name).name.removesuffix(".gguf") == found["file"]
            )
        case "rater":
            return bool(found) and found["model"] == (run.teacher or {}).get("sha256")
        case "encoder":
            return bool(found) and found["name"] == PurePath(chosen.get("encoder", "")).name
        case "combination":
            return bool(result.get("weights") == (chosen.get("weights") or {}).get("weights"))
        case _:
            return True


def _of_the_file(weights: Mapping[str, Any]) -> str:
    """What a combination's file says of it, where no calibration in this store has its weights: it may have been edited,
    or written elsewhere."""
    value, low, high = weights["accuracy"]
    return (
        f"No calibration in this store has the weights of the combination that was chosen by; their file says that they "
        f"agree in {value:.1%} ({low:.1%} to {high:.1%}) of {weights['pairs']:,} pairs of {weights['data']}, and taking "
        f"the longer answer in {weights['length_accuracy'][0]:.1%}; srtui choose calibrate FILE --fit WEIGHTS makes some "
        "that are known here."
    )


def _standing(measure: str, calibrations: Sequence[Calibration], otherwise: str = "") -> MeasureStanding:
    """What the newest of these calibrations found of a measure; ``otherwise`` is the sentence where none knows it."""
    for calibration in calibrations:
        m = calibration.result["measures"].get(measure)
        if m is not None:
            return MeasureStanding(
                measure,
                m["verdict"],
                m["agreement"],
                m["like_length"],
                calibration.result["decided"],
                calibration.id,
                m["sentence"],
            )
    return MeasureStanding(measure, None, None, None, 0, None, otherwise)


def _rounds(store: Store, run: Run) -> list[Run]:
    """The runs whose tuned students were the teachers, one after the other, up to this one."""
    by_name = {r.name: r for r in store.runs.all()}
    rounds = [run]
    while (name := rounds[0].recipe["teacher"].get("from_run")) in by_name and len(rounds) < 100:
        rounds.insert(0, by_name[name])
    return rounds


def _round(store: Store, run: Run, counts: figures.Counts, means: figures.Means) -> Round:
    training = store.training.of_run(run.id)
    held_out = training.result.get("held_out", {}).get("original", {}) if training else {}
    targets = counts.targets.values()
    attempts = sum(c.asked for c in targets)
    return Round(
        run=run.name,
        teacher=(run.teacher or {}).get("name") or run.recipe["teacher"]["model"],
        parsed_share=sum(c.first_try + c.after_retries for c in targets) / attempts if attempts else None,
        taken_share={target: _choices(c).share for target, c in counts.targets.items()},
        kept=counts.kept,
        ifd=means.kept_ifd,
        rifd=means.kept_rifd,
        held_out_before=held_out.get("before"),
        held_out_after=held_out.get("after"),
    )


def _choices(c: figures.TargetCounts) -> Choices:
    return Choices(c.decided, c.choices, c.taken, c.taken / c.choices if c.choices else None)
