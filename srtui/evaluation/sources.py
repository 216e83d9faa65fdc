"""What is asked, and what others said: files of prompts, answers, questions and known judgements.

JSON arrays, objects one after the other, or JSON lines; UTF-8. A row that cannot be used is an error
that names file, row and field: an evaluation over fewer items than the user thinks is a wrong one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srtui.errors import UserError
from srtui.files import decoded, parse_json, read_bytes
from srtui.prompts import PromptTemplate
from srtui.store.evaluations import Item

_INSTRUCTION = ("instruction", "prompt", "question", "text")
_ANSWER = ("output", "answer", "response", "completion")
_CATEGORY = ("category", "dataset", "domain", "task")
NO_CATEGORY = "all"
_MOST = 1_000_000_000  # bytes of a file, which is read whole


@dataclass(frozen=True)
class Questions:
    """A file and its rows as items. ``answers`` are the texts that come with them, by item, where the
    file has any (reference outputs; both answers of a known judgement); ``skipped`` counts rows left
    out, by reason; ``rows`` is how many the file has, whatever the limit."""

    path: Path
    sha256: str
    items: tuple[Item, ...]
    answers: Mapping[int, tuple[str, ...]]
    skipped: dict[str, int]
    rows: int = 0


def prompts(path: Path, limit: int | None = None) -> Questions:
    """Rows of instruction (or prompt, question, turns), with optional input, category and id."""
    sha256, rows = _rows(path)
    items = [_prompt(path, n, row) for n, row in enumerate(rows[:limit])]
    return Questions(path, sha256, _unique(path, items), {}, {}, len(rows))


def all_turns(path: Path) -> list[str]:
    """What the rows of a file ask, the later turns of conversations too (:func:`prompts` asks the first alone)."""
    _, rows = _rows(path)
    texts = [_prompt(path, n, row).turns[0] for n, row in enumerate(rows)]
    for row in rows:
        turns = row.get("turns")
        texts += [turn for turn in turns[1:] if isinstance(turn, str)] if isinstance(turns, list) else []
    return texts


def references(path: Path, limit: int | None = None) -> Questions:
    """AlpacaEval's shape: rows of instruction and output (with optional dataset as the category)."""
    sha256, rows = _rows(path)
    items = [_prompt(path, n, row) for n, row in enumerate(rows[:limit])]
    answers = {n: (text_field(f"{path}: row {n + 1}", row, _ANSWER),) for n, row in enumerate(rows[:limit])}
    return Questions(path, sha256, _unique(path, items), answers, {}, len(rows))


def questions(path: Path, limit: int | None = None) -> Questions:
    """MT-Bench's shape: question_id, category, turns, and optional reference (a list, one a turn)."""
    sha256, rows = _rows(path)
    items = []
    for n, row in enumerate(rows[:limit]):
        turns = row.get("turns")
        if (
            not isinstance(turns, list)
            or not turns
            or not all(isinstance(t, str) and t.strip() for t in turns)
        ):
            raise UserError(f'{path}: row {n + 1}: "turns" must be a list of texts, one a turn.')
        reference = row.get("reference") or None
        if reference is not None and (not isinstance(reference, list) or len(reference) > len(turns)):
            raise UserError(f'{path}: row {n + 1}: "reference" must be a list with at most a text a turn.')
        items.append(Item(n, _category(row), tuple(turns), reference, _id(row)))
    return Questions(path, sha256, tuple(items), {}, {})


def known_judgements(paths: Iterable[Path], limit: int | None = None) -> Questions:
    """Rows of instruction, answer_1, answer_2, scores and scores_reversed, from several files as one.

    ``scores`` are (answer 1, answer 2) shown in that order; ``scores_reversed`` those of the other
    order, so its first is answer 2's. Pairs without two usable scores are left out and counted. A
    file's name is its rows' category.
    """
    items: list[Item] = []
    answers: dict[int, tuple[str, ...]] = {}
    skipped: dict[str, int] = {}
    hashes = []
    for path in paths:
        sha256, rows = _rows(path)
        hashes.append(sha256)
        for n, row in enumerate(rows):
            if limit is not None and len(items) >= limit:
                break
            score_pairs = [
                two_scores(f"{path}: row {n + 1}", row, name) for name in ("scores", "scores_reversed")
            ]
            shown = tuple(
                text_field(f"{path}: row {n + 1}", row, (name,)) for name in ("answer_1", "answer_2")
            )
            if any(s <= 0 for pair in score_pairs for s in pair):
                skipped["without a score"] = skipped.get("without a score", 0) + 1
                continue
            number = len(items)
            by_field = {"scores": score_pairs[0], "scores_reversed": score_pairs[1]}
            items.append(
                Item(
                    number,
                    path.stem,
                    (text_field(f"{path}: row {n + 1}", row, _INSTRUCTION),),
                    by_field,
                    _id(row),
                )
            )
            answers[number] = shown
    if not items:
        raise UserError("There is no known judgement with scores in both orders to compare with.")
    first = next(iter(paths))
    return Questions(first, "+".join(hashes), tuple(items), answers, skipped)


