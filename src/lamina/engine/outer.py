"""The gradients of all weights that act on one sum, in one pass over the gradient of the sum.

    C = Σ_k (X[k], H[k], 1)ᵀ D[k]                                                               (1)

for a sum x W_x + h W_h + b with the gradient D: the rows of C are dW_x, dW_h and db.

The sum goes on from block to block of rows k, so that each element is one chain over k; until the
last block it stands in panels. Rows of X, H, D and C that lie a power of two apart would share few
sets of the level-1 cache: those of a block are copied to where they do not. Threads share the
columns of C. Of few rows k a product is as good for each of X and H, for it is C that takes time.
"""

from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from . import jit, pool, threads
from .jit import call, held, int64, item
from .matmul import machine_of, pack_panel, product
from .memory import LEVEL_2, LINE
from .steps import gather, places
from .tile import tile_packing

NDArray = npt.NDArray[Any]

SERIAL: Final = 400_000
"""Below so many multiply-adds a call stays on one core: a second one would cost more."""
FEW: Final = 16
"""The most rows k for which products take less time."""
ROWS: Final = 288
"""The most rows of C whose terms are copied at once, to level 2."""
TERMS: Final = LEVEL_2 // 512
"""Bytes of the terms of such a row: those of the most rows take half of level 2 or a little more,
and the sums are read and written as seldom as can be."""


@jit.kernel
def _copy(
    m0: int, m1: int, place: int, k0: int, terms: int, size: int, lane: int, copy: Any,
    source: Any, row: int, columns: int, target: Any, pitch: int, apart: int, where: Any,
) -> None:  # fmt: skip
    """Copy what lies between m0 and m1 of columns that stand at `place` of (X, H, 1).

    Their rows lie one after the other, or, where these are `apart`, as `where` says.
    """
    low, high = max(m0, place), min(m1, place + columns)
    if low < high:
        vectors = (high - low + lane - 1) // lane
        begin, into = source + (low - place) * size, target + (low - m0) * size
        last = high - low - (vectors - 1) * lane
        if apart:
            gather(terms, where + k0 * 8, apart, begin, row, size, copy, vectors, last, into, pitch)
        else:
            call(copy, (begin + k0 * row * size, row, terms, vectors, last, into, pitch))


