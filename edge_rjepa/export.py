"""The frozen encoder as an ONNX file: one fixation a call, the state handed in and out.

    window (N, 64, 64, 3) uint8 BGR, or features (N, f)       what is seen
    efference (N, A)                                          how gaze came there
    state (N, m, n_h), embedding_before (N, n_z)              the past; zeros at the start
        ->
    embedding z (N, n_z), memory h (N, n_r), next_state (N, m, n_h)
    prediction (N, n_z)   of this embedding, from the past and the efference copy alone
    surprise (N,)         1/2 e' P_e e in nats, e = z - prediction; P_e as learning left it

All but the window are float32, and N is free. A caller hands `next_state` back as `state` and
`embedding` as `embedding_before`. Opset 17, IR version 8, common operators only.

The graph is written as expressions of `Tensor`, which look like arrays but only note what makes
them. So a cell's own `step` (cells.py) builds its part of the graph, and a newly registered cell
exports as it is. Its derivatives are noted too, but only what leads to an output is written.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import edge_rjepa
from edge_rjepa import cells
from edge_rjepa.checkpoint import write_atomic
from edge_rjepa.config import GazeConfig
from edge_rjepa.errors import ExportError
from edge_rjepa.jit import specialise
from edge_rjepa.kernels import backend
from edge_rjepa.learner import RJepa
from edge_rjepa.retina import Retina

FORMAT, VERSION = "edge_rjepa", 1
OPSET, IR_VERSION = 17, 8
PARITY_STEPS = 1000
# By how much float32 sums over a group's pixels may differ in every feature at once. On windows of
# noise the worst single feature of onnxruntime was 3.6e-6 off a float64 sum, that of this package
# 0.9e-6 to 2.4e-6, and a network of millions of fixations has weights that make more than 1e-5 of
# that.
FEATURE_ROUNDING = 1e-6
TOLERANCE = {
    "embedding": 1e-5,
    "memory": 1e-5,
    "next_state": 1e-5,
    "prediction": 1e-5,
    "surprise": 1e-4,
}


class ParityReport(NamedTuple):
    """Largest difference between file and learner over `steps` recurrent fixations.

    Relative to the largest value that the learner gave that unit, or to 1 if that is larger: the
    state of a cell like rtu is not bounded. That of the surprise is relative to its value, or to
    its mean if that is larger.
    """

    steps: int
    embedding: float
    memory: float
    next_state: float
    prediction: float
    surprise: float


def export(
    learner: RJepa,
    retina: Retina | None,
    path: str | os.PathLike,
    *,
    gaze: GazeConfig | None = None,
    metadata: dict | None = None,
) -> ParityReport:
    """Write the learner's frozen encoder to `path` as ONNX, once it is shown to agree with it.

    retina: what turns windows into features inside the graph; None for a graph that takes features.
    gaze: what made the efference copies, for their units in the file's metadata. metadata: more to
    keep there, strings or what JSON can hold; what is written there anyway wins. The learner is
    left as it is.

    Raises ExportError, with what was at `path` before untouched, when retina or gaze do not fit the
    learner, its cell cannot be written as ONNX, onnxruntime comes out further from it than
    `TOLERANCE` and than `FEATURE_ROUNDING` of the features would explain, or the file cannot be
    written.
    """
    _check(learner, retina, gaze)
    model = _model(learner, retina)
    report, rounding = _parity(_session(model), learner, retina)
    for output, tolerance in TOLERANCE.items():
        error, allowed = getattr(report, output), max(tolerance, rounding[output])
        if not error <= allowed:  # NaN fails, too
            raise ExportError(
                f"{path} is not written: its {output} is off by up to {error:.2g} over "
                f"{report.steps} fixations (allowed {allowed:.2g}): report this"
            )
    helper.set_model_props(model, _properties(learner, retina, gaze, report, metadata or {}))
    try:
        write_atomic(path, model.SerializeToString())
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror}") from error
    return report


def _check(learner: RJepa, retina: Retina | None, gaze: GazeConfig | None) -> None:
    config = learner.config
    if retina is not None and retina.n_features != config.n_features:
        raise ExportError(
            f"the retina gives {retina.n_features} features, the learner takes "
            f"{config.n_features}: export with the retina it learned with"
        )
    if gaze is not None and config.n_efference != 4:
        raise ExportError(
            f"gaze makes efference copies of 4 values, the learner takes {config.n_efference}: "
            "export without gaze"
        )
    learned = [*learner.parameters().values(), learner.error_covariance]
    if not all(np.isfinite(array).all() for array in learned):
        raise ExportError("the learner holds NaN or infinity: export an earlier checkpoint")


# ------------------------------------------------------------------------------------------------
# The network, room by room


def _model(learner: RJepa, retina: Retina | None) -> onnx.ModelProto:
    """The whole graph of one fixation."""
    config, cell, weights = learner.config, learner.cell, learner.parameters()
    n_z, n_h = config.n_embedding, config.n_hidden
    graph = Graph()

    if retina is None:
        features = graph.input("features", ["N", config.n_features], "as learned from")
    else:
        side = retina.config.window_px
        window = graph.input(
            "window", ["N", side, side, 3], "BGR, gaze at (side / 2, side / 2)", TensorProto.UINT8
        )
        features = _features(retina, window)
    efference = graph.input("efference", ["N", config.n_efference], "units: see the metadata")
    state_shape = ["N", cell.n_state, n_h]
    state = graph.input("state", state_shape, "next_state before; 0 at the start")
    z_before = graph.input("embedding_before", ["N", n_z], "embedding before; 0 at the start")

    y_before = _components(state, cell.n_state, n_h)
    z = tanh(_affine(features, weights["W_z"], "W_z"))
    seen = z if config.memory_input == "embedding" else features
    y = _circuits(cell, weights, y_before, concat(seen, efference))
    past = concat(*(y_before[i] for i in cell.reads), z_before)
    z_hat = _prediction(weights, past, efference)
    surprise = _surprise(z - z_hat, learner.error_covariance, config.noise_floor)

    graph.output("embedding", z, ["N", n_z], "of what is seen, -1 .. 1")
    graph.output("memory", concat(*(y[i] for i in cell.reads)), ["N", len(cell.reads) * n_h])
    graph.output("next_state", _reshape(concat(*y), [-1, *state_shape[1:]]), state_shape)
    graph.output("prediction", z_hat, ["N", n_z], "of the embedding, from the past and efference")
    graph.output("surprise", surprise, ["N"], "nats")
    return graph.model()


def _features(retina: Retina, window: Tensor) -> Tensor:
    """The retina's arithmetic (see its docstring); float32 pools without rounding here, too."""
    config, colour = retina.config, retina.colour
    picture = node("Cast", window, to=TensorProto.FLOAT)
    picture = node("Transpose", picture, perm=[0, 3, 1, 2])
    start = (config.window_px - config.fovea_px) // 2
    stop = start + config.fovea_px
    middle = node("Slice", picture, _integers(start, start), _integers(stop, stop), _integers(2, 3))
    pooled = concat(
        _area_averages(middle, colour[:1], 1),
        _area_averages(picture, colour[:1], config.window_px // config.surround_cells),
        _area_averages(picture, colour[1:], config.window_px // config.colour_cells),
    )
    mean = _linear(pooled, retina.cell_mean)
    c = _linear(pooled - _linear(mean, retina.cell_member.T), retina.dct)
    power = _linear(c * c, retina.coefficient_mean, retina.floor_power)
    pattern = c / _linear(node("Sqrt", power), retina.coefficient_member.T)
    level = _linear(mean, retina.level, retina.level_offset)
    contrast = _linear(node("Log", power), retina.contrast, retina.contrast_offset)
    return concat(pattern, level, contrast)


def _area_averages(picture: Tensor, channels: np.ndarray, side: int) -> Tensor:
    """Averages over side x side px of channels (n, 3) of picture (N, 3, H, W), flat for each N.

    Channels are whole 256ths, so the sums are whole numbers: float32 rounds once, if at all.
    """
    kernel = np.tile(256.0 * channels[:, :, None, None], (1, 1, side, side))
    sums = node("Flatten", node("Conv", picture, kernel, strides=[side, side]), axis=1)
    return sums * (1.0 / (256 * side**2))


def _circuits(cell: cells.Cell, weights: dict, y_before: list[Tensor], u: Tensor) -> list[Tensor]:
    """The new state, component by component: the cell's own step, traced."""
    drives = [_affine(u, W, f"W.{i}") for i, W in enumerate(weights["W"])]
    parameters = [tensor(lam) for lam in weights["lam"]]
    used = [name for name in VOCABULARY if name in cell.step.__code__.co_names]
    step = specialise(cell.step, "traced", **{name: VOCABULARY[name] for name in used})
    try:
        y, *_ = step(tuple(y_before), tuple(drives), tuple(parameters))
    except Exception as error:  # whatever somebody's function raises when it is given tensors
        raise ExportError(
            f"cell '{cell.name}' cannot be written as ONNX, write its step in + - * and "
            f"{', '.join(VOCABULARY)} ({_one_line(error)})"
        ) from error
    return list(y)


def _prediction(weights: dict, past: Tensor, efference: Tensor) -> Tensor:
    q = tanh(_affine(concat(past, efference), weights["V_1"], "V_1"))
    gain = tanh(_affine(efference, weights["G_a"], "G_a"))
    p1 = q * sigmoid(_affine(gain, weights["G_b"], "G_b"))
    p2 = tanh(_affine(p1, weights["V_2"], "V_2"))
    return _affine(p2, weights["V_3"], "V_3")


def _surprise(e: Tensor, S_e: np.ndarray, noise_floor: float) -> Tensor:
    """1/2 e' (S_e + eps 1)^-1 e as half the squares of e whitened: never below 0."""
    factor = np.linalg.cholesky(S_e.astype(np.float64) + noise_floor * np.eye(len(S_e)))
    white = _linear(e, np.linalg.inv(factor), name="whitening")
    return _reshape(_linear(white * white, np.full((1, len(S_e)), 0.5)), [-1])


def _components(state: Tensor, count: int, size: int) -> list[Tensor]:
    """The components (N, size) of a state (N, count, size)."""
    flat = node("Flatten", state, axis=1)
    bounds = [(_integers(i * size), _integers((i + 1) * size)) for i in range(count)]
    return [node("Slice", flat, start, stop, _integers(1)) for start, stop in bounds]


def _affine(x: Tensor, weights: np.ndarray, name: str) -> Tensor:
    """weights [x; 1], the bias being the last column as everywhere in the learner."""
    return _linear(x, weights[:, :-1], weights[:, -1], name)


def _linear(
    x: Tensor, matrix: np.ndarray, bias: np.ndarray | None = None, name: str = ""
) -> Tensor:
    """matrix x + bias for every row x of (N, n)."""
    constants = [tensor(matrix, name)]
    if bias is not None:
        constants.append(tensor(bias, name and f"{name}.bias"))
    return node("Gemm", x, *constants, transB=1)


# ------------------------------------------------------------------------------------------------
# Tensors that note what makes them


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the graph: an input, a constant, or what a node makes of others.

    op: of the node, None for inputs of the graph and for constants. array: of a constant.
    """

    op: str | None = None
    inputs: tuple[Tensor, ...] = ()
    attributes: dict = dataclasses.field(default_factory=dict)
    array: np.ndarray | None = None
    name: str = ""

    __array_ufunc__ = None  # so that NumPy's numbers leave the arithmetic to the methods below

    def __add__(self, other):
        return node("Add", self, other)

    def __radd__(self, other):
        return node("Add", other, self)

    def __sub__(self, other):
        return node("Sub", self, other)

    def __rsub__(self, other):
        return node("Sub", other, self)

    def __mul__(self, other):
        return node("Mul", self, other)

    def __rmul__(self, other):
        return node("Mul", other, self)

    def __truediv__(self, other):
        return node("Div", self, other)

    def __neg__(self):
        return node("Neg", self)

    def __bool__(self):
        raise TypeError("a tensor is neither true nor false: steps cannot branch")


def _by_kernel(function):
    """A function of an array made of the learner's kernel of one number, in the array's dtype.

    A decay rate that is off in its last bit adds up over all the fixations that it spans.
    """

    def of_array(x: np.ndarray) -> np.ndarray:
        return np.array([function(number) for number in x.ravel()], x.dtype).reshape(x.shape)

    return of_array


FOLDED = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Tanh": _by_kernel(backend.tanh),
    "Sigmoid": _by_kernel(backend.sigmoid),
    "Sin": _by_kernel(backend.sin),
    "Cos": _by_kernel(backend.cos),
}


def node(op: str, *inputs, **attributes) -> Tensor:
    """What the operator makes of its inputs; of constants alone it is made at once."""
    inputs = tuple(x if isinstance(x, Tensor) else tensor(x) for x in inputs)
    if op in FOLDED and all(x.array is not None for x in inputs):
        return tensor(FOLDED[op](*(x.array for x in inputs)))
    return Tensor(op, inputs, attributes)


def tensor(value, name: str = "") -> Tensor:
    """A constant: float32 or float64 until it is written, as float32."""
    array = np.asarray(value)
    return Tensor(array=array if array.dtype == np.float32 else array.astype(float), name=name)


def tanh(x) -> Tensor:
    return node("Tanh", x)


def sigmoid(x) -> Tensor:
    return node("Sigmoid", x)


def concat(*parts: Tensor) -> Tensor:
    return node("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]


def _reshape(x: Tensor, shape: list[int]) -> Tensor:
    return node("Reshape", x, _integers(*shape))


def _integers(*values: int) -> Tensor:
    return Tensor(array=np.array(values, np.int64))


VOCABULARY = {
    "tanh": tanh,
    "sigmoid": sigmoid,
    "sin": lambda x: node("Sin", x),
    "cos": lambda x: node("Cos", x),
    "one_minus": lambda x: 1.0 - x,
    "like": lambda x, value: tensor(value),
}


class Graph:
    """Writes tensors down as an ONNX graph: those that an output needs, each once."""

    def __init__(self):
        self._inputs, self._outputs, self._nodes, self._constants = [], [], [], []
        self._names: dict[Tensor, str] = {}

    def input(self, name: str, shape: list, doc: str, dtype: int = TensorProto.FLOAT) -> Tensor:
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape, doc))
        return Tensor(name=name)

    def output(self, name: str, value: Tensor, shape: list, doc: str = "") -> None:
        self._nodes.append(helper.make_node("Identity", [self._name(value)], [name], name))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape, doc))

    def model(self) -> onnx.ModelProto:
        return helper.make_model(
            helper.make_graph(
                self._nodes, "edge_rjepa", self._inputs, self._outputs, self._constants
            ),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="edge_rjepa",
            producer_version=edge_rjepa.__version__,
        )

    def _name(self, value: Tensor) -> str:
        """The name of a tensor, written down with all that it needs when first asked for."""
        if value not in self._names:
            self._names[value] = self._write(value)
        return self._names[value]

    def _write(self, value: Tensor) -> str:
        if value.array is not None:
            array = value.array
            if array.dtype != np.int64:
                array = array.astype(np.float32)
            name = value.name or f"constant_{len(self._constants)}"
            self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        elif value.op is None:
            name = value.name
        else:
            inputs = [self._name(each) for each in value.inputs]
            name = f"{value.op}_{len(self._nodes)}"
            self._nodes.append(helper.make_node(value.op, inputs, [name], name, **value.attributes))
        return name


# ------------------------------------------------------------------------------------------------
# Proof and label


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """The model as a deployer would run it, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        onnx.checker.check_model(model, full_check=True)
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # both raise types of their own
        raise ExportError(f"the graph is not sound, report this: {_one_line(error)}") from error


def _parity(session, learner: RJepa, retina: Retina | None) -> tuple[ParityReport, dict]:
    """Run file and learner side by side from a reset, each going on from its own state.

    Also what the learner itself makes of features that differ by `FEATURE_ROUNDING`, by output:
    with a retina inside, no two float32 programs agree better than that.
    """
    rng = np.random.default_rng(0)
    config = learner.config
    views, features = _random_views(rng, config.n_features, retina)
    efference = rng.standard_normal((PARITY_STEPS, config.n_efference), np.float32)
    found = _outputs_of_session(session, learner, retina, views, efference)
    expected = _outputs_of_learner(learner, features, efference)
    error = _largest_difference(found, expected)
    if retina is None:
        return ParityReport(PARITY_STEPS, **error), dict.fromkeys(TOLERANCE, 0.0)
    nudge = rng.choice(np.float32([-FEATURE_ROUNDING, FEATURE_ROUNDING]), features.shape)
    nudged = _outputs_of_learner(learner, features + nudge, efference)
    return ParityReport(PARITY_STEPS, **error), _largest_difference(nudged, expected)


def _outputs_of_session(session, learner, retina, views, efference) -> dict[str, np.ndarray]:
    view_name = "features" if retina is None else "window"
    state = np.zeros((1, learner.cell.n_state, learner.config.n_hidden), np.float32)
    z = np.zeros((1, learner.config.n_embedding), np.float32)
    rows = []
    for t in range(PARITY_STEPS):
        now = slice(t, t + 1)
        inputs = {view_name: views[now], "efference": efference[now]}
        inputs |= {"state": state, "embedding_before": z}
        z, h, state, z_hat, surprise = session.run(list(TOLERANCE), inputs)
        rows.append((z[0], h[0], state[0], z_hat[0], surprise[0]))
    columns = [np.stack(column).astype(np.float64) for column in zip(*rows, strict=True)]
    return dict(zip(TOLERANCE, columns, strict=True))


def _outputs_of_learner(learner, features, efference) -> dict[str, np.ndarray]:
    twin = learner.copy()
    twin.reset()
    rows = []
    for t in range(PARITY_STEPS):
        seen = twin.predict(features[t : t + 1], efference[t : t + 1])
        rows.append((seen.z[0], seen.h[0], twin.state, seen.z_hat[0]))
    z, h, state, z_hat = (np.stack(row).astype(np.float64) for row in zip(*rows, strict=True))
    outputs = (z, h, state, z_hat, learner.surprise(z, z_hat))
    return dict(zip(TOLERANCE, outputs, strict=True))


def _largest_difference(found: dict, expected: dict) -> dict[str, float]:
    """By output, relative to what `ParityReport` says."""
    largest = {}
    for name, true in expected.items():
        scale = np.maximum(1.0, np.abs(true).max(axis=0))
        if name == "surprise":
            scale = np.maximum(true, true.mean())
        largest[name] = float((np.abs(found[name] - true) / scale).max())
    return largest


def _random_views(
    rng: np.random.Generator, n_features: int, retina: Retina | None
) -> tuple[np.ndarray, np.ndarray]:
    """What the file and what the learner is given: windows or features, and features.

    Windows are noise of 1 px to whole-window grain and of any contrast: textures, edges, blanks.
    """
    if retina is None:
        features = rng.standard_normal((PARITY_STEPS, n_features), np.float32)
        return features, features
    side = retina.config.window_px
    windows = np.empty((PARITY_STEPS, side, side, 3), np.uint8)
    for window in windows:
        grain_px = 2 ** rng.integers(0, side.bit_length())
        low, high = np.sort(rng.integers(0, 256, size=2))
        coarse = rng.integers(low, high + 1, size=(-(-side // grain_px),) * 2 + (3,))
        window[:] = coarse.repeat(grain_px, axis=0).repeat(grain_px, axis=1)[:side, :side]
    middle = [[side // 2, side // 2]]
    return windows, np.concatenate([retina(window, middle) for window in windows])


def _properties(
    learner: RJepa,
    retina: Retina | None,
    gaze: GazeConfig | None,
    parity: ParityReport,
    metadata: dict,
) -> dict[str, str]:
    """The file's metadata: strings, or JSON."""
    properties = metadata | {
        "format": FORMAT,
        "version": VERSION,
        "config": dataclasses.asdict(learner.config),
        "retina": retina and dataclasses.asdict(retina.config),
        "training_fixations": learner.fixations,
        "efference": _efference_units(gaze),
        "parity": parity._asdict(),
    }
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in properties.items()}


def _efference_units(gaze: GazeConfig | None) -> str:
    if gaze is None:
        return "as in learning"
    return (
        f"(d_azimuth, d_elevation) / {gaze.saccade_scale_rad:g} rad of the saccade from the "
        f"fixation before, (azimuth, elevation) / {gaze.gaze_scale_rad:g} rad of gaze; in the "
        "head's base frame, azimuth positive to the right, elevation positive up"
    )


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
