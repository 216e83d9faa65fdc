"""The dashboard on a large store, while an engine writes at full speed.

A store of 100,000 samples with five variants each is made once (benchmarks/.cache). The dashboard is
then opened in a pseudo-terminal of 160 x 50, as a person opens it: measured are the time from starting the
process to its first picture with the run in it, the time from a key to the first output after it (in
the table of samples, a writer process committing as fast as it can), and resident memory at the end.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.scripted_run import Rows, write_for_ever  # noqa: E402
from srtui.sample import Pair  # noqa: E402
from srtui.store import Store  # noqa: E402
from srtui.store.decisions import margin  # noqa: E402
from srtui.workspace import Workspace, go_offline  # noqa: E402
from tests.tui.scripted_store import Script, many, new_answer, new_instruction  # noqa: E402

KEYS = 200


def make_store(workspace: Workspace, samples: int) -> None:
    """One run that is done over ``samples`` samples of five variants."""
    began = time.monotonic()
    with Store(workspace.store_path) as store:
        script = Script(workspace, store, "large", 1).begin(list(many(samples)), "large")
        run, setting, now = script.run_id, script.setting, time.time()
        conn, draw = store.conn, script.random
        originals = conn.execute(
            "SELECT id, sample_id, instruction, input, response FROM variant ORDER BY id"
        ).fetchall()
        rows, next_id = Rows(store), originals[-1]["id"] + 1
        for first in range(0, len(originals), 5000):
            for r in originals[first : first + 5000]:
                sample, pair = r["sample_id"], Pair(r["instruction"], r["input"], r["response"])
                texts = [new_instruction(pair), new_answer(pair), new_answer(new_instruction(pair))]
                texts.append(Pair(pair.instruction + " Be brief.", pair.input, pair.response))
                ids = list(range(next_id, next_id + 4))
                next_id += 4
                kinds = (
                    "instruction_reflected",
                    "response_reflected",
                    "response_reflected",
                    "instruction_reflected",
                )
                for i, kind, text in zip(ids, kinds, texts, strict=True):
                    rows.add(
                        "variant", i, sample, text.digest, kind, "teacher", r["id"], None, *text.texts, now
                    )
                ifd = [(r["id"], draw.uniform(0.2, 1.1)), (ids[0], draw.uniform(0.2, 1.1))]
                new = ifd[1][1] > ifd[0][1]
                chosen = ids[0] if new else r["id"]
                answer = ids[2] if new else ids[1]
                rifd = [(chosen, draw.uniform(0.2, 1.1)), (answer, draw.uniform(0.2, 1.1))]
                better = rifd[1][1] < rifd[0][1]
                for metric, values in (("ifd", ifd), ("rifd", rifd)):
                    for v, value in values:
                        rows.add("score", v, setting, metric, value)
                final = answer if better else chosen
                for stage, before, rewrite, taken, is_new, compared, name in (
                    ("instruction", r["id"], ids[0], chosen, new, ifd, "instruction"),
                    ("response", chosen, answer, final, better, rifd, "answer"),
                ):
                    rows.add("reflection", run, sample, stage, before, "parsed", 1)
                    rows.add("candidate", run, sample, stage, 0, rewrite)
                    reason = f"took the new {name}"
                    words = json.dumps([(v, score, None) for v, score in compared])
                    apart = margin(words, taken, is_new, True)
                    rows.add("decision", run, sample, stage, taken, is_new, reason, words, now, apart)
                outcome = "selected" if better else "response not rewritten"
                rows.add("outcome", run, sample, final, better, outcome, None, None)
            rows.flush()
        script.finish()
        (variants_now,) = store.conn.execute("SELECT count(*) FROM variant").fetchone()
    print(
        f"made a store of {samples:,} samples, {variants_now:,} variants in {time.monotonic() - began:.0f} s"
    )


class Terminal:
    """A child in a pseudo-terminal."""

    def __init__(self, words: list[str], environment: dict[str, str], columns: int, lines: int) -> None:
        self.began = time.perf_counter()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(words[0], words, environment)  # noqa: S606
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self, seconds: float) -> bytes:
        """What comes within ``seconds``; as soon as something comes."""
        ready, _, _ = select.select([self.fd], [], [], seconds)
        try:
            return os.read(self.fd, 1 << 20) if ready else b""
        except OSError:
            return b""

    def wait_for(self, words: bytes, seconds: float = 30) -> float:
        """Seconds until ``words`` have been printed, since the start."""
        seen, until = b"", time.perf_counter() + seconds
        while words not in seen:
            if time.perf_counter() > until:
                raise SystemExit(f"{words!r} never came; this did: {seen[-2000:]!r}")
            seen += self.read(1)
        return time.perf_counter() - self.began

    def quiet(self, seconds: float = 0.03) -> None:
        """Let everything under way come out."""
        while self.read(seconds):
            pass

    def press(self, keys: bytes) -> float:
        """Seconds from a key to the first output after it."""
        self.quiet()
        at = time.perf_counter()
        os.write(self.fd, keys)
        if not self.read(5):
            raise SystemExit("a key was not answered in 5 s")
        return time.perf_counter() - at


def keys() -> Iterator[bytes]:
    """What a person does in a table: down, some pages, and back."""
    for n in range(KEYS):
        yield b"\x1b[6~" if n % 8 == 7 else b"\x1b[A" if n % 8 == 5 else b"\x1b[B"


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--samples", type=int, default=100_000)
    arguments.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    go_offline()
    if given.write:
        write_for_ever(given.write, scored=True)
    root = ROOT / "benchmarks" / ".cache" / f"tui-{given.samples}"
    workspace, _ = Workspace.create(root)
    if not (root / "made").exists():
        for old in workspace.store_path.parent.glob("srtui.sqlite*"):
            old.unlink()
        make_store(workspace, given.samples)
        (root / "made").touch()
    environment = os.environ | {
        "SRTUI_WORKSPACE": str(root),
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
    }
    words = [sys.executable, "-m", "srtui"]

    paints, spent = [], []
    for _ in range(5):
        terminal = Terminal(words, environment, 160, 50)
        paints.append(terminal.wait_for(b"large"))
        spent.append(sum(psutil.Process(terminal.pid).cpu_times()[:2]))
        os.kill(terminal.pid, signal.SIGKILL)
        os.waitpid(terminal.pid, 0)
    print(
        f"first paint with the run in it: {', '.join(f'{p:.2f}' for p in paints)} s (the first is the coldest)"
    )

    terminal = Terminal(words, environment, 160, 50)
    terminal.wait_for(b"large")
    writer = subprocess.Popen([sys.executable, str(Path(__file__)), "--write", str(workspace.store_path)])
    try:
        time.sleep(1)
        os.write(terminal.fd, b"3")
        terminal.wait_for(b"100,000" if given.samples == 100_000 else b"samples")
        time.sleep(1)
        took = sorted(terminal.press(key) for key in keys())
        process = psutil.Process(terminal.pid)
        rss = process.memory_info().rss / 1e6
        if writer.poll() is not None:
            raise SystemExit("the writer has ended before the dashboard")
    finally:
        writer.kill()
        os.kill(terminal.pid, signal.SIGKILL)
    p95 = took[round(0.95 * (len(took) - 1))] * 1000
    print(
        f"{len(took)} keys: median {statistics.median(took) * 1000:.1f} ms, p95 {p95:.1f} ms, worst {took[-1] * 1000:.1f} ms"
    )
    print(
        json.dumps(
            {
                "bench": "tui",
                "first_paint_s": round(statistics.median(paints), 3),
                "key_p95_ms": round(p95, 1),
                "rss_mb": round(rss, 1),
                "samples": given.samples,
            }
        )
    )


if __name__ == "__main__":
    main()
