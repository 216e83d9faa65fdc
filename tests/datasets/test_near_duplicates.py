"""MinHash candidates and exact groups, against comparisons of all with all."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from srtui.datasets.near_duplicates import (
    BandTable,
    DuplicatePair,
    confirmed,
    groups,
    shingles,
    signature,
    similarity,
)

WORDS = [
    "bread",
    "water",
    "light",
    "stone",
    "river",
    "apple",
    "night",
    "green",
    "music",
    "paper",
    "house",
    "seven",
]


def random_text(random: np.random.Generator, words: int) -> str:
    return " ".join(f"{random.choice(WORDS)}{random.integers(1000)}" for _ in range(words))


def changed(random: np.random.Generator, text: str, share: float) -> str:
    """The text with this share of its words exchanged."""
    words = text.split()
    for place in random.choice(len(words), max(1, round(share * len(words))), replace=False):
        words[place] = f"other{random.integers(10_000)}"
    return " ".join(words)


def found_among(texts: list[str], threshold: float) -> list[DuplicatePair]:
    table = BandTable()
    for text in texts:
        table.add(text)
    return confirmed(table.candidates(), lambda places: [texts[n] for n in places], threshold)


def test_case_punctuation_and_space_do_not_count() -> None:
    same = ["Hello, world: it is late!", "hello world it is late", "  Hello -- WORLD, it is\nlate…  "]
    assert {tuple(shingles(text).tolist()) for text in same} == {tuple(shingles(same[1]).tolist())}
    assert similarity(shingles("これはペンです。"), shingles("これはペンです")) == 1
    assert len(shingles("")) == 0
    assert similarity(shingles(""), shingles("")) == 0
    assert similarity(shingles("!?"), shingles("!?")) == 1  # nothing but signs: as they stand


@given(st.text(), st.text())
def test_similarity_is_that_of_sets(a: str, b: str) -> None:
    left, right = set(shingles(a).tolist()), set(shingles(b).tolist())
    expected = len(left & right) / len(left | right) if left and right else 0.0
    assert similarity(shingles(a), shingles(b)) == expected
    assert len(signature(shingles(a))) == len(signature(shingles(b))) == 120


def test_signatures_agree_as_often_as_texts_are_alike() -> None:
    """The share of equal places estimates the Jaccard similarity, without bias, also for short texts."""
    random = np.random.default_rng(1)
    for words in (8, 30, 200):
        errors = []
        for _ in range(150):
            first = random_text(random, words)
            second = changed(random, first, random.uniform(0.02, 0.5))
            a, b = shingles(first), shingles(second)
            errors.append(float(np.mean(signature(a) == signature(b))) - similarity(a, b))
        assert abs(np.mean(errors)) < 0.02, words
        assert np.std(errors) < 0.09, words


def test_what_is_found_is_what_comparing_all_with_all_finds() -> None:
    random = np.random.default_rng(2)
    texts = [random_text(random, 40) for _ in range(120)]
    texts += [changed(random, text, random.uniform(0.0, 0.12)) for text in texts[:60]]
    texts += ["", "   ", texts[0], texts[0]]
    sets = [shingles(text) for text in texts]
    expected = {
        (n, m)
        for n in range(len(texts))
        for m in range(n + 1, len(texts))
        if similarity(sets[n], sets[m]) >= 0.8
    }
    found = found_among(texts, 0.8)
    assert {(p.first, p.second) for p in found} <= expected
    # Not every pair of a group is compared, but groups are the same.
    all_pairs = [DuplicatePair(n, m, 1.0) for n, m in sorted(expected)]
    assert groups(len(texts), found) == groups(len(texts), all_pairs)
    assert len(groups(len(texts), found)) > 20


@settings(max_examples=25)
@given(
    st.lists(
        st.sampled_from(["", "a b", "the same words in all of these", "something else entirely here"]),
        max_size=12,
    )
)
def test_exact_copies_are_always_one_group(texts: list[str]) -> None:
    by_text: dict[str, list[int]] = {}
    for n, text in enumerate(texts):
        if text:
            by_text.setdefault(text, []).append(n)
    expected = sorted(members for members in by_text.values() if len(members) > 1)
    assert sorted(groups(len(texts), found_among(texts, 0.95))) == expected


def test_a_thousand_copies_are_few_pairs() -> None:
    table = BandTable()
    for _ in range(1000):
        table.add("the very same text again and again")
    assert len(table.candidates()) < 2000
