"""Engines: what each must do, the door to the GPU, and what is said when there is none."""

import math
from importlib.util import find_spec

import numpy as np
import pytest

from edge_rjepa import RJepa
from edge_rjepa.errors import ConfigError, DeviceError
from edge_rjepa.learner import engines
from edge_rjepa.learner.cells import CELLS, find
from edge_rjepa.learner.engines import open_engine
from edge_rjepa.learner.engines.cpu import CpuEngine
from tests.learner import engine_checks

every_cell = pytest.mark.parametrize("cell", list(CELLS))
FORMS = {
    "float32": {},
    "float64": {"dtype": "float64"},
    "every third block": {"update_every": 3},
    "features": {"memory_input": "features"},
    "one unit": {
        "n_hidden": 1, "n_features": 1, "n_efference": 1, "n_gain": 1, "n_predictor": 1,
        "n_encoder_hidden": 1,
    },
    "no hidden layer": {"n_encoder_hidden": 0},
}  # fmt: skip


@pytest.fixture(params=engine_checks.DEVICES)
def make(request):
    """How to make engines of a device."""

    def make(config, streams):
        return open_engine(config, find(config.cell), streams, request.param)

    return make


@pytest.mark.skipif("cuda" not in engine_checks.DEVICES, reason=str(engine_checks.no_gpu()))
def test_a_gpu_is_among_the_engines_that_are_checked():
    config = engine_checks.network("leaky")
    assert open_engine(config, find("leaky"), 1, "cuda").device == "cuda"


@pytest.mark.slow
@every_cell
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("check", engine_checks.CHECKS, ids=lambda check: check.__name__)
def test_every_engine(make, check, cell, form):
    check(make, engine_checks.network(cell, **FORMS[form]))


@pytest.mark.slow
@every_cell
@pytest.mark.parametrize("form", [form for form in FORMS if form != "float64"])
def test_single_precision_agrees_with_double_precision_on_the_cpu(make, cell, form):
    def on_cpu(config, streams):
        return open_engine(config, find(cell), streams)

    config, double = (
        engine_checks.network(cell, **{**FORMS[form], "dtype": dtype})
        for dtype in ("float32", "float64")
    )
    engine_checks.agrees(make, on_cpu, config, double, 2e-5)


# ------------------------------------------------------------------------------------------------
# The door


def a_network():
    return engine_checks.network("leaky")


def test_an_unknown_device_is_refused():
    with pytest.raises(ConfigError, match="device 'tpu' is unknown: choose one of cpu, cuda, auto"):
        RJepa(a_network(), device="tpu")


def refused(reason, device="cuda"):
    with pytest.raises(DeviceError, match=reason) as caught:
        RJepa(a_network(), device=device)
    assert "\n" not in str(caught.value)
    choice = engines.choose(a_network(), 4)
    assert choice == ("cpu", f"learning on the CPU: {caught.value}")
    assert RJepa(a_network(), device="auto").device == "cpu"


def test_without_numba_cuda_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    refused(r"pip install 'edge-rjepa\[cuda\]'")


@pytest.fixture
def with_package(monkeypatch):
    """As if numba-cuda was there; its own `numba.cuda` is part of every Numba up to now."""
    monkeypatch.setattr(engines, "find_spec", lambda name: find_spec("numba"))
    return pytest.importorskip("numba.cuda", reason="this Numba has no CUDA of its own")


@pytest.mark.parametrize(
    ("said", "reason"),
    [("\nno driver\nis there.\n", r"\(no driver is there\)"), (None, r"\(there is none\)")],
)
def test_without_a_driver_or_a_gpu_that_is_said(with_package, monkeypatch, said, reason):
    monkeypatch.setattr(with_package, "is_available", lambda: False)
    monkeypatch.setattr(with_package, "cuda_error", lambda: said)
    refused(f"no GPU can be used {reason}: see edge-rjepa doctor")


def test_a_driver_that_is_too_old_is_refused(with_package, monkeypatch):
    monkeypatch.setattr(with_package, "is_available", lambda: True)
    driver = with_package.cudadrv.driver
    monkeypatch.setattr(driver, "get_version", lambda: (11, 4), raising=False)
    refused("driver is for CUDA 11.4, 12.0 is needed: update it")


# ------------------------------------------------------------------------------------------------
# Which is faster


