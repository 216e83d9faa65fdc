"""A pilot: a small stratified sample through the whole loop without training, and what it says about the rest.

A pilot is a run like any other (its recipe has the key ``pilot``): what it writes, scores and decides is stored
under the same keys as the whole run's, so none of it is done twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import psutil

from srtui import models
from srtui.errors import UserError
from srtui.evaluation.statistics import Estimate, no_estimate, wilson
from srtui.gates import TEXT_GATES, all_gates
from srtui.hashing import draw
from srtui.llama import TeacherIdentity
from srtui.pilot.forecast import for_the_rest, together
from srtui.pilot.limits import Written, limits_met
from srtui.pilot.result import Forecast, PilotExample, PilotResult, StratumCount, TargetResult
from srtui.pilot.verdict import Findings, judge
from srtui.pipeline.engine import Engine, criteria_of
from srtui.pipeline.place import Place
from srtui.pipeline.prepare import pilot_recipe, pilot_strata, prepare
from srtui.progress import Reporter
from srtui.recipe import Recipe
from srtui.reflection import ReflectionPrompt
from srtui.sample import Pair, Target
from srtui.store import Store, figures
from srtui.store.endings import segments_of
from srtui.store.generations import GenerationRow
from srtui.store.runs import Run
from srtui.store.sample_view import SampleView, VariantView, view_sample
from srtui.store.stages import STEPS, seconds_a_sample
from srtui.store.summary import summarise
from srtui.workspace import Workspace

SHOWN = 8
"""Examples of a pilot: some of which every face shows, before and after."""
_TARGETS: tuple[Target, ...] = ("instruction", "response")
_REFLECT = {f"reflect-{target}": target for target in _TARGETS}
_CHOOSE = {f"choose-{target}": target for target in _TARGETS}


def pilot(
    workspace: Workspace,
    store: Store,
    recipe: Recipe,
    recipe_path: Path,
    reporter: Reporter,
    *,
    samples: int,
    should_stop: Callable[[], bool] = lambda: False,
    before: dict[str, float] | None = None,
    place: Place | None = None,
) -> PilotResult:
    """Run ``samples`` samples of a recipe through the loop and say what follows; a pilot that is done is read back.

    Args:
        workspace: where models lie.
        store: where all of it is kept.
        recipe: the recipe of the whole run.
        recipe_path: its file.
        reporter: gets the progress and the messages.
        samples: how many to draw.
        should_stop: asked often; True stops.
        before: by step, the seconds that this process has spent already.
        place: where its models run, by default in this process.

    Raises:
        Stopped: when asked to stop; the same call resumes.
        UserError: on bad input.
    """
    if recipe.pilot is not None:
        raise UserError(f"{recipe_path}: the key pilot is set there; srtui pilot sets it itself.")
    run, is_new = prepare(workspace, store, pilot_recipe(recipe, samples), recipe_path)
    if run.status == "done" and (stored := store.runs.pilot(run.id)) is not None:
        reporter.event("info", f"Pilot {run.name} is done already; its result is read from the store.")
        return PilotResult.from_json(stored)
    size = store.size_in_use()
    run = Engine(workspace, store, run, reporter, should_stop, before=before, place=place).work()
    grown = store.size_in_use() - size if is_new else None
    result = _Reading(workspace, store, run, recipe, grown).result()
    store.runs.keep_pilot(run.id, json.dumps(asdict(result)))
    store.runs.event(run.id, "info", f"Pilot: {result.verdict.sentence}")
    return result


class _Reading:
    """Reads a finished pilot back from the store, sample by sample: it has few."""

    def __init__(
        self, workspace: Workspace, store: Store, run: Run, recipe: Recipe, grown: int | None
    ) -> None:
        """``grown``: bytes that the store has grown by, where all of the pilot's work was in this process."""
        self._workspace, self._store, self._run, self._recipe = workspace, store, run, recipe
        self._grown = grown
        self._counts = figures.counts(store.conn, run.id)
        self._stages = store.runs.stages(run.id)
        self._views: list[SampleView] = []
        for sample_id in store.runs.sample_ids(run.id):
            view = view_sample(store.conn, run.id, sample_id)
            if view is not None:
                self._views.append(view)
        self._generations = {
            (view.id, target): self._generations_of(view, target)
            for view in self._views
            for target in _TARGETS
        }

    def result(self) -> PilotResult:
        """What the pilot came to."""
        run, recipe = self._run, self._recipe
        dataset_id = run.dataset_id
        strata = pilot_strata(self._store, dataset_id, pilot_recipe(recipe, run.recipe["pilot"]))
        of = sum(s.of for s in strata)
        targets: dict[str, TargetResult] = {target: self._target(target) for target in _TARGETS}
        limits = limits_met(
            self._recipe.reflection,
            ((target, list(map(_written, rows))) for (_, target), rows in self._generations.items()),
        )
        examples = self._examples()
        rewritten = [e for e in examples if e.after is not None]
        would_stop = {gate: sum(gate in e.gates for e in rewritten) for gate in TEXT_GATES}
        talking = would_stop["about_the_task"]
        originals = [ifd for view in self._views if (ifd := view.original.scores.get("ifd")) is not None]
        above_one = sum(ifd >= 1 for ifd in originals)
        cut = [sum(n for why, n in t.failed.items() if why.startswith("cut_")) for t in targets.values()]
        unparsed = [sum(t.failed.values()) - c for t, c in zip(targets.values(), cut, strict=True)]
        reasons: Counter[str] = Counter()
        for t in targets.values():
            reasons.update({why: n for why, n in t.failed.items() if not why.startswith("cut_")})
        settled = len(self._views) - self._counts.on_their_way
        verdict = judge(
            Findings(
                samples=len(self._views),
                asked=sum(t.asked for t in targets.values()),
                unread=sum(unparsed),
                cut=sum(cut),
                rewrites=len(rewritten),
                talk=talking,
                gates=would_stop,
                active=tuple(recipe.gates.active),
                scored=len(originals),
                over_one=above_one,
                settled=settled,
                kept=self._counts.kept,
                why=reasons.most_common(1)[0][0] if reasons else "",
                mode=recipe.reflection.mode,
                policy=recipe.selection.policy,
                template=recipe.prompt.template,
                limits=limits,
                larger=self._larger_teacher(),
                teacher_asked=recipe.reflection.source == "teacher",
            )
        )
        return PilotResult(
            run=run.name,
            recipe=recipe.name,
            teacher=(run.teacher or {}).get("name") or recipe.teacher.model,
            student=recipe.student.model,
            samples=len(self._views),
            of=of,
            strata=[StratumCount.of_stratum(s) for s in strata],
            targets=targets,
            limits=limits,
            kept=wilson(self._counts.kept, settled),
            gates={gate: wilson(count, len(rewritten)) for gate, count in would_stop.items()},
            active_gates=list(recipe.gates.active),
            template=recipe.prompt.template,
            at_or_over_one=wilson(above_one, len(originals)),
            forecast=self._forecast(of - len(self._views)),
            examples=self._shown(examples),
            verdict=verdict,
            calibrated=self._calibrated(),
        )

    def _calibrated(self) -> list[str]:
        """What is known of each measure that the student chose by, a sentence each."""
        student = self._recipe.student.model
        sentences: dict[str, None] = {}
        for measure in summarise(self._store, self._run.id).measures.values():
            sentences[
                f"{measure.measure} was never calibrated with {student}: what its choices are worth is unknown"
                if measure.verdict is None
                else measure.sentence
            ] = None
        return list(sentences)

    # -- what the teacher wrote -------------------------------------------------------------

    def _generations_of(self, view: SampleView, target: Target) -> list[GenerationRow]:
        """The generations that this sample's reflection stands on, the first try first; by the keys of the recipe, so
        that what other runs asked is not among them."""
        reflection = view.reflections.get(target)
        if reflection is None or not reflection.attempts or self._run.teacher is None:
            return []
        settings = self._recipe.reflection
        name = settings.instruction_criteria if target == "instruction" else settings.response_criteria
        criteria = criteria_of(self._recipe, Path(self._run.recipe_path), target, name)
        prompt = ReflectionPrompt(criteria, self._recipe)
        identity = TeacherIdentity(**self._run.teacher)
        variant = self._store.corpus.variants([reflection.parent_variant_id])[reflection.parent_variant_id]
        rows = []
        for attempt in range(1, reflection.attempts + 1):
            for candidate in range(settings.candidates):
                row = self._store.generations.with_key(
                    prompt.key(variant.pair, attempt, candidate, identity),
                    prompt.first_key(variant.pair, attempt, candidate, identity),
                )
                if row is not None:
                    rows.append(row)
        return rows

    def _target(self, target: Target) -> TargetResult:
        c = self._counts.targets[target]
        cut = sum(self._first_try_was_cut(view, target) for view in self._views)
        return TargetResult(
            asked=c.asked,
            first_try=c.first_try,
            after_retries=c.after_retries,
            failed=dict(c.failed),
            gated=dict(c.gated),
            parsed=wilson(c.first_try + c.after_retries, c.asked),
            cut=wilson(cut, c.asked),
            taken=wilson(c.taken, c.choices),
        )

    def _first_try_was_cut(self, view: SampleView, target: Target) -> bool:
        return any(
            part != "critique" and finish == "length"
            for row in self._generations[view.id, target]
            if row.attempt == 1
            for part, finish, *_ in _written(row).segments
        )

    def _larger_teacher(self) -> str | None:
        """The largest GGUF in models/ that fits this computer's memory, where it is larger than the teacher."""
        now = (self._run.teacher or {}).get("parameters") or 0
        free = psutil.virtual_memory().available
        larger = [
            (entry.info.parameters, entry.name)
            for entry in models.list_models(self._workspace.models)
            if entry.kind == "gguf"
            and entry.info is not None
            and entry.info.role == "model"
            and entry.info.parameters > 1.5 * now
            and entry.size < free
        ]
        return max(larger)[1] if now and larger else None

    # -- samples ----------------------------------------------------------------------------

    def _examples(self) -> list[PilotExample]:
        """Every sample, before and after."""
        examples = []
        for view in self._views:
            before = view.original
            target = next((t for t in ("response", "instruction") if t in view.rewrites), None)
            after = view.variant(view.rewrites[target]) if target else None
            stopped = dict(gated for t in _TARGETS for gated in self._gates(view, t))
            decision = view.decisions.get(target or "response")
            reasons = (f"{t}: {r.status}" for t, r in view.reflections.items())
            examples.append(
                PilotExample(
                    sample=view.id,
                    row=view.row,
                    before=(before.instruction, before.input, before.response),
                    after=None if after is None else (after.instruction, after.input, after.response),
                    taken={t: bool(d.reflected) for t, d in view.decisions.items()},
                    why=decision.reason if after is not None and decision else ", ".join(reasons),
                    gates=stopped,
                )
            )
        return examples

    def _gates(self, view: SampleView, target: Target) -> Iterator[tuple[str, str]]:
        """(gate, reason) of each gate that stops, or would stop, this sample's rewrites at one target."""
        reflection = view.reflections.get(target)
        before = view.variant(reflection.parent_variant_id) if reflection else None
        if before is None:
            return
        for row in self._generations[view.id, target]:
            after = view.variant(row.variant_id)
            if after is not None:
                yield from all_gates(_pair(before), _pair(after), target)

    def _shown(self, examples: Sequence[PilotExample]) -> list[PilotExample]:
        """Some of them, drawn by the seed: those with a rewrite first."""
        order = sorted(
            examples, key=lambda e: (e.after is None, draw(self._recipe.seed, "pilot example", e.sample))
        )
        return sorted(order[:SHOWN], key=lambda e: e.sample)

    # -- what the rest takes ----------------------------------------------------------------

    def _forecast(self, left: int) -> Forecast:
        recipe = self._recipe
        earlier = seconds_a_sample(self._store.conn, recipe.teacher.model, recipe.student.model)
        stages: dict[str, Estimate] = {}
        history = []
        for stage in (*_REFLECT, *_CHOOSE):
            s = self._stages.get(stage)
            if s is None:
                continue
            weights = self._weights(stage)
            computed = s.done - s.reused
            if computed > 0:
                stages[stage] = for_the_rest(s.seconds, computed, weights, left)
            elif stage in earlier:
                history.append(stage)
                n = len(self._views)
                stages[stage] = for_the_rest(earlier[stage] * n, n, weights, left)
            else:
                stages[stage] = no_estimate()
        fixed = sum(s.seconds for name, s in self._stages.items() if name in (*STEPS, "check-template"))
        reused = any(s.reused for s in self._stages.values())
        disk = no_estimate()
        if self._grown is not None and not reused:
            disk = for_the_rest(self._grown, len(self._views), [self._bytes(v) for v in self._views], left)
        return Forecast(
            left=left,
            fixed=fixed,
            stages=stages,
            total=together(stages.values(), fixed),
            training=self._training(earlier.get("train"), left),
            disk=disk,
            memory=1e6 * self._store.runs.get(self._run.id).peak_memory_mb,
            speed={name: s.tokens / s.seconds for name, s in self._stages.items() if s.tokens and s.seconds},
            history=history,
        )

    def _weights(self, stage: str) -> list[float]:
        """What each sample's part of a stage's time goes by: tokens that the teacher read and wrote, or characters
        that the student read."""
        if stage in _REFLECT:
            return [
                float(sum(r.prompt_tokens + r.new_tokens for r in self._generations[view.id, target]))
                for view in self._views
                for target in (_REFLECT[stage],)
            ]
        return [
            float(
                sum(
                    len(v.instruction) + len(v.input) + len(v.response)
                    for v in (view.original, view.variant(view.rewrites.get(_CHOOSE[stage])))
                    if v is not None
                )
            )
            for view in self._views
        ]

    def _bytes(self, view: SampleView) -> float:
        """Bytes of what a sample has brought into the store, about: only how they differ counts."""
        rows = [row for target in _TARGETS for row in self._generations[view.id, target]]
        texts = [text for row in rows for text in (row.prompt, row.text, row.thinking)]
        texts += [v.response + v.instruction for v in view.variants if v.kind != "original"]
        return float(sum(len(text.encode()) for text in texts))

    def _training(self, step_seconds: float | None, left: int) -> Estimate:
        """Seconds of the training on what would be kept, by the steps of earlier ones; the interval is of the share
        that is kept."""
        settings, kept = self._recipe.training, self._counts.kept
        settled = len(self._views) - self._counts.on_their_way
        if not step_seconds or not settings.enabled or not settled:
            return no_estimate()
        share = wilson(kept, settled)

        def seconds(part: float | None) -> float | None:
            if part is None:
                return None
            samples = part * (left + len(self._views)) * (1 - settings.held_out)
            return step_seconds * max(1.0, samples * settings.epochs / settings.batch_size)

        return Estimate(
            value=seconds(share["value"]), low=seconds(share["low"]), high=seconds(share["high"]), n=settled
        )


def _pair(variant: VariantView) -> Pair:
    return Pair(variant.instruction, variant.input, variant.response)


def _written(row: GenerationRow) -> Written:
    """The segments of a generation; of one that was refused none."""
    return Written(
        row.attempt,
        [
            (part, finish, tokens, room[0] if room else None)
            for part, finish, tokens, *room in segments_of(row.id, row.segments) or ()
        ],
    )
