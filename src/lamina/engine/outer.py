"""The gradients of all weights that act on one sum, in one pass over the gradient of the sum.

    C = Σ_k (X[k], H[k], 1)ᵀ D[k]                                                               (1)

for a sum x W_x + h W_h + b with the gradient D: the rows of C are dW_x, dW_h and db.

The sum goes on from block to block of rows k, so that each element is one chain over k; until the
last block it stands in panels. Rows of X, H, D and C that lie a power of two apart would share few
sets of the level-1 cache: those of a block are copied to where they do not. Threads share the
columns of C. Of few rows k a product is as good for each of X and H, for it is C that takes time.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from . import jit, pool, threads
from .jit import address, call, int64, item
from .matmul import matmul, plan_of
from .memory import LINE, empty
from .steps import zeros_and_ones

NDArray = npt.NDArray[Any]

SERIAL: Final = 400_000
"""Below so many multiply-adds a call stays on one core: a second one would cost more."""
FEW: Final = 16
"""The most rows k for which products take less time."""
TERMS: Final = 192
"""The most rows k of a block: what a tile reads of them stays in level 1, with a panel of D."""
ROWS: Final = 384
"""The most rows of C whose terms are copied at once, to level 2."""


@jit.kernel
def _copy(
    m0: int, m1: int, place: int, k0: int, terms: int, size: int, lane: int, copy: Any,
    source: Any, row: int, columns: int, target: Any, pitch: int,
) -> None:  # fmt: skip
    """Copy what lies between m0 and m1 of columns that stand at `place` of (X, H, 1)."""
    low, high = max(m0, place), min(m1, place + columns)
    if low < high:
        vectors = (high - low + lane - 1) // lane
        begin = source + (k0 * row + low - place) * size
        last = high - low - (vectors - 1) * lane
        call(copy, (begin, row, terms, vectors, last, target + (low - m0) * size, pitch))


@jit.kernel
def _part(g: int, at: int) -> None:
    """Compute part g of the columns of C."""
    (
        parts, k, n, size, lane, wide, tile, copy, origin, heights, zeros,
        x, x_columns, h, h_columns, ones, d, c, sums, pitch, blocks_a, blocks_b,
    ) = jit.constants(at, 22)  # fmt: skip
    zero, one = int64(0), int64(1)  # not literals: `_copy` is compiled once
    m = x_columns + h_columns + 1
    vectors = (n + lane - 1) // lane
    count = (vectors + wide - 1) // wide
    a_mine = blocks_a + g * TERMS * pitch * size
    b_mine = blocks_b + g * TERMS * wide * lane * size
    k_blocks, m_blocks = (k + TERMS - 1) // TERMS, (m + ROWS - 1) // ROWS
    for mb in range(m_blocks):
        m0, m1 = m * mb // m_blocks, m * (mb + 1) // m_blocks
        for kb in range(k_blocks):
            k0, k1 = k * kb // k_blocks, k * (kb + 1) // k_blocks
            _copy(
                m0, m1, zero, k0, k1 - k0, size, lane, copy, x, x_columns, x_columns, a_mine, pitch
            )
            _copy(
                m0, m1, x_columns, k0, k1 - k0, size, lane, copy, h, h_columns, h_columns,
                a_mine, pitch,
            )  # fmt: skip
            _copy(m0, m1, m - 1, k0, k1 - k0, size, lane, copy, ones, zero, one, a_mine, pitch)
            for p in range(count * g // parts, count * (g + 1) // parts):
                p0, p1 = vectors * p // count, vectors * (p + 1) // count
                last, ldb = min(lane, n - (p1 - 1) * lane), (p1 - p0) * lane
                source = d + (k0 * n + p0 * lane) * size
                call(copy, (source, n, k1 - k0, p1 - p0, last, b_mine, ldb))
                height = item(heights, p1 - p0)
                tiles = (m1 - m0 + height - 1) // height  # their heights equalised
                low = (m1 - m0) // tiles
                higher = m1 - m0 - low * tiles
                part = a_mine
                held = sums + (p0 * m + m0 * (p1 - p0)) * lane * size
                begin, lds = (held, ldb) if kb else (zeros, 0)
                into, ldc = held, ldb
                if kb == k_blocks - 1:
                    into, ldc = c + (m0 * n + p0 * lane) * size, n
                for t in range(tiles):
                    tall = low + (1 if t < higher else 0)
                    ahead, step = a_mine, 0
                    if t == 0 and p1 < vectors:  # what is read next of D
                        ahead, step = source + ldb * size, n
                    call(tile, (
                        tall, p1 - p0, part, origin, 1, pitch, b_mine, origin, ldb, 1,
                        k1 - k0, begin, lds, into, ldc, last, 0, ahead, step,
                    ))  # fmt: skip
                    part = part + tall * size
                    into, begin = into + tall * ldc * size, begin + tall * lds * size


def outer(x: NDArray, h: NDArray, d: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Return Σ_k x[k]ᵀ d[k], Σ_k h[k]ᵀ d[k] and Σ_k d[k], of C-contiguous arrays of rows k."""
    plan = plan_of(d.dtype)
    (k, n), lane = d.shape, plan.lane
    m = x.shape[1] + h.shape[1] + 1
    c = empty((m, n), d.dtype)
    weight_x, weight_h, bias = c[: x.shape[1]], c[x.shape[1] : -1], c[-1]
    if not k:
        c[...] = 0
    elif k <= FEW:
        for a, into in ((x, weight_x), (h, weight_h)):
            matmul(a, 1, a.shape[1], d, n, 1, a.shape[1], n, k, into)
        np.sum(d, axis=0, out=bias)
    else:
        parts = 1
        if m * n * k > SERIAL:
            parts = min(threads.count(), -(-n // (lane * plan.wide)))
        line = LINE // plan.size
        pitch = (-(-min(m, ROWS) // line) | 1) * line  # an odd number of lines
        blocks_a = empty(parts * TERMS * pitch, d.dtype)
        blocks_b = empty(parts * TERMS * plan.wide * lane, d.dtype)
        sums = empty(m * -(-n // lane) * lane if k > TERMS else 0, d.dtype)
        _, ones = zeros_and_ones(1, d.dtype)
        pool.share(
            _part, parts, parts, k, n, plan.size, lane, plan.wide, *plan.codes[:2], plan.origin_at,
            address(plan.heights), plan.zeros_at, address(x), x.shape[1], address(h), h.shape[1],
            address(ones), address(d), address(c), address(sums), pitch, address(blocks_a),
            address(blocks_b),
        )  # fmt: skip
    return weight_x, weight_h, bias
