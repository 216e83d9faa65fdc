"""What this machine is doing now, in lines: processor, memory, disk, graphics, and its power where it tells."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass, field

import psutil

from srtui.energy import EnergyMeter
from srtui.text import bytes_text
from srtui.tui.widgets.words import bar

_GPU_SECONDS = 3.0


def machine_lines(folder: str, cpu: float) -> list[str]:
    """CPU (percent), memory and disk; and the GPU where nvidia-smi answers."""
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(folder)
    lines = [
        f"CPU    {cpu:>4.0f} % {bar(cpu, 100, 6)} {psutil.cpu_count()} cores{_power()}",
        f"memory {memory.percent:>4.0f} % {bar(memory.percent, 100, 6)} {bytes_text(memory.available)} free",
        f"disk   {disk.percent:>4.0f} % {bar(disk.percent, 100, 6)} {bytes_text(disk.free)} free",
    ]
    return lines + (_gpus() or ["GPU      none found"])


def _power() -> str:
    """Watts since it was last asked, and of what; "" where this machine does not tell."""
    reading, now = _power_reading, time.monotonic()
    if reading.meter is None:
        reading.meter, reading.read_at = EnergyMeter(), now
        return ""
    joules, seconds = reading.meter.spent(), now - reading.read_at
    reading.read_at = now
    if joules is None or seconds <= 0:
        return ""
    return f", {joules / seconds:,.0f} W ({' and '.join(reading.meter.sources)})"


@dataclass
class _PowerReading:
    """The counters, opened when they are first asked, and when they were read."""

    meter: EnergyMeter | None = None
    read_at: float = 0.0


_power_reading = _PowerReading()


def _gpus() -> list[str]:
    """Use and memory of NVIDIA's cards, asked for every few seconds: each question starts a process."""
    if time.monotonic() - _gpu_reading.read_at > _GPU_SECONDS and _gpu_reading.tool:
        _gpu_reading.read_at = time.monotonic()
        query = "--query-gpu=utilization.gpu,memory.used,memory.total"
        try:
            output = subprocess.run(
                [_gpu_reading.tool, query, "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                timeout=5,
                check=True,
            ).stdout
            _gpu_reading.lines = [_gpu_line(n, line) for n, line in enumerate(output.splitlines())]
        except (OSError, ValueError, subprocess.SubprocessError):
            _gpu_reading.lines = []
    return _gpu_reading.lines


def _gpu_line(number: int, figures: str) -> str:
    """A card of which some figures may be "[N/A]": one that is divided has no use as a whole, for example."""
    use, used, total = (float(x) if x.strip()[:1].isdigit() else None for x in figures.split(","))
    share = "   -" if use is None else f"{use:>4.0f}"
    memory = (
        "memory is not told"
        if used is None or total is None
        else f"{used / 1000 * 1.048576:.1f} of {bytes_text(total * 2**20)}"
    )
    return f"GPU {number}  {share} % {bar(use or 0, 100, 6)} {memory}"


@dataclass
class _GpuReading:
    """The last reading of nvidia-smi."""

    tool: str | None = field(default_factory=lambda: shutil.which("nvidia-smi"))
    read_at: float = -_GPU_SECONDS
    lines: list[str] = field(default_factory=list)


_gpu_reading = _GpuReading()
