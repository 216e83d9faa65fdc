"""Chat prompts as pieces: what the template writes, and what came from data.

Message contents are untrusted: a dataset text that spells ``<|im_end|>`` must not end a turn. So
the template is rendered with a marker in place of each content, and split at the markers; only the
template's own pieces are tokenised with special tokens on.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from srtui.errors import UserError
from srtui.teacher import Message

_FALLBACK = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n"
    "{% elif m.role == 'user' %}### User:\n{{ m.content }}\n\n"
    "{% else %}### Assistant:\n{{ m.content }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)


class ChatTemplate:
    """A GGUF's Jinja chat template, sandboxed; a plain layout for a model that has none."""

    def __init__(self, source: str | None, bos_token: str = "", eos_token: str = "") -> None:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = time.strftime
        environment.filters["tojson"] = _tojson
        try:
            self._template = environment.from_string(source or _FALLBACK)
        except Exception as error:  # a program of somebody else's: it may end in anything
            raise UserError(f"The model's chat template cannot be read ({_words(error)}).") from error
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._has_system = self._takes_system()

    def pieces(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """(text, is data) in order, from the first token to where the assistant begins to write."""
        if not self._has_system:
            messages = _without_system(messages)
        marks = [f"\ue000{secrets.token_hex(8)}\ue001" for _ in messages]
        text = self._render([(m.role, mark) for m, mark in zip(messages, marks, strict=True)])
        found: list[tuple[str, bool]] = []
        for message, mark in zip(messages, marks, strict=True):
            before, seen, text = text.partition(mark)
            if not seen:
                raise UserError(f"The model's chat template drops or rewrites a {message.role} message.")
            found += [(before, False), (message.content.strip(), True)]
        found.append((text, False))
        return [piece for piece in found if piece[0]]

    def _render(self, turns: Sequence[tuple[str, str]]) -> str:
        try:
            return self._template.render(
                messages=[{"role": role, "content": content} for role, content in turns],
                add_generation_prompt=True,
                **self._tokens,
            )
        except Exception as error:  # as above
            raise UserError(f"The model's chat template fails ({_words(error)}).") from error

    def _takes_system(self) -> bool:
        try:
            return "SYSTEM-MARK" in self._render([("system", "SYSTEM-MARK"), ("user", "u")])
        except UserError:
            return False


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """The system text in front of the first user message, for models with no such role (Gemma)."""
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    rest = [m for m in messages if m.role != "system"]
    if not system or not rest:
        return rest
    return [Message(rest[0].role, f"{system}\n\n{rest[0].content}"), *rest[1:]]


def _words(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def _raise(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _tojson(value: Any, **options: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, **options)
