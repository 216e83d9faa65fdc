"""What guessed tokens are worth to a teacher: how many hold on real reflections, and how much faster it writes.

    python benchmarks/bench_drafting.py [--model NAME] [--reflections N] [--tokens N] [--timed N] [--slots N ...]

Acceptance is counted over the texts of N guided reflections that are written without drafts, since drafts do not
change them: at each token the guess of the engine's own lookup is compared with what was drawn. Interval: 95 %,
over the reflections, by resampling. Then the same reflections are timed with drafting off, always and "auto", in
turn and ``--rounds`` times over, at each number of slots; a ratio is of new tokens a second, prompts included, by
the clock and by this process's processor time, which on a busy machine is the one to look at, and the spread over
the rounds stands beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bench_teacher import data_file, requests  # noqa: E402
from srtui.llama.drafting import LENGTHS, Lookup  # noqa: E402
from srtui.llama.sequence import AnswerSequence  # noqa: E402


@dataclass
class Replay:
    """One sequence's steps as they would be with drafts of ``length`` tokens."""

    length: int
    steps: int = 0
    drafted: int = 0
    accepted: int = 0
    _guess: list[int] = field(default_factory=list)
    _place: int = -1  # in the guess; -1 before a step

    def before(self, lookup: Lookup, sequence: AnswerSequence) -> None:
        if self._place < 0:
            self._guess, self._place = lookup.continuation(sequence, self.length), 0
            self.steps += 1
            self.drafted += bool(self._guess)

    def after(self, sequence: AnswerSequence, token: int, segment: int) -> None:
        """A token was drawn and appended; the step goes on while it was the guess and nothing came of it."""
        holds = (
            self._place < len(self._guess)
            and self._guess[self._place] == token
            and not sequence.finished
            and (sequence.segment, sequence.tokens[-1]) == (segment, token)
        )
        self.accepted += holds
        self._place = self._place + 1 if holds else -1


def acceptance(model: Path, wanted: argparse.Namespace) -> dict[int, list[tuple[int, int, int, int]]]:
    """By length of drafts, for each reflection: tokens drawn, steps, steps with a guess, guesses that held."""
    from srtui.llama.batching import LlamaTeacher

    lookups: dict[AnswerSequence, Lookup] = defaultdict(Lookup)
    replays: dict[AnswerSequence, list[Replay]] = defaultdict(lambda: [Replay(n) for n in LENGTHS])
    append = AnswerSequence.append

    def noted(sequence: AnswerSequence, token: int) -> int:
        segment = sequence.segment
        for replay in replays[sequence]:
            replay.before(lookups[sequence], sequence)
        kept = append(sequence, token)
        for replay in replays[sequence]:
            replay.after(sequence, token, segment)
        if sequence.finished:
            lookups.pop(sequence)
        return kept

    AnswerSequence.append = noted  # type: ignore[method-assign]
    teacher = LlamaTeacher(
        model, name="bench", sha256="-", slots=max(wanted.slots), threads=wanted.threads or "auto"
    )
    try:
        teacher.submit(requests(wanted.reflections, wanted.tokens, guided=True))
        for n, _ in enumerate(teacher.run(), 1):
            if n % 20 == 0:
                print(f"{n} reflections", flush=True)
    finally:
        AnswerSequence.append = append  # type: ignore[method-assign]
        teacher.close()
    return {
        length: [
            (s.new_tokens, r[n].steps, r[n].drafted, r[n].accepted) for s, r in replays.items() if s.finished
        ]
        for n, length in enumerate(LENGTHS)
    }


def interval(rows: Sequence[Sequence[int]], above: int, below: int) -> tuple[float, float, float]:
    """(ratio of sums, low, high): 95 %, by drawing the reflections anew 2,000 times."""
    import numpy as np

    table = np.asarray(rows, dtype=float)
    picks = np.random.default_rng(0).integers(0, len(table), (2000, len(table)))
    ratios = table[picks, above].sum(1) / np.maximum(1, table[picks, below].sum(1))
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(table[:, above].sum() / max(1, table[:, below].sum())), float(low), float(high)


