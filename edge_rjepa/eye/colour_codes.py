"""Colour codes: which colours are in a window, and how much of each.

A histogram with soft edges. The window is seen as cells of some pixels, each of one colour
(luminance, warm, green; see retina.py). These three axes carry a lattice of 7 x 6 x 4 colours, and
each cell shares itself out among the eight around its own, linearly along every axis (a colour
beyond the lattice counts as its nearest). A code is the share of the window that one colour of the
lattice gets, under a square root, which makes rare and common colours count alike:

    share = mean over cells of  t(luminance) t(warm) t(green)         t(x) = max(0, 1 - |x - p|)
    code  = (sqrt(share) - centre) / spread

with x in units of the axis' spacing and p the place of the colour on it. Where things are in the
window does not matter; a level (retina.py) is the mean of what this is the distribution of, and a
layer of tanh cannot make one out of the other.

Why a lattice and not prototypes that fit: it tells places apart as well as k-means with as many
colours and soft assignment, costs eight additions a cell however many colours there are, needs no
exponential, and hardly rounds, since spacings are powers of two or a third of one: a share of 0 is
0 in every program. That matters because the square root is steep there.

CODES are those colours of the lattice that windows hold at all, the commonest first; so the first n
of them are the best n. They and their centres and spreads are what benchmarks/retina_constants.py
prints. A spread is 0.1 at least: it would be small where a colour is rare, and the feature then
far too large where a robot meets much of it.
"""

from __future__ import annotations

import math

import numpy as np

from edge_rjepa.base.jit import jit

# The lattice, in grey levels: the first point of each axis, points per grey level, points.
START = np.array([0.0, -128.0, -48.0])
DENSITY = np.array([3 / 128, 1 / 64, 1 / 32])
POINTS = (7, 6, 4)

LEAST_SPREAD = 0.1
CODES = (
    (4, 3, 2, 0.149, 0.173), (5, 3, 2, 0.137, 0.176), (5, 2, 2, 0.138, 0.173),
    (3, 3, 2, 0.128, 0.146), (4, 2, 2, 0.127, 0.144), (3, 2, 2, 0.110, 0.126),
    (5, 2, 1, 0.092, 0.135), (1, 2, 1, 0.097, 0.127), (6, 2, 2, 0.077, 0.138),
    (2, 3, 2, 0.101, 0.120), (4, 3, 1, 0.101, 0.120), (2, 2, 2, 0.106, 0.114),
    (1, 2, 2, 0.095, 0.123), (2, 3, 1, 0.095, 0.117), (5, 5, 3, 0.039, 0.141),
    (3, 3, 1, 0.094, 0.104), (5, 3, 1, 0.079, 0.114), (4, 4, 1, 0.065, 0.120),
    (4, 2, 1, 0.083, 0.107), (4, 4, 2, 0.071, 0.115), (2, 2, 1, 0.087, 0.101),
    (4, 5, 3, 0.039, 0.125), (6, 3, 2, 0.055, 0.116), (6, 2, 1, 0.054, 0.113),
    (1, 3, 1, 0.069, 0.102), (3, 4, 2, 0.062, 0.103), (3, 4, 1, 0.058, 0.100),
    (3, 2, 1, 0.072, 0.100), (4, 4, 3, 0.031, 0.103), (4, 5, 2, 0.029, 0.102),
    (1, 3, 2, 0.061, 0.100), (1, 1, 1, 0.036, 0.100), (0, 2, 1, 0.048, 0.100),
    (5, 4, 2, 0.040, 0.100), (2, 1, 2, 0.041, 0.100), (4, 1, 2, 0.037, 0.100),
    (2, 4, 0, 0.023, 0.100), (3, 1, 2, 0.038, 0.100), (2, 1, 1, 0.033, 0.100),
    (4, 4, 0, 0.021, 0.100), (0, 2, 2, 0.040, 0.100), (3, 4, 0, 0.022, 0.100),
    (3, 0, 3, 0.012, 0.100), (2, 4, 1, 0.036, 0.100), (3, 5, 2, 0.022, 0.100),
    (3, 5, 1, 0.021, 0.100), (2, 4, 2, 0.033, 0.100), (5, 4, 1, 0.027, 0.100),
    (3, 3, 3, 0.025, 0.100), (1, 1, 2, 0.030, 0.100), (5, 1, 2, 0.024, 0.100),
    (3, 2, 3, 0.021, 0.100), (4, 5, 1, 0.018, 0.100), (4, 1, 1, 0.022, 0.100),
    (3, 4, 3, 0.023, 0.100), (2, 0, 2, 0.017, 0.100), (2, 5, 0, 0.012, 0.100),
    (3, 5, 0, 0.014, 0.100), (4, 3, 0, 0.017, 0.100), (4, 3, 3, 0.023, 0.100),
    (5, 4, 3, 0.017, 0.100), (5, 1, 1, 0.017, 0.100), (2, 3, 0, 0.017, 0.100),
    (3, 1, 1, 0.021, 0.100), (3, 0, 2, 0.012, 0.100), (0, 1, 1, 0.016, 0.100),
    (3, 5, 3, 0.013, 0.100), (2, 0, 1, 0.013, 0.100), (6, 3, 1, 0.023, 0.100),
    (2, 2, 3, 0.016, 0.100), (4, 2, 3, 0.016, 0.100), (2, 3, 3, 0.016, 0.100),
    (5, 3, 0, 0.010, 0.100), (5, 3, 3, 0.016, 0.100), (3, 3, 0, 0.013, 0.100),
    (3, 2, 0, 0.007, 0.100), (4, 1, 3, 0.009, 0.100), (3, 1, 3, 0.010, 0.100),
    (4, 2, 0, 0.006, 0.100), (0, 3, 1, 0.017, 0.100), (1, 3, 0, 0.010, 0.100),
    (3, 1, 0, 0.004, 0.100), (2, 5, 1, 0.007, 0.100), (2, 1, 3, 0.009, 0.100),
    (5, 5, 2, 0.007, 0.100), (1, 0, 1, 0.008, 0.100), (4, 0, 2, 0.005, 0.100),
    (2, 2, 0, 0.007, 0.100), (1, 2, 3, 0.008, 0.100), (4, 0, 3, 0.004, 0.100),
    (2, 0, 3, 0.005, 0.100), (5, 2, 3, 0.010, 0.100), (1, 4, 0, 0.007, 0.100),
    (5, 2, 0, 0.004, 0.100), (1, 4, 1, 0.010, 0.100), (4, 5, 0, 0.006, 0.100),
)  # fmt: skip


