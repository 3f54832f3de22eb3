"""The picture of a run: drawn from whatever a run left behind, however it ended."""

import json
import math
import os
import subprocess
import sys
import zipfile
from dataclasses import asdict

import matplotlib.image as matplotlib_image
import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.transforms import Bbox

from edge_rjepa.base import checkpoint
from edge_rjepa.errors import RJepaError
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.config import RunConfig
from edge_rjepa.views import report


def line(fixations, **changes):
    measured = {
        "fixations": fixations,
        "seconds": fixations / 15_000,
        "information": fixations / 1e5,
        "effective_rank": 20.0,
        "embedding_std": 0.5,
        "surprise": 30.0,
        "loss": -1.0,
        "fixations_per_s": 15_000.0,
    }
    return json.dumps({**measured, **changes})


def write_metrics(run_dir, lines):
    (run_dir / "metrics.jsonl").write_text("\n".join(lines))


@pytest.fixture
def run_dir(tmp_path):
    write_metrics(tmp_path, [line(t) for t in range(1000, 101_000, 1000)])
    return tmp_path


def add_summary(run_dir):
    measured = {
        "information": 0.1,
        "effective_rank": 20.0,
        "embedding_std": 0.5,
        "known_again": 0.4,
    }
    summary = {"before": measured, "after": {**measured, "information": 2.0, "known_again": 0.8}}
    (run_dir / "summary.json").write_text(json.dumps(summary))


def sample_of(frames, shape=(60, 80)):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 255, (frames, *shape, 3), dtype=np.uint8),
        "pixels": rng.uniform(0, 60, (frames, 16, 2)),
        "surprise": rng.uniform(0, 40, (frames, 16)),
    }


def add_sample(run_dir, **changes):
    np.savez(run_dir / "sample.npz", **{**sample_of(3), **changes})


def add_checkpoint(run_dir, n_encoder_hidden=40, scale=None):
    """scale: of each hidden unit's weights to the embedding."""
    sizes = {"n_embedding": 128, "n_hidden": 16, "n_predictor": 16, "n_gain": 4}
    config = RunConfig(network=RJepaConfig(**sizes, n_encoder_hidden=n_encoder_hidden))
    learner = RJepa(config.network, seed=1)
    if scale is not None:
        W_z = learner.parameters()["W_z"]
        W_z[:, :-1] *= scale
        learner.set_parameters({"W_z": W_z})
    learner.save(run_dir / "checkpoint.safetensors", {"config": asdict(config)})


def picture(run_dir):
    path = report.draw_report(run_dir)
    assert path == run_dir / "report.png"
    assert [each.name for each in run_dir.glob("*.tmp")] == []
    image = matplotlib_image.imread(path)[..., :3]
    assert image.shape[1] > 1200
    return image


def has_colour(image, colour, at_least):
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return (np.abs(image - wanted).max(axis=2) < 0.02).sum() > at_least


@pytest.mark.slow
def test_curves_alone(run_dir):
    image = picture(run_dir)
    for *_, colour in report.CURVES:
        assert has_colour(image, colour, 200)
    assert has_colour(image, report.BLUE, 200)
    assert not has_colour(image, report.RED, 0)


@pytest.mark.slow
def test_everything_a_run_can_leave_is_drawn(run_dir):
    bare = picture(run_dir)
    for add in (add_summary, add_sample, add_checkpoint):
        add(run_dir)
        fuller = picture(run_dir)
        assert fuller.shape != bare.shape or (fuller != bare).any()
        bare = fuller


def places_of(figure):
    """What is drawn, and where, in pixels: each text, and all that belongs to each of the axes."""
    renderer = figure._get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in figure.texts]
    return boxes + [(axes.get_title(loc="left"), axes.get_tightbbox()) for axes in figure.axes]


