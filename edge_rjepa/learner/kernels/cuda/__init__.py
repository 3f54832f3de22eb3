"""The learner's kernels on the GPU: kernels/cpu.py once more, for several streams at once.

One block of K fixations is these launches, and no others (docs/jetson.md says what they cost):

    forward             take, encode, project, scan                          4
    predict             gate, mix, predict                                   3
    loss                weigh_errors                                         1
    observe             observe                                              1
    predictor_backward  back_to_mix, back_to_gate, back_to_past              3
    update              coefficients, recur, descend                         3

an encoder with a hidden layer takes encode_hidden and back_to_hidden, 2 more,
and in a block after which the statistics are renewed 1 + 2 n_z / 32 more (`renew`). A launch is a
step that needs all of the one before: what can be worked out from a product's own output follows it
in the same launch, and all matrices without a past take their steps in one.

Every array has a leading axis for the stream (arrays.py), and the grid covers the streams. Nothing
is added up in an order that depends on timing, on the number of streams, or on their neighbours: a
stream's bits are its own.
"""

from __future__ import annotations

import functools
import warnings
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from edge_rjepa.learner.cells import Cell
from edge_rjepa.learner.kernels.cuda import descent, products, recurrent, scalars, statistics
from edge_rjepa.learner.kernels.cuda.arrays import Statistics, Workspace
from edge_rjepa.learner.kernels.cuda.build import build
from edge_rjepa.learner.kernels.cuda.tiles import Tiles, count
from edge_rjepa.learner.network import Traces, Weights

# Small networks have small grids; there is nothing to be done about it.
warnings.filterwarnings("ignore", message="Grid size .* will likely result in GPU under-util")

MODULES = (recurrent, products, statistics, descent)


@functools.cache
def compiled(cell: Cell, dtype: str, tiles: Tiles) -> SimpleNamespace:
    """The kernels of a cell and a dtype; each is compiled when it is first launched."""
    words = scalars.vocabulary(dtype)
    constants = {
        **tiles.constants(),
        **{name: words[name] for name in ("NUMBER", "tanh", "sigmoid", "one_minus")},
        **scalars.of_cell(cell, dtype),
        "N_STATE": cell.n_state,
        "N_FACTORS": 1 + cell.n_state,
        "N_PROJECTIONS": cell.n_projections,
        "N_PARAMETERS": cell.n_parameters,
        "READS": cell.reads,
    }
    return build(MODULES, constants)


class Block(NamedTuple):
    """What is launched for: K fixations of `streams` streams from the `first` on, in a queue."""

    kernels: SimpleNamespace
    tiles: Tiles
    first: int
    streams: int
    K: int
    queue: Any  # a CUDA stream

    def launch(self, name: str, grid: tuple[int, ...], threads: int, *arguments) -> None:
        """grid: x, y, z; each stream takes z of it."""
        x, y, z = (*grid, 1, 1)[:3]
        kernel = getattr(self.kernels, name)
        kernel[(x, y, z * self.streams), threads, self.queue](self.first, *arguments)

    def launch_product(self, name: str, outputs: tuple[int, ...], *arguments) -> None:
        """outputs: of each matrix that has blocks of its own."""
        grid = sum(count(n, self.tiles.out) for n in outputs), count(self.K, self.tiles.rows)
        self.launch(name, grid, self.tiles.product_threads, self.K, *arguments)

    def launch_loop(self, name: str, width: int, *arguments) -> None:
        """One thread for each of `width`."""
        grid = (count(width, self.tiles.threads),)
        self.launch(name, grid, self.tiles.threads, *arguments)


def forward(p: Weights, ws: Workspace, inbox, remember_features: bool, at: Block) -> None:
    """Embeddings and the recurrent layer with their local derivatives.

    inbox: see `recurrent.take`. What it says of the block is in ws.numbers from here on.
    """
    n_z, n_h, n_g = p.W_z.shape[1], p.lam.shape[2], p.G_a.shape[1]
    n_context_h = ws.c.shape[2] - n_z - ws.a.shape[2]
    width = max(ws.x.shape[2], ws.hidden.shape[2], n_z, ws.numbers.shape[1])
    at.launch_loop(
        "take", width, at.K, inbox, remember_features, n_context_h,
        ws.numbers, ws.x, ws.hidden, ws.a, ws.z, ws.u, ws.c,
    )  # fmt: skip
    encoded = ws.x
    if p.W_x is not None:
        encoded = ws.hidden
        at.launch_product("encode_hidden", (p.W_x.shape[1],), p.W_x, ws.x, ws.hidden)
    at.launch_product(
        "encode", (n_z, n_g), p.W_z, p.G_a, encoded, ws.a, remember_features, n_context_h,
        ws.z, ws.u, ws.c, ws.gain,
    )  # fmt: skip
    at.launch_product("project", (p.W.shape[1],), p.W, ws.u, ws.s)
    at.launch_loop("scan", n_h, at.K, ws.numbers, ws.s, p.lam, ws.y, ws.J, ws.B, ws.D, ws.c)


