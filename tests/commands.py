"""``srtui`` in a process of its own, without the seconds in which one imports torch.

Commands are forked from a server that has imported all that they need and has done nothing with it. What
only a fresh interpreter shows (start-up, what is imported, what is said at exit) is tested with one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from srtui.errors import UserError
from srtui.workspace import Workspace

MODULES = [
    "torch", "transformers", "transformers.models.llama.modeling_llama", "peft", "bitsandbytes",
    "accelerate", "llama_cpp", "safetensors.torch", "sqlite_utils",
    "srtui.cli", "srtui.pipeline", "srtui.student", "srtui.training", "srtui.training.qlora",
    "srtui.evaluation", "srtui.evaluation.evaluator", "srtui.llama.batching", "srtui.report",
]  # fmt: skip


@cache
def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    return context


def forked(function: Callable[..., object], *arguments: object) -> Any:
    """A started process (as multiprocessing's) in which ``function``, of a module, works."""
    process = _server().Process(target=function, args=arguments)
    process.start()
    return process


class Command:
    """One that has been started. ``kill_at`` is ("commit" | "decode" | "abort", n): it kills itself (SIGKILL) as it
    begins its n-th commit or decode; with abort, llama.cpp gives up there, as it does on a CUDA call that fails. What
    it does in processes of their own (conversions) is done in forks of it, which have torch loaded; with
    ``fresh_workers`` in interpreters of their own, as a person has it."""

    def __init__(
        self,
        workspace: Workspace,
        *words: str,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        kill_at: tuple[str, int] | None = None,
        fresh_workers: bool = False,
    ) -> None:
        self.words = words
        self._folder = tempfile.TemporaryDirectory(prefix="command")  # goes with this object
        self._files = Path(self._folder.name)
        (self._files / "in").write_text(input or "", encoding="utf-8")
        environment = os.environ | {"SRTUI_WORKSPACE": str(workspace.root)} | dict(env or {})
        self._process = _server().Process(
            target=_work,
            args=(words, str(workspace.root), environment, str(self._files), kill_at, fresh_workers),
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return int(self._process.pid)

    @property
    def stdout(self) -> str:
        return self._said("out")

    @property
    def stderr(self) -> str:
        return self._said("err")

    def _said(self, name: str) -> str:
        path = self._files / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it works."""
        code = self._process.exitcode
        return None if code is None else int(code)

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def until(self, condition: Callable[[], bool], within: float = 120) -> None:
        """Wait for ``condition``, which has to come true while it works."""
        last = time.monotonic() + within
        while not condition():
            assert self.poll() is None, (self.poll(), self.stderr)
            assert time.monotonic() < last, (self.stdout, self.stderr)
            time.sleep(0.005)

    def wait(self, within: float = 300) -> subprocess.CompletedProcess[str]:
        self._process.join(within)
        code = self.poll()
        if code is None:
            self._process.kill()
            raise AssertionError(f"{self.words} still works after {within:.0f} s: {self.stderr}")
        return subprocess.CompletedProcess(self.words, code, self.stdout, self.stderr)


def srtui(workspace: Workspace, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """``srtui WORDS`` in the workspace's folder, to its end."""
    return Command(workspace, *words, **options).wait()


def _work(
    words: tuple[str, ...],
    folder: str,
    environment: dict[str, str],
    files: str,
    kill_at: tuple[str, int] | None,
    fresh_workers: bool,
) -> None:
    for number, name, flags in (
        (0, "in", os.O_RDONLY),
        (1, "out", os.O_WRONLY | os.O_CREAT),
        (2, "err", os.O_WRONLY | os.O_CREAT),
    ):
        opened = os.open(f"{files}/{name}", flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["srtui", *words]
    if kill_at is not None:
        _kill_at(*kill_at)
    if not fresh_workers:
        from srtui.models import convert, export

        convert.in_own_process = export.in_own_process = _in_a_fork
    from srtui.__main__ import main

    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _in_a_fork(
    worker: Callable[..., dict[str, Any]], *arguments: object, report_line: Callable[[str], None] = print
) -> dict[str, Any]:
    """As srtui.models.convert.in_own_process, without the seconds in which an interpreter imports torch."""
    processes = multiprocessing.get_context("fork")
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_send_result, args=(sender, worker, [str(a) for a in arguments]))
    process.start()
    sender.close()
    try:
        kind, value = receiver.recv()
    except EOFError:
        kind, value = "error", f"its process ended with {process.exitcode}"
    process.join()
    if kind == "result":
        return dict(value)
    raise UserError(value if kind == "refused" else f"{arguments[0]} could not be converted: {value}.")


def _send_result(sender: Any, worker: Callable[..., dict[str, Any]], arguments: list[str]) -> None:
    import torch

    torch.set_num_threads(1)  # a fork has none of the threads that its parent may have started
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print, and what is reported on the way
    try:
        sender.send(("result", worker(*arguments)))
    except UserError as error:
        sender.send(("refused", str(error)))
    except BaseException as error:
        sender.send(("error", f"{type(error).__name__}: {error}"))


def _kill_at(event: str, number: int) -> None:
    """Have this process kill itself as the n-th such event begins."""
    count = 0

    def happens() -> None:
        nonlocal count
        count += 1
        if count == number:
            if event == "abort":
                from llama_cpp._ggml import libggml

                libggml.ggml_abort(b"ggml-cuda.cu", 98, b"CUDA error")
            os.kill(os.getpid(), signal.SIGKILL)

    if event == "commit":
        import sqlite3

        connect = sqlite3.connect

        def traced(*given: Any, **more: Any) -> sqlite3.Connection:
            connection = connect(*given, **more)
            connection.set_trace_callback(lambda sql: happens() if sql.startswith("COMMIT") else None)
            return connection

        sqlite3.connect = traced  # type: ignore[assignment]
    elif event in ("decode", "abort"):
        import llama_cpp

        decode = llama_cpp.llama_decode

        def counted(*given: Any) -> Any:
            happens()
            return decode(*given)

        llama_cpp.llama_decode = counted
    else:
        raise ValueError(event)
