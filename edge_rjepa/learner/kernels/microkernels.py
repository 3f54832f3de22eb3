"""Tiles of matrix products that stay in the processor's registers, as LLVM instructions.

    sum_tile    out[i:, j:] += sum over k of a[k, i:] b[k, j:], or of a[i:, k] b[k, j:]
    dot_tile    out[k:, j:] <- x[k:] w[j:]'

Numba's loops are vectorised by LLVM, which does not keep a tile of sums in registers: what it reads
and writes for each multiplication takes longer than to multiply. And BLAS copies what it reads
across its rows, which takes as long as a product with the 16 rows of a block. These tiles do
neither (docs/performance.md has what a core can do at best).

Registers hold the sums of a tile, and what is multiplied at the moment: a number and a few vectors.
Matrices are two-dimensional, of one dtype and in C order. Where a tile lies is not checked here:
products.py knows it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")  # compiled for
_ON_ARM = platform.machine() in ("aarch64", "arm64")
# Bytes of a vector register: AVX-512, AVX, or SSE and Arm's NEON; and how many registers there are.
VECTOR_BYTES = 64 if "+avx512f" in _FEATURES else 32 if "+avx" in _FEATURES else 16
REGISTERS = 32 if VECTOR_BYTES == 64 or _ON_ARM else 16
TALL, SHORT = (8, 4) if REGISTERS == 32 else (4, 2)  # rows of a tile
WIDE = 3  # vectors in a row of it

_INDEX, _LANE = ir.IntType(64), ir.IntType(32)
_BYTES = ir.IntType(8).as_pointer()
_FUSED = ("contract",)  # a product and a sum may be rounded once


def sum_tile(rows: int, vectors: int) -> Callable:
    """For compiled code: tile(a, b, out, across, first, end, i, j, columns), rows by vectors large.

    It sums over k = first .. end - 1, which go across `a` or down. A tile of one vector is what is
    left of a row: `columns` numbers. What the next tiles need is fetched meanwhile: rows are too
    short for the processor to foresee.
    """
    partial = vectors == 1

    @intrinsic
    def tile(typing_context, a, b, out, across, first, end, i, j, columns):
        _check(a, b, out)
        return types.void(a, b, out, types.boolean, *[types.intp] * 5), generate

    def generate(context, builder, signature, arguments):
        a, b, out = _matrices(context, builder, signature, arguments[:3])
        across, first, end, i, j, columns = arguments[3:]
        a.transpose_if(across)
        vector = _Vectors(builder, out.number, columns if partial else None)
        targets = [out.at(builder.add(i, _INDEX(row)), j) for row in range(rows)]
        sums = [[cgutils.alloca_once(builder, vector.type) for _ in range(vectors)]
                for _ in range(rows)]  # fmt: skip
        for row, target in enumerate(targets):
            for v in range(vectors):
                builder.store(vector.load(target, v, partial), sums[row][v])
        long = builder.icmp_signed(">", builder.sub(end, first), _INDEX(4))
        with builder.if_then(long):  # or fetching takes longer than the sums
            for row in range(rows):
                below = out.at(builder.add(i, _INDEX(row + rows)), j)
                vector.fetch(below, range(vectors), write=True)
        with cgutils.for_range_slice(builder, first, end, _INDEX(1)) as (k, _):
            source = b.at(k, j)
            vector.fetch(source, range(vectors, 2 * vectors), write=False)
            right = [vector.load(source, v, partial) for v in range(vectors)]
            for row in range(rows):
                left = vector.of(a.load(k, builder.add(i, _INDEX(row))))
                for v in range(vectors):
                    _add_product(builder, sums[row][v], left, right[v])
        for row, target in enumerate(targets):
            for v in range(vectors):
                vector.store(builder.load(sums[row][v]), target, v, partial)
        return context.get_dummy_value()

    return tile


def dot_tile(rows: int, columns: int) -> Callable:
    """For compiled code: tile(x, w, out, k, j), rows of `x` by columns, which are rows of `w`.

    Sums run along vectors, whose lanes are added up at the end. The first tile of a few rows of `w`
    fetches the next ones meanwhile.
    """

    @intrinsic
    def tile(typing_context, x, w, out, k, j):
        _check(x, w, out)
        return types.void(x, w, out, types.intp, types.intp), generate

    def generate(context, builder, signature, arguments):
        x, w, out = _matrices(context, builder, signature, arguments[:3])
        k, j = arguments[3:]
        lefts = [x.at(builder.add(k, _INDEX(row)), _INDEX(0)) for row in range(rows)]
        starts = [w.at(builder.add(j, _INDEX(column)), _INDEX(0)) for column in range(2 * columns)]
        rights, later = starts[:columns], starts[columns:]
        of_first_rows = builder.icmp_signed("==", k, _INDEX(0))
        lanes = _INDEX(VECTOR_BYTES // out.number.bytes)
        whole, rest = builder.udiv(w.n_columns, lanes), builder.urem(w.n_columns, lanes)
        vector = _Vectors(builder, out.number, rest)
        sums = [[cgutils.alloca_once(builder, vector.type) for _ in range(columns)]
                for _ in range(rows)]  # fmt: skip

        def add(v, partial):
            right = [vector.load(source, v, partial) for source in rights]
            with builder.if_then(of_first_rows):
                for source in later:
                    vector.fetch(source, [v], write=False)
            for row in range(rows):
                left = vector.load(lefts[row], v, partial)
                for column in range(columns):
                    _add_product(builder, sums[row][column], left, right[column])

        for of_row in sums:
            for of_column in of_row:
                builder.store(vector.zero, of_column)
        with cgutils.for_range(builder, whole) as loop:
            add(loop.index, partial=False)
        with builder.if_then(builder.icmp_signed(">", rest, _INDEX(0))):
            add(whole, partial=True)
        for column in range(columns):
            totals = vector.totals([builder.load(sums[row][column]) for row in range(rows)])
            for row, total in enumerate(totals):
                target = out.at(builder.add(k, _INDEX(row)), builder.add(j, _INDEX(column)))
                builder.store(total, builder.bitcast(target, out.number.type.as_pointer()))
        return context.get_dummy_value()

    return tile


def _check(*matrices) -> None:
    """What else would be read beyond its end is refused as it is compiled."""
    for each in matrices:
        if (each.ndim, each.layout, each.dtype) != (2, "C", matrices[0].dtype):
            raise TypingError(f"matrices of one dtype and in C order are multiplied, no {each}")


class _Number:
    """A matrix's kind of number."""

    def __init__(self, context, dtype):
        self.type = context.get_value_type(dtype)
        self.bytes = dtype.bitwidth // 8


