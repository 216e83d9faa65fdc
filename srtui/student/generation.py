"""A student writes: token ids in, the ids of its answers out. What is drawn, and what is asked, is the caller's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from srtui.student.model import Student
from srtui.student.positions import alone_beyond, legs
from srtui.student.span_builder import SpanBuilder


class Generator:
    """Writes with ``student`` under the template of ``spans``.

    ``ends`` are the ids that end an answer, in ascending order: the end of text, and the template's end of
    turn where it is one token. ``limit`` is the length beyond which positions are others for all texts of a
    pass (srtui.student.positions), None where there is none. The model's own generation_config is taken out:
    nothing is drawn by what the caller does not say.
    """

    def __init__(self, student: Student, spans: SpanBuilder) -> None:
        self._model, self._device = student.model, student.device
        forget_generation_config(student.model)
        base = getattr(student.model, "get_base_model", lambda: student.model)()
        self.limit = alone_beyond(base, base.base_model)
        ends = {int(student.tokenizer.eos_token_id)}
        if len(spans.end_of_turn) == 1:
            ends.add(spans.end_of_turn[0])
        self.ends = sorted(ends)

    def legs(self, length: int, tokens: int) -> list[int]:
        """``tokens`` that follow a text of ``length``, in parts that are each written under one set of positions."""
        return legs(length, tokens, self.limit)

    def runs_alone(self, length: int) -> bool:
        """Whether a text of so many tokens would change the positions of those beside it."""
        return self.limit is not None and length > self.limit

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        tokens: int,
        *,
        processors: Sequence[Any] = (),
        should_stop: Callable[[], bool] | None = None,
        streamer: Any = None,
        **sampling: Any,
    ) -> list[list[int]]:
        """The next ids of each prompt, in one pass.

        Args:
            prompts: ids of each text so far; padded on the left, and no padding is attended to.
            tokens: the most that each gets.
            processors: transformers' logits processors, after which the likeliest token is taken, or drawn.
            should_stop: asked after every token; where it says so, what is written so far comes back.
            streamer: a streamer of transformers, for one prompt.
            sampling: settings of transformers' GenerationConfig; without any, the likeliest token is taken.

        Returns:
            For each prompt up to ``tokens`` new ids, up to and with the one that ends its turn.

        Raises torch.OutOfMemoryError where the batch is too large for the device.
        """
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.ends[0], dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        settings = GenerationConfig(
            max_new_tokens=tokens,
            eos_token_id=self.ends,
            pad_token_id=self.ends[0],
            **({"do_sample": False} | sampling),
        )
        with torch.inference_mode():
            written = self._model.generate(
                input_ids=ids.to(self._device),
                attention_mask=mask.to(self._device),
                generation_config=settings,
                logits_processor=LogitsProcessorList(processors),
                stopping_criteria=StoppingCriteriaList([_stop_when(should_stop)] if should_stop else []),
                streamer=streamer,
            )[:, width:].tolist()
        return [self._to_end(row) for row in written]

    def _to_end(self, ids: list[int]) -> list[int]:
        stop = next((n for n, token in enumerate(ids) if token in self.ends), None)
        return ids if stop is None else ids[: stop + 1]


def _stop_when(should_stop: Callable[[], bool]) -> Any:
    """``should_stop`` as transformers asks it: for every row of a batch."""
    import torch
    from transformers import StoppingCriteria

    class StopRequested(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            return torch.full((input_ids.shape[0],), should_stop(), device=input_ids.device)

    return StopRequested()


def forget_generation_config(model: Any) -> None:
    """``generate`` fills in from the model's own configuration what a call leaves open: nothing is left there.
    An adapter's model has one of its own beside its base's."""
    from transformers import GenerationConfig

    for config in {
        id(m): m for m in (model, getattr(model, "base_model", model), getattr(model, "model", model))
    }.values():
        if hasattr(config, "generation_config"):
            config.generation_config = GenerationConfig()
    if hasattr(model, "get_base_model"):
        model.get_base_model().generation_config = GenerationConfig()
