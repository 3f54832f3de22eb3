"""The learner's kernels on the CPU: Numba loops around BLAS products, nothing allocated.

One block of K fixations runs through four kernels (docs/theory.md has the derivations):

    perceive            embeddings and the recurrent circuits with their local derivatives
    predict             predictions and errors
    predictor_backward  from dl/dzhat and dl/dz back to every weight that has no past, and to delta
    update              RFP: gradient of the drives' weights, new traces, and Adam, in one pass

Row 0 of `x`, `z` and `y` holds the fixation before the block; rows 1..K hold the block. Every
affine map keeps its bias in its last column, so every input ends with a constant 1.
The arrays are described in `kernels/arrays.py`. float32 and float64 run through the same source.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import types
from numba.extending import overload

from edge_rjepa import cells
from edge_rjepa.jit import jit, specialise

# ------------------------------------------------------------------------------------------------
# The cells' vocabulary (edge_rjepa/cells.py) as compiled functions of one scalar.

# tanh(x) = x P(x^2) / Q(x^2) on [-8, 8]: a least-squares fit, iteratively re-weighted towards the
# smallest largest error. In float32 it errs by at most 3.3e-7 and never leaves [-1, 1].
P0, P1, P2, P3, P4 = np.float32(
    [0.99999997, 0.1343819324, 0.003564158659, 2.177328941e-05, 1.50618739e-08]
)
Q0, Q1, Q2, Q3, Q4 = np.float32(
    [1.0, 0.4677151402, 0.02613602522, 0.0003399183613, 8.453687287e-07]
)
TANH_LIMIT = np.float32(8.0)


def _tanh(x):
    raise NotImplementedError("compiled code only")


@overload(_tanh, jit_options={"error_model": "numpy"})
def _tanh_by_dtype(x):
    if x is types.float32:

        def rational(x):
            x = min(max(x, -TANH_LIMIT), TANH_LIMIT)
            u = x * x
            p = (((P4 * u + P3) * u + P2) * u + P1) * u + P0
            q = (((Q4 * u + Q3) * u + Q2) * u + Q1) * u + Q0
            return x * p / q

        return rational
    return lambda x: math.tanh(x)


def _like(x, value):
    raise NotImplementedError("compiled code only")


@overload(_like)
def _like_by_dtype(x, value):
    if x is types.float32:
        return lambda x, value: np.float32(value)
    return lambda x, value: np.float64(value)


@jit
def tanh(x):
    return _tanh(x)


@jit
def like(x, value):
    return _like(x, value)


@jit
def one_minus(x):
    return like(x, 1.0) - x


@jit
def sigmoid(x):
    half = like(x, 0.5)
    return half + half * tanh(half * x)


@jit
def sin(x):
    return math.sin(x)


@jit
def cos(x):
    return math.cos(x)


VOCABULARY = {name: globals()[name] for name in cells.VOCABULARY}

# ------------------------------------------------------------------------------------------------
# Forward


@jit
def copy(x, y):
    """y <- x, both flat. A loop: Numba's slice assignment takes seconds to compile."""
    for i in range(x.size):
        y[i] = x[i]


@jit
def tanh_rows(a):
    """a <- tanh(a) for a (rows, n)."""
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            a[i, j] = tanh(a[i, j])


@jit
def encode(p, ws, remember_features):
    """z = tanh(W_z [x; 1]), the drives' input u = [z or x; a; 1], and the drives s = W u."""
    z = ws.z[1:]
    np.dot(ws.x[1:], p.W_z.T, z)
    tanh_rows(z)
    n_memory = ws.u.shape[1] - ws.a.shape[1]
    for k in range(z.shape[0]):
        for j in range(n_memory):
            ws.u[k, j] = ws.x[k + 1, j] if remember_features else z[k, j]
        copy(ws.a[k], ws.u[k, n_memory:])
    G, n_hidden, n_u = p.W.shape
    np.dot(ws.u, p.W.reshape(G * n_hidden, n_u).T, ws.s.reshape(z.shape[0], G * n_hidden))


@jit
def _take1(a, j):
    return (a[0, j],)


@jit
def _take2(a, j):
    return (a[0, j], a[1, j])


@jit
def _take3(a, j):
    return (a[0, j], a[1, j], a[2, j])


@jit
def _take4(a, j):
    return (a[0, j], a[1, j], a[2, j], a[3, j])


