"""The report of a run: what it says, that it hides nothing active, and that it asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srtui import report
from srtui.evaluation.judge_calibration import calibration_result
from srtui.evaluation.results import pairwise_result
from srtui.report.examples import pick
from srtui.report.render import mark_down
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.evaluations import NewEvaluation
from srtui.store.views import Views
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.sql import sql_value
from tests.tui.scripted_conversations import PAIRS, make_conversations
from tests.tui.scripted_store import Script, demo_pairs

HOSTILE = Pair(
    "Say <script>alert(1)</script> & \x1b[31mred\x1b[0m \u202eright to left.",
    '<img src="https://example.org/x.png" onerror="alert(1)">',
    "![a picture](https://example.org/y.png) | a cell |\n\n# not a heading\n<iframe src=//example.org></iframe>",
)
NOTHING_JUDGED = pairwise_result([], [], {}, 0, 0.0)
ESTIMATE = {"value": 0.55, "low": 0.40, "high": 0.69, "n": 40}


class Page(HTMLParser):
    """Everything in a page that a browser might fetch, run or be told."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.policy = ""
        self.styles: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attrs)
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"] or ""
        for key, value in attrs:
            self.handlers += [key] if key.startswith("on") or key == "style" else []
            self.ids += [value or ""] if key == "id" else []
            if key in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                self.addresses.append(value or "")
            self.addresses += re.findall(r"url\(([^)]*)\)", value or "")

    handle_startendtag = handle_starttag

    def handle_data(self, data: str) -> None:
        (self.styles if self.tags and self.tags[-1] == "style" and "{" in data else self.text).append(data)


def read(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    return page


def finished(workspace: Workspace, pairs: list[Pair]) -> tuple[Store, Script]:
    store = Store(workspace.store_path)
    script = Script(workspace, store).begin(pairs)
    script.reflect("instruction").choose("instruction").reflect("response").choose("response").settle()
    return store, script


@pytest.fixture
def facts(workspace: Workspace) -> report.Facts:
    store, script = finished(workspace, [HOSTILE, *demo_pairs()])
    with store:
        script.train().finish()
        made, _ = store.evaluations.prepare(
            NewEvaluation(
                "pairwise", "f", "quickstart", {}, "<b>prompts</b>.jsonl", "00", {},
                contestant_b="smollm2-135m", identity_b={}, run_a_id=script.run_id, judge="<i>judge</i>",
            )
        )  # fmt: skip
        tally = {"win": 14, "tie": 16, "lose": 10, "win_rate": ESTIMATE}
        result = {**NOTHING_JUDGED, **tally, "parse_rate": 0.9, "categories": {"<u>code</u>": tally}}
        store.evaluations.update(made.id, status="done", result=result)
        return report.gather(store, workspace.root, script.run_id, examples=12, seed=3)


def test_it_says_what_was_done_and_what_came_of_it(facts: report.Facts) -> None:
    for text in (" ".join(read(report.html(facts)).text), report.markdown(facts)):
        plain = " ".join(text.replace("\\", "").split())
        for words in (
            "quickstart", "0" * 12, "teacher", "training.lora_rank", "kept for training", "held out", "2.610", "2.480",
            "random ones are drawn from all samples, by seed 3", "0.550 (0.400 to 0.690, n = 40)",
            "Energy: unknown", "neither was shown to be better", "On 8 held-out samples",
        ):  # fmt: skip
            assert words in plain, words
    page = report.html(facts)
    assert page.count("<svg") == 4  # the flow, the scores, the training, one comparison
    assert "<del>" in page
    assert "<ins>" in page


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({}, "the one with the higher IFD was taken; then of an answer and its rewrite the one with the lower r-IFD"),
        ({"response_by": "likelihood"}, "answer and its rewrite the one with the higher likelihood was taken"),
        ({"instruction_by": "original", "response_by": "random"}, "the original stayed; then of an answer and its rewrite one was drawn"),
        ({"response_by": "ifd", "length_control": True}, "the one with the higher IFD for its length was taken"),
    ],
)  # fmt: skip
def test_it_says_by_what_the_run_chose(facts: report.Facts, selection: dict[str, Any], words: str) -> None:
    chose = replace(facts, run=replace(facts.run, recipe=facts.run.recipe | {"selection": selection}))
    for text in (" ".join(read(report.html(chose)).text), report.markdown(chose)):
        assert words in " ".join(text.replace("\\", "").split())


