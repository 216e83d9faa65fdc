"""The options that say where a run's models run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from srtui.errors import UserError

if TYPE_CHECKING:
    from srtui.cluster.cluster_place import ClusterPlace
    from srtui.progress import Reporter

Opens = Callable[[Callable[[], bool]], "ClusterPlace"]
"""Opens a place, given what says whether to stop."""
On = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE",
        help="Where models run: ray (a worker for each GPU of this machine), or a Ray cluster as ray://HOST, HOST:PORT, "
        "or a file that holds its address. In this process where it is left out.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, max=10_000, help="With --on: how many; by default one a GPU, without GPUs one a node."
    ),
]
WorkerTimeout = Annotated[
    float,
    typer.Option(min=1, help="With --on: seconds without progress after which a worker is replaced."),
]


def elsewhere_of(on: str | None, workers: int | None, timeout: float) -> Opens | None:
    """What opens the place that ``--on`` names, given what says whether to stop; None for this process. Raises
    UserError where the options do not go together."""
    if on is None:
        if workers is not None:
            raise UserError("--workers goes with --on: say where, as in --on ray.")
        return None
    from srtui.cluster import Limits, parse_place

    address = parse_place(on)

    def opened(should_stop: Callable[[], bool]) -> ClusterPlace:
        from srtui.cluster.cluster_place import ClusterPlace

        return ClusterPlace(address, workers, Limits(silent=timeout), should_stop)

    return opened


@contextmanager
def placed(
    elsewhere: Opens | None, face: Reporter, should_stop: Callable[[], bool]
) -> Iterator[ClusterPlace | None]:
    """The place that ``--on`` names, open while its models work; None for this process. ``face`` hears where it is."""
    if elsewhere is None:
        yield None
        return
    place = elsewhere(should_stop)
    try:
        face.event("info", place.sentence)
        yield place
    finally:
        place.close()
