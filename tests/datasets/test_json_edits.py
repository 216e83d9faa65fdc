"""Records go out as they came in, byte for byte, but for the values that were replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srtui import datasets
from srtui.datasets.json_edits import JsonEdits
from srtui.datasets.layouts import LAYOUTS
from srtui.sample import Pair

pytestmark = pytest.mark.pure

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
_WAYS: dict[str, Any] = {
    "ensure_ascii": st.booleans(),
    "indent": st.sampled_from([None, 0, 2]),
    "separators": st.sampled_from([(",", ":"), (" ,\t", " : ")]),
}


@settings(max_examples=200, deadline=None)
@given(
    record=st.dictionaries(st.text(max_size=6), _VALUES, max_size=5),
    way=st.fixed_dictionaries(_WAYS),
    key=st.text(max_size=6),
    new=st.text(max_size=12) | st.lists(st.integers(-9, 9), max_size=3),
    before=st.sampled_from(["", " \n"]),
)
def test_what_is_replaced_and_what_is_not(
    record: dict[str, Any], way: dict[str, Any], key: str, new: Any, before: str
) -> None:
    text = before + json.dumps(record, **way)
    edits = JsonEdits(text)
    members = edits.members(edits.start)
    assert {m.key: json.loads(text[m.value.start : m.value.end]) for m in members} == record
    for member, value in zip(members, record.values(), strict=True):
        if isinstance(value, list):
            elements = edits.elements(member.value.start)
            assert [json.loads(text[e.start : e.end]) for e in elements] == value
    assert edits.result == text
    edits.set(edits.start, key, new)
    assert json.loads(edits.result) == {**record, key: new}
    for member in members:
        if member.key != key:
            assert text[member.start : member.value.end] in edits.result


def test_nesting_and_repeated_keys() -> None:
    deep = "[" * 5000 + "]" * 5000
    edits = JsonEdits(f'{{"a":{deep},"b":"x","b":"y"}}')
    last = edits.member(edits.start, "b")
    assert last is not None and edits.string(last) == "y"
    edits.replace(last, "z")
    edits.set(edits.start, "c", [1])
    assert edits.result == f'{{"a":{deep},"b":"x","b":"z","c":[1]}}'
    empty = JsonEdits("{ }")
    empty.set(0, "a", 1)
    assert empty.result == '{ "a":1}'


TURNS = (
    '{"from":"system", "value":"s\\u00e9"}',
    '{"value": "q1 \\/ \\ud83d\\ude00", "n":1.0, "from":"human"}',
    '{"from":"gpt","value":"a1\\u00e9","n":1e5}',
    '{"from" : "human","value":"q2"}',
    '{"from":"gpt" ,\n  "value":"a2","more":{"x":[1,  2]}}',
    '{"from":"human","value":"bye"}',
)
RECORD = (
    '{\n "id": 12345678901234567890123, "half":"\\ud800", "nan": NaN,\n "conversations": [%s], "f":1E-2 }'
)


def conversation(text: str) -> Any:
    return LAYOUTS["sharegpt"].converse(json.loads(text), "each")  # type: ignore[misc]


def put_back(text: str, format: str = "sharegpt", **rewritten: Any) -> str:
    found = conversation(text)
    made = [
        datasets.Rewritten(e.answer, e.pair._replace(response=rewritten.get(f"a{n}", e.pair.response)), n not in rewritten.get("dropped", ()))
        for n, e in enumerate(found.exchanges, 1)
    ]  # fmt: skip
    how = {"samples": rewritten.get("samples"), "weighed": rewritten.get("weighed", False)}
    return datasets.put_back(format, "sharegpt", text, found.turns, found.places, made, **how).text


def test_a_record_is_spelled_as_it_was(tmp_path: Path) -> None:
    """Numbers, escapes, spaces and keys of any kind; a turn behind the last answer alone is gone."""
    text = RECORD % ", ".join(TURNS)
    answered = RECORD % ", ".join(TURNS[:-1])
    assert put_back(text) == answered
    assert put_back(answered) == answered
    changed = put_back(text, a2='new "é"\n')
    assert changed == answered.replace('"a2"', '"new \\"é\\"\\n"')
    assert put_back(text, dropped=(1,)) == answered.replace('"n":1e5', '"n":1e5,"weight":0')
    assert put_back(answered, samples=[3, 4]) == answered[:-1] + ',"samples":[3,4]}'
    # Another layout: the other fields as they were.
    other = put_back(text, "messages", a2="new", samples=[3])
    assert other.startswith(
        '{"id": 12345678901234567890123,"half":"\\ud800","nan": NaN,"f":1E-2,"messages":[{'
    )
    assert other.endswith('"content":"new"}],"samples":[3]}')
    # A record is in one line where records are lines.
    records = [datasets.WholeRecord(put_back(text)), datasets.WholeRecord(changed)]
    for name, between in (("out.json", ",\n"), ("out.jsonl", "\n")):
        assert datasets.write(records, tmp_path / name, "sharegpt") == 2
        written = (tmp_path / name).read_text(encoding="utf-8")
        assert (answered if between == ",\n" else answered.replace("\n", " ")) + between in written
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_a_weight_is_known_from_the_first_record() -> None:
    """Loaders take a file's fields from its first rows, and fail on one that comes later."""
    text = RECORD % ", ".join(TURNS[:-1])
    assert put_back(text, weighed=True) == text.replace('"n":1e5', '"n":1e5,"weight":1')
    assert put_back(text, weighed=True, dropped=(2,)) == put_back(text, dropped=(2,))
    own = text.replace('"n":1e5', '"n":1e5,"weight":1')
    assert put_back(own, weighed=True) == own
    assert put_back(own, dropped=(1,)) == own.replace('"weight":1', '"weight":0')


