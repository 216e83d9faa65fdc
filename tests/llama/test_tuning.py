"""What was measured is found again for the same file on the same machine, and never for another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from srtui.errors import UserError
from srtui.llama import tuning
from srtui.llama.batching import LlamaTeacher
from srtui.llama.tuning import (
    ROUNDS,
    TABLE,
    Tuning,
    best_slots,
    contradiction,
    machine,
    speed_warning,
    tune,
    tuned,
)


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


@pytest.mark.parametrize(
    ("decode", "possible"),
    [
        ({1: 1.0, 32: 380.0}, False),  # measured beside a compiler, stored, and believed
        ({1: 100.0, 4: 95.0, 16: 500.0}, True),
        ({4: 40.0, 16: 30.0, 64: 160.0}, True),
        ({1: 80.0, 8: 640.0}, True),  # memory-bound: as many times as fast
        ({1: 0.0, 8: 1.0}, False),
        ({8: 100.0}, True),
    ],
)
def test_rates_that_no_machine_has_are_reported(decode: dict[int, float], possible: bool) -> None:
    assert (contradiction(decode) == "") == possible


@pytest.mark.model
def test_a_disturbed_round_counts_for_nothing_and_a_disturbed_machine_stores_nothing(
    tmp_path: Path, pair_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tiny.F16.gguf"
    shutil.copyfile(pair_folder / "tiny.F16.gguf", file)
    order: list[int] = []

    def rates(self: LlamaTeacher, slots: int, seconds: float) -> tuple[float, float]:
        order.append(slots)
        return 1000.0, 1.0 if len(order) == disturbed else 100.0 * slots**0.5

    monkeypatch.setattr(LlamaTeacher, "bare_rates", rates)
    disturbed = 1
    made = tune(file, slots=(1, 4, 16), seconds=3)
    assert order == [1, 4, 16] * ROUNDS
    assert dict(made.decode) == {1: 100.0, 4: 200.0, 16: 400.0}
    before = (tmp_path / TABLE).read_bytes()
    monkeypatch.setattr(
        LlamaTeacher, "bare_rates", lambda self, slots, seconds: (9.0, 1.0 if slots == 1 else 380.0)
    )
    with pytest.raises(UserError, match=r"1 slots made 1 tokens/s and 32 slots 380.*nothing was stored"):
        tune(file, slots=(1, 32), seconds=3)
    assert (tmp_path / TABLE).read_bytes() == before


def test_a_run_that_is_far_from_its_table_is_said() -> None:
    table = Tuning("m.gguf", 1, 1000.0, {16: 100.0}, 16, 0.0)
    assert speed_warning(table, 16, 10_000, 10_000, 110.0) == ""  # 10 s + 100 s
    assert speed_warning(table, 16, 10_000, 10_000, 430.0) == ""
    slow = speed_warning(table, 16, 10_000, 10_000, 450.0)
    assert "took 450 s" in slow and "110 s" in slow and "srtui models tune m." in slow
    assert speed_warning(table, 16, 10_000, 10_000, 50.0)
    assert speed_warning(table, 8, 10_000, 10_000, 5000.0) == ""  # not measured
    assert speed_warning(table, 16, 100, 100, 5000.0) == ""  # too short to say


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


def test_another_card_is_another_machine(tmp_path: Path) -> None:
    """What was measured and forecast with one says nothing of the other."""
    none = machine(tmp_path)
    names = {none}
    for name in ("NVIDIA GeForce RTX 3060", "NVIDIA GeForce RTX 4090"):
        card = tmp_path / "0000:01:00.0"
        card.mkdir(exist_ok=True)
        (card / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 89\n")
        assert machine(tmp_path) == f"{none}, {name}"
        names.add(machine(tmp_path))
    assert len(names) == 3
    (tmp_path / "0000:02:00.0").mkdir()
    assert machine(tmp_path).startswith(f"{none}, NVIDIA GeForce RTX 4090, a GPU")
