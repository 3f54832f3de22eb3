"""Every kernel to PTX and through ptxas, for Jetsons, with no GPU: no cell of ours spills.

Needs libnvvm and ptxas, which the wheel nvidia-cuda-nvcc-cu12 brings; Thor's ptxas is of CUDA 13,
in the wheel nvidia-cuda-nvcc. The signatures are those of real launches: the host's code runs with
NumPy's arrays and a block that records in place of one that launches.
"""

import importlib.util
import os
import re
import subprocess
import tempfile
import types
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import lane

from edge_rjepa import RJepaConfig
from edge_rjepa.learner.cells import CELLS, find

DTYPES = "float32", "float64"
TARGETS = {"sm_72": (7, 2), "sm_87": (8, 7)}  # Xavier, Orin
# Thor, which CUDA 12 does not know: from Orin's PTX, as a driver makes it from what it is given.
THOR, PTX_FOR_THOR = "sm_110", "sm_87"
DEEP, SHALLOW = {"n_encoder_hidden": 96}, {"n_encoder_hidden": 0}
OF_HIDDEN = {"encode_hidden", "back_to_hidden"}  # launched where the encoder has a hidden layer
STEP, STATES = {"scan"}, {"scan", "coefficients", "recur", "descend", "back_to_past", "forget"}
# Kernels in single precision that may compute in double: the sums of the report, and libdevice's
# sine, which reduces large angles in it.
DOUBLE = {("observe", "gated"), ("invert", "gated"), ("scan", "rtu")}
# Bytes that may be spilled: by a made-up cell as large as is allowed, in double precision.
SPILLED = {("coefficients", "wheel", "float64", THOR): 32}


def in_wheels(path: str) -> Path | None:
    """A file of NVIDIA's wheels, as far as it is there."""
    found = importlib.util.find_spec("nvidia")
    places = found.submodule_search_locations if found else ()
    return next((place for each in places if (place := Path(each) / path).exists()), None)


def toolkit(folder: Path) -> dict[str, Path]:
    """A CUDA_HOME made of links to the wheel, as Numba looks for it, and each target's ptxas."""
    ptxas = in_wheels("cuda_nvcc/bin/ptxas")
    if ptxas is None:
        lane.cannot_run("no ptxas and libnvvm: pip install nvidia-cuda-nvcc-cu12")
    nvvm = ptxas.parents[1] / "nvvm"
    (folder / "nvvm" / "lib64").mkdir(parents=True)
    (folder / "nvvm" / "libdevice").symlink_to(nvvm / "libdevice")
    for name in ("libnvvm.so", "libnvvm.so.4"):
        (folder / "nvvm" / "lib64" / name).symlink_to(nvvm / "lib64" / "libnvvm.so")
    for_thor = in_wheels("cu13/bin/ptxas")
    if for_thor is None:
        missing = f"not for {THOR}: no ptxas of CUDA 13: pip install --no-deps nvidia-cuda-nvcc"
        assert os.environ.get("EDGE_RJEPA_REQUIRE_EMULATOR") != "1", missing
        lane.say(missing)
    return dict.fromkeys(TARGETS, ptxas) | ({THOR: for_thor} if for_thor else {})


def signatures(config: RJepaConfig) -> tuple[types.SimpleNamespace, dict[str, tuple]]:
    """The kernels of a configuration, and the types of each one's arguments."""
    import numba
    import numpy as np

    from edge_rjepa.learner.kernels import cuda as kernels
    from edge_rjepa.learner.kernels.cuda import arrays
    from edge_rjepa.learner.kernels.cuda.tiles import GPU

    cell, number, seen = find(config.cell), np.dtype(config.dtype).type, {}

    class Recorded(kernels.Block):
        def launch(self, name, grid, threads, *arguments):
            seen[name] = tuple(numba.typeof(each) for each in (self.first, *arguments))

    tiles = GPU.fitting(cell.n_state, config.dtype)
    built = kernels.compiled.__wrapped__(cell, config.dtype, tiles)
    at = Recorded(built, tiles, 0, 2, 16, None)
    p, total, m2 = (arrays.weights(config, cell, 2, np.zeros) for _ in range(3))
    traces = arrays.traces(config, cell, 2, np.zeros)
    ws = arrays.workspace(config, cell, 2, np.zeros)
    known = arrays.statistics(config, 2, np.zeros)
    table = arrays.descent_table(config, p, ws, tiles)
    kernels.forward(p, ws, np.zeros(1, number), True, at)
    kernels.predict(p, ws, known.mu, at)
    kernels.loss(ws, known, at)
    kernels.observe(ws, known, at)
    kernels.renew(ws, known, number(1.0), at)
    kernels.predictor_backward(p, ws, at)
    kernels.update(ws, traces, kernels.Descent(p, total, m2, table, 1), at)
    kernels.forget(ws, traces, True, at)
    launched = vars(built).keys() - (set() if config.n_encoder_hidden else OF_HIDDEN)
    assert seen.keys() == launched, seen.keys() ^ launched
    return built, seen


