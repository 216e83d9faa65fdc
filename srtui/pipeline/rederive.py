"""Does what is stored follow from what it was made of? ``srtui db check --deep``.

Texts have digests (``srtui.store.verify``); scores, choices and counts have none, but follow from other
rows. They are derived again, row by row, and compared. It cannot see a change that was made to all that follows
from a row at once, nor one in a loss, which only the model could give again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from srtui import recipe as recipes
from srtui import selection
from srtui.datasets.layouts import LAYOUTS
from srtui.datasets.rows import Refused, pair_of
from srtui.errors import UserError
from srtui.measures import FILTERS, MEASURES, STORED, SpanLoss
from srtui.recipe import Recipe
from srtui.sample import Pair
from srtui.selection import ScoredText
from srtui.store import Store, figures
from srtui.store.connection import one_snapshot
from srtui.store.decisions import margin
from srtui.store.derivations import Derivations, Table
from srtui.store.stored import Row, shape_fault, stored

_CLOSE = 1e-12  # of a ratio of perplexities: another machine's exp may end in another digit
_CLOSE_SUM = 1e-6  # of a sum over up to millions of samples, added up in another order
_REPORT_EVERY = 1024


def faults(store: Store, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Iterator[str]:
    """A sentence for each row that does not follow from the others; ``on_progress`` gets rows done and in all.

    Rows are read one by one, so memory does not grow with them. Rows whose JSON is damaged are left to
    ``srtui.store.verify``. Raises srtui.store.DatabaseError where a page cannot be read.
    """
    with Derivations(store.path) as derivations:
        total = derivations.count()
        check = _Check(derivations)
        checks: dict[Table, Callable[[Row], str | None]] = {
            "sample": check.sample,
            "generation": check.generation,
            "score": check.score,
            "decision": check.decision,
            "outcome": check.outcome,
        }
        done = 0
        for table, fault_of in checks.items():
            for row in derivations.rows(table):
                if done % _REPORT_EVERY == 0:
                    on_progress(done, total)
                done += 1
                if fault := fault_of(row):
                    yield fault
        on_progress(total, total)
        yield from _counts(derivations)
        summed = derivations.summed_runs()
    yield from _sums(store, summed)


class _Check:
    """One row of a table each; a sentence where it does not follow, else None."""

    def __init__(self, derivations: Derivations) -> None:
        self._derivations = derivations

    def sample(self, r: Row) -> str | None:
        """The record is what the original text was read from."""
        if shape_fault(r, "sample", "record"):
            return None
        texts = Pair(r["instruction"], r["input"], r["response"])
        if _holds_texts(stored(r, "sample", "record"), texts):
            return None
        return f"sample {r['id']}: its original text is not in its record"

    def generation(self, r: Row) -> str | None:
        """What was read out of a generation is a part of what the teacher wrote."""
        parts = {"critique": r["critique"]}
        if r["response"] is not None:
            parts["answer"] = r["response"]
            if r["stage"] == "instruction":
                parts["instruction"] = r["instruction"]
        missing = [name for name, text in parts.items() if text not in r["text"]]
        if not missing:
            return None
        return f"generation {r['id']}: the {missing[0]} that was read from its text is not in it"

    def score(self, r: Row) -> str | None:
        """The ratio, or the reason why there is none, by the losses of the two spans."""
        if r["conditional_key"] is None:
            return (
                None if r["value"] is None and r["reason"] else f"{_name(r)}: it has a value without a loss"
            )
        if r["c_key"] is None or r["u_key"] is None:
            return f"{_name(r)}: a loss that it is made of is not there"
        losses = [SpanLoss(r[f"{of}_nll"], r[f"{of}_tokens"], reason=r[f"{of}_reason"]) for of in ("c", "u")]
        value, reason = MEASURES[r["metric"]].value(*losses)
        if (value is None) != (r["value"] is None) or (value is None and reason != r["reason"]):
            return f"{_name(r)}: it says {r['value'] or r['reason']}, its losses {value or reason}"
        if value is not None and not math.isclose(value, r["value"], rel_tol=_CLOSE):
            return f"{_name(r)}: it is {r['value']!r}, by its losses {value!r}"
        return None

    def decision(self, r: Row) -> str | None:
        """What was compared are the variants' scores, and the recipe's rule chooses the same of them."""
        if shape_fault(r, "decision", "compared") or (recipe := self._recipe(r["run_id"])) is None:
            return None
        name = f"decision {r['run_id']}/{r['sample_id']}/{r['stage']}"
        compared = [ScoredText(*text) for text in stored(r, "decision", "compared")]
        if not compared:
            return f"{name}: nothing was compared"
        instruction = r["stage"] == "instruction"
        by = recipe.selection.instruction_by if instruction else recipe.selection.response_by
        choose = selection.choose_instruction if instruction else selection.choose_response
        choice = choose(compared[0], compared[1:], by)
        if (choice.variant_id, choice.reflected) != (r["chosen_id"], bool(r["reflected"])):
            return (
                f"{name}: it chose variant {r['chosen_id']}, by what was compared it is {choice.variant_id}"
            )
        by_ratio = by in MEASURES and MEASURES[by].is_ratio and not recipe.selection.length_control
        apart = margin(r["compared"], r["chosen_id"], r["reflected"], by_ratio)
        if not _is_close(apart, r["margin"]):
            return f"{name}: its margin is {r['margin']!r}, by what was compared {apart!r}"
        if by in STORED and len(compared) > 1 and not recipe.selection.length_control:
            for text in compared:
                if text.score is not None and not self._is_a_score(text.variant_id, by, text.score):
                    return f"{name}: variant {text.variant_id} has no score of {text.score!r}, which was compared"
        return None

    def outcome(self, r: Row) -> str | None:
        """The text that was chosen last, its scores, and whether the recipe's policy keeps it."""
        recipe = self._recipe(r["run_id"])
        name = f"outcome {r['run_id']}/{r['sample_id']}"
        if r["chosen_id"] != r["variant_id"]:
            return f"{name}: it is of variant {r['variant_id']}, and {r['chosen_id']} was chosen"
        scores = {}
        for metric in FILTERS:
            scores[metric] = ScoredText(r["variant_id"], r[metric])
            if r[metric] is not None and not self._is_a_score(r["variant_id"], metric, r[metric]):
                return f"{name}: variant {r['variant_id']} has no {metric} of {r[metric]!r}"
        if recipe is None:
            return None
        kept = selection.keep(
            recipe.selection.policy, bool(r["reflected"]), scores["ifd"], scores["rifd"]
        ).kept
        if kept != bool(r["kept"]):
            stored_word, derived_word = ("kept", "dropped") if r["kept"] else ("dropped", "kept")
            return f"{name}: it was {stored_word}, and by its scores is {derived_word}"
        return None

    def _is_a_score(self, variant_id: int, metric: str, value: float) -> bool:
        """By any student: a proxy may have decided."""
        return self._derivations.is_a_score(variant_id, metric, value)

    @cache  # noqa: B019 - it lives as long as one check
    def _recipe(self, run_id: int) -> Recipe | None:
        row = self._derivations.run(run_id)
        if row is None:
            return None
        try:
            return recipes.parse(stored(row, "run", "recipe"), row["name"])
        except UserError:
            return None  # damaged, which srtui.store.verify says, or with settings that there are no more


