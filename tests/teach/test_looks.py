"""What was taught: names, the budget, exact forgetting, and the file."""

import numpy as np
import pytest

from edge_rjepa.base import checkpoint
from edge_rjepa.encoder.naming import checked_name
from edge_rjepa.errors import CheckpointError, InputError
from edge_rjepa.teach import looks as module
from edge_rjepa.teach.looks import MOST_LOOKS_A_NAME, PLACE, THING, Looks, changing


def rows(seed: int, count: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((4, 6)).astype(np.float32) for _ in range(count)]


def taught(*names: tuple[str, int]) -> Looks:
    looks = Looks()
    looks.encoder = "retina 1"
    for name, count in names:
        looks.add(name, PLACE, rows(len(name), count))
    return looks


def same(one: Looks, other: Looks) -> bool:
    def plain(looks):
        return [
            (name, each.kind, each.visits, each.shown, np.array(each.rows).tobytes())
            for name, each in looks.names.items()
        ]

    return plain(one) == plain(other)


def test_forgetting_leaves_what_would_be_there_had_it_never_been_taught(tmp_path):
    without = taught(("kitchen", 3), ("hall", MOST_LOOKS_A_NAME + 9))
    with_one = taught(("kitchen", 3))
    with_one.add("cellar", PLACE, rows(1, 5))
    with_one.add("hall", PLACE, rows(4, MOST_LOOKS_A_NAME + 9))
    with_one.forget("cellar")
    assert same(without, with_one)
    without.save(tmp_path / "a")
    with_one.save(tmp_path / "b")
    assert same(Looks.load(tmp_path / "a"), Looks.load(tmp_path / "b"))


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    looks = taught(("kitchen", 3), ("Küche 台所", 1))
    looks.add("cup", THING, rows(9, 2))
    looks.save(tmp_path / "taught")
    again = Looks.load(tmp_path / "taught")
    assert same(looks, again)
    assert again.encoder == "retina 1"


def test_a_name_keeps_a_fair_choice_of_many_looks():
    kept = []
    for start in range(0, 3000, 300):
        looks = Looks()
        many = [np.full((1, 1), start + n, np.float32) for n in range(300)]
        for each in many:
            looks.add("hall", PLACE, [each])
        named = looks.names["hall"]
        assert len(named.rows) == MOST_LOOKS_A_NAME
        assert named.shown == 300
        kept += [float(each[0, 0]) - start for each in named.rows]
    assert 130 < np.mean(kept) < 170  # of 0..299, not the first or the last only


def test_there_is_an_end_to_looks_and_names(monkeypatch):
    monkeypatch.setattr(module, "MOST_LOOKS", 5)
    looks = taught(("kitchen", 3))
    with pytest.raises(InputError, match="3 looks are kept, and 5 is the most: forget a name"):
        looks.add("hall", PLACE, rows(0, 3))
    assert list(looks.names) == ["kitchen"]
    looks.add("hall", PLACE, rows(0, 2))
    monkeypatch.setattr(module, "MOST_LOOKS", 50)
    monkeypatch.setattr(module, "MOST_NAMES", 2)
    with pytest.raises(InputError, match="2 names are the most"):
        looks.add("office", PLACE, rows(0))


def test_a_thousand_names_of_one_look_fit_in_a_file(tmp_path):
    looks = Looks()
    for number in range(1000):
        looks.add(f"name {number}", PLACE, rows(number))
    looks.save(tmp_path / "taught")
    assert len(Looks.load(tmp_path / "taught").names) == 1000


@pytest.mark.parametrize(
    "name",
    ["", "  ", "a\nb", "x" * 101, "\x00", "a\u2028b", "\ud800", "\u200b", "a\u202eb", "...", 3],
)
def test_what_is_no_name_is_refused(name):
    with pytest.raises(InputError, match="is no name"):
        checked_name(name)


def test_names_are_the_same_however_they_are_typed():
    assert checked_name(" Küche ") == checked_name("Ku\u0308che")
    for name in ("مطبخ 🍳", "👩\u200d🍳", "می\u200cشود", "3"):
        assert checked_name(name) == name


def test_unknown_is_no_name():
    with pytest.raises(InputError, match="is what is said where no name fits"):
        checked_name("Unknown")


def test_forgetting_the_last_name_forgets_the_encoder_too():
    looks = taught(("kitchen", 1))
    looks.forget("kitchen")
    assert looks.encoder is None
    assert looks.shape is None


@pytest.mark.parametrize("many", [[], [np.zeros((4, 7), np.float32)], [np.zeros((5, 6))] * 2])
def test_looks_that_are_unlike_the_others_are_refused(many):
    looks = taught(("kitchen", 1))
    with pytest.raises(InputError, match="no looks at 'hall' that are like the others"):
        looks.add("hall", PLACE, many)
    assert list(looks.names) == ["kitchen"]


def test_a_name_is_of_one_kind():
    looks = taught(("kitchen", 1))
    with pytest.raises(InputError, match="taught as a place: give the thing another name"):
        looks.add("kitchen", THING, rows(0))


