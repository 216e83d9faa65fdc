"""Two processes that train together take the steps of one: the same losses, checkpoints that either resumes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from srtui.recipe import TrainingSettings
from srtui.training.plan import plan_steps
from tests.commands import forked
from tests.training import ranked


def steps(out: Path) -> dict[int, dict[str, float]]:
    lines = (out / "steps").read_text().splitlines()
    return {int(line.split(" ", 1)[0]): json.loads(line.split(" ", 1)[1]) for line in lines}


def together(folder: Path, out: Path, changed: dict[str, object], **how: Any) -> list[int | None]:
    port = ranked.free_port()
    processes = [
        forked(ranked.main, folder, out, changed, rank, 2, port, how.get("stop"), how.get("die_at", 0))
        for rank in range(2)
    ]
    for process in processes:
        process.join(120)
        if process.exitcode is None:
            process.kill()
    return [process.exitcode for process in processes]


def same(a: dict[int, dict[str, float]], b: dict[int, dict[str, float]]) -> None:
    assert a.keys() == b.keys()
    for step, values in a.items():
        for name in ("loss", "grad_norm", "learning_rate", "tokens"):
            assert b[step][name] == pytest.approx(values[name], abs=1e-4, rel=1e-4), (step, name)


@pytest.fixture(scope="module")
def alone(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    forked(ranked.main, tiny_folder, out, {}).join(120)
    return out


@pytest.mark.parametrize("changed", [{}, {"packing": False, "micro_batch_size": 4}], ids=["packed", "padded"])
def test_two_processes_have_the_losses_of_one(
    tiny_folder: Path, tmp_path: Path, alone: Path, changed: dict[str, object]
) -> None:
    assert together(tiny_folder, tmp_path, changed) == [0, 0]
    one, two = steps(alone), steps(tmp_path)
    assert len(one) == 9 and one[1]["loss"] > one[9]["loss"]
    same(one, two)
    weights = [load_file(out / "adapter" / "adapter_model.safetensors") for out in (alone, tmp_path)]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=1e-3), name
    held = [json.loads((out / "result").read_text())["held_out"]["original"] for out in (alone, tmp_path)]
    assert held[1]["after"] == pytest.approx(held[0]["after"], abs=1e-4)
    assert held[0]["before"] > held[0]["after"] and held[1]["samples"] == 3


def test_a_stop_that_one_hears_stops_all_and_either_resumes(
    tiny_folder: Path, tmp_path: Path, alone: Path
) -> None:
    """The second process is asked to stop in the middle of a step; afterwards one process resumes, and it two."""
    assert together(tiny_folder, tmp_path, {}, stop=(1, 4)) == [0, 0]
    begun = steps(tmp_path)
    assert 0 < len(begun) < 9 and not (tmp_path / "result").exists()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()]
    other = tmp_path / "other"
    other.mkdir()
    (other / "checkpoints").symlink_to(tmp_path / "checkpoints", target_is_directory=True)
    forked(ranked.main, tiny_folder, tmp_path, {}).join(120)
    same(steps(alone), steps(tmp_path))
    lines = (tmp_path / "steps").read_text().splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(1, 10))  # none was taken twice


def test_what_one_process_began_two_go_on_with(tiny_folder: Path, tmp_path: Path, alone: Path) -> None:
    """kill -9's like, right after a step of one process; two resume from its last checkpoint."""
    process = forked(ranked.main, tiny_folder, tmp_path, {}, 0, 1, 0, None, 5)
    process.join(120)
    assert process.exitcode == 9 and max(steps(tmp_path)) == 5
    assert together(tiny_folder, tmp_path, {}) == [0, 0]
    same(steps(alone), steps(tmp_path))
    numbers = [int(line.split()[0]) for line in (tmp_path / "steps").read_text().splitlines()]
    assert numbers == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9]  # a checkpoint every two steps


def test_each_rank_gets_as_many_passes_and_one_process_the_plan_it_had() -> None:
    settings = TrainingSettings(batch_size=8, micro_batch_size=8, epochs=1)
    lengths = [10 + n for n in range(20)]
    for packed in (True, False):
        for ranks in (2, 3, 4):
            plan = plan_steps(lengths, settings, packed=packed, ranks=ranks)
            assert sorted(i for step in plan for micro in step for i in micro) == list(range(20))
            assert [len(step) >= min(ranks, sum(map(len, step))) for step in plan] == [True] * 3
        assert plan_steps(lengths, settings, packed=packed, ranks=1) == plan_steps(
            lengths, settings, packed=packed
        )
    assert [len(step) for step in plan_steps(lengths, settings, packed=False)] == [1, 1, 1]
