"""The moment that chat templates take for now.

Some write the date into every prompt. A process that works over midnight, or resumes a run a week
later, must not change the prompts half-way: it freezes the date of its run, which the store keeps.
"""

from __future__ import annotations

from datetime import date, datetime, time

_frozen = [datetime.now()]  # until a day is frozen: when this process began


def freeze(day: str) -> None:
    """From now on, in this process, it is midnight of ``day`` (as in 2026-01-31)."""
    _frozen[:] = [datetime.combine(date.fromisoformat(day), time())]


def now() -> datetime:
    """The frozen moment; the one at which this process began where none is."""
    return _frozen[0]


def written_into(template: str | None) -> str | None:
    """Today, where a chat template with this source writes it into prompts: then texts depend on it."""
    return now().date().isoformat() if template and "strftime_now" in template else None


def of_timestamp(seconds: float) -> str:
    """The local day of a moment in seconds since 1970."""
    return date.fromtimestamp(seconds).isoformat()
