"""The map of the data: where points are drawn, how the cursor goes, and the screen over a store with embeddings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot

from srtui.pipeline import import_file
from srtui.store import Store
from srtui.tui.app import Dashboard
from srtui.tui.screens import map_screen
from srtui.tui.screens.map_screen import MapScreen
from srtui.tui.screens.sample import SampleScreen
from srtui.tui.screens.samples import SamplesScreen
from srtui.tui.tabs import key_of
from srtui.tui.widgets.scatter import Scatter, Window, beside, cells, whole
from srtui.workspace import Workspace
from tests.tui.driving import dashboard, press, settled, text

OLDER = ("left_square_bracket", "left_square_bracket")
PLACES = st.lists(
    st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=2, max_size=40
)  # a few share a place


@given(PLACES, st.integers(1, 200), st.integers(1, 60))
def test_the_whole_shows_every_point(places: Sequence[tuple[int, int]], width: int, height: int) -> None:
    xs, ys = (np.array(values, dtype=float) for values in zip(*places, strict=True))
    columns, rows = cells(xs, ys, whole(xs, ys), (width, height))
    assert ((columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)).all()
    assert columns[xs.argmax()] == columns.max()
    assert rows[ys.argmax()] == rows.min()  # up is up


@given(PLACES, st.sampled_from([(1, 0), (-1, 0), (0, 1), (0, -1)]))
def test_a_step_goes_where_it_points_as_long_as_there_is_something(
    places: Sequence[tuple[int, int]], step: tuple[int, int]
) -> None:
    columns, rows = (np.array(values) for values in zip(*places, strict=True))
    ahead = (columns - columns[0]) * step[0] + (rows - rows[0]) * step[1]
    to = beside(columns, rows, 0, step)
    assert (to is None) == (not (ahead > 0).any())
    assert to is None or ahead[to] > 0


def test_a_step_takes_what_is_near_and_straight() -> None:
    columns, rows = np.array([0, 3, 2, 9]), np.array([0, 0, 2, 0])
    assert beside(columns, rows, 0, (1, 0)) == 1
    assert beside(columns, rows, 0, (0, 1)) == 2
    assert beside(columns, rows, 3, (-1, 0)) == 1
    assert beside(columns, rows, 0, (-1, 0)) is None


def test_a_zoom_keeps_the_point_where_it_was() -> None:
    window = Window(0, 8, 0, 4)
    nearer = window.around(2, 3, 0.5)
    assert (nearer.right - nearer.left, nearer.high - nearer.low) == (4, 2)
    assert (2 - nearer.left) / 4 == 2 / 8
    assert (3 - nearer.low) / 2 == 3 / 4
    assert window.around(20, 20, 1) == Window(16, 24, 18, 22)  # it was not seen


@pytest.fixture
def embedded(demo: Workspace) -> Workspace:
    """The demo's store with an embedding of every original: three groups, each by itself."""
    random = np.random.default_rng(3)
    centres = random.normal(size=(3, 16)) * 5
    with Store(demo.store_path) as store:
        variants = store.corpus.original_variants(store.runs.sample_ids(1))
        setting = store.scores.setting("made", "made", "nf4", "alpaca", "default", 64)
        store.embeddings.add(
            setting,
            (
                (variant, (centres[n % 3] + random.normal(size=16)).astype(np.float32))
                for n, variant in enumerate(variants.values())
            ),
        )
    return demo


async def opened(pilot: Pilot[None], app: Dashboard) -> Scatter:
    """The map of the run that is done, once it is drawn."""
    await press(pilot, *OLDER, key_of("samples"), "m")
    assert isinstance(app.screen, MapScreen)
    return app.screen.query_one(Scatter)


def test_without_embeddings_it_says_what_makes_them(demo: Workspace) -> None:
    async def go() -> None:
        async with dashboard(demo, (80, 24)) as (app, pilot):
            await press(pilot, *OLDER, key_of("samples"), "m")
            words = " ".join(text(app).split())
            assert "No map yet" in words
            assert "srtui data look --run quickstart --embed" in words
            await press(pilot, "escape")
            assert isinstance(app.screen, SamplesScreen)

    asyncio.run(go())


