"""A seat of a pool and the worker on it: what it is at, how fast it is, and what its failures say."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from srtui.cluster.placement import Seat
from srtui.cluster.worker_messages import Reply, WorkDone, WorkerFacts

_RATE_SECONDS = 20.0  # over which a worker's tokens a second are counted


@dataclass(eq=False)
class PoolMember:
    """A seat and who is on it. ``state`` is what its call on the way is for; without one it is idle, or dropped."""

    seat: Seat
    actor: Any = None
    call: Any = None
    state: Literal["starting", "loading", "working", "idle", "resting", "dropped"] = "starting"
    called_at: float = 0.0
    moved_at: float = 0.0
    facts: WorkerFacts | None = None
    done: WorkDone = field(default_factory=WorkDone)
    node: str = ""
    failures: int = 0  # in a row
    restarts: int = 0
    finished: int = 0  # since the last failure
    _rates: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def is_open(self) -> bool:
        """Whether its model is loaded."""
        return self.state in ("working", "idle")

    def forget_model(self) -> None:
        """Its worker is started anew."""
        self.facts, self.done = None, WorkDone()
        self._rates.clear()

    def note(self, reply: Reply, now: float) -> None:
        """Keep how far the worker is, by its reply at the moment ``now``."""
        if reply.done.moved > self.done.moved or reply.results:
            self.moved_at = now
        self.done = reply.done
        self._rates.append((now, reply.done.prompt_tokens + reply.done.new_tokens))
        while len(self._rates) > 2 and now - self._rates[0][0] > _RATE_SECONDS:
            self._rates.popleft()

    @property
    def rate(self) -> float:
        """Tokens a second between the first and the last of the replies that are kept; 0 where that says nothing."""
        if len(self._rates) < 2 or self._rates[-1][0] - self._rates[0][0] < 0.5:
            return 0.0
        return (self._rates[-1][1] - self._rates[0][1]) / (self._rates[-1][0] - self._rates[0][0])

    def shown(self, name: str, tasks: int) -> dict[str, Any]:
        """What faces show of it; ``tasks`` is how many it has."""
        return {
            "worker": name,
            "node": self.node,
            "device": self.facts.device if self.facts else "",
            "state": self.state,
            "tokens_s": round(self.rate, 1),
            "window": self.facts.window if self.facts else 0,
            "tasks": tasks,
            "restarts": self.restarts,
        }


def failure_of(ray: Any, error: Exception) -> tuple[str, bool]:
    """What a failed call says of its worker, in words; and whether the worker's own process died."""
    exceptions, sentence = ray.exceptions, str(error)
    if isinstance(error, exceptions.OutOfMemoryError) or "memory pressure" in sentence or "(OOM)" in sentence:
        return "its node ran out of memory", True
    if "its node has died" in sentence:
        return "its node is gone", False
    if "node" in sentence and ("died" in sentence or "removed" in sentence) and "has died" not in sentence:
        return "its node is gone", False
    if isinstance(error, exceptions.NodeDiedError):
        return "its node is gone", False
    if isinstance(error, exceptions.ActorUnavailableError):
        return "its node cannot be reached", False
    if isinstance(error, exceptions.RayActorError):
        return "its process ended", True
    return (sentence.strip() or type(error).__name__).splitlines()[-1][:300], True
