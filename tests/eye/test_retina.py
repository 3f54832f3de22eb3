"""The retina against a slow reference, and its statistics on photographs."""

import math

import numpy as np
import pytest
from scipy.fft import dctn
from scipy.interpolate import interpn

from edge_rjepa.errors import ConfigError, InputError
from edge_rjepa.eye.colour_codes import CODES, DENSITY, POINTS, START
from edge_rjepa.eye.config import (
    MOST_COLOUR_CODES,
    MOST_ORIENTATION_SCALES,
    ORIENTATIONS,
    RetinaConfig,
)
from edge_rjepa.eye.oriented_codes import CENTRE, DIRECTIONS, SPREAD
from edge_rjepa.eye.retina import (
    CONTRAST,
    CONTRAST_CENTRE,
    CONTRAST_SPREAD,
    LEVEL,
    LEVEL_CENTRE,
    LEVEL_SPREAD,
    Retina,
)
from edge_rjepa.sources import open_source

RETINA = Retina()


@pytest.fixture(scope="module")
def frames():
    """160 views: of the photographs held out, and of 120 scenes of the training stream."""
    with open_source("scene:", seed=0) as source:
        return source.held_out(40) + [source.read_next(0) for _ in range(2400)][::20]


def random_image(seed, height=97, width=131):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reference(window, config):
    """Features of one window in float64: SciPy's DCT, one coefficient after the other."""
    b, g, r = np.moveaxis(window.astype(np.float64), -1, 0)
    luminance = (29 * b + 150 * g + 77 * r) / 256
    edge = (config.window_px - config.fovea_px) // 2

    def averaged(channel, cells):
        side = config.window_px // cells
        return channel.reshape(cells, side, cells, side).mean(axis=(1, 3))

    floor, colour_floor = config.contrast_floor, 0.5 * config.contrast_floor
    pattern, means, logs = [], [], []
    for picture, degree, sigma in (
        (luminance[edge : -edge or None, edge : -edge or None], config.fovea_degree, floor),
        (averaged(luminance, config.surround_cells), config.surround_degree, floor),
        (averaged(r - b, config.colour_cells), config.colour_degree, colour_floor),
        (averaged(g - (r + b) / 2, config.colour_cells), config.colour_degree, colour_floor),
    ):
        spectrum = dctn(picture, norm="ortho")
        orders = [(i, s - i) for s in range(1, degree + 1) for i in range(s + 1)]
        orders.sort()
        frequency = np.array([math.hypot(i, j) for i, j in orders])
        c = np.array([spectrum[i, j] for i, j in orders]) * frequency
        c /= np.sqrt(np.mean(frequency**2))
        power = np.mean(c**2) + sigma**2
        pattern.extend(c / np.sqrt(power))
        means.append(picture.mean())
        logs.append(math.log(power))
    level = (LEVEL @ means - LEVEL_CENTRE) / LEVEL_SPREAD
    contrast = (CONTRAST @ logs - CONTRAST_CENTRE) / CONTRAST_SPREAD
    codes = [colour_codes(luminance, r - b, g - (r + b) / 2, averaged, config)]
    codes += [oriented_codes(luminance, config)]
    return np.concatenate([pattern, level, contrast, *codes])


def colour_codes(luminance, warm, green, averaged, config):
    """SciPy's linear interpolation says what each point of the lattice gets of each cell."""
    cells = np.stack([averaged(c, config.surround_cells) for c in (luminance, warm, green)], -1)
    axes = [start + np.arange(n) / d for start, n, d in zip(START, POINTS, DENSITY, strict=True)]
    cells = np.clip(cells.reshape(-1, 3), [a[0] for a in axes], [a[-1] for a in axes])
    codes = CODES[: config.colour_codes]
    ones = np.zeros((*POINTS, len(codes)))  # of each code: 1 at its point, 0 at all others
    for code, (i, j, m, _, _) in enumerate(codes):
        ones[i, j, m, code] = 1.0
    shares = interpn(axes, ones, cells).mean(axis=0)
    return [
        (math.sqrt(share) - centre) / spread
        for share, (_, _, _, centre, spread) in zip(shares, codes, strict=True)
    ]


