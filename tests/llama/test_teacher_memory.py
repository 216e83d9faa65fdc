"""What a teacher plans with: the free memory of the device that its layers are on.

llama.cpp is built for the CPU here, so what it says of GPUs is put in its mouth; the model is real.
"""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import psutil
import pytest

from srtui.llama import Message, Request, Segment, engine
from srtui.llama import gguf as files
from srtui.llama.engine import LlamaTeacher
from srtui.models.gguf_header import read_gguf

pytestmark = pytest.mark.model
MB = 10**6


class Gpu:
    """A GPU with ``free`` bytes, and what was asked of llama.cpp."""

    def __init__(self, patch: pytest.MonkeyPatch, free: int | None, fits: int = 999) -> None:
        self.free, self.asked, self.said = free, [], []
        load = llama_cpp.llama_model_load_from_file

        def loads(path: bytes, parameters: object) -> object:
            self.asked.append(parameters.n_gpu_layers)  # type: ignore[attr-defined]
            return load(path, parameters) if parameters.n_gpu_layers <= fits else None  # type: ignore[attr-defined]

        patch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: True)
        patch.setattr(llama_cpp, "llama_model_load_from_file", loads)
        for module in (files, engine):
            patch.setattr(module, "gpu_free", lambda: self.free)

    def report_line(self, level: str, message: str) -> None:
        self.said.append((level, message))

    def open(self, path: Path, **settings: object) -> LlamaTeacher:
        return LlamaTeacher(path, name="t", sha256="", threads=1, report_line=self.report_line, **settings)  # type: ignore[arg-type]


def _requests(count: int, tokens: int = 40) -> list[Request]:
    return [
        Request(n, (Message("user", f"Say {n}."),), (Segment(max_tokens=tokens),), seed=n)
        for n in range(count)
    ]


def test_layers_are_planned_with_their_cache(teacher_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = read_gguf(teacher_file).shape
    assert shape is not None
    weights = sum(shape.layers) + shape.output
    gpu = Gpu(monkeypatch, 4000 * MB)
    gpu.open(teacher_file).close()
    assert gpu.asked == [31]  # thirty, and the output
    assert gpu.said[0][0] == "info"
    assert "30 of the teacher's 30 layers go to the GPU" in gpu.said[0][1]
    # Room for the weights, and for little else.
    compute = 4 * 512 * (49152 + 8 * 576 + 3 * 1536)
    gpu = Gpu(monkeypatch, round((weights + compute + 60 * MB) / 0.9))
    gpu.open(teacher_file).close()
    (asked,) = gpu.asked
    assert 0 < asked < 30
    assert gpu.said[0][0] == "warning"
    assert "the others stay in this computer's memory" in gpu.said[0][1]
    # A longer context, or more slots, take more of it.
    shorter = Gpu(monkeypatch, gpu.free)
    shorter.open(teacher_file, context=512).close()
    assert shorter.asked[0] > asked


def test_layers_that_do_not_fit_after_all_are_said(
    teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(monkeypatch, 4000 * MB, fits=20)
    gpu.open(teacher_file).close()
    assert gpu.asked == [31, 23, 15]
    assert [level for level, _ in gpu.said] == ["info", "warning", "warning"]
    assert "31 layers did not fit the GPU" in gpu.said[1][1]


def test_slots_are_planned_by_the_gpus_memory(teacher_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by this computer's, of which there is plenty."""
    gpu = Gpu(monkeypatch, 4000 * MB)
    teacher = gpu.open(teacher_file, slots=8)
    try:
        cell = 30 * 384 * 2
        compute = 4 * 512 * (49152 + 8 * 576 + 3 * 4 * 576)
        longest = 200
        gpu.free = round((compute + 4.5 * longest * cell) / 0.9)  # three slots, and one for what they share
        requests = _requests(8, longest - 60)
        teacher.submit(requests)
        teacher._plan()
        assert 1 <= teacher.progress().slots <= 4
        assert gpu.said[-1][0] == "warning"
        assert "tokens of the teacher's KV cache" in gpu.said[-1][1]
        # The computer's memory does not matter to layers that are on the GPU.
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": 1}))
        gpu.free = 4000 * MB
        teacher._close_context()
        teacher._plan()
        assert teacher.progress().slots == 8
    finally:
        teacher.close()


def test_a_context_in_hand_counts_as_room_for_the_next(
    teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(monkeypatch, 4000 * MB)
    teacher = gpu.open(teacher_file, slots=4)
    try:
        teacher.submit(_requests(4))
        teacher._plan()
        assert teacher.progress().slots == 4
        gpu.free = 0  # it has taken all there was
        teacher._plan()
        assert teacher.progress().slots == 4
    finally:
        teacher.close()


def test_llama_cpp_says_what_its_gpus_have_free() -> None:
    """A CPU build has none; the call itself is real."""
    if llama_cpp.llama_supports_gpu_offload():
        assert (files.gpu_free() or 0) > 0
    else:
        assert files.gpu_free() == 0
