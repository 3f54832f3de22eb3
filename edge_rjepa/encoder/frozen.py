"""An exported encoder under onnxruntime, used as the learner is used.

    learner = RJepa.load("eye.safetensors")        encoder = FrozenEncoder("encoder.onnx")
    see = Retina()                                 see = encoder.retina.windows
    z, h = learner.embed(see(image, pixels), a)    z, h = encoder.embed(see(image, pixels), a)
    learner.reset()                                encoder.reset()

The retina is inside the file: what a learner is given as features, the file is given as the windows
they come from. A file exported without a retina takes the learner's own features.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike

from edge_rjepa.base.checks import from_table
from edge_rjepa.encoder.describe import Describer, scan_to_describe
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
    OUTPUTS,
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
from edge_rjepa.encoder.naming import Answer, TaughtNames, checked_name
from edge_rjepa.errors import InputError, RJepaError
from edge_rjepa.eye.config import RetinaConfig
from edge_rjepa.eye.image import check_image
from edge_rjepa.eye.retina import Retina
from edge_rjepa.eye.scan import resized
from edge_rjepa.learner.config import MOST_BLOCK
from safe_files.errors import FileError, why
from safe_files.plain import rebuilt
from safe_files.reading import parse_json, read_bytes

MOST_BYTES, MOST_METADATA, MOST_SIZE = 256 << 20, 1 << 20, 1 << 20
NODES = {  # form -> inputs beside what is seen, and outputs
    STEP: ((EFFERENCE, STATE, EMBEDDING_BEFORE), OUTPUTS),
    SEQUENCE: ((EFFERENCE, STATE, EMBEDDING_BEFORE), OUTPUTS),
    PATCHES: ((), (EMBEDDING, WHITENED)),
    DESCRIPTOR: ((), (DESCRIPTION,)),
}
UNORDERED = STATE, EMBEDDING_BEFORE, NEXT_STATE  # one a stream, in a sequence, too
_NO_ONNX = "{} is no ONNX file that onnxruntime can run: name one that export wrote"


BYTES, FLOATS = "tensor(uint8)", "tensor(float)"


class EncoderError(RJepaError, OSError):
    """A file is missing, is no ONNX file, or is not one that this package exported."""


class FrozenPrediction(NamedTuple):
    """The learner's Prediction of K fixations, and how surprising they were."""

    z: np.ndarray  # (K, n_z) float32 embedding
    z_hat: np.ndarray  # (K, n_z) float32 its prediction
    h: np.ndarray  # (K, n_r) float32 what the predictor reads of the memory
    surprise: np.ndarray  # (K,) float32 nats


class EncoderPast(NamedTuple):
    """All that a stream leaves behind for its next fixation; zeros at the start."""

    state: np.ndarray  # (m, n_h) float32 of the recurrent layer
    embedding: np.ndarray  # (n_z,) float32 of the fixation before


WITHOUT_CODES = {"colour_codes": 0, "orientation_scales": 0}  # files from before there were codes


