"""The live page: what the robot sees and knows, in a browser. Needs the extra `dashboard`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edge_rjepa.errors import ConfigError
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.run import Run

try:
    from edge_rjepa.views.dashboard.buttons import Buttons
    from edge_rjepa.views.dashboard.kept import KeptRun, KeptWatch
    from edge_rjepa.views.dashboard.learning import LearningRun
    from edge_rjepa.views.dashboard.live import LiveState, device_state
    from edge_rjepa.views.dashboard.server import Dashboard
    from edge_rjepa.views.dashboard.watching import Look, Watching
except ModuleNotFoundError as error:
    if error.name != "aiohttp":
        raise
    raise ConfigError('the page needs aiohttp: pip install "edge-rjepa[dashboard]"') from error

__all__ = [
    "Dashboard",
    "KeptRun",
    "KeptWatch",
    "LearningRun",
    "Look",
    "Page",
    "Watching",
    "page_of",
]


class Page(NamedTuple):
    """The page of a run that learns: whom the learning thread calls."""

    server: Dashboard
    live: LiveState
    buttons: Buttons


@contextmanager
def page_of(
    run: Run,
    address: str,
    token: str | None,
    names: Collection[str] = (),
    taught: Callable[[], dict] = dict,
) -> Iterator[Page]:
    """Serve the page of this run; whoever learns calls on_progress, on_event and obey.

    address, token, names: as in Dashboard. taught: as in LearningRun.
    """
    loop = run.loop
    live = LiveState(
        lambda: run.learner.patch_encoder(),  # a rollback replaces the learner
        lambda: loop.source.camera,
    )
    buttons = Buttons(_export(run), live.on_event)
    subject = LearningRun(
        run.folder, live, buttons, lambda: device_state(loop.source, loop.head), taught
    )
    with Dashboard(address, subject, token, names) as server:
        loop.observers.append(live.observe)
        try:
            yield Page(server, live, buttons)
        finally:
            loop.observers.remove(live.observe)
            buttons.close()


def _export(run: Run) -> Callable[[RJepa, Path], None]:
    def export_encoder(learner: RJepa, path: Path) -> None:
        from edge_rjepa.encoder.export import export
        from edge_rjepa.eye.retina import Retina

        export(learner, Retina(run.config.retina), path, gaze=run.config.gaze)

    return export_encoder
