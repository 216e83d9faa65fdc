"""A file as a stream of decompressed blocks, with every way that can fail put into one sentence."""

from __future__ import annotations

import errno
import gzip
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from srtui.errors import UserError

BLOCK = 256 * 1024
_HEAD = 64 * 1024

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"

# A 4-byte zstd block can stand for 128 KiB, so the input goes in by small pieces: at most 32 MiB
# come out of one.
_ZSTD_PIECE = 1024
_ZSTD_WINDOW = 128 * 1024 * 1024

# Text does not compress 500 to 1; gzip's limit is about 1030 to 1.
_BOMB_BYTES = 256 * 1024 * 1024
_BOMB_RATIO = 500

_REFUSED_MAGIC = (
    (b"PK\x03\x04", "is a zip archive (or a spreadsheet)", "unpack it, or save the sheet as CSV, first"),
    (b"BZh", "is compressed with bzip2", "decompress it, or compress it with gzip or zstd, first"),
    (b"\xfd7zXZ\x00", "is compressed with xz", "decompress it, or compress it with gzip or zstd, first"),
    (b"ARROW1", "is an Arrow file", "save it as Parquet first"),
    (b"GGUF", "is a model", "give a data file; models are added with srtui models add"),
    (b"SQLite format 3", "is an SQLite file", "export its rows as JSON lines or CSV first"),
    (b"\xff\xfe", "is UTF-16 text", "convert it first: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "is UTF-16 text", "convert it first: iconv -f UTF-16 -t UTF-8"),
    *(
        (
            b"\x80" + bytes([n]),
            "looks like a Python pickle, which could run code",
            "save it as JSON lines first",
        )
        for n in range(2, 6)
    ),
)


class DataSource:
    """One readable, regular, non-empty file. ``compression`` is ``"gzip"``, ``"zstd"`` or None.

    Raises UserError where it is missing, a folder, empty, unreadable or of a kind that is not data.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        """Bytes of the file on disk that were read so far by the latest :meth:`blocks`."""
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                raise UserError(f"{path} is a folder; name a data file in it.")
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{path} is not a regular file; save the data to one first.")
            self.size = status.st_size
            with path.open("rb") as file:
                magic = file.read(16)
        except (OSError, ValueError) as error:
            raise UserError(_cannot_read(path, error)) from error
        if not magic:
            raise UserError(f"{path} is empty; give a file with data rows.")
        self.compression = "gzip" if magic.startswith(_GZIP) else "zstd" if _is_zstd(magic) else None
        self.head = self._first_bytes()
        """The first bytes of the content (at most 64 KiB), decompressed."""
        if not self.head:
            raise UserError(f"{path} is empty once decompressed; give a file with data rows.")
        self._refuse_foreign()

    def _first_bytes(self) -> bytes:
        head = b""
        for block in self.blocks():
            head += block
            if len(head) >= _HEAD:
                break
        return head[:_HEAD]

    def _refuse_foreign(self) -> None:
        if self.compression and (self.head.startswith(_GZIP) or _is_zstd(self.head)):
            raise UserError(f"{self.path} is compressed twice; decompress it once first.")
        for magic, kind, fix in _REFUSED_MAGIC:
            if self.head.startswith(magic):
                raise UserError(f"{self.path} {kind}; {fix}.")

    def blocks(self) -> Iterator[bytes]:
        """The content from its beginning, in non-empty blocks. Raises UserError where it breaks."""
        produced = 0
        try:
            with self.path.open("rb") as file:
                reader = {"gzip": _gzip_blocks, "zstd": _zstd_blocks}.get(
                    self.compression or "", _plain_blocks
                )
                for block in reader(file):
                    self.position = file.tell()
                    if self.compression:
                        produced += len(block)
                        if produced > _BOMB_BYTES and produced > _BOMB_RATIO * self.position:
                            raise UserError(
                                f"{self.path} grows more than {_BOMB_RATIO} times when decompressed, as no text "
                                "does; check where it comes from."
                            )
                    yield block
        except (OSError, EOFError, ValueError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise UserError(_cannot_read(self.path, error)) from error
            raise UserError(
                f"{self.path} is damaged or cut short ({self.compression} says: {str(error)[:100]}); fetch it again."
            ) from error


def _is_zstd(magic: bytes) -> bool:
    skippable = len(magic) >= 4 and 0x50 <= magic[0] <= 0x5F and magic[1:4] == b"\x2a\x4d\x18"
    return magic.startswith(_ZSTD) or skippable


def _plain_blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _gzip_blocks(file: BinaryIO) -> Iterator[bytes]:
    # GzipFile checks the checksum and length of each member and bounds what one read yields.
    with gzip.GzipFile(fileobj=file) as unpacked:
        while block := unpacked.read(BLOCK):
            yield block


def _zstd_blocks(file: BinaryIO) -> Iterator[bytes]:
    # decompressobj rather than stream_reader: only it distinguishes a frame's end from a file cut short.
    import zstandard

    maker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    frame = None
    held: list[bytes] = []
    size = 0
    try:
        while piece := file.read(_ZSTD_PIECE):
            while piece:
                if frame is None:
                    frame = maker.decompressobj()
                out = frame.decompress(piece)
                piece = frame.unused_data if frame.eof else b""
                if frame.eof:
                    frame = None
                if out:
                    held.append(out)
                    size += len(out)
            if size >= BLOCK:
                yield b"".join(held)
                held, size = [], 0
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    if held:
        yield b"".join(held)
    if frame is not None:
        raise EOFError("the last frame is not complete")


def _cannot_read(path: Path, error: Exception) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOENT, errno.ENOTDIR):
        return f"{path} does not exist; check the path."
    if code in (errno.EACCES, errno.EPERM):
        return f"{path} may not be read; give yourself permission to read it."
    return (
        f"{path} cannot be read ({getattr(error, 'strerror', None) or error}); check the disk and the path."
    )
