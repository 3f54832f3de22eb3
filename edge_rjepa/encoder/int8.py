"""The frozen encoder in 8-bit integers: its products with learned weights, nothing else.

The retina stays in float, since its logarithm and its division by contrast, which make patches
alike that differ in light, would not survive a grid of 255 values. The recurrent layer stays in
float, too, since it adds up what it is given over hundreds of fixations, and so do the products
with the efference copy, which are small. What is left holds nearly all weights.

The format is QDQ, signed and symmetric, a scale for each row of weights and one for each kind of
activation, biases in float: what TensorRT reads as explicit quantisation. Weights are -64..64:
where a processor has no VNNI two products of a weight and an activation, 0..255 by then, are added
in 16 bits, and would overflow (OpenVINO did, by 0.001 of the cosine and more).
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper

from edge_rjepa.encoder.classify import ridge
from edge_rjepa.encoder.export import write_model
from edge_rjepa.encoder.frozen import FrozenEncoder
from edge_rjepa.encoder.names import DESCRIPTOR
from edge_rjepa.encoder.onnx_graph import IR_VERSION
from edge_rjepa.encoder.parity import one_line
from edge_rjepa.errors import ExportError
from edge_rjepa.run.patches import Patches

LEAST_WEIGHTS = 2048  # of a product, for it to be worth 8 bits
WORST_SHARE = 0.01


class Int8Report(NamedTuple):
    """How the INT8 file compares with the float one, on patches it was not calibrated on."""

    patches: int
    embedding_cosine_mean: float
    embedding_cosine_worst: float  # mean over the worst 1% of the patches
    memory_cosine_mean: float | None  # None of the form patches
    memory_cosine_worst: float | None
    accuracy_float: float  # of telling from one embedding which frame it is from
    accuracy_int8: float
    products: int  # in 8 bits
    bytes: int
    bytes_float: int

    def in_words(self) -> str:
        """A line or two."""
        cosines = (
            f"embedding cosine {self.embedding_cosine_mean:.4f} on average and "
            f"{self.embedding_cosine_worst:.4f} in the worst 1% of {self.patches} patches"
        )
        if self.memory_cosine_mean is not None:
            cosines += f"; memory {self.memory_cosine_mean:.4f} and {self.memory_cosine_worst:.4f}"
        return (
            f"{cosines}\ntelling frames apart: {self.accuracy_int8:.3f}, float "
            f"{self.accuracy_float:.3f}; {self.bytes / 1e6:.2f} MB, float "
            f"{self.bytes_float / 1e6:.2f}"
        )


def quantise(encoder: str | os.PathLike, path: str | os.PathLike, patches: Patches) -> Int8Report:
    """Write the INT8 twin of an exported encoder to `path`, and say what it costs.

    patches: recorded ones, in order; the first half calibrates, the second half judges. Raises
    ExportError where they are too few or do not fit or the file cannot be written, EncoderError
    for an encoder that cannot be read.
    """
    exact = FrozenEncoder(encoder)
    if exact.form == DESCRIPTOR:
        raise ExportError(f"{encoder} is a descriptor, which stays in float: quantise another form")
    half = len(patches.windows) // 2 // exact.fixations * exact.fixations
    if half < 100:
        raise ExportError(f"{len(patches.windows)} patches are too few: give 200 or more")
    calibration = _calls(exact, patches.windows[:half], patches.efference[:half])
    products = _wide_products(onnx.load(encoder))
    model = _quantise(encoder, calibration, products)
    model.ir_version = IR_VERSION
    del model.opset_import[1:]  # the quantiser names a domain that it makes no use of

    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "trial.onnx"
        helper.set_model_props(model, _properties(encoder))
        trial.write_bytes(model.SerializeToString())
        rest = slice(half, 2 * half)
        found = _compare(exact, FrozenEncoder(trial), patches, rest)
    sizes = {"bytes": model.ByteSize(), "bytes_float": Path(encoder).stat().st_size}
    report = Int8Report(patches=half, **found, products=len(products), **sizes)
    properties = _properties(encoder) | {"int8": json.dumps(report._asdict())}
    helper.set_model_props(model, properties)
    write_model(path, model)
    return report


def _wide_products(model: onnx.ModelProto) -> list[str]:
    """Names of the products with many learned weights; export.py names those, and no others."""
    sizes = {each.name: int(np.prod(each.dims)) for each in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Gemm"
        and node.input[1] == f"{node.name}.weight"
        and node.name != "whitening"
        and sizes[node.input[1]] >= LEAST_WEIGHTS
    ]


def _calls(encoder: FrozenEncoder, windows: np.ndarray, efference: np.ndarray) -> list[dict]:
    """The inputs of each call of the graph that sees these fixations in order."""
    encoder.reset()
    T, calls = encoder.fixations, []
    for start in range(0, len(windows), T):
        seen, a = windows[start : start + T], efference[start : start + T]
        calls.append(encoder.graph_inputs(seen, a, encoder.past))
        encoder.embed(seen, a)
    return calls


def _quantise(
    encoder: str | os.PathLike, calls: list[dict], products: list[str]
) -> onnx.ModelProto:
    """The model with its products quantised by the range of what these calls bring to them."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    logging.disable(logging.WARNING)  # advice on graphs of other kinds
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "int8.onnx"
        try:
            quantize_static(
                str(encoder),
                str(output),
                _Calls(calls),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Gemm"],
                nodes_to_quantize=products,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "OpTypesToExcludeOutputQuantization": ["Gemm"],
                },
            )
        except Exception as error:  # of onnx, onnxruntime or the quantiser
            raise ExportError(f"cannot quantise {encoder}: {one_line(error)}") from error
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(output)


class _Calls:
    """The inputs one after the other, as the quantiser wants to be handed them."""

    def __init__(self, calls: list[dict]):
        self._calls = iter(calls)

    def get_next(self) -> dict | None:
        return next(self._calls, None)


def _properties(encoder: str | os.PathLike) -> dict[str, str]:
    return {each.key: each.value for each in onnx.load(encoder).metadata_props}


def _compare(exact: FrozenEncoder, coarse: FrozenEncoder, patches: Patches, rest: slice) -> dict:
    """The figures of Int8Report that come of running both from a reset."""
    seen = patches.windows[rest], patches.efference[rest]
    exact.reset()
    (z, h), (z_coarse, h_coarse) = exact.embed(*seen), coarse.embed(*seen)
    frame = patches.frame[rest]
    accuracy, accuracy_coarse = _frame_accuracy(z, frame), _frame_accuracy(z_coarse, frame)
    embedding, memory = _cosines(z, z_coarse), _cosines(h, h_coarse)
    return {
        "embedding_cosine_mean": float(embedding.mean()),
        "embedding_cosine_worst": _mean_of_worst(embedding),
        "memory_cosine_mean": float(memory.mean()) if h.size else None,
        "memory_cosine_worst": _mean_of_worst(memory) if h.size else None,
        "accuracy_float": accuracy,
        "accuracy_int8": accuracy_coarse,
    }


def _frame_accuracy(z: np.ndarray, frame: np.ndarray) -> float:
    """Share of every other patch whose frame a ridge classifier names, fitted to the rest."""
    named = ridge(z[::2], frame[::2], z[1::2])
    return float((named == frame[1::2]).mean())


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)


def _mean_of_worst(cosines: np.ndarray) -> float:
    worst = np.sort(cosines)[: max(1, round(WORST_SHARE * len(cosines)))]
    return float(worst.mean())
