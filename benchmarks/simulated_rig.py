"""A camera on two hobby servos before a far scene, simulated with everything about it known.

What the solvers are judged by is worked out here on its own. The picture is rendered with the exact
geometry of a lens with distortion that turns. The scene is a sphere of photographs, so far away
that where the axes pass the lens by makes no difference.

`draw_truth(seed)` draws a head, `Rig(truth)` is one to turn: `move`, `home`, `next_frame`, on a
clock of its own. Angles, axes and pixels as in edge_rjepa/optics/camera.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import skimage
from scipy.spatial.transform import Rotation

from calibration.angles import angles_of_rays
from calibration.head import HeadCalibration
from calibration.model import CameraModel
from calibration.plan import calibrate_head
from calibration.rotation import Features
from edge_rjepa.base.jit import jit

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "brick", "camera", "coins", "moon", "grass")
SPHERE_PX = 3840, 1920  # all around and pole to pole: 10.7 px a degree
CELL_PX = 4  # where the way from view to sphere is worked out; between, it is interpolated
PHYSICS_S = 0.001


@dataclass(frozen=True)
class Lens:
    """A camera with radial distortion: x = focal r (1 + k1 r^2 + k2 r^4) + centre."""

    width_px: int = 640
    height_px: int = 480
    focal_px: float = 550.0
    centre_px: tuple[float, float] = (319.5, 239.5)
    k1: float = 0.0
    k2: float = 0.0

    def rays_of_pixels(self, pixels) -> np.ndarray:
        """Unit rays (..., 3) in the camera frame of pixels (..., 2)."""
        bent = (np.asarray(pixels, dtype=np.float64) - self.centre_px) / self.focal_px
        slopes = bent
        for _ in range(20):
            square = np.sum(slopes**2, axis=-1, keepdims=True)
            slopes = bent / (1.0 + self.k1 * square + self.k2 * square**2)
        rays = np.concatenate([slopes, np.ones_like(slopes[..., :1])], axis=-1)
        return rays / np.linalg.norm(rays, axis=-1, keepdims=True)

    def pixels_of_rays(self, rays) -> np.ndarray:
        """Pixels (..., 2) of camera-frame rays (..., 3); NaN for a ray not ahead of the camera."""
        rays = np.asarray(rays, dtype=np.float64)
        slopes = rays[..., :2] / np.where(rays[..., 2:] > 0.0, rays[..., 2:], np.nan)
        square = np.sum(slopes**2, axis=-1, keepdims=True)
        return self.focal_px * slopes * (1.0 + self.k1 * square + self.k2 * square**2) + np.array(
            self.centre_px
        )


@dataclass(frozen=True)
class TrueServo:
    """How far a shaft turns for a pulse: gain, bend, twist and a ripple about the home pulse.

    gain is in radians a microsecond, negative where longer pulses turn it left or down. bend and
    twist are radians at the end of the range. stuck_us: it goes no further than these pulses.
    """

    low_us: float
    high_us: float
    gain: float
    home_us: float = 1500.0
    bend_rad: float = 0.0
    twist_rad: float = 0.0
    ripple_rad: float = 0.0
    ripple_us: float = 800.0
    backlash_rad: float = 0.0
    jitter_rad: float = 0.0
    stuck_us: tuple[float, float] = (-math.inf, math.inf)

    def angle(self, pulse_us: float) -> float:
        """Where the motor goes for a pulse, in rad; 0 at the home pulse."""
        return _angle(pulse_us, self.numbers)

    @cached_property
    def numbers(self) -> np.ndarray:
        """All of it (n,), as `_angle` takes it; the backlash at BACKLASH."""
        return np.array([*self.stuck_us, *(getattr(self, name) for name in SERVO_NUMBERS)])


SERVO_NUMBERS = (
    "low_us", "high_us", "gain", "home_us", "bend_rad", "twist_rad", "ripple_rad", "ripple_us",
    "backlash_rad",
)  # fmt: skip
BACKLASH = -1


@jit
def _angle(pulse_us, servo):
    """Where the motor goes for a pulse; servo (n,): TrueServo.numbers."""
    least_us, most_us, low_us, high_us, gain, home_us, bend, twist, ripple, ripple_us, _ = servo
    off_us = min(max(pulse_us, least_us), most_us) - home_us
    x = off_us / max(high_us - home_us, home_us - low_us)
    wave = ripple * math.sin(2.0 * math.pi * off_us / ripple_us)
    return gain * off_us + bend * x**2 + twist * x**3 + wave


@dataclass(frozen=True)
class Truth:
    """A whole rig. The mount: how far camera and tilt axis stand from where they should.

    elevation_rad, roll_rad: of the camera at home, against the plane square to the pan axis.
    lean_rad: of the tilt axis out of that plane; yaw_rad: of the tilt axis about the pan axis.
    delay_s is from a command to the first picture that shows it, transport_s the part of it that
    passes after the picture was taken. How a servo moves: no faster than its speed, and either like
    a spring (stiffness, per s, and damping) or no faster than it can accelerate, slower when less
    than 1 / eagerness (in 1 / rad) is left to go.
    """

    pan: TrueServo
    tilt: TrueServo
    lens: Lens = field(default_factory=Lens)
    elevation_rad: float = 0.0
    roll_rad: float = 0.0
    lean_rad: float = 0.0
    yaw_rad: float = 0.0
    delay_s: float = 0.1
    transport_s: float = 0.05
    stamp_jitter_s: float = 0.001
    frames_a_second: float = 30.0
    exposure_s: float = 0.008
    speed_rad_s: float = 6.0
    stiffness: float | None = 50.0
    damping: float = 0.8
    acceleration_rad_s2: float = 300.0
    eagerness: float = 5.0
    noise: float = 3.0  # standard deviation of a pixel, in grey levels
    moving_share: float = 0.2  # of the picture that moves by itself
    seed: int = 0

    def rotation(self, shafts_rad) -> np.ndarray:
        """Camera to base (3, 3) with the shafts at (pan, tilt). The base's y is the pan axis."""
        pan_rad, tilt_rad = shafts_rad
        pan = Rotation.from_rotvec([0.0, pan_rad, 0.0])
        axis = Rotation.from_euler("YZ", [self.yaw_rad, self.lean_rad]).apply([1.0, 0.0, 0.0])
        tilt = Rotation.from_rotvec(tilt_rad * axis)
        mount = Rotation.from_euler("XZ", [self.elevation_rad, self.roll_rad])
        return (pan * tilt * mount).as_matrix()

    @property
    def servos(self) -> tuple[TrueServo, TrueServo]:
        return self.pan, self.tilt


