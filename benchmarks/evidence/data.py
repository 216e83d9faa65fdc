"""AlpacaEval's public answers as data sets: which prompts are trained on, which are held out, and their files."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evidence.arms import Replay
from srtui.errors import UserError
from srtui.evaluation.measure_calibration import LIKE
from srtui.hashing import draw

ROOT = Path(__file__).resolve().parents[2]
ORIGINALS = "outputs_alpaca-7b.jsonl"
STRONG = "outputs_Meta-Llama-3-70B-Instruct.jsonl"
THIRD = "outputs_gpt4_0613.jsonl"
PAIRS = "pairs_alpaca-7b.jsonl"
CHOICES = 4
_CHOICE_CHARACTERS = 120
_CHARACTERS_A_TOKEN = 3.2  # fewer than English has, so that a prompt's own words have room
_CHOICE_TASK = """\
# Which of four answers is the one to this prompt? Made by benchmarks/evidence of the held-out prompts.
task: matching
dataset_path: json
dataset_kwargs:
  data_files:
    test: matching.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


@dataclass(frozen=True)
class Prompt:
    """One of AlpacaEval's prompts with all that is known of it. ``mixed`` is text-davinci-003's answer, and ``better``
    whether GPT-4 prefers that to the original, where somebody asked."""

    instruction: str
    original: str
    strong: str
    third: str
    category: str
    mixed: str | None
    better: bool | None

    @property
    def like_length(self) -> bool:
        """Whether the third model's answer is about as long as the original: then no arm has an advantage by what
        it learned of length."""
        low, high = sorted(len(text) for text in (self.original, self.third))
        return high <= LIKE * max(low, 1)

    def fits(self, max_length: int) -> bool:
        """Whether the student reads each answer whole: of a cut one there is no r-IFD, so the original would stay
        whatever it is worth, and it is trained on without its end."""
        longest = max(len(text) for text in (self.original, self.strong, self.mixed or ""))
        return len(self.instruction) + longest <= _CHARACTERS_A_TOKEN * max_length

    def rewrite(self, replay: Replay) -> str | None:
        """The rewrite of a replay."""
        return self.strong if replay == "strong" else self.mixed


@dataclass(frozen=True)
class Prompts:
    """``trained`` and ``held_out`` share no prompt; of the held-out ones half are of like length, as far as there are."""

    trained: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]


def read_prompts(folder: Path, train: int, held_out: int, max_length: int) -> Prompts:
    """So many prompts to train on and to hold out, the same for the same numbers; those that are trained on fit into
    ``max_length`` tokens with each of their answers.

    Raises UserError, one sentence, where a file is missing or the files do not belong together.
    """
    originals, strong, third = (_rows(folder / name) for name in (ORIGINALS, STRONG, THIRD))
    known = {row["instruction"]: row for row in _rows(folder / PAIRS)}
    prompts = []
    for o, s, t in zip(originals, strong, third, strict=True):
        if not o["instruction"] == s["instruction"] == t["instruction"]:
            raise UserError(f"{folder}: the files of answers do not have the same prompts in the same order.")
        pair = known.get(o["instruction"])
        prompts.append(
            Prompt(
                o["instruction"], o["output"], s["output"], t["output"], o["dataset"],
                pair["answer_1"] if pair else None, pair["preference"] == 1 if pair else None,
            )
        )  # fmt: skip
    # What only some replay knows is left out of all, so that both have the same prompts.
    usable = [p for p in prompts if p.mixed is not None and p.original.strip()]
    usable.sort(key=lambda p: draw(0, "evidence", p.instruction))
    if len(usable) < train + held_out:
        raise UserError(
            f"{folder} has {len(usable)} usable prompts, and {train + held_out} are asked for; lower --prompts or "
            "--held-out."
        )
    alike = [p for p in usable if p.like_length][: held_out // 2]
    others = [p for p in usable if not p.like_length][: held_out - len(alike)]
    aside = {p.instruction for p in (*alike, *others)}
    rest = [p for p in usable if p.instruction not in aside and p.fits(max_length)]
    if len(rest) < train:
        raise UserError(
            f"{folder} has {len(rest)} prompts whose answers fit into {max_length} tokens, and {train} are asked for; "
            "lower --prompts."
        )
    return Prompts(tuple(rest[:train]), tuple(alike + others))


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(
            f"{path} is not there; the evidence needs AlpacaEval's public answers ({ORIGINALS}, {STRONG}, {THIRD} and "
            f"{PAIRS}), whose folder is the argument DATA."
        )
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """The same rows make the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_pairs(path: Path, prompts: Prompts, folder: Path) -> Path:
    """The known pairs of all prompts that are neither trained on nor held out: a combination is fitted on them."""
    aside = {p.instruction for p in (*prompts.trained, *prompts.held_out)}
    return write_rows(path, (row for row in _rows(folder / PAIRS) if row["instruction"] not in aside))


def write_tasks(folder: Path, held_out: Iterable[Prompt], prompt_of: Callable[[str], str]) -> Path:
    """The multiple-choice tasks: the repository's own of everyday knowledge, and one made of the held-out prompts:
    which of four beginnings of answers, the other three to prompts of the same category, belongs to the prompt.

    ``prompt_of`` lays an instruction out as the students' template does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in (ROOT / "recipes" / "choice").iterdir():
        shutil.copyfile(file, folder / file.name)
    (folder / "matching.yaml").write_text(_CHOICE_TASK, encoding="utf-8")
    every = list(held_out)
    rows = []
    for prompt in every:
        drawn = random.Random(f"matching {prompt.instruction}")
        others = [p for p in every if p.category == prompt.category and p is not prompt]
        if len(others) < CHOICES - 1:
            others = [p for p in every if p is not prompt]
        choices = [_beginning(p.third) for p in drawn.sample(others, CHOICES - 1)]
        answer = drawn.randrange(CHOICES)
        choices.insert(answer, _beginning(prompt.third))
        rows.append({"prompt": prompt_of(prompt.instruction), "choices": choices, "answer": answer})
    write_rows(folder / "matching.jsonl", rows)
    return folder


def _beginning(answer: str) -> str:
    """Of an answer, whole words."""
    text = " ".join(answer.split())
    return text if len(text) <= _CHOICE_CHARACTERS else text[:_CHOICE_CHARACTERS].rsplit(" ", 1)[0]
