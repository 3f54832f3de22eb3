"""Oriented codes: how strong edges of each direction are, at several scales, part by part.

The luminance of the window is averaged over cells of 1, 2, 4, .. px. Central differences across and
down, gx and gy, combine into the slope towards each of eight directions, 45 degrees apart: a step
from dark to bright is told from one from bright to dark. What slopes upwards that way is averaged
over each of n x n parts of the window. Cells at its edge lack a neighbour, so they have no slope:

    energy = mean over a part of  max(0, slope)                grey levels a cell
    log    = log(energy + floor)
    code   = (log - SHARED * mean log of its scale - centre) / spread

Edges of all directions and parts come and go together: more than half of the variance of the logs
is that of their mean, which the contrast features (retina.py) tell, too. Most of it is taken out,
so that what a direction or part has of its own counts. The order is scale, direction, part.

A pattern (retina.py) says where lines and edges are, to a pixel; this says that they are there,
wherever, which a layer of tanh cannot make out of the other.

The floor is half a grey level: what a camera's noise comes to after averaging. CENTRE and SPREAD
are what benchmarks/retina_constants.py prints, one of each for a scale, since all directions are
alike to a robot that may tilt its head.
"""

from __future__ import annotations

import numpy as np

from edge_rjepa.base.jit import jit
from edge_rjepa.eye.config import MOST_WINDOW_PX

# Towards which the luminance rises, (x, y) with y downwards: right, then clockwise.
DIRECTIONS = np.array([(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)])
FLOOR = 0.5  # grey levels a cell
SHARED = 0.8
CENTRE = np.array([0.20, 0.23, 0.24, 0.22])  # of logs, by scale
SPREAD = np.array([0.53, 0.64, 0.78, 1.06])

# From one sum of a column to the next: a window's columns, and more, lest all fall upon the same
# few lines of the cache.
COLUMN_SUMS = MOST_WINDOW_PX + 16


