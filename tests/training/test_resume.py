"""kill -9 at any moment: what resumes is what would have been."""

from __future__ import annotations

import contextlib
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from srtui.errors import UserError
from srtui.training import adapter, checkpoints
from srtui.training.checkpoints import newest
from tests.commands import forked
from tests.training import killed

pytestmark = pytest.mark.model


def _lines(path: Path) -> list[str]:
    """Whole lines only: the last may be cut by the kill."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


@pytest.mark.parametrize(
    ("quantization", "arithmetic"), [("f32", "float32"), ("nf4", "float32"), ("nf4", "bfloat16")]
)
def test_losses_after_a_kill_are_those_of_a_run_left_alone(
    tiny_folder: Path, tmp_path: Path, quantization: str, arithmetic: str
) -> None:
    calm = tmp_path / "calm"
    calm.mkdir()
    killed.main(tiny_folder, quantization, arithmetic, calm / "adapter", calm / "losses")
    expected = dict(line.split(" ", 1) for line in _lines(calm / "losses"))
    assert len(expected) == 18

    rough = tmp_path / "rough"
    rough.mkdir()
    process = forked(killed.main, tiny_folder, quantization, arithmetic, rough / "adapter", rough / "losses")
    after, deadline = random.randint(3, 12), time.monotonic() + 240
    while len(_lines(rough / "losses")) < after and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(random.random() * 0.05)  # anywhere: in a step, between two files of a checkpoint
    process.kill()
    process.join()
    before = _lines(rough / "losses")
    assert after <= len(before) < 18
    assert not (rough / "adapter").exists()
    (rough / "losses").write_text("\n".join([*before, ""]))
    killed.main(tiny_folder, quantization, arithmetic, rough / "adapter", rough / "losses")
    lines = [line.split(" ", 1) for line in _lines(rough / "losses")]
    first_again = int(lines[len(before)][0])
    assert len(before) - 3 <= first_again - 1 <= len(before)  # a checkpoint every two steps
    assert [int(step) for step, _ in lines[len(before) :]] == list(range(first_again, 19))
    assert [(step, values) for step, values in lines if expected[step] != values] == []
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (rough / "adapter" / name).read_bytes() == (calm / "adapter" / name).read_bytes()


def test_a_corrupt_checkpoint_is_refused_and_the_one_before_used(tiny_folder: Path, tmp_path: Path) -> None:

    from srtui.student import Student
    from srtui.training import Listener, train
    from tests.training.conftest import make_examples

    class Hears(Listener):
        def __init__(self) -> None:
            self.steps: list[int] = []
            self.losses: dict[int, float] = {}
            self.said: list[tuple[str, int]] = []

        def begins(self, step: int, tokens: int) -> None:
            self.said.append(("begins", step))

        def refused(self, step: int, why: str) -> None:
            self.said.append((why, step))

        def metric(self, step: int, values: dict[str, float]) -> None:
            self.steps.append(step)
            self.losses[step] = values["loss"]

    def go(hears: Hears, stop_at: int = 99, **changes: object) -> object:
        return train(
            tiny_folder,
            make_examples(),
            {},
            killed.CONFIG.model_copy(update=changes),
            tmp_path / "adapter",
            hears,
            should_stop=lambda: len(hears.steps) >= stop_at,
            student=Student.load(tiny_folder, "f32"),
        )

    first = Hears()
    assert go(first, stop_at=7) is None  # a stop leaves a checkpoint of its own
    root = tmp_path / "checkpoints"
    assert sorted(p.name for p in root.iterdir()) == ["step-0000006", "step-0000007"]
    weights = root / "step-0000007" / "adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    second = Hears()
    assert go(second, stop_at=2) is None
    assert second.said == [("adapter.safetensors is not what was written", 7), ("begins", 6)]
    assert second.losses[7] == first.losses[7]
    other = Hears()
    assert go(other, stop_at=1, learning_rate=1e-3) is None  # other settings: it begins anew
    assert other.said[-1] == ("begins", 0)
    assert newest(root, "") is None


def test_a_full_disk_ends_in_a_sentence_and_the_same_training_resumes(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system itself refuses the bytes of the third checkpoint, and then those of the adapter."""
    calm, full = tmp_path / "calm", tmp_path / "full"
    for folder in (calm, full):
        folder.mkdir()
    killed.main(tiny_folder, "f32", "float32", calm / "adapter", calm / "losses")

    write, writes = checkpoints.write, 0

    def refused(*given: Any) -> checkpoints.WrittenCheckpoint:
        nonlocal writes
        writes += 1
        with no_file_over(2000) if writes == 3 else contextlib.nullcontext():
            return write(*given)

    monkeypatch.setattr(checkpoints, "write", refused)
    with pytest.raises(
        UserError, match=r"checkpoint of step 6 cannot be written .* of step 4 is kept\. Make room"
    ):
        killed.main(tiny_folder, "f32", "float32", full / "adapter", full / "losses")
    assert sorted(p.name for p in (full / "checkpoints").iterdir()) == ["step-0000002", "step-0000004"]

    write_adapter = adapter.write_adapter

    def refused_too(student: Any, folder: Path) -> None:
        with no_file_over(2000):
            write_adapter(student, folder)

    with monkeypatch.context() as patched:
        patched.setattr(adapter, "write_adapter", refused_too)
        with pytest.raises(UserError, match="the trained adapter cannot be written"):
            killed.main(tiny_folder, "f32", "float32", full / "adapter", full / "losses")
    assert [p.name for p in full.iterdir() if "adapter" in p.name] == []
    killed.main(tiny_folder, "f32", "float32", full / "adapter", full / "losses")
    losses = {line.split(" ", 1)[0]: line for line in _lines(full / "losses")}
    assert list(losses.values()) == _lines(calm / "losses")
    assert (full / "adapter" / "adapter_model.safetensors").read_bytes() == (
        calm / "adapter" / "adapter_model.safetensors"
    ).read_bytes()


@contextlib.contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """What a full disk is to a program: the system takes no more bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
