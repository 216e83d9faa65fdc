"""The wheels that a bundle needs: which they are, by pip's own resolution, and fetching them. pip runs in a process
of its own, isolated; what it finds must have a sum that constraints.txt lists."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement

from srtui.atomic import sha256_of
from srtui.bundle.target import Target
from srtui.errors import UserError
from srtui.models.fetch import pip_environment, pip_reason, run_pip

Pinned = Mapping[str, tuple[str, frozenset[str]]]
"""By a package's name, its version and the sums of its files: what constraints.txt pins."""


@dataclass(frozen=True)
class Wheel:
    """A package's file: its sha256 sum, and its bytes or None where nobody says."""

    name: str
    version: str
    sha256: str | None
    size: int | None


def plain_name(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def package_of(requirement: str) -> str:
    """The name that a requirement begins with."""
    return plain_name(re.match(r"\s*([A-Za-z0-9._-]*)", requirement)[1])  # type: ignore[index]


def pinned_versions(checkout: Path) -> Pinned:
    """Version and sums by name, of constraints.txt."""
    text = (checkout / "constraints.txt").read_text("utf-8")
    requirements = re.finditer(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)((?:.*\\\n)*.*)", text, re.MULTILINE)
    return {
        plain_name(m[1]): (m[2], frozenset(re.findall(r"sha256:([0-9a-f]{64})", m[3]))) for m in requirements
    }


def resolve(
    roots: Sequence[str], target: Target, pinned: Pinned, have: frozenset[str], build: Sequence[str] = ()
) -> list[Wheel]:
    """The wheels that ``roots`` need on ``target``, without those that only what it has needs. Nothing is fetched.

    Args:
        roots: requirements.
        target: the machine that they are for.
        pinned: versions and sums, of :func:`pinned_versions`.
        have: names of packages that the target has.
        build: requirements of what is built there. pip builds in an environment of its own, which does not see
            what the target has.

    Raises:
        UserError: pip finds no files for this target, or a file's sum is not pinned.
    """
    roots = [line for line in roots if package_of(line) not in have]
    report = _resolve_torch([*roots, *build], target, pinned, have)
    reached = _reached(report, roots, have) | _reached(report, build, frozenset())
    chosen = [item for item in report if plain_name(item["metadata"]["name"]) in reached]
    wheels = [
        Wheel(plain_name(item["metadata"]["name"]), item["metadata"]["version"], _sum(item), size)
        for item, size in zip(chosen, _sizes([item["download_info"]["url"] for item in chosen]), strict=True)
    ]
    for wheel in wheels:
        check_sum(wheel.name, wheel.sha256, pinned)
    return wheels


def _resolve_torch(
    roots: Sequence[str], target: Target, pinned: Pinned, have: frozenset[str]
) -> list[dict[str, Any]]:
    """pip's list for ``roots``, with the build of PyTorch that is the target's."""
    if "torch" not in have and "torch" in pinned:
        local = "cpu" if target.cuda == "none" else "cu" + target.cuda.replace(".", "")
        others = [line for line in roots if package_of(line) != "torch"]
        version = pinned["torch"][0]
        try:
            return _resolve([*others, f"torch=={version}+{local}"], target, pinned)
        except UserError:
            # The registry's own build is CUDA's and has no such label; "===" keeps pip from a labelled one.
            exactly = "==" if target.cuda == "none" else "==="
            report = _resolve([*others, f"torch{exactly}{version}"], target, pinned)
            _check_cuda(report, target)
        return report
    return _resolve(roots, target, pinned) if roots else []


def check_sum(name: str, sha256: str | None, pinned: Pinned) -> None:
    """Raises UserError for a file that constraints.txt does not list; of PyTorch's builds it lists one."""
    listed = pinned.get(name, ("", frozenset()))[1]
    torch = re.match(r"torch$|triton$|nvidia-|cuda-", name)
    if sha256 is None or sha256 in listed or (torch and os.environ.get("SRTUI_TORCH") == "any"):
        return
    trust = "; if you trust where pip finds it, set SRTUI_TORCH=any" if torch else ""
    raise UserError(f"constraints.txt does not list the sum of the {name} that pip finds{trust}.")


def _resolve(roots: Sequence[str], target: Target, pinned: Pinned) -> list[dict[str, Any]]:
    """pip's own list of what would be installed. Sums are checked by :func:`check_sum`, which can say why.

    pip reads the conditions of requirements by the Python that it runs on, whatever --python-version says: what holds
    on the target's alone is asked for by name, until nothing is missing.
    """
    more: list[str] = []
    while True:
        report = _report([*roots, *more], target, pinned)
        missing = [line for line in _missing(report, target) if line not in more]
        if not missing:
            return report
        more += missing


def _missing(report: Sequence[dict[str, Any]], target: Target) -> list[str]:
    """Requirements of packages in ``report`` that hold on the target, and that nothing in it fulfils."""
    there = {plain_name(item["metadata"]["name"]) for item in report}
    conditions = {
        "python_version": target.python,
        "python_full_version": f"{target.python}.0",
        "implementation_version": f"{target.python}.0",
        "extra": "",
    }
    missing: dict[str, str] = {}
    for item in report:
        for line in item["metadata"].get("requires_dist", []):
            needed = Requirement(line)
            name = plain_name(needed.name)
            if name not in there and needed.marker is not None and needed.marker.evaluate(conditions):
                missing[name] = f"{name}{needed.specifier}"
    return sorted(missing.values())


def _report(roots: Sequence[str], target: Target, pinned: Pinned) -> list[dict[str, Any]]:
    """What pip would install."""
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
            *roots,
        ]
        try:
            run_isolated_pip(words)
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
        if plain_name(item["metadata"]["name"]).startswith("nvidia-cuda-runtime")
    ]
    bundled = ".".join(runtime[0]["version"].split(".")[:2]) if runtime else "none"
    if bundled != target.cuda:
        raise UserError(
            f"The PyTorch that pip finds is built for CUDA {bundled}, not {target.cuda}; point PIP_EXTRA_INDEX_URL or "
            "PIP_FIND_LINKS to the build wanted (with SRTUI_TORCH=any), or leave it out with --have torch."
        )


