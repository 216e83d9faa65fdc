"""Pairs of answers of which somebody knows the better one: what measures are calibrated by.

From a file, from people's judgements in this store, or from what ``srtui eval show ID --json`` wrote of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from srtui.errors import UserError
from srtui.evaluation.people import ANSWERS, majority
from srtui.evaluation.sources import parts, rows_of_file, text_field, two_scores
from srtui.evaluation.statistics import Verdict, verdict
from srtui.hashing import digest
from srtui.store.evaluations import EvaluationReads, Item

Preferred = Literal[1, 2, 0]
"""Which answer is the better one; 0 is a tie."""


@dataclass(frozen=True)
class KnownPair:
    """One question with two answers, in the order in which they were shown to whoever judged."""

    instruction: str
    input: str
    answers: tuple[str, str]
    preferred: Preferred

    @property
    def question(self) -> tuple[str, str]:
        """What both answer: pairs of one question are not independent."""
        return self.instruction, self.input


@dataclass(frozen=True)
class Preferences:
    """Pairs and where they are from. ``skipped`` counts rows that could not be used, by reason."""

    source: str
    pairs: tuple[KnownPair, ...]
    skipped: dict[str, int]

    @property
    def digest(self) -> bytes:
        """Content address of all pairs, whatever their file is called."""
        return digest(
            *(part for p in self.pairs for part in (p.instruction, p.input, *p.answers, p.preferred))
        )


REPEATED = "with the two answers of an earlier row (decided by majority)"
"""Why a row is no pair of its own."""

_SAID: Mapping[Any, Preferred] = {
    "1": 1, "2": 2, "tie": 0, "ties": 0, "0": 0,
    "answer_1": 1, "answer_2": 2, "a": 1, "b": 2,
}  # fmt: skip


def read_preferences(paths: Iterable[Path], limit: int | None = None) -> Preferences:
    """Rows of instruction (or prompt), optional input, answer_1, answer_2 and preference, from files as one.

    ``preference`` is 1, 2 or ties; a number between 1 and 2, as AlpacaEval weighs them, is the nearer one, and 1.5
    or 0 a tie. Rows with ``scores`` and ``scores_reversed`` in its place have the verdict of both orders. A file
    that ``srtui eval show ID --json`` wrote of people's judgements is one, too. Rows with the same pair, in either
    order, are one pair, by majority. Raises UserError with file, row and field.
    """
    named, pairs, skipped = list(paths), list[KnownPair](), Counter[str]()
    for path in named:
        rows = rows_of_file(path)
        if len(rows) == 1 and "judgements" in rows[0]:
            shown_pairs, left_out = _of_shown(path, rows[0])
            pairs += shown_pairs
            skipped += left_out
            continue
        for n, row in enumerate(rows, 1):
            pair = _pair(f"{path}: row {n}", row)
            if isinstance(pair, str):
                skipped[pair] += 1
            else:
                pairs.append(pair)
    return _all(", ".join(str(p) for p in named), pairs, skipped, limit)


def preferences_of_people(
    store: EvaluationReads, evaluation_id: int, limit: int | None = None
) -> Preferences:
    """What people said in ``srtui eval human``, item by item, by majority. Raises UserError for another kind of
    evaluation."""
    evaluation = store.get(evaluation_id)
    if evaluation.kind != "human":
        raise UserError(
            f"Evaluation {evaluation_id} is of kind {evaluation.kind}; what is known comes from people: srtui eval human."
        )
    answers = store.answers(evaluation_id)
    choices: dict[int, list[tuple[str, str]]] = {}
    for j in store.judgements(evaluation_id):
        choices.setdefault(j.item, []).append((str(j.choice), j.ordering))
    pairs, skipped = list[KnownPair](), Counter[str]()
    for item in store.items(evaluation_id):
        answer_pair = [answers.get((item.item, side, 1)) for side in ("a", "b")]
        texts = [a.text if a is not None else "" for a in answer_pair]
        pair = _judged(item, texts, choices.get(item.item, []))
        if isinstance(pair, str):
            skipped[pair] += 1
        else:
            pairs.append(pair)
    return _all(f"evaluation {evaluation_id}", pairs, skipped, limit)


def _all(source: str, pairs: Sequence[KnownPair], skipped: Counter[str], limit: int | None) -> Preferences:
    each = _each_once(pairs)
    if len(each) < len(pairs):
        skipped[REPEATED] += len(pairs) - len(each)
    if not each:
        why = ", ".join(f"{n} {reason}" for reason, n in skipped.items())
        raise UserError(f"{source}: there is no pair with a known preference{f' ({why})' if why else ''}.")
    return Preferences(source, tuple(each[:limit]), dict(skipped))


def _each_once(pairs: Sequence[KnownPair]) -> list[KnownPair]:
    """Two answers to one question once, as they first come, whichever stood first; by majority where several say which
    is better."""
    ahead: dict[tuple[str, str, frozenset[str]], int] = {}
    first: dict[tuple[str, str, frozenset[str]], KnownPair] = {}
    for pair in pairs:
        key = (pair.instruction, pair.input, frozenset(pair.answers))
        shown = first.setdefault(key, pair)
        vote = {1: 1, 2: -1, 0: 0}[pair.preferred]
        ahead[key] = ahead.get(key, 0) + (vote if pair.answers == shown.answers else -vote)
    return [
        replace(pair, preferred=1 if ahead[key] > 0 else 2 if ahead[key] < 0 else 0)
        for key, pair in first.items()
    ]


def _pair(where: str, row: Mapping[str, Any]) -> KnownPair | str:
    instruction = text_field(where, row, ("instruction", "prompt", "question"))
    input = row.get("input") or ""
    if not isinstance(input, str):
        raise UserError(f'{where}: "input" must be a text.')
    first, second = (text_field(where, row, (name,), may_be_empty=True) for name in ("answer_1", "answer_2"))
    if not (first.strip() and second.strip()):
        return "with an empty answer"
    if first == second:
        return "with two answers that are the same"
    preferred = _preferred(where, row)
    return (
        preferred if isinstance(preferred, str) else KnownPair(instruction, input, (first, second), preferred)
    )


def _preferred(where: str, row: Mapping[str, Any]) -> Preferred | str:
    if "preference" not in row and "scores" in row:
        return _by_scores(where, row)
    preference = row.get("preference")
    if preference is None and "preference" in row:
        return "without a preference"
    if isinstance(preference, int | float) and not isinstance(preference, bool):
        if preference in (0, 1.5):
            return 0
        if 1 <= preference <= 2:
            return 1 if preference < 1.5 else 2
    elif isinstance(preference, str) and preference.strip().lower() in _SAID:
        return _SAID[preference.strip().lower()]
    raise UserError(f'{where}: "preference" must be 1, 2 or "ties".')


def _by_scores(where: str, row: Mapping[str, Any]) -> Preferred | str:
    first, second = (two_scores(where, row, name) for name in ("scores", "scores_reversed"))
    if any(s <= 0 for s in (*first, *second)):
        return "without a score"
    preferred_by_verdict: dict[Verdict, Preferred] = {"win": 1, "lose": 2, "tie": 0}
    return preferred_by_verdict[verdict(first[0] - first[1], second[1] - second[0])]


def _of_shown(path: Path, shown: Mapping[str, Any]) -> tuple[list[KnownPair], Counter[str]]:
    """Pairs of an evaluation by people as ``srtui eval show ID --json`` prints it."""
    if shown.get("kind") != "human" or not isinstance(shown["judgements"], list):
        raise UserError(f"{path}: this evaluation is not by people, so it knows no preferences.")
    choices: dict[int, list[tuple[str, str]]] = {}
    items: dict[int, tuple[Item, list[str]]] = {}
    for n, judged in enumerate(shown["judgements"], 1):
        try:
            item, judgement = judged["item"], judged["judgement"]
            number, (question, *_), reference = int(item["item"]), item["turns"], item.get("reference")
            shown_item = Item(number, "", (question,), reference if isinstance(reference, dict) else None)
            asked = (question, *parts(shown_item))
            if not isinstance(item["turns"], list) or not all(isinstance(text, str) for text in asked):
                raise TypeError
            items[number] = (
                shown_item,
                [str((judged[side] or {}).get("text", "")) for side in ("answer_a", "answer_b")],
            )
            choices.setdefault(number, []).append((str(judgement["choice"]), str(judgement["ordering"])))
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
            raise UserError(
                f"{path}: judgement {n} is not as srtui eval show --json writes it; write the file anew."
            ) from None
    pairs, skipped = list[KnownPair](), Counter[str]()
    for number, (item, texts) in sorted(items.items()):
        pair = _judged(item, texts, choices[number])
        if isinstance(pair, str):
            skipped[pair] += 1
        else:
            pairs.append(pair)
    return pairs, skipped


def _judged(item: Item, texts: Sequence[str], choices_made: Sequence[tuple[str, str]]) -> KnownPair | str:
    """The pair of an item, in an order in which it was shown; or why there is none."""
    choices = [(choice, order) for choice, order in choices_made if choice in ANSWERS]
    if not all(t.strip() for t in texts):
        return "with an empty answer"
    if not choices:
        return "that nobody has judged"
    preferred_by_verdict: dict[str, Preferred] = {"win": 1, "lose": 2, "tie": 0}
    preferred = preferred_by_verdict[majority([choice for choice, _ in choices])]
    answers = (texts[0], texts[1])
    if choices[0][1] == "ba":
        answers = (texts[1], texts[0])
        turned: dict[Preferred, Preferred] = {1: 2, 2: 1, 0: 0}
        preferred = turned[preferred]
    instruction, input = parts(item)
    return KnownPair(instruction, input, answers, preferred)
