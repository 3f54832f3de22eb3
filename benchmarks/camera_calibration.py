"""Cameras drawn at random before boards held at random: what they see, and the truth.

    python -m benchmarks.camera_calibration [--cameras N] [--processes N]

Nothing of the solver is used to draw them: lenses are worked out here on their own. What is seen
is simulated as corners with noise; tests/calibration/test_camera.py renders pictures, too.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from calibration.board import Board, Sighting
from calibration.camera import CameraCalibration, calibrate_camera

DOTS_PER_M = 6000.0
SIZES = [(640, 480), (1280, 720), (1920, 1080)]


class Camera(NamedTuple):
    """A true camera: distortion as OpenCV has it."""

    lens: str
    size: tuple[int, int]
    focal: np.ndarray  # (2,) px
    centre: np.ndarray  # (2,) px
    distortion: np.ndarray

    @property
    def parameters(self) -> np.ndarray:
        return np.concatenate([self.focal, self.centre, self.distortion])

    def see(self, points) -> np.ndarray:
        """Pixels (n, 2) of points (n, 3) in its frame; NaN behind it."""
        x, y, z = points.T
        if self.lens == "fisheye":
            angle = np.arccos(z / np.linalg.norm(points, axis=1))
            turn = np.arctan2(y, x)
            powers = angle ** np.array([[3], [5], [7], [9]])
            far = angle + self.distortion @ powers
            bent = far * np.stack([np.cos(turn), np.sin(turn)])
        else:
            k1, k2, p1, p2, k3 = self.distortion
            u, v = np.where(z > 0.05 * np.linalg.norm(points, axis=1), np.stack([x, y]) / z, np.nan)
            r = np.hypot(u, v)
            radial = 1 + k1 * r**2 + k2 * r**4 + k3 * r**6
            slant = 2 * (p1 * v + p2 * u)
            bent = np.stack([u, v]) * (radial + slant) + r**2 * np.array([[p2], [p1]])
        return bent.T * self.focal + self.centre


def draw_camera(rng: np.random.Generator, lens: str) -> Camera:
    """A webcam of 50 to 95 degrees, or a fisheye of 120 to 180."""
    size = SIZES[rng.integers(len(SIZES))]
    width, _ = size
    aspect = 1.0 + 0.003 * rng.standard_normal()
    centre = 0.5 * (np.array(size) - 1.0) + 0.015 * width * rng.standard_normal(2)
    if lens == "fisheye":
        view_rad = math.radians(rng.uniform(120.0, 180.0))
        focal = width / view_rad
        distortion = rng.uniform([-0.06, -0.01, -0.002, -0.0005], [0.08, 0.01, 0.002, 0.0005])
    else:
        view_rad = math.radians(rng.uniform(50.0, 95.0))
        focal = 0.5 * width / math.tan(0.5 * view_rad)
        corner = math.hypot(*size) / 2.0 / focal
        # a barrel of up to 25 % at the picture's corner, now and then a slight cushion
        k1 = rng.uniform(-0.25, 0.03) / corner**2
        k2 = rng.uniform(0.2, 0.5) * k1 * k1
        k3 = rng.normal(0.0, 0.01) / corner**6
        distortion = np.array([k1, k2, *rng.normal(0.0, 0.0007, 2), k3])
    return Camera(lens, size, focal * np.array([1.0, aspect]), centre, distortion)


def draw_board_at(rng, camera: Camera, board: Board) -> np.ndarray:
    """Corners (N, 3) in the camera frame of a board held somewhere in the picture, aslant."""
    points = board.points - board.points.mean(0)
    wide = np.ptp(points[:, 0])
    tilt_rad = math.radians(rng.uniform(5.0, 50.0))
    about = rng.uniform(0.0, 2.0 * math.pi)
    tilt = Rotation.from_rotvec(tilt_rad * np.array([math.cos(about), math.sin(about), 0.0]))
    roll = Rotation.from_euler("z", rng.uniform(-30.0, 30.0), degrees=True)
    if camera.lens == "fisheye":
        angle, turn = math.radians(rng.uniform(0.0, 65.0)), rng.uniform(0.0, 2.0 * math.pi)
        away = wide / rng.uniform(0.6, 1.4)
    else:
        target = (rng.uniform(0.12, 0.88, 2) * camera.size - camera.centre) / camera.focal
        angle, turn = math.atan(np.hypot(*target)), math.atan2(target[1], target[0])
        away = wide * camera.focal[0] / camera.size[0] / rng.uniform(0.25, 0.65)
    # turned so that the board faces the camera from there, but for the tilt
    facing = Rotation.from_rotvec(angle * np.array([-math.sin(turn), math.cos(turn), 0.0]))
    return (facing * tilt * roll).apply(points) + facing.apply([0.0, 0.0, away])


class Noise(NamedTuple):
    """What is wrong with what is seen."""

    corner_px: float = 0.1  # each way, of each corner
    view_share: float = 0.5  # by how much that differs between views, as a logarithm
    outliers: float = 0.01  # share of corners off by 2 to 10 px
    board_share: float = 0.0  # of a square: how far the print is off


def draw_sightings(rng, camera: Camera, board: Board, count: int, noise: Noise) -> list[Sighting]:
    """Views in which at least half the board is in the picture."""
    bent = noise.board_share * board.square_m * rng.standard_normal((len(board.points), 3))
    board_was, sightings = board.points + bent, []
    while len(sightings) < count:
        flat = draw_board_at(rng, camera, board)
        turn, _ = Rotation.align_vectors(flat - flat.mean(0), board.points - board.points.mean(0))
        pixels = camera.see(turn.apply(board_was - board.points.mean(0)) + flat.mean(0))
        with np.errstate(invalid="ignore"):
            inside = ((pixels > 3.0) & (pixels < np.array(camera.size) - 4.0)).all(1)
        inside &= (flat * flat.mean(0)).sum(1) > 0.0
        ids = np.flatnonzero(inside)
        if len(ids) < 0.5 * len(flat) or np.ptp(ids % board.columns) < 3:
            continue
        noise_px = noise.corner_px * math.exp(noise.view_share * rng.standard_normal())
        seen = pixels[ids] + noise_px * rng.standard_normal((len(ids), 2))
        wrong = rng.random(len(ids)) < noise.outliers
        way = rng.uniform(0.0, 2.0 * math.pi, wrong.sum())
        seen[wrong] += rng.uniform(2.0, 10.0, (wrong.sum(), 1)) * np.stack(
            [np.cos(way), np.sin(way)], -1
        )
        seen = np.clip(seen, 0.0, np.array(camera.size) - 1.0)
        sightings.append(Sighting(ids, seen, 2.0))
    return sightings


def render(rng, camera: Camera, board: Board, corners: np.ndarray) -> np.ndarray:
    """A picture (H, W) uint8 of the board whose corners (N, 3) are there, shaded and with noise.

    Every pixel is the mean of nine rays, each followed to the plane of the board.
    """
    drawing = cv2.GaussianBlur(board.draw(DOTS_PER_M), (0, 0), 1.0)
    flat = board.points - board.points.mean(0)
    turn, _ = Rotation.align_vectors(corners - corners.mean(0), flat)
    turn, origin = turn.as_matrix(), corners[0]
    rays = _rays_of_all_pixels(camera)
    with np.errstate(all="ignore"):
        away = (turn[:, 2] @ origin) / (rays @ turn[:, 2])
        on_board = (rays * away[..., None] - origin) @ turn[:, :2] + 2.0 * board.square_m
    on_board[~(away > 0.0)] = -1.0
    dots = (on_board * DOTS_PER_M - 0.5).astype(np.float32)
    fine = cv2.remap(drawing, dots, None, cv2.INTER_LINEAR, None, cv2.BORDER_CONSTANT, 120)
    width, height = camera.size
    grey = fine.reshape(height, 3, width, 3).mean((1, 3))
    shade = np.linspace(0.6, 0.95, width) * np.linspace(0.9, 1.0, height)[:, None]
    return np.clip(20 + shade * 0.8 * grey + rng.normal(0.0, 2.0, grey.shape), 0, 255).astype(
        np.uint8
    )


@cache
def _rays(lens: str, size, focal, centre, distortion) -> np.ndarray:
    """Rays (3 H, 3 W, 3) of the nine parts of each pixel, the lens undone by simple iteration."""
    width, height = size
    x, y = np.meshgrid(
        ((np.arange(3 * width) - 1.0) / 3.0 - centre[0]) / focal[0],
        ((np.arange(3 * height) - 1.0) / 3.0 - centre[1]) / focal[1],
    )
    u, v = x, y
    k1, k2, p1, p2, k3 = distortion
    for _ in range(40):
        before_u, before_v = u, v
        r = u * u + v * v
        radial = 1.0 + r * (k1 + r * (k2 + r * k3))
        slant_u, slant_v = (
            2 * p1 * u * v + p2 * (r + 2 * u * u),
            p1 * (r + 2 * v * v) + 2 * p2 * u * v,
        )
        u, v = (x - slant_u) / radial, (y - slant_v) / radial
        if max(abs(u - before_u).max(), abs(v - before_v).max()) < 1e-9:
            break
    return np.stack([u, v, np.ones_like(u)], axis=-1)


def _rays_of_all_pixels(camera: Camera) -> np.ndarray:
    return _rays(camera.lens, camera.size, *map(tuple, camera[2:]))


def one(seed: int, lens: str, noise: Noise, count: int) -> tuple[Camera, CameraCalibration, float]:
    """A camera, what the solver makes of it, and the seconds that took."""
    rng = np.random.default_rng(seed)
    camera, board = draw_camera(rng, lens), Board("charuco", 9, 6, 0.025)
    sightings = draw_sightings(rng, camera, board, count, noise)
    began = time.perf_counter()
    found = calibrate_camera(board, sightings, camera.size)
    return camera, found, time.perf_counter() - began


class Outcome(NamedTuple):
    """How far a solution is from the truth."""

    lens: str
    right_lens: bool
    shaped: bool
    focal_error: float  # the worse, relative
    centre_error_px: float
    held: np.ndarray  # (parameters,) whether the intervals hold the truth
    kept_share: float  # of the good corners
    seconds: float


def outcome(seed: int, lens: str, noise: Noise, count: int) -> Outcome:
    """Solve for one camera and compare."""
    camera, found, seconds = one(seed, lens, noise, count)
    right = found.model.lens == lens
    truth, at = camera.parameters, np.array(found.model.parameters)
    low, high = found.intervals.T
    fitted = found.std > 0.0
    count = len(truth) if right else 4
    held = (
        ((low <= truth[:count]) & (truth[:count] <= high))[fitted[:count]]
        if right
        else np.zeros(0, bool)
    )
    return Outcome(
        lens,
        right,
        bool(found.bent_m.any()),
        float(abs(at[:2] / truth[:2] - 1.0).max()),
        float(np.hypot(*(at[2:4] - truth[2:4]))),
        held,
        found.corners_used / found.corners_seen,
        seconds,
    )


def _job(job) -> Outcome:
    return outcome(*job)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cameras", type=int, default=100, help="of each lens (default 100)")
    parser.add_argument("--views", type=int, default=16, help="of each camera (default 16)")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--board",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of a square: how far the print is off",
    )
    options = parser.parse_args()
    noise = Noise(board_share=options.board)
    for lens in ("pinhole", "fisheye"):
        jobs = [(seed, lens, noise, options.views) for seed in range(options.cameras)]
        with multiprocessing.Pool(options.processes) as pool:
            outcomes = pool.map(_job, jobs, chunksize=1)
        _print(lens, outcomes)


def _print(lens: str, outcomes: list[Outcome]) -> None:
    focal = 100.0 * np.array([o.focal_error for o in outcomes])
    centre = np.array([o.centre_error_px for o in outcomes])
    held = np.concatenate([o.held for o in outcomes])
    seconds = np.array([o.seconds for o in outcomes])
    print(
        f"{lens}: {len(outcomes)} cameras, lens right {sum(o.right_lens for o in outcomes)}, board "
        f"measured {sum(o.shaped for o in outcomes)}\n"
        f"  focal length off by {np.median(focal):.3f} % (median), {focal.max():.3f} % at most, "
        f"{(focal < 0.5).sum()} within 0.5 %\n"
        f"  centre off by {np.median(centre):.2f} px (median), {centre.max():.2f} px at most\n"
        f"  {100 * held.mean():.1f} % of {len(held)} intervals hold the truth\n"
        f"  {100 * np.mean([o.kept_share for o in outcomes]):.2f} % of corners kept, "
        f"{np.median(seconds):.2f} s (median), {seconds.max():.2f} s at most"
    )
    by = np.array(
        [
            np.pad(o.held.astype(float), (0, 9 - len(o.held)), constant_values=np.nan)
            for o in outcomes
            if len(o.held)
        ]
    )
    print("  by parameter", np.round(100 * np.nanmean(by, axis=0), 1))


if __name__ == "__main__":
    main()
