# ruff: noqa: F821 (step, take_* and one_minus are put in by a build)
"""A block's way in, the recurrent layer unit by unit, and the coefficients of RFP.

One thread a unit, or a column: what is sequential, the fixations, is a loop in registers, and what
it needs of the next AHEAD fixations is asked for together. Neighbouring threads read and write
neighbouring numbers. Grid: x units, z streams.
"""

from __future__ import annotations

import numba
from numba import cuda

from edge_rjepa.learner.kernels.cuda.arrays import ADAM, LAST, NUMBERS, TAKES_STEP
from edge_rjepa.learner.kernels.cuda.build import kernel
from edge_rjepa.learner.kernels.cuda.descent import adam
from edge_rjepa.learner.kernels.cuda.tiles import GPU

# Constants that a build replaces.
NUMBER = numba.float32
N_STATE, N_PROJECTIONS, N_PARAMETERS = 1, 1, 1  # m, G, L of the cell
READS = (0,)  # the states that the predictor reads
THREADS, AHEAD = GPU.threads, GPU.ahead


@kernel
def take(first, K, inbox, remember_features, n_context_h, numbers, x, hidden, a, z, u, c):
    """Unpack what the host sent, and make the last fixation the one before this block.

    inbox: for each stream of this launch NUMBERS numbers, features (K, f), efference (K, A).
    """
    slot = cuda.blockIdx.z
    b = first + slot
    i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    f, A, n_z = x.shape[2] - 1, a.shape[2] - 1, z.shape[2]
    at = slot * (NUMBERS + K * (f + A))
    last = int(inbox[at + LAST])
    if i < NUMBERS:
        numbers[b, i] = inbox[at + i]
    at += NUMBERS
    if i <= f:
        x[b, 0, i] = x[b, last, i]
    if i < hidden.shape[2]:
        hidden[b, 0, i] = hidden[b, last, i]
    coming = cuda.local.array(AHEAD, NUMBER)
    if i < f:
        for start in range(0, K, AHEAD):
            for q in range(AHEAD):
                if start + q < K:
                    coming[q] = inbox[at + (start + q) * f + i]
            for q in range(AHEAD):
                if start + q < K:
                    x[b, start + q + 1, i] = coming[q]
                    if remember_features:
                        u[b, start + q, i] = coming[q]
    if i < n_z:
        z[b, 0, i] = z[b, last, i]
        c[b, 0, n_context_h + i] = z[b, 0, i]
    at += K * f
    if i < A:
        for start in range(0, K, AHEAD):
            for q in range(AHEAD):
                if start + q < K:
                    coming[q] = inbox[at + (start + q) * A + i]
            for q in range(AHEAD):
                if start + q < K:
                    a[b, start + q, i] = coming[q]
                    u[b, start + q, u.shape[2] - A - 1 + i] = coming[q]
                    c[b, start + q, n_context_h + n_z + i] = coming[q]


@kernel
def scan(first, K, numbers, s, lam, y, J, B, D, c):
    """Every unit's states and local derivatives over the block; the states into the contexts."""
    b = first + cuda.blockIdx.z
    j = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    n_h = lam.shape[2]
    if j < n_h:
        last = int(numbers[b, LAST])
        for a in range(N_STATE):
            y[b, 0, a, j] = y[b, last, a, j]
        for i in range(len(READS)):
            c[b, 0, i * n_h + j] = y[b, 0, READS[i], j]
        parameters = take_parameters(lam[b], j)
        state = take_state(y[b, 0], j)
        coming = cuda.local.array((N_PROJECTIONS, AHEAD), NUMBER)
        for start in range(0, K, AHEAD):
            for q in range(AHEAD):
                for i in range(N_PROJECTIONS):
                    if start + q < K:
                        coming[i, q] = s[b, start + q, i, j]
            for q in range(AHEAD):
                k = start + q
                if k < K:
                    state, dy, ds, dl = step(state, take_projections(coming, q), parameters)
                    for a in range(N_STATE):
                        y[b, k + 1, a, j] = state[a]
                        for i in range(N_STATE):
                            J[b, k, a, i, j] = dy[a][i]
                        for i in range(N_PROJECTIONS):
                            B[b, k, a, i, j] = ds[a][i]
                        for i in range(N_PARAMETERS):
                            D[b, k, a, i, j] = dl[a][i]
                    if k + 1 < K:
                        for i in range(len(READS)):
                            c[b, k + 1, i * n_h + j] = state[READS[i]]