@pytest.mark.parametrize("size", [(80, 24), (160, 50)])
def test_the_cursor_goes_from_sample_to_sample_and_opens_one(
    embedded: Workspace, size: tuple[int, int]
) -> None:
    async def go() -> None:
        async with dashboard(embedded, size) as (app, pilot):
            scatter = await opened(pilot, app)
            first = scatter.current
            assert f"Sample {first}" in text(app)
            seen = {first}
            for key in ("right", "down", "left", "left", "up", "k", "n"):
                await press(pilot, key)
                seen.add(scatter.current)
                assert f"Sample {scatter.current}  " in text(app)
            assert len(seen) > 3
            assert ("Topics, and the samples of each" in text(app)) == (size[0] >= 110)
            here = scatter.current
            await press(pilot, "enter")
            assert isinstance(app.screen, SampleScreen)
            assert f"Sample {here}  ·" in text(app)
            await press(pilot, "n", "escape")
            assert isinstance(app.screen, MapScreen)
            assert scatter.current == (here or 0) + 1  # it comes back to what was shown last
            await press(pilot, "escape")
            assert isinstance(app.screen, SamplesScreen)

    asyncio.run(go())


def test_signs_say_what_colours_say_and_zooming_shows_less(embedded: Workspace) -> None:
    async def go() -> None:
        async with dashboard(embedded, (120, 36)) as (app, pilot):
            scatter = await opened(pilot, app)

            def signs() -> set[str]:
                return set(scatter.render().plain.replace("\n", "")) - {" "}

            assert signs() <= set("abcdefghijkl")
            assert len(signs()) > 1
            await press(pilot, "c")
            assert signs() == {"●", "×"}
            heading = text(app)
            assert "● " in heading
            assert "not kept" in heading
            count = len(scatter.render().plain.split())
            await press(pilot, "plus", "plus", "plus")
            assert "zoom 8" in text(app)
            assert len(scatter.render().plain.split()) < count
            current = scatter.current
            for _ in range(60):  # to the edge of the window and beyond: it follows
                scatter.action_move(1, 0)
            await settled(pilot)
            assert scatter.current != current
            assert f"Sample {scatter.current}  " in text(app)
            await press(pilot, "minus", "minus", "minus")
            assert "zoom" not in text(app)

    asyncio.run(go())


def test_a_click_goes_to_a_sample_and_a_second_one_opens_it(embedded: Workspace) -> None:
    async def go() -> None:
        async with dashboard(embedded, (120, 36)) as (app, pilot):
            scatter = await opened(pilot, app)
            lines = scatter.render().plain.split("\n")
            row = next(n for n, line in enumerate(lines) if line.strip())
            column = len(lines[row]) - len(lines[row].lstrip())
            offset = (column + scatter.styles.padding.left, row)
            before = scatter.current
            await pilot.click(Scatter, offset=offset)
            await settled(pilot)
            clicked = scatter.current
            assert clicked != before
            await pilot.click(Scatter, offset=offset, times=2)
            await settled(pilot)
            assert isinstance(app.screen, SampleScreen)
            assert f"Sample {clicked}  ·" in text(app)

    asyncio.run(go())


def test_without_a_run_it_names_the_dataset(workspace: Workspace, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    with Store(workspace.store_path) as store:
        for name in ("first", "second"):
            file = tmp_path / f"{name}.json"
            file.write_text(json.dumps([{"instruction": f"{name} {n}", "output": "So."} for n in range(6)]))
            imported = import_file(store, file, name)
        setting = store.scores.setting("made", "made", "nf4", "alpaca", "default", 64)
        ids = store.corpus.original_ids_of(imported.dataset_id, 0, 6)
        store.embeddings.add(setting, [(v, random.normal(size=8).astype(np.float32)) for _, v in ids])

    async def go() -> None:
        async with dashboard(workspace, (80, 24)) as (app, pilot):
            await press(pilot, key_of("samples"), "m")
            assert "second  ·  6 samples  ·  6 in the data" in text(app)

    asyncio.run(go())


def test_of_many_samples_some_are_drawn_and_the_screen_says_so(
    embedded: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_screen, "MOST_SHOWN", 20)

    async def go() -> None:
        async with dashboard(embedded, (120, 36)) as (app, pilot):
            await opened(pilot, app)
            with Store(embedded.store_path, read_only=True) as store:
                samples = store.runs.sample_count(1)
            step = -(-samples // 20)
            ending = {2: "2nd", 3: "3rd"}.get(step, f"{step}th")
            assert f"{-(-samples // step)} of {samples} samples  ·  every {ending}" in text(app)

    asyncio.run(go())
