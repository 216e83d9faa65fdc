"""Prompt templates of the student: the text before a response, and before a guessed instruction.

Scoring and training use the same template object, so that what is scored is what is trained. Plain
templates come from a prompts file (srtui/prompts/default.toml, or the one that a recipe names);
``chat`` is the student tokenizer's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from srtui.chat_template import ChatTemplate, of_tokenizer
from srtui.errors import UserError
from srtui.prompts.answer_place import Piece, around_answer
from srtui.prompts.prompt_set import PromptSet, Reverse, fill, own_prompts
from srtui.sample import digest

REVERSE_REQUEST = own_prompts().reverse.instruction  # type: ignore[union-attr]
"""Reverse prompt of r-IFD: the response wrapped in a request to guess its instruction (paper, 3.3)."""

TEMPLATE_NAMES = (*own_prompts().templates, "chat")

# How a text becomes token ids (srtui.student.span_builder). It is part of a template's version: raise it when
# a change there gives any text other ids.
_TOKEN_RULES = 2


@dataclass(frozen=True)
class PromptTemplate:
    """How one (instruction, input) becomes the text before a response.

    ``render`` makes that text; in plain templates nothing in it is special. ``chat`` is the student's
    chat template, whose own pieces spell special tokens, which the tokenizer must parse.
    ``answer_prefix`` is the white space between that text and a response, as the template has it: it
    belongs to the response, because tokenizers join a space to the word behind it. ``end_of_turn`` is
    appended to a response where it is trained and scored; None means the tokenizer's end-of-text token.
    """

    name: str
    render: Callable[[str, str], str]
    chat: ChatTemplate | None = None
    end_of_turn: str | None = None
    answer_prefix: str = ""
    reverse_prompt: Reverse | None = None
    version: str = ""

    @property
    def special_tokens(self) -> bool:
        """Whether the rendered text spells special tokens: a chat template's does."""
        return self.chat is not None

    def forward(self, instruction: str, input: str) -> str:
        """The text before the response: prompt(x)."""
        return self.render(instruction, input)

    def reverse(self, response: str) -> str:
        """The text before the instruction in r-IFD: prompt(y)."""
        return self.render(*self.reversed(response))

    def forward_pieces(self, instruction: str, input: str) -> list[Piece]:
        """prompt(x) as (text, is data) in order. In a plain template all of it is cut as data is."""
        if self.chat is None:
            return [(self.forward(instruction, input), True)]
        return self.chat.pieces([("user", self.target_of(instruction, input))])

    def reverse_target(self, instruction: str, input: str) -> str | None:
        """x as the prompts file wants it predicted; None where it leaves that to the protocol."""
        target = self.reverse_prompt.target if self.reverse_prompt else None
        return None if target is None else fill(target, instruction=instruction, input=input)

    @staticmethod
    def target_of(instruction: str, input: str) -> str:
        """x as the target of r-IFD: the instruction with its input on the next line."""
        return f"{instruction}\n{input}" if input else instruction

    def reversed(self, response: str) -> tuple[str, str]:
        """The instruction and the input of r-IFD's reverse prompt."""
        prompt = self.reverse_prompt or _own_reverse()
        return fill(prompt.instruction, response=response), fill(prompt.input, response=response)


def template(name: str, tokenizer: Any = None, prompts: PromptSet | None = None) -> PromptTemplate:
    """The template called ``name``, as ``prompts`` has it where it does; ``chat`` needs a Hugging Face
    ``tokenizer`` with a chat template.

    Raises UserError for an unknown name, or for ``chat`` on a student that has no chat template.
    """
    reverse = (prompts.reverse if prompts else None) or _own_reverse()
    version = template_version(name, prompts)
    if name != "chat":
        layout = (prompts.templates if prompts else {}).get(name) or own_prompts().templates[name]
        return PromptTemplate(
            name,
            layout.render,
            answer_prefix=layout.answer_prefix,
            reverse_prompt=reverse,
            version=version,
        )
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise UserError(
            'prompt.template = "chat" needs a student with a chat template, and this one has none; '
            'use "alpaca".'
        )
    chat = of_tokenizer(tokenizer)

    def render(instruction: str, input: str) -> str:
        return chat.text([("user", PromptTemplate.target_of(instruction, input))])

    prefix, end = around_answer(chat)
    if chat.without_thought:
        version = digest(version, *chat.without_thought).hex()[:12]
    return PromptTemplate(
        "chat", render, chat, end or str(tokenizer.eos_token), prefix, reverse_prompt=reverse, version=version
    )


def template_names(prompts: PromptSet | None = None) -> tuple[str, ...]:
    """Every template there is: ours, those of the file, and the student's own chat template."""
    templates = own_prompts().templates
    return (*templates, *(n for n in (prompts.templates if prompts else {}) if n not in templates), "chat")


def template_version(name: str, prompts: PromptSet | None = None) -> str:
    """Which wording this name stands for, and how it is cut into tokens: scores under different ones
    are never taken for each other. A chat template's own text goes with its student; where it opens a
    <think> block, the version of its :class:`PromptTemplate` also says how that is closed.

    Raises UserError for a name that neither srtui nor ``prompts`` has.
    """
    if name not in template_names(prompts):
        prompts_name = f" of {prompts.name}" if prompts else ""
        raise UserError(
            f"prompt.template = {name!r} is not one{prompts_name} of {', '.join(template_names(prompts))}; choose one."
        )
    layout = (prompts.templates if prompts else {}).get(name) or own_prompts().templates.get(name)
    reverse = (prompts.reverse if prompts else None) or _own_reverse()
    words = layout.model_dump_json() if layout else "the tokenizer's"
    return digest(_TOKEN_RULES, words, reverse.model_dump_json()).hex()[:12]


def _own_reverse() -> Reverse:
    reverse = own_prompts().reverse
    assert reverse is not None  # noqa: S101 - default.toml has one
    return reverse
