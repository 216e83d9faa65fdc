"""What a teacher plans with: the free memory of the device that its layers are on.

llama.cpp is built for the CPU here, so what it says of GPUs is put in its mouth; the model is real.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import psutil
import pytest

from srtui.llama import Message, Request, Segment, batching
from srtui.llama import gguf as files
from srtui.llama.batching import LlamaTeacher
from srtui.llama.devices import LlamaDevice, gpus, llama_devices
from srtui.models.gguf_header import read_gguf
from tests.llama.tiny_gguf import WIDTH, write_tiny

pytestmark = pytest.mark.model
MB = 10**6


class Gpu:
    """GPUs, each with its share of ``free`` bytes, and what was asked of llama.cpp."""

    def __init__(
        self, patch: pytest.MonkeyPatch, free: int, fits: int = 999, shares: tuple[float, ...] = (1,)
    ) -> None:
        self.free, self.shares, self.asked, self.said = free, shares, [], []
        self.split: list[list[float]] = []
        load = llama_cpp.llama_model_load_from_file

        def loads(path: bytes, parameters: Any) -> object:
            self.asked.append(parameters.n_gpu_layers)
            self.split.append(
                [parameters.tensor_split[n] for n in range(len(shares))] if parameters.tensor_split else []
            )
            return load(path, parameters) if parameters.n_gpu_layers <= fits else None

        patch.setattr(llama_cpp, "llama_model_load_from_file", loads)
        for module in (files, batching):
            patch.setattr(module, "gpus", self.devices)

    def devices(self) -> list[LlamaDevice]:
        return [
            LlamaDevice("CUDA", f"CUDA{n}", "a GPU", "gpu", round(self.free * share), 80_000 * MB)
            for n, share in enumerate(self.shares)
        ]

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
    assert 1 < asked < 30
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


def test_two_gpus_get_layers_by_what_they_have_free(
    teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(monkeypatch, 3000 * MB, shares=(2 / 3, 1 / 3))
    teacher = gpu.open(teacher_file, slots=8)
    try:
        assert (gpu.asked, gpu.split) == ([31], [[21, 10]])  # of thirty and the output
        assert "30 of the teacher's 30 layers go to the 2 GPUs" in gpu.said[0][1]
        assert teacher._on_gpus == (21, 9)
        # The cache of each has to fit beside it: here the second has no room for more than two slots.
        compute = 4 * 512 * (49152 + 8 * 576 + 3 * 4 * 576)
        gpu.free = round(3 * (compute + 3.5 * 140 * 9 * 384 * 2) / 0.9)
        teacher.submit(_requests(8, 80))
        teacher._plan()
        assert 1 <= teacher.progress().slots <= 3
    finally:
        teacher.close()


def test_a_teacher_without_layers_on_the_gpu_leaves_it_alone(
    teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sequences are then evaluated as on a CPU: prompts on their own."""
    gpu = Gpu(monkeypatch, 4000 * MB)
    teacher = gpu.open(teacher_file, gpu_layers=0)
    try:
        assert gpu.asked == [0]
        assert not teacher._gpu
    finally:
        teacher.close()


def test_a_gpu_that_does_not_say_what_it_has_free_holds_the_layers_all_the_same(
    teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(monkeypatch, 0)
    silent = LlamaDevice("Vulkan", "Vulkan0", "a GPU", "gpu", 0, 0)
    for module in (files, batching):
        monkeypatch.setattr(module, "gpus", lambda: [silent])
    teacher = gpu.open(teacher_file)
    try:
        assert gpu.asked == [999]
        assert teacher._gpu and teacher._on_gpus == (30,)
        # What this computer has free is not what its cache is planned by.
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": 1}))
        assert teacher._affordable() > 10**9
    finally:
        teacher.close()


def test_a_hybrids_cache_is_planned_by_the_layers_that_have_one(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp tells the heads of the first layer alone, which here is a convolution and has none."""
    file = write_tiny(tmp_path / "m.gguf", teacher_file, "lfm2")
    teacher = LlamaTeacher(file, name="t", sha256="", threads=1, gpu_layers=0)
    try:
        assert llama_cpp.llama_model_n_head_kv(teacher._model) == 0
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": 10**9}))
        # Of a layer that has one; which layers have none is not counted.
        assert teacher._affordable() == int(0.4 * 10**9 / (2 * 2 * WIDTH * 2))
    finally:
        teacher.close()


def test_a_number_of_layers_counts_the_output_as_llama_cpp_does(
    teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(monkeypatch, 4000 * MB)
    for asked, held in ((12, 11), (1, 0), (-1, 30), (99, 30)):
        teacher = gpu.open(teacher_file, gpu_layers=asked)
        assert teacher._on_gpus == (held,)
        teacher.close()


def test_llama_cpp_says_what_its_devices_are() -> None:
    """The call itself is real; a build for the CPU has no GPU."""
    devices = llama_devices()
    processors = [d for d in devices if d.kind == "cpu"]
    assert [d.backend for d in processors] == ["CPU"]
    assert (
        0 < processors[0].free <= processors[0].total == pytest.approx(psutil.virtual_memory().total, rel=0.1)
    )
    assert processors[0].description
    assert bool(gpus()) == bool(llama_cpp.llama_supports_gpu_offload())
    assert all(0 < d.free <= d.total for d in gpus())
