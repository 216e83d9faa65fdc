"""A small sentence encoder on disk: embeddings of texts, and how near an instruction and its response are in meaning."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtui.errors import UserError
from srtui.hashing import digest
from srtui.models.formats import file_sha256
from srtui.models.memory import drop_weights
from srtui.sample import Pair


class SentenceEncoder:
    """A folder in sentence-transformers' layout, with its weights as safetensors.

    Raises UserError where the library (the extra ``srtui[coherence]``) or the folder is not there.
    """

    def __init__(self, folder: Path) -> None:
        missing = importlib.util.find_spec("sentence_transformers") is None
        if missing:
            raise UserError(
                "A sentence encoder needs sentence-transformers; install it with: pip install 'srtui[coherence]'"
            )
        if not (folder / "modules.json").is_file() or not any(folder.glob("*.safetensors")):
            raise UserError(
                f"{folder} is not a sentence encoder: it needs modules.json and weights as safetensors, "
                "as sentence-transformers writes them."
            )
        self.name = folder.name
        self._files = sorted(
            file for file in folder.rglob("*") if file.suffix in (".safetensors", ".json", ".txt")
        )
        self._folder = folder
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        try:
            self._model: Any = SentenceTransformer(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder}: this sentence encoder cannot be loaded ({error}).") from error

    def close(self) -> None:
        """Give its memory back; it cannot be asked any more."""
        model, self._model = self._model, None
        if model is not None:
            drop_weights(model)

    @cached_property
    def identity(self) -> str:
        """A hash of all files that an embedding depends on, read once."""
        named = ((file.relative_to(self._folder).as_posix(), file_sha256(file)) for file in self._files)
        return digest("encoder", *(part for pair in named for part in pair)).hex()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(texts, width): their embeddings, as the encoder gives them."""
        vectors = self._model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    def coherence(self, pairs: Sequence[Pair]) -> list[float | None]:
        """Cosine of the instruction, with its input, and the response of each pair, in [-1, 1]; None
        where one of them is blank."""
        if not pairs:
            return []
        questions = [f"{p.instruction}\n{p.input}".strip() for p in pairs]
        texts = self._model.encode(
            [*questions, *(p.response for p in pairs)],
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        instructions, answers = texts[: len(pairs)], texts[len(pairs) :]
        cosines = (instructions * answers).sum(axis=1)
        return [
            float(cosine) if question and pair.response.strip() else None
            for question, pair, cosine in zip(questions, pairs, cosines, strict=True)
        ]
