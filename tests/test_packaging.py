"""What is shipped: the wheel, its declared dependencies, and the sums that set-up checks."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT, make_workspace, small_recipe

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def imported_packages(folder: Path) -> set[str]:
    """Top-level names that the Python files below ``folder`` import, the standard library's left out."""
    names: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"srtui"}


def test_everything_imported_is_a_declared_dependency() -> None:
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["project"]["dependencies"]}
    for extra in PROJECT["project"]["optional-dependencies"].values():
        declared |= {canonicalize_name(Requirement(line).name) for line in extra}
    distributions = packages_distributions()
    missing = {
        name: distributions.get(name, ["not installed"])
        for name in imported_packages(ROOT / "srtui")
        if declared.isdisjoint(canonicalize_name(d) for d in distributions.get(name, ()))
    }
    # pynvml belongs to the GPU's driver tools and flash_attn is a person's own build: both are asked for only where
    # they are.
    missing.pop("pynvml", None)
    missing.pop("flash_attn", None)
    assert not missing


def test_every_pinned_package_has_sums_and_every_dependency_is_pinned() -> None:
    blocks = re.split(r"\n(?=[A-Za-z])", (ROOT / "constraints.txt").read_text(encoding="utf-8"))
    pinned = {
        canonicalize_name(m[1]): b for b in blocks if (m := re.match(r"([A-Za-z0-9._-]+)(?:\[.*\])?==", b))
    }
    assert len(pinned) > 100
    assert [name for name, block in pinned.items() if "--hash=sha256:" not in block] == []
    wanted = [
        *PROJECT["project"]["dependencies"],
        *PROJECT["dependency-groups"]["dev"],
        *(line for extra in PROJECT["project"]["optional-dependencies"].values() for line in extra),
        *PROJECT["build-system"]["requires"],
        *(line for line in (ROOT / "tools" / "bootstrap.in").read_text().splitlines() if line[:1].isalpha()),
    ]
    for line in wanted:
        requirement = Requirement(line)
        block = pinned.get(canonicalize_name(requirement.name))
        assert block is not None, f"{requirement.name} is not in constraints.txt; run tools/lock.sh"
        version = re.match(r"[^=]+==([^ ;\\\n]+)", block)
        assert version is not None and requirement.specifier.contains(version[1]), (line, version)


def test_the_metadata_says_where_the_method_is_from() -> None:
    """There is no public address of the project itself that could be stated."""
    assert PROJECT["project"]["urls"] == {"Paper": "https://arxiv.org/abs/2402.10110"}


@pytest.fixture(scope="module")
def wheel_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment that holds srtui's wheel, and beside it only what we depend on.

    Dependencies are those of this environment, by a path file: installing them anew would take minutes.
    """
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(folder),
            str(ROOT),
        ],
        check=True,
    )
    (wheel,) = folder.glob("srtui-*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()
    )  # fmt: skip
    # A path that a path file adds has its own path files ignored: this environment's editable srtui is not seen.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "-q",
            "--no-deps",
            "--no-index",
            str(wheel),
        ],
        check=True,
    )
    return python


def clean_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SRTUI_WORKSPACE")}


def run_installed(python: Path, *words: str, cwd: Path) -> str:
    done = subprocess.run(
        [python.parent / "srtui", *words], cwd=cwd, env=clean_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def test_the_wheel_is_complete(wheel_python: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [wheel_python, "-c", "import srtui; print(srtui.__file__)"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
    ).stdout
    assert str(wheel_python.parent.parent) in where, "the wheel's own srtui must be the one that runs"
    assert "import" in run_installed(wheel_python, "--help", cwd=tmp_path)
    run_installed(wheel_python, "init", "mine", cwd=tmp_path)
    assert (tmp_path / "mine" / "recipes" / "quickstart.toml").is_file()
    assert (tmp_path / "mine" / "models" / "models.toml").is_file()
    for line in (ROOT / "srtui").rglob("*"):
        if line.is_file() and line.suffix not in {".py", ".pyc"}:
            relative = line.relative_to(ROOT / "srtui")
            found = list((wheel_python.parent.parent / "lib").glob(f"python*/site-packages/srtui/{relative}"))
            assert found, f"{relative} is not in the wheel"


@pytest.mark.model
def test_an_installed_wheel_adds_a_model_and_runs(
    wheel_python: Path, tmp_path: Path, pair_folder: Path
) -> None:
    workspace = make_workspace(tmp_path / "mine")
    assert re.search(r"ok\s+Python", run_installed(wheel_python, "doctor", cwd=workspace.root))
    run_installed(wheel_python, "models", "add", str(pair_folder / "tiny.F16.gguf"), cwd=workspace.root)
    assert "tiny.F16" in run_installed(wheel_python, "models", "list", cwd=workspace.root)
    for path in pair_folder.iterdir():
        if not (workspace.models / path.name).exists():
            (workspace.models / path.name).symlink_to(path, target_is_directory=path.is_dir())
    recipe = small_recipe(workspace, 2, selection={"policy": "keep"}, training={"held_out": 0.0})
    run_installed(wheel_python, "run", str(recipe), cwd=workspace.root)
    assert "done" in run_installed(wheel_python, "status", cwd=workspace.root)
