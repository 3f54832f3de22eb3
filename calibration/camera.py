"""The camera solver: sightings of a board in, a camera out, and how far it is to be trusted.

Pure: arrays in, a frozen result with residuals out.

1. Robust: repetitions of a view are dropped; corners that no camera explains weigh less, then those
   far off are dropped, and so are views with many such or bad throughout. Everything dropped is
   said, with its reason.
2. The lens is chosen by held-out error: views are left out in turn, and the camera fitted to the
   others must explain them with no freedom but where the board was. In the same way it is decided
   whether the corners of the board are taken to be where they should be, or where they are
   measured to be, since printers stretch and paper bends (`SHAPE_SHARE`).
3. Confidence by a bootstrap over views (confidence.py).
4. A camera that the views do not determine is refused, with what to do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from calibration.board import LEAST_CORNERS, Board, Sighting
from calibration.bundle import (
    Fit,
    Linear,
    Views,
    better,
    distances,
    linearised,
    placed,
    refine,
    residuals,
    start,
)
from calibration.confidence import bootstrap, by_noise
from calibration.errors import CalibrationError
from calibration.model import LENSES, PLACE, CameraModel, parameter_names

# How many distortion parameters are fitted when all of them turn the lens back within the picture,
# where no corner was seen.
SHORT = {"pinhole": 4, "fisheye": 2}
SHAPED = ", board as measured"
SHAPE_SHARE = 0.01  # of a square: by how much a printed corner may well be off
AS_GOOD = 1.02  # a pinhole is taken if its held-out error is no more times that of a fisheye
WORTH_CORNERS = 1.1  # times the held-out error is well spent on reaching the picture's corners
FOLDS = 5
LEAST_VIEWS = 6
LEAST_VIEWS_FOR_SHAPE = 8

RAYLEIGH_MEDIAN = math.sqrt(2.0 * math.log(2.0))  # median length of a unit normal 2-vector
ROBUST_ROUNDS = 6
SOFT = 3.0  # standard deviations at which the weight of a corner begins to fall
SAME_PX = 0.5  # corners of two views that are no farther apart are of one view, taken twice
FAR_OFF = 6.0  # at which it is dropped
BAD_VIEW = 4.0  # a view is bad whose noise is so many times the usual
BAD_SHARE = 0.25  # or with so many corners far off

GRID = 5  # cells each way in which coverage of the picture is counted
LEAST_COVERAGE = 0.5
LEAST_TURN_RAD = math.radians(15.0)  # between the most different ways the board was held
LEAST_FOCAL_SHARE = 0.05  # of the picture's width: no lens is as wide
MOST_FOCAL_SHARE = 0.02  # of the focal length: its standard error
LEAST_NOISE_PX = 0.1  # what confidence is refused on: pictures that are better are luck
MOST_NOISE_SHARE = 0.002  # of the picture's width


@dataclass(frozen=True)
class ViewReport:
    """What became of one view."""

    name: str
    seen: int  # corners
    used: int  # of them; 0 for a view that was dropped
    rms_px: float  # of the corners used; of all, if it was dropped
    tilt_rad: float  # between the board's normal and the optical axis
    distance_m: float  # of the board's middle
    reason: str  # why it, or some of its corners, were dropped, or ""


@dataclass(frozen=True, eq=False)
class CameraCalibration:
    """A camera, how it was found and how well it is known. Angles in radians."""

    model: CameraModel
    std: np.ndarray  # (P,) standard errors of model.parameters; 0 for one that was not fitted
    intervals: np.ndarray  # (P, 2) that hold the truth 95 times in 100
    covariance: np.ndarray  # (P, P)
    rms_px: float  # of the corners used, as OpenCV counts it
    held_out_px: dict[str, float]  # of each camera tried
    chosen: str  # which of them
    coverage: float  # share of the picture's cells in which corners were used
    views: tuple[ViewReport, ...]
    board: Board
    bent_m: np.ndarray  # (N, 3) of each corner of the board from where it should be
    pixels: np.ndarray  # (n, 2) the corners used
    residuals_px: np.ndarray  # (n, 2) of them: where the camera has them, less where they were seen

    def __post_init__(self) -> None:
        count, corners = len(self.model.parameters), len(self.pixels)
        shapes = {
            "std": (count,),
            "intervals": (count, 2),
            "covariance": (count, count),
            "bent_m": (self.board.columns * self.board.rows, 3),
            "pixels": (corners, 2),
            "residuals_px": (corners, 2),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise CalibrationError(f"{name} is {getattr(self, name).shape}: must be {shape}")

    def angle_std_rad(self, pixels) -> np.ndarray:
        """Standard error (...) of the direction of pixels (..., 2), the worst way."""
        by_parameter = self.model.rays_by_parameters(pixels)
        spread = by_parameter @ self.covariance @ np.swapaxes(by_parameter, -1, -2)
        return np.sqrt(np.maximum(np.linalg.eigvalsh(spread)[..., -1], 0.0))

    @property
    def corners_seen(self) -> int:
        return sum(view.seen for view in self.views)

    @property
    def corners_used(self) -> int:
        return sum(view.used for view in self.views)

    @property
    def views_used(self) -> int:
        return sum(view.used > 0 for view in self.views)

    def summary_lines(self) -> list[str]:
        """What was found, dropped and chosen, in words."""
        used = self.corners_used
        low, high = self.intervals[0]
        view = math.degrees(self.model.field_of_view_rad)
        angle = math.degrees(2.0 * self.angle_std_rad(self.pixels).max())
        lines = [
            f"{self.views_used} of {len(self.views)} views and {used} of {self.corners_seen} "
            f"corners used, RMS {self.rms_px:.3f} px",
            *(f"{view.name}: {view.reason}" for view in self.views if view.reason),
            f"{self.chosen}: focal length {self.model.focal_x_px:.2f} px ({low:.2f} to {high:.2f})"
            f", {view:.1f} degrees wide, directions known to {angle:.3f} degrees",
        ]
        if self.bent_m.any():
            off_mm = 1e3 * np.linalg.norm(self.bent_m, axis=1)
            lines.append(
                f"the board's corners are {off_mm.mean():.2f} mm from where they should be, at "
                f"most {off_mm.max():.2f} mm: taken as measured"
            )
        if not self.model.covers_picture:
            lines.append("the lens does not reach the corners of the picture")
        return lines


class _Verdict(NamedTuple):
    """Which corners are used, and why others are not."""

    kept: np.ndarray  # (V, N) bool
    reasons: list[str]  # of each view, "" where nothing was dropped


@threadpool_limits.wrap(limits=1, user_api="blas")  # matrices are small: threads only wait
def calibrate_camera(
    board: Board,
    sightings: Sequence[Sighting],
    size: tuple[int, int],
    names: Sequence[str] | None = None,
    lens: str = "auto",
    seed: int = 0,
) -> CameraCalibration:
    """The camera that explains these sightings of the board.

    size: width and height of the pictures in pixels; names: of the sightings, for the report; lens:
    "pinhole", "fisheye" or "auto", which chooses. Raises CalibrationError for sightings that cannot
    be, that no camera explains, or that do not determine one.
    """
    if lens not in ("auto", *LENSES):
        raise CalibrationError(f"lens {lens!r} is unknown: use auto, {' or '.join(LENSES)}")
    names = [f"view {n + 1}" for n in range(len(sightings))] if names is None else list(names)
    every = _views(board, sightings, size)
    shows = _first_of_each(every)
    fresh = np.flatnonzero(shows == np.arange(len(shows)))
    if len(fresh) < LEAST_VIEWS:
        raise CalibrationError(
            f"{len(fresh)} of {len(shows)} views differ: at least {LEAST_VIEWS} must, 15 are good"
        )
    all_names, names, views = names, [names[view] for view in fresh], every.only(fresh)
    rng = np.random.default_rng(seed)

    lenses = list(LENSES) if lens == "auto" else [lens]
    starts = {lens: _robust(start(lens, views), views) for lens in lenses}
    likeliest = min(starts.values(), key=lambda fit: fit.noise_px)
    _check_explained(likeliest, views, board)
    verdict = _judged(likeliest, views)
    used = verdict.kept.any(axis=1)
    _check_enough(verdict, names)

    kept = views.only(used)._replace(seen=verdict.kept[used])
    rough = likeliest.only(used)
    _check_determined(rough, kept, linearised(rough, kept, kept.seen))
    likely = [fit.only(used) for fit in starts.values() if _is_camera(fit, views)]
    fit, held_out, chosen = _choose(likely, board, kept, rng)
    linear = linearised(fit, kept, kept.seen)
    _check_determined(fit, kept, linear)
    std, intervals, covariance = _confidence(fit, linear, rng)
    reports = list(_view_reports(fit, views, verdict, names, likeliest))
    return CameraCalibration(
        model=CameraModel.of_parameters(fit.lens, kept.size, fit.parameters),
        std=std,
        intervals=intervals,
        covariance=covariance,
        rms_px=_rms(distances(fit, kept), kept.seen),
        held_out_px=held_out,
        chosen=chosen,
        coverage=coverage(kept.pixels[kept.seen], kept.size),
        views=_with_repeats(reports, fresh, shows, every, all_names),
        board=board,
        bent_m=fit.bent,
        pixels=kept.pixels[kept.seen],
        residuals_px=residuals(fit, kept)[kept.seen],
    )


# -- what goes in ----------------------------------------------------------------------------------


def _views(board: Board, sightings: Sequence[Sighting], size) -> Views:
    """Sightings as arrays padded to all corners of the board."""
    width, height = size
    if not (width >= 16 and height >= 16):
        raise CalibrationError(f"pictures of {width} x {height} px: too small to calibrate with")
    if len(sightings) < LEAST_VIEWS:
        raise CalibrationError(
            f"{len(sightings)} views of the board: at least {LEAST_VIEWS} are needed, 15 are good"
        )
    points = board.points
    pixels, seen = (
        np.zeros((len(sightings), len(points), 2)),
        np.zeros((len(sightings), len(points)), bool),
    )
    for view, sighting in enumerate(sightings):
        ids, where = np.asarray(sighting.ids), np.asarray(sighting.pixels, dtype=np.float64)
        _check_sighting(f"view {view + 1}", ids, where, len(points), size)
        pixels[view, ids], seen[view, ids] = where, True
    return Views(points, pixels, seen, (int(width), int(height)))


def _first_of_each(views: Views) -> np.ndarray:
    """(V,) the first view that shows what each of them shows: repeated ones add no knowledge.

    They would only make the camera seem better known, and outvote the others.
    """
    first = np.arange(len(views.pixels))
    for view in first:
        for before in range(view):
            common = views.seen[view] & views.seen[before]
            moved_px = np.hypot(*(views.pixels[view] - views.pixels[before])[common].T)
            if common.sum() >= LEAST_CORNERS and np.median(moved_px) < SAME_PX:
                first[view] = first[before]
                break
    return first


def _with_repeats(
    reports: list[ViewReport],
    fresh: np.ndarray,
    shows: np.ndarray,
    every: Views,
    names: Sequence[str],
) -> tuple[ViewReport, ...]:
    """A report of every view: of a repeated one that of the view it repeats, as dropped."""
    by_view = dict(zip(fresh.tolist(), reports, strict=True))
    return tuple(
        by_view[view]
        if view == first
        else replace(
            by_view[first],
            name=names[view],
            seen=int(every.seen[view].sum()),
            used=0,
            reason=f"dropped: the same view as {names[first]}",
        )
        for view, first in enumerate(shows.tolist())
    )


def _check_sighting(view: str, ids, pixels, corners: int, size) -> None:
    if ids.ndim != 1 or pixels.shape != (len(ids), 2) or ids.dtype.kind not in "iu":
        raise CalibrationError(
            f"{view}: ids {ids.dtype} {ids.shape} and pixels {pixels.shape}: must be whole numbers "
            "(n,) and (n, 2)"
        )
    if len(ids) < LEAST_CORNERS:
        raise CalibrationError(f"{view}: {len(ids)} corners, at least {LEAST_CORNERS} are needed")
    if ids.min() < 0 or ids.max() >= corners or len(np.unique(ids)) < len(ids):
        raise CalibrationError(f"{view}: ids must be different and below {corners}: another board?")
    if not np.isfinite(pixels).all():
        raise CalibrationError(f"{view}: a corner's pixel is no finite number: take the view out")
    if (pixels < -1.0).any() or (pixels > np.array(size)).any():
        raise CalibrationError(
            f"{view}: corners outside a picture of {size[0]} x {size[1]} px: are sizes mixed?"
        )


# -- what is used ----------------------------------------------------------------------------------


def _robust(fit: Fit, views: Views) -> Fit:
    """The fit in which corners far off weigh little (Geman and McClure), and its usual noise."""
    weights = np.ones(views.seen.shape)
    for _ in range(ROBUST_ROUNDS):
        if not _is_camera(fit, views):
            break  # what is wrong with the views is found out later
        fit = refine(better(fit, placed(fit, views, weights), views), views, weights)
        off = distances(fit, views)
        noise_px = _usual(off[views.seen])
        weights = (1.0 + (off / (SOFT * noise_px)) ** 2) ** -2
    return fit._replace(noise_px=noise_px)


def _is_camera(fit: Fit, views: Views) -> bool:
    """Whether its focal lengths are those of a lens."""
    return bool(fit.parameters[:2].min() > LEAST_FOCAL_SHARE * views.size[0])


def _judged(fit: Fit, views: Views) -> _Verdict:
    """Which corners stay: not those far off, nor any of views that are bad."""
    off = distances(fit, views)
    noise_px = np.array([_usual(o[seen]) for o, seen in zip(off, views.seen, strict=True)])
    usual = np.median(noise_px)
    far = views.seen & (off > FAR_OFF * np.maximum(noise_px, usual)[:, None])
    kept, reasons = views.seen & ~far, []
    for view, seen in enumerate(views.seen):
        corners, wrong = int(seen.sum()), int(far[view].sum())
        worst = f"{off[view][seen].max():.2g} px"
        reason = ""
        if noise_px[view] > BAD_VIEW * usual:
            reason = f"dropped: {noise_px[view] / usual:.0f} times the usual error, {worst} at most"
        elif wrong > BAD_SHARE * corners or corners - wrong < LEAST_CORNERS:
            reason = f"dropped: {wrong} of its {corners} corners are far off, by up to {worst}"
        if reason:
            kept[view] = False
        elif wrong:
            reason = f"{wrong} of its {corners} corners dropped: off by up to {worst}"
        reasons.append(reason)
    return _Verdict(kept, reasons)


def _usual(off: np.ndarray) -> float:
    """The standard deviation each way of corners so far off, whatever the worst half of them do."""
    return max(float(np.median(off)) / RAYLEIGH_MEDIAN, 0.02)


# -- which camera ----------------------------------------------------------------------------------


def _choose(starts: list[Fit], board: Board, views: Views, rng):
    """(fit, held-out errors in pixels of all that were tried, name of this one)."""
    folds = np.array_split(rng.permutation(len(views.pixels)), FOLDS)
    fits, held_out = {}, {}

    def enter(fit: Fit) -> str:
        names = parameter_names(fit.lens)[len(PLACE) : fit.free.sum()]
        name = " ".join([fit.lens, *names]) + (SHAPED if fit.shape_std else "")
        fits[name], held_out[name] = fit, _held_out(fit, views, folds)
        return name

    flat = [enter(_fitted(fit, views)) for fit in starts]
    chosen = min(flat, key=lambda name: held_out[name] * (AS_GOOD if "fisheye" in name else 1.0))
    if board.has_an_upside and len(views.pixels) >= LEAST_VIEWS_FOR_SHAPE:
        shaped = enter(_fitted(fits[chosen], views, SHAPE_SHARE * board.square_m))
        chosen = shaped if held_out[shaped] < held_out[chosen] else chosen
    if not _covers(fits[chosen], views.size):
        short = enter(_fitted(_shortened(fits[chosen]), views, fits[chosen].shape_std))
        worth = held_out[short] < WORTH_CORNERS * held_out[chosen]
        chosen = short if worth and _covers(fits[short], views.size) else chosen
    return fits[chosen], held_out, chosen


def _shortened(fit: Fit) -> Fit:
    """The fit without the higher distortion parameters."""
    free = np.arange(len(fit.free)) < len(PLACE) + SHORT[fit.lens]
    return fit._replace(free=free, parameters=np.where(free, fit.parameters, 0.0))


def _fitted(fit: Fit, views: Views, shape_std: float | None = None) -> Fit:
    """The least squares fit, and the noise it leaves: twice, as the board's shape depends on it."""
    fit = fit._replace(shape_std=shape_std)
    for _ in range(2 if shape_std else 1):
        fit = refine(fit, views, views.seen)
        fit = fit._replace(noise_px=_noise(fit, views))
    return fit


