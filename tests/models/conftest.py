"""A GGUF file of a few kilobytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from srtui.models.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.F32.gguf"
    write_tiny_gguf(path)
    return path
