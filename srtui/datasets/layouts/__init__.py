"""How a record holds an instruction and its response: one file a layout, all listed in ``LAYOUTS``.

A layout knows its records by their keys, takes the three texts out of one, and lays texts out as one. To add one,
copy ``alpaca.py`` (flat fields) or ``messages.py`` (a list of turns) and list it in ``LAYOUTS``: ``srtui import``,
``srtui export`` and ``srtui db check --deep`` know it then. (The help of the two commands says its name in words,
since it must not load this; a test says so where it does not.)

A record is of the first layout in the list that has any of its keys; a file is of the layout that most of its first
records are of. So a layout whose key is never an accident, such as the list of turns, comes before one whose names
may be beside it in a record. What ``arrange`` writes must be recognised as its own layout again and give the same texts:
``tests/datasets/test_dataset_writing.py`` tries each of the list.
"""

from __future__ import annotations

from collections.abc import Iterable

from srtui.datasets.layouts.alpaca import ALPACA
from srtui.datasets.layouts.layout import Layout
from srtui.datasets.layouts.messages import MESSAGES
from srtui.datasets.layouts.sharegpt import SHAREGPT

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (SHAREGPT, MESSAGES, ALPACA)}
"""By name, in the order in which they are asked: a conversation's list of turns is never an accident, while alpaca's
names (``prompt``, ``answer``, ...) may stand beside one."""


def layout_of(keys: Iterable[str]) -> Layout | None:
    """The first layout that knows one of these keys."""
    present = set(keys)
    return next((layout for layout in LAYOUTS.values() if not present.isdisjoint(layout.keys)), None)


__all__ = ["LAYOUTS", "Layout", "layout_of"]
