"""Energy: counters that wrap, machines that do not tell, and joules a kept sample only where all of it was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from srtui.energy import EnergyMeter
from srtui.pipeline.watch import Watch
from srtui.progress import Progress
from srtui.store import Store
from srtui.store.stages import StageProgress
from srtui.wording import energy_words
from srtui.workspace import Workspace
from tests.tui.scripted_store import Script, demo_pairs


def counter(folder: Path, name: str, microjoules: int, wraps_at: int = 1_000_000_000) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


def test_joules_are_those_of_packages_and_memory_and_wrap(tmp_path: Path) -> None:
    package = counter(tmp_path / "intel-rapl:0", "package-0", 990_000_000)
    memory = counter(tmp_path / "intel-rapl:0:2", "dram", 0)
    core = counter(tmp_path / "intel-rapl:0:0", "core", 0)  # a part of the package
    meter = EnergyMeter(tmp_path, list)
    assert meter.sources == ("processor",)
    assert meter.spent() == 0
    package.write_text("30000000\n")  # it has begun again at 1,000 J
    memory.write_text("5000000\n")
    core.write_text("7000000\n")
    assert meter.spent() == pytest.approx(40 + 5)
    package.unlink()
    assert meter.spent() is None
    assert not meter.sources


def test_a_machine_that_does_not_tell_has_no_figure(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path, list).spent() is None
    unreadable = counter(tmp_path / "intel-rapl:0", "package-0", 1)
    unreadable.write_text("secret\n")
    assert EnergyMeter(tmp_path, list).sources == ()


def test_cards_count_beside_the_processor(tmp_path: Path) -> None:
    class Card:
        at = 10.0

        def joules(self) -> float:
            return self.at

    card = Card()
    meter = EnergyMeter(tmp_path, lambda: [card])
    card.at = 25.0
    assert (meter.sources, meter.spent()) == (("1 GPU",), 15.0)
    card.at = 5.0  # its driver was loaded anew, and what it had counted is not known
    assert meter.spent() is None


def stage(seconds: float, **detail: Any) -> StageProgress:
    return StageProgress(1, "train", 1, 1, 0, seconds, detail, 0.0)


def test_a_figure_is_of_the_whole_run_or_not_said() -> None:
    whole = {
        "a": stage(10, joules=300.0, joule_seconds=10.0),
        "b": stage(10, joules=100.0, joule_seconds=9.9),
    }
    assert energy_words(whole, 4) == "100 J a kept sample, 0.4 kJ in all"
    assert energy_words({**whole, "c": stage(5)}, 4) == ""  # five seconds in which nothing was measured
    assert energy_words(whole, 0) == ""


class _Silent:
    def __init__(self) -> None:
        self.details: list[dict[str, Any]] = []

    def progress(self, progress: Progress) -> None:
        self.details.append(progress.detail)

    def event(self, level: str, message: str) -> None: ...


def test_an_engine_adds_up_what_it_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, _ = Workspace.create(tmp_path / "ws")
    energy = iter(float(n) for n in range(100))

    class Meter:
        def spent(self) -> float:
            return next(energy)

    monkeypatch.setattr("srtui.pipeline.watch.EnergyMeter", Meter)
    with Store(workspace.store_path) as store:
        run_id = Script(workspace, store).begin(demo_pairs()[:4]).run_id
        face = _Silent()
        watch = Watch(store, run_id, face, lambda: False)
        watch.start("train")  # 0 and 1 J were used before
        watch.report_progress(1, 4, 0, {"loss": 1.0}, now=True)  # 2
        with watch.step("load-student"):  # 3 before it, 4 in it
            pass
        watch.report_progress(2, 4, 0, {"loss": 0.5}, now=True)  # 5, and the 3
        stages = store.runs.stages(run_id)
        assert stages["train"].detail["joules"] == 2 + 3 + 5
        assert stages["train"].detail["loss"] == 0.5
        assert stages["train"].detail["joule_seconds"] == pytest.approx(stages["train"].seconds, abs=0.01)
        assert stages["load-student"].detail["joules"] == 4
        assert "joules" not in face.details[-1]  # faces of a command are told what they were
