"""Losses of token sequences through llama.cpp, many sequences in one batch.

For students that are GGUF files, and for judges. It lies here because nothing outside this package knows llama.cpp.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from srtui.errors import UserError
from srtui.llama import Message
from srtui.llama.gguf import chat_template, chat_tokens, cpu_count, decode_error, load_model, tokenize

_BATCH = 512
_SEQUENCES = 32


class LlamaLosses:
    """A GGUF model that says how probable given tokens are. Raises UserError as the teacher does."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        """``threads`` of a CPU; 0 for all that this process may use."""
        self._path, self._threads = path, threads or cpu_count()
        self._model: Any = None
        self._context: Any = None  # so that there is something to close where loading fails
        self._model, on_gpus = load_model(path, "auto")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._cells = 0
        self._trunk: list[int] | None = None  # the prompt that the last sequence holds
        self._template: Any = None
        self.tokens_run = 0
        self.on_gpu = any(on_gpus)
        self._batch: Any = llama_cpp.llama_batch_init(_BATCH, 0, 1)
        _open_ones.add(self)

    def tokenize(self, text: str) -> list[int]:
        """llama.cpp's own ids of plain text, without special tokens."""
        return tokenize(self._vocab, text, special=False)

    def of_options(
        self, messages: Sequence[Message], questions: Sequence[tuple[str, Sequence[str]]]
    ) -> list[list[float]] | None:
        """How probable given answers are, as if nothing else could be said.

        ``questions`` are (lead, options): for each, the NLLs in nats of the options right behind ``lead``
        at the beginning of the assistant's turn. What all options of a lead begin with counts for
        none of them. The prompt is evaluated once, and not again for the same prompt asked next. None where
        it is longer than the model's context, or a number is not finite.
        """
        if self._template is None:
            self._template = chat_template(self._model)
        _, prompt = chat_tokens(self._vocab, self._template, messages, led=True)
        texts = [[self.tokenize(lead + option) for option in options] for lead, options in questions]
        starts = []
        for group in texts:
            low, high = min(group), max(group)
            shared = next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
            # An option that all others begin with would have nothing of its own left.
            starts.append(max(0, min(shared, *(len(t) - 1 for t in group))))
        if not self._holds(prompt, texts):
            return None
        # The prompt takes a sequence, and so does each lead, beside those of the options.
        losses: list[list[float]] = []
        start = 0
        while start < len(texts):
            end, used = start, 0
            while end < len(texts) and (end == start or used + len(texts[end]) + 1 < 2 * _SEQUENCES):
                used += len(texts[end]) + 1
                end += 1
            losses += self._options(prompt, texts[start:end], starts[start:end])
            start = end
        return losses if np.isfinite([n for group in losses for n in group]).all() else None

    def holds(self, messages: Sequence[Message], answer: str) -> bool:
        """Whether the model's context holds the prompt and this beginning of an answer."""
        if self._template is None:
            self._template = chat_template(self._model)
        _, prompt = chat_tokens(self._vocab, self._template, messages, led=True)
        return self._holds(prompt, [[self.tokenize(answer)]])

    def _holds(self, prompt: list[int], texts: Sequence[Sequence[list[int]]]) -> bool:
        longest = len(prompt) + max(len(t) for group in texts for t in group)
        return longest <= int(llama_cpp.llama_model_n_ctx_train(self._model))

    def _options(
        self, prompt: list[int], texts: Sequence[Sequence[list[int]]], starts: Sequence[int]
    ) -> list[list[float]]:
        """NLLs of each group's options behind ``prompt``, from each group's start on. The prompt stays
        in its sequence, so that the same prompt costs nothing the next time."""
        fork = len(prompt) - 1  # the last token of what is shared is run again, for its prediction
        paths = [prompt + group[0][:start] for group, start in zip(texts, starts, strict=True)]
        rows: list[tuple[int, int, int, int | None]] = []
        copies: list[tuple[int, int, int]] = []  # from, to, tokens
        trunk = 2 * _SEQUENCES - 1
        seq = 0
        for n, (group, path) in enumerate(zip(texts, paths, strict=True)):
            for text in group:
                ids = prompt + text
                copies.append((trunk - 1 - n, seq, len(path) - 1))
                rows += [
                    (ids[place], place, seq, ids[place + 1]) for place in range(len(path) - 1, len(ids) - 1)
                ]
                seq += 1
        stems = [
            (path[place], place, trunk - 1 - n, None)
            for n, path in enumerate(paths)
            for place in range(fork, len(path) - 1)
        ]
        tokens = len(stems) + len(rows)
        self._open(-(-(fork + tokens) // 1024) * 1024)
        memory = llama_cpp.llama_get_memory(self._context)
        if self._trunk == prompt:
            for other in range(trunk):
                llama_cpp.llama_memory_seq_rm(memory, other, -1, -1)
        else:
            llama_cpp.llama_memory_clear(memory, False)
            self._run([(token, place, trunk, None) for place, token in enumerate(prompt[:fork])], [])
            self._trunk = prompt
            tokens += fork
        for n in range(len(paths)):
            llama_cpp.llama_memory_seq_cp(memory, trunk, trunk - 1 - n, 0, fork)
        self._run(stems, [])
        for source, target, size in copies:
            llama_cpp.llama_memory_seq_cp(memory, source, target, 0, size)
        nlls_of: list[list[float]] = [[] for _ in range(seq)]
        self._run(rows, nlls_of)
        sums = [sum(nlls) for nlls in nlls_of]
        self.tokens_run += tokens
        ends = np.cumsum([len(group) for group in texts]).tolist()
        return [sums[end - len(group) : end] for end, group in zip(ends, texts, strict=True)]

    def losses(
        self, targets: Sequence[tuple[Sequence[int], int, int]], cells: int
    ) -> Iterator[tuple[list[int], list[list[float] | None], int]]:
        """NLLs in nats of the last ``target`` tokens of each sequence, token by token.

        ``targets`` are (ids, target, shared): the first ``shared`` ids may be copied from another
        sequence with the same beginning. ``cells`` bounds the tokens that are held at a time, one
        sequence at least. Yields groups: indices into ``targets``, their NLLs (None where the model
        gave no finite number), and the tokens that were run.
        """
        begin = 0
        while begin < len(targets):
            total, end = 0, begin
            prefixes: dict[tuple[int, ...], int] = {}
            while end < len(targets) and len(prefixes) + end - begin < _SEQUENCES:
                ids, _, shared = targets[end]
                prefix = tuple(ids[:shared])
                new_tokens = len(ids) - shared + (shared if shared and prefix not in prefixes else 0)
                if end > begin and total + new_tokens > cells:
                    break
                if shared:
                    prefixes.setdefault(prefix, _SEQUENCES + len(prefixes))
                total += new_tokens
                end += 1
            group = list(range(begin, end))
            self._open(max(total, cells))
            yield group, self._group([targets[n] for n in group], prefixes), total
            begin = end

    def _group(
        self, targets: Sequence[tuple[Sequence[int], int, int]], prefixes: dict[tuple[int, ...], int]
    ) -> list[list[float] | None]:
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_clear(memory, False)
        self._trunk = None
        for prefix, seq in prefixes.items():
            self._run([(token, place, seq, None) for place, token in enumerate(prefix)], [])
        rows: list[tuple[int, int, int, int | None]] = []
        for seq, (ids, target, shared) in enumerate(targets):
            if shared:
                llama_cpp.llama_memory_seq_cp(memory, prefixes[tuple(ids[:shared])], seq, 0, shared)
            first = len(ids) - target  # the position before a target token predicts it
            rows += [
                (ids[place], place, seq, ids[place + 1] if first - 1 <= place < len(ids) - 1 else None)
                for place in range(shared, len(ids))
            ]
        nlls_of: list[list[float]] = [[] for _ in targets]
        self._run(rows, nlls_of)
        return [nlls if np.isfinite(nlls).all() else None for nlls in nlls_of]

    def _run(self, rows: Sequence[tuple[int, int, int, int | None]], nlls: list[list[float]]) -> None:
        """Evaluate (token, position, sequence, wanted next token or None), and add each wanted token's NLL to
        those of its sequence, in order."""
        batch = self._batch
        for start in range(0, len(rows), _BATCH):
            chunk = rows[start : start + _BATCH]
            rows_with_loss: list[tuple[int, int]] = []
            for i, (token, position, seq, following) in enumerate(chunk):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
                batch.seq_id[i][0] = seq
                batch.logits[i] = following is not None
                if following is not None:
                    rows_with_loss.append((seq, following))
            batch.n_tokens = len(chunk)
            code = llama_cpp.llama_decode(self._context, batch)
            if code != 0:
                raise decode_error(code)
            if not rows_with_loss:
                continue
            logits = np.ctypeslib.as_array(
                llama_cpp.llama_get_logits(self._context), shape=(len(rows_with_loss), self._vocab_size)
            )
            picked = logits[np.arange(len(rows_with_loss)), [following for _, following in rows_with_loss]]
            most = logits.max(axis=1)
            partition = np.exp(logits - most[:, None]).sum(axis=1, dtype=np.float64)
            for (seq, _), nll in zip(rows_with_loss, most + np.log(partition) - picked, strict=True):
                nlls[seq].append(float(nll))

    def _open(self, cells: int) -> None:
        if cells <= self._cells:
            return
        self._free_context()
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = -(-cells // 256) * 256
        parameters.n_batch = parameters.n_ubatch = _BATCH
        parameters.n_seq_max = 2 * _SEQUENCES
        parameters.n_threads = parameters.n_threads_batch = self._threads
        parameters.kv_unified = True
        parameters.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise UserError(
                f"{self._path}: a context of {cells:,} tokens does not fit in memory; set prompt.max_length lower, or choose a smaller model."
            )
        self._cells = int(parameters.n_ctx)

    def _free_context(self) -> None:
        if self._context is not None:
            llama_cpp.llama_free(self._context)
            self._context, self._cells, self._trunk = None, 0, None

    def close(self) -> None:
        """Give the memory back."""
        self._free_context()
        if self._model is not None:
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_model_free(self._model)
            self._model = None

    def __del__(self) -> None:
        self.close()


_open_ones: weakref.WeakSet[LlamaLosses] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter goes: llama.cpp's functions are gone when it calls ``__del__`` at its end."""
    for losses in list(_open_ones):
        losses.close()
