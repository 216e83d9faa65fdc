"""Which samples are held out, so that none of them is trained on under another spelling.

Two samples are alike where instruction and input are the same but for case, space and punctuation: they
stand on one side together. Reflection may rewrite two samples to the same question, so what is held out
is compared with what was trained on once more when losses are measured.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from heapq import nsmallest

import numpy as np

from srtui.sample import Pair, digest
from srtui.store.corpus import Variant

_NO_LETTERS = re.compile(r"[\W_]+")  # all but what str.isalnum() says yes to
_MORE = 1000
_OTHER_ASCII = bytes(c for c in range(128) if not chr(c).isalnum())


def question_key(instruction: str, input: str = "") -> int:
    """A 64-bit hash of what is asked, without case, space and punctuation; texts of nothing else keep it."""
    words = f"{instruction}\n{input}"
    if words.isascii():  # as below, several times as fast: a million questions are read before a run starts
        words = words.lower()
        letters = words.encode().translate(None, _OTHER_ASCII).decode()
    else:
        words = unicodedata.normalize("NFKC", words).casefold()
        letters = _NO_LETTERS.sub("", words)
    return int.from_bytes(digest("question", letters or words.strip())[:8], "big", signed=True)


def alike(
    questions: Iterable[tuple[int, str, str]], conversations: Mapping[int, tuple[int, bool]] | None = None
) -> dict[int, int]:
    """Of (sample id, instruction, input), the key by sample id of those that are not alone with theirs. Samples
    of one of ``conversations`` (its id by sample, and whether the sample opens it) are alike, whatever they ask, and
    like whatever asks the question that opens it; where that is no sample, like no others: what they ask refers to it.
    """
    ids, keys = array("q"), array("q")
    of = conversations or {}
    opening: dict[int, int] = {}
    for sample_id, instruction, text in questions:
        conversation, opens = of.get(sample_id, (None, True))
        key = question_key(instruction, text) if opens else 0
        if conversation is not None and opens:
            opening[conversation] = key
        ids.append(sample_id)
        keys.append(key)
    for n, sample_id in enumerate(ids) if of else ():
        if sample_id in of and not of[sample_id][1]:
            conversation = of[sample_id][0]
            alone = int.from_bytes(digest("conversation", conversation)[:8], "big", signed=True)
            keys[n] = opening.get(conversation, alone)
    _, group_of, count = np.unique(np.array(keys, dtype=np.int64), return_inverse=True, return_counts=True)
    shared = np.flatnonzero(count[group_of] > 1).tolist()
    return {ids[n]: keys[n] for n in shared}


def hold_out(
    ids: Callable[[], Iterable[int]], share: float, order: Callable[[int], bytes], groups: Mapping[int, int]
) -> set[int]:
    """The sample ids that are held out: ``share`` of the samples, the first by ``order``; ``groups`` are those
    of :func:`alike`. A group that there is no room for is trained on.

    Args:
        ids: all samples, anew at each call; they are read twice, or thrice where many groups found no room.
        share: of them to hold out, from 0 to 1.
        order: a key that sorts them, drawn from the recipe's seed.
        groups: by sample, the group of those that ask the same.
    """
    count = sum(1 for _ in ids())
    room = min(round(count * share), count - 1) if share else 0
    members: dict[int, list[int]] = {}
    for sample_id, key in groups.items():
        members.setdefault(key, []).append(sample_id)
    chosen: set[int] = set()
    for looked_at in (2 * room + _MORE, count):
        chosen.clear()
        for sample_id in nsmallest(looked_at, ids(), key=order) if room > 0 else ():
            if len(chosen) >= room:
                break
            together = members[groups[sample_id]] if sample_id in groups else [sample_id]
            if sample_id not in chosen and len(chosen) + len(together) <= room:
                chosen.update(together)
        if len(chosen) >= room:
            break
    return chosen


def unseen(held: Sequence[Variant], trained: Collection[int]) -> list[Variant]:
    """Those whose question is none of ``trained`` (keys of :func:`asked`)."""
    return [v for v in held if asked(v.pair) not in trained]


def asked(pair: Pair) -> int:
    """:func:`question_key` of a pair, with the history that its question refers to."""
    if not pair.history:
        return question_key(pair.instruction, pair.input)
    return question_key("\n".join(t.text for t in pair.history), f"{pair.instruction}\n{pair.input}")
