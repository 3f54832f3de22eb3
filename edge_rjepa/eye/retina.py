"""A fixed foveated retina: a frame and where gaze is in it, to about white features.

Nothing here is learned or fitted while running. A window of 64 x 64 px around the gaze pixel is
seen by four groups of cells, each a small picture of n x n area averages of one channel:

    group      channel      n    covers    DCT degree  coefficients
    fovea      luminance    16   16 x 16   8           44      full resolution, middle of the window
    surround   luminance    16   64 x 64   8           44      4 x 4 px a cell
    warm       R - B        8    64 x 64   4           14      8 x 8 px a cell (blue-yellow)
    green      G - (R+B)/2  8    64 x 64   4           14      8 x 8 px a cell (red-green)

with luminance = (29 B + 150 G + 77 R) / 256. The opponents are Ohta's (1980), close to the
principal axes of colour in photographs, where R - G and B - (R+G)/2 hang together much more
(correlation -0.93 of their window means, against -0.8). All weights and areas are sums of powers
of two small enough that float32 pools without any rounding.

Of each group's orthonormal two-dimensional DCT the coefficients (i, j) with 0 < i + j <= degree
are kept. Photographs have amplitude ~ 1/f, so a coefficient is multiplied by its frequency
f = sqrt(i^2 + j^2), scaled to mean square one over the group: c. What is handed out is

    pattern    c / sqrt(mean_group c^2 + floor^2)              116 features, at most sqrt(n) each
    level      mean of the group, recombined and scaled          4 features
    contrast   log(mean_group c^2 + floor^2), likewise           4 features

in this order, 124; white noise of s grey levels has mean c^2 = s^2. The floor is 4 grey levels for
luminance and half of that for the opponents, which are averaged over more pixels.

Behind them come two groups that tell how much there is of something in the window, wherever:

    colour codes     the share of each of 96 colours                       96  colour_codes.py
    oriented codes   the edges of 8 directions at 3 scales in 4 quadrants  96  oriented_codes.py

so 316 in all. Both are distributions, which the layer of tanh that learns from the features cannot
make out of means and patterns. Places are told apart by the colour codes alone in 0.55 of cases, by
the 124 alone in 0.13, by the oriented codes in 0.15 (benchmarks/retina.py: untrained, 49 places).

How the constants of the first four groups came about: measured once on 7,000 windows, 500 of each
of 14 photographs that scikit-image ships (sources/scene.py names them), through the simulated
camera at random head angles and places. The amplitude of the coefficients fell as f^-1.25 (fovea,
where enlarged photographs lack detail), f^-0.98, f^-1.06 and f^-1.15, hence 1/f; the patterns then
had standard deviations of 0.55 to 1.26 (a third of the photographs is grey and silent in colour).
LEVEL and CONTRAST take from each of their rows what another row tells already, then means and
standard deviations, rounded, so that features come out with about mean 0 and standard deviation 1.
Two of these 124 features then correlate by 0.02 on average (absolute value) and by 0.53 at most.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from edge_rjepa.base.jit import jit
from edge_rjepa.errors import InputError
from edge_rjepa.eye.colour_codes import ColourCodes
from edge_rjepa.eye.config import RetinaConfig
from edge_rjepa.eye.image import as_rows, check_image
from edge_rjepa.eye.oriented_codes import OrientedCodes

GROUPS = ("fovea", "surround", "warm", "green")

# Channels (luminance, warm, green) from B, G, R.
COLOUR = np.array([[29 / 256, 150 / 256, 77 / 256], [-1.0, 0.0, 1.0], [-0.5, 1.0, -0.5]])

# Rows of LEVEL and CONTRAST: fovea against surround, surround, warm, green beyond what warm tells.
# feature = (row @ group values - centre) / spread
LEVEL = np.array([[1, -1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0.25, 1]])
LEVEL_CENTRE = np.array([0.0, 104.0, 30.0, 0.0])  # grey levels
LEVEL_SPREAD = np.array([20.0, 42.0, 56.0, 10.0])  # grey levels
CONTRAST = np.array([[1, -1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, -0.5, 1]])
CONTRAST_CENTRE = np.array([-1.1, 6.8, 3.8, 0.7])  # log of squared grey levels
CONTRAST_SPREAD = np.array([1.5, 1.7, 2.6, 0.85])


class Retina:
    """The retina for one RetinaConfig.

    Its whole arithmetic from windows w (N, window_px, window_px, 3) uint8, in float32, with the
    constants it exposes: `colour` (3, 3), luminance, warm and green from B, G, R, and four more for
    each of its `banks`, which are neighbouring groups of the same n, degree and floor. For a
    picture p (n, n) of such a group, the averages of its channel of w @ colour.T:

        mean      = mean of the means of its rows
        spectrum  = ((p - mean) @ basis).T @ basis            (degree + 1, degree + 1)
        c         = spectrum.ravel()[kept] * frequency        (n_c,)
        power     = mean of c * c + floor_power
        pattern   = c / sqrt(power)

    and for the four groups' means and powers together:

        level     = (mean @ level_mix.T - level_centre) / level_spread
        contrast  = (log(power) @ contrast_mix.T - contrast_centre) / contrast_spread
        features  = [pattern of the four groups | level | contrast | colour codes | oriented codes]

    `colour_codes` and `oriented_codes` say how theirs come about, `parts` where each kind stands.

    No sum has more than n or n_c terms, so that float32 programs which add in another order still
    agree. For the same reason the mean is taken away before the DCT, which would take it away, too:
    bright flat windows then leave no rounding behind.
    """

    def __init__(self, config: RetinaConfig | None = None) -> None:
        self.config = config = config or RetinaConfig()
        self.banks = _banks(config)
        self.colour = COLOUR.astype(np.float32)
        self.level_mix = LEVEL.astype(np.float32)
        self.level_centre = LEVEL_CENTRE.astype(np.float32)
        self.level_spread = LEVEL_SPREAD.astype(np.float32)
        self.contrast_mix = CONTRAST.astype(np.float32)
        self.contrast_centre = CONTRAST_CENTRE.astype(np.float32)
        self.contrast_spread = CONTRAST_SPREAD.astype(np.float32)
        self.colour_codes = ColourCodes(config.colour_codes)
        self.oriented_codes = OrientedCodes(config.orientation_scales, config.orientation_parts)
        self.parts = self._parts()

    def _parts(self) -> dict[str, slice]:
        """Where each kind of feature stands among all."""
        sizes = {
            "pattern": self.banks[-1].pattern.stop,
            "level": len(GROUPS),
            "contrast": len(GROUPS),
            "colour codes": self.colour_codes.count,
            "oriented codes": self.oriented_codes.count,
        }
        stops = itertools.accumulate(sizes.values())
        return {
            kind: slice(stop - size, stop)
            for (kind, size), stop in zip(sizes.items(), stops, strict=True)
        }

    @property
    def n_features(self) -> int:
        """Features of one fixation."""
        return self.config.n_features

    def __call__(self, image, pixels, out: np.ndarray | None = None) -> np.ndarray:
        """Features (K, f) float32 of K fixations of one frame.

        image: (H, W, 3) uint8 BGR. pixels: (K, 2) gaze as (x, y) px, pixel centres at whole
        numbers; the window lies about the nearest whole pixel (halves round up), which is at
        (window_px / 2, window_px / 2) in it. Beyond its borders the image is continued with the
        border's pixels, so every finite gaze is defined. out: (K, f) float32 to write into.
        Raises InputError for any other image, pixels or out.
        """
        image = _checked_image(image)
        corners = self.corners(image, pixels)
        out = _checked_out(out, (len(corners), self.n_features))
        config = self.config
        K, side, cells = len(corners), config.window_px, config.surround_cells
        grey = np.empty((K, side, side), np.int32)
        colours = np.empty((K, cells**2, 3), np.float32)
        pooled = np.empty((K, self.banks[-1].pooled.stop), np.float32)
        column_sums = np.empty(3 * side, np.int32)
        _pool(
            as_rows(image),
            corners,
            (side, config.fovea_px, cells, config.colour_cells),
            column_sums,
            grey,
            colours,
            pooled,
        )
        self._features_of_pooled(pooled, out)
        if self.colour_codes.count:
            self.colour_codes(colours, out[:, self.parts["colour codes"]])
        if self.oriented_codes.count:
            self.oriented_codes(grey, out[:, self.parts["oriented codes"]])
        return out

    def windows(self, image, pixels) -> np.ndarray:
        """The windows (K, window_px, window_px, 3) uint8 that __call__ looks at."""
        image = _checked_image(image)
        corners = self.corners(image, pixels)
        side = np.arange(self.config.window_px)
        columns = np.clip(corners[:, :1] + side, 0, image.shape[1] - 1)
        rows = np.clip(corners[:, 1:] + side, 0, image.shape[0] - 1)
        places = rows[:, :, None] * image.shape[1] + columns[:, None, :]
        return image.reshape(-1, 3).take(places, axis=0)

    def features_of_windows(self, windows) -> np.ndarray:
        """Features (N, f) float32 of windows (N, window_px, window_px, 3) uint8 BGR.

        The plain form of __call__, for reading and for export. Raises InputError.
        """
        side = self.config.window_px
        windows = np.asarray(windows)
        if windows.dtype != np.uint8 or windows.shape[1:] != (side, side, 3):
            raise InputError(
                f"windows are {windows.dtype} {windows.shape}: must be uint8 (N, {side}, {side}, 3)"
            )
        channels = windows.astype(np.float32) @ self.colour.T
        edge = (side - self.config.fovea_px) // 2
        fovea = channels[:, edge : side - edge, edge : side - edge, 0]
        surround = _area_average(channels[..., 0], self.config.surround_cells)
        warm = _area_average(channels[..., 1], self.config.colour_cells)
        green = _area_average(channels[..., 2], self.config.colour_cells)
        n = len(windows)
        pooled = np.hstack([part.reshape(n, -1) for part in (fovea, surround, warm, green)])
        out = np.empty((n, self.n_features), np.float32)
        self._features_of_pooled(pooled, out)
        if self.colour_codes.count:
            cells = self.config.surround_cells
            colours = [_area_average(channels[..., i], cells).reshape(n, -1) for i in range(3)]
            self.colour_codes.plain(np.stack(colours, axis=2), out[:, self.parts["colour codes"]])
        if self.oriented_codes.count:
            self.oriented_codes.plain(channels[..., 0], out[:, self.parts["oriented codes"]])
        return out

    def _features_of_pooled(self, pooled: np.ndarray, out: np.ndarray) -> None:
        mean, power = np.empty((2, len(pooled), len(GROUPS)), np.float32)
        for bank in self.banks:
            bank.analyse(pooled, mean, power, out)
        level, contrast = out[:, self.parts["level"]], out[:, self.parts["contrast"]]
        level[:] = (mean @ self.level_mix.T - self.level_centre) / self.level_spread
        contrast[:] = np.log(power) @ self.contrast_mix.T
        contrast[:] = (contrast - self.contrast_centre) / self.contrast_spread

    def corners(self, image: np.ndarray, pixels) -> np.ndarray:
        """Top left pixel (K, 2) int64 (x, y) of the windows about the gaze pixels."""
        pixels = np.asarray(pixels)
        if pixels.dtype.kind not in "fiu" or pixels.shape[1:] != (2,) or not len(pixels):
            raise InputError(
                f"gaze pixels are {pixels.dtype} {pixels.shape}: must be numbers (K, 2), K >= 1"
            )
        if not np.isfinite(pixels).all():
            raise InputError("gaze pixels hold NaN or infinity: must be finite")
        side = self.config.window_px
        # Further out than a window beyond the border there is nothing new to see.
        whole = np.clip(np.floor(pixels + 0.5), -side, np.add(image.shape[1::-1], side))
        return whole.astype(np.int64) - side // 2


class Bank(NamedTuple):
    """Neighbouring groups that are seen in the same way: r pictures of n x n cells, n_c each."""

    groups: slice  # of GROUPS, r of them
    pooled: slice  # of the pooled values of all groups, r n n of them
    pattern: slice  # of the features, r n_c of them
    basis: np.ndarray  # (n, degree + 1) the orthonormal DCT-II, an order a column
    kept: np.ndarray  # (n_c,) places in the spectrum; its rows are the orders across
    frequency: np.ndarray  # (n_c,) sqrt(i^2 + j^2) with mean square 1: white noise keeps its own
    floor_power: np.float32  # squared grey levels
    cell_mean: np.ndarray  # (n, 1) of 1 / n
    coefficient_mean: np.ndarray  # (n_c, 1) of 1 / n_c

    def analyse(self, pooled: np.ndarray, mean: np.ndarray, power: np.ndarray, out: np.ndarray):
        """From pooled (K, n_p) fill in its columns of mean and power (K, 4) and of out (K, f)."""
        n, orders = self.basis.shape
        pictures = pooled[:, self.pooled].reshape(-1, n * n)
        middle = (pictures.reshape(-1, n) @ self.cell_mean).reshape(-1, n) @ self.cell_mean
        across = (pictures - middle).reshape(-1, n) @ self.basis
        across = across.reshape(-1, n, orders).transpose(0, 2, 1)
        spectrum = across.reshape(-1, n) @ self.basis
        c = spectrum.reshape(len(pictures), -1).take(self.kept, axis=1) * self.frequency
        squares = (c * c) @ self.coefficient_mean + self.floor_power
        mean[:, self.groups] = middle.reshape(len(pooled), -1)
        power[:, self.groups] = squares.reshape(len(pooled), -1)
        out[:, self.pattern] = (c / np.sqrt(squares)).reshape(len(pooled), -1)


def _banks(config: RetinaConfig) -> list[Bank]:
    """The groups in order, those that are alike together."""
    colour = (config.colour_cells, config.colour_degree, 0.5 * config.contrast_floor)
    geometries = [
        (config.fovea_px, config.fovea_degree, config.contrast_floor),
        (config.surround_cells, config.surround_degree, config.contrast_floor),
        colour,
        colour,
    ]
    banks = []
    group = cell = feature = 0
    for (n, degree, floor), alike in itertools.groupby(geometries):
        r = len(list(alike))
        basis, kept, frequency = _whitening_dct(n, degree)
        banks.append(
            Bank(
                slice(group, group + r),
                slice(cell, cell + r * n * n),
                slice(feature, feature + r * len(kept)),
                basis,
                kept,
                frequency,
                np.float32(floor**2),
                np.full((n, 1), 1 / n, np.float32),
                np.full((len(kept), 1), 1 / len(kept), np.float32),
            )
        )
        group, cell, feature = (each.stop for each in banks[-1][:3])
    return banks


def _whitening_dct(n: int, degree: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Basis, kept places and frequencies of a Bank: the orders (i, j) with 0 < i + j <= degree."""
    order, place = np.arange(degree + 1), np.arange(n)[:, None]
    basis = math.sqrt(2.0 / n) * np.cos(math.pi * (place + 0.5) * order / n)
    basis[:, 0] /= math.sqrt(2.0)
    down, across = np.nonzero(np.add.outer(order, order) <= degree)
    down, across = down[1:], across[1:]  # without the constant (0, 0), which comes first
    frequency = np.hypot(down, across)
    frequency /= np.sqrt(np.mean(frequency**2))
    kept = across * (degree + 1) + down
    return basis.astype(np.float32), kept, frequency.astype(np.float32)


