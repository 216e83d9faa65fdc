"""Checkpoints: whole or not there; a damaged one is recognised; state comes back bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from srtui.training import checkpoints


def some(folder: Path) -> None:
    (folder / "weights").write_bytes(bytes(range(256)) * 8)
    (folder / "words.json").write_text("{}")


def test_the_newest_whole_one_of_this_training_is_found(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path / "none", "f") is None
    for step in (5, 10, 15):
        written = checkpoints.write(tmp_path, step, "f", some)
        assert written.bytes > 2048
    assert checkpoints.newest(tmp_path, "f") == (15, written.path)
    refused: list[tuple[int, str]] = []
    assert checkpoints.newest(tmp_path, "g", lambda s, why: refused.append((s, why))) is None
    assert refused[0] == (15, "it belongs to other samples or settings")
    assert [s for s, _ in refused] == [15, 10, 5]


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "manifest", "no manifest", "nonsense"])
def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path: Path, damage: str) -> None:
    before = checkpoints.write(tmp_path, 5, "f", some)
    path = checkpoints.write(tmp_path, 10, "f", some).path
    weights, manifest = path / "weights", path / "manifest.json"
    if damage == "flip":
        whole = bytearray(weights.read_bytes())
        whole[1000] ^= 1
        weights.write_bytes(bytes(whole))
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "missing":
        weights.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:40])
    elif damage == "nonsense":
        manifest.write_text('["fingerprint"]')
    else:
        manifest.unlink()
    refused: list[tuple[int, str]] = []
    assert checkpoints.newest(tmp_path, "f", lambda s, why: refused.append((s, why))) == (5, before.path)
    assert refused[0][0] == 10
    assert refused[0][1]


def test_a_failed_write_leaves_no_checkpoint_and_the_last_one(tmp_path: Path) -> None:
    first = checkpoints.write(tmp_path, 5, "f", some)

    def full(folder: Path) -> None:
        some(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.write(tmp_path, 10, "f", full)
    assert checkpoints.newest(tmp_path, "f") == (5, first.path)
    assert checkpoints.prune(tmp_path, 2) == []
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000005"]


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        checkpoints.write(tmp_path, step, "f", some)
    assert checkpoints.prune(tmp_path, 2) == [1, 2]
    checkpoints.discard_after(tmp_path, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000003"]


def test_optimizer_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(7, 3))
    optimizer = torch.optim.AdamW([weight], lr=0.1 + 1e-17)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    for _ in range(3):
        weight.grad = torch.randn(7, 3)
        optimizer.step()
        schedule.step()
    nested = {"odd": {"quant": {"state1": torch.arange(5, dtype=torch.uint8)}}}  # as bitsandbytes has it
    checkpoints.save_state(
        {"o": optimizer.state_dict(), "s": schedule.state_dict(), **nested}, tmp_path / "x"
    )
    found: Any = checkpoints.load_state(tmp_path / "x")
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]
    for name, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(found["o"]["state"][0][name], value)
        assert found["o"]["state"][0][name].dtype == value.dtype
    assert found["s"]["last_epoch"] == 3
    assert found["o"]["param_groups"][0]["lr"] == optimizer.param_groups[0]["lr"]
    assert found["odd"]["quant"]["state1"].dtype == torch.uint8
    again = torch.optim.AdamW([torch.nn.Parameter(weight.detach().clone())], lr=9)
    again.load_state_dict(found["o"])
    weight.grad = torch.ones(7, 3)
    again.param_groups[0]["params"][0].grad = torch.ones(7, 3)
    optimizer.step()
    again.step()
    assert torch.equal(weight, again.param_groups[0]["params"][0])
