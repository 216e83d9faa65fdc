"""What a bundle holds, and making it. pip runs in a process of its own, isolated; nothing here opens a connection."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from srtui.atomic import sha256_of
from srtui.bundle.built import Built, processor
from srtui.bundle.target import Target
from srtui.bundle.wheels import (
    Pinned,
    Wheel,
    check_sum,
    download,
    fetch,
    package_of,
    pinned_versions,
    plain_name,
    resolve,
    run_isolated_pip,
)
from srtui.errors import UserError
from srtui.models.catalogue import find
from srtui.text import bytes_text

ReportLine = Callable[[str], None]
LLAMA = "llama-cpp-python"
# What llama.cpp's package needs to run, and to be built; pip can be asked only for wheels of another machine, and it has none.
LLAMA_NEEDS = ["numpy", "typing-extensions", "diskcache", "jinja2"]
LLAMA_BUILD = ["scikit-build-core", "cmake", "ninja"]


@dataclass(frozen=True)
class Plan:
    """What will be fetched and copied. ``source`` says whether llama.cpp's source comes too."""

    target: Target
    checkout: Path
    wheels: Sequence[Wheel]
    have: frozenset[str]
    source: bool
    models: Sequence[Path]

    @property
    def known_bytes(self) -> int:
        """Bytes of everything whose size is known."""
        return sum(wheel.size or 0 for wheel in self.wheels) + sum(map(_bytes_of, self.models))


@dataclass(frozen=True)
class Made:
    """A finished bundle: its folder, how many files it holds, and their bytes."""

    path: Path
    files: int
    size: int


def plan(checkout: Path, models: Path, target: Target, have: Sequence[str], wanted: Sequence[str]) -> Plan:
    """Ask pip what the target needs, without fetching it.

    Args:
        checkout: srtui's source, with pyproject.toml and constraints.txt.
        models: the folder that ``wanted`` lies in.
        target: the machine that the bundle is for.
        have: packages that the target has; what only they need is left out too.
        wanted: names of models.

    Raises:
        UserError: pip finds no files for this target, a file's sum is not in constraints.txt, a model is not here,
            or a package of ``have`` is none of srtui's.
    """
    if not ((checkout / "pyproject.toml").is_file() and (checkout / "constraints.txt").is_file()):
        raise UserError(
            "srtui bundle needs srtui's source (pyproject.toml and constraints.txt); run it in a checkout."
        )
    paths = [path for name in wanted for path in _model_files(models, name)]
    pinned = pinned_versions(checkout)
    has = frozenset(plain_name(name) for name in have)
    if unknown := sorted(has - pinned.keys() - {LLAMA}):
        raise UserError(
            f"--have {unknown[0]}: constraints.txt has no such package, so srtui does not need it."
        )
    source = LLAMA not in has
    needed = tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    roots = [line for line in needed if package_of(line) != LLAMA] + ["pip"]
    roots += LLAMA_NEEDS if source else []
    wheels = resolve(roots, target, pinned, has, LLAMA_BUILD if source else [])
    return Plan(target, checkout, wheels, has, source, paths)


