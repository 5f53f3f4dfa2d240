"""Matrix products around the tile: packing, blocking, tails and threads.

    C[m, n] = start[m, n] + Σ_k A[m, k] B[k, n]                                                 (1)

A is read in place, by any two strides. B is read in place or copied to *panels*, as wide as a tile,
where that pays: when it is transposed, or when many rows use it again. A B that many products share
is packed once, beforehand. Threads share C in a grid of rows and columns; none splits k. A sum goes
on from block to block of k through C itself. So neither the blocking nor the grid changes a bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from . import jit, threads
from .jit import Task, address, call, held
from .memory import ALIGNMENT, empty
from .packing import copy, transpose
from .tile import lanes, tallest, tile

NDArray = npt.NDArray[Any]

TERMS: Final = 384
"""The most terms of a block over k: a panel of four vectors stays in half of a level-2 cache."""
ROWS: Final = 240
"""The most rows of a block of A, which stays in level 2 while the panels of B pass."""
COLUMNS: Final = 2048
"""The most columns of B that a thread packs at once, which bounds the workspace."""
SERIAL: Final = 400_000
"""Below so many multiply-adds a call stays on one core: a second one would cost more."""
SERIAL_B: Final = 100_000
"""Nor one whose B has fewer elements: a few rows wait for B alone."""
IN_PLACE: Final = 3
"""A B that so many tiles or fewer use is not worth a copy."""
WIDEST: Final = 7
"""The most vectors of a panel, which a last one of a single vector may join."""
WITHIN: Final = 1
"""B is copied to panels within the call."""
BEFORE: Final = 2
"""B is panels."""


@jit.kernel
def count_panels(vectors: int, wide: int) -> int:
    """Return how many panels hold so many vectors: a last one of one vector joins its neighbour."""
    return max(1, (vectors + wide - 2) // wide)


@jit.kernel
def _pack(
    k: int, n: int, size: int, lane: int, copy: int, transpose: int,
    b: int, b_row: int, b_col: int, panel: int, vectors: int,
) -> None:  # fmt: skip
    """Copy k rows and n columns of B to a panel of so many vectors."""
    width = vectors * lane
    if b_col == 1:
        call(copy, (b, b_row, k, vectors, n - (vectors - 1) * lane, panel, width))
    else:
        call(transpose, (b, b_col, k, n, panel, width))


@jit.kernel
def _part(g: int, fixed: int, a: int, b: int, start: int, c: int, panels: int) -> None:
    """Compute part g of C, in a grid of rows x cols, from what `jit.held` gave for the arrays."""
    a, b, start, c = jit.data(a), jit.data(b), jit.data(start), jit.data(c)
    (
        rows, cols, m, n, k, size, lane, wide, height, last_height, tile, copy, transpose,
        a_row, a_col, b_row, b_col, packed, start_col, relu, span, origin,
    ) = jit.constants(fixed, 22)  # fmt: skip
    m0, m1 = m * (g // cols) // rows, m * (g // cols + 1) // rows
    vectors = (n + lane - 1) // lane
    count = count_panels(vectors, wide)
    first, end = count * (g % cols) // cols, count * (g % cols + 1) // cols
    k_blocks = (k + TERMS - 1) // TERMS
    m_blocks = (m1 - m0 + ROWS - 1) // ROWS
    mine = jit.data(panels) + g * ((span + 1) * wide * lane * min(k, TERMS) * size)
    for q0 in range(first, end, span):
        q1 = min(end, q0 + span)
        for kb in range(k_blocks):
            k0, k1 = k * kb // k_blocks, k * (kb + 1) // k_blocks
            kc = k1 - k0
            if packed == WITHIN:
                for p in range(q0, q1):
                    j, w = p * wide * lane, wide if p + 1 < count else vectors - p * wide
                    source = b + (k0 * b_row + j * b_col) * size
                    into = mine + (p - q0) * wide * lane * kc * size
                    _pack(
                        kc, min(n - j, w * lane), size, lane, copy, transpose,
                        source, b_row, b_col, into, w,
                    )  # fmt: skip
            for mb in range(m_blocks):
                i0 = m0 + (m1 - m0) * mb // m_blocks
                i1 = m0 + (m1 - m0) * (mb + 1) // m_blocks
                for p in range(q0, q1):
                    j, w, tall = p * wide * lane, wide, height
                    if p + 1 == count:
                        w, tall = vectors - p * wide, last_height
                    last = min(lane, n - j - (w - 1) * lane)
                    tiles = (i1 - i0 + tall - 1) // tall  # their heights equalised
                    panel, ldb = b + (k0 * b_row + j) * size, b_row
                    if packed == WITHIN:
                        panel, ldb = mine + (p - q0) * wide * lane * kc * size, w * lane
                    elif packed == BEFORE:
                        panel, ldb = b + (j * k + k0 * w * lane) * size, w * lane
                    for t in range(tiles):
                        i = i0 + (i1 - i0) * t // tiles
                        h = i0 + (i1 - i0) * (t + 1) // tiles - i
                        part = a + (i * a_row + k0 * a_col) * size
                        into = c + (i * n + j) * size
                        begin, lds = into, n
                        if kb == 0:
                            begin, lds = start + j * start_col * size, 0
                        ahead, step = part + h * a_row * size, h  # the next tile's part of A
                        if a_col != 1:
                            ahead, step = part + kc * a_col * size, a_col  # the next block's
                        call(tile, (
                            h, w, part, origin, a_row, a_col, panel, origin, ldb, 1, kc,
                            begin, lds, into, n, last, relu and k1 == k, ahead, step,
                        ))  # fmt: skip


@jit.parallel
def _parts(
    parts: int, fixed: int, a: int, b: int, start: int, c: int, panels: int
) -> None:  # fmt: skip
    for g in numba.prange(parts):
        _part(numba.int64(g), fixed, a, b, start, c, panels)


@jit.kernel
def _pack_all(task: Task) -> None:
    """Copy B to panels, each of them all its rows."""
    n, k, size, lane, wide, copy, transpose, b, b_row, b_col, panels = task
    vectors = (n + lane - 1) // lane
    count = count_panels(vectors, wide)
    for p in range(count):
        j, w = p * wide * lane, wide if p + 1 < count else vectors - p * wide
        _pack(
            k, min(n - j, w * lane), size, lane, copy, transpose,
            b + j * b_col * size, b_row, b_col, panels + j * k * size, w,
        )  # fmt: skip


def grid(m: int, vectors: int, threads: int) -> tuple[int, int]:
    """Return into how many rows and columns to cut C, so that the largest part is smallest."""
    best = (m * vectors, 1, 1)
    for cols in range(1, threads + 1):
        if threads % cols == 0:
            rows = threads // cols
            best = min(best, (-(-m // rows) * -(-vectors // cols), rows, cols))
    return best[1:]


class Plan:
    """What a machine and a dtype ask of a product, looked up once."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.size, self.lane = dtype.itemsize, lanes(dtype)
        self.codes = tile(dtype), copy(dtype), transpose(dtype)
        self.heights = np.array([0, *(tallest(v) for v in range(1, 9))])
        # The widest tile whose sums are enough chains to hide the latency of a multiply-add.
        self.wide = max(v for v in (1, 2, 4) if v * tallest(v) >= 12)
        self.zeros, self.origin = np.zeros(8 * self.lane, dtype), np.zeros(1, np.int64)
        self.zeros_at, self.origin_at = address(self.zeros), address(self.origin)


