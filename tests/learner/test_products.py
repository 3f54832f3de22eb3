"""The products in tiles of registers: right for every size, and nothing is written beyond it."""

import itertools
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core.errors import TypingError

from edge_rjepa.base.jit import fingerprint, jit, specialise
from edge_rjepa.learner.kernels import products
from edge_rjepa.learner.kernels.arrays import Blocks
from edge_rjepa.learner.kernels.microkernels import (
    SHORT,
    TALL,
    VECTOR_BYTES,
    WIDE,
    sum_tile,
)

FILL = 7.0
# Where kernels for other processors are kept from one run to the next, as this one's own are: of
# each it is known for which processor and of what code it is.
OF_NARROW = Path(__file__).parent / "__pycache__" / "narrow"


def framed(rng, shape, dtype):
    """A matrix in the middle of a buffer of FILL, and the buffer."""
    size = int(np.prod(shape))
    buffer = np.full(size + 128, FILL, dtype)
    buffer[64 : 64 + size] = rng.normal(size=size)
    return buffer[64 : 64 + size].reshape(shape), buffer


def assert_frame(buffer):
    assert (buffer[:64] == FILL).all()
    assert (buffer[-64:] == FILL).all()


def sizes(dtype):
    """On both sides of every height and width of a tile."""
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    heights = (1, SHORT - 1, SHORT, TALL - 1, TALL, TALL + 1, 2 * TALL + SHORT + 1)
    widths = (1, WIDE, lanes - 1, lanes, lanes + 1, WIDE * lanes, WIDE * lanes + lanes + 3)
    return itertools.product(heights, heights, widths)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_are_those_of_numpy(dtype):
    rng, tolerance = np.random.default_rng(0), 1e-5 if dtype == "float32" else 1e-13
    for K, n, m in sizes(dtype):
        x, d, w = (framed(rng, shape, dtype)[0] for shape in ((K, m), (K, n), (n, m)))
        of_forward, forward = framed(rng, (K, n), dtype)
        of_backward, backward = framed(rng, (K, m), dtype)
        of_sum, gradient = framed(rng, (n, m), dtype)
        before = of_sum.copy()
        of_forward[:] = of_backward[:] = np.nan  # what was there counts for nothing
        products.forward_product(x, w, of_forward)
        products.backward_product(d, w, of_backward)
        products.gather(d.T.copy(), x, of_sum)
        close = {"rtol": tolerance, "atol": 10 * tolerance, "err_msg": str((K, n, m))}
        np.testing.assert_allclose(of_forward, x @ w.T, **close)
        np.testing.assert_allclose(of_backward, d @ w, **close)
        np.testing.assert_allclose(of_sum, before + d.T @ x, **close)
        for buffer in (forward, backward, gradient):
            assert_frame(buffer)


def test_long_sums_are_taken_in_parts():
    """More rows than stay in the cache at once."""
    rng = np.random.default_rng(1)
    d, w = rng.normal(size=(3, 3 * products.DEEP + 5)), rng.normal(size=(3 * products.DEEP + 5, 9))
    out = np.empty((3, 9))
    products.backward_product(d, w, out)
    np.testing.assert_allclose(out, d @ w, rtol=1e-12)
    products.gather(d, w, out)
    np.testing.assert_allclose(out, 2 * d @ w, rtol=1e-12)


def recurrent(rng, m, credit, units, repeat, n_u, ends, dtype):
    """(blocks, E, gradient) of `products.recurrence`, in frames."""
    n, K = units * repeat, ends[-1]
    shapes = (len(ends), m * units), (len(ends), m * m * units), (n, K + 2), (m * n, K + 2)
    given = [framed(rng, shape, dtype)[0] for shape in (*shapes, (K, n_u))]
    gradient, of_gradient = framed(rng, (n, n_u), dtype)
    E, of_E = framed(rng, (m * n, n_u), dtype) if credit else (gradient, of_gradient)
    blocks = Blocks(*given[:4], np.array(ends)[:, None], given[4], units)
    return (blocks, E, gradient), (of_E, of_gradient)


def by_the_definition(blocks, E, gradient, m, credit):
    """E and the gradient after all blocks, in float64, row by row."""
    n, n_u = gradient.shape
    E = E.reshape(m, n, n_u).astype(np.float64) if m else E
    gradient, first, units, u = gradient.astype(np.float64), 0, blocks.units, blocks.u
    for b, end in enumerate(blocks.ends[:, 0]):
        alpha, T = blocks.alpha[b].reshape(m, units), blocks.T[b].reshape(m, m, units)
        for i in range(n):
            if credit:
                for a in range(m):
                    gradient[i] += alpha[a, i % units] * E[a, i]
                gradient[i] += blocks.beta[i, first:end].astype(np.float64) @ u[first:end]
            if m:
                E[:, i] = T[:, :, i % units] @ E[:, i]
                E[:, i] += blocks.gamma.reshape(m, n, -1)[:, i, first:end] @ u[first:end]
        first = end
    return E.reshape(m * n, n_u) if m else E, gradient


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("m", "credit"), [(1, True), (2, True), (1, False)])
def test_a_recurrence_goes_through_blocks_as_it_is_defined(m, credit, dtype):
    rng, tolerance = np.random.default_rng(2), 1e-4 if dtype == "float32" else 1e-12
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    looked_at = (lambda E: E) if credit else np.triu  # a covariance is symmetric
    for units, repeat in ((1, 1), (TALL + 1, 2), (2 * TALL * WIDE + 1, 1), (WIDE * lanes, 2)):
        for n_u in (1, lanes, WIDE * lanes, 4 * WIDE * lanes + lanes + 1):
            for ends in ([1], [3, 3, 4], [5, 70, 131]):
                given, buffers = recurrent(rng, m, credit, units, repeat, n_u, ends, dtype)
                E, gradient = by_the_definition(*given, m, credit)
                products.recurrence(m, credit)(*given)
                close = {"rtol": tolerance, "atol": 100 * tolerance}
                np.testing.assert_allclose(looked_at(given[1]), looked_at(E), **close)
                if credit:
                    np.testing.assert_allclose(given[2], gradient, **close)
                for buffer in buffers:
                    assert_frame(buffer)


