"""The frozen encoder as an ONNX file, in one of four forms; docs/encoder.md is for deployers.

    patches     window -> embedding: what one patch looks like, without a past
    step        one fixation a call, the state handed in and out
    sequence    T fixations a call, in order
    descriptor  picture -> description: the scan of describe.py is inside

    window (N, 64, 64, 3) uint8 BGR, or features (N, f)       what is seen
    efference (N, A)                                          how gaze came there
    state (N, m, n_h), embedding_before (N, n_z)              the past; zeros at the start
        ->
    embedding z (N, n_z), memory h (N, n_r), next_state (N, m, n_h)
    whitened (N, n_z)     the embedding, centred and whitened by RJepa.whitening
    prediction (N, n_z)   of this embedding, from the past and the efference copy alone
    surprise (N,)         1/2 e' P_e e in nats, e = z - prediction; P_e as learning left it

All but the window are float32, and N is free. In a sequence T comes after N everywhere but in the
past and in next_state. A caller hands `next_state` back as `state` and the last `embedding` as
`embedding_before`. Opset 17, IR version 8, common operators only. With `float_input` the window, or
the picture, is float32, too, of the same whole numbers 0..255: some converters know no uint8.

A sequence is not a loop. Only the recurrent layer has to wait for the fixation before, and its
units meet only through what they read. So the retina and every matrix product take all N T
fixations at once, and only the layer's few operations on (N, n_h) are written T times over.
"""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import onnx
from onnx import TensorProto, helper

from edge_rjepa._version import __version__
from edge_rjepa.base.jit import specialise
from edge_rjepa.encoder.describe import (
    DARKEST_LEVEL,
    EVEN_LEVEL,
    GAIN_NUDGE,
    GAIN_STEPS,
    described_size,
    scan_to_describe,
)
from edge_rjepa.encoder.names import (
    DESCRIPTION,
    DESCRIPTOR,
    EFFERENCE,
    EMBEDDING,
    EMBEDDING_BEFORE,
    FEATURES,
    FORMAT,
    FORMS,
    LIKENESS,
    MEMORY,
    NEXT_STATE,
    PATCHES,
    PICTURE,
    PREDICTION,
    SCORES,
    SEQUENCE,
    STATE,
    STEP,
    SURPRISE,
    VERSION,
    WHITENED,
    WINDOW,
)
from edge_rjepa.encoder.naming import Taught, TaughtNames, likeness_graph, scores_graph
from edge_rjepa.encoder.onnx_graph import (
    VOCABULARY,
    Graph,
    Tensor,
    columns,
    concat,
    integers,
    linear,
    node,
    reshape,
    sigmoid,
    tanh,
    tensor,
)
from edge_rjepa.encoder.parity import (
    TOLERANCE,
    ParityReport,
    check_descriptions,
    check_parity,
    one_line,
)
from edge_rjepa.encoder.retina_graph import features_of
from edge_rjepa.errors import ExportError
from edge_rjepa.eye.config import GazeConfig
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner import cells
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.patches import Patches
from safe_files.errors import why
from safe_files.plain import plain
from safe_files.writing import write_atomic

SEQUENCE_FIXATIONS = 16
PICTURE_PX = (320, 240)  # of the usual camera


