"""Teachers and judges whose memory cannot be cut back: a Mamba, and a hybrid of convolutions and attention."""

from __future__ import annotations

from pathlib import Path

import pytest

from srtui.llama import Generation, Message, Request, Sampler, Segment
from srtui.llama.batching import LlamaTeacher
from srtui.llama.losses import LlamaLosses
from srtui.llama.sequence import AnswerSequence
from tests.llama.tiny_gguf import write_tiny

pytestmark = pytest.mark.model

SYSTEM = Message("system", "You improve the data that assistants are trained on. " * 8)
GREEDY = Sampler(temperature=0.0, repeat_penalty=1.0)
TOPICS = ["rain", "bread", "the tides at sea", "a bicycle with two wheels", "the moon", "bees"]


@pytest.fixture(scope="module", params=["mamba", "lfm2"])
def model(
    request: pytest.FixtureRequest, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("recurrent")
    return write_tiny(folder / f"{request.param}.gguf", teacher_file, request.param)


def guided(topic: str, *stops: str, n: int = 1) -> Request:
    segments = (
        Segment("Criticism:\n", 24, stops),
        Segment("\n\n[New Instruction]\n", 24, stops),
        Segment("\n[End]\n\n[New Answer]\n", 24, stops),
    )
    return Request(
        topic, (SYSTEM, Message("user", f"Write about {topic}. " * len(topic))), segments, 1, GREEDY, n
    )


def open_tiny(model: Path, slots: int) -> LlamaTeacher:
    """Prompts are longer than its batches: some sequences write while others are still being read."""
    return LlamaTeacher(model, name="tiny", sha256="", slots=slots, threads=1, batch_tokens=64)


def written(model: Path, slots: int, *requests: Request) -> dict[tuple[object, int], Generation]:
    teacher = open_tiny(model, slots)
    teacher.submit(requests)
    found = {(g.key, g.candidate): g for g in teacher.run()}
    teacher.close()
    return found


def test_beside_others_as_alone(model: Path) -> None:
    """Guided, with refilled slots, and stops that cut tokens off again. What is kept is what was written."""
    first = written(model, 1, guided(TOPICS[0]))[TOPICS[0], 0]
    # Texts of random weights hold no marker, so the stop is a part of what this one writes.
    stop = first.written[1].text[10:16]
    requests = [guided(t, stop) for t in TOPICS]
    together = written(model, 4, *requests)
    alone = {key: g for r in requests for key, g in written(model, 1, r).items()}
    assert {k: g.text for k, g in together.items()} == {k: g.text for k, g in alone.items()}
    assert together[TOPICS[0], 0].written[1].finish == f"stop:{stop}"
    assert together[TOPICS[0], 0].written[1].text == first.written[1].text[:10]
    assert len({g.text for g in together.values()}) == len(TOPICS)


def test_after_a_cut_the_state_is_that_of_what_is_kept(model: Path) -> None:
    """The same tokens, given to another teacher as a prompt, are continued in the same way."""
    first = written(model, 1, guided(TOPICS[0]))[TOPICS[0], 0].written[0].text
    segments = (Segment("Criticism:\n", 24, (first[8:14],)), Segment("\n\n[Better Answer]\n", 24))
    asked = Request("cut", guided(TOPICS[0]).messages, segments, 1, GREEDY)
    teacher = open_tiny(model, 2)
    tokens: list[int] = []
    finish = teacher._runner._finish

    def noted(sequence: AnswerSequence) -> Generation:
        tokens[:] = sequence.tokens
        return finish(sequence)

    teacher._runner._finish = noted  # type: ignore[method-assign]
    teacher.submit([asked])
    (cut,) = teacher.run()
    assert cut.written[0].text == first[: first.index(first[8:14])]
    count = cut.written[1].tokens
    teacher._render = lambda request: ("", tokens[:-count])  # type: ignore[method-assign]
    teacher.submit([Request("given", asked.messages, (Segment("", 24),), 1, GREEDY)])
    (given,) = teacher.run()
    assert cut.written[1].text == given.written[0].text
    teacher.close()


def test_candidates(model: Path) -> None:
    asked = guided("rain", n=3)
    found = written(model, 4, asked)
    assert sorted(candidate for _, candidate in found) == [0, 1, 2]
    assert len({g.text for g in found.values()}) == 1  # greedy


def test_losses_of_sequences_beside_each_other(model: Path) -> None:
    """A GGUF student: shared beginnings are copied whole, never cut."""
    losses = LlamaLosses(model)
    shared = losses.tokenize("The answer that an assistant gave, word by word. " * 6)
    tails = [losses.tokenize(t) for t in ("It rains.", "Bread is baked in an oven, slowly.", "No.")]
    asked = [([*shared, *tail], len(tail), len(shared) - 1) for tail in tails]
    together = {
        n: nll for group, nlls, _ in losses.losses(asked, 4096) for n, nll in zip(group, nlls, strict=True)
    }
    for n, (ids, target, _) in enumerate(asked):
        ((_, alone, _),) = list(losses.losses([(ids, target, 0)], 4096))
        assert together[n] == pytest.approx(alone[0], abs=1e-3 * target)
    losses.close()


def test_a_judge_s_options(model: Path) -> None:
    """A judge: its trunk and stems are copied where they end."""
    losses = LlamaLosses(model)
    messages = (SYSTEM, Message("user", "How good is this answer?"))
    options = [f"{n}/10" for n in range(1, 11)]
    both = losses.of_options(messages, [("Answer 1: ", options), ("Answer 2: ", options)])
    assert both is not None
    for lead, row in zip(("Answer 1: ", "Answer 2: "), both, strict=True):
        alone = [losses.of_options(messages, [(lead, [o, options[0]])]) for o in options[1:]]
        assert all(found is not None for found in alone)
        differences = [found[0][0] - found[0][1] for found in alone if found is not None]
        assert [x - row[0] for x in row[1:]] == pytest.approx(differences, abs=2e-2)  # a cache of 16 bits
    losses.close()