def assemblies(kernel: Callable, signature: tuple) -> dict[str, str]:
    """The PTX of each target.

    Numba's own part, most of the time, does not look at the target, and is done once for all.
    """
    from numba import cuda
    from numba.cuda.codegen import CUDACodeLibrary

    device = types.SimpleNamespace(compute_capability=min(TARGETS.values()))
    of_one = CUDACodeLibrary.get_asm_str

    def of_each(library, cc):
        return {target: of_one(library, cc=each) for target, each in TARGETS.items()}

    with (
        mock.patch("numba.cuda.dispatcher.get_current_device", return_value=device),
        mock.patch.object(CUDACodeLibrary, "get_asm_str", of_each),
    ):
        return cuda.compile_ptx(kernel, signature, cc=device.compute_capability)[0]


def assemble(ptxas: Path, ptx: str, target: str, folder: Path) -> dict[str, int]:
    """Registers, bytes spilled and bytes of shared memory, as ptxas tells them."""
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    command = [ptxas, "-v", f"-arch={target}", source, "-o", folder / "kernel.cubin"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    patterns = {
        "registers": r"Used (\d+) registers",
        "stored": r"(\d+) bytes spill stores",
        "loaded": r"(\d+) bytes spill loads",
    }
    told = {name: int(re.search(each, done.stderr)[1]) for name, each in patterns.items()}
    shared = re.search(r"(\d+) bytes smem", done.stderr)
    return told | {"shared": int(shared[1]) if shared else 0}


def check(
    config: RJepaConfig, names: set[str] | None, ptxas: dict[str, Path], folder: Path
) -> None:
    """Compile the kernels of these names, or all."""
    built, seen = signatures(config)
    told = {}
    for name in sorted(names or seen):
        ptx_of = assemblies(getattr(built, name).py_func, seen[name])
        for target, assembler in ptxas.items():
            ptx = ptx_of[PTX_FOR_THOR if target == THOR else target]
            of = assemble(assembler, ptx, target, folder)
            told.setdefault(name, []).append(of["registers"])
            where = f"{name} for {target}"
            may_spill = SPILLED.get((name, config.cell, config.dtype, target), 0)
            assert max(of["stored"], of["loaded"]) <= may_spill, f"{where} spills: {of}"
            assert of["shared"] <= 48 * 1024, f"{where}: {of}"
            if config.dtype == "float32" and (name, config.cell) not in DOUBLE:
                assert ".f64" not in ptx, f"{where} computes in double precision"
    registers = ", ".join(f"{name} {'/'.join(map(str, each))}" for name, each in told.items())
    lane.say(f"registers ({'/'.join(ptxas)}), {config.cell} {config.dtype}: {registers}")


def main() -> None:
    warnings.simplefilter("ignore")
    wheel = lane.register_wheel()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ptxas = toolkit(folder)
        os.environ["CUDA_HOME"] = name
        configs = [(RJepaConfig(cell="gated", dtype=dtype, **DEEP), None) for dtype in DTYPES]
        configs.append((RJepaConfig(cell="gated", **SHALLOW), {"take", "encode", "descend"}))
        configs += [
            (RJepaConfig(cell=cell, **DEEP), STEP) for cell in CELLS if cell not in ("gated", wheel)
        ]
        configs += [(RJepaConfig(cell=wheel, dtype=dtype, **DEEP), STATES) for dtype in DTYPES]
        configs.append((RJepaConfig(cell="rgc", **DEEP), {"coefficients", "recur"}))
        checks = {
            f"{config.cell} {config.dtype}, {config.n_encoder_hidden} hidden: "
            f"{len(names) if names else 'all'} kernels": partial(
                check, config, names, ptxas, folder
            )
            for config, names in configs
        }
        lane.run(checks)


if __name__ == "__main__":
    main()
