"""Contestants write: a GGUF in the batching engine, a 4-bit student with its adapter in batches of its own.

An answer's key hashes what determines its text: weights and adapter, template, conversation, sampler,
seed. Batches are padded on the left and attend to no padding, so an answer depends on its neighbours
by rounding alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from srtui.evaluation.contestants import Contestant
from srtui.gpu_errors import gpu_fault
from srtui.hashing import digest, draw, key, scheme_1
from srtui.llama import Message, Request, Sampler, Segment, Teacher, open_teacher, refuse_if_died
from srtui.llama.tuning import tuned
from srtui.models.memory import release
from srtui.prompts import template
from srtui.store.evaluations import Answer

Turns = tuple[tuple[str, str], ...]
"""(instruction, input) of the user, (answer, "") of the contestant, by turns; the last is the user's."""

CPU_BATCH, GPU_BATCH = 16, 64
"""Conversations that a student continues together."""
_BATCH_TOKENS = 32768


@dataclass(frozen=True)
class AnswerSettings:
    """How contestants write. ``temperature`` 0 is greedy. Nothing that is not here is used: a model's own
    generation_config may set penalties, and then greedy would not be greedy."""

    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def sampler(self) -> Sampler:
        """The whole sampler; what greedy does not use is off."""
        top_p = self.top_p if self.temperature > 0 else 1.0
        return Sampler(self.temperature, top_p, top_k=0, min_p=0.0, repeat_penalty=1.0, repeat_window=0)

    @property
    def facts(self) -> dict[str, Any]:
        """All that determines a text beside model, prompt and seed, as it is stored and hashed."""
        return {"max_tokens": self.max_tokens, **asdict(self.sampler)}


class AnswerWriter(Protocol):
    """Writes answers of one contestant; ``write`` yields (index, answer) as they are finished, and
    stops early when asked, dropping what is in flight."""

    def write(
        self, conversations: Sequence[Turns], should_stop: Callable[[], bool]
    ) -> Iterator[tuple[int, Answer]]:
        """Write the next turn of each of these conversations; yields (index, answer) as they end, in any order.
        Whatever is not written when ``should_stop`` says so is left out."""

    def close(self) -> None:
        """Free the model's memory."""


def answer_key(contestant: Contestant, writing: AnswerSettings, turns: Turns) -> bytes:
    """Address of an answer in the store."""
    return key(
        "answer",
        by=contestant.kind,
        model=contestant.sha256,
        quantization=contestant.quantization,
        adapter=contestant.adapter_sha256,
        template=contestant.template,
        words=contestant.template_version or None,
        date=contestant.date,
        sampling=writing.facts,
        seed=writing.seed,
        turns=turns,
    )


def first_answer_key(contestant: Contestant, writing: AnswerSettings, turns: Turns) -> bytes | None:
    """The key that the same answer has where it was stored before keys had a scheme; None where that key
    did not hold all that the text depends on, as for students, whose template files it left out."""
    if contestant.kind != "gguf" or contestant.date is not None:
        return None
    settings = {
        "max_tokens": writing.max_tokens,
        "seed": writing.seed,
        "temperature": writing.temperature,
        "top_p": writing.top_p,
    }
    return scheme_1(
        contestant.kind,
        contestant.sha256,
        contestant.quantization,
        contestant.adapter_sha256,
        contestant.template,
        repr(list(settings.items())),
        *(part for turn in turns for part in turn),
    )


def file_answer(text: str, model: str, sha256: str = "") -> Answer:
    """A text that was written elsewhere; its address is the text itself."""
    finish = "end" if text.strip() else "empty"
    return Answer(digest("file", text), "file", model, sha256, None, "", {}, 0, "", text, finish)


def open_writer(contestant: Contestant, writing: AnswerSettings) -> AnswerWriter:
    """The writer of a contestant that is a model; loads it."""
    return (
        GgufWriter(contestant, writing) if contestant.kind == "gguf" else StudentWriter(contestant, writing)
    )


