"""`edge-rjepa calibrate ..`: print a board, calibrate a camera or a head, write the report."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from calibration.errors import CalibrationError
from edge_rjepa._version import __version__
from edge_rjepa.cli import options as flags
from edge_rjepa.cli.options import positive
from edge_rjepa.cli.terminal import say

OUTPUT = Path("calibration.json")
WAIT_MS = 2000.0  # for a frame, ..
WAITS = 5  # .. so often in a row, until the camera counts as gone
IDLE_S = 10.0  # of a video without a new view: there is nothing more to come
HOMEWARD_S = 15.0  # the longest way home
LINE_EVERY_S = 5.0  # of guidance, where there is no terminal to change one line on
PREVIEW_EVERY_S = 0.5
# How well a camera is known that was not calibrated: focal share, centre px, k1.
UNCALIBRATED_STD = 0.1, 20.0, 20.0, 0.15

EXAMPLES = """examples:
  edge-rjepa calibrate board -o board.pdf                   print it, and glue it to something flat
  edge-rjepa calibrate camera --source 0                    move the board before the camera
  edge-rjepa calibrate camera --images shots/ --board chessboard --corners 9x6
  edge-rjepa calibrate head --head serial: --source 0       needs no board; any room will do
  edge-rjepa calibrate report calibration.json              write the page again
  edge-rjepa learn --source 0 --head serial: --calibration calibration.json