class OrientedCodes:
    """Codes at `scales` scales in parts x parts parts.

    What an export needs, in float32: `slope` (8,), what differences of two cells that are two apart
    are multiplied with; `floor`; `shared`; `centre` and `spread` (count,).
    """

    def __init__(self, scales: int, parts: int) -> None:
        self.scales, self.parts = scales, parts
        a_scale = len(DIRECTIONS) * parts**2
        self.count = scales * a_scale
        self.slope = (0.5 / np.hypot(*DIRECTIONS.T)).astype(np.float32)
        self.floor, self.shared = np.float32(FLOOR), np.float32(SHARED)
        self.centre = np.repeat(CENTRE[:scales], a_scale).astype(np.float32)
        self.spread = np.repeat(SPREAD[:scales], a_scale).astype(np.float32)

    def __call__(self, grey: np.ndarray, out: np.ndarray) -> None:
        """Into out (K, count) float32 the codes of grey (K, side, side) int32, 256ths of grey
        levels. Overwrites grey."""
        side, wide = grey.shape[1:]
        pictures = grey.reshape(len(grey), -1)
        energies, columns = np.empty(out.shape, np.float32), np.empty(6 * COLUMN_SUMS, np.int32)
        for scale in range(self.scales):
            if scale:
                _halve(grey, side)
                side //= 2
            # In units of 256 * 4^scale: whole numbers, whose sums stay below 2^31.
            slope = self.slope / np.float32(256 * 4**scale)
            _energies(pictures, wide, side, self.parts, slope, columns, scale, energies)
        self._standardise(energies, out)

    def plain(self, luminance: np.ndarray, out: np.ndarray) -> None:
        """The same as an export does it; luminance: (K, side, side) float32, grey levels."""
        energies = []
        for scale in range(self.scales):
            if scale:
                halves = luminance.reshape(len(luminance), luminance.shape[1] // 2, 2, -1, 2)
                luminance = halves.mean(axis=(2, 4))
            across = luminance[:, 1:-1, 2:] - luminance[:, 1:-1, :-2]
            down = luminance[:, 2:, 1:-1] - luminance[:, :-2, 1:-1]
            n = across.shape[1] // self.parts
            for (x, y), slope in zip(DIRECTIONS, self.slope, strict=True):
                rising = np.maximum(np.float32(x) * across + np.float32(y) * down, 0)
                parts = rising.reshape(-1, self.parts, n, self.parts, n).mean(axis=4).mean(axis=2)
                energies.append(parts.reshape(len(parts), -1) * slope)
        self._standardise(np.concatenate(energies, axis=1), out)

    def _standardise(self, energies: np.ndarray, out: np.ndarray) -> None:
        energies += self.floor
        logs = np.log(energies).reshape(len(energies), self.scales, -1)
        logs -= self.shared * logs.mean(axis=2, keepdims=True)
        out[:] = (logs.reshape(energies.shape) - self.centre) / self.spread


@jit
def _halve(grey, side):
    """Sums of 2 x 2 of the first side x side into the first side / 2 x side / 2."""
    for k in range(grey.shape[0]):
        for i in range(side // 2):
            for j in range(side // 2):
                upper = grey[k, 2 * i, 2 * j] + grey[k, 2 * i, 2 * j + 1]
                grey[k, i, j] = upper + grey[k, 2 * i + 1, 2 * j] + grey[k, 2 * i + 1, 2 * j + 1]


@jit
def _energies(pictures, wide, side, parts, slope, columns, scale, out):
    """Mean rise towards each direction, times slope, by part.

    pictures (K, wide wide): the first side x side cells of each count. out (K, scales 8 parts
    parts): a scale's are written. columns (6 COLUMN_SUMS,): to work in.
    """
    n = (side - 2) // parts
    half = 0.5 / (n * n)
    for k in range(len(pictures)):
        for v in range(parts):
            _sum_columns(pictures[k], wide, side, 1 + v * n, n, columns)
            for u in range(parts):
                first, place = 1 + u * n, (scale * 8 * parts + v) * parts + u
                # Opposite directions share a difference d: max(0, d) and max(0, -d) are half of
                # |d| + d and |d| - d.
                net_x = _total(columns, first + 4 * COLUMN_SUMS, n)
                net_y = _total(columns, first + 5 * COLUMN_SUMS, n)
                for direction, net in enumerate((net_x, net_x + net_y, net_y, net_y - net_x)):
                    size = _total(columns, first + direction * COLUMN_SUMS, n)
                    one, other = direction, direction + 4
                    out[k, one * parts * parts + place] = slope[one] * half * (size + net)
                    out[k, other * parts * parts + place] = slope[other] * half * (size - net)


@jit
def _sum_columns(cells, wide, side, first, n, columns):
    """Sum up n rows of a picture, whose rows begin `wide` cells apart, from row `first` on.

    For each column, the first and last of which mean nothing: the sizes of the differences across,
    of down and across, of down, of down less across; and the differences across and down.
    """
    for kind in range(6):
        columns[kind * COLUMN_SUMS : kind * COLUMN_SUMS + side] = 0
    for at in range(first * wide, (first + n) * wide, wide):
        left, right = cells[at - 1 : at - 1 + side], cells[at + 1 : at + 1 + side]
        upper, lower = cells[at - wide : at - wide + side], cells[at + wide : at + wide + side]
        # Numba sums 32 bits to 64: said to be 32 at each step, eight columns are done at once.
        for j in range(side):
            x, y = np.int32(right[j] - left[j]), np.int32(lower[j] - upper[j])
            both, gap = np.int32(x + y), np.int32(y - x)
            columns[j] += abs(x)
            columns[COLUMN_SUMS + j] += abs(both)
            columns[2 * COLUMN_SUMS + j] += abs(y)
            columns[3 * COLUMN_SUMS + j] += abs(gap)
            columns[4 * COLUMN_SUMS + j] += x
            columns[5 * COLUMN_SUMS + j] += y


@jit
def _total(columns, first, n):
    total = 0
    for column in columns[first : first + n]:
        total += column
    return total
