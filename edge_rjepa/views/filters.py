"""What the units that look at features look for, as pictures: of the encoder's hidden layer, or of
the embedding where there is none.

A unit is moved by w'x of the features x of a patch. Features of photographs are about white
(retina.py), so of all patches that move it by as much the most usual one has features along w. That
patch is drawn: every step of the retina is undone for w, with the contrast that windows usually
have in place of the patch's own, which is what makes the retina linear. Codes of colours and edges
are left out: they say what is in a window and not where, so no one patch belongs to them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from edge_rjepa.eye.retina import GROUPS, Bank, Retina

CHANNEL = {"fovea": 0, "surround": 0, "warm": 1, "green": 2}  # as the rows of retina.COLOUR


class PreferredPatches(NamedTuple):
    """The patches that N units look for, in grey levels, BGR."""

    pattern: np.ndarray  # (N, window_px, window_px, 3) float64, about 0
    level: np.ndarray  # (N, 3) float64, the mean beside it, above or below mean_colour


def preferred_patches(weights: np.ndarray, retina: Retina) -> PreferredPatches:
    """What each row of weights (N, f) looks for."""
    side, edge = retina.config.window_px, (retina.config.window_px - retina.config.fovea_px) // 2
    pattern = np.zeros((len(weights), side, side, len(retina.colour)))
    for pictures, group in _patterns(weights, retina):
        within = slice(edge, side - edge) if group == "fovea" else slice(None)
        pattern[:, within, within, CHANNEL[group]] += pictures
    means = (
        weights[:, retina.parts["level"]] * retina.level_spread @ np.linalg.inv(retina.level_mix).T
    )
    to_bgr = np.linalg.inv(retina.colour).T
    return PreferredPatches(pattern @ to_bgr, means[:, 1:] @ to_bgr)


def looking_units(
    parameters: Mapping[str, np.ndarray], covariance: np.ndarray
) -> tuple[np.ndarray, bool]:
    """Weights (N, f) of the units that look at features, and whether they are a hidden layer's.

    Those that matter most are first. Units of the embedding, with their covariance (n_z, n_z),
    matter by their variance. A hidden unit matters by how far it moves the arguments of the
    embedding where the features are one standard deviation along its way, and that is
    tanh(|w|) times the length of its column in W_z.
    """
    W_x, W_z = parameters["W_x"][:, :-1], parameters["W_z"][:, :-1]
    hidden = len(W_x) > 0
    if hidden:
        matter = np.tanh(np.linalg.norm(W_x, axis=1)) * np.linalg.norm(W_z, axis=0)
    else:
        matter = np.diag(covariance)
    return (W_x if hidden else W_z)[np.argsort(-matter, kind="stable")], hidden


def mean_colour(retina: Retina) -> np.ndarray:
    """Mean (3,) BGR of the windows that the retina was made for."""
    means = np.linalg.solve(retina.level_mix, retina.level_centre)
    return np.linalg.solve(retina.colour, means[1:])


def shares(weights: np.ndarray, retina: Retina) -> dict[str, float]:
    """How much of the squared weights (N, f) goes to each kind of feature, as `Retina.parts`."""
    squares = np.square(weights, dtype=np.float64).sum(axis=0)
    return {kind: float(squares[at].sum() / squares.sum()) for kind, at in retina.parts.items()}


def _patterns(weights: np.ndarray, retina: Retina) -> Iterator[tuple[np.ndarray, str]]:
    """Of each group its pictures (N, px, px), as fine as the window, and its name."""
    usual_power = np.linalg.solve(retina.contrast_mix, retina.contrast_centre)
    amplitude = np.exp(0.5 * usual_power)  # grey levels
    for bank in retina.banks:
        for i, group in enumerate(GROUPS[bank.groups]):
            px = retina.config.fovea_px if group == "fovea" else retina.config.window_px
            part = slice(i * len(bank.kept), (i + 1) * len(bank.kept))
            c = amplitude[bank.groups][i] * weights[:, bank.pattern][:, part]
            yield _inverse_dct(c / bank.frequency, bank, px), group


def _inverse_dct(coefficients: np.ndarray, bank: Bank, px: int) -> np.ndarray:
    """Pictures (N, px, px) of DCT coefficients (N, n_c): the same cosines, on a finer grid."""
    cells, orders = bank.basis.shape
    across_down = np.zeros((len(coefficients), orders * orders))
    across_down[:, bank.kept] = coefficients
    place = (np.arange(px)[:, None] + 0.5) / px
    cosines = math.sqrt(2.0 / cells) * np.cos(math.pi * place * np.arange(orders))
    cosines[:, 0] /= math.sqrt(2.0)
    across_down = across_down.reshape(-1, orders, orders)
    return cosines @ across_down.transpose(0, 2, 1) @ cosines.T
