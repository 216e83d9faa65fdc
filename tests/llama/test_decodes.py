"""The decodes of recorded jobs: which tokens of which sequences go to llama.cpp together, and in what order.

decodes.json was written by the engine before it was cut into scheduler, sequence and engine; since then a candidate
takes over the slot of one that has ended, which changed the three jobs that have candidates, and no answer of theirs.
A change here is a change of what runs beside what, which on a GPU changes texts.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from srtui.llama import Generation
from tests.llama.decodes import Recorder, all_jobs, brief, record
from tests.llama.tiny_gguf import write_tiny

pytestmark = pytest.mark.model

RECORDED = json.loads((Path(__file__).parent / "decodes.json").read_text())
READABLE = 10  # of the decodes; the others are in a hash


def summary(recorder: Recorder, generations: list[Generation]) -> dict[str, Any]:
    lines = [brief(decode) for decode in recorder.decodes]
    answers = [
        (str(g.key), g.candidate, g.text, [w.finish for w in g.written], g.refused, g.new_tokens)
        for g in generations
    ]
    return {
        "first": lines[:READABLE],
        "decodes": len(lines),
        "all": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16],
        "answers": hashlib.sha256(json.dumps(answers).encode()).hexdigest()[:16],
    }


@pytest.fixture(scope="module", params=["llama", "mamba", "lfm2"])
def model(
    request: pytest.FixtureRequest, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    file = tmp_path_factory.mktemp("decodes") / f"{request.param}.gguf"
    return request.param, write_tiny(file, teacher_file, request.param)


@pytest.mark.parametrize("name", all_jobs())
def test_the_decodes_are_the_recorded_ones(model: tuple[str, Path], name: str) -> None:
    """Those of a hybrid are a recurrent model's: neither memory can be cut back."""
    architecture, file = model
    recorded = RECORDED[f"{'llama' if architecture == 'llama' else 'mamba'}: {name}"]
    assert summary(*record(file, all_jobs()[name], scripted=True)) == recorded
