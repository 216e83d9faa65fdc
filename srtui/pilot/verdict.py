"""What follows from a pilot: one sentence, and the words that apply it.

Pure rules over counts. Each rule looks for one fault; the gravest that is found speaks. A sentence says how many of
how many and between which shares that is with 95 % (Wilson 1927), and where a few samples cannot rule chance out,
it says so: a pilot of 24 finds what ruins a data set, not what ruins one sample in a hundred.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from srtui.evaluation.statistics import wilson
from srtui.pilot.limits import Limit
from srtui.text import share

FEWEST = 8
"""Samples that a pilot needs to say go: of fewer, half may be spoilt and none of them drawn (0.65^7 = 5 %)."""
TALK = 0.2
UNREAD = 1 / 3
CUT = 0.1
TEMPLATE = 1 / 3
KEPT = 0.05

Word = Literal["go", "change", "worse", "unknown"]


@dataclass(frozen=True)
class Findings:
    """What a verdict rests on, in counts of samples.

    ``asked`` were put to the teacher, ``unread`` of them came to no rewrite for another reason than a cut (``why`` is
    the commonest), ``cut`` came to none because each try was cut at a limit. ``rewrites`` were looked through for
    talk about the task; ``gates`` counts, by gate, the samples with a rewrite that it would stop, and ``active`` are on.
    ``scored`` originals were read under the prompt template, ``over_one`` of them had an IFD of 1
    or more. ``settled`` samples have an outcome. ``larger`` is a larger teacher in models/, if there is one.
    """

    samples: int
    asked: int
    unread: int
    cut: int
    rewrites: int
    talk: int
    scored: int
    over_one: int
    settled: int
    kept: int
    why: str = ""
    mode: str = "guided"
    policy: str = "paper"
    template: str = "alpaca"
    limits: Sequence[Limit] = ()
    larger: str | None = None
    gates: Mapping[str, int] = field(default_factory=dict)
    active: Sequence[str] = ()
    teacher_asked: bool = True


@dataclass(frozen=True)
class Verdict:
    """``word`` for programs; ``sentence`` for people; ``set`` are the words for ``--set`` that apply the advice; ``sure``
    says whether the whole interval lies beyond the rule's threshold; ``also`` are sentences on lesser faults."""

    word: Word
    sentence: str
    set: list[str] = field(default_factory=list)
    sure: bool = True
    also: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Fault:
    word: Word
    sentence: str
    set: list[str]
    sure: bool


def judge(f: Findings) -> Verdict:
    """The verdict on these findings; ``go`` only where nothing speaks against it and enough was looked at."""
    faults = list(_faults(f))
    if faults:
        first, *others = faults
        return Verdict(
            first.word, first.sentence, first.set, first.sure, [other.sentence for other in others]
        )
    if f.samples < FEWEST:
        return Verdict(
            "unknown",
            f"too few to say: nothing is wrong with these {f.samples}, which means little; "
            "look at the examples, or ask for --samples 24.",
            sure=False,
        )
    unseen_share = 1 - 0.05 ** (1 / f.samples)
    return Verdict(
        "go",
        f"go: {f.asked - f.unread - f.cut} of {f.asked} came to a rewrite and {f.kept} of {f.settled} would be kept. A fault "
        f"that hits fewer than {unseen_share:.0%} of the samples may not have been drawn, and no rule reads whether a text is right: the examples show it.",
    )


