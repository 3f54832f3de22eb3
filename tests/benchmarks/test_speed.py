"""The yardsticks of benchmarks/speed.py: turns, counts, the memory formula, places in a page."""

import re
from collections import Counter
from dataclasses import replace
from itertools import count
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from benchmarks import ceilings, memory, tables, timing
from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.learner import network
from edge_rjepa.learner.cells import CELLS, find
from edge_rjepa.learner.engines import cpu
from edge_rjepa.learner.kernels import cpu as kernels
from edge_rjepa.learner.kernels import products

ROOT = Path(__file__).parents[2]
SIZES = {
    "n_features": 11,
    "n_efference": 3,
    "n_embedding": 7,
    "n_hidden": 13,
    "n_predictor": 17,
    "n_gain": 5,
}
THEORY_S = RJepaConfig(  # the sizes at which docs/theory.md counts
    n_features=124, n_efference=4, n_encoder_hidden=0, n_embedding=128, n_hidden=256,
    n_predictor=256, n_gain=32, cell="gated", memory_input="embedding",
)  # fmt: skip


TERMS = ("B = ", "R = ", "N = ", "F = ", "Q = ")


def by_the_documented_formula(config: RJepaConfig) -> int:
    """Bytes a learner holds, worked out from the lines of docs/performance.md."""
    text = (ROOT / "docs" / "performance.md").read_text().partition("\n## Memory\n")[2]
    lines = [re.sub(r"  +.*", "", line.strip()) for line in text.split("\n") if line[:4] == " " * 4]
    total = " ".join(lines[: next(i for i, line in enumerate(lines) if line[:3] == "B =")])
    terms = dict(line.split(" = ") for line in lines if line[:4] in TERMS)
    cell = find(config.cell)
    symbols = network.sizes(config, cell)._asdict()

    of_line = 64 // np.dtype(config.dtype).itemsize

    def value(formula: str) -> int:
        formula = re.sub(r"(?<=[\w)\]]) (?=[\w(\[])", " * ", formula.replace("²", "**2"))
        formula = formula.replace("[", "whole_lines(").replace("]", ")")
        return eval(formula, {"whole_lines": lambda n: -(-n // of_line) * of_line}, symbols)

    symbols["update_every"] = config.update_every
    for name in TERMS:
        symbols[name[0]] = value(terms[name[0]])
    integers = 8 * (len(cell.reads) + 2 + 2 * symbols["B"])
    return np.dtype(config.dtype).itemsize * value(total) + integers


@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize("memory_input", ["embedding", "features"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_e", [0, 9])
def test_the_formula_counts_every_byte(cell, memory_input, dtype, n_e):
    config = RJepaConfig(
        **SIZES, cell=cell, memory_input=memory_input, dtype=dtype, max_block=19,
        n_encoder_hidden=n_e,
    )  # fmt: skip
    assert memory.held(config) == by_the_documented_formula(config) == RJepa(config).nbytes


@pytest.mark.parametrize(
    "larger", ["n_features", "n_encoder_hidden", "n_embedding", "n_hidden", "n_predictor"]
)
def test_the_formula_counts_every_byte_whatever_is_large(larger):
    config = RJepaConfig(**{**SIZES, "n_encoder_hidden": 9, larger: 300}, max_block=2)
    assert memory.held(config) == by_the_documented_formula(config) == RJepa(config).nbytes


def shape_of(a, b):
    return a.shape[0], a.shape[1], b.shape[1]


@pytest.mark.parametrize("K", [1, 6])
@pytest.mark.parametrize("n_e", [0, 9])
def test_products_are_those_of_a_learning_block(K, n_e, monkeypatch):
    """What is timed alone are the same products, of rows as long; what is counted are less."""
    done = Counter()

    def counted(product, shape):
        def counting(*given):
            done[shape(*given)] += 1
            product(*given)

        return counting

    learner = RJepa(RJepaConfig(**SIZES, n_encoder_hidden=n_e, update_every=1))
    fixations = np.ones((K, 11)), np.ones((K, 3))
    learner.learn_block(*fixations)  # compiled from the true ones
    shapes = {
        "forward_product": lambda x, w, out: shape_of(x, w.T),
        "backward_product": lambda d, w, out: shape_of(d, w),
        "gather": lambda columns, rows, gradient: (len(columns), *rows.shape),
        "recur": lambda m, blocks, E, gradient: (len(E) + len(gradient), *blocks.u.shape),
        "blend": lambda keeps, columns, rows, ends, S: (len(S), *rows.shape),
    }
    kinds = {product.__name__: kind for kind, product in ceilings.MULTIPLY.items()}
    for name, shape in shapes.items():
        product = getattr(products, name)
        count_it = counted(product, shape)
        monkeypatch.setattr(products, name, count_it)
        monkeypatch.setitem(ceilings.MULTIPLY, kinds.pop(product.__name__), count_it)
    assert not kinds
    learner.learn_block(*fixations)
    by_learner = done.copy()
    done.clear()
    ceilings.Operands(learner.config, K).multiply()
    listed = ceilings.products(learner.config, K)
    laid_out = (ceilings.laid_out(each, learner.config) for each in listed)
    assert Counter(each.shape for each in laid_out) == done == by_learner
    for each in listed:
        half = each.rows * (each.rows - 1) // 2 * each.K
        left_out = half if each.kind == ceilings.SYMMETRIC else 0
        assert each.multiply_adds == np.prod(each.shape) - left_out, each
    of_matrix = network.weight_shapes(learner.config, find(learner.config.cell))
    for each in listed:
        rows_and_columns = np.prod(of_matrix.get(each.matrix, (7, 7)))  # S is (n_z, n_z)
        assert each.rows * each.columns == rows_and_columns, each


@pytest.mark.slow
def test_operands_have_the_shapes_and_all_are_multiplied():
    config = RJepaConfig(**SIZES, n_encoder_hidden=9, update_every=3)
    operands = ceilings.Operands(config, 6)
    outs = [given[-1] for given in operands._arrays]
    for out in outs:
        out[:] = 0.0
    operands.multiply()
    assert all(out.any() for out in outs)
    for i, (product, given) in enumerate(zip(operands.products, operands._arrays, strict=True)):
        laid_out = ceilings.laid_out(product, config)
        if product.kind in (ceilings.RECURRENT, ceilings.SYMMETRIC):
            assert_recurrent(operands, i, laid_out)
            continue
        first, second, out = given
        out[:] = once = np.ones_like(out)
        operands.repeat(i, 2)
        a = first[:, : len(second)] if product.kind == ceilings.GRADIENT else first
        b = second.T if product.kind == ceilings.FORWARD else second
        assert shape_of(a, b) == laid_out.shape
        expected = once + 2 * a @ b if product.kind == ceilings.GRADIENT else a @ b
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def assert_recurrent(operands, i, laid_out):
    """Nothing comes over from one block to the next: alpha and T, or what S keeps, are zero."""
    given, close = operands._arrays[i], {"rtol": 1e-4, "atol": 1e-4}
    if laid_out.kind == ceilings.SYMMETRIC:
        keeps, columns, rows, ends, S = given
        assert not keeps.any() and len(ends) == 3
        assert (len(S), *rows.shape) == laid_out.shape
        S[:] = 1
        operands.repeat(i, 2)
        last = slice(*ends[-2:, 0])
        np.testing.assert_allclose(np.triu(S), np.triu(columns[:, last] @ rows[last]), **close)
        return
    _, blocks, E, gradient = given
    assert not blocks.alpha.any() and not blocks.T.any() and len(blocks.ends) == 3
    assert (len(E) + len(gradient), *blocks.u.shape) == laid_out.shape
    E[:] = gradient[:] = 1
    operands.repeat(i, 2)
    last = slice(*blocks.ends[-2:, 0])
    np.testing.assert_allclose(E, blocks.gamma[: len(E), last] @ blocks.u[last], **close)
    expected = 1 + 2 * blocks.beta[: len(gradient), : len(blocks.u)] @ blocks.u
    np.testing.assert_allclose(gradient, expected, **close)


def test_blocks_at_once_are_those_that_a_learner_takes_in_at_once():
    for K, update_every, at_once in ((1, 8, 8), (16, 8, 8), (48, 8, 2), (64, 8, 2), (5, 1, 1)):
        config = RJepaConfig(**SIZES, update_every=update_every)
        stream = cpu.Stream(config, find(config.cell))
        learner, taken_in = RJepa(config, engine=cpu.CpuEngine([stream])), []
        settle = kernels.settle

        def counted(layers, kept, *given, settle=settle, taken_in=taken_in):
            taken_in.append(len(kept.ends))
            settle(layers, kept, *given)

        with mock.patch.object(kernels, "settle", counted):
            for _ in range(8):
                learner.learn_block(np.ones((K, 11)), np.ones((K, 3)))
        assert max(taken_in) == at_once == ceilings.blocks_at_once(config, K), (K, update_every)
        assert sum(taken_in) == 8


def test_operations_are_those_that_the_theory_counts():
    assert_operations(THEORY_S, 128 * 125, 2 * 128 * 125)
    deep = replace(THEORY_S, n_encoder_hidden=50)  # forward, and 2 n_e (f + 1) + n_z (3 n_e + 2)
    assert_operations(deep, 50 * 125 + 128 * 51, 2 * 50 * 125 + 128 * (3 * 50 + 2))


def assert_operations(config, encoder, encoder_learning):
    recurrent, predictor = 68_096, 206_880
    assert ceilings.inference_operations(config, 16) == 2 * (recurrent + predictor + encoder)
    learning = ceilings.learning_operations(config, 1_000_000) / 2  # where nothing is paid a block
    every_fixation = 3 * recurrent + 3 * predictor + encoder_learning + 3 * 128**2 + 128
    assert learning == pytest.approx(every_fixation, rel=0.01)


def test_longer_blocks_move_fewer_bytes_for_each_fixation():
    """What is kept of every fixation is moved all the same."""
    one, two, four = (ceilings.learning_bytes(THEORY_S, K) for K in (1, 2, 4))
    assert one - two == pytest.approx(2 * (two - four))
    assert 4 * ceilings.weights(THEORY_S) < one < 10 * memory.held(THEORY_S)


def test_bytes_are_those_of_weights_squares_traces_and_statistics():
    """Weights once forward, those with a way back again; both and the squares to take a step."""
    config = RJepaConfig(**SIZES, n_encoder_hidden=9, update_every=8)
    n = network.count_weights(config, find(config.cell))
    ways_back = 7 * 10 + 17 * 6 + 17 * (13 + 7 + 3 + 1) + 17 * 18 + 7 * 18  # W_z, G_b, V_1 to V_3
    traces, metric, covariances = 2 * 13 * (7 + 3 + 1), 2 * 7**2, 7 * 8
    kept = (7 + 10) + (9 + 12) + (5 + 4) + (17 + 6) + (17 + 24) + (17 + 18) + (7 + 18)  # W_z .. V_3
    kept += 2 * 2 * 13 + 11 + 2 * (7 + 7)  # W and its traces, S_z and S_e
    numbers = ways_back + metric + 2 * kept
    every_block, in_turns = replace(config, update_every=1), replace(config, update_every=32)
    now_and_then = 2 * (traces + covariances)
    assert ceilings.learning_bytes(every_block, 1) == 4 * (5 * n + numbers + now_and_then)
    assert ceilings.learning_bytes(config, 1) == 4 * (1.5 * n + numbers + now_and_then / 8)
    twice_a_step = (1 + 2 / 16 + 4 / 32) * n + numbers + now_and_then / 16
    assert ceilings.learning_bytes(in_turns, 1) == 4 * twice_a_step


def test_a_step_costs_nine_operations_a_weight():
    """Of longer blocks less: what is left of the difference is what is done once a block."""
    config = RJepaConfig(**SIZES, n_encoder_hidden=9, statistics_fixations=1e9, update_every=1)
    n, traces = network.count_weights(config, find(config.cell)), 2 * 13 * (7 + 3 + 1)
    once = 2 * 7 * 10 + 9 * 12  # of the fixation before: both gradients, and back through W_z
    one, two = (ceilings.learning_operations(config, K) for K in (1, 2))
    assert 2 * (one - two) == pytest.approx(9 * n + 4 * traces + 3 * 7 * 8 + 2 * once, rel=1e-6)


# ------------------------------------------------------------------------------------------------
# Turns


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for what calls take: returns a maker of calls."""
    now, order = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def taking(name, seconds):
        durations = iter(seconds)

        def call():
            order.append(name)
            now[0] += next(durations)

        return call

    taking.order = order
    return taking


def forever(seconds):
    return (seconds for _ in count())


def test_contenders_take_turns(clock):
    slow, fast = clock("slow", forever(1.0)), clock("fast", forever(0.008))
    turns = timing.take_turns(
        {"slow": timing.Contender(slow), "fast": timing.Contender(fast, 4)}, 0.0, at_least=3
    )
    np.testing.assert_allclose(turns.seconds["slow"], [1.0] * 3)
    np.testing.assert_allclose(turns.seconds["fast"], [0.002] * 3)
    warming = ["slow"] * 2 + ["fast"] * 2
    assert clock.order == warming + (["slow"] * 2 + ["fast"] * 3) * 3
    assert turns.ratio("slow", "fast").median == pytest.approx(500)
    assert turns.rate("fast").median == pytest.approx(500)


def test_turns_go_on_until_the_time_is_up(clock):
    turns = timing.take_turns({"it": timing.Contender(clock("it", forever(1.0)))}, 10.0, at_least=1)
    assert len(turns.seconds["it"]) == 5  # two calls each


def test_a_machine_that_slows_down_does_not_change_the_ratio(clock):
    slowing = [1.0, 1.0] + [2.0**i for i in range(5) for _ in range(2)]
    calls = {
        name: clock(name, [scale * s for s in slowing]) for name, scale in (("a", 3), ("b", 1))
    }
    turns = timing.take_turns({k: timing.Contender(v) for k, v in calls.items()}, 0.0, at_least=5)
    assert turns.ratio("a", "b") == pytest.approx((3, 3, 3))
    assert turns.time("b") == (4, 2, 8)


# ------------------------------------------------------------------------------------------------
# Text


def test_a_table_is_markdown():
    table = tables.Table(("what", "µs"), [("learning", "80"), ("x", "1,000")])
    assert str(table).split("\n") == [
        "| what     | µs    |",
        "| -------- | ----- |",
        "| learning | 80    |",
        "| x        | 1,000 |",
    ]


@pytest.mark.parametrize(
    ("spread", "text"),
    [((1.234, 1.0, 1.5), "1.23 (1.00 .. 1.50)"), ((12.34, 9.0, 15.0), "12.3 (9.0 .. 15.0)"),
     ((1234.5, 999.0, 2e6), "1,234 (999 .. 2,000,000)")],
)  # fmt: skip
def test_a_spread_has_three_digits(spread, text):
    assert tables.plain(timing.Spread(*spread)) == text


def test_what_is_put_into_a_page_takes_the_place_of_what_was_there(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- one -->\nold\n<!-- end -->\nb\n<!-- two -->\n<!-- end -->\nc\n")
    for _ in range(2):
        tables.put(page, "one", r"| \1 |")
    tables.put(page, "two", "2")
    assert page.read_text() == (
        "a\n<!-- one -->\n\n| \\1 |\n\n<!-- end -->\nb\n<!-- two -->\n\n2\n\n<!-- end -->\nc\n"
    )
    with pytest.raises(ValueError, match="no place for three"):
        tables.put(page, "three", "")
