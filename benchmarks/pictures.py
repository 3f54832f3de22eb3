"""The pictures of README and docs, made anew by the commands they show.

    python -m benchmarks.pictures [--into docs] [--fixations 320000] [NAME ...]

All of them, or those named. Seeds are fixed and learning is counted in fixations, so that what is
learned comes out the same on every machine of a kind; clocks and speeds do not. A picture for which
something is missing is left as it is, with a line that says what.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from benchmarks import gaze
from edge_rjepa.encoder.naming import UNKNOWN
from edge_rjepa.encoder.opener import open_encoder
from edge_rjepa.run.run import Run, load_run
from edge_rjepa.sources import Frame, open_source
from edge_rjepa.sources.scene import CAMERA, skimage_photographs
from edge_rjepa.teach.recogniser import Recogniser
from edge_rjepa.views import overlay
from edge_rjepa.watch.novelty import Watch
from examples.simulated import photographs, view

EDGE_RJEPA = sys.executable, "-m", "edge_rjepa"
FIXATIONS = 320_000  # learned in about a minute
CHESSBOARDS = Path("/usr/share/doc/opencv-doc/examples/data")
PATIENCE_S = 90.0

REPORT_PX = 1400  # wide
SESSION_FRAMES, EVERY, COLUMNS = 6, 60, 3  # shown, and one out of so many
COLOURS = 256  # of a picture of a page
TAUGHT = {"breakfast": "coffee", "the cat": "chelsea", "garage": "motorcycle_left"}
ASKED = "chelsea", "motorcycle_left", "astronaut"  # of the last nothing was taught
WARM_UP_S = 60.0
TILE_PX, GAP_PX = (480, 360), 8

# A page is looked at when this, asked in the browser, is true.
LIVE = (
    "return document.querySelectorAll('#near img').length > 3"
    " && document.querySelectorAll('.curve').length > 3"
    " && +document.getElementById('eye').dataset.count > 20"
)
LOADED = "return document.readyState == 'complete'"


class MissingError(Exception):
    """Something that a picture needs is not there; what to do."""


class Look(NamedTuple):
    """How a browser looks at a page."""

    width_px: int = 1280
    height_px: int | None = None  # the whole page
    scheme: str = "light"
    phone: bool = False


class Workshop:
    """A folder for what is only made to be looked at, and what several pictures share."""

    def __init__(self, folder: Path, fixations: int) -> None:
        self.folder = folder
        self.fixations = fixations

    @cached_property
    def run(self) -> Path:
        """The folder of a run that has learned for a minute."""
        folder = self.folder / "demo"
        self.edge_rjepa("learn", "--out", folder.name, "--fixations", str(self.fixations))
        return folder

    def edge_rjepa(self, *arguments: str) -> None:
        """A command, here: what it draws then tells no path of this machine."""
        command = [*EDGE_RJEPA, *arguments]
        subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL)


def report(workshop: Workshop, path: Path) -> None:
    """What the run left behind."""
    picture = cv2.imread(str(workshop.run / "report.png"))
    size = REPORT_PX, round(REPORT_PX * picture.shape[0] / picture.shape[1])
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def session(workshop: Workshop, path: Path) -> None:
    """Some seconds of the run as it goes on: what it looks at, and what surprises it."""
    glances = []
    kept = load_run(workshop.run)
    with open_source(kept.config.source, kept.config.seed, kept.config.camera) as source:
        run = Run.resume(workshop.run, source, kept)
        run.loop.observers.append(glances.append)
        last = run.frames + SESSION_FRAMES * EVERY
        run.learn(lambda run: run.frames < last, lambda progress: None)
    shown = glances[EVERY - 1 :: EVERY]
    tiles = [overlay.draw(each.frame.image, each.pixels, each.surprise) for each in shown]
    tiles = [cv2.resize(tile, TILE_PX, interpolation=cv2.INTER_AREA) for tile in tiles]
    cv2.imwrite(str(path), _sheet(tiles), [cv2.IMWRITE_JPEG_QUALITY, 88])


def uses(workshop: Workshop, path: Path) -> None:
    """Above what it was taught and asked, in other light; below a place that it watches."""
    tiles = [*_named(workshop.run), *_watched(workshop.run)]
    cv2.imwrite(str(path), _sheet(tiles), [cv2.IMWRITE_JPEG_QUALITY, 88])


def _named(run: Path) -> Iterator[np.ndarray]:
    """Views that it was not taught, each with its answer; of the last nothing was taught."""
    walls = dict(zip([each.stem for each in skimage_photographs()], photographs(), strict=True))
    recogniser = Recogniser(open_encoder(run))
    for name, wall in TAUGHT.items():
        visits = [[view(walls[wall], x, y) for x in (-10, 0, 10)] for y in (-5, 5)]
        for looks in visits:
            recogniser.teach(name, looks)
    evening = (0.5, 0.65, 0.75)
    for wall in ASKED:
        seen = view(walls[wall], 4.0, -2.0, 1.15, evening)
        name, probability = recogniser.recognise(seen)
        yield _captioned(seen, f"{name or UNKNOWN}  {probability:.2f}")


def _watched(run: Path) -> Iterator[np.ndarray]:
    """A place as usual, when something new is reported, and when that is gone."""
    rng = np.random.default_rng(0)
    walls = dict(zip([each.stem for each in skimage_photographs()], photographs(), strict=True))
    usual, parcel = view(walls["coffee"], 0.0, 0.0), view(walls["brick"], 0.0, 0.0)[:64, :80]
    encoder = open_encoder(run)
    watch = Watch(encoder.patch_embedder(), CAMERA, encoder.window_px, warm_up_s=WARM_UP_S)
    yield _captioned(usual, "as usual")
    for k in range(round(10 * (WARM_UP_S + 20.0))):
        t_s = k / 10.0
        image = usual.copy()
        if WARM_UP_S + 2.0 < t_s < WARM_UP_S + 10.0:
            image[120:184, 210:290] = parcel
        noisy = np.clip(image + rng.normal(0.0, 3.0, image.shape), 0, 255).astype(np.uint8)
        for alarm in watch.look(Frame(noisy, t_s, (0.0, 0.0), k)):
            x, y, width, height = alarm.box
            cv2.rectangle(noisy, (x, y), (x + width, y + height), (40, 40, 230), 2)
            after_s = t_s - WARM_UP_S - 2.0
            yield _captioned(noisy, f"{alarm.what}: told after {after_s:.1f} s")
        for gone in watch.drain_gone():
            yield _captioned(noisy, f"gone again, after {gone.after_s:.0f} s")


def _captioned(picture: np.ndarray, text: str) -> np.ndarray:
    """A tile with white words on a dark strip below."""
    tile = cv2.resize(picture, TILE_PX, interpolation=cv2.INTER_CUBIC)
    tile[-44:] = tile[-44:] // 5
    where = 14, TILE_PX[1] - 15
    cv2.putText(tile, text, where, cv2.FONT_HERSHEY_SIMPLEX, 0.75, (255,) * 3, 2, cv2.LINE_AA)
    return tile


def live_page(look: Look) -> Callable[[Workshop, Path], None]:
    """The page of the run while it goes on."""

    def draw(workshop: Workshop, path: Path) -> None:
        learn = [*EDGE_RJEPA, "learn", "--resume", str(workshop.run), "--dashboard", "127.0.0.1:0"]
        with subprocess.Popen(learn, stderr=subprocess.PIPE, text=True) as process:
            try:
                _photograph(_address(process.stderr), path, look, LIVE)
            finally:
                process.send_signal(signal.SIGINT)
                process.communicate()

    return draw


def _address(said: Iterable[str]) -> str:
    """Of the page, from what a run says."""
    line = ""
    for line in said:
        found = re.search(r"page: (http\S+)", line)
        if found:
            return found.group(1)
    raise RuntimeError(f"the run showed no page: {line.strip()}")


def calibration(workshop: Workshop, path: Path) -> None:
    """The report of a real camera, calibrated from OpenCV's pictures of a chessboard."""
    pictures = sorted(CHESSBOARDS.glob("left[0-9]*.jpg"))
    if not pictures:
        raise MissingError("no pictures of a chessboard: apt-get install opencv-doc")
    folder = workshop.folder / "chessboard"
    folder.mkdir()
    for picture in pictures:
        shutil.copy(picture, folder)
    workshop.edge_rjepa("calibrate", "camera", "--images", folder.name, "--board", "chessboard",
                        "--corners", "9x6", "-o", "calibration.json")  # fmt: skip
    page = workshop.folder / "calibration.html"
    _photograph(page.as_uri(), path, Look(900, 730), LOADED)