class FrozenEncoder:
    """The encoder in an ONNX file that `edge_rjepa.export` wrote, with the state of one stream.

    path: of the file. threads: of onnxruntime; more than one makes so small a network slower.

    metadata: what the file says of itself. form: step, sequence, patches or descriptor. fixations:
    how many a call of the graph takes; of a sequence, blocks must be a multiple of it. retina: the
    retina inside the graph, whose `windows` cuts what `embed` takes; None if the file takes
    features. taught: the names of places that the file knows, and their odds; None if it was
    exported without. Raises EncoderError for a file that cannot be read, or is not of this package,
    and where the graph fails while it runs.
    """

    def __init__(self, path: str | os.PathLike, threads: int = 1):
        if threads < 1:
            raise InputError(f"{threads} threads asked for: must be at least 1")
        self._path = Path(path)
        self._session = _session(self._path, threads)
        self.metadata = _metadata(self._path, self._session)
        try:
            self.form, self.fixations, self.retina = _described(self.metadata)
        except ValueError as error:  # FileError, ConfigError
            raise EncoderError(
                f"{path} lacks what it should say of itself ({error}): export it again"
            ) from error
        self._inputs = {each.name: each for each in self._session.get_inputs()}
        self._outputs = {each.name: each for each in self._session.get_outputs()}
        self._view = _view(self.form, self.retina)
        try:
            self.taught = rebuilt(TaughtNames | None, self.metadata.get("taught"), "taught")
            self._check_graph()
        except FileError as error:
            raise EncoderError(
                f"{path} is not the graph that it says it is ({error}): export it again"
            ) from error
        takes_bytes = self._inputs[self._view].type == BYTES
        self._view_dtype = np.uint8 if takes_bytes else np.float32
        self.reset()

    def embed(
        self, seen: ArrayLike, efference: ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings z (K, n_z) and memory h (K, n_r), float32; the state advances.

        seen: windows (K, side, side, 3) uint8 BGR, or features (K, f) floating, of K fixations in
        order; what the file takes. efference: (K, A) floating, as in learning; of the form
        `patches` it is ignored, and h is (K, 0). Anything else raises InputError and changes
        nothing.
        """
        found = self._run(seen, efference)
        none = np.empty((len(found[EMBEDDING]), 0), np.float32)
        return found[EMBEDDING], found.get(MEMORY, none)

    def predict(self, seen: ArrayLike, efference: ArrayLike) -> FrozenPrediction:
        """As `embed`, with the prediction of every embedding, and the surprise that it was.

        Raises InputError also where the file is of the form `patches`, which has no past.
        """
        if self._past is None:
            raise InputError(f"an encoder of the form {self.form} predicts nothing: export step")
        found = self._run(seen, efference)
        return FrozenPrediction(*(found[n] for n in (EMBEDDING, PREDICTION, MEMORY, SURPRISE)))

    def embed_patches(self, windows: ArrayLike) -> np.ndarray:
        """Embeddings z (K, n_z) float32 of windows, or features, each by itself; as in `embed`.

        The past is neither used nor changed. Raises InputError as `embed` does.
        """
        return self._without_past(windows)[EMBEDDING]

    def describe(self, picture: np.ndarray) -> np.ndarray:
        """The description (n_z,) float32 of a picture (H, W, 3) uint8 BGR; see describe.py.

        A file of the form `descriptor` makes it of pictures of its own height and width, which
        the picture is enlarged or reduced to. Raises InputError for any other picture, and where
        the file takes features.
        """
        return self.describer()(picture)

    def describer(self) -> Describer:
        """What `describe` does, in two parts; its rows are whitened embeddings already.

        Of the form `descriptor` there is one row, the description. Raises InputError where the file
        takes features.
        """
        if self.retina is None:
            raise InputError("this file takes features: export it with its retina to describe")
        see = self._see_whole if self.form == DESCRIPTOR else self._see_windows
        return Describer(see, lambda rows: rows)

    def recognise(self, picture: np.ndarray) -> Answer:
        """Which of the names that the file knows a picture (H, W, 3) uint8 BGR shows.

        Raises InputError for any other picture, and where the file knows no names.
        """
        return self.answer(self.likeness(picture))

    def likeness(self, picture: np.ndarray) -> np.ndarray:
        """The likeness (M,) float32 of a picture to each name. Raises InputError as `recognise`."""
        self._names()
        return self._of_whole(picture, LIKENESS)[0]

    def answer(self, likeness: np.ndarray) -> Answer:
        """What a likeness (M,), of one picture or the mean over several, comes to."""
        return self._names().answer(likeness)

    def _names(self) -> TaughtNames:
        if self.taught is None:
            raise InputError("this file knows no names: export it with --taught")
        return self.taught

    def _see_whole(self, picture: np.ndarray) -> np.ndarray:
        """The description (1, n_z) of a picture, by the graph itself."""
        return self._of_whole(picture, DESCRIPTION)

    def _of_whole(self, picture: np.ndarray, output: str) -> np.ndarray:
        """An output (1, ..) of a descriptor for a picture."""
        check_image(picture, "picture")
        height, width = self._inputs[PICTURE].shape[1:3]
        picture = resized(picture, width, height)[None].astype(self._view_dtype, copy=False)
        return self._compute([output], {PICTURE: picture})[output]

    def _see_windows(self, picture: np.ndarray) -> np.ndarray:
        """Whitened embeddings (K, n_z) of a picture's scan."""
        assert self.retina is not None  # for mypy: describer has looked
        seen = scan_to_describe(picture)
        return self._without_past(self.retina.windows(seen.image, seen.pixels))[WHITENED]

    def reset(self) -> None:
        """Forget the past."""
        self._past: EncoderPast | None = None
        if self.form in (STEP, SEQUENCE):
            state, embedding = (self._inputs[name].shape for name in (STATE, EMBEDDING_BEFORE))
            self._past = EncoderPast(*(np.zeros(s[1:], np.float32) for s in (state, embedding)))

    @property
    def past(self) -> EncoderPast | None:
        """The stream's past, to be put back later or into another encoder; None without one."""
        return self._past and EncoderPast(self._past.state.copy(), self._past.embedding.copy())

    @past.setter
    def past(self, past: EncoderPast) -> None:
        if self._past is None:
            raise InputError(f"an encoder of the form {self.form} has no past: export step")
        state, embedding = past
        self._past = EncoderPast(
            _floats("state", state, self._past.state.shape).copy(),
            _floats("embedding", embedding, self._past.embedding.shape).copy(),
        )

    def graph_inputs(
        self, seen: np.ndarray, efference: np.ndarray, past: EncoderPast | None
    ) -> dict[str, np.ndarray]:
        """What one call of the graph takes: `fixations` of them, and the past before them."""
        sequence = self.form == SEQUENCE
        seen = seen.astype(self._view_dtype, copy=False)
        inputs = {self._view: seen[None] if sequence else seen}
        if past is not None:
            inputs[EFFERENCE] = efference[None] if sequence else efference
            inputs[STATE] = past.state[None]
            inputs[EMBEDDING_BEFORE] = past.embedding[None]
        return inputs

    def _without_past(self, seen: ArrayLike) -> dict[str, np.ndarray]:
        """Embedding and whitened embedding (K, n_z) of K windows, as so many streams at once."""
        seen = self._check_view(seen)
        K, T = len(seen), self.fixations
        rows = seen
        if self.form == SEQUENCE:  # whole sequences: the last window again until they are
            rows = np.concatenate([seen, np.repeat(seen[-1:], -K % T, axis=0)])
            rows = rows.reshape(-1, T, *seen.shape[1:])
        inputs = {self._view: rows.astype(self._view_dtype, copy=False)}
        for name, each in self._inputs.items():
            if name != self._view:
                sizes = [size for size in each.shape if isinstance(size, int)]
                inputs[name] = np.zeros((len(rows), *sizes), np.float32)
        found = self._compute([EMBEDDING, WHITENED], inputs)
        return {name: rows.reshape(-1, rows.shape[-1])[:K] for name, rows in found.items()}

    def _run(self, seen: ArrayLike, efference: ArrayLike | None) -> dict[str, np.ndarray]:
        """All outputs but next_state, (K, ..) each."""
        seen = self._check_view(seen)
        K, T, past = len(seen), self.fixations, self._past
        if past is None:
            return self._call({self._view: seen.astype(self._view_dtype, copy=False)})
        width = self._inputs[EFFERENCE].shape[-1]
        efference = _floats(EFFERENCE, efference, (K, width))
        if K % T:
            raise InputError(
                f"{K} fixations: this file takes {T} at a time, give a multiple or export form step"
            )
        blocks = []
        for start in range(0, K, T):
            now = slice(start, start + T)
            found = self._call(self.graph_inputs(seen[now], efference[now], past))
            past = EncoderPast(found.pop(NEXT_STATE)[0], found[EMBEDDING][-1])
            blocks.append(found)
        self._past = past
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    def _call(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One call of the graph: its outputs for these fixations, and the state after them."""
        found = self._compute(list(self._outputs), inputs)
        if self.form == SEQUENCE:
            found = {n: x if n == NEXT_STATE else x[0] for n, x in found.items()}
        return found

    def _compute(self, names: list[str], inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """These outputs of the graph, of the shapes it declares. Raises EncoderError."""
        try:
            found = dict(zip(names, self._session.run(names, inputs), strict=True))
        except Exception as error:  # as in _session
            raise EncoderError(f"{self._path} fails while it runs: export it again") from error
        count = len(inputs[self._view])
        for name, array in found.items():
            if array.shape != (count, *self._outputs[name].shape[1:]):
                raise EncoderError(
                    f"{self._path} gives {name} of shape {array.shape}, which it does not "
                    "declare: export it again"
                )
        return found

    def _check_graph(self) -> None:
        """Raise FileError unless inputs and outputs are those of the form."""
        inputs, outputs = NODES[self.form]
        if self.taught is not None:
            outputs = (*outputs, LIKENESS, SCORES)
        for kind, names, has in (
            ("inputs", {self._view, *inputs}, self._inputs),
            ("outputs", set(outputs), self._outputs),
        ):
            if names != has.keys():
                raise FileError(f"its {kind} are {', '.join(sorted(has))}"[:200])
        for name, node in (self._inputs | self._outputs).items():
            batch = ["N"] if name in UNORDERED or self.form != SEQUENCE else ["N", self.fixations]
            sizes = node.shape[len(batch) :]
            known = all(isinstance(size, int) and 0 < size <= MOST_SIZE for size in sizes)
            if node.shape[1 : len(batch)] != batch[1:] or not known:
                raise FileError(f"{name} is {node.shape}"[:200])
            wanted = (BYTES, FLOATS) if name in (WINDOW, PICTURE) else (FLOATS,)
            if node.type not in wanted:
                raise FileError(f"{name} is a {node.type}"[:200])
        self._check_view_sizes()
        if self.taught is not None:
            _check_taught(self.taught)
            count = len(self.taught.names)
            sizes = [self._outputs[name].shape[1:] for name in (LIKENESS, SCORES)]
            if sizes != [[count], [count + 1]]:
                raise FileError(f"it names {count} and scores {sizes}"[:200])

    def _check_view_sizes(self) -> None:
        shape = self._inputs[self._view].shape
        ranks = {WINDOW: 4, FEATURES: 2, PICTURE: 4}
        if len(shape) != ranks[self._view] + (self.form == SEQUENCE):
            raise FileError(f"{self._view} is {shape}"[:200])
        side = self.retina.config.window_px if self.retina else None
        if self._view == WINDOW and shape[-3:] != [side, side, 3]:
            raise FileError(f"{WINDOW} is {shape}, its retina looks at {side} px"[:200])
        if self._view == PICTURE and shape[-1] != 3:
            raise FileError(f"{PICTURE} is {shape}"[:200])

    def _check_view(self, seen: ArrayLike) -> np.ndarray:
        if self.form == DESCRIPTOR:
            raise InputError("a descriptor takes whole pictures: describe them, or export step")
        axes = self._inputs[self._view].shape[2 if self.form == SEQUENCE else 1 :]
        if self.retina is None:
            return _floats("features", seen, (None, *axes))
        seen = np.asarray(seen)
        if seen.dtype != np.uint8 or seen.shape[1:] != tuple(axes) or not len(seen):
            wanted = ", ".join(map(str, axes))
            raise InputError(
                f"windows are {seen.dtype} {seen.shape}: must be uint8 (K, {wanted}), K >= 1"
            )
        return seen


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        content = read_bytes(path, MOST_BYTES)
    except (OSError, FileError) as error:
        reason = why(error) if isinstance(error, OSError) else error
        raise EncoderError(f"cannot read {path}: {reason}") from error
    _check_content(path, content)
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        _ = session.get_modelmeta().custom_metadata_map  # may be no UTF-8, and names, too
        _ = [(node.name, node.shape) for node in (*session.get_inputs(), *session.get_outputs())]
        return session
    except Exception as error:  # onnxruntime has a dozen types of them, with one base: Exception
        raise EncoderError(_NO_ONNX.format(path)) from error


def _metadata(path: Path, session: onnxruntime.InferenceSession) -> dict:
    """What the file says of itself, decoded where it is JSON."""
    found = session.get_modelmeta().custom_metadata_map
    if found.get("format") != FORMAT:
        raise EncoderError(f"{path} is an ONNX file of another program: name one that export wrote")
    if found.get("version") != str(VERSION):
        raise EncoderError(
            f"{path} is of version {found.get('version')} of the format, this package reads "
            f"{VERSION}: export it again"
        )
    return {key: _decode(value) for key, value in found.items()}


def _decode(text: str) -> Any:
    try:
        return parse_json(text)
    except FileError:
        return text


def _described(metadata: dict[str, Any]) -> tuple[str, int, Retina | None]:
    """Form, fixations of a call, and retina, of what a file says of itself. Raises ValueError."""
    form = rebuilt(str, metadata.get("form"), "form")
    fixations = rebuilt(int, metadata.get("fixations"), "fixations")
    if form not in FORMS or not 1 <= fixations <= MOST_BLOCK:
        raise FileError(f"form {form!r:.60} of {fixations} fixations")
    if "retina" not in metadata:
        raise FileError("retina is not there")
    retina = rebuilt(dict[str, object] | None, metadata["retina"], "retina")
    config = from_table(RetinaConfig, WITHOUT_CODES | retina, "retina.") if retina else None
    return form, fixations, config and Retina(config)


def _check_taught(taught: TaughtNames) -> None:
    """Raise FileError for names that cannot be taught, and for odds that are none."""
    try:
        names = [checked_name(name) for name in taught.names]
    except InputError as error:
        raise FileError(str(error)) from error
    if not names or names != taught.names or len(set(names)) < len(names):
        raise FileError("names are missing, not as they are kept, or there twice")
    if min(taught.odds.sharpness, taught.odds.certainty) <= 0.0:
        raise FileError(f"its odds are {taught.odds}")


def _view(form: str, retina: Retina | None) -> str:
    """The name of the input that is seen."""
    if form == DESCRIPTOR:
        return PICTURE
    return WINDOW if retina else FEATURES


def _check_content(path: Path, content: bytes) -> None:
    """Raise EncoderError for what says too much of itself, or does not bring all its weights.

    Those onnxruntime would read from the folder that the program is in.
    """
    import onnx

    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError, whichever protobuf there is
        raise EncoderError(_NO_ONNX.format(path)) from error
    if sum(len(each.value) for each in model.metadata_props) > MOST_METADATA:
        raise EncoderError(f"{path} says too much of itself: export it again")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(model)):
        raise EncoderError(f"{path} wants to read other files: name one that export wrote")


def _tensors(message: Any) -> Iterator[Any]:
    """Every TensorProto in a message of protobuf, however deep."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in (value,) if hasattr(value, "ListFields") else value:
            if field.message_type.name == "TensorProto":
                yield part
            else:
                yield from _tensors(part)


def _floats(name: str, array: ArrayLike | None, shape: tuple[int | None, ...]) -> np.ndarray:
    """The array as float32, if it has that shape and finite numbers. Raises InputError."""
    try:
        array = np.asarray(array)
    except ValueError:
        raise InputError(f"{name} is ragged: must have shape {_words(shape)}") from None
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{name} has dtype {array.dtype}: give floating point numbers")
    fits = array.ndim == len(shape) and all(
        size in (None, own) for size, own in zip(shape, array.shape, strict=True)
    )
    if not fits or not len(array):
        raise InputError(f"{name} has shape {array.shape}: expected {_words(shape)}")
    with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused as such
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinity: skip this block")
    return array


def _words(shape: tuple[int | None, ...]) -> str:
    sizes = ["K" if size is None else str(size) for size in shape]
    return f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"
