"""Write the pages of docs/ that are made from the program itself: json.md, screens.md. tests/test_pages.py compares."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from textual.binding import Binding  # noqa: E402
from textual.keys import format_key  # noqa: E402
from textual.screen import Screen  # noqa: E402

from srtui.cli import documents  # noqa: E402
from srtui.tui.app import Dashboard  # noqa: E402
from srtui.tui.screens.dashboard_screen import DashboardScreen  # noqa: E402
from srtui.tui.tabs import TABS, key_of  # noqa: E402

DOCS = ROOT / "docs"
_BESIDE = {"dashboard_screen", "reading_screen", "dialogs", "__init__"}
_KEYS = {"question_mark": "?", "left_square_bracket": "[", "right_square_bracket": "]", "slash": "/"}


def json_page() -> str:
    """docs/json.md."""
    return documents.markdown()


def screens_page() -> str:
    """docs/screens.md: the screens by number, then those that a key of theirs opens."""
    numbered = {tab.screen for tab in TABS}
    lines = [
        "# The dashboard's screens",
        "",
        "<!-- Made by tools/pages.py from the screens themselves; tests/test_pages.py compares. -->",
        "",
        "`srtui` without a command opens the dashboard, `srtui serve` the same in a browser. `?` says on each screen what stands here. "
        "A key in brackets works and is not shown in the last line.",
        "",
        "## On every screen",
        "",
        *_keys(Dashboard, *(kind for kind in DashboardScreen.__mro__ if kind.__module__.startswith("srtui"))),
        "",
    ]
    for tab in TABS:
        screen = getattr(import_module(f"srtui.tui.screens.{tab.module}"), tab.screen)
        lines += [f"## {key_of(tab.mode)} {tab.label}", "", *_screen(screen)]
    lines += ["## Screens that others open", ""]
    for name, screen in _others(numbered):
        lines += [f"### {name}", "", *_screen(screen)]
    return "\n".join(lines).rstrip() + "\n"


def _others(numbered: set[str]) -> Iterator[tuple[str, type[Screen[object]]]]:
    folder = ROOT / "srtui" / "tui" / "screens"
    for file in sorted(folder.glob("*.py")):
        if file.stem in _BESIDE:
            continue
        module = import_module(f"srtui.tui.screens.{file.stem}")
        for name, screen in vars(module).items():
            if (
                isinstance(screen, type)
                and issubclass(screen, Screen)
                and screen.__module__ == module.__name__
                and name not in numbered
                and getattr(screen, "HELP_TEXT", "")
            ):
                yield name.removesuffix("Screen"), screen


def _screen(screen: type[Screen[object]]) -> list[str]:
    return [
        getattr(screen, "HELP_TEXT", "") or " ".join((screen.__doc__ or "").split()),
        "",
        *_keys(screen),
        "",
    ]


def _keys(*classes: type) -> list[str]:
    rows = []
    for kind in classes:
        for binding in kind.__dict__.get("BINDINGS", ()):
            if not isinstance(binding, Binding) or not binding.description:
                continue
            keys = " or ".join(_KEYS.get(k, format_key(k)) for k in binding.key.split(","))
            rows.append((keys if binding.show else f"({keys})", binding.description))
    if not rows:
        return []
    shown = [f"| {keys} | {words} |".replace("||", "|\\||") for keys, words in rows]
    return ["| key | does |", "| --- | --- |", *shown]


PAGES = {"json.md": json_page, "screens.md": screens_page}


def main() -> None:
    """Write them, and name those that changed."""
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
