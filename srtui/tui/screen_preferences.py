"""What the dashboard remembers of a person: the theme. It goes with the person, not with a workspace."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from srtui.files import remembered


@dataclass(frozen=True)
class ScreenPreferences:
    """``theme`` is the name of a theme; empty for the first opening."""

    theme: str = ""


def preferences_file() -> Path:
    """``srtui/dashboard.json`` in the folder where this system keeps a person's settings."""
    from platformdirs import user_config_path

    return user_config_path("srtui", appauthor=False) / "dashboard.json"


def load(path: Path) -> ScreenPreferences:
    """What was saved; the defaults where nothing was, or nothing that can be read."""
    try:
        theme = remembered(path)["theme"]
    except (KeyError, TypeError):
        return ScreenPreferences()
    return ScreenPreferences(theme if isinstance(theme, str) else "")


def save(path: Path, preferences: ScreenPreferences) -> None:
    """Write beside the place and rename, for two dashboards may save at once. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(asdict(preferences)) + "\n", encoding="utf-8")
    beside.replace(path)
