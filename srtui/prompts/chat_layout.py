"""Conversations by a student's chat template: as they are asked, and the turns before a question as they stand there.

Templates lay a turn out by what follows it. Qwen3 closes an empty thought in front of the last answer, and leaves it
away where another question follows; Gemma writes a system text into the turn of the user behind it, and Mistral
into that of the last one. So a history is never laid out by itself: it is taken out of the prompt in which a question
follows it, and whatever is known with it is known with the same tokens (docs/method.md, Conversations).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from srtui.chat_template import ChatTemplate, Placed, TooCostly
from srtui.errors import UserError
from srtui.prompts.answer_place import Piece
from srtui.sample import Role, Turn

_SYSTEM, _ASKED, _ANSWERED = Turn("system", "s"), Turn("user", "u"), Turn("assistant", "a")
HISTORIES = (
    (_SYSTEM,),
    (_ASKED, _ANSWERED),
    (_SYSTEM, _ASKED, _ANSWERED),
    (_ASKED, _ANSWERED, _ASKED, _ANSWERED),
)
"""Histories by which it is seen how a template lays them out."""


class ChatLayout:
    """How ``chat`` lays out turns; where it has no place for system texts, each stands in front of the user turn
    behind it, as Gemma's users write it. Neighbours of one role are one turn."""

    def __init__(self, chat: ChatTemplate) -> None:
        self._chat = chat
        self._without_system: set[tuple[Role, ...]] = set()  # what the template refused as it is

    def pieces(self, turns: Iterable[Turn], *, to_answer: bool = True) -> list[Piece]:
        """(text, is data) of the conversation, up to where the assistant begins to write if ``to_answer``. Raises
        UserError for what the template does not lay out."""
        _, placed = self._placed(turns, to_answer=to_answer)
        return [(text, message is not None) for text, message in placed]

    def history(self, turns: Sequence[Turn]) -> list[Piece] | None:
        """``turns`` as they stand in front of a question, up to the end of the last one: where the question stands in
        that same turn, up to the question. None where a part of them stands behind it.

        Raises UserError where the template does not lay them out with a question behind them.
        """
        asked = Turn("user", "q")
        whole, placed = self._placed([*turns, asked], to_answer=True)
        question = len(whole) - 1
        start = next(n for n, (_, message) in enumerate(placed) if message == question)
        if any(message not in (None, question) for _, message in placed[start:]):
            return None
        before = placed[:start]
        lead = placed[start][0].removesuffix(asked.text)
        pieces = [(text, message is not None) for text, message in before]
        if lead:  # a system text that has become a part of the question's turn
            return [*pieces, (lead, True)]
        if before and before[-1][1] is None and (end := self._end_of(whole[:-1], before)) is not None:
            pieces[-1] = (end, False)
        return [piece for piece in pieces if piece[0]]

    def _end_of(self, turns: Sequence[Turn], before: Sequence[Placed]) -> str | None:
        """What of the text behind the last of ``turns`` is its own end and not the question's beginning, as it stands
        where nothing follows; None where that is not to be seen there."""
        try:
            alone = self._chat.placed(turns, to_answer=False)
        except UserError:
            return None
        if [m for _, m in alone if m is not None][-1:] != [m for _, m in before if m is not None][-1:]:
            return None
        end = alone[-1][0] if alone[-1][1] is None else ""
        return end if before[-1][0].startswith(end) else None

    def _placed(self, turns: Iterable[Turn], *, to_answer: bool) -> tuple[list[Turn], list[Placed]]:
        """The turns as the template is given them, and what it makes of them."""
        whole = joined(turns)
        roles = tuple(turn.role for turn in whole)
        if roles not in self._without_system:
            try:
                return whole, self._chat.placed(whole, to_answer=to_answer)
            except TooCostly:
                raise
            except UserError:
                if "system" not in roles:
                    raise
                self._without_system.add(roles)
        whole = joined(Turn("user", turn.text) if turn.role == "system" else turn for turn in whole)
        return whole, self._chat.placed(whole, to_answer=to_answer)


def joined(turns: Iterable[Turn]) -> list[Turn]:
    """The turns, neighbours of one role as one with an empty line between them."""
    whole: list[Turn] = []
    for turn in turns:
        if whole and whole[-1].role == turn.role:
            whole[-1] = Turn(turn.role, f"{whole[-1].text}\n\n{turn.text}")
        else:
            whole.append(turn)
    return whole
