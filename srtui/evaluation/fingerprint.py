"""Which evaluation a question is: its settings, its fingerprint, and the stored one that it continues."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from srtui.errors import UserError
from srtui.evaluation.contestants import Contestant
from srtui.evaluation.judge_model import JudgeModel
from srtui.evaluation.sources import Questions, asked_text
from srtui.evaluation.writing import AnswerSettings
from srtui.hashing import key, scheme_1
from srtui.store import Store
from srtui.store.evaluations import Evaluation, Kind, NewEvaluation


def prepare(
    store: Store,
    kind: Kind,
    source: Questions,
    contestants: Sequence[Contestant],
    judge: JudgeModel | None,
    settings: Mapping[str, Any],
    names: tuple[str, str | None] | None = None,
    shown_source: str = "",
) -> tuple[Evaluation, bool]:
    """The evaluation that this describes, and whether it is new.

    ``names`` stand for sides that are no contestants (a reference file, a known judge). Raises
    UserError where a file of answers lacks some.

    Args:
        store: where it is kept.
        kind: pairwise, winrate, turns, calibration or human.
        source: what is asked.
        contestants: A, and B where there is one.
        judge: None where people judge.
        settings: all that its result depends on besides.
        names: of A and B, where these are no contestants.
        shown_source: the source's path as people see it; its own if empty.
    """
    for contestant in contestants:
        _check_file(contestant, source)
    identities = [c.identity for c in contestants]
    a, b = names or (contestants[0].name, contestants[1].name if len(contestants) > 1 else None)
    fingerprint = key(
        kind,
        source=source.sha256,
        items=len(source.items),
        contestants=identities,
        judge=judge.identity if judge else None,
        settings=dict(settings),
        names=[a, b] if kind == "human" else None,
    ).hex()
    first = scheme_1(
        kind,
        source.sha256,
        len(source.items),
        _text(identities),
        _text(judge.identity if judge else None),
        _text(dict(settings)),
        *([a, b] if kind == "human" else []),
    ).hex()
    new = NewEvaluation(
        kind,
        fingerprint,
        a,
        identities[0] if identities else {},
        shown_source or str(source.path),
        source.sha256,
        settings,
        b,
        identities[1] if len(identities) > 1 else None,
        contestants[0].run_id if contestants else None,
        contestants[1].run_id if len(contestants) > 1 else None,
        judge.name if judge else None,
        judge.identity if judge else None,
        source.items,
    )
    return store.evaluations.prepare(new, first)


def _check_file(contestant: Contestant, source: Questions) -> None:
    if contestant.texts is None:
        return
    missing = [i for i in source.items if asked_text(i) not in contestant.texts]
    if missing:
        raise UserError(
            f"{contestant.path}: it has no answer to {len(missing)} of the {len(source.items)} prompts, the first "
            f"is row {missing[0].item + 1} of {source.path}; every instruction must be in it, to the letter."
        )
    if any(len(i.turns) > 1 for i in source.items):
        raise UserError(
            f"{contestant.path}: a file of answers has one turn, and {source.path} asks for more; take prompts of one turn."
        )


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def settings_of(writing: AnswerSettings | None, seed: int, **further: Any) -> dict[str, Any]:
    """The settings of an evaluation as they are stored; ``further`` are those that are not None."""
    stated = {name: value for name, value in further.items() if value is not None}
    return {"seed": seed} | ({"writing": asdict(writing)} if writing else {}) | stated
