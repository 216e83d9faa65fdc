"""Do training texts hold evaluation prompts? Runs of words that both have, and the same questions.

Thirteen words in a row are what GPT-3 (Brown et al. 2020, appendix C) called an overlap, eight what PaLM (Chowdhery
et al. 2022) and others take for shorter texts. Words are letters and digits without case.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LONG, SHORT = 13, 8
_WORD = re.compile(r"\w+")
_BASE = np.uint64(0x9E3779B97F4A7C15)

Kind = Literal["question", "long", "short"]
"""The same question; thirteen words in a row; eight words in a row."""


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
        self._grams: dict[int, dict[int, int]] = {LONG: {}, SHORT: {}}
        self._sorted: dict[int, tuple[NDArray[np.uint64], NDArray[np.int64]]] = {}
        self.size = 0

    def add(self, prompt: str) -> None:
        """The next prompt."""
        self._questions.setdefault(self._key(prompt), self.size)
        hashes = _word_hashes(prompt)
        for size, grams in self._grams.items():
            for gram in _grams(hashes, size).tolist():
                grams.setdefault(gram, self.size)
        self.size += 1
        self._sorted = {}

    def find(self, questions: Iterable[str], text: str) -> Overlap | None:
        """The strongest overlap of a text with a prompt. ``questions`` are what the text asks (instruction and input,
        and the user's turns before); a prompt of fewer than eight words is found by them alone."""
        for question in questions:
            equal_question = self._questions.get(self._key(question))
            if equal_question is not None:
                return Overlap("question", equal_question)
        hashes = _word_hashes(text)
        kinds: tuple[tuple[int, Kind], ...] = ((LONG, "long"), (SHORT, "short"))
        for size, kind in kinds:
            prompt = self._lookup(_grams(hashes, size), size)
            if prompt is not None:
                return Overlap(kind, prompt)
        return None

    def _lookup(self, grams: NDArray[np.uint64], size: int) -> int | None:
        if size not in self._sorted:
            by_gram = self._grams[size]
            order = np.array(sorted(by_gram), dtype=np.uint64)
            self._sorted[size] = order, np.array([by_gram[int(gram)] for gram in order], dtype=np.int64)
        keys, prompts = self._sorted[size]
        if not len(keys) or not len(grams):
            return None
        places = np.minimum(np.searchsorted(keys, grams), len(keys) - 1)
        hits = np.flatnonzero(keys[places] == grams)
        return int(prompts[places[hits[0]]]) if len(hits) else None


def _word_hashes(text: str) -> NDArray[np.uint64]:
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    words = _WORD.findall(plain.casefold())
    return np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words], dtype=np.uint64)


def _grams(hashes: NDArray[np.uint64], size: int) -> NDArray[np.uint64]:
    """A hash of each run of ``size`` words."""
    count = len(hashes) - size + 1
    if count < 1:
        return np.empty(0, dtype=np.uint64)
    mixed = np.zeros(count, dtype=np.uint64)
    for start in range(size):
        mixed = mixed * _BASE + hashes[start : start + count]
        mixed ^= mixed >> np.uint64(29)
    return mixed
