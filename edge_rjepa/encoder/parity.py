"""The parity check: an exported graph does what its learner does, whoever reads it.

Graph and learner run side by side for PARITY_STEPS fixations from a reset, each going on from its
own state, on random windows and, where there are some, on real ones. The readers are onnxruntime
and OpenCV's dnn; what the installed OpenCV cannot read is reported as not checked, never as passed.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime

from edge_rjepa.encoder.describe import learner_describer
from edge_rjepa.encoder.names import (
    DESCRIPTION,
    DESCRIPTOR,
    EFFERENCE,
    EMBEDDING,
    EMBEDDING_BEFORE,
    LIKENESS,
    NEXT_STATE,
    OUTPUTS,
    PICTURE,
    SCORES,
    STATE,
    SURPRISE,
)
from edge_rjepa.encoder.naming import Taught
from edge_rjepa.errors import ExportError
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.patches import Patches

PARITY_STEPS = 1000
DESCRIBED_PICTURES = 60
TOLERANCE = 1e-5

Reader = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


class Check(NamedTuple):
    """Largest difference between one reader of the graph and the learner, output by output.

    Relative to the largest value that the learner gave that unit, or to 1 if that is larger: the
    state of a cell like rtu is not bounded. That of the surprise is relative to its value, or to
    its mean if that is larger. None where nothing could be compared, and then why.
    """

    reader: str
    patches: str  # random or real
    steps: int  # fixations; pictures of a descriptor
    differences: dict[str, float] | None
    not_checked: str = ""

    @property
    def ok(self) -> bool:
        """Also True where nothing was compared: then `not_checked` says why."""
        return self.differences is None or all(
            difference <= TOLERANCE for difference in self.differences.values()
        )  # NaN fails, too


class ParityReport(NamedTuple):
    """All checks of one graph."""

    form: str
    tolerance: float
    checks: list[Check]

    @property
    def unit(self) -> str:
        """What the steps are."""
        return "pictures" if self.form == DESCRIPTOR else "fixations"

    @property
    def worst(self) -> float:
        """The largest difference of all."""
        found = [check.differences for check in self.checks if check.differences]
        return max(max(differences.values()) for differences in found)

    def as_json(self) -> dict:
        """Plain JSON values."""
        return self._asdict() | {"checks": [check._asdict() for check in self.checks]}

    def in_words(self) -> str:
        """A line a check."""
        lines = []
        for reader, patches, steps, differences, why in self.checks:
            on = f"{reader} on {patches} {'pictures' if self.form == DESCRIPTOR else 'patches'}"
            if differences is None:
                lines.append(f"{on}: not checked: {why}")
            else:
                name, worst = max(differences.items(), key=lambda item: item[1])
                lines.append(f"{on}: within {worst:.1e} over {steps} {self.unit} ({name})")
        return "\n".join(lines)


def check_parity(
    model: onnx.ModelProto,
    form: str,
    fixations: int,
    learner: RJepa,
    retina: Retina | None,
    real: Patches | None,
) -> ParityReport:
    """Run the graph of `export` beside its learner, which stays as it is.

    fixations: that the graph takes a call. Raises ExportError when the graph is not sound.
    """
    steps = PARITY_STEPS // fixations * fixations
    rng = np.random.default_rng(0)
    efference = rng.standard_normal((steps, learner.config.n_efference), np.float32)
    streams = {"random": (_random_views(rng, steps, learner, retina), efference)}
    if real is not None:
        times = np.arange(steps) % len(real.windows)
        streams["real"] = real.windows[times], real.efference[times]
    readers = {
        "onnxruntime": lambda: onnxruntime_reader(model),
        "cv2.dnn": lambda: opencv_reader(model),
    }
    checks = []
    for patches, (views, efference) in streams.items():
        expected = _outputs_of_learner(learner, retina, views, efference)
        expected[NEXT_STATE] = expected[NEXT_STATE][fixations - 1 :: fixations]
        for name, open_reader in readers.items():
            try:
                found = _outputs_of(open_reader(), model, fixations, views, efference)
            except UnreadableError as error:
                checks.append(Check(name, patches, 0, None, str(error)))
            else:
                checks.append(Check(name, patches, steps, _differences(found, expected)))
    if real is None:
        checks.append(Check("all", "real", 0, None, "none were given"))
    return ParityReport(form, TOLERANCE, checks)


def check_descriptions(
    model: onnx.ModelProto, learner: RJepa, retina: Retina, taught: Taught | None = None
) -> ParityReport:
    """Run the graph of a descriptor beside its learner. Raises ExportError if it is not sound.

    Its scores are held to what its own likeness comes to: they multiply what differs there.
    """
    height, width = (dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:3])
    pictures = random_pictures(np.random.default_rng(0), DESCRIBED_PICTURES, (height, width))
    dtype = _blank_inputs(model)[PICTURE].dtype
    describe = learner_describer(learner, retina)
    expected = {DESCRIPTION: np.array([describe(picture) for picture in pictures], np.float64)}
    if taught is not None:
        expected[LIKENESS] = np.array([taught.likeness(picture) for picture in pictures], float)
    readers = {
        "onnxruntime": lambda: onnxruntime_reader(model),
        "cv2.dnn": lambda: opencv_reader(model),
    }
    checks = []
    for name, open_reader in readers.items():
        try:
            read = open_reader()
            rows = [read({PICTURE: picture[None].astype(dtype)}) for picture in pictures]
        except UnreadableError as error:
            checks.append(Check(name, "random", 0, None, str(error)))
        else:
            found = {
                output: np.array([row[output].reshape(-1) for row in rows], np.float64)
                for output in rows[0]
            }
            if taught is not None:
                expected[SCORES] = np.array([taught.odds.scores(row) for row in found[LIKENESS]])
            differences = _differences(found, expected)
            checks.append(Check(name, "random", len(pictures), differences))
    return ParityReport(DESCRIPTOR, TOLERANCE, checks)


class UnreadableError(Exception):
    """This reader does not take this graph; in words."""


def onnxruntime_reader(model: onnx.ModelProto) -> Reader:
    """The graph as a deployer would run it, on one thread. Raises ExportError."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # both raise types of their own
        raise ExportError(f"the graph is not sound, report this: {one_line(error)}") from error
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def opencv_reader(model: onnx.ModelProto) -> Reader:
    """The graph under OpenCV's dnn. Raises UnreadableError."""
    try:
        import cv2
    except ImportError as error:
        raise UnreadableError(f"OpenCV does not load ({one_line(error)})") from error
    names = [output.name for output in model.graph.output]

    def read(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name, value in inputs.items():
            network.setInput(value, name)
        return dict(zip(names, network.forward(names), strict=True))

    log = getattr(cv2.utils, "logging", cv2)  # of OpenCV 5, of OpenCV 4
    level = log.getLogLevel()
    log.setLogLevel(0)  # silent: what goes wrong is reported
    try:
        network = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
        read(_blank_inputs(model))
    except (cv2.error, TypeError) as error:  # TypeError: a version that knows no uint8
        why = textwrap.shorten(str(getattr(error, "err", None) or error), 120)
        raise UnreadableError(f"OpenCV {cv2.__version__} cannot read it ({why})") from error
    finally:
        log.setLogLevel(level)
    return read


def _blank_inputs(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Zeros for every input, of one stream."""
    inputs = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value or 1 for dim in kind.shape.dim]
        inputs[value.name] = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return inputs


def _outputs_of(
    read: Reader, model: onnx.ModelProto, fixations: int, views: np.ndarray, efference: np.ndarray
) -> dict[str, np.ndarray]:
    """What a reader says of all fixations in order, (steps, ..) float64 by output.

    Of next_state, which it gives once a call, (steps / fixations, ..).
    """
    inputs = _blank_inputs(model)
    view = next(iter(inputs))
    rows: dict[str, list] = {output.name: [] for output in model.graph.output}
    for start in range(0, len(views), fixations):
        now = slice(start, start + fixations)
        inputs[view] = views[now].reshape(inputs[view].shape).astype(inputs[view].dtype)
        if EFFERENCE in inputs:
            inputs[EFFERENCE] = efference[now].reshape(inputs[EFFERENCE].shape)
        found = read(inputs)
        if STATE in inputs:
            inputs[STATE] = found[NEXT_STATE].reshape(inputs[STATE].shape)
            n_z = inputs[EMBEDDING_BEFORE].shape[1]
            inputs[EMBEDDING_BEFORE] = found[EMBEDDING].reshape(-1, n_z)[-1:]
        for name, values in found.items():
            rows[name].append(values.reshape(1 if name == NEXT_STATE else fixations, -1))
    return {name: np.concatenate(parts).astype(np.float64) for name, parts in rows.items()}


def _outputs_of_learner(
    learner: RJepa, retina: Retina | None, views: np.ndarray, efference: np.ndarray
) -> dict[str, np.ndarray]:
    twin = learner.copy()
    twin.reset()
    rows = []
    for view, a in zip(views, efference, strict=True):
        if retina is not None:
            view = retina(view, [[retina.config.window_px // 2] * 2])[0]
        seen = twin.predict(view[None], a[None])
        rows.append((seen.z[0], seen.h[0], twin.state.ravel(), seen.z_hat[0]))
    z, h, state, z_hat = (np.stack(row).astype(np.float64) for row in zip(*rows, strict=True))
    matrix, mean = learner.whitening()
    white, surprise = (z - mean) @ matrix.T, learner.surprise(z, z_hat)[:, None]
    return dict(zip(OUTPUTS, (z, white, h, state, z_hat, surprise), strict=True))


def _differences(found: dict, expected: dict) -> dict[str, float]:
    """The largest by output, relative to what `Check` says."""
    largest = {}
    for name, values in found.items():
        true = expected[name]
        scale = np.maximum(1.0, np.abs(true).max(axis=0))
        if name == SURPRISE:
            scale = np.maximum(true, true.mean())
        largest[name] = float((np.abs(values - true) / scale).max())
    return largest


def _random_views(
    rng: np.random.Generator, steps: int, learner: RJepa, retina: Retina | None
) -> np.ndarray:
    """What is seen: features, or windows that are hard on a retina.

    A third of the windows is noise of 1 px to whole-window grain and of any contrast: textures,
    edges, blanks. A third is pixel noise at full contrast, a third bright and all but flat.
    """
    if retina is None:
        return rng.standard_normal((steps, learner.config.n_features), np.float32)
    side = retina.config.window_px
    return random_pictures(rng, steps, (side, side))


def random_pictures(rng: np.random.Generator, count: int, shape: tuple[int, int]) -> np.ndarray:
    """Pictures (count, H, W, 3) uint8 that are hard on a retina; see _random_views."""
    pictures = np.empty((count, *shape, 3), np.uint8)
    height, width = shape
    for i, picture in enumerate(pictures):
        grain_px = 2 ** rng.integers(0, min(shape).bit_length()) if i % 3 == 0 else 1
        low, high = [np.sort(rng.integers(0, 256, size=2)).tolist(), [0, 255], [252, 255]][i % 3]
        coarse = rng.integers(
            low, high + 1, size=(-(-height // grain_px), -(-width // grain_px), 3)
        )
        picture[:] = coarse.repeat(grain_px, axis=0).repeat(grain_px, axis=1)[:height, :width]
    return pictures


def one_line(error: Exception) -> str:
    """An error of somebody else's in words that fit in ours."""
    return " ".join(f"{type(error).__name__}: {error}".split())
