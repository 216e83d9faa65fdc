"""Evaluation prompts in the data: looked for on request, and before every training of this workspace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from srtui.datasets.overlap import Kind, PromptIndex
from srtui.evaluation import sources
from srtui.pipeline.holdout import question_key
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.whole_datasets import Contamination


@dataclass(frozen=True)
class FoundPrompt:
    """A sample that has words of an evaluation prompt: how (``question``, ``long`` for thirteen words in a row,
    ``short`` for eight), and which prompt of which file."""

    sample_id: int
    kind: Kind
    source: str
    prompt: str


@dataclass(frozen=True)
class Overlaps:
    """What of ``prompts`` stands in ``texts``; ``found`` has all, the strongest kinds first."""

    prompts: int
    texts: int
    found: list[FoundPrompt]

    @property
    def kinds(self) -> Counter[str]:
        """How many samples, by kind."""
        return Counter(prompt.kind for prompt in self.found)

    @property
    def texts_found(self) -> int:
        """Samples that hold a prompt: the same question, or thirteen words in a row of one."""
        return self.kinds["question"] + self.kinds["long"]

    @property
    def contamination(self) -> Contamination:
        """The same as counts."""
        kinds = self.kinds
        return Contamination(self.prompts, self.texts, kinds["question"], kinds["long"], kinds["short"])


class KnownPrompts:
    """Evaluation prompts, each once, with the file that it is from."""

    def __init__(self) -> None:
        self._index = PromptIndex(question_key)
        self._prompts: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._prompts)

    def add(self, source: str, prompt: str) -> None:
        """A prompt of a file."""
        if prompt.strip() and prompt not in self._prompts:
            self._prompts[prompt] = source
            self._index.add(prompt)

    def search(self, texts: Iterable[tuple[int, Pair]]) -> Overlaps:
        """Which of these texts, by sample id, have words of a prompt."""
        names = list(self._prompts.items())
        overlaps: list[FoundPrompt] = []
        count = 0
        for sample_id, pair in texts:
            count += 1
            questions = [
                f"{pair.instruction}\n{pair.input}",
                *(t.text for t in pair.history if t.role == "user"),
            ]
            overlap = self._index.find(questions, "\n".join([*(t.text for t in pair.history), *pair.texts]))
            if overlap is not None:
                prompt, source = names[overlap.prompt]
                overlaps.append(FoundPrompt(sample_id, overlap.kind, source, prompt))
        order = {"question": 0, "long": 1, "short": 2}
        overlaps.sort(key=lambda overlap: (order[overlap.kind], overlap.sample_id))
        return Overlaps(len(self), count, overlaps)


def known_prompts(store: Store) -> KnownPrompts:
    """Everything that this workspace has asked in an evaluation."""
    prompts = KnownPrompts()
    for source, turns in store.datasets.evaluation_prompts():
        for turn in turns:
            prompts.add(source, turn)
    return prompts


def decontaminate(
    store: Store,
    dataset_ids: Sequence[int],
    files: Sequence[Path],
    on_progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> Overlaps:
    """Look for the prompts of these files, and where none is given for all that this workspace has evaluated with,
    in the originals of these datasets. Raises UserError where a file cannot be read.

    Args:
        store: with the datasets.
        dataset_ids: of the datasets.
        files: of prompts; empty for all that this workspace has evaluated with.
        on_progress: gets the step, and samples done and in all.
    """
    if files:
        prompts = KnownPrompts()
        for file in files:
            for turn in sources.all_turns(file):
                prompts.add(file.name, turn)
    else:
        prompts = known_prompts(store)
    total = sum(store.corpus.size(dataset_id) for dataset_id in dataset_ids)

    def originals() -> Iterable[tuple[int, Pair]]:
        read = 0
        for dataset_id in dataset_ids:
            for sample in store.corpus.original_pairs(dataset_id):
                if read % 2048 == 0:
                    on_progress("read", read, total)
                read += 1
                yield sample

    return prompts.search(originals())
