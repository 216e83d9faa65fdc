"""Workers of one kind: started, listened to, and replaced where they fail.

Each worker has one call on its way at a time, which brings back what has come and takes what follows. A call that
fails, or brings no progress for too long, means that the worker is lost: what it had goes to others, and it is started
again, elsewhere where its node is gone. One that fails three times in a row is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from srtui import __version__
from srtui.cluster.dispatch import Dispatcher, Task
from srtui.cluster.placement import A_LITTLE, Seat
from srtui.cluster.pool_member import PoolMember, failure_of
from srtui.cluster.session import Session
from srtui.cluster.worker import Job, Worker
from srtui.cluster.worker_limits import Limits
from srtui.cluster.worker_messages import Reply, Whereabouts, WorkDone, WorkerFacts
from srtui.errors import UserError
from srtui.progress import Report

_LOOK = 0.05  # seconds between two looks at whether to stop
_REST = 0.5  # seconds before a worker is started again: Ray may not know yet that a node is gone
_THREADS = 4  # of a worker's calls: the exchange, a question beside it, a drop


class Pool:
    """Workers on ``seats``, each with a job that ``job_of`` makes for its seat. ``kind`` is what sentences call one."""

    def __init__(
        self,
        session: Session,
        kind: str,
        seats: Sequence[Seat],
        job_of: Callable[[Seat], Job],
        limits: Limits,
        report: Report,
    ) -> None:
        """Starts nothing yet.

        Args:
            session: Ray.
            kind: as in "teacher 2".
            seats: where the workers run.
            job_of: makes the job of a seat's worker.
            limits: of silence and failures.
            report: gets (level, sentence).
        """
        self._session, self.kind, self._job_of, self._limits = session, kind, job_of, limits
        self._report = report
        self._members = [PoolMember(seat) for seat in seats]
        self._dispatcher = Dispatcher()
        self._round = 0
        self._looked_at = time.monotonic()
        self._first: WorkerFacts | None = None
        self._last_sentence = ""
        self._past = WorkDone()  # of workers that are gone
        self.closed = False

    # -- starting -------------------------------------------------------------------------------

    def open(self, should_stop: Callable[[], bool] = lambda: False) -> WorkerFacts | None:
        """Start all workers and wait for the first of them to be open; the others come as they can. None where it was
        stopped meanwhile. Raises UserError where none can be opened."""
        with self._session.reached():
            for member in self._members:
                self._start(member)
            while self._first is None:
                if should_stop():
                    return None
                self._listen()
                self._raise_if_none_left()
            return self._first

    @property
    def facts(self) -> list[WorkerFacts]:
        """Of the workers that are open."""
        return [m.facts for m in self._members if m.is_open and m.facts is not None]

    @property
    def size(self) -> int:
        """Workers that were not dropped."""
        return sum(m.state != "dropped" for m in self._members)

    def _start(self, member: PoolMember) -> None:
        ray, seat = self._session.ray, member.seat
        options: dict[str, Any] = {"num_cpus": A_LITTLE, "max_concurrency": _THREADS, "max_restarts": 0}
        if seat.gpu:
            options["num_gpus"] = 1
        else:
            affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
            options["scheduling_strategy"] = affinity(seat.node, soft=True)
        member.forget_model()
        member.actor = ray.remote(Worker).options(**options).remote(self._job_of(seat))
        self._call(member, "starting", member.actor.where.remote())

    def _call(self, member: PoolMember, state: Literal["starting", "loading", "working"], call: Any) -> None:
        member.state, member.call = state, call
        member.called_at = time.monotonic()
        if state != "working":
            member.moved_at = member.called_at

    # -- work -----------------------------------------------------------------------------------

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue tasks; may be called while :meth:`run` is being iterated."""
        for task in tasks:
            self._dispatcher.add(task)

    @property
    def waiting(self) -> int:
        """Tasks that no worker has."""
        return self._dispatcher.waiting

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[tuple[Task, int, Any | None]]:
        """Yield (task, part, result) as results come, until nothing is queued or ``should_stop()``; a result of None is
        of a task that was given up, since workers died of it. What is unfinished then is forgotten.

        Raises UserError where no worker is left.
        """
        self._round += 1
        self._looked_at = time.monotonic()
        whole = False
        try:
            while self._dispatcher.waiting or self._dispatcher.outstanding:
                with self._session.reached():
                    self._give()
                    came = self._listen()
                yield from came
                self._raise_if_none_left()
                if should_stop():
                    return
            whole = True
        finally:
            self._dispatcher.clear()
            if not whole:
                self._round += 1
                for member in self._members:
                    if member.is_open and not self._session.lost:
                        member.actor.drop.remote(self._round)

    def _give(self) -> None:
        """Call each worker that has none on its way and something to do."""
        workers = sum(m.is_open for m in self._members)
        sound = any(m.failures == 0 for m in self._members if m.state != "dropped")
        for member in self._members:
            if member.state != "idle" or member.facts is None:
                continue
            tasks = self._dispatcher.hand_out(
                member.seat.number, member.facts.window, workers, trusted=not (sound and member.failures)
            )
            if tasks or self._dispatcher.held(member.seat.number):
                if self._dispatcher.held(member.seat.number) == len(tasks):
                    member.moved_at = time.monotonic()  # it had nothing to do until now
                given = [(task.ticket, task.payload) for task in tasks]
                self._call(member, "working", member.actor.exchange.remote(self._round, given))

    def _listen(self) -> list[tuple[Task, int, Any | None]]:
        """What has come from the workers within a moment, after all that it means for them was done."""
        self._forgive_own_absence()
        calls = {m.call: m for m in self._members if m.call is not None}
        results: list[tuple[Task, int, Any | None]] = []
        if calls:
            ray = self._session.ray
            ready, _ = ray.wait(list(calls), num_returns=1, timeout=_LOOK)
            if ready and len(calls) > 1:
                ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
            for call in ready:
                results += self._hear(calls[call], call)
        else:
            time.sleep(_LOOK)
        for member in self._members:
            results += self._look_for_silence(member)
            if member.state == "resting" and time.monotonic() - member.called_at > _REST:
                self._start(member)
        return results

    def _hear(self, member: PoolMember, call: Any) -> list[tuple[Task, int, Any | None]]:
        member.call = None
        try:
            answer = self._session.ray.get(call)
        except ConnectionError:
            raise
        except Exception as error:
            return self._lose(member, *failure_of(self._session.ray, error))
        if member.state == "starting":
            self._placed(member, answer)
        elif member.state == "loading":
            self._opened(member, answer)
        elif member.state == "working":
            return self._replied(member, answer)
        return []

    def _placed(self, member: PoolMember, where: Whereabouts) -> None:
        member.node = where.node
        self._session.check_token(where)
        if where.version != __version__:
            self._drop(
                member,
                f"node {where.node} has srtui {where.version} and this machine {__version__}; install the same on both",
            )
            return
        self._call(member, "loading", member.actor.open.remote())

    def _opened(self, member: PoolMember, answer: WorkerFacts | str) -> None:
        if isinstance(answer, str):
            self._drop(member, answer)
            return
        if self._first is not None and answer.same != self._first.same:
            self._drop(
                member,
                f"node {answer.node} would compute it otherwise than node {self._first.node} does "
                f"({_difference(answer.same, self._first.same)})",
            )
            return
        member.state, member.facts = "idle", answer
        self._first = self._first or answer

    def _replied(self, member: PoolMember, reply: Reply) -> list[tuple[Task, int, Any | None]]:
        now = time.monotonic()
        member.state = "idle"
        member.note(reply, now)
        results: list[tuple[Task, int, Any | None]] = []
        for ticket, part, result in reply.results:
            task = self._dispatcher.take(member.seat.number, ticket, part)
            if task is not None:
                results.append((task, part, result))
                member.finished += not task.missing
        if member.facts is not None and member.finished >= member.facts.window:
            member.failures = 0  # it has worked since
        if reply.error is not None and reply.is_final:
            self._drop(member, reply.error)
        elif reply.error is not None:
            results += self._lose(member, reply.error, died=True)
        return results

    # -- failures -------------------------------------------------------------------------------

    def _forgive_own_absence(self) -> None:
        """Where this process itself was away (a pause, a slow disk), that is no silence of the workers."""
        now = time.monotonic()
        away = now - self._looked_at - 2 * _LOOK
        self._looked_at = now
        if away > 0:
            for member in self._members:
                member.called_at += away
                member.moved_at += away

    def _look_for_silence(self, member: PoolMember) -> list[tuple[Task, int, Any | None]]:
        if member.call is None or member.state == "starting":
            return []  # one that finds no free device may wait for it
        limit = self._limits.loading if member.state == "loading" else self._limits.silent
        if time.monotonic() - member.moved_at <= limit:
            return []
        return self._lose(member, f"it made no progress for {limit:,.0f} seconds", died=True)

    def _lose(self, member: PoolMember, why: str, died: bool) -> list[tuple[Task, int, Any | None]]:
        """A worker is gone or of no use: its work goes to others, and it is started again."""
        held = self._dispatcher.held(member.seat.number)
        given_up = self._dispatcher.lost(member.seat.number, died=died)
        self._end(member)
        if died and not given_up:  # of a node that is gone its worker is not to blame
            member.failures += 1
        name, node = self._name(member), f" on node {member.node}" if member.node else ""
        if member.failures >= self._limits.failures:
            self._dismiss(
                member, f"{name}{node} has failed {member.failures} times in a row ({why}) and is dropped"
            )
        else:
            handed_on = f"; its {held} unfinished tasks go to others" if held else ""
            self._report("warning", f"{name}{node}: {why}{handed_on}. It is started again.")
            member.restarts += 1
            member.finished = 0
            member.state, member.called_at = "resting", time.monotonic()
        if given_up:
            self._report("warning", f"{len(given_up)} task was given up: each worker that had it died of it.")
        return [(task, part, None) for task in given_up for part in sorted(task.missing)]

    def _drop(self, member: PoolMember, why: str) -> None:
        """A worker that would fail in the same way again."""
        self._dispatcher.lost(member.seat.number, died=False)
        self._end(member)
        self._dismiss(member, f"{self._name(member)} is dropped: {why.removesuffix('.')}")

    def _dismiss(self, member: PoolMember, sentence: str) -> None:
        member.state = "dropped"
        self._last_sentence = sentence
        count_left = self.size
        remark = f"; {count_left} {'is' if count_left == 1 else 'are'} left" if count_left else ""
        self._report("warning", f"{sentence}{remark}.")

    def _end(self, member: PoolMember) -> None:
        ended, past = member.done, self._past
        self._past = WorkDone(
            prompt_tokens=past.prompt_tokens + ended.prompt_tokens,
            saved_tokens=past.saved_tokens + ended.saved_tokens,
            new_tokens=past.new_tokens + ended.new_tokens,
        )
        member.done = WorkDone()
        actor, member.actor, member.call = member.actor, None, None
        if actor is not None and not self._session.lost:
            self._session.ray.kill(actor)

    def _raise_if_none_left(self) -> None:
        not_dropped = [m for m in self._members if m.state != "dropped"]
        if not not_dropped:
            raise UserError(
                f"No worker is left: {self._last_sentence}. What was finished is stored; resume the run."
            )
        waits = time.monotonic() - max(m.called_at for m in not_dropped)
        if all(m.state in ("starting", "resting") for m in not_dropped) and waits > self._limits.loading:
            raise UserError(
                f"Ray has found no free device for a {self.kind} in {waits:,.0f} seconds; see what else runs on the cluster, "
                "then resume the run."
            )

    # -- what it looks like ---------------------------------------------------------------------

    def done(self) -> WorkDone:
        """What all workers have done, those that are gone too, and are at."""
        every_worker = [self._past, *(m.done for m in self._members)]
        live = max((m.done for m in self._members), key=lambda d: len(d.live_text), default=WorkDone())
        return WorkDone(
            prompt_tokens=sum(d.prompt_tokens for d in every_worker),
            saved_tokens=sum(d.saved_tokens for d in every_worker),
            new_tokens=sum(d.new_tokens for d in every_worker),
            slots=sum(d.slots for d in every_worker),
            slots_in_use=sum(d.slots_in_use for d in every_worker),
            waiting=sum(d.waiting for d in every_worker) + self._dispatcher.waiting,
            live_ticket=live.live_ticket,
            live_text=live.live_text,
        )

    def held_by(self, ticket: int | None) -> Task | None:
        """The task of a ticket, as long as a worker has it."""
        return None if ticket is None else self._dispatcher.find(ticket)

    def ask(self, name: str, given: Any) -> Any:
        """A question to one of the workers beside its work. Raises UserError where none answers."""
        for member in self._members:
            if member.is_open:
                try:
                    return self._session.ray.get(member.actor.ask.remote(name, given), timeout=60)
                except Exception as error:
                    self._last_sentence = (
                        f"{self._name(member)} does not answer ({failure_of(self._session.ray, error)[0]})"
                    )
        raise UserError(f"No worker answers: {self._last_sentence}. Resume the run.")

    def workers(self) -> list[dict[str, Any]]:
        """Of each worker what faces show: name, node, device, state, tokens a second, window, tasks, restarts."""
        return [m.shown(self._name(m), self._dispatcher.held(m.seat.number)) for m in self._members]

    def _name(self, member: PoolMember) -> str:
        return f"{self.kind} {member.seat.number + 1}"

    def close(self) -> None:
        """End all workers; their memory is free when this returns, or a moment later."""
        self.closed = True
        for member in self._members:
            self._end(member)
            member.state = "dropped"


def _difference(other: Any, own: Any) -> str:
    """Which of two workers' facts are not the same."""
    names = getattr(own, "_fields", None) or getattr(own, "__dataclass_fields__", {})
    for name in names:
        if getattr(other, name) != getattr(own, name):
            return f"{name} {getattr(other, name)!r} and not {getattr(own, name)!r}"
    return "other facts"
