"""The retina's arithmetic as an ONNX graph; eye/retina.py says what it computes and why."""

from __future__ import annotations

import math

import numpy as np

from edge_rjepa.encoder.onnx_graph import (
    Tensor,
    columns,
    concat,
    integers,
    linear,
    node,
    reshape,
)
from edge_rjepa.eye.colour_codes import POINTS, ColourCodes
from edge_rjepa.eye.oriented_codes import DIRECTIONS, OrientedCodes
from edge_rjepa.eye.retina import Bank, Retina


def features_of(retina: Retina, picture: Tensor) -> Tensor:
    """Features (rows, f) of a picture (rows, window_px, window_px, 3) of float32 BGR.

    As in the retina itself, float32 pools without rounding.
    """
    config, colour = retina.config, retina.colour
    picture = node("Transpose", picture, perm=[0, 3, 1, 2])
    start = (config.window_px - config.fovea_px) // 2
    stop = start + config.fovea_px
    middle = node("Slice", picture, integers(start, start), integers(stop, stop), integers(2, 3))
    surround_px = config.window_px // config.surround_cells
    colour_px = config.window_px // config.colour_cells
    cells = _area_averages(picture, colour, surround_px)
    coarse = _area_averages(picture, colour[1:], colour_px)
    groups = [
        _area_averages(middle, colour[:1], 1),
        columns(cells, 0, 1),
        columns(coarse, 0, 1),
        columns(coarse, 1, 2),
    ]
    seen = [_analyse(bank, concat(*groups[bank.groups])) for bank in retina.banks]
    pattern, mean, power = (concat(*parts) for parts in zip(*seen, strict=True))
    level = linear(mean, retina.level_mix) - retina.level_centre
    contrast = linear(node("Log", power), retina.contrast_mix) - retina.contrast_centre
    parts = [pattern, level / retina.level_spread, contrast / retina.contrast_spread]
    if retina.colour_codes.count:
        parts.append(_colour_codes(retina.colour_codes, cells, config.surround_cells))
    if retina.oriented_codes.count:
        parts.append(_oriented_codes(retina.oriented_codes, picture, colour[:1], config.window_px))
    return concat(*parts)


def _analyse(bank: Bank, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pattern (rows, r n_c), mean (rows, r) and power (rows, r) of r pictures (rows, r, n, n)."""
    n, orders = bank.basis.shape
    r, n_c = bank.groups.stop - bank.groups.start, len(bank.kept)
    mean = linear(reshape(pictures, -1, n), bank.cell_mean.T)
    mean = linear(reshape(mean, -1, n), bank.cell_mean.T)
    centred = reshape(pictures, -1, n * n) - mean
    across = linear(reshape(centred, -1, n), bank.basis.T)
    across = node("Transpose", reshape(across, -1, n, orders), perm=[0, 2, 1])
    spectrum = reshape(linear(reshape(across, -1, n), bank.basis.T), -1, orders**2)
    c = _picked(spectrum, bank.kept, orders**2) * bank.frequency
    power = linear(c * c, bank.coefficient_mean.T, np.array([bank.floor_power]))
    pattern = c / node("Sqrt", power)
    return reshape(pattern, -1, r * n_c), reshape(mean, -1, r), reshape(power, -1, r)


def _area_averages(picture: Tensor, channels: np.ndarray, side: int) -> Tensor:
    """Averages (rows, c, n, n) over side x side px of channels (c, 3) of picture (rows, 3, H, W).

    Channels are whole 256ths, so the sums are whole numbers: float32 rounds once, if at all.
    """
    kernels = np.tile(256.0 * channels[:, :, None, None], (1, 1, side, side))
    return node("Conv", picture, kernels, strides=[side, side]) * (1.0 / (256 * side**2))


def _picked(x: Tensor, places: np.ndarray, width: int) -> Tensor:
    """x[:, places] of (rows, width), as an exact product: ncnn's converter gets a Gather wrong."""
    return linear(x, np.eye(width)[places])


def _colour_codes(codes: ColourCodes, colours: Tensor, n: int) -> Tensor:
    """Codes (rows, count) of luminance, warm and green, colours (rows, 3, n, n).

    The whole lattice is cheap as a product of matrices. It is made for each row of cells, and those
    are averaged, so that no sum is long.
    """
    places = (colours - codes.start[:, None, None]) * codes.density[:, None, None]
    places = reshape(node("Transpose", places, perm=[0, 2, 1, 3]), -1, 3, n)
    luminance, warm, green = (_nearness(columns(places, i, i + 1), POINTS[i]) for i in range(3))
    opponents = reshape(warm, -1, POINTS[1], 1, n) * reshape(green, -1, 1, POINTS[2], n)
    opponents = node("Transpose", reshape(opponents, -1, POINTS[1] * POINTS[2], n), perm=[0, 2, 1])
    by_row = reshape(node("MatMul", luminance, opponents), -1, n, math.prod(POINTS))
    share = node("ReduceMean", by_row, axes=[1], keepdims=0) * (1.0 / n)
    kept = _picked(share, codes.place, math.prod(POINTS))
    return (node("Sqrt", kept) - codes.centre) / codes.spread


def _nearness(places: Tensor, points: int) -> Tensor:
    """How near places (rows, 1, n) on an axis are to each of its points: (rows, points, n)."""
    places = node("Clip", places, 0.0, float(points - 1))
    away = node("Abs", places - np.arange(points)[None, :, None])
    return node("Relu", 1.0 - away)


def _oriented_codes(
    codes: OrientedCodes, picture: Tensor, luminance: np.ndarray, side: int
) -> Tensor:
    """Codes (rows, count) of picture (rows, 3, side, side); luminance: that channel (1, 3)."""
    slopes = np.zeros((len(DIRECTIONS), 1, 3, 3))
    for towards, (x, y) in zip(slopes[:, 0], DIRECTIONS, strict=True):
        towards[1, 2], towards[1, 0], towards[2, 1], towards[0, 1] = x, -x, y, -y
    logs = []
    for scale in range(codes.scales):
        if scale:
            grey, kernels = _area_averages(picture, luminance, 2**scale), slopes
        else:  # at once: a luminance of every pixel would take longer than all the rest
            grey, kernels = picture, slopes * luminance[:, :, None, None]
        rising = node("Relu", node("Conv", grey, kernels))
        energy = _mean_of_parts(rising, (side // 2**scale - 2) // codes.parts, codes.parts)
        energy = reshape(energy, -1, len(DIRECTIONS), codes.parts**2) * codes.slope[:, None]
        logs.append(node("Log", reshape(energy, -1, codes.count // codes.scales) + codes.floor))
    means = [node("ReduceMean", each, axes=[1], keepdims=1) for each in logs]
    own = [each - mean * codes.shared for each, mean in zip(logs, means, strict=True)]
    return (concat(*own) - codes.centre) / codes.spread


def _mean_of_parts(pictures: Tensor, px: int, parts: int) -> Tensor:
    """Means of parts x parts parts of px x px: along rows first, so that no sum is long."""
    means = node("ReduceMean", reshape(pictures, -1, px, parts, px), axes=[3], keepdims=0)
    return node("ReduceMean", means, axes=[1], keepdims=0)
