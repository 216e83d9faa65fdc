"""What makes embeddings: a student, by its own hidden states, or a sentence encoder; and the embeddings of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from srtui.hashing import key
from srtui.pipeline.ahead import in_pages
from srtui.pipeline.recipe_models import CHUNK, open_variant_scorer, student_path
from srtui.progress import Stopped
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.conversations import of_conversations
from srtui.store.corpus import batched

if TYPE_CHECKING:
    from srtui.recipe import Recipe
    from srtui.student.sentence_encoder import SentenceEncoder
    from srtui.workspace import Workspace


class Embedder(Protocol):
    """Makes embeddings and stores them; those of one ``setting_id`` may be compared, and no others."""

    setting_id: int

    def embed(
        self, variant_ids: Iterable[int], should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[float]:
        """Store the missing embeddings of these variants; yields the share that is done. What has nothing to embed
        has no embedding."""

    def embed_texts(
        self, texts: Sequence[str], should_stop: Callable[[], bool] = lambda: False
    ) -> list[NDArray[np.float16] | None]:
        """The embedding of each text by itself, stored as well; None where there is nothing to embed, and for what a
        stop left open."""

    def close(self) -> None:
        """Free its memory."""


class EncoderEmbedder:
    """Embeddings by a sentence encoder, of a text as it stands: its turns one below the other."""

    def __init__(self, store: Store, encoder: SentenceEncoder) -> None:
        self._store, self._encoder = store, encoder
        self.setting_id = encoder_setting(store, encoder)

    def embed(
        self, variant_ids: Iterable[int], should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[float]:
        """See :class:`Embedder`."""
        missing = self._store.embeddings.missing(variant_ids, self.setting_id)
        for n, block in enumerate(batched(missing, _ENCODED)):
            texts = {v.id: plain_text(v.pair) for v in self._store.corpus.variants(block).values()}
            with_text = [variant for variant, text in texts.items() if text.strip()]
            vectors = self._encoder.embed([texts[variant] for variant in with_text])
            self._store.embeddings.add(self.setting_id, zip(with_text, vectors, strict=True))
            yield min(1.0, (n + 1) * _ENCODED / len(missing))
            if should_stop():
                return

    def embed_texts(
        self, texts: Sequence[str], should_stop: Callable[[], bool] = lambda: False
    ) -> list[NDArray[np.float16] | None]:
        """See :class:`Embedder`."""
        keys = {t: key("embedding", encoder=self._encoder.identity, text=t) for t in texts if t.strip()}
        known = self._store.embeddings.texts(keys.values())
        for block in batched([text for text in keys if keys[text] not in known], _ENCODED):
            vectors = self._encoder.embed(block)
            self._store.embeddings.add_texts(zip((keys[text] for text in block), vectors, strict=True))
            if should_stop():
                break
        known = self._store.embeddings.texts(keys.values())
        return [known.get(keys[text]) if text in keys else None for text in texts]

    def close(self) -> None:
        """See :class:`Embedder`: an encoder is small, and goes with the process."""


_ENCODED = 256  # texts that an encoder is given at once


def encoder_setting(store: Store, encoder: SentenceEncoder) -> int:
    """The setting of embeddings by this encoder."""
    return store.scores.setting(encoder.name, encoder.identity, "encoder", "", "encoder", 0)


def plain_text(pair: Pair) -> str:
    """A pair as one text, with what came before it."""
    return "\n".join(part for part in (*(turn.text for turn in pair.history), *pair.texts) if part)


def embed_dataset(
    store: Store,
    dataset_id: int,
    embedder: Embedder,
    on_progress: Callable[[str, int, int], None] = lambda step, done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Store the missing embeddings of all originals of a dataset; how many originals there are. What is stored stays
    after a stop. Raises Stopped.

    Args:
        store: open for writing.
        dataset_id: of the dataset.
        embedder: what makes them.
        on_progress: gets the step (``embed``), texts done, and in all.
        should_stop: asked between blocks.
    """
    total = store.corpus.size(dataset_id)
    done = 0
    for page in in_pages(
        lambda after, size: store.corpus.original_ids_of(dataset_id, after, size), CHUNK, lambda row: row[0]
    ):
        for share in embedder.embed((variant for _, variant in page), should_stop):
            on_progress("embed", done + round(share * len(page)), total)
        if should_stop():
            raise Stopped
        done += len(page)
        on_progress("embed", done, total)
    return done


def open_embedder(
    workspace: Workspace,
    store: Store,
    recipe: Recipe,
    report_line: Callable[[str], None] = lambda line: None,
    dataset_id: int | None = None,
) -> Embedder:
    """The embedder of a recipe: its student, under its template, or its encoder where it names one to embed with.

    Args:
        workspace: whose models/ has it.
        store: where its embeddings go.
        recipe: that names it.
        report_line: gets what there is to say while the student is found.
        dataset_id: of the texts, where they are a dataset's, which may have histories.
    """
    if recipe.selection.embedded_by == "encoder":
        return EncoderEmbedder(store, load_encoder(workspace, recipe.selection.encoder))
    student = recipe.student
    path = student_path(workspace, student.model, student.quantization, report_line)
    histories = dataset_id is not None and of_conversations(store.conn, dataset_id)
    return open_variant_scorer(store, recipe, path, student.model, student.quantization, histories=histories)


def load_encoder(workspace: Workspace, name: str) -> SentenceEncoder:
    """A sentence encoder by its name in models/, or its folder. Raises UserError where there is none."""
    from srtui import models
    from srtui.student.sentence_encoder import SentenceEncoder

    return SentenceEncoder(models.find(workspace.models, name))
