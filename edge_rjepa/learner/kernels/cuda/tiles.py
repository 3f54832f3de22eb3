"""How work is cut into blocks of threads."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.core import config

NUMBA: Any = config  # its names are set as it starts: no type checker knows them


class Tiles(NamedTuple):
    """Sizes of tiles; a build turns each field into a constant of that name in capitals.

    A product block makes OUT outputs of ROWS fixations. Its threads come in SLICES, which share the
    inner dimension, INNER at a time in shared memory; a thread keeps MICRO x MICRO sums in
    registers. An update block has WARPS x LANES threads; each owns EACH rows and COLUMNS columns of
    a matrix, LANES apart so that neighbours read neighbours, and sums CHUNK fixations at a time.
    A factor block works on FACTOR x FACTOR tiles. A simple loop has THREADS threads, a unit or a
    column each, and a thread asks for the numbers of AHEAD fixations at a time.
    """

    out: int
    rows: int
    micro: int
    slices: int
    inner: int
    lanes: int
    warps: int
    columns: int
    each: int
    chunk: int
    factor: int
    solve_columns: int
    square: int  # side of a tile of the statistics
    threads: int
    ahead: int

    @property
    def product_threads(self) -> int:
        return (self.out // self.micro) * (self.rows // self.micro) * self.slices

    @property
    def update_threads(self) -> int:
        return self.lanes * self.warps

    @property
    def update_rows(self) -> int:
        return self.warps * self.each

    @property
    def update_columns(self) -> int:
        return self.lanes * self.columns

    def fitting(self, n_state: int, dtype: str) -> Tiles:
        """Fewer rows a thread where registers run out, half the slices in double precision.

        A block of threads has 48 kB of shared memory.
        """
        fitting = self
        if dtype != "float32":
            fitting = fitting._replace(slices=self.slices // 2)
        if n_state > 1 or dtype != "float32":
            fitting = fitting._replace(each=1, ahead=1)
        return fitting

    def check(self) -> None:
        """Raises ValueError where a tile does not divide into the threads that bring it."""
        wholes = {
            "inner / slices": (self.inner, self.slices),
            "product threads / inner": (self.product_threads, self.inner),
            "product threads / out": (self.product_threads, self.out),
            "out * inner / product threads": (self.out * self.inner, self.product_threads),
            "rows * inner / product threads": (self.rows * self.inner, self.product_threads),
            "update threads / update columns": (self.update_threads, self.update_columns),
            "update threads / update rows": (self.update_threads, self.update_rows),
            "solve columns / 2": (self.solve_columns, 2),  # a panel is two tiles high
        }
        for name, (whole, part) in wholes.items():
            if whole % part:
                raise ValueError(f"tiles: {name} must be whole, not {whole} / {part}")

    def constants(self) -> dict[str, int]:
        """What kernels read."""
        self.check()
        derived = {
            "PRODUCT_THREADS": self.product_threads,
            "OUTPUTS": self.out * self.rows // self.product_threads,
            "W_EACH": self.out * self.inner // self.product_threads,
            "X_EACH": self.rows * self.inner // self.product_threads,
            "OUT_PITCH": self.out + 1,
            "ROWS_PITCH": self.rows + 1,
            "UPDATE_THREADS": self.update_threads,
            "WIDTH": self.update_columns,
            "HEIGHT": self.update_rows,
            "TILE_EACH": self.chunk * self.update_columns // self.update_threads,
            "ROWS_EACH": count(self.chunk * self.update_rows, self.update_threads),
            "SQUARE_THREADS": self.square**2,
            "STACK": 2 * self.factor,
            "PITCH": self.factor + 1,
            "LOWER_EACH": count(self.factor, self.solve_columns),
        }
        return derived | {name.upper(): value for name, value in self._asdict().items()}


GPU = Tiles(
    out=16, rows=16, micro=4, slices=16, inner=64,
    lanes=32, warps=4, columns=4, each=2, chunk=8,
    factor=32, solve_columns=8, square=16, threads=64, ahead=8,
)  # fmt: skip

# The simulator makes a Python thread of every CUDA thread: small blocks, and so, with networks of a
# few units, as many borders between tiles as a GPU meets with hundreds.
SIMULATOR = Tiles(
    out=4, rows=4, micro=2, slices=2, inner=4,
    lanes=4, warps=2, columns=2, each=2, chunk=3,
    factor=3, solve_columns=2, square=3, threads=5, ahead=2,
)  # fmt: skip

TILES = SIMULATOR if NUMBA.ENABLE_CUDASIM else GPU


def count(length: int, tile: int) -> int:
    """Tiles that cover a length."""
    return -(-length // tile)
