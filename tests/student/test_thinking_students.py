"""Students whose chat template opens a <think> block: answers are scored, trained and written outside of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from srtui import recipe as recipes
from srtui.evaluation.contestants import Contestant
from srtui.pipeline import prepare
from srtui.pipeline.template_check import compare_templates
from srtui.prompts import template, template_names, template_version
from srtui.sample import Pair
from srtui.store import Store
from srtui.student import Span, SpanBuilder
from tests.conftest import make_workspace, small_recipe
from tests.sql import sql_rows, sql_value
from tests.student.test_tokenizers import STYLES, build

USER = "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}{% else %}<|model|>"
PLAIN = (
    USER + "{{ m.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|model|>{% endif %}"
)
# The block is opened for every answer; finished answers are written without one.
ALWAYS = PLAIN.replace("<|model|>{% endif %}", "<|model|><think>\n{{ '' }}{% endif %}")
# Finished answers have an empty block, at once closed.
EMPTY = ALWAYS.replace("<|model|>{{ m", "<|model|><think>\n\n</think>\n\n{{ m")
SPACED = ALWAYS.replace("<|model|>{{ m", "<|model|><think></think> {{ m")
# The template can be asked not to think: the block is closed, or never opened.
ASKED = ALWAYS.replace(
    "<think>\n{{ '' }}{% endif %}",
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>\n{{ '' }}"
    "{% endif %}{% endif %}",
)
NEVER_OPENED = ALWAYS.replace(
    "<think>\n{{ '' }}{% endif %}", "{{ '</think>' if enable_thinking is false else '<think>' }}{% endif %}"
)
CLOSED = {
    ALWAYS: ("<|model|><think>\n\n</think>\n\n", ""),
    EMPTY: ("<|model|><think>\n\n</think>\n\n", ""),
    SPACED: ("<|model|><think></think>", " "),
    ASKED: ("<|model|><think></think>", ""),
    NEVER_OPENED: ("<|model|></think>", ""),
}
NAMES = ("always", "empty", "spaced", "asked", "never opened")
PAIR = Pair("Say it", "in the rain", "The rain says it.")


def tokenizer_of(source: str, style: str = "qwen", *, named: bool = True) -> Any:
    """``named``: the tags are tokens of their own, unflagged, as those families have them."""
    tokenizer = build(style)
    backend = tokenizer.backend_tokenizer
    turns = [
        AddedToken(name, special=True, normalized=False) for name in ("<|user|>", "<|model|>", "<|end|>")
    ]
    backend.add_special_tokens(turns)
    if named:
        backend.add_tokens([AddedToken(f"<{t}think>", special=False, normalized=False) for t in ("", "/")])
    tokenizer.chat_template = source
    return tokenizer


def builder(source: str, style: str = "qwen", protocol: Any = "default") -> tuple[Any, SpanBuilder]:
    tokenizer = tokenizer_of(source, style)
    return tokenizer, SpanBuilder(tokenizer, template("chat", tokenizer), protocol, 4096)


def text(tokenizer: Any, ids: Any) -> str:
    return str(tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=False))


@pytest.mark.parametrize(
    ("source", "style"),
    [*((source, "qwen") for source in CLOSED), *((ALWAYS, s) for s in STYLES if s != "qwen")],
    ids=[*NAMES, *(s for s in STYLES if s != "qwen")],
)
def test_an_answer_stands_outside_of_the_thinking(source: str, style: str) -> None:
    """Under IFD, and a guessed instruction under r-IFD."""
    closed, space = CLOSED[source]
    tokenizer, spans = builder(source, style)
    for way, target in ((spans.forward, f"{PAIR.response}<|end|>"), (spans.reverse, "Say it\nin the rain")):
        span, alone = way(PAIR)
        assert isinstance(span, Span) and isinstance(alone, Span)
        prompt, asked = (text(tokenizer, ids) for ids in (span.ids[: -span.target], span.ids[-span.target :]))
        if style == "llama":  # it puts a space behind each name
            prompt, asked = prompt.replace("> \n", ">\n"), asked.removeprefix(" ")
        assert prompt.endswith(closed) and asked == space + target
        assert alone.ids[-alone.target :] == span.ids[-span.target :]


@pytest.mark.parametrize("protocol", ["default", "paper"])
@pytest.mark.parametrize("source", CLOSED, ids=NAMES)
def test_what_is_asked_is_what_was_trained(source: str, protocol: str) -> None:
    """Evaluation and chat ask by the very prompt that stands before an answer in scoring and training."""
    tokenizer, spans = builder(source, protocol=protocol)
    prompt, ids = spans.conversation([(PAIR.instruction, PAIR.input)])
    span, _ = spans.forward(PAIR)
    assert isinstance(span, Span)
    trained = span.ended(spans.end_of_turn, spans.max_length)
    assert list(trained.ids[: -trained.target]) == ids
    assert (
        prompt.endswith(CLOSED[source][0])
        and template("chat", tokenizer).forward("Say it", "in the rain") == prompt
    )
    later, _ = spans.conversation([("Say it", ""), ("It.", ""), ("Again", "")])
    assert later.endswith("Again" + CLOSED[source][0])


@pytest.mark.parametrize("source", CLOSED, ids=NAMES)
def test_data_spells_no_end_of_thinking(source: str) -> None:
    tokenizer, spans = builder(source)
    tags = {tokenizer.convert_tokens_to_ids(t) for t in ("<think>", "</think>")}
    plain, _ = spans.forward(PAIR)
    spelled, _ = spans.forward(PAIR._replace(response="<think>hm</think> " + PAIR.response))
    assert isinstance(plain, Span) and isinstance(spelled, Span)
    assert [i for i in spelled.ids if i in tags] == [i for i in plain.ids if i in tags] != []


def test_only_these_students_are_scored_anew() -> None:
    """Under another template version; and of their stored losses those without a prompt stay true."""
    usual = template_version("chat")
    assert template("chat", tokenizer_of(PLAIN)).version == usual
    # Asked for thoughts, or thinking by itself: no block is open where the answer begins.
    thinks = PLAIN.replace("<|model|>{{ m", "<|model|><think>\n\n</think>\n\n{{ m")
    assert template("chat", tokenizer_of(thinks)).version == usual
    versions = {template("chat", tokenizer_of(source)).version for source in CLOSED}
    assert usual not in versions and len(versions) == 3  # two pairs of them are closed alike
    assert template("alpaca", tokenizer_of(ALWAYS)).version == template_version("alpaca")
    (closed, alone), (plain, plain_alone) = (builder(source)[1].forward(PAIR) for source in (ALWAYS, PLAIN))
    assert alone == plain_alone and closed != plain


@pytest.fixture(scope="module")
def student(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with the real student's tokenizer, and a template that opens a block."""
    from tests.training.conftest import make_tiny

    return make_tiny(student_folder, tmp_path_factory.mktemp("thinking") / "student")


