"""The retina against a slow reference, and its statistics on photographs."""

import math

import numpy as np
import pytest
from scipy.fft import dctn
from scipy.interpolate import interpn

from edge_rjepa.errors import ConfigError, InputError
from edge_rjepa.eye.colour_codes import CODES, DENSITY, POINTS, START
from edge_rjepa.eye.config import RetinaConfig
from edge_rjepa.eye.oriented_codes import CENTRE, SPREAD
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
    """160 views: of the photographs held out, and of 20 scenes of the training stream."""
    with open_source("scene:", seed=0) as source:
        return source.held_out(40) + [source.read_next(0) for _ in range(6000)][::50]


def random_image(seed, height=97, width=131):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reference(window, config):
    """Features of one window in float64: SciPy's DCT, one coefficient after the other."""
    b, g, r = np.moveaxis(window.astype(np.float64), -1, 0)
    luminance = (29 * b + 150 * g + 77 * r) / 256
    edge = (config.window_px - config.fovea_px) // 2

    def averaged(channel, cells):
        side = config.window_px // cells
        return np.array(
            [
                [channel[v : v + side, u : u + side].mean() for u in range(0, len(channel), side)]
                for v in range(0, len(channel), side)
            ]
        )

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
    """Cell by cell: SciPy's linear interpolation says what each point of the lattice gets."""
    cells = np.stack([averaged(c, config.surround_cells) for c in (luminance, warm, green)], -1)
    axes = [start + np.arange(n) / d for start, n, d in zip(START, POINTS, DENSITY, strict=True)]
    cells = np.clip(cells.reshape(-1, 3), [a[0] for a in axes], [a[-1] for a in axes])
    found = []
    for i, j, m, centre, spread in CODES[: config.colour_codes]:
        one = np.zeros(POINTS)
        one[i, j, m] = 1.0
        found.append((math.sqrt(interpn(axes, one, cells).mean()) - centre) / spread)
    return found


def oriented_codes(luminance, config):
    """Every cell's slope towards every direction by itself."""
    found = []
    for scale in range(config.orientation_scales):
        px = 2**scale
        cells = len(luminance) // px
        grey = luminance.reshape(cells, px, cells, px).mean(axis=(1, 3))
        n = (cells - 2) // config.orientation_parts
        for turn in range(8):
            angle = math.radians(45.0 * turn)
            for v, u in np.ndindex(config.orientation_parts, config.orientation_parts):
                total = 0.0
                for i in range(1 + v * n, 1 + v * n + n):
                    for j in range(1 + u * n, 1 + u * n + n):
                        across = (grey[i, j + 1] - grey[i, j - 1]) / 2
                        down = (grey[i + 1, j] - grey[i - 1, j]) / 2
                        total += max(0.0, across * math.cos(angle) + down * math.sin(angle))
                log = math.log(total / n**2 + 0.5)
                found.append((log - CENTRE[scale]) / SPREAD[scale])
    return found


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
    features = np.concatenate([pattern, level, contrast], axis=1)
    constants = [*vars(r).values(), *(each for bank in r.banks for each in bank)]
    kinds = {v.dtype for v in constants if isinstance(v, np.ndarray)}
    assert kinds == {np.dtype(np.float32), np.dtype(np.int64)}
    np.testing.assert_allclose(r.features_of_windows(windows), features, rtol=0, atol=1e-5)


def test_default_layout():
    assert RETINA.n_features == 44 + 44 + 14 + 14 + 4 + 4
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
    spread = features.std(axis=0)
    assert 0.4 < spread.min() and spread.max() < 1.6
    assert np.abs(features.mean(axis=0)).max() < 0.5
    correlation = np.abs(np.corrcoef(features.T))[~np.eye(features.shape[1], dtype=bool)]
    assert correlation.mean() < 0.04
    assert np.quantile(correlation, 0.99) < 0.3
    assert correlation.max() < 0.7


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
        {"contrast_floor": 0.0},
        {"contrast_floor": math.nan},
    ],
)
def test_impossible_retinas_are_refused(fields):
    with pytest.raises(ConfigError):
        RetinaConfig(**fields)