class Clock:
    """A clock that each learned block moves on."""

    def __init__(self):
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class Timed(CpuEngine):
    """A CPU engine whose blocks take as long as it is told: nobody looks at what they teach."""

    def __init__(self, streams, device, clock, block_s):
        super().__init__(streams)
        self.device, self.clock, self.block_s = device, clock, block_s
        self.lengths, self.closed, self.taken = set(), False, []

    def learn(self, steps):
        self.lengths |= {len(step.features) for step in steps}
        self.taken.append(steps[0].takes_step)
        self.clock.now_s += self.block_s

    def close(self):
        self.closed = True


@pytest.mark.parametrize("update_every", [1, 4])
def test_a_device_is_measured_with_the_steps_that_it_learns_with(monkeypatch, update_every):
    """A step costs most where blocks are kept until it comes."""
    clock, made = Clock(), []

    def open_timed(config, cell, streams, device):
        streams = open_engine(config, cell, streams)._streams
        made.append(Timed(streams, device, clock, 5e-2))
        return made[-1]

    monkeypatch.setattr(engines, "open_engine", open_timed)
    monkeypatch.setattr(engines, "time", clock)
    engines.choose(engine_checks.network("leaky", update_every=update_every), 4)
    in_turn = [False] * (update_every - 1) + [True]
    for each in made:
        assert each.taken == in_turn * (len(each.taken) // update_every)


@pytest.mark.slow
@pytest.mark.parametrize(("gpu_s", "device", "word"), [(5e-4, "cuda", "GPU"), (9e-3, "cpu", "CPU")])
def test_the_faster_device_is_chosen_and_said(monkeypatch, gpu_s, device, word):
    clock, made = Clock(), []

    def open_timed(config, cell, streams, device):
        streams = open_engine(config, cell, streams)._streams
        made.append(Timed(streams, device, clock, gpu_s if device == "cuda" else 2e-3))
        return made[-1]

    monkeypatch.setattr(engines, "open_engine", open_timed)
    monkeypatch.setattr(engines, "time", clock)
    choice = engines.choose(a_network(), 4, streams=2)
    assert choice == (
        device,
        f"learning on the {word}: a block of 4 fixations takes 2.00 ms on the CPU and "
        f"{1e3 * gpu_s:.2f} ms on the GPU",
    )
    assert [(each.device, each.streams, each.lengths) for each in made] == [
        ("cuda", 2, {4}),
        ("cpu", 2, {4}),
    ]
    assert all(each.closed for each in made)
    assert clock.now_s == pytest.approx(2.0, abs=0.2)  # a second each


def test_a_gpu_that_fails_while_it_is_measured_is_not_chosen(monkeypatch):
    class Failing(CpuEngine):
        def learn(self, steps):
            raise DeviceError("the GPU has 1 MiB free, 2 are needed: use the CPU")

    monkeypatch.setattr(
        engines, "open_engine", lambda c, cell, B, device: Failing(open_engine(c, cell, B)._streams)
    )
    choice = engines.choose(a_network(), 4)
    assert choice.device == "cpu" and "1 MiB free" in choice.reason


# ------------------------------------------------------------------------------------------------
# Learners and devices


def test_learners_move_between_devices_and_precisions_of_a_checkpoint(make, tmp_path):
    """On from a checkpoint of whatever device: to the bit where it is the same, else closely."""
    config = engine_checks.network("rtu", update_every=3)
    learner = engine_checks.taught(make, config)
    learner.learning_rate = 3e-3
    learner.save(tmp_path / "learner")
    again = RJepa.load(tmp_path / "learner", learner.device)
    there = RJepa.load(tmp_path / "learner")
    back = there.copy().to(learner.device)
    assert (again.device, there.device, back.device) == (learner.device, "cpu", learner.device)
    assert (there.to("cpu") is there) and (back.learning_rate == 3e-3)
    assert again.digest == back.digest == learner.digest == there.digest
    for block in engine_checks.blocks_of(config, 2):
        report = learner.learn_block(*block)
        engine_checks.assert_same_report(again.learn_block(*block), report)
        engine_checks.assert_same_report(back.learn_block(*block), report)
        assert math.isclose(there.learn_block(*block).loss, report.loss, rel_tol=1e-4, abs_tol=1e-4)
    assert again.digest == back.digest == learner.digest


def test_a_rate_beyond_the_dtype_is_no_warning(recwarn):
    learner = RJepa(engine_checks.network("leaky", learning_rate=1e300))
    with np.errstate(all="ignore"):
        learner.learn_block(*engine_checks.blocks_of(learner.config, 0)[0])
    step = learner._next_step(*engine_checks.blocks_of(learner.config, 0)[0])
    assert step.adam.rate == step.adam_encoder.rate == np.finfo("float32").max
    assert not [w for w in recwarn if "cast" in str(w.message)]
