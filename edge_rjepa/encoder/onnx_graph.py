"""Tensors that note what makes them, and the ONNX graph written from them.

A `Tensor` looks like an array but computes nothing. So a cell's own `step` (cells.py) builds its
part of a graph, and a newly registered cell exports as it is. What is noted but leads to no output,
such as a cell's derivatives, is never written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

from edge_rjepa.learner.kernels import cpu as kernels

OPSET, IR_VERSION = 17, 8
TANH_IS_ONE = 10.0  # from here on, in float32

Operand: TypeAlias = "Tensor | ArrayLike"  # what a node takes: an array becomes a constant


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the graph: an input, a constant, or what a node makes of others.

    op: of the node, None for inputs of the graph and for constants. array: of a constant. name: of
    the input, constant or node; the graph makes one up where there is none.
    """

    op: str | None = None
    inputs: tuple[Tensor, ...] = ()
    attributes: dict = dataclasses.field(default_factory=dict)
    array: np.ndarray | None = None
    name: str = ""

    __array_ufunc__ = None  # so that NumPy's numbers leave the arithmetic to the methods below

    def __add__(self, other: Operand) -> Tensor:
        return node("Add", self, other)

    def __radd__(self, other: Operand) -> Tensor:
        return node("Add", other, self)

    def __sub__(self, other: Operand) -> Tensor:
        return node("Sub", self, other)

    def __rsub__(self, other: Operand) -> Tensor:
        return node("Sub", other, self)

    def __mul__(self, other: Operand) -> Tensor:
        return node("Mul", self, other)

    def __rmul__(self, other: Operand) -> Tensor:
        return node("Mul", other, self)

    def __truediv__(self, other: Operand) -> Tensor:
        return node("Div", self, other)

    def __neg__(self) -> Tensor:
        return node("Neg", self)

    def __bool__(self) -> NoReturn:
        raise TypeError("a tensor is neither true nor false: steps cannot branch")


def _by_kernel(
    function: Callable[[np.floating], np.floating],
) -> Callable[[np.ndarray], np.ndarray]:
    """A function of an array made of the learner's kernel of one number, in the array's dtype.

    A decay rate that is off in its last bit adds up over all the fixations that it spans.
    """

    def of_array(x: np.ndarray) -> np.ndarray:
        return np.array([function(number) for number in x.ravel()], x.dtype).reshape(x.shape)

    return of_array


FOLDED: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Clip": np.clip,
    "Tanh": _by_kernel(kernels.tanh),
    "Sigmoid": _by_kernel(kernels.sigmoid),
    "Sin": _by_kernel(kernels.sin),
    "Cos": _by_kernel(kernels.cos),
}


def node(op: str, *operands: Operand, name: str = "", **attributes: Any) -> Tensor:
    """What the operator makes of its inputs; of constants alone it is made at once."""
    inputs = tuple(x if isinstance(x, Tensor) else tensor(x) for x in operands)
    if op in FOLDED and all(x.array is not None for x in inputs):
        return tensor(FOLDED[op](*(x.array for x in inputs)))
    return Tensor(op, inputs, attributes, name=name)


def tensor(value: ArrayLike, name: str = "") -> Tensor:
    """A constant: float32 or float64 until it is written, as float32."""
    array = np.asarray(value)
    return Tensor(array=array if array.dtype == np.float32 else array.astype(float), name=name)


def integers(*values: int) -> Tensor:
    """A constant of whole numbers: shapes, bounds, places."""
    return Tensor(array=np.array(values, np.int64))


def tanh(x: Operand) -> Tensor:
    """Kept from where it is 1 anyway: OpenCV 5.0 makes NaN of tanh(45)."""
    return node("Tanh", node("Clip", x, -TANH_IS_ONE, TANH_IS_ONE))


def sigmoid(x: Operand) -> Tensor:
    return node("Sigmoid", x)


# What a cell's step may call (cells.VOCABULARY), as nodes.
VOCABULARY: dict[str, Callable[..., Tensor]] = {
    "tanh": tanh,
    "sigmoid": sigmoid,
    "sin": lambda x: node("Sin", x),
    "cos": lambda x: node("Cos", x),
    "one_minus": lambda x: 1.0 - x,
    "like": lambda x, value: tensor(value),
}


def concat(*parts: Tensor) -> Tensor:
    """Beside each other, along axis 1."""
    return node("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]


def reshape(x: Tensor, *shape: int) -> Tensor:
    """As NumPy's; -1 for the size that follows from the others."""
    return node("Reshape", x, integers(*shape))


def columns(x: Tensor, start: int, stop: int) -> Tensor:
    """x[:, start:stop] of a tensor."""
    return node("Slice", x, integers(start), integers(stop), integers(1))


def linear(x: Tensor, matrix: np.ndarray, bias: np.ndarray | None = None, name: str = "") -> Tensor:
    """matrix x + bias for every row x of (N, n). name: of the node, and so of its constants."""
    constants = [tensor(matrix, name and f"{name}.weight")]
    if bias is not None:
        constants.append(tensor(bias, name and f"{name}.bias"))
    return node("Gemm", x, *constants, name=name, transB=1)


class Graph:
    """Writes tensors down as an ONNX graph: those that an output needs, each once."""

    def __init__(self) -> None:
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._names: dict[Tensor, str] = {}

    def input(self, name: str, shape: list, doc: str, dtype: int = TensorProto.FLOAT) -> Tensor:
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape, doc))
        return Tensor(name=name)

    def output(self, name: str, value: Tensor, shape: list, doc: str) -> None:
        self._nodes.append(helper.make_node("Identity", [self._name(value)], [name], name))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape, doc))

    def model(self, producer: str, version: str) -> onnx.ModelProto:
        """The graph as a file holds it."""
        graph = helper.make_graph(
            self._nodes, producer, self._inputs, self._outputs, self._constants
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name=producer,
            producer_version=version,
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
            name = value.name or f"{value.op}_{len(self._nodes)}"
            self._nodes.append(helper.make_node(value.op, inputs, [name], name, **value.attributes))
        return name
