"""Physical lines of a stream of blocks, none of them held beyond a limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

BOM = b"\xef\xbb\xbf"


class Oversized(NamedTuple):
    """A line that was over the limit: how long it was, and how many double quotes it had."""

    size: int
    quotes: int


def split_lines(blocks: Iterator[bytes], limit: int) -> Iterator[tuple[int, bytes | Oversized]]:
    """(number from 1, line without its newline), the last one also where no newline ends it.

    A line longer than ``limit`` bytes is read past, and an Oversized stands for it.
    """
    number = 0
    unfinished = b""
    size = quotes = 0
    for block in without_bom(blocks):
        if size:
            end = block.find(b"\n")
            if end < 0:
                size += len(block)
                quotes += block.count(b'"')
                continue
            number += 1
            yield number, Oversized(size + end, quotes + block.count(b'"', 0, end))
            size = 0
            parts = block[end + 1 :].split(b"\n")
        elif unfinished:
            parts = (unfinished + block).split(b"\n")
        else:
            parts = block.split(b"\n")
        unfinished = parts.pop()
        for part in parts:
            number += 1
            yield number, part if len(part) <= limit else Oversized(len(part), part.count(b'"'))
        if len(unfinished) > limit:
            size, quotes, unfinished = len(unfinished), unfinished.count(b'"'), b""
    if size:
        yield number + 1, Oversized(size, quotes)
    elif unfinished:
        yield number + 1, unfinished


def with_newlines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks of a table whose lines end in carriage returns alone, with newlines in their place."""
    for block in blocks:
        yield block.replace(b"\r", b"\n")


def without_bom(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks, less a byte order mark before the first."""
    first = next(blocks, b"")
    while 0 < len(first) < len(BOM) and (following := next(blocks, b"")):
        first += following
    first = first.removeprefix(BOM)
    if first:
        yield first
    yield from blocks
