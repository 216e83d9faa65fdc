"""make check-method counts what was cut and kept, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.check_method import _cut_in
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.endings import packed
from tests.conftest import RECIPE
from tests.sql import sql_value
from tests.store.test_endings import generation, imported


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("It is vague. [Better Answer] The Nile. [End] And so on and", 0),  # a marker made it whole
        ("It is vague. [Better Answer] The Nile.", 1),
    ],
)
def test_a_text_in_one_go_is_cut_where_it_is_the_tail(tmp_path: Path, text: str, cut: int) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        dataset = imported(store, 1)
        sample = int(sql_value(store, "SELECT id FROM sample"))
        run = store.runs.create("r", dataset, "r.toml", RECIPE, "f", [(sample, False)])
        at = int(sql_value(store, "SELECT id FROM variant"))
        with store.transaction():
            made = generation(1, at, "response", "length", packed([("text", "length", 60)]))
            by = store.generations.add(made._replace(mode="free", text=text))
            new, _ = store.corpus.add_variant(
                sample, "response_reflected", "teacher", at, by, Pair("i0", "", "The Nile.")
            )
            store.decisions.add_outcome(run.id, sample, new, True, "", None, None)
        assert _cut_in(store) == cut
