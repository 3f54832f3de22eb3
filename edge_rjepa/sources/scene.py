"""A simulated pan-tilt camera that looks at photographs.

Each photograph is a textured plane one unit ahead of the head, 95 degrees wide and, where its shape
asks for it, more: it always covers what the camera can see at the head's limits. A view is rendered
through the exact homography of a pinhole camera on that head, so the picture shifts, shears and
stretches with the head's angles as a real one would; there is no parallax, since a head that turns
about the camera's centre sees none.

After FRAMES_A_SCENE frames the head stands before another photograph, drawn at random with returns,
and each time before another part of it: between SMALLEST_PART and the whole, left and right swapped
half of the times. So the same fixation never comes twice, and a learner that means to predict must
learn what pictures have in common. The head turns on command and else stays where it is.

A fifth of the photographs, two at least if there are four, are set aside by the seed for
held_out(), where the head makes a small random move every FRAMES_A_MOVE frames.
"""

from __future__ import annotations

import importlib.util
import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from calibration.angles import head_rotation
from edge_rjepa.errors import SourceError
from edge_rjepa.eye.head import SimulatedHead, wandered
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.sources.decode import read_picture
from edge_rjepa.sources.frame import Frame, count_in, digest_of
from edge_rjepa.sources.images import without_ends
from edge_rjepa.sources.kinds import SCENE_REACH_RAD
from safe_files.plain import plain, rebuilt

CAMERA = Pinhole(320, 240, math.radians(60.0))
PAN_LIMIT_RAD, TILT_LIMIT_RAD = SCENE_REACH_RAD
LIMITS_RAD = (-PAN_LIMIT_RAD, PAN_LIMIT_RAD), (-TILT_LIMIT_RAD, TILT_LIMIT_RAD)
FRAMES_A_MOVE = 4  # of the held-out views
FRAMES_A_SCENE = 20
SMALLEST_PART = 0.45  # of a photograph's width and height
FRAMES_A_SECOND = 30.0

