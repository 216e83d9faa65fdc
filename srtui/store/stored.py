"""JSON that lies in columns: what srtui writes into each, and the one place that reads it back.

Anything else there is damage, or was written by another program, and is said to be so in one sentence:
readers may rely on the shapes below. ``srtui db check`` looks for such rows with the same shapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from srtui.errors import UserError

# A shape is a type; a tuple of shapes, one of which it is; a list, whose one shape all items have, or, of
# several, each its own; a mapping by name, a name with ? may be absent and others may be there; {str: shape},
# where every value has it; None; or ANY.
ANY = object()
NUMBER = (int, float)
MAYBE = (int, float, None)
_COUNTS = {str: int}
_ESTIMATE = {"value": MAYBE, "low": MAYBE, "high": MAYBE, "n?": MAYBE}
_HELD_OUT = {"before": NUMBER, "after": NUMBER, "samples": int}
_RECIPE = {
    "student": {"model": str, "quantization": str},
    "teacher": {"model": (str, None), "from_run?": (str, None)},
    "prompt": {"template": str},
    "seed": int,
    "training?": {},
    "selection?": {},
    "description?": (str, None),
}
_TEACHER = {
    "name?": (str, None),
    "parameters?": MAYBE,
    "quantization?": (str, None),
    "sha256?": (str, None),
    "adapter_sha256?": (str, None),
}
_LIVE = {
    "slots?": int,
    "slots_in_use?": int,
    "waiting?": int,
    "text?": (str, None),
    "sample_id?": (int, None),
    "step?": str,
    "since?": NUMBER,
    "decided?": [{"sample": int, "taken": bool, "reason": str}],
    "wall?": [{"sample": int, "text": str, "tokens": int, "room": int}],
    "workers?": [
        {
            "worker": str,
            "node": str,
            "device": str,
            "state": str,
            "tokens_s": NUMBER,
            "window": int,
            "tasks": int,
            "restarts": int,
        }
    ],
}
_PILOT = {
    "run": str,
    "recipe": str,
    "teacher": str,
    "student": str,
    "samples": int,
    "of": int,
    "strata": [{}],
    "targets": {str: {"parsed": _ESTIMATE, "cut": _ESTIMATE, "taken": _ESTIMATE, "failed": _COUNTS}},
    "limits": [{"key": str, "now": int, "tokens": _ESTIMATE}],
    "kept": _ESTIMATE,
    "gates": {str: _ESTIMATE},
    "at_or_over_one": _ESTIMATE,
    "forecast": {
        "left": int,
        "fixed": NUMBER,
        "total": _ESTIMATE,
        "training": _ESTIMATE,
        "disk": _ESTIMATE,
        "stages": {str: _ESTIMATE},
        "past?": [NUMBER],
    },
    "own_rating?": _ESTIMATE,
    "examples": [{"before": [str], "after": ([str], None)}],
    "verdict": {"word": str, "sentence": str, "set": [str], "also": [str]},
}
_TRAINED = {
    "first_loss?": NUMBER,
    "last_loss?": NUMBER,
    "steps?": int,
    "examples?": int,
    "held_out?": {str: _HELD_OUT},
    "rewards?": {"margin": _ESTIMATE, "accuracy": _ESTIMATE},
    "forecast?": {
        "machine": str,
        "seconds": NUMBER,
        "memory": NUMBER,
        "shown_seconds": NUMBER,
        "shown_memory": NUMBER,
    },
    "took?": {"seconds": NUMBER, "memory": NUMBER},
}
_PLAN = {
    "tokens": int,
    "seconds": MAYBE,
    "memory": MAYBE,
    "truncated": int,
    "packed": ANY,
    "gradient_checkpointing": ANY,
}
_IDENTITY = {"sha256?": (str, None), "adapter?": ANY, "prompt_version?": str}
_PARSE = {"mass": MAYBE, "rate": {**_ESTIMATE, "n": MAYBE}, "unparsed": _COUNTS}
_POSITION = {"first": _ESTIMATE, "first_twice": int, "second_twice": int, "consistent": int}
_OF_ALL = {
    "failed?": (
        None,
        {"why?": _COUNTS, "a?": int, "b?": int, "both?": int, "answers?": int, "questions?": int},
    ),
    "unjudged?": _COUNTS,
    "warnings?": [str],
    "question?": (str, None),
    "calibration?": (None, {"better_than_chance": bool, "evaluation": int}),
}
_VERDICTS = {"win": int, "tie": int, "lose": int}
_COMPARED = {
    **_OF_ALL,
    **_VERDICTS,
    "judged": int,
    "items": int,
    "win_rate": _ESTIMATE,
    "tie_margin?": NUMBER,
    "categories": {str: {**_VERDICTS, "win_rate": _ESTIMATE, "score_a?": _ESTIMATE, "score_b?": _ESTIMATE}},
}
_JUDGED = {
    **_COMPARED,
    "preference": _ESTIMATE,
    "score_a": _ESTIMATE,
    "score_b": _ESTIMATE,
    "length": {"a": MAYBE, "b": MAYBE},
    "length_controlled?": {
        "reason": (str, None),
        "win_rate": _ESTIMATE,
        "slope?": (None, _ESTIMATE),
        "raw?": MAYBE,
        "anchors?": (None, {"file": str, "items": int, "gamed": int}),
    },
    "position": _POSITION,
    "parse": _PARSE,
}
_CALIBRATION = {
    "pairs": int,
    "decided": int,
    "ties": int,
    "like_length": int,
    "skipped": _COUNTS,
    "student": str,
    "measures": {
        str: {
            "agreement": [MAYBE, MAYBE, MAYBE],
            "like_length": [MAYBE, MAYBE, MAYBE],
            "verdict": str,
            "sentence": str,
        }
    },
    "between": {str: {str: MAYBE}},
    "questions?": int,
    "weights?": (None, {str: NUMBER}),
    "rater?": (None, {"name": str, "file": str, "model": str}),
    "encoder?": (None, {"name": str, "identity": str}),
}
RESULTS: Mapping[str, Any] = {
    "pairwise": _JUDGED,
    "winrate": _JUDGED,
    "human": {
        **_COMPARED,
        "both_bad": int,
        "skipped": int,
        "left": _ESTIMATE,
        "agreement": {"method": (str, None), "kappa": _ESTIMATE},
    },
    "turns": {
        **_OF_ALL,
        "judged": int,
        "items": int,
        "score": _ESTIMATE,
        "turns": {str: _ESTIMATE},
        "categories": {str: {"score": _ESTIMATE, "turns": {str: _ESTIMATE}}},
        "parse": _PARSE,
    },
    "calibration": {
        **_OF_ALL,
        "judged": int,
        "pairs": int,
        "skipped": _COUNTS,
        "agreement": _ESTIMATE,
        "chance": MAYBE,
        "kappa": _ESTIMATE,
        "known_itself": _ESTIMATE,
        "tie_margin?": MAYBE,
        "rank_correlation": MAYBE,
        "table": {str: _VERDICTS},
        "better_than_chance": bool,
        "position": _POSITION,
        "parse": _PARSE,
    },
    "choice": {
        **_OF_ALL,
        "judged": int,
        "accuracy": _ESTIMATE,
        "chance": NUMBER,
        "tasks": {
            str: {
                "questions": int,
                "accuracy": _ESTIMATE,
                "accuracy_norm": _ESTIMATE,
                "chance": NUMBER,
                "shots": ANY,
            }
        },
    },
}
"""By kind of evaluation, what the faces read of its result."""


@dataclass(frozen=True)
class JsonColumn:
    """One column that holds JSON. ``key`` are the columns that name a row, ``shape`` is None where it
    depends on the row (an evaluation's result, by its kind)."""

    key: tuple[str, ...]
    shape: Any


_OF_A_RUN, _OF_AN_ITEM = ("run_id", "sample_id", "stage"), ("evaluation_id", "item")
COLUMNS: Mapping[tuple[str, str], JsonColumn] = {
    ("sample", "record"): JsonColumn(("id",), ANY),
    ("conversation", "record"): JsonColumn(("id",), ANY),
    ("import", "left_out"): JsonColumn(("id",), {str: int}),
    ("generation", "sampler"): JsonColumn(("id",), {}),
    ("asked", "sampler"): JsonColumn(("id",), {}),
    ("prompt_frame", "pieces"): JsonColumn(("id",), [(str, int)]),
    ("generation", "segments"): JsonColumn(("id",), [([str, str, int], [str, str, int, (int, None)])]),
    ("run", "recipe"): JsonColumn(("id",), _RECIPE),
    ("run", "teacher"): JsonColumn(("id",), _TEACHER),
    ("decision", "compared"): JsonColumn(_OF_A_RUN, [[int, MAYBE, (str, None)]]),
    ("pilot", "result"): JsonColumn(("run_id",), _PILOT),
    ("stage_progress", "detail"): JsonColumn(("run_id", "stage"), {}),
    ("lease", "live"): JsonColumn(("run_id",), _LIVE),
    ("training_run", "result"): JsonColumn(("id",), _TRAINED),
    ("training_run", "plan"): JsonColumn(("id",), _PLAN),
    ("evaluation", "identity_a"): JsonColumn(("id",), _IDENTITY),
    ("evaluation", "identity_b"): JsonColumn(("id",), _IDENTITY),
    ("evaluation", "judge_identity"): JsonColumn(("id",), _IDENTITY),
    ("evaluation", "settings"): JsonColumn(
        ("id",), {"seed?": int, "tie_margin?": {"value": NUMBER, "from?": str}}
    ),
    ("evaluation", "result"): JsonColumn(("id",), None),
    ("evaluation_item", "turns"): JsonColumn(_OF_AN_ITEM, [str]),
    ("evaluation_item", "reference"): JsonColumn(
        _OF_AN_ITEM, ([ANY], {"parts?": [ANY], "scores?": [NUMBER], "scores_reversed?": [NUMBER]})
    ),
    ("evaluation_lease", "live"): JsonColumn(("evaluation_id",), {}),
    ("answer", "sampler"): JsonColumn(("id",), {}),
    ("calibration", "result"): JsonColumn(("id",), _CALIBRATION),
    ("judgement", "probabilities"): JsonColumn(("id",), {"a?": [NUMBER], "b?": [NUMBER], "mass?": [NUMBER]}),
}
"""By table and column. ``run_sums.sums`` is none of them: what does not read there is summed anew."""
MAY_BE_EMPTY = {("training_run", "plan"): "{}", ("generation", "sampler"): ""}
"""What a column holds before there is anything to say, or where it is said elsewhere; NULL is that of every column
that may be NULL."""


class Row(Protocol):
    """A row of a table by the names of its columns, as ``sqlite3.Row`` and ``dict`` are."""

    def __getitem__(self, name: str, /) -> Any: ...


def stored(row: Row, table: str, column: str) -> Any:
    """What this row's JSON says, in the shape that its readers rely on; None for NULL. ``row`` has
    the columns that name it. Raises UserError where it holds anything else."""
    try:
        return _read(row, table, column)
    except ValueError:
        raise UserError(
            f"{_sentence(row, table, column)} srtui db check names all such rows; restore a copy made by srtui db "
            "backup."
        ) from None


def shape_fault(row: Row, table: str, column: str) -> str | None:
    """The sentence about a row whose JSON is not what was written there; None where it is."""
    try:
        _read(row, table, column)
    except ValueError:
        return _sentence(row, table, column)
    return None


def _sentence(row: Row, table: str, column: str) -> str:
    text = repr(row[column])
    shown = text if len(text) <= 40 else f"{text[:40]}…"
    return f"{table} {'/'.join(str(row[k]) for k in COLUMNS[table, column].key)}: its {column} is damaged (it holds {shown})."


def _read(row: Row, table: str, column: str) -> Any:
    """Raises ValueError."""
    text, of = row[column], COLUMNS[table, column]
    empty = MAY_BE_EMPTY.get((table, column))
    if text is None or text == empty == "":
        return None
    try:
        value = json.loads(text)
    except TypeError:
        raise ValueError from None
    except RecursionError:  # a record may be nested deeper than Python reads
        value = orjson.loads(text)
    shape = RESULTS[row["kind"]] if of.shape is None else of.shape
    if text != empty and not _fits(value, shape):
        raise ValueError
    return value


def _fits(value: Any, shape: Any) -> bool:
    if shape is ANY or shape is None:
        return shape is ANY or value is None
    if isinstance(shape, tuple):
        return any(_fits(value, alternative) for alternative in shape)
    if isinstance(shape, list):
        if not isinstance(value, list) or (len(shape) > 1 and len(value) != len(shape)):
            return False
        return all(_fits(v, shape[n] if len(shape) > 1 else shape[0]) for n, v in enumerate(value))
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(_fits(v, s) for v, s in _parts(value, shape))
    # JSON's true is a number to Python; its 1e3 is a float.
    return isinstance(value, shape) and (shape is bool or not isinstance(value, bool))


_ABSENT = object()


def _parts(value: dict[str, Any], shape: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    for name, inner in shape.items():
        if name is str:
            yield from ((v, inner) for v in value.values())
        elif name.removesuffix("?") in value:
            yield value[name.removesuffix("?")], inner
        elif not name.endswith("?"):
            yield _ABSENT, str


def as_json(value: Any) -> str | None:
    """A value as a column holds it; None for nothing."""
    return None if value is None else json.dumps(value, ensure_ascii=False)
