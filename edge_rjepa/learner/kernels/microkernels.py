"""Tiles of matrix products that stay in the processor's registers, as LLVM instructions.

    sum_tile    out[i:, j:] += d[i:] w[:, j:]
    dot_tile    out[k:, j:] <- x[k:] w[j:]'
    recur_tile  block after block: gradient += alpha E + beta u, and E <- T E + gamma u
    turn_tile   out[j:, k:] <- rows[k:, j:]'

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
    """For compiled code: tile(d, w, out, first, end, i, j, columns), rows by vectors large.

    It sums over the rows k = first .. end - 1 of `w`. A tile of one vector is what is left of a
    row: `columns` numbers. What the next tiles need is fetched meanwhile: rows are too short for
    the processor to foresee.
    """
    partial = vectors == 1

    @intrinsic
    def tile(typing_context, d, w, out, first, end, i, j, columns):
        _check(d, w, out)
        return types.void(d, w, out, *[types.intp] * 5), generate

    def generate(context, builder, signature, arguments):
        d, w, out = _matrices(context, builder, signature, arguments[:3])
        first, end, i, j, columns = arguments[3:]
        vector = _Vectors(builder, out.number, columns if partial else None)
        targets = [out.at(builder.add(i, _INDEX(row)), j) for row in range(rows)]
        sums = _sums(builder, vector, rows, vectors)
        for target, of_row in zip(targets, sums, strict=True):
            for v in range(vectors):
                builder.store(vector.load(target, v, partial), of_row[v])
        with cgutils.for_range_slice(builder, first, end, _INDEX(1)) as (k, _):
            source = w.at(k, j)
            vector.fetch(source, range(vectors, 2 * vectors), write=False)
            right = [vector.load(source, v, partial) for v in range(vectors)]
            for row, of_row in enumerate(sums):
                left = vector.of(d.load(builder.add(i, _INDEX(row)), k))
                for v in range(vectors):
                    _add_product(builder, of_row[v], left, right[v])
        for target, of_row in zip(targets, sums, strict=True):
            for v in range(vectors):
                vector.store(builder.load(of_row[v]), target, v, partial)
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
        sums = _sums(builder, vector, rows, columns)

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


def recur_tile(rows: int, vectors: int, m: int, credit: bool) -> Callable:
    """For compiled code: tile(alpha, T, beta, gamma, ends, u, E, gradient, units, i, j, columns).

    A tile of E, m times, and with `credit` one of the gradient stay in registers while all blocks
    pass, block b being the fixations k = ends[b - 1] (else 0) .. ends[b] - 1:

        gradient += alpha[b] E                      E <- T[b] E
        gradient += beta[:, k] u[k]                 E += gamma[:, k] u[k]

    alpha (blocks, m units) and T (blocks, m m units) are the same for rows `units` apart; beta
    (n, ..), gamma (m n, ..), u (.., n_u), ends (blocks, 1) int64; E (m n, n_u), gradient (n, n_u).
    What m = 0 or no `credit` leaves out is not looked at. A tile of one vector is what is left of a
    row: `columns` numbers.
    """
    partial = vectors == 1

    @intrinsic
    def tile(typing_context, alpha, T, beta, gamma, ends, u, E, gradient, units, i, j, columns):
        _check(alpha, T, beta, gamma, u, E, gradient)
        matrices = alpha, T, beta, gamma, ends, u, E, gradient
        return types.void(*matrices, *[types.intp] * 4), generate

    def generate(context, builder, signature, arguments):
        matrices = _matrices(context, builder, signature, arguments[:8])
        alpha, T, beta, gamma, ends, u, E, gradient = matrices
        units, i, j, columns = arguments[8:]
        vector = _Vectors(builder, u.number, columns if partial else None)
        at = [builder.add(i, _INDEX(row)) for row in range(rows)]
        unit = [builder.urem(each, units) for each in at]
        of_E = list(range(m))

        def part(which, length, place):
            """The place in that one of several parts of a length."""
            return builder.add(builder.mul(_INDEX(which), length), place)

        targets = []  # of each row: of E, m times, and of the gradient
        for each in at:
            targets += [E.at(part(a, gradient.n_rows, each), j) for a in of_E]
            targets += [gradient.at(each, j)] if credit else []
        sums = _sums(builder, vector, len(targets), vectors)
        for target, total in zip(targets, sums, strict=True):
            for v in range(vectors):
                builder.store(vector.load(target, v, partial), total[v])
            below = builder.gep(target, [builder.mul(_INDEX(rows), gradient.strides[0])])
            vector.fetch(below, range(vectors), write=True)
        by_row = [sums[row : row + m + credit] for row in range(0, len(sums), m + credit)]

        def begin(block, row):
            """What comes over from the blocks before."""
            totals = by_row[row]
            for v in range(vectors):
                old = [builder.load(totals[a][v]) for a in of_E]
                for a in of_E if credit else ():
                    weight = vector.of(alpha.load(block, part(a, units, unit[row])))
                    _add_product(builder, totals[m][v], weight, old[a])
                for a in of_E:
                    factors = [
                        vector.of(T.load(block, part(a * m + b, units, unit[row]))) for b in of_E
                    ]
                    builder.store(builder.fmul(factors[0], old[0]), totals[a][v])
                    for factor, each in zip(factors[1:], old[1:], strict=True):
                        _add_product(builder, totals[a][v], factor, each)

        def add(k):
            """A fixation's share."""
            source = u.at(k, j)
            right = [vector.load(source, v, partial) for v in range(vectors)]
            for each, totals in zip(at, by_row, strict=True):
                lefts = [gamma.load(part(a, gradient.n_rows, each), k) for a in of_E]
                lefts += [beta.load(each, k)] if credit else []
                for left, total in zip(map(vector.of, lefts), totals, strict=True):
                    for v in range(vectors):
                        _add_product(builder, total[v], left, right[v])

        first = cgutils.alloca_once_value(builder, _INDEX(0))
        with cgutils.for_range(builder, ends.n_rows) as blocks:
            for row in range(rows):
                begin(blocks.index, row)
            end = ends.load(blocks.index, _INDEX(0))
            with cgutils.for_range_slice(builder, builder.load(first), end, _INDEX(1)) as (k, _):
                add(k)
            builder.store(end, first)
        for target, total in zip(targets, sums, strict=True):
            for v in range(vectors):
                vector.store(builder.load(total[v]), target, v, partial)
        return context.get_dummy_value()

    return tile


