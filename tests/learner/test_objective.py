"""The objective and its running statistics against plain definitions."""

import numpy as np
import pytest

from edge_rjepa.learner.engines.statistics import PredictiveInformation
from edge_rjepa.learner.kernels.arrays import Kept
from edge_rjepa.learner.objective import effective_rank, information, precision
from edge_rjepa.learner.objective import surprise as surprise_of

N_Z, EPS = 4, 0.3


def blocks(rng, sizes=(1, 16, 5, 7, 2, 30)):
    """(z, e) of each block: correlated, with a mean, and drifting."""
    mixing = rng.normal(size=(N_Z, N_Z))
    return [
        (rng.normal(size=(K, N_Z)) @ mixing + 0.5 * i, rng.normal(size=(K, N_Z)) + 0.1 * i)
        for i, K in enumerate(sizes)
    ]


def objective(statistics_fixations=20.0, dtype="float64"):
    return PredictiveInformation(N_Z, EPS, statistics_fixations, Kept(64, 3), dtype)


def observe(statistics, seen):
    for z, e in seen:
        statistics.observe((z - statistics.mu).astype(z.dtype), e)
    return statistics


def loss_of(statistics, z, e):
    """What `loss` returns and fills in: (loss, d_z, d_zhat, surprise, centred)."""
    centred, d_z, d_zhat = (np.empty_like(z) for _ in range(3))
    surprise = np.empty(len(z), z.dtype)
    loss = statistics.loss(z, e, centred, d_z, d_zhat, surprise)
    return loss, d_z, d_zhat, surprise, centred


def plain_loss(statistics, z, e):
    """Straight from the definition, with inverses."""
    P_z, P_e = (np.linalg.inv(S + EPS * np.eye(N_Z)) for S in (statistics.S_z, statistics.S_e))
    d = z - statistics.mu
    return 0.5 * np.einsum("ki,ij,kj->k", e, P_e, e), 0.5 * np.einsum("ki,ij,kj->k", d, P_z, d)


def test_young_statistics_are_the_moments_of_all_that_was_seen():
    seen = blocks(np.random.default_rng(0))
    statistics = observe(objective(statistics_fixations=1e6), seen)
    z, e = (np.concatenate(rows) for rows in zip(*seen, strict=True))
    np.testing.assert_allclose(statistics.mu, z.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.S_z, np.cov(z.T, bias=True), rtol=1e-12)
    np.testing.assert_allclose(statistics.S_e, e.T @ e / len(e), rtol=1e-12)
    assert statistics.fixations[0] == len(z)


