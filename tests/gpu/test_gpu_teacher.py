"""The teacher on its device: many sequences beside one, cache types, adapters, drafts, and the hand-over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
import torch

from srtui.llama import Message, Request, Segment
from srtui.llama.batching import LlamaTeacher
from srtui.models.export import export_model
from srtui.student import Scorer, Student
from tests.llama.decodes import GREEDY, TOPICS
from tests.training.conftest import make_examples


@pytest.fixture(scope="module", autouse=True)
def layers(device: str) -> Iterator[int]:
    """How many go to the GPU: all, and none where a CPU is asked for."""
    if device == "cuda" and not llama_cpp.llama_supports_gpu_offload():
        pytest.fail("llama.cpp was built for the CPU, so the teacher would not run on this GPU")
    yield -1 if device == "cuda" else 0


def asked(count: int = 12, words: int = 1) -> list[Request]:
    return [
        Request(
            n,
            (Message("user", f"Write about {TOPICS[n % len(TOPICS)]}, number {n}. " * words),),
            (Segment("Criticism:\n", 12, (".",)), Segment("\n\n[New Answer]\n", 24)),
            n,
            GREEDY,
        )
        for n in range(count)
    ]


def written(file: Path, layers: int, requests: list[Request], **settings: Any) -> dict[object, str]:
    settings = {"slots": 4, "threads": 1, "gpu_layers": layers} | settings
    teacher = LlamaTeacher(file, name="t", sha256="", **settings)
    try:
        teacher.submit(requests)
        texts = {g.key: g.text for g in teacher.run()}
    finally:
        teacher.close()
    assert len(texts) == len(requests) and all(texts.values())
    return texts


def alike(one: dict[object, str], other: dict[object, str]) -> float:
    """The share of equal texts."""
    return sum(one[key] == other[key] for key in one) / len(one)


def test_texts_of_many_slots_are_those_of_one(pair_folder: Path, layers: int, on_gpu: bool) -> None:
    """On a CPU to the letter; on a GPU up to ties, which are few."""
    file = pair_folder / "tiny.F16.gguf"
    alone = written(file, layers, asked(), slots=1)
    for slots in (4, 32):
        assert alike(written(file, layers, asked(), slots=slots), alone) >= (0.75 if on_gpu else 1.0)


def test_drafts_change_no_text(pair_folder: Path, layers: int, on_gpu: bool) -> None:
    file = pair_folder / "tiny.F16.gguf"
    plain = written(file, layers, asked())
    for drafting in (True, "auto"):
        assert alike(written(file, layers, asked(), drafting=drafting), plain) >= (0.75 if on_gpu else 1.0)


def test_part_of_the_layers(pair_folder: Path, layers: int, on_gpu: bool) -> None:
    file = pair_folder / "tiny.F16.gguf"
    whole = written(file, layers, asked())
    assert alike(written(file, 1 if on_gpu else 0, asked()), whole) >= (0.5 if on_gpu else 1.0)


@pytest.mark.parametrize("flash", ["auto", True, False])
def test_flash_attention(pair_folder: Path, layers: int, flash: Any) -> None:
    file = pair_folder / "tiny.F16.gguf"
    assert alike(written(file, layers, asked(), flash_attention=flash), written(file, layers, asked())) >= 0.5


def test_a_cache_of_eight_bits(teacher_file: Path, layers: int) -> None:
    """The demo's teacher, whose heads are wide enough for its blocks: most words stay."""
    requests = asked(3)
    wide = written(teacher_file, layers, requests)
    narrow = written(teacher_file, layers, requests, kv_type="q8_0")
    for key, text in wide.items():
        assert text.split()[:3] == narrow[key].split()[:3]


def test_a_long_prompt(pair_folder: Path, layers: int, on_gpu: bool) -> None:
    """Some 1,500 tokens of prompt in several chunks, beside others and alone."""
    file = pair_folder / "tiny.F16.gguf"
    requests = asked(3, words=110)
    together = written(file, layers, requests)
    alone: dict[object, str] = {}
    for request in requests:
        alone |= written(file, layers, [request], slots=1)
    assert alike(together, alone) >= (0.3 if on_gpu else 1.0)


def test_an_adapter(pair_folder: Path, drawn_adapter: Path, tmp_path: Path, layers: int) -> None:
    adapter = tmp_path / "adapter.gguf"
    export_model("gguf-adapter", drawn_adapter, pair_folder / "tiny", adapter, name="drawn")
    file = pair_folder / "tiny.F16.gguf"
    assert alike(written(file, layers, asked(), adapter=adapter), written(file, layers, asked())) < 1


def test_teacher_and_student_take_turns(pair_folder: Path, layers: int, device: str, on_gpu: bool) -> None:
    """Twice over: what one had is free again when the other comes."""
    free = []
    for _ in range(2):
        written(pair_folder / "tiny.F16.gguf", layers, asked(4))
        student = Student.load(pair_folder / "tiny", "nf4", device)
        losses = dict(Scorer(student).score(make_examples()))
        assert all(loss.reason is None for loss in losses.values())
        student.close()
        free.append(torch.cuda.mem_get_info()[0] if on_gpu else 0)
    assert free[1] >= free[0] - 32 * 2**20
