"""The theorems of docs/theory.md in numbers, in plain NumPy: no learner needed.

Theorem numbers are those of docs/theory.md.
"""

import numpy as np
import pytest

EPS = 1.0


def log_det(S):
    return np.linalg.slogdet(S)[1]


def information(S_z, S_e, eps=EPS):
    """I in nats."""
    eps_I = eps * np.eye(len(S_z))
    return (log_det(S_z + eps_I) - log_det(S_e + eps_I)) / 2


def random_covariance(rng, n, scale=1.0):
    A = rng.normal(size=(n, n + 2))
    return scale * A @ A.T / n


def best_linear_error(S_z, S_zp, S_p):
    """Error covariance of the best linear prediction of z from p."""
    return S_z - S_zp @ np.linalg.solve(S_p, S_zp.T)


def linear_task(rng, n=5, fixations=400):
    """A partly predictable signal: z (N, n) and its best linear prediction from a past p."""
    past = rng.normal(size=(fixations, 3))
    z = past @ rng.normal(size=(3, n)) + rng.normal(size=(fixations, n))
    z -= z.mean(axis=0)
    weights, *_ = np.linalg.lstsq(past, z, rcond=None)
    return z, past @ weights


# ---- 1: information is not negative, and zero at a constant ---------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_1_information_is_positive_where_the_predictor_is_as_good_as_the_mean(seed):
    rng = np.random.default_rng(seed)
    joint = random_covariance(rng, 9)
    S_z, S_zp, S_p = joint[:5, :5], joint[:5, 5:], joint[5:, 5:]
    assert information(S_z, best_linear_error(S_z, S_zp, S_p)) > 0


def test_1_information_is_zero_where_nothing_is_predicted():
    S_z = random_covariance(np.random.default_rng(0), 5)
    assert information(S_z, S_z) == 0
    assert information(np.zeros((5, 5)), np.zeros((5, 5))) == 0


def test_1_a_constant_embedding_predicted_wrongly_is_below_zero():
    offset = np.array([0.3, -0.2])
    assert information(np.zeros((2, 2)), np.outer(offset, offset)) < 0


def test_1_a_smaller_total_error_alone_does_not_suffice():
    """The assumption is on every direction: less squared error in total can still give I < 0."""
    S_z, S_e = np.diag([10.0, 0.0]), np.diag([4.0, 4.0])
    assert np.trace(S_e) < np.trace(S_z)
    assert information(S_z, S_e) < 0


def test_1_predicting_zero_falls_short_of_the_mean_by_its_offset():
    """A last layer of zeros predicts 0, not mu: I = -1/2 log(1 + mu' P_z mu)."""
    rng = np.random.default_rng(1)
    S_z, mu = random_covariance(rng, 4), rng.normal(size=4)
    S_e = S_z + np.outer(mu, mu)
    expected = -np.log1p(mu @ np.linalg.solve(S_z + EPS * np.eye(4), mu)) / 2
    assert information(S_z, S_e) == pytest.approx(expected, rel=1e-12)
    assert expected < 0


def test_1_another_predicted_coordinate_never_lowers_information():
    rng = np.random.default_rng(2)
    for _ in range(20):
        joint = random_covariance(rng, 8)
        S_z, S_zp, S_p = joint[:5, :5], joint[:5, 5:], joint[5:, 5:]
        S_e = best_linear_error(S_z, S_zp, S_p)
        kept = [information(S_z[:k, :k], S_e[:k, :k]) for k in range(1, 6)]
        assert np.all(np.diff(kept) >= -1e-12)


