"""Chat templates that lay a history out by what follows it: L(x) with a history knows the tokens that the reverse
prompt's span begins with, whatever the template; scores of before that are another way's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from srtui import chat_template
from srtui.errors import UserError
from srtui.prompts import template
from srtui.prompts.chat_layout import ChatLayout
from srtui.render_chat import render
from srtui.sample import Pair, Turn
from srtui.store import Store
from srtui.student import Span, SpanBuilder
from srtui.student.spans import Invalid
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import own_model, small_recipe
from tests.student.test_tokenizers import STYLES, build

END = "<|im_end|>\n"
ANSWER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}" + END + "{% endfor %}" + ANSWER
# Qwen3's way: an empty thought in front of the answers behind the last question.
THOUGHT = (
    "{% set ns = namespace(asked=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > ns.asked %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}"
    + END + "{% endfor %}" + ANSWER
)  # fmt: skip
# Gemma's: the system text stands in the turn of the user behind it, and alone it is not written at all.
IN_THE_FIRST = (
    "{% set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
    "{{ first if loop.index0 == 0 else '' }}{{ m.content | trim }}" + END + "{% endfor %}" + ANSWER
)  # fmt: skip
# Older Gemma's: there is no system text.
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
# Mistral's: the system text stands in the last question's turn.
IN_THE_LAST = (
    "{% set ns = namespace(said='') %}{% for m in messages if m.role == 'system' %}{% set ns.said = m.content + '\n\n' %}"
    "{% endfor %}{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
    "{{ ns.said if loop.last and m.role == 'user' else '' }}{{ m.content }}" + END + "{% endfor %}" + ANSWER
)  # fmt: skip
# Harmony's: the last answer of all ends with another token.
OTHER_END = PLAIN.replace(
    END, "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|im_end|>\n' }}"
)
# A conversation has to end with a question.
ENDS_ASKED = "{% if messages[-1].role == 'assistant' and messages | length > 2 %}{{ raise_exception('no') }}{% endif %}"
BEHIND = (
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}" + END + "{% endfor %}"
    "{% for m in messages if m.role == 'system' %}(By the way: {{ m.content }})\n{% endfor %}" + ANSWER
)  # fmt: skip

SYSTEM, RIVER, NILE = (
    Turn("system", "Be terse."),
    Turn("user", "Name a river."),
    Turn("assistant", "The Nile."),
)
SEA, RED = Turn("user", "Name a sea."), Turn("assistant", "The Red Sea.")
HISTORIES = {
    "a system text": (SYSTEM,),
    "an exchange": (RIVER, NILE),
    "both": (SYSTEM, RIVER, NILE),
    "a system text between": (RIVER, NILE, SYSTEM, SEA, RED),
    "two exchanges": (SYSTEM, RIVER, NILE, SEA, RED),
    "a greeting": (SYSTEM, Turn("assistant", "Hello!")),
}
FOLLOWED = {
    "thought": THOUGHT, "in the first": IN_THE_FIRST, "no system": NO_SYSTEM, "in the last": IN_THE_LAST,
    "other end": OTHER_END, "ends asked": ENDS_ASKED + PLAIN,
}  # fmt: skip


@pytest.fixture(autouse=True)
def rendered_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same code, in this process: each list of roles would start one otherwise."""

    def rendered(asked: dict[str, Any]) -> str:
        try:
            return render({**asked, "characters": 1_000_000})
        except Exception as error:
            raise UserError(str(error)) from error

    monkeypatch.setattr(chat_template, "_rendered", rendered)


def builder(source: str, style: str = "qwen", protocol: Any = "default") -> tuple[Any, SpanBuilder]:
    tokenizer = build(style)
    tokenizer.chat_template = source
    return tokenizer, SpanBuilder(tokenizer, template("chat", tokenizer), protocol, 4096)


def reverse(spans: SpanBuilder, history: tuple[Turn, ...]) -> tuple[Span, Span]:
    given, alone = spans.reverse(Pair("Where does it begin?", "", "At a lake.", history))
    assert isinstance(given, Span) and isinstance(alone, Span)
    return given, alone


@pytest.mark.parametrize("protocol", ["default", "paper"])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", HISTORIES)
@pytest.mark.parametrize("name", ["plain", *FOLLOWED])
def test_x_knows_the_same_history_in_both_passes(name: str, kind: str, style: str, protocol: Any) -> None:
    tokenizer, spans = builder({"plain": PLAIN, **FOLLOWED}[name], style, protocol)
    history = HISTORIES[kind]
    given, alone = reverse(spans, history)
    known = alone.ids[: len(alone.ids) - alone.target]
    assert given.ids[-given.target :] == alone.ids[-alone.target :]
    assert given.ids[: len(known)] == known and given.history == alone.history == len(known)
    said = tokenizer.decode(known)
    assert all(turn.text in said for turn in history), said
    assert "At a lake." not in said and "assistant\n" not in said.split(history[-1].text)[-1]
    # What follows h in the prompt is the question and what the template writes around it, and nothing of h.
    rest = tokenizer.decode(given.ids[len(known) :])
    assert "At a lake." in rest and not any(turn.text in rest for turn in history), rest


