"""Work that is prepared ahead of its use, by a thread, in pages: memory holds two of them at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, Self, TypeVar

_Item = TypeVar("_Item")
_Ready = TypeVar("_Ready")
_LOOK = 0.1  # seconds between two looks at whether to stop, where there is something to wait for


def in_pages(
    read: Callable[[int, int], list[_Item]], size: int, key: Callable[[_Item], int]
) -> Iterator[list[_Item]]:
    """Lists of ``size`` from ``read(after, size)``, which reads in the order of ``key`` what lies behind ``after``;
    the last may be shorter."""
    after = 0
    while page := read(after, size):
        after = key(page[-1])
        yield page


def in_portions(items: Iterable[_Item], size: Callable[[_Item], int], most: int) -> Iterator[list[_Item]]:
    """Lists of ``items`` in their order, each of as many as have a ``size`` of ``most`` together, and of one at
    least; a single empty one where there are none."""
    portion: list[_Item] = []
    total = 0
    for item in items:
        total += size(item)
        if portion and total > most:
            yield portion
            portion, total = [], size(item)
        portion.append(item)
    yield portion


def with_next(pages: Iterable[_Item]) -> Iterator[tuple[_Item, _Item | None]]:
    """Each page with the one behind it, which is read before the first is worked on; the last has None."""
    rest = iter(pages)
    page = next(rest, None)
    while page is not None:
        following = next(rest, None)
        yield page, following
        page = following


class Ahead(Generic[_Item, _Ready]):
    """Pages of items, read by the caller's thread (a store's connection belongs to one) and prepared by another.

    While one page is in use the next is prepared. ``prepare`` must not need the caller's thread.
    """

    def __init__(
        self,
        pages: Iterable[list[_Item]],
        prepare: Callable[[_Item], _Ready],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._pages, self._prepare, self._should_stop = iter(pages), prepare, should_stop
        self._thread = ThreadPoolExecutor(1, "srtui-ahead")
        self._given_up = threading.Event()
        self._next: Future[list[_Ready]] | None = None
        self.exhausted = False
        """Whether all pages have been taken."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._given_up.set()
        self._thread.shutdown(cancel_futures=True)

    def take(self, *, wait_for_it: bool) -> list[_Ready]:
        """The next page as it is prepared. Empty where it is not ready and not waited for, where it has no items,
        when all are taken, or when asked to stop."""
        if self._next is None:
            self._begin()
        while wait_for_it and self._next is not None and not self._next.done():
            if self._should_stop():
                return []
            wait([self._next], _LOOK)
        if self._next is None or not self._next.done():
            return []
        ready = self._next.result()
        self._begin()
        return ready

    def _begin(self) -> None:
        page = next(self._pages, None)
        self.exhausted = page is None
        self._next = None if page is None else self._thread.submit(self._all_of, page)

    def _all_of(self, page: list[_Item]) -> list[_Ready]:
        ready = []
        for item in page:
            if self._given_up.is_set():
                break
            ready.append(self._prepare(item))
        return ready
