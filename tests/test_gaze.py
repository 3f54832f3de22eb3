"""Random saccades: where they go, what they tell, and that they resume bit for bit."""

import json
import math

import numpy as np
import pytest

from edge_rjepa.config import GazeConfig
from edge_rjepa.errors import ConfigError, InputError
from edge_rjepa.gaze import RandomSaccades
from edge_rjepa.optics import Pinhole

CAMERA = Pinhole(320, 240, math.radians(60.0))


def moving_heads(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform((-0.25, -0.15), (0.25, 0.15), (count, 2)).tolist()


def plans(gaze, heads, count=16):
    return [gaze.plan(CAMERA, head, count) for head in heads]


def test_fixations_stay_in_the_picture_less_the_margin():
    for plan in plans(RandomSaccades(GazeConfig(margin_px=20.0), 0), moving_heads(200)):
        assert (plan.pixels >= 20.0).all()
        assert (plan.pixels <= np.array([319.0, 239.0]) - 20.0).all()


def test_angles_are_those_of_the_pixels():
    heads = moving_heads(20)
    for head, plan in zip(heads, plans(RandomSaccades(seed=1), heads), strict=True):
        assert plan.pixels.shape == plan.gaze_rad.shape == (16, 2)
        np.testing.assert_allclose(
            CAMERA.pixels_of_angles(plan.gaze_rad, head), plan.pixels, atol=1e-9
        )


def test_efference_is_saccade_and_gaze_across_frames_and_head_movements():
    config = GazeConfig(saccade_scale_rad=0.3, gaze_scale_rad=0.7)
    heads = moving_heads(30)
    done = plans(RandomSaccades(config, 2), heads)
    gaze_rad = np.vstack([[heads[0]]] + [plan.gaze_rad for plan in done])
    efference = np.vstack([plan.efference for plan in done])
    assert efference.dtype == np.float32
    np.testing.assert_allclose(efference[:, :2] * 0.3, np.diff(gaze_rad, axis=0), atol=1e-6)
    np.testing.assert_allclose(efference[:, 2:] * 0.7, gaze_rad[1:], atol=1e-6)


def test_efference_is_about_unit_size():
    efference = np.vstack([p.efference for p in plans(RandomSaccades(), moving_heads(300))])
    spread = efference.std(axis=0)
    assert (0.5 < spread).all() and (spread < 2.0).all()


def test_a_saccade_across_the_back_takes_the_short_way():
    gaze = RandomSaccades()
    gaze.plan(CAMERA, (math.pi - 0.01, 0.0), 4)
    saccades_rad = gaze.plan(CAMERA, (-math.pi + 0.01, 0.0), 4).efference[:, 0] * 0.1
    assert np.abs(saccades_rad).max() < 1.5


def test_gaze_behind_the_head_starts_again_in_the_picture():
    gaze = RandomSaccades()
    gaze.plan(CAMERA, (0.0, 0.0), 4)
    plan = gaze.plan(CAMERA, (3.0, 0.0), 4)
    assert np.isfinite(plan.pixels).all() and np.isfinite(plan.efference).all()


def test_amplitudes_have_a_long_tail_and_any_direction():
    # A picture so large that its edges hardly matter, and nothing inhibited.
    camera = Pinhole(20_000, 20_000, math.radians(20.0))
    config = GazeConfig(saccade_median_rad=0.004, saccade_log_std=0.7, inhibition_strength=0.0)
    pixels = RandomSaccades(config, 3).plan(camera, (0.0, 0.0), 4000).pixels
    x, y = np.diff(pixels, axis=0).T / camera.focal_px
    amplitudes = np.hypot(x, y)
    assert np.median(amplitudes) == pytest.approx(0.004, rel=0.1)
    assert np.log(amplitudes).std() == pytest.approx(0.7, rel=0.1)
    assert amplitudes.mean() > 1.15 * np.median(amplitudes)
    quarters = np.histogram(np.arctan2(y, x), 4, (-math.pi, math.pi))[0]
    assert quarters.min() > 900


def test_neighbouring_windows_mostly_overlap():
    pixels = np.vstack([p.pixels for p in plans(RandomSaccades(), [(0.0, 0.0)] * 200)])
    steps = np.abs(np.diff(pixels, axis=0)).max(axis=1)
    assert 0.75 < np.mean(steps < 64.0) < 0.99


def revisits(strength):
    """Share of fixations within 10 px of one of the four before."""
    config = GazeConfig(inhibition_strength=strength)
    pixels = np.vstack([p.pixels for p in plans(RandomSaccades(config, 4), [(0.0, 0.0)] * 300)])
    near = [np.hypot(*(pixels[lag:] - pixels[:-lag]).T)[4 - lag :] < 10.0 for lag in (1, 2, 3, 4)]
    return np.mean(np.any(near, axis=0))


def test_inhibition_makes_returns_rare_but_not_impossible():
    free, inhibited = revisits(0.0), revisits(0.9)
    assert 0.005 < inhibited < 0.6 * free


def test_inhibition_follows_the_head():
    """A place stays inhibited where it is in the world, not where it was in the picture."""
    config = GazeConfig(inhibition_strength=0.99, inhibition_decay=1.0, inhibition_memory=40)
    shift = (0.12, 0.0)
    near_world = near_picture = 0
    for seed in range(600):
        gaze = RandomSaccades(config, seed)
        before = gaze.plan(CAMERA, (0.0, 0.0), 3)
        after = gaze.plan(CAMERA, shift, 1).pixels
        in_world = CAMERA.pixels_of_angles(before.gaze_rad, shift)
        near_world += (np.hypot(*(in_world - after).T) < 10.0).any()
        near_picture += (np.hypot(*(before.pixels - after).T) < 10.0).any()
    assert 3 * near_world < near_picture


def test_same_seed_same_plans_other_seed_other_plans():
    heads = moving_heads(5)
    one, same, other = (plans(RandomSaccades(seed=s), heads)[-1] for s in (5, 5, 6))
    np.testing.assert_array_equal(one.pixels, same.pixels)
    assert (one.pixels != other.pixels).any()


def test_resumes_bit_for_bit_from_json():
    heads = moving_heads(20)
    gaze = RandomSaccades(seed=7)
    plans(gaze, heads[:10])
    state = json.loads(json.dumps(gaze.state()))
    wanted = plans(gaze, heads[10:])
    resumed = RandomSaccades(seed=8)
    plans(resumed, heads[:3])
    resumed.restore(state)
    for a, b in zip(plans(resumed, heads[10:]), wanted, strict=True):
        for got, want in zip(a, b, strict=True):
            np.testing.assert_array_equal(got, want)


def test_state_is_a_copy():
    gaze = RandomSaccades(seed=9)
    plans(gaze, [(0.0, 0.0)])
    state = gaze.state()
    before = json.dumps(state)
    plans(gaze, [(0.0, 0.0)])
    assert json.dumps(state) == before


@pytest.mark.parametrize("size", [(1, 1), (20, 500)])
def test_a_picture_smaller_than_the_margins_is_looked_at_in_the_middle(size):
    camera = Pinhole(*size, 1.0)
    pixels = RandomSaccades(GazeConfig(margin_px=16.0)).plan(camera, (0.0, 0.0), 5).pixels
    np.testing.assert_allclose(pixels[:, 0], 0.5 * (size[0] - 1))


@pytest.mark.parametrize(("head", "count"), [((0.0, 0.0), 0), ((math.nan, 0.0), 3)])
def test_bad_input_is_refused_with_nothing_changed(head, count):
    gaze = RandomSaccades(seed=10)
    before = gaze.state()
    with pytest.raises(InputError):
        gaze.plan(CAMERA, head, count)
    assert gaze.state() == before


@pytest.mark.parametrize(
    "fields",
    [
        {"saccade_median_rad": 0.0},
        {"saccade_log_std": math.inf},
        {"margin_px": -1.0},
        {"inhibition_strength": 1.0},
        {"inhibition_decay": 1.1},
        {"inhibition_memory": 0},
        {"gaze_scale_rad": math.nan},
    ],
)
def test_impossible_configurations_are_refused(fields):
    with pytest.raises(ConfigError):
        GazeConfig(**fields)
