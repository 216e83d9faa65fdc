"""Files of preference pairs, in the layouts that trainers read.

===============  =================================================================================
layout           what a record looks like
===============  =================================================================================
trl              ``{"prompt": [turns], "chosen": [turn], "rejected": [turn]}``, turns of ``role`` and
                 ``content``: TRL's conversational preference, which goes through the chat template
axolotl          ``{"messages": [turns], "chosen": turn, "rejected": turn}``: ``chat_template.default``
llama-factory    ``{"conversations": [turns], "chosen": turn, "rejected": turn}``, turns of ``from`` and
                 ``value``: ``formatting: sharegpt`` with ``ranking: true``
text             ``{"prompt": text, "chosen": text, "rejected": text}``, with no template: all three read it
===============  =================================================================================

A record's other keys are written along; the three read the keys that they know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from srtui.datasets.writer import write_records
from srtui.errors import UserError
from srtui.prompts import PromptTemplate

Turns = list[tuple[str, str]]
"""(role, text) of what stands before an answer, the roles being system, user and assistant."""


def _turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def _trl(before: Turns, chosen: str, rejected: str) -> dict[str, Any]:
    return {
        "prompt": [_turn(*turn) for turn in before],
        "chosen": [_turn("assistant", chosen)],
        "rejected": [_turn("assistant", rejected)],
    }


def _axolotl(before: Turns, chosen: str, rejected: str) -> dict[str, Any]:
    return {
        "messages": [_turn(*turn) for turn in before],
        "chosen": _turn("assistant", chosen),
        "rejected": _turn("assistant", rejected),
    }


_FROM = {"user": "human", "assistant": "gpt", "system": "system"}


def _llama_factory(before: Turns, chosen: str, rejected: str) -> dict[str, Any]:
    def turn(role: str, text: str) -> dict[str, str]:
        return {"from": _FROM[role], "value": text}

    return {
        "conversations": [turn(*message) for message in before],
        "chosen": turn("assistant", chosen),
        "rejected": turn("assistant", rejected),
    }


def _text(before: Turns, chosen: str, rejected: str) -> dict[str, Any]:
    if len(before) > 1:
        raise UserError(
            "--layout text has no place for the turns before an answer; take trl, axolotl or llama-factory."
        )
    return {"prompt": before[0][1], "chosen": chosen, "rejected": rejected}


PREFERENCE_LAYOUTS: dict[str, Callable[[Turns, str, str], dict[str, Any]]] = {
    "trl": _trl,
    "axolotl": _axolotl,
    "llama-factory": _llama_factory,
    "text": _text,
}
"""By name, how a pair is laid out."""


def write_preferences(
    rows: Iterable[Mapping[str, Any]], path: Path, layout: str = "trl", stream: IO[bytes] | None = None
) -> int:
    """Write pairs as JSON lines and return how many; a name that ends in ``.json`` makes it one array.

    Args:
        rows: each has ``instruction``, ``chosen`` and ``rejected``, and may have ``input`` and ``history``, the turns
            before as (role, text); its other keys are written along.
        path: of the file; what was there stays as it was where the new one cannot be written.
        layout: one of :data:`PREFERENCE_LAYOUTS`.
        stream: where it is written in place of ``path``, which then only says by its ending how.

    Raises UserError for a layout that there is not, and where the file cannot be written.
    """
    if layout not in PREFERENCE_LAYOUTS:
        raise UserError(f"--layout {layout}: it can be {', '.join(PREFERENCE_LAYOUTS)}.")
    arrange = PREFERENCE_LAYOUTS[layout]

    def records() -> Iterator[dict[str, Any]]:
        for row in rows:
            fields = dict(row)
            question = PromptTemplate.target_of(fields.pop("instruction"), fields.pop("input", ""))
            before = [*fields.pop("history", ()), ("user", question)]
            record = arrange(before, fields.pop("chosen"), fields.pop("rejected"))
            yield record | {k: v for k, v in fields.items() if k not in record}

    return write_records(records(), path, lines=True, stream=stream)
