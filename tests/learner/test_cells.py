"""Cells: what registration refuses, and that a new one is the function and the call docs/ show."""

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.errors import ConfigError
from edge_rjepa.learner import cells, reference
from edge_rjepa.learner import check_gradients as check
from edge_rjepa.learner.cells import (
    CELLS,
    Cell,
    cos,
    find,
    like,
    one_minus,
    register,
    sigmoid,
    sin,
    tanh,
)

DOC = Path(__file__).parents[2] / "docs" / "cells.md"


@pytest.fixture(autouse=True)
def registry():
    """Whatever a test registers is gone after it."""
    kept = [(registered, dict(registered)) for registered in (CELLS, reference.CELLS)]
    yield
    for registered, before in kept:
        registered.clear()
        registered.update(before)


def braid(y, s, l):  # noqa: E741
    """Made up: three values that stir each other, all input and parameters used more than once."""
    a, b, c = y
    k = sigmoid(s[0] + l[0] * c)
    new_a = tanh(s[1] + l[1] * b * c)
    new_b = b + k * (a - b)
    new_c = sin(s[2] + l[2] * a) * cos(s[0])
    da, dk = one_minus(new_a * new_a), k * one_minus(k) * (a - b)
    wave, slope = cos(s[2] + l[2] * a) * cos(s[0]), -sin(s[2] + l[2] * a) * sin(s[0])
    zero = like(a, 0.0)
    return (
        (new_a, new_b, new_c),
        (
            (zero, da * l[1] * c, da * l[1] * b),
            (k, one_minus(k), dk * l[0]),
            (wave * l[2], zero, zero),
        ),
        ((zero, da, zero), (dk, zero, zero), (slope, zero, wave)),
        ((zero, da * b * c, zero), (dk * c, zero, zero), (zero, zero, wave * a)),
    )  # fmt: skip


BRAID = Cell(
    "braid",
    braid,
    n_state=3,
    n_projections=3,
    n_parameters=3,
    reads=(2, 0),
    initial_parameters=lambda rng, n: rng.normal(size=(3, n)),
    initial_projection_bias=lambda rng, n: np.zeros((3, n)),
    initial_place_std=(2.0, 0.1, 0.1),
)


def plainly(step):
    """The update of a cell function alone, for the reference: its derivatives are not used."""
    return lambda *lists: list(step(*map(tuple, lists))[0])


def altered(change):
    """`braid` with `change(y, J, B, D)`, lists, applied to what it returns."""

    def step(y, s, l):  # noqa: E741
        new, *derivatives = braid(y, s, l)
        returned = [list(new), *([list(row) for row in d] for d in derivatives)]
        change(*returned)
        return returned

    return replace(BRAID, step=step)


def refusal(cell) -> str:
    with pytest.raises(ConfigError) as caught:
        register(cell)
    message = str(caught.value)
    assert cell.name not in CELLS and f"cell '{cell.name}'" in message
    return message


@pytest.mark.parametrize("which", ["J", "B", "D"])
@pytest.mark.parametrize(("row", "column"), [(0, 1), (1, 0), (2, 2)])
def test_one_wrong_derivative_is_refused_and_named(which, row, column):
    def change(y, *derivatives):
        derivatives["JBD".index(which)][row][column] += 1e-9

    message = refusal(altered(change))
    assert f"column {3 * 'JBD'.index(which) + column} of (J, B, D)" in message


def test_right_derivatives_are_accepted():
    assert register(altered(lambda *returned: None)) is find("braid")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda y, J, B, D: D.pop(), "derivatives"),
        (lambda y, J, B, D: J[0].pop(), "derivatives"),
        (lambda y, J, B, D: [row.pop() for row in B], "8 columns in all, .* say 9"),
        (lambda y, J, B, D: [row.append(row[0]) for row in D], "10 columns in all, .* say 9"),
    ],
    ids=["row missing", "ragged", "narrow", "wide"],
)
def test_derivatives_of_another_shape_are_refused(change, reason):
    assert re.search(reason, refusal(altered(change)))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"reads": ()}, "reads"),
        ({"reads": (0, 3)}, "reads"),
        ({"reads": (-1,)}, "reads"),
        ({"initial_place_std": (2.0, 0.1)}, "initial_place_std must name 3 projections"),
        ({"n_projections": 0}, "must be 1 to 4"),
        ({"n_parameters": 5}, "must be 1 to 4"),
    ],
)
def test_sizes_out_of_range_are_refused(wrong, reason):
    assert reason in refusal(replace(BRAID, **wrong))


