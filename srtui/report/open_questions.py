"""What could not be concluded from a run: the sentences at the end of a report.

Each follows from a figure of the run and names it, so that nothing is claimed that the store does
not bear out.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from srtui.evaluation.judge_calibration import worth
from srtui.evaluation.result_words import is_estimate
from srtui.wording import contamination_words, energy_words, measures_words

if TYPE_CHECKING:
    from srtui.report.facts import Facts, ScoreShift, TrainingFacts
    from srtui.store.evaluations import Evaluation
    from srtui.store.summary import RunSummary

FEW_HELD_OUT = 100
FEW_STEPS = 50
FEW_EXAMPLES = 500
FEW_CHOICES = 100
LONGER = 1.25
WELL_PARSED = 0.9
MOST_MASS = 0.5


def open_questions(f: Facts) -> list[str]:
    """Sentences, the weightiest first."""
    sentences: list[str] = []
    if f.run.status != "done":
        sentences.append(
            f"The run is not done (it is {f.run.status}); every figure here is of what was finished by now."
        )
    if not f.summary.samples:
        return [*sentences, "The run has no samples; there is nothing to conclude."]
    sentences += _of_training(f.training, f.summary)
    if not any(e.result for e in f.evaluations):
        sentences.append(
            "Nothing was evaluated, so nothing here says whether the tuned student answers better; loss on held-out "
            "texts is not an answer to that. srtui eval compares the two."
        )
    if f.training is not None and not f.has_control:
        sentences.append(
            "This run's student was not compared with the same training on the original data, so whether reflecting and "
            "choosing helped is unknown: better than the untuned student it would be after nearly any training. "
            "srtui ablate --only original makes that control."
        )
    sentences += measures_words(f.summary, doubtful=True)
    for e in f.evaluations:
        sentences += _of_evaluation(e, f.calibrations)
    for change in f.changes:
        sentences += _of_change(change)
    sentences += _of_data(f)
    if not energy_words(f.summary.stages, f.summary.kept):
        sentences.append("Energy is unknown: the store has no measurement of all of it.")
    sentences.append(
        "One seed was run; how much the figures would move with another is not known from this run."
    )
    return sentences


def _of_training(t: TrainingFacts | None, summary: RunSummary) -> list[str]:
    if t is None:
        return ["Nothing was trained, so nothing is known of what the selected data does to the student."]
    sentences = []
    if t.status != "done":
        return [f"Training did not come to its end ({t.status})."]
    for name, held in t.held_out.items():
        n, change = int(held["samples"]), held["after"] - held["before"]
        examples, unit = (
            ("pairs", "a pair") if name == "preference" else (f"samples ({name})", "nats a token")
        )
        words = f"On {n:,} held-out {examples} the mean loss went from {held['before']:.3f} to {held['after']:.3f}"
        if n < FEW_HELD_OUT:
            sentences.append(
                f"{words}. That is few samples: a change of {change:+.3f} {unit} on them may be chance, and the "
                "store keeps means only, so no interval can be given."
            )
        elif change >= 0:
            sentences.append(f"{words}: training did not lower it.")
    if t.method != "sft":
        sentences.append(
            "Training on pairs taught the student what its chooser prefers; that others prefer the same is not shown by "
            "margins or accuracies of rewards, and is a question for a judge or for people."
        )
    if not t.held_out:
        sentences.append("Nothing was held out, so what training did to unseen samples is unknown.")
    if t.steps < FEW_STEPS:
        sentences.append(
            f"Training took {t.steps:,} steps on {t.examples:,} {'samples' if t.method == 'sft' else 'pairs'}; the loss of single steps varies with what is "
            "in the batch, and so short a curve shows no trend by itself."
        )
    elif t.method == "sft" and t.examples < FEW_EXAMPLES:
        sentences.append(f"Training saw {t.examples:,} samples; the paper's smallest set has about 1,000.")
    return sentences


def _of_evaluation(e: Evaluation, calibrations: Sequence[Evaluation]) -> list[str]:
    who = f"{e.contestant_a} against {e.contestant_b}" if e.contestant_b else e.contestant_a
    name = f"Evaluation {e.id} ({e.kind}, {who})"
    if e.result is None:
        return [f"{name} has no result yet; it is {e.state}."]
    sentences = []
    if e.state != "done":
        sentences.append(f"{name} is not done (it is {e.state}); its figures are of what was judged by then.")
    rate = e.result.get("win_rate")
    if is_estimate(rate) and rate["low"] is not None and rate["low"] <= 0.5 <= rate["high"]:
        sentences.append(
            f"{name}: the interval of the win rate, {rate['low']:.2f} to {rate['high']:.2f}, holds one half; neither "
            "was shown to be better."
        )
    length = e.result.get("length") or {}
    if length.get("a") and length.get("b") and not 1 / LONGER <= length["a"] / length["b"] <= LONGER:
        sentences.append(
            f"{name}: A's answers are {length['a'] / length['b']:.1f} times as long as B's on the mean, and judges favour "
            "longer ones; how much of the win rate that is, it does not show."
            if (e.result.get("length_controlled") or {}).get("win_rate", {}).get("value") is None
            else f"{name}: A's answers are {length['a'] / length['b']:.1f} times as long as B's on the mean; read the win "
            "rate at equal length."
        )
    failed = e.result.get("failed") or {}
    lost = sum(failed.get(key, 0) for key in ("a", "b", "both", "answers"))
    if lost:
        sentences.append(
            f"{name}: {lost:,} {'answers are' if 'answers' in failed else 'items are decided by answers that are'} not "
            "there; they count as lost (both: a tie; alone: 1 point)."
        )
    sentences += [f"{name}: {sentence}" for sentence in e.result.get("warnings", [])]
    if e.judge:
        sentences += _of_judge(name, e, e.judge, e.result, calibrations)
    agreement = e.result.get("agreement")
    if e.kind == "human" and isinstance(agreement, dict) and agreement.get("method") is None:
        sentences.append(f"{name}: fewer than two people judged, so their agreement is unknown.")
    return sentences


def _of_judge(
    name: str, e: Evaluation, judge: str, result: Mapping[str, Any], calibrations: Sequence[Evaluation]
) -> list[str]:
    sentences = []
    weights = (e.judge_identity or {}).get("sha256")
    of_this_judge = [
        c for c in calibrations if c.result and (c.judge_identity or {}).get("sha256") == weights
    ]
    if not of_this_judge:
        sentences.append(
            f"{name}: nobody has compared the judge {judge} with known judgements, so what its verdicts are worth is "
            "unknown; srtui eval calibrate says it."
        )
    elif of_this_judge[0].result and not of_this_judge[0].result["better_than_chance"]:
        sentences.append(f"{name}: {worth(judge, of_this_judge[0].result)}")
    bias = result.get("position", {}).get("first")
    if is_estimate(bias) and bias["low"] is not None and not bias["low"] <= 0 <= bias["high"]:
        sentences.append(
            f"{name}: the judge favours the answer shown {'first' if bias['value'] > 0 else 'second'}, by "
            f"{abs(bias['value']):.2f} points on the mean; both orders were asked, and what they disagree on is a tie."
        )
    parsed = result.get("parse", {}).get("rate")
    if is_estimate(parsed) and parsed["value"] is not None and parsed["value"] < WELL_PARSED:
        sentences.append(
            f"{name}: only {parsed['value']:.0%} of the judge's texts say a score; the rest stands on its token "
            "probabilities alone."
        )
    mass = result.get("parse", {}).get("mass")
    if mass is not None and mass < MOST_MASS:
        sentences.append(
            f"{name}: where a score was due the judge gave all ten scores together {mass:.1%} of its probability; it "
            "hardly meant to give one."
        )
    return sentences


def _of_change(c: ScoreShift) -> list[str]:
    n = len(c.before)
    sentences = []
    if n < FEW_CHOICES:
        sentences.append(
            f"{c.metric} was compared on {n:,} samples only; the shares and means of so few are rough."
        )
    if n > 1:
        difference = [a - b for b, a in zip(c.before, c.after, strict=True)]
        mean, error = statistics.fmean(difference), statistics.stdev(difference) / n**0.5
        sentences.append(
            f"{c.metric} of the final texts differs from that of the texts before by {mean:+.3f} on the mean "
            f"(standard error {error:.3f}). The student chose by its own scores, so the difference shows that there "
            "was something to choose, and not that the texts are better."
        )
    return sentences


def _of_data(f: Facts) -> list[str]:
    s, sentences = f.summary, []
    length = s.length
    if length.before and length.after:
        times = length.after / length.before
        if times > LONGER or times < 1 / LONGER:
            sentences.append(
                f"The kept answers are {times:.1f} times as long as those of the dataset on the mean "
                f"({length.after:,.0f} against {length.before:,.0f} characters); judges and people favour "
                "longer answers, and a change of length is not one of quality."
            )
    for target, word in (("instruction", "instructions"), ("response", "answers")):
        asked, failed = s.reflections[target].asked, sum(s.reflections[target].failed.values())
        if asked and failed / asked > 0.1:
            sentences.append(
                f"{failed:,} of {asked:,} {word} could not be rewritten in a form that could be read; what is kept "
                "leans to samples that this teacher finds easy."
            )
    if s.contamination is not None and s.contamination.held + s.contamination.short + (
        s.contamination.meaning or 0
    ):
        sentences.append(
            f"{contamination_words(s.contamination)}: what is measured by these prompts is partly known."
        )
    unscored = sum(sum(d.invalid.values()) for d in f.spreads)
    if unscored:
        sentences.append(f"{unscored:,} texts have no score and could not be chosen.")
    if s.truncated:
        sentences.append(f"{s.truncated:,} texts were cut to the longest length before they were scored.")
    endings = s.endings
    if endings["cut"]:
        sentences.append(
            f"{endings['cut']:,} of the kept texts were cut short by an older srtui, which took them all the same: they end "
            "in the middle, and training learns that; a run of another name writes them again."
        )
    if endings["unknown"]:
        sentences.append(
            f"Of {endings['unknown']:,} of the kept texts it is not known whether they were cut short: they were imported, or "
            "written by an older srtui, which did not keep how each part ended."
        )
    if s.teacher and s.teacher == s.student:
        sentences.append(
            "Teacher and student are the same model: the teacher cannot know more than the student does, which is not "
            "the setting of the paper."
        )
    if f.overruled:
        sentences.append(
            f"A person overruled the student on {f.overruled:,} samples; those follow no rule of the method."
        )
    return sentences
