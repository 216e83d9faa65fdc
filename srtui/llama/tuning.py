"""How fast this machine runs a teacher, measured: prompt and decode tokens a second by slots.

The file format matters more than anything that code can do, and more slots are not always better,
so ``srtui models tune`` measures both. What it finds is kept in ``models/tuning.json``, by machine
and by file, and a recipe with ``slots = "auto"`` uses it.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srtui.atomic import replacing
from srtui.files import remembered

TABLE = "tuning.json"
SLOTS = (1, 4, 8, 16, 32, 64)
# More slots make a longer tail and a larger KV cache, and a measurement of seconds is not exact, so a
# tenth is not worth them.
_WORTH = 0.1


@dataclass(frozen=True)
class Tuning:
    """One file's rates on one machine, in tokens a second. ``decode`` is by number of slots, all of
    them together; ``slots`` is what "auto" becomes."""

    file: str
    size: int
    prompt: float
    decode: Mapping[int, float]
    slots: int
    measured_at: float


def tune(
    path: Path,
    slots: Sequence[int] = SLOTS,
    seconds: float = 3.0,
    say: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """Measure a teacher, and keep the result beside its file.

    Args:
        path: the GGUF.
        slots: the numbers of slots to try.
        seconds: about how long each is measured.
        say: gets a line for each.

    Raises:
        UserError: where the file is no teacher, or the result cannot be kept.
    """
    from srtui.llama.engine import LlamaTeacher

    teacher = LlamaTeacher(path, name=path.stem, sha256="")
    prompt, decode = 0.0, {}
    try:
        for count in slots:
            prompt_rate, decode[count] = teacher.bare_rates(count, seconds)
            prompt = max(prompt, prompt_rate)
            say(f"{path.stem}: {count} slots, {decode[count]:,.0f} tokens/s")
    finally:
        teacher.close()
    tuning = Tuning(path.name, path.stat().st_size, prompt, decode, best_slots(decode), time.time())
    _keep(path.parent, tuning)
    return tuning


def best_slots(decode: Mapping[int, float]) -> int:
    """The fewest slots whose rate is within a tenth of the best."""
    best = max(decode.values())
    return min(count for count, rate in decode.items() if rate >= (1 - _WORTH) * best)


def tuned(path: Path) -> Tuning | None:
    """What was measured for this file on this machine; None where nothing was, or it has changed."""
    try:
        stored = _read(path.parent).get(machine(), {}).get(path.name)
        if stored is None or stored["size"] != path.stat().st_size:
            return None
        decode = {int(count): float(rate) for count, rate in stored["decode"].items()}
        return Tuning(
            path.name,
            int(stored["size"]),
            float(stored["prompt"]),
            decode,
            int(stored["slots"]),
            float(stored["measured_at"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OSError):
        return None  # a table from elsewhere, or half a table, is no measurement


def machine() -> str:
    """This machine as far as speed goes: processor, cores, GPUs."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    gpus = sorted(p.name for p in Path("/proc/driver/nvidia/gpus").glob("*"))
    return f"{processor}, {os.cpu_count()} cores" + (f", {len(gpus)} GPUs" if gpus else "")


def _read(models: Path) -> dict[str, dict[str, Any]]:
    table = remembered(models / TABLE)
    return table if isinstance(table, dict) else {}


def _keep(models: Path, tuning: Tuning) -> None:
    table = _read(models)
    table.setdefault(machine(), {})[tuning.file] = asdict(tuning)
    with replacing(models / TABLE) as file:
        file.write(json.dumps(table, indent=1).encode() + b"\n")
