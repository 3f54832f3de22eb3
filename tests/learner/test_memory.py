"""Fixed memory: measured while it learns, not read off the code."""

import os
import tracemalloc

import numpy as np
import pytest
from numba.core.errors import NumbaError
from numba.core.runtime import _nrt_python, rtsys

from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.base.jit import jit
from edge_rjepa.learner.cells import CELLS, find
from edge_rjepa.learner.engines.cpu import CpuEngine, Stream
from edge_rjepa.learner.kernels import cpu as kernels

SMALL = {
    "n_features": 20,
    "n_embedding": 24,
    "n_hidden": 96,
    "n_predictor": 32,
    "n_gain": 8,
    "n_encoder_hidden": 12,
    "max_block": 16,
    "update_every": 1,
}
KERNELS = {
    "forward": lambda stream, ws, step: stream.forward(ws),
    "predict": lambda stream, ws, step: kernels.predict(stream.weights, ws),
    "objective": lambda stream, ws, step: stream.objective(ws),
    "predictor_backward": lambda stream, ws, step: kernels.predictor_backward(stream.weights, ws),
    "assign_credit": lambda stream, ws, step: stream.assign_credit(ws),
    "gather": lambda stream, ws, step: gather(stream, ws, None),
    "step": lambda stream, ws, step: gather(stream, ws, step),
    "observe": lambda stream, ws, step: stream.statistics.observe(ws.centred, ws.e),
}


def gather(stream, ws, step):
    stream._keep(ws)
    stream.settle(step)


def block(K=16, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(K, 20)).astype(np.float32), rng.normal(size=(K, 4)).astype(np.float32)


def operands(config, K):
    """What every entry of KERNELS takes: (stream, its rows with a block in them, its step)."""
    stream = Stream(config, find(config.cell))
    learner = RJepa(config, engine=CpuEngine([stream]))
    step = learner._next_step(*learner._check_block(*block(K)))
    assert step.takes_step
    return stream, stream.take(step.features, step.efference), step


def buffers(thing, seen=None) -> dict[int, np.ndarray]:
    """Every array that `thing` and whatever it holds own, by address: owners, not views."""
    seen = {} if seen is None else seen
    if isinstance(thing, np.ndarray):
        while isinstance(thing.base, np.ndarray):
            thing = thing.base
        seen[thing.__array_interface__["data"][0]] = thing
    elif isinstance(thing, dict):
        buffers(tuple(thing.values()), seen)
    elif isinstance(thing, tuple | list):
        for each in thing:
            buffers(each, seen)
    elif hasattr(thing, "__dict__") and type(thing).__module__.startswith("edge_rjepa"):
        buffers(vars(thing), seen)
    return seen


@pytest.fixture
def allocations():
    """Counts what compiled code takes from Numba's runtime while a function runs."""
    _nrt_python.memsys_enable_stats()

    def count(function, *args) -> int:
        function(*args)  # compiled, and every lazy part in place
        before = rtsys.get_allocation_stats().alloc
        function(*args)
        return rtsys.get_allocation_stats().alloc - before

    yield count
    _nrt_python.memsys_disable_stats()


@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize("K", [1, 16])
@pytest.mark.parametrize("n_encoder_hidden", [0, 12])
def test_compiled_code_allocates_nothing(cell, K, n_encoder_hidden, allocations):
    config = RJepaConfig(**{**SMALL, "n_encoder_hidden": n_encoder_hidden}, cell=cell)
    given = operands(config, K)
    for name, run in KERNELS.items():
        assert allocations(run, *given) == 0, name


@pytest.mark.parametrize("name", list(KERNELS))
def test_between_it_no_array_is_made(name):
    """Products go into arrays that are there: 16 rows of the narrowest would be 8 kB."""
    sizes = {**SMALL, "n_hidden": 512, "n_embedding": 128, "n_predictor": 128, "n_gain": 128}
    sizes["n_encoder_hidden"] = 128
    given = operands(RJepaConfig(**sizes), 16)
    KERNELS[name](*given)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        KERNELS[name](*given)
        most = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert most < 8192


@pytest.mark.slow
def test_an_allocation_is_not_compiled_and_would_be_seen(allocations):
    def wasteful(a, out):
        out[:] = a * a  # NumPy's rules: the product is an array of its own

    a, out = np.ones(3), np.empty(3)
    with pytest.raises(NumbaError, match="NRT required"):
        jit(wasteful)(a, out)
    assert allocations(jit(_nrt=True)(wasteful), a, out) > 0


@pytest.mark.parametrize("memory_input", ["embedding", "features"])
@pytest.mark.parametrize("n_encoder_hidden", [0, 12])
@pytest.mark.parametrize("update_every", [1, 8])
def test_every_buffer_stays_where_it_is(memory_input, n_encoder_hidden, update_every):
    sizes = {**SMALL, "n_encoder_hidden": n_encoder_hidden, "update_every": update_every}
    learner = RJepa(RJepaConfig(**sizes, memory_input=memory_input))
    before = buffers(learner)
    for K in range(1, 17):
        learner.learn_block(*block(K))  # with update_every = 8 it is kept
        learner.learn_block(*block(17 - K))
        for call in (learner.learn_block, learner.predict, learner.gradients, learner.embed):
            call(*block(K))
        learner.reset()
        learner.learn_one(*(rows[0] for rows in block(1)))
    after = buffers(learner)
    assert after.keys() == before.keys()
    assert all(after[address] is array for address, array in before.items())


def array_bytes() -> int:
    """What NumPy's arrays hold, of all that was traced."""
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([arrays]).traces)


@pytest.mark.slow
def test_a_thousand_blocks_keep_no_array_and_need_no_large_one():
    learner, fixations = RJepa(RJepaConfig(**SMALL)), block()
    learner.learn_block(*fixations)
    tracemalloc.start()
    try:
        before, largest = array_bytes(), 0
        for _ in range(1000):
            start, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            learner.learn_block(*fixations)
            largest = max(largest, tracemalloc.get_traced_memory()[1] - start)
        kept = array_bytes() - before
    finally:
        tracemalloc.stop()
    assert kept == 0
    assert largest < learner.parameters()["W"].nbytes  # smaller than one copy of these weights


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's /proc")
def test_resident_memory_is_flat_over_100_000_fixations():
    learner = RJepa(RJepaConfig(**{**SMALL, "n_hidden": 24}))
    blocks = [block(16, seed) for seed in range(100)]

    def learn(fixations):
        goal = learner.fixations + fixations
        while learner.fixations < goal:
            for each in blocks:
                learner.learn_block(*each)

    learn(5_000)
    before = resident_bytes()
    learn(100_000)
    assert learner.fixations > 100_000
    assert resident_bytes() - before < 1e6  # 10 bytes a fixation


def test_default_size_stays_below_16_megabytes():
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        learner = RJepa()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    held = sum(array.nbytes for array in buffers(learner).values())
    assert held < 16e6 and taken < 16e6
    assert held == pytest.approx(taken, rel=0.02)  # nothing has escaped the count
