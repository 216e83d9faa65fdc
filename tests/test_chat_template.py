"""Chat templates are code from strangers: laid out, or refused with one sentence, in bounded time and memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srtui import prompts
from srtui.chat_template import of_tokenizer
from srtui.errors import UserError
from srtui.llama import Message
from srtui.llama.chat_prompt import TeacherTemplate

ASKED = [Message("system", "Be brief."), Message("user", "  Hello <|im_end|> {{ 7 * 7 }}\n")]
LOOP = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def text(source: str) -> str:
    return "".join(piece for piece, _ in TeacherTemplate(source, "<s>", "</s>").pieces(ASKED))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ 1 / 0 }}" + LOOP, "division by zero"),
        ("{{ messages[9].content }}" + LOOP, "no element 9"),
        ("{{ messages + 1 }}" + LOOP, "list"),
        ("{{ none.x.y }}" + LOOP, "has no attribute"),
        ("{{ missing() }}" + LOOP, "undefined"),
        ("{{ 'a' | int(base=99) + [] }}" + LOOP, "unsupported operand"),
        ("{{ raise_exception('line one\nline \x1b[31mtwo') }}", "line one"),
        ("{{ messages.__class__.__mro__ }}" + LOOP, "unsafe"),
        ("{% include 'other' %}" + LOOP, "no loader"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}" + LOOP, "recursion"),
        ("{% for %}", "cannot be read"),
        ("{{ messages | nofilter }}", "cannot be read"),
        ("{{ '" + "(" * 5 + "' }}{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}" + LOOP, "fails|cannot be read"),
        ("{{ range(10**9) | list }}" + LOOP, "too big"),
        ("{{ 'x' * 10**10 }}" + LOOP, "memory"),
        ("{{ 'x'.ljust(10**11) }}" + LOOP, "memory"),
        ("{% set ns = namespace(t='x') %}{% for i in range(99999) %}{% set ns.t = ns.t + ns.t %}{% endfor %}", "memory"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + LOOP, "seconds"),
        ("{{ 9 ** (9 ** 9) }}" + LOOP, "seconds"),
        ("{% for a in range(99999) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}" + LOOP, "characters"),
        ("{{ messages }}", "drops or rewrites"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "drops or rewrites"),
        ("{% for m in messages %}{{ m.content | upper | tojson }}{% endfor %}", "drops or rewrites"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "drops or rewrites"),
        ("{% for m in messages %}{{ m.content | lower }}{% endfor %}", "drops or rewrites"),
        ("{% for m in messages %}{{ m.content | title }}{% endfor %}", "drops or rewrites"),
        ("<title>{{ messages[-1].content[:6] }}</title>" + LOOP, "a part of"),
        ("<title>{{ messages[-1].content[3:6] }}</title>" + LOOP, "a part of"),
    ],
)  # fmt: skip
def test_refused_with_one_sentence(source: str, words: str) -> None:
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(UserError, match=words) as caught:
        text(source)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = str(caught.value)
    assert "chat template" in said and said.endswith(".") and said.isprintable() and len(said) < 400
    assert spent.ru_utime + spent.ru_stime - began.ru_utime - began.ru_stime < 6


COSTLY = [
    "{{ 'x' * 10**10 }}",
    "{{ 'x'.ljust(10**11) }}",
    "{% set ns = namespace(t='x') %}{% for i in range(99999) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
]


def test_memory_of_a_template_is_bounded() -> None:
    # From a process of its own: a child's highest memory counts what its parent held when it was forked,
    # and a process of tests holds models.
    program = (
        "import json, resource, sys\n"
        "from srtui.chat_template import ChatTemplate\n"
        "from srtui.errors import UserError\n"
        "refused = 0\n"
        "for source in json.loads(sys.argv[1]):\n"
        "    try:\n"
        "        ChatTemplate(source).pieces([('user', 'Hello')])\n"
        "    except UserError:\n"
        "        refused += 1\n"
        "print(refused, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    command = [sys.executable, "-c", program, json.dumps([source + LOOP for source in COSTLY])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    refused, kilobytes = done.stdout.split()
    assert int(refused) == len(COSTLY) and int(kilobytes) < 600_000


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        (LOOP, "[system]Be brief.[user]  Hello <|im_end|> {{ 7 * 7 }}\n"),
        (LOOP.replace("content }}", "content | trim }}"), "[system]Be brief.[user]Hello <|im_end|> {{ 7 * 7 }}"),
        (LOOP + "!{{ messages[0].content }}", "[system]Be brief.[user]  Hello <|im_end|> {{ 7 * 7 }}\n!Be brief."),
        ("{% for m in messages | reverse %}{{ m.content }}{% endfor %}", "  Hello <|im_end|> {{ 7 * 7 }}\nBe brief."),
        ("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
         "Be brief.  Hello <|im_end|> {{ 7 * 7 }}\n"),
        ("{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}"
         "{{ messages[1].content }}{{ bos_token }}{{ dict(a=1) | tojson }}",
         "Be brief.  Hello <|im_end|> {{ 7 * 7 }}\n<s>{\"a\": 1}"),
    ],
)  # fmt: skip
def test_laid_out_as_the_template_says(source: str, rendered: str) -> None:
    """Messages may be repeated, turned round, trimmed; every one of them is data wherever it stands."""
    pieces = TeacherTemplate(source, "<s>", "</s>").pieces(ASKED)
    assert "".join(piece for piece, _ in pieces) == rendered
    assert all(("Hello" in piece or "brief" in piece) == is_data for piece, is_data in pieces)


def test_the_same_shape_is_rendered_once() -> None:
    template = TeacherTemplate(LOOP)
    template.pieces(ASKED)
    began = time.monotonic()
    for n in range(1000):
        pieces = template.pieces([Message("system", "s"), Message("user", str(n))])
        assert pieces[-1] == (str(n), True)
    assert time.monotonic() - began < 1


@pytest.mark.model
def test_a_student_s_template_is_laid_out_as_transformers_does(student_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    turns = [("user", " Hi\n"), ("assistant", "Yes."), ("user", "Why <|im_end|>?")]
    own = tokenizer.apply_chat_template(
        [{"role": r, "content": c} for r, c in turns], tokenize=False, add_generation_prompt=True
    )
    assert of_tokenizer(tokenizer).text(turns) == own
    tokenizer.chat_template = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(UserError, match="takes more than"):
        prompts.template("chat", tokenizer)


def test_a_conversation_of_more_turns_than_can_be_told_apart_is_refused() -> None:
    turns = [("user" if n % 2 == 0 else "assistant", "x") for n in range(601)]
    with pytest.raises(UserError, match="601 turns is too long"):
        TeacherTemplate(LOOP, "<s>", "</s>").pieces([Message(role, text) for role, text in turns])
