"""The table of `make attack` names what is there, and counts what it should."""

import ast
from pathlib import Path

import pytest

from tests.attacks import faults

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("selected", [each for tests in faults.FAULTS.values() for each in tests])
def test_every_test_that_is_named_is_there(selected):
    path, _, name = selected.partition("::")
    assert (TESTS / path).exists()
    if name:
        tree = ast.parse((TESTS / path).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_what_is_marked_attack_is_in_the_table():
    """Else it would run nowhere."""
    named = {selected.partition("::")[0] for tests in faults.FAULTS.values() for selected in tests}
    for path in TESTS.rglob("test_*.py"):
        place = path.relative_to(TESTS)
        if "mark.attack" in path.read_text() and path != Path(__file__):
            assert str(place) in named or str(place.parent) in named, place


def test_a_test_is_counted_for_its_own_faults():
    assert faults.is_of("tests/a/test_b.py::test_c[1-x]", "a/test_b.py::test_c")
    assert faults.is_of("tests/a/test_b.py::test_c", "a/test_b.py")
    assert faults.is_of("tests/a/test_b.py::test_c", "a")
    assert not faults.is_of("tests/a/test_b.py::test_cd", "a/test_b.py::test_c")
    assert not faults.is_of("tests/ab/test_b.py::test_c", "a")


def test_what_fell_is_told_from_what_was_not_run(tmp_path):
    (tmp_path / "found.xml").write_text(
        '<testsuites><testsuite><testcase classname="tests.a" name="x"/>'
        '<testcase classname="tests.a" name="y[1]"><failure/></testcase>'
        '<testcase classname="tests.a" name="z"><skipped/></testcase></testsuite></testsuites>'
    )
    assert list(faults.outcomes_in(tmp_path / "found.xml").items()) == [
        ("tests/a.py::x", "held"), ("tests/a.py::y[1]", "fell"), ("tests/a.py::z", "not run"),
    ]  # fmt: skip
