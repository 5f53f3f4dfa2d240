"""Matrix products around the tile: packing, blocking, tails and threads.

    C[m, n] = start[m, n] + Σ_k A[m, k] B[k, n]                                                 (1)

A is read in place, by any two strides. B is read in place or copied to *panels*, as wide as a tile,
where that pays: when it is transposed, or when many rows use it again. Panels are made just before
their first use, or by the very tile that reads B first. A B that many products share is packed
once, beforehand. Where B lies by columns and A is small, A is copied instead, and what is computed
is Cᵀ = Bᵀ Aᵀ, of which each thread then turns its part. Threads share C in a grid of rows and
columns; none splits k. A sum goes on from block to block of k through C itself. So neither the
blocking nor the grid changes a bit.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from . import jit, pool, threads
from .cached import cached_property
from .few import MOST, few_panels, few_rows, few_rows_past, few_sums, few_terms, few_turned
from .jit import address, call, held
from .memory import ALIAS, LINE, lasting, past_caches, workspace
from .packing import copy, spread, transpose
from .tile import lanes, last_vectors, panel_vectors, tallest, tile, tile_packing

NDArray = npt.NDArray[Any]

TERMS: Final = 512
"""The most terms of a block over k: a panel of four vectors stays in half of a level-2 cache."""
FEW_TERMS: Final = 128
"""The same for a few rows, which use a panel once: it stays in a level-1 cache."""
BLOCK: Final = 240
"""The most rows of a block of A, which stays in level 2 while the panels of B pass."""
SHORT: Final = 64
"""So many terms or fewer go by so soon that C is what takes the time."""
SMALL: Final = 48
"""The most rows of a block then: what one panel begins of a line of C, the next one finds."""
COLUMNS: Final = 2048
"""The most columns of B that a thread packs at once, which bounds the workspace."""
SERIAL: Final = 400_000
"""Below so many multiply-adds a call stays on one core: a second one would cost more."""
SERIAL_PLANNED: Final = 100_000
"""The same in a program, whose steps threads share sooner."""
SERIAL_VECTORS: Final = 20_000
"""The same of a product, in vectors, which it fills."""
SERIAL_B: Final = 120_000
"""Nor one whose B and C have fewer elements, as a level-2 cache holds: few rows wait for B alone,
few terms for C."""
REUSED: Final = 3
"""A B that so many tiles or fewer use is not worth a copy, ..."""
LARGE: Final = 120_000
"""... but one with more elements is from one tile fewer on: each would fetch it from far away."""
COPIED: Final = 5
"""An A that so many panels use is copied to strips that lie along memory, ..."""
IN_ONE_SET: Final = 2
"""... or so many where its terms lie a multiple of `ALIAS` apart, ..."""
NEAR: Final = 2048
"""... but not if its rows do so and are no more bytes apart: a cache holds a tile's rows then."""
PIECE: Final = 256
"""Bytes of a row of B to copy at once, to panels side by side: each row may lie on a page of its
own, whose address takes longer to find than less to copy, ..."""
GROUPED: Final = 16
"""... if so many tiles use a panel. Fewer are done sooner if one of them packs, as it reads B."""
WIDEST: Final = 8
"""The most vectors of a tile that reads B in place."""
IN_CACHE: Final = 2**14
"""Bytes of C that stay in half a level-1 cache while rows of B pass by."""
COPY: Final = 8
"""To copy a row of B takes about as long as to multiply and add it to so many rows of C."""
SCRATCH: Final = 2**17
"""Bytes of a workspace that one product may keep."""
WIDE: Final = 512
"""So many sums of columns keep two threads busy, ..."""
LONG: Final = 2**17
"""... and are worth it from so many elements on."""
FEW: Final = 8
"""From so many vectors on, few rows are not for a tile, but for few.py, as few terms always are, of
which C may then go past the caches."""

# What becomes of B
IN_PLACE, WITHIN, BEFORE, ROWS, TURNED = range(5)
"""Tiles read it in place; or panels to which it is copied within the call, or was before. Or, for a
few rows of C at a time, its rows are read in their whole length, or its columns, if they lie so."""


@jit.kernel
def count_panels(vectors: int, wide: int) -> int:
    """Return how many panels hold so many vectors."""
    return (vectors + wide - 1) // wide


