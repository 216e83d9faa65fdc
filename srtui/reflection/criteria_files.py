"""Criteria: the wording of a reflection, as TOML files that a user can copy and edit."""

from __future__ import annotations

import string
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from srtui.errors import UserError
from srtui.files import parse_toml, read_text
from srtui.sample import Pair, digest

Aim = Literal["instruction", "response"]


class Criteria(BaseModel):
    """One criteria file. The system text comes before anything of a sample, so that all requests of
    a stage share it as a prefix that is evaluated once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    rewrites: Aim
    criteria: list[str]
    system: str
    user: str
    input_block: str

    @property
    def prompt_version(self) -> str:
        """The author's version, with a hash of the words: a forgotten version bump still shows."""
        return f"{self.rewrites}-{self.version}-{digest(self.model_dump_json()).hex()[:8]}"

    def system_text(self) -> str:
        return _fill(self.system, criteria="\n".join(f"- {c}" for c in self.criteria)).strip()

    def user_text(self, pair: Pair) -> str:
        block = _fill(self.input_block, input=pair.input) if pair.input else ""
        return _fill(
            self.user, instruction=pair.instruction, input_block=block, response=pair.response
        ).strip()

    def fixed_lines(self) -> list[str]:
        """Lines of our own wording, by which an echo of the prompt is recognised."""
        return [line.strip() for line in self.system_text().splitlines() if len(line.strip()) >= 40]


def _fill(text: str, **values: str) -> str:
    """Replace each {name} once over, so that braces in a sample's own text stay as they are."""
    parts = []
    for literal, field, _, _ in string.Formatter().parse(text):
        parts.append(literal)
        if field is not None:
            parts.append(values[field])
    return "".join(parts)


def load_criteria(name: str, aim: Aim, near: Path | None = None) -> Criteria:
    """The shipped criteria called ``name``, or the TOML file of that path (relative to ``near``).

    Raises UserError that names the file and the field.
    """
    shipped = files("srtui.reflection") / "criteria" / f"{name}.toml"
    path = Path(name)
    if near is not None and not path.is_absolute():
        path = near / path
    if path.suffix == ".toml":
        text, source = read_text(path), str(path)
    elif "/" not in name and shipped.is_file():
        text, source = shipped.read_text(encoding="utf-8"), f"{name}.toml"
    else:
        raise UserError(
            f"There are no criteria {name!r}: name a shipped set (instruction, response) or a .toml file."
        )
    try:
        criteria = Criteria.model_validate(parse_toml(text, source))
        criteria.user_text(Pair("i", "n", "r"))
        criteria.system_text()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{source}: a text has the placeholder {error}, which srtui does not fill."
        ) from error
    if criteria.rewrites != aim:
        raise UserError(f"{source} rewrites the {criteria.rewrites}, but the recipe uses it for the {aim}.")
    return criteria
