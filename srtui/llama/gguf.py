"""GGUF files as llama.cpp sees them: opening one, its metadata, its tokenizer."""

from __future__ import annotations

import ctypes
import os
import re
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import llama_cpp

from srtui.chat_template import END_OF_THINKING
from srtui.errors import UserError
from srtui.files import open_regular
from srtui.llama import Message
from srtui.llama.chat_prompt import TeacherTemplate
from srtui.llama.devices import LlamaDevice, gpus
from srtui.llama.last_words import say_last_words
from srtui.models.gguf_header import read_gguf
from srtui.models.memory import layers_of, plan_teacher, share_out
from srtui.progress import Report

_NO_DEVICES = (ctypes.c_void_p * 1)()  # llama.cpp's lists end with a null
_USUAL_CELLS = 5 * 2048  # four sequences and what they share
_LONGEST_KEPT = 16_384  # characters of a text whose tokens are kept
_Other = TypeVar("_Other", bool, str)

_log_lines: deque[str] = deque(maxlen=20)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_log(level: int, text: bytes, _: Any) -> None:
    """llama.cpp writes to stderr by default; here its errors are kept, to explain a failed load."""
    if level >= 3:
        _log_lines.append(text.decode("utf-8", "replace").strip())


def cpu_count() -> int:
    """CPUs that this process may use: what taskset or a container leaves of the machine's. More threads
    than that wait for each other."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def log_lines() -> list[str]:
    """llama.cpp's last warnings and errors."""
    return list(_log_lines)


def forget_log() -> None:
    """What llama.cpp said so far is not about what comes."""
    _log_lines.clear()


def decode_error(code: int) -> UserError:
    """What ``llama_decode`` says by its code where it did not evaluate a batch."""
    said = " ".join(log_lines()[-2:])
    if code == -2:
        return UserError(
            f"llama.cpp ran out of memory while it evaluated a batch ({said}): close what else uses it, or set "
            "teacher.slots or teacher.gpu_layers lower. Everything finished is stored, and the same command resumes."
        )
    return UserError(
        f"llama.cpp could not evaluate a batch (code {code}: {said}). Where a GPU computes, see what nvidia-smi and "
        "dmesg say of it. Everything finished is stored, and the same command resumes."
    )


def load_model(
    path: Path,
    gpu_layers: int | Literal["auto"],
    *,
    cells: int = _USUAL_CELLS,
    element: float = 2.0,
    report_line: Report = lambda level, message: None,
) -> tuple[Any, tuple[int, ...]]:
    """Load a GGUF.

    Args:
        path: the file.
        gpu_layers: how many layers go to the GPUs, as llama.cpp counts: the output is one more, and the first to go.
            With "auto", as many as fit what they have free, with their KV cache and the buffers of a pass.
        cells: tokens of that cache.
        element: bytes of each number in it.
        report_line: gets what was planned.

    Returns:
        llama.cpp's model, and how many layers with a cache are on each GPU.

    Raises:
        UserError: for a file that is not GGUF, is cut short, or has an architecture or a tokenizer that
            llama.cpp does not know.
    """
    with open_regular(path) as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise UserError(f"{path} is not a GGUF file; a teacher is a GGUF model.")
    llama_cpp.llama_log_set(_keep_log, None)
    llama_cpp.llama_backend_init()
    _log_lines.clear()
    parameters = llama_cpp.llama_model_default_params()
    devices = gpus()
    say_last_words(gpu=bool(devices))
    free = [device.free for device in devices]
    for layers in _tries(path, gpu_layers, devices, cells, element, report_line):
        _place(parameters, layers, share_out(layers, free) if layers > 0 else free)
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if model:
            most = int(llama_cpp.llama_model_n_layer(model)) + 1
            count = most if layers < 0 else min(layers, most)  # -1 asks for all
            return model, tuple(layers_of(share_out(count, free)))
        if layers:
            report_line("warning", f"{path.name}: {layers} layers did not fit the GPU; fewer are tried.")
    why = next((line for line in _log_lines if "error" in line.lower()), _log_lines[-1] if _log_lines else "")
    unknown = "unknown model architecture" in why or "unknown pre-tokenizer" in why
    advice = "update llama-cpp-python" if unknown else "the file is damaged or incomplete; get it again"
    if re.search(r"allocate|out of memory", why, re.IGNORECASE):
        advice = "this computer's memory is short; close something, or choose a smaller model"
    raise UserError(
        f"{path} cannot be loaded by llama.cpp ({why.rpartition('error')[2].strip(' :')}): {advice}."
    )


