"""Chat prompts as pieces: what the template writes, and what came from data. Teacher and student alike.

Message contents are untrusted: a dataset text that spells ``<|im_end|>`` must not end a turn. So the
template is rendered with a mark in place of each content, and split at the marks; only the template's
own pieces are tokenized with special tokens on. What is rendered depends on the roles alone, so each
list of roles is rendered once.

Some templates open a ``<think>`` block for the assistant to begin in. An answer that is given (scored,
trained, begun by us) stands outside of it; how a template closes the block is asked of it here, for
teacher and student alike.

The template is untrusted too: it is rendered in a process of its own (:mod:`srtui.render_chat`), with
limits on its time and memory.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from srtui import render_chat, today
from srtui.errors import UserError

_CPU_SECONDS = 2
_WALL_SECONDS = 120  # a busy machine gives a process little of its time; CPU seconds are the measure
_MEMORY = 512 * 2**20
_CHARACTERS = 1_000_000
# Around each mark: a template that trims its messages takes this off, and no template writes it.
_SPACE = "\u2003"
# What templates call the switch that turns thinking off.
_NOT_TO_THINK = {"enable_thinking": False, "thinking": False}
_QUESTION = ("user", "q")
END_OF_THINKING = "\n</think>\n\n"
"""What closes a <think> block where its template does not say, or a model has thought for long enough."""
_LETTERS = [chr(n) for n in range(0xE000, 0xF000)]  # private use: in no text that means something

Placed = tuple[str, int | None]
"""A part of a prompt, and the number of the message that it is; None for what the template itself writes."""


class TooCostly(UserError):
    """The template takes more time or memory than a layout is worth."""


class ChatTemplate:
    """A Jinja chat template. ``variables`` are what it may use beside the messages, such as ``bos_token``.

    ``now``, in seconds since 1970, is the time that ``strftime_now`` gives (a template may write the
    date); by default the frozen one of srtui.today. Reading or rendering it raises UserError, in one sentence, where the
    template is not valid, fails, takes too long, needs too much memory, or does not write each message
    as it is; the first rendering happens in :meth:`pieces`.

    Where it opens a ``<think>`` block for an answer, that stays open if the model ``thinks``, and is closed
    otherwise, as the template itself writes an answer without thought.
    """

    def __init__(
        self,
        source: str,
        variables: Mapping[str, Any] | None = None,
        now: float | None = None,
        *,
        thinks: bool = True,
    ) -> None:
        self.source = source
        self._thinks = thinks
        self._variables = json.dumps(dict(variables or {}), sort_keys=True, default=str)
        self._now = today.now().timestamp() if now is None else now

    @property
    def date(self) -> str | None:
        """The day that it writes into prompts, where it writes one."""
        day = datetime.fromtimestamp(self._now).date().isoformat()
        return day if "strftime_now" in self.source else None

    def pieces(self, turns: Sequence[tuple[str, str]], *, to_answer: bool = True) -> list[tuple[str, bool]]:
        """(text, is data) in order, of a conversation of (role, content), up to where the assistant begins
        to write if ``to_answer``.

        A message may stand in the text more than once, and trimmed of the white space around it.
        """
        return [(text, message is not None) for text, message in self.placed(turns, to_answer=to_answer)]

    def placed(self, turns: Sequence[tuple[str, str]], *, to_answer: bool = True) -> list[Placed]:
        """The same pieces, each with the number of its message in place of whether it is data."""
        pieces = self._laid_out(turns, to_answer, self._variables)
        if to_answer and not self._thinks and _opens_thinking(pieces):
            opened = pieces[-1][0]
            usual_opening, closed = self.without_thought or ("", "")
            pieces[-1] = (closed if opened == usual_opening else _closed_at_once(opened), None)
        return pieces

    def text(self, turns: Sequence[tuple[str, str]], *, to_answer: bool = True) -> str:
        """The conversation as one text."""
        return "".join(text for text, _ in self.pieces(turns, to_answer=to_answer))

    def before_answer(self) -> str:
        """What stands in front of an answer to a plain question, in a conversation that ends with it."""
        pieces = self._laid_out([_QUESTION, ("assistant", "a")], False, self._variables)
        answer_piece = max(n for n, (_, message) in enumerate(pieces) if message is not None)
        return "".join(text for text, _ in pieces[:answer_piece])

    @cached_property
    def without_thought(self) -> tuple[str, str] | None:
        """What the template writes behind a question, with its <think> block open and with it closed; None
        where it opens none, or the model ``thinks``.

        It is closed as it stands before a finished answer, if there it is; else as in the prompt that asks
        not to think; else at once.
        """
        if self._thinks:
            return None
        try:
            rendered = self._laid_out([_QUESTION], True, self._variables)
        except UserError:  # it lays out other conversations
            return None
        if not _opens_thinking(rendered):
            return None
        opened = rendered[-1][0]
        before = "".join(text for text, _ in rendered[:-1])
        variables = json.dumps(json.loads(self._variables) | _NOT_TO_THINK, sort_keys=True)
        for written in (
            self.before_answer,
            lambda: "".join(text for text, _ in self._laid_out([_QUESTION], True, variables)),
        ):
            try:
                text = written()
            except UserError:
                continue
            if text.startswith(before) and text.rstrip().endswith("</think>"):
                return opened, text.removeprefix(before).rstrip(" ")
        return opened, _closed_at_once(opened)

    def _laid_out(self, turns: Sequence[tuple[str, str]], to_answer: bool, variables: str) -> list[Placed]:
        roles = tuple(role for role, _ in turns)
        pieces: list[Placed] = []
        for piece in _shape(self.source, variables, self._now, roles, to_answer):
            if isinstance(piece, str):
                pieces.append((piece, None))
                continue
            message, left, right = piece
            content = turns[message][1]
            content = content.lstrip() if left else content
            pieces.append((content.rstrip() if right else content, message))
        return [piece for piece in pieces if piece[0]]


def of_tokenizer(tokenizer: Any) -> ChatTemplate:
    """The chat template of a student's Hugging Face tokenizer, with the variables that transformers gives
    it. A student answers without thought, since its answers are scored and trained without one."""
    return ChatTemplate(str(tokenizer.get_chat_template()), tokenizer.special_tokens_map, thinks=False)


def opens_thinking(prompt: str) -> bool:
    """Whether a prompt ends in an open <think> block."""
    return prompt.rstrip().endswith("<think>")


def _closed_at_once(opened: str) -> str:
    return f"{opened.rstrip()}\n{END_OF_THINKING}"


def _opens_thinking(pieces: Sequence[Placed]) -> bool:
    return bool(pieces) and pieces[-1][1] is None and opens_thinking(pieces[-1][0])


@lru_cache(maxsize=256)
def _shape(
    source: str, variables: str, now: float, roles: tuple[str, ...], to_answer: bool
) -> tuple[str | tuple[int, bool, bool], ...]:
    """What the template writes, and where a message stands: (its number, trimmed left, trimmed right)."""
    letters = [c for c in _LETTERS if c not in source]
    if 8 * len(roles) > len(letters):
        raise TooCostly(
            f"A conversation of {len(roles):,} turns is too long for a chat template; leave it out of the data."
        )
    unused = random.Random(source).sample(letters, 8 * len(roles))  # noqa: S311
    # Quotes, a new line, a backslash, both cases: what escapes, encodes or recases a message does not leave
    # its mark as it was.
    marks = ["{}\"{}\n{}<{}'{}&{}\\{}aB{}".format(*unused[8 * n : 8 * n + 8]) for n in range(len(roles))]
    text = _rendered(
        {
            "source": source,
            "variables": json.loads(variables),
            "now": now,
            "messages": [
                {"role": role, "content": f"{_SPACE}{mark}{_SPACE}"}
                for role, mark in zip(roles, marks, strict=True)
            ],
            "add_generation_prompt": to_answer,
        }
    )
    for role, mark in zip(roles, marks, strict=True):
        if mark not in text:
            raise UserError(
                f"The model's chat template drops or rewrites a {role} message; choose another model, or for a student another prompt.template."
            )
    shape: list[str | tuple[int, bool, bool]] = []
    while True:
        place, n = min(
            ((text.find(mark), n) for n, mark in enumerate(marks) if mark in text), default=(-1, 0)
        )
        if place < 0:
            break
        before, after = text[:place], text[place + len(marks[n]) :]
        left, right = not before.endswith(_SPACE), not after.startswith(_SPACE)
        shape += [before.removesuffix(_SPACE), (n, left, right)]
        text = after.removeprefix(_SPACE)
    shape.append(text)
    if any(c in piece for piece in shape if isinstance(piece, str) for c in [*unused, _SPACE]):
        raise UserError(
            "The model's chat template writes a part of a message, and not as the message it is; choose another model, or for a student another prompt.template."
        )
    return tuple(shape)


def _rendered(request: dict[str, Any]) -> str:
    limits = {"cpu_seconds": _CPU_SECONDS, "memory_bytes": _MEMORY, "characters": _CHARACTERS}
    command = [sys.executable, "-I", str(Path(render_chat.__file__))]
    too_long = TooCostly(
        f"The model's chat template takes more than {_CPU_SECONDS} seconds to lay out one conversation; choose another model."
    )
    try:
        process = subprocess.run(
            command, input=json.dumps(request | limits).encode(), capture_output=True,
            timeout=_WALL_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise too_long from None
    if -process.returncode in (9, 24):  # killed for its CPU time: SIGXCPU first, SIGKILL a second later
        raise too_long
    try:
        answer = json.loads(process.stdout)
    except ValueError:
        why = (
            "it needs too much memory"
            if b"MemoryError" in process.stderr
            else f"exit code {process.returncode}"
        )
        raise TooCostly(
            f"The model's chat template fails ({why}); choose another model, or for a student another prompt.template."
        ) from None
    if "text" in answer:
        return str(answer["text"])
    why = "".join(c if c.isprintable() else " " for c in answer["error"])
    why = " ".join(why.split())[:200].rstrip(".")
    fails = "cannot be read" if answer["stage"] == "read" else "fails"
    kind = TooCostly if answer.get("costly") else UserError
    raise kind(f"The model's chat template {fails} ({why}).")
