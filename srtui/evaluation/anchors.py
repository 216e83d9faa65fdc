"""Tables of anchors for the length control: read as AlpacaEval publishes them, or made from stored judgements."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srtui.atomic import replacing
from srtui.errors import UserError
from srtui.evaluation.length_control import FOLDS, Anchors, LengthItem, fit_l1_cv
from srtui.files import read_text
from srtui.sample import digest

COLUMNS = ("model", "index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline")


def difficulties(models: Mapping[str, Sequence[LengthItem]]) -> dict[int, float]:
    """How hard each item is, in logits, from at least two models judged against the same reference.

    One fit over all of them: each model has a theta and a phi of its own, each item a difficulty that they
    share (section 3 of the paper; the penalty pulls an item that separates no models to 0).
    Raises UserError for fewer than two models, or judged items.
    """
    from scipy.sparse import csr_array

    rows = [
        (m, r)
        for m, name in enumerate(models)
        for r in models[name]
        if r.preference is not None and not r.failed
    ]
    items = sorted({r.item for _, r in rows})
    if len(models) < 2 or len({m for m, _ in rows}) < 2 or len(items) < 2:
        raise UserError(
            "Difficulties need at least two models that were judged on the same items; name evaluations of another model too."
        )
    place = {item: n for n, item in enumerate(items)}
    delta = {m: _scaled(models[name]) for m, name in enumerate(models)}
    rows_at, columns, values = [], [], []
    for n, (m, r) in enumerate(rows):
        rows_at += [n] * 3
        columns += [2 * m, 2 * m + 1, 2 * len(models) + place[r.item]]
        values += [1.0, math.tanh(delta[m].get(r.item, 0.0)), 1.0]
    x = csr_array((values, (rows_at, columns)), shape=(len(rows), 2 * len(models) + len(items)))
    y = np.array([r.preference for _, r in rows], dtype=float)
    # An item's rows are spread over the folds; with all of them in one, nothing would be known of it there.
    fold = np.array([(m + place[r.item]) % FOLDS for m, r in rows])
    _, b = fit_l1_cv(x, y, np.ones(len(rows)), fold)
    return {item: float(b[2 * len(models) + n]) for item, n in place.items()}


def write_anchors(
    path: Path, models: Mapping[str, Sequence[LengthItem]], gamed: Sequence[str], questions: Mapping[int, str]
) -> Anchors:
    """A table of anchors from judgements against one reference: difficulties from all ``models``, gamed
    rows from those named in ``gamed``. ``questions`` are what was asked, by item. Returns it as read back.

    Args:
        path: the table to write, .csv.
        models: by model, its items judged against the reference.
        gamed: those of the models that are the reference's own, asked to be concise or verbose.
        questions: by item, what was asked.
    """
    hard = difficulties(models)
    text = io.StringIO(newline="")
    out = csv.writer(text)
    out.writerow([*COLUMNS, "question"])
    for name in gamed:
        delta = _scaled(models[name])
        for r in models[name]:
            if r.preference is not None and not r.failed and r.item in hard:
                values = [r.preference, delta[r.item], hard[r.item], False]
                out.writerow([name, r.item, *values, question_key(questions[r.item])])
    for item, value in hard.items():
        out.writerow(["", item, "", "", value, True, question_key(questions[item])])
    with replacing(path) as file:
        file.write(text.getvalue().encode("utf-8"))
    return read_anchors(path)


def read_anchors(path: Path) -> Anchors:
    """AlpacaEval's df_gamed.csv or instruction_difficulty.csv as published, or a table of
    :func:`write_anchors`. Rows without a preference only say how hard an item is.

    Raises UserError that names file, line and column.
    """
    text = read_text(path)
    table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names, rows = list(table.fieldnames or []), list(table)
    except csv.Error as error:
        raise UserError(
            f"{path}: line {table.line_num + 1} is not CSV ({error}); write it anew with srtui eval anchors."
        ) from None
    index = "index" if "index" in names else names[0] if len(names) == 2 and names[0] == "" else None
    if index is None or "instruction_difficulty" not in names:
        raise UserError(
            f"{path}: not a table of anchors: its first line must name the columns index and instruction_difficulty, "
            "and for gamed rows preference, std_delta_len, not_gamed_baseline and model (AlpacaEval's df_gamed.csv)."
        )
    difficulty: dict[int, float] = {}
    questions: dict[int, str] = {}
    gamed: list[tuple[float, float, float]] = []
    models = set()
    for n, row in enumerate(rows, 2):
        item = int(_number(path, n, row, index))
        hard = _number(path, n, row, "instruction_difficulty")
        if difficulty.setdefault(item, hard) != hard:
            raise UserError(f"{path}: line {n}: item {item} has two difficulties; keep one.")
        if row.get("question"):
            questions[item] = str(row["question"])
        if not row.get("preference"):
            continue
        item_preference = _number(path, n, row, "preference")
        if not 0 <= item_preference <= 1:
            raise UserError(f"{path}: line {n}: preference must be from 0 to 1, and is {item_preference:g}.")
        if str(row.get("not_gamed_baseline", "False")).lower() in ("true", "1"):
            raise UserError(f"{path}: line {n}: a row with a preference must be of a gamed model.")
        gamed.append((item_preference, _number(path, n, row, "std_delta_len"), hard))
        models.add(row.get("model") or "")
    if not difficulty:
        raise UserError(f"{path}: there are no rows in it; srtui eval anchors writes such a file.")
    preference, length, hardness = zip(*gamed, strict=True) if gamed else ((), (), ())
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return Anchors(difficulty, preference, length, hardness, len(models), questions, path.name, sha256)


def check_anchors(anchors: Anchors, questions: Mapping[int, str], rows: int) -> None:
    """UserError where the table is for other prompts: ``questions`` by item, ``rows`` in their whole file."""
    for item, text in questions.items():
        if item not in anchors.difficulty:
            raise UserError(
                f"{anchors.name}: no difficulty for row {item + 1} of the prompts; make the table for these with srtui eval anchors."
            )
        if anchors.questions and anchors.questions.get(item) != question_key(text):
            raise UserError(
                f"{anchors.name}: it was made for other prompts: row {item + 1} is another question; make one for these with srtui eval anchors."
            )
    if not anchors.questions and len(anchors.difficulty) != rows:
        raise UserError(
            f"{anchors.name}: it has {len(anchors.difficulty)} items and the file of prompts {rows} rows; it is "
            "for other prompts: make one for these with srtui eval anchors."
        )


def question_key(text: str) -> str:
    """By which a table recognises a question."""
    return digest("question", text.strip()).hex()[:16]


def _scaled(rows: Sequence[LengthItem]) -> dict[int, float]:
    """(reference - model) / sd of the lengths, by item; 0 where all are equal."""
    present = [r for r in rows if not r.failed]
    difference = np.array([r.length_reference - r.length_model for r in present], dtype=float)
    spread = float(difference.std(ddof=1)) if len(present) > 1 else 0.0
    return {r.item: float(d / spread) if spread else 0.0 for r, d in zip(present, difference, strict=True)}


_SHOWN = 40  # characters of a cell that a message repeats


def _number(path: Path, line: int, row: Mapping[str, Any], name: str) -> float:
    try:
        value = float(row[name])
    except (KeyError, TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        written = repr(row.get(name))
        shown = written if len(written) <= _SHOWN else f"{written[:_SHOWN]} …"
        raise UserError(f"{path}: line {line}: {name or 'index'} must be a number, and is {shown}.")
    return value
