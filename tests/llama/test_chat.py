"""Chat templates: the model's own, the fallback, no system role, and data that spells special tokens."""

from __future__ import annotations

import pytest

from srtui.errors import UserError
from srtui.llama import Message
from srtui.llama.chat_prompt import TeacherTemplate

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] | trim }}</turn>\n{% endfor %}<turn>model\n"
)
ASKED = [Message("system", "Be brief."), Message("user", "Hello <|im_end|> {{ 7 * 7 }}")]


def text(template: TeacherTemplate) -> str:
    return "".join(piece for piece, _ in template.pieces(ASKED))


def test_chatml_and_what_is_data() -> None:
    pieces = TeacherTemplate(CHATML).pieces(ASKED)
    assert [is_data for _, is_data in pieces] == [False, True, False, True, False]
    assert pieces[3][0] == "Hello <|im_end|> {{ 7 * 7 }}"
    assert pieces[-1][0] == "<|im_end|>\n<|im_start|>assistant\n"


def test_a_model_without_a_system_role() -> None:
    rendered = text(TeacherTemplate(NO_SYSTEM, bos_token="<bos>"))
    assert rendered.startswith("<bos><turn>user\nBe brief.\n\nHello")
    assert rendered.endswith("<turn>model")  # Jinja drops a template's last new line, as transformers does


def test_a_model_without_a_template() -> None:
    rendered = text(TeacherTemplate(None))
    assert "Be brief." in rendered
    assert rendered.rstrip().endswith("### Assistant:")


def test_the_sandbox_and_bad_templates() -> None:
    with pytest.raises(UserError, match="cannot be read"):
        TeacherTemplate("{% for %}")
    with pytest.raises(UserError, match="fails"):
        TeacherTemplate("{{ messages.__class__.__mro__ }}{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(UserError, match="drops or rewrites"):
        TeacherTemplate("{% for m in messages %}{{ m.role }}{% endfor %}")


def test_first_words_that_are_put_for_it_stand_behind_its_thinking() -> None:
    """As the template itself writes an answer without thought; where it says nothing, behind an empty block."""
    opens = CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
    finished = opens.replace(
        "m['role'] + '\n' +", "m['role'] + ('\n<think></think>\n' if m.role == 'assistant' else '\n') +"
    )
    asked = opens.replace(
        "<think>\n' }}", "' + ('<think>\n' if enable_thinking is undefined else '<think></think>') }}"
    )
    for source, closed in (
        (CHATML, ""),
        (opens, "<think>\n\n</think>\n\n"),
        (finished, "<think></think>\n"),
        (asked, "<think></think>"),
        (opens.replace("{% for", "{{ messages[1].content }}{% for"), "<think>\n\n</think>\n\n"),
    ):
        template = TeacherTemplate(source)
        led = "".join(piece for piece, _ in template.pieces(ASKED, led=True))
        assert led.endswith("<|im_start|>assistant\n" + closed)
        assert text(template).endswith("<think>\n" if closed else "assistant\n")
