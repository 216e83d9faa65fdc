"""People as judges: in which order they see what, and what their choices amount to. Pure functions, but
for the one that stores the outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from srtui.evaluation.question import question_of
from srtui.evaluation.statistics import cohen, fleiss, no_estimate, wilson
from srtui.hashing import draw
from srtui.store import Store
from srtui.store.evaluations import Choice, Item, Judgement, Ordering, Side

ANSWERS: tuple[Choice, ...] = ("a", "b", "tie", "bad")


def blind_order(items: Iterable[Item], seed: int, annotator: str) -> list[tuple[Item, Ordering]]:
    """The order in which this person sees the items, and whose answer stands on the left ("ab": A's).

    Both follow from the seed, the name and the item alone, so that a session that was broken off goes
    on with the same sides, and two people see different ones.
    """
    shuffled = sorted(items, key=lambda i: draw(seed, "item", annotator, i.item))
    return [(item, ordering(seed, annotator, item.item)) for item in shuffled]


def ordering(seed: int, annotator: str, item: int) -> Ordering:
    """Which side is on the left for this person and item: a fair coin by hash."""
    return "ab" if draw(seed, "side", annotator, item)[0] % 2 else "ba"


def turned(choice: str, order: Ordering) -> Choice:
    """What a key meant: ``left`` or ``right`` as a or b; ``tie``, ``bad`` and ``skip`` stay."""
    if choice in ("left", "right"):
        return "a" if (choice == "left") == (order == "ab") else "b"
    if choice not in ("tie", "bad", "skip"):
        raise ValueError(f"{choice!r} is no choice")
    return choice  # type: ignore[return-value]


def keep_result(store: Store, evaluation_id: int) -> dict[str, Any]:
    """Read the choices that are stored, store what they amount to, and return it; call after a choice.

    An evaluation is done once every item has been judged by somebody; more may be said after that.
    """
    rows = store.evaluations
    result = human_result(
        rows.items(evaluation_id), rows.judgements(evaluation_id), rows.blank_answers(evaluation_id)
    )
    question = question_of(store, rows.get(evaluation_id))
    result = ({"question": question} if question else {}) | result
    complete = result["judged"] == result["items"]
    rows.update(
        evaluation_id,
        status="done" if complete else "stopped",
        done=result["judged"],
        total=result["items"],
        result=result,
    )
    return result


def human_result(
    items: Sequence[Item],
    judgements: Sequence[Judgement],
    blank: Mapping[int, frozenset[Side]] | None = None,
) -> dict[str, Any]:
    """Figures of a human evaluation; skips count as nothing said, both bad as a tie.

    ``blank`` says who has no answer to an item: lost against an answer, a tie against none; nobody is
    asked about it.

    An item's verdict is the majority of those who judged it, a draw between A and B a tie. ``left`` is
    the share of decided choices that fell on the answer shown left: far from a half, people favour a
    side. ``agreement`` is Cohen's kappa of two people and Fleiss' of more, over the items that all of
    them judged.
    """
    judged = [j for j in judgements if j.choice in ANSWERS]
    by_item: dict[int, list[Judgement]] = {}
    for j in judged:
        by_item.setdefault(j.item, []).append(j)
    verdicts = {item: majority([str(j.choice) for j in group]) for item, group in by_item.items()}
    without_answer = {item: _lost(sides) for item, sides in (blank or {}).items() if sides}
    verdicts |= without_answer
    decided = [j for j in judged if j.choice in ("a", "b")]
    chosen_left = sum((j.choice == "a") == (j.ordering == "ab") for j in decided)
    categories = sorted({i.category for i in items})
    return {
        "items": len(items),
        "judged": len(verdicts),
        "judgements": len(judged),
        "skipped": sum(j.choice == "skip" for j in judgements),
        "failed": {name: list(without_answer.values()).count(v) for name, v in _FAILED.items()},
        "both_bad": sum(j.choice == "bad" for j in judged),
        **_tally(verdicts.values()),
        "left": wilson(chosen_left, len(decided)),
        "annotators": {
            name: dict(Counter(str(j.choice) for j in judgements if j.annotator == name))
            for name in sorted({j.annotator for j in judgements})
        },
        "agreement": _agreement(by_item),
        "categories": {
            c: _tally(verdicts[i.item] for i in items if i.category == c and i.item in verdicts)
            for c in categories
        },
    }


_FAILED = {"a": "lose", "b": "win", "both": "tie"}


def _lost(sides: frozenset[Side]) -> str:
    return "tie" if len(sides) == 2 else "lose" if "a" in sides else "win"


def majority(choices: Sequence[str]) -> str:
    """win, lose or tie of A, by several people's choices; both bad counts as a tie."""
    count = Counter(choices)
    return "win" if count["a"] > count["b"] else "lose" if count["b"] > count["a"] else "tie"


def _tally(verdicts: Iterable[str]) -> dict[str, Any]:
    count = Counter(verdicts)
    win, tie, lose = (count[v] for v in ("win", "tie", "lose"))
    return {
        "win": win,
        "tie": tie,
        "lose": lose,
        "win_rate": wilson(win + tie / 2, win + tie + lose),
    }


def _agreement(by_item: dict[int, list[Judgement]]) -> dict[str, Any]:
    names = sorted({j.annotator for group in by_item.values() for j in group})
    rows = [
        [next(str(j.choice) for j in group if j.annotator == name) for name in names]
        for group in by_item.values()
        if {j.annotator for j in group} == set(names)
    ]
    if len(names) < 2:
        return {"method": None, "annotators": names, "kappa": no_estimate(), "pairs": {}}
    pairs = {f"{a}, {b}": cohen(*_both(by_item, a, b)) for a, b in combinations(names, 2)}
    if len(names) == 2:
        return {
            "method": "Cohen",
            "annotators": names,
            "kappa": pairs[f"{names[0]}, {names[1]}"],
            "pairs": pairs,
        }
    return {"method": "Fleiss", "annotators": names, "kappa": fleiss(rows), "pairs": pairs}


def _both(by_item: dict[int, list[Judgement]], a: str, b: str) -> tuple[list[str], list[str]]:
    """The choices of two people on the items that both judged."""
    first, second = [], []
    for group in by_item.values():
        choice_by_annotator = {j.annotator: str(j.choice) for j in group}
        if a in choice_by_annotator and b in choice_by_annotator:
            first.append(choice_by_annotator[a])
            second.append(choice_by_annotator[b])
    return first, second