PICTURES: dict[str, Callable[[Workshop, Path], None]] = {
    "demo.png": report,
    "session.jpg": session,
    "uses.jpg": uses,
    "dashboard.png": live_page(Look()),
    "dashboard-phone.png": live_page(Look(390, 844, "dark", phone=True)),
    "calibration.png": calibration,
    "gaze.jpg": lambda workshop, path: gaze.draw_picture(path),
}


def _photograph(address: str, path: Path, look: Look, ready: str) -> None:
    """A page, once `ready` is true in it."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        raise MissingError("no browser: apt-get install chromium chromium-driver")
    try:
        from selenium.webdriver.support.ui import WebDriverWait

        from benchmarks.browser import browser
    except ImportError:
        raise MissingError('nothing drives a browser: pip install "edge-rjepa[test]"') from None

    with browser() as driver:
        scheme = [{"name": "prefers-color-scheme", "value": look.scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        _resize(driver, look, look.height_px or look.width_px)
        driver.get(address)
        WebDriverWait(driver, PATIENCE_S).until(lambda driver: driver.execute_script(ready))
        if look.height_px is None:
            whole = "return document.documentElement.scrollHeight"
            _resize(driver, look, driver.execute_script(whole))
        picture = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        _write_small(b64decode(picture["data"]), path)


def _write_small(png: bytes, path: Path) -> None:
    """In as many colours as a page needs: a third of the bytes."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    method = Image.Quantize.FASTOCTREE  # keeps the few points of a rare colour
    picture.quantize(COLOURS, method).save(path, optimize=True)


def _resize(driver, look: Look, height_px: int) -> None:
    size = {"width": look.width_px, "height": height_px, "deviceScaleFactor": 1 + look.phone}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size | {"mobile": look.phone})


def _sheet(tiles: list[np.ndarray]) -> np.ndarray:
    """Pictures of one size in rows of COLUMNS, white between them."""
    edge = ((0, GAP_PX), (0, GAP_PX), (0, 0))
    tiles = [np.pad(tile, edge, constant_values=255) for tile in tiles]
    rows = [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
    return np.vstack(rows)[:-GAP_PX, :-GAP_PX]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}")
    parser.add_argument("--into", type=Path, default=Path("docs"), metavar="DIR")
    parser.add_argument("--fixations", type=int, default=FIXATIONS, metavar="N")
    options = parser.parse_args()
    unknown = set(options.names) - set(PICTURES)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}: name one of {', '.join(PICTURES)}")
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder), options.fixations)
        for name in options.names or PICTURES:
            try:
                PICTURES[name](workshop, options.into / name)
                print(f"{options.into / name}")
            except MissingError as missing:
                print(f"{options.into / name} is left as it is: {missing}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
