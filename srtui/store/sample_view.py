"""All that is known about one sample: its texts with their losses, what a run chose, what a person marked."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from srtui.measures import MEASURES, STORED
from srtui.sample import Turn
from srtui.store import figures
from srtui.store._query import fetch_row, fetch_rows
from srtui.store.conversations import ConversationPlace, place_of
from srtui.store.corpus import Variant, sample_origin, variants_of
from srtui.store.decisions import StoredDecision, StoredOutcome, decisions_of, outcome_of
from srtui.store.endings import GenerationEnding, ending_of
from srtui.store.generations import StoredReflection, reflections_of
from srtui.store.listing import State, state_of
from srtui.store.marks import is_flagged, note_of
from srtui.store.scores import VariantScore, scores_of_sample


@dataclass(frozen=True)
class VariantView:
    """A text of a sample with what the student made of it: ``scores`` by stored measure, and ``losses`` by what
    faces call them (srtui.measures.LOSS_NAMES), in nats a token; None where there is none."""

    id: int
    kind: str
    origin: str
    parent_id: int | None
    instruction: str
    input: str
    response: str
    scores: dict[str, float | None] = field(default_factory=dict)
    losses: dict[str, float | None] = field(default_factory=dict)
    unscored: str | None = None


@dataclass(frozen=True)
class SampleView:
    """All that is known about one sample, in one run."""

    id: int
    dataset: str
    row: int
    state: State
    variants: list[VariantView]
    rewrites: dict[str, int]
    critiques: dict[str, str]
    endings: dict[str, GenerationEnding]
    decisions: dict[str, StoredDecision]
    reflections: dict[str, StoredReflection]
    outcome: StoredOutcome | None
    stands: figures.Standing
    note: str
    flagged: bool
    history: Sequence[Turn] = ()
    place: ConversationPlace | None = None

    @property
    def original(self) -> VariantView:
        """The text as the dataset has it."""
        return next(v for v in self.variants if v.kind == "original")

    @property
    def final(self) -> VariantView:
        """The text that would be trained on, or exported, now."""
        return self.variant(self.stands.variant_id) or self.original

    def variant(self, variant_id: int | None) -> VariantView | None:
        """The text of this id; None where the sample has none of it."""
        return next((v for v in self.variants if v.id == variant_id), None)


def view_sample(conn: sqlite3.Connection, run_id: int | None, sample_id: int) -> SampleView | None:
    """One sample with its texts, losses, scores, decisions and marks; None where it is gone. Raises UserError
    where JSON that it needs is damaged."""
    origin = sample_origin(conn, sample_id)
    if origin is None:
        return None
    decisions = decisions_of(conn, run_id, sample_id)
    reflections = reflections_of(conn, run_id, sample_id)
    rewrites = _rewrites(conn, run_id, sample_id, decisions)
    generations = _generations(conn, rewrites, reflections)
    scores = scores_of_sample(conn, sample_id, figures.setting_id_of(conn, run_id))
    texts = variants_of(conn, sample_id)
    return SampleView(
        id=origin.id,
        dataset=origin.dataset,
        row=origin.row,
        state=state_of(conn, run_id, sample_id),
        variants=[_variant_view(v, scores.get(v.id, {})) for v in texts],
        rewrites=rewrites,
        critiques={stage: g["critique"] for stage, g in generations.items()},
        endings={stage: ending_of(g["id"], g["segments"], g["finish"]) for stage, g in generations.items()},
        decisions=decisions,
        reflections=reflections,
        outcome=outcome_of(conn, run_id, sample_id),
        stands=figures.standing(conn, run_id, sample_id),
        note=note_of(conn, sample_id),
        flagged=is_flagged(conn, sample_id),
        history=texts[0].pair.history if texts else (),
        place=place_of(conn, sample_id),
    )


def _rewrites(
    conn: sqlite3.Connection, run_id: int | None, sample_id: int, decisions: Mapping[str, StoredDecision]
) -> dict[str, int]:
    """By stage the rewrite to show: the chosen one, else the first that was compared."""
    rewrites: dict[str, int] = {}
    for r in fetch_rows(
        conn,
        "SELECT stage, variant_id FROM candidate WHERE run_id = ? AND sample_id = ? ORDER BY stage, ordinal",
        (run_id, sample_id),
    ):
        rewrites.setdefault(r["stage"], r["variant_id"])
    for stage, decision in decisions.items():
        if decision.reflected:
            rewrites[stage] = decision.chosen_id
    return rewrites


def _generations(
    conn: sqlite3.Connection, rewrites: Mapping[str, int], reflections: Mapping[str, StoredReflection]
) -> dict[str, sqlite3.Row]:
    """By stage the generation to show: the one that made the rewrite, else the last try."""
    generations: dict[str, sqlite3.Row] = {}
    for stage, reflection in reflections.items():
        row = fetch_row(
            conn,
            "SELECT id, critique, segments, finish FROM generation WHERE parent_variant_id = ? AND stage = ? "
            "ORDER BY variant_id IS ? DESC, id DESC LIMIT 1",
            (reflection.parent_variant_id, stage, rewrites.get(stage)),
        )
        if row is not None:
            generations[stage] = row
    return generations


def _variant_view(variant: Variant, scores: Mapping[str, VariantScore]) -> VariantView:
    losses: dict[str, float | None] = {}
    for metric in STORED:
        conditional, unconditional = MEASURES[metric].loss_names
        score = scores.get(metric)
        losses |= {
            conditional: score.conditional_nll if score else None,
            unconditional: score.unconditional_nll if score else None,
        }
    return VariantView(
        variant.id,
        variant.kind,
        variant.origin,
        variant.parent_id,
        *variant.pair.texts,
        scores={metric: scores[metric].value if metric in scores else None for metric in STORED},
        losses=losses,
        unscored=next((s.reason for s in scores.values() if s.value is None and s.reason), None),
    )
