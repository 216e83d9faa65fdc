"""One sequence's segments, leads, stops, thinking and end, with a vocabulary of characters and no model."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from srtui.llama import Generation, Message, Request, Segment
from srtui.llama.sequence import AnswerSequence, fitted, loop_start, sequences_of
from tests.llama.characters import END, END_OF_THINKING, LETTERS, THINK


def begin(*segments: Segment, prompt: str = "Q", thinking: int = 0, limit: int = 10**6) -> AnswerSequence:
    request = Request("k", (Message("user", "Q"),), segments, 7, thinking_tokens=thinking)
    (sequence,) = sequences_of(
        request, prompt, LETTERS.tokenize(prompt), LETTERS, limit=limit, may_think=bool(thinking)
    )
    sequence.start()
    return sequence


def write(sequence: AnswerSequence, tokens: Iterable[int] | str) -> Generation:
    """Feed what is pending, and then each token, as the engine does. Returns the answer so far."""
    for token in LETTERS.tokenize(tokens) if isinstance(tokens, str) else tokens:
        assert not sequence.finished
        assert sequence.left > 0, "nothing to feed, so no logits to draw from"
        sequence.cached = len(sequence.tokens)
        kept = sequence.append(token)
        assert 0 <= kept <= sequence.cached
        sequence.cached = kept
    return sequence.generation(1.0)


def text_of(sequence: AnswerSequence) -> str:
    return b"".join(LETTERS.spelling(t) for t in sequence.tokens).decode()


def test_a_turn_ends() -> None:
    sequence = begin(Segment("", 20))
    g = write(sequence, [*LETTERS.tokenize("Rain."), END])
    assert sequence.finished
    assert (g.text, g.written[0].finish, g.written[0].tokens, g.new_tokens) == ("Rain.", "end", 5, 6)
    assert (g.key, g.seed, g.candidate, g.prompt, g.prompt_tokens, g.seconds) == ("k", 7, 0, "Q", 1, 1.0)


def test_leads_stand_before_what_is_written() -> None:
    sequence = begin(Segment("A:", 2), Segment("\nB:", 20, ("[End]",)))
    assert text_of(sequence) == "QA:"
    assert sequence.left == 3
    write(sequence, "xy")
    assert text_of(sequence) == "QA:xy\nB:"
    assert sequence.left == 4  # the second letter, and the lead
    g = write(sequence, "zz[End]")
    assert sequence.finished
    assert g.text == "A:xy\nB:zz"
    assert [(w.text, w.finish) for w in g.written] == [("xy", "length"), ("zz", "stop:[End]")]


def test_a_stop_across_tokens_is_cut_off_in_a_token() -> None:
    """What the model continues from is the kept text, tokenized anew where the cut is in a token."""
    sequence = begin(Segment("", 20, ("e s",)), Segment("!", 20))
    write(sequence, [*LETTERS.tokenize("In "), 10])
    assert sequence.cached == 4
    g = write(sequence, "s")
    assert (g.written[0].text, g.written[0].finish) == ("In th", "stop:e s")
    assert text_of(sequence) == "QIn th!"
    assert sequence.cached == 4  # up to the token that was cut


def test_the_first_of_several_stops_counts_as_they_are_listed() -> None:
    g = write(begin(Segment("", 20, ("b", "ab"))), "ab")
    assert g.written[0].finish == "stop:b"
    assert g.written[0].text == "a"


@given(
    st.lists(st.sampled_from([*LETTERS.tokenize("xy"), 10, 13]), max_size=30),
    st.sampled_from(["xy", "S", "e S"]),
)
def test_a_kept_text_has_no_stop(tokens: list[int], stop: str) -> None:
    """However the stop lies over the tokens, it is found with the token that completes it."""
    sequence = begin(Segment("", 1000, (stop,)))
    whole = ""
    for token in tokens:
        if sequence.finished:
            break
        whole += LETTERS.spelling(token).decode()
        g = write(sequence, [token])
        assert sequence.finished == (stop in whole)
    if sequence.finished:
        assert g.text == whole[: whole.index(stop)]


def test_letters_of_several_tokens() -> None:
    """A length that ends inside a character drops the half of it."""
    assert write(begin(Segment("", 2)), [11, 12]).text == "é"
    assert write(begin(Segment("", 1)), [11]).text == ""


def test_an_empty_lead_behind_the_end_feeds_the_last_token_again() -> None:
    sequence = begin(Segment("", 20), Segment("", 20))
    write(sequence, [*LETTERS.tokenize("ab"), END])
    assert text_of(sequence) == "Qab"
    assert (sequence.cached, sequence.left) == (2, 1)
    assert write(sequence, [END]).text == "ab"


def test_a_loop_is_kept_once() -> None:
    sequence = begin(Segment("", 1000), Segment("!", 2))
    while not sequence.written:
        write(sequence, "ab")
    g = write(sequence, [END])
    assert (g.written[0].finish, g.written[0].text) == ("repetition", "ab")
    assert g.text == "ab!"


@pytest.mark.parametrize(("whole", "segments"), [(True, 1), (False, 2)])
def test_what_must_be_whole_ends_the_answer_when_it_is_cut(whole: bool, segments: int) -> None:
    sequence = begin(Segment("", 3, whole=whole), Segment("!", 3))
    write(sequence, "abc")
    assert sequence.finished == (segments == 1)


# -- thinking ---------------------------------------------------------------------------------


def test_thinking_takes_from_its_own_tokens() -> None:
    sequence = begin(Segment("", 3), prompt="Q<think>", thinking=6)
    assert sequence.size == len("Q<think>") + 1 + 3 + 6  # the closing token is planned
    write(sequence, [*LETTERS.tokenize("hm"), END_OF_THINKING])
    g = write(sequence, "abc")
    assert sequence.finished
    assert (g.thinking, g.text, g.written[0].finish) == ("hm", "abc", "length")


def test_thinking_is_closed_where_its_tokens_are_spent() -> None:
    sequence = begin(Segment("", 3), prompt="Q<think>", thinking=4)
    write(sequence, "hmhm")
    assert sequence.tokens[-1] == END_OF_THINKING
    assert sequence.left == 2
    assert write(sequence, "abc").text == "abc"


def test_a_turn_that_ends_in_a_thought_goes_on_behind_it() -> None:
    sequence = begin(Segment("", 3), prompt="Q<think>", thinking=4)
    write(sequence, [*LETTERS.tokenize("h"), END])
    assert not sequence.finished
    assert (sequence.tokens[-1], sequence.left) == (END_OF_THINKING, 1)
    g = write(sequence, [*LETTERS.tokenize("a"), END])
    assert (g.thinking, g.text) == ("h", "a")


def test_a_thought_that_nothing_announced_takes_from_the_segment() -> None:
    sequence = begin(Segment("", 4), Segment("!", 2))
    write(sequence, [THINK, *LETTERS.tokenize("hmm")])
    assert [(w.text, w.finish) for w in sequence.written] == [("", "length")]
    assert END_OF_THINKING in sequence.tokens
    g = write(sequence, "ab")
    assert (g.thinking, g.text) == ("hmm", "!ab")


def test_a_thought_begins_a_segment_or_is_text() -> None:
    g = write(begin(Segment("", 20)), [*LETTERS.tokenize("a"), THINK, *LETTERS.tokenize("b"), END])
    assert (g.thinking, g.text) == ("", "a<think>b")


def test_no_thought_behind_a_lead() -> None:
    sequence = begin(Segment("A:", 20), prompt="Q<think>", thinking=4)
    assert write(sequence, [*LETTERS.tokenize("b"), END]).text == "A:b"


TOKENS = st.lists(
    st.sampled_from([END, THINK, END_OF_THINKING, 10, 11, 12, 13, *LETTERS.tokenize("ab <t")]), max_size=80
)


@given(
    TOKENS,
    st.lists(st.builds(Segment, st.sampled_from(["", "A:"]), st.integers(1, 20), st.sampled_from([(), ("ab",)])), min_size=1, max_size=3),
    st.integers(0, 10),
    st.booleans(),
)  # fmt: skip
def test_no_more_tokens_than_were_planned(
    tokens: list[int], segments: list[Segment], thinking: int, opens: bool
) -> None:
    """Whatever a model writes: the sequence keeps to its size, something is left to feed until it has
    finished, and its text is its leads and what was written."""
    assume(thinking or not opens)
    sequence = begin(*segments, prompt="Q<think>" if opens else "Q", thinking=thinking)
    for token in tokens:
        if sequence.finished:
            break
        g = write(sequence, [token])
        assert len(sequence.tokens) <= sequence.size
    if sequence.finished:
        leads = [s.lead for s in segments[: len(g.written)]]
        assert g.text == "".join(a + w.text for a, w in zip(leads, g.written, strict=True))
        assert len(g.written) == len(segments)
        assert g.new_tokens <= sum(s.max_tokens for s in segments) + thinking + len(segments) * 2


# -- planning ---------------------------------------------------------------------------------


def test_candidates_have_seeds_and_tokens_of_their_own() -> None:
    request = Request("k", (), (Segment("", 5),), 7, candidates=3)
    made = sequences_of(request, "Q", [1], LETTERS, limit=99, may_think=False)
    assert [(s.candidate, s.seed) for s in made] == [(0, 7), (1, 8), (2, 9)]
    for sequence in made:
        sequence.start()
    made[0].tokens.append(5)
    assert made[1].tokens == [1]


def test_a_refusal_has_its_tokens() -> None:
    sequence = begin(Segment("", 1500), prompt="Q" * 1200, limit=2000)
    assert sequence.size > 2000
    g = sequence.refusal(2000)
    assert (g.refused, g.written, g.text, g.new_tokens) == ("too_long", (), "", 0)
    assert g.detail == "1,200 prompt tokens and up to 1,501 more; the context holds 2,000"


@given(
    st.lists(st.builds(Segment, st.just(""), st.integers(1, 50), least_tokens=st.none() | st.integers(1, 60)), min_size=1, max_size=4),
    st.integers(-10, 200),
)  # fmt: skip
def test_segments_share_the_room(segments: list[Segment], there_is: int) -> None:
    room = fitted(segments, there_is)
    for tokens, segment in zip(room, segments, strict=True):
        least = segment.max_tokens if segment.least_tokens is None else segment.least_tokens
        assert min(least, segment.max_tokens) <= tokens <= segment.max_tokens
    if sum(s.max_tokens for s in segments) <= there_is:
        assert room == [s.max_tokens for s in segments]
    elif sum(room) < there_is:
        raise AssertionError("some room is left, and some segment could take it")


@given(st.lists(st.integers(10, 99), max_size=40), st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_a_loop_is_cut_to_once(start: list[int], loop: list[int]) -> None:
    times = -(-48 // len(loop)) + 4
    cut = loop_start(start + loop * times)
    assert cut is not None
    assert len(start) <= cut <= len(start) + len(loop) + 1


def test_lists_and_tables_are_no_loops() -> None:
    assert loop_start([n % 50 for n in range(60)]) is None
    assert loop_start([1, 2, 3] * 5) is None