def export(
    learner: RJepa,
    retina: Retina | None,
    path: str | os.PathLike,
    *,
    form: str = STEP,
    fixations: int = SEQUENCE_FIXATIONS,
    picture_px: tuple[int, int] = PICTURE_PX,
    float_input: bool = False,
    taught: Taught | None = None,
    gaze: GazeConfig | None = None,
    patches: Patches | None = None,
    licence: str = "not stated",
    metadata: dict | None = None,
) -> ParityReport:
    """Write the learner's frozen encoder to `path` as ONNX, once both are shown to agree.

    retina: what turns windows into features inside the graph; None for a graph that takes features.
    form, fixations: see the top of this file; fixations is T of a sequence. picture_px: width and
    height of a camera's pictures, for a descriptor, which takes them as describe.py scans them.
    float_input: windows or pictures come as float32, for readers that know no uint8. taught: what a
    descriptor is to know by name, as Recogniser.for_export has it.
    gaze: what made the efference copies, for their units in the file's metadata. patches: real ones
    to compare on, beside random ones. licence: of the weights. metadata: more to keep there,
    strings or what JSON can hold; what is written there anyway wins. The learner is left as it is.

    Raises ExportError, with what was at `path` before untouched, when retina, gaze or patches do
    not fit the learner, its cell cannot be written as ONNX, a reader comes out further from it
    than parity.TOLERANCE, or the file cannot be written.
    """
    _check(learner, retina, gaze, patches, form, fixations, taught)
    _check_picture(picture_px)
    fixations = fixations if form == SEQUENCE else 1
    if form == DESCRIPTOR and retina is not None:
        model = _descriptor(learner, retina, picture_px, float_input, taught)
        report = check_descriptions(model, learner, retina, taught)
    else:
        model = _model(learner, retina, form, fixations, float_input)
        report = check_parity(model, form, fixations, learner, retina, patches)
    for check in report.checks:
        if check.differences and not check.ok:
            name, error = max(check.differences.items(), key=lambda item: item[1])
            raise ExportError(
                f"{path} is not written: under {check.reader} its {name} is off by up to "
                f"{error:.2g} over {check.steps} {report.unit} (allowed {TOLERANCE:.0e}): report "
                "this"
            )
    ranges = patches and _ranges_of(patches)
    properties = _properties(learner, retina, gaze, form, fixations, ranges, report, model)
    more = {**(metadata or {}), "licence": licence}
    if taught is not None:
        more["taught"] = plain(TaughtNames(taught.names, taught.odds))
    try:
        helper.set_model_props(model, as_strings(more | properties))
    except UnicodeEncodeError as error:
        said = f"{error.object[:80]!r}"
        raise ExportError(f"{path} is not written: {said} is no text: write it anew") from error
    write_model(path, model)
    return report


def write_model(path: str | os.PathLike, model: onnx.ModelProto) -> None:
    """Atomically. Raises ExportError."""
    try:
        write_atomic(path, model.SerializeToString(), private=False)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {why(error)}") from error


def _check(
    learner: RJepa,
    retina: Retina | None,
    gaze: GazeConfig | None,
    patches: Patches | None,
    form: str,
    fixations: int,
    taught: Taught | None,
) -> None:
    config = learner.config
    if form not in FORMS:
        raise ExportError(f"form '{form}' is unknown: choose one of {', '.join(FORMS)}")
    if form == DESCRIPTOR and retina is None:
        raise ExportError("a descriptor looks at pictures: export it with its retina")
    if taught is not None and form != DESCRIPTOR:
        raise ExportError(f"names are for whole pictures: export the form '{DESCRIPTOR}'")
    if form == SEQUENCE and not 2 <= fixations <= 256:
        raise ExportError(
            f"a sequence of {fixations} fixations: give 2 to 256, or export the form '{STEP}'"
        )
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
    if patches is not None:
        _check_patches(patches, config, retina)
    learned = [*learner.parameters().values(), learner.error_covariance, *learner.whitening()]
    if not all(np.isfinite(array).all() for array in learned):
        raise ExportError("the learner holds NaN or infinity: export an earlier checkpoint")


def _check_picture(picture_px: tuple[int, int]) -> None:
    whole = all(isinstance(side, int | np.integer) for side in picture_px)
    if len(picture_px) != 2 or not whole or not all(1 <= px <= 16384 for px in picture_px):
        raise ExportError(
            f"pictures of {picture_px} px: give width and height, whole numbers of 1 to 16384"
        )


def _check_patches(patches: Patches, config: RJepaConfig, retina: Retina | None) -> None:
    seen = patches.windows
    side = retina and retina.config.window_px
    wanted = (side, side, 3) if retina else (config.n_features,)
    dtype = np.uint8 if retina else np.float32
    if seen.dtype != dtype or seen.shape[1:] != wanted or not len(seen):
        raise ExportError(
            f"patches are {seen.dtype} {seen.shape}: give {np.dtype(dtype)} (N, "
            f"{', '.join(map(str, wanted))})"
        )
    if patches.efference.shape != (len(seen), config.n_efference):
        raise ExportError(
            f"efference copies of the patches are {patches.efference.shape}: give "
            f"({len(seen)}, {config.n_efference})"
        )


