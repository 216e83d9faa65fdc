"""GGUF files as llama.cpp sees them: opening one, its metadata, its tokenizer."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import llama_cpp

from srtui.errors import UserError
from srtui.files import open_regular
from srtui.teacher import Message
from srtui.teacher.chat import ChatTemplate

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


def load_model(path: Path, gpu_layers: int | Literal["auto"]) -> Any:
    """llama.cpp's model of the GGUF at ``path``, with as many layers on the GPU as fit.

    Raises UserError for a file that is not GGUF, is cut short, or has an unknown architecture.
    """
    with open_regular(path) as file:
        magic = file.read(4)
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


def load_adapter(model: Any, path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"teacher.adapter: there is no file {path}.")
    adapter = llama_cpp.llama_adapter_lora_init(model, str(path).encode())
    if not adapter:
        raise UserError(f"{path} is not a LoRA adapter in GGUF for this teacher.")
    return adapter


def meta(model: Any, key: str) -> str:
    buffer = ctypes.create_string_buffer(256)
    count = llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, 256)
    return buffer.value.decode("utf-8", "replace") if count >= 0 else ""


def description(model: Any) -> str:
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


def chat_template(model: Any) -> ChatTemplate:
    """The file's chat template, or the plain layout where it has none."""
    vocab = llama_cpp.llama_model_get_vocab(model)
    source = llama_cpp.llama_model_chat_template(model, None)

    def name(token: int) -> str:
        return token_bytes(vocab, token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    return ChatTemplate(
        source.decode("utf-8", "replace") if source else None,
        name(llama_cpp.llama_vocab_bos(vocab)),
        name(llama_cpp.llama_vocab_eos(vocab)),
    )


def chat_tokens(vocab: Any, template: ChatTemplate, messages: Sequence[Message]) -> tuple[str, list[int]]:
    """A chat up to where the assistant begins to write: its text, and its ids. What the messages
    themselves spell never becomes a special token."""
    pieces = template.pieces(messages)
    tokens: list[int] = []
    for text, is_data in pieces:
        tokens += tokenize(vocab, text, special=not is_data)
    bos = llama_cpp.llama_vocab_bos(vocab)
    if llama_cpp.llama_vocab_get_add_bos(vocab) and tokens[:1] != [bos]:
        tokens.insert(0, bos)
    return "".join(text for text, _ in pieces), tokens
