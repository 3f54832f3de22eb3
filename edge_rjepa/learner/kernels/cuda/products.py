# ruff: noqa: F821 (tanh, sigmoid, one_minus are put in by a build)
"""Matrix products of K fixations with a weight matrix, each with what follows from its outputs.

    forward     out = x W'      a block owns a few outputs, rows of W
    backward    d_x = d_out W   a block owns a few columns of W

K is small: a product is as fast as W comes from memory, and that once. A block takes OUT rows (or
columns) of W, INNER of the inner dimension at a time, to shared memory, while the next ones are on
their way to registers. SLICES groups of its threads share the inner dimension, each with
MICRO x MICRO sums a thread in registers; at the end the slices are added up in a fixed order. So an
output's bits depend on nothing but its own row and input.

Grid: x tiles of outputs, y tiles of fixations, z streams, of which `first` is the first.
"""

from __future__ import annotations

import numba
from numba import cuda

from edge_rjepa.learner.kernels.cuda.build import device, index, kernel
from edge_rjepa.learner.kernels.cuda.tiles import GPU

# Constants that a build replaces.
NUMBER = numba.float32
OUT, ROWS, MICRO, SLICES, INNER = GPU.out, GPU.rows, GPU.micro, GPU.slices, GPU.inner
PRODUCT_THREADS = GPU.product_threads
OUT_PITCH, ROWS_PITCH = OUT + 1, ROWS + 1  # columns of a tile meet different banks of memory
OUTPUTS = OUT * ROWS // PRODUCT_THREADS  # a thread
W_EACH, X_EACH = OUT * INNER // PRODUCT_THREADS, ROWS * INNER // PRODUCT_THREADS  # of a tile
READS = (0,)  # the states that the predictor reads


@device
def output_of(q):
    """Fixation and output, within the block's tile, of the q-th total of this thread."""
    n = cuda.threadIdx.x + q * PRODUCT_THREADS
    return n // OUT, n % OUT


@device
def place_of(q, first_out):
    """Fixation of the block of K and output of the matrix of the q-th total of this thread."""
    k, o = output_of(q)
    return cuda.blockIdx.y * ROWS + k, first_out + o


@device
def bring(w, transposed, n_out, n_in, x, first_row, K, first_out, start, w_coming, x_coming):
    """This thread's numbers of the tiles from `start` of the inner dimension on, to registers.

    All are asked for before the first is used; `put` says where they belong.
    """
    t = cuda.threadIdx.x
    first_k = cuda.blockIdx.y * ROWS
    for q in range(W_EACH):
        if transposed:
            i, o = t // OUT + q * (PRODUCT_THREADS // OUT), t % OUT
        else:
            i, o = t % INNER, t // INNER + q * (PRODUCT_THREADS // INNER)
        w_coming[q] = NUMBER(0)
        if first_out + o < n_out and start + i < n_in:
            if transposed:
                w_coming[q] = w[index(start + i), index(first_out + o)]
            else:
                w_coming[q] = w[index(first_out + o), index(start + i)]
    for q in range(X_EACH):
        i, k = t % INNER, t // INNER + q * (PRODUCT_THREADS // INNER)
        x_coming[q] = NUMBER(0)
        if first_k + k < K and start + i < n_in:
            x_coming[q] = x[index(first_row + first_k + k), index(start + i)]


