"""Conversations in the store: turns once, samples with their histories, and back to the record."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srtui import datasets
from srtui.datasets.layouts import LAYOUTS
from srtui.errors import UserError
from srtui.pipeline import import_file
from srtui.pipeline.holdout import alike
from srtui.sample import Pair, Turn, digest, history_digest, pair_digest
from srtui.store import Store
from srtui.store.conversations import conversation_ids, histories, place_of, stored_conversation
from srtui.store.listing import Listing, SampleFilter
from srtui.store.sample_view import view_sample
from tests.sql import sql_rows, sql_value

pytestmark = pytest.mark.pure


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s.sqlite")


def share(*turns: str, **more: Any) -> dict[str, Any]:
    """Turns that begin with the user's, each ``who: what`` where it is neither's turn."""
    said = []
    for n, text in enumerate(turns):
        who, _, what = text.rpartition("|")
        said.append({"from": who or ("gpt" if n % 2 else "human"), "value": what})
    return {"conversations": said, **more}


def taken(store: Store, path: Path, records: list[Any], turns: datasets.Turns, name: str = "d") -> Any:
    path.write_text(json.dumps(records), encoding="utf-8")
    return import_file(store, path, name, turns=turns)


FOUR = ("q1", "a1", "q2", "a2", "q3", "a3", "q4", "a4")


@pytest.mark.parametrize(
    ("turns", "samples", "histories"), [("last", 1, [6]), ("each", 4, [0, 2, 4, 6]), ("first", 1, [0])]
)
def test_what_is_taken(
    store: Store, tmp_path: Path, turns: datasets.Turns, samples: int, histories: list[int]
) -> None:
    done = taken(store, tmp_path / "d.json", [share(*FOUR)], turns)
    assert (done.read, done.new, done.bad) == (1, samples, 0)
    assert done.left_out == ({"earlier": 3} if turns == "last" else {})
    pairs = [store.corpus.variants_of(n + 1)[0].pair for n in range(samples)]
    assert [len(p.history) for p in pairs] == histories
    for pair in pairs:
        said = [t.text for t in pair.history] + [pair.instruction, pair.response]
        assert tuple(said) == FOUR[: len(said)]
    assert sql_value(store, "SELECT count(*) FROM turn") == (0 if turns == "first" else 8)
    # The record is stored once, whatever samples there are.
    assert sql_value(store, "SELECT count(*) FROM conversation") == (0 if turns == "first" else 1)
    assert store.verify(deep=True).problems == [] and store.check() == []
    with pytest.raises(UserError, match=f"is in d already, with --turns {turns}"):
        import_file(store, tmp_path / "d.json", "d", turns="first" if turns == "each" else "each")


def test_a_conversations_histories_share_its_turns(store: Store, tmp_path: Path) -> None:
    """Of 2,000 exchanges: tuples of their own would be 32 MB, and 130,000 fit into a record."""
    texts = [f"{'qa'[n % 2]}{n // 2}" for n in range(4000)]
    taken(store, tmp_path / "d.json", [share(*texts)], "each")
    ids = range(1, 2001)
    tracemalloc.start()
    before = histories(store.conn, ids)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6 and kept < 3e6
    assert [len(before[n]) if n in before else 0 for n in ids] == [2 * (n - 1) for n in ids]
    # It is what the tuple was.
    fourth = before[4]
    turns = tuple(Turn("user" if n % 2 == 0 else "assistant", t) for n, t in enumerate(texts[:6]))
    assert fourth == turns and turns == fourth and fourth != turns[:5] and fourth != before[5]
    assert hash(fourth) == hash(turns) and fourth[:1] == turns[:1] and fourth[-1] == turns[-1]
    assert (*fourth,) == turns and fourth[-1:] == turns[-1:] and fourth[-9:] == turns
    with pytest.raises(IndexError):
        fourth[6]
    pair = Pair("q3", "", "a3", fourth)
    assert pair == Pair("q3", "", "a3", turns) and hash(pair) == hash(Pair("q3", "", "a3", turns))
    assert pickle.loads(pickle.dumps(fourth)) == turns  # noqa: S301 - as a cluster sends it
    assert len(pickle.dumps(fourth)) < 500


def test_an_empty_history_has_the_addresses_of_before() -> None:
    pair = Pair("a", "b", "c")
    assert pair == Pair("a", "b", "c", ()) and pair.digest == pair_digest("a", "b", "c")
    assert pair.digest == digest("a", "b", "c")
    turns = (Turn("system", "s"), Turn("user", "u"))
    assert history_digest(turns[1:], history_digest(turns[:1])) == history_digest(turns)
    assert len({Pair("a", "b", "c", turns[:n]).digest for n in range(3)}) == 3
    # Whose turn it is counts, and where one ends.
    assert history_digest((Turn("user", "ab"),)) != history_digest((Turn("system", "ab"),))
    assert history_digest((Turn("user", "a"), Turn("user", "b"))) != history_digest((Turn("user", "ab"),))


DIALECTS = [
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
    {"conversations": [{"from": "prompter", "value": "q"}, {"from": "bard", "value": "a"}], "system_prompt": "s"},
    {"conversations": [{"from": "system", "value": "s"}, {"from": "user", "value": "q"}, {"from": "bing", "value": "a"}]},
    {"conversations": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "model", "content": "a"}]},
    {"messages": [{"role": "developer", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    {"messages": [{"role": "system", "content": [{"type": "text", "text": "s"}]}, {"role": "user", "content": "q"},
                  {"role": "assistant", "content": [{"type": "text", "text": "a"}], "tool_calls": []}], "tools": []},
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 1}]},
]  # fmt: skip


@pytest.mark.parametrize("record", DIALECTS)
def test_dialects(store: Store, tmp_path: Path, record: dict[str, Any]) -> None:
    taken(store, tmp_path / "d.json", [record], "last")
    assert store.corpus.variants_of(1)[0].pair == Pair("q", "", "a", (Turn("system", "s"),))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (share("q", "a", "q2", "function_call|{}", "observation|1", "gpt|a2"), "tool_turn"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]},
                       {"role": "tool", "content": "1", "tool_call_id": "1"}, {"role": "assistant", "content": "a"}]}, "tool_turn"),
        (share("q", "a", tools='[{"name": "f"}]'), "tool_turn"),
        (share("q", "narrator|a"), "unknown_role"),
        (share("gpt|a"), "no_turn_pair"),
        (share("q"), "no_turn_pair"),
        (share("q", "a\x00"), "nul_byte"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": 3}]}, "wrong_type"),
    ],
)  # fmt: skip
def test_what_is_refused_says_why(store: Store, tmp_path: Path, record: dict[str, Any], reason: str) -> None:
    first = (
        {next(iter(record)): [*share("q", "a")["conversations"]]}
        if "conversations" in record
        else DIALECTS[6]
    )
    done = taken(store, tmp_path / "d.json", [first, record], "each")
    assert (done.new, done.bad) == (1, 1)
    assert [r.reason for r in store.imports.bad_rows(done.dataset_id)] == [reason]


def test_what_is_left_out_is_counted(store: Store, tmp_path: Path) -> None:
    records = [
        share("gpt|Welcome!", "human|q1", "gpt|a1", "human|", "gpt|a2", "human|q3", "human|q4", "gpt|a3", "human|bye"),
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0},
                      {"role": "user", "content": "q2"}, {"role": "assistant", "content": "a2"}]},
    ]  # fmt: skip
    done = taken(store, tmp_path / "a.json", records[:1], "each", "a")
    assert done.left_out == {"unanswered": 1, "unasked": 1, "blank": 1, "joined": 1}
    assert [store.corpus.variants_of(n)[0].pair.texts for n in (1, 2)] == [
        ("q1", "", "a1"),
        ("q3\n\nq4", "", "a3"),
    ]
    done = taken(store, tmp_path / "b.json", records[1:], "each", "b")
    assert (done.new, done.left_out) == (1, {"weight": 1})
    assert len(store.corpus.variants_of(3)[0].pair.history) == 2


def test_what_two_conversations_begin_with_is_one_sample(store: Store, tmp_path: Path) -> None:
    done = taken(
        store,
        tmp_path / "d.json",
        [share(*FOUR[:4]), share(*FOUR), share(*FOUR[:4]), share("x", *FOUR[1:4])],
        "each",
    )
    # The third is a duplicate; the second shares two exchanges; "q2" after another beginning is another sample.
    assert (done.new, done.duplicate) == (2 + 2 + 2, 4)
    again = sql_rows(store, "SELECT conversation_id, sample_id FROM exchange_again")
    assert [tuple(r) for r in again] == [(5, 1), (5, 2)]
    assert sql_value(store, "SELECT count(*) FROM conversation") == 3
    assert sql_value(store, "SELECT count(*) FROM turn") == 4 + 8 + 4
    # Held-out samples: all of a conversation on one side.
    groups = alike(store.corpus.questions(done.dataset_id), conversation_ids(store.conn, done.dataset_id))
    assert len({groups[n] for n in (1, 2)}) == 1 and groups[1] != groups[5]


_TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
).filter(str.strip)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    turns=st.lists(st.tuples(st.sampled_from(["human", "gpt", "system"]), _TEXT), min_size=2, max_size=9),
    format=st.sampled_from(["sharegpt", "messages"]),
    new=_TEXT,
)
def test_unchanged_turns_come_back_byte_for_byte(turns: list[tuple[str, str]], format: str, new: str) -> None:
    record = {
        "a": {"b": [1, 2.5, None, "é"]},
        "conversations": [{"from": r, "value": t, "n": n} for n, (r, t) in enumerate(turns)],
    }
    converse, put_back = LAYOUTS["sharegpt"].converse, datasets.put_back
    try:
        found = converse(record, "each")  # type: ignore[misc]
    except Exception as error:
        assert "no_turn_pair" in str(error)
        return
    text = json.dumps(record)
    same = put_back("sharegpt", "sharegpt", text, found.turns, found.places, [])
    last, size = found.places[-1]
    assert json.loads(same.text) == {**record, "conversations": record["conversations"][: last + size]}
    assert same.text == text or last + size < len(turns)
    exchange = found.exchanges[-1]
    rewritten = [datasets.Rewritten(exchange.answer, exchange.pair._replace(response=new), True)]
    made = json.loads(put_back(format, "sharegpt", text, found.turns, found.places, rewritten).text)
    said = [
        turn.get("value", turn.get("content"))
        for turn in made["conversations" if format == "sharegpt" else "messages"]
    ]
    assert made["a"] == record["a"]
    wanted = [t.text for t in found.turns]
    wanted[exchange.answer] = new
    if format == "messages" or all(n == 1 for _, n in found.places):
        assert said == wanted
    else:
        assert "\n\n".join(said).replace("\n\n", "") == "".join(wanted).replace("\n\n", "")


def test_a_turn_is_found_with_the_samples_that_it_is_the_history_of(store: Store, tmp_path: Path) -> None:
    taken(
        store,
        tmp_path / "d.json",
        [share("zebra here", "a1", "q2", "a2", "q3", "a3"), share("other", "a", "b", "c")],
        "each",
    )
    while store.marks.index_texts():
        pass
    listing = Listing(store.conn)
    assert listing.unindexed() == 0
    for words, samples in (("zebra", [1, 2, 3]), ("a2", [2, 3]), ("other", [4, 5]), ("nothing", [])):
        assert listing.lay_out(SampleFilter(text=words)) == len(samples)
        assert [listing.sample_at(n) for n in range(len(samples))] == samples
    view = view_sample(store.conn, None, 3)
    assert view is not None and [t.text for t in view.history] == ["zebra here", "a1", "q2", "a2"]
    assert (
        view.place == place_of(store.conn, 3) and view.place is not None and view.place[1:] == (6, 6, False)
    )
    assert stored_conversation(store.conn, 1).turns[0] == Turn("user", "zebra here")


def test_a_damaged_turn_is_found(store: Store, tmp_path: Path) -> None:
    taken(store, tmp_path / "d.json", [share(*FOUR)], "each")
    with store.transaction():
        store.conn.execute("UPDATE turn SET text = 'q1!' WHERE id = 1")
    problems = store.verify(deep=True).problems
    assert problems == [f"sample {n}: its history is not the one that was imported" for n in (2, 3, 4)]


def test_rewrites_of_a_conversation_keep_its_history(store: Store, tmp_path: Path) -> None:
    taken(store, tmp_path / "d.json", [share(*FOUR)], "last")
    pair = Pair("q4", "", "better")
    made, new = store.corpus.add_variant(1, "manual", "person", 1, None, pair)
    assert new and store.corpus.add_variant(1, "manual", "person", 1, None, pair) == (made, False)
    assert len(store.corpus.variants([made])[made].pair.history) == 6
    assert store.verify(deep=True).problems == []


def test_what_follows_an_exchange_elsewhere_follows_it(store: Store, tmp_path: Path) -> None:
    """The same sample ends one conversation and begins another: what refers to its instruction is still there."""
    taken(store, tmp_path / "d.json", [share(*FOUR[:2]), share(*FOUR[:4])], "each")
    assert [tuple(r) for r in sql_rows(store, "SELECT sample_id, followed FROM exchange")] == [(1, 1), (3, 0)]


@pytest.mark.parametrize("match", ["position", "id", "instruction"])
def test_rewrites_from_elsewhere_are_of_no_sample_that_turns_came_before(
    store: Store, tmp_path: Path, match: str
) -> None:
    records = [
        share("tell me of a", "a", "go on", "more of a", id="a"),
        share("tell me of b", "b", "go on", "more of b", id="b"),
        share("system|Be brief.", "human|tell me of c", "gpt|c", id="c"),
    ]
    taken(store, tmp_path / "d.json", records, "last")
    rewrites = [
        {"id": "a", "instruction": "tell me of a", "output": "A"},
        {"id": "b", "instruction": "go on", "output": "B"},
        {"id": "c", "instruction": "tell me of c", "output": "C"},
    ]
    (tmp_path / "r.json").write_text(json.dumps(rewrites), encoding="utf-8")
    done = import_file(store, tmp_path / "r.json", "d", as_variant="response_reflected", match=match)
    assert (done.new, done.unmatched) == (1, 2)
    (stored,) = sql_rows(store, "SELECT sample_id, response FROM variant WHERE kind = 'response_reflected'")
    assert tuple(stored) == (3, "C")


def test_who_opens_with_the_same_question_stands_on_one_side(store: Store, tmp_path: Path) -> None:
    """As flat samples do: a conversation of one exchange is held out together with its other spellings."""
    records = [
        share("Name a prime.", "2"),
        share("system|Be brief.", "human|name a PRIME", "gpt|3"),
        share("Name a prime!", "5", "Why?", "It is."),
        share("Why?", "Because."),
        share("Else", "1", "Why?", "It is."),
    ]
    done = taken(store, tmp_path / "d.json", records, "each")
    groups = alike(store.corpus.questions(done.dataset_id), conversation_ids(store.conn, done.dataset_id))
    assert len({groups[n] for n in (1, 2, 3, 4)}) == 1
    assert 5 not in groups and groups[6] == groups[7] != groups[1]


def test_a_record_goes_out_with_whatever_json_it_came_with(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "d.json"
    turns = '"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a\\u00e9"}]'
    source.write_text(f'[{{"big":123456789012345678901234567890,"half":"\\ud800","n":1.0,{turns}}}]')
    (row,) = datasets.read(source, turns="last").conversations()
    assert isinstance(row, datasets.ConversationRow)
    found = row.conversation
    record = datasets.put_back("sharegpt", row.layout, row.record, found.turns, found.places, [])
    out = tmp_path / "out.json"
    assert datasets.write([record], out, "sharegpt") == 1
    assert json.loads(out.read_bytes()) == json.loads(source.read_bytes())


def test_a_turn_with_both_spellings_and_one_of_them_null() -> None:
    entries = [
        {"from": None, "role": role, "value": None, "content": text}
        for role, text in (("user", "q"), ("assistant", "a"))
    ]
    found = LAYOUTS["messages"].converse({"messages": entries}, "last")  # type: ignore[misc]
    assert found.turns == (Turn("user", "q"), Turn("assistant", "a"))
