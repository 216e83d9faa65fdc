"""The dashboard's two doors to the store, each on a thread of its own: nothing here blocks a screen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from srtui.store import Store
from srtui.store.views import Views

T = TypeVar("T")


class StoreReader:
    """Queries on one read-only connection, one after the other, away from the event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._views: Views | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="srtui-read")

    async def ask(self, question: Callable[[Views], T]) -> T:
        """What ``question`` reads. Raises UserError where there is no store."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, question)

    def _answer(self, question: Callable[[Views], T]) -> T:
        if self._views is None:
            self._views = Views(self.path)
        return question(self._views)

    def interrupt(self) -> None:
        """Give up the running query: its asker wants something else by now."""
        if self._views is not None:
            self._views.interrupt()

    def close(self) -> None:
        """Give up the running query and close the connection, without waiting."""
        views, self._views = self._views, None
        if views is not None:
            views.interrupt()
            self._thread.submit(views.close)
        self._thread.shutdown(wait=False, cancel_futures=False)


class StoreWriter:
    """Short writes, one after the other, each on a store opened for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="srtui-write")

    async def do(self, work: Callable[[Store], T]) -> T:
        """What ``work`` returns, once it is stored."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)

    def _do(self, work: Callable[[Store], T]) -> T:
        with Store(self.path) as store:
            return work(store)

    def close(self) -> None:
        """Let what was asked for be written, and take nothing more."""
        self._thread.shutdown(wait=False)
