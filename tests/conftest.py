"""Shared fixtures: workspaces, real models where they exist, real data where it is at hand."""

from __future__ import annotations

import contextlib
import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from srtui.recipe import Recipe
from srtui.workspace import Workspace, go_offline

if TYPE_CHECKING:
    from srtui.store import Store
    from srtui.store.runs import Run

go_offline()


def _temporary_folders_in_memory() -> None:
    """Each commit waits for the disk some milliseconds, which in a suite of a thousand stores are minutes.

    Nothing is lost to what a test shows: a killed process leaves the same files, whatever holds them.
    """
    memory = Path("/dev/shm")
    with contextlib.suppress(OSError):
        room = shutil.disk_usage(memory).free
        if os.access(memory, os.W_OK) and min(room, psutil.virtual_memory().available) > 8e9:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


def _own_processors() -> None:
    """Processes that share the tests (pytest -n) share the processors too, and all that they start with them.

    llama.cpp takes a thread for each processor that it may use, and its threads wait for each other busily:
    with two workers on two processors a decode took fifteen times as long as on one that is its own.
    """
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if count > 1 and hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
        os.sched_setaffinity(0, processors[number::count] or [processors[number % len(processors)]])


_temporary_folders_in_memory()
_own_processors()
ROOT = Path(__file__).resolve().parent.parent
CATALOGUE_MODEL = "smollm2-135m"
RECIPE = Recipe(name="r", dataset="d").model_dump_json()
"""What a run's row holds where a test needs one of any kind."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--samples",
        type=int,
        default=8,
        help="real samples that the scorer is compared on with the reference",
    )
    parser.addoption("--device", choices=("cuda", "cpu"), default="cuda", help="of the tests marked gpu")


# What `make check` leaves out: folders and files of screens, processes, networks and large computations.
_HEAVY = {"attack", "cluster", "tui", "models", "report", "llama", "training", "student", "gpu"}
_PURE_THERE = {
    "test_plan.py", "test_scheduler.py", "test_sequence.py", "test_borders.py", "test_dispatch.py", "test_places.py",
}  # fmt: skip
_HEAVY_FILES = {
    "test_ablate.py", "test_chat_template.py", "test_multiple_choice.py", "test_cli.py", "test_dataset_damage.py",
    "test_docs.py", "test_doctor.py", "test_evaluator.py", "test_failures.py", "test_length_control.py",
    "test_long_writing.py", "test_noise.py", "test_one_file.py", "test_opening.py", "test_packaging.py",
    "test_pipeline.py", "test_scale.py", "test_writing.py",
}  # fmt: skip
_MODELS = {"models_folder", "pair_folder", "tiny_folder", "student_folder", "teacher_file"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of `make check`."""
    for item in items:
        path = item.path.relative_to(ROOT / "tests")
        heavy = path.name in _HEAVY_FILES or (path.parts[0] in _HEAVY and path.name not in _PURE_THERE)
        if not heavy and not _MODELS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.pure)


def pytest_report_header() -> str:
    """The arithmetic that this machine adds: numeric tests run under float32 and bfloat16 on every one."""
    import torch

    from srtui.student import compute_dtype

    has = [
        name
        for name, asked in (
            ("AVX-512 bf16", "_is_avx512_bf16_supported"),
            ("AMX tiles", "_is_amx_tile_supported"),
        )
        if getattr(torch.cpu, asked, lambda: False)()
    ]
    limited = [
        f"{k}={os.environ[k]}" for k in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA") if k in os.environ
    ]
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return "arithmetic: " + ", ".join(
        [
            f"kernels {torch.backends.cpu.get_cpu_capability()}",
            *(has or ["no bf16 products"]),
            *limited,
            f"compute type {compute_dtype('cpu')}".replace("torch.", ""),
            f"{torch.get_num_threads()} threads",
            *(gpus or ["no GPU"]),
        ]
    )