@kernel
def coefficients(
    first, K, J, B, D, delta, beta, gamma, alpha, transition, e_lam, lam, total, m2, numbers
):
    """alpha, beta, gamma, the block's transition T; the local parameters and their traces move.

    The sums of kernels/cpu.py, newest fixation first, with r, T and the sums of one unit in
    registers. beta (B, M, G n_h), gamma (B, M, m, G n_h).
    """
    b = first + cuda.blockIdx.z
    j = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    n_h = lam.shape[2]
    r = cuda.local.array(N_STATE, NUMBER)
    r_old = cuda.local.array(N_STATE, NUMBER)
    of_loss = cuda.local.array((AHEAD, N_STATE), NUMBER)
    of_y = cuda.local.array((AHEAD, N_STATE, N_STATE), NUMBER)
    of_s = cuda.local.array((AHEAD, N_STATE, N_PROJECTIONS), NUMBER)
    of_lam = cuda.local.array((AHEAD, N_STATE, N_PARAMETERS), NUMBER)
    T = cuda.local.array((N_STATE, N_STATE), NUMBER)
    T_row = cuda.local.array(N_STATE, NUMBER)
    gradient = cuda.local.array(N_PARAMETERS, NUMBER)
    e_new = cuda.local.array((N_PARAMETERS, N_STATE), NUMBER)
    if j < n_h:
        for a in range(N_STATE):
            r[a] = NUMBER(0)
            for i in range(N_STATE):
                T[a, i] = NUMBER(1) if a == i else NUMBER(0)
        for i in range(N_PARAMETERS):
            gradient[i] = NUMBER(0)
            for a in range(N_STATE):
                e_new[i, a] = NUMBER(0)
        for newest in range(K - 1, -1, -AHEAD):
            for q in range(AHEAD):
                k = newest - q
                if k >= 0:
                    for a in range(N_STATE):
                        of_loss[q, a] = delta[b, k, a, j]
                        for i in range(N_STATE):
                            of_y[q, a, i] = J[b, k, a, i, j]
                        for i in range(N_PROJECTIONS):
                            of_s[q, a, i] = B[b, k, a, i, j]
                        for i in range(N_PARAMETERS):
                            of_lam[q, a, i] = D[b, k, a, i, j]
            for q in range(AHEAD):
                k = newest - q
                if k >= 0:
                    for i in range(N_PROJECTIONS):
                        sum_beta = NUMBER(0)
                        for d in range(N_STATE):
                            sum_beta += r[d] * of_s[q, d, i]
                        beta[b, k, i * n_h + j] = sum_beta
                        for a in range(N_STATE):
                            sum_gamma = NUMBER(0)
                            for d in range(N_STATE):
                                sum_gamma += T[a, d] * of_s[q, d, i]
                            gamma[b, k, a, i * n_h + j] = sum_gamma
                    for i in range(N_PARAMETERS):
                        for d in range(N_STATE):
                            slope = of_lam[q, d, i]
                            gradient[i] += r[d] * slope
                            for a in range(N_STATE):
                                e_new[i, a] += T[a, d] * slope
                    for a in range(N_STATE):
                        r_old[a] = r[a]
                    for d in range(N_STATE):
                        r[d] = of_loss[q, d]
                        for a in range(N_STATE):
                            r[d] += r_old[a] * of_y[q, a, d]
                    for a in range(N_STATE):
                        for d in range(N_STATE):
                            T_row[d] = NUMBER(0)
                            for i in range(N_STATE):
                                T_row[d] += T[a, i] * of_y[q, i, d]
                        for d in range(N_STATE):
                            T[a, d] = T_row[d]
        for a in range(N_STATE):
            alpha[b, a, j] = r[a]
            for d in range(N_STATE):
                transition[b, a, d, j] = T[a, d]
        takes_step = numbers[b, TAKES_STEP] != 0
        for i in range(N_PARAMETERS):
            g = gradient[i]
            for d in range(N_STATE):
                old = e_lam[b, i, d, j]
                g += r[d] * old
                for a in range(N_STATE):
                    e_new[i, a] += T[a, d] * old
            for a in range(N_STATE):
                e_lam[b, i, a, j] = e_new[i, a]
            g += total[b, i, j]
            total[b, i, j] = NUMBER(0) if takes_step else g
            if takes_step:
                lam[b, i, j], m2[b, i, j] = adam(
                    g, lam[b, i, j], m2[b, i, j],
                    numbers[b, ADAM], numbers[b, ADAM + 1], numbers[b, ADAM + 2],
                    numbers[b, ADAM + 3],
                )  # fmt: skip


@kernel
def forget(first, past_too, x, hidden, z, y, e_lam, E):
    """Clear the traces and, with `past_too`, the fixation before the next block (row 0).

    E (B, m, G n_h, n_u): the blocks of grid x take its rows in turn.
    """
    b = first + cuda.blockIdx.z
    t = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, E.shape[2], cuda.gridDim.x):
        for a in range(N_STATE):
            for i in range(t, E.shape[3], THREADS):
                E[b, a, row, i] = NUMBER(0)
    if cuda.blockIdx.x != 0:
        return
    for a in range(N_STATE):
        for j in range(t, y.shape[3], THREADS):
            for i in range(N_PARAMETERS):
                e_lam[b, i, a, j] = NUMBER(0)
            if past_too:
                y[b, 0, a, j] = NUMBER(0)
    if past_too:
        for i in range(t, x.shape[2], THREADS):
            x[b, 0, i] = NUMBER(0)
        for i in range(t, hidden.shape[2], THREADS):
            hidden[b, 0, i] = NUMBER(0)
        for i in range(t, z.shape[2], THREADS):
            z[b, 0, i] = NUMBER(0)