@intrinsic
def turn_tile(typing_context, rows, out, k, j):
    """For compiled code: as many rows as a vector has lanes become columns, and columns rows."""
    _check(rows, out)
    return types.void(rows, out, types.intp, types.intp), _generate_turn_tile


def _generate_turn_tile(context, builder, signature, arguments):
    rows, out = _matrices(context, builder, signature, arguments[:2])
    k, j = arguments[2:]
    vector = _Vectors(builder, rows.number)
    lanes = range(vector.lanes)
    turned = [vector.load(rows.at(builder.add(k, _INDEX(i)), j), 0, False) for i in lanes]
    half = vector.lanes // 2
    while half:  # of each square: its corners off the diagonal change places, and so do theirs
        for i in [i for i in lanes if not i & half]:
            upper, lower = turned[i], turned[i + half]
            of_upper = [lane + (vector.lanes - half if lane & half else 0) for lane in lanes]
            of_lower = [lane + (vector.lanes if lane & half else half) for lane in lanes]
            turned[i] = vector.shuffled(upper, lower, of_upper)
            turned[i + half] = vector.shuffled(upper, lower, of_lower)
        half //= 2
    for i in lanes:
        vector.store(turned[i], out.at(builder.add(j, _INDEX(i)), k), 0, False)
    return context.get_dummy_value()


def _sums(builder, vector: _Vectors, rows: int, vectors: int) -> list[list]:
    """Room for a tile of sums: vectors that LLVM keeps in registers."""
    return [
        [cgutils.alloca_once(builder, vector.type) for _ in range(vectors)] for _ in range(rows)
    ]


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
        self.n_rows, self.n_columns = cgutils.unpack_tuple(builder, array.shape, 2)
        self._builder = builder
        self._start = builder.bitcast(array.data, _BYTES)
        self.strides = cgutils.unpack_tuple(builder, array.strides, 2)

    def at(self, row, column):
        """Address of an element, in bytes."""
        row, column = map(self._builder.mul, (row, column), self.strides)
        return self._builder.gep(self._start, [self._builder.add(row, column)])

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
        return self.shuffled(first, nothing, [0] * self.lanes)

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
        return self._builder.fadd(self.shuffled(*pair, lower), self.shuffled(*pair, upper))

    def _address(self, start, v):
        v = _INDEX(v) if isinstance(v, int) else v
        return self._builder.gep(start, [self._builder.mul(v, _INDEX(VECTOR_BYTES))])

    def _pointer(self, start, v):
        return self._builder.bitcast(self._address(start, v), self.type.as_pointer())

    def _masked(self, name, returns, kinds):
        name = f"llvm.masked.{name}.v{self.lanes}f{8 * self._number.bytes}.p0"
        function = ir.FunctionType(returns, kinds)
        return cgutils.get_or_insert_function(self._builder.module, function, name)

    def shuffled(self, first, second, lanes):
        """Lanes of the first vector, and of the second behind it."""
        chosen = ir.Constant(ir.VectorType(_LANE, len(lanes)), lanes)
        return self._builder.shuffle_vector(first, second, chosen)


def _add_product(builder, total, left, right):
    """The sum at an address += left right, vectors of numbers."""
    product = builder.fmul(left, right, flags=_FUSED)
    builder.store(builder.fadd(builder.load(total), product, flags=_FUSED), total)
