"""Gradient and Adam in one pass over the weights: a gradient never goes to memory but to be summed.

A thread owns EACH x COLUMNS weights, LANES columns apart. It sums over the fixations first, and
then takes what belongs to its weights (what was summed before, traces and, where a step is taken,
weights and second moments) a row at a time: few registers, many warps, of which some sum while
others wait for memory. The inputs of its columns and the coefficients of its rows come to shared
memory CHUNK fixations at a time, by way of registers, so that they, too, are asked for together.
Sums run over fixations in order.
"""

from __future__ import annotations

import math

import numba
from numba import cuda

from edge_rjepa.learner.kernels.cuda.arrays import ADAM, TAKES_STEP
from edge_rjepa.learner.kernels.cuda.build import device, index, kernel
from edge_rjepa.learner.kernels.cuda.tiles import GPU

# Constants that a build replaces.
NUMBER = numba.float32
N_STATE = 1
N_FACTORS = 1 + N_STATE  # of a row of W at a fixation: beta, gamma
LANES, WARPS, COLUMNS, EACH, CHUNK = GPU.lanes, GPU.warps, GPU.columns, GPU.each, GPU.chunk
UPDATE_THREADS, WIDTH, HEIGHT = GPU.update_threads, GPU.update_columns, GPU.update_rows
TILE_EACH, ROWS_EACH = CHUNK * WIDTH // UPDATE_THREADS, -(-CHUNK * HEIGHT // UPDATE_THREADS)


@device
def adam(g, w, m2, rate, blend, correction, epsilon):
    """The new w, m2 of one weight with gradient g (Kingma & Ba, 2015; no first moment)."""
    m2 += blend * (g * g - m2)
    return w - rate * g / (math.sqrt(m2 * correction) + epsilon), m2