"""


def add_to(commands: Any) -> None:
    """Add `calibrate` and its actions to the commands; an action may raise CalibrationError."""
    parser = flags.add_command(
        commands, "calibrate", None, "measure a camera's lens and how a head turns it", EXAMPLES
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add_print(actions)
    _add_camera(actions)
    _add_head(actions)
    _add_report(actions)


def _add_print(actions: Any) -> None:
    board = flags.add_command(
        actions, "board", _print_board, "write the board to print, at true size",
        "example:\n  edge-rjepa calibrate board -o board.pdf --paper letter\n",
    )  # fmt: skip
    _add_board(board)
    board.add_argument("-o", "--output", type=Path, default=Path("board.pdf"), help=".pdf or .png")
    board.add_argument("--paper", choices=("a4", "a3", "letter"), default="a4", help="(a4)")


def _add_camera(actions: Any) -> None:
    camera = flags.add_command(
        actions, "camera", _camera, "measure a camera's focal length, centre and distortion",
        "examples:\n  edge-rjepa calibrate camera --source 0 --preview now.jpg\n"
        "  edge-rjepa calibrate camera --images shots/\n",
    )  # fmt: skip
    pictures = camera.add_mutually_exclusive_group(required=True)
    flags.add_source(pictures, "here a camera or a video that shows the board")
    pictures.add_argument("--images", type=Path, metavar="DIR", help="use the pictures in DIR")
    _add_board(camera)
    camera.add_argument(
        "--lens",
        choices=("auto", "pinhole", "fisheye"),
        default="auto",
        help="the model of the lens; auto takes the one that fits better (auto)",
    )
    camera.add_argument(
        "--preview", type=Path, metavar="F.jpg", help="keep writing the newest picture to this file"
    )
    _add_result(camera)


def _add_head(actions: Any) -> None:
    head = flags.add_command(
        actions, "head", _head, "measure how pulses turn the camera: the head moves in its limits",
        "example:\n  edge-rjepa calibrate head --head serial: --source 0\n",
    )  # fmt: skip
    flags.add_head(head, "serial:")
    flags.add_source(head, "here the camera on the head", required=True)
    flags.add_view(head, 60.0)
    head.add_argument("--views", type=int, default=60, metavar="N", help="take N views (60)")
    _add_result(head)


def _add_report(actions: Any) -> None:
    report = flags.add_command(
        actions, "report", _report, "write the page about a calibration",
        "example:\n  edge-rjepa calibrate report calibration.json\n",
    )  # fmt: skip
    report.add_argument(
        "file", type=Path, metavar="calibration.json", help="a file that calibrate wrote"
    )
    report.add_argument("-o", "--output", type=Path, help="the page (beside the file)")


def _add_board(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--board", choices=("charuco", "chessboard"), default="charuco", help="its kind (charuco)"
    )
    parser.add_argument(
        "--corners",
        type=_corners,
        default=(9, 6),
        metavar="9x6",
        help="inner corners, where four squares meet (9x6)",
    )
    parser.add_argument(
        "--square-mm",
        type=positive(float),
        default=25.0,
        metavar="MM",
        help="side of a square, as measured on the print (25)",
    )


def _add_result(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", type=Path, default=OUTPUT, metavar="F",
        help=f"the file; camera and head share one ({OUTPUT})",
    )  # fmt: skip
    flags.add_json(parser)


def _corners(text: str) -> tuple[int, int]:
    columns, rows = text.lower().split("x")
    return int(columns), int(rows)


_corners.__name__ = "number of corners such as 9x6"  # as argparse names it


def _board_of(options: argparse.Namespace) -> Any:
    from calibration.board import Board

    columns, rows = options.corners
    return Board(options.board, columns, rows, 1e-3 * options.square_mm)


# ------------------------------------------------------------------------------------------------
# The board and the camera


def _print_board(options: argparse.Namespace) -> int:
    board = _board_of(options)
    board.write(options.output, options.paper)
    width_mm, height_mm = (1e3 * side for side in board.size_m)
    say(
        f"wrote {options.output}: {board}, {width_mm:.0f} x {height_mm:.0f} mm. Print it at 100 %, "
        "glue it to something flat, measure a square, and give its side as --square-mm"
    )
    return 0


def _camera(options: argparse.Namespace) -> int:
    from calibration import io
    from calibration.camera import calibrate_camera

    _check_output(options.output)
    board = _board_of(options)
    if options.images:
        device, names, sightings, size = _sightings_in_files(options.images, board)
    else:
        device, names, sightings, size = _sightings_live(options, board)
    if board.pattern:
        say(f"the board's markers are {board.pattern}")
    say(f"solving: {len(sightings)} views of {size[0]} x {size[1]} px")
    result = calibrate_camera(board, sightings, size, names, options.lens)
    record = io.CameraRecord(device, io.now(), __version__, result)
    _save(options, record)
    if options.json:
        model = result.model
        figures = {
            "focal_px": [model.focal_x_px, model.focal_y_px],
            "centre_px": list(model.centre_px),
            "field_of_view_deg": math.degrees(model.field_of_view_rad),
            "rms_px": result.rms_px,
            "views": [result.views_used, len(result.views)],
            "lens": result.chosen,
        }
        print(json.dumps(figures))
    return 0


def _sightings_in_files(folder: Path, board):
    from calibration.pictures import sightings_in
    from edge_rjepa.sources.decode import pictures_in

    if not folder.is_dir():
        raise CalibrationError(f"{folder} is no folder: name one with pictures of the board")
    found = sightings_in(pictures_in(folder), board)
    if found.without:
        say(f"the board is not seen in {', '.join(found.without)}")
    return f"pictures in {folder}", found.names, found.sightings, found.size


def _sightings_live(options: argparse.Namespace, board):
    """Views of the board as the guide asks for them, until it has enough or Ctrl-C."""
    from calibration.guide import Guide
    from edge_rjepa.sources import open_source
    from edge_rjepa.sources.devices import name_of

    guide, preview = Guide(board), _Preview(options.preview)
    say("show the board; Ctrl-C ends this and uses the views so far")
    with open_source(options.source) as source, _one_line() as report:
        try:
            new_s = None
            for frame in _frames(source):
                advice = guide.offer(frame.image, frame.t_capture_s)
                views = len(guide.sightings)
                report(f"{100 * advice.progress:3.0f} %  {views} views  {advice.text}", advice.kept)
                preview.show(frame.image, advice)
                if new_s is None or advice.kept:
                    new_s = frame.t_capture_s
                if advice.done or (not source.live and frame.t_capture_s - new_s > IDLE_S):
                    break
        except KeyboardInterrupt:
            say("")
        except CalibrationError as error:  # a camera that is gone does not take its views along
            if not guide.sightings:
                raise
            say(f"{error}; the views so far are used")
        name = name_of(options.source)
    if not guide.done:
        say(f"some views are still missing: {'; '.join(guide.missing())}")
    if not guide.sightings:
        trouble = (
            guide.trouble or "give its kind and its number of inner corners, and light it well"
        )
        raise CalibrationError(f"no {board} was seen: {trouble}")
    return name, None, guide.sightings, guide.size


def _frames(source):
    """Its frames as they come. Raises CalibrationError when none does for long."""
    from edge_rjepa.sources import SourceEnded

    missed = 0
    while missed < WAITS:
        try:
            frame = source.read_next(WAIT_MS)
        except SourceEnded:
            return
        missed = 0 if frame else missed + 1
        if frame:
            yield frame
    raise CalibrationError(f"no picture came for {1e-3 * WAITS * WAIT_MS:.0f} s: check the camera")


class _Preview:
    """What the camera sees, with the corners found and what to do, as a picture file."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._shown_s = path, -math.inf
        self._told = False  # that it cannot be written
        if path is not None and path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            raise CalibrationError(f"preview {path}: end it in .jpg or .png")
        if path is not None:
            _check_can_be_written(path, "--preview")

    def show(self, image, advice) -> None:
        now_s = time.monotonic()
        if self._path is None or now_s - self._shown_s < PREVIEW_EVERY_S:
            return
        import cv2

        from safe_files.errors import in_words
        from safe_files.writing import write_atomic

        self._shown_s, image = now_s, image.copy()
        for x, y in advice.sighting.pixels.round().astype(int).tolist() if advice.sighting else ():
            cv2.circle(image, (x, y), 3, (0, 200, 0), -1, cv2.LINE_AA)
        for colour, thick in (((0, 0, 0), 4), ((255, 255, 255), 1)):
            place = 8, image.shape[0] - 12
            cv2.putText(image, advice.text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, thick,
                        cv2.LINE_AA)  # fmt: skip
        try:
            write_atomic(self._path, cv2.imencode(self._path.suffix, image)[1].tobytes())
        except OSError as error:  # a full disk, say: the views are worth more
            if not self._told:
                say(f"warning: no preview: {in_words(error)}")
            self._told = True