# ------------------------------------------------------------------------------------------------
# The network, layer by layer. A row is a fixation: N of them, or the N T of sequences, each
# sequence's T in order.


def _descriptor(
    learner: RJepa,
    retina: Retina,
    picture_px: tuple[int, int],
    float_input: bool,
    taught: Taught | None,
) -> onnx.ModelProto:
    """From a picture of this width and height, or rather as it is scanned, to its description.

    And to the names that were taught.
    """
    width, height = described_size(*picture_px)
    seen = scan_to_describe(np.zeros((height, width, 3), np.uint8))
    graph, side, n_z = Graph(), retina.config.window_px, learner.config.n_embedding
    shape = list(seen.image.shape)
    doc = f"BGR, enlarged or reduced to {shape[1]} x {shape[0]} px"
    picture = _in_even_light(_seen(graph, PICTURE, ["N", *shape], doc, float_input))
    windows = []
    for left, top in retina.corners(seen.image, seen.pixels):
        rows, columns = (  # beyond its border the picture is continued with the border's pixels
            integers(*np.clip(np.arange(start, start + side), 0, end - 1))
            for start, end in zip((top, left), shape[:2], strict=True)
        )
        windows.append(node("Gather", node("Gather", picture, rows, axis=1), columns, axis=2))
    features = features_of(retina, reshape(concat(*windows), -1, side, side, 3))
    white = _whitened(learner, _embedding(learner.parameters(), features))
    mean = node("ReduceMean", reshape(white, -1, len(windows), n_z), axes=[1], keepdims=0)
    length = node("Sqrt", linear(mean * mean, np.ones((1, n_z))))
    graph.output(DESCRIPTION, mean / length, ["N", n_z], "of length 1: its likeness is a product")
    if taught is not None:
        likeness = likeness_graph(taught, white, len(windows))
        scores, count = scores_graph(taught, likeness), len(taught.names)
        graph.output(LIKENESS, likeness, ["N", count], "to each name in 'taught', -1..1")
        graph.output(SCORES, scores, ["N", count + 1], "probability of each name, last of none")
    return graph.model(FORMAT, __version__)


def _in_even_light(picture: Tensor) -> Tensor:
    """describe.in_even_light of pictures (N, H, W, 3); sums of so few pixels are exact."""
    level = node("Clip", node("ReduceMean", picture, axes=[1, 2], keepdims=1), DARKEST_LEVEL, 255.0)
    gain = node("Floor", node("Div", GAIN_STEPS * EVEN_LEVEL, level) + GAIN_NUDGE) * (
        1.0 / GAIN_STEPS
    )
    return node("Clip", node("Floor", picture * gain + 0.5), 0.0, 255.0)


def _model(
    learner: RJepa, retina: Retina | None, form: str, T: int, float_input: bool = False
) -> onnx.ModelProto:
    config, cell, weights = learner.config, learner.cell, learner.parameters()
    n_z, n_h, A = config.n_embedding, config.n_hidden, config.n_efference
    n_r = len(cell.reads) * n_h
    batch = ["N", T] if form == SEQUENCE else ["N"]
    graph = Graph()

    features = _features(graph, retina, config.n_features, batch, float_input)
    z = _embedding(weights, features)
    graph.output(EMBEDDING, _by_sequence(z, batch, n_z), [*batch, n_z], "of what is seen, -1..1")
    white = _by_sequence(_whitened(learner, z), batch, n_z)
    graph.output(WHITENED, white, [*batch, n_z], "embedding, centred and whitened; see describe")
    if form == PATCHES:
        return graph.model(FORMAT, __version__)

    efference = graph.input(EFFERENCE, [*batch, A], "how gaze came there; see 'efference'")
    state = graph.input(STATE, ["N", cell.n_state, n_h], "next_state before; 0 at the start")
    z_first = graph.input(EMBEDDING_BEFORE, ["N", n_z], "last embedding before; 0 at the start")
    efference = reshape(efference, -1, A) if T > 1 else efference

    read = (z, n_z) if config.memory_input == "embedding" else (features, config.n_features)
    past = _split(node("Flatten", state, axis=1), cell.n_state, n_h)
    states = _recurrent_layer(cell, weights, past, (read, (efference, A)), T, n_h)
    memories = [concat(*(y[i] for i in cell.reads)) for y in states]
    h_before = _join([concat(*(past[i] for i in cell.reads)), *memories[:-1]], n_r)
    z_before = _join([z_first, *_split(_by_time(z, T, n_z), T, n_z)[:-1]], n_z)
    z_hat = _prediction(weights, (h_before, n_r), (z_before, n_z), (efference, A))
    surprise = _surprise(z - z_hat, learner.error_precision)

    h, z_hat = _by_sequence(_join(memories, n_r), batch, n_r), _by_sequence(z_hat, batch, n_z)
    after = reshape(concat(*states[-1]), -1, cell.n_state, n_h)
    graph.output(MEMORY, h, [*batch, n_r], "what the recurrent layer holds of all that was seen")
    graph.output(NEXT_STATE, after, ["N", cell.n_state, n_h], "to be handed in next as state")
    graph.output(PREDICTION, z_hat, [*batch, n_z], "of embedding, before window was seen")
    graph.output(SURPRISE, reshape(surprise, -1, *batch[1:]), batch, "nats, 0 and more")
    return graph.model(FORMAT, __version__)