def rates(
    model: Path, wanted: argparse.Namespace, slots: int, drafting: Any
) -> tuple[float, float, dict[str, int]]:
    """New tokens a second of the clock, and of processor time; what came of the drafts."""
    from srtui.llama.batching import LlamaTeacher

    teacher = LlamaTeacher(
        model, name="bench", sha256="-", slots=slots, drafting=drafting, threads=wanted.threads or "auto"
    )
    asked = requests(max(slots, wanted.timed), wanted.timed_tokens, guided=True)
    clock, processor = time.perf_counter(), time.process_time()
    teacher.submit(asked)
    for _ in teacher.run():
        pass
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    written, counts = teacher.progress().new_tokens, teacher.drafting
    teacher.close()
    came = {"tokens": written, "drafts": counts.sequence_steps, "accepted": counts.accepted}
    return written / clock, written / processor, came


def ratios(model: Path, wanted: argparse.Namespace) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """By slots, by mode: the rates over those without drafts, (clock, processor), round by round."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for slots in wanted.slots:
        by_mode = found[str(slots)] = {"always": [], "auto": []}
        for n in range(wanted.rounds):
            modes: list[tuple[str, Any]] = [("off", False), ("always", True), ("auto", "auto")]
            measured = {}
            for name, mode in modes if n % 2 == 0 else modes[::-1]:
                *measured[name], came = rates(model, wanted, slots, mode)
                print(
                    f"{slots:3} slots, {name:6} {measured[name][0]:7.1f} tokens/s, {measured[name][1]:7.1f} a second of "
                    f"processor time  {came}",
                    flush=True,
                )
            for name, values in by_mode.items():
                (clock, processor), (clock_off, processor_off) = measured[name], measured["off"]
                values.append((clock / clock_off, processor / processor_off))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m", help="a model's name or a GGUF file")
    parser.add_argument("--reflections", type=int, default=200, help="that acceptance is counted on")
    parser.add_argument("--tokens", type=int, default=192, help="to write, a reflection")
    parser.add_argument(
        "--timed", type=int, default=8, help="reflections that are timed, one a slot at least"
    )
    parser.add_argument("--timed-tokens", type=int, default=96)
    parser.add_argument("--slots", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=0, help="of llama.cpp; as many as there are CPUs, if absent"
    )
    wanted = parser.parse_args()

    from srtui.models import resolve_teacher

    model = (
        Path(wanted.model)
        if wanted.model.endswith(".gguf")
        else resolve_teacher(ROOT / "models", wanted.model)
    )
    result: dict[str, Any] = {"bench": "drafting", "model": model.name}
    if wanted.reflections:
        counted = acceptance(model, wanted)
        result["reflections"] = len(counted[LENGTHS[0]])
        print(f"{model.name}, {result['reflections']} guided reflections on rows of {data_file().name}")
        for length, rows in counted.items():
            held, some = interval(rows, 3, 2), interval(rows, 2, 1)
            every = interval(rows, 0, 1)
            print(
                f"  {length} guesses: {held[0]:.2f} accepted a step that has a guess ({held[1]:.2f} to {held[2]:.2f}); "
                f"{100 * some[0]:.0f} % of the steps have one; {every[0]:.2f} tokens a step in all "
                f"({every[1]:.2f} to {every[2]:.2f})"
            )
            result[f"guesses_{length}"] = {
                "accepted_a_drafted_step": [round(v, 3) for v in held],
                "share_of_steps_with_a_guess": round(some[0], 3),
                "tokens_a_step": [round(v, 3) for v in every],
            }
    if wanted.timed:
        result["ratios"] = {}
        for slots, modes in ratios(model, wanted).items():
            of_slots = result["ratios"][slots] = {}
            for mode, rounds in modes.items():
                of_slots[mode] = {}
                for place, name in enumerate(("clock", "processor")):
                    values = [both[place] for both in rounds]
                    middle, low, high = statistics.median(values), min(values), max(values)
                    print(
                        f"  {slots:>3} slots, {mode:6} {middle:5.2f} times the rate without drafts by the {name} "
                        f"({low:.2f} to {high:.2f} in {len(values)} rounds)"
                    )
                    of_slots[mode][name] = [round(v, 3) for v in (middle, low, high)]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
