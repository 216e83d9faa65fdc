"""What is measured, by size: a 7B-shaped pair of models on a GPU, a tiny one where each step only has to have run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """A model's shape with random weights, and how much is done with it. ``hidden`` and ``inner`` are widths;
    ``slots`` the numbers of sequences that a teacher writes at once, ``tokens`` what each writes; ``samples`` and
    ``plain`` those that are scored in all and one by one; ``length`` of training texts in tokens, ``steps`` and
    ``rounds`` of training; ``patience`` is the seconds that one command may take."""

    name: str
    hidden: int
    layers: int
    heads: int
    key_heads: int
    inner: int
    context: int
    slots: tuple[int, ...]
    tokens: int
    samples: int
    plain: int
    length: int
    steps: int
    rounds: int
    matrix: int
    patience: int

    @property
    def parameters(self) -> int:
        """Of the layers: what a token is multiplied with, embedding and head left out."""
        head = self.hidden // self.heads
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * head * self.key_heads
        return self.layers * (attention + 3 * self.hidden * self.inner)


SIZES = {
    # Mistral 7B's shape, whose heads are grouped.
    "7b": Size("7b", 4096, 32, 32, 8, 14336, 4096, (1, 8, 32, 64, 128), 128, 200, 8, 2048, 5, 1, 8192, 240),
    "tiny": Size("tiny", 256, 2, 4, 2, 512, 2048, (1, 2), 8, 4, 1, 96, 2, 1, 256, 3600),
}