def with_template(student: Path, folder: Path, source: str) -> Path:
    shutil.copytree(student, folder)
    (folder / "chat_template.jinja").write_text(source)
    return folder


@pytest.mark.model
def test_both_contestants_are_asked_so(student: Path, tmp_path: Path) -> None:
    """The tuned student as it was trained, and its base by the same prompt; and answers of before, which
    were asked otherwise, are not taken for these."""
    from srtui.evaluation.writing import AnswerSettings, StudentWriter, answer_key

    turns = (("Name a fruit.", ""),)
    opens = with_template(student, tmp_path / "opens", ALWAYS)
    plain = with_template(student, tmp_path / "plain", PLAIN)
    for chosen in ("chat", ""):
        one, other = (
            Contestant(path.name, "student", path, "sha", quantization="f32", template=chosen)
            for path in (opens, plain)
        )
        assert other.template_version == "+".join(
            template_version(n) for n in ([chosen] if chosen else ["chat", "alpaca"])
        )
        assert one.template_version != other.template_version
        assert answer_key(one, AnswerSettings(), turns) != answer_key(other, AnswerSettings(), turns)
        assert Contestant(
            "a", "student", opens, "sha", template="alpaca"
        ).template_version == template_version("alpaca")
    writer = StudentWriter(one, AnswerSettings(max_tokens=4))
    ((_, answer),) = writer.write([turns], lambda: False)
    writer.close()
    assert answer.prompt == "<|user|>Name a fruit.<|model|><think>\n\n</think>\n\n"


@pytest.mark.model
def test_templates_are_compared_with_the_block_closed(student: Path, tmp_path: Path) -> None:
    """`srtui scores --templates`, and every score of a run: under a setting of its own, where a student
    without a block keeps the one that it has."""
    workspace = make_workspace(tmp_path / "ws")
    versions, losses = {}, []
    for name, source in (("plain", PLAIN), ("opens", ALWAYS)):
        with_template(student, workspace.models / name, source)
        path = small_recipe(workspace, 3, student={"model": name, "quantization": "f32"})
        with Store(workspace.store_path) as store:
            run, _ = prepare(workspace, store, recipes.load(path, [f"name={name}"]), path)
            rows = compare_templates(workspace, store, run, 3, lambda line: None)
            versions[name] = dict(
                sql_rows(
                    store, "SELECT template, template_version FROM scoring_setting WHERE student = ?", (name,)
                )
            )
            losses.append(int(sql_value(store, "SELECT count(*) FROM span_loss")))
        assert [row.scored for row in rows if row.template == "chat"] == [3]
    assert versions["plain"] == {n: template_version(n) for n in template_names()}
    assert {n for n in template_names() if versions["opens"][n] != versions["plain"][n]} == {"chat"}
    # The same weights: what the store lacks for the second student are three losses behind its prompt.
    assert losses[1] == losses[0] + 3