TAKE = {1: _take1, 2: _take2, 3: _take3, 4: _take4}  # column j as a tuple: its length is a type


def scan_template(s, lam, y, J, B, D):
    """Every unit's states and local derivatives over the block; the only sequential part.

    s (K, G, n_h), lam (L, n_h), y (K+1, m, n_h) with row 0 given; J (K, m, m, n_h),
    B (K, m, G, n_h), D (K, m, L, n_h). `step` and `take_*` are the cell's (see `perceive`).
    """
    m, G, L = B.shape[1], B.shape[2], D.shape[2]
    for k in range(s.shape[0]):
        y_old, y_new, s_k, J_k, B_k, D_k = y[k], y[k + 1], s[k], J[k], B[k], D[k]
        for j in range(s.shape[2]):
            new, dy, ds, dl = step(  # noqa: F821
                take_state(y_old, j),  # noqa: F821
                take_drives(s_k, j),  # noqa: F821
                take_parameters(lam, j),  # noqa: F821
            )
            for a in range(m):
                y_new[a, j] = new[a]
                for b in range(m):
                    J_k[a, b, j] = dy[a][b]
                for b in range(G):
                    B_k[a, b, j] = ds[a][b]
                for b in range(L):
                    D_k[a, b, j] = dl[a][b]


@jit
def predict(p, ws):
    """zhat = V_3 [p2; 1], p2 = tanh(V_2 [p1; 1]), p1 = tanh(V_1 c) sigmoid(gain(a)); e = z - zhat.

    The context c = [h; z; a; 1] of row k is the fixation before it (row k of y and z, a of row k).
    """
    K, n_p = ws.q.shape
    n_z = ws.zhat.shape[1]
    n_hidden = ws.y.shape[2]
    n_reads = ws.reads.size * n_hidden
    for k in range(K):
        for i in range(ws.reads.size):
            copy(ws.y[k, ws.reads[i]], ws.c[k, i * n_hidden :])
        copy(ws.z[k], ws.c[k, n_reads:])
        copy(ws.a[k], ws.c[k, n_reads + n_z :])

    n_gain = p.G_a.shape[0]
    np.dot(ws.a, p.G_a.T, ws.scratch_gain)
    for k in range(K):
        for j in range(n_gain):
            ws.gain[k, j] = tanh(ws.scratch_gain[k, j])
    np.dot(ws.gain, p.G_b.T, ws.g)
    np.dot(ws.c, p.V_1.T, ws.q)
    for k in range(K):
        for j in range(n_p):
            ws.q[k, j] = tanh(ws.q[k, j])
            ws.g[k, j] = sigmoid(ws.g[k, j])
            ws.p1[k, j] = ws.q[k, j] * ws.g[k, j]
    np.dot(ws.p1, p.V_2.T, ws.scratch_p)
    for k in range(K):
        for j in range(n_p):
            ws.p2[k, j] = tanh(ws.scratch_p[k, j])
    np.dot(ws.p2, p.V_3.T, ws.zhat)
    for k in range(K):
        for j in range(n_z):
            ws.e[k, j] = ws.z[k + 1, j] - ws.zhat[k, j]


def perceive_template(p, ws, remember_features):
    """Embeddings, drives, states and their local derivatives of one block (see `perceive`)."""
    encode(p, ws, remember_features)
    scan(ws.s, p.lam, ws.y, ws.J, ws.B, ws.D)  # noqa: F821


@functools.cache
def perceive(cell: cells.Cell):
    """The compiled `perceive(p, ws, remember_features)` of a cell: all but the prediction."""
    vocabulary = {
        name: VOCABULARY[name] for name in VOCABULARY if name in cell.step.__code__.co_names
    }
    scan = specialise(
        scan_template,
        cell.name,
        step=jit(specialise(cell.step, cell.name, **vocabulary)),
        take_state=TAKE[cell.n_state],
        take_drives=TAKE[cell.n_drives],
        take_parameters=TAKE[cell.n_parameters],
    )
    return jit(specialise(perceive_template, cell.name, scan=jit(scan)))


# ------------------------------------------------------------------------------------------------
# Backward through what has no past


