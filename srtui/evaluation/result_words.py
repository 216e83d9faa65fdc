"""A stored result of an evaluation in words and cells, for every face that shows one.

Results are JSON of five kinds. What all kinds share is read by shape: counts of win, tie and lose,
estimates (a value with an interval), and tables by category.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

_LABELS = {
    "win rate": "A's win rate, a tie as half",
    "winning score": "winning score of A, 1 is even",
    "score": "mean score",
    "score a": "mean score of A",
    "score b": "mean score of B",
    "score difference": "A's score less B's",
    "preference": "how surely A is preferred",
    "length, a": "characters of A's answers",
    "length, b": "characters of B's answers",
    "length controlled, win rate": "A's win rate at equal length",
    "length controlled, length": "effect of length, in logits",
    "length controlled, slope": "effect of length, with its interval",
    "length controlled, raw": "how surely A is preferred, missing answers included",
    "length controlled, difficulty": "effect of an instruction's difficulty",
    "length controlled, strength": "inverse strength of the penalty",
    "length controlled, reason": "why there is no win rate at equal length",
    "failed, a": "A has no answer: lost",
    "failed, b": "B has no answer: won",
    "failed, both": "neither has an answer: a tie",
    "failed, answers": "answers that are not there: score 1",
    "failed, questions": "questions with no choice scored: wrong",
    "tie margin": "points apart that are a tie",
    "question": "what this comparison answers",
    "position, first": "points for being shown first",
    "position, consistent": "the same answer led in both orders",
    "position, first twice": "the first shown led in both orders",
    "position, second twice": "the second shown led in both orders",
    "parse, rate": "judge's texts that say a score",
    "parse, difference": "its words' scores against its own",
    "parse, mass": "probability given to any score",
    "left": "choices for the answer on the left",
    "agreement, kappa": "agreement of the people, kappa",
    "agreement, method": "agreement by",
    "kappa": "agreement beyond chance, kappa",
    "known itself": "the known judge with itself, kappa",
    "calibration": "calibration of the judge",
    "calibration, evaluation": "calibration of the judge is evaluation",
}


class Verdicts(NamedTuple):
    """How often A was better, neither was, and B was."""

    win: int
    tie: int
    lose: int

    @property
    def total(self) -> int:
        """How many verdicts there are."""
        return self.win + self.tie + self.lose


def verdicts(result: Mapping[str, Any] | None) -> Verdicts | None:
    """The counts of a comparison; None for what compares nothing, or has no result yet."""
    if not result or not all(isinstance(result.get(k), int) for k in Verdicts._fields):
        return None
    return Verdicts(result["win"], result["tie"], result["lose"])


def is_estimate(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """A value with bounds, as srtui.evaluation.statistics makes them."""
    return isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys()


def headline(result: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The one figure that a result is known by: a win rate, a score, an accuracy, a kappa."""
    for name in ("win_rate", "score", "accuracy", "kappa"):
        figure = (result or {}).get(name)
        if is_estimate(figure):
            return figure
    return None


def estimate_words(value: Mapping[str, Any], digits: int = 3) -> str:
    """0.550 (0.421 to 0.673, n = 40); a dash where the data give no value."""
    if value["value"] is None:
        return "-"
    n = f"n = {value['n']:,}" if value.get("n") is not None else ""
    if value["low"] is None or value["high"] is None:
        return f"{value['value']:.{digits}f}" + (f" ({n})" if n else "")
    bounds = f"{value['low']:.{digits}f} to {value['high']:.{digits}f}"
    return f"{value['value']:.{digits}f} ({bounds}{', ' + n if n else ''})"


def lines(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, words) of every single figure; tables and counts that ``verdicts`` gives are left out."""
    return [
        (_LABELS.get(name, name), words) for name, words in _flat("", result) if name not in Verdicts._fields
    ]


def tables(result: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, rows) of what a result has by category, turn, task or person."""
    return [
        (_name(key), *_table(value))
        for key, value in result.items()
        if isinstance(value, Mapping) and value and _is_table(value)
    ]


def _is_table(value: Mapping[str, Any]) -> bool:
    return not is_estimate(value) and all(
        isinstance(v, Mapping) and not is_estimate(v) for v in value.values()
    )


def _table(value: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    rows = {name: dict(_flat("", row)) for name, row in value.items()}
    columns = list(dict.fromkeys(c for row in rows.values() for c in row))
    return ["", *columns], [[str(name), *(row.get(c, "") for c in columns)] for name, row in rows.items()]


def _flat(path: str, value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, inner in value.items():
        name = f"{path}, {_name(key)}" if path else _name(key)
        if is_estimate(inner):
            yield name, estimate_words(inner)
        elif isinstance(inner, Mapping):
            if path or not _is_table(inner):
                yield from _flat(name, inner)
        elif isinstance(inner, list):
            if inner and all(isinstance(v, str) for v in inner):
                yield name, "; ".join(inner)
        else:
            yield name, _word(inner)


def _name(key: Any) -> str:
    return str(key).replace("_", " ")


def _word(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    )
