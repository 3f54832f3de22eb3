"""The retina's arithmetic as an ONNX graph; eye/retina.py says what it computes and why."""

from __future__ import annotations

import numpy as np

from edge_rjepa.encoder.onnx_graph import Tensor, concat, integers, linear, node, reshape
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
    groups = [
        _area_averages(middle, colour[0], 1),
        _area_averages(picture, colour[0], surround_px),
        _area_averages(picture, colour[1], colour_px),
        _area_averages(picture, colour[2], colour_px),
    ]
    seen = [_analyse(bank, concat(*groups[bank.groups])) for bank in retina.banks]
    pattern, mean, power = (concat(*parts) for parts in zip(*seen, strict=True))
    level = linear(mean, retina.level_mix) - retina.level_centre
    contrast = linear(node("Log", power), retina.contrast_mix) - retina.contrast_centre
    parts = [pattern, level / retina.level_spread, contrast / retina.contrast_spread]
    if retina.colour_codes.count:
        colours = [groups[1], *(_area_averages(picture, colour[i], surround_px) for i in (1, 2))]
        parts.append(_colour_codes(retina.colour_codes, colours, config.surround_cells))
    if retina.oriented_codes.count:
        luminance = _area_averages(picture, colour[0], 1)
        parts.append(_oriented_codes(retina.oriented_codes, luminance, config.window_px))
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
    c = node("Gather", spectrum, integers(*bank.kept), axis=1) * bank.frequency
    power = linear(c * c, bank.coefficient_mean.T, np.array([bank.floor_power]))
    pattern = c / node("Sqrt", power)
    return reshape(pattern, -1, r * n_c), reshape(mean, -1, r), reshape(power, -1, r)


def _area_averages(picture: Tensor, channel: np.ndarray, side: int) -> Tensor:
    """Averages (rows, 1, n, n) over side x side px of a channel (3,) of picture (rows, 3, H, W).

    Channels are whole 256ths, so the sums are whole numbers: float32 rounds once, if at all.
    """
    kernel = np.tile(256.0 * channel[None, :, None, None], (1, 1, side, side))
    return node("Conv", picture, kernel, strides=[side, side]) * (1.0 / (256 * side**2))


def _colour_codes(codes: ColourCodes, colours: list[Tensor], n: int) -> Tensor:
    """Codes (rows, count) of luminance, warm and green (rows, 1, n, n).

    The whole lattice is cheap as a product of matrices. It is made for each row of cells, and those
    are averaged, so that no sum is long.
    """
    luminance, warm, green = (
        reshape(node("Transpose", near, perm=[0, 2, 1, 3]), -1, points, n)  # (rows n, points, n)
        for points, near in zip(POINTS, _nearness(codes, colours), strict=True)
    )
    opponents = reshape(warm, -1, POINTS[1], 1, n) * reshape(green, -1, 1, POINTS[2], n)
    opponents = node("Transpose", reshape(opponents, -1, POINTS[1] * POINTS[2], n), perm=[0, 2, 1])
    by_row = reshape(node("MatMul", luminance, opponents), -1, n, int(np.prod(POINTS)))
    share = node("ReduceMean", by_row, axes=[1], keepdims=0) * (1.0 / n)
    kept = node("Gather", share, integers(*codes.place), axis=1)
    return (node("Sqrt", kept) - codes.centre) / codes.spread


def _nearness(codes: ColourCodes, colours: list[Tensor]) -> list[Tensor]:
    """Of each channel (rows, 1, n, n), how near it is to each point of its axis (rows, p, n, n)."""
    near = []
    for axis, channel in enumerate(colours):
        place = (channel - codes.start[axis]) * codes.density[axis]
        place = node("Clip", place, 0.0, codes.last[axis])
        points = np.arange(POINTS[axis], dtype=np.float32)[:, None, None]
        near.append(node("Relu", 1.0 - node("Abs", place - points[None])))
    return near


def _oriented_codes(codes: OrientedCodes, luminance: Tensor, side: int) -> Tensor:
    """Codes (rows, count) of luminance (rows, 1, side, side)."""
    kernel = np.zeros((len(DIRECTIONS), 1, 3, 3))
    for towards, (x, y) in zip(kernel[:, 0], DIRECTIONS, strict=True):
        towards[1, 2], towards[1, 0], towards[2, 1], towards[0, 1] = x, -x, y, -y
    halves = np.full((1, 1, 2, 2), 0.25)
    energies = []
    for scale in range(codes.scales):
        if scale:
            luminance = node("Conv", luminance, halves, strides=[2, 2])
            side //= 2
        rising = node("Relu", node("Conv", luminance, kernel))
        px = (side - 2) // codes.parts
        mean = node("AveragePool", rising, kernel_shape=[1, px], strides=[1, px])
        mean = node("AveragePool", mean, kernel_shape=[px, 1], strides=[px, 1])
        energies.append(reshape(mean * codes.slope[:, None, None], -1, codes.count // codes.scales))
    return (node("Log", concat(*energies) + codes.floor) - codes.centre) / codes.spread