def draw_truth(seed: int) -> Truth:
    """A rig as a hobbyist might have built it."""
    rng = np.random.default_rng([seed, 0])
    delay_s = rng.uniform(0.03, 0.25)
    springy = rng.random() < 0.5
    return Truth(
        pan=_draw_servo(rng, 1000.0, 2000.0),
        tilt=_draw_servo(rng, 1200.0, 1800.0),
        lens=_draw_lens(rng),
        **dict(
            zip(
                ("elevation_rad", "roll_rad", "lean_rad", "yaw_rad"),
                np.radians(rng.uniform(-10.0, 10.0, 4)).tolist(),
                strict=True,
            )
        ),
        delay_s=delay_s,
        transport_s=rng.uniform(0.0, delay_s - 0.02),
        speed_rad_s=rng.uniform(4.0, 9.0),
        stiffness=rng.uniform(35.0, 80.0) if springy else None,
        damping=rng.uniform(0.6, 1.0),
        acceleration_rad_s2=rng.uniform(200.0, 500.0),
        noise=rng.uniform(2.0, 6.0),
        seed=seed,
    )


def _draw_servo(rng: np.random.Generator, low_us: float, high_us: float) -> TrueServo:
    reach = (high_us - low_us) / 1000.0
    return TrueServo(
        low_us,
        high_us,
        gain=rng.choice([-1.0, 1.0]) * rng.uniform(0.8, 1.2) * 0.5 * math.pi / 1000.0,
        bend_rad=math.radians(rng.uniform(-2.0, 2.0)) * reach,
        twist_rad=math.radians(rng.uniform(-2.0, 2.0)) * reach,
        ripple_rad=math.radians(rng.uniform(0.0, 0.15)),
        ripple_us=rng.uniform(600.0, 1200.0),
        backlash_rad=math.radians(rng.uniform(0.0, 2.0)),
        jitter_rad=math.radians(rng.uniform(0.02, 0.08)),
    )


