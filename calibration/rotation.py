"""How far a camera turned between two pictures, from what both of them show.

No board is needed, only texture: corners of the two pictures are matched by their looks, and one
rotation is sought that most of the matches obey. What moved by itself obeys another, and is left
out as long as it is the lesser part. The camera is taken to turn about its own centre, or before a
scene that is far away compared with how far the centre travels.

A rotation here is the matrix (3, 3) that takes rays of the later camera frame to the earlier one:
R_before^T R_after for camera-to-base rotations R. Small deviations are rotation vectors on its
right: matrix @ exp(w).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from calibration.errors import CalibrationError
from calibration.model import CameraModel
from calibration.vectors import cross, crossed

WIDTH_PX = 640  # a larger picture is made smaller before corners are sought
CORNERS = 720  # of a picture at most, spread over GRID cells
GRID = 8, 6
UPSCALED_PX = 0.25
FEWEST = 20  # matches that must obey the rotation, from
FEWEST_CELLS = 6  # of the grid at least, and
SMALLEST_SHARE = 0.25  # what share of all matches they must be
UNLIKE_SHARE = 0.9  # how unlike a match may be, of how unlike the next best is (Lowe, 2004)
MOST_OFF_PX = 3.0  # of a match that obeys
GUESSES = 300  # of two matches each
SMALLEST_ERROR_RAD = math.radians(0.004)  # of each rotation: what is common to all its matches
LEAST_NOISE_PX = 0.1
ANYWHERE_RAD = math.radians(20.0)


@dataclass(frozen=True)
class Features:
    """The corners of a picture: pixels (N, 2) float64, and unit vectors (N, 128) float32 that are
    the more alike the more the corners are."""

    pixels: np.ndarray
    looks: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class Rotation:
    """A measured rotation and how well it is known.

    matrix: (3, 3). covariance: (3, 3) rad^2 of the rotation vector on its right, were the camera
    known exactly. information (7, 7) and gradient (7,): the squared misfit of the matches, in
    standard deviations, about x = (rotation vector rad, camera nudge): it is
    x^T information x + 2 gradient^T x and a constant; `nudged` tells what a nudge is.
    pixels_before, pixels_after (M, 2): the matches that obey; share: how many of all matches those
    are; noise_px: standard deviation of a match.
    """

    matrix: np.ndarray
    covariance: np.ndarray
    information: np.ndarray
    gradient: np.ndarray
    pixels_before: np.ndarray
    pixels_after: np.ndarray
    share: float
    noise_px: float

    @property
    def vector_rad(self) -> np.ndarray:
        """(3,) rotation vector: axis times angle."""
        return cv2.Rodrigues(self.matrix)[0][:, 0]

    @property
    def angle_rad(self) -> float:
        return float(np.linalg.norm(self.vector_rad))


def nudged(camera: CameraModel, nudge) -> CameraModel:
    """The camera with its focal lengths, centre and distortion a little off.

    nudge (4,): share by which both focal lengths are longer, px by which the optical centre lies
    further right and down, and what is added to k1.
    """
    grown, right_px, down_px, k1 = np.asarray(nudge, dtype=np.float64).tolist()
    focal_x, focal_y, centre_x, centre_y, *distortion = camera.parameters
    distortion[0] += k1
    focal = focal_x * (1.0 + grown), focal_y * (1.0 + grown)
    centre = centre_x + right_px, centre_y + down_px
    size = camera.width_px, camera.height_px
    return CameraModel.of_parameters(camera.lens, size, [*focal, *centre, *distortion])


def features_of(image: np.ndarray, width_px: int = WIDTH_PX) -> Features:
    """The strongest corners of each part of a picture (H, W, 3) BGR or (H, W) uint8; maybe none.

    width_px: the picture is made no wider than this first; half of it takes a quarter of the time.
    Raises CalibrationError for anything else.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise CalibrationError("a picture must be an array (H, W, 3) or (H, W) of uint8")
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    scale = max(1.0, grey.shape[1] / width_px)
    if scale > 1.0:
        grey = cv2.resize(grey, None, fx=1.0 / scale, fy=1.0 / scale, interpolation=cv2.INTER_AREA)
    finder, off_px = _finder()
    corners, looks = finder.detectAndCompute(grey, None)  # one by one, each would scale the picture
    if looks is None:
        return Features(np.empty((0, 2)), np.empty((0, 128), np.float32))
    best = _spread(corners, grey.shape)
    looks = looks[best]
    looks = looks / np.maximum(np.linalg.norm(looks, axis=1, keepdims=True), 1e-6)
    pixels = np.array([corners[k].pt for k in best], np.float64) - off_px
    return Features((pixels + 0.5) * scale - 0.5, looks)


