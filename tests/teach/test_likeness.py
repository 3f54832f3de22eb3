"""The likeness of windows, against the plain form of its definition."""

import numpy as np

from edge_rjepa.teach.likeness import best_windows, directions, of_names


def test_it_is_the_mean_over_windows_of_the_best_window_of_a_name():
    rng = np.random.default_rng(0)
    asked = directions(rng.standard_normal((5, 8)))
    names = [directions(rng.standard_normal((n, 3, 8))) for n in (2, 1, 4)]
    known, starts = np.concatenate(names), np.array([0, 2, 3])
    found = of_names(best_windows(asked, known), starts)
    for own, likeness in zip(names, found, strict=True):
        plain = [max(float(u @ v) for look in own for v in look) for u in asked]
        np.testing.assert_allclose(likeness, np.mean(plain), atol=1e-6)


def test_a_picture_is_most_like_itself():
    rng = np.random.default_rng(1)
    known = directions(rng.standard_normal((3, 4, 6)))
    found = of_names(best_windows(known[1], known), np.arange(3))
    np.testing.assert_allclose(found[1], 1.0, atol=1e-6)
    assert found.argmax() == 1


def test_directions_are_of_length_1_and_nothing_stays_nothing():
    rows = directions(np.array([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]]))
    np.testing.assert_allclose(rows[0], [0.6, 0.8], atol=1e-7)
    assert np.isfinite(rows).all()
    assert not rows[1].any()