def predict(p: Weights, ws: Workspace, mu, at: Block) -> None:
    """Predictions and errors, and z - mu."""
    n_p, n_z = p.V_1.shape[1], p.V_3.shape[1]
    at.launch_product("gate", (n_p,), p.V_1, p.G_b, ws.c, ws.gain, ws.q, ws.g, ws.p1)
    at.launch_product("mix", (n_p,), p.V_2, ws.p1, ws.p2)
    at.launch_product("predict", (n_z,), p.V_3, ws.p2, ws.z, mu, ws.zhat, ws.e, ws.centred)


def loss(ws: Workspace, known: Statistics, at: Block) -> None:
    """dl/dzhat and the objective's dl/dz, statistics as they stand."""
    n_z = ws.e.shape[2]
    at.launch_product("weigh_errors", (n_z,), known.P, ws.centred, ws.e, ws.d_z, ws.d_zhat)


def observe(ws: Workspace, known: Statistics, at: Block) -> None:
    """Move the statistics by the block, and report surprise and loss (after `loss`)."""
    side = at.tiles.square
    grid = (count(ws.e.shape[2], side) ** 2, 3)
    at.launch(
        "observe", grid, side * side, at.K, ws.centred, ws.e, ws.numbers, known.S, known.mu,
        ws.d_z, ws.d_zhat, known.report,
    )  # fmt: skip


def renew(ws: Workspace, known: Statistics, noise_floor: np.floating, at: Block) -> None:
    """Factor S + eps 1 anew, for the streams whose numbers say so."""
    n = known.mu.shape[1]
    tile = at.tiles.factor
    threads = tile * at.tiles.solve_columns
    at.launch(
        "start_factors", (n, 1, 2), threads, ws.numbers, noise_floor, known.S, known.factor, known.P
    )
    panels = count(n, tile)
    for panel in range(panels):
        below = panels - panel - 1
        of_panel = panel, ws.numbers, known.factor, known.P
        at.launch("factor_panel", (below + 1, 1, 2), threads, *of_panel)
        if below:
            at.launch("take_panel", (below, below, 2), threads, *of_panel)
    invert(ws, known, at)


def invert(ws: Workspace, known: Statistics, at: Block) -> None:
    """P and the report's logdets from the factors, for the streams whose numbers say so."""
    grid = (count(known.mu.shape[1], at.tiles.solve_columns) + 1, 1, 2)
    threads = at.tiles.factor * at.tiles.solve_columns
    at.launch("invert", grid, threads, ws.numbers, known.factor, known.P, known.report)


def forget(ws: Workspace, traces: Traces, past_too: bool, at: Block) -> None:
    """Clear the traces and, with `past_too`, row 0 of x, hidden, z and y: one launch."""
    grid = (min(traces.E.shape[2], 1024),)
    at.launch(
        "forget", grid, at.tiles.threads, past_too, ws.x, ws.hidden, ws.z, ws.y,
        traces.e_lam, traces.E,
    )  # fmt: skip


def predictor_backward(p: Weights, ws: Workspace, at: Block) -> None:
    """From dl/dzhat and dl/dz back to what every matrix without a past makes, and to delta."""
    n_p, n_g = p.V_1.shape[1], p.G_a.shape[1]
    n_context = ws.c.shape[2] - ws.a.shape[2]
    at.launch_product("back_to_mix", (n_p,), p.V_3, ws.d_zhat, ws.p2, ws.d_2)
    at.launch_product("back_to_gate", (n_p,), p.V_2, ws.d_2, ws.q, ws.g, ws.d_1, ws.d_g)
    at.launch_product(
        "back_to_past", (n_context, n_g), p.V_1, p.G_b, ws.d_1, ws.d_g, ws.gain, ws.z,
        ws.d_gain, ws.delta, ws.d_z,
    )  # fmt: skip
    if p.W_x is not None:
        with_row_before = at._replace(K=at.K + 1)
        with_row_before.launch_product(
            "back_to_hidden", (p.W_x.shape[1],), p.W_z, ws.d_z, ws.hidden, ws.d_hidden
        )


class Descent(NamedTuple):
    """The weights and what goes with them; the table is `arrays.descent_table`."""

    weights: Weights
    total: Weights
    m2: Weights
    table: Any
    tiles_of_matrices: int


def update(ws: Workspace, traces: Traces, descent: Descent, at: Block) -> None:
    """Every weight takes its gradient, as the stream's numbers say, and the traces move on."""
    p, total, m2, table, tiles_of_matrices = descent
    n_h = p.lam.shape[2]
    at.launch_loop(
        "coefficients", n_h, at.K, ws.J, ws.B, ws.D, ws.delta, ws.beta, ws.gamma, ws.alpha, ws.T,
        traces.e_lam, p.lam, total.lam, m2.lam, ws.numbers,
    )  # fmt: skip
    grid = (
        count(p.W.shape[2], at.tiles.update_columns), count(p.W.shape[1], at.tiles.update_rows)
    )  # fmt: skip
    at.launch(
        "recur", grid, at.tiles.update_threads, at.K, p.W, total.W, m2.W, traces.E,
        ws.beta, ws.gamma, ws.u, ws.alpha, ws.T, ws.numbers,
    )  # fmt: skip
    at.launch(
        "descend", (tiles_of_matrices,), at.tiles.update_threads, at.K, table,
        p.flat, total.flat, m2.flat, ws.flat, ws.numbers,
    )  # fmt: skip
