"""Evaluation prompts in the data: looked for on request, and before every training of this workspace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from srtui.datasets.overlap import Kind, PromptIndex
from srtui.evaluation import sources
from srtui.pipeline.embedding import Embedder
from srtui.pipeline.holdout import question_key
from srtui.progress import Stopped
from srtui.sample import Pair
from srtui.similarity import mean_of, units
from srtui.store import Store
from srtui.store.corpus import batched
from srtui.store.whole_datasets import Contamination

ASKS_THE_SAME = 0.85
"""The least cosine of two questions that ask the same; docs/method.md has what it finds and what it finds in vain."""


FoundBy = Kind | Literal["meaning"]
_ORDER: dict[FoundBy, int] = {"question": 0, "long": 1, "meaning": 2, "short": 3}


@dataclass(frozen=True)
class FoundPrompt:
    """A sample that has an evaluation prompt: how (``question``, ``long`` for thirteen words in a row, ``meaning`` where
    it asks the same in other words, ``short`` for eight words in a row), and which prompt of which file. ``cosine`` is
    that of the two questions where it was found by meaning."""

    sample_id: int
    kind: FoundBy
    source: str
    prompt: str
    cosine: float | None = None


@dataclass(frozen=True)
class Overlaps:
    """What of ``prompts`` stands in ``texts``; ``found`` has all, the strongest kinds first. ``by_meaning`` is whether
    it was looked for by meaning, too."""

    prompts: int
    texts: int
    found: list[FoundPrompt]
    by_meaning: bool = False

    @property
    def kinds(self) -> Counter[str]:
        """How many samples, by kind."""
        return Counter(prompt.kind for prompt in self.found)

    @property
    def texts_found(self) -> int:
        """Samples that hold a prompt: the same question, or thirteen words in a row of one."""
        return self.kinds["question"] + self.kinds["long"]

    @property
    def contamination(self) -> Contamination:
        """The same as counts."""
        kinds = self.kinds
        meaning = kinds["meaning"] if self.by_meaning else None
        return Contamination(
            self.prompts, self.texts, kinds["question"], kinds["long"], kinds["short"], meaning
        )


class KnownPrompts:
    """Evaluation prompts, each once, with the file that it is from."""

    def __init__(self) -> None:
        self._index = PromptIndex(question_key)
        self._prompts: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._prompts)

    def add(self, source: str, prompt: str) -> None:
        """A prompt of a file."""
        if prompt.strip() and prompt not in self._prompts:
            self._prompts[prompt] = source
            self._index.add(prompt)

    @property
    def texts(self) -> list[str]:
        """The prompts, in their order."""
        return list(self._prompts)

    def search(self, texts: Iterable[tuple[int, Pair]], meaning: QuestionSearch | None = None) -> Overlaps:
        """Which of these texts, by sample id, have words of a prompt, or ask what one asks.

        Args:
            texts: read as they are asked for.
            meaning: of these prompts; without it only words are compared.
        """
        names = list(self._prompts.items())
        overlaps: list[FoundPrompt] = []
        count = 0
        for block in batched(texts, _TOGETHER):
            count += len(block)
            by_words = [
                self._index.find(asked_in(p), "\n".join([*(t.text for t in p.history), *p.texts]))
                for _, p in block
            ]
            nearest = meaning.nearest([asked_in(p) for _, p in block]) if meaning else [None] * len(block)
            for (sample_id, _), overlap, near in zip(block, by_words, nearest, strict=True):
                if near is not None and (overlap is None or overlap.kind == "short"):
                    prompt, source = names[near.prompt]
                    overlaps.append(FoundPrompt(sample_id, "meaning", source, prompt, near.cosine))
                elif overlap is not None:
                    prompt, source = names[overlap.prompt]
                    overlaps.append(FoundPrompt(sample_id, overlap.kind, source, prompt))
        overlaps.sort(
            key=lambda found_prompt: (
                _ORDER[found_prompt.kind],
                -(found_prompt.cosine or 0),
                found_prompt.sample_id,
            )
        )
        return Overlaps(len(self), count, overlaps, meaning is not None and meaning.can_tell)


_TOGETHER = 512  # texts that are looked up at once


def asked_in(pair: Pair) -> list[str]:
    """What a text asks: its instruction and input, and the user's turns before."""
    return [f"{pair.instruction}\n{pair.input}".strip(), *(t.text for t in pair.history if t.role == "user")]


class NearPrompt(NamedTuple):
    """A prompt, by its position, that a question means much the same as: the cosine of the two."""

    prompt: int
    cosine: float


LEAST_QUESTIONS = 20
"""Questions and prompts whose mean can be taken off."""


