"""The words that every face (command line, dashboard, report) uses for the same thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from srtui.measures import AT_LENGTH, MEASURES, STORED
from srtui.sample import Role, Target, Turn
from srtui.store.compare import DecidedOtherwise, HeldOut, RunsCompared
from srtui.store.endings import GenerationEnding
from srtui.store.stages import StageProgress
from srtui.store.summary import RunSummary
from srtui.store.whole_datasets import Contamination
from srtui.text import duration, number, share

_BEFORE = {"original": "of the original", "response": "before the new answer"}
LABELS = {
    "samples": "samples",
    "held out": "held out",
    "kept": "kept",
    "overruled": "overruled by a person",
    **{f"{name} before": f"{MEASURES[name].label} {_BEFORE[MEASURES[name].before or '']}" for name in STORED},
    **{name: f"{MEASURES[name].label} of the final text" for name in STORED},
    **{f"kept {name}": f"{MEASURES[name].label} of what is kept" for name in STORED},
    "trained on": "trained on",
    "changed since": "choice changed since the training",
    "step loss": "loss of a step",
    "reward margin": "reward margin",
    "reward accuracy": "reward accuracy",
    "step seconds": "in steps",
    "step speed": "tokens/s in steps",
    "stage seconds": "whole stage",
}
"""By quantity, the words that all faces use for it."""

STAGE_TITLES = {
    "start": "Start the program",
    "prepare": "Prepare the samples",
    "load-teacher": "Load the teacher",
    "load-student": "Load the student",
    "load-encoder": "Load the sentence encoder",
    "check-template": "Check the prompt template",
    "reflect-instruction": "Reflect on instructions",
    "choose-instruction": "Choose instructions",
    "reflect-response": "Reflect on answers",
    "choose-response": "Choose answers",
    "train": "Train the student",
    "answers-a": "Answers of A",
    "answers-b": "Answers of B",
    "judge": "Judge",
    "judge-words": "The judge's words",
    "choice": "Multiple choice",
    "calibrate": "Score pairs whose better answer is known",
    "rate": "Ask the rater about each answer",
    "rate-pairs": "Ask the rater about each pair, in both orders",
}


def stage_title(stage: str) -> str:
    """What a person calls a stage of a run or of an evaluation."""
    return STAGE_TITLES.get(stage, stage)


_WITHOUT_MEASURE = {
    "original": "the original stayed",
    "reflected": "the rewrite was taken",
    "random": "one was drawn",
}


def choice_words(recipe: Mapping[str, Any]) -> str:
    """By what a run chose between texts and their rewrites, as a sentence of its report."""
    chosen = recipe.get("selection") or {}
    at_length = " for its length" if chosen.get("length_control") else ""

    def words(target: Target, by: str) -> str:
        if by in _WITHOUT_MEASURE:
            return _WITHOUT_MEASURE[by]
        end = "higher" if MEASURES[by].higher_wins(target) else "lower"
        return f"the one with the {end} {MEASURES[by].label}{at_length} was taken"

    # As the recipe's keys have it by default: a stored recipe may leave them out.
    instruction = words("instruction", chosen.get("instruction_by", "ifd"))
    response = words("response", chosen.get("response_by", "rifd"))
    return f"Of an instruction and its rewrite {instruction}; then of an answer and its rewrite {response}."


def evaluation_state(kind: str, state: str) -> str:
    """What an evaluation is doing: one by people that is not done waits for them, nobody has stopped it."""
    return "for people" if kind == "human" and state == "stopped" else state


def server_words(recipe: Mapping[str, Any]) -> str:
    """Where the teacher of a run's recipe is, where it is none of this process; empty where it is."""
    teacher = recipe.get("teacher") or {}
    endpoint = teacher.get("endpoint")
    if not endpoint:
        return ""
    if teacher.get("allow_remote"):
        return f"the teacher is a server's, {endpoint}, which may be another machine that reads the texts; its weights cannot be hashed"
    return f"the teacher is a server's, {endpoint}; its weights cannot be hashed"


def measure_label(name: str) -> str:
    """What a measure, or its length-controlled version, is called."""
    plain = name.removesuffix(AT_LENGTH)
    label = MEASURES[plain].label if plain in MEASURES else plain
    return label if plain == name else f"{label} at equal length"


