"""Teach, ask, forget; the encoder learns on meanwhile."""

import numpy as np
import pytest

from edge_rjepa.errors import CheckpointError, InputError
from edge_rjepa.teach.looks import THING
from edge_rjepa.teach.recogniser import Recogniser, cut_out
from tests.teach.rooms import RETINA, look, looks, opened, small_learner

ROOMS = {"kitchen": 0, "hall": 1, "Büro": 2, "cellar": 3}


@pytest.fixture(scope="module")
def encoder():
    return opened(small_learner())


def taught(encoder, *names: str) -> Recogniser:
    recogniser = Recogniser(encoder)
    for visit in (0, 10):
        for name in names:
            recogniser.teach(name, looks(ROOMS[name], range(visit, visit + 3)))
    return recogniser


def test_rooms_are_known_again_and_others_are_not(encoder):
    recogniser = taught(encoder, "kitchen", "hall", "Büro")
    for name in ("kitchen", "hall", "Büro"):
        answers = [recogniser.recognise(view) for view in looks(ROOMS[name], range(50, 58))]
        assert sum(answer.name == name for answer in answers) >= 6
        assert all(0.0 <= answer.probability <= 1.0 for answer in answers)
    strangers = [recogniser.recognise(view).name for view in looks(9, range(8))]
    assert strangers.count(None) >= 6


def test_nothing_is_known_before_anything_is_taught(encoder):
    assert Recogniser(encoder).recognise(look(0, 0)) == (None, 1.0)
    assert Recogniser(encoder).trial() is None


def test_what_remains_after_forgetting_answers_to_the_bit_as_if_never_taught(encoder):
    with_cellar = taught(encoder, "kitchen", "cellar", "hall")
    with_cellar.recognise(look(0, 1))  # described once already
    with_cellar.forget("cellar")
    never = taught(encoder, "kitchen", "hall")
    for view in looks(0, range(60, 63)) + looks(3, range(3)):
        np.testing.assert_array_equal(with_cellar.likeness(view), never.likeness(view))
        assert with_cellar.recognise(view) == never.recognise(view)


def test_a_thing_is_told_from_things_and_by_its_box(encoder):
    recogniser = taught(encoder, "kitchen")
    box = (0.25, 0.25, 0.5, 0.5)
    view = look(5, 1)
    recogniser.teach("cup", [view, view], box)
    recogniser.teach("plate", [look(6, 1)] * 2, box)
    changed = np.full_like(view, 90)  # all but the box
    changed[30:90, 40:120] = view[30:90, 40:120]
    assert recogniser.recognise(changed, box).name == "cup"
    assert recogniser.names(THING) == ["cup", "plate"]
    assert recogniser.names() == ["kitchen"]


def test_it_comes_back_from_its_file(tmp_path, encoder):
    recogniser = taught(encoder, "kitchen", "hall")
    recogniser.save(tmp_path / "taught")
    again = Recogniser.load(tmp_path / "taught", encoder)
    for view in looks(1, range(70, 73)):
        assert again.recognise(view) == recogniser.recognise(view)


def test_taught_names_follow_an_encoder_that_learns_on(tmp_path):
    learner = small_learner()
    recogniser = taught(opened(learner), "kitchen", "hall", "Büro")
    before = recogniser.likeness(look(0, 80))
    rng = np.random.default_rng(0)
    for _ in range(200):
        view = look(int(rng.integers(4)), int(rng.integers(1000)))
        at = rng.integers(20, (140, 100), (16, 2))
        learner.learn_block(RETINA(view, at), rng.standard_normal((16, 4), np.float32))
    np.testing.assert_array_equal(recogniser.likeness(look(0, 80)), before)  # until it is renewed
    recogniser.renew()
    after = recogniser.likeness(look(0, 80))
    assert abs(after - before).max() > 1e-3
    fresh = taught(opened(learner), "kitchen", "hall", "Büro")
    np.testing.assert_array_equal(after, fresh.likeness(look(0, 80)))


def test_the_file_of_another_encoder_is_refused(tmp_path, encoder):
    recogniser = taught(encoder, "kitchen")
    recogniser.looks.encoder = "retina 0"
    recogniser.save(tmp_path / "taught")
    with pytest.raises(InputError, match="of another encoder than run: name that one"):
        Recogniser.load(tmp_path / "taught", encoder)
    with pytest.raises(CheckpointError, match="cannot read"):
        Recogniser.load(tmp_path / "none", encoder)


@pytest.mark.parametrize("shape", [(16, 6), (4, RETINA.n_features)])
def test_a_file_whose_looks_are_of_another_size_is_refused(tmp_path, encoder, shape):
    recogniser = Recogniser(encoder)
    recogniser.teach_rows("kitchen", [np.zeros(shape, np.float32)])
    recogniser.save(tmp_path / "taught")
    with pytest.raises(CheckpointError, match="has looks of .*, not this encoder's: teach again"):
        Recogniser.load(tmp_path / "taught", encoder)


def test_once_all_is_forgotten_another_encoder_may_be_taught(tmp_path, encoder):
    recogniser = taught(encoder, "kitchen")
    recogniser.looks.encoder = "retina 0"
    recogniser.forget("kitchen")
    recogniser.save(tmp_path / "taught")
    Recogniser.load(tmp_path / "taught", encoder).teach("hall", look(1, 0))


def test_what_cannot_be_taught_leaves_everything_as_it_was(encoder):
    recogniser = taught(encoder, "kitchen")
    for name, pictures, box in (
        ("hall", [look(1, 0), np.zeros((3, 3), np.uint8)], None),
        ("a\nb", look(1, 0), None),
        ("hall", None, None),
        ("hall", [], None),
        ("hall", "picture.jpg", None),
        ("hall", look(1, 0), (0.5, 0.5, 0.6, 0.1)),
        ("hall", look(1, 0), (0.5, 0.5, 0.0, 0.1)),
        ("kitchen", look(1, 0), (0.0, 0.0, 1.0, 1.0)),
    ):
        with pytest.raises(InputError):
            recogniser.teach(name, pictures, box)
    assert recogniser.names() == ["kitchen"]
    assert len(recogniser.looks) == 6
    with pytest.raises(InputError, match="false_acceptance = 0.7"):
        Recogniser(encoder, 0.7)


def test_memory_does_not_grow_by_asking(encoder):
    recogniser = taught(encoder, "kitchen", "hall")
    recogniser.recognise(look(0, 0))
    held = recogniser.nbytes
    for seed in range(20):
        recogniser.recognise(look(seed % 4, seed))
    assert recogniser.nbytes == held


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 500, 3), (700, 3, 3)])
def test_pictures_of_any_shape_can_be_taught_and_cut(encoder, shape):
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    recogniser = Recogniser(encoder)
    recogniser.teach("strip", picture)
    recogniser.teach("corner", picture, (0.99, 0.99, 0.01, 0.01))
    assert recogniser.recognise(picture).name == "strip"
    assert cut_out(picture, (0.0, 0.0, 1.0, 1.0)).shape == shape
    assert cut_out(picture, (0.9999, 0.9999, 1e-5, 1e-5)).size == 3
