"""How long a worker may be silent, and how often it may fail."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """``silent``: seconds without any progress after which a worker that has work counts as hanging; ``loading``: the
    same while it checks and loads its model. After ``failures`` in a row a worker is dropped."""

    silent: float = 300.0
    loading: float = 1800.0
    failures: int = 3