def test_running_statistics_are_exact_moments_of_one_weighted_sample():
    """So the running estimate of I has the properties of I, not only its limit."""
    rng = np.random.default_rng(3)
    tau, n, n_z = 20.0, 0, 3
    mu, S_z, S_e = np.zeros(n_z), np.zeros((n_z, n_z)), np.zeros((n_z, n_z))
    seen_z, seen_e, weights = np.empty((0, n_z)), np.empty((0, n_z)), np.empty(0)
    for K in (4, 1, 7, 16, 2, 9):
        z, e = rng.normal(1.0, size=(K, n_z)), rng.normal(size=(K, n_z))
        d = z - mu
        r = max(1 - np.exp(-K / tau), K / (n + K))
        S_z = (1 - r) * S_z + r * d.T @ d / K - r**2 * np.outer(d.mean(0), d.mean(0))
        S_e = (1 - r) * S_e + r * e.T @ e / K
        mu, n = mu + r * d.mean(0), n + K
        seen_z, seen_e = np.vstack([seen_z, z]), np.vstack([seen_e, e])
        weights = np.append((1 - r) * weights, np.full(K, r / K))
    assert weights.sum() == pytest.approx(1, rel=1e-14)
    centred = seen_z - weights @ seen_z
    np.testing.assert_allclose(mu, weights @ seen_z, rtol=1e-12)
    np.testing.assert_allclose(S_z, (weights * centred.T) @ centred, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(S_e, (weights * seen_e.T) @ seen_e, rtol=1e-12, atol=1e-14)


# ---- 2: near collapse ------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.3, 1.0, 3.0])
def test_2_near_collapse_expansion_and_its_order(eps):
    rng = np.random.default_rng(4)
    S_z = random_covariance(rng, 6)
    S_e = best_linear_error(S_z, 0.3 * rng.normal(size=(6, 2)), 3 * np.eye(2))
    leading = np.trace(S_z - S_e) / (2 * eps)
    bound = max(np.trace(S_z @ S_z), np.trace(S_e @ S_e)) / (4 * eps**2)
    assert leading > 0
    rests = []
    for s in (0.08, 0.04, 0.02):
        rests.append(abs(information(s**2 * S_z, s**2 * S_e, eps) - s**2 * leading))
        assert rests[-1] <= s**4 * bound
    orders = np.log2(np.array(rests[:-1]) / rests[1:])
    np.testing.assert_allclose(orders, 4, atol=0.1)


@pytest.mark.parametrize(("predictable", "sign"), [(0.5, 1), (0.0, 0), (-0.5, -1)])
def test_2_collapse_repels_only_where_the_predictor_beats_the_mean(predictable, sign):
    S_z = random_covariance(np.random.default_rng(5), 4)
    S_e = (1 - predictable) * S_z
    values = [information(s**2 * S_z, s**2 * S_e) for s in (0.0, 0.01, 0.02, 0.03)]
    assert np.all(np.sign(np.diff(values)) == sign)


def test_2_a_bounded_embedding_keeps_the_expansion():
    """z = tanh(s w) differs from s w at third order: the leading term of I is the same."""
    z, z_hat = linear_task(np.random.default_rng(6))
    N = len(z)
    leading = np.trace(z.T @ z - (z - z_hat).T @ (z - z_hat)) / N / (2 * EPS)
    rests = []
    for s in (0.04, 0.02, 0.01):
        d = np.tanh(s * z) - np.tanh(s * z).mean(axis=0)
        e = np.tanh(s * z) - s * z_hat
        rests.append(abs(information(d.T @ d / N, e.T @ e / N) - s**2 * leading))
    np.testing.assert_allclose(np.log2(np.array(rests[:-1]) / rests[1:]), 4, atol=0.1)


# ---- 3: concavity ----------------------------------------------------------------------------


@pytest.mark.parametrize("unpredicted", [0.0, 0.1, 0.5, 0.9])
def test_3_a_second_equally_predictable_direction_is_worth_more(unpredicted):
    def worth(*variances):
        S_z = np.diag(variances)
        return information(S_z, unpredicted * S_z)

    for a, b in [(1.0, 1.0), (0.1, 5.0), (20.0, 3.0)]:
        assert worth(a, b) > worth(a + b, 0.0)
    spread = [worth(*[12.0 / k] * k) for k in (1, 2, 3, 4, 6, 12)]
    assert np.all(np.diff(spread) > 0)


@pytest.mark.parametrize("unpredicted", [0.0, 0.1, 0.5, 0.9])
def test_3_information_is_concave_in_the_covariance_at_one_predictability(unpredicted):
    """Along any line of covariances, commuting or not."""
    rng = np.random.default_rng(7)
    for _ in range(20):
        A, B = random_covariance(rng, 4), random_covariance(rng, 4, 5.0)
        at = [
            information(S, unpredicted * S)
            for S in ((1 - w) * A + w * B for w in np.linspace(0, 1, 9))
        ]
        assert np.all(np.diff(at, 2) < 0)


def test_3_more_variance_in_one_direction_saturates():
    S = np.diag([1e9])
    assert information(S, 0.25 * S) == pytest.approx(np.log(1 / 0.25) / 2, rel=1e-6)


def test_3_a_less_predictable_direction_can_be_worth_less():
    """The theorem needs equal predictability: here more of the first is the better deal."""
    first, both = (1.2, 0.0), (1.0, 0.2)
    unpredicted = np.array([0.05, 0.95])
    assert information(np.diag(first), np.diag(unpredicted * first)) > information(
        np.diag(both), np.diag(unpredicted * both)
    )


# ---- 4: the loss with P held fixed has the gradient of I --------------------------------------


def tiny_network(theta, x, past):
    """z = tanh(W x + b), zhat = V p + c: complex-safe. theta -> (z, zhat), each (N, 2)."""
    W, b, V, c = np.split(theta, [6, 8, 14])
    z = np.tanh(x @ W.reshape(2, 3).T + b)
    return z, past @ V.reshape(2, 3).T + c


def moments(z, z_hat):
    d, e = z - z.mean(axis=0), z - z_hat
    return d.T @ d / len(z), e.T @ e / len(z)


def complex_log_det_2x2(S):
    return np.log(S[0, 0] * S[1, 1] - S[0, 1] * S[1, 0])


def complex_step_gradient(function, theta):
    step = 1e-30
    directions = 1j * step * np.eye(len(theta))
    return np.array([function(theta + direction).imag / step for direction in directions])


def test_4_gradient_of_information_is_minus_the_gradient_of_the_mean_loss():
    rng = np.random.default_rng(8)
    x, past = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    theta = rng.normal(size=16)
    eps_I = EPS * np.eye(2)
    z0, z0_hat = tiny_network(theta, x, past)
    S_z0, S_e0 = moments(z0, z0_hat)
    mu, P_z, P_e = z0.mean(axis=0), np.linalg.inv(S_z0 + eps_I), np.linalg.inv(S_e0 + eps_I)

    def nats(theta):
        S_z, S_e = moments(*tiny_network(theta, x, past))
        return (complex_log_det_2x2(S_z + eps_I) - complex_log_det_2x2(S_e + eps_I)) / 2

    def mean_loss(theta):
        z, z_hat = tiny_network(theta, x, past)
        e, d = z - z_hat, z - mu
        return np.mean(np.sum((e @ P_e) * e, axis=1) - np.sum((d @ P_z) * d, axis=1)) / 2

    of_I, of_loss = complex_step_gradient(nats, theta), complex_step_gradient(mean_loss, theta)
    assert np.abs(of_I).min() > 1e-6
    np.testing.assert_allclose(of_loss, -of_I, rtol=1e-11)


def test_4_derivatives_of_the_loss_as_the_learner_uses_them():
    rng = np.random.default_rng(9)
    P_z, P_e = (np.linalg.inv(random_covariance(rng, 4) + EPS * np.eye(4)) for _ in range(2))
    z, z_hat, mu = rng.normal(size=(3, 4))

    def loss(v):
        e, d = v[:4] - v[4:], v[:4] - mu
        return (e @ P_e @ e - d @ P_z @ d) / 2

    gradient = complex_step_gradient(loss, np.concatenate([z, z_hat]))
    e = z - z_hat
    np.testing.assert_allclose(gradient[:4], P_e @ e - P_z @ (z - mu), rtol=1e-12)
    np.testing.assert_allclose(gradient[4:], -P_e @ e, rtol=1e-12)


def test_4_the_encoder_waits_for_the_predictor():
    """Predicting nothing of a zero-mean embedding: no fixation pulls at z, so none shrinks it."""
    z, _ = linear_task(np.random.default_rng(18), n=3)
    S_z, S_e = moments(z, np.zeros_like(z))
    to_z = z @ np.linalg.inv(S_e + EPS * np.eye(3)) - z @ np.linalg.inv(S_z + EPS * np.eye(3))
    np.testing.assert_allclose(to_z, 0, atol=1e-12)


def test_4_the_frozen_loss_knows_no_saturation():
    """Along z -> s z it is exactly quadratic in s: only fresh statistics bring the logarithm."""
    z, z_hat = linear_task(np.random.default_rng(10), n=2)
    S_z, S_e = moments(z, z_hat)
    P_z, P_e = np.linalg.inv(S_z + EPS * np.eye(2)), np.linalg.inv(S_e + EPS * np.eye(2))
    slope = (np.trace(P_e @ S_e) - np.trace(P_z @ S_z)) / 2
    assert slope < 0

    def frozen(s):
        e = s * (z - z_hat)
        return np.mean(np.sum(e @ P_e * e - s * z @ P_z * (s * z), axis=1)) / 2

    for s in (0.5, 1.0, 10.0, 1000.0):
        assert frozen(s) == pytest.approx(s**2 * slope, rel=1e-9)


# ---- Mean squared error alone ----------------------------------------------------------------


def test_mean_squared_error_has_its_global_minimum_at_collapse():
    """Zero at a constant whatever the data; scaling any imperfect network down always helps."""
    z, z_hat = linear_task(np.random.default_rng(11))

    def error(s):
        return np.mean(np.sum((s * z - s * z_hat) ** 2, axis=1))

    def loss_information(s):
        return information(*moments(s * z, s * z_hat))

    scales = np.array([0.0, 0.01, 0.1, 0.5, 1.0, 2.0])
    errors = np.array([error(s) for s in scales])
    assert errors[0] == 0
    assert np.all(np.diff(errors) > 0)
    assert np.all(np.diff([loss_information(s) for s in scales]) > 0)  # the opposite order


def test_gradient_descent_on_both_objectives_from_the_same_start():
    """A linear encoder and predictor: squared error shrinks it, information grows it."""
    rng = np.random.default_rng(12)
    past = rng.normal(size=(300, 3))
    x = np.hstack([past @ rng.normal(size=(3, 2)), np.zeros((300, 2))])
    x = x + 0.7 * rng.normal(size=x.shape)
    N, start = len(x), 0.3 * rng.normal(size=(4, 2))

    def train(use_information, steps=600, rate=0.05):
        W, V = start.copy(), np.zeros((3, 2))
        for _ in range(steps):
            z, z_hat = np.tanh(x @ W), past @ V
            e, d = z - z_hat, z - z.mean(axis=0)
            if use_information:
                S_z, S_e = moments(z, z_hat)
                to_e = np.linalg.solve(S_e + EPS * np.eye(2), e.T).T
                to_z = to_e - np.linalg.solve(S_z + EPS * np.eye(2), d.T).T
            else:
                to_e, to_z = e, e
            V += 4 * rate * past.T @ to_e / N  # the predictor learns faster than the encoder
            W -= rate * x.T @ (to_z * (1 - z**2)) / N
        return np.tanh(x @ W)

    begin = np.tanh(x @ start).std(axis=0).mean()
    assert train(use_information=False).std(axis=0).mean() < 0.5 * begin
    assert train(use_information=True).std(axis=0).mean() > 1.2 * begin


# ---- 5 and 6: Recurrent-Forward Propagation, a fixation at a time and in blocks ----------------


def random_chain(rng, K, m, G, n_h, n_u):
    """One block of a unit-local network: local derivatives, inputs, and what meets the state."""
    return dict(
        J=rng.normal(scale=0.8, size=(K, n_h, m, m)),  # J_1 .. J_K
        B=rng.normal(size=(K, n_h, m, G)),  # B_1 .. B_K
        u=rng.normal(size=(K, n_u)),  # u_1 .. u_K
        delta=rng.normal(size=(K, n_h, m)),  # delta_0 .. delta_{K-1}
        E=rng.normal(size=(n_h, m, G, n_u)),  # E_0
    )


def by_fixation(J, B, u, delta, E):
    """Gradient (n_h, G, n_u) and E_K: one pass over the traces for every fixation."""
    gradient = np.zeros(E.shape[:1] + E.shape[2:])
    for k in range(len(J)):
        gradient += np.einsum("jm,jmgu->jgu", delta[k], E)  # delta_k meets E_k
        E = np.einsum("jmn,jngu->jmgu", J[k], E) + np.einsum("jmg,u->jmgu", B[k], u[k])
    return gradient, E


def by_block(J, B, u, delta, E):
    """The same from alpha, beta, gamma: one pass over the traces for the whole block."""
    K, n_h, m, _ = J.shape
    rho = np.zeros((n_h, m))  # sum_{k >= s} (J_k .. J_{s+1})' delta_k
    C = np.tile(np.eye(m), (n_h, 1, 1))  # J_K .. J_{s+1}
    beta, gamma = np.empty(B.shape[:2] + B.shape[3:]), np.empty(B.shape)
    for s in range(K, 0, -1):
        beta[s - 1] = np.einsum("jm,jmg->jg", rho, B[s - 1])
        gamma[s - 1] = C @ B[s - 1]
        rho = delta[s - 1] + np.einsum("jm,jmn->jn", rho, J[s - 1])
        C = C @ J[s - 1]
    assert not beta[-1].any()  # the last input of a block meets no loss of this block
    gradient = np.einsum("jm,jmgu->jgu", rho, E) + np.einsum("sjg,su->jgu", beta, u)
    return gradient, np.einsum("jmn,jngu->jmgu", C, E) + np.einsum("sjmg,su->jmgu", gamma, u)


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("G", [1, 2])
@pytest.mark.parametrize("K", [1, 2, 7, 16])
def test_6_block_form_equals_the_recursion(K, m, G):
    chain = random_chain(np.random.default_rng(100 * K + 10 * m + G), K, m, G, n_h=5, n_u=4)
    for whole, fixation in zip(by_block(**chain), by_fixation(**chain), strict=True):
        np.testing.assert_allclose(whole, fixation, rtol=1e-11, atol=1e-12)


def test_6_blocks_of_unequal_length_add_up_to_the_recursion():
    rng = np.random.default_rng(13)
    chain = random_chain(rng, 24, 2, 2, n_h=3, n_u=4)
    expected, E_end = by_fixation(**chain)
    E, total, start = chain.pop("E"), 0.0, 0
    for K in (1, 7, 16):
        part = {name: array[start : start + K] for name, array in chain.items()}
        gradient, E = by_block(**part, E=E)
        total, start = total + gradient, start + K
    np.testing.assert_allclose(total, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(E, E_end, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lost", ["delta_0", "E_0"])
def test_6_what_meets_the_border_is_not_small(lost):
    """Without delta_0, or with traces cut at the border, the gradient is another one."""
    chain = random_chain(np.random.default_rng(14), 16, 1, 2, n_h=5, n_u=4)
    exact, _ = by_block(**chain)
    if lost == "delta_0":
        chain["delta"][0] = 0
    else:
        chain["E"][:] = 0
    cut, _ = by_block(**chain)
    assert np.abs(cut - exact).max() > 1e-2 * np.abs(exact).max()


def two_state_cell(y1, y2, s1, s2, lam):
    """A unit-local cell made up for this test: m = 2, G = 2, L = 1."""
    return np.tanh(s1 + lam * y2), np.sin(s2 * y1) + lam * y2


def two_state_derivatives(y1, y2, s1, s2, lam):
    """J (n_h, 2, 2), B (n_h, 2, 2) and dF/dlam (n_h, 2) of `two_state_cell`."""
    slope, zero, cosine = 1 - np.tanh(s1 + lam * y2) ** 2, 0 * y1, np.cos(s2 * y1)
    J = np.array([[zero, slope * lam], [cosine * s2, zero + lam]])
    B = np.array([[slope, zero], [zero, cosine * y1]])
    D = np.array([slope * y2, y2])
    return J.transpose(2, 0, 1), B.transpose(2, 0, 1), D.T


def test_5_rfp_is_the_exact_gradient_of_a_unit_local_network():
    """m = 2, G = 2, a local parameter, losses that mix all units: against complex step."""
    rng = np.random.default_rng(15)
    T, n_h, n_u = 20, 4, 3
    u, M = rng.normal(size=(T, n_u)), rng.normal(size=(2 * n_h, 2 * n_h))
    W, lam = rng.normal(size=(2, n_h, n_u)), rng.uniform(-0.9, 0.9, size=n_h)

    def loss(W, lam):
        y1 = y2 = np.zeros(n_h)
        total = 0.0
        for t in range(T):
            y1, y2 = two_state_cell(y1, y2, W[0] @ u[t], W[1] @ u[t], lam)
            y = np.concatenate([y1, y2])
            total = total + np.sin(M @ y).sum()
        return total

    E, E_lam = np.zeros((n_h, 2, 2, n_u)), np.zeros((n_h, 2))
    dW, dlam = np.zeros((n_h, 2, n_u)), np.zeros(n_h)
    y1 = y2 = np.zeros(n_h)
    for t in range(T):
        s1, s2 = W[0] @ u[t], W[1] @ u[t]
        J, B, D = two_state_derivatives(y1, y2, s1, s2, lam)
        E = np.einsum("jmn,jngu->jmgu", J, E) + np.einsum("jmg,u->jmgu", B, u[t])
        E_lam = np.einsum("jmn,jn->jm", J, E_lam) + D
        y1, y2 = two_state_cell(y1, y2, s1, s2, lam)
        delta = (M.T @ np.cos(M @ np.concatenate([y1, y2]))).reshape(2, n_h).T
        dW += np.einsum("jm,jmgu->jgu", delta, E)
        dlam += np.einsum("jm,jm->j", delta, E_lam)

    flat = np.concatenate([W.ravel(), lam])
    expected = complex_step_gradient(
        lambda v: loss(v[: W.size].reshape(W.shape), v[W.size :]), flat
    )
    np.testing.assert_allclose(dW.transpose(1, 0, 2).ravel(), expected[: W.size], rtol=1e-9)
    np.testing.assert_allclose(dlam, expected[W.size :], rtol=1e-9)


def test_7_a_dense_recurrent_matrix_is_outside_the_class():
    """Units that read each other: a trace of one unit's own weights misses part of the gradient."""
    rng = np.random.default_rng(16)
    T, n_h, n_u = 8, 4, 3
    u, R = rng.normal(size=(T, n_u)), rng.normal(size=(n_h, n_h)) / 2
    W = rng.normal(size=(n_h, n_u))

    def loss(flat_W):
        y = np.zeros(n_h)
        for t in range(T):
            y = np.tanh(flat_W.reshape(n_h, n_u) @ u[t] + R @ y)
        return y.sum()

    y, E_own, E_all = np.zeros(n_h), np.zeros((n_h, n_u)), np.zeros((n_h, n_h, n_u))
    for t in range(T):
        y = np.tanh(W @ u[t] + R @ y)
        J = (1 - y**2)[:, None] * R
        immediate = (1 - y**2)[:, None] * u[t]
        E_own = np.diag(J)[:, None] * E_own + immediate
        E_all = np.einsum("ij,jku->iku", J, E_all)
        E_all[range(n_h), range(n_h)] += immediate
    expected = complex_step_gradient(loss, W.ravel()).reshape(n_h, n_u)
    np.testing.assert_allclose(E_all.sum(axis=0), expected, rtol=1e-10)  # RTRL: n_h times larger
    assert np.abs(E_own - expected).max() > 1e-2 * np.abs(expected).max()


# ---- 8: between blocks the weights move --------------------------------------------------------


def test_8_stale_traces_are_off_in_proportion_to_the_rate():
    """Online learning: the error of E against a replay at the newest weights is first order."""
    rng = np.random.default_rng(17)
    T, n_h, n_u = 60, 4, 3
    u, W_end = rng.normal(size=(T, n_u)), rng.normal(size=(n_h, n_u))
    drift = rng.normal(size=(n_h, n_u))

    def trace(rate):
        """E_T of y' = 0.8 y + 0.2 tanh(W_t u), W_t moving by `rate` a fixation to end at W_end."""
        E = np.zeros((n_h, n_u))
        for t in range(T):
            s = (W_end - rate * (T - 1 - t) * drift) @ u[t]
            E = 0.8 * E + 0.2 * (1 - np.tanh(s) ** 2)[:, None] * u[t]
        return E

    errors = [np.abs(trace(rate) - trace(0.0)).max() for rate in (4e-4, 2e-4, 1e-4)]
    assert errors[-1] > 0
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 1, atol=0.05)
