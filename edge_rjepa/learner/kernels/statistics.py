"""The objective on the CPU: its loss with gradients, and its running statistics.

objective.py has the formulas, engines/statistics.py keeps the arrays.
"""

from __future__ import annotations

from edge_rjepa.base.jit import jit
from edge_rjepa.learner.kernels import products


@jit(fastmath={"reassoc", "contract", "nsz"})  # a sum in any order can be vectorised
def dot(a, b):
    """a' b."""
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


def measure(z, e, mu, P_z, P_e, centred, d_z, d_zhat, surprise):
    """The loss of a block, summed; P stand still.

    z, e (K, n_z), mu (n_z,) and P (n_z, n_z) in; centred = z - mu, d_z = dl/dz and d_zhat =
    dl/dzhat (K, n_z), surprise (K,) = 1/2 e' P_e e out.
    """
    subtract_mean(z, mu, centred)
    products.backward_product(centred, P_z, d_z)
    products.backward_product(e, P_e, d_zhat)
    return sum_loss(centred, e, d_z, d_zhat, surprise)


@jit
def subtract_mean(z, mu, centred):
    """centred (K, n_z) <- z - mu."""
    for k in range(z.shape[0]):
        for j in range(z.shape[1]):
            centred[k, j] = z[k, j] - mu[j]


@jit
def sum_loss(centred, e, d_z, d_zhat, surprise):
    """The rest of `measure`, from P_z centred in d_z and P_e e in d_zhat."""
    loss, half = 0.0, e.dtype.type(0.5)
    for k in range(e.shape[0]):
        surprise[k] = half * dot(e[k], d_zhat[k])
        loss += surprise[k] - half * dot(centred[k], d_z[k])
        for j in range(e.shape[1]):
            d_z[k, j] = d_zhat[k, j] - d_z[k, j]
            d_zhat[k, j] = -d_zhat[k, j]
    return loss


@jit
def observe(centred, e, rate, mu, first, z_rows, z_scaled, e_rows, e_scaled):
    """Move mu (n_z,) by a block, and keep what that changes of the covariances.

    centred and e (K, n_z), mu moves by `rate` times the mean of `centred`, the shift. Of each
    covariance 1 + K rows (n_z numbers) are written, from row `first` on: S <- (1 - rate) S +
    rate block' block / K - shift' shift is (1 - rate) S + scaled' rows, where the first row is the
    shift, of the mean about which S is. The error's is about 0, so that its shift is 0.
    """
    share = mu.dtype.type(rate / e.shape[0])
    shift = z_rows[first]
    shift[:] = 0
    for k in range(e.shape[0]):
        for j in range(mu.size):
            z_rows[first + 1 + k, j], e_rows[first + 1 + k, j] = centred[k, j], e[k, j]
            z_scaled[first + 1 + k, j] = share * centred[k, j]
            e_scaled[first + 1 + k, j] = share * e[k, j]
            shift[j] += share * centred[k, j]
    for j in range(mu.size):
        mu[j] += shift[j]
        z_scaled[first, j] = -shift[j]
        e_rows[first, j] = e_scaled[first, j] = 0


@jit
def mirror(P):
    """What is below the diagonal is made what is above it."""
    for i in range(P.shape[0]):
        for j in range(i):
            P[i, j] = P[j, i]