def _embedding(weights: dict, features: Tensor) -> Tensor:
    """z (rows, n_z) of features (rows, f)."""
    for name in ("W_x", "W_z"):
        matrix = weights[name]
        if matrix.size:
            features = tanh(_affine(name, matrix, (features, matrix.shape[1] - 1)))
    return features


def _whitened(learner: RJepa, z: Tensor) -> Tensor:
    """Embeddings (rows, n_z), centred and whitened."""
    matrix, mean = learner.whitening()
    return linear(z - mean, matrix)


def _features(
    graph: Graph, retina: Retina | None, n_features: int, batch: list, float_input: bool
) -> Tensor:
    """The features (rows, f), of an input of windows or as the input itself."""
    if retina is None:
        features = graph.input(FEATURES, [*batch, n_features], "as learned from")
        return reshape(features, -1, n_features) if len(batch) > 1 else features
    side = retina.config.window_px
    shape = [side, side, 3]
    doc = f"BGR around the gaze pixel, which is at ({side // 2}, {side // 2})"
    picture = _seen(graph, WINDOW, [*batch, *shape], doc, float_input)
    return features_of(retina, reshape(picture, -1, *shape) if len(batch) > 1 else picture)


def _seen(graph: Graph, name: str, shape: list, doc: str, float_input: bool) -> Tensor:
    """Pixels as float32, of an input of bytes or of floats."""
    if float_input:
        return graph.input(name, shape, f"{doc}; 0..255")
    pixels = graph.input(name, shape, doc, TensorProto.UINT8)
    return node("Cast", pixels, to=TensorProto.FLOAT)  # at once: TensorRT knows no other uint8


def _recurrent_layer(
    cell: cells.Cell,
    weights: dict,
    y: list[Tensor],
    inputs: tuple[tuple[Tensor, int], ...],
    T: int,
    n_h: int,
) -> list[list[Tensor]]:
    """The states after each of T fixations, each a list of its components (N, n_h)."""
    rows = [_affine(f"W.{i}", W, *inputs) for i, W in enumerate(weights["W"])]
    projections = [_split(_by_time(each, T, n_h), T, n_h) for each in rows]
    parameters = tuple(tensor(lam) for lam in weights["lam"])
    used = [name for name in VOCABULARY if name in cell.step.__code__.co_names]
    step = specialise(cell.step, "traced", **{name: VOCABULARY[name] for name in used})
    states = []
    try:
        for projected in zip(*projections, strict=True):
            y, *_ = step(tuple(y), projected, parameters)
            states.append(list(y))
    except Exception as error:  # whatever somebody's function raises when it is given tensors
        raise ExportError(
            f"cell '{cell.name}' cannot be written as ONNX, write its step in + - * and "
            f"{', '.join(VOCABULARY)} ({one_line(error)})"
        ) from error
    return states


