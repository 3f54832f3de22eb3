"""One camera and many views of one board, fitted to each other by least squares.

The unknowns are the lens parameters, where the board was in each view, and, where asked for, by how
much each corner of the board is away from where it should be (printers stretch, paper bends). Where
the board was is solved for within every step of the others (variable projection), so the problem
that `scipy.optimize` sees has few unknowns however many views there are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from calibration.model import CameraModel, parameter_names, project, project_points
from calibration.vectors import cross, crossed

FOCAL_TRIES = np.geomspace(0.25, 5.0, 20)  # in widths of the picture
SETTLED = 1e-7  # radians, and shares of the board's size: the last step is far more exact
MOST_ROUNDS = 40
LOST_PX = 1e6


class Views(NamedTuple):
    """What was seen: every array padded to all corners of the board."""

    points: np.ndarray  # (N, 3) corners of the board, where they should be
    pixels: np.ndarray  # (V, N, 2), 0 where not seen
    seen: np.ndarray  # (V, N) bool
    size: tuple[int, int]  # width and height of the picture, in pixels

    def only(self, which) -> Views:
        """These views of them."""
        return self._replace(pixels=self.pixels[which], seen=self.seen[which])


class Fit(NamedTuple):
    """A camera and where the board was."""

    lens: str
    parameters: np.ndarray  # (P,)
    free: np.ndarray  # (P,) bool: which were fitted
    rotations: np.ndarray  # (V, 3, 3) from board to camera
    places: np.ndarray  # (V, 3) of the board's origin in the camera frame
    bent: np.ndarray  # (N, 3) of each corner from where it should be
    shape_std: float | None  # by how much a corner may be off; None: `bent` is not fitted
    noise_px: float  # what residuals are expected, against which `shape_std` is weighed

    def only(self, which) -> Fit:
        """The fit with only these places of the board."""
        return self._replace(rotations=self.rotations[which], places=self.places[which])


class Linear(NamedTuple):
    """A fit about itself: what small changes do to the residuals, the board's places adjusted."""

    residuals: np.ndarray  # (V, N, 2) pixels, predicted less seen; 0 where not seen
    by_unknown: np.ndarray  # (V, N, 2, G): free parameters, then `bent` if it was fitted
    prior: np.ndarray  # (G,) noise_px / std of what is known of an unknown beforehand


def start(lens: str, views: Views) -> Fit:
    """A first guess, without distortion: the focal length at which boards are flattest."""
    guesses = (_guess(lens, views, focal_px) for focal_px in FOCAL_TRIES * views.size[0])
    return min(guesses, key=lambda fit: float(np.median(distances(fit, views)[views.seen])))


def _guess(lens: str, views: Views, focal_px: float) -> Fit:
    """A camera of this focal length, without distortion, and where the board then was."""
    width, height = views.size
    parameters = np.zeros(len(parameter_names(lens)))
    parameters[:4] = focal_px, focal_px, 0.5 * (width - 1), 0.5 * (height - 1)
    rays = _undistorted_rays(lens, parameters, views.pixels)
    rotations, places = poses_of_plane(views.points, rays, views.seen)
    return Fit(
        lens, parameters, np.ones(len(parameters), bool), rotations, places,
        np.zeros_like(views.points), None, 1.0,
    )  # fmt: skip


def refine(fit: Fit, views: Views, weights: np.ndarray) -> Fit:
    """The least squares fit that starts from this one; weights (V, N) of squared residuals."""
    bundle = _Bundle(fit, views, weights)
    solution = least_squares(
        bundle.residuals,
        bundle.start,
        bundle.jacobian,
        x_scale="jac",
        xtol=1e-10,
        ftol=1e-10,
        gtol=1e-12,
        max_nfev=MOST_ROUNDS,
    )
    return bundle.fit_at(solution.x)


def placed(fit: Fit, views: Views, weights: np.ndarray) -> Fit:
    """The same camera and board, the board's places found anew in these views.

    Seen from afar, a board and its mirror image behind the line of sight look almost the same, so
    either is tried. weights as in `refine`.
    """
    camera = CameraModel.of_parameters(fit.lens, views.size, fit.parameters)
    rays = camera.rays_of_pixels(views.pixels)
    rotations, places = poses_of_plane(views.points, rays, views.seen)
    one = _settled(fit._replace(rotations=rotations, places=places), views, weights)
    other = _settled(_mirrored(one, views), views, weights)
    return better(one, other, views)


