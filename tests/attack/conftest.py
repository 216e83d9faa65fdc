"""A ground of its own for each attack, and the table at the end."""

from __future__ import annotations

import functools
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import typer.main

from srtui.store import Store
from srtui.workspace import Workspace
from tests.attack.ground import Ground
from tests.conftest import make_workspace
from tests.tui.scripted_store import make_demo_store

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session", autouse=True)
def commands_made_once() -> Iterator[None]:
    """Typer makes its commands anew each time it is called, which is most of what a small command costs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that every attack gets a copy of: a workspace with a store of three runs."""
    folder = tmp_path_factory.mktemp("attacked")
    workspace, _ = Workspace.create(folder / "made")
    make_demo_store(workspace)
    copied, _ = Workspace.create(folder / "ground" / "ws")
    with Store(workspace.store_path) as store:
        store.backup(copied.store_path)
    return folder / "ground"


@pytest.fixture
def ground(attacked: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Ground:
    folder = tmp_path / "ground"
    shutil.copytree(attacked, folder)
    attack = getattr(request.node, "callspec", None) and request.node.callspec.params.get("attack")
    if getattr(attack, "models", False):
        make_workspace(folder / "ws", request.getfixturevalue("models_folder"))
    return Ground(folder)


def tally(reports: list[pytest.TestReport]) -> Counter[tuple[str, str, str]]:
    """(theme, attack, outcome) and how often: an attack that is many cases is one line."""
    found: Counter[tuple[str, str, str]] = Counter()
    for report in reports:
        path, _, name = report.nodeid.partition("::")
        if not (Path(path).parent.name == "attack" and (report.when == "call" or not report.passed)):
            continue
        function, _, row = name.partition("[")
        attack = row.removesuffix("]") if " " in row else function.removeprefix("test_").replace("_", " ")
        outcome = "held" if report.passed else "skipped" if report.skipped else "fell"
        found[Path(path).stem.removeprefix("test_"), attack.split(": ")[0], outcome] += 1
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """By attack where only the attack runs, by theme where all tests do."""
    reports = [
        r for kind in ("passed", "failed", "skipped", "error") for r in terminalreporter.stats.get(kind, [])
    ]
    found = tally([r for r in reports if isinstance(r, pytest.TestReport)])
    if not found:
        return
    alone = all(Path(str(word).split("::")[0]).resolve().is_relative_to(HERE) for word in config.args)
    shown: Counter[tuple[str, str, str]] = Counter()
    for (theme, attack, outcome), count in found.items():
        shown[theme, attack if alone or outcome != "held" else "", outcome] += count
    terminalreporter.section("attack, outcome, count")
    for (theme, attack, outcome), count in sorted(shown.items()):
        terminalreporter.line(f"{theme:<12} {attack[:76]:<76} {outcome:<8} {count:>4}".rstrip())