def check_new(folder: Path) -> None:
    """Raises UserError where ``folder`` is there already, or cannot be made."""
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} is there already; name a new folder, or remove it first.")
    above = next(path for path in folder.absolute().parents if path.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UserError(
            f"{folder} cannot be made: {above} is not a folder that can be written to; name another with --out."
        )


def make(plan: Plan, folder: Path, report_line: ReportLine, *, built: Built | None = None) -> Made:
    """Fetch and copy everything to a folder beside ``folder``, and rename it; what an earlier call fetched is kept.

    Args:
        plan: of :func:`plan`.
        folder: the new bundle; it must not be there yet.
        report_line: takes a line for each file.
        built: llama.cpp as it was built here, for a target with this very processor.

    Raises:
        UserError: the folder is there, the disk is too small, or a file cannot be fetched or is not the one pinned.
    """
    check_new(folder)
    part = folder.parent / f"{folder.name}.part"
    wheels = part / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(part).free
    total_bytes = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
    if plan.known_bytes - total_bytes > free:
        raise UserError(
            f"The bundle takes {bytes_text(plan.known_bytes)}, and {bytes_text(free)} are free at {part}; make room, or name a folder elsewhere."
        )
    pinned = pinned_versions(plan.checkout)
    # An earlier call that was cut off may have been asked for other models, or for llama.cpp.
    wanted = {path.name for path in plan.models}
    for stale in (path for path in (part / "models").glob("*") if path.name not in wanted):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    for stale in part.glob("llama.cpp/*.whl" if plan.source else "llama.cpp/*"):
        stale.unlink()
    if not plan.source and (part / "llama.cpp").is_dir():
        (part / "llama.cpp").rmdir()
    requirements, kept = [], set()
    for number, wheel in enumerate(plan.wheels, 1):
        report_line(f"{number} of {len(plan.wheels)}: {wheel.name} {wheel.version}")
        file = fetch(wheel, plan.target, wheels)
        sha256 = sha256_of(file)
        check_sum(wheel.name, sha256, pinned)
        kept.add(file.name)
        if wheel.name not in LLAMA_BUILD and wheel.name not in plan.have:
            requirements.append(f"{wheel.name}=={wheel.version} --hash=sha256:{sha256}")
    for stale in (file for file in wheels.iterdir() if file.name not in kept):
        stale.unlink()
    report_line("srtui itself")
    run_isolated_pip(
        [
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(wheels),
            str(plan.checkout.resolve()),
        ]
    )
    own_wheel = next(wheels.glob("srtui-*.whl"))
    requirements.append(f"srtui=={own_wheel.name.split('-')[1]} --hash=sha256:{sha256_of(own_wheel)}")
    if plan.source:
        _llama_source(plan, part / "llama.cpp", pinned, report_line)
        if built is not None:
            shutil.copy2(built.wheel, part / "llama.cpp")
            (part / "llama.cpp" / "built").write_text(f"{built.backend} {processor()}\n", "utf-8")
    for path in plan.models:
        report_line(f"{path.name} ({bytes_text(_bytes_of(path))})")
        _copy(path.resolve(), part / "models" / path.name)
    for name in ("models.toml", "README.md"):
        if (plan.checkout / "models" / name).is_file():
            _copy(plan.checkout / "models" / name, part / "models" / name)
    if (plan.checkout / "recipes").is_dir():
        _copy(plan.checkout / "recipes", part / "recipes")
    (part / "requirements.txt").write_text("\n".join(requirements) + "\n", "utf-8")
    settings = {"python": plan.target.python, "cuda": plan.target.cuda, "have": ",".join(sorted(plan.have))}
    (part / "target").write_text("".join(f"{name}={value}\n" for name, value in settings.items()), "utf-8")
    for script in ("install.sh", "llama_backend.sh"):
        shutil.copy(Path(__file__).with_name(script), part / script)
    (part / "install.sh").chmod(0o755)
    files = sorted(file for file in part.rglob("*") if file.is_file() and file.name != "SHA256SUMS")
    sums = [f"{sha256_of(file)}  {file.relative_to(part).as_posix()}\n" for file in files]
    (part / "SHA256SUMS").write_text("".join(sums), "utf-8")
    size = sum(file.stat().st_size for file in files)
    part.rename(folder)
    return Made(folder, len(files) + 1, size)


def _llama_source(plan: Plan, folder: Path, pinned: Pinned, report_line: ReportLine) -> None:
    """llama.cpp's source, as its Python package carries it; its metadata is made with the pinned build tools."""
    version, sums = pinned[LLAMA]
    # An earlier call may have been cut off before the pinned version changed, and install.sh takes what is there.
    for stale in (file for file in folder.glob("*.tar.gz") if sha256_of(file) not in sums):
        stale.unlink()
    if any(folder.glob("*.tar.gz")):
        return
    report_line(f"llama.cpp's source, {version}")
    constraints = ["--build-constraint", str((plan.checkout / "constraints.txt").resolve())]
    download(f"{LLAMA}=={version}", sorted(sums), folder, ["--no-binary", LLAMA, *constraints])


def _model_files(models: Path, name: str) -> list[Path]:
    """A model's folder and its GGUFs of every quantization. Raises UserError where none is here."""
    if "/" not in name:
        candidates = [models / name, models / f"{name}.gguf", *sorted(models.glob(f"{name}.*.gguf"))]
        present = [path for path in candidates if path.exists()]
        if present and re.fullmatch(r"[\w.-]+", name):
            return present
    return [find(models, name)]


def _copy(source: Path, to: Path) -> None:
    """A file or a folder with what links lead to; a file that is there whole stays."""
    if source.is_dir():
        shutil.copytree(source, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    elif not (
        to.is_file() and to.stat().st_size == source.stat().st_size and sha256_of(to) == sha256_of(source)
    ):
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, to)


def _bytes_of(path: Path) -> int:
    """Bytes of a file, or of a folder's files."""
    return (
        sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        if path.is_dir()
        else path.stat().st_size
    )
