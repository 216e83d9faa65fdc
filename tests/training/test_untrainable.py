"""Selected texts of which nothing can be trained are counted; where all are, the run says so and ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srtui import recipe as recipes
from srtui.pipeline import Engine, prepare
from srtui.progress import Progress
from srtui.store import Store
from srtui.workspace import Workspace

pytestmark = pytest.mark.model
SHORT = {"instruction": "Say yes", "input": "", "output": "Yes"}
LONG = {"instruction": "word " * 200, "input": "", "output": "Yes"}
RECIPE = """
name = "all"
dataset = "d.json"
[reflection]
source = "store"
[student]
model = "tiny"
quantization = "f32"
[selection]
policy = "all"
instruction_by = "original"
response_by = "original"
[training]
epochs = 1
batch_size = 1
micro_batch_size = 1
held_out = 0.0
lora_rank = 2
[prompt]
max_length = 128
[scoring]
"""


class Hears:
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.trained: tuple[int, int] | None = None

    def progress(self, progress: Progress) -> None:
        if progress.stage == "train":
            self.trained = progress.done, progress.total

    def event(self, level: str, message: str) -> None:
        if level == "warning":
            self.warnings.append(message)


@pytest.mark.parametrize(
    ("protocol", "rows", "status", "examples", "said"),
    [
        # One token: no L(y) under the paper's protocol, and so no score; the arm on original data keeps it.
        ("paper", [SHORT] * 3, "done", 3, []),
        ("default", [SHORT, LONG, SHORT], "done", 2, ["1 of the 3 selected samples"]),
        (
            "default", [LONG, LONG], "skipped: no selected sample has an answer to train on", 0,
            ["2 of the 2 selected samples", "Nothing was trained"],
        ),
    ],
)  # fmt: skip
def test_what_is_not_trained_is_said(
    tiny_folder: Path, tmp_path: Path, protocol: str, rows: list[dict[str, str]], status: str, examples: int,
    said: list[str],
) -> None:  # fmt: skip
    workspace, _ = Workspace.create(tmp_path / "w")
    (workspace.models / "tiny").symlink_to(tiny_folder)
    rows = [{**row, "instruction": f"{n} {row['instruction']}"} for n, row in enumerate(rows)]
    (workspace.root / "d.json").write_text(json.dumps(rows))
    path = workspace.root / "all.toml"
    path.write_text(f'{RECIPE}protocol = "{protocol}"\n')
    hears = Hears()
    with Store(workspace.store_path) as store:
        run, _ = prepare(workspace, store, recipes.load(path), path)
        Engine(workspace, store, run, hears).work()
        training = store.training.of_run(run.id)
    assert training is not None and training.status == status
    assert training.result.get("examples", 0) == training.examples == training.steps == examples
    assert not examples or hears.trained == (examples, examples)
    found = [line for line in hears.warnings if "trained" in line or "left out" in line]
    assert all(f"{len(rows) - examples} target_truncated" in line for line in found[:1])
    assert len(found) == len(said) and all(a in b for a, b in zip(said, found, strict=True)), hears.warnings
