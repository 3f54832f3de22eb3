# ruff: noqa: I001
"""Every kernel and cell in Numba's simulator, against the reference, NumPy and the CPU's engine."""

import contextlib
import io
import json
import os
import tempfile
from functools import partial
from pathlib import Path
from unittest import mock

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import lane  # first: it says where the others are

import engine_checks
import numpy as np
import turns
from numba.cuda.cudadrv import driver

from benchmarks import gpu
from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.learner import reference
from edge_rjepa.learner.cells import CELLS, find
from edge_rjepa.learner.engines import Step, cpu, cuda
from edge_rjepa.errors import DeviceError
from edge_rjepa.learner.kernels import cuda as kernels
from edge_rjepa.learner.kernels.arrays import Adam
from edge_rjepa.learner.kernels.cuda import tiles

SMALL = {
    "n_features": 2, "n_efference": 1, "n_embedding": 4, "n_hidden": 3, "n_predictor": 3,
    "n_gain": 1, "n_encoder_hidden": 2, "update_every": 2,
}  # fmt: skip
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}  # of an array's largest number


def on_gpu(config, streams):
    return cuda.CudaEngine(config, find(config.cell), streams)


def on_cpu(config, streams):
    cell = find(config.cell)
    return cpu.CpuEngine([cpu.Stream(config, cell) for _ in range(streams)])


def sized(cell, n_z, n_h, n_p, f, **more):
    return RJepaConfig(
        cell=cell, n_embedding=n_z, n_hidden=n_h, n_predictor=n_p, n_features=f,
        **{
            "n_efference": 1, "n_gain": 3, "noise_floor": 0.5, "statistics_fixations": 40.0,
            "max_block": 17, "dtype": "float64", "n_encoder_hidden": 0, **more,
        },
    )  # fmt: skip


def alike(found, true, tolerance, what):
    scale = np.abs(true).max(initial=1e-3)
    error = np.abs(np.subtract(found, true, dtype=np.float64)).max(initial=0.0)
    assert error <= tolerance * scale, f"{what}: {error / scale:.2g}"


def is_the_cpu_s(config, lengths):
    """Blocks of these lengths, with and without a step, and looks, on both engines."""
    rng, tolerance = np.random.default_rng(0), TOLERANCE[config.dtype]
    engines = on_gpu(config, 1), on_cpu(config, 1)
    weights = rng.normal(size=engines[1].arrays()["weights"].size) * 0.5
    for engine in engines:
        # moments that are not zero, or Adam would make a whole step of a gradient's last bit
        engine.set({"weights": weights, "adam.m2": weights**2 + 1.0})
    number = np.dtype(config.dtype).type
    adam, adam_encoder = (Adam(*map(number, (rate, 1e-3, 1.5, 1e-8))) for rate in (1e-2, 3e-3))
    widths = config.n_features, config.n_efference
    for i, K in enumerate(lengths):
        block = [rng.normal(size=(K, width)).astype(config.dtype) for width in widths]
        step = Step(*block, adam, adam_encoder, takes_step=i % 3 != 1)
        (found,), (true,) = (engine.learn([step]) for engine in engines)
        alike(found.surprise, true.surprise, tolerance, "surprise")
        scale = abs(true.loss) + float(true.surprise.sum())
        assert abs(found.loss - true.loss) <= tolerance * scale
        assert abs(found.information - true.information) <= tolerance * config.n_embedding
        arrays = [engine_checks.everything(engine) for engine in engines]
        for name in arrays[1]:
            alike(arrays[0][name], arrays[1][name], tolerance, name)
        if i == 1:
            for engine in engines:
                engine.reset()
    (found,), (true,) = (engine.see(*([part] for part in block), True) for engine in engines)
    for one, other, name in zip(found, true, true._fields, strict=True):
        alike(one, other, tolerance, name)