@jit.kernel
def pack_panel(
    k: int, columns: int, size: int, lane: int, copy: int, transpose: int, zeros: int,
    b: int, b_row: int, b_col: int, panel: int, ldb: int,
) -> None:  # fmt: skip
    """Copy k rows of so many columns of B to a panel, of rows `ldb` apart.

    What is left of their last vectors is 0, for tiles may multiply it: what stood there before may
    be denormal, and some CPUs take a hundred times as long for that.
    """
    vectors = (columns + lane - 1) // lane
    last = columns - (vectors - 1) * lane
    if last < lane:
        call(copy, (zeros, 0, k, 1, lane, panel + (vectors - 1) * lane * size, ldb))
    if b_col == 1:
        call(copy, (b, b_row, k, vectors, last, panel, ldb))
    else:
        call(transpose, (b, b_col, k, columns, panel, ldb))


@jit.kernel
def strip(k: int, height: int, lane: int) -> int:
    """Return the elements of a strip of A, with room beside its k terms."""
    return height * (k + lane)


@jit.kernel
def _copy_strips(
    m: int, k: int, size: int, lane: int, height: int, copy: int, spread: int,
    a: int, a_row: int, a_col: int, strips: int,
) -> None:  # fmt: skip
    """Copy m rows and k terms of A to strips, as it lies: row after row, or term after term."""
    gap = strip(k, height, lane)
    if a_col == 1:
        vectors = (k + lane - 1) // lane
        call(copy, (a, a_row, m, vectors, k - (vectors - 1) * lane, strips, k + lane))
        return
    whole = m // height
    if whole > 0:
        call(spread, (a, a_col, k, whole, height, strips, gap))
    rest = m - whole * height
    if rest > 0:
        vectors = (rest + lane - 1) // lane
        call(copy, (
            a + whole * height * size, a_col, k, vectors, rest - (vectors - 1) * lane,
            strips + whole * gap * size, height,
        ))  # fmt: skip


@jit.kernel
def _few(
    m0: int, m1: int, v0: int, v1: int, n: int, k: int, size: int, lane: int, code: int,
    a: int, a_row: int, a_col: int, b: int, b_row: int, b_col: int,
    start: int, start_col: int, c: int, relu: int, span: int, height: int,
) -> None:  # fmt: skip
    """Compute rows m0 ... m1 and vectors v0 ... v1 of C by code of few.py: some of each at once."""
    ldb = b_row if b_col == 1 else b_col
    for w0 in range(v0, v1, span):
        w1, j = min(v1, w0 + span), w0 * lane
        last = min(lane, n - (w1 - 1) * lane)
        for i in range(m0, m1, height):
            call(code, (
                min(height, m1 - i), a + i * a_row * size, a_row, a_col,
                b + j * b_col * size, ldb, k,
                start + j * start_col * size, start_col, c + (i * n + j) * size, n,
                w1 - w0, last, relu,
            ))  # fmt: skip


@jit.kernel
def _rows_of_c(
    i0: int, i1: int, vectors: int, last: int, k: int, n: int, size: int, lane: int, height: int,
    tall: int, tile: int, origin: int, a: int, a_row: int, a_col: int, strips: int, copied: int,
    panel: int, ldb: int, following: int, tile_packing: int, packs: int, source: int, b_row: int,
    start: int, c: int, relu: int,
) -> None:  # fmt: skip
    """Compute rows i0 ... i1 of the columns of a panel of B, of A or of its strips if it is copied.

    The first rows, as many as `packs`, pack the panel from its source while they go. Sums go on
    from what C holds if `start` is 0. `following` is the panel that is used next.
    """
    i = i0
    while i < i1:
        some = min(tall, i1 - i)
        if i + some == i1 and some > height:
            some -= height  # the last ones go on their own
        part, row, col, beneath = a + i * a_row * size, a_row, a_col, height * a_row
        if copied > 0:
            part, beneath = strips + (i - i0) * (k + lane) * size, strip(k, height, lane)
            row, col = (k + lane, 1) if a_col == 1 else (1, height)
        into = c + i * n * size
        begin, lds = into, n
        if start != 0:
            begin, lds = start, 0
        # What is used next: rows of A or, from the last ones on, the next part of B. To ask for
        # memory that is not there takes longer than all else.
        ahead, step = part + beneath * size, col
        if col == 1:  # as many rows as the lowest of these tiles has
            step = some // ((some + height - 1) // height)
        if i + some == i1:
            ahead, step = following, ldb
        code, rows_b, apart = tile, panel, ldb
        if packs > 0 and i == i0:
            some, ahead, step = packs, panel, ldb
            code, rows_b, apart = tile_packing, source, b_row
        call(code, (
            some, vectors, part, origin, row, col, rows_b, origin, apart, 1, k,
            begin, lds, into, n, last, relu, ahead, step,
        ))  # fmt: skip
        i += some


