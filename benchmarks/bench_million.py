"""status, scores and export on a finished run of a million samples, and a backup under a writing engine.

A store of one finished run over 1,000,000 samples is made once (benchmarks/.cache): three texts a sample,
the scores that the paper's policy needs with their losses, both decisions, the outcome. Each command is
then a process of its own, measured from its start to its end with its peak resident memory; what
``srtui --help`` takes is deducted. The backup is timed quiet, and while a process commits as fast as it
can. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.scripted_run import Rows, write_for_ever  # noqa: E402
from srtui import selection  # noqa: E402
from srtui.sample import Pair  # noqa: E402
from srtui.store import Store  # noqa: E402
from srtui.store.decisions import margin  # noqa: E402
from srtui.store.summary import summarise  # noqa: E402
from srtui.workspace import Workspace, go_offline  # noqa: E402
from tests.tui.scripted_store import Script, demo_pairs, new_answer, new_instruction  # noqa: E402

BATCH = 20_000
FORM = 1
"""Counts up where what the store holds changes: a store of another form is made anew."""


def key(n: int) -> bytes:
    """Of a loss: without an order, as the hashes of real ones are."""
    return hashlib.blake2b(n.to_bytes(8, "big"), digest_size=32).digest()


class Maker(Rows):
    """The rows of a finished run, sample by sample."""

    def __init__(self, store: Store, script: Script) -> None:
        super().__init__(store)
        self.run, self.setting = script.run_id, script.setting
        self.draw = random.Random(7)
        self.losses = 0
        self.variants = 0

    def score(self, variant: int, metric: str) -> float:
        """A score of ``variant`` with its two losses; its value."""
        alone, tokens = self.draw.uniform(2.2, 4.4), self.draw.randint(20, 180)
        value = max(0.03, min(1.6, self.draw.gauss(0.62 if metric == "ifd" else 0.58, 0.24)))
        keys = key(self.losses), key(self.losses + 1)
        self.losses += 2
        self.add("loss", keys[0], value * alone * tokens, tokens, int(tokens > 179), None)
        self.add("loss", keys[1], alone * tokens, tokens, int(tokens > 179), None)
        self.add("held_score", variant, self.setting, metric, *keys, value, None)
        return value

    def text(self, sample: int, kind: str, parent: int | None, pair: Pair) -> int:
        self.variants += 1
        origin = "dataset" if kind == "original" else "teacher"
        self.add("variant", self.variants, sample, pair.digest, kind, origin, parent, None, *pair.texts, 0.0)
        return self.variants

    def choose(
        self, sample: int, stage: str, before: int, rewrite: int | None, metric: str
    ) -> tuple[int, bool, float]:
        """Reflection, scores and decision of one stage; the chosen text, whether it is new, its score."""
        self.add(
            "reflection",
            self.run,
            sample,
            stage,
            before,
            "parsed" if rewrite else "placeholder",
            1 + (sample % 9 == 8),
        )
        compared = [
            selection.ScoredText(v, self.score(v, metric)) for v in ([before, rewrite] if rewrite else [])
        ]
        rule = selection.choose_instruction if stage == "instruction" else selection.choose_response
        choice = rule(compared[0] if rewrite else selection.ScoredText(before, None), compared[1:])
        if rewrite:
            self.add("candidate", self.run, sample, stage, 0, rewrite)
        words = json.dumps([(s.variant_id, s.score, s.reason) for s in compared] or [(before, None, None)])
        self.add(
            "decision",
            self.run,
            sample,
            stage,
            choice.variant_id,
            int(choice.reflected),
            choice.reason,
            words,
            0.0,
            margin(words, choice.variant_id, choice.reflected, True),
        )
        value = next((s.score for s in compared if s.variant_id == choice.variant_id), None)
        return choice.variant_id, choice.reflected, value if value is not None else -1.0

    def sample(self, sample: int, pair: Pair) -> None:
        """One sample from its import to its outcome."""
        self.add("sample", sample, pair.digest, json.dumps(pair._asdict()))
        self.add("run_sample", self.run, sample, int(sample % 50 == 3))
        original = self.text(sample, "original", None, pair)
        better = new_instruction(pair)
        rewrite = self.text(sample, "instruction_reflected", original, better) if sample % 17 else None
        first, taken, _ = self.choose(sample, "instruction", original, rewrite, "ifd")
        pair = better if taken else pair
        answer = self.text(sample, "response_reflected", first, new_answer(pair)) if sample % 19 else None
        final, new, rifd = self.choose(sample, "response", first, answer, "rifd")
        scores = [
            selection.ScoredText(final, self.score(final, "ifd") if new else None),
            selection.ScoredText(final, rifd),
        ]
        outcome = selection.keep("paper", new, *scores)
        self.add(
            "outcome", self.run, sample, final, int(outcome.kept), outcome.reason,
            scores[0].score, rifd if new else None,
        )  # fmt: skip


def texts(count: int) -> Iterator[Pair]:
    base = demo_pairs()
    for n in range(count):
        p = base[n % len(base)]
        yield Pair(f"{p.instruction} ({n})", p.input, p.response)


def copy_block(store: Store, block: int, samples: int, variants: int) -> None:
    """The first ``samples`` samples once more, as other samples: ids moved, texts and keys changed.

    SQLite does in a second what would take Python a quarter of a minute."""
    s, v, mark = block * samples, block * variants, block.to_bytes(4, "big")
    moved = f"CASE WHEN {{0}} IS NULL THEN NULL ELSE {{0}} + {v} END"
    compared = f"json_array(json_array(json_extract(compared, '$[0][0]') + {v}, json_extract(compared, '$[0][1]'), NULL)"
    inserts = (
        f"sample SELECT id + {s}, dataset_id, row + {s}, external_id, CAST(digest || :mark AS BLOB), record FROM sample "
        f"WHERE id <= {samples}",
        f"variant SELECT id + {v}, sample_id + {s}, CAST(digest || :mark AS BLOB), kind, origin, {moved.format('parent_id')}, "
        f"NULL, instruction || ' {block}', input, response || ' {block}', created_at FROM variant WHERE id <= {variants}",
        f"run_sample SELECT run_id, sample_id + {s}, held_out FROM run_sample WHERE sample_id <= {samples}",
        "loss SELECT CAST(key || :mark AS BLOB), nll, tokens, truncated, reason FROM loss WHERE length(key) = 32",
        f"held_score SELECT variant_id + {v}, setting_id, metric, CAST(conditional_key || :mark AS BLOB), "
        f"CAST(unconditional_key || :mark AS BLOB), value, reason FROM held_score WHERE variant_id <= {variants}",
        f"reflection SELECT run_id, sample_id + {s}, stage, parent_variant_id + {v}, status, attempts FROM reflection "
        f"WHERE sample_id <= {samples}",
        f"candidate SELECT run_id, sample_id + {s}, stage, ordinal, variant_id + {v} FROM candidate WHERE sample_id <= {samples}",
        "decision(run_id, sample_id, stage, chosen_id, reflected, reason, compared, created_at, margin) "
        f"SELECT run_id, sample_id + {s}, stage, chosen_id + {v}, reflected, reason, CASE json_array_length(compared) "
        f"WHEN 1 THEN {compared}) ELSE {compared}, json_array(json_extract(compared, '$[1][0]') + {v}, "
        f"json_extract(compared, '$[1][1]'), NULL)) END, created_at, margin FROM decision WHERE sample_id <= {samples}",
        f"outcome(run_id, sample_id, variant_id, kept, reason, ifd, rifd) SELECT run_id, sample_id + {s}, variant_id + {v}, "
        f"kept, reason, ifd, rifd FROM outcome WHERE sample_id <= {samples}",
    )
    with store.transaction():
        for insert in inserts:
            store.conn.execute(f"INSERT INTO {insert}", {"mark": mark} if ":mark" in insert else {})


def make_store(workspace: Workspace, samples: int) -> None:
    """One finished run over ``samples`` samples."""
    began = time.monotonic()
    size = min(samples, BATCH)
    if samples % size:
        raise SystemExit(f"--samples {samples}: take a multiple of {BATCH:,}.")
    with Store(workspace.store_path) as store:
        store.conn.execute("PRAGMA synchronous=OFF")
        store.conn.execute("PRAGMA temp_store=FILE")
        store.conn.execute("INSERT INTO dataset VALUES (1, 'million', 0)")
        store.conn.commit()
        script = Script(workspace, store, "million", 1).begin([], "million")
        # Losses have random keys, and real ones come in no order: they are sorted here once, and scores, which
        # point at them, follow.
        store.conn.execute("CREATE TEMP TABLE loss(key BLOB, nll REAL, tokens, truncated, reason)")
        store.conn.execute(
            "CREATE TEMP TABLE held_score(variant_id, setting_id, metric, conditional_key, unconditional_key, value, reason)"
        )
        maker = Maker(store, script)
        for n, pair in enumerate(texts(size), 1):
            maker.sample(n, pair)
        maker.flush()
        for block in range(1, samples // size):
            copy_block(store, block, size, maker.variants)
        with store.transaction():
            store.conn.execute("INSERT INTO span_loss SELECT * FROM loss ORDER BY key")
            store.conn.execute(
                "INSERT INTO score(variant_id, setting_id, metric, conditional_key, unconditional_key, value, reason) "
                "SELECT * FROM held_score ORDER BY 1, 2, 3"
            )
        script.finish()
        summarise(store, script.run_id)  # as srtui run does at its end; it keeps the sums of the run
        store.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    gigabytes = workspace.store_path.stat().st_size / 1e9
    print(
        f"made a store of {samples:,} samples, {gigabytes:.1f} GB, in {time.monotonic() - began:.0f} s",
        flush=True,
    )


# A process begins with its parent's memory as its peak; this parent is small.
_SMALL_PARENT = """
import json, os, sys, time
began = time.monotonic()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)])
_, status, used = os.wait4(child, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - began, used.ru_maxrss / 1000, used.ru_utime + used.ru_stime]))
"""


def measured(workspace: Workspace, *words: str) -> tuple[float, float, float]:
    """(seconds, peak resident MB, seconds of CPU) of one srtui command in a process of its own."""
    environment = os.environ | {"SRTUI_WORKSPACE": str(workspace.root), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "srtui", *words]
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _SMALL_PARENT, *command],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    code, seconds, peak, computing = json.loads(said)
    if code:
        raise SystemExit(f"srtui {' '.join(words)} ended with {code}")
    return seconds, peak, computing


def backup_ratio(workspace: Workspace, limit: float) -> float:
    """Seconds of a backup while a process commits, over those when quiet; both on a copy of the store.
    Infinite where it has not ended within ``limit`` seconds."""
    with tempfile.TemporaryDirectory(dir=workspace.root.parent) as folder:
        copy, _ = Workspace.create(Path(folder) / "ws")
        shutil.copyfile(workspace.store_path, copy.store_path)
        quiet, _, _ = measured(copy, "db", "backup", str(Path(folder) / "quiet.sqlite"))
        (Path(folder) / "quiet.sqlite").unlink()
        writer = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--write", str(copy.store_path)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        try:
            time.sleep(2)
            began = time.monotonic()
            environment = os.environ | {"SRTUI_WORKSPACE": str(copy.root), "PYTHONPATH": str(ROOT)}
            words = [sys.executable, "-m", "srtui", "db", "backup", str(Path(folder) / "busy.sqlite")]
            try:
                subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=limit)
            except subprocess.TimeoutExpired:
                return float("inf")
            busy = time.monotonic() - began
            if writer.poll() is not None:
                raise SystemExit("the writer has ended before the backup")
        finally:
            writer.kill()
            writer.wait()
    print(f"backup: {quiet:.1f} s quiet, {busy:.1f} s while a process commits")
    return busy / quiet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--no-backup", action="store_true", help="leave the backups out")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    go_offline()
    if given.write:
        write_for_ever(given.write)
    from srtui.store.schema import SCRIPTS

    # A store of other tables, or of another form, is another store.
    name = f"million-{given.samples}-{FORM}-{len(SCRIPTS)}"
    root = ROOT / "benchmarks" / ".cache" / name
    if not (root / "whole").exists():
        shutil.rmtree(root, ignore_errors=True)
        workspace, _ = Workspace.create(root)
        make_store(workspace, given.samples)
        (root / "whole").touch()
    workspace, _ = Workspace.create(root)

    base = min(measured(workspace, "--help")[1] for _ in range(3))
    print(f"srtui --help: {base:.0f} MB")
    found: dict[str, float | str | None] = {"bench": "million"}
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        out = str(Path(folder) / "export.json")
        commands = {
            "status": ("status",),
            "scores": ("scores", "million"),
            "export": ("export", "million", "--out", out),
            "status of the run": ("status", "million"),
            "export of all texts": ("export", "million", "--what", "all-variants", "--out", out),
            "scores as CSV": ("scores", "million", "--csv", str(Path(folder) / "scores.csv")),
        }
        for command, words in commands.items():
            measured(workspace, *words)  # the pages that it reads are in the cache from here on
            seconds, peak, computing = measured(workspace, *words)
            print(
                f"{command}: {seconds:.2f} s ({computing:.2f} s of CPU), {peak - base:.0f} MB more than srtui --help",
                flush=True,
            )
            if command in ("status", "scores", "export"):
                found |= {f"{command}_s": round(seconds, 3), f"{command}_mb": round(peak - base, 1)}
    ratio = None if given.no_backup else backup_ratio(workspace, 600)
    order = ("bench", "status_s", "scores_s", "export_s", "status_mb", "scores_mb", "export_mb")
    last = {name: found[name] for name in order} | {
        "backup_under_writes_ratio": None
        if ratio is None
        else round(ratio, 2)
        if ratio < 1e9
        else "never ended"
    }
    print(json.dumps(last))


if __name__ == "__main__":
    main()