class ColourCodes:
    """The first `count` codes.

    What an export needs, in float32: `start`, `density`, `last` (3,), `points` (count, 3) on the
    lattice, `centre` and `spread` (count,); and `place` (count,), the points counted row by row.
    """

    def __init__(self, count: int) -> None:
        self._keep(np.array(CODES[:count]).reshape(-1, 5))

    @classmethod
    def of_points(cls, points: np.ndarray) -> ColourCodes:
        """Of any points (n, 3) of the lattice, the roots as they are: for measuring CODES."""
        codes = cls(0)
        codes._keep(np.hstack([points, np.zeros((len(points), 1)), np.ones((len(points), 1))]))
        return codes

    def _keep(self, codes: np.ndarray) -> None:
        self.count = len(codes)
        self.start, self.density = START.astype(np.float32), DENSITY.astype(np.float32)
        self.last = np.array(POINTS, np.float32) - 1
        self.points = codes[:, :3].astype(np.float32)
        self.centre, self.spread = codes[:, 3:].T.astype(np.float32)
        self.place = np.ravel_multi_index(codes[:, :3].astype(int).T, POINTS)

    def __call__(self, colours: np.ndarray, out: np.ndarray) -> None:
        """Into out (K, count) float32 the codes of colours (K, cells, 3) float32, grey levels."""
        lattice, shares = np.empty(math.prod(POINTS)), np.empty(out.shape, np.float32)
        _share_out(colours, self.start, self.density, POINTS, self.place, lattice, shares)
        self._standardise(shares, out)

    def plain(self, colours: np.ndarray, out: np.ndarray) -> None:
        """The same as an export does it: code by code."""
        places = np.clip((colours - self.start) * self.density, 0, self.last)
        shares = np.empty(out.shape, np.float32)
        for j, point in enumerate(self.points):
            near = np.maximum(1 - np.abs(places - point), 0)
            shares[:, j] = np.mean(near[..., 0] * near[..., 1] * near[..., 2], axis=1)
        self._standardise(shares, out)

    def _standardise(self, shares: np.ndarray, out: np.ndarray) -> None:
        np.sqrt(shares, out=shares)
        shares -= self.centre
        np.divide(shares, self.spread, out=out)


@jit
def _share_out(colours, start, density, points, place, lattice, out):
    """Shares out (K, codes) of the colours at these places of the lattice, all of it to work in."""
    down, across = points[1] * points[2], points[2]
    for k in range(colours.shape[0]):
        lattice[:] = 0
        for cell in range(colours.shape[1]):
            i, above_i = _between(colours[k, cell, 0], start[0], density[0], points[0])
            j, above_j = _between(colours[k, cell, 1], start[1], density[1], points[1])
            m, above_m = _between(colours[k, cell, 2], start[2], density[2], points[2])
            at = i * down + j * across + m
            below_m = np.float32(1) - above_m
            for di in range(2):
                part_i = above_i if di else np.float32(1) - above_i
                for dj in range(2):
                    part = part_i * (above_j if dj else np.float32(1) - above_j)
                    here = at + di * down + dj * across
                    lattice[here] += part * below_m
                    lattice[here + 1] += part * above_m
        for code in range(place.size):
            out[k, code] = lattice[place[code]] / colours.shape[1]


@jit
def _between(value, start, density, points):
    """The point of an axis at or below a value, and how far it is to the next, 0 to 1."""
    x = min(max((value - start) * density, np.float32(0)), np.float32(points - 1))
    below = min(int(x), points - 2)
    return below, x - np.float32(below)
