"""The student before and after training, asked the same thing."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from srtui import today
from srtui.pipeline.tuned import trained_adapter, trained_student
from srtui.prompts import template
from srtui.recipe import Recipe
from srtui.store import Store
from srtui.store.runs import Run
from srtui.workspace import Workspace

Side = Literal["base", "tuned"]
SIDES: tuple[Side, ...] = ("base", "tuned")


class SideBySide:
    """One model in memory: the student as it was trained, with its adapter off for ``base``.

    Every instruction stands alone, under the template of the run, as the samples did in training.
    """

    def __init__(
        self, workspace: Workspace, store: Store, run: Run, *, tokens: int, temperature: float, seed: int
    ) -> None:
        """``tokens`` is the most that an answer may have; ``temperature`` 0 always takes the likeliest.

        Raises UserError where the run has trained no adapter.
        """
        from srtui.student import Generator, SpanBuilder, Student

        today.freeze(run.date)
        adapter: Path = trained_adapter(workspace, store, run)
        folder = trained_student(workspace, store, run)
        self._student = Student.load(folder, run.recipe["student"]["quantization"], adapter=adapter)
        recipe = Recipe.model_validate(run.recipe)
        tokenizer = self._student.tokenizer
        self._spans = SpanBuilder(tokenizer, template(recipe.prompt.template, tokenizer, recipe.prompts))
        self._generator = Generator(self._student, self._spans)
        self._tokens, self._temperature, self._seed = tokens, temperature, seed

    def ask(self, instruction: str) -> Iterator[tuple[Side, str]]:
        """The answers as they are written, piece by piece: all of ``base``, then all of ``tuned``."""
        for side in SIDES:
            for piece in self._answer(instruction, side):
                yield side, piece

    def prompt(self, instruction: str) -> str:
        """What the student reads of an instruction: the template around it."""
        return self._spans.conversation([(instruction, "")])[0]

    def _answer(self, instruction: str, side: Side) -> Iterator[str]:
        import torch
        from transformers import TextIteratorStreamer

        tokenizer, model = self._student.tokenizer, self._student.model
        _, ids = self._spans.conversation([(instruction, "")])
        sampling: dict[str, Any] = {}
        if self._temperature > 0:
            sampling = {"do_sample": True, "temperature": self._temperature, "top_p": 0.95, "top_k": 0}

        class Pieces(TextIteratorStreamer):  # type: ignore[misc]
            """Stops after the last of several passes."""

            last = False

            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                super().on_finalized_text(text, stream_end and self.last)

        pieces = Pieces(tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=600)
        failed: list[BaseException] = []

        def generate() -> None:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the libraries' own, about each other
                    torch.manual_seed(self._seed)
                    if side == "base":
                        with model.disable_adapter():
                            write()
                    else:
                        write()
            except BaseException as error:
                failed.append(error)
            finally:
                pieces.last = True
                pieces.end()

        def write() -> None:
            text = list(ids)
            for size in self._generator.legs(len(ids), self._tokens):
                (written,) = self._generator.generate([text], size, streamer=pieces, **sampling)
                text += written
                if len(written) < size or written[-1] in self._generator.ends:
                    break

        writer = threading.Thread(target=generate, name=f"srtui-{side}", daemon=True)
        writer.start()
        yield from (piece for piece in pieces if piece)
        writer.join()
        if failed:
            raise failed[0]