def _place(parameters: Any, layers: int, parts: Sequence[int]) -> None:
    """Have llama.cpp put so many layers on the GPUs, in these proportions; with none, it leaves them alone
    altogether: otherwise it would compute large batches there, from weights that it copies each time."""
    parameters.n_gpu_layers = layers
    parameters.devices = None if layers else ctypes.addressof(_NO_DEVICES)
    split = (ctypes.c_float * llama_cpp.LLAMA_MAX_DEVICES)(*parts)
    parameters.tensor_split = split if layers and len(parts) > 1 else None


def _tries(
    path: Path,
    gpu_layers: int | Literal["auto"],
    devices: Sequence[LlamaDevice],
    cells: int,
    element: float,
    report_line: Report,
) -> list[int]:
    """How many layers to ask llama.cpp to put on the GPUs, the output counted as one, and how many if it cannot."""
    if not devices:
        return [0]
    if gpu_layers != "auto":
        return [gpu_layers]
    shape = read_gguf(path).shape
    if shape is None or not all(device.total for device in devices):
        report_line("info", f"{path.name}: what fits the GPU is not known beforehand, so it is tried.")
        return [999, 48, 32, 24, 16, 8, 0]
    plan = plan_teacher(shape, cells, [device.free for device in devices], element=element)
    report_line("info" if plan.layers == plan.of else "warning", plan.sentence())
    most = plan.layers + 1 if plan.layers else 0
    return list(dict.fromkeys([most, most * 3 // 4, most // 2, most // 4, 0]))


def load_adapter(model: Any, path: Path) -> Any:
    """The LoRA adapter in the GGUF at ``path``. Raises UserError where it is none for this model."""
    if not path.is_file():
        raise UserError(f"teacher.adapter: there is no file {path}.")
    adapter = llama_cpp.llama_adapter_lora_init(model, str(path).encode())
    if not adapter:
        raise UserError(f"{path} is not a LoRA adapter in GGUF for this teacher.")
    return adapter


def meta(model: Any, key: str) -> str:
    """A key of the file's header as text; empty where it has none."""
    buffer = ctypes.create_string_buffer(256)
    count = llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, 256)
    return buffer.value.decode("utf-8", "replace") if count >= 0 else ""


def description(model: Any) -> str:
    """llama.cpp's own words for the model: architecture, size, quantization."""
    buffer = ctypes.create_string_buffer(256)
    llama_cpp.llama_model_desc(model, buffer, 256)
    return buffer.value.decode("utf-8", "replace")


def tokenize(vocab: Any, text: str, *, special: bool) -> list[int]:
    """llama.cpp's ids of ``text``; with ``special``, names of special tokens in it become those."""
    if not text:
        return []
    data = text.encode("utf-8", "replace")
    size = len(data) + 8
    tokens = (llama_cpp.llama_token * size)()
    count = llama_cpp.llama_tokenize(vocab, data, len(data), tokens, size, False, special)
    if count < 0:
        tokens = (llama_cpp.llama_token * -count)()
        count = llama_cpp.llama_tokenize(vocab, data, len(data), tokens, -count, False, special)
    return list(tokens[:count])


def token_bytes(vocab: Any, token: int, *, special: bool) -> bytes:
    """What a token spells; of a special token, its name if ``special``, else nothing."""
    buffer = ctypes.create_string_buffer(64)
    count = llama_cpp.llama_token_to_piece(vocab, token, buffer, 64, 0, special)
    if count < 0:
        buffer = ctypes.create_string_buffer(-count)
        count = llama_cpp.llama_token_to_piece(vocab, token, buffer, -count, 0, special)
    return buffer.raw[:count]


def _cut_once(
    cut: Callable[[str, _Other], tuple[int, ...]], most: int
) -> Callable[[str, _Other], tuple[int, ...]]:
    """``cut``, which keeps the tokens of the last ``most`` texts that it was given; not of long ones, which no two
    requests share and some of which are megabytes."""
    kept = lru_cache(most)(cut)
    return lambda text, other: (kept if len(text) <= _LONGEST_KEPT else cut)(text, other)


class LlamaVocabulary:
    """A model's tokens as a sequence asks for them (:class:`srtui.llama.sequence.Vocabulary`). ``pointer`` is
    llama.cpp's own, ``size`` the number of tokens."""

    def __init__(self, model: Any) -> None:
        self.pointer = llama_cpp.llama_model_get_vocab(model)
        self.size = int(llama_cpp.llama_vocab_n_tokens(self.pointer))
        self.end_of_thinking = tokenize(self.pointer, END_OF_THINKING, special=True)
        self._spellings: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        # What requests have in common (a template's own text, the system message, leads) is cut once.
        self.ids = _cut_once(partial(_ids, self.pointer), 256)
        self.data_ids = _cut_once(partial(_data_ids, self.pointer), 32)

    @property
    def knows_thinking(self) -> bool:
        """Whether the end of a ``<think>`` block is one token."""
        return len(tokenize(self.pointer, "</think>", special=True)) == 1

    def tokenize(self, text: str) -> list[int]:
        """The ids of plain text; names of special tokens in it stay text."""
        return list(self.ids(text, False))

    def chat(
        self, template: TeacherTemplate, messages: Sequence[Message], *, led: bool = False
    ) -> tuple[str, list[int]]:
        """What :func:`chat_tokens` gives; what earlier chats held too is not cut again."""
        return _chat(self.pointer, self.ids, self.data_ids, template, messages, led)

    def spelling(self, token: int) -> bytes:
        """What a token adds to the text: nothing, where it is a control token other than <think>'s."""
        spelling = self._spellings.get(token)
        if spelling is None:
            spelling = self._spellings[token] = token_bytes(self.pointer, token, special=self._thinks(token))
        return spelling

    def ends_turn(self, token: int) -> bool:
        """End of turn, or a control token, which can only begin another turn. <think> is neither."""
        end = self._ends.get(token)
        if end is None:
            control = bool(llama_cpp.llama_vocab_is_control(self.pointer, token))
            end = bool(llama_cpp.llama_vocab_is_eog(self.pointer, token)) or (
                control and not self._thinks(token)
            )
            self._ends[token] = end
        return end

    def _thinks(self, token: int) -> bool:
        """Whether it is a control token that begins or ends a <think> block."""
        return bool(llama_cpp.llama_vocab_is_control(self.pointer, token)) and b"think>" in token_bytes(
            self.pointer, token, special=True
        )


def chat_template(model: Any) -> TeacherTemplate:
    """The file's chat template, or the plain layout where it has none."""
    vocab = llama_cpp.llama_model_get_vocab(model)
    source = llama_cpp.llama_model_chat_template(model, None)

    def name(token: int) -> str:
        return token_bytes(vocab, token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    return TeacherTemplate(
        source.decode("utf-8", "replace") if source else None,
        name(llama_cpp.llama_vocab_bos(vocab)),
        name(llama_cpp.llama_vocab_eos(vocab)),
    )


def chat_tokens(
    vocab: Any, template: TeacherTemplate, messages: Sequence[Message], *, led: bool = False
) -> tuple[str, list[int]]:
    """A chat up to where the assistant begins to write. What the messages themselves spell never becomes a
    special token.

    Args:
        vocab: llama.cpp's vocabulary.
        template: lays the chat out.
        messages: the chat, in order.
        led: whether the assistant's first words are put for it: a <think> block that the template opens is
            closed before them.

    Returns:
        The text, and its token ids.
    """
    return _chat(vocab, partial(_ids, vocab), partial(_data_ids, vocab), template, messages, led)


def _chat(
    vocab: Any,
    ids: Callable[[str, bool], Sequence[int]],
    data_ids: Callable[[str, str], Sequence[int]],
    template: TeacherTemplate,
    messages: Sequence[Message],
    led: bool,
) -> tuple[str, list[int]]:
    pieces = template.pieces(messages, led=led)
    frame = "".join(text for text, is_data in pieces if not is_data)
    tokens: list[int] = []
    for text, is_data in pieces:
        tokens += data_ids(text, frame) if is_data else ids(text, True)
    bos = llama_cpp.llama_vocab_bos(vocab)
    if llama_cpp.llama_vocab_get_add_bos(vocab) and tokens[:1] != [bos]:
        tokens.insert(0, bos)
    return "".join(text for text, _ in pieces), tokens


def _ids(vocab: Any, text: str, special: bool) -> tuple[int, ...]:
    return tuple(tokenize(vocab, text, special=special))


def _data_ids(vocab: Any, text: str, frame: str) -> tuple[int, ...]:
    return tuple(_data_tokens(vocab, text, frame))


def _data_tokens(vocab: Any, text: str, frame: str) -> list[int]:
    """Ids of a message's text. llama.cpp takes names of user-defined tokens for those tokens in any text,
    and some families' turn markers are such: what ``frame``, the template's own text, spells is cut in two."""
    ids = tokenize(vocab, text, special=False)
    for token in set(ids):
        if not llama_cpp.llama_vocab_get_attr(vocab, token) & llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED:
            continue
        name = token_bytes(vocab, token, special=True).decode("utf-8", "replace")
        if len(name.strip()) > 1 and name in frame:
            parts = re.split(f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})", text)
            return [i for part in parts for i in _data_tokens(vocab, part, frame)]
    return ids