def test_forgetting_what_was_not_taught_tells_what_was():
    with pytest.raises(InputError, match="'cellar' was not taught: known are kitchen"):
        taught(("kitchen", 1)).forget("cellar")


def test_looks_too_large_for_half_floats_are_kept_as_the_largest():
    looks = Looks()
    looks.add("hall", PLACE, [np.full((1, 2), 1e9, np.float32)])
    assert np.isfinite(looks.names["hall"].rows[0]).all()


def metadata(**changes) -> dict:
    name = {"name": "hall", "kind": "place", "visits": [0, 0], "shown": 2}
    return {
        "kind": "taught", "taught": 1, "encoder": None, "names": [name | changes.pop("name", {})],
    } | changes  # fmt: skip


GOOD = np.zeros((2, 4, 6), np.float16)


@pytest.mark.parametrize(
    ("tensor", "notes", "message"),
    [
        (GOOD, {"kind": "learner"}, "holds nothing that was taught"),
        (GOOD, {"taught": 2}, "of another version of edge_rjepa: teach again"),
        (GOOD, {"names": 3}, "is damaged"),
        (GOOD, {"name": {"kind": "dream"}}, "is damaged"),
        (GOOD, {"name": {"visits": [0, -1]}}, "is damaged"),
        (GOOD, {"name": {"shown": 1}}, "is damaged"),
        (GOOD, {"name": {"shown": 2**60}}, "is damaged"),
        (GOOD, {"name": {"name": " hall"}}, "is damaged"),
        (GOOD, {"name": {"visits": [0]}}, "lacks the looks"),
        (GOOD.astype(np.float32), {}, "lacks the looks"),
        (np.zeros((2, 4, 5000), np.float16), {}, "has looks of"),
        (GOOD + np.float16(np.nan), {}, "NaN or infinity"),
    ],
)
def test_files_that_cannot_be_are_refused_in_a_line(tmp_path, tensor, notes, message):
    checkpoint.save(tmp_path / "taught", {"rows": tensor}, metadata(**notes))
    with pytest.raises(CheckpointError, match=message) as refused:
        Looks.load(tmp_path / "taught")
    assert "\n" not in str(refused.value)


def test_the_file_those_are_made_from_is_read(tmp_path):
    checkpoint.save(tmp_path / "taught", {"rows": GOOD}, metadata())
    assert len(Looks.load(tmp_path / "taught")) == 2


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "taught"
    taught(("kitchen", 3)).save(path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        Looks.load(path)


def test_changing_a_file_where_nothing_can_be_written_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="cannot write beside"), changing(tmp_path / "a/b"):
        pass


# -- of several ------------------------------------------------------------------------------------


def test_what_several_were_taught_is_as_if_one_had_been():
    both = Looks()
    both.encoder = "retina 1"
    both.add("kitchen", PLACE, rows(7, 3))
    both.add("hall", PLACE, rows(4, 2))
    both.add("kitchen", PLACE, rows(7, 4))
    merging = Looks.merged([taught(("kitchen", 3), ("hall", 2)), taught(("kitchen", 4))])
    assert same(merging, both)
    assert merging.names["kitchen"].visits == [0, 0, 0, 1, 1, 1, 1]


def test_nothing_is_left_in_those_that_were_merged():
    one, other = taught(("kitchen", 3)), taught(("kitchen", 2))
    Looks.merged([one, other]).add("kitchen", PLACE, rows(1, 5))
    assert same(one, taught(("kitchen", 3))) and same(other, taught(("kitchen", 2)))


def test_of_too_many_looks_each_has_the_same_chance():
    one, other = Looks(), Looks()
    one.add("hall", PLACE, rows(1, 192))  # 64 are kept, each for three
    other.add("hall", PLACE, rows(2, 64))
    own = {each.tobytes() for each in one.names["hall"].rows}
    named = Looks.merged([one, other]).names["hall"]
    assert len(named.rows) == MOST_LOOKS_A_NAME and named.shown == 256
    assert len({each.tobytes() for each in named.rows}) == MOST_LOOKS_A_NAME
    assert 38 <= sum(each.tobytes() in own for each in named.rows) <= 58  # 44 .. 48 expected


def test_nothing_was_taught():
    assert Looks.merged([]).names == {} and Looks.merged([Looks(), taught(("a", 1))]).names


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda looks: setattr(looks, "encoder", "file 3"), "different encoders"),
        (lambda looks: looks.names["kitchen"].__setattr__("kind", THING), "by another name"),
    ],
)
def test_what_does_not_go_together_is_refused(change, says):
    strange = taught(("kitchen", 1))
    change(strange)
    with pytest.raises(InputError, match=says):
        Looks.merged([taught(("kitchen", 1)), strange])
    many = [taught(*((f"{i} {k}", 64) for k in range(20))) for i in range(2)]
    with pytest.raises(InputError, match="2560 looks"):
        Looks.merged(many)