def test_old_statistics_are_the_moments_of_a_sample_that_fades():
    """Every fixation has a weight, which a later block of K shrinks by exp(-K / tau)."""
    tau, seen = 20.0, blocks(np.random.default_rng(1), sizes=(16,) * 12)
    statistics = observe(objective(tau), seen)
    weights, n = np.zeros(0), 0
    for z, _ in seen:
        K = len(z)
        rate = max(1.0 - np.exp(-K / tau), K / (n + K))
        weights, n = np.concatenate([(1.0 - rate) * weights, np.full(K, rate / K)]), n + K
    z, e = (np.concatenate(rows) for rows in zip(*seen, strict=True))
    mu = weights @ z
    assert weights[-17] == pytest.approx(weights[-1] * np.exp(-16 / tau))
    np.testing.assert_allclose(statistics.mu, mu, rtol=1e-10)
    np.testing.assert_allclose(statistics.S_z, (weights[:, None] * (z - mu)).T @ (z - mu), 1e-10)
    np.testing.assert_allclose(statistics.S_e, (weights[:, None] * e).T @ e, rtol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_running_information_is_half_the_difference_of_the_logdets(dtype, tolerance):
    seen = [(z.astype(dtype), e.astype(dtype)) for z, e in blocks(np.random.default_rng(2))]
    statistics = observe(objective(dtype=dtype), seen)
    noise = EPS * np.eye(N_Z)
    statistics.factorise()
    expected = 0.5 * (
        np.linalg.slogdet(statistics.S_z + noise)[1] - np.linalg.slogdet(statistics.S_e + noise)[1]
    )
    assert abs(expected) > 0.1
    assert statistics.information == pytest.approx(expected, rel=tolerance)


def test_nothing_seen_is_no_information():
    assert objective().information == 0.0


def test_statistics_that_are_not_finite_give_no_number():
    """A learner that diverged must be seen to have."""
    statistics = observe(objective(), blocks(np.random.default_rng(3)))
    statistics.S_e[0, 0] = np.nan
    statistics.factorise()
    assert np.isnan(statistics.information)


def test_information_of_a_sample():
    rng = np.random.default_rng(4)
    z, z_hat = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    S_z = np.cov(z.T, bias=True)
    S_e = (z - z_hat).T @ (z - z_hat) / 50
    expected = 0.5 * np.log(np.linalg.det(S_z + EPS * np.eye(3)))
    expected -= 0.5 * np.log(np.linalg.det(S_e + EPS * np.eye(3)))
    assert information(z, z_hat, EPS) == pytest.approx(expected, rel=1e-12)
    assert information(z, np.broadcast_to(z.mean(axis=0), z.shape), EPS) == pytest.approx(0.0)
    one = z[:, :1].astype(np.float32)
    assert information(one, one, 1.0) == pytest.approx(0.5 * np.log(1.0 + one.var()), rel=1e-6)


def test_loss_and_surprise_are_the_quadratic_forms():
    rng = np.random.default_rng(5)
    statistics = observe(objective(), blocks(rng))
    statistics.factorise()
    z, e = blocks(rng)[3]
    of_e, of_z = plain_loss(statistics, z, e)
    loss, _, _, surprise, centred = loss_of(statistics, z, e)
    assert loss == pytest.approx((of_e - of_z).sum(), rel=1e-12)
    np.testing.assert_allclose(surprise, of_e, rtol=1e-12)
    np.testing.assert_allclose(centred, z - statistics.mu, rtol=1e-15)
    np.testing.assert_allclose(surprise_of(e, statistics.arrays()["factor_e"]), of_e, rtol=1e-12)
    np.testing.assert_allclose(
        precision(statistics.arrays()["factor_e"]),
        np.linalg.inv(statistics.S_e + EPS * np.eye(N_Z)),
        rtol=1e-12,
    )


def test_the_metric_is_renewed_when_the_statistics_have_moved_and_not_before():
    """At a time constant of 1,000 fixations blocks of 4 move old statistics by 0.004 each."""
    rng = np.random.default_rng(9)
    statistics = observe(objective(statistics_fixations=1000.0), blocks(rng) * 200)
    statistics.factorise()
    renewed = []
    for _ in range(120):
        before = statistics.arrays()["factor_e"].copy()
        observe(statistics, [(rng.normal(size=(4, N_Z)), rng.normal(size=(4, N_Z)))])
        renewed.append(not np.array_equal(before, statistics.arrays()["factor_e"]))
    assert np.flatnonzero(renewed).tolist() == list(range(25, 120, 26))  # 26 * 0.004 > RENEW_AFTER


def test_gradients_are_the_differences_of_the_loss():
    """z moves e = z - zhat with it."""
    rng = np.random.default_rng(6)
    statistics = observe(objective(), blocks(rng))
    statistics.factorise()
    z, e = blocks(rng)[3]
    z_hat, step = z - e, 1e-6
    _, d_z, d_zhat, _, _ = loss_of(statistics, z, e)

    def loss(z, z_hat):
        of_e, of_z = plain_loss(statistics, z, z - z_hat)
        return (of_e - of_z).sum()

    for k, i in np.ndindex(z.shape):
        shift = np.zeros_like(z)
        shift[k, i] = step
        of_z = (loss(z + shift, z_hat) - loss(z - shift, z_hat)) / (2 * step)
        of_z_hat = (loss(z, z_hat + shift) - loss(z, z_hat - shift)) / (2 * step)
        assert d_z[k, i] == pytest.approx(of_z, rel=1e-6, abs=1e-7)
        assert d_zhat[k, i] == pytest.approx(of_z_hat, rel=1e-6, abs=1e-7)


def test_kept_arrays_are_all_there_is_to_know():
    seen = blocks(np.random.default_rng(7))
    first, second = observe(objective(), seen[:3]), objective()
    for name, array in second.arrays().items():
        array[...] = first.arrays()[name]
    second.follow_factors()
    assert second.information == first.information
    for statistics in (first, second):
        observe(statistics, seen[3:])
    assert second.information == first.information
    for name, array in second.arrays().items():
        assert array.tobytes() == first.arrays()[name].tobytes()


@pytest.mark.parametrize(
    ("spectrum", "rank"),
    [
        ([1, 1, 1, 1, 1], 5),
        ([7, 0, 0, 0, 0], 1),
        ([1, 1, 0, 0, 0], 2),
        ([1, 1, 1, 1, 1e-9], 4),
        ([0, 0, 0, 0, 0], 1),
        ([3, 1, 0, 0, 0], 4 / 3**0.75),  # exp of the entropy of (3/4, 1/4)
    ],
)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_effective_rank_of_known_spectra(spectrum, rank, scale):
    turn = np.linalg.qr(np.random.default_rng(8).normal(size=(5, 5)))[0]
    S = turn @ np.diag(scale * np.array(spectrum, float)) @ turn.T
    assert effective_rank(S) == pytest.approx(rank, rel=1e-6)
    assert effective_rank(S.astype(np.float32)) == pytest.approx(rank, rel=1e-4)