def _is_close(first: float | None, second: float | None) -> bool:
    """Of margins: another machine's logarithm may end in another digit, which a small difference of two shows."""
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=_CLOSE, abs_tol=_CLOSE)


def _name(r: Row) -> str:
    return f"score {r['metric']} of variant {r['variant_id']}"


def _holds_texts(record: Any, texts: Pair) -> bool:
    """Whether a record reads as these texts; where its columns were named by the user, whether it has them."""
    for layout in LAYOUTS.values() if isinstance(record, dict) else ():
        with suppress(Refused):  # its file was of another
            if pair_of(*layout.taker({})(record)) == texts:
                return True
        with suppress(Refused):
            exchanges = layout.converse(record, "each").exchanges if layout.converse else ()
            if any(exchange.pair.texts == texts.texts for exchange in exchanges):
                return True
    record_texts = set(_texts(record))
    return all(not text or text in record_texts for text in texts)


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict | list):
            waiting += node.values() if isinstance(node, dict) else node


def _counts(derivations: Derivations) -> Iterator[str]:
    """The counts that the store's triggers keep, against the rows that they count; a run may be adding some."""
    for table in derivations.counting_tables():
        columns, kept = ", ".join(table.key), table.kept
        for key, counts in table.counted:
            if not _alike(kept.pop(key, ()), counts):
                yield f"{table.name} {_path(key)} ({columns}): its counts are not those of the rows"
        for key in kept:
            yield f"{table.name} {_path(key)} ({columns}): there is nothing that it counts"


def _sums(store: Store, run_ids: Sequence[int]) -> Iterator[str]:
    for run_id in run_ids:
        with one_snapshot(store.conn):
            kept, again = figures.sums_and_again(store, run_id)
        if kept is not None and not _alike(list(kept.values()), [again[name] for name in kept]):
            yield f"run_sums {run_id}: the sums that were kept are not those of the rows"


def _alike(kept: Sequence[float], counted: Sequence[float]) -> bool:
    return len(kept) == len(counted) and all(
        math.isclose(a, b, rel_tol=_CLOSE_SUM, abs_tol=_CLOSE_SUM) for a, b in zip(kept, counted, strict=True)
    )


def _path(keys: Sequence[Any]) -> str:
    return "/".join(str(part) or "-" for part in keys)