@jit
def predictor_backward(p, ws, grad):
    """From ws.d_zhat (K, n_z) and ws.d_z (K+1, n_z; row 0 zero) to the block's gradients.

    Writes grad.W_z, G_a, G_b, V_1, V_2, V_3, and ws.delta (K, m, n_h): dl_{k+1}/dy_k. The z of
    the context is part of d_z, so row 0 carries the gradient of the fixation before the block.
    """
    K, n_p = ws.q.shape
    n_z = ws.zhat.shape[1]
    n_gain = p.G_a.shape[0]
    np.dot(ws.d_zhat.T, ws.p2, grad.V_3)
    np.dot(ws.d_zhat, p.V_3, ws.d_p)
    for k in range(K):
        for j in range(n_p):
            ws.d_q[k, j] = ws.d_p[k, j] * one_minus(ws.p2[k, j] * ws.p2[k, j])
    np.dot(ws.d_q.T, ws.p1, grad.V_2)
    np.dot(ws.d_q, p.V_2, ws.d_p)
    for k in range(K):
        for j in range(n_p):
            q, g = ws.q[k, j], ws.g[k, j]
            ws.d_q[k, j] = ws.d_p[k, j] * g * one_minus(q * q)
            ws.d_g[k, j] = ws.d_p[k, j] * q * g * one_minus(g)
    np.dot(ws.d_q.T, ws.c, grad.V_1)
    np.dot(ws.d_q, p.V_1, ws.d_c)
    np.dot(ws.d_g.T, ws.gain, grad.G_b)
    np.dot(ws.d_g, p.G_b, ws.d_gain)
    for k in range(K):
        for j in range(n_gain):
            ws.scratch_gain[k, j] = ws.d_gain[k, j] * one_minus(ws.gain[k, j] * ws.gain[k, j])
    np.dot(ws.scratch_gain.T, ws.a, grad.G_a)

    n_hidden = ws.y.shape[2]
    n_reads = ws.reads.size * n_hidden
    ws.delta[:] = 0
    for k in range(K):
        for i in range(ws.reads.size):
            copy(ws.d_c[k, i * n_hidden : (i + 1) * n_hidden], ws.delta[k, ws.reads[i]])
        for j in range(n_z):
            ws.d_z[k, j] += ws.d_c[k, n_reads + j]
    for k in range(K + 1):
        for j in range(n_z):
            ws.d_z[k, j] *= one_minus(ws.z[k, j] * ws.z[k, j])
    np.dot(ws.d_z.T, ws.x, grad.W_z)


@jit
def blend_covariance(S, keep, product, weight, mean, mean_weight):
    """S <- keep S + weight product - mean_weight mean mean', all (n, n) but mean (n,)."""
    for i in range(mean.size):
        shift = mean_weight * mean[i]
        for j in range(mean.size):
            S[i, j] = keep * S[i, j] + weight * product[i, j] - shift * mean[j]


# ------------------------------------------------------------------------------------------------
# Recurrent-Forward Propagation


@jit
def coefficients(ws, grad_lam, e_lam):
    """Returns alpha and the block's transition; writes ws.beta, ws.gamma, grad_lam and e_lam.

    Per unit, products newest factor first:
        r_k = sum_{i=k}^{K-1} delta_i' (J_i .. J_{k+1})     alpha = r_0,  beta_s = r_s B_s
        T_k = J_K .. J_{k+1}                                transition = T_0,  gamma_s = T_s B_s
        dL/dlambda = alpha e + sum_s r_s D_s                e <- T_0 e + sum_s T_s D_s
    Both sums run backwards over the block: O(K n_h) numbers, whatever the length of the past.
    """
    K, m, G, n_hidden = ws.B.shape
    L = ws.D.shape[2]
    r, T, r_next, T_next = ws.r, ws.T, ws.r_next, ws.T_next
    r[:] = 0
    T[:] = 0
    for a in range(m):
        T[a, a, :] = 1
    grad_lam[:] = 0
    ws.e_lam_new[:] = 0
    for s in range(K - 1, -1, -1):
        J, B, D = ws.J[s], ws.B[s], ws.D[s]
        for a in range(m):
            for i in range(G):
                for j in range(n_hidden):
                    gamma = like(B[0, 0, 0], 0.0)
                    for b in range(m):
                        gamma += T[a, b, j] * B[b, i, j]
                    ws.gamma[s, a, i, j] = gamma
            for i in range(L):
                for j in range(n_hidden):
                    for b in range(m):
                        ws.e_lam_new[i, a, j] += T[a, b, j] * D[b, i, j]
        for i in range(G):
            for j in range(n_hidden):
                beta = like(B[0, 0, 0], 0.0)
                for a in range(m):
                    beta += r[a, j] * B[a, i, j]
                ws.beta[s, i, j] = beta
        for i in range(L):
            for a in range(m):
                for j in range(n_hidden):
                    grad_lam[i, j] += r[a, j] * D[a, i, j]
        for a in range(m):
            for j in range(n_hidden):
                total = ws.delta[s, a, j]
                for b in range(m):
                    total += r[b, j] * J[b, a, j]
                r_next[a, j] = total
            for b in range(m):
                for j in range(n_hidden):
                    product = like(B[0, 0, 0], 0.0)
                    for c in range(m):
                        product += T[a, c, j] * J[c, b, j]
                    T_next[a, b, j] = product
        r, r_next = r_next, r
        T, T_next = T_next, T
    for i in range(L):
        for j in range(n_hidden):
            for a in range(m):
                grad_lam[i, j] += r[a, j] * e_lam[i, a, j]
                for b in range(m):
                    ws.e_lam_new[i, a, j] += T[a, b, j] * e_lam[i, b, j]
    copy(ws.e_lam_new.reshape(e_lam.size), e_lam.reshape(e_lam.size))
    return r, T