def _finder() -> tuple[cv2.SIFT, float]:
    """What finds corners, and by how much it has them too far to the right and down, in pixels."""
    try:
        return cv2.SIFT.create(2 * CORNERS, enable_precise_upscale=True), 0.0
    except (cv2.error, TypeError):  # OpenCV before 4.8, which doubles pictures about their corner
        return cv2.SIFT.create(2 * CORNERS), UPSCALED_PX


def _spread(corners, shape: tuple[int, int]) -> list[int]:
    """Which corners are the strongest of their cell of the picture.

    One busy thing must not outvote the rest.
    """
    height, width = shape
    most = CORNERS // (GRID[0] * GRID[1])
    cells: dict[tuple[int, int], list[int]] = {}
    for k in sorted(range(len(corners)), key=lambda k: -corners[k].response):
        x, y = corners[k].pt
        cell = cells.setdefault((int(x * GRID[0] / width), int(y * GRID[1] / height)), [])
        if len(cell) < most:
            cell.append(k)
    return [k for cell in cells.values() for k in cell]


def rotation_between(
    before: Features,
    after: Features,
    camera: CameraModel,
    expected: np.ndarray | None = None,
    within_rad: float = ANYWHERE_RAD,
    seed: int = 0,
) -> Rotation | None:
    """The rotation between two pictures of one camera; None where too little agrees on one.

    expected: matrix (3, 3) of what it should be, if that is known (else no turn at all), and how
    far off that may be. The less, the less can be mistaken.
    """
    matches = _matches(before, after, camera, expected, within_rad)
    return None if matches is None else rotation_of_matches(matches[0], matches[1], camera, seed)


def turn_between(before: Features, after: Features, camera: CameraModel) -> np.ndarray | None:
    """The rotation vector (3,) of `rotation_between`, sooner: not how well it is known."""
    matches = _matches(before, after, camera, None, ANYWHERE_RAD)
    if matches is None:
        return None
    pixels_before, pixels_after = matches
    obeyed = _obeyed(pixels_before, pixels_after, camera, 0)
    if obeyed is None:
        return None
    matrix, obeys = obeyed
    refined = _refined(matrix, pixels_before[obeys], pixels_after[obeys], camera)
    return cv2.Rodrigues(refined.matrix)[0][:, 0]


def _matches(
    before: Features, after: Features, camera: CameraModel, expected: np.ndarray | None, within_rad
) -> tuple[np.ndarray, np.ndarray] | None:
    """Pixels (M, 2), (M, 2) of corners that look alike; None where there are too few corners."""
    if min(len(before), len(after)) < FEWEST:
        return None
    expected = np.eye(3) if expected is None else expected
    alike = before.looks @ after.looks.T
    rays_before = camera.rays_of_pixels(before.pixels)
    rays_after = camera.rays_of_pixels(after.pixels) @ expected.T
    np.putmask(alike, rays_before @ rays_after.T < math.cos(within_rad), -1.0)
    here, there = _matched(alike)
    return before.pixels[here], after.pixels[there]