def _held_out(fit: Fit, views: Views, folds) -> float:
    """RMS error in views that the camera was not fitted to, in pixels."""
    off = np.zeros(views.seen.shape)
    for fold in folds:
        others = np.setdiff1d(np.arange(len(off)), fold)
        blind = refine(fit.only(others), views.only(others), views.seen[others])
        left_out = views.only(fold)
        off[fold] = distances(placed(blind, left_out, left_out.seen), left_out)
    return _rms(off, views.seen)


def _covers(fit: Fit, size) -> bool:
    return CameraModel.of_parameters(fit.lens, size, fit.parameters).covers_picture


def _noise(fit: Fit, views: Views) -> float:
    """Standard deviation each way of what the fit leaves, its freedom allowed for."""
    off = distances(fit, views)[views.seen]
    free = fit.free.sum() + 6 * len(views.pixels)
    return max(math.sqrt((off**2).sum() / max(2 * len(off) - free, 1)), 0.02)


def _rms(off: np.ndarray, seen: np.ndarray) -> float:
    return float(np.sqrt((off[seen] ** 2).mean()))


# -- how well it is known --------------------------------------------------------------------------


def coverage(pixels: np.ndarray, size: tuple[int, int]) -> float:
    """Share of the picture's GRID x GRID cells in which there is one of the pixels (n, 2)."""
    cells = np.clip(pixels * GRID / np.array(size), 0, GRID - 1).astype(int)
    return len(np.unique(cells, axis=0)) / GRID**2


