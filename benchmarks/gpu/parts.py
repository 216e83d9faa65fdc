"""The parts of ``make gpu``, each a command in a process of its own, so that its peak of memory is its own and a
crash is one line of the result. The commands are the project's benchmarks; nothing is measured in a second way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu.models import file_of, folder_of
from benchmarks.gpu.results import NotMeasured, Part, ratio
from benchmarks.gpu.sizes import Size

ROOT = Path(__file__).resolve().parents[2]
_LOOP_PROMPTS = 8


@dataclass(frozen=True)
class Bench:
    """What all parts know: the device (cuda or cpu), the size, and the folder that models are written to."""

    device: str
    size: Size
    work: Path

    def command(self, *words: object, patience: int | None = None) -> str:
        """What a command prints. Raises NotMeasured where it fails or takes too long."""
        environment = os.environ | {"PYTHONPATH": str(ROOT), "SRTUI_WORKSPACE": str(ROOT)}
        # One card, the one that the results are named for: the student would take the one with most memory free, and
        # the teacher all of them.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        environment["CUDA_VISIBLE_DEVICES"] = visible if self.device == "cuda" else ""
        patience = patience or self.size.patience
        try:
            done = subprocess.run(
                [sys.executable, *map(str, words)],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=patience,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise NotMeasured(f"took longer than {patience} s") from error
        if done.returncode:
            lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
            raise NotMeasured(f"exit {done.returncode}: {lines[-1][:300]}")
        return done.stdout

    def figures(self, *words: object, patience: int | None = None) -> dict[str, Any]:
        """The JSON object of the last line that a command prints."""
        lines = self.command(*words, patience=patience).strip().splitlines()
        try:
            found = json.loads(lines[-1])
        except (IndexError, ValueError) as error:
            raise NotMeasured("printed no figures") from error
        if not isinstance(found, dict):
            raise NotMeasured("printed no figures")
        return found

    def parts(self) -> list[Part]:
        """All of them, in the order in which they run: the tests first, for speed says nothing of what is wrong."""
        folder, file = folder_of(self.work, self.size), file_of(self.work, self.size)
        return [
            Part("doctor", self.doctor),
            Part("tests", self.tests),
            Part("matrix", lambda _: self.figures("-m", "benchmarks.gpu.matrix", self.size.matrix)),
            Part(
                "models",
                # Without them there is no other part, and a slow disk is not what is measured.
                lambda _: self.figures(
                    "-m",
                    "benchmarks.gpu",
                    "--write-models",
                    self.size.name,
                    self.work,
                    patience=5 * self.size.patience,
                ),
                lambda: folder.is_dir() and file.is_file(),
            ),
            Part("loop", self.loop),
            *(
                Part(f"teacher_{slots}", lambda before, slots=slots: self.teacher(before, slots))
                for slots in self.size.slots
            ),
            Part("drafting", self.drafting),
            Part("scoring", self.scoring),
            Part("training", self.training),
        ]

    def doctor(self, _: Mapping[str, Any]) -> dict[str, Any]:
        try:
            out = self.command("-m", "srtui", "doctor", "--json")
        except NotMeasured:
            # It exits with an error where a check fails; what it prints says which.
            raise NotMeasured("srtui doctor found something wrong: run it") from None
        checks = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return {"checks": len(checks), "notes": sum(check["ok"] is None for check in checks)}

    def tests(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """The tests marked ``gpu``."""
        report = self.work / "tests.xml"
        report.unlink(missing_ok=True)
        failure = ""
        try:
            self.command(
                "-m",
                "pytest",
                "-q",
                "-m",
                "gpu",
                "--device",
                self.device,
                f"--junitxml={report}",
                "tests/gpu",
            )
        except NotMeasured as error:
            failure = str(error)
        if not report.is_file():
            raise NotMeasured(failure or "pytest wrote no report")
        # The file is our own pytest's, and holds no entities.
        cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314
        wrong = [case.get("name") for case in cases if {child.tag for child in case} & {"failure", "error"}]
        if wrong or failure:
            raise NotMeasured(f"{len(wrong)} of {len(cases)} failed: {', '.join(map(str, wrong))}; {failure}")
        skipped = {
            str(case.get("name")): str(child.get("message"))
            for case in cases
            for child in case
            if child.tag == "skipped"
        }
        passed = len(cases) - len(skipped)
        # On a CPU one of them has nothing to fill; on a GPU none may be left out, or what it holds is not known.
        if not passed or (skipped and self.device == "cuda"):
            raise NotMeasured(f"{len(skipped)} of {len(cases)} were skipped: {_first_of_each(skipped)}")
        return {"passed": passed, "skipped": skipped}

    def loop(self, before: Mapping[str, Any]) -> dict[str, Any]:
        needs(before, "models")
        return self._measured("loop", 1, 4 * _LOOP_PROMPTS if self.device == "cuda" else 4)

    def teacher(self, before: Mapping[str, Any], slots: int) -> dict[str, Any]:
        """The engine beside bare batched decoding of the same tokens, in turn, twice over."""
        needs(before, "models")
        rounds = [
            (self._measured("free", slots, slots), self._measured("ceiling", slots, slots))
            for _ in range(2 if slots < 64 else 1)
        ]
        ratios = sorted(
            (bare["prompt_seconds"] + engine["tokens"] / bare["decode_rate"]) / engine["seconds"]
            for engine, bare in rounds
        )
        best = max((engine for engine, _ in rounds), key=lambda engine: engine["rate"])
        reused = best["graphs_reused"]
        return {
            "tokens_a_second": round(best["rate"], 1),
            "decode_ceiling": round(max(bare["decode_rate"] for _, bare in rounds), 1),
            "of_ceiling": [round(value, 3) for value in ratios],
            "step_ms": round(best["step_ms"], 2),
            "host_ms_a_step": round(best["host_ms_a_step"], 2),
            "slots": best["slots"],
            "graphs_reused": None if reused is None else f"{reused} of {best['steps']} steps",
            "rounds": len(rounds),
        }

    def drafting(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """What guessed tokens cost; what they give is a real teacher's to say (benchmarks/bench_drafting.py)."""
        needs(before, "models")
        slots = str(max(self.size.slots))
        return self.figures("-m", "benchmarks.gpu.draft_costs", file_of(self.work, self.size), slots)

    def scoring(self, before: Mapping[str, Any]) -> dict[str, Any]:
        needs(before, "models")
        found = self.figures(
            "benchmarks/bench_scoring.py",
            "--student", folder_of(self.work, self.size),
            "--quantization", "bf16",
            "--samples", self.size.samples,
            "--plain", self.size.plain,
        )  # fmt: skip
        figures: dict[str, Any] = {"samples": found["samples"], **_flat("tokens_a_second", found["rates"])}
        figures |= _flat("ratio", found["ratios"])
        if "matrix" in before:
            figures["of_matrix"] = round(
                found["rates"]["srtui"] * 2 * self.size.parameters / before["matrix"]["flops"], 4
            )
        return figures

    def training(self, before: Mapping[str, Any]) -> dict[str, Any]:
        needs(before, "models")
        found = self.figures(
            "benchmarks/bench_train.py",
            "--student", folder_of(self.work, self.size),
            "--quantization", "nf4",
            "--steps", self.size.steps,
            "--batch", 2,
            "--micro", 1,
            "--length", self.size.length,
            "--full",
            "--rounds", self.size.rounds,
        )  # fmt: skip
        figures = {"length": self.size.length, **_flat("tokens_a_second", found["rates"])}
        figures |= _flat("peak_gb", found["peaks_gb"]) | _flat("ratio", found["ratios"])
        figures |= _flat("not_measured", found["reasons"])
        if "matrix" in before:
            # Forward, and backward through frozen weights: two products each way, but for the adapters'.
            flops = 4 * self.size.parameters * found["rates"]["srtui"]
            figures["of_matrix"] = round(flops / before["matrix"]["flops"], 4)
        return figures

    def _measured(self, contender: str, slots: int, prompts: int) -> dict[str, Any]:
        found = self.figures(
            "benchmarks/bench_teacher.py",
            "--measure", contender,
            "--model", file_of(self.work, self.size),
            "--slots", slots,
            "--prompts", prompts,
            "--tokens", self.size.tokens,
        )  # fmt: skip
        return found | {"rate": found["tokens"] / found["seconds"]}

    def ratios(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Of the figures of all parts."""
        rates = {
            slots: figures[f"teacher_{slots}"]["tokens_a_second"]
            for slots in self.size.slots
            if f"teacher_{slots}" in figures
        }
        loop = figures.get("loop", {}).get("rate")
        found: dict[str, Any] = {
            "teacher/loop": ratio(max(rates.values(), default=None), loop, "teacher or loop not measured")
        }
        for slots in self.size.slots:
            part = figures.get(f"teacher_{slots}")
            found[f"teacher/ceiling@{slots}"] = (
                round(median(part["of_ceiling"]), 3) if part else "not measured"
            )
        for part, names in (
            ("scoring", ("plain", "ceiling")),
            ("training", ("plain_trl", "unsloth", "peak")),
        ):
            for name in names:
                measured = figures.get(part, {})
                why = measured.get(f"not_measured_{'plain' if name == 'plain_trl' else name}", "not measured")
                found[f"{part}/{name}"] = measured.get(f"ratio_{name}", why)
            found[f"{part}/matrix"] = figures.get(part, {}).get("of_matrix", "not measured")
        return found


def needs(before: Mapping[str, Any], name: str) -> None:
    """Raises NotMeasured where the part ``name`` came to nothing."""
    if name not in before:
        raise NotMeasured(f"the part {name} came to nothing")


def _first_of_each(skipped: Mapping[str, str]) -> str:
    """The reasons, each with the first test that has it."""
    first = {reason: name for name, reason in reversed(list(skipped.items()))}
    return "; ".join(f"{name} ({reason})" for reason, name in first.items())


def _flat(prefix: str, values: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in dict(values).items()}
