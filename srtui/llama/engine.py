"""Continuous batching over llama.cpp's low-level API, in this process.

One model, one context, N sequence slots, each with a KV cache of its own: a sequence attends to its
own cells and never pays for its neighbours'. Each step feeds prompt chunks of those that are
starting, up to a budget of tokens, and one token of every running sequence. A slot that finishes is
filled again in the next step. The prompts' common prefix is evaluated once, in a sequence of its
own, and copied.

On a CPU a prompt chunk is a ``llama_decode`` of its own, so that its arithmetic does not depend on
what runs beside it (docs/notes/engineering.md has the measurements); on a GPU, which small batches leave
idle, the chunks of a step go together.

A guided answer is one sequence: when a segment ends, its last tokens are cut back to the text that
is kept, the next lead's tokens go in behind it, and the model writes on. Nothing is prompted twice.

That needs a memory that can be cut back, which a recurrent state (Mamba; the hybrids, too) cannot: each
context is asked, by trying. Such a model shares no prefixes, gets no idle tokens, and where a text has to
be cut back its sequence is evaluated anew.
"""

from __future__ import annotations

import ctypes
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import llama_cpp
import numpy as np
import psutil

from srtui.chat_template import END_OF_THINKING, opens_thinking
from srtui.errors import UserError
from srtui.llama import (
    Generation,
    Request,
    Sampler,
    Segment,
    TeacherIdentity,
    TeacherProgress,
    WrittenSegment,
)
from srtui.llama.gguf import (
    Say,
    chat_template,
    chat_tokens,
    cpu_count,
    description,
    gpu_free,
    load_adapter,
    load_model,
    log_lines,
    meta,
    token_bytes,
    tokenize,
)
from srtui.models import file_sha256
from srtui.models.memory import cells_that_fit, compute_bytes, slots_that_fit

Auto = Literal["auto"]
# llama.cpp's CPU attention takes another path, with other rounding, for chunks of at least this many
# tokens: a prompt is cut so that its chunks stay above it, shared prefix or not.
_CHUNK_FLOOR = 64
# What is waiting to be fed: more tokens than this are a prompt, fewer the lead of a guided segment.
_LEAD = 32
_THINK, _THINK_END = b"<think>", b"</think>"
# Decoding on 2 to 8 CPU cores gains little beyond 16 sequences; a GPU has room for more.
_CPU_SLOTS, _GPU_SLOTS = 16, 32
# llama.cpp's llama_token_data
_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
# Layers go to the GPU before slots, but not so many that no cache fits for this many usual answers.
_LEAST_SLOTS, _USUAL_LENGTH = 4, 2048
_UNKNOWN = 1 << 62  # a GPU that does not say what it has free: then opening a context shows it
_KV_BYTES = {"f32": 4.0, "f16": 2.0, "q4_0": 0.5625, "q8_0": 1.0625}
_KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8}