def _reached(report: list[dict[str, Any]], roots: Sequence[str], have: frozenset[str]) -> set[str]:
    """Names that are needed without going through a package that the target has."""
    needs = {
        plain_name(item["metadata"]["name"]): {
            package_of(line) for line in item["metadata"].get("requires_dist", [])
        }
        for item in report
    }
    reached: set[str] = set()
    open_names = [package_of(line) for line in roots]
    while open_names:
        name = open_names.pop()
        if name in needs and name not in have and name not in reached:
            reached.add(name)
            open_names += needs[name]
    return reached


def _sum(item: dict[str, Any]) -> str | None:
    """The sha256 sum that the index gave, if it gave one."""
    sha256: str | None = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
    return sha256


def _sizes(addresses: list[str]) -> list[int | None]:
    """Bytes of each file: from the disk, or by a process of its own that asks the server."""
    size_by_url: dict[str, int] = {}
    remote = []
    for address in addresses:
        parts = urlsplit(address)
        if parts.scheme == "file":
            size_by_url[address] = Path(unquote(parts.path)).stat().st_size
        else:
            remote.append(address)
    if remote:
        run = subprocess.run(
            [sys.executable, "-I", str(Path(__file__).with_name("sizes.py"))],
            input="\n".join(remote), capture_output=True, text=True, check=False, env=pip_environment(),
        )  # fmt: skip
        for address, size in zip(remote, run.stdout.split(), strict=False):
            if int(size) >= 0:
                size_by_url[address] = int(size)
    return [size_by_url.get(address) for address in addresses]


def fetch(wheel: Wheel, target: Target, folder: Path) -> Path:
    """The wheel in ``folder``, fetched unless it is there whole."""
    stem = f"{wheel.name.replace('-', '_')}-{wheel.version}-"

    def there() -> list[Path]:
        return [f for f in folder.glob("*.whl") if f"{plain_name(f.name.split('-')[0]).replace('-', '_')}-{f.name.partition('-')[2]}".startswith(stem)]  # fmt: skip

    for file in there():
        if wheel.sha256 is not None and sha256_of(file) == wheel.sha256:
            return file
        file.unlink()
    download(
        f"{wheel.name}=={wheel.version}", [wheel.sha256] if wheel.sha256 else [], folder, target.pip_options()
    )
    fetched = there()
    if len(fetched) != 1:
        raise UserError(f"pip fetched no wheel of {wheel.name} {wheel.version}.")
    return fetched[0]


def download(requirement: str, sums: Sequence[str], folder: Path, options: list[str]) -> None:
    """Fetch the file of one package, whose sum pip checks. Raises UserError where it cannot.

    Args:
        requirement: name and version, as in ``numpy==2.1.0``.
        sums: the sha256 sums that it may have; without any pip does not check.
        folder: where it goes.
        options: of ``pip download``, for the target.
    """
    with tempfile.TemporaryDirectory(prefix="srtui-bundle-") as temporary:
        line = Path(temporary) / "one.txt"
        line.write_text(
            " ".join([requirement, *(f"--hash=sha256:{digest}" for digest in sums)]) + "\n", "utf-8"
        )
        run_isolated_pip(
            ["download", "--quiet", "--no-deps", "--dest", str(folder), *options, "--requirement", str(line)]
        )


def run_isolated_pip(words: list[str]) -> None:
    """pip of this environment, isolated and in an empty folder. Raises UserError with what it said."""
    command = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", *words]
    run = run_pip(command)
    if run.returncode:
        # pip's first error names the package; its last one may only point to a manual.
        first = next((line for line in run.stderr.split("\n") if line.startswith("ERROR: ")), run.stderr)
        raise UserError(f"pip could not {words[0]}: {pip_reason(first)}.")