def test_nothing_in_the_data_becomes_markup(facts: report.Facts) -> None:
    assert any(e.sample == 1 for e in facts.examples)
    html, markdown = report.html(facts), report.markdown(facts)
    page = read(html)
    assert not {"script", "img", "iframe", "b", "i", "u", "object", "embed", "link"} & set(page.tags)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    for text in (html, markdown):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)
        assert "␛[31mred" in text.replace("\\", "")
    assert set(re.findall(r"</?(\w+)", markdown)) == {"del", "ins"}
    assert "![a" not in markdown
    assert not re.search(r"^(> )?# not", markdown, re.MULTILINE)


def test_it_asks_for_nothing_beyond_itself(facts: report.Facts) -> None:
    html = report.html(facts)
    page = read(html)
    assert page.addresses, "the pictures point at their own parts"
    assert all(a.startswith("#") and a[1:] in page.ids for a in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    assert page.handlers == []
    (style,) = page.styles
    assert "url(" not in style
    assert "@import" not in style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert page.policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")


def test_the_same_run_gives_the_same_report(facts: report.Facts) -> None:
    assert report.html(facts) == report.html(facts)


def test_a_run_without_samples_and_one_without_training(workspace: Workspace) -> None:
    with Store(workspace.store_path) as store:
        part = Script(workspace, store, "part", 2).begin(demo_pairs()).reflect("instruction", 5)
        empty = store.runs.create("nothing", 1, "r.toml", part.recipe.model_dump_json(), "0", [])
        facts = report.gather(store, workspace.root, empty.id)
        for text in (report.html(facts), report.markdown(facts)):
            assert "The run has no samples; there is nothing to conclude." in text
        facts = report.gather(store, workspace.root, part.run_id)
        for text in (report.html(facts), report.markdown(facts)):
            assert "Nothing was trained in this run." in text
            assert "The run is not done" in text


def test_texts_that_were_cut_short_are_said_to_be(workspace: Workspace) -> None:
    """A run of an older srtui, which kept how the last part ended and no more, and took what it had cut."""
    store, script = finished(workspace, demo_pairs())
    with store:
        said = "\n".join(report.open_questions(report.gather(store, workspace.root, script.run_id)))
        assert "cut short" not in said
        store.conn.execute("UPDATE generation SET segments = NULL")
        store.conn.execute("UPDATE generation SET finish = 'length' WHERE stage = 'response' AND id % 2")
        store.conn.execute("DELETE FROM run_sums")
        facts = report.gather(store, workspace.root, script.run_id)
    ended = facts.summary.endings
    assert ended["cut"] and ended["unknown"]
    for text in (" ".join(read(report.html(facts)).text), report.markdown(facts)):
        plain = " ".join(text.replace("\\", "").split())
        assert f"{ended['cut']:,} of the kept texts were cut short" in plain
        assert (
            f"Of {ended['unknown']:,} of the kept texts it is not known whether they were cut short" in plain
        )


def test_examples_are_the_extremes_and_a_draw(workspace: Workspace) -> None:
    store, script = finished(workspace, demo_pairs())
    views = Views(store.path)
    with store:
        found = pick(store, views, script.run_id, 3, seed=1)
        assert [e.sort for e in found] == ["best"] * 3 + ["worst"] * 3 + ["random"] * 3
        assert len({e.sample for e in found}) == 9
        assert found == pick(store, views, script.run_id, 3, seed=1)
        assert found[6:] != pick(store, views, script.run_id, 3, seed=2)[6:]
        assert all(e.verdict == "kept for training" for e in found[:6])
        everything = pick(store, views, script.run_id, 1000, seed=1)
        assert len(everything) == sql_value(store, "SELECT count(*) FROM run_sample")
    views.close()


def test_it_shows_one_conversation_and_the_figures_of_pairs(workspace: Workspace) -> None:
    make_conversations(workspace)
    with Store(workspace.store_path) as store:
        run = store.runs.named(PAIRS)
        facts = report.gather(store, workspace.root, run.id, examples=2, seed=3)
        (shown,) = [e for e in facts.examples if e.sort == "conversation"]
        history = store.corpus.variants_of(shown.sample)[0].pair.history
        assert len(history) >= 2
    rewards = "reward margin 0.312 (0.104 to 0.521, n = 17); reward accuracy 0.706 (0.469 to 0.867, n = 17)"
    html, markdown = report.html(facts), report.markdown(facts)
    for text in (" ".join(read(html).text), markdown.replace("\n> ", "\n")):
        plain = " ".join(text.replace("\\", "").split())
        assert f"Of pairs that were held out: {rewards}. The reward is beta times" in plain
        assert "trained on 109 pairs (dpo)" in plain and "what its chooser prefers" in plain
        assert "Before it in its conversation, which no rewrite changes" in plain
        said = [" ".join(turn.text.split()) for turn in history]
        places = [plain.index(words) for words in said]
        assert places == sorted(places)
    assert html.count("<details open><summary>Before it in its conversation") == 1
    assert '<td>preference</td><td class="n">17</td><td class="n">0.693</td><td class="n">0.581</td>' in html
    assert "preference: the loss of a pair" in html and "preference: the loss of a pair" in markdown


def test_what_a_judge_is_not_worth_is_said(workspace: Workspace) -> None:
    store, script = finished(workspace, demo_pairs()[:20])
    with store:
        script.train().finish()
        tally = {"win": 2, "tie": 1, "lose": 7, "win_rate": {"value": 0.25, "low": 0.1, "high": 0.4, "n": 10}}
        none, of_none = NOTHING_JUDGED, calibration_result([], [], {}, 0)
        judged = {
            **none,
            **tally,
            "length": {"a": 400.0, "b": 200.0},
            "position": {**none["position"], "first": {"value": 1.2, "low": 0.8, "high": 1.6, "n": 10}},
            "parse": {
                **none["parse"],
                "rate": {"value": 0.2, "low": 0.1, "high": 0.4, "n": 20},
                "mass": 0.01,
            },
        }
        kappa = {"value": 0.02, "low": -0.1, "high": 0.14, "n": 40}
        for kind, judge, result in (
            ("pairwise", "doubtful", judged),
            (
                "calibration",
                "doubtful",
                {**of_none, "judged": 40, "kappa": kappa, "better_than_chance": False},
            ),
            ("pairwise", "unknown", judged),
        ):
            made, _ = store.evaluations.prepare(
                NewEvaluation(
                    kind, f"{kind} {judge}", "quickstart", {}, "p.jsonl", "00", {}, contestant_b="base:quickstart",
                    run_a_id=script.run_id if kind == "pairwise" else None, judge=judge,
                    judge_identity={"sha256": judge},
                )
            )  # fmt: skip
            store.evaluations.update(made.id, status="done", result=result)
        said = "\n".join(report.open_questions(report.gather(store, workspace.root, script.run_id)))
    assert said.count("doubtful is no better than chance on these 40 judgements") == 1
    assert said.count("nobody has compared the judge unknown with known judgements") == 1
    assert "neither was shown to be better" not in said, "an interval below one half shows something"
    for words in (
        "A's answers are 2.0 times as long", "favours the answer shown first, by 1.20 points",
        "only 20% of the judge's texts say a score", "1.0% of its probability",
    ):  # fmt: skip
        assert words in said, words


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_quoted_markdown_holds_no_tag_and_no_link(text: str) -> None:
    quoted = mark_down(text)
    assert "<" not in quoted
    assert not re.search(r"(?<!\\)[\[\]`*_]", re.sub(r"\\\\", "", quoted))


def test_the_command_writes_both_files_and_says_mistakes(workspace: Workspace) -> None:
    store, script = finished(workspace, demo_pairs())
    with store:
        script.train().finish()
    root = workspace.root
    done = srtui(workspace, "report", "quickstart", "--markdown", "r.md", "--out", "r.html")
    assert done.returncode == 0, done.stderr
    assert (root / "r.html").read_text().startswith("<!doctype html>")
    assert (root / "r.md").read_text().startswith("# quickstart")
    as_json = json.loads(srtui(workspace, "report", "quickstart", "--json").stdout)
    assert as_json["open"] and as_json["summary"]["run"] == "quickstart"
    for source in as_json["sources"]:
        assert list(source) == ["file", "sha256", "format", "kind", "rows", "refused"]
    assert srtui(workspace, "report", "quickstart").stdout.startswith("quickstart-report.html")
    wrong = srtui(workspace, "report", "quickstart", "--out", "no/such/folder.html")
    assert wrong.returncode == 2
    assert wrong.stderr == "srtui: no/such/folder.html: name a file in a folder that exists.\n"
    assert sorted(p.name for p in root.glob("*r*.*")) == ["quickstart-report.html", "r.html", "r.md"]


def test_its_help_loads_nothing_that_draws() -> None:
    code = (
        "import sys; from srtui.cli import main\nsys.argv = ['srtui', 'report', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('HEAVY', sorted({'matplotlib', 'statsmodels', 'numpy', 'jinja2'} & set(sys.modules)))"
    )
    assert "HEAVY []" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
