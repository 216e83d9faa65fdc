"""How a record holds an instruction and its response: one file a layout, all listed here.

A layout tells its records by their keys, takes the three texts out of one, and lays texts out as one.
"""

from __future__ import annotations

from collections.abc import Iterable

from srtui.datasets.layouts.alpaca import ALPACA
from srtui.datasets.layouts.base import Layout
from srtui.datasets.layouts.messages import MESSAGES
from srtui.datasets.layouts.sharegpt import SHAREGPT

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (SHAREGPT, MESSAGES, ALPACA)}
"""By name, in the order in which they are asked: a conversation's list of turns is never an accident."""


def layout_of(keys: Iterable[str]) -> Layout | None:
    """The first layout that knows one of these keys."""
    present = set(keys)
    return next((layout for layout in LAYOUTS.values() if not present.isdisjoint(layout.keys)), None)


__all__ = ["LAYOUTS", "Layout", "layout_of"]