class QuestionSearch:
    """Questions that ask what a prompt asks in other words, by embeddings of both around the mean of both."""

    def __init__(
        self,
        embedder: Embedder,
        prompts: Sequence[str],
        some: Sequence[str],
        threshold: float = ASKS_THE_SAME,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Raises Stopped.

        Args:
            embedder: makes the embeddings, and stores them.
            prompts: what is looked for.
            some: questions of the data, for the mean: all of them, or every n-th.
            threshold: the least cosine.
            should_stop: asked between passes.
        """
        self._embedder, self._threshold, self._should_stop = embedder, threshold, should_stop
        embedded = self._embed(prompts)
        self._prompts = [n for n, vector in enumerate(embedded) if vector is not None]
        vectors = [vector for vector in embedded if vector is not None]
        all_there = [*vectors, *(vector for vector in self._embed(some) if vector is not None)]
        self._mean = mean_of([np.stack(all_there)] if all_there else [])
        self.can_tell = bool(vectors) and len(all_there) >= LEAST_QUESTIONS
        """Whether there are enough of both to compare; without, nothing is near."""
        self._directions = units(np.stack(vectors), self._mean) if self.can_tell else None

    def nearest(self, questions_of: Sequence[Sequence[str]]) -> list[NearPrompt | None]:
        """For each list of questions, the prompt that one of them is nearest to, where it is near. Raises Stopped."""
        flat = [(n, question) for n, questions in enumerate(questions_of) for question in questions]
        best: list[NearPrompt | None] = [None] * len(questions_of)
        embedded = self._embed([question for _, question in flat])
        embedded_questions = [(n, v) for (n, _), v in zip(flat, embedded, strict=True) if v is not None]
        if self._directions is None or not embedded_questions:
            return best
        cosines = units(np.stack([v for _, v in embedded_questions]), self._mean) @ self._directions.T
        for (n, _), row in zip(embedded_questions, cosines, strict=True):
            prompt = int(row.argmax())
            cosine, before = float(row[prompt]), best[n]
            if cosine >= self._threshold and (before is None or cosine > before.cosine):
                best[n] = NearPrompt(self._prompts[prompt], cosine)
        return best

    def _embed(self, texts: Sequence[str]) -> list[NDArray[np.float16] | None]:
        embedded = self._embedder.embed_texts(texts, self._should_stop)
        if self._should_stop():
            raise Stopped
        return embedded


def known_prompts(store: Store) -> KnownPrompts:
    """Everything that this workspace has asked in an evaluation."""
    prompts = KnownPrompts()
    for source, turns in store.datasets.evaluation_prompts():
        for turn in turns:
            prompts.add(source, turn)
    return prompts


def decontaminate(
    store: Store,
    dataset_ids: Sequence[int],
    files: Sequence[Path],
    on_progress: Callable[[str, int, int], None] = lambda step, done, total: None,
    embedder: Embedder | None = None,
    threshold: float = ASKS_THE_SAME,
    should_stop: Callable[[], bool] = lambda: False,
) -> Overlaps:
    """Look for the prompts of these files, and where none is given for all that this workspace has evaluated with,
    in the originals of these datasets. Raises UserError where a file cannot be read, and Stopped.

    Args:
        store: with the datasets.
        dataset_ids: of the datasets.
        files: of prompts; empty for all that this workspace has evaluated with.
        on_progress: gets the step, and samples done and in all.
        embedder: what prompts and questions are embedded by, to look by meaning too.
        threshold: the least cosine, by meaning.
        should_stop: asked between blocks.
    """
    if files:
        prompts = KnownPrompts()
        for file in files:
            for turn in sources.all_turns(file):
                prompts.add(file.name, turn)
    else:
        prompts = known_prompts(store)
    total = sum(store.corpus.size(dataset_id) for dataset_id in dataset_ids)

    def originals(step: str) -> Iterator[tuple[int, Pair]]:
        read = 0
        for dataset_id in dataset_ids:
            for sample in store.corpus.original_pairs(dataset_id):
                if read % _TOGETHER == 0:
                    on_progress(step, read, total)
                    if should_stop():
                        raise Stopped
                read += 1
                yield sample

    meaning = None
    if embedder is not None and len(prompts):
        every = max(1, total // _FITTED)
        some = [asked_in(pair)[0] for n, (_, pair) in enumerate(originals("read")) if n % every == 0]
        meaning = QuestionSearch(embedder, prompts.texts, some, threshold, should_stop)
    return prompts.search(originals("compare"), meaning)


_FITTED = 4096  # questions whose mean is taken off
