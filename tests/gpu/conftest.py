"""Tests of what only a GPU does. ``make gpu`` runs them there; ``pytest -m gpu --device cpu tests/gpu`` shows that
they run, with the same tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.conftest import make_tiny


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """cuda, or what --device says."""
    name = str(request.config.getoption("--device"))
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU; --device cpu runs this without one")
    return name


@pytest.fixture(scope="session")
def on_gpu(device: str) -> bool:
    return device == "cuda"


@pytest.fixture(scope="session")
def tiny_folder(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(student_folder, tmp_path_factory.mktemp("tiny") / "student")