@jit.kernel
def _part(g: int, at: int) -> None:
    """Compute part g of C, in a grid of rows x cols, from what `jit.held` gave for the arrays."""
    fixed, a, b, start, c, panels = jit.constants(at, 6)
    a, b, start, c = jit.data(a), jit.data(b), jit.data(start), jit.data(c)
    (
        rows, cols, m, n, k, size, lane, wide, height, tall, tile, copy, spread, transpose,
        a_row, a_col, b_row, b_col, way, start_col, relu, span, terms, room, a_room, c_room,
        block, gap, origin, zeros, few, tile_packing, packing, group,
    ) = jit.constants(fixed, 34)  # fmt: skip
    m0, m1 = m * (g // cols) // rows, m * (g // cols + 1) // rows
    vectors = (n + lane - 1) // lane
    count = count_panels(vectors, wide)
    first, end = count * (g % cols) // cols, count * (g % cols + 1) // cols
    if way >= ROWS:
        _few(
            m0, m1, first * wide, vectors if end == count else end * wide, n, k,
            size, lane, few, a, a_row, a_col, b, b_row, b_col, start, start_col, c, relu,
            span, height,
        )  # fmt: skip
        return
    if way == BEFORE and few != 0:  # a panel that is not whole is for a tile
        whole = min(end, n // (wide * lane))
        if first < whole:
            j = first * wide * lane
            call(few, (
                m, a, a_row, a_col, b + j * k * size, 0, k, start + j * start_col * size, start_col,
                c + j * size, n, (whole - first) * wide, lane, relu,
            ))  # fmt: skip
            first = whole
    k_blocks = (k + terms - 1) // terms
    m_blocks = (m1 - m0 + block - 1) // block
    mine = jit.data(panels) + g * room * size
    strips = mine + (room - a_room - c_room) * size
    kept = group if m_blocks == 1 else span
    sums = c if c_room == 0 else mine + (room - c_room - m0 * n) * size
    for q0 in range(first, end, span):
        q1 = min(end, q0 + span)
        for kb in range(k_blocks):
            k0, k1 = k * kb // k_blocks, k * (kb + 1) // k_blocks
            kc = k1 - k0
            for mb in range(m_blocks):
                i0 = m0 + (m1 - m0) * mb // m_blocks
                i1 = m0 + (m1 - m0) * (mb + 1) // m_blocks
                if a_room > 0:
                    _copy_strips(
                        i1 - i0, kc, size, lane, height, copy, spread,
                        a + (i0 * a_row + k0 * a_col) * size, a_row, a_col, strips,
                    )  # fmt: skip
                for p in range(q0, q1):
                    j, w = p * wide * lane, wide
                    if p + 1 == count:
                        w = vectors - p * wide
                    last = min(lane, n - j - (w - 1) * lane)
                    source = panel = b + (k0 * b_row + j * b_col) * size
                    ldb, following, packs = b_row, panel + w * lane * size, 0
                    if way == WITHIN:
                        slot = (p - q0) % kept
                        panel, ldb = mine + slot * gap * size, w * lane
                        following = mine + (slot + 1) % kept * gap * size
                        if mb == 0 and group > 1 and w == wide and last == lane:
                            if slot % group == 0:
                                some = min(group, q1 - p, n // (wide * lane) - p)
                                call(spread, (source, b_row, kc, some, ldb, panel, gap))
                        elif mb == 0:
                            if 0 < packing <= i1 - i0 and w == wide and last == lane:
                                packs = packing
                            else:
                                pack_panel(
                                    kc, ldb - lane + last, size, lane, copy, transpose, zeros,
                                    source, b_row, b_col, panel, ldb,
                                )  # fmt: skip
                    elif way == BEFORE:
                        panel, ldb = b + (j * k + k0 * w * lane) * size, w * lane
                        following = panel + k * ldb * size
                    if p + 1 == q1 or p + 2 == count:  # the very last panel may be narrower
                        following = panel
                    begin = start + j * start_col * size
                    if kb > 0:
                        begin = 0
                    _rows_of_c(
                        i0, i1, w, last, kc, n, size, lane, height, tall, tile, origin,
                        a + k0 * a_col * size, a_row, a_col, strips, a_room, panel, ldb, following,
                        tile_packing, packs, source, b_row, begin, sums + j * size,
                        relu and k1 == k,
                    )  # fmt: skip
    if c_room > 0 and first < end:
        j0, j1 = first * wide * lane, min(n, end * wide * lane)
        call(transpose, (
            sums + (m0 * n + j0) * size, n, j1 - j0, m1 - m0, c + (j0 * m + m0) * size, m
        ))  # fmt: skip


def grid(m: int, vectors: int, threads: int, copied: int = 0, wide: int = 1) -> tuple[int, int]:
    """Return into how many rows and columns to cut C, so that the largest part takes least time.

    Columns are cut between panels, `wide` vectors each. To copy a part's columns of B takes as long
    as so many more rows.
    """
    panels = count_panels(vectors, wide)
    best = ((m + copied) * vectors, 1, 1)
    for cols in range(1, threads + 1):
        if threads % cols == 0:
            rows = threads // cols
            ends = [min(vectors, panels * part // cols * wide) for part in range(cols + 1)]
            widest = max(end - first for first, end in pairwise(ends))
            best = min(best, ((-(-m // rows) + copied) * widest, rows, cols))
    return best[1:]


class Machine:
    """What a machine and a dtype ask of a product, looked up once."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.size, self.lane = dtype.itemsize, lanes(dtype)
        self.codes = tile(dtype), copy(dtype), transpose(dtype)
        self.heights = np.array([0, *(tallest(v) for v in range(1, 9))])
        self.wide = panel_vectors()
        self.zeros, self.origin = np.zeros(8 * self.lane, dtype), np.zeros(1, np.int64)
        self.one = np.ones(1, dtype)
        self.zeros_at, self.origin_at = address(self.zeros), address(self.origin)


_machines: dict[Any, Machine] = {}


def machine_of(dtype: np.dtype[Any]) -> Machine:
    """Return what the machine asks of products in a dtype."""
    machine = _machines.get(dtype)
    if machine is None:
        machine = _machines.setdefault(dtype, Machine(dtype))  # one for all threads, and for good
    return machine


_READY: Final = 0x101  # of NumPy's flags: C_CONTIGUOUS and ALIGNED


def contiguous(x: NDArray) -> NDArray:
    """Return x, or a copy of it, as the C-contiguous and aligned memory that kernels read."""
    return x if x.flags.num & _READY == _READY else np.array(x, order="C")


def are_contiguous(*arrays: NDArray | None) -> bool:
    """Return whether kernels read all those that there are where they lie, without a copy."""
    return all(a is None or contiguous(a) is a for a in arrays)


@dataclass(frozen=True, eq=False)
class Product:
    """How to compute a product, whatever its arrays.

    Attributes
    ----------
    parts : int
    panels : int
        The elements of the workspace.
    turned : bool
    zeros : array
        What begins the sums where there is no bias.
    constants : Constants
    """

    parts: int
    panels: int
    turned: bool
    zeros: NDArray
    constants: jit.Constants

    def ready(self, a: Any, b: Any, c: Any, panels: Any, bias: Any = None) -> pool.Ready:
        """Return it as a call, for what `held` says of the arrays."""
        a, b = (b, a) if self.turned else (a, b)
        start = held(self.zeros) if bias is None else bias
        keep = self.constants, self.zeros
        return pool.Ready(_part, self.parts, (self.constants.at, a, b, start, c, panels), keep)

    @cached_property
    def run(self) -> pool.Run:
        """`run(a, b, c, panels, start)`: compute it; without a bias the sums start at zeros."""
        return pool.in_order(self.ready(*map(pool.late, range(5))))


def _better_turned(m: int, n: int, k: int, lane: int) -> bool:
    """Return whether Cᵀ = Bᵀ Aᵀ takes less time where B lies by columns: A and Cᵀ are turned."""
    least = last_vectors(lane)[-1]
    beside = -m % least * n * k  # what is computed in vain
    copy = COPY if least == lane else COPY // 2
    return m > MOST and beside + copy * m * (n + k) < copy * n * k


@lru_cache(maxsize=512)
def product(
    dtype: np.dtype[Any], m: int, n: int, k: int, a_row: int, a_col: int, b_row: int, b_col: int,
    count: int, before: bool = False, bias: bool = False, relu: bool = False, arrays: int = 1,
) -> Product:  # fmt: skip
    """Choose how to compute a product, with the arguments of `matmul`, on so many threads.

    So many arrays of the size of C go through the caches before it is read.
    """
    machine = machine_of(dtype)
    lane, wide, few, past = machine.lane, machine.wide, 0, False
    if m * -(-n // lane) * k <= SERIAL_VECTORS and max(n * k, m * n) <= SERIAL_B:
        count = 1
    turned = b_col != 1 and not bias and not relu and _better_turned(m, n, k, lane)
    if turned:
        m, n, a_row, a_col, b_row, b_col = n, m, b_col, b_row, a_col, a_row

    def tiles(wide: int) -> int:
        return -(-m // int(machine.heights[wide]))

    vectors = -(-n // lane)
    way = BEFORE if before else IN_PLACE
    if not before and b_col == 1 and m == 1 and a_col == 0:
        way, wide, few = ROWS, MOST, few_sums(dtype)
    elif not before and b_col == 1 and k <= MOST < m:
        past = vectors >= FEW and past_caches(arrays, m * n * machine.size)
        way, wide, few = ROWS, MOST, (few_rows_past if past else few_terms)(dtype)
    elif not before and b_col == 1 and m <= MOST and vectors >= FEW:
        way, wide, few = ROWS, MOST, few_rows(dtype)
    if before and m <= MOST:
        few = few_panels(dtype)
    if not before and b_col != 1 and m <= MOST:
        way, wide, few = TURNED, MOST, few_turned(dtype)
    while way == IN_PLACE and wide < WIDEST and tiles(wide + 1) <= tiles(wide):
        wide += 1
    panels = count_panels(vectors, wide)
    m_parts, n_parts = grid(m, vectors, count, 0 if before else COPY, wide)
    if few:  # whole rows of C where there are many, for they lie along memory
        m_parts, n_parts = (count, 1) if m > MOST else (1, count)
    reused = (REUSED - (n * k > LARGE)) * machine.heights[wide]
    if way == IN_PLACE and (b_col != 1 or -(-m // m_parts) > reused):
        way = WITHIN
    span = max(1, min(COLUMNS // (lane * wide), -(-panels // n_parts)))
    terms = TERMS if m > MOST else FEW_TERMS
    height = int(machine.heights[wide])
    block = min(-(-m // m_parts), BLOCK if k > SHORT else SMALL)
    if k <= SHORT and a_col != 1:
        height = SMALL  # of strips: the lines of so few terms stay in level 1
    if way >= ROWS:
        span, height = max(1, IN_CACHE // (MOST * lane * machine.size)), MOST
        if k <= MOST < m:  # row after row of C; past the caches, a line of memory after the other
            span, height = vectors, 1 if past else m
    packs = way == WITHIN and b_col == 1 and (wide, height) == (machine.wide, machine.heights[wide])
    group = 1
    if way == WITHIN and b_col == 1 and -(-m // m_parts) >= GROUPED * height:
        group = min(max(1, PIECE // (wide * lane * machine.size)), span)
    packing = height if packs and group == 1 else 0
    gap = -(-min(k, terms) * wide * lane // LINE) * LINE + LINE
    tall, a_room, room = block, 0, 0
    near = a_col == 1 and a_row * machine.size <= NEAR
    copied = COPIED if a_col * machine.size % ALIAS else IN_ONE_SET
    if way in (WITHIN, BEFORE) and panels >= copied * n_parts and not near:
        a_room = -(-block // height) * strip(min(k, terms), height, lane)
        tall = block if a_col == 1 else height
    if way == WITHIN and block < -(-m // m_parts):
        room = span * gap
    elif way == WITHIN:  # of one block of rows, which uses panels once: the next take their place
        room = group * gap
    c_room = -(-m // m_parts) * n if turned else 0
    room = -(-(room + a_room + c_room) // LINE) * LINE
    constants = jit.Constants(
        m_parts, n_parts, m, n, k, machine.size, lane, wide, height, tall,
        machine.codes[0], copy(dtype), spread(dtype), transpose(dtype),
        a_row, a_col, b_row, b_col, way, int(bias), int(relu), span, terms, room, a_room,
        c_room, block, gap, machine.origin_at, machine.zeros_at, few,
        tile_packing(dtype) if packing else 0, packing, group,
    )  # fmt: skip
    return Product(m_parts * n_parts, m_parts * n_parts * room, turned, machine.zeros, constants)


@dataclass(frozen=True, eq=False)
class Packed:
    """A matrix B (k, n) as panels, for any number of products, of any number of rows.

    It is never written to, so that many threads may use it at once.
    """

    panels: NDArray
    n: int
    k: int


def pack(b: NDArray, b_row: int, b_col: int, n: int, k: int) -> Packed:
    """Return B packed, to stand in the place of b in `matmul`; of the strides, one is 1."""
    machine = machine_of(b.dtype)
    vectors = -(-n // machine.lane)
    panels = lasting(vectors * machine.lane * k, b.dtype)
    panels[...] = 0
    for v in range(0, vectors if k else 0, machine.wide):
        width, j = min(machine.wide, vectors - v), v * machine.lane
        columns = min(n - j, width * machine.lane)
        jit.run(
            pack_panel, k, columns, machine.size, machine.lane, *machine.codes[1:],
            machine.zeros_at, address(b) + j * b_col * machine.size, b_row, b_col,
            address(panels) + j * k * machine.size, width * machine.lane,
        )  # fmt: skip
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
    before = isinstance(b, Packed)
    if isinstance(b, Packed):
        b, b_row, b_col = b.panels, n, 1
    options = threads.count(), before, bias is not None, relu
    found = product(c.dtype, m, n, k, a_row, a_col, b_row, b_col, *options)
    panels = workspace(found.panels, c.dtype) if found.panels else c
    found.run(a, b, c, panels, found.zeros if bias is None else bias)


class Given:
    """`matmul` with B, by rows or packed, bias and ReLU given: a function of A (m, k), m and C.

    Of a small product, which is done sooner than a call of `matmul`, it does nothing twice.
    """

    def __init__(
        self, b: Packed | NDArray, bias: NDArray | None = None, relu: bool = False
    ) -> None:
        self.b, self.bias, self.relu = b, bias, relu
        self.k, self.n = (b.k, b.n) if isinstance(b, Packed) else b.shape
        self.array = b.panels if isinstance(b, Packed) else b

    def __call__(self, a: NDArray, m: int, c: NDArray) -> None:
        """Write C."""
        matmul(a, self.k, 1, self.b, self.n, 1, m, self.n, self.k, c, self.bias, self.relu)

    def scratch(self, m: int) -> int:
        """Return the bytes beside A and C that `ready` works in."""
        how = self._product(m)
        size = 0 if how is None else how.panels * self.array.itemsize
        return size if size <= SCRATCH else 0

    def ready(self, m: int, a: int, c: int, scratch: NDArray) -> pool.Ready | None:
        """Return it for what `held` says of A and C, unless the scratch would be large."""
        how = self._product(m)
        if how is None or (how.panels and not self.scratch(m)):
            return None
        bias = None if self.bias is None else held(self.bias)
        ready = how.ready(a, held(self.array), c, held(scratch), bias)
        return ready._replace(keep=(self, how))

    def _product(self, m: int) -> Product | None:
        """Return how to compute m rows; None if there is nothing to compute."""
        n, k, before = self.n, self.k, isinstance(self.b, Packed)
        if m * n * k == 0:
            return None
        options = threads.count(), before, self.bias is not None, self.relu
        return product(self.array.dtype, m, n, k, k, 1, n, 1, *options)


def sums_are_product(size: int, n: int) -> bool:
    """Return whether the sums of n columns, of so many elements, are a product and no more."""
    return size < LONG or WIDE // n < 2


def column_sums(a: NDArray) -> NDArray:
    """Return the sums over all axes but the last: a product with ones, and as regular as one.

    Of few columns and many rows, some rows side by side count as one first: there is work for all
    threads, and for all of the multiply-adds that one may begin at the same time.
    """
    n = a.shape[-1]
    rows, together = a.size // n, WIDE // n
    if sums_are_product(a.size, n):
        return _sums(a, rows, n)
    wide = _sums(a, rows // together, together * n)
    total: NDArray = wide.reshape(together, n).sum(axis=0)
    if left := rows % together:
        total += a.reshape(rows, n)[-left:].sum(axis=0)
    return total


def _sums(a: NDArray, rows: int, n: int) -> NDArray:
    """Return the sums of the columns of the matrix (rows, n) that A begins with."""
    one = machine_of(a.dtype).one
    sums = np.empty(n, a.dtype)
    matmul(one, 0, 0, a, n, 1, 1, n, rows, sums)
    return sums