def _draw_lens(rng: np.random.Generator) -> Lens:
    return Lens(
        focal_px=320.0 / math.tan(math.radians(rng.uniform(50.0, 80.0)) / 2.0),
        centre_px=tuple((np.array([319.5, 239.5]) + rng.uniform(-12.0, 12.0, 2)).tolist()),
        k1=rng.uniform(-0.2, 0.05),
        k2=rng.uniform(0.0, 0.03),
    )


class Commanded(NamedTuple):
    """What a head was told, in pulses, and when."""

    pan: float
    tilt: float
    t_s: float


class Order(NamedTuple):
    """A move that the servos follow from t_s on."""

    t_s: float
    start_us: list[float]
    goal_us: list[float]
    duration_s: float


class Shot:
    """A frame of the rig: rendered when its image is first looked at."""

    def __init__(self, rig: Rig, t_s: float, shafts: np.ndarray, number: int) -> None:
        self.t_s = t_s
        self.shafts = shafts  # (n, 2) during the exposure
        self.number = number
        self._rig, self._image = rig, None

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 BGR."""
        if self._image is None:
            self._image = self._rig.render(self.shafts, self.number)
        return self._image


class Rig:
    """A simulated head with its camera. Its clock moves when a frame is asked for."""

    unit = "us"

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.now_s = 0.0
        self.moves: list[Commanded] = []
        self.at_home = 0  # how often it was sent home
        self._rng = np.random.default_rng([truth.seed, 1])
        self._view = View(truth, self._rng)
        self._sky = Sky(truth, self._rng)
        self._frame = 0
        self._physics_t_s = 0.0
        home_us = list(self.home_position)
        self._orders = [Order(-1.0, home_us, home_us, 0.0)]
        self._motor = np.array([s.angle(s.home_us) for s in truth.servos])
        self._reference, self._velocity, self._jitter = self._motor.copy(), np.zeros(2), np.zeros(2)
        self._constants = np.array([servo.numbers for servo in truth.servos])
        half_rad = 0.5 * self._constants[:, BACKLASH]
        self._shaft = self._motor + self._rng.uniform(-1.0, 1.0, 2) * half_rad
        self._way = (
            truth.stiffness is not None, truth.stiffness or 0.0, truth.damping,
            truth.speed_rad_s, truth.acceleration_rad_s2, truth.eagerness,
        )  # fmt: skip
        self._order = self._orders[0]
        self._rests = False

    @property
    def limits(self):
        return tuple((s.low_us, s.high_us) for s in self.truth.servos)

    @property
    def home_position(self) -> tuple[float, float]:
        return self.truth.pan.home_us, self.truth.tilt.home_us

    def drive(self, pan: float, tilt: float, duration_s: float = 0.0) -> Commanded:
        """Set out for these pulses (rounded to half a microsecond, clipped to the limits)."""
        low, high = np.transpose(self.limits)
        goal = (np.round(2.0 * np.clip([pan, tilt], low, high)) / 2.0).tolist()
        # A servo reads its pulse every 20 ms.
        lag_s = self.truth.delay_s - self.truth.transport_s + self._rng.uniform(-0.01, 0.01)
        t_s = max(self.now_s + lag_s, self._orders[-1].t_s + 1e-6)
        self._orders.append(Order(t_s, self._orders[-1].goal_us, goal, duration_s))
        self.moves.append(Commanded(*goal, self.now_s))
        return self.moves[-1]

    def home(self) -> None:
        self.at_home += 1
        self.drive(*self.home_position, duration_s=1.0)

    def next_frame(self) -> Shot:
        """The next picture, when it has arrived."""
        truth = self.truth
        self._frame += 1
        taken_s = self._frame / truth.frames_a_second
        opened_s = taken_s - truth.exposure_s
        self._advance(opened_s)
        shafts = [self.shafts]
        for k in range(1, 5):
            self._advance(opened_s + k * truth.exposure_s / 4.0)
            shafts.append(self.shafts)
        self.now_s = taken_s + truth.transport_s + abs(self._rng.normal(0.0, truth.stamp_jitter_s))
        return Shot(self, self.now_s, np.array(shafts), self._frame)

    def render(self, shafts: np.ndarray, number: int) -> np.ndarray:
        return self._view.render(self.truth, shafts, number)

    @property
    def per_rad(self) -> tuple[float, float]:
        """What a hobby servo is sold as: 1000 us for 90 degrees."""
        return 2000.0 / math.pi, 2000.0 / math.pi

    @property
    def speed(self) -> tuple[float, float]:
        """Nothing holds its pulses back."""
        return math.inf, math.inf

    @property
    def shafts(self) -> np.ndarray:
        """Where the shafts stand now (2,), in rad."""
        return self._shaft.copy()

    def sketch(self, shot: Shot, width_px: int) -> Features:
        """What would be seen in a picture, without rendering it: corners and their looks."""
        return self._sky.seen(self.truth, shot, width_px)

    def _advance(self, until_s: float) -> None:
        while self._physics_t_s < until_s:
            if not (self._rests and self._next_order_s > until_s):
                self._take_orders(self._physics_t_s + PHYSICS_S)
            order = self._orders[0]
            self._physics_t_s, self._rests = advanced(
                self._physics_t_s, until_s, self._next_order_s, self._rests,
                (order.t_s, order.duration_s), np.array([order.start_us, order.goal_us]),
                self._jitter, self._constants, self._way,
                self._motor, self._reference, self._velocity, self._shaft,
            )  # fmt: skip

    @property
    def _next_order_s(self) -> float:
        return self._orders[1].t_s if len(self._orders) > 1 else math.inf

    def _take_orders(self, t_s: float) -> None:
        while self._next_order_s <= t_s:
            self._orders.pop(0)
        order = self._orders[0]
        if order is not self._order:  # each axis told to move comes to stand a little off
            for k, servo in enumerate(self.truth.servos):
                if order.goal_us[k] != order.start_us[k]:
                    self._jitter[k] = self._rng.normal(0.0, servo.jitter_rad)
            self._order, self._rests = order, False


@jit
def advanced(
    t_s, until_s, waiting_s, rests, since, pulses_us, jitter_rad, servos, way,
    motor, reference, velocity, shaft,
):  # fmt: skip
    """The servos go on in steps of PHYSICS_S, until then or until the next order is to be taken.

    Returns the time, and whether all stands still. since: when the order came, and how long it is
    to take. pulses_us (2, 2): where it starts and where it goes. servos (2, n): numbers of
    TrueServo. way: numbers of Truth, how a servo moves. The rest (2,) each is changed in place.
    """
    springy, stiffness, damping, most_rad_s, acceleration_rad_s2, eagerness = way
    while t_s < until_s:
        if rests and waiting_s > until_s:
            t_s = until_s  # nothing happens until then
            break
        if waiting_s <= t_s + PHYSICS_S:
            break
        t_s += PHYSICS_S
        done = (t_s - since[0]) / since[1] if since[1] else 1.0
        rests = done >= 1.0
        share = min(1.0, done)
        for k in range(2):
            here_us = pulses_us[0, k] + share * (pulses_us[1, k] - pulses_us[0, k])
            goal_rad = _angle(here_us, servos[k]) + jitter_rad[k]
            if springy:
                step = most_rad_s * PHYSICS_S
                reference[k] += min(max(goal_rad - reference[k], -step), step)
                pull = stiffness**2 * (reference[k] - motor[k])
                drag = 2.0 * damping * stiffness * velocity[k]
                velocity[k] += PHYSICS_S * (pull - drag)
            else:
                wanted = min(max(eagerness * (goal_rad - motor[k]), -1.0), 1.0)
                change = acceleration_rad_s2 * PHYSICS_S
                faster = wanted * most_rad_s - velocity[k]
                velocity[k] += min(max(faster, -change), change)
            motor[k] += PHYSICS_S * velocity[k]
            half_rad = 0.5 * servos[k, BACKLASH]
            shaft[k] = min(max(shaft[k], motor[k] - half_rad), motor[k] + half_rad)
            rests = rests and abs(motor[k] - goal_rad) < 1e-6 and abs(velocity[k]) < 1e-4
    return t_s, rests


class View:
    """Renders what the camera of a rig sees."""

    def __init__(self, truth: Truth, rng: np.random.Generator) -> None:
        lens = truth.lens
        # Cell middles, one ring of cells more than the picture has.
        xs = CELL_PX * (np.arange(-1, lens.width_px // CELL_PX + 1) + 0.5) - 0.5
        ys = CELL_PX * (np.arange(-1, lens.height_px // CELL_PX + 1) + 0.5) - 0.5
        self._rays = lens.rays_of_pixels(np.stack(np.meshgrid(xs, ys), axis=-1))
        self._noise = rng.normal(0.0, truth.noise, (480 + 64, 640 + 64, 3)).astype(np.float32)
        self._movers = [Mover(rng, truth) for _ in range(2)] if truth.moving_share else []
        self._latest: tuple = (), np.empty(0)  # rig and shafts, and the scene they showed

    def render(self, truth: Truth, shafts: np.ndarray, number: int) -> np.ndarray:
        """(H, W, 3) uint8 BGR with the shafts (n, 2) where they were during the exposure."""
        blur_px = np.ptp(shafts, axis=0).max() * truth.lens.focal_px
        shown = shafts if blur_px > 1.0 else shafts[2:3]
        stills = [self._still(truth, each) for each in shown]
        if len(stills) > 1:
            picture = np.mean(stills, axis=0, dtype=np.float32)
        else:  # the mean of one takes four times as long
            picture = stills[0].astype(np.float32)
        rng = np.random.default_rng([truth.seed, 2, number])
        for mover in self._movers:
            mover.paint(picture, number / truth.frames_a_second)
        top, left = rng.integers(0, 64, 2)
        height, width = picture.shape[:2]
        picture += self._noise[top : top + height, left : left + width]
        return np.clip(picture, 0, 255, out=picture).astype(np.uint8)

    def _still(self, truth: Truth, shafts: np.ndarray) -> np.ndarray:
        """The scene without what moves in it. A head that rests shows the same again and again."""
        shown = truth, *shafts.tolist()
        if self._latest[0] != shown:
            self._latest = shown, self._scene(truth, shafts)
        return self._latest[1]

    def _scene(self, truth: Truth, shafts: np.ndarray) -> np.ndarray:
        lens, (width, height) = truth.lens, SPHERE_PX
        x, y, z = np.moveaxis(self._rays @ truth.rotation(shafts).T, -1, 0)
        azimuth, elevation = np.arctan2(x, z), np.arctan2(-y, np.hypot(x, z))
        across = (azimuth / (2.0 * math.pi) + 0.5) * width - 0.5
        down = (0.5 - elevation / math.pi) * height - 0.5
        across = np.unwrap(across, period=width, axis=1)
        size = (CELL_PX * across.shape[1], CELL_PX * across.shape[0])
        maps = [
            cv2.resize(m.astype(np.float32), size)[CELL_PX:-CELL_PX, CELL_PX:-CELL_PX]
            for m in (across, down)
        ]
        assert maps[0].shape == (lens.height_px, lens.width_px)
        return cv2.remap(sphere(), *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


class Mover:
    """Something with a texture that crosses the picture, back and forth."""

    def __init__(self, rng: np.random.Generator, truth: Truth) -> None:
        side = math.sqrt(0.5 * truth.moving_share * truth.lens.width_px * truth.lens.height_px)
        stretch = rng.uniform(0.8, 1.25)
        self._size = int(side * stretch), int(side / stretch)
        left, top = rng.integers(0, 1400), rng.integers(600, 1000)
        self._picture = sphere()[top : top + self._size[1], left : left + self._size[0]]
        self._room = truth.lens.width_px - self._size[0], truth.lens.height_px - self._size[1]
        self._start = rng.uniform(0.0, 2.0, 2)
        self._speed = rng.uniform(0.1, 0.6, 2)  # rooms a second

    def paint(self, picture: np.ndarray, t_s: float) -> None:
        there = np.abs((self._start + self._speed * t_s) % 2.0 - 1.0)
        left, top = (there * self._room).astype(int)
        picture[top : top + self._size[1], left : left + self._size[0]] = self._picture


class Sky:
    """Corners without pictures: points all around, seen now and then and not exactly.

    A share of those seen are no such points but move across the picture, and a picture taken while
    the head turns fast shows nothing that could be recognised.
    """

    POINTS = 5000
    LOOKS = 32
    OFF_PX = 0.3
    SEEN = 0.6  # how often a point is found
    SHARP_PX = 8.0  # how much a picture may be blurred

    def __init__(self, truth: Truth, rng: np.random.Generator) -> None:
        points = rng.normal(size=(self.POINTS, 3))
        self._points = points / np.linalg.norm(points, axis=1, keepdims=True)
        self._looks = _unit(rng.normal(size=(self.POINTS, self.LOOKS)))
        count = int(0.06 * self.POINTS * self.SEEN * truth.moving_share)
        self._movers = rng.uniform(0.0, 2.0, (2, count, 2))  # place and speed, in pictures
        self._movers[1] = rng.uniform(-0.6, 0.6, 2)
        self._mover_looks = _unit(rng.normal(size=(count, self.LOOKS)))

    def seen(self, truth: Truth, shot: Shot, width_px: int) -> Features:
        """The corners of a shot, less exact in a picture made smaller."""
        lens, rng = truth.lens, np.random.default_rng([truth.seed, 3, shot.number])
        size = np.array([lens.width_px, lens.height_px])
        if np.ptp(shot.shafts, axis=0).max() * lens.focal_px > self.SHARP_PX:
            return Features(np.empty((0, 2)), np.empty((0, self.LOOKS), np.float32))
        rays = self._points @ truth.rotation(shot.shafts[2])
        ahead = np.flatnonzero((rays[:, 2] > 0.3) & (rng.random(self.POINTS) < self.SEEN))
        pixels = lens.pixels_of_rays(rays[ahead])
        inside = ((pixels > 0) & (pixels < size - 1)).all(axis=1)
        place, speed = self._movers
        there = np.abs((place + speed * shot.t_s) % 2.0 - 1.0) * (size - 1)
        pixels = np.concatenate([pixels[inside], there])
        looks = np.concatenate([self._looks[ahead[inside]], self._mover_looks])
        off_px = self.OFF_PX * max(1.0, lens.width_px / width_px)
        pixels += rng.normal(0.0, off_px, pixels.shape)
        looks = _unit(looks + rng.normal(0.0, 0.08, looks.shape))
        return Features(pixels, looks)


def _unit(looks: np.ndarray) -> np.ndarray:
    return (looks / np.linalg.norm(looks, axis=-1, keepdims=True)).astype(np.float32)


@cache
def sphere() -> np.ndarray:
    """(1920, 3840, 3) uint8: photographs side by side, each 45 degrees wide and high."""
    data = Path(skimage.__file__).parent / "data"
    side = SPHERE_PX[0] // 8
    tiles = [
        cv2.resize(cv2.imread(str(data / f"{name}.png")), (side, side)) for name in PHOTOGRAPHS
    ]
    rows = [np.concatenate(tiles[3 * k :] + tiles[: 3 * k], axis=1) for k in range(3)]
    middle = np.concatenate(rows, axis=0)
    rest = SPHERE_PX[1] - middle.shape[0]
    return cv2.copyMakeBorder(middle, rest // 2, rest - rest // 2, 0, 0, cv2.BORDER_REFLECT_101)


def camera_of(lens: Lens) -> CameraModel:
    """The same lens as the package's camera."""
    focal = lens.focal_px, lens.focal_px
    size = lens.width_px, lens.height_px
    return CameraModel("pinhole", *size, *focal, *lens.centre_px, (lens.k1, lens.k2, 0.0, 0.0, 0.0))