def overlap(one, other):
    within = Bbox.intersection(one, other)
    return within is not None and min(within.width, within.height) > 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "lines", "judged"),
    [
        ((60, 80), 900, True),
        ((60, 480), 900, True),
        ((480, 60), 1, False),
        ((16, 16), 900, True),
        (None, 1, False),
        (None, 900, True),
    ],
)
def test_nothing_overlaps_and_nothing_is_cut_off(run_dir, shape, lines, judged):
    write_metrics(
        run_dir, [line(1000 * n, frames=n, rollbacks=n // 9) for n in range(1, lines + 1)]
    )
    add_checkpoint(run_dir)
    if judged:
        add_summary(run_dir)
    if shape:
        np.savez(run_dir / "sample.npz", **sample_of(3, shape))
    with rc_context(report.STYLE):
        figure = report._figure(
            "a long name $ of _ a run " * 9,
            report.read_metrics(run_dir / "metrics.jsonl"),
            report._read_network(run_dir),
            report.read_summary(run_dir),
            report.read_sample(run_dir),
        )
        places = places_of(figure)
    whole = figure.bbox
    for i, (what, box) in enumerate(places):
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1, what
        assert whole.y0 <= box.y0 and box.y1 <= whole.y1, what
        for other, its_box in places[:i]:
            assert not overlap(box, its_box), (what, other)


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "shape"), [(1, (90, 30)), (2, (36, 64)), (3, (60, 80))])
def test_frames_of_any_shape_fit(run_dir, frames, shape):
    np.savez(run_dir / "sample.npz", **sample_of(frames, shape))
    image = picture(run_dir)
    assert (image[:, -30:] > 0.99).all() and (image[-10:] > 0.99).all()  # nothing is cut off


@pytest.mark.slow
def test_a_sample_of_an_older_run_is_one_frame(run_dir):
    sample = sample_of(1)
    np.savez(run_dir / "sample.npz", **sample)
    now = picture(run_dir)
    np.savez(run_dir / "sample.npz", **{name: array[0] for name, array in sample.items()})
    np.testing.assert_array_equal(picture(run_dir), now)


@pytest.mark.slow
def test_surprise_that_is_not_finite_is_drawn_around(run_dir):
    for surprise in (np.full((3, 16), np.nan), np.where(np.eye(3, 16), np.inf, 1.0)):
        add_sample(run_dir, surprise=surprise)
        picture(run_dir)


@pytest.mark.slow
def test_filters_are_those_of_the_units_that_vary_most(run_dir):
    add_checkpoint(run_dir, n_encoder_hidden=0)
    first = picture(run_dir)
    tensors, metadata = checkpoint.load(run_dir / "checkpoint.safetensors")
    tensors["statistics.S_z"] = np.diag(np.arange(128.0)).astype(np.float32)
    checkpoint.save(run_dir / "checkpoint.safetensors", tensors, metadata)
    assert (picture(run_dir) != first).any()


@pytest.mark.slow
def test_filters_of_a_hidden_layer_are_those_of_the_units_that_move_the_embedding_most(run_dir):
    add_checkpoint(run_dir)
    first = picture(run_dir)
    tensors, metadata = checkpoint.load(run_dir / "checkpoint.safetensors")
    tensors["statistics.S_z"] = np.diag(np.arange(128.0)).astype(np.float32)
    checkpoint.save(run_dir / "checkpoint.safetensors", tensors, metadata)
    np.testing.assert_array_equal(picture(run_dir), first)  # the embedding's variance: no matter
    add_checkpoint(run_dir, scale=np.linspace(1.0, 9.0, 40))
    assert (picture(run_dir) != first).any()


@pytest.mark.slow
def test_a_run_that_only_an_older_checkpoint_is_left_of(run_dir):
    add_checkpoint(run_dir)
    whole = picture(run_dir)
    (run_dir / "checkpoint.safetensors").rename(run_dir / "checkpoint.1.safetensors")
    np.testing.assert_array_equal(picture(run_dir), whole)


def test_a_checkpoint_that_is_no_run_is_named(run_dir):
    RJepa(RJepaConfig(n_hidden=16)).save(run_dir / "checkpoint.safetensors")
    with pytest.raises(report.ReportError, match="checkpoint.safetensors is of another version"):
        report.draw_report(run_dir)