def measures_words(run: RunSummary, *, doubtful: bool = False) -> list[str]:
    """What is known of each measure that a run chose by, a sentence each; with ``doubtful`` only of those that were
    never calibrated, or were found no better than length or chance."""
    sentences: dict[str, None] = {}
    for standing in run.measures.values():
        if doubtful and standing.verdict == "better than chance":
            continue
        if standing.verdict is None and standing.sentence:
            sentences[standing.sentence] = None
        elif standing.verdict is None:
            name = measure_label(standing.measure)
            sentences[
                f"{name} was never calibrated with {run.student}, so what its choices are worth is unknown; "
                "srtui choose calibrate FILE says it."
            ] = None
        else:
            sentences[f"{standing.sentence} (Calibration {standing.calibration}, with {run.student}.)"] = None
    return list(sentences)


def kept_words(kept: int, samples: int, held_out: int) -> str:
    """26 of 56 (46 %), 2 held out."""
    held_out_part = f", {held_out:,} {LABELS['held out']}" if held_out else ""
    return f"{kept:,} of {samples:,} ({share(kept, samples)}){held_out_part}"


def contamination_words(contamination: Contamination) -> str:
    """One line about evaluation prompts in what a run trains on."""
    words = (
        f"{contamination.held:,} of the {contamination.texts:,} texts trained on hold one of the {contamination.prompts:,} prompts that this "
        "workspace has evaluated with"
    )
    if contamination.held:
        words += f" ({contamination.question:,} ask the same, {contamination.long:,} have 13 words in a row of one)"
    if contamination.meaning:
        words += f"; {contamination.meaning:,} more are near one in meaning"
    return f"{words}; {contamination.short:,} more have 8 words in a row" if contamination.short else words


def training_words(
    trained_on: int,
    step_losses: Sequence[float] | None,
    seconds: float,
    tokens_a_second: float | None,
    changed_since: int,
    method: str = "sft",
) -> list[str]:
    """What a training was, as every face says it; figures as srtui.store.training.training_of defines them.

    Args:
        trained_on: samples, or pairs, whose tokens were trained on.
        step_losses: the loss of the first and of the last step, in nats a target token, where there are any.
        seconds: time spent in steps.
        tokens_a_second: tokens over those seconds; None where no time was spent.
        changed_since: choices that a person has changed after it.
        method: what it learns from; all but ``sft`` learn from pairs.
    """
    unit = "samples" if method == "sft" else f"pairs ({method})"
    words = [f"{LABELS['trained on']} {trained_on:,} {unit}"]
    if changed_since:
        words[0] += f", before a person changed {changed_since:,} choice{'' if changed_since == 1 else 's'}"
    if step_losses:
        first_loss, last_loss = step_losses
        words.append(f"{LABELS['step loss']} {number(first_loss)} → {number(last_loss)}")
    if tokens_a_second:
        words.append(f"{duration(seconds)} {LABELS['step seconds']}")
        words.append(f"{tokens_a_second:,.0f} {LABELS['step speed']}")
    return words


def compared_words(c: RunsCompared) -> list[str]:
    """Two runs beside each other, one line a fact."""
    lines = [
        f"A is {c.a}, B is {c.b}: {c.shared:,} samples in both, {c.only_a:,} in A alone, {c.only_b:,} in B alone."
    ]
    if c.recipe:
        lines.append("Their recipes differ in:")
        lines += [f"  {d.key}: {_value(d.a)} in A, {_value(d.b)} in B" for d in c.recipe]
    else:
        lines.append("Their recipes are the same but for name and description.")
    if not c.shared:
        return [*lines, "They have no sample in common, so nothing else compares."]
    changed = ", ".join(
        f"{c.otherwise.get(stage, 0):,} {words}"
        for stage, words in (
            ("instruction", "instructions"),
            ("response", "answers"),
            ("outcome", "outcomes"),
        )
    )
    lines.append(
        f"Of the samples in both, decided otherwise: {changed}; A keeps {c.kept_a:,}, B {c.kept_b:,}."
    )
    lines.append(held_out_words(c.held_out))
    return lines


def held_out_words(h: HeldOut) -> str:
    """Whether the held-out losses of two runs compare."""
    if h.same:
        return f"Both held out the same {h.both:,} samples: their held-out losses compare."
    if not h.both + h.only_a + h.only_b:
        return "Neither holds samples out, so there are no losses to compare."
    return (
        f"They held out other samples ({h.both:,} in common, {h.only_a:,} in A alone, {h.only_b:,} in B alone): their "
        "held-out losses do not compare."
    )