@pytest.mark.parametrize("name", ["dense", "rnn", "elman", "gru", "vanilla"])
def test_dense_recurrence_is_refused_with_the_reason(name):
    with pytest.raises(
        ConfigError, match="dense recurrent matrix.*not approximate.*gated"
    ) as caught:
        RJepaConfig(cell=name)
    assert "\n" not in str(caught.value)


def test_unknown_cell_lists_the_known():
    with pytest.raises(ConfigError, match="'gatd' is unknown; choose one of gated, leaky, lstm"):
        find("gatd")


@pytest.mark.parametrize("cell", list(CELLS.values()), ids=list(CELLS))
def test_cells_are_the_reference_s_and_start_in_shape(cell):
    update, n_state, reads = reference.CELLS[cell.name]
    assert (cell.n_state, cell.reads) == (n_state, reads)
    rng = np.random.default_rng(0)
    sizes = (cell.n_state, cell.n_projections, cell.n_parameters)
    y, s, local = (tuple(rng.normal(size=(size, 50))) for size in sizes)
    np.testing.assert_allclose(cell.step(y, s, local)[0], update(y, s, local), rtol=1e-12)
    assert cell.initial_parameters(rng, 9).shape == (cell.n_parameters, 9)
    assert cell.initial_projection_bias(rng, 9).shape == (cell.n_projections, 9)


@pytest.mark.parametrize("name", list(CELLS))
def test_vocabulary_is_all_a_cell_names(name):
    assert set(CELLS[name].step.__code__.co_names) <= set(cells.VOCABULARY)


@pytest.mark.slow
def test_made_up_cell_has_exact_gradients():
    register(BRAID)
    reference.CELLS["braid"] = (plainly(braid), 3, BRAID.reads)
    rows = check.check_gradients(["braid"], dtypes=["float64"])
    assert len(rows) == 2 * (8 + 9) and all(row.ok for row in rows), check.table(rows)


@pytest.mark.slow
def test_the_cell_of_the_docs(tmp_path, monkeypatch, capsys):
    """Runs every block of docs/cells.md as the module a reader would write."""
    blocks = re.findall(r"^```python\n(.*?)^```", DOC.read_text(encoding="utf-8"), re.M | re.S)
    (tmp_path / "my_cell.py").write_text("\n\n".join(blocks), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("my_cell")
    monkeypatch.delitem(sys.modules, "my_cell")

    assert blocks[0].count("def ") == 1 and blocks[0].count("register(") == 1
    assert all(row.ok for row in mine.rows) and "indrnn" in capsys.readouterr().out
    sizes = mine.model.config
    block = np.ones((16, sizes.n_features)), np.ones((16, sizes.n_efference))
    assert mine.model.embed(*block)[1].shape == (16, sizes.n_hidden)
    assert information_gained_on_a_ring("indrnn") > 0.5


def information_gained_on_a_ring(cell) -> float:
    """Nats gained where the features tell an angle and the efference copy how far it turns."""
    rng = np.random.default_rng(1)
    turns = rng.normal(size=(400, 16, 1))
    angles = np.cumsum(turns).reshape(turns.shape)
    features = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    sizes = {"n_features": 2, "n_efference": 1, "n_embedding": 8, "n_hidden": 8, "n_predictor": 16}
    rates = {"learning_rate": 1e-2, "update_every": 1, "statistics_fixations": 500}
    learner = RJepa(RJepaConfig(**sizes, **rates, cell=cell))
    reports = [learner.learn_block(*block) for block in zip(features, turns, strict=True)]
    return reports[-1].information - reports[0].information


def test_docs_name_every_cell():
    text = DOC.read_text(encoding="utf-8")
    for cell in CELLS.values():
        row = f"| `{cell.name}` | {cell.n_state}, {cell.n_projections}, {cell.n_parameters} |"
        assert row in text
    assert all(name in text for name in cells.VOCABULARY)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:compiled kernels are not kept")
def test_a_cell_typed_at_a_prompt_learns():
    """No file holds its source."""
    code = DOC.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    code = code.replace("indrnn", "typed")
    exec(compile(code, "<stdin>", "exec"), {"__name__": "__main__"})
    assert information_gained_on_a_ring("typed") > 0.5