def guessed_camera(lens: Lens, seed: int) -> CameraModel:
    """The lens as a good camera calibration finds it: a little off."""
    rng = np.random.default_rng([seed, 4])
    right, down = rng.normal(0.0, 1.0, 2) + lens.centre_px
    off = replace(
        lens,
        focal_px=lens.focal_px * (1.0 + rng.normal(0.0, 0.002)),
        centre_px=(float(right), float(down)),
        k1=lens.k1 + rng.normal(0.0, 0.003),
    )
    return camera_of(off)


def calibrated(seed: int, rendered: bool, **options) -> tuple[Rig, HeadCalibration]:
    """A head drawn at random, and what its calibration found."""
    truth = draw_truth(seed)
    rig = Rig(truth)
    look = None if rendered else rig.sketch
    camera = guessed_camera(truth.lens, seed)
    return rig, calibrate_head(rig, rig.next_frame, camera, look=look, **options)


@dataclass(frozen=True)
class Judged:
    """How far a calibration is off."""

    gaze_rad: np.ndarray  # angle between where pixels look and where they are said to look
    centre_px: np.ndarray  # how far targets were from the middle of the picture when looked at
    steady_px: np.ndarray  # the same with servos that stop where they should
    delay_off_s: float
    backlash_off_rad: tuple[float, float]
    focal_off: float  # share
    held: dict[str, bool]  # whether the interval of each value holds the truth


