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
from srtui.errors import UserError
from srtui.files import remembered

TABLE = "tuning.json"
SLOTS = (1, 4, 8, 16, 32, 64)
ROUNDS = 3
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
    report_line: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """Measure a teacher, and keep the result beside its file. All numbers of slots are measured in turn, several
    times over, and the best of each counts: whatever else the machine does for a while slows one round, not one number.

    Args:
        path: the GGUF.
        slots: the numbers of slots to try.
        seconds: about how long each is measured, all rounds together.
        report_line: gets a line for each.

    Raises:
        UserError: where the file is no teacher, the result cannot be kept, or what was measured contradicts itself,
            so that something else used the machine; nothing is stored then.
    """
    from srtui.llama.batching import LlamaTeacher

    teacher = LlamaTeacher(path, name=path.stem, sha256="")
    prompt, decode = 0.0, dict.fromkeys(slots, 0.0)
    try:
        for _ in range(ROUNDS):
            for count in slots:
                prompt_rate, rate = teacher.bare_rates(count, seconds / ROUNDS)
                prompt, decode[count] = max(prompt, prompt_rate), max(decode[count], rate)
    finally:
        teacher.close()
    for count, rate in decode.items():
        report_line(f"{path.stem}: {count} slots, {rate:,.0f} tokens/s")
    problem = contradiction(decode)
    if problem:
        raise UserError(
            f"{path.name}: {problem}. Something else used this machine; nothing was stored, so measure again when "
            "it is quiet."
        )
    tuning = Tuning(path.name, path.stat().st_size, prompt, decode, best_slots(decode), time.time())
    _keep(path.parent, tuning)
    return tuning


def contradiction(decode: Mapping[int, float]) -> str:
    """Why these rates, in tokens a second by slots, cannot be one machine's; "" where they can. So many times the slots
    are at most so many times as fast, half of it allowed for what a measurement of seconds is off by."""
    measured = sorted(decode.items())
    for n, (few, slow) in enumerate(measured):
        for many, fast in measured[n + 1 :]:
            if slow <= 0 or fast > 1.5 * many / few * slow:
                return f"{few} slots made {slow:,.0f} tokens/s and {many} slots {fast:,.0f}, which no machine does"
    return ""


def speed_warning(tuning: Tuning, slots: int, prompt_tokens: int, new_tokens: int, seconds: float) -> str:
    """A sentence where a run was more than four times slower, or twice faster, than this table says; "" where it was
    not, or where the table does not have this number of slots or the run was too short to say.

    Args:
        tuning: the table of this file.
        slots: sequences that were written at once.
        prompt_tokens: evaluated in the run.
        new_tokens: written in it.
        seconds: that both took.
    """
    decode = tuning.decode.get(slots, 0.0)
    if not decode or not tuning.prompt or seconds < 10 or new_tokens < 50 * slots:
        return ""
    expected = prompt_tokens / tuning.prompt + new_tokens / decode
    if expected / 2 <= seconds <= 4 * expected:
        return ""
    return (
        f"The teacher took {seconds:,.0f} s for what its table in {TABLE} says {expected:,.0f} s: measure it again with "
        f"srtui models tune {tuning.file.removesuffix('.gguf')}."
    )


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


def machine(nvidia: Path = Path("/proc/driver/nvidia/gpus")) -> str:
    """This machine as far as speed and memory go: processor, cores, and which GPUs, by what NVIDIA's driver lists."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return ", ".join([processor, f"{os.cpu_count()} cores", *sorted(map(_model_of, nvidia.glob("*")))])


def _model_of(gpu: Path) -> str:
    """A GPU's model, as its driver's file has it."""
    try:
        lines = (gpu / "information").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model:")), "a GPU")


def _read(models: Path) -> dict[str, dict[str, Any]]:
    table = remembered(models / TABLE)
    return table if isinstance(table, dict) else {}


def _keep(models: Path, tuning: Tuning) -> None:
    table = _read(models)
    table.setdefault(machine(), {})[tuning.file] = asdict(tuning)
    with replacing(models / TABLE) as file:
        file.write(json.dumps(table, indent=1).encode() + b"\n")