def answers_of(path: Path) -> dict[str, str]:
    """A file of answers, by what was asked (see :func:`asked_text`); the last one of an instruction counts."""
    _, rows = _rows(path)
    answers = {}
    for n, row in enumerate(rows):
        answers[asked_text(_prompt(path, n, row))] = text_field(
            f"{path}: row {n + 1}", row, _ANSWER, may_be_empty=True
        )
    return answers


def asked_text(item: Item) -> str:
    """The first turn, by which a file's answers find their item."""
    return item.turns[0].strip()


def parts(item: Item) -> tuple[str, str]:
    """(instruction, input) of the first turn; the source says where an input was apart."""
    stored_parts = item.reference.get("parts") if isinstance(item.reference, dict) else None
    return (str(stored_parts[0]), str(stored_parts[1])) if stored_parts else (item.turns[0], "")


def rows_of_file(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, one at least. Raises UserError where it is no such file."""
    return _rows(path)[1]


def _rows(path: Path) -> tuple[str, list[dict[str, Any]]]:
    content = read_bytes(path, _MOST)
    sha256 = hashlib.sha256(content).hexdigest()
    text = decoded(content, path)
    if text.lstrip().startswith("["):
        rows = parse_json(text, str(path))
    else:
        # A line ends at \n and nowhere else: U+2028, U+0085 and their like stand in texts as they are.
        lines = enumerate(text.split("\n"), 1)
        rows = [parse_json(line, f"{path}: line {n}") for n, line in lines if line.strip()]
    if not rows:
        raise UserError(f"{path}: there is nothing in it.")
    half = _HALF.search(text) is not None
    for n, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"{path}: row {n + 1} is not an object.")
        if half:
            _refuse_halves(f"{path}: row {n + 1}", row)
    return sha256, rows


_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""How JSON spells half of a surrogate pair; two of them are a character."""


def _refuse_halves(where: str, row: dict[str, Any]) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: a text holds U+{ord(error.object[error.start]):04X} alone, half of a character; write the file "
            "anew as UTF-8, or take it out."
        ) from None


def _prompt(path: Path, n: int, row: dict[str, Any]) -> Item:
    turns = row.get("turns")
    if isinstance(turns, list) and turns and isinstance(turns[0], str) and turns[0].strip():
        return Item(n, _category(row), (turns[0],), None, _id(row))
    instruction = text_field(f"{path}: row {n + 1}", row, _INSTRUCTION)
    input = row.get("input") or ""
    if not isinstance(input, str):
        raise UserError(f'{path}: row {n + 1}: "input" must be a text.')
    whole = PromptTemplate.target_of(instruction, input)
    return Item(n, _category(row), (whole,), {"parts": [instruction, input]} if input else None, _id(row))


def _unique(path: Path, items: list[Item]) -> tuple[Item, ...]:
    line_by_id: dict[str, int] = {}
    for item in items:
        text = asked_text(item)
        if text in line_by_id:
            raise UserError(
                f"{path}: rows {line_by_id[text] + 1} and {item.item + 1} ask the same; it would count twice, so remove one."
            )
        line_by_id[text] = item.item
    return tuple(items)


def text_field(
    where: str, row: Mapping[str, Any], names: tuple[str, ...], *, may_be_empty: bool = False
) -> str:
    """The text of a row under the first of ``names`` that it has. Raises UserError where it has none of them, or
    what stands there is no text.

    Args:
        where: the file and the row, as a message names them.
        row: of a file.
        names: of the field, the usual one first.
        may_be_empty: whether a text of white space alone will do.
    """
    for name in names:
        if name in row:
            value = row[name]
            if not isinstance(value, str) or not (value.strip() or may_be_empty):
                raise UserError(f'{where}: "{name}" must be a text that is not empty.')
            return value
    raise UserError(f'{where} has no "{names[0]}".')


def two_scores(where: str, row: Mapping[str, Any], name: str) -> list[float]:
    """The two numbers of a field. Raises UserError, with ``where``, for anything else."""
    value = row.get(name)
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= 1e9 for v in value)
    ):
        raise UserError(f'{where}: "{name}" must be two numbers.')
    return [float(v) for v in value]


def _category(row: dict[str, Any]) -> str:
    return next((str(row[name]) for name in _CATEGORY if row.get(name)), NO_CATEGORY)


def _id(row: dict[str, Any]) -> str | None:
    return next((str(row[name]) for name in ("id", "question_id", "idx") if name in row), None)