def judged(rig: Rig, result: HeadCalibration, looks: int = 200, targets: int = 12) -> Judged:
    """Compares a calibration with what is true of the rig."""
    truth, head = rig.truth, result
    found = [servo.backlash_rad for servo in head.model.servos]
    return Judged(
        gaze_rad=_gaze_errors(truth, result, looks),
        centre_px=_centred(rig, result, targets),
        steady_px=_centred(Rig(steady(truth)), result, targets),
        delay_off_s=result.timing.delay_s - truth.delay_s,
        backlash_off_rad=tuple(
            f - s.backlash_rad for f, s in zip(found, truth.servos, strict=True)
        ),
        focal_off=head.camera.focal_px / truth.lens.focal_px - 1.0,
        held=_held(truth, result),
    )


def steady(truth: Truth) -> Truth:
    """The rig with servos that stop twice at the same place."""
    pan, tilt = (replace(servo, jitter_rad=0.0) for servo in truth.servos)
    return replace(truth, pan=pan, tilt=tilt)


def _gaze_errors(truth: Truth, result: HeadCalibration, looks: int) -> np.ndarray:
    """Angles (looks,) by which pixels at random pulses look elsewhere than they are said to."""
    rng = np.random.default_rng([truth.seed, 5])
    model, camera = result.model, result.camera
    low, high = np.transpose([(s.low_us, s.high_us) for s in truth.servos])
    believed, stands, errors = np.zeros(2), np.zeros(2), []
    for _ in range(looks):
        pulses = np.round(2.0 * rng.uniform(low, high)) / 2.0
        believed = model.stands(pulses, believed)
        for k, servo in enumerate(truth.servos):
            motor = servo.angle(pulses[k]) + rng.normal(0.0, servo.jitter_rad)
            half = 0.5 * servo.backlash_rad
            stands[k] = np.clip(stands[k], motor - half, motor + half)
        pixel = rng.uniform((0, 0), (truth.lens.width_px - 1, truth.lens.height_px - 1))
        said = model.rotation(believed) @ camera.rays_of_pixels(pixel)
        is_so = truth.rotation(stands) @ truth.lens.rays_of_pixels(pixel)
        errors.append(math.atan2(np.linalg.norm(np.cross(said, is_so)), said @ is_so))
    return np.array(errors)