# ------------------------------------------------------------------------------------------------
# The head


def _head(options: argparse.Namespace) -> int:
    from calibration import io
    from calibration.head import CAMERA_STD, LEAST_VIEWS
    from edge_rjepa.sources import reach_rad
    from firmware_bridge import open_head

    _check_output(options.output)
    if reach_rad(options.source) != (math.inf, math.inf):
        raise CalibrationError(f"{options.source} turns with no head: name the live camera on it")
    found = io.load(options.output) if options.output.exists() else io.Calibration()
    if options.views < LEAST_VIEWS:
        raise CalibrationError(f"--views {options.views}: at least {LEAST_VIEWS} are needed")
    lens = found.camera.result.model.resized if found.camera else None
    if not lens:
        say(
            f"{options.output} has no camera: its view is taken to be {options.fov:g} degrees wide "
            "(--fov), and refined by the turns; `calibrate camera` before this is better"
        )
    with open_head(options.head) as head:
        name = head.state().name
        say(f"head: {name} at {head.state().port}; it moves within {_limits(head)}")
        result = _measure_head(head, lens, CAMERA_STD if lens else UNCALIBRATED_STD, options)
    _save(options, io.HeadRecord(name, io.now(), __version__, result))
    if options.json:
        timing = result.timing
        print(json.dumps({
            "delay_s": timing and timing.delay_s,
            "settling_s": timing and timing.settling_s,
            "backlash_deg": [math.degrees(s.backlash_rad) for s in result.model.servos],
            "rms_deg": math.degrees(result.rms_rad),
            "scatter_deg": [math.degrees(s) for s in result.scatter_rad],
        }))  # fmt: skip
    return 0


def _measure_head(
    head: Any, lens: Any, camera_std: tuple[float, ...], options: argparse.Namespace
) -> Any:
    """Turn the head before its camera, and solve for how pulses turn it; it goes home."""
    from calibration.plan import calibrate_head
    from edge_rjepa.sources import open_source
    from edge_rjepa.sources.config import CameraConfig
    from firmware_bridge import HeadError

    config = CameraConfig(field_of_view_rad=math.radians(options.fov))
    with (
        _one_line() as report,
        open_source(options.source, camera=config, mount=head, lens=lens) as source,
    ):
        frames = (_Picture(frame) for frame in _frames(source))
        try:
            return calibrate_head(
                head,
                lambda: next(frames, None),
                _model_of(source.camera),
                camera_std,
                options.views,
                lambda done, what: report(f"{100 * done:3.0f} %  {what}", "view" not in what),
            )
        finally:
            with suppress(HeadError):  # it was sent home; the first error is the one to report
                head.wait(HOMEWARD_S)


