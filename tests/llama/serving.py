"""A server of raw completions, as llama-cpp-python's own is, without what that one needs: llama.cpp's real answers
of a real (tiny) model, over TCP or a Unix socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.commands import _server


class Handler(BaseHTTPRequestHandler):
    """``/v1/models``, ``/v1/completions`` and ``/props``."""

    protocol_version = "HTTP/1.1"
    model: Any = None
    lock = threading.Lock()
    name = "tiny"
    count = None  # a shared counter of answered completions
    busy_first = 0  # so many are answered with 503 first

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self.answer(200, {"data": [{"id": self.name, "owned_by": "tests", "created": 1}]})
        elif self.path == "/props":
            self.answer(200, {"chat_template": self.model.metadata["tokenizer.chat_template"]})
        else:
            self.answer(404, {"error": {"message": "nothing is here"}})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if type(self).busy_first > 0:
            type(self).busy_first -= 1
            self.answer(503, {"error": {"message": "loading"}})
            return
        fields = ("max_tokens", "temperature", "top_p", "min_p", "repeat_penalty", "seed", "stop")
        with self.lock:
            try:
                self.model.reset()
                said = self.model.create_completion(
                    asked["prompt"], top_k=max(0, asked["top_k"]), **{k: asked[k] for k in fields}
                )
            except ValueError as error:
                self.answer(400, {"error": {"message": str(error)}})
                return
        if self.count is not None:
            with self.count.get_lock():
                self.count.value += 1
        self.answer(200, said)

    def answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "somebody"

    def log_message(self, format: str, *given: Any) -> None:
        pass


class UnixServer(ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "unix", 0


def serve(model: Path, where: int | str, ready: Any, count: Any, context: int) -> None:
    """Answer for ever."""
    import llama_cpp

    Handler.model = llama_cpp.Llama(str(model), n_ctx=context, n_threads=1, verbose=False, logits_all=False)
    Handler.count = count
    if isinstance(where, str):
        Path(where).unlink(missing_ok=True)
        server: ThreadingHTTPServer = UnixServer(where, Handler)  # type: ignore[arg-type]
    else:
        server = ThreadingHTTPServer(("127.0.0.1", where), Handler)
    server.daemon_threads = True
    ready.set()
    server.serve_forever()


class Serving:
    """A server in a process of its own, that can be killed and started again in the same place."""

    def __init__(self, model: Path, where: int | str, context: int = 2048) -> None:
        self._model, self._where, self._context = model, where, context
        self.count = _server().Value("i", 0)
        self.start()

    @property
    def endpoint(self) -> str:
        return f"unix:{self._where}" if isinstance(self._where, str) else f"http://127.0.0.1:{self._where}/v1"

    def start(self) -> None:
        ready = _server().Event()
        self._process = _server().Process(
            target=serve, args=(self._model, self._where, ready, self.count, self._context), daemon=True
        )
        self._process.start()
        assert ready.wait(120)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def serving(model: Path, where: int | str | None = None, context: int = 2048) -> Iterator[Serving]:
    server = Serving(model, free_port() if where is None else where, context)
    try:
        yield server
    finally:
        server.kill()
