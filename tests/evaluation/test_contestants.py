"""Which contestant a name means."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from srtui.errors import UserError
from srtui.evaluation.contestants import find_contestant
from srtui.store import Store
from srtui.store.runs import Run
from srtui.workspace import Workspace


@pytest.mark.model
def test_names(tuned: tuple[Workspace, Store, Run], drawn_adapter: Path, tmp_path: Path) -> None:
    workspace, store, run = tuned
    tuned_one = find_contestant(workspace, store, "tuned")
    assert (tuned_one.kind, tuned_one.quantization, tuned_one.template) == ("student", "nf4", "alpaca")
    assert tuned_one.run_id == run.id and tuned_one.adapter_sha256
    base = find_contestant(workspace, store, "base:tuned")
    assert base.adapter is None and base.sha256 == tuned_one.sha256 and base.run_id == run.id
    # The folder of a run's adapter is that run; a copy elsewhere knows its model by its own configuration.
    place = str(workspace.runs / "tuned" / "adapter")
    assert find_contestant(workspace, store, place).run_id == run.id
    shutil.copytree(drawn_adapter, tmp_path / "copy")
    copy = find_contestant(workspace, store, str(tmp_path / "copy"))
    assert copy.run_id is None and copy.adapter_sha256 == tuned_one.adapter_sha256
    joined = find_contestant(workspace, store, f"{workspace.models / 'tiny'}+{tmp_path / 'copy'}", "chat")
    assert (joined.sha256, joined.adapter_sha256) == (base.sha256, copy.adapter_sha256)
    assert joined.template == "chat"
    gguf = find_contestant(workspace, store, "tiny.F16")
    assert gguf.kind == "gguf" and gguf.run_id is None
    folder = find_contestant(workspace, store, str(workspace.models / "tiny"))
    assert folder.kind == "student" and folder.template == ""
    texts = tmp_path / "answers.json"
    texts.write_text(json.dumps([{"instruction": "Hi.", "output": "Hello."}]))
    written = find_contestant(workspace, store, str(texts))
    assert written.kind == "file" and written.texts == {"Hi.": "Hello."}
    identity = json.dumps(tuned_one.identity)
    assert str(workspace.root) not in identity and "Hello." not in json.dumps(written.identity)


@pytest.mark.model
def test_what_is_no_contestant(tuned: tuple[Workspace, Store, Run], tmp_path: Path) -> None:
    workspace, store, run = tuned
    for name, sentence in (
        ("tunde", "or name a run: tuned"),
        ("base:other", "other"),
        ("tiny.F16+nothing", "would be a LoRA in GGUF"),
        (str(tmp_path / "absent.json"), "does not exist"),
    ):
        with pytest.raises(UserError, match=sentence):
            find_contestant(workspace, store, name)
    with pytest.raises(UserError, match="--template"):
        find_contestant(workspace, store, "tuned", "own")
    store.conn.execute("UPDATE training_run SET adapter = NULL WHERE run_id = ?", (run.id,))
    store.conn.commit()
    with pytest.raises(UserError, match=r"has no trained adapter.*base:tuned"):
        find_contestant(workspace, store, "tuned")
