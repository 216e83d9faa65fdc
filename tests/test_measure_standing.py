"""Which calibration a run's summary may quote: of the same student, and of the same rater, encoder, weights and direction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from srtui.errors import UserError
from srtui.evaluation.known_pairs import KnownPair
from srtui.evaluation.measure_calibration import calibrated
from srtui.pipeline import prepare
from srtui.recipe import load, parse
from srtui.store import Store
from srtui.store.summary import summarise
from srtui.workspace import Workspace
from tests.conftest import small_recipe

WEIGHTS = {
    "student": "s", "student_id": "s", "template": "alpaca", "template_version": "v", "protocol": "default",
    "data": "pairs.jsonl", "data_digest": "d", "pairs": 60, "accuracy": (0.6, 0.5, 0.7),
    "length_accuracy": (0.6, 0.5, 0.7), "weights": {"ifd": 1.5, "length": -0.25},
}  # fmt: skip
RATER = {"name": "rater", "file": "rater.Q8_0", "model": "ab", "single": "1", "pairwise": "2"}
ENCODER = {"name": "some", "identity": "cd"}


def known_of(workspace: Workspace, selection: dict[str, Any], **found: Any) -> dict[str, bool]:
    """By target, whether a calibration with ``found`` in it says anything of a run that chooses by ``selection``."""
    if "weights" in selection:
        (workspace.recipes / "weights.json").write_text(json.dumps(selection["weights"]), encoding="utf-8")
        selection = selection | {"weights": "weights.json"}
    path = small_recipe(workspace, 2, training={"enabled": False}, selection=selection)
    with Store(workspace.store_path) as store:
        run, _ = prepare(workspace, store, load(path), path)
        student, other = (store.scores.setting("s", s, "nf4", "alpaca", "default", 512, "v") for s in "so")
        store.runs.update(run.id, setting_id=student, teacher=json.dumps({"name": "t", "sha256": "ab"}))
        by = {selection.get("instruction_by", "ifd"), selection.get("response_by", "rifd")}
        pairs = [KnownPair("q", "", ("a", "bb"), 2)]
        result = calibrated(pairs, {name: [(0.0, 1.0)] for name in by}) | {"skipped": {}, "student": "s"}
        store.calibrations.add(b"other", other, "f", 1, result)  # of another student, it says nothing
        assert all(m.verdict is None for m in summarise(store, run.id).measures.values())
        store.calibrations.add(b"own", student, "f", 1, result | found)
        return {target: m.verdict is not None for target, m in summarise(store, run.id).measures.items()}


@pytest.mark.parametrize(
    ("selection", "found", "response"),
    [
        ({"response_by": "ifd"}, {}, True),
        ({"response_by": "teacher-score"}, {"rater": RATER}, True),  # the teacher itself, by its weights
        ({"response_by": "teacher-score"}, {"rater": RATER | {"model": "other"}}, False),
        ({"response_by": "teacher-score"}, {}, False),  # of before raters were kept
        ({"response_by": "teacher-score", "rater": "rater"}, {"rater": RATER}, True),
        ({"response_by": "teacher-score", "rater": "rater.Q8_0.gguf"}, {"rater": RATER}, True),
        ({"response_by": "teacher-score", "rater": "another"}, {"rater": RATER}, False),
        ({"response_by": "coherence", "encoder": "some"}, {"encoder": ENCODER}, True),
        ({"response_by": "coherence", "encoder": "another"}, {"encoder": ENCODER}, False),
        ({"response_by": "combined", "weights": WEIGHTS}, {"weights": WEIGHTS["weights"]}, True),
        ({"response_by": "combined", "weights": WEIGHTS}, {"weights": {"ifd": 0.1}}, False),
        ({"response_by": "combined", "weights": WEIGHTS}, {"weights": None}, False),
        ({"response_by": "perplexity"}, {}, True),
    ],
)  # fmt: skip
def test_a_calibration_of_something_else_is_none(
    workspace: Workspace, selection: dict[str, Any], found: dict[str, Any], response: bool
) -> None:
    assert known_of(workspace, selection, **found) == {"instruction": True, "response": response}


def test_a_perplexity_of_another_text_is_not_what_was_calibrated(workspace: Workspace) -> None:
    """Instructions are chosen by that of the answer, the higher one; answers by that of the instruction, the lower."""
    selection = {"instruction_by": "perplexity", "response_by": "perplexity"}
    assert known_of(workspace, selection) == {"instruction": False, "response": True}


def test_a_combination_with_coherence_needs_its_encoder(tmp_path: Path) -> None:
    weights = WEIGHTS | {"weights": {"coherence": 1.0}, "encoder": "cd"}
    described = {"name": "r", "dataset": "d", "selection": {"response_by": "combined", "weights": weights}}
    with pytest.raises(UserError, match=r"needs selection\.encoder"):
        parse(described, "test")
    parse(described | {"selection": {**described["selection"], "encoder": "some"}}, "test")  # type: ignore[dict-item]
