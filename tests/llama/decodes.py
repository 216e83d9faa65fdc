"""What the batching engine asks of llama.cpp for some jobs, decode by decode, noted as a few words each.

The models are tiny ones with random weights. Their own next tokens depend on the processor's rounding, so for a
record that every machine must repeat, tokens are scripted by what stands before them.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from srtui.llama import Generation, Message, Request, Sampler, Segment, batching
from srtui.llama.batching import LlamaTeacher
from srtui.llama.sampling import TokenSampler

SYSTEM = Message("system", "You improve the data that assistants are trained on. " * 8)
TOPICS = ["rain", "bread", "the tides at sea", "a bicycle with two wheels", "the moon", "bees", "chess"]
DRAWN = Sampler(temperature=1.0)
GREEDY = Sampler(temperature=0.0, repeat_penalty=1.0)
# Of the demo model's tokenizer: where a turn ends, and ids that are words or parts of words.
END, WORDS = 2, range(300, 3800)


@dataclass
class Jobs:
    """What a teacher is opened with, what it is asked, and what llama.cpp is made to say meanwhile."""

    requests: Sequence[Request]
    later: dict[object, Sequence[Request]] = field(
        default_factory=dict
    )  # submitted when this key has come back
    slots: int = 4
    context: int | None = None
    affordable: int | None = None  # tokens of KV cache that memory holds
    no_room: frozenset[int] = frozenset()  # decodes that find no KV slot
    gpu: bool = False
    loops: bool = False  # scripted tokens repeat themselves
    stop_at: int | None = None  # steps after which it is asked to stop; then the jobs are submitted anew


class Recorder:
    """Stands between the engine and llama.cpp. ``decodes`` has a tuple of rows (sequence, position, token,
    whether its logits are asked for) for each decode; an empty one where it found no KV slot."""

    def __init__(self, patch: pytest.MonkeyPatch, jobs: Jobs, *, scripted: bool) -> None:
        self.decodes: list[tuple[tuple[int, int, int, bool], ...]] = []
        self._no_room, self._loops = jobs.no_room, jobs.loops
        self._rows: tuple[tuple[int, int, int, bool], ...] = ()
        self._seeds: dict[int, int] = {}
        self._chain = 0
        self._decode = llama_cpp.llama_decode
        patch.setattr(llama_cpp, "llama_decode", self._noted)
        if jobs.gpu:
            load = batching.load_model
            patch.setattr(batching, "load_model", lambda *a, **k: (load(*a, **k)[0], (1,)))
        if jobs.affordable is not None:
            patch.setattr(LlamaTeacher, "_affordable", lambda teacher: jobs.affordable)
        if scripted:
            chain_init, init_dist = llama_cpp.llama_sampler_chain_init, llama_cpp.llama_sampler_init_dist

            def begins(parameters: Any) -> Any:
                chain = chain_init(parameters)
                self._chain = _address(chain)
                self._seeds[self._chain] = 0
                return chain

            def seeded(seed: int) -> Any:
                self._seeds[self._chain] = seed
                return init_dist(seed)

            patch.setattr(llama_cpp, "llama_sampler_chain_init", begins)
            patch.setattr(llama_cpp, "llama_sampler_init_dist", seeded)
            drawn = TokenSampler.draw

            def draw(sampler: TokenSampler, context: Any, index: int) -> int:
                if sampler._grammar is not None:
                    return drawn(sampler, context, index)
                return self._scripted(sampler._chain, index)

            patch.setattr(TokenSampler, "draw", draw)

    def _noted(self, context: Any, batch: Any) -> int:
        self._rows = tuple(
            (batch.seq_id[i][0], batch.pos[i], batch.token[i], bool(batch.logits[i]))
            for i in range(batch.n_tokens)
        )
        number = len(self.decodes)
        self.decodes.append(self._rows)
        if number in self._no_room:
            self.decodes.append(())
            return 1
        return int(self._decode(context, batch))

    def _scripted(self, chain: Any, index: int) -> int:
        _, position, token, logits = self._rows[index]
        assert logits
        if self._loops:
            return WORDS[position % 7]
        draw = hashlib.sha256(f"{token} {position} {self._seeds[_address(chain)]}".encode()).digest()
        number = int.from_bytes(draw[:6], "little")
        return END if number % 41 == 0 else WORDS[number % len(WORDS)]


def _address(pointer: Any) -> int:
    return pointer if isinstance(pointer, int) else int(ctypes.cast(pointer, ctypes.c_void_p).value or 0)


def record(model: Path, jobs: Jobs, *, scripted: bool) -> tuple[Recorder, list[Generation]]:
    """Run the jobs on the tiny ``model``. The generations come without their seconds."""
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch, jobs, scripted=scripted)
        teacher = LlamaTeacher(
            model, name="tiny", sha256="", slots=jobs.slots, threads=1, batch_tokens=64,
            context=jobs.context or "auto",
        )  # fmt: skip
        try:
            return recorder, [replace(g, seconds=0.0) for g in _run(teacher, jobs)]
        finally:
            teacher.close()


def _run(teacher: LlamaTeacher, jobs: Jobs) -> Iterator[Generation]:
    rounds = [lambda: False]
    if jobs.stop_at is not None:
        rounds.insert(0, lambda: teacher.steps >= (jobs.stop_at or 0))
    for should_stop in rounds:
        teacher.submit(jobs.requests)
        for generation in teacher.run(should_stop):
            yield generation
            if generation.candidate == 0:
                teacher.submit(jobs.later.get(generation.key, ()))


def brief(decode: Sequence[tuple[int, int, int, bool]]) -> str:
    """A decode as "slot@first position+tokens" for each stretch, ``*`` behind those whose next token is asked
    for, and the beginning of a hash of all tokens."""
    if not decode:
        return "no room"
    stretches: list[list[int]] = []
    for slot, position, _, logits in decode:
        if stretches and stretches[-1][0] == slot and sum(stretches[-1][1:3]) == position:
            stretches[-1][2] += 1
            stretches[-1][3] = logits
        else:
            stretches.append([slot, position, 1, logits])
    tokens = hashlib.sha256(" ".join(str(token) for _, _, token, _ in decode).encode()).hexdigest()[:6]
    return (
        " ".join(f"{s}@{first}+{count}{'*' if logits else ''}" for s, first, count, logits in stretches)
        + f" {tokens}"
    )


def guided(
    topic: str, *stops: str, n: int = 1, sampler: Sampler = DRAWN, times: int | None = None
) -> Request:
    segments = (
        Segment("Criticism:\n", 24, stops),
        Segment("\n\n[New Instruction]\n", 24, stops, whole=topic == "bees"),
        Segment("" if topic == "chess" else "\n[End]\n\n[New Answer]\n", 24, stops),
    )
    prompt = Message("user", f"Write about {topic}. " * (times or len(topic)))
    return Request(topic, (SYSTEM, prompt), segments, len(topic), sampler, n)


def free(topic: str, tokens: int = 30, *, n: int = 1, sampler: Sampler = DRAWN, times: int = 1) -> Request:
    prompt = Message("user", f"Write about {topic}. " * times)
    return Request(f"free {topic}", (SYSTEM, prompt), (Segment("", tokens, ("er",)),), len(topic), sampler, n)


def all_jobs() -> dict[str, Jobs]:
    """The jobs that are recorded, by name: each has some rule of the scheduler in it."""
    every = [guided(topic, "er", "ing") for topic in TOPICS]
    return {
        "guided": Jobs(every),
        "free": Jobs([free(topic, 10 + 5 * n) for n, topic in enumerate(TOPICS)]),
        "greedy": Jobs([guided(topic, "er", sampler=GREEDY) for topic in TOPICS], slots=3),
        "one slot": Jobs([*every[:2], free("rain")], slots=1),
        "candidates": Jobs([guided("rain", "er", n=3), free("bread", n=5), guided("bees", "ing", n=2)]),
        "no shared beginning": Jobs(
            [Request(t, (Message("user", t),), (Segment("", 12),), n, DRAWN) for n, t in enumerate(TOPICS)],
            slots=16,
        ),
        "retries": Jobs(
            [free("rain", 12), free("bread", 25), guided("bees", "er")],
            {"free rain": [guided("the moon", "er"), free("bees", 8)], "bees": [free("chess", 40, n=2, times=90)]},
            slots=2,
        ),
        "a short context": Jobs(
            [
                Request(n, (Message("user", "word " * n),), (Segment("", 900, least_tokens=20),), n, DRAWN)
                for n in (10, 150, 230, 400)
            ],
            context=256,
        ),
        "little memory": Jobs([guided(t, "er") for t in TOPICS] + [free("rain", 300, n=2)], affordable=1700),
        "no room in the cache": Jobs(every, slots=3, no_room=frozenset({9, 14, 40, 41, 42, 120})),
        "stopped": Jobs([*every, free("bees", n=3)], stop_at=12),
        "a loop": Jobs([Request(t, (SYSTEM,), (Segment("", 90), Segment("A:", 60)), 1) for t in TOPICS[:3]], loops=True),
        "a GPU": Jobs([*every, free("rain", n=3), guided("bread", "er", times=60)], gpu=True),
    }  # fmt: skip
