"""What guessed tokens cost a teacher on this device: ``python -m benchmarks.gpu.draft_costs GGUF SLOTS``.

Prints, by "sequences x guesses", how many times as long as a decode without guesses one with them takes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from srtui.errors import UserError


def costs(file: Path, slots: int) -> dict[str, float]:
    """By "sequences x guesses"."""
    from srtui.llama.batching import LlamaTeacher
    from srtui.llama.llama_context import draft_costs

    teacher = LlamaTeacher(file, name="bench", sha256="-", slots=slots)
    context = teacher._open_context(slots, 512)
    if context is None:
        raise UserError(f"{slots} slots do not fit in memory.")
    measured = draft_costs(context)
    teacher.close()
    return {
        f"{count}x{length}": round(cost, 2)
        for count, by_length in measured.items()
        for length, cost in by_length.items()
    }


if __name__ == "__main__":
    print(json.dumps(costs(Path(sys.argv[1]), int(sys.argv[2]))))
