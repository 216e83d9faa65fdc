"""Columns of the store that hold JSON, and hold other JSON than was written there."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from srtui import process_id
from srtui.errors import UserError
from srtui.evaluation.judge_calibration import calibration_result
from srtui.evaluation.known_pairs import KnownPair
from srtui.evaluation.measure_calibration import calibrated
from srtui.evaluation.people import human_result
from srtui.evaluation.results import pairwise_result, turns_result, winrate_result
from srtui.pipeline.prepare import import_file
from srtui.store import Store
from srtui.store.schema import SCRIPTS
from srtui.store.stored import COLUMNS, shape_fault
from srtui.store.views import Views
from srtui.tui.app import Dashboard
from srtui.workspace import Workspace
from tests.attack.ground import Ground, check
from tests.pilot.scripted import RESULT
from tests.tui.scripted_evaluations import add_evaluations

VALUES = ("{}", "[]", "null", '"x"', "7", "[7]", '{"a": {}}', '[[1, "x", null], [2, [], null]]')
FACES = (
    "status", "status quickstart", "scores quickstart", "report quickstart --json",
    "report quickstart --markdown y.md --force", "export quickstart --out x.json --force", "show 1 --raw",
)  # fmt: skip
OF_EVALUATIONS = (*FACES[:1], *FACES[3:5], "eval list", "eval show 1", "eval show 2", "eval show 3")


@pytest.fixture(scope="module")
def evaluated(attacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that has a row in every table with a JSON column: one that is done, and one that is at work."""
    path = tmp_path_factory.mktemp("evaluated") / "srtui.sqlite"
    with Store(Workspace(attacked / "ws").store_path) as store:
        store.backup(path)
    with Store(path) as store:
        add_evaluations(store)
        lease = (process_id.token(), time.time(), json.dumps({"done": 1}))
        store.conn.execute(
            "INSERT INTO evaluation_lease(evaluation_id, pid, host, process_started, acquired_at, process, heartbeat_at, "
            "live) VALUES (4, 1, 'h', 0, 0, ?, ?, ?)",
            lease,
        )
        talk = path.with_name("talk.json")
        turns = [("human", "Name a tree."), ("gpt", "An oak."), ("human", "Another?"), ("gpt", "A yew.")]
        talk.write_text(
            json.dumps([{"conversations": [{"from": who, "value": said} for who, said in turns]}])
        )
        import_file(store, talk)
        store.runs.keep_pilot(1, json.dumps(asdict(RESULT)))
        store.conn.commit()
        pairs = [KnownPair("q", "", ("a", "bb"), 2)]
        measures = {name: [(0.0, 1.0)] for name in ("ifd", "rifd")}
        store.calibrations.add(
            b"c",
            store.runs.get(1).setting_id or 0,
            "pairs.jsonl",
            1,
            calibrated(pairs, measures) | {"skipped": {}, "student": "s"},
        )
    return path


@pytest.fixture
def ground(ground: Ground, evaluated: Path) -> Ground:
    ground.store.unlink()
    with Store(evaluated) as store:
        store.backup(ground.store)
    return ground


def dashboards_questions(path: Path) -> None:
    """What the dashboard asks when it is opened and each of its screens is; UserError is a toast."""
    views = Views(path)
    try:
        for ask in (
            views.runs,
            lambda: [views.live(run) for run in (1, 2, 3)],
            lambda: [views.sample(1, sample) for sample in range(1, 8)],
            lambda: views.training(1),
            lambda: views.seconds_a_sample("smollm2-135m", "smollm2-135m"),
            lambda: [views.evaluations.judged(e.id) for e in views.evaluations.all()],
        ):
            with contextlib.suppress(UserError):
                ask()
    finally:
        views.close()


def test_every_column_of_json_is_known() -> None:
    """Those that the schema says hold JSON; sums are summed anew where they do not read."""
    said: set[tuple[str, str]] = set()
    for script in SCRIPTS.values():
        for table, body in re.findall(r"CREATE TABLE (\w+)\((.*?)\n\)", script, re.DOTALL):
            said |= {(table, column) for column in re.findall(r"^ *(\w+) TEXT.*--.*JSON", body, re.MULTILINE)}
    assert {("run", "recipe"), ("judgement", "probabilities")} <= said
    assert said - COLUMNS.keys() == {("run_sums", "sums")}


def test_what_evaluations_write_is_what_faces_may_read() -> None:
    """Also where nothing was judged; multiple choice is evaluated in tests/evaluation."""
    for kind, result in (
        ("pairwise", pairwise_result([], [], {}, 0, 0.0)), ("winrate", winrate_result([], [], {}, 0, 0.0)),
        ("turns", turns_result([], [], 0)), ("human", human_result([], [], {})),
        ("calibration", calibration_result([], [], {}, 0)),
    ):  # fmt: skip
        row = {"id": 1, "kind": kind, "result": json.dumps(result)}
        assert shape_fault(row, "evaluation", "result") is None, (kind, result)


@pytest.mark.parametrize("column", COLUMNS, ids=".".join)
def test_other_json_than_was_written_is_a_sentence_in_every_face(
    ground: Ground, column: tuple[str, str]
) -> None:
    table, name = column
    with contextlib.closing(sqlite3.connect(ground.store)) as conn:
        assert conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0] > 0
    check(ground.run("db", "check"), 0)
    faces = OF_EVALUATIONS if table in ("answer", "judgement") or table.startswith("evaluation") else FACES
    for value in VALUES:
        ground.sql(f"UPDATE {table} SET {name} = '{value}'")
        outcomes = {face: ground.run(*face.split()) for face in faces}
        for face, outcome in outcomes.items():
            try:
                check(outcome, (0, 2))
            except AssertionError as error:
                raise AssertionError(f"{face}, {table}.{name} = {value}: {error}") from error
        dashboards_questions(ground.store)
        said = ground.run("db", "check")
        sentence = rf"{table} \S+: its {name} is damaged"
        for outcome in outcomes.values():
            if re.search(sentence, outcome.err):  # what a face refuses, db check names
                check(outcome, 2, "srtui db check .* srtui db backup")
                check(said, 2, sentence)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (("run", "recipe"), "{}"), (("run", "teacher"), "7"), (("decision", "compared"), "{}"),
        (("training_run", "result"), "[]"), (("training_run", "plan"), '"x"'), (("lease", "live"), "[]"),
        (("evaluation", "result"), "{}"), (("evaluation", "settings"), "[]"), (("judgement", "probabilities"), "7"),
        (("evaluation_item", "turns"), "{}"), (("generation", "segments"), "[7]"), (("sample", "record"), "{"),
    ],
    ids=str,
)  # fmt: skip
def test_db_check_names_the_rows(ground: Ground, column: tuple[str, str], value: str) -> None:
    table, name = column
    key = COLUMNS[column].key[-1]
    ground.sql(f"UPDATE {table} SET {name} = '{value}' WHERE {key} = (SELECT min({key}) FROM {table})")
    said = ground.run("db", "check")
    check(said, 2, rf"{table} \S+: its {name} is damaged \(it holds .*\)")


@pytest.mark.parametrize("value", ["{}", "[]"])
async def test_the_dashboard_opens_and_says_it(ground: Ground, value: str) -> None:
    ground.sql(f"UPDATE run SET recipe = '{value}' WHERE id = 1")
    app = Dashboard(ground.workspace)
    async with app.run_test(size=(120, 40)) as pilot:
        for _ in range(100):
            await pilot.pause(0.02)
            if app.problems:
                break
        assert "run 1: its recipe is damaged" in app.problems[-1].sentence
