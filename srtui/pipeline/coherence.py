"""The gate on coherence: whether an answer is about what is asked, by embeddings of both texts by themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from srtui.pipeline.dedup import text_of
from srtui.pipeline.embedding import Embedder
from srtui.sample import Pair
from srtui.similarity import units

LEAST_ORIGINALS = 20
"""Originals that a limit can be taken from."""


class Coherence:
    """The cosine of what is asked (instruction and input) and the answer, each around the mean of the dataset's own; and
    the limit: the value that ``percent`` of the originals are below. It is None where fewer than 20 have a value.

    A language model's hidden states are no encoder's: so the limit is the dataset's own, and what each gate gets right
    is measured (docs/method.md, Gates).
    """

    def __init__(
        self,
        embedder: Embedder,
        originals: Sequence[Pair],
        percent: float,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """``originals`` are of the dataset, drawn by the recipe's seed. After a stop it is of no use.

        Args:
            embedder: makes the embeddings.
            originals: to take means and limit from.
            percent: of the originals that lie below the limit.
            should_stop: asked between passes.
        """
        self.embedder, self._should_stop, self.percent = embedder, should_stop, percent
        asked, answered = self._embed(originals)
        self._means = [_mean([v for v in side if v is not None]) for side in (asked, answered)]
        values = [value for value in self._cosines(asked, answered) if value is not None]
        self.limit = float(np.quantile(values, percent / 100)) if len(values) >= LEAST_ORIGINALS else None

    def values(self, pairs: Sequence[Pair]) -> list[float | None]:
        """The coherence of each pair, -1 to 1; None where a side is blank, and for what a stop left open."""
        return self._cosines(*self._embed(pairs))

    def reasons(self, rewrites: Sequence[tuple[Pair, Pair]]) -> list[str]:
        """Of (pair before, pair after), why the one after is stopped, "" where it passes: its coherence is below the
        limit and below that of the pair before."""
        if self.limit is None or not rewrites:
            return [""] * len(rewrites)
        values = self.values([pair for both in rewrites for pair in both])
        return [self._reason(before, after) for before, after in zip(values[::2], values[1::2], strict=True)]

    def _reason(self, before: float | None, after: float | None) -> str:
        if self.limit is None or after is None or after >= self.limit:
            return ""
        if before is not None and before <= after:
            return ""
        return (
            f"coherence {after:.2f}, and {self.percent:g} % of the dataset's own are below {self.limit:.2f}"
        )

    def _embed(self, pairs: Sequence[Pair]) -> tuple[list[NDArray[np.float16] | None], ...]:
        texts = [
            [text_of(pair, "instruction") for pair in pairs],
            [text_of(pair, "response") for pair in pairs],
        ]
        embeddings = self.embedder.embed_texts([*texts[0], *texts[1]], self._should_stop)
        return embeddings[: len(pairs)], embeddings[len(pairs) :]

    def _cosines(
        self, asked: Sequence[NDArray[np.float16] | None], answered: Sequence[NDArray[np.float16] | None]
    ) -> list[float | None]:
        cosine_of: list[float | None] = [None] * len(asked)
        both = [
            (n, x, y)
            for n, (x, y) in enumerate(zip(asked, answered, strict=True))
            if x is not None and y is not None
        ]
        if both:
            cosines = (
                units(np.stack([x for _, x, _ in both]), self._means[0])
                * units(np.stack([y for _, _, y in both]), self._means[1])
            ).sum(axis=1)
            for (n, _, _), cosine in zip(both, cosines.tolist(), strict=True):
                cosine_of[n] = cosine
        return cosine_of


def _mean(vectors: Sequence[NDArray[np.float16]]) -> NDArray[np.float32]:
    return np.asarray(
        np.mean(np.stack(vectors).astype(np.float32), axis=0) if vectors else 0, dtype=np.float32
    )
