"""A teacher's chat prompts: the model's own template, a plain layout where it has none, and models without
a system role. srtui.chat_template does the rendering."""

from __future__ import annotations

from collections.abc import Sequence

from srtui import chat_template
from srtui.errors import UserError
from srtui.llama import Message

_FALLBACK = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n"
    "{% elif m.role == 'user' %}### User:\n{{ m.content }}\n\n"
    "{% else %}### Assistant:\n{{ m.content }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)


class TeacherTemplate:
    """A GGUF's chat template. Raises UserError as :class:`srtui.chat_template.ChatTemplate` does, a
    template that nothing can be laid out with at once."""

    def __init__(
        self, source: str | None, bos_token: str = "", eos_token: str = "", now: float | None = None
    ) -> None:
        variables = {"bos_token": bos_token, "eos_token": eos_token}
        self._template = chat_template.ChatTemplate(source or _FALLBACK, variables, now)
        self._led = chat_template.ChatTemplate(source or _FALLBACK, variables, now, thinks=False)
        try:
            self._template.pieces([("system", "s"), ("user", "u")])
            self._has_system = True
        except chat_template.TooCostly:
            raise
        except UserError:
            self._has_system = False
            self._template.pieces([("user", "u")])

    @property
    def date(self) -> str | None:
        """The day that it writes into prompts, where it writes one."""
        return self._template.date

    @property
    def source(self) -> str:
        """The template's own text."""
        return self._template.source

    def pieces(self, messages: Sequence[Message], *, led: bool = False) -> list[tuple[str, bool]]:
        """(text, is data) in order, from the first token to where the assistant begins to write, or, where
        it is ``led``, to where its first words are put for it: behind a <think> block, not in it."""
        if not self._has_system:
            messages = _without_system(messages)
        return (self._led if led else self._template).pieces([(m.role, m.content) for m in messages])


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """The system text in front of the first user message, for models with no such role (Gemma)."""
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    rest = [m for m in messages if m.role != "system"]
    if not system or not rest:
        return rest
    return [Message(rest[0].role, f"{system}\n\n{rest[0].content}"), *rest[1:]]
