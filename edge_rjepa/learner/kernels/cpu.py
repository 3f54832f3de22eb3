"""The learner's kernels on the CPU: products in tiles and Numba loops, nothing allocated.

One block of K fixations runs through four functions (docs/theory.md has the derivations):

    forward             embeddings and the recurrent layer with their local derivatives
    predict             predictions and errors
    predictor_backward  from dl/dzhat and dl/dz back to the output of every layer, and to delta
    assign_credit       RFP: what the block's losses ask of the recurrent layer, unit by unit

What these find of a block is kept, since weights stand still until a step. `settle` then goes
through every large array once for several blocks: gradients, traces, and the step.

Each strings together matrix products and loops, compiled one by one and handed the few arrays they
need: a single function that is handed them all is no faster and takes Numba twice as long to
compile.

Row 0 of `x`, `z` and `y` holds the fixation before the block; rows 1..K hold the block. Every
affine map keeps its bias in one more column, so every input ends with a constant 1; after it come
zeros (arrays.py). network.py has the table of the arrays. float32 and float64 run through the same
source.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from numba import types
from numba.extending import overload

from edge_rjepa.base.jit import jit, specialise
from edge_rjepa.learner import cells
from edge_rjepa.learner.kernels import products
from edge_rjepa.learner.kernels.arrays import COLUMN, Blocks

# ------------------------------------------------------------------------------------------------
# The cells' vocabulary (edge_rjepa/learner/cells.py) as compiled functions of one scalar.

# tanh(x) = x P(x^2) / Q(x^2) on [-8, 8]: a least-squares fit, iteratively re-weighted towards the
# smallest largest error. In float32 it errs by at most 3.3e-7 and never leaves [-1, 1].
P0, P1, P2, P3, P4 = map(
    np.float32, (0.99999997, 0.1343819324, 0.003564158659, 2.177328941e-05, 1.50618739e-08)
)
Q0, Q1, Q2, Q3, Q4 = map(
    np.float32, (1.0, 0.4677151402, 0.02613602522, 0.0003399183613, 8.453687287e-07)
)
TANH_LIMIT = np.float32(8.0)


def rational_tanh(x):
    x = min(max(x, -TANH_LIMIT), TANH_LIMIT)
    u = x * x
    p = (((P4 * u + P3) * u + P2) * u + P1) * u + P0
    q = (((Q4 * u + Q3) * u + Q2) * u + Q1) * u + Q0
    return x * p / q


# Compiled, an overload chooses by type; with NUMBA_DISABLE_JIT=1 the function itself does.


def _tanh(x):
    return rational_tanh(x) if isinstance(x, np.float32) else math.tanh(x)


@overload(_tanh, jit_options={"error_model": "numpy"})
def _tanh_by_dtype(x):
    return rational_tanh if x is types.float32 else lambda x: math.tanh(x)


def _like(x, value):
    return type(x)(value)


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
def tanh_rows(a):
    """a <- tanh(a) for a (rows, n)."""
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            a[i, j] = tanh(a[i, j])


@jit
def join_input(remembered, n_remembered, a, u):
    """u (K, n_u) <- [remembered; a; 1].

    Of each row of `remembered` (K, n_remembered or more) the first n_remembered numbers count;
    a (K, A + 1) ends with the constant 1.
    """
    for k in range(u.shape[0]):
        for j in range(n_remembered):
            u[k, j] = remembered[k, j]
        for j in range(a.shape[1]):
            u[k, n_remembered + j] = a[k, j]


def encode(p, ws, remembered, n_remembered):
    """z = tanh(W_z [x; 1]), the input u = [remembered; a; 1] and its projections s = W u.

    With a hidden layer z = tanh(W_z [hidden; 1]), hidden = tanh(W_x [x; 1]). remembered: the
    block's rows of ws.z, or of ws.x, of which the first n_remembered numbers count.
    """
    x, z, encoded = ws.x[1:], ws.z[1:], ws.x[1:]
    if len(p.W_x):
        hidden, encoded = ws.scratch_hidden[1:], ws.hidden[1:]
        products.forward_product(x, p.W_x, hidden)
        tanh_into(hidden, encoded)
    products.forward_product(encoded, p.W_z, z)
    tanh_rows(z)
    join_input(remembered, n_remembered, ws.a, ws.u)
    G, n_hidden, n_u = p.W.shape
    W, s = p.W.reshape(G * n_hidden, n_u), ws.s.reshape(len(z), G * n_hidden)
    products.forward_product(ws.u, W, s)


TAKE = {length: jit(take) for length, take in COLUMN.items()}


def move_template(y_old, s, lam, y_new, J, B, D):
    """Every unit's new state and local derivatives, of one fixation.

    y_old (m, n_h), s (G, n_h), lam (L, n_h) in; y_new (m, n_h), J (m, m, n_h), B (m, G, n_h) and
    D (m, L, n_h) out. `step` and `take_*` are the cell's (see `forward`). The lengths of what
    `step` returns are types: LLVM unrolls the inner loops, and vectorises over the units.
    """
    for j in range(y_old.shape[1]):
        new, dy, ds, dl = step(  # noqa: F821
            take_state(y_old, j),  # noqa: F821
            take_projections(s, j),  # noqa: F821
            take_parameters(lam, j),  # noqa: F821
        )
        for a in range(len(new)):
            y_new[a, j] = new[a]
            for b in range(len(dy[a])):
                J[a, b, j] = dy[a][b]
            for b in range(len(ds[a])):
                B[a, b, j] = ds[a][b]
            for b in range(len(dl[a])):
                D[a, b, j] = dl[a][b]


def scan_template(s, lam, y, J, B, D):
    """Every unit's states and local derivatives over the block; the only sequential part.

    s (K, G, n_h), lam (L, n_h), y (K+1, m, n_h) with row 0 given; J (K, m, m, n_h),
    B (K, m, G, n_h), D (K, m, L, n_h).
    """
    for k in range(s.shape[0]):
        move(y[k], s[k], lam, y[k + 1], J[k], B[k], D[k])  # noqa: F821


@jit
def gate_rows(q, g, p1):
    """q <- tanh(q), g <- sigmoid(g), p1 <- q g, all (K, n_p), p1 (K, n_p or more)."""
    for k in range(q.shape[0]):
        for j in range(q.shape[1]):
            q[k, j] = tanh(q[k, j])
            g[k, j] = sigmoid(g[k, j])
            p1[k, j] = q[k, j] * g[k, j]


@jit
def tanh_into(a, out):
    """out <- tanh(a); a (K, n), out (K, n or more)."""
    for k in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[k, j] = tanh(a[k, j])


@jit
def join_context(reads, y, z, a, c):
    """c (K, n_c) <- [h; z; a; 1] of each prediction: h and z of the fixation before, a of this one.

    y (K + 1, m, n_h) and z (K + 1, n_z) start with the one before the block, `reads` are the states
    that h is made of, a (K, A + 1) ends with the constant 1.
    """
    n_hidden, n_z = y.shape[2], z.shape[1]
    for k in range(c.shape[0]):
        at = 0
        for state in reads:
            for j in range(n_hidden):
                c[k, at + j] = y[k, state, j]
            at += n_hidden
        for j in range(n_z):
            c[k, at + j] = z[k, j]
        for j in range(a.shape[1]):
            c[k, at + n_z + j] = a[k, j]


def predict(p, ws):
    """zhat = V_3 [p2; 1], p2 = tanh(V_2 [p1; 1]), p1 = tanh(V_1 c) sigmoid(gain(a)).

    The context c is of `join_context`; e = z - zhat.
    """
    join_context(ws.reads, ws.y, ws.z, ws.a, ws.c)
    products.forward_product(ws.a, p.G_a, ws.scratch_gain)
    tanh_into(ws.scratch_gain, ws.gain)
    products.forward_product(ws.gain, p.G_b, ws.g)
    products.forward_product(ws.c, p.V_1, ws.q)
    gate_rows(ws.q, ws.g, ws.p1)
    products.forward_product(ws.p1, p.V_2, ws.scratch_p)
    tanh_into(ws.scratch_p, ws.p2)
    products.forward_product(ws.p2, p.V_3, ws.zhat)
    np.subtract(ws.z[1:], ws.zhat, out=ws.e)


@functools.cache
def forward(cell: cells.Cell):
    """The `forward(p, ws, remembered, n_remembered)` of a cell: all but the prediction."""
    vocabulary = {
        name: VOCABULARY[name] for name in VOCABULARY if name in cell.step.__code__.co_names
    }
    move = specialise(
        move_template,
        cell.name,
        step=jit(specialise(cell.step, cell.name, **vocabulary)),
        **_columns_used(cell, move_template),
    )
    scan = jit(specialise(scan_template, cell.name, move=jit(move)))

    def forward(p, ws, remembered, n_remembered):
        encode(p, ws, remembered, n_remembered)
        scan(ws.s, p.lam, ws.y, ws.J, ws.B, ws.D)

    return forward


# ------------------------------------------------------------------------------------------------
# Backward through what has no past


@jit
def through_tanh(d_out, out, d_in):
    """d_in <- d_out (1 - out^2), for out = tanh(in); d_in (K, n), the others (K, n or more)."""
    for k in range(d_in.shape[0]):
        for j in range(d_in.shape[1]):
            d_in[k, j] = d_out[k, j] * one_minus(out[k, j] * out[k, j])


@jit
def through_gate(d_p, q, g, d_q, d_g):
    """From p1 = tanh(.) sigmoid(.) = q g back to the arguments of both."""
    for k in range(q.shape[0]):
        for j in range(q.shape[1]):
            d_q[k, j] = d_p[k, j] * g[k, j] * one_minus(q[k, j] * q[k, j])
            d_g[k, j] = d_p[k, j] * q[k, j] * g[k, j] * one_minus(g[k, j])


@jit
def split_context(back_c, reads, delta, d_z):
    """From dl/dc, (K, n_c): delta (K, m, n_h) <- what is of h, d_z (K + 1, n_z) += what is of z.

    It is the reverse of `join_context`.
    """
    n_hidden = delta.shape[2]
    delta[:] = 0
    for k in range(delta.shape[0]):
        at = 0
        for state in reads:
            for j in range(n_hidden):
                delta[k, state, j] = back_c[k, at + j]
            at += n_hidden
        for j in range(d_z.shape[1]):
            d_z[k, j] += back_c[k, at + j]


def predictor_backward(p, ws):
    """From ws.d_zhat (K, n_z) and ws.d_z (K+1, n_z; row 0 zero) back to every layer's output.

    Writes `d_out` of each layer (network.py), and ws.delta (K, m, n_h): dl_{k+1}/dy_k. The z of the
    context is part of d_z, so row 0 carries the gradient of the fixation before the block.
    """
    products.backward_product(ws.d_zhat, p.V_3, ws.back_p)
    through_tanh(ws.back_p, ws.p2, ws.d_2)
    products.backward_product(ws.d_2, p.V_2, ws.back_p)
    through_gate(ws.back_p, ws.q, ws.g, ws.d_1, ws.d_g)
    products.backward_product(ws.d_1, p.V_1, ws.back_c)
    products.backward_product(ws.d_g, p.G_b, ws.back_gain)
    through_tanh(ws.back_gain, ws.gain, ws.d_gain)
    split_context(ws.back_c, ws.reads, ws.delta, ws.d_z)
    through_tanh(ws.d_z, ws.z, ws.d_z)
    if len(p.W_x):
        products.backward_product(ws.d_z, p.W_z, ws.back_hidden)
        through_tanh(ws.back_hidden, ws.hidden, ws.d_hidden)


# ------------------------------------------------------------------------------------------------
# Recurrent-Forward Propagation


def step_back_template(row, J, B, weighed):
    """For every unit weighed (G, n_h) <- row B, and then row (m, n_h) <- row J, of one fixation.

    `take_*` are the cell's, and the lengths of what they return are types (see `move_template`).
    """
    for j in range(row.shape[1]):
        old = take_state(row, j)  # noqa: F821
        for i in range(len(take_projections(weighed, j))):  # noqa: F821
            total = old[0] * B[0, i, j]
            for b in range(1, len(old)):
                total += old[b] * B[b, i, j]
            weighed[i, j] = total
        for b in range(len(old)):
            total = old[0] * J[0, b, j]
            for c in range(1, len(old)):
                total += old[c] * J[c, b, j]
            row[b, j] = total


def parameter_template(i, J, D, delta, e_lam, grad_lam):
    """Every unit's grad_lam (n_h,) += delta e, and then e <- J e + D, in one fixation.

    Of the i-th local parameter: J (m, m, n_h), D (m, L, n_h), delta and e_lam (m, n_h).
    """
    for j in range(grad_lam.size):
        credit, old = take_state(delta, j), take_state(e_lam, j)  # noqa: F821
        total = grad_lam[j]
        for a in range(len(old)):
            total += credit[a] * old[a]
        grad_lam[j] = total
        for a in range(len(old)):
            total = D[a, i, j]
            for b in range(len(old)):
                total += J[a, b, j] * old[b]
            e_lam[a, j] = total


def coefficients_template(local, delta, r, T, beta, gamma, e_lam, grad_lam):
    """The block's alpha in r (m, n_h), its transition in T (m, m, n_h), beta, gamma, and lambda.

    local = J, B, D. Per unit, newest factor first:
        r_k = sum_{i=k}^{K-1} delta_i' (J_i .. J_{k+1})     alpha = r_0,  beta_s = r_s B_s
        T_k = J_K .. J_{k+1}                                transition = T_0,  gamma_s = T_s B_s
    A unit has few local parameters, so that lambda follows fixation by fixation:
        dL/dlambda += delta_k e                             e <- J_k e + D_k
    grad_lam (L, n_h) is added to, e_lam (L, m, n_h) moves.
    """
    J, B, D = local
    K, m = B.shape[:2]
    r[:] = 0
    T[:] = 0
    for a in range(m):
        T[a, a] = 1
    for s in range(K - 1, -1, -1):
        step_back(r, J[s], B[s], beta[s])  # noqa: F821
        for a in range(m):
            for j in range(r.shape[1]):
                r[a, j] += delta[s, a, j]
        for a in range(m):
            step_back(T[a], J[s], B[s], gamma[s, a])  # noqa: F821
    for i in range(len(e_lam)):
        for s in range(K):
            parameter(i, J[s], D[s], delta[s], e_lam[i], grad_lam[i])  # noqa: F821


@functools.cache
def coefficients(cell: cells.Cell):
    """The compiled `coefficients_template` of a cell."""
    parts: dict[str, Callable] = {
        "step_back": step_back_template,
        "parameter": parameter_template,
    }
    compiled = {
        name: jit(specialise(part, cell.name, **_columns_used(cell, part)))
        for name, part in parts.items()
    }
    return jit(specialise(coefficients_template, cell.name, **compiled))


def _columns_used(cell: cells.Cell, template: Callable) -> dict[str, Callable]:
    """What a template reads a unit's columns with, as tuples of the cell's lengths."""
    columns = {
        "take_state": TAKE[cell.n_state],
        "take_projections": TAKE[cell.n_projections],
        "take_parameters": TAKE[cell.n_parameters],
    }
    return {name: columns[name] for name in columns if name in template.__code__.co_names}


@jit
def descend(w, gradient, m2, adam):
    """A matrix w (n, m) of weights takes a step by its gradient, which is zero after it.

    Adam (Kingma & Ba, 2015) without a first moment.
    """
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            g = gradient[i, j]
            m2[i, j] += adam.blend * (g * g - m2[i, j])
            w[i, j] -= adam.rate * g / (math.sqrt(m2[i, j] * adam.correction) + adam.epsilon)
        for j in range(w.shape[1]):
            gradient[i, j] = 0


def assign_credit(cell, ws, traces, gradient):
    """RFP's coefficients of the block. What concerns local parameters is done at once: few."""
    local = ws.J, ws.B, ws.D
    of_block = ws.alpha, ws.T, ws.beta, ws.gamma
    coefficients(cell)(local, ws.delta, *of_block, traces.e_lam, gradient.lam)


