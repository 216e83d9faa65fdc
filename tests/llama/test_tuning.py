"""What was measured is found again for the same file on the same machine, and never for another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from srtui.llama import tuning
from srtui.llama.tuning import TABLE, best_slots, machine, tune, tuned


@pytest.mark.parametrize(
    ("decode", "best"),
    [
        ({1: 80, 4: 200, 8: 195}, 4),
        ({1: 80, 8: 265, 32: 414, 64: 288}, 32),
        ({1: 100, 4: 105}, 1),
        ({2: 5.0}, 2),
    ],
)
def test_the_fewest_slots_that_are_about_as_fast(decode: dict[int, float], best: int) -> None:
    assert best_slots(decode) == best


@pytest.mark.model
def test_measured_and_found_again(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / teacher_file.name
    shutil.copyfile(teacher_file, file)
    assert tuned(file) is None
    made = tune(file, slots=(1, 4), seconds=0.2)
    assert tuned(file) == made
    assert made.prompt > 0
    assert set(made.decode) == {1, 4}
    assert made.slots in (1, 4)
    table = json.loads((tmp_path / TABLE).read_text())
    assert list(table) == [machine()]
    monkeypatch.setattr(tuning, "machine", lambda: "another machine")
    assert tuned(file) is None
    monkeypatch.undo()
    with file.open("ab") as end:
        end.write(b"more")
    assert tuned(file) is None


def test_a_damaged_table_is_no_measurement(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    for text in ("", "[]", '{"x": 1}', json.dumps({machine(): {"m.gguf": {"size": 4}}})):
        (tmp_path / TABLE).write_text(text)
        assert tuned(file) is None
