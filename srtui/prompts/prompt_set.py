"""Prompt files: templates, the reverse prompt, the teacher's prompts and its sampling, as TOML that a
recipe names with ``prompts = "FILE"``. What a file leaves out stays srtui's own."""

from __future__ import annotations

import string
import tomllib
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from srtui.errors import UserError
from srtui.fields import mistake
from srtui.files import parse_toml, read_text

_Words = TypeVar("_Words", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TemplateText(_Part):
    """A student's template: the text before a response, for instructions with and without an input."""

    with_input: str
    without_input: str

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        _check("with_input", self.with_input, {"instruction", "input"}, needs={"instruction", "input"})
        _check("without_input", self.without_input, {"instruction"}, needs={"instruction"})
        if _spaces(self.with_input) != _spaces(self.without_input):
            raise ValueError("with_input and without_input must end in the same number of spaces")
        return self

    @property
    def answer_prefix(self) -> str:
        """The spaces at its end: they belong to the response."""
        return _spaces(self.without_input)

    def render(self, instruction: str, input: str) -> str:
        """The text before the response, without the spaces that belong to the response."""
        text = self.with_input if input else self.without_input
        return fill(text[: len(text) - len(self.answer_prefix)], instruction=instruction, input=input)


class Reverse(_Part):
    """The reverse prompt of r-IFD: ``instruction`` and ``input`` go through the student's template, and one
    of them holds the ``{response}``; with an empty ``input`` that is the template without input.

    ``target`` is what r-IFD predicts, made of ``{instruction}`` and ``{input}``. Where it is not given
    the protocol decides: the input on the next line (default), or directly behind (paper).
    """

    instruction: str
    input: str = ""
    target: str | None = None

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        _check("instruction", self.instruction, {"response"})
        _check("input", self.input, {"response"})
        if not {"response"} & (names_in(self.instruction) | names_in(self.input)):
            raise ValueError("instruction or input must hold {response}")
        if self.target is not None:
            _check("target", self.target, {"instruction", "input"}, needs={"instruction", "input"})
        return self


class Wording(_Part):
    """One request to the teacher: ``{instruction}``, ``{input}`` and ``{response}`` are the sample's."""

    system: str
    user: str

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        _check("system", self.system, set())
        _check("user", self.user, {"instruction", "input", "response"}, needs={"instruction", "response"})
        return self


class TeacherPrompts(_Part):
    """What the teacher is asked, for samples with and without an input. Without ``with_input`` every
    sample is asked about in the same words, and its input is not shown unless they hold ``{input}``."""

    without_input: Wording
    with_input: Wording | None = None


class TeacherWordings(_Part):
    """What the teacher is asked, by target; None keeps the words of the criteria."""

    instruction: TeacherPrompts | None = None
    response: TeacherPrompts | None = None


class PromptSet(_Part):
    """One prompts file. ``sampling`` holds defaults for the recipe's ``[sampler]``."""

    name: Annotated[str, Field(min_length=1, max_length=80)] = "prompts"
    templates: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$")], TemplateText] = {}
    reverse: Reverse | None = None
    teacher: TeacherWordings = TeacherWordings()
    sampling: dict[
        Literal["temperature", "top_p", "top_k", "min_p", "repeat_penalty"], Annotated[float, Field(ge=0)]
    ] = {}

    @model_validator(mode="after")
    def _chat_is_the_tokenizers(self) -> Self:
        if "chat" in self.templates:
            raise ValueError("templates.chat is the student's own chat template; give yours another name")
        return self


def fill(text: str, /, **values: str) -> str:
    """Replace each {name} once over, so that braces in a sample's own text stay as they are."""
    parts = []
    for literal, field in _literals_and_names(text):
        parts.append(literal)
        if field is not None:
            parts.append(values[field])
    return "".join(parts)


def names_in(text: str) -> set[str]:
    """The placeholders of a text."""
    return {field for _, field in _literals_and_names(text) if field is not None}


@lru_cache(256)  # the same few texts are filled for every sample
def _literals_and_names(text: str) -> tuple[tuple[str, str | None], ...]:
    return tuple((literal, field) for literal, field, _, _ in string.Formatter().parse(text))


def read_prompts(path: Path) -> PromptSet:
    """Read a prompts file; raises UserError that names the file and the field."""
    data = parse_toml(read_text(path), str(path))
    return parse_prompts({"name": path.stem, **data}, str(path))


def load_words(
    model: type[_Words],
    name: str,
    shipped: Traversable,
    try_out: Callable[[_Words, str], object],
    near: Path | None = None,
) -> _Words | None:
    """A file of words for a language model: the TOML file ``name``, or a shipped one of that name.

    Args:
        model: what the file must be.
        name: a path that ends in .toml, or the name of a shipped file without its ending.
        shipped: the folder of the shipped ones.
        try_out: fills the words in once, given them and the file's name; a KeyError or ValueError says which
            placeholder is not filled.
        near: the folder that a path is relative to; the current one where it is not given.

    Returns:
        The words, or None where there is neither such a file nor a shipped one.

    Raises UserError that names the file and the field.
    """
    path = Path(name) if near is None else near / name
    shipped_file = shipped / f"{name}.toml"
    if path.suffix == ".toml":
        text, source = read_text(path), str(path)
    elif "/" not in name and shipped_file.is_file():
        text, source = shipped_file.read_text(encoding="utf-8"), f"{name}.toml"
    else:
        return None
    try:
        words = model.model_validate(parse_toml(text, source))
    except ValidationError as error:
        raise UserError(f"{source}: {mistake(error, model)}") from error
    try:
        try_out(words, source)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{source}: a text has the placeholder {error}, which srtui does not fill."
        ) from error
    return words


def parse_prompts(data: Mapping[str, Any], source: str) -> PromptSet:
    """Validate; ``source`` names the data in the error."""
    try:
        return PromptSet.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{source}: {mistake(error, PromptSet)}") from None


@cache
def own_prompts() -> PromptSet:
    """srtui's own."""
    text = (files("srtui.prompts") / "default.toml").read_text(encoding="utf-8")
    return PromptSet.model_validate(tomllib.loads(text))


def _spaces(text: str) -> str:
    return text[len(text.rstrip(" ")) :]


def _check(field: str, text: str, allowed: set[str], needs: set[str] | None = None) -> None:
    try:
        names = names_in(text)
    except ValueError as error:
        raise ValueError(f"{field}: {error}; write {{{{ and }}}} for braces that are text") from None
    shaped = next(
        (f for _, f, spec, conversion in string.Formatter().parse(text) if spec or conversion), None
    )
    if shaped is not None:
        raise ValueError(f"{field}: write {{{shaped}}} alone, without a conversion or a format")
    if names - allowed:
        raise ValueError(
            f"{field}: {{{sorted(names - allowed)[0]}}} is not a placeholder that is filled here"
        )
    if (needs or set()) - names:
        raise ValueError(f"{field} lacks {{{sorted((needs or set()) - names)[0]}}}")
