"""What several tests of models need and none changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from srtui.models.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole GGUF of a network that answers nothing, in float32."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.F32.gguf"
    write_tiny_gguf(path)
    return path