def test_many_values_are_reduced_to_their_means_and_extremes():
    values = np.arange(10.0)
    values[7:9] = np.nan
    x, low, mean, high = report._reduce(np.arange(10.0), values, 4)
    assert x.tolist() == [1.0, 5.0, 8.0]
    assert (low.tolist(), mean.tolist(), high.tolist()) == ([0, 4, 9], [1.5, 5, 9], [3, 6, 9])
    *_, high = report._reduce(np.arange(4.0), np.array([1.0, 2.0, np.nan, np.inf]), 2)
    np.testing.assert_array_equal(high, [2.0, np.nan])


@pytest.mark.slow
def test_a_day_keeps_its_spikes(run_dir):
    lines = [line(t) for t in range(1000, 20_001_000, 1000)]
    lines[7000] = line(7_001_000, surprise=3000.0)
    write_metrics(run_dir, lines)
    image = picture(run_dir)
    lines[7000] = line(7_001_000)
    write_metrics(run_dir, lines)
    assert (picture(run_dir) != image).any()


@pytest.mark.slow
def test_events_are_marked_where_they_were(run_dir):
    lines = [line(t, frames=t // 16) for t in range(1600, 160_001, 1600)]
    lines.append(json.dumps({"frames": 5000, "time_unix_s": 0.0, "event": "the camera died"}))
    write_metrics(run_dir, lines)
    record = report.read_metrics(run_dir / "metrics.jsonl")
    assert report._marks(record)["event"].tolist() == [80_000.0]
    without = report._marks(record._replace(events=[]))
    assert without["event"].size == 0 and without["rollback"].size == 0
    picture(run_dir)


@pytest.mark.slow
def test_rollbacks_are_marked_and_counted(run_dir):
    write_metrics(
        run_dir,
        [
            line(1000),
            line(2000, rollbacks=1),
            line(1500, rollbacks=1),
            line(3000, rollbacks=1),
        ],
    )
    assert has_colour(picture(run_dir), report.RED, 100)


def test_a_count_that_cannot_be_is_no_measurement(run_dir):
    lines = [line(1000), line(1e300), line(-1)]
    write_metrics(run_dir, lines)
    assert len(report.read_metrics(run_dir / "metrics.jsonl").measures) == 1
    picture(run_dir)


def test_half_written_lines_are_skipped(run_dir):
    write_metrics(run_dir, [line(1000), line(2000)[:40] + line(3000), "", "[]", line(4000)[:-9]])
    measures = report.read_metrics(run_dir / "metrics.jsonl").measures
    assert [each["fixations"] for each in measures] == [1000]


@pytest.mark.slow
def test_measurements_that_are_missing_or_not_finite_are_gaps(run_dir):
    write_metrics(
        run_dir,
        [line(1000), line(2000, information=float("nan"), surprise=None), '{"fixations": 3000}']
        + [line(4000, surprise=float("inf"), seconds="x"), line(5000)],
    )
    picture(run_dir)


@pytest.mark.parametrize("lines", [[], ["{"], ['{"information": 1.0}'], ['{"fixations": "many"}']])
def test_no_measurement_is_refused(run_dir, lines):
    write_metrics(run_dir, lines)
    with pytest.raises(report.ReportError, match="metrics.jsonl holds no measurement"):
        report.draw_report(run_dir)


def test_no_run_there_is_refused(tmp_path):
    with pytest.raises(report.ReportError, match="metrics.jsonl: No such file or directory"):
        report.draw_report(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["summary.json", "sample.npz", "checkpoint.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"PK\x03\x04 no archive", b"\x93NUMPY"])
def test_other_damaged_files_are_named(run_dir, name, content):
    (run_dir / name).write_bytes(content)
    with pytest.raises(report.ReportError, match=f"{name} is damaged") as caught:
        report.draw_report(run_dir)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("after", ["good", {"information": 1.0}, [1]])
def test_a_judgement_that_is_none_is_named(run_dir, after):
    (run_dir / "summary.json").write_text(json.dumps({"before": None, "after": after}))
    with pytest.raises(report.ReportError, match=r"summary\.json is damaged"):
        report.draw_report(run_dir)


def test_a_run_that_learned_on_is_not_judged_by_an_old_summary(run_dir):
    add_summary(run_dir)
    path = run_dir / "summary.json"
    judged = json.loads(path.read_text())
    measures = report.read_metrics(run_dir / "metrics.jsonl").measures
    for frames, outdated in ((5000, True), (6250, False), (None, False)):
        found = judged if frames is None else judged | {"frames": frames}
        path.write_text(json.dumps(found | {"after": found["after"] | {"known_again": None}}))
        summary = report.read_summary(run_dir)
        assert math.isnan(summary["after"]["known_again"])
        lines = [line | {"frames": line["fixations"] / 16} for line in measures]
        assert report.is_outdated(summary, lines) == outdated


def test_a_name_that_is_no_text_is_drawn(tmp_path):
    folder = tmp_path / os.fsdecode(b"run\xff")
    folder.mkdir()
    write_metrics(folder, [line(t) for t in range(1000, 5000, 1000)])
    assert report.draw_report(folder).exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"pixels": np.zeros((3, 2))},
        {"surprise": np.zeros((2, 16))},
        {"image": np.zeros((3, 60, 80), np.uint8)},
        {"image": np.zeros((3, 60, 80, 1), np.uint8)},
        {"image": np.zeros((3, 0, 80, 3), np.uint8)},
        {"image": np.zeros((3, 60, 80, 3))},
        {"image": np.full((3, 60, 80, 3), "a")},
        {name: array[:0] for name, array in sample_of(3).items()},
        {"pixels": np.full((3, 16, 2), np.nan)},
        {"surprise": np.full((3, 16), "a")},
        {"surprise": np.zeros((3, 16), complex)},
    ],
)
def test_a_sample_of_other_shapes_is_refused(run_dir, changes):
    add_sample(run_dir, **changes)
    with pytest.raises(report.ReportError, match="sample.npz is damaged"):
        report.draw_report(run_dir)


@pytest.mark.slow
def test_a_sample_that_unpacks_without_end_is_not_unpacked(run_dir):
    add_sample(run_dir)
    path = run_dir / "sample.npz"
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("more.npy", "w") as member:
            for _ in range(300):
                member.write(bytes(1 << 20))
    assert (run_dir / "sample.npz").stat().st_size < 10 << 20
    with pytest.raises(report.ReportError, match="sample.npz is damaged"):
        report.draw_report(run_dir)


@pytest.mark.parametrize("name", ["summary.json", "sample.npz"])
def test_only_files_of_the_folder_itself_are_drawn(run_dir, tmp_path_factory, name):
    add_summary(run_dir)
    add_sample(run_dir)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / name
    (run_dir / name).rename(elsewhere)
    (run_dir / name).symlink_to(elsewhere)
    with pytest.raises(report.ReportError, match=f"{name} is damaged"):
        report.draw_report(run_dir)


@pytest.mark.slow
def test_folder_that_cannot_be_written(run_dir):
    (run_dir / "report.png").mkdir()
    with pytest.raises(report.ReportError, match="cannot write .*report.png: Is a directory"):
        report.draw_report(run_dir)


def test_missing_matplotlib_names_the_command(run_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RJepaError, match=r'pip install "edge-rjepa\[demo\]"'):
        report.draw_report(run_dir)


@pytest.mark.slow
def test_matplotlib_is_imported_only_to_draw():
    program = "import sys, edge_rjepa.views.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_running_mean_leaves_out_what_is_not_finite():
    values = np.array([1.0, np.nan, 3.0, 5.0, np.inf])
    mean = report._running_mean(values, 3)
    np.testing.assert_allclose(mean, [1.0, np.nan, 4.0, 4.0, np.nan])


def test_stretches_break_where_fixations_go_back():
    fixations = np.array([1.0, 2.0, 3.0, 2.0, 3.0])
    assert report._forward_stretches(fixations) == [(0, 3), (3, 5)]
