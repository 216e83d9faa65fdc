"""Every command in the README and in docs/evaluation.md is run, in order, in a workspace of its own.

Models of a few milliseconds lie under the demo's names: what the commands do is shown here, and what the
demo's own models make of it by ``make demo``.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import ROOT, make_workspace

# What each command prints; a new one in a document needs a line here.
PRINTS = {
    "init": "my-workspace",
    "models add": "smollm2-135m",
    "models list": r"smollm2-135m\.Q8_0",
    "models inspect": r"context +2,048 tokens",
    "models tune": "slots",
    "import": "56",
    "recipes": "learning_rate",
    "pilot": r"example 1 of(.|\n)*Then: srtui run",
    "run": r"quickstart  done(.|\n)*kept +\d of 6(.|\n)*training +\d+ steps",
    "status": "quickstart +done",
    "show": "Variant 1: original",
    "scores": "IFD +original|scores.csv",
    "ablate": "original(.|\n)*held-out",
    "eval pairwise": "(won|win)",
    "eval list": "pairwise",
    "eval show": "B, score|no_score",
    "eval turns": "turn",
    "eval choice": "accuracy",
    "eval human": "judge",
    "report": "report.html",
    "export": "everything.json|preference pairs written",
    "chat": "base: (.|\n)*tuned: ",
    "export-model": "Q4_K_M",
    "data look": "(?i)characters|length",
    "data gates": "(?i)gate|rewrites",
    "data dedup": "(?i)duplicate",
    "data decontaminate": "(?i)prompt|overlap",
    "db": "srtui.sqlite",
    "db check": "sound",
    "db backup": "yesterday.sqlite",
    "db checkpoint": "srtui.sqlite",
}
GROUPS = ("models", "eval", "db", "data")


@pytest.fixture
def with_demo_names(pair_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "smollm2-135m").symlink_to(pair_folder / "tiny", target_is_directory=True)
    for kind in ("Q8_0", "Q4_1"):
        (folder / f"smollm2-135m.{kind}.gguf").symlink_to(pair_folder / "tiny.F16.gguf")
    return folder


def commands_of(document: str) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line]


def run(workspace: Workspace, words: list[str]) -> None:
    done = srtui(workspace, *words)
    assert done.returncode == 0, (words, done.stderr)
    name = " ".join(words[: 2 if words[0] in GROUPS and len(words) > 1 else 1])
    assert re.search(PRINTS[name], done.stdout + done.stderr), (words, done.stdout, done.stderr)


def test_the_readmes_commands_work(tmp_path: Path, with_demo_names: Path, models_folder: Path) -> None:
    real = make_workspace(tmp_path / "real", models_folder)
    workspace = make_workspace(tmp_path / "my-workspace", with_demo_names)
    ran = 0
    for words in commands_of("README.md"):
        if words[0] == "make":
            assert f"{words[1]}:" in (ROOT / "Makefile").read_text()
            continue
        if words[0] == "cd":
            assert words == ["cd", "my-workspace"]
            continue
        assert words[0] == "srtui"
        ran += 1
        if words[1] == "doctor":
            continue  # it imports torch three times; tests/test_packaging.py runs it where srtui is installed
        if words[1] == "init":
            words[2] = str(workspace.root)
        with_the_demos = words[1:3] == ["models", "add"]  # its files are there: nothing is fetched
        run(real if with_the_demos else workspace, words[1:])
    assert ran >= 12


def test_the_commands_of_evaluation_work(tmp_path: Path, with_demo_names: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", with_demo_names)
    found = commands_of("docs/evaluation.md")
    assert len(found) >= 4
    for words in found:
        run(workspace, words[1:])


def test_docs_name_what_exists() -> None:
    for document in ("README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
                     "docs/notes/engineering.md"):  # fmt: skip
        text = (ROOT / document).read_text(encoding="utf-8")
        for path in re.findall(r"`((?:srtui|tests|benchmarks|tools|recipes)/[\w/.-]*[\w/])`", text):
            assert (ROOT / path).exists(), (document, path)
    picture = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    tree = picture.split("## The tree")[1].split("```")[1]
    for path in re.findall(r"`([a-z_]+/[\w/]*\.py|[a-z_]+\.py)`", picture):
        assert (ROOT / "srtui" / path).exists() or (ROOT / path).exists(), path
    rooms = {p.name for p in (ROOT / "srtui").iterdir() if (p / "__init__.py").exists()}
    assert rooms <= set(re.findall(r"\b(\w+)/", tree)), "a room that the tree does not show"
