"""Do training texts hold evaluation prompts? Runs of words that both have, and the same questions.

Thirteen words in a row are what GPT-3 (Brown et al. 2020, appendix C) called an overlap, eight what PaLM (Chowdhery
et al. 2022) and others take for shorter texts. Words are letters and digits without case and combining marks. Scripts that put no space
between words (Chinese, Japanese, Thai, Lao, Burmese, Khmer) are counted by the letter, and a run that has some of
these is as long as some thirteen or eight words of Chinese are: twenty letters, or ten.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from srtui.text import without_marks

LONG, SHORT = 13, 8
LONG_LETTERS, SHORT_LETTERS = 20, 10
_NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # signs of Han, Hiragana, Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
_LETTER = re.compile(f"[{_NO_SPACES}]")
_WORD = re.compile(r"\w+")
_WORD_OR_LETTER = re.compile(rf"(?=\w)[{_NO_SPACES}]|(?:(?![{_NO_SPACES}])\w)+")
_BASE = np.uint64(0x9E3779B97F4A7C15)

Kind = Literal["question", "long", "short"]
"""The same question; thirteen words in a row; eight words in a row."""
_RUNS: tuple[tuple[Kind, int, int], ...] = (("long", LONG, LONG_LETTERS), ("short", SHORT, SHORT_LETTERS))
"""By kind, the longest first: how many words, or units where some are letters by themselves, a run has."""


@dataclass(frozen=True)
class Overlap:
    """What a text has of an evaluation prompt: the strongest of the kinds, and which prompt, by its position."""

    kind: Kind
    prompt: int


class PromptIndex:
    """Evaluation prompts, to look texts up in. ``question_key`` gives a hash of what is asked, alike for questions
    that are the same but for case, space and punctuation."""

    def __init__(self, question_key: Callable[[str], int]) -> None:
        self._key = question_key
        self._questions: dict[int, int] = {}
        self._grams: dict[Kind, dict[int, int]] = {kind: {} for kind, _, _ in _RUNS}
        self._sorted: dict[Kind, tuple[NDArray[np.uint64], NDArray[np.int64]]] = {}
        self.size = 0

    def add(self, prompt: str) -> None:
        """The next prompt."""
        self._questions.setdefault(self._key(prompt), self.size)
        units = _units(prompt)
        for kind, words, letters in _RUNS:
            for gram in units.grams(words, letters).tolist():
                self._grams[kind].setdefault(gram, self.size)
        self.size += 1
        self._sorted = {}

    def find(self, questions: Iterable[str], text: str) -> Overlap | None:
        """The strongest overlap of a text with a prompt. ``questions`` are what the text asks (instruction and input,
        and the user's turns before); a prompt that is shorter than the shortest run is found by them alone."""
        for question in questions:
            equal_question = self._questions.get(self._key(question))
            if equal_question is not None:
                return Overlap("question", equal_question)
        units = _units(text)
        for kind, words, letters in _RUNS:
            prompt = self._lookup(units.grams(words, letters), kind)
            if prompt is not None:
                return Overlap(kind, prompt)
        return None

    def _lookup(self, grams: NDArray[np.uint64], kind: Kind) -> int | None:
        if kind not in self._sorted:
            by_gram = self._grams[kind]
            order = np.array(sorted(by_gram), dtype=np.uint64)
            self._sorted[kind] = order, np.array([by_gram[int(gram)] for gram in order], dtype=np.int64)
        keys, prompts = self._sorted[kind]
        if not len(keys) or not len(grams):
            return None
        places = np.minimum(np.searchsorted(keys, grams), len(keys) - 1)
        hits = np.flatnonzero(keys[places] == grams)
        return int(prompts[places[hits[0]]]) if len(hits) else None


class _Units(NamedTuple):
    """Hashes of a text's words in order, and which of them are letters by themselves; None where none is."""

    hashes: NDArray[np.uint64]
    letters: NDArray[np.bool_] | None

    def grams(self, words: int, letters: int) -> NDArray[np.uint64]:
        """A hash of each run: of ``words`` words, and of ``letters`` units where one of them is a letter."""
        if self.letters is None:
            return _grams(self.hashes, words)
        counted = np.concatenate([[0], np.cumsum(self.letters)])
        runs = []
        for size, with_letters in ((words, False), (letters, True)):
            some = counted[size:] > counted[:-size] if len(counted) > size else np.empty(0, dtype=bool)
            runs.append(_grams(self.hashes, size)[some == with_letters])
        return np.concatenate(runs)


def _units(text: str) -> _Units:
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    plain = without_marks(plain.casefold())
    by_letter = not plain.isascii() and _LETTER.search(plain) is not None
    units = (_WORD_OR_LETTER if by_letter else _WORD).findall(plain)
    hashes = np.array([zlib.crc32(unit.encode("utf-8", "surrogatepass")) for unit in units], dtype=np.uint64)
    return _Units(
        hashes, np.array([_LETTER.match(unit) is not None for unit in units]) if by_letter else None
    )


def _grams(hashes: NDArray[np.uint64], size: int) -> NDArray[np.uint64]:
    """A hash of each run of ``size`` units."""
    count = len(hashes) - size + 1
    if count < 1:
        return np.empty(0, dtype=np.uint64)
    mixed = np.zeros(count, dtype=np.uint64)
    for start in range(size):
        mixed = mixed * _BASE + hashes[start : start + count]
        mixed ^= mixed >> np.uint64(29)
    return mixed
