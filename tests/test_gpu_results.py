"""``make gpu``: what is stored as parts end, what goes on after a kill, and that nothing unmeasured is a number."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_train
from benchmarks.gpu.__main__ import source_sha256
from benchmarks.gpu.parts import Bench
from benchmarks.gpu.results import NotMeasured, Part, Results, card_file, ratio
from benchmarks.gpu.sizes import SIZES
from tests.conftest import ROOT

FACTS = {"device": "NVIDIA Test 24GB", "size": "7b", "commit": "abc"}


def no_ratios(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {"teacher/loop": ratio(figures.get("fast", {}).get("rate"), 2.0, "fast was not measured")}


def parts(log: list[str], *, fails: bool = False, killed: bool = False, there: bool = True) -> list[Part]:
    def fast(before: Mapping[str, Any]) -> dict[str, Any]:
        log.append("fast")
        if fails:
            raise NotMeasured("out of memory")
        return {"rate": 30.0}

    def last(before: Mapping[str, Any]) -> dict[str, Any]:
        log.append("last")
        if killed:
            raise KeyboardInterrupt
        return {"saw": sorted(before)}

    return [Part("fast", fast, lambda: there), Part("last", last)]


def test_a_run_that_was_cut_off_goes_on_and_one_that_ended_begins_anew(tmp_path: Path) -> None:
    path, log = tmp_path / "gpu.json", list[str]()
    with pytest.raises(KeyboardInterrupt):
        Results.resume(path, FACTS).work(parts(log, killed=True), no_ratios)
    stored = json.loads(path.read_text())
    assert not stored["complete"] and [*stored["parts"]] == ["fast"]
    assert "goes on where it was" in path.with_suffix(".md").read_text()
    line = Results.resume(path, FACTS).work(parts(log), no_ratios)
    assert log == ["fast", "last", "last"]
    assert line == {
        "bench": "gpu",
        "device": "NVIDIA Test 24GB",
        "parts": {"fast": "ok", "last": "ok"},
        "ratios": {"teacher/loop": 15.0},
    }
    assert json.loads(path.read_text())["complete"]
    text = path.with_suffix(".md").read_text()
    assert "| teacher/loop | 15.00 | at least 10 |" in text and "goes on" not in text
    Results.resume(path, FACTS).work(parts(log), no_ratios)
    assert log == ["fast", "last", "last", "fast", "last"]


def test_what_is_not_resumed(tmp_path: Path) -> None:
    """Another commit's parts, those whose files are not there any more, half a file."""
    path, log = tmp_path / "gpu.json", list[str]()
    with pytest.raises(KeyboardInterrupt):
        Results.resume(path, FACTS).work(parts(log, killed=True), no_ratios)
    whole = path.read_text()
    assert Results.resume(path, {**FACTS, "commit": "def"}).parts == {}
    path.write_text(whole[: len(whole) // 2])
    assert Results.resume(path, FACTS).parts == {}
    path.write_text(whole)
    Results.resume(path, FACTS).work(parts(log, there=False), no_ratios)
    assert log == ["fast", "last", "fast", "last"]


def test_a_figure_that_was_not_measured_is_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    line = Results.resume(path, FACTS).work(parts([], fails=True), no_ratios)
    assert line["parts"]["fast"] == "out of memory"
    assert line["ratios"] == {"teacher/loop": "fast was not measured"}
    assert "| teacher/loop | fast was not measured | at least 10 |" in path.with_suffix(".md").read_text()
    assert ratio(0.0, 2.0, "no") == "no" and ratio(3.0, None, "no") == "no"


def test_ratios_without_any_part() -> None:
    ratios = Bench("cuda", SIZES["7b"], Path("work")).ratios({})
    assert ratios and all(isinstance(value, str) and value for value in ratios.values())
    figures = {
        "loop": {"rate": 50.0},
        "teacher_1": {"tokens_a_second": 60.0, "of_ceiling": [0.8, 0.9]},
        "teacher_64": {"tokens_a_second": 1000.0, "of_ceiling": [0.95]},
        "training": {"ratio_plain_trl": 1.7, "not_measured_unsloth": "not installed"},
    }
    ratios = Bench("cuda", SIZES["7b"], Path("work")).ratios(figures)
    assert ratios["teacher/loop"] == 20.0
    assert ratios["teacher/ceiling@1"] == 0.85 and ratios["teacher/ceiling@64"] == 0.95
    assert ratios["training/plain_trl"] == 1.7 and ratios["training/unsloth"] == "not installed"
    assert ratios["scoring/plain"] == "not measured"


def test_names_of_cards() -> None:
    assert card_file("NVIDIA GeForce RTX 4090") == "gpu-nvidia-geforce-rtx-4090"
    assert card_file("///") == "gpu-unknown"


def test_a_command_that_fails_hangs_or_says_nothing(tmp_path: Path) -> None:
    bench = Bench("cpu", SIZES["tiny"], tmp_path)
    for program, patience, reason in (
        ("raise SystemExit('no kernel image')", 60, "exit 1: no kernel image"),
        ("import time; time.sleep(60)", 1, "took longer than 1 s"),
        ("print('[1]')", 60, "printed no figures"),
        ("", 60, "printed no figures"),
    ):
        with pytest.raises(NotMeasured, match=reason):
            bench.figures("-c", program, patience=patience)
    visible = bench.figures("-c", "import json, os; print(json.dumps(dict(os.environ)))")
    assert visible["CUDA_VISIBLE_DEVICES"] == ""


def test_a_fault_of_one_part_costs_no_other(tmp_path: Path) -> None:
    def faulty(before: Mapping[str, Any]) -> dict[str, Any]:
        return {"rate": before["matrix"]["flops"]}

    line = Results.resume(tmp_path / "gpu.json", FACTS).work(
        [Part("faulty", faulty), Part("fast", lambda _: {"rate": 30.0})], no_ratios
    )
    assert line["parts"] == {"faulty": "KeyError: 'matrix'", "fast": "ok"}


class Reports(Bench):
    """Its pytest writes ``xml``."""

    xml = ""

    def command(self, *words: object, patience: int | None = None) -> str:
        (place,) = (str(word).partition("=")[2] for word in words if str(word).startswith("--junitxml="))
        Path(place).write_text(f"<testsuite>{self.xml}</testsuite>")
        return ""


@pytest.mark.parametrize(("device", "passes"), [("cuda", False), ("cpu", True)])
def test_tests_that_were_skipped_on_a_gpu_are_not_ok(device: str, passes: bool, tmp_path: Path) -> None:
    bench = Reports(device, SIZES["tiny"], tmp_path)
    skipped = '<testcase name="{}"><skipped message="no model"/></testcase>'.format
    Reports.xml = '<testcase name="a"/>' + skipped("b") + skipped("c")
    if passes:
        assert bench.tests({}) == {"passed": 1, "skipped": {"b": "no model", "c": "no model"}}
    else:
        with pytest.raises(NotMeasured, match=r"^2 of 3 were skipped: b \(no model\)$"):
            bench.tests({})
    Reports.xml = skipped("b")
    with pytest.raises(NotMeasured, match="1 of 1 were skipped"):
        bench.tests({})


def test_an_edited_source_is_another_run(tmp_path: Path) -> None:
    """The commit is the same; so it is where there is no git at all."""
    for folder in ("srtui", "benchmarks", "tests"):
        (tmp_path / folder).mkdir()
    file = tmp_path / "srtui" / "a.py"
    file.write_text("x = 1")
    before = source_sha256(tmp_path)
    assert source_sha256(tmp_path) == before
    file.write_text("x = 2")
    assert source_sha256(tmp_path) != before


@pytest.mark.parametrize(("visible", "seen"), [(None, "0"), ("3,1", "3"), ("MIG-1a,MIG-2b", "MIG-1a")])
def test_one_card_is_measured_where_there_are_several(
    visible: str | None, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    bench = Bench("cuda", SIZES["tiny"], tmp_path)
    shown = bench.figures("-c", "import json, os; print(json.dumps(dict(os.environ)))")
    assert shown["CUDA_VISIBLE_DEVICES"] == seen


def test_a_contender_that_does_not_fit_leaves_the_others_their_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours: dict[str, Any] = {"tokens": 100, "seconds": 2, "peak": 1e9, "overhead": 0.0, "saving": 0.1}
    answers: dict[str, Any] = {"srtui": ours, "plain": "exit 1: OutOfMemoryError: CUDA out of memory"}
    monkeypatch.setattr(bench_train, "contenders", lambda: ["plain", "srtui"])
    monkeypatch.setattr(bench_train, "contender", lambda name: answers[name])
    monkeypatch.setattr(sys, "argv", ["bench_train.py", "--rounds", "1"])
    bench_train.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["rates"] == {"srtui": 50.0} and "out of memory" in found["reasons"]["plain"]
    answers["srtui"] = "exit 1: it fell"
    with pytest.raises(SystemExit):
        bench_train.main()


def test_kill_nine_between_parts(tmp_path: Path) -> None:
    """The real file through the death of its process: what had ended is not run again."""
    program = (
        "import sys, time; from pathlib import Path; from tests.test_gpu_results import FACTS, no_ratios;"
        "from benchmarks.gpu.results import Part, Results; place = Path(sys.argv[1]);"
        "note = lambda name: (place / name).write_text((place / name).read_text() + 'x' if (place / name).exists() else 'x');"
        "first = lambda _: (note('first'), {'rate': 30.0})[1];"
        "second = lambda _: (note('second'), time.sleep(float(sys.argv[2])), {'n': 1})[2];"
        "Results.resume(place / 'r.json', FACTS).work([Part('fast', first), Part('second', second)], no_ratios)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    process = subprocess.Popen([*command, "600"], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (tmp_path / "second").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*command, "0"], cwd=ROOT, check=True)
    assert (tmp_path / "first").read_text() == "x" and (tmp_path / "second").read_text() == "xx"
    assert json.loads((tmp_path / "r.json").read_text())["complete"]
