"""Two engines score the same texts at one time: what is stored of either follows from what is stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from srtui.measures import SpanLoss
from srtui.pipeline import variants
from srtui.pipeline.rederive import faults
from srtui.pipeline.variants import VariantScorer
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.imports import NewRow
from srtui.student import Span
from tests.sql import sql_value
from tests.student.test_tokenizers import build

STUDENT: Any = SimpleNamespace(tokenizer=build("qwen"), id="s", losses_id="l", first_losses_id=None)


class _Scorer:
    """Gives each span a loss, and the other engine has stored its own, with another last digit, before it is done."""

    longest = None
    tokens_run = 0

    def __init__(self, path: Path) -> None:
        self._path = path

    def score(
        self,
        spans: Sequence[Span],
        should_stop: Callable[[], bool],
        by_token: bool = False,
        embedded: object = None,
    ) -> Iterator[tuple[int, SpanLoss]]:
        losses = [SpanLoss(1.5 * len(s.ids) / s.target, s.target) for s in spans]
        with Store(self._path) as other:
            other.scores.add_losses(
                {
                    span.key("l", "default"): SpanLoss(loss.nll * (1 + 1e-5 * n), loss.tokens)
                    for n, (span, loss) in enumerate(zip(spans, losses, strict=True))
                }
            )
        yield from enumerate(losses)


def test_a_score_is_of_the_losses_that_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.sqlite"
    monkeypatch.setattr(variants, "open_scorer", lambda *_: _Scorer(path))
    with Store(path) as store:
        pairs = [Pair(f"Say {n}.", "", f"It is {n}, and no other.") for n in range(8)]
        rows = [
            NewRow(n, p, json.dumps({"instruction": p.instruction, "output": p.response}))
            for n, p in enumerate(pairs)
        ]
        store.imports.add_samples("d", "f", "sha", "alpaca", rows)
        judge = VariantScorer(store, tmp_path, "f32", name="s", template_name="alpaca", student=STUDENT)
        for metric in ("ifd", "rifd"):
            for _ in judge.score(range(1, 9), metric):  # type: ignore[arg-type]
                pass
        assert sql_value(store, "SELECT count(value) FROM score") == 16
        assert list(faults(store)) == []