def oriented_codes(luminance, config):
    """Every cell's slope towards every direction by itself."""
    found = []
    for scale in range(config.orientation_scales):
        px, logs = 2**scale, []
        cells = len(luminance) // px
        # A list, as Python is quicker at one number after the other where they are its own.
        grey = luminance.reshape(cells, px, cells, px).mean(axis=(1, 3)).tolist()
        n = (cells - 2) // config.orientation_parts
        for turn in range(8):
            angle = math.radians(45.0 * turn)
            cos, sin = math.cos(angle), math.sin(angle)
            for v, u in np.ndindex(config.orientation_parts, config.orientation_parts):
                total = 0.0
                for i in range(1 + v * n, 1 + v * n + n):
                    for j in range(1 + u * n, 1 + u * n + n):
                        across = (grey[i][j + 1] - grey[i][j - 1]) / 2
                        down = (grey[i + 1][j] - grey[i - 1][j]) / 2
                        total += max(0.0, across * cos + down * sin)
                logs.append(math.log(total / n**2 + 0.5))
        own = np.array(logs) - 0.8 * np.mean(logs)
        found.extend((own - CENTRE[scale]) / SPREAD[scale])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        RetinaConfig(),
        RetinaConfig(window_px=24, fovea_px=10, surround_cells=8, colour_cells=4, fovea_degree=3,
                     surround_degree=7, colour_degree=2, contrast_floor=1.5),
        RetinaConfig(window_px=16, fovea_px=16, surround_cells=16, colour_cells=16),
    ],
)  # fmt: skip
def test_both_paths_are_the_reference(config):
    retina, rng = Retina(config), np.random.default_rng(0)
    image = random_image(1)
    image[:40] //= 20  # a dark, flat part beside the noise
    pixels = rng.uniform((-20, -20), (150, 120), (40, 2))
    fast = retina(image, pixels)
    windows = retina.windows(image, pixels)
    plain = retina.features_of_windows(windows)
    wanted = np.array([reference(window, config) for window in windows])
    assert fast.dtype == plain.dtype == np.float32
    assert fast.shape == (40, retina.n_features) == wanted.shape
    np.testing.assert_allclose(fast, plain, rtol=0, atol=1e-5)
    np.testing.assert_allclose(plain, wanted, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_both_paths_agree_on_photographs(frames):
    rng = np.random.default_rng(2)
    for frame in frames:
        pixels = rng.uniform((0, 0), (319, 239), (16, 2))
        plain = RETINA.features_of_windows(RETINA.windows(frame.image, pixels))
        np.testing.assert_allclose(RETINA(frame.image, pixels), plain, rtol=0, atol=1e-5)


def test_exposed_constants_are_the_whole_arithmetic():
    """Export builds this chain from the constants' names alone."""
    r = RETINA
    windows = np.random.default_rng(3).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    channels = windows.astype(np.float32) @ r.colour.T
    coarse = channels.reshape(5, 8, 8, 8, 8, 3).mean(axis=(2, 4))
    fine = channels.reshape(5, 16, 4, 16, 4, 3).mean(axis=(2, 4))
    groups = [channels[:, 24:40, 24:40, 0], fine[..., 0], coarse[..., 1], coarse[..., 2]]
    seen = []
    for bank in r.banks:
        for picture in groups[bank.groups]:
            mean = picture.mean(axis=(1, 2), keepdims=True)
            spectrum = ((picture - mean) @ bank.basis).transpose(0, 2, 1) @ bank.basis
            c = spectrum.reshape(5, -1)[:, bank.kept] * bank.frequency
            power = np.mean(c * c, axis=1, keepdims=True) + bank.floor_power
            seen.append((c / np.sqrt(power), mean[:, 0], power))
    pattern, mean, power = (np.concatenate(parts, axis=1) for parts in zip(*seen, strict=True))
    level = (mean @ r.level_mix.T - r.level_centre) / r.level_spread
    contrast = (np.log(power) @ r.contrast_mix.T - r.contrast_centre) / r.contrast_spread
    codes = exposed_colour_codes(r.colour_codes, fine), exposed_oriented_codes(channels[..., 0])
    features = np.concatenate([pattern, level, contrast, *codes], axis=1)
    parts = [r, r.colour_codes, r.oriented_codes]
    constants = [value for part in parts for value in vars(part).values()]
    constants += [each for bank in r.banks for each in bank]
    kinds = {v.dtype for v in constants if isinstance(v, np.ndarray)}
    assert kinds == {np.dtype(np.float32), np.dtype(np.int64)}
    np.testing.assert_allclose(r.features_of_windows(windows), features, rtol=0, atol=1e-5)


def exposed_colour_codes(codes, cells):
    places = np.clip((cells - codes.start) * codes.density, 0, codes.last).reshape(5, -1, 1, 3)
    near = np.maximum(1 - np.abs(places - codes.points), 0).prod(axis=3).mean(axis=1)
    return (np.sqrt(near) - codes.centre) / codes.spread


def exposed_oriented_codes(grey):
    codes, logs = RETINA.oriented_codes, []
    for px in (1, 2, 4):
        cells = grey.reshape(5, 64 // px, px, 64 // px, px).mean(axis=(2, 4))
        across = cells[:, 1:-1, 2:] - cells[:, 1:-1, :-2]
        down = cells[:, 2:, 1:-1] - cells[:, :-2, 1:-1]
        rising = np.maximum(np.einsum("da,anij->dnij", DIRECTIONS, [across, down]), 0)
        n = rising.shape[-1] // 2
        energy = rising.reshape(8, 5, 2, n, 2, n).mean(axis=(3, 5)) * codes.slope.reshape(
            8, 1, 1, 1
        )
        log = np.log(energy.transpose(1, 0, 2, 3).reshape(5, 32) + codes.floor)
        logs.append(log - codes.shared * log.mean(axis=1, keepdims=True))
    return (np.hstack(logs) - codes.centre) / codes.spread


def test_default_layout():
    sizes = {kind: part.stop - part.start for kind, part in RETINA.parts.items()}
    assert sizes == {
        "pattern": 44 + 44 + 14 + 14,
        "level": 4,
        "contrast": 4,
        "colour codes": 96,
        "oriented codes": 3 * 8 * 4,
    }
    assert [part.start for part in RETINA.parts.values()] == [0, 116, 120, 124, 220]
    assert RETINA.n_features == 316
    assert len(CODES) == MOST_COLOUR_CODES == len({code[:3] for code in CODES})
    assert len(CENTRE) == len(SPREAD) == MOST_ORIENTATION_SCALES
    assert len(DIRECTIONS) == ORIENTATIONS
    luminance, colour = RETINA.banks
    assert luminance.basis.shape == (16, 9) and colour.basis.shape == (8, 5)
    assert (luminance.pooled, colour.pooled) == (slice(0, 512), slice(512, 640))
    assert (luminance.pattern, colour.pattern) == (slice(0, 88), slice(88, 116))


def hard_windows(rng):
    """Pixel noise, all but flat and bright, checks and edges, a lone pixel."""
    noise = rng.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    bright = rng.integers(252, 256, (40, 64, 64, 3), dtype=np.uint8)
    squares = 2 ** rng.integers(0, 6, 20)
    edges = [np.add.outer(np.arange(64) // s, np.arange(64) // s) % 2 * 255 for s in squares]
    edges = np.array(edges, np.uint8)[..., None].repeat(3, axis=3)
    lone = np.full((20, 64, 64, 3), 254, np.uint8)
    lone[np.arange(20), rng.integers(64, size=20), rng.integers(64, size=20)] = 0
    return np.concatenate([noise, bright, edges, lone])


@pytest.mark.slow
def test_rounding_stays_at_a_few_units_of_float32():
    """So small that no other float32 program can be far off, however its sums are ordered."""
    windows = hard_windows(np.random.default_rng(13))
    wanted = np.array([reference(window, RETINA.config) for window in windows])
    assert np.abs(RETINA.features_of_windows(windows) - wanted).max() < 3e-6


def test_features_are_about_white_on_photographs(frames):
    rng = np.random.default_rng(4)
    features = np.vstack(
        [RETINA(frame.image, rng.uniform((16, 16), (304, 224), (40, 2))) for frame in frames]
    )
    codes = features[:, RETINA.parts["colour codes"]]
    features = np.delete(features, np.r_[RETINA.parts["colour codes"]], axis=1)
    spread = features.std(axis=0)
    assert 0.4 < spread.min() and spread.max() < 1.6
    assert np.abs(features.mean(axis=0)).max() < 0.5
    correlation = np.abs(np.corrcoef(features.T))[~np.eye(features.shape[1], dtype=bool)]
    assert correlation.mean() < 0.1
    assert np.quantile(correlation, 0.99) < 0.75  # directions side by side overlap
    patterns = np.abs(np.corrcoef(features[:, :124].T))[~np.eye(124, dtype=bool)]
    assert patterns.mean() < 0.04
    assert np.quantile(patterns, 0.99) < 0.3
    assert patterns.max() < 0.7
    # A dozen photographs, a third of them grey, do not hold all colours, and much of those.
    assert np.abs(codes.mean(axis=0)).max() < 1.6
    assert np.abs(codes.mean(axis=0)).mean() < 0.3
    assert codes.std(axis=0).max() < 2.0


def test_noise_in_flat_patches_is_not_amplified():
    noise = np.random.default_rng(5).normal(128.0, 1.0, (64, 64, 1)).repeat(3, axis=2)
    pattern = RETINA.features_of_windows(noise.round().astype(np.uint8)[None])[0, :116]
    assert 0.0 < np.sqrt(np.mean(pattern[:44] ** 2)) < 0.4  # one grey level against a floor of four


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_flat_windows_have_no_pattern_at_all(grey):
    features = RETINA(np.full((80, 80, 3), grey, np.uint8), [[40, 40]])
    np.testing.assert_allclose(features[0, :116], 0.0, atol=1e-6)


def test_pattern_does_not_depend_on_brightness_and_hardly_on_contrast():
    half = np.random.default_rng(6).integers(0, 110, (1, 64, 64, 3), dtype=np.uint8)
    pattern = RETINA.features_of_windows(half)[0, :116]
    brighter = RETINA.features_of_windows(half + np.uint8(100))[0, :116]
    contrasty = RETINA.features_of_windows(half * np.uint8(2))[0, :116]
    np.testing.assert_allclose(brighter, pattern, atol=1e-5)
    assert np.corrcoef(contrasty, pattern)[0, 1] > 0.99


def codes_of(windows):
    """Colour codes (N, 96), and oriented codes by scale, direction, row and column of parts."""
    features = RETINA.features_of_windows(windows)
    oriented = features[:, RETINA.parts["oriented codes"]].reshape(-1, 3, 8, 2, 2)
    return features[:, RETINA.parts["colour codes"]], oriented


def textures(seed, count=6):
    """Coloured noise of several grains, with clear edges in it."""
    rng = np.random.default_rng(seed)
    grains = [rng.integers(0, 256, (count, 64 // g, 64 // g, 3)) for g in (2, 8, 32)]
    parts = [p.repeat(64 // p.shape[1], axis=1).repeat(64 // p.shape[1], axis=2) for p in grains]
    return (sum(parts) // 3).astype(np.uint8)


def test_a_mirrored_window_swaps_directions_and_parts_and_keeps_colours():
    windows = textures(20)
    colours, edges = codes_of(windows)
    mirrored_colours, mirrored_edges = codes_of(windows[:, :, ::-1])
    np.testing.assert_allclose(mirrored_colours, colours, atol=1e-5)
    swapped = edges[:, :, [4, 3, 2, 1, 0, 7, 6, 5]][..., ::-1]
    np.testing.assert_allclose(mirrored_edges, swapped, atol=1e-5)
    assert np.abs(mirrored_edges - edges).max() > 0.1


def test_a_quarter_turn_turns_directions_and_parts_and_keeps_colours():
    windows = textures(21)
    colours, edges = codes_of(windows)
    turned_colours, turned_edges = codes_of(np.rot90(windows, -1, axes=(1, 2)))  # clockwise
    np.testing.assert_allclose(turned_colours, colours, atol=1e-5)
    turned = np.rot90(np.roll(edges, 2, axis=2), -1, axes=(3, 4))
    np.testing.assert_allclose(turned_edges, turned, atol=1e-5)
    assert np.abs(turned_edges - edges).max() > 0.1


def test_colour_codes_know_no_place_and_nothing_finer_than_cells():
    windows = textures(22)
    colours, _ = codes_of(windows)
    cells = windows.reshape(-1, 16, 4, 16, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 256, 16, 3)
    rng = np.random.default_rng(0)
    shuffled = cells[:, rng.permutation(256)][:, :, rng.permutation(16)]
    shuffled = shuffled.reshape(-1, 16, 16, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    np.testing.assert_allclose(codes_of(shuffled.reshape(windows.shape))[0], colours, atol=1e-5)


def test_other_colours_are_other_codes_and_other_light_is_other_colours():
    windows = textures(23)
    colours, _ = codes_of(windows)
    assert np.abs(codes_of(windows[..., ::-1])[0] - colours).max(axis=1).min() > 0.5
    assert np.abs(codes_of(windows // 2)[0] - colours).max(axis=1).min() > 0.5


@pytest.mark.parametrize("bgr", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (0, 0, 255)])
def test_the_codes_of_one_colour_are_the_points_around_it(bgr):
    codes = RETINA.colour_codes
    colours, edges = codes_of(np.full((1, 64, 64, 3), bgr, np.uint8))
    share = (colours[0] * codes.spread + codes.centre) ** 2
    place = (RETINA.colour @ np.float32(bgr) - codes.start) * codes.density
    near = np.abs(np.clip(place, 0, codes.last) - codes.points).max(axis=1) < 1
    assert (share[near] > 0.0).all() and np.abs(share[~near]).max() < 1e-9
    assert share.sum() < 1.0 + 1e-6
    np.testing.assert_allclose(
        edges, edges[:, :, :1, :1, :1].repeat(8, 2).repeat(2, 3).repeat(2, 4)
    )


def test_edges_do_not_depend_on_brightness_and_grow_with_contrast():
    half = textures(24) // 3
    _, edges = codes_of(half)
    _, brighter = codes_of(half + np.uint8(80))
    _, stronger = codes_of(half * np.uint8(2))
    np.testing.assert_allclose(brighter, edges, atol=1e-4)
    assert (stronger.mean(axis=(2, 3, 4)) > edges.mean(axis=(2, 3, 4))).all()


def test_a_step_is_told_by_the_direction_in_which_it_rises():
    window = np.zeros((1, 64, 64, 3), np.uint8)
    window[:, :, 16:] = 100  # dark on the left, in the left parts
    _, edges = codes_of(window)
    assert (edges[0, :, :, :, 0].argmax(axis=1) == 0).all()
    _, edges = codes_of(255 - window)
    assert (edges[0, :, :, :, 0].argmax(axis=1) == 4).all()


def test_fewer_codes_are_the_first_of_them():
    image, pixels = random_image(14), [[30.0, 40.0], [2.0, 90.0]]
    everything = RETINA(image, pixels)
    some = Retina(RetinaConfig(colour_codes=7, orientation_scales=1))(image, pixels)
    kept = np.r_[0:131, 220:252]
    np.testing.assert_array_equal(some, everything[:, kept])
    none = Retina(RetinaConfig(colour_codes=0, orientation_scales=0))
    np.testing.assert_array_equal(none(image, pixels), everything[:, :124])
    windows = none.windows(image, pixels)
    np.testing.assert_allclose(none.features_of_windows(windows), everything[:, :124], atol=1e-5)


def test_windows_beyond_the_border_repeat_it():
    image = random_image(7, 70, 90)
    padded = np.pad(image, ((100, 100), (100, 100), (0, 0)), mode="edge")
    pixels = np.array([[0, 0], [89, 69], [-3, 30], [50, 75], [89.4, -0.4]])
    for window, (x, y) in zip(RETINA.windows(image, pixels), np.round(pixels), strict=True):
        x, y = int(x) + 100 - 32, int(y) + 100 - 32
        np.testing.assert_array_equal(window, padded[y : y + 64, x : x + 64])
    np.testing.assert_allclose(
        RETINA(image, pixels), RETINA(padded, np.round(pixels) + 100), rtol=0, atol=1e-5
    )


def test_gaze_far_outside_sees_what_the_border_says():
    image = random_image(8, 70, 90)
    np.testing.assert_array_equal(RETINA(image, [[1e300, 35.0]]), RETINA(image, [[150.0, 35.0]]))


def test_an_image_smaller_than_the_window_is_defined():
    assert np.isfinite(RETINA(random_image(9, 1, 1), [[0, 0]])).all()


def test_gaze_is_rounded_to_the_nearest_pixel_halves_up():
    image = random_image(10)
    whole = RETINA(image, [[50, 40]])
    np.testing.assert_array_equal(RETINA(image, [[49.5, 40.49]]), whole)
    np.testing.assert_array_equal(RETINA(image, [[50.49, 39.5]]), whole)
    assert np.abs(RETINA(image, [[50.5, 40]]) - whole).max() > 0.1


def test_any_memory_layout_gives_the_same():
    image = random_image(11)
    pixels = [[30.0, 40.0], [2.0, 90.0]]
    wanted = RETINA(image, pixels)
    np.testing.assert_array_equal(RETINA(np.asfortranarray(image), pixels), wanted)
    np.testing.assert_array_equal(RETINA(image[::-1][::-1], pixels), wanted)
    image.setflags(write=False)
    np.testing.assert_array_equal(RETINA(image, pixels), wanted)


def test_out_is_filled_and_returned():
    image, out = random_image(12), np.empty((2, RETINA.n_features), np.float32)
    pixels = [[30.0, 40.0], [60.0, 50.0]]
    assert RETINA(image, pixels, out=out) is out
    np.testing.assert_array_equal(out, RETINA(image, pixels))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64, 3), np.float32),
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((0, 64, 3), np.uint8),
        np.zeros((1, 64, 64, 3), np.uint8),
        None,
    ],
)
def test_bad_images_are_refused(image):
    with pytest.raises(InputError):
        RETINA(image, [[1.0, 1.0]])


@pytest.mark.parametrize(
    "pixels",
    [
        [[math.nan, 1.0]],
        [[1.0, math.inf]],
        [1.0, 2.0],
        [[1.0, 2.0, 3.0]],
        np.empty((0, 2)),
        [["left", "up"]],
        None,
    ],
)
def test_bad_pixels_are_refused(pixels):
    with pytest.raises(InputError):
        RETINA(random_image(0), pixels)


@pytest.mark.parametrize(
    "out", [np.empty((2, 316), np.float32), np.empty((1, 316)), np.empty((1, 120), np.float32)]
)
def test_a_wrong_out_is_refused(out):
    with pytest.raises(InputError):
        RETINA(random_image(0), [[1.0, 1.0]], out=out)


@pytest.mark.parametrize(
    "windows", [np.zeros((2, 64, 64, 3)), np.zeros((64, 64, 3), np.uint8), np.zeros(3, np.uint8)]
)
def test_bad_windows_are_refused(windows):
    with pytest.raises(InputError):
        RETINA.features_of_windows(windows)


@pytest.mark.parametrize(
    "fields",
    [
        {"window_px": 63},
        {"window_px": 0},
        {"window_px": 64.0},
        {"fovea_px": 66},
        {"fovea_px": 15},
        {"surround_cells": 12},
        {"surround_cells": 8, "colour_cells": 16},
        {"fovea_degree": 16},
        {"colour_degree": 0},
        {"colour_codes": -1},
        {"colour_codes": 97},
        {"orientation_scales": 5},
        {"orientation_parts": 0},
        {"orientation_parts": 4},
        {"window_px": 36, "surround_cells": 12, "colour_cells": 6, "orientation_scales": 3},
        {"contrast_floor": 0.0},
        {"contrast_floor": math.nan},
    ],
)
def test_impossible_retinas_are_refused(fields):
    with pytest.raises(ConfigError):
        RetinaConfig(**fields)