def _centred(rig: Rig, result: HeadCalibration, targets: int) -> np.ndarray:
    """Distances (targets,) px of things from the middle of the picture once they are looked at.

    Closed loop on the rig: something seen at a pixel is given the angles the calibration says, the
    head is sent there, slowly as it was calibrated, and the thing is sought in the picture again.
    """
    rng, truth, model = np.random.default_rng([rig.truth.seed, 6]), rig.truth, result.model
    middle = 0.5 * (np.array([truth.lens.width_px, truth.lens.height_px]) - 1.0)
    low, high = np.array([np.array(servo.range_rad) * 0.8 for servo in model.servos]).T
    believed, distances = np.zeros(2), []

    def go(shafts) -> None:
        nonlocal believed
        pulses = model.pulses_towards(shafts, believed)
        told = rig.drive(*pulses, duration_s=1.5)
        believed = model.stands((told.pan, told.tilt), believed)
        while rig.next_frame().t_s < told.t_s + 2.5:
            pass

    go(high)
    while len(distances) < targets:
        go(rng.uniform(low, high))
        pixel = rng.uniform(0.1, 0.9, 2) * 2.0 * middle
        thing = truth.rotation(rig.shafts) @ truth.lens.rays_of_pixels(pixel)
        angles = angles_of_rays(model.rotation(believed) @ result.camera.rays_of_pixels(pixel))
        shafts = model.shafts_of_pointing(angles)
        if not ((shafts > low) & (shafts < high)).all():
            continue
        go(shafts)
        seen = truth.lens.pixels_of_rays(truth.rotation(rig.shafts).T @ thing)
        distances.append(float(np.linalg.norm(seen - middle)))
    return np.array(distances)