def settle(layers, kept, traces, gradient, descent):
    """Gradients and traces take in the blocks that are kept; then a step, unless descent is None.

    layers: those without past. kept: the rows and blocks of a workspace. Products go along the
    fixations, so that what has a row for each of them is turned first.
    """
    for layer in layers:
        rows, x = getattr(kept, layer.d_out), getattr(kept, layer.reads)
        columns = kept.columns[: rows.shape[1]]
        products.turn(rows, columns)
        products.gather(columns, x, getattr(gradient, layer.matrix))
        take_step(layer.matrix, layer.encoder, gradient, descent)  # while it is in the cache
    m, G, n_hidden, n_u = traces.E.shape
    rows, (K, blocks) = G * n_hidden, (len(kept.u), len(kept.ends))
    beta, gamma = kept.columns[:rows], kept.columns[rows : (1 + m) * rows]
    products.turn(kept.beta.reshape(K, rows), beta)
    products.turn(kept.gamma.reshape(K, m * rows), gamma)
    alpha, T = kept.alpha.reshape(blocks, m * n_hidden), kept.T.reshape(blocks, m * m * n_hidden)
    E, of_W = traces.E.reshape(m * rows, n_u), gradient.W.reshape(rows, n_u)
    products.recur(m, Blocks(alpha, T, beta, gamma, kept.ends, kept.u, n_hidden), E, of_W)
    take_step("W", False, gradient, descent)
    take_step("lam", False, gradient, descent)


def take_step(name, encoder, gradient, descent):
    """The weights of that name take a step by their gradient, unless descent is None."""
    if descent is not None:
        rows = -1, getattr(gradient, name).shape[-1]
        arrays = (getattr(group, name) for group in (descent.weights, gradient, descent.m2))
        adam = descent.adam_encoder if encoder else descent.adam
        descend(*(array.reshape(rows) for array in arrays), adam)