class _Matrix:
    """An array of two dimensions as compiled code sees it."""

    def __init__(self, context, builder, numba_type, value):
        array = context.make_array(numba_type)(context, builder, value)
        self.number = _Number(context, numba_type.dtype)
        _, self.n_columns = cgutils.unpack_tuple(builder, array.shape, 2)
        self._builder = builder
        self._start = builder.bitcast(array.data, _BYTES)
        self._strides = cgutils.unpack_tuple(builder, array.strides, 2)

    def at(self, row, column):
        """Address of an element, in bytes."""
        row, column = map(self._builder.mul, (row, column), self._strides)
        return self._builder.gep(self._start, [self._builder.add(row, column)])

    def transpose_if(self, condition):
        """Rows become columns where the condition holds."""
        down, along = self._strides
        select = self._builder.select
        self._strides = [select(condition, along, down), select(condition, down, along)]

    def load(self, row, column):
        """An element."""
        pointer = self.number.type.as_pointer()
        return self._builder.load(self._builder.bitcast(self.at(row, column), pointer))


def _matrices(context, builder, signature, values) -> list[_Matrix]:
    kinds = signature.args[: len(values)]
    return [_Matrix(context, builder, *each) for each in zip(kinds, values, strict=True)]


class _Vectors:
    """Vectors of a kind of number; partial ones have their first `columns` lanes."""

    def __init__(self, builder, number: _Number, columns=None):
        self.lanes = VECTOR_BYTES // number.bytes
        self.type = ir.VectorType(number.type, self.lanes)
        self.zero = ir.Constant(self.type, None)
        self._builder, self._number = builder, number
        if columns is not None:
            lanes = ir.Constant(ir.VectorType(_INDEX, self.lanes), list(range(self.lanes)))
            self._mask = builder.icmp_signed("<", lanes, self.of(columns))

    def of(self, number):
        """A vector that holds one number in all lanes."""
        kind = ir.VectorType(number.type, self.lanes)
        nothing = ir.Constant(kind, ir.Undefined)
        first = self._builder.insert_element(nothing, number, _LANE(0))
        return self._shuffled(first, nothing, [0] * self.lanes)

    def load(self, start, v, partial):
        """The v-th vector from an address on."""
        pointer, align = self._pointer(start, v), self._number.bytes
        if not partial:
            return self._builder.load(pointer, align=align)
        masked = self._masked("load", self.type, [pointer.type, _LANE, self._mask.type, self.type])
        return self._builder.call(masked, [pointer, _LANE(align), self._mask, self.zero])

    def store(self, vector, start, v, partial):
        """Write the v-th vector from an address on."""
        pointer, align = self._pointer(start, v), self._number.bytes
        if not partial:
            self._builder.store(vector, pointer, align=align)
            return
        kinds = [self.type, pointer.type, _LANE, self._mask.type]
        masked = self._masked("store", ir.VoidType(), kinds)
        self._builder.call(masked, [vector, pointer, _LANE(align), self._mask])

    def fetch(self, start, which: Iterable, write: bool):
        """Bring those vectors from an address on into the cache, to be written or read."""
        kind = ir.FunctionType(ir.VoidType(), [_BYTES, _LANE, _LANE, _LANE])
        prefetch = cgutils.get_or_insert_function(self._builder.module, kind, "llvm.prefetch.p0")
        near, data = _LANE(3), _LANE(1)
        for v in which:
            address = self._address(start, v)
            self._builder.call(prefetch, [address, _LANE(int(write)), near, data])

    def totals(self, vectors: Sequence) -> list:
        """The sum of the lanes of each of 1, 2, 4 or 8 vectors.

        Two vectors become one that holds half sums of both, until one vector holds them all: as
        many vectors at a time as it has lanes.
        """
        count, groups = len(vectors), 1
        if count > self.lanes:
            half = count // 2
            return self.totals(vectors[:half]) + self.totals(vectors[half:])
        while len(vectors) > 1:
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [self._halved(groups, *pair) for pair in pairs]
            groups *= 2
        (vector,) = vectors
        while vector.type.count > groups:
            vector = self._halved(groups, vector)
        return [self._builder.extract_element(vector, _LANE(i)) for i in range(count)]

    def _halved(self, groups, *vectors):
        """Of one vector or two, each of so many groups of lanes: each group's halves added."""
        lanes = vectors[0].type.count
        size = lanes // groups
        starts = range(0, lanes * len(vectors), size)
        lower = [start + i for start in starts for i in range(size // 2)]
        upper = [start + i for start in starts for i in range(size // 2, size)]
        pair = vectors[0], vectors[-1]
        return self._builder.fadd(self._shuffled(*pair, lower), self._shuffled(*pair, upper))

    def _address(self, start, v):
        v = _INDEX(v) if isinstance(v, int) else v
        return self._builder.gep(start, [self._builder.mul(v, _INDEX(VECTOR_BYTES))])

    def _pointer(self, start, v):
        return self._builder.bitcast(self._address(start, v), self.type.as_pointer())

    def _masked(self, name, returns, kinds):
        name = f"llvm.masked.{name}.v{self.lanes}f{8 * self._number.bytes}.p0"
        function = ir.FunctionType(returns, kinds)
        return cgutils.get_or_insert_function(self._builder.module, function, name)

    def _shuffled(self, first, second, lanes):
        chosen = ir.Constant(ir.VectorType(_LANE, len(lanes)), lanes)
        return self._builder.shuffle_vector(first, second, chosen)


def _add_product(builder, total, left, right):
    """The sum at an address += left right, vectors of numbers."""
    product = builder.fmul(left, right, flags=_FUSED)
    builder.store(builder.fadd(builder.load(total), product, flags=_FUSED), total)
