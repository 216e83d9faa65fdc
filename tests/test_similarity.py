"""Near-duplicates among vectors: the same ones as by comparing all with all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from srtui.similarity import (
    Alike,
    Screen,
    alike_to_earlier,
    cuts_for,
    mean_of,
    sample_step,
    screen_for,
    units,
)


def drawn(seed: int, points: int, width: int, copies: float, decay: float) -> NDArray[np.float16]:
    """Vectors with a spectrum that falls by ``decay``, and copies of some of them with a little noise."""
    random = np.random.default_rng(seed)
    scale = decay ** np.arange(width)
    vectors = random.normal(size=(points, width)) * scale + 3
    for n in np.flatnonzero(random.random(points) < copies):
        of = int(random.integers(0, points))
        vectors[n] = vectors[of] + random.normal(size=width) * scale * random.choice([0.05, 0.2, 0.4])
    return vectors.astype(np.float16)


def by_all(vectors: NDArray[np.float16], threshold: float) -> tuple[list[int], list[Alike]]:
    """The plain way, in double precision: (positions that stay, what goes)."""
    centred = vectors.astype(float) - vectors.astype(float).mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    directions = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 1e-6)
    cosines = directions @ directions.T
    kept: list[int] = []
    gone = []
    for n in range(len(vectors)):
        best = max(((float(cosines[n, k]), k) for k in kept), default=(0.0, -1))
        if best[0] >= threshold:
            gone.append(Alike(n, best[1], best[0]))
        else:
            kept.append(n)
    return kept, gone


def by_screen(vectors: NDArray[np.float16], threshold: float, block: int, few: int = 0) -> list[Alike]:
    blocks = [vectors[n : n + block] for n in range(0, len(vectors), block)]
    mean = mean_of(blocks)
    screen = screen_for(vectors[:: sample_step(len(vectors))], mean, threshold)
    if few:
        cuts = cuts_for(units(vectors, mean) @ screen.axes[:, :few])
        screen = Screen(mean, screen.axes[:, : few * 2], few, cuts)
    return list(alike_to_earlier(blocks, lambda at: vectors[list(at)], screen, threshold))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 300),
    st.sampled_from([3, 24, 80]),
    st.sampled_from([0.6, 0.9, 0.95, 1.0]),
    st.sampled_from([1.0, 0.97, 0.7]),
    st.integers(1, 130),
)
def test_what_goes_and_what_it_is_alike_to_are_those_of_all_pairs(
    seed: int, points: int, width: int, threshold: float, decay: float, block: int
) -> None:
    vectors = drawn(seed, points, width, 0.3, decay)
    _, plain = by_all(vectors, threshold)
    found = by_screen(vectors, threshold, block)
    # Rounding decides where a cosine is the threshold itself.
    clear = {one.position for one in plain if abs(one.cosine - threshold) > 1e-5}
    if threshold < 1 and len(clear) == len(plain):
        assert [one.position for one in found] == [one.position for one in plain]
        assert [one.cosine for one in found] == pytest.approx([one.cosine for one in plain], abs=1e-5)
    assert {one.of for one in found}.isdisjoint(one.position for one in found)


def test_a_screen_of_few_axes_hides_no_pair_across_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and columns smaller than the whole, and a screen that leaves much to be compared at full width."""
    monkeypatch.setattr("srtui.similarity._BLOCK", 64)
    monkeypatch.setattr("srtui.similarity._COLUMNS", 96)
    vectors = drawn(3, 1500, 48, 0.4, 0.95)
    _, plain = by_all(vectors, 0.9)
    assert len(plain) > 200
    for few in (1, 8, 48):
        found = by_screen(vectors, 0.9, 500, few)
        assert [one.position for one in found] == [one.position for one in plain]
        assert [one.of for one in found] == [one.of for one in plain]


def test_a_tree_divides_its_points_evenly_and_knows_each_again() -> None:
    low = np.random.default_rng(2).normal(size=(2048, 5)).astype(np.float32)
    cuts = cuts_for(low)
    counts = np.bincount(cuts.leaves_of(low), minlength=2**cuts.levels)
    assert len(counts) == 2**cuts.levels > 32
    assert counts.min() >= 8
    assert cuts_for(low[:5]).levels == 0
    alike = np.ones((500, 3), dtype=np.float32)
    assert len(set(cuts_for(alike).leaves_of(alike).tolist())) == 1


def test_many_copies_of_one_are_all_of_the_first() -> None:
    """A crowd that is alike to itself costs each of its members one comparison, and not all with all."""
    vectors = np.concatenate([np.ones((3000, 8)), np.eye(8)]).astype(np.float16)
    vectors[:3000, 0] += np.float16(1)
    asked: list[int] = []

    def at(positions: object) -> NDArray[np.float16]:
        asked.extend(positions)  # type: ignore[call-overload]
        return vectors[list(positions)]  # type: ignore[call-overload]

    screen = screen_for(vectors, mean_of([vectors]), 0.99)
    found = list(alike_to_earlier([vectors], at, screen, 0.99))
    assert [one.position for one in found] == list(range(1, 3000))
    assert {one.of for one in found} == {0}
    assert len(asked) < 100
    assert len(list(alike_to_earlier([vectors], at, screen, 1.0))) == 2999  # copies are alike at 1, too


def test_a_screen_takes_few_axes_where_few_say_enough() -> None:
    steep, flat = drawn(1, 3000, 300, 0.1, 0.9), drawn(1, 3000, 300, 0.1, 1.0)
    first, second = (screen_for(v, mean_of([v]), 0.95) for v in (steep, flat))
    assert first.few < second.few <= 128
    assert first.axes.shape == (300, first.few * 4)


def test_where_all_are_one_vector_all_but_the_first_go() -> None:
    """They are the mean itself, which has no direction; beside another they have one, and it is the same."""
    same = np.full((2500, 8), 3, dtype=np.float16)
    for vectors in (same, np.concatenate([np.eye(1, 8, dtype=np.float16), same])):
        mean = mean_of([vectors])
        found = list(
            alike_to_earlier(
                [vectors[:1500], vectors[1500:]],
                lambda at, of=vectors: of[list(at)],  # type: ignore[misc]
                screen_for(vectors, mean, 0.95),
                0.95,
            )
        )
        assert [one.position for one in found] == list(range(len(vectors) - 2499, len(vectors)))
        assert {one.of for one in found} == {len(vectors) - 2500}


def test_nothing_and_one() -> None:
    assert mean_of([]).shape == (0,)
    one = np.ones((1, 5), dtype=np.float16)
    assert by_screen(one, 0.9, 10) == []
    same = np.ones((4, 5), dtype=np.float16)  # all are the mean: no direction, and one vector all the same
    assert by_screen(same, 0.9, 10) == [Alike(n, 0, 1.0) for n in (1, 2, 3)]
