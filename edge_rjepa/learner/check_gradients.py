"""RFP against the complex step: the work of `edge-rjepa check-gradients`.

Small networks with random weights learn at rate 0 from random fixations, so that their gradients
add up at fixed weights, where RFP claims to be exact. Each is compared with `reference.NaiveModel`,
which shares no code with the learner and keeps no sensitivities. The streams have 64 to 80
fixations in blocks of 1, of 7, of 16 and of unequal lengths, with a reset after about a third.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from edge_rjepa.errors import ConfigError
from edge_rjepa.learner.cells import CELLS, find
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.network import WEIGHTS
from edge_rjepa.learner.reference import CELLS as REFERENCE_CELLS
from edge_rjepa.learner.reference import NaiveModel
from edge_rjepa.learner.rjepa import RJepa

MEMORY_INPUTS = ("embedding", "features")
ENCODERS_HIDDEN = (0, 8)  # units of the encoder's hidden layer; 0: none
TOLERANCES = {"float64": 1e-10, "float32": 1e-4}
CUTS = ((1,) * 64, (7,) * 10, (16,) * 5, (3, 16, 1, 9, 2, 11, 7, 1, 13, 4, 5))  # block lengths
NETWORK: dict[str, Any] = {
    "n_features": 6,
    "n_efference": 2,
    "n_embedding": 5,
    "n_hidden": 6,
    "n_predictor": 7,
    "n_gain": 4,
    "noise_floor": 0.5,
    "statistics_fixations": 40.0,  # so short that both forms of the estimates are met
    "learning_rate": 0.0,
    "update_every": 1000,  # more blocks than any stream has: their gradients add up
}


class Row(NamedTuple):
    """How far the gradient of one parameter array is off at worst, over all cuts of the stream."""

    cell: str
    memory_input: str
    n_encoder_hidden: int
    dtype: str
    parameter: str
    error: float  # norm of the difference / norm of the reference
    tolerance: float
    ok: bool


def check_gradients(
    cells: Iterable[str] | None = None,
    dtypes: Iterable[str] = tuple(TOLERANCES),
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
    memory_inputs: Iterable[str] = MEMORY_INPUTS,
    encoders_hidden: Iterable[int] = ENCODERS_HIDDEN,
    learner: Callable[[RJepaConfig], RJepa] = RJepa,
) -> list[Row]:
    """One row for every cell, memory input, encoder, dtype and array; takes seconds a cell.

    cells: names; all that are registered and that the reference knows when not given.
    progress: called with (networks done, networks in all, what comes now).
    learner: what to check, made from a configuration; the tests hand in learners that must miss.
    The error is the larger of two: of the gradients of all blocks, as `RJepa.gradients` gives
    them, laid end to end; and of their sum, as `RJepa.learn_block` hands it to the optimiser.

    Raises ConfigError for a cell or a dtype that cannot be checked.
    """
    cells = [name for name in CELLS if name in REFERENCE_CELLS] if cells is None else list(cells)
    for name in cells:
        find(name)
    for name in set(cells) - REFERENCE_CELLS.keys():
        known = ", ".join(REFERENCE_CELLS)
        raise ConfigError(f"the reference has no cell '{name}': choose one of {known}")
    dtypes, memory_inputs = tuple(dtypes), tuple(memory_inputs)
    networks = list(itertools.product(cells, memory_inputs, encoders_hidden))
    rows = []
    for done, network in enumerate(networks):
        if progress:
            progress(done, len(networks), ", ".join(_words(*network)))
        rows += _check_network(*network, dtypes, seed, learner)
    if progress:
        progress(len(networks), len(networks), "done")
    return rows


def _words(cell: str, memory_input: str, n_encoder_hidden: int) -> tuple[str, str, str]:
    return cell, memory_input, f"{n_encoder_hidden} hidden" if n_encoder_hidden else "no hidden"


def _check_network(cell, memory_input, n_encoder_hidden, dtypes, seed, learner) -> list[Row]:
    network = NETWORK | {"n_encoder_hidden": n_encoder_hidden}
    configs = [
        RJepaConfig(**network, cell=cell, memory_input=memory_input, dtype=dtype)
        for dtype in dtypes
    ]
    rng = np.random.default_rng(seed)
    weights = _weights(rng, configs[0])
    streams = [_stream(rng, sizes) for sizes in CUTS]
    reference = NaiveModel(
        weights, cell, memory_input, NETWORK["noise_floor"], NETWORK["statistics_fixations"]
    )
    true = [reference.gradients_by_block(blocks) for blocks in streams]
    rows = []
    for config in configs:
        found = [_gradients(_with(weights, learner(config)), blocks) for blocks in streams]
        tolerance = TOLERANCES[config.dtype]
        for name in (name for name in WEIGHTS if weights[name].size):
            error = np.max([_error(*pair, name) for pair in zip(found, true, strict=True)])
            ok = bool(error <= tolerance)  # False for NaN
            rows.append(
                Row(
                    cell, memory_input, n_encoder_hidden, config.dtype,
                    name, float(error), tolerance, ok,
                )
            )  # fmt: skip
    return rows


def _weights(rng, config) -> dict[str, np.ndarray]:
    arrays = RJepa(config).parameters()
    return {name: _normal(rng, array.shape, scale=0.5) for name, array in arrays.items()}


def _stream(rng, sizes) -> list[tuple[np.ndarray, np.ndarray, bool]]:
    """Random blocks (features, efference, reset before it) of the given lengths."""
    return [
        (
            _normal(rng, (K, NETWORK["n_features"])),
            _normal(rng, (K, NETWORK["n_efference"])),
            i == len(sizes) // 3,
        )
        for i, K in enumerate(sizes)
    ]


def _normal(rng, shape, scale=1.0) -> np.ndarray:
    """Normal numbers that float32 holds exactly: both dtypes then compute the same thing."""
    return (scale * rng.normal(size=shape)).astype(np.float32).astype(np.float64)


def _with(weights, learner: RJepa) -> RJepa:
    learner.set_parameters(weights)
    return learner


def _gradients(learner, blocks) -> tuple[list[dict], dict]:
    """Of each block alone, by `gradients`, and of all together, by `learn_block`."""
    by_block = []
    for features, efference, reset_before in blocks:
        if reset_before:
            learner.reset()
        by_block.append(learner.gradients(features, efference))
        learner.learn_block(features, efference)
    return by_block, learner.gradient_sums()


def _error(found, true, name) -> float:
    by_block, total = found
    errors = (
        _relative([block[name] for block in by_block], [block[name] for block in true]),
        _relative(total[name], sum(block[name] for block in true)),
    )
    return float(np.max(errors))  # NaN where one of them is


def _relative(found, true) -> float:
    found, true = np.asarray(found, np.float64), np.asarray(true)
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def table(rows: Iterable[Row]) -> str:
    """The rows as plain text: one line a network, one column a parameter array, one part a dtype.

    `!` marks what is out of tolerance, `*` the largest error of a dtype.
    """
    rows = list(rows)
    return "\n\n".join(
        _part([row for row in rows if row.dtype == dtype])
        for dtype in dict.fromkeys(row.dtype for row in rows)
    )


def _part(rows: list[Row]) -> str:
    worst = max(rows, key=lambda row: np.nan_to_num(row.error, nan=np.inf))
    missed = sum(not row.ok for row in rows)
    lines = [
        f"{worst.dtype}: relative error of the gradient",
        f"{'cell':<8}{'memory input':<13}{'encoder':<10}"
        + "".join(f"{name:>9} " for name in WEIGHTS),
    ]
    for network in dict.fromkeys(row[:3] for row in rows):
        line = "{:<8}{:<13}{:<10}".format(*_words(*network))
        errors = {row.parameter: row for row in rows if row[:3] == network}
        for row in map(errors.get, WEIGHTS):
            mark = " " if row is None or row.ok else "!"
            mark = "*" if row is worst and mark == " " else mark
            line += f"{row.error:9.1e}{mark}" if row else f"{'-':>9}{mark}"
        lines.append(line)
    verdict = f"{missed} of {len(rows)} arrays miss" if missed else f"all {len(rows)} arrays within"
    lines.append(
        f"largest {worst.error:.1e} ({', '.join(_words(*worst[:3]))}, {worst.parameter}): "
        f"{verdict} {worst.tolerance:.0e}"
    )
    return "\n".join(line.rstrip() for line in lines)
