"""What this machine has used of energy, where it tells: the processor's counters (RAPL) and those of NVIDIA's cards.

Counters are of the whole machine, whatever runs on it. On many systems the processor's are readable by root alone;
then nothing is said, for a part of the energy would be taken for all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_POWERCAP = Path("/sys/class/powercap")
_COUNTED = ("package", "dram")  # other domains are parts of these, or hold them


@dataclass
class _Counter:
    """Something that counts joules upwards, and begins again at ``wraps_at``; at 0 never."""

    read: Callable[[], float]
    wraps_at: float
    last: float

    def spent(self) -> float:
        now = self.read()
        if now < self.last and not self.wraps_at:
            raise ValueError(
                "a counter that never begins again has done so"
            )  # its driver was loaded anew, say
        spent = now - self.last if now >= self.last else now + self.wraps_at - self.last
        self.last = now
        return spent


class EnergyMeter:
    """``spent`` gives joules since it was asked last. ``sources`` names what is counted, and is empty where this
    machine tells nothing."""

    def __init__(self, powercap: Path = _POWERCAP, cards: Callable[[], list[Any]] | None = None) -> None:
        """``cards`` gives NVML's handles with their ``joules()``; for a test."""
        processor = _processor(powercap)
        graphics = (cards or _cards)()
        self._counters = [*processor, *(_Counter(card.joules, 0.0, card.joules()) for card in graphics)]
        self.sources: tuple[str, ...] = (
            *(["processor"] if processor else []),
            *([f"{len(graphics)} GPU{'s' if len(graphics) > 1 else ''}"] if graphics else []),
        )

    def spent(self) -> float | None:
        """Joules since the last call, or since it was made; None where they cannot be read (any more)."""
        try:
            return sum(counter.spent() for counter in self._counters) if self._counters else None
        except (
            Exception
        ):  # a driver that has gone, a file that may not be read any more: no counter at all from here on
            self._counters, self.sources = [], ()
            return None


def _processor(powercap: Path) -> list[_Counter]:
    """The counters of the processor's packages and their memory; none where one of them cannot be read."""
    counters = []
    try:
        for folder in sorted(powercap.glob("intel-rapl:*")):  # AMD's are called so, too
            if not (folder / "name").read_text(encoding="ascii").strip().startswith(_COUNTED):
                continue
            wraps_at = int((folder / "max_energy_range_uj").read_text(encoding="ascii")) / 1e6

            def read(path: Path = folder / "energy_uj") -> float:
                return int(path.read_text(encoding="ascii")) / 1e6

            counters.append(_Counter(read, wraps_at, read()))
    except (OSError, ValueError):
        return []
    return counters


class _Card:
    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def joules(self) -> float:
        """What the card has used since its driver was loaded."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000


def _cards() -> list[_Card]:
    """NVIDIA's cards, where NVML's Python module is installed and each of them counts."""
    try:
        import pynvml

        pynvml.nvmlInit()
        cards = [
            _Card(pynvml, pynvml.nvmlDeviceGetHandleByIndex(n)) for n in range(pynvml.nvmlDeviceGetCount())
        ]
        for card in cards:
            card.joules()
    except (
        Exception
    ):  # not installed, no driver, a card that does not count: NVML's errors are of its own class
        return []
    return cards
