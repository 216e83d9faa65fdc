"""Everything that srtui remembers, in one SQLite file, and every statement of SQL that reads or writes it.

``Store`` opens it. Its parts: ``store.corpus`` has datasets, samples and variants, ``store.imports`` takes files
into it; ``store.runs`` what runs are and who works on them; ``store.generations``, ``store.scores`` and
``store.decisions`` what a run has done to each sample; ``store.training`` and ``store.evaluations`` what followed;
``store.calibrations`` what measures were found to be worth, ``store.ratings`` what raters said of texts;
``store.marks`` what a person said, ``store.bulk`` of many samples at once. Reads that several faces need are functions of a connection: ``figures`` and
``distributions`` of a run, ``summary``, ``listing`` and ``sample_view`` of its samples; ``views`` gathers them for the
dashboard. Rows are content-addressed and nothing is overwritten, so that doing a piece of work twice is harmless.
"""

from __future__ import annotations

import contextlib
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from srtui.errors import UserError
from srtui.files import not_a_file
from srtui.store import leases
from srtui.store._query import fetch_rows, fetch_value
from srtui.store.backup import back_up
from srtui.store.bulk import Bulk
from srtui.store.calibrations import Calibrations
from srtui.store.connection import DatabaseError, checkpoint, open_read_only, pages_in_log
from srtui.store.corpus import Corpus
from srtui.store.decisions import Decisions
from srtui.store.embeddings import Embeddings
from srtui.store.evaluations import Evaluations
from srtui.store.generations import Generations
from srtui.store.imports import Imports
from srtui.store.marks import Marks
from srtui.store.ratings import Ratings
from srtui.store.runs import Runs
from srtui.store.scores import Scores
from srtui.store.training import Training
from srtui.store.whole_datasets import WholeDatasets

if TYPE_CHECKING:
    from srtui.store.verify import Verified

__all__ = ["DatabaseError", "Store", "explain"]

_PATIENCE = 30.0  # seconds, for another process's lock


