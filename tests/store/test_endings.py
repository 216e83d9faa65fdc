"""How the texts that a run keeps ended: whole, cut, or not known."""

from __future__ import annotations

from pathlib import Path

from srtui.sample import Pair
from srtui.store import Store
from srtui.store.endings import packed
from srtui.store.figures import means
from srtui.store.generations import GenerationRow
from srtui.store.imports import NewRow
from tests.conftest import RECIPE
from tests.sql import sql_rows, sql_value

WHOLE = packed([("critique", "length", 48), ("response", "end", 60)])


def generation(n: int, parent: int, stage: str, finish: str, segments: str | None) -> GenerationRow:
    return GenerationRow(
        id=0, variant_id=None, created_at=0.0, key=bytes([n]), parent_variant_id=parent, stage=stage, model="m", model_sha256="", prompt_version="1",
        mode="guided", sampler="{}", seed=1, attempt=1, candidate=0, prompt="", text="t", thinking="", critique="",
        prompt_tokens=1, new_tokens=1, seconds=1.0, finish=finish, segments=segments, parsed="parsed",
    )  # fmt: skip


def imported(store: Store, count: int) -> int:
    rows = [NewRow(n, Pair(f"i{n}", "", "r"), "{}") for n in range(count)]
    return store.imports.add_samples("d", "f", "sha", "alpaca", rows).dataset_id


def test_over_all_generations_behind_a_text(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        dataset = imported(store, 6)
        samples = [r[0] for r in sql_rows(store, "SELECT id FROM sample ORDER BY row")]
        run = store.runs.create("r", dataset, "r.toml", RECIPE, "f", [(s, False) for s in samples])
        # (instruction's finish and segments, answer's finish and segments); None: not rewritten
        made = [
            (None, None),
            (("end", WHOLE), ("end", WHOLE)),
            (("end", None), ("end", WHOLE)),  # an older srtui's instruction: its own end is not known
            (None, ("end", None)),  # its answer's is
            (None, ("length", None)),
            (("length", None), ("end", WHOLE)),
        ]
        with store.transaction():
            for n, (sample, stages) in enumerate(zip(samples, made, strict=True)):
                at = int(sql_value(store, "SELECT id FROM variant WHERE sample_id = ?", (sample,)))
                for m, (stage, how) in enumerate(zip(("instruction", "response"), stages, strict=True)):
                    if how is None:
                        continue
                    by = store.generations.add(generation(10 * n + m, at, stage, *how))
                    at, _ = store.corpus.add_variant(
                        sample, f"{stage}_reflected", "teacher", at, by, Pair(f"i{n}", stage, "new")
                    )
                store.decisions.add_outcome(run.id, sample, at, True, "", None, None)
        assert means(store, run.id).endings == {"whole": 2, "unknown": 1, "cut": 2}
        text = store.corpus.add_variant  # a person's own text is none of the teacher's
        with store.transaction():
            by_hand, _ = text(samples[4], "manual", "person", None, None, Pair("i4", "", "mine"))
        store.marks.overrule(run.id, samples[4], by_hand)
        assert means(store, run.id).endings == {"whole": 2, "unknown": 1, "cut": 1}


def test_generations_keep_their_segments(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        imported(store, 1)
        at = int(sql_value(store, "SELECT id FROM variant"))
        with store.transaction():
            store.generations.add(generation(1, at, "response", "end", WHOLE))
            store.generations.add(generation(2, at, "response", "end", None))
        kept = store.generations.of_sample(int(sql_value(store, "SELECT sample_id FROM variant")))
        assert [g.segments for g in kept] == [WHOLE, None]
