"""Which samples are held out, so that none of them is trained on under another spelling.

Two samples are alike where instruction and input are the same but for case, space and punctuation: they
stand on one side together. Reflection may rewrite two samples to the same question, so what is held out
is compared with what was trained on once more when losses are measured.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from srtui.sample import Pair, digest
from srtui.store.corpus import Variant


def question_key(instruction: str, input: str = "") -> int:
    """A 64-bit hash of what is asked, without case, space and punctuation; texts of nothing else keep it."""
    words = unicodedata.normalize("NFKC", f"{instruction}\n{input}").casefold()
    letters = "".join(sign for sign in words if sign.isalnum())
    return int.from_bytes(digest("question", letters or words.strip())[:8], "big", signed=True)


def alike(
    questions: Iterable[tuple[int, str, str]], conversations: Mapping[int, int] | None = None
) -> dict[int, int]:
    """Of (sample id, instruction, input), the key by sample id of those that are not alone with theirs. Samples
    of one of ``conversations`` (its id by sample) are alike, whatever they ask, and like no others: what they ask
    refers to it."""
    ids, keys = [], []
    of = conversations or {}
    for sample_id, instruction, text in questions:
        ids.append(sample_id)
        if sample_id in of:
            keys.append(int.from_bytes(digest("conversation", of[sample_id])[:8], "big", signed=True))
        else:
            keys.append(question_key(instruction, text))
    _, which, count = np.unique(np.array(keys, dtype=np.int64), return_inverse=True, return_counts=True)
    shared = np.flatnonzero(count[which] > 1).tolist()
    return {ids[n]: keys[n] for n in shared}


def hold_out(
    ids: Sequence[int], share: float, order: Callable[[int], bytes], groups: Mapping[int, int]
) -> list[tuple[int, bool]]:
    """(sample id, whether it is held out): ``share`` of the samples, the first by ``order``; ``groups`` are those
    of :func:`alike`. A group that there is no room for is trained on.

    Args:
        ids: all samples.
        share: of them to hold out, from 0 to 1.
        order: a key that sorts them, drawn from the recipe's seed.
        groups: by sample, the group of those that ask the same.
    """
    room = min(round(len(ids) * share), len(ids) - 1) if share else 0
    members: dict[int, list[int]] = {}
    for sample_id, key in groups.items():
        members.setdefault(key, []).append(sample_id)
    chosen: set[int] = set()
    for sample_id in sorted(ids, key=order) if room else ():
        if len(chosen) >= room:
            break
        together = members[groups[sample_id]] if sample_id in groups else [sample_id]
        if sample_id not in chosen and len(chosen) + len(together) <= room:
            chosen.update(together)
    return [(i, i in chosen) for i in ids]


def unseen(held: Sequence[Variant], trained: Collection[int]) -> list[Variant]:
    """Those whose question is none of ``trained`` (keys of :func:`asked`)."""
    return [v for v in held if asked(v.pair) not in trained]


def asked(pair: Pair) -> int:
    """:func:`question_key` of a pair, with the history that its question refers to."""
    if not pair.history:
        return question_key(pair.instruction, pair.input)
    return question_key("\n".join(t.text for t in pair.history), f"{pair.instruction}\n{pair.input}")