class GgufWriter:
    """A GGUF by its own chat template, in the engine of srtui.llama."""

    def __init__(
        self, contestant: Contestant, writing: AnswerSettings, teacher: Teacher | None = None
    ) -> None:
        """``teacher``: the contestant's file with its adapter, open already; it is closed with this."""
        self._contestant, self._writing = contestant, writing
        if teacher is None:
            measured = tuned(contestant.path)
            teacher = open_teacher(
                contestant.path,
                name=contestant.name,
                sha256=contestant.sha256,
                adapter=contestant.adapter,
                slots=measured.slots if measured else "auto",
            )
        self._teacher = teacher

    def write(
        self, conversations: Sequence[Turns], should_stop: Callable[[], bool]
    ) -> Iterator[tuple[int, Answer]]:
        """Write all conversations' next turns by continuous batching; yields (index, answer) as they end."""
        w = self._writing
        sampler = w.sampler
        self._teacher.submit(
            [
                Request(
                    n, _messages(turns), (Segment(max_tokens=w.max_tokens),), seed=w.seed, sampler=sampler
                )
                for n, turns in enumerate(conversations)
            ]
        )
        for generation in self._teacher.run(should_stop):
            n = generation.key
            assert isinstance(n, int)  # noqa: S101 - our own key comes back untouched
            refuse_if_died(generation)
            finish = generation.refused or generation.written[-1].finish
            yield (
                n,
                _answer(
                    self._contestant, w, conversations[n], "chat", generation.prompt, generation.text.strip(), finish,
                    generation.prompt_tokens, generation.new_tokens, generation.seconds,
                ),
            )  # fmt: skip

    def close(self) -> None:
        """Free the model's memory."""
        self._teacher.close()


@dataclass
class _Row:
    """A conversation on its way through a student: its prompt, what is written so far, and what may come."""

    n: int
    prompt: list[int]
    left: int
    written: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.written


