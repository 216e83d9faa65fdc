"""Pages and helps that are made from the program say what the program does."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from srtui.cli.documents import DOCUMENTS, JSON_VERSION, check_keys
from srtui.store import Store
from srtui.workspace import Workspace
from tests.attack.ground import in_process
from tests.command_tree import commands, example, parse
from tests.conftest import ROOT, make_workspace
from tests.tui.scripted_store import make_demo_store

COMMANDS = commands()
QUICK = [
    "init other", "status", "status quickstart", "scores quickstart", "show 1", "report quickstart",
    "diff quickstart another-seed", "export quickstart --out better.json", "data look --run quickstart",
    "data gates quickstart", "data dedup --undo {dataset}", "data dedup {dataset}",
    "data decontaminate recipes/eval-prompts.jsonl", "eval list", "models list", "recipes", "db",
    "recipes training.learning_rate", "db check", "db backup copy.sqlite", "import recipes/quickstart.jsonl",
    "export quickstart --format preference --out pairs.jsonl",
]  # fmt: skip


def _pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "tools" / "pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_what_the_program_is() -> None:
    for name, page in _pages().PAGES.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == page(), (
            "run: .venv/bin/python tools/pages.py"
        )


def test_every_command_with_json_has_its_documents() -> None:
    with_json = {
        " ".join(path)
        for path, command in COMMANDS.items()
        if any("--json" in o.opts for o in command.params)
    }
    assert with_json == {c.replace(".", " ") for d in DOCUMENTS.values() for c in d.commands}
    without = {" ".join(path) for path in COMMANDS} - with_json
    assert without <= {"db checkpoint", "db vacuum", "prompts new", "prompts from-released", "serve"}, without


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    """A workspace, and the name of its dataset."""
    workspace = make_workspace(tmp_path_factory.mktemp("json") / "ws")
    make_demo_store(workspace)
    with Store(workspace.store_path, read_only=True) as store:
        return workspace, store.corpus.datasets()[0].name


@pytest.mark.parametrize("line", QUICK)
def test_what_json_prints_is_what_the_page_says(told: tuple[Workspace, str], line: str) -> None:
    """That keys are the table's is checked as each document is printed; here that it is, and by its command."""
    workspace, dataset = told
    words = line.format(dataset=dataset).split()
    done = in_process([*words, "--json"], workspace.root, {"SRTUI_WORKSPACE": str(workspace.root)})
    assert done.code == 0, done.err
    documents = [json.loads(row) for row in done.out.splitlines()]
    assert len(documents) == 1
    for document in documents:
        assert document["srtui_json"] == JSON_VERSION
        document_type = DOCUMENTS[document["type"]]
        assert any(words[: len(c.split("."))] == c.split(".") for c in document_type.commands), document[
            "type"
        ]
        assert set(document_type.keys) <= set(document)


def test_a_document_of_another_shape_is_refused() -> None:
    for fields in ({"path": 1}, {"path": 1, "size": 2, "colour": 3}):
        with pytest.raises(ValueError, match="model-file"):
            check_keys("model-file", fields)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_example_of_each_command_is_parsed_by_it(path: tuple[str, ...]) -> None:
    words = example(COMMANDS[path])
    assert tuple(words[: len(path)]) == path
    assert path == ("db",) or any("-v" in option.opts for option in COMMANDS[path].params)
    assert parse(words).command.name == (path[-1] if path != ("db",) else "check")
    with pytest.raises(Exception, match="No such option"):
        parse([*words, "--no-such-option"])


def test_examples_name_what_a_workspace_has(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    for command in COMMANDS.values():
        for name in re.findall(r"recipes/[\w.-]+", command.epilog or ""):
            assert (workspace.root / name).exists() or "--out" in (command.epilog or ""), name
