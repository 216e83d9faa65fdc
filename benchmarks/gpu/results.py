"""What ``make gpu`` has measured so far: one JSON file, written whole after every part, and its Markdown.

A run that was cut off has its parts in the file and goes on behind them; one that came to its end begins anew.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srtui.atomic import replacing

AIMS = {
    "teacher/loop": 10.0,
    "teacher/ceiling": 0.9,
    "scoring/plain": 15.0,
    "scoring/matrix": 0.5,
    "training/plain_trl": 1.5,
}
"""The least that each ratio should be, on one modern card with 7B-shaped models."""
_PRINTED = 3  # digits behind a ratio's point


class NotMeasured(Exception):
    """A part came to nothing; the message says why."""


@dataclass(frozen=True)
class Part:
    """A step that is stored as it ends. ``run`` gets the figures of the parts before it, by name, and returns its
    own; ``still_there`` says whether what it left on the disk is there. Raises NotMeasured with a reason."""

    name: str
    run: Callable[[Mapping[str, Any]], dict[str, Any]]
    still_there: Callable[[], bool] = lambda: True


@dataclass
class Results:
    """The file at ``path``. ``facts`` name the machine and what was run; of other facts nothing is resumed."""

    path: Path
    facts: Mapping[str, Any]
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def resume(cls, path: Path, facts: Mapping[str, Any]) -> Results:
        """What a run that was cut off left at ``path``, else nothing."""
        results = cls(path, facts)
        try:
            stored = json.loads(path.read_text())
            if not stored["complete"] and stored["facts"] == json.loads(json.dumps(facts)):
                results.parts = stored["parts"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none, or no whole one
        return results

    def work(
        self, parts: Sequence[Part], ratios: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> dict[str, Any]:
        """Run the parts that have not ended yet; returns what the last line says. ``ratios`` makes them of the
        figures of all parts; one that was not measured is its reason."""
        for part in parts:
            stored = self.parts.get(part.name)
            if stored is not None and (stored["status"] != "ok" or part.still_there()):
                print(f"{part.name}: {stored['status']} (stored)", flush=True)
                continue
            began = time.perf_counter()
            print(f"{part.name}: begins", flush=True)
            try:
                figures, status = part.run(self._figures()), "ok"
            except NotMeasured as reason:
                figures, status = {}, str(reason)
            except Exception as error:  # a fault of a part's own costs no other part
                figures, status = {}, f"{type(error).__name__}: {error}"
            seconds = round(time.perf_counter() - began, 1)
            self.parts[part.name] = {"status": status, "seconds": seconds, "figures": figures}
            self._write(ratios, complete=False)
            print(f"{part.name}: {status}, {seconds:,.1f} s", flush=True)
        return self._write(ratios, complete=True)

    def _figures(self) -> dict[str, Any]:
        return {name: part["figures"] for name, part in self.parts.items() if part["status"] == "ok"}

    def _write(
        self, ratios: Callable[[Mapping[str, Any]], dict[str, Any]], *, complete: bool
    ) -> dict[str, Any]:
        line = {
            "bench": "gpu",
            "device": self.facts["device"],
            "parts": {name: part["status"] for name, part in self.parts.items()},
            "ratios": ratios(self._figures()),
        }
        stored = {"complete": complete, "facts": self.facts, "parts": self.parts, "ratios": line["ratios"]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for path, text in (
            (self.path, json.dumps(stored, indent=1)),
            (self.path.with_suffix(".md"), markdown(self.facts, self.parts, line["ratios"], complete)),
        ):
            with replacing(path) as file:
                file.write(text.encode() + b"\n")
        return line


def markdown(
    facts: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Any]],
    ratios: Mapping[str, Any],
    complete: bool,
) -> str:
    """The same for people: ratios beside their aims, then each part's figures."""
    lines = [f"# {facts['device']}", ""]
    lines += [f"{name}: {value}  " for name, value in facts.items() if name != "device"]
    if not complete:
        lines += ["", "Not complete yet: `make gpu` goes on where it was."]
    if facts.get("size") != "7b":
        lines += ["", "Tiny models: each step has run, and nothing here says how fast anything is."]
    lines += ["", "| ratio | measured | aim |", "| --- | --- | --- |"]
    for name, value in ratios.items():
        aim = AIMS.get(re.sub(r"@\d+$", "", name))
        shown = value if isinstance(value, str) else f"{value:.2f}"
        lines.append(f"| {name} | {_cell(shown)} | {'' if aim is None else f'at least {aim:g}'} |")
    lines += ["", "| part | seconds | figures |", "| --- | --- | --- |"]
    for name, part in parts.items():
        told = (
            part["status"]
            if part["status"] != "ok"
            else ", ".join(f"{key} {_short(value)}" for key, value in part["figures"].items())
        )
        lines.append(f"| {name} | {part['seconds']:,.1f} | {_cell(told)} |")
    return "\n".join(lines)


def ratio(above: float | None, below: float | None, reason: str) -> float | str:
    """One figure over another; the reason where one of them was not measured, and never a zero."""
    return reason if not above or not below else round(above / below, _PRINTED)


def card_file(device: str) -> str:
    """A file's name for a card: "NVIDIA H100 80GB HBM3" is "gpu-nvidia-h100-80gb-hbm3"."""
    return "gpu-" + (re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") or "unknown")


def _short(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