@pytest.fixture(params=["float32", "bfloat16"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Students compute in this type, whatever this machine would choose."""
    import torch

    from srtui.student import model as student

    name = str(request.param)
    monkeypatch.setattr(student, "compute_dtype", lambda device: getattr(torch, name))
    return name


@pytest.fixture(scope="session")
def models_folder() -> Path:
    """The project's models/ with the demo model in it; `make test` puts it there."""
    folder = ROOT / "models"
    if not (folder / f"{CATALOGUE_MODEL}.Q8_0.gguf").exists() or not (folder / CATALOGUE_MODEL).is_dir():
        pytest.skip(f"the demo model is not there: srtui models add {CATALOGUE_MODEL}")
    return folder


@pytest.fixture(scope="session")
def student_folder(models_folder: Path) -> Path:
    return models_folder / CATALOGUE_MODEL


@pytest.fixture(scope="session")
def teacher_file(models_folder: Path) -> Path:
    return models_folder / f"{CATALOGUE_MODEL}.Q8_0.gguf"


@pytest.fixture(scope="session")
def pair_folder(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models/ with the tiny teacher and student of tests/tiny_pair.py."""
    from tests.tiny_pair import make_pair

    folder = tmp_path_factory.mktemp("pair")
    make_pair(student_folder, folder)
    return folder


@pytest.fixture(scope="session")
def alpaca_file() -> Path:
    path = ROOT.parent / "shared" / "data" / "alpaca_cherry_3k.json"
    if not path.exists():
        pytest.skip("the real Alpaca data is not at hand")
    return path


def make_workspace(root: Path, models: Path | None = None) -> Workspace:
    """A workspace at ``root``; with ``models``, the real ones by link."""
    workspace, _ = Workspace.create(root)
    if models is not None:
        for path in models.iterdir():
            target = workspace.models / path.name
            if not target.exists():
                target.symlink_to(path, target_is_directory=path.is_dir())
    return workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "ws")


@pytest.fixture
def model_workspace(tmp_path: Path, models_folder: Path) -> Workspace:
    return make_workspace(tmp_path / "ws", models_folder)


@pytest.fixture
def pair_workspace(tmp_path: Path, pair_folder: Path) -> Iterator[Workspace]:
    """With models that take milliseconds; what small_recipe writes there uses them. They are every test's:
    :func:`own_model` is for one that changes a file."""
    before = _states(pair_folder)
    yield make_workspace(tmp_path / "ws", pair_folder)
    assert _states(pair_folder) == before, "this test changed a model that other tests use"


def own_model(workspace: Workspace, name: str) -> Path:
    """The folder of a model that is linked in ``workspace``, as a copy that a test may change."""
    folder = workspace.models / name
    shared = folder.resolve()
    folder.unlink()
    shutil.copytree(shared, folder)
    return folder


def _states(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of change of each file under ``folder``."""
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def drawn_adapter(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained adapter without the training: its weights are drawn, and large enough to show."""
    import torch
    from peft import LoraConfig, get_peft_model

    from srtui.student import Student

    torch.manual_seed(0)
    student = Student.load(pair_folder / "tiny", "nf4")
    model = get_peft_model(
        student.model,
        LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("drawn") / "adapter"
    model.save_pretrained(str(folder), safe_serialization=True)
    return folder


@pytest.fixture
def tuned(pair_workspace: Workspace, drawn_adapter: Path) -> tuple[Workspace, Store, Run]:
    """A workspace with a finished run called "tuned"."""
    import time

    from srtui.pipeline import import_file
    from srtui.recipe import parse
    from srtui.store import Store

    workspace = pair_workspace
    store = Store(workspace.store_path)
    import_file(store, workspace.recipes / "quickstart.jsonl", "q")
    recipe = parse({"name": "tuned", "dataset": "q", "student": {"model": "tiny"}}, "test")
    dataset_id = store.corpus.dataset_id("q")
    assert dataset_id is not None
    run = store.runs.create("tuned", dataset_id, "r.toml", recipe.model_dump_json(), "f", [])
    place = workspace.runs / "tuned" / "adapter"
    place.parent.mkdir(parents=True)
    place.symlink_to(drawn_adapter, target_is_directory=True)
    training = store.training.start(run.id, 1, 1)
    store.training.finish(training, "done", 1, 1.0, str(place.relative_to(workspace.root)), {})
    store.runs.update(run.id, status="done", finished_at=time.time())
    return workspace, store, run


def small_recipe(workspace: Workspace, samples: int = 6, **sections: dict[str, object]) -> Path:
    """The quickstart recipe cut down to seconds, in ``workspace``; returns its path.

    It uses the tiny pair where the workspace has it, and the demo's models otherwise.
    """
    import json

    data = tomllib.loads((ROOT / "recipes" / "quickstart.toml").read_text())
    rows = (ROOT / "recipes" / "quickstart.jsonl").read_text(encoding="utf-8").splitlines()
    (workspace.recipes / "small.jsonl").write_text("\n".join(rows[:samples]) + "\n", encoding="utf-8")
    data |= {"name": "small", "dataset": "small.jsonl"}
    data["teacher"] |= {"slots": 2, "context": 4096, "threads": 1}
    # Room for most of what this model writes: a text that is cut off is written again, and then refused.
    data["reflection"] |= {"critique_tokens": 12, "instruction_tokens": 40, "answer_tokens": 56}
    data["training"] |= {"epochs": 1, "batch_size": 2, "micro_batch_size": 2}
    if (workspace.models / "tiny").is_dir():
        data["teacher"]["model"], data["student"]["model"] = "tiny.F16", "tiny"
    for name, values in sections.items():
        data.setdefault(name, {}).update(values)
    lines = [f"{k} = {json.dumps(v)}" for k, v in data.items() if not isinstance(v, dict)]
    for name, section in data.items():
        if isinstance(section, dict):
            lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in section.items())]
    path = workspace.recipes / "small.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


__all__ = ["ROOT", "make_workspace", "small_recipe"]
