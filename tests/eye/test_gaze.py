"""Gaze: where it goes, what draws it there, what it tells, and that it resumes bit for bit."""

import json
import math

import cv2
import numpy as np
import pytest

from calibration.angles import head_rotation
from edge_rjepa.errors import ConfigError, InputError
from edge_rjepa.eye.config import GazeConfig, GazePolicy
from edge_rjepa.eye.gaze import Gaze
from edge_rjepa.optics.camera import Pinhole

CAMERA = Pinhole(320, 240, math.radians(60.0))
LIMITS = (-0.25, 0.25), (-0.15, 0.15)
HERE = (0.0, 0.0)
POLICIES = [policy.value for policy in GazePolicy]
every_policy = pytest.mark.parametrize("policy", POLICIES)


def picture(seed=0, camera=CAMERA):
    """Clouds of colour, about as rough as a photograph."""
    rng = np.random.default_rng(seed)
    rough = rng.uniform(0, 255, (camera.height_px // 20 + 1, camera.width_px // 20 + 1, 3))
    size = camera.width_px, camera.height_px
    return cv2.resize(rough.astype(np.uint8), size, interpolation=cv2.INTER_CUBIC)


BLANK = np.full((240, 320, 3), 100, np.uint8)
PICTURE = picture()


def with_spot(image, x, y, side=34, colour=(255, 255, 255)):
    image = image.copy()
    image[y - side // 2 : y + side // 2, x - side // 2 : x + side // 2] = colour
    return image


def on_spot(plan, x, y, side=34):
    """(K,) whether each fixation is on it."""
    return (np.abs(plan.pixels - (x, y)) <= side / 2).all(axis=1)


def gaze_of(policy="random", seed=0, **fields):
    return Gaze(GazeConfig(policy=policy, **fields), seed)


def moving_heads(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform((-0.25, -0.15), (0.25, 0.15), (count, 2)).tolist()


def plans(gaze, heads, count=16, image=PICTURE):
    return [gaze.plan(CAMERA, image, head, count) for head in heads]


def assert_same_plan(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


# --- any policy ----------------------------------------------------------------------------------


@pytest.mark.slow
@every_policy
def test_fixations_stay_in_the_picture_less_the_margin(policy):
    for plan in plans(gaze_of(policy, margin_px=20.0), moving_heads(100)):
        assert (plan.pixels >= 20.0).all()
        assert (plan.pixels <= np.array([319.0, 239.0]) - 20.0).all()


@every_policy
def test_angles_are_those_of_the_pixels(policy):
    heads = moving_heads(20)
    for head, plan in zip(heads, plans(gaze_of(policy, 1), heads), strict=True):
        assert plan.pixels.shape == plan.gaze_rad.shape == (16, 2)
        np.testing.assert_allclose(
            CAMERA.pixels_of_angles(plan.gaze_rad, head), plan.pixels, atol=1e-9
        )


@every_policy
def test_efference_is_saccade_and_gaze_across_frames_and_head_movements(policy):
    heads = moving_heads(30)
    done = plans(gaze_of(policy, 2, saccade_scale_rad=0.3, gaze_scale_rad=0.7), heads)
    gaze_rad = np.vstack([[heads[0]]] + [plan.gaze_rad for plan in done])
    efference = np.vstack([plan.efference for plan in done])
    assert efference.dtype == np.float32
    np.testing.assert_allclose(efference[:, :2] * 0.3, np.diff(gaze_rad, axis=0), atol=1e-6)
    np.testing.assert_allclose(efference[:, 2:] * 0.7, gaze_rad[1:], atol=1e-6)


@pytest.mark.slow
@every_policy
def test_efference_is_about_unit_size(policy):
    efference = np.vstack([p.efference for p in plans(gaze_of(policy), moving_heads(150))])
    spread = efference.std(axis=0)
    assert (0.5 < spread).all() and (spread < 2.5).all()


@every_policy
def test_a_saccade_across_the_back_takes_the_short_way(policy):
    gaze = gaze_of(policy)
    gaze.plan(CAMERA, PICTURE, (math.pi - 0.01, 0.0), 4)
    plan = gaze.plan(CAMERA, PICTURE, (-math.pi + 0.01, 0.0), 4)
    assert np.abs(plan.efference[:, 0] * 0.1).max() < 1.5


@every_policy
@pytest.mark.parametrize("head", [(3.0, 0.0), (0.0, 1.5), (0.0, -1.57), (7.0, 2.0)])
def test_gaze_goes_on_wherever_the_head_turns(policy, head):
    gaze = gaze_of(policy)
    gaze.plan(CAMERA, PICTURE, HERE, 4)
    for plan in (gaze.plan(CAMERA, PICTURE, head, 16), gaze.plan(CAMERA, PICTURE, HERE, 16)):
        assert np.isfinite(plan.pixels).all() and np.isfinite(plan.efference).all()
        assert np.ptp(plan.pixels, axis=0).min() > 20.0


@every_policy
def test_same_seed_same_plans_other_seed_other_plans(policy):
    heads = moving_heads(5)
    one, same, other = (plans(gaze_of(policy, s), heads)[-1] for s in (5, 5, 6))
    assert_same_plan(one, same)
    assert (one.pixels != other.pixels).any()


def live(gaze, frames, head=HERE, seed=0):
    """Look, be told how surprising it was, turn the head: plans and aims of some frames."""
    rng, done = np.random.default_rng(seed), []
    for i in range(frames):
        plan = gaze.plan(CAMERA, picture(i // 7), head, 16)
        gaze.learned(rng.normal(20.0, 3.0, 16))
        aim = gaze.aim(LIMITS)
        head = aim or head
        done.append((plan, aim))
    return done, head


@pytest.mark.slow
@every_policy
def test_resumes_bit_for_bit_from_json(policy):
    gaze = gaze_of(policy, 7)
    _, head = live(gaze, 29)
    state = json.loads(json.dumps(gaze.state()))
    wanted, _ = live(gaze, 40, head, seed=1)
    resumed = gaze_of(policy, 8)
    live(resumed, 3)
    resumed.restore(state)
    got, _ = live(resumed, 40, head, seed=1)
    for (plan, aim), (wanted_plan, wanted_aim) in zip(got, wanted, strict=True):
        assert_same_plan(plan, wanted_plan)
        assert aim == wanted_aim


@every_policy
def test_resumes_between_any_two_calls(policy):
    """Surprise and aim belong to a frame planned before the state was saved."""
    gaze = gaze_of(policy, 9)
    _, head = live(gaze, 23)
    plans(gaze, [head])
    resumed = gaze_of(policy)
    resumed.restore(json.loads(json.dumps(gaze.state())))
    for one in (gaze, resumed):
        one.learned(np.arange(16.0))
    assert resumed.aim(LIMITS) == gaze.aim(LIMITS)
    assert resumed.state() == gaze.state()


@every_policy
def test_state_is_a_copy(policy):
    gaze = gaze_of(policy, 9)
    plans(gaze, [HERE])
    state = gaze.state()
    before = json.dumps(state)
    live(gaze, 5)
    assert json.dumps(state) == before


@pytest.mark.slow
def test_memory_is_fixed_and_its_state_small():
    gaze = gaze_of("mixed")
    rng = np.random.default_rng(0)
    for head in rng.uniform((-3.1, -1.5), (3.1, 1.5), (400, 2)).tolist():
        noise = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
        gaze.plan(CAMERA, noise, head, 16)
        gaze.learned(rng.normal(size=16))
    assert len(json.dumps(gaze.state())) < 1e6


@every_policy
@pytest.mark.parametrize("size", [(1, 1), (20, 500)])
def test_a_picture_smaller_than_the_margins_is_looked_at_in_the_middle(policy, size):
    camera = Pinhole(*size, 1.0)
    image = picture(0, camera)
    pixels = gaze_of(policy).plan(camera, image, HERE, 5).pixels
    np.testing.assert_allclose(pixels[:, 0], 0.5 * (size[0] - 1))


@pytest.mark.slow
@every_policy
@pytest.mark.parametrize("field_of_view_rad", [0.01, 0.1, 1.0, 2.0])
def test_narrow_and_wide_cameras_are_looked_through_all_over(policy, field_of_view_rad):
    camera = Pinhole(320, 240, field_of_view_rad)
    config = {"saccade_median_rad": 0.1 * field_of_view_rad}
    gaze = gaze_of(policy, inhibition_radius_rad=0.05 * field_of_view_rad, **config)
    pixels = np.vstack([gaze.plan(camera, BLANK, (0.02, 0.1), 16).pixels for _ in range(30)])
    ninths, _, _ = np.histogram2d(*pixels.T, 3, [(16, 303), (16, 223)])
    assert ninths.min() > 5


@every_policy
def test_frames_may_change_their_size(policy):
    gaze = gaze_of(policy)
    for size in ((320, 240), (640, 480), (160, 120), (320, 240)):
        camera = Pinhole(*size, 1.0)
        plan = gaze.plan(camera, picture(1, camera), HERE, 16)
        assert (plan.pixels < size).all() and np.isfinite(plan.efference).all()


@every_policy
def test_nothing_to_see_and_sudden_light_break_nothing(policy):
    gaze = gaze_of(policy)
    for grey in (0, 0, 255, 255, 0, 128):
        plan = gaze.plan(CAMERA, np.full((240, 320, 3), grey, np.uint8), HERE, 16)
        gaze.learned(np.zeros(16))
        assert np.isfinite(plan.pixels).all() and np.isfinite(plan.efference).all()
    assert "NaN" not in json.dumps(gaze.state())
    spread = np.vstack([p.pixels for p in plans(gaze, [HERE] * 30, image=BLANK)])
    ninths, _, _ = np.histogram2d(*spread.T, 3, [(16, 303), (16, 223)])
    assert ninths.min() > 15


@pytest.mark.parametrize(
    ("image", "head", "count"),
    [
        (PICTURE, HERE, 0),
        (PICTURE, (math.nan, 0.0), 3),
        (PICTURE[:-1], HERE, 3),
        (PICTURE[..., 0], HERE, 3),
        (PICTURE.astype(np.float32), HERE, 3),
        (None, HERE, 3),
    ],
)
@every_policy
def test_bad_input_is_refused_with_nothing_changed(policy, image, head, count):
    gaze = gaze_of(policy, 10)
    before = gaze.state()
    with pytest.raises(InputError):
        gaze.plan(CAMERA, image, head, count)
    assert gaze.state() == before


@every_policy
def test_surprise_of_other_fixations_is_refused(policy):
    gaze = gaze_of(policy)
    for planned, told in ((0, 16), (16, 15), (16, (16, 1))):
        if planned:
            plans(gaze, [HERE], planned)
        with pytest.raises(InputError, match=f"{planned} fixations were planned"):
            gaze.learned(np.ones(told))


@every_policy
def test_surprise_that_is_not_finite_counts_for_nothing(policy):
    one, other = gaze_of(policy), gaze_of(policy)
    rng = np.random.default_rng(0)
    for _ in range(5):
        surprise = rng.normal(5.0, 1.0, 16)
        for gaze in (one, other):
            plans(gaze, [HERE])
        one.learned(surprise)
        other.learned(surprise)
        one.learned(np.full(16, math.nan))
        one.learned(np.full(16, -math.inf))
    assert one.state() == other.state()
    for wild in (1e308, -1e308, 1e30):
        plans(one, [HERE])
        one.learned(np.linspace(0.0, wild, 16))
    assert all(np.isfinite(plan.pixels).all() for plan in plans(one, moving_heads(20)))
    assert "NaN" not in json.dumps(one.state()) and "Infinity" not in json.dumps(one.state())


# --- random saccades -----------------------------------------------------------------------------


def test_amplitudes_have_a_long_tail_and_any_direction():
    # A picture so large that its edges hardly matter, and nothing inhibited.
    camera = Pinhole(4_000, 4_000, math.radians(20.0))
    gaze = gaze_of(saccade_median_rad=0.004, saccade_log_std=0.7, inhibition_strength=0.0, seed=3)
    pixels = gaze.plan(camera, np.zeros((4_000, 4_000, 3), np.uint8), HERE, 4000).pixels
    x, y = np.diff(pixels, axis=0).T / camera.focal_px
    amplitudes = np.hypot(x, y)
    assert np.median(amplitudes) == pytest.approx(0.004, rel=0.1)
    assert np.log(amplitudes).std() == pytest.approx(0.7, rel=0.1)
    assert amplitudes.mean() > 1.15 * np.median(amplitudes)
    quarters = np.histogram(np.arctan2(y, x), 4, (-math.pi, math.pi))[0]
    assert quarters.min() > 900


def test_random_saccades_ignore_picture_and_surprise():
    one, other = gaze_of(), gaze_of()
    for i in range(10):
        plan = one.plan(CAMERA, picture(i), HERE, 16)
        assert_same_plan(other.plan(CAMERA, BLANK, HERE, 16), plan)
        one.learned(np.arange(16.0))


def test_neighbouring_windows_mostly_overlap():
    pixels = np.vstack([p.pixels for p in plans(gaze_of(), [HERE] * 200)])
    steps = np.abs(np.diff(pixels, axis=0)).max(axis=1)
    assert 0.75 < np.mean(steps < 64.0) < 0.99


# --- saccade length and inhibition of return, drawn from cells -----------------------------------


@pytest.mark.slow
def test_saccades_are_as_long_as_random_ones_where_nothing_draws_gaze():
    """On a blank wall and without neglect only length and inhibition are left."""
    lengths = {}
    for policy, fields in (("random", {}), ("mixed", {"neglect_weight": 0.0})):
        pixels = np.array(
            [p.pixels for p in plans(gaze_of(policy, **fields), [HERE] * 200, 16, BLANK)]
        )
        lengths[policy] = np.hypot(*np.diff(pixels.reshape(-1, 2), axis=0).T)
    for share in (0.25, 0.5, 0.75, 0.9):
        random, mixed = (np.quantile(lengths[policy], share) for policy in ("random", "mixed"))
        assert mixed == pytest.approx(random, rel=0.2)


def revisits(policy, strength):
    """Share of fixations within 10 px of one of the four before."""
    gaze = gaze_of(policy, 4, inhibition_strength=strength)
    pixels = np.vstack([p.pixels for p in plans(gaze, [HERE] * 300, image=BLANK)])
    near = [np.hypot(*(pixels[lag:] - pixels[:-lag]).T)[4 - lag :] < 10.0 for lag in (1, 2, 3, 4)]
    return np.mean(np.any(near, axis=0))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["random", "surprise"])
def test_inhibition_makes_returns_rare_but_not_impossible(policy):
    free, inhibited = revisits(policy, 0.0), revisits(policy, 0.9)
    assert 0.005 < inhibited < 0.6 * free


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "times"), [("random", 3), ("mixed", 2)])
def test_inhibition_follows_the_head(policy, times):
    """A place stays inhibited where it is in the world, not where it was in the picture.

    Cells are inhibited by their middles, so the policies that draw from them are less exact.
    """
    shift = (0.12, 0.0)
    near_world = near_picture = 0
    for seed in range(600):
        gaze = gaze_of(policy, seed, inhibition_strength=0.99, inhibition_decay=1.0)
        before = gaze.plan(CAMERA, BLANK, HERE, 3)
        after = gaze.plan(CAMERA, BLANK, shift, 1).pixels
        in_world = CAMERA.pixels_of_angles(before.gaze_rad, shift)
        near_world += (np.hypot(*(in_world - after).T) < 10.0).any()
        near_picture += (np.hypot(*(before.pixels - after).T) < 10.0).any()
    assert times * near_world < near_picture


# --- what draws gaze -----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["salience", "mixed"])
def test_what_stands_out_is_looked_at_more_often(policy):
    image = with_spot(BLANK, 240, 170)

    def share(policy):
        gaze = gaze_of(policy, salience_weight=2.0, free_share=0.0)
        return np.mean([on_spot(p, 240, 170) for p in plans(gaze, [HERE] * 100, 16, image)])

    assert share(policy) > 1.5 * share("random")


def fixations_to_find(policy, seed):
    """A spot turns up in a picture known for 20 frames: how many fixations until it is hit."""
    rng = np.random.default_rng(seed)
    gaze, image = gaze_of(policy, seed), picture(seed)
    plans(gaze, [HERE] * 20, 16, image)
    x, y = rng.integers((40, 40), (280, 200))
    image = with_spot(image, x, y, colour=rng.integers(0, 256, 3))
    hits = np.concatenate([on_spot(p, x, y) for p in plans(gaze, [HERE] * 30, 16, image)])
    return int(hits.argmax()) + 1 if hits.any() else len(hits)


@pytest.mark.slow
def test_something_new_is_found_much_sooner_than_by_chance():
    random, mixed = (
        np.median([fixations_to_find(policy, seed) for seed in range(25)])
        for policy in ("random", "mixed")
    )
    assert 3 * mixed <= random


def test_something_new_is_found_though_the_head_has_turned():
    """Change is against what was seen at that angle: turning by itself changes nothing."""
    camera, found, moved = CAMERA, [], (0.1, 0.04)
    for seed in range(10):
        world = picture(seed, Pinhole(640, 480, 1.0))
        views = {head: view_of(world, head) for head in (HERE, moved)}
        gaze = gaze_of("mixed", seed)
        for head in [HERE, HERE, moved, moved] * 5:
            gaze.plan(camera, views[head], head, 16)
        spotted = with_spot(views[moved], 200, 80, colour=(0, 0, 255))
        found.append(on_spot(gaze.plan(camera, spotted, moved, 16), 200, 80).any())
    assert np.mean(found) >= 0.8


def view_of(world, head):
    """What a head sees of a wide picture that is far away."""
    straight = Pinhole(640, 480, 2.0 * math.atan(320 / CAMERA.focal_px))
    texture_of_view = straight.intrinsics @ head_rotation(head) @ np.linalg.inv(CAMERA.intrinsics)
    size = CAMERA.width_px, CAMERA.height_px
    return cv2.warpPerspective(
        world, texture_of_view, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )


def test_light_that_is_switched_on_draws_gaze_nowhere():
    dim = picture(3) // 2 + 20
    gaze = gaze_of("mixed", 1, neglect_weight=0.0, salience_weight=0.0)
    plans(gaze, [HERE] * 30, 16, dim)
    after = np.vstack([gaze.plan(CAMERA, dim + 60, HERE, 16).pixels for _ in range(8)])
    ninths, _, _ = np.histogram2d(*after.T, 3, [(16, 303), (16, 223)])
    assert ninths.max() < 40  # of 128


def test_something_new_is_found_though_the_light_changes_with_it():
    found = []
    for seed in range(10):
        dim = picture(seed) // 2 + 20
        gaze = gaze_of("mixed", seed)
        plans(gaze, [HERE] * 20, 16, dim)
        bright = with_spot(dim + 60, 90, 150, colour=(255, 0, 255))
        found.append(on_spot(gaze.plan(CAMERA, bright, HERE, 16), 90, 150).any())
    assert np.mean(found) >= 0.8


@pytest.mark.slow
def test_what_comes_into_view_for_the_first_time_has_not_changed():
    shares = []
    for seed in range(20):
        gaze = gaze_of("salience", seed, salience_weight=0.0, free_share=0.0)
        plans(gaze, [HERE] * 20, image=BLANK)
        plan = gaze.plan(CAMERA, BLANK, (0.15, 0.0), 16)
        shares.append(plan.gaze_rad[:, 0] > math.radians(30.0))  # a seventh of this view
    assert np.mean(shares) < 0.3


def flicker_share(policy, frames, last):
    """Share of the last frames' fixations on a screen of noise that nobody can foresee."""
    rng, gaze, on = np.random.default_rng(1), gaze_of(policy, 1), []
    for i in range(frames):
        image = PICTURE.copy()
        noise = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        image[100:150, 120:180] = noise.repeat(10, axis=0).repeat(10, axis=1)
        plan = gaze.plan(CAMERA, image, HERE, 16)
        hit = (np.abs(plan.pixels - (149.5, 124.5)) <= (30, 25)).all(axis=1)
        gaze.learned(np.where(hit, 60.0, 20.0) + rng.normal(0.0, 5.0, 16))
        if i >= frames - last:
            on.append(hit.mean())
    return float(np.mean(on))


@pytest.mark.slow
def test_a_flickering_screen_is_not_stared_at_for_ever():
    random, mixed = (flicker_share(policy, 900, 300) for policy in ("random", "mixed"))
    assert mixed < 2.5 * random


def told_by_place(policy, surprise_of, frames=150, seed=2, **fields):
    """Share of fixations in the left third; surprise_of(frame, left) is what the learner tells."""
    rng, gaze, left = np.random.default_rng(seed), gaze_of(policy, seed, **fields), []
    for i in range(frames):
        plan = gaze.plan(CAMERA, BLANK, HERE, 16)
        left.append(plan.pixels[:, 0] < 120)
        gaze.learned(surprise_of(i, left[-1]) + rng.normal(0.0, 1.0, 16))
    return np.mean(left[frames // 2 :])


@pytest.mark.slow
def test_gaze_goes_where_the_learner_is_surprised_or_getting_better():
    flat = told_by_place("surprise", lambda i, left: np.full(16, 20.0))
    surprising = told_by_place("surprise", lambda i, left: np.where(left, 30.0, 20.0))
    improving = told_by_place("surprise", lambda i, left: np.where(left, 40.0 - 0.1 * i, 25.0))
    assert surprising > 1.15 * flat
    assert improving > 1.1 * flat


@pytest.mark.slow
def test_what_stays_as_surprising_as_it_is_makes_no_progress():
    def share(surprise_of):
        fields = {"surprise_weight": 0.0, "progress_weight": 3.0}
        return np.mean([told_by_place("surprise", surprise_of, 60, s, **fields) for s in range(5)])

    flat = share(lambda i, left: np.full(16, 20.0))
    assert share(lambda i, left: np.where(left, 40.0, 20.0)) == pytest.approx(flat, rel=0.3)
    assert share(lambda i, left: np.where(left, 60.0 - i, 20.0)) > 1.4 * flat


@pytest.mark.slow
def test_what_was_learned_of_a_place_is_remembered_by_angle_and_fades():
    def share_at_spot(frames_away):
        gaze = gaze_of("surprise", 3, surprise_weight=3.0, surprise_frames=200.0)
        rng, hits = np.random.default_rng(3), []
        for _ in range(150):
            plan = gaze.plan(CAMERA, BLANK, HERE, 16)
            near = np.hypot(*(plan.gaze_rad - (0.3, 0.1)).T) < 0.1
            gaze.learned(np.where(near, 40.0, 20.0) + rng.normal(0.0, 1.0, 16))
        plans(gaze, [(1.5, 0.0)] * frames_away, 16, BLANK)
        for _ in range(10):  # the head stands elsewhere now
            gaze_rad = gaze.plan(CAMERA, BLANK, (0.2, 0.0), 16).gaze_rad
            hits.append(np.hypot(*(gaze_rad - (0.3, 0.1)).T) < 0.1)
        return np.mean(hits)

    kept, forgotten = share_at_spot(1), share_at_spot(1500)
    assert kept > 1.4 * forgotten


def test_neglected_places_come_to_their_turn():
    def covered(**fields):
        gaze = gaze_of("mixed", 4, **fields)
        pixels = np.vstack([p.pixels for p in plans(gaze, [HERE] * 12, 16, BLANK)])
        return len(set(map(tuple, (pixels // 24).astype(int).tolist())))

    assert covered(neglect_weight=6.0) > 1.15 * covered(neglect_weight=0.0)


@pytest.mark.slow
def test_the_free_share_of_fixations_is_drawn_by_nothing():
    image = with_spot(BLANK, 240, 170)

    def share(free_share):
        gaze = gaze_of("salience", salience_weight=4.0, free_share=free_share)
        return np.mean([on_spot(p, 240, 170) for p in plans(gaze, [HERE] * 100, 16, image)])

    drawn, half, free = share(0.0), share(0.5), share(1.0)
    assert drawn > 1.15 * half > 1.15 * 1.15 * free


def test_temperature_cools_the_choice():
    image = with_spot(BLANK, 240, 170)

    def share(temperature):
        gaze = gaze_of("salience", temperature=temperature, salience_weight=2.0, free_share=0.0)
        return np.mean([on_spot(p, 240, 170) for p in plans(gaze, [HERE] * 60, 16, image)])

    assert share(0.2) > 1.3 * share(1.0) > 1.3 * 1.3 * share(100.0)


def test_next_to_no_temperature_always_takes_the_best():
    image = with_spot(BLANK, 240, 170)
    firsts = [
        gaze_of("salience", seed, temperature=1e-3, free_share=0.0).plan(CAMERA, image, HERE, 1)
        for seed in range(10)
    ]
    assert all(on_spot(plan, 240, 170, side=50).all() for plan in firsts)


@pytest.mark.parametrize("temperature", [1e-300, 1e300])
def test_extreme_temperatures_break_nothing(temperature):
    gaze = gaze_of("mixed", temperature=temperature)
    for plan in plans(gaze, moving_heads(5)):
        assert np.isfinite(plan.pixels).all() and np.ptp(plan.pixels, axis=0).min() > 20.0


# --- the head ------------------------------------------------------------------------------------


def aims(policy, frames=200, limits=LIMITS, image=PICTURE, seed=0, **fields):
    gaze, head, told = gaze_of(policy, seed, **fields), HERE, []
    for _ in range(frames):
        gaze.plan(CAMERA, image, head, 16)
        aim = gaze.aim(limits)
        told.append((head, aim))
        head = aim or head
    return told


@pytest.mark.slow
@every_policy
def test_the_head_stays_for_a_while_and_keeps_its_limits(policy):
    told = aims(policy, dwell_frames=5)
    moves = [i for i, (_, aim) in enumerate(told) if aim]
    assert moves and np.diff(moves).min() >= 5 and moves[0] >= 4
    low, high = np.transpose(LIMITS)
    for head, aim in (told[i] for i in moves):
        assert (aim >= low - 1e-12).all() and (aim <= high + 1e-12).all()
        if policy != "random":
            assert np.hypot(*np.subtract(aim, head)) <= GazeConfig().head_step_rad + 1e-9


def test_the_head_is_not_asked_before_anything_was_seen():
    assert gaze_of("mixed").aim(LIMITS) is None


@pytest.mark.slow
@pytest.mark.parametrize("view_deg", [1e-3, 179.0, 179.9999999])
def test_the_head_is_aimed_under_every_lens(view_deg):
    camera = Pinhole(320, 240, math.radians(view_deg))
    gaze = gaze_of("mixed", dwell_frames=1)
    gaze.plan(camera, PICTURE, HERE, 4)
    aim = gaze.aim(LIMITS)
    assert aim is None or (np.isfinite(aim).all() and np.abs(aim).max() <= 0.25)


def test_random_head_movements_are_small():
    steps = np.array([np.subtract(aim, head) for head, aim in aims("random", 3000) if aim])
    assert np.degrees(steps.std(axis=0)) == pytest.approx([2.5, 2.5], rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["salience", "surprise", "mixed"])
def test_the_head_visits_all_that_it_can_reach(policy):
    wide = (-1.2, 1.2), (-0.5, 0.5)
    heads = np.array([head for head, _ in aims(policy, 600, wide)])
    sixths, _, _ = np.histogram2d(*heads.T, (3, 2), wide)
    assert sixths.min() > 0


@pytest.mark.slow
def test_the_head_does_not_jitter():
    """It gets where it set out for: far more ways in one direction than there and back."""
    wide = (-1.2, 1.2), (-0.5, 0.5)
    steps = np.array([np.subtract(aim, head) for head, aim in aims("mixed", 800, wide) if aim])
    back = (steps[1:] * steps[:-1]).sum(axis=1) < 0.0
    assert back.mean() < 0.35
    assert np.median(np.hypot(*steps.T)) > math.radians(2.0)


@pytest.mark.slow
def test_a_head_that_is_stuck_is_sent_elsewhere_after_a_while():
    gaze, wide, told = gaze_of("mixed"), ((-1.2, 1.2), (-0.5, 0.5)), []
    for _ in range(400):
        gaze.plan(CAMERA, PICTURE, HERE, 16)
        told.append(gaze.aim(wide))
    directions = {tuple(np.sign(np.round(aim, 3))) for aim in told if aim}
    assert len(directions) > 1


@pytest.mark.slow
def test_a_head_with_nothing_to_gain_stays():
    assert not any(aim for _, aim in aims("mixed", 100, ((0.0, 0.0), (0.0, 0.0))))
    calm = aims("mixed", 100, image=BLANK, neglect_weight=0.0)
    assert not any(aim for _, aim in calm)


# --- configurations ------------------------------------------------------------------------------


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
        {"policy": "clever"},
        {"temperature": 0.0},
        {"salience_weight": -1.0},
        {"change_frames": 0.5},
        {"cell_rad": 0.001},
        {"cell_rad": 1.0},
        {"dwell_frames": 0},
        {"head_step_rad": 0.0},
        {"central_share": 1.0},
        {"free_share": 1.1},
    ],
)
def test_impossible_configurations_are_refused(fields):
    with pytest.raises(ConfigError):
        GazeConfig(**fields)
