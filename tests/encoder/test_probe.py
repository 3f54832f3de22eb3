"""The probe: fair splits, classifiers as slow ones have it, figures that mean something."""

import json
import math
import shutil
from dataclasses import asdict

import cv2
import numpy as np
import pytest

from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.encoder import parity
from edge_rjepa.encoder.classify import PENALTIES, nearest, nearest_by_cosine, ridge
from edge_rjepa.encoder.export import export
from edge_rjepa.encoder.opener import open_encoder
from edge_rjepa.encoder.probe import (
    ProbeError,
    _principal,
    _rows_of_networks,
    _rows_of_pca,
    probe,
    wilson,
)
from edge_rjepa.errors import ConfigError, InputError
from edge_rjepa.eye.config import GazeConfig
from edge_rjepa.eye.retina import Retina
from edge_rjepa.eye.scan import FOCAL_PX, PICTURE_PX, scan
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.run.config import RunConfig

PER_CLASS = 18
NETWORK = RJepaConfig(
    n_embedding=24, n_hidden=16, n_predictor=16, n_encoder_hidden=0,
    learning_rate=1e-3, update_every=1,
)  # fmt: skip


def stripes(rng, kind):
    """A picture (40, 60, 3) of stripes in any direction; one channel is a little stronger."""
    y, x = np.mgrid[:40, :60]
    turn = rng.uniform(0, math.pi)
    along = (x * math.cos(turn) + y * math.sin(turn)) / rng.uniform(1.5, 2.5)
    picture = rng.uniform(80, 140) + rng.uniform(20, 60) * np.sin(along)[..., None]
    picture = picture + 30 * (np.arange(3) == kind) + rng.normal(0, 8, (40, 60, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def write_pictures(folder, kinds):
    """18 pictures for each class, named by its kind."""
    rng = np.random.default_rng(0)
    for label, kind in enumerate(kinds):
        (folder / f"class {label}").mkdir(parents=True)
        for i in range(PER_CLASS):
            cv2.imwrite(str(folder / f"class {label}" / f"{i}.png"), stripes(rng, kind))
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run folder, the files it was exported to, and labelled pictures."""
    folder = tmp_path_factory.mktemp("probe")
    learner = RJepa(NETWORK, seed=3)
    (folder / "run").mkdir()
    config = asdict(RunConfig(network=NETWORK))
    learner.save(folder / "run" / "checkpoint.safetensors", {"config": config})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "PARITY_STEPS", 65)
        for form in ("step", "sequence", "patches", "descriptor"):
            path = folder / f"{form}.onnx"
            export(
                learner, Retina(), path, form=form, picture_px=(60, 40), gaze=GazeConfig()
            )  # of stripes
        export(learner, Retina(), folder / "long.onnx", form="sequence", fixations=65)
        small = RJepa(RJepaConfig(6, n_embedding=8, n_hidden=8))
        export(small, None, folder / "features.onnx")
    write_pictures(folder / "stripes", (0, 1, 2))
    return folder


@pytest.mark.slow
def test_classes_that_differ_are_told_apart_and_figures_add_up(world):
    report = probe(world / "run", world / "stripes")
    names = [row.features for row in report.rows]
    assert names == [
        "encoder: describe", "untrained: describe", "encoder: z", "encoder: z and memory",
        "untrained: z", "untrained: z and memory",
        "PCA of the windows", "raw pixels, 16x16",
    ]  # fmt: skip
    assert [row.width for row in report.rows] == [24, 24, 24, 56, 24, 56, 24, 768]
    assert (report.fitted, report.asked, report.fixations) == (36, 18, 12)
    assert report.chance == pytest.approx(1 / 3)
    assert report.classes == ["class 0", "class 1", "class 2"]
    z = next(row for row in report.rows if row.features == "encoder: z")
    assert z.linear.share > 0.9
    for row in report.rows:
        assert row.linear.share > 0.6 and row.neighbours.share > 0.5
    for row in report.rows:
        for found in row[2:]:
            assert 0.0 <= found.low <= found.share <= found.high <= 1.0
            assert found.high - found.low > 0.1  # of 18 pictures nothing is known for sure
    assert json.loads(json.dumps(report.as_json()))["rows"][2]["linear"]["share"] > 0.8
    table = report.table()
    assert len(table.splitlines()) == 3 + len(report.rows) and "chance 0.33" in table


@pytest.mark.slow
def test_classes_that_do_not_differ_are_not_told_apart(world):
    same = write_pictures(world / "same", (0, 0, 0))
    shares = [a.share for row in probe(world / "step.onnx", same).rows for a in row[2:]]
    assert np.mean(shares) == pytest.approx(1 / 3, abs=0.2) and max(shares) < 0.8


@pytest.mark.slow
def test_a_run_and_its_exported_file_are_worth_the_same(world):
    run = probe(world / "run", world / "stripes")
    file = probe(world / "step.onnx", world / "stripes")
    assert file.as_json() == probe(world / "step.onnx", world / "stripes").as_json()
    for one, other in zip(run.rows, file.rows, strict=True):
        for a, b in zip(one[2:], other[2:], strict=True):
            assert a.share == pytest.approx(b.share, abs=1 / 18 + 1e-9)
    assert [row for row in run.rows if "encoder" not in row.features] == [
        row for row in file.rows if "encoder" not in row.features
    ]


@pytest.mark.slow
def test_forms_are_probed_as_they_are(world):
    patches = probe(world / "patches.onnx", world / "stripes")
    assert "encoder: z and memory" not in [row.features for row in patches.rows]
    assert probe(world / "sequence.onnx", world / "stripes").fixations == 16
    assert probe(world / "long.onnx", world / "stripes").fixations == 65  # more than max_block
    descriptor = probe(world / "descriptor.onnx", world / "stripes").rows
    assert not [row for row in descriptor if row.features.startswith("encoder: z")]
    assert [row for row in patches.rows if "describe" in row.features] == [
        row for row in descriptor if "describe" in row.features
    ]
    with pytest.raises(ConfigError, match="takes features, not pictures"):
        probe(world / "features.onnx", world / "stripes")


@pytest.mark.slow
def test_another_seed_is_another_split(world):
    one, other = (probe(world / "patches.onnx", world / "stripes", seed=s) for s in (0, 1))
    assert one.rows != other.rows and (one.fitted, one.asked) == (other.fitted, other.asked)


@pytest.mark.slow
def test_progress_ends_at_its_total(world):
    told = []
    probe(world / "patches.onnx", world / "stripes", progress=lambda *now: told.append(now))
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert told[-1][0] == told[-1][1]


def scans_of(seed, count=5):
    rng = np.random.default_rng(seed)
    return [scan(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("subject", ["run", "step.onnx"])
def test_a_picture_is_described_whatever_was_seen_before(world, subject):
    one, other = scans_of(0, 2)
    rows = _rows_of_networks([one, other, one], open_encoder(world / subject), 12, seed=0)
    assert len(rows) == 4
    for first, between, again in rows.values():
        np.testing.assert_array_equal(first, again)
        assert np.abs(between - first).max() > 1e-3


def test_pca_knows_nothing_of_the_pictures_asked_about(world):
    encoder, fitting = open_encoder(world / "run"), np.arange(5) < 3
    scans, others = scans_of(1), scans_of(1)[:3] + scans_of(2)[3:]
    one, other = (_rows_of_pca(each, encoder, fitting, seed=0) for each in (scans, others))
    np.testing.assert_array_equal(one[:3], other[:3])
    assert np.abs(np.subtract(one[3:], other[3:])).max() > 1.0


def test_principal_directions_are_those_of_the_covariance():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(40, 70)) * 0.8 ** np.arange(70)
    mean, directions = _principal(rows, 6)
    _, wanted = np.linalg.eigh(np.cov(rows, rowvar=False))
    np.testing.assert_allclose(mean, rows.mean(axis=0))
    np.testing.assert_allclose(np.abs(directions.T @ wanted[:, :-7:-1]), np.eye(6), atol=1e-8)


def test_folders_that_will_not_do(world, tmp_path):
    with pytest.raises(ProbeError, match="nowhere is no folder"):
        probe(world / "step.onnx", tmp_path / "nowhere")
    with pytest.raises(ProbeError, match="holds no class"):
        probe(world / "step.onnx", tmp_path)
    one = write_pictures(tmp_path / "one", (0,))
    (one / "empty").mkdir()
    (one / "notes.txt").write_text("no picture")
    with pytest.raises(ProbeError, match="holds only the class 'class 0': make a folder"):
        probe(world / "step.onnx", one)
    few = write_pictures(tmp_path / "few", (0, 1))
    for path in sorted((few / "class 1").iterdir())[5:]:
        path.unlink()
    with pytest.raises(ProbeError, match="class 'class 1' in .* has 5 pictures: add"):
        probe(world / "step.onnx", few)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_broken_picture_is_named_and_left_out(world, tmp_path, content):
    folder = write_pictures(tmp_path / "broken", (0, 1))
    path = folder / "class 1" / "7.png"
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.warns(match=f"{path}: cannot be read as a picture .*; left out"):
        report = probe(world / "step.onnx", folder)
    assert report.fitted + report.asked == 2 * PER_CLASS - 1


@pytest.mark.slow
def test_hidden_files_and_folders_are_no_pictures_and_no_classes(world, tmp_path):
    folder = write_pictures(tmp_path / "hidden", (0, 1))
    (folder / "class 0" / "._7.png").write_bytes(b"\0\5\x16\7" + bytes(100))
    shutil.copytree(folder / "class 0", folder / ".ipynb_checkpoints")
    report = probe(world / "step.onnx", folder)
    assert report.classes == ["class 0", "class 1"]
    assert report.fitted + report.asked == 2 * PER_CLASS


# ------------------------------------------------------------------------------------------------
# Scan, classifiers, interval


def test_the_scan_covers_a_picture_and_tells_where_it_looked():
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    look = scan(picture, 12, seed=5)
    assert look.image.shape == (144, PICTURE_PX, 3)
    fields = {(int(x // (192 / 4)), int(y // (144 / 3))) for x, y in look.pixels}
    assert len(fields) == 12  # each of the 4 x 3 fields once
    camera = Pinhole(192, 144, 2 * math.atan(96 / FOCAL_PX))
    gaze_rad = camera.angles_of_pixels(look.pixels)
    np.testing.assert_allclose(look.efference[:, 2:] * 0.25, gaze_rad, rtol=1e-5, atol=1e-7)
    travelled = np.cumsum(look.efference[:, :2].astype(float) * 0.1, axis=0)  # from the middle
    np.testing.assert_allclose(travelled, gaze_rad, rtol=0, atol=1e-6)
    steps_rad = np.linalg.norm(look.efference[1:, :2] * 0.1, axis=1)
    assert np.median(steps_rad) < math.radians(12)
    halved = scan(picture, 12, seed=5, scales_rad=(0.2, 0.5)).efference
    np.testing.assert_allclose(halved, look.efference / 2, rtol=1e-6)


def test_the_same_shape_is_scanned_the_same():
    rng = np.random.default_rng(1)
    big = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    small = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for count in (1, 5, 12, 16):
        one, other = scan(big, count), scan(small, count)
        assert one.pixels.shape == (count, 2)
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.efference, other.efference)
        assert (np.abs(scan(big, count, seed=1).pixels - one.pixels) > 1e-3).any()
    assert scan(np.zeros((1, 500, 3), np.uint8)).image.shape == (1, PICTURE_PX, 3)


@pytest.mark.parametrize(
    ("picture", "fixations"),
    [
        (np.zeros((9, 9), np.uint8), 12),
        (np.zeros((9, 9, 3)), 12),
        (np.zeros((0, 9, 3), np.uint8), 12),
        (np.zeros((9, 9, 3), np.uint8), 0),
    ],
)
def test_what_cannot_be_scanned_is_refused(picture, fixations):
    with pytest.raises(InputError):
        scan(picture, fixations)


def refitted_ridge(rows, labels, asked):
    """Normal equations, each row really left out; the penalty with the least squared error."""
    centre, spread = rows.mean(axis=0), rows.std(axis=0)
    rows, asked = (rows - centre) / spread, (asked - centre) / spread
    targets = np.eye(labels.max() + 1)[labels]

    def fit(rows, targets, penalty):
        # The constant is not penalised.
        x = np.column_stack([rows, np.ones(len(rows))])
        gram = x.T @ x + penalty * np.diag([*np.ones(rows.shape[1]), 0.0])
        return np.linalg.solve(gram, x.T @ targets)

    def apply(rows, weights):
        return np.column_stack([rows, np.ones(len(rows))]) @ weights

    def error(penalty):
        total = 0.0
        for i in range(len(rows)):
            rest = np.arange(len(rows)) != i
            weights = fit(rows[rest], targets[rest], penalty)
            total += np.square(apply(rows[i : i + 1], weights) - targets[i]).sum()
        return total

    best = min(PENALTIES * len(rows) / 100, key=error)
    return apply(asked, fit(rows, targets, best)).argmax(axis=1)


@pytest.mark.parametrize("width", [3, 60])
def test_ridge_is_ridge_with_every_row_left_out_in_turn(width):
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(3), 14)
    centres = rng.normal(size=(3, width))
    rows = centres[labels] + rng.normal(0, 1.5, (42, width))
    asked = centres[rng.integers(3, size=200)] + rng.normal(0, 1.5, (200, width))
    np.testing.assert_array_equal(ridge(rows, labels, asked), refitted_ridge(rows, labels, asked))


def test_nearest_is_the_commonest_of_the_five_nearest():
    rng = np.random.default_rng(3)
    rows, asked = rng.normal(size=(60, 4)), rng.normal(size=(50, 4))
    labels = rng.choice(["ant", "bee", "fly"], 60)
    scale = rows.std(axis=0)
    for row, told in zip(asked, nearest(rows, labels, asked), strict=True):
        near = labels[np.argsort((((rows - row) / scale) ** 2).sum(axis=1))[:5]].tolist()
        commonest = max(near.count(label) for label in near)
        assert told == next(label for label in near if near.count(label) == commonest)


def test_the_nearest_by_cosine_has_the_smallest_angle():
    rng = np.random.default_rng(6)
    rows, asked = rng.normal(size=(30, 5)), rng.normal(size=(40, 5))
    rows, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, asked))
    labels = rng.choice(["ant", "bee", "fly"], 30)
    told = nearest_by_cosine(rows, labels, asked)
    for row, label in zip(asked, told, strict=True):
        assert label == labels[np.argmin([math.acos(row @ each) for each in rows])]


def test_classifiers_take_columns_that_never_vary_and_names_as_labels():
    rows = np.column_stack([np.ones(8), np.arange(8) % 2, np.full(8, 1e12)])
    labels = np.where(np.arange(8) % 2, "odd", "even")
    for classifier in (ridge, nearest):
        told = classifier(rows, labels, rows)
        np.testing.assert_array_equal(told, labels)


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson_interval_as_published(right, asked, low, high):
    """Figures of Newcombe (1998), Statistics in Medicine 17, and two by hand."""
    found = wilson(right, asked)
    assert found.share == right / asked
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


def test_wilson_interval_holds_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    for truth in (0.1, 0.5, 0.9):
        held = [
            found.low <= truth <= found.high
            for found in (wilson(int(right), 30) for right in rng.binomial(30, truth, 2000))
        ]
        assert 0.92 < np.mean(held) < 0.985
