"""Small synthetic GGUF files and model folders; the real model comes from tests/conftest.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from srtui.doctor import _write_tiny_gguf


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.F32.gguf"
    _write_tiny_gguf(path)
    return path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An empty models folder with an empty catalogue."""
    folder = tmp_path / "ws" / "models"
    folder.mkdir(parents=True)
    (folder / "models.toml").write_text("")
    return folder


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A well-formed safetensors folder of one tensor."""
    from safetensors.numpy import save_file

    folder = tmp_path / "elsewhere" / "my-student"
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "max_position_embeddings": 64, "vocab_size": 4}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (folder / "README.md").write_text('---\ntags: [x]\nlicense: "mit"\n---\n# A model\n')
    save_file({"w": np.ones((4, 3), dtype=np.float32)}, folder / "model.safetensors")
    return folder
