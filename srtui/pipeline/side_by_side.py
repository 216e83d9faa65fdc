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
        from srtui.evaluation.writing import forget_generation_config
        from srtui.student import SpanBuilder, Student, alone_beyond

        today.freeze(run.date)
        adapter: Path = trained_adapter(workspace, store, run)
        folder = trained_student(workspace, store, run)
        self._student = Student.load(folder, run.recipe["student"]["quantization"], adapter=adapter)
        forget_generation_config(self._student.model)
        base = self._student.model.get_base_model()
        self._limit = alone_beyond(base, base.base_model)
        recipe = Recipe.model_validate(run.recipe)
        tokenizer = self._student.tokenizer
        self._spans = SpanBuilder(tokenizer, template(recipe.prompt.template, tokenizer, recipe.prompts))
        self._tokens, self._temperature, self._seed = tokens, temperature, seed

    def ask(self, instruction: str) -> Iterator[tuple[Side, str]]:
        """The answers as they are written, piece by piece: all of ``base``, then all of ``tuned``."""
        for side in SIDES:
            for piece in self._answer(instruction, side):
                yield side, piece

    def _answer(self, instruction: str, side: Side) -> Iterator[str]:
        import torch
        from transformers import TextIteratorStreamer

        from srtui.student import legs

        tokenizer, model = self._student.tokenizer, self._student.model
        _, ids = self._spans.conversation([(instruction, "")])
        prompt = torch.tensor([ids], device=model.device)
        ends = {int(tokenizer.eos_token_id)}
        if len(self._spans.end_of_turn) == 1:
            ends.add(self._spans.end_of_turn[0])
        how: dict[str, Any] = {"do_sample": False}
        if self._temperature > 0:
            how = {"do_sample": True, "temperature": self._temperature, "top_p": 0.95, "top_k": 0}

        class Pieces(TextIteratorStreamer):  # type: ignore[misc]
            """Stops after the last of several passes."""

            last = False

            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                super().on_finalized_text(text, stream_end and self.last)

        pieces = Pieces(tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=600)
        failed: list[BaseException] = []

        def generate() -> None:
            try:
                with torch.no_grad(), warnings.catch_warnings():
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
            ids = prompt
            for size in legs(prompt.shape[1], self._tokens, self._limit):
                before = ids.shape[1]
                ids = model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    **how,
                    max_new_tokens=size,
                    eos_token_id=sorted(ends),
                    pad_token_id=tokenizer.eos_token_id,
                    streamer=pieces,
                )
                if int(ids[0, -1]) in ends or ids.shape[1] < before + size:
                    break

        writer = threading.Thread(target=generate, name=f"srtui-{side}", daemon=True)
        writer.start()
        yield from (piece for piece in pieces if piece)
        writer.join()
        if failed:
            raise failed[0]