@dataclass
class _Job:
    """One candidate of a request, from the queue to its end. ``pending`` are tokens not yet in the
    KV cache; ``past`` is how many are there; ``tokens`` are all of them, in order."""

    request: Request
    candidate: int
    prompt_text: str
    prompt: list[int]
    room: list[int]  # the most tokens that each segment may have
    thinking_left: int
    budget: int
    chain: Any = None
    grammar: Any = None
    seq: int = -1
    past: int = 0
    pending: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    segment: int = 0
    segment_start: int = 0
    buffer: bytearray = field(default_factory=bytearray)
    ends: list[int] = field(default_factory=list)  # length of the buffer after each token of the segment
    written: list[WrittenSegment] = field(default_factory=list)
    text: str = ""
    thinking: bytes = b""
    thinks: bool = False  # it is in a <think> block
    began_text: bool = False  # the segment begins with something else
    borrowed: int = 0  # thinking that took from the segment's own tokens
    new_tokens: int = 0
    began: float = 0.0
    finished: bool = False
    was_set_back: bool = False

    @property
    def size(self) -> int:
        return len(self.prompt) + self.budget


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
        say: Say = lambda level, message: None,
    ) -> None:
        """``say`` hears what was planned, and with what is free. The rest is [teacher] of a recipe."""
        self._wanted_context, self._wanted_slots = context, slots
        self._batch_tokens = 512 if batch_tokens == "auto" else batch_tokens
        self._threads = cpu_count() if threads == "auto" else threads
        self._flash = flash_attention
        self._kv_type = _KV_TYPES[kv_type]
        self._say = say
        wanted = 1 + (_LEAST_SLOTS if slots == "auto" else min(slots, _LEAST_SLOTS))
        self._model, self._on_gpu = load_model(
            path,
            gpu_layers,
            cells=wanted * (_USUAL_LENGTH if context == "auto" else context),
            element=_KV_BYTES[kv_type],
            say=say,
        )
        self._kv_element = _KV_BYTES[kv_type]
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._adapter = load_adapter(self._model, adapter) if adapter else None
        self._train_context = int(llama_cpp.llama_model_n_ctx_train(self._model))
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self._template = chat_template(self._model)
        self._closing = self._tokenize(END_OF_THINKING, special=True)
        self._may_think = (
            "think>" in self._template.source or len(self._tokenize(_THINK_END.decode(), special=True)) == 1
        )
        self._cuts = True
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
        self._context: Any = None
        self._batch: Any = None
        self._slots: list[_Job | None] = []
        self._slot_cells = 0
        self._floor = 0
        self._prefix: list[int] = []
        self._gpu = bool(llama_cpp.llama_supports_gpu_offload())
        self._queue: deque[_Job] = deque()
        self._refused: deque[Generation] = deque()
        self._set_back: deque[_Job] = deque()
        self._prompt_tokens = self._saved_tokens = self._new_tokens = 0
        self.steps = self.slot_steps = 0
        self.decode_seconds = self.run_seconds = 0.0

    # -- the Teacher protocol ---------------------------------------------------------------

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests, longest expected first, so that the tail of the work is short."""
        jobs = []
        for request in requests:
            prompt_text, prompt = self._render(request)
            room, thinking, beside = self._room(request, prompt)
            for n in range(request.candidates):
                job = _Job(request, n, prompt_text, prompt, room, thinking, sum(room) + beside)
                if job.size > self._limit():
                    self._refused.append(self._refusal(job, self._limit()))
                else:
                    jobs.append(job)
        merged = sorted([*self._queue, *jobs], key=lambda j: -j.size)  # stable: equals keep their order
        self._queue = deque(merged)

    def room(self, request: Request) -> Sequence[int]:
        """The most tokens that each segment can have."""
        return self._room(request, self._render(request)[1])[0]

    def _room(self, request: Request, prompt: Sequence[int]) -> tuple[list[int], int, int]:
        """The most tokens of each segment, those for thinking, and all that the answer has beside its segments."""
        leads = sum(len(self._closing) + len(self._tokenize(s.lead, special=False)) for s in request.segments)
        thinking = request.thinking_tokens if self._may_think else 0
        beside = leads + thinking
        return _fitted(request.segments, self._limit() - len(prompt) - beside), thinking, beside

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Generation]:
        """Yield generations as they finish. Stops within one decode step when asked."""
        began = time.perf_counter()
        try:
            while self._queue or self._refused:
                self._plan()
                while True:
                    self._fill()
                    while self._refused:
                        yield self._refused.popleft()
                    if all(j is None for j in self._slots):
                        break  # done, or what is left needs another plan
                    if should_stop():
                        return
                    yield from self._step()
        finally:
            self.run_seconds += time.perf_counter() - began
            self._drop_all()

    def progress(self) -> TeacherProgress:
        running = [j for j in self._slots if j is not None]
        live = max(running, key=lambda j: j.new_tokens, default=None)
        return TeacherProgress(
            slots=len(self._slots),
            slots_in_use=len(running),
            waiting=len(self._queue) + len(self._set_back),
            prompt_tokens=self._prompt_tokens,
            prompt_tokens_saved=self._saved_tokens,
            new_tokens=self._new_tokens,
            live_key=live.request.key if live else None,
            live_text=(live.text + bytes(live.buffer).decode("utf-8", "ignore")) if live else "",
        )

    def close(self) -> None:
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
        depth, token = 256, max(0, llama_cpp.llama_vocab_bos(self._vocab))
        if not self._open_context(slots, depth + 128):
            raise UserError(f"{self.identity.name}: {slots} slots do not fit in memory.")
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_clear(memory, False)

        def decode(rows: Sequence[tuple[int, int]]) -> float:
            for i, (position, seq) in enumerate(rows):
                self._put(i, token, position, seq, wants_logits=True)
            began = time.perf_counter()
            self._decode(len(rows), wait=True)
            return time.perf_counter() - began

        decode([(0, 0)])  # the first call also sets things up
        prompt = decode([(i, 0) for i in range(1, min(depth, self._batch_size))])
        for seq in range(1, slots):
            llama_cpp.llama_memory_seq_cp(memory, 0, seq, -1, -1)
        start = min(depth, self._batch_size)
        steps, spent = 0, 0.0
        while steps < 2 or (spent < seconds and steps < 120):
            spent += decode([(start + steps, seq) for seq in range(slots)])
            steps += 1
        self._close_context()
        return (start - 1) / prompt, steps * slots / spent

    # -- planning ---------------------------------------------------------------------------

    def _plan(self) -> None:
        """Slots, and cells for each, from the prompts' real lengths and the memory that is free.

        Every slot has room for the longest job. Where memory does not hold that many, the longest
        jobs run first with fewer slots, and the rest gets a plan of its own (``_floor``).
        """
        jobs = list(self._queue)
        self._floor = 0
        if not jobs:
            return
        wanted, usual = self._wanted_slots, _GPU_SLOTS if self._gpu else _CPU_SLOTS
        slots = min(usual if wanted == "auto" else wanted, len(jobs))
        affordable = self._affordable()
        if (slots + 1) * jobs[0].size > affordable:
            share = affordable // (slots + 1)
            long = [j for j in jobs if j.size > share]
            if len(long) < len(jobs):
                self._floor = share
            fewer = max(1, slots_that_fit(min(slots, len(long)), jobs[0].size, affordable))
            self._say(
                "warning",
                f"Memory holds {affordable:,} tokens of the teacher's KV cache, so {fewer} answers of up to "
                f"{jobs[0].size:,} tokens are written at a time, not {slots}.",
            )
            slots = fewer
        cells = jobs[0].size
        while self._context is None or slots != len(self._slots) or cells > self._slot_cells:
            if self._open_context(slots, cells):
                break
            if slots == 1:
                raise UserError(
                    f"The teacher's context ({cells:,} tokens) does not fit in memory; set teacher.context lower."
                )
            slots //= 2
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._cuts = self._can_be_cut()
        self._evaluate_prefix([j.prompt for j in jobs])

    def _can_be_cut(self) -> bool:
        """Whether the end of a sequence can be taken out of this context's memory. Leaves it empty."""
        llama_cpp.llama_memory_clear(self._memory, False)
        for i in range(2):
            self._put(i, self._closing[0], i, 0, wants_logits=i == 1)
        self._decode(2, wait=True)
        can = bool(llama_cpp.llama_memory_seq_rm(self._memory, 0, 1, -1))
        llama_cpp.llama_memory_clear(self._memory, False)
        return can

    def _limit(self) -> int:
        """Tokens that one sequence may have."""
        wanted = self._wanted_context
        return self._train_context if wanted == "auto" else min(wanted, self._train_context)

    def _open_context(self, slots: int, cells: int) -> bool:
        """A context with ``cells`` cells for each of ``slots`` sequences; False where memory is short."""
        self._close_context()
        cells = -(-(cells + 16) // 256) * 256  # llama.cpp's own granularity
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_seq_max = slots + 1  # one more for the shared prefix
        parameters.n_ctx = cells * (slots + 1)
        parameters.n_batch = max(self._batch_tokens, slots + 1)
        parameters.n_ubatch = parameters.n_batch
        parameters.n_threads = parameters.n_threads_batch = self._threads
        parameters.type_k = parameters.type_v = self._kv_type
        parameters.flash_attn_type = -1 if self._flash == "auto" else int(self._flash)
        parameters.kv_unified = False
        parameters.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        if not self._context:
            return False
        if self._adapter is not None:
            llama_cpp.llama_set_adapters_lora(
                self._context,
                (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self._adapter),
                1,
                (ctypes.c_float * 1)(1.0),
            )
        self._slot_cells = int(llama_cpp.llama_n_ctx_seq(self._context))
        self._batch = llama_cpp.llama_batch_init(parameters.n_batch, 0, 1)
        self._batch_size = int(parameters.n_batch)
        self._slots = [None] * slots
        return True

    def _close_context(self) -> None:
        if self._batch is not None:
            llama_cpp.llama_batch_free(self._batch)
            self._batch = None
        if self._context is not None:
            llama_cpp.llama_free(self._context)
            self._context = None
        self._slots = []

    def _affordable(self) -> int:
        """Tokens of KV cache that fit where the layers are: what is free there, and what the context in
        hand has, since it makes room for the next."""
        model, held = self._model, self._slot_cells * (len(self._slots) + 1) if self._context else 0
        heads = max(1, llama_cpp.llama_model_n_head(model))
        architecture = meta(model, "general.architecture")
        usual = llama_cpp.llama_model_n_embd(model) // heads
        width = sum(
            int(said) if (said := meta(model, f"{architecture}.attention.{part}_length")).isdigit() else usual
            for part in ("key", "value")
        )
        return held + cells_that_fit(
            max(1, llama_cpp.llama_model_n_head_kv(model)) * width * self._kv_element,
            llama_cpp.llama_model_n_layer(model),
            self._on_gpu,
            device=_UNKNOWN if (free := gpu_free()) is None else free,
            host=psutil.virtual_memory().available,
            compute=0
            if held
            else compute_bytes(self._batch_tokens, self._vocab_size, usual * heads, 4 * usual * heads),
        )

    def _evaluate_prefix(self, prompts: Sequence[list[int]]) -> None:
        """Run what all prompts begin with, once, in the sequence behind the slots."""
        prefix = _common_prefix(prompts)
        keep = min(len(prefix), min(len(p) for p in prompts) - _CHUNK_FLOOR)
        worth = self._cuts and keep >= _CHUNK_FLOOR and len(prompts) > 1
        self._prefix = prefix[:keep] if worth else []
        seq, at = len(self._slots), 0
        while at < len(self._prefix):
            size = self._chunk(len(self._prefix) - at)
            for i in range(size):
                self._put(i, self._prefix[at + i], at + i, seq, wants_logits=False)
            self._decode(size)
            self._prompt_tokens += size
            at += size

    def _chunk(self, left: int) -> int:
        """How much of a prompt to feed at a time: even pieces, none much smaller than the others."""
        return -(-left // -(-left // self._batch_size))

    # -- steps ------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Put waiting jobs into free slots, as far as the cells go."""
        for seq, slot in enumerate(self._slots):
            if slot is not None:
                continue
            job = self._next_job()
            if job is None:
                self._close_gaps()
                return
            self._start(job, seq)

    def _close_gaps(self) -> None:
        """Move the last sequences into empty slots: llama.cpp evaluates neighbours together."""
        last = len(self._slots) - 1
        for seq in range(len(self._slots)):
            while last > seq and self._slots[last] is None:
                last -= 1
            job = self._slots[last]
            if last <= seq or job is None:
                return
            if self._slots[seq] is None:
                llama_cpp.llama_memory_seq_cp(self._memory, last, seq, -1, -1)
                self._cut(last, 0)
                self._slots[seq], self._slots[last], job.seq = job, None, seq

    def _next_job(self) -> _Job | None:
        """The next job that this plan has room for."""
        if self._set_back and all(j is None for j in self._slots):
            return self._set_back.popleft()
        held, found = [], None
        while self._queue and found is None:
            if self._queue[0].size <= self._floor:
                break  # the queue is sorted: all that is left waits for the next plan
            job = self._queue.popleft()
            if job.size > self._slot_cells:
                held.append(job)  # submitted after the plan was made
            elif self._cuts and job.candidate and self._sibling(job) is None and self._sibling_starting(job):
                held.append(job)  # its prompt is being evaluated by its sibling right now
            else:
                found = job
        self._queue.extendleft(reversed(held))
        return found

    def _sibling(self, job: _Job) -> _Job | None:
        """A running candidate of the same request whose prompt is in the cache."""
        for other in self._slots:
            if other is not None and other.request is job.request and other.past >= len(job.prompt):
                return other
        return None

    def _sibling_starting(self, job: _Job) -> bool:
        return any(o is not None and o.request is job.request for o in self._slots)

    def _start(self, job: _Job, seq: int) -> None:
        self._slots[seq] = job
        job.seq = seq
        fresh = job.chain is None
        if fresh:
            job.began = time.perf_counter()
            job.chain = self._chain(job.request.sampler, job.request.seed + job.candidate)
            job.tokens = list(job.prompt)
            self._open_segment(job)
        shared = 0
        sibling = self._sibling(job) if fresh and job.candidate and self._cuts else None
        if sibling is not None:
            llama_cpp.llama_memory_seq_cp(self._memory, sibling.seq, seq, -1, -1)
            shared = self._cut(seq, len(job.prompt) - 1)  # the last one again, for its logits
        elif self._prefix and job.tokens[: len(self._prefix)] == self._prefix:
            shared = len(self._prefix)
            llama_cpp.llama_memory_seq_cp(self._memory, len(self._slots), seq, -1, -1)
        job.past, job.pending = shared, job.tokens[shared:]
        self._saved_tokens += shared

    def _step(self) -> Iterator[Generation]:
        """Prompt chunks up to a batch's tokens, then one token of every running sequence."""
        running = [j for j in self._slots if j is not None]
        self.steps += 1
        self.slot_steps += len(running)
        left, together = self._batch_size, []
        for job in running:
            if len(job.pending) <= _LEAD or left <= 0:
                continue
            take = min(self._chunk(len(job.pending)), left) if self._gpu else self._chunk(len(job.pending))
            left -= take
            if self._gpu:
                together.append((job, take))
                continue
            yield from self._feed([(job, take)])
            # No idle tokens could close the gap between its neighbours, so the prompt goes in whole.
            while not self._cuts and job.seq >= 0 and len(job.pending) > _LEAD:
                yield from self._feed([(job, self._chunk(len(job.pending)))])
        if together:
            yield from self._feed(together)
        # A guided segment's lead: as many tokens in each, or llama.cpp would cut the batch otherwise.
        leads: dict[int, list[tuple[_Job, int]]] = {}
        for job in running:
            if 1 < len(job.pending) <= _LEAD and job.seq >= 0:
                leads.setdefault(len(job.pending), []).append((job, len(job.pending)))
        for size, group in leads.items():
            most = self._batch_size // size
            for at in range(0, len(group), most):
                yield from self._feed(group[at : at + most])
        ready = [(job, 1) for job in running if len(job.pending) == 1 and job.seq >= 0]
        if ready:
            yield from self._feed(ready, self._between([job.seq for job, _ in ready]))

    def _between(self, seqs: Sequence[int]) -> list[int]:
        """The sequences to give an idle token, so that those that decode lie side by side and are two
        at least: a batch with a gap is cut in two, and one sequence alone is rounded otherwise."""
        low, high = min(seqs), max(seqs)
        idle = sorted({*range(low, max(high, low + 1) + 1)} - set(seqs))
        # Where nothing can be taken out again, only empty sequences can be given one.
        return [seq for seq in idle if self._cuts or self._end_of(seq) == 0]

    def _feed(self, fed: list[tuple[_Job, int]], idle: Sequence[int] = ()) -> Iterator[Generation]:
        """One ``llama_decode`` over the next tokens of these sequences, and what follows from it.

        The sequences in ``idle`` get a token that is taken out again.
        """
        size, asked = 0, []
        for job, take in fed:
            last = take == len(job.pending)
            for i in range(take):
                self._put(
                    size + i, job.pending[i], job.past + i, job.seq, wants_logits=last and i == take - 1
                )
            size += take
            if last:
                asked.append((job, size - 1))
        ends = {seq: self._end_of(seq) for seq in idle}
        for n, (seq, end) in enumerate(ends.items()):
            self._put(size + n, 0, end, seq, wants_logits=False)
        done = self._decode(size + len(ends), wait=bool(asked))
        for seq, end in ends.items():
            if self._cut(seq, end) != end:
                raise UserError(f"{self.identity.name}: llama.cpp could not take a token back; update it.")
        if not done:
            yield from self._make_room([job for job, _ in fed])
            return
        for job, take in fed:
            if job.new_tokens == 0 or take > 1:
                self._prompt_tokens += take
            job.past += take
            del job.pending[:take]
        for job, index in asked:
            self._advance(job, index)
            if job.finished:
                self._free(job)
                yield self._generation(job)

    def _cut(self, seq: int, length: int) -> int:
        """Take what is behind its first ``length`` tokens out of a sequence. Returns how many are left:
        none where the memory cannot be cut, and all of them have to be evaluated again."""
        if length and self._cuts and llama_cpp.llama_memory_seq_rm(self._memory, seq, length, -1):
            return length
        if not llama_cpp.llama_memory_seq_rm(self._memory, seq, -1, -1):
            raise UserError(f"{self.identity.name}: llama.cpp could not empty a sequence; update it.")
        return 0

    def _end_of(self, seq: int) -> int:
        """How many tokens a sequence has in the cache."""
        if seq == len(self._slots):
            return len(self._prefix)
        job = self._slots[seq]
        return job.past if job is not None else 0

    def _decode(self, size: int, *, wait: bool = False) -> bool:
        """``llama_decode`` of the batch's first ``size`` tokens; False where there is no KV slot."""
        self._batch.n_tokens = size
        began = time.perf_counter()
        code = llama_cpp.llama_decode(self._context, self._batch)
        if wait and code == 0:
            llama_cpp.llama_synchronize(self._context)
        self.decode_seconds += time.perf_counter() - began
        if code not in (0, 1):
            raise UserError(
                f"llama.cpp could not evaluate a batch (code {code}): {' '.join(log_lines()[-2:])}"
            )
        return bool(code == 0)

    def _make_room(self, fed: Sequence[_Job]) -> Iterator[Generation]:
        """llama.cpp found no KV slot: the longest sequence is set back, and tried again alone."""
        job = max(fed, key=lambda j: j.past)
        self._free(job)
        if not job.was_set_back:
            job.was_set_back = True
            self._set_back.append(job)
            return
        self._release_samplers(job)
        yield self._refusal(job, self._slot_cells)

    def _put(self, i: int, token: int, position: int, seq: int, *, wants_logits: bool) -> None:
        batch = self._batch
        batch.token[i] = token
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = seq
        batch.logits[i] = wants_logits

    # -- one sequence -----------------------------------------------------------------------

    def _advance(self, job: _Job, index: int) -> None:
        """Sample the next token of a sequence, and see what it ends."""
        token = self._sample(job, index)
        job.new_tokens += 1
        self._new_tokens += 1
        segment = job.request.segments[job.segment]
        if self._is_end(token):
            if job.thinks:
                self._end_thinking(job)
            else:
                self._close_segment(job, len(job.buffer), "end")
            return
        piece = self._piece(token)
        job.tokens.append(token)
        job.pending = [token]
        searched = len(job.buffer)
        job.buffer += piece
        job.ends.append(len(job.buffer))
        if self._think(job):
            return
        for stop in segment.stops:
            sign = stop.encode()
            found = job.buffer.find(sign, max(0, searched - len(sign) + 1))
            if found >= 0:
                self._close_segment(job, found, f"stop:{stop}")
                return
        if len(job.ends) % 8 == 0:
            cut = _loop_start(job.tokens[job.segment_start :])
            if cut is not None:
                self._close_segment(job, job.ends[cut - 1] if cut else 0, "repetition")
                return
        if len(job.ends) + job.borrowed >= job.room[job.segment]:
            self._close_segment(job, len(job.buffer), "length")

    def _think(self, job: _Job) -> bool:
        """See a reasoning model through a <think> block at the beginning of a segment; True while it is in
        it. It has the request's tokens for thinking, and where those are spent, or were never planned
        because nothing about the model speaks of thinking, the segment's own."""
        if not job.thinks:
            start = bytes(job.buffer[:32]).lstrip()
            job.thinks = start.startswith(_THINK) and not job.began_text
            job.began_text = job.began_text or not _THINK.startswith(start[: len(_THINK)])
            if not job.thinks:
                return False
        room = job.thinking_left or job.room[job.segment]
        if _THINK_END in job.buffer or len(job.ends) >= room:
            self._end_thinking(job)
        return True

    def _end_thinking(self, job: _Job) -> None:
        """Leave the <think> block, and close it where the model has not."""
        thought, closed, rest = bytes(job.buffer).partition(_THINK_END)
        if not closed:
            job.tokens += self._closing
            job.pending += self._closing
        job.thinking += thought.strip().removeprefix(_THINK).strip() + b"\n"
        used = len(job.ends)
        job.borrowed = max(0, used - job.thinking_left)
        job.thinking_left = max(0, job.thinking_left - used)
        job.thinks, job.began_text = False, True
        job.buffer[:] = rest
        job.ends = [len(rest)] if rest else []
        job.segment_start = len(job.tokens) - len(job.ends)
        if job.borrowed >= job.room[job.segment]:
            self._close_segment(job, len(job.buffer), "length")

    def _open_segment(self, job: _Job) -> None:
        """Put the segment's lead behind what is there."""
        segment = job.request.segments[job.segment]
        lead = self._tokenize(segment.lead, special=False) if segment.lead else []
        job.tokens += lead
        job.pending += lead
        job.text += segment.lead
        job.segment_start = len(job.tokens)
        job.buffer.clear()
        job.ends.clear()
        job.borrowed = 0
        job.thinks = job.segment == 0 and not lead and opens_thinking(job.prompt_text)
        job.began_text = False
        if job.grammar is not None:
            llama_cpp.llama_sampler_free(job.grammar)
            job.grammar = None
        if segment.grammar:
            job.grammar = llama_cpp.llama_sampler_init_grammar(self._vocab, segment.grammar.encode(), b"root")
            if not job.grammar:
                raise UserError("A segment's grammar is not valid GBNF.")

    def _close_segment(self, job: _Job, keep: int, finish: str) -> None:
        """End the segment with the first ``keep`` bytes of what was written, and open the next one.

        Tokens beyond the kept text leave the KV cache; where the cut goes through a token, its kept
        beginning is tokenised anew.
        """
        kept = bytes(job.buffer[:keep])
        room = job.room[job.segment]
        job.written.append(WrittenSegment(kept.decode("utf-8", "ignore"), finish, len(job.ends), room))
        job.text += kept.decode("utf-8", "ignore")
        useless = job.request.segments[job.segment].whole and finish in ("length", "repetition")
        if useless or job.segment + 1 == len(job.request.segments):
            job.finished = True
            return
        whole = sum(1 for end in job.ends if end <= keep)
        rest = kept[job.ends[whole - 1] if whole else 0 :].decode("utf-8", "ignore")
        length = job.segment_start + whole
        del job.tokens[length:]
        if rest:
            job.tokens += self._tokenize(rest, special=False)
        job.segment += 1
        before = len(job.tokens)
        self._open_segment(job)
        if length < job.past:
            job.past = self._cut(job.seq, length)
        if job.past == len(job.tokens):  # an empty lead right behind what is evaluated: its last token again
            job.past = self._cut(job.seq, before - 1)
        job.pending = job.tokens[job.past :]

    def _generation(self, job: _Job) -> Generation:
        self._release_samplers(job)
        return Generation(
            key=job.request.key,
            candidate=job.candidate,
            seed=job.request.seed + job.candidate,
            written=tuple(job.written),
            text=job.text,
            thinking=job.thinking.decode("utf-8", "ignore").strip(),
            prompt=job.prompt_text,
            prompt_tokens=len(job.prompt),
            new_tokens=job.new_tokens,
            seconds=time.perf_counter() - job.began,
        )

    def _refusal(self, job: _Job, limit: int) -> Generation:
        return Generation(
            key=job.request.key,
            candidate=job.candidate,
            seed=job.request.seed + job.candidate,
            written=(),
            text="",
            thinking="",
            prompt=job.prompt_text,
            prompt_tokens=len(job.prompt),
            new_tokens=0,
            seconds=0.0,
            refused="too_long",
            detail=f"{len(job.prompt):,} prompt tokens and up to {job.budget:,} more; the context holds {limit:,}",
        )

    def _free(self, job: _Job) -> None:
        self._cut(job.seq, 0)
        self._slots[job.seq] = None
        job.seq = -1
        job.past = 0

    def _release_samplers(self, job: _Job) -> None:
        for sampler in (job.chain, job.grammar):
            if sampler is not None:
                llama_cpp.llama_sampler_free(sampler)
        job.chain = job.grammar = None

    def _drop_all(self) -> None:
        for job in [*self._slots, *self._set_back]:
            if job is not None:
                self._release_samplers(job)
        self._slots = [None] * len(self._slots)
        self._set_back.clear()
        self._queue.clear()
        self._refused.clear()

    # -- sampling ---------------------------------------------------------------------------

    def _chain(self, sampler: Sampler, seed: int) -> Any:
        """A sampler chain of the request's own, so that its draws do not depend on its neighbours."""
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())

        def add(part: Any) -> None:
            llama_cpp.llama_sampler_chain_add(chain, part)

        if sampler.repeat_penalty != 1.0:
            add(
                llama_cpp.llama_sampler_init_penalties(
                    self._vocab_size, sampler.repeat_window, sampler.repeat_penalty, 0.0, 0.0
                )
            )
        if sampler.temperature <= 0:
            add(llama_cpp.llama_sampler_init_greedy())
            return chain
        if sampler.top_k > 0:
            add(llama_cpp.llama_sampler_init_top_k(sampler.top_k))
        if sampler.top_p < 1:
            add(llama_cpp.llama_sampler_init_top_p(sampler.top_p, 1))
        if sampler.min_p > 0:
            add(llama_cpp.llama_sampler_init_min_p(sampler.min_p, 1))
        add(llama_cpp.llama_sampler_init_temp(sampler.temperature))
        add(llama_cpp.llama_sampler_init_dist(seed & 0xFFFFFFFF))
        return chain

    def _sample(self, job: _Job, index: int) -> int:
        if job.grammar is None:
            return int(llama_cpp.llama_sampler_sample(job.chain, self._context, index))
        # Sample first; only a token that the grammar refuses is sampled again, under it.
        token = self._draw(job, index, constrained=False)
        if not self._allowed(job.grammar, token):
            token = self._draw(job, index, constrained=True)
        llama_cpp.llama_sampler_accept(job.grammar, token)
        llama_cpp.llama_sampler_accept(job.chain, token)
        return token

    def _draw(self, job: _Job, index: int, *, constrained: bool) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, index)
        data = (llama_cpp.llama_token_data * self._vocab_size)()
        table = np.frombuffer(data, dtype=_TOKEN_DATA)
        table["id"] = np.arange(self._vocab_size, dtype=np.int32)
        table["logit"] = np.ctypeslib.as_array(logits, shape=(self._vocab_size,))
        array = llama_cpp.llama_token_data_array(data=data, size=self._vocab_size, selected=-1, sorted=False)
        if constrained:
            llama_cpp.llama_sampler_apply(job.grammar, ctypes.byref(array))
        llama_cpp.llama_sampler_apply(job.chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    @staticmethod
    def _allowed(grammar: Any, token: int) -> bool:
        one = (llama_cpp.llama_token_data * 1)()
        one[0].id, one[0].logit = token, 1.0
        array = llama_cpp.llama_token_data_array(data=one, size=1, selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(grammar, ctypes.byref(array))
        return bool(array.data[0].logit > float("-inf"))

    # -- tokens -----------------------------------------------------------------------------

    def _render(self, request: Request) -> tuple[str, list[int]]:
        led = bool(request.segments[0].lead)
        return chat_tokens(self._vocab, self._template, request.messages, led=led)

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        return tokenize(self._vocab, text, special=special)

    def _piece(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = token_bytes(self._vocab, token, special=False)
        return piece

    def _is_end(self, token: int) -> bool:
        """End of turn, or a control token, which can only begin another turn. <think> is neither."""
        end = self._ends.get(token)
        if end is None:
            control = bool(llama_cpp.llama_vocab_is_control(self._vocab, token))
            thinking = control and b"think>" in token_bytes(self._vocab, token, special=True)
            if thinking:
                self._pieces[token] = token_bytes(self._vocab, token, special=True)
            end = bool(llama_cpp.llama_vocab_is_eog(self._vocab, token)) or (control and not thinking)
            self._ends[token] = end
        return end


# -- pure helpers -----------------------------------------------------------------------------


def _common_prefix(lists: Sequence[list[int]]) -> list[int]:
    """The longest prefix of all lists; that of the least and the greatest is that of all."""
    low, high = min(lists), max(lists)
    size = next(
        (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high))
    )
    return low[:size]


def _fitted(segments: Sequence[Segment], there_is: int) -> list[int]:
    """The most tokens of each segment, where there is room for ``there_is`` in all: the last ones give up
    first, none more than its least."""
    room = [s.max_tokens for s in segments]
    for n in range(len(room) - 1, -1, -1):
        least = segments[n].least_tokens
        if least is not None:
            room[n] = max(min(least, room[n]), min(room[n], room[n] + there_is - sum(room)))
    return room


def _loop_start(tokens: list[int], *, longest: int = 64, least: int = 48) -> int | None:
    """Where a sequence that repeats itself may be cut so that what it repeats stands once.

    A loop is a period of up to ``longest`` tokens, at the end of the sequence, at least four times
    over and at least ``least`` tokens in all. Returns the index to cut at, or None.
    """
    for period in range(1, min(longest, len(tokens) // 4) + 1):
        count = period
        while count < len(tokens) and tokens[-count - 1] == tokens[-count - 1 + period]:
            count += 1
        if count >= max(least, 4 * period):
            return len(tokens) - count + period
    return None