# Half the plane's size must reach this far for a view at the limits to stay on it: tan(47.5 deg),
# and the steepest corner of the picture at the limits (tests/sources/test_scene.py works it out).
HALF_WIDTH, HALF_HEIGHT = math.tan(math.radians(47.5)), 0.75

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

    photographs: paths of at least two pictures OpenCV reads. seed: of what is shown and what is set
    aside. frames_a_scene: how long the head stands before one of them. Raises SourceError for fewer
    pictures. Time is simulated: FRAMES_A_SECOND frames are a second, for the head, too.
    """

    camera = CAMERA
    live = False

    def __init__(
        self, photographs: list[Path], seed: int = 0, frames_a_scene: int = FRAMES_A_SCENE
    ) -> None:
        if len(photographs) < 2:
            raise SourceError(
                f"{photographs[0] if photographs else 'no picture'}: a scene source needs at least "
                "two pictures, one to learn from and one to hold out; add another"
            )
        self._simulated_head = SimulatedHead(LIMITS_RAD)
        self.head: SimulatedHead | None = self._simulated_head
        self._names = [path.name for path in photographs]
        self._seed = seed
        self._frames_a_scene = frames_a_scene
        order = np.random.default_rng([seed, 0]).permutation(len(photographs))
        shuffled = [photographs[i] for i in order]
        n_held = min(max(2, len(shuffled) // 5), len(shuffled) // 2)
        self._held_out, self._shown = shuffled[:n_held], shuffled[n_held:]
        self._stream = self._stream_of(self._shown, 1)

    def _stream_of(self, photographs: list[Path], number: int) -> Views:
        rng = np.random.default_rng([self._seed, number])
        return Views(photographs, rng, self._frames_a_scene)

    def read_next(self, timeout_ms: float = 0.0) -> Frame | None:
        """The next view, never None. Raises SourceError when its photograph cannot be read."""
        scene = self._stream.next_scene()
        self._simulated_head.advance(self._stream.t_s)
        pan_rad, tilt_rad, _ = self._simulated_head.at(self._stream.t_s)
        return self._stream.view(scene, (pan_rad, tilt_rad))

    def held_out(self, count: int) -> list[Frame]:
        """`count` views of the photographs set aside, by a head that wanders."""
        stream, head, frames = self._stream_of(self._held_out, 2), (0.0, 0.0), []
        for i in range(count):
            scene = stream.next_scene()
            if i % FRAMES_A_MOVE == 0:
                head = wandered(stream.rng, head, LIMITS_RAD)
            frames.append(stream.view(scene, head))
        return frames

    def drain_events(self) -> list[str]:
        """Nothing ever happens to photographs."""
        return []

    def state(self) -> dict:
        """Where the stream and the head stand, as plain JSON values."""
        own = {"pictures": digest_of(self._names), "seed": self._seed}
        head = {"head": self.head.state()} if self.head else {}
        return own | head | self._stream.state()

    def restore(self, state: dict) -> None:
        """Go on from state(), bit for bit. Raises SourceError for other pictures or seed."""
        if state["pictures"] != digest_of(self._names) or state["seed"] != self._seed:
            raise SourceError(
                "the scene's pictures or seed are not those the saved run saw; "
                "put the same pictures back, or start a new run"
            )
        if self.head:
            self.head.restore(state["head"])
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


class Views:
    """Views of some photographs without end."""

    def __init__(
        self, photographs: list[Path], rng: np.random.Generator, frames_a_scene: int
    ) -> None:
        self.rng = rng
        self._photographs = photographs
        self._frames_a_scene = frames_a_scene
        self._sequence = 0
        self._scene: Scene | None = None
        # Rendered anew only when something moves.
        self._texture = self._image = np.empty(0)
        self._rendered: tuple | None = None

    @property
    def t_s(self) -> float:
        """When the next view is taken."""
        return self._sequence / FRAMES_A_SECOND

    def next_scene(self) -> Scene:
        """The scene of the next view: another one where that is due."""
        if self._scene is None or self._sequence % self._frames_a_scene == 0:
            self._scene = _another(self.rng, self._scene, len(self._photographs))
        return self._scene

    def view(self, scene: Scene, head: tuple[float, float]) -> Frame:
        """The next view, of this scene from head = (pan_rad, tilt_rad)."""
        self._render(scene, head)
        frame = Frame(self._image, self.t_s, head, self._sequence)
        self._sequence += 1
        return frame

    def _render(self, scene: Scene, head: tuple[float, float]) -> None:
        wanted = scene, head
        if self._rendered is None or self._rendered[0] != scene:
            self._texture = load_texture(self._photographs[scene.photograph], scene)
        if self._rendered != wanted:
            self._image = render(self._texture, head)
        self._rendered = wanted

    def state(self) -> dict:
        return {
            "sequence": self._sequence,
            "scene": list(self._scene) if self._scene else None,
            "rng": self.rng.bit_generator.state,
        }

    def restore(self, state: dict) -> None:
        self._sequence = count_in(state, "sequence")
        self._scene = None
        if state["scene"]:
            scene = dict(zip(Scene._fields, state["scene"], strict=True))
            self._scene = rebuilt(Scene, plain(scene), "scene")
            self._photographs[self._scene.photograph]  # raises IndexError where there is none
        self.rng.bit_generator.state = state["rng"]


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

    That is focal_px pixels a plane unit. Raises SourceError when the file cannot be read.
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
    image = without_ends(read_picture(path))
    # No more than its smallest part needs: a dozen camera pictures would fill half a gigabyte.
    enough_px = 2.0 * CAMERA.focal_px * HALF_WIDTH / SMALLEST_PART
    shrink = enough_px / image.shape[1]
    if shrink >= 1.0:
        return image
    return cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)


def skimage_photographs() -> list[Path]:
    """The photographs of the installed scikit-image. Raises SourceError if it is not there."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
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


def _another(rng: np.random.Generator, scene: Scene | None, count: int) -> Scene:
    """A part of a photograph other than this one's, if there is another."""
    photograph, other = rng.integers(count), rng.integers(max(1, count - 1))
    if scene is not None and count > 1:
        photograph = (scene.photograph + 1 + other) % count
    size = rng.uniform(SMALLEST_PART, 1.0)
    left, top = rng.uniform(0.0, 1.0 - size, 2)
    return Scene(int(photograph), float(left), float(top), float(size), bool(rng.random() < 0.5))