def test_a_symmetric_matrix_costs_half():
    """Tiles left of the diagonal stay as they were, but for those that the diagonal crosses."""
    n = 20 * WIDE * VECTOR_BYTES // 8
    S = np.ones((n, n))
    products.blend(np.zeros((1, 1)), np.ones((n, 2)), np.ones((2, n)), np.array([[2]]), S)
    assert (S[np.triu_indices(n)] == 2).all()
    assert 0.5 < (S == 2).mean() < 0.6


@pytest.mark.parametrize(("m", "credit"), [(1, True), (3, True), (1, False)])
def test_blocks_at_once_or_one_by_one_make_the_same_bits(m, credit):
    rng, ends = np.random.default_rng(3), [4, 5, 12, 12, 30]
    given, _ = recurrent(rng, m, credit, 9, 2, 53, ends, "float32")
    blocks, E, gradient = given
    one_by_one = E.copy(), gradient.copy()
    if not credit:
        one_by_one = (one_by_one[0],) * 2
    products.recurrence(m, credit)(*given)
    for b, (first, end) in enumerate(zip([0, *ends], ends, strict=False)):
        block = Blocks(
            blocks.alpha[b : b + 1],
            blocks.T[b : b + 1],
            blocks.beta[:, first:end].copy(),
            blocks.gamma[:, first:end].copy(),
            np.array([[end - first]]),
            blocks.u[first:end],
            blocks.units,
        )
        products.recurrence(m, credit)(block, *one_by_one)
    np.testing.assert_array_equal(E, one_by_one[0])
    np.testing.assert_array_equal(gradient, one_by_one[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_are_turned_into_columns(dtype):
    rng, lanes = np.random.default_rng(4), VECTOR_BYTES // np.dtype(dtype).itemsize
    lengths = (0, 1, lanes - 1, lanes, 3 * lanes + 2)
    for K, n in itertools.product(lengths, lengths):
        rows = rng.normal(size=(K, n)).astype(dtype)
        columns, buffer = framed(rng, (n, K + 3), dtype)
        beyond = columns[:, K:].copy()
        products.turn(rows, columns)
        np.testing.assert_array_equal(columns[:, :K], rows.T)
        np.testing.assert_array_equal(columns[:, K:], beyond)
        assert_frame(buffer)


def test_no_fixations_are_no_error():
    w, out = np.ones((3, 5)), np.ones((3, 5))
    products.forward_product(np.empty((0, 5)), w, np.empty((0, 3)))
    products.backward_product(np.empty((0, 3)), w, np.empty((0, 5)))
    products.gather(np.empty((3, 0)), np.empty((0, 5)), out)
    assert (out == 1).all()


def test_nan_and_infinity_come_through():
    """A learner that diverged must be seen to have."""
    x, w, out = np.ones((2, 5)), np.ones((3, 5)), np.zeros((2, 3))
    x[0, 4], x[1, 0] = np.nan, np.inf
    products.forward_product(x, w, out)
    assert np.isnan(out[0]).all()
    assert np.isinf(out[1]).all()


def test_what_would_be_read_beyond_its_end_is_refused():
    w, d, out = np.ones((5, 7)), np.ones((3, 5)), np.zeros((3, 7))
    for bad in (np.asfortranarray(w), w.astype("f4"), w[:, :-1]):
        with pytest.raises(TypingError, match="matrices of one dtype and in C order"):
            products.backward_product(d, bad, out)


def test_a_kept_kernel_is_stale_when_its_tiles_are_others():
    def kernel(rows):
        return jit(specialise(lambda: tile(), "test", tile=sum_tile(rows, WIDE)))  # noqa: F821

    assert fingerprint(kernel(TALL)) == fingerprint(kernel(TALL))
    assert fingerprint(kernel(TALL)) != fingerprint(kernel(SHORT))


@pytest.mark.long
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the processors are x86-64")
@pytest.mark.parametrize("features", ["", "+avx,+avx2,+fma"], ids=["16 bytes", "32 bytes"])
def test_for_processors_with_shorter_vectors(features):
    """Vectors of 16 bytes are those of Arm, too."""
    narrow = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-m", "not (long or slow)"]
    done = subprocess.run(
        [*command, __file__],
        env={**os.environ, **narrow, "NUMBA_CACHE_DIR": str(OF_NARROW)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