_plans: dict[Any, Plan] = {}


def plan_of(dtype: np.dtype[Any]) -> Plan:
    """Return the plan of a dtype."""
    plan = _plans.get(dtype)
    if plan is None:
        plan = _plans.setdefault(dtype, Plan(dtype))  # one for all threads, and for good
    return plan


_READY: Final = 0x101  # of NumPy's flags: C_CONTIGUOUS and ALIGNED


def contiguous(x: NDArray) -> NDArray:
    """Return x, or a copy of it, as the C-contiguous and aligned memory that kernels read."""
    return x if x.flags.num & _READY == _READY else np.array(x, order="C")


class _Shape(NamedTuple):
    """What a product asks for whatever its arrays."""

    parts: int
    panels: int
    zeros: Any
    constants: jit.Constants


@lru_cache(maxsize=1024)
def _shape(
    dtype: np.dtype[Any], m: int, n: int, k: int,
    a_row: int, a_col: int, b_row: int, b_col: int,
    before: bool, bias: bool, relu: bool, count: int,
) -> _Shape:  # fmt: skip
    """Choose how to compute a product, on `count` threads at the most."""
    plan = plan_of(dtype)
    lane, wide = plan.lane, plan.wide
    while not before and wide < WIDEST and plan.heights[wide + 1] >= m:
        wide += 1
    vectors = -(-n // lane)
    panels = count_panels(vectors, wide)
    last = vectors - (panels - 1) * wide
    rows, cols = grid(m, panels, count)
    packed = BEFORE if before else 0
    if not before and (b_col != 1 or -(-m // rows) > IN_PLACE * plan.heights[wide]):
        packed = WITHIN
    span = max(1, min(COLUMNS // (lane * wide), -(-panels // cols)))
    workspace = 0
    if packed == WITHIN:
        workspace = rows * cols * (span + 1) * wide * lane * min(k, TERMS)
    constants = jit.Constants(
        rows, cols, m, n, k, plan.size, lane, wide, plan.heights[wide], plan.heights[last],
        *plan.codes, a_row, a_col, b_row, b_col, packed, int(bias), int(relu), span,
        plan.origin_at,
    )  # fmt: skip
    return _Shape(rows * cols, workspace, held(plan.zeros), constants)


@dataclass(frozen=True, eq=False)
class Packed:
    """A matrix B (k, n) as panels, for any number of products, of any number of rows.

    It holds a copy and is never written to, so that many threads may use it at once.
    """

    panels: NDArray
    n: int
    k: int


def pack(b: NDArray, b_row: int, b_col: int, n: int, k: int) -> Packed:
    """Return B packed, to stand in the place of b in `matmul`; of the strides, one is 1."""
    plan = plan_of(b.dtype)
    vectors = -(-n // plan.lane)
    panels = np.zeros(vectors * plan.lane * k + ALIGNMENT // plan.size, b.dtype)
    panels = panels[-panels.ctypes.data % ALIGNMENT // plan.size :]
    if n and k:
        task = (
            n, k, plan.size, plan.lane, plan.wide, *plan.codes[1:], address(b), b_row, b_col,
            address(panels),
        )  # fmt: skip
        _pack_all(task)
    panels.flags.writeable = False
    return Packed(panels, n, k)


def matmul(
    a: NDArray, a_row: int, a_col: int,
    b: NDArray | Packed, b_row: int, b_col: int,
    m: int, n: int, k: int,
    c: NDArray, bias: NDArray | None = None, relu: bool = False,
) -> None:  # fmt: skip
    """Write C = A B + bias, with a ReLU on top if asked for, into c.

    Parameters
    ----------
    a, b : array
        C-contiguous memory that holds A (m, k) and B (k, n) by the strides given, in elements. Or
        b is what `pack` returned for B, which gives the same bits; its strides are not used then.
    a_row, a_col, b_row, b_col : int
        Of B's strides, one is 1.
    m, n, k : int
        0 terms give `bias`, with the ReLU on top.
    c : array
        C-contiguous, m · n elements.
    bias : array, shape (n,), optional
    relu : bool
    """
    if m == 0 or n == 0 or k == 0:
        c[...] = 0 if bias is None else np.maximum(bias, 0) if relu else bias
        return
    packed = isinstance(b, Packed)
    if isinstance(b, Packed):
        b = b.panels
    count = threads.count() if m * n * k > SERIAL or n * k > SERIAL_B else 1
    shape = _shape(
        c.dtype, m, n, k, a_row, a_col, b_row, b_col, packed, bias is not None, relu, count
    )
    panels = empty(shape.panels, c.dtype) if shape.panels else None
    jit.launch(
        _part, _parts, shape.parts, shape.constants.at, held(a), held(b),
        shape.zeros if bias is None else held(bias), held(c),
        shape.zeros if panels is None else held(panels),
    )  # fmt: skip


def product(
    b: Packed, bias: NDArray | None = None, relu: bool = False
) -> Callable[[NDArray, int, NDArray], None]:
    """Return `matmul` with B, bias and ReLU given: a function of A (m, k), m and C.

    Of a small product, which is done sooner than a call of `matmul`, it does nothing twice.
    """
    n, k, panels = b.n, b.k, b.panels
    dtype, with_bias = panels.dtype, bias is not None
    zeros = held(plan_of(dtype).zeros)
    b_at, start = held(panels), zeros if bias is None else held(bias)  # kept by the function below

    def run(a: NDArray, m: int, c: NDArray) -> None:
        if 0 < m * n * k <= SERIAL and n * k <= SERIAL_B:
            shape = _shape(dtype, m, n, k, k, 1, n, 1, True, with_bias, relu, 1)
            _part(0, shape.constants.at, held(a), b_at, start, held(c), zeros)
        else:
            matmul(a, k, 1, b, n, 1, m, n, k, c, bias, relu)

    return run


def column_sums(a: NDArray) -> NDArray:
    """Return the sums over all axes but the last: a product with ones, and as regular as one."""
    n = a.shape[-1]
    sums = np.empty(n, a.dtype)
    matmul(np.ones(1, a.dtype), 0, 0, a, n, 1, 1, n, a.size // n, sums)
    return sums