def otherwise_words(d: DecidedOtherwise, a: str, b: str) -> list[str]:
    """A sample that two runs decided otherwise: which, and the reason of each."""
    subject = {"instruction": "instruction", "response": "answer", "outcome": "kept or not"}[d.stage]
    reasons = (left_out_words(d.a_reason), left_out_words(d.b_reason))
    return [f"Sample {d.sample}, {subject}", f"{a}: {reasons[0]}", f"{b}: {reasons[1]}"]


def _value(value: object) -> str:
    return "nothing" if value is None or value == "" else str(value)


def left_out_words(reason: str) -> str:
    """Why a sample is not trained on, for a person; a reason is stored in fewer words."""
    return _LEFT_OUT.get(reason, reason)


_LEFT_OUT = {"response not rewritten": "the answer was not rewritten (selection.policy is paper)"}
ROLE_NAMES: dict[Role, str] = {"system": "System", "user": "User", "assistant": "Assistant"}
"""What people call whose turn it is."""


def folded(history: Sequence[Turn]) -> str:
    """A history in a line: how many turns, and how the last of them begins."""
    last_turn = history[-1]
    words = " ".join(last_turn.text[:200].split())
    begins = f"{words[:60]}…" if len(words) > 60 or len(last_turn.text) > 200 else words
    count = f"{len(history):,} turn{'' if len(history) == 1 else 's'}"
    return f"{count} before, the last by {ROLE_NAMES[last_turn.role].lower()}: {begins}"


def reward_words(result: Mapping[str, Any]) -> list[str]:
    """What the kept weights make of held-out preference pairs, from a training's result; nothing where there are
    none. The margin is of rewards, beta x the log-ratio to the reference; the accuracy is the share above 0."""
    rewards = result.get("rewards")
    if not rewards:
        return []
    from srtui.evaluation.result_words import estimate_words

    return [f"{LABELS[f'reward {name}']} {estimate_words(rewards[name])}" for name in ("margin", "accuracy")]


def held_out_name(name: str) -> str:
    """What a loss of held-out texts is called: those of preferences are of pairs, in another unit than those of
    tokens."""
    return "of a pair" if name == "preference" else name


def ending_words(ending: GenerationEnding) -> str:
    """One line about all segments of a generation."""
    if ending.segments is None:
        last_segment = _finish_words(ending.finish)
        return f"the last part {last_segment}; of the others it is not known (an older srtui wrote it)"
    words = [
        f"{part} {_finish_words(finish)} after {tokens:,} tokens" for part, finish, tokens in ending.segments
    ]
    return ", ".join(words) or f"nothing was written: {ending.finish}"


def _finish_words(finish: str) -> str:
    if finish == "length":
        return "cut off at its limit"
    if finish == "repetition":
        return "cut off where it repeats itself"
    kind, _, marker = finish.partition(":")
    return f"ended by {marker}" if kind == "stop" else "ended by itself" if finish == "end" else finish


WORKER_COLUMNS = ("worker", "node", "device", "state", "tokens/s", "tasks", "restarts")
"""What faces show of a worker; ``worker_rows`` has the values."""


def worker_rows(workers: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Of each worker of a run that is worked on elsewhere (``RunSummary.workers``), the texts of WORKER_COLUMNS; tasks
    are those that it has, of its window."""
    return [
        (
            str(w["worker"]),
            str(w["node"]) or "-",
            str(w["device"]) or "-",
            str(w["state"]),
            f"{w['tokens_s']:,.0f}" if w["tokens_s"] else "-",
            f"{w['tasks']}/{w['window']}" if w["window"] else "-",
            str(w["restarts"]),
        )
        for w in workers
    ]


_MEASURED = (
    0.95  # the least share of a run's seconds over which its energy was measured, for a figure of all of them
)


def energy_words(stages: Mapping[str, StageProgress], kept: int) -> str:
    """What a run has used; "" where it was not measured over nearly all of its time, or nothing is kept."""
    seconds = sum(s.seconds for s in stages.values())
    measured = sum(_number(s.detail.get("joule_seconds")) for s in stages.values())
    joules = sum(_number(s.detail.get("joules")) for s in stages.values())
    if not seconds or not kept or not joules or measured < _MEASURED * seconds:
        return ""
    return f"{joules / kept:,.3g} J a kept sample, {joules / 1000:,.3g} kJ in all"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