def gradients_are_the_reference_s(cell, memory_input, n_encoder_hidden):
    """Three blocks, the second after a reset, their gradients summed: by complex step."""
    config = sized(
        cell, 3, 4, 3, 3, memory_input=memory_input, update_every=9, learning_rate=0.0, n_gain=2,
        n_encoder_hidden=n_encoder_hidden,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    learner = RJepa(config, engine=on_gpu(config, 1))
    weights = {
        name: 0.5 * rng.normal(size=array.shape) for name, array in learner.parameters().items()
    }
    learner.set_parameters(weights)
    blocks = [
        (rng.normal(size=(K, config.n_features)), rng.normal(size=(K, config.n_efference)), K == 1)
        for K in (3, 1, 4)
    ]
    for features, efference, reset_before in blocks:
        if reset_before:
            learner.reset()
        learner.learn_block(features, efference)
    naive = reference.NaiveModel(
        weights, cell, memory_input, config.noise_floor, config.statistics_fixations
    )
    for name, true in naive.gradient(blocks).items():
        assert true.any() or (name == "W_x" and not n_encoder_hidden), name
        alike(learner.gradient_sums()[name], true, 1e-11, name)


def inverses_are_numpy_s(n):
    """Factors, inverses and logdets of random statistics, of one stream of two."""
    engine = on_gpu(sized("leaky", n, 1, 1, 1), 2)
    rng, m = np.random.default_rng(n), engine._memory
    S = [part @ part.T for part in rng.normal(size=(2, n, n))]
    engine.set({"statistics.S_z": S[0], "statistics.S_e": S[1]}, 1)
    engine.slot(1)._flag_renewal(0)
    kernels.renew(m.workspace, m.statistics, engine._noise_floor, engine.slot(1)._block(1))
    engine._ask_for_report()
    engine._wait_for_report()
    P, information = m.statistics.P.copy_to_host()[1], 0.0
    for which, sign in ((0, 0.5), (1, -0.5)):
        noisy = S[which] + 0.5 * np.eye(n)
        factor = engine.arrays(1)[("statistics.factor_z", "statistics.factor_e")[which]]
        alike(factor, np.linalg.cholesky(noisy), 1e-11, "factor")
        alike(P[which], np.linalg.inv(noisy), 1e-10, "inverse")
        information += sign * np.linalg.slogdet(noisy)[1]
    assert abs(engine.information(1) - information) < 1e-10
    assert engine.information(0) == 0.0


def what_cuda_reports_becomes_a_device_error():
    """In one line; what is no report of CUDA's is not hidden, and closing works afterwards."""
    engine = on_gpu(sized("leaky", 2, 1, 1, 1), 1)
    lost = driver.CudaAPIError("[719] cuLaunchKernel:\nCUDA_ERROR_LAUNCH_FAILED")
    full = driver.CudaAPIError("[2] CUDA_ERROR_OUT_OF_MEMORY")
    for error, expected, words in (
        (lost, DeviceError, "the GPU failed ([719] cuLaunchKernel: CUDA_ERROR_LAUNCH_FAILED): "),
        (full, DeviceError, "the GPU is out of memory ([2] CUDA_ERROR_OUT_OF_MEMORY): "),
        (TypeError("ours"), TypeError, "ours"),
    ):
        with mock.patch.object(kernels, "forget", side_effect=error):
            try:
                engine.reset()
            except expected as caught:
                assert str(caught).startswith(words) and "\n" not in str(caught), caught
            else:
                raise AssertionError(f"{error!r} went unnoticed")
    with mock.patch.object(engine._memory, "queue", mock.Mock()) as queue:
        queue.synchronize.side_effect = lost
        engine.close()
    engine.close()


def the_benchmark_runs():
    """Every section of benchmarks/gpu.py, tiny: what it checks holds, and its figures are told."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as text:
        path = Path(folder) / "figures.json"
        with contextlib.redirect_stderr(io.StringIO()):
            assert gpu.main(["--quick", "--json", str(path)]) == 0, text.getvalue()
        figures = json.loads(path.read_text())["figures"]
    told = {f["name"]: f["value"] for f in figures}
    assert told["launches a block"] == 17.0  # two of them of the encoder's hidden layer
    assert all(figure["name"] in text.getvalue() for figure in figures)


def as_on_a_gpu(check, *arguments):
    """With the tiles of a real GPU in place of the simulator's small ones."""
    cuda.TILES = tiles.GPU
    try:
        check(*arguments)
    finally:
        cuda.TILES = tiles.SIMULATOR


def checks():
    wheel = lane.register_wheel()
    found = {}
    for check in engine_checks.CHECKS:
        found[check.__name__] = partial(check, on_gpu, engine_checks.network("gated", **SMALL))
    for check in (engine_checks.streams_are_as_if_alone, engine_checks.seeing_moves_the_state_alone,
                  engine_checks.a_new_one_is_empty_and_described):  # fmt: skip
        shallow = engine_checks.network("gated", **{**SMALL, "n_encoder_hidden": 0})
        found[f"{check.__name__}: no hidden layer"] = partial(check, on_gpu, shallow)
    odd = {
        "hidden 19 of 17": (sized("gated", 17, 9, 3, 5, n_encoder_hidden=19), (16, 7, 17)),
        "hidden 1 of 1": (sized("leaky", 2, 2, 2, 1, n_encoder_hidden=1), (1, 7, 2)),
        "hidden float32 features": (
            sized("lstm", 5, 3, 4, 7, n_encoder_hidden=6, dtype="float32", memory_input="features"),
            (4, 1, 16),
        ),
        "gated 17 33": (sized("gated", 17, 33, 3, 5), (16, 7)),
        "gated 1 unit": (sized("gated", 2, 1, 1, 1, n_gain=1), (1, 7, 2)),
        "gated float32": (sized("gated", 7, 5, 6, 4, dtype="float32"), (7, 1, 16)),
        "leaky": (sized("leaky", 3, 17, 7, 1), (1, 17, 3)),
        "lstm": (sized("lstm", 5, 3, 17, 3), (7, 1, 4)),
        "rgc features": (sized("rgc", 4, 6, 3, 5, memory_input="features"), (5, 1, 7)),
        "rtu float32": (sized("rtu", 5, 4, 3, 2, dtype="float32"), (4, 7, 1)),
        "4 states": (sized(wheel, 3, 4, 5, 2), (3, 1, 7)),
    }
    for name, (config, lengths) in odd.items():
        found[f"is the CPU's: {name}"] = partial(is_the_cpu_s, config, lengths)
    for cell in [cell for cell in CELLS if cell in reference.CELLS]:
        memory_input = "features" if cell == "leaky" else "embedding"
        for hidden in (0, 5):
            found[f"gradients: {cell}, {hidden} hidden"] = partial(
                gradients_are_the_reference_s, cell, memory_input, hidden
            )
    for n in (2, 3, 7, 17):
        found[f"inverses: {n}"] = partial(inverses_are_numpy_s, n)
    found["errors"] = what_cuda_reports_becomes_a_device_error
    found["benchmarks/gpu.py"] = the_benchmark_runs
    found["tiles of a GPU"] = partial(
        as_on_a_gpu, is_the_cpu_s, sized("gated", 3, 9, 2, 2, n_encoder_hidden=5), (5,)
    )
    return found


if __name__ == "__main__":
    turns.install(kernels.MODULES)
    np.seterr(all="ignore")
    lane.run(checks())
