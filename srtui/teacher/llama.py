"""Continuous batching over llama.cpp's low-level API, in this process.

One model, one context with a unified KV cache, N sequence slots. Each step is one ``llama_decode``
over the next token of every running sequence and, in the room that is left, chunks of the prompts
of those that are starting. A slot that finishes is filled again in the next step. The prompts'
common prefix is evaluated once, in a sequence of its own, and copied.

A guided answer is one sequence: when a segment ends, its last tokens are cut back to the text that
is kept, the next lead's tokens go in behind it, and the model writes on. Nothing is prompted twice.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import llama_cpp
import numpy as np
import psutil

from srtui.errors import UserError
from srtui.teacher import Generation, Request, Sampler, TeacherIdentity, TeacherProgress, Written
from srtui.teacher.chat import ChatTemplate

Auto = Literal["auto"]
_MIN_PREFIX = 16
_THINK_TOKENS = 1024
_THINK_END = b"</think>"
# Decoding on 2 to 8 CPU cores gains little beyond 16 sequences; a GPU has room for more.
_CPU_SLOTS, _GPU_SLOTS = 16, 32
# llama.cpp's llama_token_data
_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8}

_log_lines: deque[str] = deque(maxlen=20)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_log(level: int, text: bytes, _: Any) -> None:
    """llama.cpp writes to stderr by default; here its errors are kept, to explain a failed load."""
    if level >= 3:
        _log_lines.append(text.decode("utf-8", "replace").strip())


@dataclass
class _Job:
    """One candidate of a request, from the queue to its end. ``pending`` are tokens not yet in the
    KV cache; ``past`` is how many are there; ``tokens`` are all of them, in order."""

    request: Request
    candidate: int
    prompt_text: str
    prompt: list[int]
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
    written: list[Written] = field(default_factory=list)
    text: str = ""
    thinking: bytes = b""
    thinks: bool = False
    new_tokens: int = 0
    began: float = 0.0
    finished: bool = False

    @property
    def size(self) -> int:
        return len(self.prompt) + self.budget


class LlamaTeacher:
    """A GGUF model that writes many answers at once. See :class:`srtui.teacher.Teacher`.

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
    ) -> None:
        self._wanted_context, self._wanted_slots = context, slots
        self._batch_tokens = 512 if batch_tokens == "auto" else batch_tokens
        self._threads = (os.cpu_count() or 1) if threads == "auto" else threads
        self._flash = flash_attention
        self._kv_type = _KV_TYPES[kv_type]
        self._model = _load(path, gpu_layers)
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._adapter = _adapter(self._model, adapter) if adapter else None
        self._train_context = int(llama_cpp.llama_model_n_ctx_train(self._model))
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        template = llama_cpp.llama_model_chat_template(self._model, None)
        self._template = ChatTemplate(
            template.decode("utf-8", "replace") if template else None,
            self._token_text(llama_cpp.llama_vocab_bos(self._vocab)),
            self._token_text(llama_cpp.llama_vocab_eos(self._vocab)),
        )
        self.identity = TeacherIdentity(
            name=name,
            sha256=sha256,
            architecture=_meta(self._model, "general.architecture"),
            parameters=int(llama_cpp.llama_model_n_params(self._model)),
            quantization=_description(self._model),
            context=self._train_context,
            adapter_sha256=_sha256(adapter) if adapter else None,
        )
        self._context: Any = None
        self._batch: Any = None
        self._slots: list[_Job | None] = []
        self._cells = 0
        self._prefix: list[int] = []
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
            budget = sum(s.max_tokens + len(self._tokenize(s.lead, special=False)) for s in request.segments)
            jobs += [_Job(request, n, prompt_text, prompt, budget) for n in range(request.candidates)]
        merged = sorted([*self._queue, *jobs], key=lambda j: -j.size)  # stable: equals keep their order
        self._queue = deque(merged)

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Generation]:
        """Yield generations as they finish. Stops within one decode step when asked."""
        if not self._queue:
            return
        self._plan()
        began = time.perf_counter()
        try:
            while True:
                self._fill()
                while self._refused:
                    yield self._refused.popleft()
                running = [j for j in self._slots if j is not None]
                if not running and not self._queue and not self._set_back:
                    return
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
        self._open_context(slots, slots * (depth + 128))
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_clear(memory, False)

        def decode(rows: Sequence[tuple[int, int]]) -> float:
            for i, (position, seq) in enumerate(rows):
                self._put(i, token, position, seq, wants_logits=True)
            self._batch.n_tokens = len(rows)
            began = time.perf_counter()
            if llama_cpp.llama_decode(self._context, self._batch) != 0:
                raise UserError(f"{self.identity.name}: {slots} slots do not fit in memory.")
            llama_cpp.llama_synchronize(self._context)
            return time.perf_counter() - began

        decode([(0, 0)])  # the first call also sets things up
        prompt = decode([(i, 0) for i in range(1, min(depth, self._batch_size))])
        for seq in range(1, slots):
            llama_cpp.llama_memory_seq_cp(memory, 0, seq, 0, -1)
        start = min(depth, self._batch_size)
        steps, spent = 0, 0.0
        while steps < 2 or (spent < seconds and steps < 120):
            spent += decode([(start + steps, seq) for seq in range(slots)])
            steps += 1
        self._close_context()
        return (start - 1) / prompt, steps * slots / spent

    # -- planning ---------------------------------------------------------------------------

    def _plan(self) -> None:
        """Slots and cells from the prompts' real lengths and the memory that is free."""
        jobs = list(self._queue)
        prompts = [j.prompt for j in jobs]
        prefix = _common_prefix(prompts)[:-1] if prompts else []
        self._prefix = prefix if len(prefix) >= _MIN_PREFIX and len(jobs) > 1 else []
        limit = self._train_context if self._wanted_context == "auto" else self._wanted_context
        fitting = [j.size for j in jobs if j.size <= limit] or [limit]
        default_slots = _GPU_SLOTS if llama_cpp.llama_supports_gpu_offload() else _CPU_SLOTS
        slots = min(
            self._wanted_slots if self._wanted_slots != "auto" else default_slots, max(1, len(fitting))
        )
        if self._wanted_context == "auto":
            shared = len(self._prefix)
            cells = shared + sum(s - shared for s in sorted(fitting, reverse=True)[:slots])
            affordable = int(psutil.virtual_memory().available * 0.4 / self._cell_bytes())
            cells = max(fitting[0], min(cells, affordable))
            # A margin for retries, and a round number, so that the next stage can often use it too.
            cells = -(-(cells + 64) // 256) * 256
        else:
            cells = self._wanted_context
        if self._context is None or slots > len(self._slots) or cells > self._cells:
            self._open_context(slots, max(cells, self._cells if self._wanted_context == "auto" else 0))
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_clear(memory, False)
        self._memory = memory
        if self._prefix:
            self._evaluate_prefix()

    def _open_context(self, slots: int, cells: int) -> None:
        self._close_context()
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = cells
        parameters.n_batch = max(self._batch_tokens, slots)
        parameters.n_ubatch = parameters.n_batch
        parameters.n_seq_max = slots + 1  # one more for the shared prefix
        parameters.n_threads = parameters.n_threads_batch = self._threads
        parameters.type_k = parameters.type_v = self._kv_type
        parameters.flash_attn_type = -1 if self._flash == "auto" else int(self._flash)
        parameters.kv_unified = True  # cells are shared, so a prefix is copied by reference
        parameters.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise UserError(
                f"The teacher's context ({cells:,} tokens, {slots} slots) does not fit in memory; "
                "set teacher.context or teacher.slots lower."
            )
        if self._adapter is not None:
            llama_cpp.llama_set_adapters_lora(
                self._context,
                (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self._adapter),
                1,
                (ctypes.c_float * 1)(1.0),
            )
        self._cells = int(llama_cpp.llama_n_ctx(self._context))
        if self._wanted_context != "auto":
            self._cells = min(self._cells, self._wanted_context)
        self._batch = llama_cpp.llama_batch_init(parameters.n_batch, 0, 1)
        self._batch_size = int(parameters.n_batch)
        self._slots = [None] * slots

    def _close_context(self) -> None:
        if self._batch is not None:
            llama_cpp.llama_batch_free(self._batch)
            self._batch = None
        if self._context is not None:
            llama_cpp.llama_free(self._context)
            self._context = None
        self._slots = []

    def _cell_bytes(self) -> int:
        """Bytes of KV cache for one token."""
        model = self._model
        heads = max(1, llama_cpp.llama_model_n_head(model))
        width = llama_cpp.llama_model_n_embd(model) // heads * llama_cpp.llama_model_n_head_kv(model)
        size = {0: 4.0, 1: 2.0, 8: 1.0625, 2: 0.5625}[self._kv_type]
        return max(1, int(2 * llama_cpp.llama_model_n_layer(model) * width * size))

    def _evaluate_prefix(self) -> None:
        seq = len(self._slots)
        for start in range(0, len(self._prefix), self._batch_size):
            chunk = self._prefix[start : start + self._batch_size]
            for i, token in enumerate(chunk):
                self._put(i, token, start + i, seq, wants_logits=False)
            self._batch.n_tokens = len(chunk)
            if llama_cpp.llama_decode(self._context, self._batch) != 0:
                self._prefix = []  # no room for it: go on without sharing
                llama_cpp.llama_memory_clear(self._memory, False)
                return
            self._prompt_tokens += len(chunk)

    # -- steps ------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Put waiting jobs into free slots, as far as the cells go."""
        for seq, slot in enumerate(self._slots):
            if slot is not None:
                continue
            job = self._next_job()
            if job is None:
                return
            self._start(job, seq)

    def _next_job(self) -> _Job | None:
        used = (
            len(self._prefix)
            + sum(len(j.tokens) for j in self._slots if j)
            - sum(len(self._prefix) for j in self._slots if j)
        )
        idle = all(j is None for j in self._slots)
        if self._set_back:
            if idle or used + len(self._set_back[0].tokens) + 32 <= self._cells:
                return self._set_back.popleft()
            return None
        held: list[_Job] = []
        found: _Job | None = None
        while self._queue and found is None:
            job = self._queue.popleft()
            limit = min(self._train_context, self._cells)
            if job.size > limit:
                self._refused.append(self._refusal(job, limit))
            elif job.candidate and self._sibling(job) is None and self._sibling_starting(job):
                held.append(job)  # its prompt is being evaluated by its sibling right now
            elif not idle and used + len(job.prompt) - len(self._prefix) + 32 > self._cells:
                held.append(job)
                break
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
        sibling = self._sibling(job) if fresh and job.candidate else None
        if sibling is not None:
            shared = len(job.prompt) - 1  # the last one again, for its logits
            llama_cpp.llama_memory_seq_cp(self._memory, sibling.seq, seq, 0, shared)
        elif self._prefix and job.tokens[: len(self._prefix)] == self._prefix:
            shared = len(self._prefix)
            llama_cpp.llama_memory_seq_cp(self._memory, len(self._slots), seq, 0, shared)
        job.past, job.pending = shared, job.tokens[shared:]
        self._saved_tokens += shared

    def _step(self) -> Iterator[Generation]:
        """One ``llama_decode``: a token of every running sequence, and prompt chunks in the rest."""
        running = [j for j in self._slots if j is not None]
        running.sort(key=lambda j: len(j.pending))  # short ones first: decodes never wait for prompts
        size, asked, fed = 0, [], []
        for job in running:
            take = min(len(job.pending), self._batch_size - size)
            if take <= 0:
                break
            last = take == len(job.pending)
            for i in range(take):
                self._put(
                    size + i, job.pending[i], job.past + i, job.seq, wants_logits=last and i == take - 1
                )
            size += take
            fed.append((job, take))
            if last:
                asked.append((job, size - 1))
        if not size:
            return
        self._batch.n_tokens = size
        began = time.perf_counter()
        code = llama_cpp.llama_decode(self._context, self._batch)
        if asked and code == 0:
            llama_cpp.llama_synchronize(self._context)
        self.decode_seconds += time.perf_counter() - began
        if code == 1:
            yield from self._make_room(running)
            return
        if code != 0:
            raise UserError(
                f"llama.cpp could not evaluate a batch (code {code}): {' '.join(list(_log_lines)[-2:])}"
            )
        self.steps += 1
        self.slot_steps += len(running)
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

    def _make_room(self, running: list[_Job]) -> Iterator[Generation]:
        """llama.cpp found no KV slot: one sequence is set back and goes on later."""
        job = min(running, key=lambda j: j.new_tokens)
        self._free(job, keep=True)
        if len(running) > 1:
            self._set_back.append(job)
            return
        limit = self._cells
        self._release_samplers(job)
        yield self._refusal(job, limit)

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
            self._close_segment(job, len(job.buffer), "end")
            return
        piece = self._piece(token)
        job.tokens.append(token)
        job.pending = [token]
        searched = len(job.buffer)
        job.buffer += piece
        job.ends.append(len(job.buffer))
        if job.segment == 0 and self._think(job):
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
        if len(job.ends) >= segment.max_tokens:
            self._close_segment(job, len(job.buffer), "length")

    def _think(self, job: _Job) -> bool:
        """See a reasoning model through its <think> block; True while it is in it."""
        start = bytes(job.buffer[:16]).lstrip()
        if not job.thinks:
            job.thinks = start.startswith(b"<think>") or (
                not job.thinking and job.prompt_text.rstrip().endswith("<think>")
            )
        if not job.thinks or job.thinking:
            return False
        end = job.buffer.find(_THINK_END)
        if end < 0 and len(job.ends) < _THINK_TOKENS:
            return True
        if end < 0:
            tail = self._tokenize("\n</think>\n\n", special=True)
            job.tokens += tail
            job.pending += tail
            end = len(job.buffer)
        job.thinking = bytes(job.buffer[:end]).strip() or b" "
        job.buffer.clear()
        job.ends.clear()
        job.segment_start = len(job.tokens)
        return True

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
        job.written.append(Written(kept.decode("utf-8", "ignore"), finish, len(job.ends)))
        job.text += kept.decode("utf-8", "ignore")
        if job.segment + 1 == len(job.request.segments):
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
            if not llama_cpp.llama_memory_seq_rm(self._memory, job.seq, length, -1):
                # A recurrent state cannot be cut back: evaluate the sequence again.
                llama_cpp.llama_memory_seq_rm(self._memory, job.seq, 0, -1)
                length = 0
            job.past = length
        job.pending = job.tokens[job.past :]
        if not job.pending:  # an empty lead right behind what is evaluated: its last token again
            job.past = before - 1
            llama_cpp.llama_memory_seq_rm(self._memory, job.seq, job.past, -1)
            job.pending = job.tokens[job.past :]

    def _generation(self, job: _Job) -> Generation:
        self._release_samplers(job)
        return Generation(
            key=job.request.key,
            candidate=job.candidate,
            seed=job.request.seed + job.candidate,
            written=tuple(job.written),
            text=job.text,
            thinking=job.thinking.decode("utf-8", "ignore").removeprefix("<think>").strip(),
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

    def _free(self, job: _Job, keep: bool = False) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, job.seq, -1, -1)
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
        pieces = self._template.pieces(request.messages)
        tokens: list[int] = []
        for text, is_data in pieces:
            tokens += self._tokenize(text, special=not is_data)
        bos = llama_cpp.llama_vocab_bos(self._vocab)
        if llama_cpp.llama_vocab_get_add_bos(self._vocab) and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return "".join(text for text, _ in pieces), tokens

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        if not text:
            return []
        data = text.encode("utf-8", "replace")
        size = len(data) + 8
        tokens = (llama_cpp.llama_token * size)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, size, False, special)
        if count < 0:
            tokens = (llama_cpp.llama_token * -count)()
            count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, -count, False, special)
        return list(tokens[:count])

    def _piece(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._token_bytes(token, special=False)
        return piece

    def _token_bytes(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        count = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, 64, 0, special)
        if count < 0:
            buffer = ctypes.create_string_buffer(-count)
            count = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, -count, 0, special)
        return buffer.raw[:count]

    def _token_text(self, token: int) -> str:
        return self._token_bytes(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def _is_end(self, token: int) -> bool:
        """End of turn, or a control token, which can only begin another turn. <think> is neither."""
        end = self._ends.get(token)
        if end is None:
            control = bool(llama_cpp.llama_vocab_is_control(self._vocab, token))
            thinking = control and b"think>" in self._token_bytes(token, special=True)
            if thinking:
                self._pieces[token] = self._token_bytes(token, special=True)
            end = bool(llama_cpp.llama_vocab_is_eog(self._vocab, token)) or (control and not thinking)
            self._ends[token] = end
        return end


# -- opening a model --------------------------------------------------------------------------


def _load(path: Path, gpu_layers: int | Auto) -> Any:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}.") from error
    if magic != b"GGUF":
        raise UserError(f"{path} is not a GGUF file; a teacher is a GGUF model.")
    llama_cpp.llama_log_set(_keep_log, None)
    llama_cpp.llama_backend_init()
    _log_lines.clear()
    parameters = llama_cpp.llama_model_default_params()
    gpu = llama_cpp.llama_supports_gpu_offload()
    # All layers first, then fewer, until they fit.
    tries = [gpu_layers] if gpu_layers != "auto" else ([999, 48, 32, 24, 16, 8, 0] if gpu else [0])
    for layers in tries:
        parameters.n_gpu_layers = layers
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if model:
            return model
    why = next((line for line in _log_lines if "error" in line.lower()), _log_lines[-1] if _log_lines else "")
    unknown = "unknown model architecture" in why
    mend = "update llama-cpp-python" if unknown else "the file is damaged or incomplete; get it again"
    raise UserError(
        f"{path} cannot be loaded by llama.cpp ({why.rpartition('error')[2].strip(' :')}): {mend}."
    )


def _adapter(model: Any, path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"teacher.adapter: there is no file {path}.")
    adapter = llama_cpp.llama_adapter_lora_init(model, str(path).encode())
    if not adapter:
        raise UserError(f"{path} is not a LoRA adapter in GGUF for this teacher.")
    return adapter


def _meta(model: Any, key: str) -> str:
    buffer = ctypes.create_string_buffer(256)
    count = llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, 256)
    return buffer.value.decode("utf-8", "replace") if count >= 0 else ""


def _description(model: Any) -> str:
    buffer = ctypes.create_string_buffer(256)
    llama_cpp.llama_model_desc(model, buffer, 256)
    return buffer.value.decode("utf-8", "replace")


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- pure helpers -----------------------------------------------------------------------------


def _common_prefix(lists: Sequence[list[int]]) -> list[int]:
    """The longest prefix of all lists; that of the least and the greatest is that of all."""
    low, high = min(lists), max(lists)
    size = next(
        (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high))
    )
    return low[:size]


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