def _confidence(fit: Fit, linear: Linear, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standard errors (P,), intervals (P, 2) and covariance (P, P) of the parameters."""
    known = bootstrap(linear, int(fit.free.sum()), fit.noise_px, rng)
    covariance = np.zeros((len(fit.free), len(fit.free)))
    covariance[np.ix_(fit.free, fit.free)] = known.covariance
    std = np.sqrt(np.diag(covariance))
    reach = known.factor * std
    return std, np.stack([fit.parameters - reach, fit.parameters + reach], axis=-1), covariance


def _check_explained(fit: Fit, views: Views, board: Board) -> None:
    most_px = MOST_NOISE_SHARE * views.size[0]
    if not fit.noise_px < most_px:
        raise CalibrationError(
            f"no camera explains these views: corners are off by {fit.noise_px:.1f} px, more than "
            f"{most_px:.1f}: is the board flat, still, and {board}?"
        )


def _check_enough(verdict: _Verdict, names: Sequence[str]) -> None:
    used = int(verdict.kept.any(axis=1).sum())
    if used < LEAST_VIEWS:
        why = "; ".join(f"{n}: {r}" for n, r in zip(names, verdict.reasons, strict=True) if r)
        raise CalibrationError(
            f"{used} of {len(names)} views are usable, at least {LEAST_VIEWS} are needed: add "
            f"sharp ones ({why})"
        )


def _check_determined(fit: Fit, views: Views, linear: Linear) -> None:
    """Refuse views that leave the camera open, saying what is missing."""
    turn_rad = widest_turn(fit.rotations)
    if turn_rad < LEAST_TURN_RAD:
        raise CalibrationError(
            f"the board was held the same way in all views, within {math.degrees(turn_rad):.0f} "
            "degrees: add views with it tilted by 20 to 45 degrees to all four sides"
        )
    covered = coverage(views.pixels[views.seen], views.size)
    if covered < LEAST_COVERAGE:
        raise CalibrationError(
            f"corners were seen in {100 * covered:.0f} % of the picture: add views with the board "
            "at each side and in each corner of the picture"
        )
    if not _is_camera(fit, views):
        raise CalibrationError(
            "the views leave the focal length open: add views with the board tilted by 20 to 45 "
            "degrees to all four sides"
        )
    count = int(fit.free.sum())
    covariance = by_noise(linear, count, max(fit.noise_px, LEAST_NOISE_PX))
    focal_share = math.sqrt(covariance[0, 0]) / fit.parameters[0]
    if not focal_share < MOST_FOCAL_SHARE:
        raise CalibrationError(
            f"the views leave the focal length open by {100 * focal_share:.1f} %: add views with "
            "the board tilted by 20 to 45 degrees, and near"
        )


def widest_turn(rotations: np.ndarray) -> float:
    """The largest angle between the normals of boards so turned (V, 3, 3), in radians."""
    normals = rotations[:, :, 2]
    return float(np.arccos(np.clip(normals @ normals.T, -1.0, 1.0)).max())


def _view_reports(fit: Fit, views: Views, verdict: _Verdict, names, first: Fit):
    """A report of each view; of a dropped one as the first, robust fit had it."""
    used = np.flatnonzero(verdict.kept.any(axis=1))
    middle = views.points.mean(axis=0)
    for view, name in enumerate(names):
        kept = view in used
        fitted, at = (fit, int(np.searchsorted(used, view))) if kept else (first, view)
        corners = verdict.kept[view] if kept else views.seen[view]
        off = distances(fitted.only([at]), views.only([view]))[0]
        rotation = fitted.rotations[at]
        yield ViewReport(
            name=name,
            seen=int(views.seen[view].sum()),
            used=int(verdict.kept[view].sum()),
            rms_px=float(np.sqrt((off[corners] ** 2).mean())),
            tilt_rad=math.acos(min(abs(rotation[2, 2]), 1.0)),
            distance_m=float(np.linalg.norm(rotation @ middle + fitted.places[at])),
            reason=verdict.reasons[view],
        )
