"""The objective's running statistics, and what follows from them: factors, inverses, the report.

P = (S + eps 1)^-1 is kept as a matrix: a block then costs one product with it, as wide as the GPU,
where two triangular solves of K rows would be 2 n_z / 32 steps one after another. It is safe here:
the eigenvalues of S + eps 1 lie between eps and eps + n_z, as |z| < 1. P is made when the
statistics have moved by RENEW_AFTER (objective.py), from a Cholesky factor, by n_z / FACTOR pairs
of launches.

Matrices come in pairs, of z and of e: grid z is 2 x stream + which.
"""

from __future__ import annotations

import math

import numba
from numba import cuda

from edge_rjepa.learner.kernels.cuda.arrays import KEEP, MEAN_WEIGHT, RATE, RENEW, WEIGHT
from edge_rjepa.learner.kernels.cuda.build import device, kernel
from edge_rjepa.learner.kernels.cuda.tiles import GPU

# Constants that a build replaces.
NUMBER = numba.float32
SQUARE, FACTOR, SOLVE_COLUMNS = GPU.square, GPU.factor, GPU.solve_columns
SQUARE_THREADS, STACK, PITCH = SQUARE * SQUARE, 2 * FACTOR, FACTOR + 1
LOWER_EACH = -(-FACTOR // SOLVE_COLUMNS)  # of a tile, a thread


@kernel
def observe(first, K, centred, e, numbers, S, mu, d_z, d_zhat, report):
    """Move the statistics by the block; the shares of the loss go into the report.

    Grid: x tiles of S, y 0 and 1 for S_z and S_e, 2 for the report; SQUARE x SQUARE threads.
    """
    rows = cuda.shared.array((SQUARE, SQUARE), NUMBER)
    columns = cuda.shared.array((SQUARE, SQUARE), NUMBER)
    parts = cuda.shared.array((SQUARE_THREADS, 2), numba.float64)
    b = first + cuda.blockIdx.z
    t = cuda.threadIdx.x
    n = mu.shape[1]
    which = cuda.blockIdx.y
    if which == 2:
        for k in range(cuda.blockIdx.x, K, cuda.gridDim.x):
            of_e, of_z = numba.float64(0), numba.float64(0)
            for i in range(t, n, SQUARE_THREADS):
                pull = d_zhat[b, k, i]  # -P_e e
                of_e -= 0.5 * e[b, k, i] * pull
                of_z += 0.5 * centred[b, k, i] * (d_z[b, k + 1, i] + pull)  # -P_z (z - mu)
            cuda.syncthreads()
            parts[t, 0], parts[t, 1] = of_e, of_z
            cuda.syncthreads()
            if t < 2:
                total = numba.float64(0)
                for i in range(SQUARE_THREADS):
                    total += parts[i, t]
                report[b, 2 + 2 * k + t] = total
        return
    tiles = (n + SQUARE - 1) // SQUARE
    i, j = t // SQUARE, t % SQUARE
    first_i = cuda.blockIdx.x // tiles * SQUARE
    first_j = cuda.blockIdx.x % tiles * SQUARE
    product, mean_i, mean_j = NUMBER(0), NUMBER(0), NUMBER(0)
    before = NUMBER(0)
    if first_i + i < n and first_j + j < n:
        before = S[b, which, first_i + i, first_j + j]
    for start in range(0, K, SQUARE):
        cuda.syncthreads()
        k = start + i  # thread i, j brings column j of fixation i of both tiles
        row, column = NUMBER(0), NUMBER(0)
        if k < K and first_i + j < n:
            row = centred[b, k, first_i + j] if which == 0 else e[b, k, first_i + j]
        if k < K and first_j + j < n:
            column = centred[b, k, first_j + j] if which == 0 else e[b, k, first_j + j]
        rows[i, j], columns[i, j] = row, column
        cuda.syncthreads()
        for k in range(SQUARE):
            product += rows[k, i] * columns[k, j]
            mean_i += rows[k, i]
            mean_j += columns[k, j]
    i, j = first_i + i, first_j + j
    if i < n and j < n:
        value = numbers[b, KEEP] * before + numbers[b, WEIGHT] * product
        if which == 0:
            mean_i, mean_j = mean_i / NUMBER(K), mean_j / NUMBER(K)
            value -= numbers[b, MEAN_WEIGHT] * mean_i * mean_j
            if i == 0:
                mu[b, j] += numbers[b, RATE] * mean_j
        S[b, which, i, j] = value


# ------------------------------------------------------------------------------------------------
# Renewal: S + eps 1 = L L', P from it. The lower triangle of P is room to work in.


@kernel
def start_factors(first, numbers, noise_floor, S, factor, P):
    """P <- S + eps 1, to work on, and an empty factor. Grid: x rows."""
    b, which = first + cuda.blockIdx.z // 2, cuda.blockIdx.z % 2
    i = cuda.blockIdx.x
    if numbers[b, RENEW] != 0:
        for j in range(cuda.threadIdx.x, S.shape[2], cuda.blockDim.x):
            P[b, which, i, j] = S[b, which, i, j] + (noise_floor if i == j else NUMBER(0))
            factor[b, which, i, j] = NUMBER(0)


@kernel
def factor_panel(first, panel, numbers, factor, P):
    """The factor's tiles of one panel of columns, from what is left in P.

    A block per tile: each factors the panel's diagonal tile stacked on its own. Grid: x tiles from
    the diagonal one down.
    """
    b, which = first + cuda.blockIdx.z // 2, cuda.blockIdx.z % 2
    t, threads = cuda.threadIdx.x, cuda.blockDim.x
    n, corner = P.shape[2], panel * FACTOR
    own = corner + cuda.blockIdx.x * FACTOR
    stack = cuda.shared.array((STACK, PITCH), NUMBER)
    if numbers[b, RENEW] == 0:
        return
    for index in range(t, STACK * FACTOR, threads):
        i, j = index // FACTOR, index % FACTOR
        row = corner + i if i < FACTOR else own + i - FACTOR
        value = NUMBER(1) if i == j else NUMBER(0)  # beyond the edge: the factor of 1 is 1
        if row < n and corner + j < n:
            value = P[b, which, row, corner + j]
        stack[i, j] = value
    # threads / STACK threads share a row and take its columns in turn. Columns are divided by the
    # roots of their pivots at the end, so that a step needs one barrier. Above the diagonal is
    # nonsense.
    i = t % STACK
    for j in range(FACTOR):
        cuda.syncthreads()
        weight = stack[i, j] / stack[j, j]
        for q in range(j + 1 + t // STACK, FACTOR, threads // STACK):
            if i > j:
                stack[i, q] -= weight * stack[q, j]
    cuda.syncthreads()
    shift = 0 if cuda.blockIdx.x == 0 else FACTOR
    for index in range(t, FACTOR * FACTOR, threads):
        i, j = index // FACTOR, index % FACTOR
        if own + i < n and corner + j < n and (shift != 0 or j <= i):
            pivot = stack[j, j]
            # only what is not finite has no positive pivot: the learner diverged
            root = math.sqrt(pivot) if pivot > NUMBER(0) else NUMBER(math.nan)
            factor[b, which, own + i, corner + j] = stack[shift + i, j] / root


@kernel
def take_panel(first, panel, numbers, factor, P):
    """P -= L_panel L_panel' in the tiles below and right of a panel. Grid: x, y those tiles."""
    b, which = first + cuda.blockIdx.z // 2, cuda.blockIdx.z % 2
    t, threads = cuda.threadIdx.x, cuda.blockDim.x
    n, corner = P.shape[2], panel * FACTOR
    rows = cuda.shared.array((FACTOR, PITCH), NUMBER)
    columns = cuda.shared.array((FACTOR, PITCH), NUMBER)
    if numbers[b, RENEW] == 0 or cuda.blockIdx.x > cuda.blockIdx.y:
        return
    first_i = corner + (1 + cuda.blockIdx.y) * FACTOR
    first_j = corner + (1 + cuda.blockIdx.x) * FACTOR
    for index in range(t, FACTOR * FACTOR, threads):
        i, q = index // FACTOR, index % FACTOR
        row, column = NUMBER(0), NUMBER(0)
        if first_i + i < n:
            row = factor[b, which, first_i + i, corner + q]
        if first_j + i < n:
            column = factor[b, which, first_j + i, corner + q]
        rows[i, q], columns[i, q] = row, column
    cuda.syncthreads()
    for index in range(t, FACTOR * FACTOR, threads):
        i, j = index // FACTOR, index % FACTOR
        if first_i + i < n and first_j + j < n:
            value = NUMBER(0)
            for q in range(FACTOR):
                value += rows[i, q] * columns[j, q]
            P[b, which, first_i + i, first_j + j] -= value


@device
def bring_lower(factor, backward, tile, other, coming):
    """This thread's numbers of the factor's tile between two tiles of rows, to registers.

    Beyond the edge the factor is that of 1.
    """
    n = factor.shape[0]
    for q in range(LOWER_EACH):
        at = cuda.threadIdx.x + q * FACTOR * SOLVE_COLUMNS
        p = at // FACTOR
        down = p + FACTOR * (tile if backward == 0 else other)
        across = at % FACTOR + FACTOR * (other if backward == 0 else tile)
        coming[q] = NUMBER(1) if down == across else NUMBER(0)
        if p < FACTOR and down < n and across < n:
            coming[q] = factor[down, across]


@kernel
def invert(first, numbers, factor, P, report):
    """P = (L L')^-1, SOLVE_COLUMNS columns a block: L y = 1, then L' x = y, tile by tile in P.

    Grid: x tiles of columns, and one for 1/2 logdet; FACTOR x SOLVE_COLUMNS threads.
    """
    b, which = first + cuda.blockIdx.z // 2, cuda.blockIdx.z % 2
    t = cuda.threadIdx.x
    n = P.shape[2]
    lower = cuda.shared.array((FACTOR, PITCH), NUMBER)
    known = cuda.shared.array((FACTOR, SOLVE_COLUMNS), NUMBER)
    if numbers[b, RENEW] == 0:
        return
    tiles = (n + FACTOR - 1) // FACTOR
    first_column = cuda.blockIdx.x * SOLVE_COLUMNS
    if first_column >= n:
        if t == 0:
            total = numba.float64(0)
            for i in range(n):
                total += math.log(numba.float64(factor[b, which, i, i]))
            report[b, which] = total
        return
    i, j = t // SOLVE_COLUMNS, t % SOLVE_COLUMNS
    column = first_column + j
    top = first_column // FACTOR  # above it, L y = 1 gives 0
    coming = cuda.local.array(LOWER_EACH, NUMBER)
    for backward in range(2):
        for count in range(top if backward == 0 else 0, tiles):
            tile = count if backward == 0 else tiles - 1 - count
            row = tile * FACTOR + i
            value = NUMBER(0)
            if backward == 0:
                if row == column:
                    value = NUMBER(1)
            elif row < n and column < n and tile >= top:
                value = P[b, which, row, column]
            begin = top if backward == 0 else tile + 1
            end = tile if backward == 0 else tiles  # and after those its own, on the diagonal
            bring_lower(factor[b, which], backward, tile, begin if begin < end else tile, coming)
            for other in range(begin, end + 1):
                known_coming = NUMBER(0)
                if other < end and other * FACTOR + i < n and column < n:
                    known_coming = P[b, which, other * FACTOR + i, column]
                cuda.syncthreads()
                for q in range(LOWER_EACH):
                    at = t + q * FACTOR * SOLVE_COLUMNS
                    if at < FACTOR * FACTOR:
                        if backward == 0:
                            lower[at // FACTOR, at % FACTOR] = coming[q]
                        else:
                            lower[at % FACTOR, at // FACTOR] = coming[q]
                known[i, j] = known_coming
                cuda.syncthreads()
                if other < end:
                    after = other + 1 if other + 1 < end else tile
                    bring_lower(factor[b, which], backward, tile, after, coming)
                    for q in range(FACTOR):
                        value -= lower[i, q] * known[q, j]
            for count_row in range(FACTOR):
                solved = count_row if backward == 0 else FACTOR - 1 - count_row
                cuda.syncthreads()
                if i == solved:
                    value /= lower[i, i]
                    known[i, j] = value
                cuda.syncthreads()
                if (backward == 0 and i > solved) or (backward == 1 and i < solved):
                    value -= lower[i, solved] * known[solved, j]
            if row < n and column < n:
                P[b, which, row, column] = value
            cuda.syncthreads()
