"""The source and the head of a configuration, opened, with what a calibration knows of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_rjepa.cli.terminal import say
from edge_rjepa.errors import ConfigError, SourceError
from edge_rjepa.eye.config import HeadConfig
from edge_rjepa.eye.head import Head
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.usable_frames import PlacedFrame, PlacedFrames
from edge_rjepa.sources import (
    Frame,
    Source,
    SourceEnded,
    absolute,
    find_kind,
    open_source,
    reach_rad,
    redacted,
)
from edge_rjepa.sources.devices import name_of
from edge_rjepa.sources.kinds import path_of

if TYPE_CHECKING:
    import numpy as np

    from edge_rjepa.views.foxglove import FoxgloveView
    from edge_rjepa.views.ros2 import Mind, Ros2View

WAIT_MS = 200.0  # for a frame, until it is looked whether to stop


@contextmanager
def open_rig(
    config: RunConfig, head_device: str | None = None, once: bool = False
) -> Iterator[tuple[Source, Head | None]]:
    """The source, and the head if there is one of its own; both are closed at the end.

    head_device: where the head is now, if it is no longer where the configuration has it. once: as
    in open_source. Raises SourceError, HeadError or CalibrationError for what cannot be opened, or
    does not fit together.
    """
    device = head_device or config.head.device
    if device and reach_rad(config.source) == (0.0, 0.0):
        raise SourceError(f"no head turns what {redacted(config.source)} shows: leave --head out")
    calibrated, found = _calibration(config)
    with ExitStack() as opened:
        head = None
        if device:
            from firmware_bridge import open_head

            aim = calibrated.head_options(found) if found else {}
            head = opened.enter_context(open_head(device, **aim))
            if found:
                calibrated.check_unit(found, head.unit)
            say(f"head: {head.state().name} at {head.state().port}")
            if (
                head.state().torque_off
            ):  # where it points is not known before it is driven somewhere
                head.home()
        lens = calibrated.lens_of(found, on_head=bool(device)) if found else None
        source = opened.enter_context(
            open_source(config.source, config.seed, config.camera, head, lens, once)
        )
        if found:
            size_px = source.camera.width_px, source.camera.height_px
            name = head and head.state().name
            for warning in calibrated.warnings_of(found, name_of(config.source), size_px, name):
                say(f"warning: {warning}")
        elif source.live:
            degrees = math.degrees(source.camera.field_of_view_rad)
            say(f"no calibration: the camera is taken to be {degrees:.0f} degrees wide (--fov)")
        yield source, head


def with_head(config: RunConfig, device: str | None) -> RunConfig:
    """The configuration with this head, if one is named; and where a scene ends, it stops."""
    head = config.head
    if device is not None:
        head = replace(head, device=device)
    if head.device:
        pan_rad, tilt_rad = reach_rad(config.source)
        head = replace(
            head,
            pan_limit_rad=min(head.pan_limit_rad, pan_rad),
            tilt_limit_rad=min(head.tilt_limit_rad, tilt_rad),
        )
    return replace(config, head=head)


def with_calibration(config: RunConfig, path: Path | None) -> RunConfig:
    """The configuration with this calibration, if one is named, and with the delay it measured."""
    if path is not None and not config.head.device:
        _check_brings_no_camera(config.source, "--calibration")
    named = path or (path_of(config.calibration) if config.calibration else None)
    if named is not None:  # found from any folder, as the source is
        config = replace(config, calibration=str(named.resolve()))
    if config.calibration and config.head.device and not config.head.image_delay_s:
        calibrated, found = _calibration(config)
        head = replace(config.head, image_delay_s=calibrated.image_delay_s(found))
        config = replace(config, head=head)
    return config


def with_view(config: RunConfig, fov_deg: float | None) -> RunConfig:
    """The configuration with a camera this wide, if a width is given."""
    if fov_deg is None:
        return config
    _check_brings_no_camera(config.source, "--fov")
    camera = replace(config.camera, field_of_view_rad=math.radians(fov_deg))
    return replace(config, camera=camera)


def _check_brings_no_camera(source: str, flag: str) -> None:
    """Raises ConfigError where what the flag says of the camera would have no effect."""
    kind = find_kind(source)
    if kind is not None and kind.brings_camera:
        raise ConfigError(f"{redacted(source)} brings its own camera: leave {flag} out")


def _calibration(config: RunConfig) -> tuple:
    """What reads calibrations, and the one that is named; nothing where none is.

    Imported only then: its solvers' libraries take a second to load.
    """
    if not config.calibration:
        return None, None
    from edge_rjepa.optics import calibrated

    return calibrated, calibrated.load(config.calibration)


def named_pictures(source: str) -> Iterator[tuple[str, np.ndarray]] | None:
    """(name, picture) of a folder's pictures, each once and in order; None for any other source.

    What cannot be read is left out, with a warning.
    """
    kind = find_kind(source)
    if kind is None or kind.name != "folder":
        return None
    return _named_pictures(path_of(source))


def _named_pictures(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    from edge_rjepa.sources.decode import pictures_in, read_picture

    for path in pictures_in(folder):
        try:
            yield path.name, read_picture(path)
        except SourceError as error:
            say(f"warning: {error}")


@contextmanager
def foxglove_view(address: str, source: Source, head: Head | None) -> Iterator[FoxgloveView]:
    """The live view of this source, served on the address. Raises ConfigError."""
    from edge_rjepa.views.foxglove import FoxgloveView

    turns = (head or source.head) is not None
    with FoxgloveView(address, source.camera, source.live, turns) as view:
        if view.warning:
            say(f"warning: {view.warning}")
        say(f"foxglove: {view.url}")
        yield view


@contextmanager
def ros2_view(
    doing: str,
    namespace: str,
    source: Source,
    name: str,
    report: Callable[[str], None],
    mind: Callable[[], Mind] | None = None,
) -> Iterator[Ros2View]:
    """What publishes on ROS 2 while this source, of this name, is seen. Raises ConfigError."""
    from edge_rjepa.views.ros2 import FRAME_ID, Ros2View

    frame_id = getattr(source, "frame_id", "") or FRAME_ID
    with Ros2View(doing, namespace, source.camera, report, mind, redacted(name), frame_id) as view:
        say(f"ros2: {view.topics} and /diagnostics")
        yield view


@contextmanager
def open_alone(source: str) -> Iterator[Source]:
    """A camera, a video or a recording, without a head, shown once.

    Raises SourceError for what cannot be opened, or shows another picture all the time.
    """
    kind = find_kind(source)
    if kind is not None and not kind.shows_one_place:
        raise SourceError(
            f"{source} shows another picture all the time: name a camera, a video or a recording"
        )
    with open_rig(RunConfig(source=absolute(source)), once=True) as (opened, _):
        yield opened


def placed_frames(
    placed: PlacedFrames, ended: Callable[[], bool], report_event: Callable[[str], None]
) -> Iterator[PlacedFrame]:
    """Its frames until the source ends, or `ended()`; what happened meanwhile is reported."""
    while not ended():
        try:
            frame = placed.read_next(WAIT_MS)
        except SourceEnded:
            return
        for event in placed.drain_events():
            report_event(event)
        if frame is not None:
            yield frame


def usable_frames(source: Source, ended: Callable[[], bool]) -> Iterator[Frame]:
    """The frames of a source without a head in which there is something to see."""
    for placed in placed_frames(PlacedFrames(source, None, HeadConfig()), ended, say):
        if not placed.why_unusable:
            yield placed.frame
