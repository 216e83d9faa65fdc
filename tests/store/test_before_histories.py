"""Samples without a history are what they were before there were histories: addresses, prompts, span ids, keys, losses.

``before_histories.json`` was written by the code of commit c96ce4c, the last that knew none, by :func:`found` as it
stands here. Processors round losses otherwise, so those are equal to 1e-5 here; on the machine that wrote them they were equal to the last bit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from srtui.hashing import digest
from srtui.llama import TeacherIdentity
from srtui.pipeline import import_file
from srtui.prompts import template
from srtui.recipe import parse
from srtui.reflection import ReflectionPrompt, load_criteria
from srtui.store import Store
from srtui.student import Student
from srtui.student.scorer import Scorer
from srtui.student.span_builder import SpanBuilder
from srtui.student.spans import Span
from tests.conftest import ROOT
from tests.sql import sql_rows

pytestmark = pytest.mark.model

GOLDEN = Path(__file__).with_name("before_histories.json")
TEACHER = TeacherIdentity("t", "ab" * 32, "llama", 1, "Q8_0", 2048)
SAMPLES = 4


def found(pair_folder: Path, folder: Path) -> dict[str, Any]:
    """All that scoring and reflecting on a small store of single exchanges depends on, and the losses."""
    rows = (ROOT / "recipes" / "quickstart.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "few.jsonl").write_text("\n".join(rows[:SAMPLES]) + "\n", encoding="utf-8")
    student = Student.load(pair_folder / "tiny", "bf16")
    student.model.float()
    recipe = parse({"name": "r", "dataset": "d"}, "test")
    made: dict[str, Any] = {"samples": [], "requests": {}, "spans": {}}
    with Store(folder / "few.sqlite") as store:
        import_file(store, folder / "few.jsonl")
        made["samples"] = [r[0] for r in sql_rows(store, "SELECT hex(digest) FROM sample ORDER BY id")]
        pairs = [store.corpus.variants_of(n + 1)[0].pair for n in range(SAMPLES)]
    for name in ("instruction", "response"):
        prompt = ReflectionPrompt(load_criteria(name, name), recipe)  # type: ignore[arg-type]
        made["requests"][name] = [
            {
                "key": prompt.key(pair, 1, 0, TEACHER).hex(),
                "seed": prompt.seed(pair, 1),
                "prompt": digest(*(m.content for m in prompt.request(0, pair, 1).messages)).hex(),
            }
            for pair in pairs
        ]
    scorer = Scorer(student)
    for protocol in ("default", "paper"):
        for name in ("alpaca", "vicuna", "wizardlm", "chat"):
            laid_out = template(name, student.tokenizer)
            build = SpanBuilder(student.tokenizer, laid_out, protocol, 1024)  # type: ignore[arg-type]
            spans = [span for pair in pairs for span in (*build.forward(pair), *build.reverse(pair))]
            assert all(isinstance(span, Span) for span in spans)
            losses = dict(scorer.score(spans))  # type: ignore[arg-type]
            made["spans"][f"{name}, {protocol}"] = {
                "version": laid_out.version,
                "ids": [digest(repr(span.ids)).hex() for span in spans],  # type: ignore[union-attr]
                "targets": [span.target for span in spans],  # type: ignore[union-attr]
                "keys": [span.key("student", protocol).hex() for span in spans],  # type: ignore[union-attr]
                "losses": [losses[n].nll for n in range(len(spans))],
            }
    return made


def test_samples_without_histories_are_what_they_were(pair_folder: Path, tmp_path: Path) -> None:
    then, now = json.loads(GOLDEN.read_text()), found(pair_folder, tmp_path)
    for name, spans in then["spans"].items():
        assert now["spans"][name].pop("losses") == pytest.approx(spans.pop("losses"), rel=1e-5), name
    assert now == then