class Store:
    """One open SQLite file, in WAL mode, migrated to this version's tables.

    Raises UserError where the file cannot be opened, is not a store, or has tables that this srtui does not know.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        # Not at the top: the dashboard reads by srtui.store.views and must be there at once.
        from srtui.store.schema import migrations

        self.path, self.read_only = path, read_only
        refuse_odd_file(path)
        try:
            if read_only:
                if not path.exists():
                    raise UserError(
                        f"{path}: there is no store yet; bring data in with srtui import FILE, or run a recipe."
                    )
                self.conn = open_read_only(path)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                self.conn = sqlite3.connect(path, timeout=_PATIENCE)
            self._set_up()
            self._check_version(migrations)
            if read_only and migrations.pending(self.db):
                # Of an earlier version: what reads it expects this one's tables.
                self.conn.close()
                Store(path).close()
                self.conn = open_read_only(path)
                self._set_up()
            if not read_only:
                self._log_ahead()
                if migrations.pending(self.db):
                    self._migrate(migrations)
        except (sqlite3.Error, OSError) as error:
            raise explain(error, path) from error
        self.corpus = Corpus(self)
        self.imports = Imports(self)
        self.datasets = WholeDatasets(self)
        self.runs = Runs(self)
        self.generations = Generations(self)
        self.scores = Scores(self)
        self.decisions = Decisions(self)
        self.embeddings = Embeddings(self)
        self.marks = Marks(self)
        self.bulk = Bulk(self)
        self.training = Training(self)
        self.evaluations = Evaluations(self)
        self.calibrations = Calibrations(self)
        self.ratings = Ratings(self)

    def _set_up(self) -> None:
        from srtui.store._sqlite_utils import Database

        self.conn.row_factory = sqlite3.Row
        self.conn.execute("PRAGMA foreign_keys=ON")
        # A commit in WAL mode survives a killed process as it is, and a power cut at FULL.
        self.conn.execute("PRAGMA synchronous=FULL")
        self.conn.execute("PRAGMA cache_size=-65536")
        self.conn.execute("PRAGMA temp_store=MEMORY")
        self.db = Database(self.conn, execute_plugins=False)

    def _log_ahead(self) -> None:
        """Set WAL mode. It needs the file for itself, and SQLite does not wait for that as for other locks."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self.db.enable_wal()
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(0.05)

    def _migrate(self, migrations: Any) -> None:
        """All in one transaction, and begun under the write lock: of several that open an old store, or a new
        one, at once, the first migrates it, and the others find that done."""
        with self.transaction():
            self._check_version(migrations)
            self._refuse_older_engine()
            migrations.apply(self.db)

    def _refuse_older_engine(self) -> None:
        """Raises UserError while an engine of an earlier srtui works: it would find the store locked for as
        long as a large one takes."""
        for held, table in leases.TABLES.items():
            if not self.db[table].exists():
                continue
            for row in fetch_rows(self.conn, f"SELECT * FROM {table}"):
                if leases.alive(row, time.time()):
                    raise UserError(
                        f"{self.path}: process {row['pid']} on {row['host']}, of an earlier srtui, works on "
                        f"{held} {row[0]}; wait for it or stop it there, then this version takes the store over."
                    )

    def _check_version(self, migrations: Any) -> None:
        known_names = {m.name for m in migrations._migrations}
        unknown = [m.name for m in migrations.applied(self.db) if m.name not in known_names]
        if unknown:
            raise UserError(
                f"{self.path}: its {unknown[-1]} is not known here, so a later version made it, or one under development; "
                "open it with that one, or update this one."
            )
        tables = [name for name in self.db.table_names() if not name.startswith("sqlite_")]
        if tables and "_sqlite_migrations" not in tables:
            raise UserError(f"{self.path} is a SQLite file but not a srtui store; move it away.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Bring what was committed into the one file where that takes no time, and close the connection."""
        if not self.read_only:
            # Where a dashboard watches, SQLite's own checkpoint of the last writer never comes.
            self.checkpoint(0.2)
        self.conn.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block, or none of it; takes the write lock at once, so that it never has to
        give up half-way to another writer."""
        if self.conn.in_transaction:
            yield
            return
        self.conn.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.conn.rollback()
            raise
        self.conn.commit()

    def counts(self) -> dict[str, int]:
        """Rows by table."""
        names = [
            n
            for n in self.db.table_names()
            if not n.startswith(("sqlite_", "_sqlite", "variant_text", "turn_text"))
        ]
        return {name: fetch_value(self.conn, f"SELECT count(*) FROM [{name}]") for name in names}

    def pages_in_log(self) -> int:
        """Pages that lie in the write-ahead log alone: a copy of the store's file lacks them."""
        return pages_in_log(self.path)

    def size(self) -> int:
        """Bytes on disk, the write-ahead log included."""
        return sum(p.stat().st_size for p in self.path.parent.glob(self.path.name + "*") if p.is_file())

    def size_in_use(self) -> int:
        """Bytes of the pages that hold something, those in the write-ahead log included."""
        pages, free, size = (
            int(fetch_value(self.conn, f"PRAGMA {name}"))
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def bytes_of_texts(self) -> int:
        """UTF-8 bytes of all that people and models wrote: records, variants, and what teachers wrote and were
        asked. Reads all of them."""
        columns = {
            "sample": ("record",),
            "variant": ("instruction", "input", "response"),
            "generation": ("prompt", "text", "thinking", "critique"),
            "prompt_frame": ("pieces",),
        }
        return sum(
            int(fetch_value(self.conn, f"SELECT total({_octets(*names)}) FROM {table}"))
            for table, names in columns.items()
        )

    def check(self) -> list[str]:
        """What is wrong with the file; empty where it is sound."""
        problems = [r[0] for r in fetch_rows(self.conn, "PRAGMA integrity_check") if r[0] != "ok"]
        problems += [
            f"{r[0]} row {r[1]} points at a missing row of {r[2]}"
            for r in fetch_rows(self.conn, "PRAGMA foreign_key_check")
        ]
        return problems

    def verify(
        self, deep: bool = False, on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Verified:
        """Compare texts with their digests, all of them where ``deep``; ``on_progress`` gets texts done and in all."""
        from srtui.store.verify import verify

        return verify(self.path, deep, on_progress)

    def vacuum(self) -> int:
        """Give unused pages back; returns the bytes saved."""
        before = self.size()
        self.conn.execute("VACUUM")
        self.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return before - self.size()

    def checkpoint(self, seconds: float = 5.0) -> bool:
        """Bring everything into the one file, so that a copy of it has all; whether that was possible."""
        try:
            return checkpoint(self.conn, seconds)
        except sqlite3.Error:
            return False  # what was committed is safe in the log

    def backup(self, target: Path, should_stop: Callable[[], bool] = lambda: False) -> dict[str, int]:
        """A verified copy of one moment, also while an engine writes; an existing ``target`` is left
        alone. Returns its rows by table; raises BackupStopped where ``should_stop`` says so."""
        if target.exists() or target.is_symlink():
            raise UserError(f"{target} exists already; name a file that does not.")
        try:
            return back_up(self.conn, target, should_stop)
        except (sqlite3.Error, OSError) as error:
            raise explain(error, target) from error


def _octets(*columns: str) -> str:
    return " + ".join(f"length(CAST({column} AS BLOB))" for column in columns)


def refuse_odd_file(path: Path) -> None:
    """Raises UserError where something lies at ``path`` that is no ordinary file: SQLite would wait for
    ever for the other end of a pipe."""
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise UserError(not_a_file(path, mode))


def explain(error: Exception, path: Path) -> UserError:
    """The one sentence for what SQLite or the file system said about ``path``."""
    message = str(error)
    if isinstance(error, sqlite3.Error):
        for sign, sentence in (
            (
                "disk is full",
                "the disk is full; free some space and run the same command again, nothing stored is lost",
            ),
            ("readonly", "the file or its folder is read-only; make both writable"),
            ("unable to open", "it cannot be opened; check that the folder exists and is writable"),
            (
                "not a database",
                "it is not a SQLite file, or it is damaged; restore a copy made by srtui db backup",
            ),
            ("malformed", "it is damaged; restore a copy made by srtui db backup"),
            ("locked", "another process has held it locked for 30 seconds; try again when that one is done"),
            ("disk I/O", "the disk could not be read or written; check it, then run srtui db check"),
        ):
            if sign in message:
                return UserError(f"{path}: {sentence}.")
    return UserError(f"{path}: {message}.")