@jit
def adam_step(w, g, total, m1, m2, adam, step):
    """Add the block's gradient g to `total`; where `step`, let Adam take the total and clear it.

    All arrays are flat and of one length (Kingma & Ba, 2015, with the bias corrections folded
    into `adam.rate` and `adam.correction2`).
    """
    if step:
        for i in range(w.size):
            g_i = total[i] + g[i]
            m1[i] += adam.blend1 * (g_i - m1[i])
            m2[i] += adam.blend2 * (g_i * g_i - m2[i])
            w[i] -= adam.rate * m1[i] / (math.sqrt(m2[i] * adam.correction2) + adam.epsilon)
            total[i] = 0
    else:
        for i in range(w.size):
            total[i] += g[i]


@jit
def add_scaled(scale, x, y):
    """y += scale x, both flat."""
    for i in range(y.size):
        y[i] += scale * x[i]


@jit
def recur_row(alpha, T, E, E_new, g, row, j):
    """One unit's row of one drive: g (n_u,) += alpha E, then E <- T E + E_new (E_new is scratch).

    E, E_new (m, G n_h, n_u); alpha (m, n_h), T (m, m, n_h) at unit j.
    """
    m = E.shape[0]
    for a in range(m):
        add_scaled(alpha[a, j], E[a, row], g)
        for b in range(m):
            add_scaled(T[a, b, j], E[b, row], E_new[a, row])
    for a in range(m):
        copy(E_new[a, row], E[a, row])


@jit
def update(ws, traces, p, block, total, m1, m2, adam, adam_encoder, step):
    """RFP: the gradient of the drives' weights, the new traces, and the step of every weight.

    traces.E (m, G, n_h, n_u) and traces.e_lam (L, m, n_h). `p`, `block`, `total`, `m1` and `m2`
    hold weights, the block's gradient, the gradient since the last step and Adam's moments. The
    rows of the drives' weights pass through memory once:
        dL/dW = alpha E + beta' u        E <- T_0 E + gamma' u
    """
    alpha, T = coefficients(ws, block.lam, traces.e_lam)
    K = ws.u.shape[0]
    m, G, n_hidden, n_u = traces.E.shape
    E, E_new = traces.E.reshape(m, G * n_hidden, n_u), ws.E_new.reshape(m, G * n_hidden, n_u)
    np.dot(ws.beta.reshape(K, G * n_hidden).T, ws.u, block.W.reshape(G * n_hidden, n_u))
    np.dot(ws.gamma.reshape(K, m * G * n_hidden).T, ws.u, ws.E_new.reshape(m * G * n_hidden, n_u))
    row = 0
    for i in range(G):
        for j in range(n_hidden):
            g = block.W[i, j]
            recur_row(alpha, T, E, E_new, g, row, j)
            adam_step(p.W[i, j], g, total.W[i, j], m1.W[i, j], m2.W[i, j], adam, step)
            row += 1
    # The flat arrays begin with W, then W_z (kernels/arrays.py).
    start, stop = p.W.size, p.W.size + p.W_z.size
    for part, rate in ((slice(start, stop), adam_encoder), (slice(stop, p.flat.size), adam)):
        adam_step(
            p.flat[part], block.flat[part], total.flat[part], m1.flat[part], m2.flat[part],
            rate, step,
        )  # fmt: skip