@jit.kernel
def _part(g: int, at: int) -> None:
    """Compute part g of the columns of C. Arrays come as `jit.held` gave them."""
    fixed, k, x, where, h, d, c, work = jit.constants(at, 8)
    (
        parts, n, size, lane, wide, tile, packing, copy, origin, heights, zeros, x_columns,
        h_columns, ones, pitch, terms, sums, blocks_a, blocks_b, apart,
    ) = jit.constants(fixed, 20)  # fmt: skip
    x, h, d, c, work = jit.data(x), jit.data(h), jit.data(d), jit.data(c), jit.data(work)
    where = jit.data(where)
    sums, blocks_a, blocks_b = work + sums, work + blocks_a, work + blocks_b
    zero, one = int64(0), int64(1)  # not literals: kernels are compiled once
    m = x_columns + h_columns + 1
    vectors = (n + lane - 1) // lane
    count = (vectors + wide - 1) // wide
    a_mine = blocks_a + g * terms * pitch * size
    b_mine = blocks_b + g * terms * wide * lane * size
    k_blocks, m_blocks = (k + terms - 1) // terms, (m + ROWS - 1) // ROWS
    for mb in range(m_blocks):
        m0, m1 = m * mb // m_blocks, m * (mb + 1) // m_blocks
        for kb in range(k_blocks):
            k0, k1 = k * kb // k_blocks, k * (kb + 1) // k_blocks
            _copy(
                m0, m1, zero, k0, k1 - k0, size, lane, copy, x, x_columns, x_columns, a_mine,
                pitch, apart, where,
            )  # fmt: skip
            _copy(
                m0, m1, x_columns, k0, k1 - k0, size, lane, copy, h, h_columns, h_columns,
                a_mine, pitch, zero, where,
            )  # fmt: skip
            _copy(
                m0, m1, m - 1, k0, k1 - k0, size, lane, copy, ones, zero, one, a_mine, pitch,
                zero, where,
            )  # fmt: skip
            first, end = count * g // parts, count * (g + 1) // parts
            for p in range(first, end):
                p0, p1 = vectors * p // count, vectors * (p + 1) // count
                last, ldb = min(lane, n - (p1 - 1) * lane), (p1 - p0) * lane
                lines, height = (ldb * size + LINE - 1) // LINE, item(heights, p1 - p0)
                source = d + (k0 * n + p0 * lane) * size
                # What is read next of D, line by line.
                following, left = source + ldb * size, p1 < vectors
                if p + 1 == end:
                    following, left = d + (k1 * n + vectors * first // count * lane) * size, k1 < k
                packed = height if p1 - p0 == wide and last == lane and height <= m1 - m0 else 0
                if not packed:
                    pack_panel(
                        k1 - k0, ldb - lane + last, size, lane, copy, copy, zeros,
                        source, n, one, b_mine, ldb,
                    )  # fmt: skip
                rows = m1 - m0 - packed
                tiles = (rows + height - 1) // height  # their heights equalised
                part = a_mine
                mine = sums + (p0 * m + m0 * (p1 - p0)) * lane * size
                begin, lds = (mine, ldb) if kb else (zeros, 0)
                into, ldc = mine, ldb
                if kb == k_blocks - 1:
                    into, ldc = c + (m0 * n + p0 * lane) * size, n
                for t in range(-1 if packed else 0, tiles):
                    code, rows_b, apart_b, tall = packing, source, n, packed
                    ahead, step = b_mine, ldb  # where the first tile copies D, as it reads it
                    if t >= 0:
                        code, rows_b, apart_b = tile, b_mine, ldb
                        tall = rows * (t + 1) // tiles - rows * t // tiles
                        ahead, step = a_mine, 0
                        if t < lines and left:
                            ahead, step = following + t * LINE, n
                    call(code, (
                        tall, p1 - p0, part, origin, 1, pitch, rows_b, origin, apart_b, 1,
                        k1 - k0, begin, lds, into, ldc, last, 0, ahead, step,
                    ))  # fmt: skip
                    part = part + tall * size
                    into, begin = into + tall * ldc * size, begin + tall * lds * size


def outer(
    dtype: np.dtype[Any], k: int, inputs: int, outputs: int, n: int, x: Any, h: Any, d: Any,
    c: Any, weight_x: Any, weight_h: Any, bias: Any, work: Any, where: NDArray | None = None,
) -> tuple[list[pool.Ready], int]:  # fmt: skip
    """Return (1) as calls, for what `held` says of the arrays, and the elements of `work`.

    X has shape (k, inputs), H (k, outputs) and D (k, n); `weight_x`, `weight_h` and `bias` are the
    rows of C. The rows of X may lie apart: `where` has k integers.
    """
    machine, count = machine_of(dtype), threads.count()
    if k <= FEW and where is None:
        products = [
            (product(dtype, inputs, n, k, 1, inputs, n, 1, count), x, weight_x),
            (product(dtype, outputs, n, k, 1, outputs, n, 1, count), h, weight_h),
            (product(dtype, 1, n, k, 0, 0, n, 1, count), held(machine.one), bias),
        ]
        calls = [how.ready(a, d, into, work) for how, a, into in products]
        return calls, max(how.panels for how, *_ in products)
    parts = 1
    if (inputs + outputs + 1) * n * k > SERIAL:
        parts = min(count, -(-n // (machine.lane * machine.wide)))
    blocks = k > TERMS // machine.size
    fixed, room = _plan(dtype, inputs, outputs, n, parts, blocks, where is not None)
    arguments = fixed.at, k, x, x if where is None else held(where), h, d, c, work
    return [pool.Ready(_part, parts, arguments, (fixed, where))], room


@lru_cache(maxsize=256)
def _plan(
    dtype: np.dtype[Any], inputs: int, outputs: int, n: int, parts: int, blocks: bool, apart: bool
) -> tuple[jit.Constants, int]:
    """Return what many rows ask for, in one or more blocks of k, and the elements of `work`."""
    machine, m = machine_of(dtype), inputs + outputs + 1
    lane, wide = machine.lane, machine.wide
    line, terms = LINE // machine.size, TERMS // machine.size
    pitch = (-(-min(m, ROWS) // line) | 1) * line  # an odd number of lines
    (sums, blocks_a, blocks_b), room = places(
        machine.size, blocks * m * -(-n // lane) * lane, parts * terms * pitch,
        parts * terms * wide * lane,
    )  # fmt: skip
    return jit.Constants(
        parts, n, machine.size, lane, wide, machine.codes[0], tile_packing(dtype), machine.codes[1],
        machine.origin_at, machine.heights, machine.zeros, inputs, outputs, machine.one, pitch,
        terms, sums, blocks_a, blocks_b, int(apart),
    ), room  # fmt: skip
