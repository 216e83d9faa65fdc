"""Who works on a run or an evaluation: one engine at a time, and one that is gone holds nobody up."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import psutil

from srtui import process_id
from srtui.store._query import fetch_row

if TYPE_CHECKING:
    from srtui.store import Store

HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 90.0
TABLES = {"run": "lease", "evaluation": "evaluation_lease"}


class Holder(NamedTuple):
    """The engine that works on a run or an evaluation; ``acquired_at`` is a time in seconds."""

    pid: int
    host: str
    acquired_at: float


def holder(store: Store, held: Literal["run", "evaluation"], held_id: int) -> Holder | None:
    """The engine that works on it, if one does."""
    row = fetch_row(store.conn, f"SELECT * FROM {TABLES[held]} WHERE {held}_id = ?", (held_id,))
    if row is None or not alive(row, time.time()):
        return None
    return Holder(row["pid"], row["host"], row["acquired_at"])


def alive(held: sqlite3.Row, now: float) -> bool:
    """Is the process that holds this lease still there?

    On this machine the process itself is looked for, and no clock. Where it cannot be seen (another
    machine, another container, an earlier boot) its heartbeat counts.
    """
    name = held["process"] if "process" in held.keys() else None  # noqa: SIM118 - `in` a row looks at its values
    if name is not None and held["host"] == socket.gethostname():
        is_running = process_id.runs(name)
        if is_running is not None:
            return is_running
    elif name is None and held["host"] == socket.gethostname() and not psutil.pid_exists(held["pid"]):
        return False  # written by an earlier srtui, which kept no name of the process
    return bool(now - held["heartbeat_at"] < DEAD_AFTER_SECONDS)


class Lease:
    """This process's hold on a run, or on an evaluation. A thread of its own keeps the heartbeat, also
    through a long model load, and writes what the engine is doing for the faces to read.

    ``lost`` is None, or the sentence that says who has it now: the engine must stop, and write nothing more.
    """

    def __init__(self, store: Store, held_id: int, held: Literal["run", "evaluation"] = "run") -> None:
        """Take it; the caller has made sure, in the same transaction, that nobody else holds it."""
        self._store, self._held_id, self._held = store, held_id, held
        self._table = TABLES[held]
        self._me = process_id.token()
        self._where = f"WHERE {held}_id = ? AND pid = ? AND process IS ?"
        self._live: dict[str, Any] = {}
        self._changed = threading.Event()
        self._closed = False
        self.lost: str | None = None
        now = time.time()
        store.conn.execute(
            f"INSERT OR REPLACE INTO {self._table}({held}_id, pid, host, process_started, acquired_at, "
            "heartbeat_at, live, process) VALUES (?,?,?,?,?,?,'{}',?)",
            (held_id, os.getpid(), socket.gethostname(), psutil.Process().create_time(), now, now, self._me),
        )
        self._thread = threading.Thread(target=self._renew, name="srtui-heartbeat", daemon=True)

    def start(self) -> Lease:
        """Begin the heartbeat, once the lease is stored."""
        self._thread.start()
        return self

    def show(self, **live: Any) -> None:
        """What the engine is doing this second; cheap, written by the heartbeat thread."""
        self._live = live
        self._changed.set()

    def _renew(self) -> None:
        conn = sqlite3.connect(self._store.path, timeout=30, isolation_level=None)
        try:
            while not self._closed:
                # A missed beat is harmless; the engine's own writes report a broken store.
                with contextlib.suppress(sqlite3.Error):
                    written = conn.execute(
                        f"UPDATE {self._table} SET heartbeat_at = ?, live = ? {self._where}",
                        (time.time(), json.dumps(self._live), *self._key),
                    )
                    if written.rowcount == 0 and not self._closed:
                        self.lost = self._sentence(conn)
                        return
                self._changed.wait(HEARTBEAT_SECONDS)
                self._changed.clear()
                if not self._closed:
                    time.sleep(0.4)
        finally:
            conn.close()

    @property
    def _key(self) -> tuple[Any, ...]:
        return self._held_id, os.getpid(), self._me

    def _sentence(self, conn: sqlite3.Connection) -> str:
        now = conn.execute(
            f"SELECT pid, host FROM {self._table} WHERE {self._held}_id = ?", (self._held_id,)
        ).fetchone()
        who = f"process {now[0]} on {now[1]} works on it now" if now else "its lease is gone from the store"
        return f"This engine has lost its {self._held} ({who}), so it has stopped; what it had finished is stored: resume it once nothing else works on it."

    def release(self) -> None:
        """Let go; of a lease that was lost already, nothing is left to let go of."""
        self._closed = True
        self._changed.set()
        self._thread.join(timeout=5)
        with self._store.transaction():
            self._store.conn.execute(f"DELETE FROM {self._table} {self._where}", self._key)
