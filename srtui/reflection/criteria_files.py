"""Criteria: the wording of a reflection, as TOML files that a user can copy and edit."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from srtui.errors import UserError
from srtui.prompts import TeacherPrompts
from srtui.prompts.prompt_set import fill, load_words, names_in
from srtui.reflection.parsing import OwnWording, placeholders
from srtui.sample import Pair, Role, Target, Turn, digest

HISTORY_HEADING = "The conversation so far:\n"
"""What stands in front of a history where a criteria file has no place for it."""
_OF_HISTORIES = ("system_with_history", "user_with_history")
ROLES: dict[Role, str] = {"system": "System: ", "user": "User: ", "assistant": "Assistant: "}
"""What stands in front of each turn of a history that the teacher sees."""


class Criteria(BaseModel):
    """One criteria file. The system text comes before anything of a sample, so that all requests of
    a stage share it as a prefix that is evaluated once. Samples with an input may have words of their
    own (``system_with_input``, ``user_with_input``), and so may those with a history (``system_with_history``,
    ``user_with_history``, which wins). A history goes where ``{history}`` stands; where no words have that
    place, it stands in front of the others, under ``HISTORY_HEADING``. ``verbatim`` words are asked to the letter, with the
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
    system_with_history: str | None = None
    user_with_history: str | None = None
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
        """The author's version, with a hash of the words: a forgotten version bump still shows. Words for
        histories are no part of it: what has none is asked in the others."""
        return self._version(self.model_dump_json(exclude_defaults=True, exclude=set(_OF_HISTORIES)))

    @property
    def prompt_version_with_history(self) -> str:
        """The same of what a pair with a history is asked in."""
        history_words = HISTORY_HEADING + "".join(ROLES.values())
        return self._version(self.model_dump_json(exclude_defaults=True) + history_words)

    def _version(self, words: str) -> str:
        return f"{self.rewrites}-{self.version}-{digest(words).hex()[:8]}"

    @property
    def shows_input(self) -> bool:
        """Whether the teacher sees a sample's input."""
        return bool({"input", "input_block"} & names_in(self.user_with_input or self.user))

    def system_text(self, pair: Pair | None = None) -> str:
        """The system message, with the criteria in it; that for samples with an input where ``pair`` has one
        and the file has such words."""
        text = self.system_with_input if pair and pair.input.strip() else None
        if pair and pair.history and self.system_with_history is not None:
            text = self.system_with_history
        if self.verbatim:
            return self.system if text is None else text
        criteria = "\n".join(f"- {c}" for c in self.criteria)
        return fill(self.system if text is None else text, criteria=criteria).strip()

    def user_text(self, pair: Pair) -> str:
        """The user message about this pair, filled in."""
        if self.verbatim:
            pair = Pair(pair.instruction.strip(), pair.input.strip(), pair.response.strip(), pair.history)
        block = fill(self.input_block, input=pair.input) if pair.input else ""
        text = self.user_with_input if pair.input.strip() else None
        if pair.history and self.user_with_history is not None:
            text = self.user_with_history
        text = self.user if text is None else text
        history = history_text(pair.history)
        filled = fill(
            text,
            instruction=pair.instruction,
            input=pair.input,
            input_block=block,
            response=pair.response,
            history=history,
        )
        if not self.verbatim:
            filled = filled.strip()
        if pair.history and "history" not in names_in(text):
            filled = f"{HISTORY_HEADING}{history}\n\n{filled}"
        return filled

    def own_wording(self) -> OwnWording:
        """Our own wording, by which an echo of the prompt is recognised."""
        systems = [self.system_text(), self.system_with_input or "", self.system_with_history or ""]
        # A user message may hold words of ours too; a line with a placeholder is a sample's.
        users = f"{self.user}\n{self.user_with_input or ''}\n{self.user_with_history or ''}".splitlines()
        user_lines = [line for line in users if not names_in(line)]
        lines = [
            line.strip()
            for line in [*"\n".join(systems).splitlines(), *user_lines]
            if len(line.strip()) >= 40
        ]
        return OwnWording(list(dict.fromkeys(lines)), placeholders("\n".join([*systems, *user_lines])))


def history_text(history: Iterable[Turn]) -> str:
    """A history as the teacher sees it: whose turn, what was said, an empty line between turns. One that goes on
    begins with the same text, so that a conversation's requests share it."""
    return "\n\n".join(f"{ROLES[turn.role]}{turn.text}" for turn in history)


def load_criteria(name: str, target: Target, near: Path | None = None) -> Criteria:
    """The shipped criteria called ``name``, or the TOML file of that path (relative to ``near``).

    Raises UserError that names the file and the field.
    """

    def try_out(criteria: Criteria, source: str) -> None:
        before = (Turn("user", "q"),)
        for pair in (
            Pair("i", "n", "r"),
            Pair("i", "", "r"),
            Pair("i", "n", "r", before),
            Pair("i", "", "r", before),
        ):
            criteria.user_text(pair)
            criteria.system_text(pair)
        if criteria.target != target:
            raise UserError(
                f"{source} rewrites the {criteria.target}, but the recipe uses it for the {target}; correct reflection.{target}_criteria."
            )

    criteria = load_words(Criteria, name, files("srtui.reflection") / "criteria", try_out, near)
    if criteria is None:
        raise UserError(
            f"There are no criteria {name!r}: name a shipped set (instruction, response) or a .toml file."
        )
    return criteria