@device
def put(transposed, w_coming, x_coming, w_tile, x_tile):
    """What this thread has brought, to shared memory."""
    t = cuda.threadIdx.x
    for q in range(W_EACH):
        if transposed:
            w_tile[t // OUT + q * (PRODUCT_THREADS // OUT), t % OUT] = w_coming[q]
        else:
            w_tile[t % INNER, t // INNER + q * (PRODUCT_THREADS // INNER)] = w_coming[q]
    for q in range(X_EACH):
        x_tile[t % INNER, t // INNER + q * (PRODUCT_THREADS // INNER)] = x_coming[q]


@device
def product(w, transposed, n_out, n_in, x, first_row, K, first_out, w_tile, x_tile, sums, totals):
    """This thread's `totals` (OUTPUTS,) of the block's tile, see `output_of`.

    w (n_out, n_in), or (n_in, n_out) where `transposed`; x (.., n_in or more), of which the rows
    first_row .. first_row + K - 1 count. w_tile, x_tile, sums: shared, and the kernel's: made here
    they would be made once for each of its products, beyond 48 kB in double precision.
    """
    t = cuda.threadIdx.x
    n_o, n_k = OUT // MICRO, ROWS // MICRO
    mine_o, mine_k, mine = t % n_o, (t // n_o) % n_k, t // (n_o * n_k)
    acc = cuda.local.array((MICRO, MICRO), NUMBER)
    a = cuda.local.array(MICRO, NUMBER)
    w_coming = cuda.local.array(W_EACH, NUMBER)
    x_coming = cuda.local.array(X_EACH, NUMBER)
    for q in range(MICRO):
        for p in range(MICRO):
            acc[q, p] = NUMBER(0)
    bring(w, transposed, n_out, n_in, x, first_row, K, first_out, 0, w_coming, x_coming)
    for start in range(0, n_in, INNER):
        cuda.syncthreads()
        put(transposed, w_coming, x_coming, w_tile, x_tile)
        cuda.syncthreads()
        after = start + INNER  # comes from memory while this tile is summed
        bring(w, transposed, n_out, n_in, x, first_row, K, first_out, after, w_coming, x_coming)
        for step in range(INNER // SLICES):
            i = step * SLICES + mine
            for p in range(MICRO):
                a[p] = w_tile[i, mine_o + n_o * p]
            for q in range(MICRO):
                value = x_tile[i, mine_k + n_k * q]
                for p in range(MICRO):
                    acc[q, p] += a[p] * value
    for q in range(MICRO):
        for p in range(MICRO):
            sums[mine, mine_k + n_k * q, mine_o + n_o * p] = acc[q, p]
    cuda.syncthreads()
    for q in range(OUTPUTS):
        k, o = output_of(q)
        total = sums[0, k, o]
        for part in range(1, SLICES):
            total += sums[part, k, o]
        totals[q] = total


# ------------------------------------------------------------------------------------------------
# Forward


@kernel
def encode_hidden(first, K, W_x, x, hidden):
    """The encoder's hidden layer, hidden = tanh(W_x [x; 1])."""
    w_tile = cuda.shared.array((INNER, OUT_PITCH), NUMBER)
    x_tile = cuda.shared.array((INNER, ROWS_PITCH), NUMBER)
    sums = cuda.shared.array((SLICES, ROWS, OUT), NUMBER)
    totals = cuda.local.array(OUTPUTS, NUMBER)
    b = first + cuda.blockIdx.z
    n_e, out = W_x.shape[1], cuda.blockIdx.x * OUT
    product(W_x[b], False, n_e, W_x.shape[2], x[b], 1, K, out, w_tile, x_tile, sums, totals)
    for q in range(OUTPUTS):
        k, o = place_of(q, out)
        if k < K and o < n_e:
            hidden[b, k + 1, o] = tanh(totals[q])


@kernel
def encode(first, K, W_z, G_a, x, a, remember_features, n_context_h, z, u, c, gain):
    """z = tanh(W_z [x; 1]); gain = tanh(G_a [a; 1]); z goes into u and into the next context.

    x: the features, or the encoder's hidden layer.
    """
    w_tile = cuda.shared.array((INNER, OUT_PITCH), NUMBER)
    x_tile = cuda.shared.array((INNER, ROWS_PITCH), NUMBER)
    sums = cuda.shared.array((SLICES, ROWS, OUT), NUMBER)
    totals = cuda.local.array(OUTPUTS, NUMBER)
    b = first + cuda.blockIdx.z
    n_z, n_g = W_z.shape[1], G_a.shape[1]
    tiles_of_z = (n_z + OUT - 1) // OUT
    of_gain = cuda.blockIdx.x >= tiles_of_z
    if of_gain:
        out = (cuda.blockIdx.x - tiles_of_z) * OUT
        product(G_a[b], False, n_g, G_a.shape[2], a[b], 0, K, out, w_tile, x_tile, sums, totals)
    else:
        out = cuda.blockIdx.x * OUT
        product(W_z[b], False, n_z, W_z.shape[2], x[b], 1, K, out, w_tile, x_tile, sums, totals)
    for q in range(OUTPUTS):
        k, o = place_of(q, out)
        if k < K:
            value = tanh(totals[q])
            if of_gain:
                if o < n_g:
                    gain[b, k, o] = value
            elif o < n_z:
                z[b, k + 1, o] = value
                if not remember_features:
                    u[b, k, o] = value
                if k + 1 < K:
                    c[b, k + 1, n_context_h + o] = value


@kernel
def project(first, K, W, u, s):
    """The input projections s = W u, of G n_h outputs."""
    w_tile = cuda.shared.array((INNER, OUT_PITCH), NUMBER)
    x_tile = cuda.shared.array((INNER, ROWS_PITCH), NUMBER)
    sums = cuda.shared.array((SLICES, ROWS, OUT), NUMBER)
    totals = cuda.local.array(OUTPUTS, NUMBER)
    b = first + cuda.blockIdx.z
    n_out, n_h, out = W.shape[1], s.shape[3], cuda.blockIdx.x * OUT
    product(W[b], False, n_out, W.shape[2], u[b], 0, K, out, w_tile, x_tile, sums, totals)
    for q in range(OUTPUTS):
        k, o = place_of(q, out)
        if k < K and o < n_out:
            s[b, k, o // n_h, o % n_h] = totals[q]


@kernel
def gate(first, K, V_1, G_b, c, gain, q_out, g_out, p1):
    """p1 = q g, q = tanh(V_1 c), g = sigmoid(G_b gain)."""
    w_tile = cuda.shared.array((INNER, OUT_PITCH), NUMBER)
    x_tile = cuda.shared.array((INNER, ROWS_PITCH), NUMBER)
    sums = cuda.shared.array((SLICES, ROWS, OUT), NUMBER)
    of_context = cuda.local.array(OUTPUTS, NUMBER)
    of_gain = cuda.local.array(OUTPUTS, NUMBER)
    b = first + cuda.blockIdx.z
    n_p, out = V_1.shape[1], cuda.blockIdx.x * OUT
    product(V_1[b], False, n_p, V_1.shape[2], c[b], 0, K, out, w_tile, x_tile, sums, of_context)
    product(G_b[b], False, n_p, G_b.shape[2], gain[b], 0, K, out, w_tile, x_tile, sums, of_gain)
    for q in range(OUTPUTS):
        k, o = place_of(q, out)
        if k < K and o < n_p:
            seen, gated = tanh(of_context[q]), sigmoid(of_gain[q])
            q_out[b, k, o] = seen
            g_out[b, k, o] = gated
            p1[b, k, o] = seen * gated


@kernel
def mix(first, K, V_2, p1, p2):
    """p2 = tanh(V_2 [p1; 1])."""
    w_tile = cuda.shared.array((INNER, OUT_PITCH), NUMBER)
    x_tile = cuda.shared.array((INNER, ROWS_PITCH), NUMBER)
    sums = cuda.shared.array((SLICES, ROWS, OUT), NUMBER)
    totals = cuda.local.array(OUTPUTS, NUMBER)
    b = first + cuda.blockIdx.z
    n_p, out = V_2.shape[1], cuda.blockIdx.x * OUT
    product(V_2[b], False, n_p, V_2.shape[2], p1[b], 0, K, out, w_tile, x_tile, sums, totals)
    for q in range(OUTPUTS):
        k, o = place_of(q, out)
        if k < K and o < n_p:
            p2[b, k, o] = tanh(totals[q])


@kernel
def predict(first, K, V_3, p2, z, mu, zhat, e, centred):
    """zhat = V_3 [p2; 1], e = z - zhat, and z - mu."""
    w_tile = cuda.shared.array((INNER, OUT_PITCH), NUMBER)
    x_tile = cuda.shared.array((INNER, ROWS_PITCH), NUMBER)
    sums = cuda.shared.array((SLICES, ROWS, OUT), NUMBER)
    totals = cuda.local.array(OUTPUTS, NUMBER)
    b = first + cuda.blockIdx.z
    n_z, out = V_3.shape[1], cuda.blockIdx.x * OUT
    product(V_3[b], False, n_z, V_3.shape[2], p2[b], 0, K, out, w_tile, x_tile, sums, totals)
    for q in range(OUTPUTS):
        k, o = place_of(q, out)
        if k < K and o < n_z:
            zhat[b, k, o] = totals[q]
            e[b, k, o] = z[b, k + 1, o] - totals[q]
            centred[b, k, o] = z[b, k + 1, o] - mu[b, o]


@kernel
def weigh_errors(first, K, P, centred, e, d_z, d_zhat):
    """dl/dzhat = -P_e e and dl/dz = P_e e - P_z (z - mu), the latter in rows 1..K."""
    w_tile = cuda.shared.array((INNER, OUT_PITCH), NUMBER)
    x_tile = cuda.shared.array((INNER, ROWS_PITCH), NUMBER)
    sums = cuda.shared.array((SLICES, ROWS, OUT), NUMBER)
    of_z = cuda.local.array(OUTPUTS, NUMBER)
    of_e = cuda.local.array(OUTPUTS, NUMBER)
    b = first + cuda.blockIdx.z
    n_z, out = P.shape[2], cuda.blockIdx.x * OUT
    product(P[b, 0], False, n_z, n_z, centred[b], 0, K, out, w_tile, x_tile, sums, of_z)
    product(P[b, 1], False, n_z, n_z, e[b], 0, K, out, w_tile, x_tile, sums, of_e)
    for q in range(OUTPUTS):
        k, o = place_of(q, out)
        if k < K and o < n_z:
            d_zhat[b, k, o] = -of_e[q]
            d_z[b, k + 1, o] = of_e[q] - of_z[q]


# ------------------------------------------------------------------------------------------------
# Backward


@kernel
def back_to_mix(first, K, V_3, d_zhat, p2, d_2):
    """From zhat = V_3 [p2; 1] back to the argument of p2 = tanh(.)."""
    w_tile = cuda.shared.array((INNER, OUT_PITCH), NUMBER)
    x_tile = cuda.shared.array((INNER, ROWS_PITCH), NUMBER)
    sums = cuda.shared.array((SLICES, ROWS, OUT), NUMBER)
    totals = cuda.local.array(OUTPUTS, NUMBER)
    b = first + cuda.blockIdx.z
    n_z, n_columns, out = V_3.shape[1], V_3.shape[2], cuda.blockIdx.x * OUT
    product(V_3[b], True, n_columns, n_z, d_zhat[b], 0, K, out, w_tile, x_tile, sums, totals)
    for q in range(OUTPUTS):
        k, o = place_of(q, out)
        if k < K and o < n_columns - 1:
            d_2[b, k, o] = totals[q] * one_minus(p2[b, k, o] * p2[b, k, o])


@kernel
def back_to_gate(first, K, V_2, d_2, q_in, g_in, d_1, d_g):
    """From V_2 [p1; 1] back to the arguments of p1 = tanh(.) sigmoid(.) = q g."""
    w_tile = cuda.shared.array((INNER, OUT_PITCH), NUMBER)
    x_tile = cuda.shared.array((INNER, ROWS_PITCH), NUMBER)
    sums = cuda.shared.array((SLICES, ROWS, OUT), NUMBER)
    totals = cuda.local.array(OUTPUTS, NUMBER)
    b = first + cuda.blockIdx.z
    n_p, out = V_2.shape[1], cuda.blockIdx.x * OUT
    product(V_2[b], True, n_p + 1, n_p, d_2[b], 0, K, out, w_tile, x_tile, sums, totals)
    for q in range(OUTPUTS):
        k, o = place_of(q, out)
        if k < K and o < n_p:
            seen, gated = q_in[b, k, o], g_in[b, k, o]
            d_1[b, k, o] = totals[q] * gated * one_minus(seen * seen)
            d_g[b, k, o] = totals[q] * seen * gated * one_minus(gated)


@kernel
def back_to_past(first, K, V_1, G_b, d_1, d_g, gain, z, d_gain, delta, d_z):
    """From V_1 c and G_b gain back to the states and embeddings of the context and to G_a a.

    delta (B, M, len(reads), n_h) in the order of the context. Row k of the context is of the
    fixation before: its z has row k of d_z, to which the objective's share is added (row 0, of the
    fixation before the block, has none), and tanh'.
    """
    w_tile = cuda.shared.array((INNER, OUT_PITCH), NUMBER)
    x_tile = cuda.shared.array((INNER, ROWS_PITCH), NUMBER)
    sums = cuda.shared.array((SLICES, ROWS, OUT), NUMBER)
    totals = cuda.local.array(OUTPUTS, NUMBER)
    b = first + cuda.blockIdx.z
    n_p, n_z, n_g = V_1.shape[1], z.shape[2], d_gain.shape[2]
    n_h, n_read = delta.shape[3], len(READS) * delta.shape[3]
    n_context = n_read + n_z
    tiles_of_context = (n_context + OUT - 1) // OUT
    of_gain = cuda.blockIdx.x >= tiles_of_context
    if of_gain:
        out = (cuda.blockIdx.x - tiles_of_context) * OUT
        product(G_b[b], True, n_g, n_p, d_g[b], 0, K, out, w_tile, x_tile, sums, totals)
    else:
        out = cuda.blockIdx.x * OUT
        product(V_1[b], True, n_context, n_p, d_1[b], 0, K, out, w_tile, x_tile, sums, totals)
    for q in range(OUTPUTS):
        k, o = place_of(q, out)
        if k < K:
            if of_gain:
                if o < n_g:
                    slope = one_minus(gain[b, k, o] * gain[b, k, o])
                    d_gain[b, k, o] = totals[q] * slope
            elif o < n_read:
                delta[b, k, READS[o // n_h], o % n_h] = totals[q]
            elif o < n_context:
                i = o - n_read
                value = totals[q]
                if k > 0:
                    value += d_z[b, k, i]
                d_z[b, k, i] = value * one_minus(z[b, k, i] * z[b, k, i])
                if k + 1 == K:
                    slope = one_minus(z[b, K, i] * z[b, K, i])
                    d_z[b, K, i] *= slope


@kernel
def back_to_hidden(first, rows, W_z, d_z, hidden, d_hidden):
    """From z = tanh(W_z [hidden; 1]) back to the argument of hidden = tanh(.).

    rows: K + 1, since the fixation before the block has a share of d_z, too.
    """
    w_tile = cuda.shared.array((INNER, OUT_PITCH), NUMBER)
    x_tile = cuda.shared.array((INNER, ROWS_PITCH), NUMBER)
    sums = cuda.shared.array((SLICES, ROWS, OUT), NUMBER)
    totals = cuda.local.array(OUTPUTS, NUMBER)
    b = first + cuda.blockIdx.z
    n_z, n_columns, out = W_z.shape[1], W_z.shape[2], cuda.blockIdx.x * OUT
    product(W_z[b], True, n_columns, n_z, d_z[b], 0, rows, out, w_tile, x_tile, sums, totals)
    for q in range(OUTPUTS):
        k, o = place_of(q, out)
        if k < rows and o < n_columns - 1:
            d_hidden[b, k, o] = totals[q] * one_minus(hidden[b, k, o] * hidden[b, k, o])
