"""The doctor's checks really run; a worker that dies is a line, not an end."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from srtui import doctor
from srtui.doctor import Check
from srtui.workspace import Workspace


@pytest.mark.model
def test_everything_works_here(workspace: Workspace) -> None:
    found = {check.name: check for check in doctor.checks(workspace.root)}
    for name in ("Python", "workspace", "SQLite", "offline", "PyTorch", "bitsandbytes", "llama.cpp"):
        assert found[name].ok is True, found[name]
        assert found[name].fix == ""
    assert found["models"].ok is None and "srtui models add" in found["models"].fix
    assert "4-bit" in found["bitsandbytes"].detail and "was evaluated" in found["llama.cpp"].detail


def test_what_is_said_of_llama_cpps_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which backend, what each device has free, and whether it computes what the CPU does."""
    from srtui.llama import devices, self_test
    from srtui.llama.devices import LlamaDevice

    cpu = LlamaDevice("CPU", "CPU", "a processor", "cpu", 8 << 30, 16 << 30)
    card = LlamaDevice("Vulkan", "Vulkan0", "Radeon", "gpu", 7 << 30, 8 << 30)
    small = LlamaDevice("Vulkan", "Vulkan1", "Graphics", "integrated", 1 << 30, 2 << 30)
    all_devices: list[LlamaDevice] = []
    found: dict[str, bool | None] = {"on_gpu": None}
    monkeypatch.setattr(devices, "llama_devices", lambda: all_devices)
    monkeypatch.setattr(
        self_test,
        "evaluate_tiny",
        lambda: self_test.SelfTest("1.2", all_devices, True, True, found["on_gpu"]),
    )
    all_devices[:] = [cpu]
    assert doctor._llama()[0].detail == "llama-cpp-python 1.2, backend CPU, a tiny model was evaluated"
    all_devices[:], found["on_gpu"] = [card, small, cpu], True
    first, one, other = doctor._llama()
    assert "backends Vulkan, CPU" in first.detail
    assert (one.name, one.ok) == ("llama.cpp Vulkan0", True)
    assert one.detail == "Radeon, 7.0 of 8.0 GiB free; a tiny model's logits there are the CPU's"
    assert other.ok is None and "not used beside a GPU of its own" in other.detail
    found["on_gpu"] = False
    wrong = doctor._llama()[1]
    assert wrong.ok is False and "logits there are wrong" in wrong.detail and "gpu_layers = 0" in wrong.fix


def test_logits_are_compared_by_their_direction() -> None:
    from srtui.llama.self_test import _alike

    assert _alike([1.0, 2.0, 4.0], [11.0, 12.1, 14.0])
    assert not _alike([1.0, 2.0, 4.0], [4.0, 2.0, 1.0])
    assert not _alike([1.0, 2.0, 4.0], [1.0, 2.0, float("nan")])
    assert not _alike([1.0, 2.0, 4.0], [])


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
        ("raise ImportError('libfoo.so.3: cannot open')", "libfoo.so.3"),
        (
            "raise RuntimeError('CUDA error: busy\\nCompile with TORCH_USE_CUDA_DSA')",
            "RuntimeError: CUDA error: busy",
        ),
        ("print('no json')", "silence"),
    ],
)
def test_a_dead_worker_is_one_line(script: str, words: str) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    (check,) = doctor._finish("thing", worker)
    assert check.ok is False and words in check.detail and "make" in check.fix


def test_no_workspace_and_a_damaged_model(tmp_path: Path) -> None:
    (none,) = doctor._workspace(None)
    assert none.ok is None and "srtui init" in none.fix
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "bad.gguf").write_bytes(b"GGUF" + bytes(3))
    found = list(doctor._workspace(tmp_path))
    assert found[-1].ok is False and "bad.gguf" in found[-1].fix


def test_offline_state_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._offline().ok is True
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert doctor._offline().ok is False and "HF_HUB_OFFLINE" in doctor._offline().detail


def test_sqlite_errors_are_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    assert doctor._sqlite(None).ok is False


def test_workers_are_ended_when_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    real = doctor._start

    def start(name: str) -> subprocess.Popen[str]:
        started.append(real(name))
        return started[-1]

    monkeypatch.setattr(doctor, "_start", start)
    running: Iterator[Check] = doctor.checks(None)
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert len(started) == 3 and all(worker.poll() is not None for worker in started)


def test_every_check_has_its_place() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert list(doctor._WORKERS) == ["PyTorch", "bitsandbytes", "llama.cpp"]