class StudentWriter:
    """A safetensors student, 4-bit as it was trained, with its adapter, through transformers. Where positions
    are others beyond some length (srtui.student.positions), every token is drawn under those of its own text's length,
    as it is scored: long texts are not written beside short ones, and one that crosses it begins anew there."""

    def __init__(self, contestant: Contestant, writing: AnswerSettings) -> None:
        from srtui.student import Generator, SpanBuilder, Student

        self._contestant, self._writing = contestant, writing
        self.student: Any = Student.load(
            contestant.path,
            contestant.quantization,  # type: ignore[arg-type]
            adapter=contestant.adapter,
        )
        tokenizer = self.student.tokenizer
        name = contestant.template or ("chat" if tokenizer.chat_template else "alpaca")
        self._template = name
        config = self.student.model.config.get_text_config()
        self._room = int(getattr(config, "max_position_embeddings", 0) or 2**20)
        self._spans = SpanBuilder(
            tokenizer, template(name, tokenizer, contestant.prompts), max_length=self._room
        )
        self._generator = Generator(self.student, self._spans)

    def write(
        self, conversations: Sequence[Turns], should_stop: Callable[[], bool]
    ) -> Iterator[tuple[int, Answer]]:
        """Write all conversations' next turns, those of about one length together; yields (index, answer) as
        they end."""
        prompts = [self._spans.conversation(turns) for turns in conversations]

        def answer(row: _Row, finish: str) -> tuple[int, Answer]:
            answered = self._made(conversations[row.n], prompts[row.n], row.written, finish, row.seconds)
            return row.n, answered

        waiting = []
        for n, (_, prompt) in enumerate(prompts):
            row = _Row(n, prompt, self._writing.max_tokens)
            if len(prompt) + row.left > self._room:
                yield answer(row, "too_long")
            else:
                waiting.append(row)
        most = CPU_BATCH if self.student.device.type == "cpu" else GPU_BATCH
        while waiting and not should_stop():
            rows, size = self._next_batch(waiting, most)
            began = time.monotonic()
            try:
                written = self._batch(rows, size, should_stop)
            except RuntimeError as error:
                if gpu_fault(error) != "memory":
                    raise
                release(self.student.device)
                if len(rows) == 1:
                    waiting.remove(rows[0])
                    rows[0].written.clear()
                    yield answer(rows[0], "out_of_memory")
                most = max(1, len(rows) // 2)
                continue
            if should_stop():
                return  # what was in flight is cut short
            seconds = (time.monotonic() - began) / len(rows)
            for row, ids in zip(rows, written, strict=True):
                row.written += ids[: row.left]
                row.left -= len(ids)
                row.seconds += seconds
                has_ended = bool(row.written) and row.written[-1] in self._generator.ends
                if has_ended or row.left <= 0:
                    waiting.remove(row)
                    yield answer(row, "end" if has_ended else "length")

    def _next_batch(self, waiting: list[_Row], most: int) -> tuple[list[_Row], int]:
        """Rows to write together, the longest first, and how many tokens: all on one side of the length at
        which positions change, and one that comes to it alone."""
        waiting.sort(key=lambda row: -len(row.prompt) - len(row.written))
        first = waiting[0]

        def leg(row: _Row) -> int:
            return self._generator.legs(len(row.ids), row.left)[0]

        if leg(first) < first.left:
            return [first], leg(first)
        length = len(first.ids)
        beyond = self._generator.runs_alone(length)
        same_length = [
            row
            for row in waiting
            if leg(row) == row.left and beyond == self._generator.runs_alone(len(row.ids))
        ]
        rows = same_length[: max(1, min(most, _BATCH_TOKENS // (length + first.left)))]
        return rows, max(row.left for row in rows)

    def _batch(self, rows: Sequence[_Row], size: int, should_stop: Callable[[], bool]) -> list[list[int]]:
        """Up to ``size`` new ids of each row, up to and with the one that ends its turn."""
        drawn = [_Drawn(self._writing, rows)] if self._writing.temperature > 0 else []
        return self._generator.generate(
            [row.ids for row in rows],
            size,
            processors=drawn,
            should_stop=should_stop,
            repetition_penalty=self._writing.sampler.repeat_penalty,
        )

    def _made(
        self, turns: Turns, prompt: tuple[str, list[int]], ids: list[int], finish: str, seconds: float
    ) -> Answer:
        text = self.student.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return _answer(
            self._contestant, self._writing, turns, self._template, prompt[0], text, finish,
            len(prompt[1]), len(ids), seconds,
        )  # fmt: skip

    def close(self) -> None:
        """Free the student's memory."""
        self.student.close()


class _Drawn:
    """Draws each row's next token by numbers of its own, from the seed and its prompt, and leaves only that one:
    with transformers' draws, one stream for a whole batch, an answer would depend on those beside it."""

    def __init__(self, writing: AnswerSettings, rows: Sequence[_Row]) -> None:
        from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        sampler = writing.sampler
        self._warpers = [TemperatureLogitsWarper(float(sampler.temperature))]
        if sampler.top_k > 0:
            self._warpers.append(TopKLogitsWarper(sampler.top_k))
        if sampler.top_p < 1:
            self._warpers.append(TopPLogitsWarper(sampler.top_p))
        if sampler.min_p > 0:
            self._warpers.append(MinPLogitsWarper(sampler.min_p))
        self._rows = [random.Random(draw(writing.seed, repr(row.prompt))) for row in rows]  # noqa: S311
        for row, numbers in zip(rows, self._rows, strict=True):
            for _ in row.written:
                numbers.random()

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        scores = scores.float()
        for warper in self._warpers:
            scores = warper(input_ids, scores)
        shares = scores.softmax(-1).cumsum(-1)
        drawn = torch.tensor([[row.random()] for row in self._rows], device=scores.device)
        # Below the whole, so that rounding never reaches a token behind the last that is left.
        drawn_token = torch.searchsorted(shares, drawn * shares[:, -1:] * (1 - 1e-6), right=True)
        return torch.full_like(scores, -torch.inf).scatter_(
            1, drawn_token.clamp(max=scores.shape[1] - 1), 0.0
        )


def _answer(
    contestant: Contestant,
    writing: AnswerSettings,
    turns: Turns,
    template_name: str,
    prompt: str,
    text: str,
    finish: str,
    prompt_tokens: int,
    new_tokens: int,
    seconds: float,
) -> Answer:
    return Answer(
        key=answer_key(contestant, writing, turns),
        origin="model",
        model=contestant.path.name,
        model_sha256=contestant.sha256,
        adapter_sha256=contestant.adapter_sha256,
        template=template_name,
        sampler=writing.facts,
        seed=writing.seed,
        prompt=prompt,
        text=text,
        finish=finish if text or finish not in ("end", "length") else "empty",
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        seconds=seconds,
    )


def _messages(turns: Turns) -> tuple[Message, ...]:
    return tuple(
        Message("assistant" if n % 2 else "user", f"{text}\n{input_text}" if input_text else text)
        for n, (text, input_text) in enumerate(turns)
    )
