"""Criteria: the wording of a reflection, as TOML files that a user can copy and edit."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from srtui.errors import UserError
from srtui.prompts import TeacherPrompts
from srtui.prompts.prompt_set import fill, load_words, names_in
from srtui.reflection.parsing import Ours, placeholders
from srtui.sample import Pair, Target, digest


class Criteria(BaseModel):
    """One criteria file. The system text comes before anything of a sample, so that all requests of
    a stage share it as a prefix that is evaluated once. Samples with an input may have words of their
    own (``system_with_input``, ``user_with_input``). ``verbatim`` words are asked to the letter, with the
    white space around a sample's texts taken off, as the released scripts do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    rewrites: Target
    criteria: list[str]
    system: str
    user: str
    input_block: str
    system_with_input: str | None = None
    user_with_input: str | None = None
    verbatim: bool = False

    @classmethod
    def of_prompts(cls, name: str, target: Target, prompts: TeacherPrompts) -> Criteria:
        """The teacher's prompts of a prompts file called ``name``."""
        plain, other = prompts.without_input, prompts.with_input
        return cls(
            version=name,
            rewrites=target,
            criteria=[],
            system=plain.system,
            user=plain.user,
            input_block="",
            system_with_input=other.system if other else None,
            user_with_input=other.user if other else None,
            verbatim=True,
        )

    @property
    def target(self) -> Target:
        """Which side of a pair is rewritten; ``rewrites`` in a file."""
        return self.rewrites

    @property
    def prompt_version(self) -> str:
        """The author's version, with a hash of the words: a forgotten version bump still shows."""
        return (
            f"{self.rewrites}-{self.version}-{digest(self.model_dump_json(exclude_defaults=True)).hex()[:8]}"
        )

    @property
    def shows_input(self) -> bool:
        """Whether the teacher sees a sample's input."""
        return bool({"input", "input_block"} & names_in(self.user_with_input or self.user))

    def system_text(self, pair: Pair | None = None) -> str:
        """The system message, with the criteria in it; that for samples with an input where ``pair`` has one
        and the file has such words."""
        text = self.system_with_input if pair and pair.input.strip() else None
        if self.verbatim:
            return self.system if text is None else text
        criteria = "\n".join(f"- {c}" for c in self.criteria)
        return fill(self.system if text is None else text, criteria=criteria).strip()

    def user_text(self, pair: Pair) -> str:
        """The user message about this pair, filled in."""
        if self.verbatim:
            pair = Pair(*(text.strip() for text in pair))
        block = fill(self.input_block, input=pair.input) if pair.input else ""
        text = self.user_with_input if pair.input.strip() else None
        filled = fill(
            self.user if text is None else text,
            instruction=pair.instruction,
            input=pair.input,
            input_block=block,
            response=pair.response,
        )
        return filled if self.verbatim else filled.strip()

    def ours(self) -> Ours:
        """Our own wording, by which an echo of the prompt is recognised."""
        systems = [self.system_text(), self.system_with_input or ""]
        # A user message may hold words of ours too; a line with a placeholder is a sample's.
        users = f"{self.user}\n{self.user_with_input or ''}".splitlines()
        own = [line for line in users if not names_in(line)]
        lines = [line.strip() for line in [*"\n".join(systems).splitlines(), *own] if len(line.strip()) >= 40]
        return Ours(list(dict.fromkeys(lines)), placeholders("\n".join([*systems, *own])))


def load_criteria(name: str, target: Target, near: Path | None = None) -> Criteria:
    """The shipped criteria called ``name``, or the TOML file of that path (relative to ``near``).

    Raises UserError that names the file and the field.
    """

    def try_out(criteria: Criteria, source: str) -> None:
        for pair in (Pair("i", "n", "r"), Pair("i", "", "r")):
            criteria.user_text(pair)
            criteria.system_text(pair)
        if criteria.target != target:
            raise UserError(
                f"{source} rewrites the {criteria.target}, but the recipe uses it for the {target}."
            )

    criteria = load_words(Criteria, name, files("srtui.reflection") / "criteria", try_out, near)
    if criteria is None:
        raise UserError(
            f"There are no criteria {name!r}: name a shipped set (instruction, response) or a .toml file."
        )
    return criteria