def _held(truth: Truth, result: HeadCalibration) -> dict[str, bool]:
    """Whether the interval of each estimate holds the truth."""
    head, lens = result, truth.lens
    guess = guessed_camera(lens, truth.seed)
    true = {
        "elevation": truth.elevation_rad,
        "roll": truth.roll_rad,
        "lean": truth.lean_rad,
        "yaw": truth.yaw_rad,
        "focal_share": lens.focal_px / guess.focal_px - 1.0,
        "centre_x_px": lens.centre_px[0] - guess.centre_px[0],
        "centre_y_px": lens.centre_px[1] - guess.centre_px[1],
        "pan_backlash": truth.pan.backlash_rad,
        "tilt_backlash": truth.tilt.backlash_rad,
    }
    held = {name: _within(head.estimate(name)[1:], value) for name, value in true.items()}
    for axis, servo in zip(("pan", "tilt"), truth.servos, strict=True):
        for share in (-0.8, -0.4, 0.4, 0.8):
            pulse = servo.home_us + share * (servo.high_us - servo.home_us)
            estimate = head.shaft(axis, pulse)
            held[f"{axis}_at_{share:+.1f}"] = _within(estimate[1:], servo.angle(pulse))
    held["delay"] = _within(result.timing.delay_interval_s, truth.delay_s)
    return held


def _within(interval, value: float) -> bool:
    low, high = interval
    return bool(low <= value <= high)