def _prediction(
    weights: dict, h: tuple[Tensor, int], z: tuple[Tensor, int], efference: tuple[Tensor, int]
) -> Tensor:
    """Of every row; h, z, efference: what came before it and how gaze comes there, with widths."""
    q = tanh(_affine("V_1", weights["V_1"], h, z, efference))
    gain = tanh(_affine("G_a", weights["G_a"], efference))
    n_gain, n_p = weights["G_a"].shape[0], weights["V_1"].shape[0]
    p1 = q * sigmoid(_affine("G_b", weights["G_b"], (gain, n_gain)))
    p2 = tanh(_affine("V_2", weights["V_2"], (p1, n_p)))
    return _affine("V_3", weights["V_3"], (p2, len(weights["V_2"])))


def _surprise(e: Tensor, precision: np.ndarray) -> Tensor:
    """1/2 e' P_e e as half the squares of e whitened: never below 0."""
    white = linear(e, np.linalg.cholesky(precision).T, name="whitening")
    return linear(white * white, np.full((1, len(precision)), 0.5))


def _affine(name: str, weights: np.ndarray, *parts: tuple[Tensor, int]) -> Tensor:
    """weights [parts; 1] of parts (rows, width), the bias being the last column of the weights.

    A product for each part: embedding, memory and efference differ in size, and INT8 has to take
    each by its own measure.
    """
    first, width = parts[0]
    total = linear(first, weights[:, :width], weights[:, -1], name)
    start = width
    for i, (part, width) in enumerate(parts[1:], 1):
        total = total + linear(part, weights[:, start : start + width], name=f"{name}.part_{i}")
        start += width
    return total


def _by_time(rows: Tensor, T: int, width: int) -> Tensor:
    """Rows (N T, width) of sequences as (N, T width)."""
    return reshape(rows, -1, T * width) if T > 1 else rows


def _split(x: Tensor, count: int, width: int) -> list[Tensor]:
    """The (N, width) of which (N, count width) is made."""
    if count == 1:
        return [x]
    return [columns(x, i * width, (i + 1) * width) for i in range(count)]


def _join(times: list[Tensor], width: int) -> Tensor:
    """Rows (N T, width) of T tensors (N, width)."""
    return reshape(concat(*times), -1, width) if len(times) > 1 else times[0]


def _by_sequence(rows: Tensor, batch: list, width: int) -> Tensor:
    """Rows (N T, width) as they leave the graph."""
    return reshape(rows, -1, *batch[1:], width) if len(batch) > 1 else rows


# ------------------------------------------------------------------------------------------------
# The label


def _properties(
    learner: RJepa,
    retina: Retina | None,
    gaze: GazeConfig | None,
    form: str,
    fixations: int,
    ranges: dict | None,
    report: ParityReport,
    model: onnx.ModelProto,
) -> dict:
    """The file's metadata."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "package_version": __version__,
        "form": form,
        "fixations": fixations,
        "config": dataclasses.asdict(learner.config),
        "retina": retina and dataclasses.asdict(retina.config),
        "training_fixations": learner.fixations,
        "efference": _efference_units(gaze),
        "efference_scales_rad": gaze and [gaze.saccade_scale_rad, gaze.gaze_scale_rad],
        "inputs": {value.name: _describe(value) for value in model.graph.input},
        "outputs": {value.name: _describe(value) for value in model.graph.output},
        "ranges": {WINDOW: [0, 255], EMBEDDING: [-1, 1], SURPRISE: [0, None]} | (ranges or {}),
        "parity": report.as_json(),
    }


def _describe(value: onnx.ValueInfoProto) -> dict:
    kind = value.type.tensor_type
    return {
        "dtype": np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name,
        "shape": [dim.dim_param or dim.dim_value for dim in kind.shape.dim],
        "meaning": value.doc_string,
    }


def _ranges_of(patches: Patches) -> dict:
    """Least and largest of what the real patches came with."""
    return {EFFERENCE: [float(patches.efference.min()), float(patches.efference.max())]}


def as_strings(properties: dict) -> dict[str, str]:
    """Metadata as ONNX keeps it: strings, or JSON."""
    return {
        k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)
        for k, v in properties.items()
    }


def _efference_units(gaze: GazeConfig | None) -> str:
    if gaze is None:
        return "as in learning"
    return (
        f"(d_azimuth, d_elevation) / {gaze.saccade_scale_rad:g} rad of the saccade from the "
        f"fixation before, (azimuth, elevation) / {gaze.gaze_scale_rad:g} rad of gaze; in the "
        "head's base frame, azimuth positive to the right, elevation positive up"
    )