@device
def put_chunk(coming, rows_coming, factors, tile, of_rows):
    """What this thread has brought of CHUNK fixations, to shared memory: of columns, of rows."""
    t = cuda.threadIdx.x
    for q in range(TILE_EACH):
        tile[t // WIDTH + q * (UPDATE_THREADS // WIDTH), t % WIDTH] = coming[q]
    for q in range(ROWS_EACH):
        k, i = t // HEIGHT + q * (UPDATE_THREADS // HEIGHT), t % HEIGHT
        if k < CHUNK:
            for a in range(factors):
                of_rows[k, a, i] = rows_coming[q, a]


@kernel
def recur(first, K, W, total, m2, E, beta, gamma, u, alpha, T, numbers):
    """The projections' weights: dL/dW = alpha E + beta' u, E <- T E + gamma' u, and a step.

    W and its like (B, G n_h, n_u), E (B, m, G n_h, n_u). Grid: x tiles of columns, y tiles of rows.
    """
    b = index(first + cuda.blockIdx.z)
    t = cuda.threadIdx.x
    lane, warp = t % LANES, t // LANES
    n_rows, n_columns, n_h = W.shape[1], W.shape[2], alpha.shape[2]
    first_column = cuda.blockIdx.x * WIDTH
    first_row = cuda.blockIdx.y * HEIGHT + warp
    tile = cuda.shared.array((CHUNK, WIDTH), NUMBER)
    of_rows = cuda.shared.array((CHUNK, N_FACTORS, HEIGHT), NUMBER)  # beta, gamma
    coming = cuda.local.array(TILE_EACH, NUMBER)
    rows_coming = cuda.local.array((ROWS_EACH, N_FACTORS), NUMBER)
    w = cuda.local.array(COLUMNS, NUMBER)
    old_m2 = cuda.local.array(COLUMNS, NUMBER)
    e = cuda.local.array((COLUMNS, N_STATE), NUMBER)
    g = cuda.local.array((EACH, COLUMNS), NUMBER)
    before = cuda.local.array(COLUMNS, NUMBER)
    seen = cuda.local.array(COLUMNS, NUMBER)
    takes_step = numbers[b, TAKES_STEP] != 0
    e_new = cuda.local.array((EACH, COLUMNS, N_STATE), NUMBER)
    for q in range(EACH):
        for p in range(COLUMNS):
            g[q, p] = NUMBER(0)
            for a in range(N_STATE):
                e_new[q, p, a] = NUMBER(0)
    for start in range(0, K, CHUNK):
        for q in range(TILE_EACH):
            k, j = t // WIDTH + q * (UPDATE_THREADS // WIDTH), t % WIDTH
            coming[q] = NUMBER(0)
            if start + k < K and first_column + j < n_columns:
                coming[q] = u[b, index(start + k), index(first_column + j)]
        for q in range(ROWS_EACH):
            k, i = t // HEIGHT + q * (UPDATE_THREADS // HEIGHT), t % HEIGHT
            row = cuda.blockIdx.y * HEIGHT + i
            counts = k < CHUNK and start + k < K and row < n_rows
            for a in range(N_FACTORS):
                rows_coming[q, a] = NUMBER(0)
            if counts:
                rows_coming[q, 0] = beta[b, index(start + k), index(row)]
                for a in range(N_STATE):
                    rows_coming[q, 1 + a] = gamma[b, index(start + k), a, index(row)]
        cuda.syncthreads()
        put_chunk(coming, rows_coming, N_FACTORS, tile, of_rows)
        cuda.syncthreads()
        for k in range(CHUNK):
            for p in range(COLUMNS):
                seen[p] = tile[k, lane + p * LANES]
            for q in range(EACH):
                weight = of_rows[k, 0, warp + q * WARPS]
                for p in range(COLUMNS):
                    g[q, p] += weight * seen[p]
                for a in range(N_STATE):
                    weight = of_rows[k, 1 + a, warp + q * WARPS]
                    for p in range(COLUMNS):
                        e_new[q, p, a] += weight * seen[p]
    rate, blend = numbers[b, ADAM], numbers[b, ADAM + 1]
    correction, epsilon = numbers[b, ADAM + 2], numbers[b, ADAM + 3]
    for q in range(EACH):
        row = first_row + q * WARPS
        unit = index(row % n_h)
        for p in range(COLUMNS):
            column = first_column + lane + p * LANES
            if row < n_rows and column < n_columns:
                before[p] = total[b, index(row), index(column)]
                for a in range(N_STATE):
                    e[p, a] = E[b, a, index(row), index(column)]
                if takes_step:
                    w[p] = W[b, index(row), index(column)]
                    old_m2[p] = m2[b, index(row), index(column)]
        for p in range(COLUMNS):
            column = first_column + lane + p * LANES
            if row < n_rows and column < n_columns:
                gradient = g[q, p]
                for a in range(N_STATE):
                    gradient += alpha[b, a, unit] * e[p, a]
                    value = e_new[q, p, a]
                    for d in range(N_STATE):
                        value += T[b, a, d, unit] * e[p, d]
                    E[b, a, index(row), index(column)] = value
                gradient += before[p]
                total[b, index(row), index(column)] = NUMBER(0) if takes_step else gradient
                if takes_step:
                    new_w, new_m2 = adam(
                        gradient, w[p], old_m2[p], rate, blend, correction, epsilon
                    )
                    W[b, index(row), index(column)] = new_w
                    m2[b, index(row), index(column)] = new_m2


@kernel
def descend(first, K, table, weights, total, m2, activity, numbers):
    """Every other matrix, in one launch: dL/dW = d_out' x, and a step.

    table (matrices + 1, 10): see `arrays.descent_table`, which says where in `weights` and its like
    and in `activity`, the workspace, (all flat) each matrix and its d_out and x are. Grid: x all
    tiles of all matrices.
    """
    b = first + cuda.blockIdx.z
    t = cuda.threadIdx.x
    lane, warp = t % LANES, t // LANES
    matrix = 0
    while table[matrix + 1, 0] <= cuda.blockIdx.x:
        matrix += 1
    n_rows, n_columns = table[matrix, 1], table[matrix, 2]
    at_weights = table[matrix, 3] + b * n_rows * n_columns
    at_d = table[matrix, 4] + b * table[matrix, 5] * n_rows
    at_x = table[matrix, 6] + b * table[matrix, 7] * n_columns
    length = K + table[matrix, 8]
    at_adam = table[matrix, 9]
    column_tiles = (n_columns + WIDTH - 1) // WIDTH
    block = cuda.blockIdx.x - table[matrix, 0]
    first_column = (block % column_tiles) * WIDTH
    first_row = (block // column_tiles) * HEIGHT + warp
    tile = cuda.shared.array((CHUNK, WIDTH), NUMBER)
    of_rows = cuda.shared.array((CHUNK, 1, HEIGHT), NUMBER)  # d_out
    coming = cuda.local.array(TILE_EACH, NUMBER)
    rows_coming = cuda.local.array((ROWS_EACH, 1), NUMBER)
    w = cuda.local.array(COLUMNS, NUMBER)
    old_m2 = cuda.local.array(COLUMNS, NUMBER)
    g = cuda.local.array((EACH, COLUMNS), NUMBER)
    before = cuda.local.array(COLUMNS, NUMBER)
    seen = cuda.local.array(COLUMNS, NUMBER)
    takes_step = numbers[b, TAKES_STEP] != 0
    for q in range(EACH):
        for p in range(COLUMNS):
            g[q, p] = NUMBER(0)
    for start in range(0, length, CHUNK):
        for q in range(TILE_EACH):
            k, j = t // WIDTH + q * (UPDATE_THREADS // WIDTH), t % WIDTH
            coming[q] = NUMBER(0)
            if start + k < length and first_column + j < n_columns:
                coming[q] = activity[index(at_x + (start + k) * n_columns + first_column + j)]
        for q in range(ROWS_EACH):
            k, i = t // HEIGHT + q * (UPDATE_THREADS // HEIGHT), t % HEIGHT
            row = block // column_tiles * HEIGHT + i
            rows_coming[q, 0] = NUMBER(0)
            if k < CHUNK and start + k < length and row < n_rows:
                rows_coming[q, 0] = activity[index(at_d + (start + k) * n_rows + row)]
        cuda.syncthreads()
        put_chunk(coming, rows_coming, 1, tile, of_rows)
        cuda.syncthreads()
        for k in range(CHUNK):
            for p in range(COLUMNS):
                seen[p] = tile[k, lane + p * LANES]
            for q in range(EACH):
                weight = of_rows[k, 0, warp + q * WARPS]
                for p in range(COLUMNS):
                    g[q, p] += weight * seen[p]
    rate, blend = numbers[b, at_adam], numbers[b, at_adam + 1]
    correction, epsilon = numbers[b, at_adam + 2], numbers[b, at_adam + 3]
    for q in range(EACH):
        row = first_row + q * WARPS
        for p in range(COLUMNS):
            column = first_column + lane + p * LANES
            if row < n_rows and column < n_columns:
                at = index(at_weights + row * n_columns + column)
                before[p] = total[at]
                if takes_step:
                    w[p] = weights[at]
                    old_m2[p] = m2[at]
        for p in range(COLUMNS):
            column = first_column + lane + p * LANES
            if row < n_rows and column < n_columns:
                at = index(at_weights + row * n_columns + column)
                gradient = g[q, p]
                gradient += before[p]
                total[at] = NUMBER(0) if takes_step else gradient
                if takes_step:
                    weights[at], m2[at] = adam(
                        gradient, w[p], old_m2[p], rate, blend, correction, epsilon
                    )