def _area_average(pictures: np.ndarray, cells: int) -> np.ndarray:
    """(N, side, side) to (N, cells, cells)."""
    n, side, _ = pictures.shape
    return pictures.reshape(n, cells, side // cells, cells, side // cells).mean(axis=(2, 4))


def _checked_image(image) -> np.ndarray:
    image = np.asarray(image)
    check_image(image)
    return image


def _checked_out(out: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    if out is None:
        return np.empty(shape, np.float32)
    if out.dtype != np.float32 or out.shape != shape:
        raise InputError(f"out is {out.dtype} {out.shape}: must be float32 {shape}")
    return out


@jit
def _pool(image, corners, sizes, column_sums, grey, colours, pooled):
    """What the windows at corners (K, 2) of image (H, 3 W) hold, without rounding.

    grey: (K, window, window) luminance, in 256ths. colours: (K, cells cells, 3) averages of
    luminance, warm and green over a cell of the surround. pooled: (K, n_p) of the four groups.
    """
    window, fovea, cells, colour_cells = sizes
    block, coarse = window // cells, cells // colour_cells
    at_surround = fovea * fovea
    at_warm = at_surround + cells * cells
    at_green = at_warm + colour_cells * colour_cells
    edge = (window - fovea) // 2
    share = np.float32(1.0 / (block * block))
    luminance_share = np.float32(1.0 / (256 * block * block))
    coarse_share = np.float32(1.0 / (coarse * coarse))
    last_row, last_column = image.shape[0] - 1, image.shape[1] // 3 - 1

    for k in range(corners.shape[0]):
        x, y = corners[k]
        inside = 0 <= x and x + window - 1 <= last_column
        pooled[k, at_warm:] = 0
        for v in range(cells):
            # Down the columns first: long runs of neighbours, which the compiler can vectorise.
            column_sums[:] = 0
            for i in range(v * block, (v + 1) * block):
                row = image[min(max(y + i, 0), last_row)]
                if inside:
                    within = row[3 * x : 3 * (x + window)]
                    for j in range(3 * window):
                        column_sums[j] += within[j]
                    for j in range(window):
                        b, g, r = within[3 * j], within[3 * j + 1], within[3 * j + 2]
                        grey[k, i, j] = 29 * np.int32(b) + 150 * np.int32(g) + 77 * np.int32(r)
                else:
                    for j in range(window):
                        column = 3 * min(max(x + j, 0), last_column)
                        b, g, r = row[column], row[column + 1], row[column + 2]
                        column_sums[3 * j] += b
                        column_sums[3 * j + 1] += g
                        column_sums[3 * j + 2] += r
                        grey[k, i, j] = 29 * np.int32(b) + 150 * np.int32(g) + 77 * np.int32(r)
            for u in range(cells):
                b = g = r = 0
                for j in range(u * block, (u + 1) * block):
                    b += column_sums[3 * j]
                    g += column_sums[3 * j + 1]
                    r += column_sums[3 * j + 2]
                colour = colours[k, v * cells + u]
                colour[0] = (29 * b + 150 * g + 77 * r) * luminance_share
                colour[1] = (r - b) * share
                colour[2] = (2 * g - r - b) * (np.float32(0.5) * share)
                part = (v // coarse) * colour_cells + u // coarse
                pooled[k, at_surround + v * cells + u] = colour[0]
                pooled[k, at_warm + part] += colour[1] * coarse_share
                pooled[k, at_green + part] += colour[2] * coarse_share
        for i in range(fovea):
            for j in range(fovea):
                middle = grey[k, edge + i, edge + j]
                pooled[k, i * fovea + j] = middle * np.float32(1.0 / 256)
