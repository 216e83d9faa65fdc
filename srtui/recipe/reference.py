"""The keys of a recipe, described: what ``srtui recipes`` prints and ``docs/recipes.md`` holds."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from srtui.errors import UserError
from srtui.recipe.section import Section
from srtui.recipe.settings import Recipe


@dataclass(frozen=True)
class RecipeKey:
    """One key. ``default`` and ``values`` are as TOML writes them; what is empty is not known or not there.

    ``name`` is ``section.key``, as ``--set`` takes it; ``what`` says what it does, ``change`` when to give it
    another value, ``unit`` what it counts, ``source`` where the default is from.
    """

    name: str
    default: str
    values: str
    unit: str
    what: str
    change: str
    source: str

    @property
    def first_sentence(self) -> str:
        """What it does, for a table."""
        return self.what.partition(". ")[0].removesuffix(".") + "."


def sections() -> dict[str, str]:
    """By section (the recipe itself is ""), what it is about."""
    named = {"": Recipe} | {
        name: field.annotation
        for name, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }
    return {name: inspect.getdoc(section) or "" for name, section in named.items()}


def recipe_keys() -> list[RecipeKey]:
    """All keys: those of the recipe itself, then section by section, in the order of the settings."""
    return list(_keys_of(Recipe, "")) + [
        key
        for name, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        for key in _keys_of(field.annotation, f"{name}.")
    ]


def find_keys(name: str) -> list[RecipeKey]:
    """The key called ``section.key``, or all keys of a section. Raises UserError, with the nearest names."""
    keys = recipe_keys()
    chosen = [k for k in keys if k.name == name] or [k for k in keys if k.name.startswith(f"{name}.")]
    if chosen:
        return chosen
    names = [k.name for k in keys] + [s for s in sections() if s]
    same_word = [n for n in names if n.rpartition(".")[2] == name.rpartition(".")[2]]
    near = same_word or difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if not near:  # the word without its section, with a typing error in it
        words = {n.rpartition(".")[2]: n for n in names}
        near = [words[w] for w in difflib.get_close_matches(name.rpartition(".")[2], words, n=3, cutoff=0.6)]
    raise UserError(
        f"{name} is not a key of a recipe; "
        + (f"did you mean {' or '.join(near)}?" if near else "srtui recipes lists them all.")
    )


def markdown() -> str:
    """``docs/recipes.md``: one table a section."""
    lines = [
        "# The keys of a recipe",
        "",
        "Made by `srtui recipes --markdown` from `srtui/recipe/`; a test compares the two. `srtui recipes KEY` prints "
        "one key, `srtui run RECIPE --set section.key=value` gives it another value for one run. Unknown keys and "
        "wrong values are refused with the nearest valid key.",
        "",
        '"The paper" is Li et al. 2024 (arXiv 2402.10110), "QLoRA" Dettmers et al. 2023 (arXiv 2305.14314), "the '
        "released scripts\" are the authors' (docs/method.md).",
    ]
    keys = recipe_keys()
    for section, about in sections().items():
        lines += ["", f"## `[{section}]`" if section else "## The recipe itself", "", _paragraphs(about), ""]
        lines += [
            "| key | default | values | what it does | when to change it | source of the default |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for key in keys:
            if key.name.rpartition(".")[0] == section:
                cells = (
                    f"`{key.name.rpartition('.')[2]}`",
                    f"`{key.default}`" if key.default else "",
                    f"{key.values}; {key.unit}" if key.unit else key.values,
                    key.what,
                    key.change,
                    key.source,
                )
                lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _paragraphs(doc: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in doc.split("\n\n"))


def _keys_of(section: type[Section], prefix: str) -> Iterator[RecipeKey]:
    schema = section.model_json_schema()["properties"]
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            continue
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        yield RecipeKey(
            name=prefix + name,
            default=_default(field),
            values=_values(schema[name]),
            unit=str(extra.get("unit", "")),
            what=field.description or "",
            change=str(extra.get("change", "")),
            source=str(extra.get("source", "")),
        )


def _default(field: FieldInfo) -> str:
    if field.is_required() or field.default is None:
        return ""
    return json.dumps(field.default, ensure_ascii=False)


def _values(schema: dict[str, Any]) -> str:
    """What may be given, in words, from a key's JSON schema."""
    if "anyOf" in schema:
        return " or ".join(_values(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return " or ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    if "$ref" in schema:
        return "the path of a file"
    kind = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}.get(
        schema.get("type", ""), "text"
    )
    return kind + _limits(schema)


def _limits(schema: dict[str, Any]) -> str:
    """Bounds in words; those of a 32-bit integer are nobody's concern."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high = schema.get("maximum")
    if high is not None and high >= 2**31 - 1:
        high = None
    words = ""
    if low is not None:
        words += f" from {low:g}"
    elif above is not None:
        words += f" above {above:g}"
    if high is not None:
        words += f" to {high:g}" if low is not None else f", at most {high:g}"
    return words
