"""The live page: what the robot sees and knows, in a browser. Needs the extra `dashboard`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edge_rjepa.errors import ConfigError
from edge_rjepa.run.run import Run

try:
    from edge_rjepa.views.dashboard.buttons import Buttons
    from edge_rjepa.views.dashboard.server import Dashboard
    from edge_rjepa.views.dashboard.shown import Shown, device_state
except ModuleNotFoundError as error:
    if error.name != "aiohttp":
        raise
    raise ConfigError('the page needs aiohttp: pip install "edge-rjepa[dashboard]"') from error


class Page(NamedTuple):
    """The page of a run that learns: what the learning thread calls."""

    server: Dashboard
    shown: Shown
    buttons: Buttons


@contextmanager
def page_of(run: Run, address: str, token: str | None) -> Iterator[Page]:
    """Serve the page of this run; whoever learns calls progress, event and obey."""
    shown = Shown(lambda: run.learner.parameters()["W_z"])
    buttons = Buttons(_export(run))
    buttons.told = shown.event
    loop = run.loop
    with Dashboard(
        address, run.folder, shown, buttons, lambda: device_state(loop.source, loop.head), token
    ) as server:
        loop.observers.append(shown.observe)
        try:
            yield Page(server, shown, buttons)
        finally:
            loop.observers.remove(shown.observe)
            buttons.close()


def _export(run: Run):
    def export(learner, path: Path) -> None:
        from edge_rjepa.encoder.export import export
        from edge_rjepa.eye.retina import Retina

        export(learner, Retina(run.config.retina), path, gaze=run.config.gaze)

    return export