def _matched(alike: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns that are each other's most alike, and clearly more so than the next."""
    there, back = alike.argmax(axis=1), alike.argmax(axis=0)
    second, best = np.moveaxis(np.partition(alike, -2, axis=1)[:, -2:], -1, 0)
    clear = 1.0 - best < UNLIKE_SHARE**2 * (1.0 - second)  # squares of how far unit vectors are
    here = np.flatnonzero((back[there] == np.arange(len(there))) & clear & (best > 0.0))
    return here, there[here]


def rotation_of_matches(
    pixels_before: np.ndarray, pixels_after: np.ndarray, camera: CameraModel, seed: int = 0
) -> Rotation | None:
    """The rotation that most matches (M, 2), (M, 2) obey; None where too few do."""
    obeyed = _obeyed(pixels_before, pixels_after, camera, seed)
    if obeyed is None:
        return None
    matrix, obeys = obeyed
    return measured(matrix, pixels_before[obeys], pixels_after[obeys], camera, obeys.mean())


def _obeyed(pixels_before, pixels_after, camera, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """That rotation (3, 3), about, and which matches (M,) obey it; None where too few do."""
    if len(pixels_before) < FEWEST:
        return None
    rays_before = camera.rays_of_pixels(pixels_before)
    rays_after = camera.rays_of_pixels(pixels_after)
    most_off = MOST_OFF_PX / camera.focal_px
    cells = _cells(pixels_before, camera)
    rng = np.random.default_rng(seed)
    matrix = _consensus(rays_before, rays_after, cells, most_off, rng)
    for _ in range(3):
        obeys = np.linalg.norm(rays_before - rays_after @ matrix.T, axis=-1) < most_off
        enough = obeys.sum() >= max(FEWEST, SMALLEST_SHARE * len(obeys))
        if not enough or cells[obeys].any(axis=0).sum() < FEWEST_CELLS:
            return None
        matrix = _aligned(rays_before[obeys], rays_after[obeys])
    return matrix, obeys


def _cells(pixels: np.ndarray, camera: CameraModel) -> np.ndarray:
    """(M, cells) which cell of the grid each of pixels (M, 2) is in."""
    column = np.clip(pixels[:, 0] * GRID[0] / camera.width_px, 0, GRID[0] - 1).astype(int)
    row = np.clip(pixels[:, 1] * GRID[1] / camera.height_px, 0, GRID[1] - 1).astype(int)
    return np.arange(GRID[0] * GRID[1]) == (row * GRID[0] + column)[:, None]


def _consensus(rays_before, rays_after, cells, most_off, rng) -> np.ndarray:
    """The rotation, of GUESSES by two matches each, that is obeyed in most cells of the picture.

    Not by most matches: one thing that moves may have more corners than all that stands still.
    """
    picks = rng.integers(0, len(rays_before), (GUESSES, 2))
    frames_before, frames_after = _frames(rays_before[picks]), _frames(rays_after[picks])
    guesses = frames_before @ np.swapaxes(frames_after, -1, -2)
    some = rng.permutation(len(rays_before))[:200]
    # Two unit rays are the root of 2 - 2 (their product) apart: products of all guesses at once.
    pairs = rays_before[some, :, None] * rays_after[some, None, :]
    alike = guesses.reshape(-1, 9) @ pairs.reshape(-1, 9).T
    obeys = 2.0 - 2.0 * alike < most_off**2
    in_cells = obeys.astype(np.float32) @ cells[some].astype(np.float32)
    return guesses[np.argmax(np.sqrt(in_cells).sum(axis=-1))]


def _frames(pairs: np.ndarray) -> np.ndarray:
    """Orthonormal frames (..., 3, 3), as columns, of two rays (..., 2, 3)."""
    first = pairs[..., 0, :] + pairs[..., 1, :]
    third = cross(pairs[..., 0, :], pairs[..., 1, :])
    frame = np.stack([first, cross(third, first), third], axis=-1)
    return frame / np.maximum(np.linalg.norm(frame, axis=-2, keepdims=True), 1e-12)


def _aligned(rays_before, rays_after) -> np.ndarray:
    """The rotation with the least squared misfit."""
    left, _, right = np.linalg.svd(rays_before.T @ rays_after)
    turned = np.diag([1.0, 1.0, np.linalg.det(left @ right)])
    return left @ turned @ right


class _Refined(NamedTuple):
    """A rotation that fits its matches best, and how."""

    matrix: np.ndarray
    rays_before: np.ndarray  # (M, 3)
    rays_after: np.ndarray
    across: np.ndarray  # (M, 2, 3) the directions in which a match may be off
    by_vector: np.ndarray  # (M, 2, 3) what a rotation vector on the right does to that
    off: np.ndarray  # (M, 2) px
    weight: np.ndarray  # (M,)
    noise_px: float


def _refined(matrix, pixels_before, pixels_after, camera: CameraModel) -> _Refined:
    focal = np.array(camera.focal_px)
    rays_before = camera.rays_of_pixels(pixels_before)
    rays_after = camera.rays_of_pixels(pixels_after)
    across = _across(rays_before)
    for _ in range(4):
        off = _dot(across, rays_after @ matrix.T - rays_before) * focal
        noise_px = max(LEAST_NOISE_PX, 1.4826 * np.median(np.abs(off)))
        weight = 1.0 / (1.0 + np.sum(off * off, axis=-1) / (2.0 * noise_px) ** 2)
        by_vector = -across @ matrix @ crossed(rays_after) * focal
        information, gradient = _normal(by_vector, off, weight / noise_px**2)
        step = -np.linalg.solve(information, gradient)
        matrix = matrix @ cv2.Rodrigues(step)[0]
    off = off + by_vector @ step
    return _Refined(matrix, rays_before, rays_after, across, by_vector, off, weight, noise_px)


def measured(matrix, pixels_before, pixels_after, camera: CameraModel, share: float) -> Rotation:
    """The rotation by matches (M, 2), (M, 2) that obey, nearly, `matrix`: refined and judged."""
    fit = _refined(matrix, pixels_before, pixels_after, camera)
    matrix = fit.matrix
    # What a nudge does is taken half-way between both corners of a match: where they were seen it
    # would go along with what they are off by, and the focal length come out too long.
    middle = fit.rays_before + fit.rays_after @ matrix.T
    nudged_before = _rays_by_nudge(camera, middle, pixels_before)
    nudged_after = _rays_by_nudge(camera, middle @ matrix, pixels_after)
    by_nudge = fit.across @ (matrix @ nudged_after - nudged_before) * np.array(camera.focal_px)
    slopes = np.concatenate([fit.by_vector, by_nudge], axis=-1)
    information, gradient = _normal(slopes, fit.off, fit.weight / fit.noise_px**2)
    information, gradient = _no_surer(information, gradient)
    return Rotation(
        matrix,
        np.linalg.inv(information[:3, :3]),
        information,
        gradient,
        pixels_before,
        pixels_after,
        float(share),
        float(fit.noise_px),
    )


def _normal(slopes, off, weight) -> tuple[np.ndarray, np.ndarray]:
    """Information (n, n) and gradient (n,) of slopes (M, 2, n), residuals (M, 2), weights (M,)."""
    weighted = (slopes * weight[:, None, None]).reshape(-1, slopes.shape[-1])
    return weighted.T @ slopes.reshape(weighted.shape), weighted.T @ off.ravel()


def _no_surer(information, gradient) -> tuple[np.ndarray, np.ndarray]:
    """The same misfit when the rotation is off by SMALLEST_ERROR_RAD besides (Woodbury)."""
    total = information[:3, :3] + np.eye(3) / SMALLEST_ERROR_RAD**2
    shrunk = information[:, :3] @ np.linalg.inv(total)
    return information - shrunk @ information[:3], gradient - shrunk @ gradient[:3]


def _rays_by_nudge(camera: CameraModel, rays, pixels) -> np.ndarray:
    """Derivative (M, 3, 4), by a nudge of the camera, of rays (M, 3) where they are seen.

    That is at `pixels` (M, 2), about, which are taken where the lens does not reach.
    """
    there = camera.pixels_of_rays(rays)
    by_parameter = camera.rays_by_parameters(np.where(np.isnan(there), pixels, there))
    by_focal = by_parameter[..., :2] @ np.array(camera.parameters[:2])
    return np.concatenate([by_focal[..., None], by_parameter[..., 2:5]], axis=-1)


def _across(rays: np.ndarray) -> np.ndarray:
    """Two unit vectors (M, 2, 3) at right angles to each ray (M, 3) and to each other."""
    across = np.zeros((*rays.shape[:-1], 2, 3))
    right = across[..., 0, :]
    right[..., 0], right[..., 2] = rays[..., 2], -rays[..., 0]  # down x ray
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    across[..., 1, :] = cross(rays, right)
    return across


def _dot(across: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.einsum("mij,mj->mi", across, vectors)
