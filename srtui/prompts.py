"""Prompt templates of the student: the text before a response, and before a guessed instruction.

Scoring and training use the same template object, so that what is scored is what is trained. The
``alpaca``, ``vicuna`` and ``wizardlm`` layouts are the public formats those models were tuned with
(Taori et al. 2023; Chiang et al. 2023; Xu et al. 2023); ``chat`` is the student tokenizer's own.
A new template is one more entry in ``_PLAIN``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from srtui.chat_template import ChatTemplate, of_tokenizer
from srtui.errors import UserError

REVERSE_REQUEST = (
    "Below is the answer that an assistant gave. Work out the instruction, with its input if there "
    "was one, that this answer responds to, and write only that instruction."
)
"""Reverse prompt of r-IFD: the response wrapped in a request to guess its instruction (paper, 3.3)."""


@dataclass(frozen=True)
class PromptTemplate:
    """How one (instruction, input) becomes the text before a response.

    ``special_tokens`` says that the rendered text spells special tokens (chat templates do), which
    the tokenizer must parse; in plain templates nothing is special. ``end_of_turn`` is appended to
    a response where it is trained and scored; None means the tokenizer's end-of-text token.
    """

    name: str
    render: Callable[[str, str], str]
    special_tokens: bool = False
    end_of_turn: str | None = None
    chat: ChatTemplate | None = None

    def forward(self, instruction: str, input: str) -> str:
        """The text before the response: prompt(x)."""
        return self.render(instruction, input)

    def reverse(self, response: str) -> str:
        """The text before the instruction in r-IFD: prompt(y)."""
        return self.render(REVERSE_REQUEST, response)

    @staticmethod
    def target_of(instruction: str, input: str) -> str:
        """x as the target of r-IFD: the instruction with its input on the next line."""
        return f"{instruction}\n{input}" if input else instruction


def _alpaca(instruction: str, input: str) -> str:
    if input:
        return (
            "Below is an instruction that describes a task, paired with an input that provides "
            "further context. Write a response that appropriately completes the request.\n\n"
            f"### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
        )
    return (
        "Below is an instruction that describes a task. Write a response that appropriately "
        f"completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
    )


def _vicuna(instruction: str, input: str) -> str:
    return (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions. "
        f"USER: {PromptTemplate.target_of(instruction, input)} ASSISTANT: "
    )


def _wizardlm(instruction: str, input: str) -> str:
    return f"{PromptTemplate.target_of(instruction, input)}\n\n### Response:"


_PLAIN: dict[str, Callable[[str, str], str]] = {
    "alpaca": _alpaca,
    "vicuna": _vicuna,
    "wizardlm": _wizardlm,
}
TEMPLATE_NAMES = (*_PLAIN, "chat")


def template(name: str, tokenizer: Any = None) -> PromptTemplate:
    """The template called ``name``; ``chat`` needs a Hugging Face ``tokenizer`` with a chat template.

    Raises UserError for an unknown name, or for ``chat`` on a student that has no chat template.
    """
    if name in _PLAIN:
        return PromptTemplate(name, _PLAIN[name])
    if name != "chat":
        raise UserError(f"prompt.template = {name!r} is not one of {', '.join(TEMPLATE_NAMES)}.")
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise UserError(
            'prompt.template = "chat" needs a student with a chat template, and this one has none; '
            'use "alpaca".'
        )

    chat = of_tokenizer(tokenizer)

    def render(instruction: str, input: str) -> str:
        return chat.text([("user", PromptTemplate.target_of(instruction, input))])

    # What the chat template writes right after an assistant's content, e.g. ``<|im_end|>``.
    answered = chat.pieces([("user", "q"), ("assistant", "a")], to_answer=False)
    end = "" if answered[-1][1] else answered[-1][0].strip()
    return PromptTemplate(
        "chat", render, special_tokens=True, end_of_turn=end or str(tokenizer.eos_token), chat=chat
    )