class _Picture:
    """A frame as calibrate_head takes it."""

    def __init__(self, frame) -> None:
        self.image, self.t_s = frame.image, frame.t_capture_s


def _model_of(camera):
    """The source's camera as a CameraModel: a stated one is a pinhole without distortion."""
    from calibration.model import CameraModel

    if isinstance(camera, CameraModel):
        return camera
    size_px, (x, y) = (camera.width_px, camera.height_px), camera.centre_px
    distortion = (0.0,) * 5
    return CameraModel.of_parameters(
        "pinhole", size_px, (camera.focal_px, camera.focal_px, x, y, *distortion)
    )


def _limits(head) -> str:
    (pan_low, pan_high), (tilt_low, tilt_high) = head.limits
    return f"{pan_low:g} to {pan_high:g} and {tilt_low:g} to {tilt_high:g} {head.unit}"


# ------------------------------------------------------------------------------------------------
# The result


def _report(options: argparse.Namespace) -> int:
    from calibration import io

    found = io.load(options.file)
    page = options.output or _page_beside(options.file)
    if page.exists() and page.samefile(options.file):
        raise CalibrationError(f"{page} is the calibration itself: name another file for its page")
    print(_write_page(found, page))
    return 0


def _save(options: argparse.Namespace, record: Any) -> None:
    from calibration import io

    io.save(options.output, record)
    for line in record.result.summary_lines():
        say(line)
    page = _write_page(io.load(options.output), _page_beside(options.output))
    say(f"saved in {options.output}; open {page} in a browser")
    say(f"next: edge-rjepa learn --calibration {options.output} ..")


def _page_beside(path: Path) -> Path:
    """Where the page about a calibration goes. Raises CalibrationError if that is the same file."""
    page = path.with_suffix(".html")
    if page == path:
        raise CalibrationError(f"{path}: the page about it has this name: end it in .json")
    return page


def _write_page(found, path: Path) -> Path:
    from calibration.report import page
    from safe_files.errors import printable, why
    from safe_files.writing import write_atomic

    try:
        write_atomic(path, printable(page(found)).encode(), private=False)
    except OSError as error:
        raise CalibrationError(f"cannot write {path}: {why(error)}") from error
    return path


def _check_output(path: Path) -> None:
    """Before an hour is spent: can it be written there, and what is there be kept?"""
    from calibration import io

    _check_can_be_written(path, "-o")
    _page_beside(path)
    if path.exists():
        io.load(path)


def _check_can_be_written(path: Path, flag: str) -> None:
    """Raises CalibrationError where write_atomic would fail in the end, as far as can be told."""
    from safe_files.errors import why
    from safe_files.writing import check_is_file

    if not path.parent.is_dir():
        raise CalibrationError(f"{path.parent} is no folder: make it, or name another {flag}")
    try:
        check_is_file(path)
    except OSError as error:
        raise CalibrationError(f"cannot write {path}: {why(error)}") from error
    # A file is replaced by a new one, which its folder has to take.
    for each in (path.parent, path) if path.exists() else (path.parent,):
        if not os.access(each, os.W_OK):
            raise CalibrationError(f"{each} cannot be written: name another {flag}")


@contextmanager
def _one_line() -> Iterator[Callable[[str, bool], None]]:
    """report(text, important): one line that changes on a terminal; else a line now and then."""
    terminal, said_s, wide, last = sys.stderr.isatty(), -math.inf, 0, ""

    def report(text: str, important: bool) -> None:
        nonlocal said_s, wide, last
        if terminal:
            print(f"\r{text:{wide}}", end="", file=sys.stderr, flush=True)
            wide = max(wide, len(text))
        elif important or (text != last and time.monotonic() - said_s > LINE_EVERY_S):
            said_s, last = time.monotonic(), text
            say(text)

    try:
        yield report
    finally:
        if terminal and wide:
            say("")
