"""A simulated pan-tilt camera that looks at photographs.

Each photograph is a textured plane one unit ahead of the head, 95 degrees wide and, where its shape
asks for it, more: it always covers what the camera can see at the head's limits. A view is rendered
through the exact homography of a pinhole camera on that head, so the picture shifts, shears and
stretches with the head's angles as a real one would; there is no parallax, since a head that turns
about the camera's centre sees none.

The head stands still for FRAMES_A_MOVE frames, then makes a small random move; after FRAMES_A_SCENE
frames it stands before another photograph, drawn at random with returns, and each time before
another part of it: between SMALLEST_PART and the whole, left and right swapped half of the times.
So the same fixation never comes twice, and a learner that means to foresee must learn what pictures
have in common. A fifth of the photographs, two at least if there are four, are set aside by the
seed for held_out().
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from edge_rjepa.errors import SourceError
from edge_rjepa.optics import Pinhole, head_rotation
from edge_rjepa.sources.frame import Frame

CAMERA = Pinhole(320, 240, math.radians(60.0))
PAN_LIMIT_RAD, TILT_LIMIT_RAD = math.radians(14.0), math.radians(8.0)
MOVE_STD_RAD = math.radians(2.5)
FRAMES_A_MOVE = 4
FRAMES_A_SCENE = 20
SMALLEST_PART = 0.45  # of a photograph's width and height
FRAMES_A_SECOND = 30.0

# Half the plane's size must reach this far for a view at the limits to stay on it: tan(47.5 deg),
# and the steepest corner of the picture at the limits (tests/test_sources.py works it out).
HALF_WIDTH, HALF_HEIGHT = math.tan(math.radians(47.5)), 0.75

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm"}

# What scikit-image's wheel ships that is a photograph of something: no drawings, no page of text,
# no test patterns, and one only of the two motorcycle pictures, which show the same.
SKIMAGE_PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)


class SceneSource:
    """Views (240, 320, 3) of photographs, without end; `camera` is 60 degrees wide.

    photographs: paths of at least two pictures OpenCV reads. Raises SourceError for fewer.
    """

    camera = CAMERA

    def __init__(self, photographs: list[Path], seed: int = 0) -> None:
        if len(photographs) < 2:
            raise SourceError(
                f"{photographs[0] if photographs else 'no picture'}: a scene source needs at least "
                "two pictures, one to learn from and one to hold out; add another"
            )
        self._names = [path.name for path in photographs]
        self._seed = seed
        order = np.random.default_rng([seed, 0]).permutation(len(photographs))
        shuffled = [photographs[i] for i in order]
        n_held = min(max(2, len(shuffled) // 5), len(shuffled) // 2)
        self._held_out, self._shown = shuffled[:n_held], shuffled[n_held:]
        self._stream = _Stream(self._shown, np.random.default_rng([seed, 1]))

    def read(self) -> Frame:
        """The next view. Raises SourceError when its photograph can no longer be read."""
        return self._stream.read()

    def held_out(self, count: int) -> list[Frame]:
        """`count` views of the photographs set aside, changing as those of read() do."""
        stream = _Stream(self._held_out, np.random.default_rng([self._seed, 2]))
        return [stream.read() for _ in range(count)]

    def state(self) -> dict:
        """Where the stream stands, as plain JSON values."""
        return {"pictures": self._names, "seed": self._seed, **self._stream.state()}

    def restore(self, state: dict) -> None:
        """Go on from state(), bit for bit. Raises SourceError for other pictures or seed."""
        if state["pictures"] != self._names or state["seed"] != self._seed:
            raise SourceError(
                "the scene's pictures or seed are not those the saved run saw; "
                "put the same pictures back, or start a new run"
            )
        self._stream.restore(state)

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> SceneSource:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()


class Scene(NamedTuple):
    """What the head stands before: a part of a photograph, in shares of its width and height."""

    photograph: int
    left: float
    top: float
    size: float
    mirrored: bool


class _Stream:
    """Views of some photographs without end."""

    def __init__(self, photographs: list[Path], rng: np.random.Generator) -> None:
        self._photographs = photographs
        self._rng = rng
        self._sequence = 0
        self._head = (0.0, 0.0)
        self._scene: Scene | None = None
        # Rendered anew only when something moves.
        self._texture = self._image = np.empty(0)
        self._rendered: tuple | None = None

    def read(self) -> Frame:
        if self._sequence % FRAMES_A_SCENE == 0:
            self._scene = _another(self._rng, self._scene, len(self._photographs))
        if self._sequence % FRAMES_A_MOVE == 0:
            self._head = _moved(self._rng, self._head)
        self._render()
        frame = Frame(self._image, self._sequence / FRAMES_A_SECOND, self._head, self._sequence)
        self._sequence += 1
        return frame

    def _render(self) -> None:
        wanted = self._scene, self._head
        if self._rendered is None or self._rendered[0] != self._scene:
            self._texture = load_texture(self._photographs[self._scene.photograph], self._scene)
        if self._rendered != wanted:
            self._image = render(self._texture, self._head)
        self._rendered = wanted

    def state(self) -> dict:
        return {
            "sequence": self._sequence,
            "head": list(self._head),
            "scene": list(self._scene) if self._scene else None,
            "rng": self._rng.bit_generator.state,
        }

    def restore(self, state: dict) -> None:
        self._sequence = state["sequence"]
        self._head = tuple(state["head"])
        self._scene = Scene(*state["scene"]) if state["scene"] else None
        self._rng.bit_generator.state = state["rng"]


def render(texture: np.ndarray, head: tuple[float, float]) -> np.ndarray:
    """The view (240, 320, 3) uint8 of load_texture()'s plane from head = (pan_rad, tilt_rad)."""
    height, width = texture.shape[:2]
    # The texture is a picture of the plane by a camera that looks straight at its middle with the
    # view's own focal length, and so the way from view to texture is an ordinary homography.
    focal = CAMERA.focal_px
    middle = np.array(
        [[focal, 0.0, 0.5 * (width - 1)], [0.0, focal, 0.5 * (height - 1)], [0.0, 0.0, 1.0]]
    )
    texture_of_view = middle @ head_rotation(head) @ np.linalg.inv(CAMERA.intrinsics)
    return cv2.warpPerspective(
        texture,
        texture_of_view,
        (CAMERA.width_px, CAMERA.height_px),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def load_texture(path: Path, scene: Scene) -> np.ndarray:
    """The scene's part of the photograph, (h, w, 3) uint8 BGR, at the view's resolution.

    That is focal_px pixels a plane unit. Raises SourceError when OpenCV cannot read the file.
    """
    image = _photograph(path)
    height, width = image.shape[:2]
    left, top, size = round(scene.left * width), round(scene.top * height), scene.size
    image = image[top : top + max(1, int(size * height)), left : left + max(1, int(size * width))]
    if scene.mirrored:
        image = image[:, ::-1]
    height, width = image.shape[:2]
    scale = 2.0 * CAMERA.focal_px * max(HALF_WIDTH / width, HALF_HEIGHT / height)
    shape = math.ceil(width * scale), math.ceil(height * scale)
    return cv2.resize(image, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


@lru_cache(maxsize=16)  # decoding takes longer than all else a scene does
def _photograph(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SourceError(f"{path}: cannot be read as a picture; remove or replace it")
    # No more than its smallest part needs: a dozen camera pictures would fill half a gigabyte.
    enough_px = 2.0 * CAMERA.focal_px * HALF_WIDTH / SMALLEST_PART
    shrink = enough_px / image.shape[1]
    if shrink >= 1.0:
        return image
    return cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)


def skimage_photographs() -> list[Path]:
    """The photographs of the installed scikit-image. Raises SourceError if it is not there."""
    package = importlib.util.find_spec("skimage")
    if package is None:
        raise SourceError(
            "scene: shows scikit-image's photographs, which are not installed; "
            "run `pip install scikit-image`, or name a folder of pictures: scene:DIR"
        )
    data = Path(package.origin).parent / "data"
    found = [data / name for name in SKIMAGE_PHOTOGRAPHS if (data / name).is_file()]
    if not found:
        raise SourceError(
            f"{data}: holds none of scikit-image's photographs; "
            "run `pip install --force-reinstall scikit-image`"
        )
    return found


def pictures_in(directory: Path) -> list[Path]:
    """The pictures of a folder, sorted by name; unreadable ones are left out with a warning.

    Raises SourceError when there is no such folder or no readable picture in it.
    """
    if not directory.is_dir():
        raise SourceError(f"{directory}: no such folder of pictures")
    candidates = sorted(p for p in directory.iterdir() if p.suffix.lower() in SUFFIXES)
    if not candidates:
        raise SourceError(
            f"{directory}: holds no picture; put some there ({' '.join(sorted(SUFFIXES))})"
        )
    readable = []
    for path in candidates:
        # A reduced read is enough to see that a picture is one, and cheap for large JPEGs.
        if cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_8) is not None:
            readable.append(path)
        else:
            warnings.warn(f"{path}: cannot be read as a picture; left out", stacklevel=2)
    if not readable:
        raise SourceError(f"{candidates[0]}: cannot be read as a picture, nor can any beside it")
    return readable


def _another(rng: np.random.Generator, scene: Scene | None, count: int) -> Scene:
    """A part of a photograph other than this one's, if there is another."""
    photograph, other = rng.integers(count), rng.integers(max(1, count - 1))
    if scene is not None and count > 1:
        photograph = (scene.photograph + 1 + other) % count
    size = rng.uniform(SMALLEST_PART, 1.0)
    left, top = rng.uniform(0.0, 1.0 - size, 2)
    return Scene(int(photograph), float(left), float(top), float(size), bool(rng.random() < 0.5))


def _moved(rng: np.random.Generator, head: tuple[float, float]) -> tuple[float, float]:
    """The head after a small random move, thrown back from a limit as far as it went beyond."""
    limits_rad = np.array([PAN_LIMIT_RAD, TILT_LIMIT_RAD])
    aim_rad = rng.normal(head, MOVE_STD_RAD)
    back_rad = 2.0 * np.clip(aim_rad, -limits_rad, limits_rad) - aim_rad
    pan_rad, tilt_rad = np.clip(back_rad, -limits_rad, limits_rad).tolist()
    return pan_rad, tilt_rad
