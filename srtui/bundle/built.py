"""llama.cpp as tools/setup.sh built it here, for a target with the same processor."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from srtui.errors import UserError


@dataclass(frozen=True)
class Built:
    """A wheel of llama.cpp, and the backend that it was built for (cpu, cuda, vulkan, ...)."""

    wheel: Path
    backend: str


def processor() -> str:
    """The sha256 sum of what /proc/cpuinfo says of the first processor's model and instructions; install.sh makes the same."""
    lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    told = [line for line in lines if re.match(r"(model name|flags|Features)\b", line)][:2]
    return hashlib.sha256("".join(line + "\n" for line in told).encode()).hexdigest()


def built_here(checkout: Path) -> Built:
    """What tools/setup.sh built for this environment. Raises UserError where there is nothing."""
    stamp = checkout / ".venv" / ".llama"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "srtui" / "llama.cpp"
    flavour, _, backend = (stamp.read_text("utf-8").strip() if stamp.is_file() else "").partition(" ")
    wheels = sorted((cache / flavour).glob("*.whl")) if flavour else []
    if not wheels:
        raise UserError("--build here: llama.cpp is not built yet; run tools/setup.sh first.")
    return Built(wheels[0], backend or "cpu")