@pytest.mark.parametrize("kind", HISTORIES)
def test_where_nothing_follows_it_is_where_it_was(kind: str) -> None:
    """A template that lays turns out one by one: the spans, and so the keys, of before."""
    tokenizer, spans = builder(PLAIN)
    history = HISTORIES[kind]
    _, alone = reverse(spans, history)
    by_itself = tokenizer(
        "".join(f"<|im_start|>{turn.role}\n{turn.text}{END}" for turn in history), add_special_tokens=False
    ).input_ids
    assert list(alone.ids[: len(by_itself)]) == by_itself
    assert spans.histories is None


HASHES = (
    "{% for m in messages %}{{ '### ' + m.role + ':\n' if m.role != 'system' else '' }}{{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
NAMES = (
    "{% for m in messages %}{{ m.role | upper + ': ' if m.role != 'system' else '' }}{{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


@pytest.mark.parametrize("protocol", ["default", "paper"])
@pytest.mark.parametrize("kind", HISTORIES)
@pytest.mark.parametrize("source", [HASHES, NAMES], ids=["hashes", "names"])
def test_turns_that_ordinary_text_divides(
    source: str, kind: str, protocol: Any, student_folder: Path
) -> None:
    """By itself such a history ends in a token that is another where a question follows ("\\n\\n" of "\\n\\n###")."""
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    tokenizer.chat_template = source
    spans = SpanBuilder(tokenizer, template("chat", tokenizer), protocol, 4096)
    history = HISTORIES[kind]
    given, alone = reverse(spans, history)
    known = alone.ids[: given.history]
    assert given.ids[: len(known)] == known and given.history == alone.history
    said = tokenizer.decode(known)
    assert all(turn.text in said for turn in history) and "###" not in said.split(history[-1].text)[-1]
    assert spans.histories == "followed"


@pytest.mark.parametrize("name", FOLLOWED)
def test_other_templates_have_other_scores(name: str) -> None:
    tokenizer, spans = builder(FOLLOWED[name])
    words = template("chat", tokenizer)
    assert spans.histories == "followed"
    # Of texts without a history nothing has changed.
    plain, _ = builder(PLAIN)
    assert words.version == template("chat", plain).version


def test_where_the_question_stands_within() -> None:
    tokenizer, spans = builder(IN_THE_FIRST)
    _, alone = reverse(spans, (SYSTEM,))
    assert tokenizer.decode(alone.ids) == "<|im_start|>user\nBe terse.\n\nWhere does it begin?"
    tokenizer, spans = builder(NO_SYSTEM)
    assert tokenizer.decode(reverse(spans, (SYSTEM,))[1].ids) == tokenizer.decode(alone.ids)
    tokenizer, spans = builder(THOUGHT)
    given, alone = reverse(spans, (RIVER, NILE))
    assert "think" not in tokenizer.decode(alone.ids) and "think" not in tokenizer.decode(given.ids)
    assert tokenizer.decode(alone.ids).endswith(f"The Nile.{END}Where does it begin?")


def test_a_history_behind_the_question_has_an_ifd_alone() -> None:
    _, spans = builder(BEHIND)
    pair = Pair("Where does it begin?", "", "At a lake.", (SYSTEM, RIVER, NILE))
    assert spans.reverse(pair) == (Invalid("history_not_laid_out"),) * 2
    assert all(isinstance(span, Span) for span in spans.forward(pair))
    assert all(isinstance(span, Span) for span in spans.reverse(pair._replace(history=(RIVER, NILE))))
    tokenizer = build("qwen")
    tokenizer.chat_template = "{{ raise_exception('none') }}" + PLAIN
    with pytest.raises(UserError):
        ChatLayout(chat_template.of_tokenizer(tokenizer)).history((RIVER,))


def test_scores_of_the_older_layout_are_not_taken(pair_workspace: Workspace) -> None:
    """A run that was choosing by them is refused; one of another name scores anew, and rows are scored as ever."""
    folder = own_model(pair_workspace, "tiny")
    (folder / "chat_template.jinja").write_text(THOUGHT, encoding="utf-8")
    recipe = small_recipe(pair_workspace, prompt={"template": "chat"}, training={"enabled": False})
    turns = [{"role": t.role, "content": t.text} for t in (RIVER, NILE, SEA, RED)]
    (pair_workspace.recipes / "talk.json").write_text(json.dumps([{"messages": turns}]), encoding="utf-8")
    command = ("run", str(recipe), "--json", "--until", "choose-instruction")
    talk = ("--set", "dataset=talk.json", "--set", "name=talk")
    assert srtui(pair_workspace, *command).returncode == 0
    assert srtui(pair_workspace, *command, *talk).returncode == 0
    with Store(pair_workspace.store_path) as store:
        rows, followed = (store.runs.named(name).setting_id for name in ("small", "talk"))
        settings = [store.scores.setting_by_id(i) for i in (rows, followed)]
        assert settings[0][1:-1] == settings[1][1:-1]  # type: ignore[index]
        assert [s.histories for s in settings if s] == [None, "followed"]
        assert store.verify().problems == []
        store.runs.update(store.runs.named("talk").id, setting_id=rows)  # as it was stored before
    refused = srtui(pair_workspace, "resume", "talk", "--json")
    assert refused.returncode == 2
    assert "another layout of histories" in refused.stderr and "--set name=talk-2" in refused.stderr
    assert srtui(pair_workspace, *command, *talk[:-1], "name=talk-2").returncode == 0
