"""The likeness of windows, against the plain form of its definition."""

import numpy as np

from edge_rjepa.teach.likeness import directions, likeness


def test_it_is_the_mean_over_windows_of_the_best_window_of_a_name():
    rng = np.random.default_rng(0)
    asked = directions(rng.standard_normal((5, 8)))
    names = [directions(rng.standard_normal((count, 8))) for count in (6, 3, 12)]
    found = likeness(asked, np.concatenate(names), np.array([0, 6, 9]))
    for own, of_name in zip(names, found, strict=True):
        plain = [max(float(u @ v) for v in own) for u in asked]
        np.testing.assert_allclose(of_name, np.mean(plain), atol=1e-6)


def test_a_picture_is_most_like_itself():
    rng = np.random.default_rng(1)
    looks = directions(rng.standard_normal((3, 4, 6)))
    found = likeness(looks[1], looks.reshape(12, 6), np.array([0, 4, 8]))
    np.testing.assert_allclose(found[1], 1.0, atol=1e-6)
    assert found.argmax() == 1


def test_directions_are_of_length_1_and_nothing_stays_nothing():
    rows = directions(np.array([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]]))
    np.testing.assert_allclose(rows[0], [0.6, 0.8], atol=1e-7)
    assert np.isfinite(rows).all()
    assert not rows[1].any()