def test_joined_turns_stay_two_where_they_were_not_rewritten() -> None:
    text = RECORD % ", ".join([*TURNS[1:4], TURNS[4], TURNS[4].replace("a2", "a3")])
    assert put_back(text) == text
    assert put_back(text, a2="new") == RECORD % ", ".join([*TURNS[1:4], TURNS[4].replace("a2", "new")])


def test_a_joined_answer_that_is_rewritten_and_weighed_is_one() -> None:
    """What is cut gets no weight of its own: the two edits would overlap, and their text would be no JSON."""
    text = RECORD % ", ".join([*TURNS[1:3], TURNS[4], *TURNS[3:5]])
    turns = json.loads(put_back(text, weighed=True, a1="new"))["conversations"]
    assert turns[1] == {"from": "gpt", "value": "new", "n": 1e5, "weight": 1}
    assert [turn["value"] for turn in turns[2:]] == ["q2", "a2"]


@pytest.mark.parametrize(
    ("input", "new", "written"),
    [
        ('"in"', ("Do", "in"), '"in"'), ('"in"', ("Do it", ""), '""'), ('"else"', ("Do it", ""), '"else"'),
        ("null", ("Do\nin", ""), "null"), ("[1]", ("Do\nin", ""), "[1]"), ('"else"', ("Do", "x"), '"x"'),
    ],
)  # fmt: skip
def test_an_input_follows_what_was_chosen(input: str, new: tuple[str, str], written: str) -> None:
    """A record's ``input`` that is none of its last user turn is a field like any other."""
    turns = '[{"from":"human","value":"Do\\nin"},{"from":"gpt","value":"a"}]'
    text = f'{{"conversations":{turns},"input":{input}}}'
    found = conversation(text)
    pair = found.exchanges[0].pair._replace(instruction=new[0], input=new[1])
    made = datasets.put_back(
        "sharegpt", "sharegpt", text, found.turns, found.places, [datasets.Rewritten(1, pair, True)]
    )
    assert made.text.endswith(f'"input":{written}}}')
    said = json.loads(made.text)["conversations"][0]["value"]
    assert said == (f"{new[0]}\n{new[1]}" if new[1] else new[0])
    # In the other layout too: read again it is split where the choice is.
    other = datasets.put_back(
        "messages", "sharegpt", text, found.turns, found.places, [datasets.Rewritten(1, pair, True)]
    )
    assert json.loads(other.text)["input"] == json.loads(written)
    converse = LAYOUTS["messages"].converse
    assert converse is not None
    again = converse(json.loads(other.text), "last").exchanges[0].pair
    assert again == pair_read(made.text)


def pair_read(text: str) -> Pair:
    """What is read of a ShareGPT record."""
    pair: Pair = conversation(text).exchanges[0].pair
    return pair
