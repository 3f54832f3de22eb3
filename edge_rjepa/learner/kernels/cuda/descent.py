"""Gradient and Adam in one pass over the weights: a gradient never goes to memory but to be summed.

A thread owns EACH x COLUMNS weights, LANES columns apart, and asks for all that belongs to them
(weight, second moment, traces) before it sums over the fixations: those loads are under way
together and hide behind the sums. Rows of the inputs come to shared memory CHUNK fixations at a
time, the coefficients of a row are the same number for a whole warp. Sums run over fixations in
order.
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
LANES, WARPS, COLUMNS, EACH, CHUNK = GPU.lanes, GPU.warps, GPU.columns, GPU.each, GPU.chunk
UPDATE_THREADS, WIDTH = GPU.update_threads, GPU.update_columns


@device
def adam(g, w, m2, rate, blend, correction, epsilon):
    """The new w, m2 of one weight with gradient g (Kingma & Ba, 2015; no first moment)."""
    m2 += blend * (g * g - m2)
    return w - rate * g / (math.sqrt(m2 * correction) + epsilon), m2


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
    first_row = cuda.blockIdx.y * WARPS * EACH + warp
    tile = cuda.shared.array((CHUNK, WIDTH), NUMBER)
    w = cuda.local.array((EACH, COLUMNS), NUMBER)
    old_m2 = cuda.local.array((EACH, COLUMNS), NUMBER)
    e = cuda.local.array((EACH, COLUMNS, N_STATE), NUMBER)
    g = cuda.local.array((EACH, COLUMNS), NUMBER)
    before = cuda.local.array((EACH, COLUMNS), NUMBER)
    seen = cuda.local.array(COLUMNS, NUMBER)
    takes_step = numbers[b, TAKES_STEP] != 0
    e_new = cuda.local.array((EACH, COLUMNS, N_STATE), NUMBER)
    for q in range(EACH):
        row = first_row + q * WARPS
        for p in range(COLUMNS):
            column = first_column + lane + p * LANES
            g[q, p] = NUMBER(0)
            for a in range(N_STATE):
                e_new[q, p, a] = NUMBER(0)
            if row < n_rows and column < n_columns:
                before[q, p] = total[b, index(row), index(column)]
                if takes_step:
                    w[q, p] = W[b, index(row), index(column)]
                    old_m2[q, p] = m2[b, index(row), index(column)]
                for a in range(N_STATE):
                    e[q, p, a] = E[b, a, index(row), index(column)]
    for start in range(0, K, CHUNK):
        cuda.syncthreads()
        for i in range(t, CHUNK * WIDTH, UPDATE_THREADS):
            k, j = i // WIDTH, i % WIDTH
            value = NUMBER(0)
            if start + k < K and first_column + j < n_columns:
                value = u[b, index(start + k), index(first_column + j)]
            tile[k, j] = value
        cuda.syncthreads()
        for k in range(CHUNK):
            for p in range(COLUMNS):
                seen[p] = tile[k, lane + p * LANES]
            for q in range(EACH):
                row = first_row + q * WARPS
                counts = row < n_rows and start + k < K
                weight = NUMBER(0)
                if counts:
                    weight = beta[b, index(start + k), index(row)]
                for p in range(COLUMNS):
                    g[q, p] += weight * seen[p]
                for a in range(N_STATE):
                    if counts:
                        weight = gamma[b, index(start + k), a, index(row)]
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
                gradient = g[q, p]
                for a in range(N_STATE):
                    gradient += alpha[b, a, unit] * e[q, p, a]
                    value = e_new[q, p, a]
                    for d in range(N_STATE):
                        value += T[b, a, d, unit] * e[q, p, d]
                    E[b, a, index(row), index(column)] = value
                gradient += before[q, p]
                total[b, index(row), index(column)] = NUMBER(0) if takes_step else gradient
                if takes_step:
                    new_w, new_m2 = adam(
                        gradient, w[q, p], old_m2[q, p], rate, blend, correction, epsilon
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
    first_row = (block // column_tiles) * WARPS * EACH + warp
    tile = cuda.shared.array((CHUNK, WIDTH), NUMBER)
    w = cuda.local.array((EACH, COLUMNS), NUMBER)
    old_m2 = cuda.local.array((EACH, COLUMNS), NUMBER)
    g = cuda.local.array((EACH, COLUMNS), NUMBER)
    before = cuda.local.array((EACH, COLUMNS), NUMBER)
    seen = cuda.local.array(COLUMNS, NUMBER)
    takes_step = numbers[b, TAKES_STEP] != 0
    for q in range(EACH):
        row = first_row + q * WARPS
        for p in range(COLUMNS):
            column = first_column + lane + p * LANES
            g[q, p] = NUMBER(0)
            if row < n_rows and column < n_columns:
                at = index(at_weights + row * n_columns + column)
                before[q, p] = total[at]
                if takes_step:
                    w[q, p] = weights[at]
                    old_m2[q, p] = m2[at]
    for start in range(0, length, CHUNK):
        cuda.syncthreads()
        for i in range(t, CHUNK * WIDTH, UPDATE_THREADS):
            k, j = i // WIDTH, i % WIDTH
            value = NUMBER(0)
            if start + k < length and first_column + j < n_columns:
                value = activity[index(at_x + (start + k) * n_columns + first_column + j)]
            tile[k, j] = value
        cuda.syncthreads()
        for k in range(CHUNK):
            for p in range(COLUMNS):
                seen[p] = tile[k, lane + p * LANES]
            for q in range(EACH):
                row = first_row + q * WARPS
                weight = NUMBER(0)
                if row < n_rows and start + k < length:
                    weight = activity[index(at_d + (start + k) * n_rows + row)]
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
                gradient = g[q, p]
                gradient += before[q, p]
                total[at] = NUMBER(0) if takes_step else gradient
                if takes_step:
                    weights[at], m2[at] = adam(
                        gradient, w[q, p], old_m2[q, p], rate, blend, correction, epsilon
                    )
