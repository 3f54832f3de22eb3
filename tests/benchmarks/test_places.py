"""The protocol `places` of benchmarks/learning.py, on small made-up pictures."""

import argparse
import dataclasses
import itertools

import numpy as np
import pytest

from benchmarks import learning, photographs, places, places_peers
from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.eye.config import RetinaConfig

WIDTH, HEIGHT = 300, 200
PLACES = 4
SMALL = {"n_embedding": 8, "n_hidden": 8, "n_predictor": 8, "n_gain": 4, "update_every": 1}


def coloured(name: str) -> list[np.ndarray]:
    """Noise, each picture about a colour of its own; those called paintings are greyer."""
    rng = np.random.default_rng(len(name))
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60]])
    if name != "monuments":
        colours = colours // 4 + 90
    noise = rng.integers(-50, 50, (PLACES, HEIGHT, WIDTH, 1))
    return list((colours[:, None, None] + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def protocol():
    return places.Places(pictures=coloured)


@pytest.fixture(scope="module")
def many_blocks(protocol):
    return list(itertools.islice(protocol.blocks(np.random.default_rng(1)), 200))


def corners(protocol, part):
    return np.concatenate([protocol.retina.corners(part.views[0].image, p) for p in part.pixels])


def test_windows_stay_in_their_half(protocol):
    """And come up to its borders: a sampler that stays in the middle would pass, too."""
    side = protocol.retina.config.window_px
    for part, (left, right) in (
        (protocol.fitted, (0, WIDTH // 2)),
        (protocol.asked, (WIDTH // 2, WIDTH)),
    ):
        first = corners(protocol, part)
        assert first[:, 0].min() in range(left, left + 3)
        assert first[:, 0].max() + side in range(right - 2, right + 1)
        assert first[:, 1].min() in range(3)
        assert first[:, 1].max() + side in range(HEIGHT - 2, HEIGHT + 1)


def test_learning_sees_left_halves_only():
    """What lies right of the middle makes no difference to it, and to asking it does."""

    def cut(name):
        pictures = coloured(name)
        for picture in pictures:
            picture[:, WIDTH // 2 :] = 0
        return pictures

    both = [places.Places(pictures=pictures) for pictures in (coloured, cut)]
    streams = [each.blocks(np.random.default_rng(1)) for each in both]
    for one, other in itertools.islice(zip(*streams, strict=True), 50):
        np.testing.assert_array_equal(one.features, other.features)
    np.testing.assert_array_equal(both[0].features[0], both[1].features[0])
    assert np.abs(both[0].features[1] - both[1].features[1]).max() > 0.1


def test_elsewhere_learns_from_other_pictures(protocol):
    elsewhere = places.Places(pictures=coloured, elsewhere=True)
    assert len(elsewhere.visited) == 2 * PLACES
    assert all(max(view.image.shape) == places.PICTURE_PX for view in elsewhere.visited)
    assert all((view.left, view.right) == (0, view.image.shape[1]) for view in elsewhere.visited)
    np.testing.assert_array_equal(elsewhere.features[1], protocol.features[1])


def test_no_sequence_is_shared(protocol):
    parts = protocol.fitted, protocol.asked
    assert [len(part) for part in parts] == [PLACES * 40, PLACES * 25]
    found = {pixels.tobytes() for part in parts for pixels in part.pixels}
    assert len(found) == PLACES * 65
    assert np.bincount(protocol.asked.labels).tolist() == [25] * PLACES


def test_the_past_is_forgotten_before_each_visit_only(many_blocks):
    resets = [block.reset_before for block in many_blocks]
    assert np.flatnonzero(resets).tolist() == list(range(0, 200, places.VISIT_FRAMES))


@pytest.mark.slow
def test_lifelike_visits_have_all_lengths():
    protocol = places.Places(pictures=coloured, visit_frames=(2, 16))
    blocks = itertools.islice(protocol.blocks(np.random.default_rng(1)), 4000)
    lengths = np.diff(np.flatnonzero([block.reset_before for block in blocks]))
    assert (lengths.min(), lengths.max()) == (2, 16)
    # As many of 2..5 as of 6..16, about: log(6 / 2) and log(17 / 6) are alike.
    assert 0.4 < (lengths < 6).mean() < 0.65


def test_the_efference_copy_tells_where_gaze_went(many_blocks):
    """Saccades add up to where gaze is, from the middle of the half at the start of a visit."""
    gaze = np.zeros(2)
    for block in many_blocks:
        if block.reset_before:
            gaze = np.zeros(2)
        steps, at = 0.1 * block.efference[:, :2], 0.25 * block.efference[:, 2:]
        np.testing.assert_allclose(gaze + np.cumsum(steps, axis=0), at, atol=1e-5)
        gaze = at[-1]


def test_saccades_have_the_length_of_the_runtime():
    wide = places.View(np.zeros((4000, 4000, 3), np.uint8), 0, 4000)
    walk = places.Walk(wide, 64, np.random.default_rng(0))
    pixels = np.concatenate([walk.frame()[0] for _ in range(300)])
    length = np.log(np.linalg.norm(np.diff(pixels, axis=0), axis=1))
    assert np.median(length) == pytest.approx(np.log(30.0), abs=0.05)
    assert length.std() == pytest.approx(0.7, abs=0.05)


def told_by_histogram(protocol, labels=None):
    rows, _ = places_peers.described(
        protocol, lambda image, at, _: places_peers.hsv(protocol.retina.windows(image, at))
    )
    labels = protocol.fitted.labels if labels is None else labels
    return places.accuracies(rows[0], labels, rows[1], protocol.asked.labels)


def test_places_of_one_colour_each_are_told_by_the_histogram(protocol):
    found = told_by_histogram(protocol)
    assert sorted(found) == sorted(
        f"{c}{n}" for c in ("ridge", "neighbours") for n in ("", ", 1", ", 5")
    )
    assert min(found.values()) > 0.95


@pytest.mark.slow
def test_shuffled_labels_are_told_by_chance(protocol):
    labels = np.random.default_rng(0).permutation(protocol.fitted.labels)
    found = told_by_histogram(protocol, labels)
    assert max(found.values()) < 0.5  # chance is 0.25


def test_few_labels_are_drawn_of_every_place():
    labels = np.repeat(np.arange(PLACES), 7)
    draws = [places.draw(labels, 3, np.random.default_rng(seed)) for seed in range(20)]
    for drawn in draws:
        assert np.bincount(labels[drawn]).tolist() == [3] * PLACES
        assert len(set(drawn.tolist())) == 3 * PLACES
    assert set(np.concatenate(draws).tolist()) == set(range(len(labels)))


def test_whitening_is_picked_without_the_rows_asked():
    """Where only a direction of little variance tells classes apart, little shrinkage is right."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2), 40)
    rows = rng.normal(size=(80, 3))
    rows[:, 0] = 0.1 * (2.0 * labels - 1.0) + 0.02 * rows[:, 0]
    told = [places.left_out_accuracy(unit(rows), labels) for unit in places.whitenings(rows)]
    best = places.SHRINKAGES[int(np.argmax(told))]
    assert best <= 0.01 and max(told) > min(told) + 0.2


def test_a_score_leaves_the_learner_as_it_was(protocol):
    model = RJepa(RJepaConfig(n_features=protocol.n_features, **SMALL))
    before = model.digest
    scores = protocol.score(model)
    assert model.digest == before
    assert scores == protocol.score(model)
    assert {"z ridge", "all neighbours", "z ridge, 1", "information", "saturation"} <= set(scores)


@pytest.mark.slow
def test_every_peer_describes_a_frame(protocol, monkeypatch):
    monkeypatch.setattr(places_peers, "SLOW_BLOCKS", 200)
    for peer in places_peers.peers(protocol):
        rows, _ = places_peers.described(protocol, peer.describe)
        assert np.isfinite(rows[0]).all() and rows[0].shape[1] == rows[1].shape[1]
        assert peer.operations > 0
        if peer.name == "k-means bag of 8 x 8 patches":
            found = places.accuracies(
                rows[0], protocol.fitted.labels, rows[1], protocol.asked.labels
            )
            assert found["ridge"] > 0.95


def test_the_slowest_direction_is_found():
    rng = np.random.default_rng(0)
    t = np.arange(5000)
    sources = np.stack([np.sin(t / 100.0), rng.normal(size=5000), np.sin(t)], axis=1)
    mixed = sources @ rng.normal(size=(3, 3))
    steps = np.diff(mixed, axis=0)
    slow = places_peers.slowest(np.cov(mixed, rowvar=False), steps.T @ steps / len(steps))
    found = (mixed - mixed.mean(axis=0)) @ slow[:, 0]
    assert abs(np.corrcoef(found, sources[:, 0])[0, 1]) > 0.99


def test_crops_stay_in_their_half(protocol):
    black = [view._replace(image=view.image.copy()) for view in protocol.asked.views]
    for view in black:
        view.image[:, : view.left] = 0
    crops = places_peers.crops_of(protocol, dataclasses.replace(protocol.asked, views=black))
    assert crops.shape == (PLACES * 25, 224, 224, 3)
    assert crops.max(axis=-1).min() > 0


def test_pictures_are_found_in_an_archive():
    webp = b"RIFF" + (2004).to_bytes(4, "little") + b"WEBP" + bytes(2000)
    thumbnail = b"\xff\xd8\xff" + bytes(50)
    jpeg = b"\xff\xd8\xff" + bytes(500) + thumbnail + bytes(1000)
    sound = b"RIFF" + (300).to_bytes(4, "little") + b"WAVE" + bytes(296)
    archive = b"head" + webp + sound + len(jpeg).to_bytes(4, "big") + jpeg + webp + b"tail"
    assert list(photographs.pictures_in(archive)) == [webp, webp, jpeg]


def test_other_pictures_than_those_of_the_figures_are_refused(tmp_path):
    for name in photographs.COUNTS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "000.jpg").write_bytes(b"other")
    with pytest.raises(SystemExit, match="1 pictures called monuments, not the 49") as refused:
        photographs.load("monuments", tmp_path)
    assert "\n" not in str(refused.value)


def test_a_download_that_fails_says_so_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="error: no photographs, apt-get download") as refused:
        photographs.load("monuments", tmp_path)
    assert "\n" not in str(refused.value)


def test_the_command_line_says_which_jobs():
    options = argparse.Namespace(
        what="places", seeds=2, quick=False, budgets=learning.budgets_of("0,0.4M,1000"),
        learner=["RFP", "untrained"], set=[learning.setting_of(RJepaConfig)("noise_floor=0.1")],
        pictures=None, elsewhere=True, visits=learning.visits("20:500"),
        retina=[learning.setting_of(RetinaConfig)("orientation_scales=0")],
    )  # fmt: skip
    jobs = learning.jobs_of(options)
    assert [(job.learner, job.seed, job.budgets) for job in jobs] == [
        (learner, seed, budgets)
        for seed in (0, 1)
        for learner, budgets in (("untrained", (0,)), ("RFP", (1000, 400_000)))
    ]
    assert jobs[0].network == (("noise_floor", 0.1),)
    assert dict(jobs[0].options) == {
        "folder": None, "elsewhere": True, "visit_frames": (20, 500),
        "retina": (("orientation_scales", 0),),
    }  # fmt: skip
    with pytest.raises(argparse.ArgumentTypeError, match="no noise"):
        learning.setting_of(RJepaConfig)("noise=1")


def test_a_job_prints_and_keeps_its_rows(protocol, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(learning, "protocol_named", lambda name, options: protocol)
    job = learning.Job("places", "RFP", "gated", 0, (0, 32), (), tuple(SMALL.items()))
    rows = learning.learn(job, tmp_path / "rows.jsonl")
    assert [row["fixations"] for row in rows] == [0, 32]
    assert rows[0]["z ridge"] != rows[1]["z ridge"] or rows[0]["std"] != rows[1]["std"]
    assert (tmp_path / "rows.jsonl").read_text() == capsys.readouterr().out