def better(one: Fit, other: Fit, views: Views) -> Fit:
    """The first fit, with those places of the second that explain most of their views better."""
    usual = [_medians(distances(fit, views), views.seen) for fit in (one, other)]
    pick = (usual[1] < usual[0])[:, None]
    return one._replace(
        rotations=np.where(pick[..., None], other.rotations, one.rotations),
        places=np.where(pick, other.places, one.places),
    )


def _medians(off: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The median (V,) of off (V, N) where seen (V, N); NaN for a view with nothing seen."""
    ordered = np.sort(np.where(seen, off, np.nan), axis=1)  # NaN comes last
    count, view = seen.sum(axis=1), np.arange(len(off))
    return 0.5 * (ordered[view, np.maximum(count - 1, 0) // 2] + ordered[view, count // 2])


def _mirrored(fit: Fit, views: Views) -> Fit:
    """The fit with each board tilted the other way about its middle."""
    middle = views.points.mean(axis=0)
    at = fit.rotations @ middle + fit.places
    sight = at / np.maximum(np.linalg.norm(at, axis=1, keepdims=True), 1e-12)
    half_turn = 2.0 * sight[:, :, None] * sight[:, None] - np.eye(3)
    rotations = half_turn @ fit.rotations @ np.diag([-1.0, -1.0, 1.0])
    return fit._replace(rotations=rotations, places=at - rotations @ middle)


def residuals(fit: Fit, views: Views) -> np.ndarray:
    """Where (V, N, 2) the fit has each corner, less where it was seen, in pixels."""
    with np.errstate(all="ignore"):
        return project_points(fit.lens, fit.parameters, _in_camera(fit, views))[0] - views.pixels


def distances(fit: Fit, views: Views) -> np.ndarray:
    """How far (V, N) each corner was seen from where the fit has it, in pixels; inf if behind."""
    away = np.hypot(*np.moveaxis(residuals(fit, views), -1, 0))
    return np.where(np.isfinite(away), away, np.inf)


def linearised(fit: Fit, views: Views, weights: np.ndarray) -> Linear:
    """The fit about itself, weighted."""
    at = _in_camera(fit, views)
    root = np.sqrt(weights * views.seen, dtype=np.float64)[..., None]
    with np.errstate(all="ignore"):
        pixels, by_point, by_parameter = project(fit.lens, fit.parameters, at)
        residuals = root * (pixels - views.pixels)
        by_pose = root[..., None] * _by_pose(by_point, at, fit)
    # Where no number is left, as `_pose_system` has it.
    lost = ~(np.isfinite(residuals).all(-1) & np.isfinite(by_parameter).all((-1, -2)))
    lost |= ~np.isfinite(by_pose).all((-1, -2))
    residuals[lost] = LOST_PX * root[lost]
    by_point[lost], by_pose[lost], by_parameter[lost] = 0.0, 0.0, 0.0
    count, corners = int(fit.free.sum()), len(views.points)
    unknowns = count + (3 * corners if fit.shape_std else 0)
    by_unknown = np.zeros((*residuals.shape, unknowns))
    by_unknown[..., :count] = by_parameter[..., fit.free]
    prior = np.zeros(unknowns)
    if fit.shape_std:
        by_bent = by_point @ fit.rotations[:, None]
        index = np.arange(corners)
        blocks = by_unknown[..., count:].reshape(*residuals.shape, corners, 3)
        blocks[:, index, :, index] = by_bent.swapaxes(0, 1)
        prior[count:] = fit.noise_px / fit.shape_std
    by_unknown *= root[..., None]
    return Linear(residuals, _without(by_pose, by_unknown), prior)


def poses_of_plane(points, rays, seen) -> tuple[np.ndarray, np.ndarray]:
    """Where a flat board is: rotations (V, 3, 3) and places (V, 3), from rays (V, N, 3) to it.

    The direct linear solution: each ray is along H (x, y, 1), so its cross product with that is 0.
    """
    middle, scale = points.mean(0), points.std()
    x, y, _ = ((points - middle) / scale).T
    flat = np.stack([x, y, np.ones_like(x)], axis=-1)  # (N, 3)
    rays = rays * seen[..., None]
    square = np.einsum("vni,vnj->vnij", rays, rays)
    # |ray x H p|^2 = h' ((|ray|^2 I - ray ray') (x) p p') h
    across = (rays**2).sum(-1)[..., None, None] * np.eye(3) - square
    normal = np.einsum("vnij,nk,nl->vikjl", across, flat, flat).reshape(-1, 9, 9)
    H = np.linalg.eigh(normal)[1][..., 0].reshape(-1, 3, 3)
    ahead = np.einsum("vni,vij,nj->v", rays, H, flat)
    H = H * np.where(ahead < 0.0, -1.0, 1.0)[:, None, None]
    H = H * (2.0 / np.linalg.norm(H[..., :2], axis=1).sum(-1))[:, None, None]
    rough = np.concatenate([H[..., :2], np.cross(H[..., 0], H[..., 1])[..., None]], axis=-1)
    left, _, right = np.linalg.svd(rough)
    left[..., 2] *= np.linalg.det(left @ right)[:, None]
    rotations = left @ right
    return rotations, H[..., 2] * scale - rotations @ middle


class _Bundle:
    """Residuals and Jacobian for scipy, of the lens and the board's shape; remembers the places."""

    def __init__(self, fit: Fit, views: Views, weights: np.ndarray) -> None:
        self._fit, self._views, self._weights = fit, views, weights
        self._at: np.ndarray | None = None
        bent = fit.bent.ravel() if fit.shape_std else np.empty(0)
        self.start = np.concatenate([fit.parameters[fit.free], bent])

    def fit_at(self, unknowns: np.ndarray) -> Fit:
        """The fit with these unknowns, the board where it then fits best."""
        if self._at is None or not np.array_equal(self._at, unknowns):
            count = int(self._fit.free.sum())
            parameters = self._fit.parameters.copy()
            parameters[self._fit.free] = unknowns[:count]
            fit = self._fit._replace(parameters=parameters)
            if fit.shape_std:
                fit = fit._replace(bent=unknowns[count:].reshape(-1, 3))
            self._fit = _settled(fit, self._views, self._weights)
            self._at = unknowns.copy()
            self._linear = linearised(self._fit, self._views, self._weights)
        return self._fit

    def residuals(self, unknowns: np.ndarray) -> np.ndarray:
        self.fit_at(unknowns)
        known = self._linear.prior > 0.0
        prior = (self._linear.prior * unknowns)[known]
        return np.concatenate([self._linear.residuals.ravel(), prior])

    def jacobian(self, unknowns: np.ndarray) -> np.ndarray:
        self.fit_at(unknowns)
        known = self._linear.prior > 0.0
        prior = np.diag(self._linear.prior)[known]
        return np.vstack([self._linear.by_unknown.reshape(-1, len(unknowns)), prior])


def _settled(fit: Fit, views: Views, weights: np.ndarray) -> Fit:
    """The fit with the board where it fits best in each view: damped Gauss-Newton, all at once."""
    root = np.sqrt(weights * views.seen, dtype=np.float64)
    size = views.points.std()
    damping = np.full(len(fit.places), 1e-4)
    residuals, by_pose = _pose_system(fit, views, root)
    cost = (residuals**2).sum(1)
    for _ in range(MOST_ROUNDS):
        across = by_pose.swapaxes(-1, -2)
        normal, slope = across @ by_pose, across @ residuals[..., None]
        diagonal = np.einsum("vii->vi", normal)
        # A view that says nothing of its place (seen from the edge, all weights 0) stays put.
        scale = damping[:, None] * diagonal + 1e-12 * diagonal.sum(1, keepdims=True) + 1e-12
        step = -np.linalg.solve(normal + scale[..., None] * np.eye(6), slope)[..., 0]
        tried = _moved(fit, step)
        new_residuals, new_by_pose = _pose_system(tried, views, root)
        new_cost = (new_residuals**2).sum(1)
        better = new_cost <= cost
        if better.all():  # as is usual
            fit, residuals, by_pose, cost = tried, new_residuals, new_by_pose, new_cost
        else:
            pick = better[:, None]
            fit = fit._replace(
                rotations=np.where(pick[..., None], tried.rotations, fit.rotations),
                places=np.where(pick, tried.places, fit.places),
            )
            residuals = np.where(pick, new_residuals, residuals)
            by_pose = np.where(pick[..., None], new_by_pose, by_pose)
            cost = np.where(better, new_cost, cost)
        damping = np.where(better, 0.1 * damping, 10.0 * damping)
        small = (abs(step) < SETTLED * np.array([1.0, 1.0, 1.0, size, size, size])).all(1)
        if (small | (damping > 1e8)).all():
            break
    return fit


def _pose_system(fit: Fit, views: Views, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted residuals (V, N * 2) and their derivatives by pose (V, N * 2, 6).

    root: (V, N) of the weights.
    """
    at = _in_camera(fit, views)
    with np.errstate(all="ignore"):
        pixels, by_point = project_points(fit.lens, fit.parameters, at)
        residuals = root[..., None] * (pixels - views.pixels)
        by_pose = root[..., None, None] * _by_pose(by_point, at, fit)
        unseen = root == 0.0
        residuals[unseen], by_pose[unseen] = 0.0, 0.0
        # A corner behind a pinhole, or where no number is left, is worse than any other.
        lost = (at[..., 2] <= 0.0) & (fit.lens == "pinhole")
        if not np.isfinite(residuals.sum() + by_pose.sum()):  # one by one takes long
            lost |= ~np.isfinite(residuals).all(-1) | ~np.isfinite(by_pose).all((-1, -2))
    residuals[lost], by_pose[lost] = LOST_PX * root[lost, None], 0.0
    return residuals.reshape(len(root), -1), by_pose.reshape(len(root), -1, 6)


def _in_camera(fit: Fit, views: Views) -> np.ndarray:
    """The board's corners (V, N, 3) in the camera frame."""
    return (views.points + fit.bent) @ fit.rotations.swapaxes(-1, -2) + fit.places[:, None]


def _by_pose(by_point, at, fit: Fit) -> np.ndarray:
    """Derivative (V, N, 2, 6) by a small turn of the board about its origin, and a shift."""
    arm = at - fit.places[:, None]
    return np.concatenate([cross(arm[..., None, :], by_point), by_point], axis=-1)


def _moved(fit: Fit, step: np.ndarray) -> Fit:
    """The fit with each board turned and shifted by step (V, 6)."""
    return fit._replace(
        rotations=_turns(step[:, :3]) @ fit.rotations, places=fit.places + step[:, 3:]
    )


def _turns(vectors: np.ndarray) -> np.ndarray:
    """Rotations (V, 3, 3) about vectors (V, 3) by their lengths in radians (Rodrigues)."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    turn, half = crossed(vectors), np.sinc(0.5 * angle / np.pi)
    return np.eye(3) + np.sinc(angle / np.pi) * turn + 0.5 * half**2 * turn @ turn


def _without(by_pose: np.ndarray, by_unknown: np.ndarray) -> np.ndarray:
    """`by_unknown` less what moving the boards can make of it: its projection."""
    views, corners, _, unknowns = by_unknown.shape
    basis = np.linalg.qr(by_pose.reshape(views, 2 * corners, 6))[0]
    flat = by_unknown.reshape(views, 2 * corners, unknowns)
    return (flat - basis @ (basis.swapaxes(-1, -2) @ flat)).reshape(by_unknown.shape)


def _undistorted_rays(lens: str, parameters, pixels) -> np.ndarray:
    """Unit rays (..., 3) of pixels (..., 2) if the lens had no distortion."""
    slopes = (pixels - parameters[2:4]) / parameters[:2]
    distance = np.maximum(np.linalg.norm(slopes, axis=-1, keepdims=True), 1e-300)
    angle = np.arctan(distance) if lens == "pinhole" else np.minimum(distance, np.pi)
    return np.concatenate([np.sin(angle) * slopes / distance, np.cos(angle)], axis=-1)
