"""Lays out one conversation by a Jinja chat template. A script: it runs in a process of its own.

A model's template is code from strangers. Jinja's sandbox keeps it from the machine, but bounds neither
its time nor its memory: a loop in a loop, ``'x' * 10**10`` or ``9 ** (9 ** 9)`` cannot be interrupted from
within the process that runs them. So this one is limited by the operating system, and ended by the
process that started it (:mod:`srtui.chat_template`). It imports nothing of srtui.

On stdin, JSON: ``source``, ``variables``, ``messages``, ``add_generation_prompt``, ``now`` (seconds since
1970) and the limits ``cpu_seconds``, ``memory_bytes`` and ``characters``. On stdout, JSON: ``text``, or
``error``, whether it is of the ``stage`` "read" or "run", and whether it was a limit (``costly``).
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any


def render(request: dict[str, Any]) -> str:
    """The conversation's text. Raises whatever the template makes Jinja or Python raise."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTag(Extension):
        """``{% generation %}``, by which transformers finds what the assistant wrote; here it is only text."""

        tags = {"generation"}  # noqa: RUF012 - the name and type are Jinja's

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, "jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = datetime.fromtimestamp(request["now"]).strftime
    environment.filters["tojson"] = to_json
    try:
        template = environment.from_string(request["source"])
    except Exception as error:
        raise Unreadable(_sentence(error)) from error
    text, size = [], 0
    for piece in template.generate(
        messages=request["messages"],
        add_generation_prompt=request["add_generation_prompt"],
        **request["variables"],
    ):
        text.append(piece)
        size += len(piece)
        if size > request["characters"]:
            raise TooMuchText(f"it writes more than {request['characters']:,} characters")
    return "".join(text)


class TooMuchText(Exception):
    """The template writes more than any prompt has."""


class Unreadable(Exception):
    """The template is not valid Jinja."""


def _sentence(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "it needs too much memory"
    if isinstance(error, RecursionError):
        return "endless recursion"
    return str(error) or type(error).__name__


def _limit(request: dict[str, Any]) -> None:
    try:
        import resource
    except ImportError:  # Windows: the time limit of the process that waits is all there is
        return
    resource.setrlimit(resource.RLIMIT_CPU, (request["cpu_seconds"], request["cpu_seconds"] + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (request["memory_bytes"], request["memory_bytes"]))
    except (ValueError, OSError):  # macOS does not limit address space
        return


def main() -> None:
    """One JSON object from standard input to one on standard output."""
    request = json.load(sys.stdin)
    _limit(request)
    answer: dict[str, Any]
    try:
        answer = {"text": render(request)}
    except Unreadable as error:
        answer = {"error": str(error), "stage": "read"}
    except Exception as error:
        costly = isinstance(error, MemoryError | RecursionError | TooMuchText)
        answer = {"error": _sentence(error), "stage": "run", "costly": costly}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