def _faults(f: Findings) -> Iterator[_Fault]:
    """The faults found, the gravest first."""
    if f.asked and f.unread + f.cut == f.asked and f.cut < f.asked:
        yield _Fault("worse", _no_rewrites(f), _for_unread(f), f.asked >= FEWEST)
        return
    if _is_frequent(f.talk, f.rewrites, TALK):
        sets = [f"teacher.model={f.larger}"] if f.larger else []
        advice = "use a larger teacher" + (f" ({f.larger} is in models/)" if f.larger else "")
        if "about_the_task" not in f.active:
            sets.append("gates.about_the_task=true")
            advice += ", or let a gate stop them"
        yield _Fault(
            "worse",
            f"this teacher makes your data worse: {f.talk} of {f.rewrites} rewrites talk about the task"
            f"{_interval(f.talk, f.rewrites)}; {advice}{_chance_words(f.talk, f.rewrites, TALK)}.",
            sets,
            _is_significant(f.talk, f.rewrites, TALK),
        )
    if _is_frequent(f.over_one, f.scored, TEMPLATE):
        yield _Fault(
            "change",
            f"look at the prompt template first: {f.over_one} of {f.scored} originals have an IFD of 1 or more under "
            f"{f.template!r}{_interval(f.over_one, f.scored)}, so the student may not know it"
            f"{_chance_words(f.over_one, f.scored, TEMPLATE)}.",
            ["prompt.template=chat"] if f.template != "chat" else [],
            _is_significant(f.over_one, f.scored, TEMPLATE),
        )
    if _is_frequent(f.cut, f.asked, CUT):
        higher = [(limit.key, n) for limit in f.limits if (n := limit.suggested)]
        words = " and ".join(f"{key.rpartition('.')[2]} to {n:,}" for key, n in higher)
        raise_them = f"raise {words} first" if words else "raise the token limits first"
        yield _Fault(
            "change",
            f"{raise_them}: {f.cut} of {f.asked} reflections were cut off at each try"
            f"{_interval(f.cut, f.asked)}{_chance_words(f.cut, f.asked, CUT)}.",
            [f"{key}={n}" for key, n in higher],
            _is_significant(f.cut, f.asked, CUT),
        )
    if _is_frequent(f.unread, f.asked, UNREAD):
        why = f", most often {f.why!r}" if f.why else ""
        yield _Fault(
            "change",
            f"few replies can be used: {f.unread} of {f.asked} came to no rewrite{why}{_interval(f.unread, f.asked)}"
            f"{_chance_words(f.unread, f.asked, UNREAD)}.",
            _for_unread(f),
            _is_significant(f.unread, f.asked, UNREAD),
        )
    other_gates = {g: n for g, n in f.gates.items() if g != "about_the_task" and g not in f.active}
    for gate, count in sorted(other_gates.items(), key=lambda item: -item[1]):
        if _is_frequent(count, f.rewrites, TALK):
            yield _Fault(
                "change",
                f"a gate would stop much: gates.{gate} {count} of {f.rewrites} samples with a rewrite"
                f"{_interval(count, f.rewrites)}; look at the examples, and set it{_chance_words(count, f.rewrites, TALK)}.",
                [f"gates.{gate}=true"],
                _is_significant(count, f.rewrites, TALK),
            )
    if f.settled >= FEWEST and f.kept / f.settled < KEPT:
        yield _Fault(
            "change",
            f"almost nothing would be left to train on: {f.kept} of {f.settled} are kept"
            f"{_interval(f.kept, f.settled)} under the policy {f.policy!r}.",
            ["selection.policy=keep"] if f.policy == "paper" else [],
            False,
        )


def _no_rewrites(f: Findings) -> str:
    why = f", most often {f.why!r}" if f.why else ""
    if not f.teacher_asked:
        return f"no rewrite of these {f.asked} samples is stored{why}: there is nothing to choose from."
    return f"this teacher writes nothing that can be used: {f.asked} of {f.asked} came to no rewrite{why}{_interval(f.asked, f.asked)}."


def _for_unread(f: Findings) -> list[str]:
    if not f.teacher_asked:
        return ["reflection.source=teacher"]
    if f.mode == "free":
        return ["reflection.mode=guided"]
    return [f"teacher.model={f.larger}"] if f.larger else []


def _is_frequent(count: int, of: int, threshold: float) -> bool:
    """At least two samples, and no smaller a share than the threshold: one sample shows nothing."""
    return count >= 2 and count >= threshold * of


def _is_significant(count: int, of: int, threshold: float) -> bool:
    low = wilson(count, of)["low"]
    return low is not None and low >= threshold


def _interval(count: int, of: int) -> str:
    e = wilson(count, of)
    return f" ({e['low']:.0%} to {e['high']:.0%} with 95 %)" if e["low"] is not None else ""


def _chance_words(count: int, of: int, threshold: float) -> str:
    if _is_significant(count, of, threshold):
        return ""
    return (
        f"; {share(count, of)} of so few may be chance: look at the examples, or ask for --samples {4 * of}"
    )


__all__ = ["CUT", "FEWEST", "KEPT", "TALK", "TEMPLATE", "UNREAD", "Findings", "Verdict", "judge"]
