"""Continuous batching over llama.cpp's low-level API, in this process.

One model, one context, N sequence slots, each with a KV cache of its own: a sequence attends to its
own cells and never pays for its neighbours'. What is decoded next is the scheduler's to say
(srtui.llama.scheduler), what a drawn token ends is the sequence's (srtui.llama.sequence), and a step is carried out
by the runner (srtui.llama.step_runner); here are the model, its memory and its queue.

Guided segments, shared prefixes and drafts need a memory that can be cut back, which a recurrent state (Mamba;
the hybrids, too) cannot: each context is asked, by trying.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, cast

import llama_cpp
import psutil

from srtui.errors import UserError
from srtui.llama import Generation, Prepared, Request, SlotProgress, TeacherIdentity, TeacherProgress
from srtui.llama.devices import gpus
from srtui.llama.drafting import Drafter, DraftingCounts
from srtui.llama.gguf import (
    LlamaVocabulary,
    chat_template,
    cpu_count,
    description,
    load_adapter,
    load_model,
    meta,
)
from srtui.llama.llama_context import LlamaContext, draft_costs, open_context
from srtui.llama.scheduler import Scheduler
from srtui.llama.sequence import AnswerSequence, sequences_of
from srtui.llama.step_runner import StepRunner
from srtui.models import file_sha256
from srtui.models.gguf_header import read_gguf
from srtui.models.memory import (
    CPU_SLOTS,
    GPU_SLOTS,
    KV_BYTES,
    cells_that_fit,
    compute_bytes,
    least_cells,
)
from srtui.progress import Report

Auto = Literal["auto"]
_SLOT_TEXT = 240  # characters of what a slot writes that faces are shown
_LEAST_WINDOW = 512  # requests: half a second of tokenizing, ten megabytes
_UNKNOWN = 1 << 62  # a GPU that does not say what it has free: then opening a context shows it
_KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8}


class LlamaTeacher:
    """A GGUF model that writes many answers at once. See :class:`srtui.llama.Teacher`.

    Raises UserError where the file is no GGUF, is truncated, or has an architecture that llama.cpp
    does not know.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        sha256: str,
        context: int | Auto = "auto",
        slots: int | Auto = "auto",
        batch_tokens: int | Auto = "auto",
        gpu_layers: int | Auto = "auto",
        threads: int | Auto = "auto",
        adapter: Path | None = None,
        flash_attention: bool | Auto = "auto",
        kv_type: str = "f16",
        drafting: bool | Auto = False,
        report_line: Report = lambda level, message: None,
    ) -> None:
        """``report_line`` gets what was planned, and with what is free. The rest is [teacher] of a recipe."""
        self._wanted_context, self._wanted_slots = context, slots
        self._batch_tokens = 512 if batch_tokens == "auto" else batch_tokens
        self._threads = cpu_count() if threads == "auto" else threads
        self._flash = flash_attention
        self._kv_type = _KV_TYPES[kv_type]
        self._report_line = report_line
        self._model, self._on_gpus = load_model(
            path,
            gpu_layers,
            cells=least_cells(slots, context),
            element=KV_BYTES[kv_type],
            report_line=report_line,
        )
        self._kv_element = KV_BYTES[kv_type]
        self._shape = read_gguf(path).shape
        self._vocabulary = LlamaVocabulary(self._model)
        self._adapter = load_adapter(self._model, adapter) if adapter else None
        self._train_context = int(llama_cpp.llama_model_n_ctx_train(self._model))
        self._template = chat_template(self._model)
        self._may_think = "think>" in self._template.source or self._vocabulary.knows_thinking
        self.identity = TeacherIdentity(
            name=name,
            sha256=sha256,
            architecture=meta(self._model, "general.architecture"),
            parameters=int(llama_cpp.llama_model_n_params(self._model)),
            quantization=description(self._model),
            context=self._train_context,
            adapter_sha256=file_sha256(adapter) if adapter else None,
            date=self._template.date,
        )
        self._context: LlamaContext | None = None
        self._gpu = any(self._on_gpus)
        self._measures_drafts = drafting == "auto"
        self._drafter = Drafter() if drafting else None
        self._scheduler = Scheduler(together=self._gpu, drafter=self._drafter)
        self._runner = StepRunner(name, self._vocabulary, self._scheduler, self._drafter)
        self._refused: deque[Generation] = deque()

    # -- the Teacher protocol ---------------------------------------------------------------

    @property
    def window(self) -> int:
        """Sixteen requests for each slot: with the longest of them first, the last ones to run are short."""
        slots = (
            (GPU_SLOTS if self._gpu else CPU_SLOTS) if self._wanted_slots == "auto" else self._wanted_slots
        )
        return max(_LEAST_WINDOW, 16 * slots)

    def prepare(self, request: Request) -> Prepared:
        """See :meth:`srtui.llama.Teacher.prepare`. llama.cpp's vocabulary is only read by it."""
        return Prepared(request, self._sequences(request))

    def submit(self, requests: Sequence[Request | Prepared]) -> None:
        """Queue requests, longest expected first, so that the tail of the work is short."""
        limit = self._limit()
        for request in requests:
            ready = request if isinstance(request, Prepared) else self.prepare(request)
            for sequence in cast("list[AnswerSequence]", ready.work):
                if sequence.size > limit:
                    self._refused.append(sequence.refusal(limit))
                else:
                    self._scheduler.add([sequence])

    def room(self, request: Request) -> Sequence[int]:
        """The most tokens that each segment can have."""
        return self._sequences(request)[0].room

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Generation]:
        """Yield generations as they finish. Stops within one decode step when asked."""
        try:
            while self._scheduler.waiting or self._refused:
                if not self._scheduler.waiting:
                    yield from self._refusals()
                    continue
                context = self._plan()
                while True:
                    for action in self._scheduler.fill():
                        self._runner.place(context, action)
                    yield from self._refusals()
                    if not self._scheduler.running:
                        break  # all are finished, or what is left needs another plan
                    if should_stop():
                        return
                    yield from self._runner.step(context)
        finally:
            self._report_drafts()
            self._drop_all()

    @property
    def drafting(self) -> DraftingCounts:
        """What came of guessed tokens since this teacher was opened."""
        return self._drafter.counts if self._drafter is not None else DraftingCounts()

    def _report_drafts(self) -> None:
        counts = self.drafting
        if counts.steps:
            self._report_line(
                "info",
                f"Drafting: {counts.accepted_a_step:.2f} tokens accepted of {counts.guessed / counts.sequence_steps:.1f} "
                f"guessed, on average of {counts.sequence_steps:,} drafts in {counts.steps:,} decodes.",
            )
        elif self._measures_drafts and self.steps:
            self._report_line("info", "Drafting: none; on this machine it would cost more than it gives.")

    @property
    def steps(self) -> int:
        """Steps that were taken since this teacher was opened."""
        return self._runner.steps

    @property
    def decode_seconds(self) -> float:
        """Seconds in ``llama_decode`` since this teacher was opened."""
        return self._runner.decode_seconds

    def _drop_all(self) -> None:
        self._runner.drop_all()
        self._scheduler.clear()
        self._refused.clear()

    def _sequences(self, request: Request) -> list[AnswerSequence]:
        prompt_text, prompt = self._render(request)
        return sequences_of(
            request, prompt_text, prompt, self._vocabulary, limit=self._limit(), may_think=self._may_think
        )

    def _refusals(self) -> Iterator[Generation]:
        while self._refused:
            yield self._refused.popleft()

    def progress(self) -> TeacherProgress:
        """See :meth:`srtui.llama.Teacher.progress`."""
        running = self._scheduler.running
        live = max(running, key=lambda sequence: sequence.new_tokens, default=None)
        return TeacherProgress(
            slots=self._context.slots if self._context is not None else 0,
            slots_in_use=len(running),
            waiting=self._scheduler.waiting,
            prompt_tokens=self._runner.prompt_tokens,
            prompt_tokens_saved=self._runner.saved_tokens,
            new_tokens=self._runner.new_tokens,
            live_key=live.request.key if live else None,
            live_text=live.text_so_far if live else "",
            slots_now=tuple(
                SlotProgress(s.request.key, s.text_so_far[-_SLOT_TEXT:], s.new_tokens, sum(s.room))
                for s in running
            ),
        )

    def close(self) -> None:
        """See :meth:`srtui.llama.Teacher.close`."""
        self._drop_all()
        self._close_context()
        if self._adapter is not None:
            llama_cpp.llama_adapter_lora_free(self._adapter)
            self._adapter = None
        if self._model is not None:
            llama_cpp.llama_model_free(self._model)
            self._model = None

    def bare_rates(self, slots: int, seconds: float) -> tuple[float, float]:
        """(prompt, decode) tokens a second of ``llama_decode`` alone with ``slots`` sequences, at the
        depth of a usual reflection; about ``seconds`` are spent on it."""
        depth, token = 256, max(0, llama_cpp.llama_vocab_bos(self._vocabulary.pointer))
        context = self._open_context(slots, depth + 128)
        if context is None:
            raise UserError(
                f"{self.identity.name}: {slots} slots do not fit in memory; try fewer: --slots 1,4."
            )

        def decode(rows: Sequence[tuple[int, int]]) -> float:
            for i, (position, slot) in enumerate(rows):
                context.put(i, token, position, slot, wants_logits=True)
            began = time.perf_counter()
            self._runner.decode(context, len(rows), wait=True)
            return time.perf_counter() - began

        decode([(0, 0)])  # the first call also sets things up
        prompt = decode([(i, 0) for i in range(1, min(depth, context.batch_tokens))])
        for slot in range(1, slots):
            context.copy(0, slot)
        start = min(depth, context.batch_tokens)
        steps, spent = 0, 0.0
        while steps < 2 or (spent < seconds and steps < 120):
            spent += decode([(start + steps, slot) for slot in range(slots)])
            steps += 1
        self._close_context()
        return (start - 1) / prompt, steps * slots / spent

    # -- planning ---------------------------------------------------------------------------

    def _plan(self) -> LlamaContext:
        """Open slots for what waits (something must), from the prompts' real lengths and the memory that is free."""
        requested, default = self._wanted_slots, GPU_SLOTS if self._gpu else CPU_SLOTS
        plan = self._scheduler.plan(default if requested == "auto" else requested, self._affordable())
        if plan.warning is not None:
            self._report_line("warning", plan.warning)
        slots, cells, context = plan.slots, plan.cells, self._context
        while context is None or slots != context.slots or cells > context.cells:
            context = self._open_context(slots, cells)
            if context is not None:
                break
            if slots == 1:
                lower = "teacher.gpu_layers or teacher.context" if self._gpu else "teacher.context"
                raise UserError(
                    f"The teacher's context ({cells:,} tokens) does not fit in memory; set {lower} lower."
                )
            slots //= 2
        context.try_to_cut(self._vocabulary.end_of_thinking[0])
        if self._drafter is not None and self._measures_drafts and context.cuts:
            self._drafter.costs = draft_costs(context)
        self._scheduler.open(
            plan, slots=slots, cells=context.cells, batch_tokens=context.batch_tokens, cuts=context.cuts
        )
        self._runner.evaluate_prefix(context)
        return context

    def _limit(self) -> int:
        """Tokens that one sequence may have."""
        requested = self._wanted_context
        return self._train_context if requested == "auto" else min(requested, self._train_context)

    def _open_context(self, slots: int, cells: int) -> LlamaContext | None:
        """A context for ``slots`` sequences of ``cells`` tokens in place of the one in hand; None where
        memory is short."""
        self._close_context()
        self._context = open_context(
            self._model,
            slots,
            cells,
            name=self.identity.name,
            batch_tokens=self._batch_tokens,
            threads=self._threads,
            kv_type=self._kv_type,
            flash_attention=-1 if self._flash == "auto" else int(self._flash),
            adapter=self._adapter,
        )
        return self._context

    def _close_context(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None

    def _affordable(self) -> int:
        """Tokens of KV cache that fit where the layers are: what is free there, and what the context in
        hand has, since it makes room for the next."""
        model, context = self._model, self._context
        held = context.cells * (context.slots + 1) if context is not None else 0
        heads = max(1, llama_cpp.llama_model_n_head(model))
        head_width = llama_cpp.llama_model_n_embd(model) // heads
        # llama.cpp tells the heads of the first layer, which in a hybrid may have none.
        kv = (
            self._shape.kv
            if self._shape is not None
            else 2 * max(1, llama_cpp.llama_model_n_head_kv(model)) * head_width
        )
        return held + cells_that_fit(
            kv * self._kv_element,
            llama_cpp.llama_model_n_layer(model),
            [
                (held, device.free if device.total else _UNKNOWN)
                for held, device in zip(self._on_gpus, gpus(), strict=False)
            ],
            host=psutil.virtual_memory().available,
            compute=0
            if held
            else compute_bytes(
                self._batch_tokens, self._vocabulary.size, head_width * heads, 4 * head_width * heads
            ),
        )

    def _render(self, request: Request) -> tuple[str, list[int]]:
        led = bool(request.segments[0].lead)
        return self._vocabulary.chat(self._template, request.messages, led=led)
