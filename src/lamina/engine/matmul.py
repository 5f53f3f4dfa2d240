"""Matrix products around the tile: packing, blocking, tails and threads.

    C[m, n] = start[m, n] + Σ_k A[m, k] B[k, n]                                                 (1)

A is read in place, by any two strides. B is read in place or copied to *panels*, as wide as a tile,
where that pays: when it is transposed, or when many rows use it again. Threads share C in a grid of
rows and columns; none splits k. A sum goes on from block to block of k through C itself. So neither
the blocking nor the grid changes a bit.
"""

from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

from . import jit, threads
from .jit import Task, address, call
from .memory import empty
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


@jit.kernel
def _part(g: int, task: Task, heights: NDArray) -> None:
    """Compute part g of C, in a grid of rows x cols."""
    (
        rows, cols, m, n, k, size, lane, widest, tile, copy, transpose, a, a_row, a_col,
        b, b_row, b_col, packed, start, start_col, c, relu, panels, origin,
    ) = task  # fmt: skip
    m0, m1 = m * (g // cols) // rows, m * (g // cols + 1) // rows
    vectors = (n + lane - 1) // lane
    v0, v1 = vectors * (g % cols) // cols, vectors * (g % cols + 1) // cols
    k_blocks = (k + TERMS - 1) // TERMS
    m_blocks = (m1 - m0 + ROWS - 1) // ROWS
    span = min(COLUMNS // lane, (vectors + cols - 1) // cols)
    mine = panels + g * (span * lane * min(k, TERMS) * size)
    for w0 in range(v0, v1, span):
        w1 = min(v1, w0 + span)
        count = (w1 - w0 + widest - 1) // widest  # panels, their widths equalised
        for kb in range(k_blocks):
            k0, k1 = k * kb // k_blocks, k * (kb + 1) // k_blocks
            kc = k1 - k0
            if packed:
                for p in range(count):
                    p0, p1 = w0 + (w1 - w0) * p // count, w0 + (w1 - w0) * (p + 1) // count
                    source = b + (k0 * b_row + p0 * lane * b_col) * size
                    panel = mine + (p0 - w0) * lane * kc * size
                    width = (p1 - p0) * lane
                    if b_col == 1:
                        last = min(lane, n - (p1 - 1) * lane)
                        call(copy, (source, b_row, kc, p1 - p0, last, panel, width))
                    else:
                        columns = min(n, p1 * lane) - p0 * lane
                        call(transpose, (source, b_col, kc, columns, panel, width))
            for mb in range(m_blocks):
                i0 = m0 + (m1 - m0) * mb // m_blocks
                i1 = m0 + (m1 - m0) * (mb + 1) // m_blocks
                for p in range(count):
                    p0, p1 = w0 + (w1 - w0) * p // count, w0 + (w1 - w0) * (p + 1) // count
                    j = p0 * lane
                    last = min(lane, n - (p1 - 1) * lane)
                    height = heights[p1 - p0]
                    tiles = (i1 - i0 + height - 1) // height  # their heights equalised
                    panel, ldb = b + (k0 * b_row + j) * size, b_row
                    if packed:
                        panel, ldb = mine + (p0 - w0) * lane * kc * size, (p1 - p0) * lane
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
                            h, p1 - p0, part, origin, a_row, a_col, panel, origin, ldb, 1, kc,
                            begin, lds, into, n, last, relu and k1 == k, ahead, step,
                        ))  # fmt: skip


@jit.parallel
def _parts(count: int, task: Task, heights: NDArray) -> None:
    for g in numba.prange(count):
        _part(numba.int64(g), task, heights)


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
        self.zeros, self.origin = np.zeros(8 * self.lane, dtype), np.zeros(1, np.int64)
        self.zeros_at, self.origin_at = address(self.zeros), address(self.origin)


_plans: dict[Any, Plan] = {}


def plan_of(dtype: np.dtype[Any]) -> Plan:
    """Return the plan of a dtype."""
    plan = _plans.get(dtype)
    if plan is None:
        plan = _plans[dtype] = Plan(dtype)
    return plan


def contiguous(x: NDArray) -> NDArray:
    """Return x, or a copy of it, as the C-contiguous and aligned memory that kernels read."""
    flags = x.flags
    return x if flags.c_contiguous and flags.aligned else np.array(x, order="C")


def matmul(
    a: NDArray, a_row: int, a_col: int,
    b: NDArray, b_row: int, b_col: int,
    m: int, n: int, k: int,
    c: NDArray, bias: NDArray | None = None, relu: bool = False,
) -> None:  # fmt: skip
    """Write C = A B + bias, with a ReLU on top if asked for, into c.

    Parameters
    ----------
    a, b : array
        C-contiguous memory that holds A (m, k) and B (k, n) by the strides given, in elements.
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
    plan = plan_of(c.dtype)
    lane = plan.lane
    vectors = -(-n // lane)
    rows, cols = 1, 1
    if m * n * k > SERIAL or n * k > SERIAL_B:
        rows, cols = grid(m, vectors, threads.count())
    widest = 4
    while widest < 8 and plan.heights[widest + 1] >= m:
        widest += 1
    mine = -(-m // rows)
    packed = b_col != 1 or mine > IN_PLACE * plan.heights[4]
    panels_at = plan.zeros_at
    if packed:
        span = min(COLUMNS, -(-vectors // cols) * lane)
        panels = empty(rows * cols * span * min(k, TERMS), c.dtype)
        panels_at = address(panels)
    start, start_col = (plan.zeros_at, 0) if bias is None else (address(bias), 1)
    task = (
        rows, cols, m, n, k, plan.size, lane, widest, *plan.codes, address(a), a_row, a_col,
        address(b), b_row, b_col, int(packed), start, start_col, address(c), int(relu),
        panels_at, plan.origin_at,
    )  # fmt: skip
    jit.launch(_part, _parts, rows * cols, task, plan.heights)


def column_sums(a: NDArray) -> NDArray:
    """Return the sums over all axes but the last: a product with ones, and as regular as one."""
    n = a.shape[-1]
    sums = np.empty(n, a.dtype)
    matmul(np.ones(1, a.dtype), 0, 0, a, n, 1, 1, n, a.size // n, sums)
    return sums
