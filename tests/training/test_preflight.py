"""Estimates: their direction, their advice, and how near they are to what is measured."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from srtui.recipe import TrainingSettings
from srtui.student import Span
from srtui.training.preflight import Shape, diverged, needed_bytes, training_bytes, what_would_fit
from tests.conftest import ROOT

# Llama 2 7B with rank 64 on all linear layers, bf16 activations, 4-bit weights.
SEVEN = Shape(32, 4096, 11008, 4096, 32000, 159_907_840, 2, 4096 * 11008)
LONG = [Span((1,) * 2048, 1024)] * 8


def _needed(config: TrainingSettings, again: bool) -> int:
    return needed_bytes(
        SEVEN, LONG, config, packed=True, gradient_checkpointing=again, optimizer="paged_adamw_8bit"
    )


def test_more_tokens_need_more_and_checkpointing_less() -> None:
    one, four = (TrainingSettings(batch_size=8, micro_batch_size=n) for n in (1, 4))
    assert _needed(one, True) < _needed(four, True) < _needed(four, False)
    assert 1e9 < _needed(one, True) < 8e9  # beyond the 4 GB of weights: within 16 GB at batch 1
    small = training_bytes(SEVEN, 100, 50, dropout=False, gradient_checkpointing=False, optimizer="adamw")
    large = training_bytes(SEVEN, 100, 50, dropout=True, gradient_checkpointing=False, optimizer="adamw")
    assert small < large


def test_the_setting_that_would_fit_is_the_least_change() -> None:
    config = TrainingSettings(batch_size=8, micro_batch_size=4)

    def advice(free: int) -> str:
        return what_would_fit(
            free, SEVEN, LONG, config, packed=True, gradient_checkpointing=False, optimizer="paged_adamw_8bit"
        )

    one = TrainingSettings(batch_size=8, micro_batch_size=1)
    assert advice(_needed(one, False)) == "training.micro_batch_size = 1"
    assert advice(_needed(config, True)) == "training.gradient_checkpointing = true"
    assert (
        advice(_needed(one, True))
        == "training.micro_batch_size = 1 and training.gradient_checkpointing = true"
    )
    assert "prompt.max_length = 1024" in advice(_needed(one, True) - 10**8)
    assert advice(10**8) == ""


def test_what_a_blown_up_loss_is() -> None:
    calm = [2.0, 1.9, 2.2, 1.8] * 3
    assert not diverged([*calm, 30.0], 49152)  # one odd step
    assert not diverged([9.0] * 3 + [50.0] * 4, 49152)  # too early to tell
    assert not diverged([10.5] * 30, 32000)  # a student that begins as bad as guessing
    assert diverged([*calm, 11.0, 14.0, 20.0, 40.0], 49152)
    assert not diverged([*calm, *[math.log(49152) - 1] * 4], 49152)


_MEASURE = """
import sys, threading, time, psutil
from pathlib import Path
from srtui.student import Student
from srtui.student import Span
from srtui.recipe import TrainingSettings
from srtui.training import Listener, train
from srtui.workspace import go_offline
go_offline()
me = psutil.Process()
class Memory(Listener):
    def planned(self, facts):
        self.estimate = facts.memory
        self.start = me.memory_info().rss - grown
me_before = 0
student = Student.load(Path(sys.argv[1]), "f32")
base = me.memory_info().rss
peak, ended = base, False
def watch():
    global peak
    while not ended:
        peak = max(peak, me.memory_info().rss)
        time.sleep(0.005)
grown = 0
thread = threading.Thread(target=watch); thread.start()
memory = Memory()
some = [Span(tuple(n % 900 + 5 for n in range(192)), 96)] * 2
config = TrainingSettings(epochs=1, batch_size=2, micro_batch_size=2, lora_rank=4, steps=2)
train(Path(sys.argv[1]), some, {}, config, Path(sys.argv[2]) / "adapter", memory, student=student)
ended = True; thread.join()
print("figures", memory.estimate, peak - base)
"""


@pytest.mark.model
def test_the_estimate_is_near_the_measured_peak(student_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "measure.py"
    script.write_text(
        _MEASURE.replace(" - grown", "").replace("grown = 0\n", "").replace("me_before = 0\n", "")
    )
    done = subprocess.run(
        [sys.executable, str(script), str(student_folder), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_TRIM_THRESHOLD_": "0"},
        capture_output=True,
        text=True,
        timeout=400,
        check=True,
    )
    estimate, measured = (int(n) for n in done.stdout.split("figures")[1].split())
    assert 0.5 * measured < estimate < 2.0 * measured, (
        f"{estimate / 1e6:.0f} MB, {measured / 1e6:.0f} MB measured"
    )
