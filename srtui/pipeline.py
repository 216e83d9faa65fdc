"""The loop itself: reflect, choose, reflect, choose, train.

One process works on a run. What is still to do is read off the store at the start of every stage,
so a run that was killed at any instant goes on where it was; every unit of work is one transaction.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from srtui import datasets, models, selection
from srtui.errors import UserError
from srtui.progress import Progress, Reporter, Stopped
from srtui.prompts import TEMPLATE_NAMES
from srtui.recipe import Recipe
from srtui.reflection import Protocol as ReflectionProtocol
from srtui.reflection import Rewrite, load_criteria
from srtui.sample import digest
from srtui.store import Store
from srtui.store.corpus import Imported, NewRow, RefusedRow, Variant, batched
from srtui.store.distributions import spread
from srtui.store.runs import STAGES, Lease, Run
from srtui.store.work import StoredGeneration
from srtui.teacher import Generation, Teacher, open_teacher
from srtui.teacher.tuning import tuned
from srtui.workspace import Workspace

if TYPE_CHECKING:
    from srtui.scoring import Judge, Metric, Quantization, SpanBuilder

TEMPLATE_SAMPLE = 48
TEMPLATE_SHARE = 1 / 3
_CHUNK = 1024  # variants scored and decided together: bounds memory, and what a kill loses


# -- before a run -----------------------------------------------------------------------------


def import_file(
    store: Store,
    path: Path,
    name: str | None = None,
    format: str = "auto",
    columns: dict[str, str] | None = None,
    as_variant: str | None = None,
    match: str = "instruction",
    on_progress: Callable[[int, int, int], None] = lambda rows, done_bytes, total_bytes: None,
) -> Imported:
    """Take a data file into the store; the same bytes a second time add nothing.

    ``on_progress`` gets rows read, bytes read and bytes in all. Raises UserError, and stores
    nothing, where no row is good.
    """
    reader = datasets.read(path, format, columns)
    sha256 = _sha256(path)
    name = name or _dataset_name(path)
    kind = as_variant or "original"
    already = store.corpus.imported(name, sha256, kind)
    if already is not None:
        return already

    def rows() -> Iterator[NewRow | RefusedRow]:
        for n, row in enumerate(reader):
            if n % 4096 == 0:
                on_progress(n, reader.bytes_read, reader.bytes_total)
            if isinstance(row, datasets.BadRow):
                yield RefusedRow(row.line, row.reason, row.detail)
            else:
                yield NewRow(row.number, row.pair, row.record, row.id)

    if as_variant is None:
        return store.corpus.import_rows(name, str(path), sha256, reader.format, rows())
    return store.corpus.import_variants(name, str(path), sha256, reader.format, as_variant, rows(), match)


def prepare(workspace: Workspace, store: Store, recipe: Recipe, recipe_path: Path) -> tuple[Run, bool]:
    """The run that this recipe describes, and whether it is new.

    A recipe whose settings and samples are those of an earlier run goes on with that run.
    """
    dataset_id = _dataset(workspace, store, recipe, recipe_path)
    ids = [
        r[0]
        for r in store.rows(
            "SELECT id FROM sample WHERE dataset_id = ? ORDER BY id LIMIT ?", (dataset_id, recipe.limit or -1)
        )
    ]
    samples = _hold_out(ids, recipe.training.held_out if recipe.training.enabled else 0.0, recipe.seed)
    fingerprint = f"{recipe.fingerprint}-{digest(repr(ids)).hex()[:8]}"
    earlier = store.runs.with_fingerprint(dataset_id, fingerprint)
    if earlier is not None:
        return earlier, False
    path = str(recipe_path)
    return store.runs.create(
        recipe.name, dataset_id, path, recipe.model_dump_json(), fingerprint, samples
    ), True


def _hold_out(ids: list[int], share: float, seed: int) -> list[tuple[int, bool]]:
    """Mark ``share`` of the samples, the same ones for the same seed whatever the order."""
    count = min(round(len(ids) * share), len(ids) - 1) if share else 0
    chosen = set(sorted(ids, key=lambda i: digest(seed, "held out", i))[:count])
    return [(i, i in chosen) for i in ids]


def _dataset(workspace: Workspace, store: Store, recipe: Recipe, recipe_path: Path) -> int:
    known = store.corpus.dataset_id(recipe.dataset)
    if known is not None:
        return known
    for place in (recipe_path.parent, workspace.root, Path.cwd()):
        path = place / recipe.dataset
        if path.is_file():
            break
    else:
        names = ", ".join(d["name"] for d in store.corpus.datasets()) or "none so far"
        raise UserError(
            f"{recipe_path}: dataset = {recipe.dataset!r} is neither a file nor an imported dataset ({names})."
        )
    taken = store.corpus.dataset_of_file(_sha256(path))
    if taken is None:
        # An edited file is another dataset: merging it with its older self would train on both.
        stem = taken = _dataset_name(path)
        n = 1
        while store.corpus.dataset_id(taken) is not None:
            n += 1
            taken = f"{stem}-{n}"
        import_file(store, path, taken)
    dataset_id = store.corpus.dataset_id(taken)
    assert dataset_id is not None  # noqa: S101 - imported just above
    return dataset_id


def _dataset_name(path: Path) -> str:
    return path.name.split(".")[0] or path.name


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}.") from error


def compare_templates(
    workspace: Workspace, store: Store, run: Run, count: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """IFD of ``count`` originals of a run under every prompt template, by the run's own student.

    Each is a way of scoring of its own, stored as such; the share at or over 1 tells which template
    the student knows.
    """
    from srtui.scoring import Judge

    recipe = Recipe.model_validate(run.recipe)
    originals = [v.id for v in store.corpus.originals(run.id).values()]
    some = sorted(originals, key=lambda i: digest(recipe.seed, "template", i))[:count]
    path = student_path(workspace, recipe.student.model, recipe.student.quantization, say)
    found: list[dict[str, Any]] = []
    judge: Judge | None = None
    for name in TEMPLATE_NAMES:
        row: dict[str, Any] = {"template": name, "chosen": name == recipe.prompt.template}
        try:
            judge = Judge(
                store,
                path,
                recipe.student.quantization,
                name=recipe.student.model,
                template_name=name,
                protocol=recipe.scoring.protocol,
                max_length=recipe.prompt.max_length,
                batch_tokens=recipe.scoring.batch_tokens,
                student=judge.student if judge else None,
            )
        except UserError as error:  # a student without a chat template
            found.append(row | spread([]) | {"problem": str(error)})
            continue
        say(f"{name}: scoring {len(some)} originals ...")
        for _ in judge.score(some, "ifd"):
            pass
        values = [value for value, _ in judge.scores(some, "ifd").values() if value is not None]
        found.append(row | spread(values))
    return found


def student_path(
    workspace: Workspace, name: str, quantization: str, say: Callable[[str], None] = lambda line: None
) -> Path:
    """The safetensors folder, or for ``gguf`` the file, of a student by name."""
    if quantization == "gguf":
        return models.resolve_teacher(workspace.models, name)
    return models.resolve_student(workspace.models, name, say)


# -- a run ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """The key of a teacher request: which sample, what it had, which try."""

    sample_id: int
    variant: Variant
    attempt: int


class Engine:
    """Works on one run until it is done, stopped, or past stage ``until``.

    ``should_stop`` is asked often (each decode step, each batch, each training step) and must be
    cheap. ``teacher`` is for tests that need failures on demand.
    """

    def __init__(
        self,
        workspace: Workspace,
        store: Store,
        run: Run,
        reporter: Reporter,
        should_stop: Callable[[], bool] = lambda: False,
        teacher: Teacher | None = None,
    ) -> None:
        self.workspace, self.store, self.run, self.reporter = workspace, store, run, reporter
        self.recipe = Recipe.model_validate(run.recipe)
        self._stop_wanted = should_stop
        self._teacher = teacher
        self._judge: Judge | None = None
        self._proxy: Judge | None = None
        self._lease: Lease | None = None
        self._asked_at = 0.0
        self._stopped = self._paused = False
        self._clock = 0.0
        self._told = 0.0
        self._kept = 0.0
        self._kept_tokens = self._scored_tokens = 0

    def work(self, until: str | None = None) -> Run:
        """Run all stages that are left. Raises Stopped when asked to stop, UserError on bad input;
        in either case the store says so and the run can go on later."""
        runs, run_id = self.store.runs, self.run.id
        self._lease = runs.acquire(run_id)
        # A request that came while this process was starting is meant for it.
        runs.drop_requests(run_id, before=psutil.Process().create_time())
        runs.update(run_id, status="running", started_at=self.run.started_at or time.time(), error=None)
        try:
            for stage, work in self._stages():
                runs.update(run_id, stage=stage)
                work()
                self._note_memory()
                if stage == until:
                    runs.update(run_id, status="stopped")
                    return runs.get(run_id)
            runs.update(run_id, status="done", stage=None, finished_at=time.time())
        except (Stopped, KeyboardInterrupt):
            runs.update(run_id, status="stopped")
            raise
        except BaseException as error:
            runs.update(run_id, status="failed", error=str(error) or type(error).__name__)
            self._event("error", str(error) or type(error).__name__)
            raise
        finally:
            self._close_teacher()
            self._note_memory()
            self._lease.release()
        return runs.get(run_id)

    def _stages(self) -> Iterator[tuple[str, Callable[[], None]]]:
        reflection, recipe_folder = self.recipe.reflection, Path(self.run.recipe_path).parent
        for aim, name in (
            ("instruction", reflection.instruction_criteria),
            ("response", reflection.response_criteria),
        ):
            criteria = load_criteria(name, aim, recipe_folder)  # type: ignore[arg-type]
            protocol = ReflectionProtocol(criteria, self.recipe)
            yield f"reflect-{aim}", lambda protocol=protocol: self._reflect(protocol)  # type: ignore[misc]
            yield f"choose-{aim}", lambda aim=aim: self._choose(aim)  # type: ignore[misc]
        if self.recipe.training.enabled:
            yield "train", self._train

    # -- reflect ----------------------------------------------------------------------------

    def _reflect(self, protocol: ReflectionProtocol) -> None:
        stage = f"reflect-{protocol.stage}"
        todo = self.store.work.to_reflect(self.run.id, protocol.stage)
        total = self._sample_count()
        if not todo:
            return
        self._check_templates()
        tally = _Tally(self._tally_reflections(protocol.stage))
        self._start(stage)
        if self.recipe.reflection.source == "store":
            self._reflect_from_store(protocol, todo)
            self._tell(stage, total, total, 0, tally.detail(), now=True)
            return
        teacher = self._open_teacher()
        self._forget_scorer_memory()
        waiting: dict[tuple[int, int], list[Generation]] = {}
        done = total - len(todo)
        requests = []
        for sample_id, variant in self._variants(todo):
            asked = self._first_unasked(protocol, sample_id, variant)
            if asked is None:
                done += 1
            else:
                requests.append(protocol.request(asked, variant.pair, asked.attempt))
        teacher.submit(requests)
        before = teacher.progress()

        def stop() -> bool:
            return self._should_stop(lambda: self._watch(stage, done, total, tally, before))

        for generation in teacher.run(stop):
            key = generation.key
            assert isinstance(key, _Asked)  # noqa: S101 - our own key comes back untouched
            asked = key
            group = waiting.setdefault((asked.sample_id, asked.attempt), [])
            group.append(generation)
            if len(group) < self.recipe.reflection.candidates and not generation.refused:
                continue
            del waiting[asked.sample_id, asked.attempt]
            group.sort(key=lambda g: g.candidate)
            if self._take(protocol, asked, group, tally):
                done += 1
            else:
                again = _Asked(asked.sample_id, asked.variant, asked.attempt + 1)
                teacher.submit([protocol.request(again, asked.variant.pair, again.attempt)])
            self._watch(stage, done, total, tally, before)
        self._raise_if_stopped()
        self._watch(stage, done, total, tally, before, now=True)

    def _reflect_from_store(self, protocol: ReflectionProtocol, todo: list[tuple[int, int]]) -> None:
        """No teacher: what is stored as a rewrite of the variant, whoever made it, is compared."""
        store = self.store
        for sample_id, variant in self._variants(todo):
            found = store.corpus.rewrites_of(variant.id, protocol.kind)
            with store.transaction():
                store.work.add_reflection(
                    self.run.id,
                    sample_id,
                    protocol.stage,
                    variant.id,
                    "parsed" if found else "none_stored",
                    0,
                    [v.id for v in found],
                )
            if self._should_stop():
                raise Stopped

    def _first_unasked(self, protocol: ReflectionProtocol, sample_id: int, variant: Variant) -> _Asked | None:
        """The first try whose generations are not stored yet, or None where stored ones settle it.

        Another run with the same teacher, words and seeds, or this one before it was killed, has
        asked already: the same question is never paid for twice.
        """
        identity = self._teacher.identity if self._teacher else None
        assert identity is not None  # noqa: S101 - opened by the caller
        for attempt in range(1, self.recipe.reflection.max_attempts + 1):
            stored = []
            for candidate in range(self.recipe.reflection.candidates):
                key = protocol.key(variant.pair, attempt, candidate, identity.sha256, identity.adapter_sha256)
                stored.append(self.store.work.generation(key))
            if any(g is None for g in stored):
                return _Asked(sample_id, variant, attempt)
            generations = [g for g in stored if g is not None]
            made = [g for g in generations if g["parsed"] == "parsed"]
            if not made and attempt < self.recipe.reflection.max_attempts:
                continue
            with self.store.transaction():
                ids = [self._adopt(sample_id, variant, protocol, g) for g in made]
                status = "parsed" if ids else str(generations[0]["parsed"])
                self.store.work.add_reflection(
                    self.run.id,
                    sample_id,
                    protocol.stage,
                    variant.id,
                    status,
                    attempt,
                    list(dict.fromkeys(ids)),
                )
            return None
        return None

    def _adopt(
        self, sample_id: int, variant: Variant, protocol: ReflectionProtocol, stored: dict[str, Any]
    ) -> int:
        """The variant of a stored generation, as a variant of this sample (the same text may be a
        sample of another dataset too)."""
        made = self.store.corpus.variants([stored["variant_id"]])[stored["variant_id"]]
        if made.sample_id == sample_id:
            return made.id
        return self.store.corpus.add_variant(
            sample_id, protocol.kind, "teacher", variant.id, stored["id"], made.pair
        )[0]

    def _take(
        self, protocol: ReflectionProtocol, asked: _Asked, group: Sequence[Generation], tally: _Tally
    ) -> bool:
        """Store one try's generations; True when the sample's reflection is settled."""
        assert self._teacher is not None  # noqa: S101 - it just wrote these
        identity, store = self._teacher.identity, self.store
        read = [(g, protocol.read(g, asked.variant.pair)) for g in group]
        settled = (
            any(r.pair for _, r in read)
            or any(g.refused for g, _ in read)
            or asked.attempt >= self.recipe.reflection.max_attempts
        )
        with store.transaction():
            candidates: list[int] = []
            for generation, rewrite in read:
                row = self._generation_row(
                    protocol, asked, generation, rewrite, identity.name, identity.sha256
                )
                generation_id = store.work.add_generation(row)
                if rewrite.pair is not None:
                    variant_id, _ = store.corpus.add_variant(
                        asked.sample_id,
                        protocol.kind,
                        "teacher",
                        asked.variant.id,
                        generation_id,
                        rewrite.pair,
                    )
                    store.work.made(generation_id, variant_id)
                    if variant_id != asked.variant.id:
                        candidates.append(variant_id)
            if settled:
                status = (
                    "parsed" if candidates else next((r.status for _, r in read if not r.pair), "unchanged")
                )
                store.work.add_reflection(
                    self.run.id,
                    asked.sample_id,
                    protocol.stage,
                    asked.variant.id,
                    status,
                    asked.attempt,
                    list(dict.fromkeys(candidates)),
                )
                tally.add(status, asked.attempt)
        return settled

    def _generation_row(
        self,
        protocol: ReflectionProtocol,
        asked: _Asked,
        generation: Generation,
        rewrite: Rewrite,
        model: str,
        model_sha256: str,
    ) -> StoredGeneration:
        assert self._teacher is not None  # noqa: S101
        sampler = protocol.sampler(asked.attempt)
        adapter = self._teacher.identity.adapter_sha256
        return StoredGeneration(
            key=protocol.key(asked.variant.pair, asked.attempt, generation.candidate, model_sha256, adapter),
            parent_variant_id=asked.variant.id,
            stage=protocol.stage,
            model=model,
            model_sha256=model_sha256,
            prompt_version=protocol.version,
            mode=self.recipe.reflection.mode,
            sampler=json.dumps(asdict(sampler)),
            seed=generation.seed,
            attempt=asked.attempt,
            candidate=generation.candidate,
            prompt=generation.prompt,
            text=generation.text,
            thinking=generation.thinking,
            critique=rewrite.critique,
            prompt_tokens=generation.prompt_tokens,
            new_tokens=generation.new_tokens,
            seconds=generation.seconds,
            finish=generation.refused or (generation.written[-1].finish if generation.written else "empty"),
            parsed=f"{rewrite.status}: {generation.detail}" if generation.refused else rewrite.status,
        )

    def _tally_reflections(self, stage: str) -> dict[str, int]:
        return {
            r[0]: r[1]
            for r in self.store.rows(
                "SELECT CASE WHEN status = 'parsed' AND attempts > 1 THEN 'retried' ELSE status END, count(*) "
                "FROM reflection WHERE run_id = ? AND stage = ? GROUP BY 1",
                (self.run.id, stage),
            )
        }

    def _watch(
        self, stage: str, done: int, total: int, tally: _Tally, before: Any, now: bool = False
    ) -> None:
        if self._teacher is None or not (now or self._due()):
            return
        at = self._teacher.progress()
        tokens = at.prompt_tokens + at.new_tokens - before.prompt_tokens - before.new_tokens
        detail = {**tally.detail(), "slots": at.slots, "slots_in_use": at.slots_in_use, "waiting": at.waiting}
        if self._lease is not None:
            asked = at.live_key
            self._lease.show(
                **detail,
                sample_id=asked.sample_id if isinstance(asked, _Asked) else None,
                text=at.live_text[-2000:],
            )
        self._tell(stage, done, total, tokens, detail, now=True)

    # -- choose -----------------------------------------------------------------------------

    def _choose(self, aim: str) -> None:
        stage = f"choose-{aim}"
        metric: Metric = "ifd" if aim == "instruction" else "rifd"
        todo = self.store.work.to_decide(self.run.id, aim)
        total, taken = self._sample_count(), self.store.work.taken(self.run.id, aim)
        done = total - len(todo)
        if todo:
            self._start(stage)
        choose = selection.choose_instruction if aim == "instruction" else selection.choose_response
        tally = _ProxyTally()
        # Outcomes follow the second choice, and take about half as long again.
        weight = 1.0 if aim == "instruction" else 0.7

        for chunk in batched(todo.items(), _CHUNK):
            groups = [[before, *rewrites] for _, (before, rewrites) in chunk if rewrites]

            def tell(
                tokens: int, share: float, before: int = done, size: int = len(chunk), taken: int = taken
            ) -> None:
                so_far = int(weight * (before + share * size))
                self._tell(stage, so_far, total, tokens, {"taken": taken})

            scores, by_proxy = self._compare(
                groups, metric, lambda g: choose(g[0], g[1:]).variant_id, tally, tell
            )
            with self.store.transaction():
                for sample_id, (before, rewrites) in chunk:
                    first = scores.get(before, selection.Scored(before, None))
                    choice = choose(first, [scores[r] for r in rewrites])
                    compared = [
                        (s.variant_id, s.score, s.reason) for s in (first, *(scores[r] for r in rewrites))
                    ]
                    proxy = f" (by {self.recipe.scoring.proxy})" if before in by_proxy else ""
                    self.store.work.add_decision(
                        self.run.id,
                        sample_id,
                        aim,
                        choice.variant_id,
                        choice.reflected,
                        choice.reason + proxy,
                        compared,
                    )
                    taken += choice.reflected
            done += len(chunk)
            self._tell(stage, int(weight * done), total, self._stage_tokens(), {"taken": taken}, now=True)
        if aim == "response":
            self._settle(stage, total, weight, tally, {"taken": taken})
            self._score_by_hand(stage, total)
        if tally.both:
            self._event("info", tally.sentence(self.recipe.scoring.proxy))

    def _settle(
        self, stage: str, total: int, weight: float, tally: _ProxyTally, detail: dict[str, Any]
    ) -> None:
        """Say of each sample whether it is trained on; scores only what that needs."""
        policy = self.recipe.selection.policy
        todo = self.store.work.undecided_outcomes(self.run.id)
        done = total - len(todo)
        for chunk in batched(todo, _CHUNK):

            def tell(tokens: int, share: float, before: int = done, size: int = len(chunk)) -> None:
                settled = (before + share * size) / total
                so_far = int(total * (weight + (1 - weight) * settled))
                self._tell(stage, min(so_far, total - 1), total, tokens, detail)

            wanted = [[variant] for _, _, response, variant in chunk if response or policy != "paper"]
            ifd, rifd = (
                self._compare(
                    wanted,
                    metric,
                    lambda g: g[0].score is not None and g[0].score < 1,
                    tally,
                    tell,
                )[0]
                for metric in ("ifd", "rifd")
            )
            with self.store.transaction():
                for sample_id, _, response, variant in chunk:
                    none = selection.Scored(variant, None)
                    scores = ifd.get(variant, none), rifd.get(variant, none)
                    outcome = selection.keep(policy, response, *scores)
                    self.store.work.add_outcome(
                        self.run.id,
                        sample_id,
                        variant,
                        outcome.kept,
                        outcome.reason,
                        scores[0].score,
                        scores[1].score,
                    )
            done += len(chunk)
        self._tell(stage, total, total, self._stage_tokens(), detail, now=True)

    def _score_by_hand(self, stage: str, total: int) -> None:
        """What people wrote is scored like any other text; no choice waits for it."""
        wanted = self.store.work.unscored_by_hand(self.run.id)
        if not wanted:
            return
        self._start(stage)
        for metric in ("ifd", "rifd"):
            self._score(
                self._open_judge(),
                wanted,
                metric,
                lambda tokens, _: self._tell(stage, total, total, tokens, {}),
            )
        self._tell(stage, total, total, self._stage_tokens(), {}, now=True)
        self._event("info", f"Scored {len(wanted)} texts written by hand.")

    def _compare(
        self,
        groups: list[list[int]],
        metric: Metric,
        decide: Callable[[list[selection.Scored]], object],
        tally: _ProxyTally,
        tell: Callable[[int, float], None],
    ) -> tuple[dict[int, selection.Scored], set[int]]:
        """Scores of the variants in ``groups``, each group one decision, and which of them are the
        proxy's: with one, the student itself only scores what lies near the decision, and some
        others to see how far the proxy can be trusted."""
        everything = [v for group in groups for v in group]
        if not everything:
            return {}, set()
        if not self.recipe.scoring.proxy:
            self._score(self._open_judge(), everything, metric, tell)
            return self._scores(self._open_judge(), everything, metric), set()
        proxy = self._open_proxy()
        self._score(proxy, everything, metric, tell)
        quick = self._scores(proxy, everything, metric)
        margin = self.recipe.scoring.proxy_margin
        near: list[list[int]] = []
        clear: list[list[int]] = []
        for group in groups:
            scores = [quick[v].score for v in group]
            (near if selection.near_a_tie(scores, margin) else clear).append(group)
        clear.sort(key=lambda g: digest(self.recipe.seed, "proxy", g[0]))
        control = clear[: max(8, len(clear) // 10)]
        asked = [v for group in (*near, *control) for v in group]
        self._score(self._open_judge(), asked, metric, tell)
        exact = self._scores(self._open_judge(), asked, metric)
        for kind, some in (("near", near), ("clear", control)):
            changed = sum(decide([quick[v] for v in g]) != decide([exact[v] for v in g]) for g in some)
            tally.add(kind, len(some), changed)
        tally.decided += len(groups)
        return quick | exact, set(everything) - set(asked)

    def _scores(
        self, judge: Judge, variant_ids: Iterable[int], metric: Metric
    ) -> dict[int, selection.Scored]:
        return {
            i: selection.Scored(i, value, reason)
            for i, (value, reason) in judge.scores(variant_ids, metric).items()
        }

    def _score(
        self, judge: Judge, variant_ids: Iterable[int], metric: Metric, tell: Callable[[int, float], None]
    ) -> None:
        """Bring the missing scores of these variants into the store. Raises Stopped when asked to stop.

        ``tell`` gets the stage's tokens so far and how much of this call is done, from 0 to 1.
        """
        for tokens_run, share in judge.score(variant_ids, metric, self._should_stop):
            self._scored_tokens += tokens_run
            tell(self._stage_tokens(), share)
        self._raise_if_stopped()

    def _stage_tokens(self) -> int:
        return self._scored_tokens

    def _check_templates(self) -> None:
        """Before teacher time is spent: a template that the student does not know raises every IFD."""
        if self.store.row("SELECT 1 FROM reflection WHERE run_id = ? LIMIT 1", (self.run.id,)):
            return
        originals = [v.id for v in self.store.corpus.originals(self.run.id).values()]
        some = sorted(originals, key=lambda i: digest(self.recipe.seed, "template", i))[:TEMPLATE_SAMPLE]
        self._start("check-template")
        judge = self._open_proxy() if self.recipe.scoring.proxy else self._open_judge()
        self._score(
            judge,
            some,
            "ifd",
            lambda tokens, share: self._tell("check-template", int(share * len(some)), len(some), tokens, {}),
        )
        values = [s.score for s in self._scores(judge, some, "ifd").values() if s.score is not None]
        self._tell("check-template", len(some), len(some), self._stage_tokens(), {}, now=True)
        share = sum(v >= 1 for v in values) / len(values) if values else 0.0
        if share <= TEMPLATE_SHARE:
            return
        sentence = (
            f"{share:.0%} of {len(values)} original pairs have IFD >= 1 under the {self.recipe.prompt.template!r} "
            "template: the student does not know it, or the answers do not follow their instructions. Compare "
            "another prompt.template before you trust the choices"
        )
        if self.recipe.scoring.template_warning == "stop":
            raise UserError(f'{sentence}; scoring.template_warning = "warn" goes on all the same.')
        self._event("warning", f"{sentence}.")

    # -- train ------------------------------------------------------------------------------

    def _train(self) -> None:
        from srtui.training import TrainExample, TrainingConfig, planned_steps, train

        runs, run_id = self.store.runs, self.run.id
        finished = runs.training(run_id)
        if finished is not None and finished["status"] != "running":
            return
        chosen = self.store.work.selected(run_id, held_out=False)
        settings = self.recipe.training.model_dump(exclude={"enabled", "held_out"})
        config = TrainingConfig(**settings, seed=self.recipe.seed)
        steps = planned_steps(len(chosen), config)
        training_id = runs.start_training(run_id, len(chosen), steps)
        if not chosen:
            reason = "no sample was selected"
            runs.finish_training(training_id, f"skipped: {reason}", 0, 0.0, None, {})
            self._event("warning", f"Nothing was trained: {reason}.")
            return
        judge = self._open_judge()
        spans = judge.spans
        variants = self.store.corpus.variants(v for _, v in chosen)
        examples = [
            e for _, v in chosen if (e := self._example(spans, variants[v], TrainExample)) is not None
        ]
        held = self._held_out_examples(spans, TrainExample)
        self._start("train")
        told = {"tokens": 0}

        def on_metric(step: int, values: dict[str, float]) -> None:
            told["tokens"] = int(values.get("tokens", told["tokens"]))
            runs.training_metrics(training_id, step, values)
            detail = {k: round(v, 4) for k, v in values.items() if k in ("loss", "learning_rate")}
            self._tell("train", min(step, steps), steps, told["tokens"], detail, now=True)

        self._tell("train", 0, steps, 0, {}, now=True)
        out = self.workspace.runs / self.run.name / "adapter"
        result = train(
            self._student_path(self.recipe.student.model, self.recipe.student.quantization),
            examples,
            held,
            config,
            out,
            on_metric=on_metric,
            should_stop=self._should_stop,
            student=judge.student,
        )
        self._forget_student()
        self._raise_if_stopped()
        runs.finish_training(
            training_id,
            "done",
            result.tokens,
            result.seconds,
            str(result.adapter_dir.relative_to(self.workspace.root)),
            {
                "first_loss": result.first_loss,
                "last_loss": result.last_loss,
                "steps": result.steps,
                "examples": len(examples),
                "held_out": result.held_out,
            },
        )

    def _example(self, spans: SpanBuilder, variant: Variant, make: Any) -> Any:
        """The training example of a variant: the very span that was scored."""
        from srtui.scoring import Invalid

        span, _ = spans.forward(variant.pair)
        return None if isinstance(span, Invalid) else make(span.ids, span.target)

    def _held_out_examples(self, spans: SpanBuilder, make: Any) -> dict[str, list[Any]]:
        """Held-out samples with their original responses, and with those that were selected."""
        ids = set(self.store.work.held_out(self.run.id))
        originals = [v for i, v in self.store.corpus.originals(self.run.id).items() if i in ids]
        chosen = [v for _, v in self.store.work.selected(self.run.id, held_out=True)]
        selected = list(self.store.corpus.variants(chosen).values())
        held = {
            name: [e for v in variants if (e := self._example(spans, v, make)) is not None]
            for name, variants in (("original", originals), ("selected", selected))
        }
        return {name: examples for name, examples in held.items() if examples}

    # -- models -----------------------------------------------------------------------------

    def _open_teacher(self) -> Teacher:
        if self._teacher is None:
            settings = self.recipe.teacher
            path = models.resolve_teacher(self.workspace.models, settings.model)
            adapter = Path(settings.adapter) if settings.adapter else None
            measured = tuned(path) if settings.slots == "auto" else None
            if measured:
                settings = settings.model_copy(update={"slots": measured.slots})
            with self._loading(f"teacher {settings.model}"):
                self._teacher = open_teacher(
                    path,
                    name=settings.model,
                    sha256=models.file_sha256(path),
                    adapter=adapter,
                    **settings.model_dump(exclude={"model", "adapter"}),
                )
        self.store.runs.update(self.run.id, teacher=json.dumps(asdict(self._teacher.identity)))
        return self._teacher

    def _close_teacher(self) -> None:
        if self._teacher is not None:
            self._teacher.close()
            self._teacher = None

    def _student_path(self, name: str, quantization: str) -> Path:
        return student_path(self.workspace, name, quantization, lambda line: self._event("info", line))

    def _open_judge(self) -> Judge:
        """The recipe's student, which chooses and is then trained."""
        if self._judge is None:
            student = self.recipe.student
            self._judge = self._load_judge(student.model, student.quantization)
            self.store.runs.update(self.run.id, setting_id=self._judge.setting_id)
        return self._judge

    def _open_proxy(self) -> Judge:
        """The smaller student that decides what is clear."""
        if self._proxy is None:
            scoring = self.recipe.scoring
            self._proxy = self._load_judge(scoring.proxy, scoring.proxy_quantization)
        return self._proxy

    def _load_judge(self, name: str, quantization: Quantization) -> Judge:
        from srtui.scoring import Judge

        recipe = self.recipe
        # On a GPU one card rarely holds both models; on the CPU memory is not what is short.
        if _gpu():
            self._close_teacher()
        with self._loading(f"student {name} in {quantization}"):
            return Judge(
                self.store,
                self._student_path(name, quantization),
                quantization,
                name=name,
                template_name=recipe.prompt.template,
                protocol=recipe.scoring.protocol,
                max_length=recipe.prompt.max_length,
                batch_tokens=recipe.scoring.batch_tokens,
            )

    def _forget_student(self) -> None:
        self._judge = self._proxy = None

    def _forget_scorer_memory(self) -> None:
        """Give a GPU's memory to the teacher."""
        if _gpu():
            self._forget_student()

    @contextmanager
    def _loading(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._event("info", f"Loaded {what} in {time.monotonic() - started:.1f} s.")

    # -- telling ----------------------------------------------------------------------------

    def _sample_count(self) -> int:
        return int(self.store.value("SELECT count(*) FROM run_sample WHERE run_id = ?", (self.run.id,)))

    def _variants(self, todo: list[tuple[int, int]]) -> Iterator[tuple[int, Variant]]:
        for chunk in batched(todo, _CHUNK):
            found = self.store.corpus.variants(v for _, v in chunk)
            for sample_id, variant_id in chunk:
                yield sample_id, found[variant_id]

    def _start(self, stage: str) -> None:
        self._clock = self._kept = time.monotonic()
        self._kept_tokens = self._scored_tokens = 0
        self._told = 0.0

    def _due(self) -> bool:
        return time.monotonic() - self._told > 0.5

    def _tell(
        self, stage: str, done: int, total: int, tokens: int, detail: dict[str, Any], now: bool = False
    ) -> None:
        """Progress to the face and the store; ``tokens`` is the stage's count in this process."""
        at = time.monotonic()
        if not now and not self._due():
            return
        self._told = at
        self.store.runs.progress(
            self.run.id, stage, done, total, tokens - self._kept_tokens, at - self._kept, detail
        )
        self._kept, self._kept_tokens = at, tokens
        self.reporter.progress(Progress(stage, done, total, tokens, at - self._clock, detail))

    def _event(self, level: str, message: str) -> None:
        self.store.runs.event(self.run.id, level, message)
        self.reporter.event(level, message)

    def _note_memory(self) -> None:
        peak = peak_memory_mb()
        if peak > self.store.runs.get(self.run.id).peak_memory_mb:
            self.store.runs.update(self.run.id, peak_memory_mb=peak)

    def _should_stop(self, watch: Callable[[], None] = lambda: None) -> bool:
        """Asked often. Sees to requests that faces left in the store, at most once a second; a pause
        holds the engine right here, with its sequences in place."""
        watch()
        if self._stopped or self._stop_wanted():
            self._stopped = True
            return True
        if time.monotonic() - self._asked_at > 1.0:
            self._obey()
            if self._paused:
                self._wait_paused()
        return self._stopped

    def _wait_paused(self) -> None:
        began = time.monotonic()
        while self._paused and not self._stopped:
            time.sleep(0.25)
            self._stopped = self._stopped or self._stop_wanted()
            self._obey()
        # Rates and estimates are of work: the time of a pause is in none of them.
        waited = time.monotonic() - began
        self._clock, self._kept = self._clock + waited, self._kept + waited

    def _obey(self) -> None:
        self._asked_at = time.monotonic()
        for kind in self.store.runs.take_requests(self.run.id):
            self._stopped |= kind == "stop"
            if kind in ("pause", "resume") and self._paused != (kind == "pause"):
                self._paused = kind == "pause"
                self.store.runs.update(self.run.id, status="paused" if self._paused else "running")
                self._event("info", "Paused." if self._paused else "Going on.")

    def _raise_if_stopped(self) -> None:
        if self._stopped:
            raise Stopped


class _Tally:
    """Reflections so far in a stage, by what they came to."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = dict(counts)

    def add(self, status: str, attempts: int) -> None:
        key = "retried" if status == "parsed" and attempts > 1 else status
        self._counts[key] = self._counts.get(key, 0) + 1

    def detail(self) -> dict[str, Any]:
        first, retried = self._counts.get("parsed", 0), self._counts.get("retried", 0)
        return {"parsed": first, "retried": retried, "unparsed": sum(self._counts.values()) - first - retried}


@dataclass
class _ProxyTally:
    """What a proxy decided, and how often it was wrong where the student scored too."""

    decided: int = 0
    checked: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, checked: int, changed: int) -> None:
        self.checked[kind] = self.checked.get(kind, 0) + checked
        self.changed[kind] = self.changed.get(kind, 0) + changed

    @property
    def both(self) -> int:
        return sum(self.checked.values())

    def sentence(self, proxy: str) -> str:
        return (
            f"{proxy} scored {self.decided} decisions and the student {self.both} of them; where both did, "
            f"{proxy} alone would have changed {self.changed['near']} of {self.checked['near']} near a tie "
            f"and {self.changed['clear']} of {self.checked['clear']} that it found clear."
        )


def peak_memory_mb() -> float:
    """Highest resident memory of this process so far, in MB (10^6 bytes)."""
    try:
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
    except ImportError:  # Windows
        return float(psutil.Process().memory_info().peak_wset) / 1e6


def _gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


__all__ = ["STAGES", "Engine", "Progress", "Reporter", "Stopped", "import_file", "peak_memory_mb", "prepare"]
