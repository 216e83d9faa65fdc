"""A store as real runs leave it, made without a model: for tests, pictures and measurements.

Texts are those of the demo's dataset with rewrites that a script makes; scores are drawn from a
seeded generator, so that the same call always makes the same store.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from srtui import recipe as recipes
from srtui import selection
from srtui.measures import SpanLoss
from srtui.sample import Pair, digest
from srtui.store import Store
from srtui.store.endings import packed
from srtui.store.generations import GenerationRow
from srtui.store.imports import NewRow
from srtui.store.scores import StoredScore
from srtui.workspace import Workspace
from tests.sql import sql_rows

ROOT = Path(__file__).resolve().parent.parent.parent
THEN = 1_767_250_800.0  # 1 January 2026, 07:00 UTC: what is shown of times never changes

ODD = [
    Pair(
        "把下面的句子翻译成英文。",
        "今天天气很好，我们去公园散步吧。",
        "The weather is lovely today; let us go for a walk in the park.",
    ),
    Pair("次の言葉の意味を短く説明してください。", "木漏れ日", "木々の葉のすき間から差しこむ日の光のこと。"),
    Pair(
        "Which emoji fit a birthday card? 🎂🎉",
        "",
        "🎂 and 🎉 fit best; 👩‍👩‍👧 or 🇳🇴 only if they mean something to the reader. 🥳",
    ),
    Pair(
        "Print [bold red]this[/bold red] in \x1b[31mred\x1b[0m.",
        "",
        "\x1b]0;owned\x07\x1b[2J[link=file:///etc/passwd]here[/link] \u202eright to left",
    ),
]


def demo_pairs() -> list[Pair]:
    """The demo's dataset, and a few texts that are hard to show."""
    lines = (ROOT / "recipes" / "quickstart.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [Pair(r["instruction"], r["input"], r["output"]) for r in map(json.loads, lines)]
    return [*pairs[:6], *ODD, *pairs[6:]]


def new_instruction(pair: Pair) -> Pair:
    """What the scripted teacher makes of an instruction."""
    words = pair.instruction.rstrip(".?! ")
    return Pair(
        f"{words}, for a reader who knows nothing of it, and name one common mistake.",
        pair.input,
        f"{pair.response} A common mistake is to stop at the first half of this.",
    )


def new_answer(pair: Pair) -> Pair:
    """What it makes of an answer."""
    first, _, rest = pair.response.partition(". ")
    return Pair(
        pair.instruction,
        pair.input,
        f"In short: {first}. {rest} That is also why it is easy to remember.".strip(),
    )


class Script:
    """Writes one run into a store, stage by stage, as an engine does."""

    def __init__(
        self, workspace: Workspace, store: Store, name: str = "quickstart", seed: int = 7, *changes: str
    ) -> None:
        """``changes`` to the quickstart's recipe, as ``--set`` takes them."""
        self.workspace, self.store, self.seed = workspace, store, seed
        self.random = random.Random(seed)
        words = [f"seed={seed}", f'name="{name}"', *changes]
        self.recipe = recipes.load(workspace.recipes / "quickstart.toml", words)
        self.run_id = 0
        self.setting = 0

    def begin(self, pairs: list[Pair], dataset: str = "quickstart") -> Script:
        """Import, and make the run."""
        store = self.store
        rows = [NewRow(n, p, json.dumps(p._asdict())) for n, p in enumerate(pairs)]
        if store.corpus.dataset_id(dataset) is None:
            store.imports.add_samples(dataset, f"{dataset}.jsonl", digest(dataset).hex(), "alpaca", rows)
        dataset_id = store.corpus.dataset_id(dataset) or 0
        ids = [
            r[0]
            for r in sql_rows(store, "SELECT id FROM sample WHERE dataset_id = ? ORDER BY id", (dataset_id,))
        ]
        run = store.runs.create(
            self.recipe.name,
            dataset_id,
            str(self.workspace.recipes / "quickstart.toml"),
            self.recipe.model_dump_json(),
            f"{self.recipe.fingerprint}-{self.seed}",
            [(i, n % 7 == 3) for n, i in enumerate(ids)],
        )
        self.run_id = run.id
        self.setting = store.scores.setting("smollm2-135m", "abc", "nf4", "alpaca", "default", 1024)
        store.runs.update(
            self.run_id, setting_id=self.setting, status="running", created_at=THEN, started_at=THEN
        )
        store.runs.event(self.run_id, "info", "Loaded teacher smollm2-135m in 0.4 s.")
        return self

    def reflect(self, stage: str, count: int | None = None) -> Script:
        """The teacher rewrites the first ``count`` samples; every 17th never comes out."""
        store, todo = self.store, self.store.generations.to_reflect(self.run_id, stage)
        total = len(todo)
        for n, (sample_id, variant_id) in enumerate(todo[:count]):
            parent = store.corpus.variants([variant_id])[variant_id]
            attempts = 2 if n % 9 == 8 else 1
            if n % 17 == 16:
                with store.transaction():
                    store.generations.add_reflection(
                        self.run_id, sample_id, stage, variant_id, "placeholder", 3, []
                    )
                continue
            made = new_instruction(parent.pair) if stage == "instruction" else new_answer(parent.pair)
            with store.transaction():
                generation = store.generations.add(
                    self._generation(stage, parent.id, parent.pair, made, attempts), about=parent.pair
                )
                rewrite, _ = store.corpus.add_variant(
                    sample_id, f"{stage}_reflected", "teacher", parent.id, generation, made
                )
                store.generations.set_variant(generation, rewrite)
                store.generations.add_reflection(
                    self.run_id, sample_id, stage, parent.id, "parsed", attempts, [rewrite]
                )
        done = min(total, count if count is not None else total)
        detail = {
            "parsed": done,
            "retried": done // 9,
            "unparsed": done // 17,
            "slots": 16,
            "slots_in_use": 0,
            "waiting": 0,
        }
        self._progress(f"reflect-{stage}", done, total, 270 * done, 1.7 * done, detail)
        return self

    def _generation(
        self, stage: str, parent_id: int, before: Pair, made: Pair, attempt: int
    ) -> GenerationRow:
        critique = (
            "The instruction is clear, but it does not say who reads the answer or how far it should go. Naming the "
            "reader and one thing to avoid would make the answer more useful."
            if stage == "instruction"
            else "The answer is correct. It begins without saying what it comes to, and it could end on why it holds."
        )
        return GenerationRow(
            id=0,
            variant_id=None,
            created_at=0.0,
            key=digest(self.seed, stage, *before),
            parent_variant_id=parent_id,
            stage=stage,
            model="smollm2-135m",
            model_sha256="0" * 64,
            prompt_version=f"{stage}-1-scripted",
            mode="guided",
            sampler="{}",
            seed=self.seed,
            attempt=attempt,
            candidate=0,
            prompt=f"Criticise this pair.\n{before.instruction}\n{before.input}\n---\n{before.response}\n",
            text="\n\n".join(
                [critique, *([made.instruction] if stage == "instruction" else []), made.response]
            ),
            thinking="",
            critique=critique,
            prompt_tokens=180,
            new_tokens=90,
            seconds=1.7,
            finish="stop:[End]",
            segments=packed(
                [
                    ("critique", "stop:[End]", 41),
                    *([("instruction", "stop:[End]", 33)] if stage == "instruction" else []),
                    ("response", "end", 90),
                ]
            ),
            parsed="parsed",
        )

    def _score(self, variant_id: int, metric: str) -> None:
        alone = self.random.uniform(2.2, 4.4)
        mean = 0.62 if metric == "ifd" else 0.58
        ratio = max(0.03, min(1.6, self.random.gauss(mean, 0.24)))
        tokens = self.random.randint(20, 180)
        keys = (
            digest(variant_id, metric, "given", self.setting),
            digest(variant_id, metric, "alone", self.setting),
        )
        given = max(0.05, alone + math.log(ratio))
        self.store.scores.add_losses(
            {
                keys[0]: SpanLoss(given * tokens, tokens),
                keys[1]: SpanLoss(alone * tokens, tokens),
            }
        )
        value = math.exp(given - alone)
        self.store.scores.add(self.setting, [StoredScore(variant_id, metric, *keys, value, None)])

    def choose(self, stage: str, count: int | None = None) -> Script:
        """The student chooses, by the project's own rules."""
        store, metric = self.store, "ifd" if stage == "instruction" else "rifd"
        todo = list(store.decisions.to_decide(self.run_id, stage).items())
        rule = selection.choose_instruction if stage == "instruction" else selection.choose_response
        taken = 0
        for sample_id, (before, rewrites) in todo[:count]:
            scores: dict[int, selection.ScoredText] = {}
            with store.transaction():
                for variant in (before, *rewrites) if rewrites else ():
                    if not store.scores.of_variants([variant], self.setting, metric):
                        self._score(variant, metric)
                    value, reason = store.scores.of_variants([variant], self.setting, metric)[variant]
                    scores[variant] = selection.ScoredText(variant, value, reason)
                first = scores.get(before, selection.ScoredText(before, None))
                choice = rule(first, [scores[r] for r in rewrites])
                compared = [
                    (s.variant_id, s.score, s.reason) for s in (first, *(scores[r] for r in rewrites))
                ]
                store.decisions.add(
                    self.run_id,
                    sample_id,
                    stage,
                    choice.variant_id,
                    choice.reflected,
                    choice.reason,
                    compared,
                )
            taken += choice.reflected
        done = min(len(todo), count if count is not None else len(todo))
        self._progress(f"choose-{stage}", done, len(todo), 250 * done, 0.66 * done, {"taken": taken})
        return self

    def settle(self) -> Script:
        """Kept, or not and why."""
        store = self.store
        with self.store.transaction():
            for sample_id, _, response, variant in store.decisions.undecided_outcomes(self.run_id):
                values: dict[str, selection.ScoredText] = {}
                for metric in ("ifd", "rifd"):
                    if response and not store.scores.of_variants([variant], self.setting, metric):
                        self._score(variant, metric)
                    found = store.scores.of_variants([variant], self.setting, metric).get(
                        variant, (None, None)
                    )
                    values[metric] = selection.ScoredText(variant, *found)
                outcome = selection.keep("paper", response, values["ifd"], values["rifd"])
                store.decisions.add_outcome(
                    self.run_id,
                    sample_id,
                    variant,
                    outcome.kept,
                    outcome.reason,
                    values["ifd"].score,
                    values["rifd"].score,
                )
        return self

    def train(self, steps: int = 60) -> Script:
        """A loss that falls, a rate that warms up and cools down."""
        store = self.store
        examples = len(store.decisions.selected(self.run_id, held_out=False))
        training = store.training.start(self.run_id, examples, steps)
        plan = {
            "samples": examples,
            "truncated": 0,
            "tokens": 610 * steps,
            "targets": 240 * steps,
            "steps": steps,
            "seconds": 2.5 * steps,
            "memory": 820_000_000,
            "free": 5_600_000_000,
            "packed": True,
            "gradient_checkpointing": False,
        }
        self.store.training.set_plan(training, plan)
        for step in range(1, steps + 1):
            loss = 1.55 + 1.1 * math.exp(-step / 18) + self.random.gauss(0, 0.08)
            rate = 2e-4 * (step / 4 if step < 4 else 0.5 * (1 + math.cos(math.pi * (step - 4) / (steps - 4))))
            store.training.add_metrics(
                training,
                step,
                {
                    "loss": loss,
                    "learning_rate": rate,
                    "grad_norm": 1.2,
                    "tokens": 610.0 * step,
                    "seconds": 2.4 * step + 0.2 * math.sin(step / 2),
                    "memory_mb": 1190.0 + 40 * math.sin(step / 9),
                },
            )
            if step % 20 == 0:
                fall = 1 - math.exp(-step / 18)
                store.training.add_metrics(
                    training,
                    step,
                    {"held_out_original": 2.61 - 0.135 * fall, "held_out_selected": 2.44 - 0.488 * fall},
                )
                self.store.training.add_checkpoint(training, step, f"checkpoints/{step}", 9_400_000, 0.3)
        self.store.training.mark_checkpoint(training, 20, "removed")
        held = {
            "original": {"before": 2.61, "after": 2.48, "samples": 8},
            "selected": {"before": 2.44, "after": 1.97, "samples": 5},
        }
        result = {
            "first_loss": 2.63,
            "last_loss": 1.59,
            "steps": steps,
            "examples": examples,
            "held_out": held,
        }
        store.training.finish(
            training, "done", 610 * steps, 2.4 * steps, f"store/runs/{self.recipe.name}/adapter", result
        )
        self._progress("train", steps, steps, 610 * steps, 2.4 * steps, {"loss": 1.59})
        return self

    def finish(self, seconds: float = 503.0) -> Script:
        self.store.runs.update(
            self.run_id, status="done", stage=None, finished_at=THEN + seconds, peak_memory_mb=1432.0
        )
        return self

    def _progress(
        self, stage: str, done: int, total: int, tokens: int, seconds: float, detail: dict[str, Any]
    ) -> None:
        self.store.runs.update(self.run_id, stage=stage)
        self.store.runs.progress(self.run_id, stage, done, total, tokens, seconds, detail)

    def hold(self, **live: Any) -> Script:
        """As if an engine worked on the run, on another machine that was heard of just now."""
        with self.store.transaction():
            self.store.conn.execute(
                "INSERT OR REPLACE INTO lease(run_id, pid, host, process_started, acquired_at, heartbeat_at, live) "
                "VALUES (?,?,?,?,?,?,?)",
                (self.run_id, 4711, "workstation", THEN, THEN, time.time() + 3600, json.dumps(live)),
            )
        return self


def at_a_fixed_time(store: Store) -> None:
    """Let everything have happened at the same moments, so that pictures are the same each time."""
    with store.transaction():
        store.conn.execute("UPDATE event SET at = ? + 7 * id", (THEN,))
        store.conn.execute("UPDATE import SET created_at = ?", (THEN,))
        store.conn.execute("UPDATE run SET started_at = ? + 86400 * id WHERE started_at IS NOT NULL", (THEN,))
        store.conn.execute("UPDATE run SET finished_at = started_at + 503 WHERE finished_at IS NOT NULL")


def make_demo_store(workspace: Workspace) -> None:
    """Three runs over the demo's dataset: one done, one at work, one stopped."""
    with Store(workspace.store_path) as store:
        pairs = demo_pairs()
        done = Script(workspace, store, "quickstart", 7).begin(pairs)
        done.reflect("instruction").choose("instruction").reflect("response").choose(
            "response"
        ).settle().train().finish()
        stopped = Script(workspace, store, "another-seed", 8).begin(pairs)
        stopped.reflect("instruction").choose("instruction").reflect("response", 12)
        store.runs.update(stopped.run_id, status="stopped")
        store.runs.event(
            stopped.run_id, "warning", "37 % of 48 original pairs have IFD >= 1 under the 'alpaca' template."
        )
        working = Script(workspace, store, "at-work", 9).begin(pairs)
        working.reflect("instruction", 41)
        working.hold(
            slots=16,
            slots_in_use=14,
            waiting=5,
            sample_id=42,
            text="Explain the difference between weather and climate, for a reader who knows nothing of it",
        )
        store.marks.flag(3)
        store.marks.note(3, "the rewrite drops the friendly tone")
        at_a_fixed_time(store)


def many(count: int) -> Iterator[Pair]:
    """``count`` pairs, all different."""
    base = demo_pairs()
    for n in range(count):
        p = base[n % len(base)]
        yield Pair(f"{p.instruction} ({n})", p.input, p.response)
