"""A llama.cpp context whose sequences have a KV cache each, and the batch that it decodes."""

from __future__ import annotations

import ctypes
import re
import time
from typing import Any

import llama_cpp

from srtui.errors import UserError
from srtui.llama.drafting import LENGTHS, Costs
from srtui.llama.gguf import decode_error
from srtui.llama.llama_log import forget_log, log_lines

_MEMORY = re.compile(r"alloc|memory", re.IGNORECASE)
_GRANULARITY, _SPARE = 256, 16  # llama.cpp's own steps of a context's size, and cells for idle tokens


class LlamaContext:
    """``slots`` sequences, and one more behind them for what prompts have in common, of ``cells`` tokens each.

    ``cuts`` says whether the end of a sequence can be taken out of the cache, which is asked by trying.
    """

    def __init__(self, pointer: Any, slots: int, batch_tokens: int, name: str) -> None:
        """Takes over an open context of the model ``name``; :func:`open_context` makes one."""
        self.slots, self.batch_tokens, self._name = slots, batch_tokens, name
        self.cells = int(llama_cpp.llama_n_ctx_seq(pointer))
        self.pointer: Any = pointer
        self._memory = llama_cpp.llama_get_memory(pointer)
        batch = self._batch = llama_cpp.llama_batch_init(batch_tokens, 0, 1)
        # A structure's field is looked up and wrapped at each access, for each token of each step.
        self._tokens, self._positions, self._logits = batch.token, batch.pos, batch.logits
        self._sequence_ids = [batch.seq_id[i] for i in range(batch_tokens)]
        for i in range(batch_tokens):
            batch.n_seq_id[i] = 1
        self.cuts = True

    def close(self) -> None:
        """Give the cache and the batch back."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self.pointer)
        self.pointer = None

    def put(self, i: int, token: int, position: int, slot: int, *, wants_logits: bool) -> None:
        """Fill a row of the next batch.

        Args:
            i: which row.
            token: its id.
            position: where in its sequence it stands.
            slot: the sequence.
            wants_logits: whether the next token is to be drawn behind it.
        """
        self._tokens[i] = token
        self._positions[i] = position
        self._sequence_ids[i][0] = slot
        self._logits[i] = wants_logits

    def ask(self, i: int) -> None:
        """The logits behind row ``i`` are wanted."""
        self._logits[i] = True

    def decode(self, size: int, *, wait: bool) -> bool:
        """``llama_decode`` of the batch's first ``size`` rows; False where there is no KV slot for them.
        ``wait`` until the logits are there.

        Raises UserError where llama.cpp fails otherwise.
        """
        self._batch.n_tokens = size
        code = llama_cpp.llama_decode(self.pointer, self._batch)
        if wait and code == 0:
            llama_cpp.llama_synchronize(self.pointer)
        if code not in (0, 1):
            raise decode_error(code)
        return bool(code == 0)

    def copy(self, source: int, slot: int) -> None:
        """All of a sequence to another slot, which is empty."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, slot, -1, -1)

    def cut(self, slot: int, length: int) -> int:
        """Take what is behind its first ``length`` tokens out of a sequence. Returns how many are left:
        none where the memory cannot be cut, and all of them have to be evaluated again."""
        if length and self.cuts and llama_cpp.llama_memory_seq_rm(self._memory, slot, length, -1):
            return length
        if not llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1):
            raise UserError(f"{self._name}: llama.cpp could not empty a sequence; update it.")
        return 0

    def empty(self) -> None:
        """Take all sequences out of the cache."""
        llama_cpp.llama_memory_clear(self._memory, False)

    def try_to_cut(self, token: int) -> None:
        """Find out whether sequences can be cut, with two of this token. Leaves the cache empty."""
        self.empty()
        for i in range(2):
            self.put(i, token, i, 0, wants_logits=i == 1)
        self.decode(2, wait=True)
        self.cuts = bool(llama_cpp.llama_memory_seq_rm(self._memory, 0, 1, -1))
        self.empty()


def open_context(
    model: Any,
    slots: int,
    cells: int,
    *,
    name: str,
    batch_tokens: int,
    threads: int,
    kv_type: int,
    flash_attention: int,
    adapter: Any = None,
) -> LlamaContext | None:
    """A context for ``slots`` sequences; None where memory is short. Raises UserError where llama.cpp refuses for
    another reason.

    Args:
        model: llama.cpp's model.
        slots: sequences that decode at a time.
        cells: the tokens that each must hold.
        name: the model's, for messages.
        batch_tokens: the most tokens of one decode.
        threads: of the CPU.
        kv_type: ggml's number for the type of the cache's elements.
        flash_attention: 1, 0, or -1 for llama.cpp's own choice.
        adapter: a LoRA adapter that is loaded, or None.
    """
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_seq_max = slots + 1
    parameters.n_ctx = -(-(cells + _SPARE) // _GRANULARITY) * _GRANULARITY * (slots + 1)
    parameters.n_batch = parameters.n_ubatch = max(batch_tokens, slots + 1)
    parameters.n_threads = parameters.n_threads_batch = threads
    parameters.type_k = parameters.type_v = kv_type
    parameters.flash_attn_type = flash_attention
    parameters.kv_unified = False
    parameters.no_perf = True
    forget_log()
    pointer = llama_cpp.llama_init_from_model(model, parameters)
    if not pointer:
        refusal = next((line for line in log_lines() if not _MEMORY.search(line)), "")
        if refusal and not any(map(_MEMORY.search, log_lines())):
            raise UserError(
                f"{name}: llama.cpp opens no context for it ({refusal.partition(': ')[2] or refusal}); set "
                'teacher.kv_type = "f16", or leave teacher.flash_attention to "auto".'
            )
        return None
    if adapter is not None:
        llama_cpp.llama_set_adapters_lora(
            pointer, (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter), 1, (ctypes.c_float * 1)(1.0)
        )
    return LlamaContext(pointer, slots, int(parameters.n_batch), name)


def draft_costs(context: LlamaContext) -> Costs:
    """What guessed tokens cost on this machine: a few decodes of an empty cache, for some numbers of sequences up to
    all slots. Leaves the cache empty."""

    def seconds(count: int, length: int) -> float:
        """The faster of two; the first of three also sets things up."""
        taken = []
        for attempt in range(3):
            context.empty()
            for row in range(count * (1 + length)):
                slot, place = divmod(row, 1 + length)
                context.put(row, 0, place, slot, wants_logits=True)
            began = time.perf_counter()
            context.decode(count * (1 + length), wait=True)
            if attempt:
                taken.append(time.perf_counter() - began)
        return min(taken)

    costs: dict[int, dict[int, float]] = {}
    for count in sorted({*(4**n for n in range(8) if 4**n < context.slots), context.slots}):
        # One token of one sequence never is a decode of its own (srtui.llama.scheduler).
        plain = seconds(max(count, 2), 0)
        costs[count] = {
            length: max(1.0, seconds(count, length) / plain)
            for length in LENGTHS
            if count * (1 + length) <= context.batch_tokens
        }
    context.empty()
    return costs
