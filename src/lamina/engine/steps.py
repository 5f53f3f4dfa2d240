"""The steps of a batch of sequences, and the products of a step.

The sequences of a batch are ranked by length, longest first, so that those which have a step t are
the first active[t] ranks. Arrays of shape (N, T, F), x, y and their gradients, are read and written
where they lie: step t of rank r is row starts[r] + t · way of such an array, (N T, F). In reverse,
way is -1, for step 0 is a sequence's last.

Between, *rows* of arrays are the real steps alone, in one of two orders, and the row of rank r at
step t is first[t] + r · stride in either: where all sequences have T steps, the same (stride T);
else step by step (stride 1). Cost follows the real steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from . import jit, pool, threads
from .cached import KeptBySize, cached_property
from .jit import call, held, item
from .matmul import contiguous, machine_of, pack_panel
from .memory import ALIAS, LINE, empty
from .tile import lanes

NDArray = npt.NDArray[Any]
R = TypeVar("R")

AHEAD: Final = 48
"""Of so many rows together."""
TERMS: Final = 384
"""The most terms of a block of a sum: a panel of two or four vectors stays in level 1 or 2."""
KNOWN: Final = 64
"""For how many shapes of x the steps are kept, ..."""
RAGGED: Final = 8
"""... and for how many batches with lengths: these hold an integer for each row, and hardly come
again."""
ALONE: Final = 2**18
"""Bytes; the padding of smaller arrays is cleared on one core."""


class Steps:
    """The rows of a batch.

    Parameters
    ----------
    n, steps : int
        N and T.
    lengths : integer array, shape (N,), optional
        None: all have T steps.
    reverse : bool

    Attributes
    ----------
    order : integer array, shape (N,), optional
        The sequences by rank. None: as they come.
    starts : integer array, shape (N,)
        By rank.
    where : integer array, shape (rows,), optional
        By row, which row of x it is. None: the same.
    first, active : integer array, shape (T,)
        By step.
    most : int
        How many sequences have a step.
    """

    def __init__(
        self, n: int, steps: int, lengths: NDArray | None = None, reverse: bool = False
    ) -> None:
        self.n, self.steps, self.lengths, self.reverse = n, steps, lengths, reverse
        self.order: NDArray | None = None
        self.where: NDArray | None = None
        self.way = -1 if reverse else 1
        self.known: dict[int, tuple[NDArray, NDArray, int]] = {}
        if lengths is None:
            self.first = np.arange(steps)[::-1].copy() if reverse else np.arange(steps)
            self.active, self.stride = np.full(steps, n), steps
            self.rows, self.most = n * steps, n
            self.starts = np.arange(n) * steps + (steps - 1) * reverse
            return
        self.order, self.stride = np.empty(n, np.int64), 1
        self.first, self.active = np.empty(steps, np.int64), np.empty(steps, np.int64)
        self.rows, self.most = int(lengths.sum()), int(np.count_nonzero(lengths))
        self.starts, self.where = np.empty(n, np.int64), np.empty(self.rows, np.int64)
        following = np.empty(steps + 1, np.int64)
        jit.run(
            _rank, steps, self.way, lengths, self.order, self.first, self.active, self.starts,
            self.where, following,
        )  # fmt: skip

    @cached_property
    def before(self) -> NDArray:
        """How many rows there are before each step."""
        found: NDArray = np.cumsum(self.active) - self.active
        return found

    def padded(self, width: int, dtype: np.dtype[Any]) -> NDArray:
        """Return an array (N, T, width) whose padding is 0, and whose steps are not set."""
        x = empty((self.n, self.steps, width), dtype)
        if self.lengths is not None:
            machine, (zeros, _) = machine_of(dtype), zeros_and_ones(width, dtype)
            parts = threads.count() if x.nbytes > ALONE else 1
            pool.share(
                _clear, parts, parts, self.n, self.steps, width, machine.size, machine.lane,
                machine.codes[1], held(self.lengths), held(x), held(zeros),
            )  # fmt: skip
        return x

    def unpack(self, packed: NDArray) -> NDArray:
        """Return an array (N, T, F) of these rows, 0 elsewhere."""
        shape = (self.n, self.steps, packed.shape[-1])
        if self.where is None:
            return packed.reshape(shape)
        x = np.zeros((self.n * self.steps, packed.shape[-1]), packed.dtype)
        x[self.where] = packed
        return x.reshape(shape)

    def by_rank(self, state: NDArray) -> NDArray:
        """Return a state, shape (N, H), to read, its rows by rank."""
        return contiguous(state) if self.order is None else state[self.order]

    def ranked(self, state: NDArray) -> NDArray:
        """Return a copy of a state, shape (N, H), its rows by rank."""
        found = empty(state.shape, state.dtype)
        found[...] = state if self.order is None else state[self.order]
        return found

    def unranked(self, state: NDArray) -> NDArray:
        """Return a state by rank in the order of the batch."""
        if self.order is None:
            return state
        found = empty(state.shape, state.dtype)
        found[self.order] = state
        return found

    def ends(self, y: NDArray, start: NDArray) -> NDArray:
        """Return y at the last step of each sequence; `start` where there is none."""
        if not self.rows:
            return start.copy()
        if self.lengths is None or self.reverse:
            found = y[:, 0 if self.reverse else -1].copy()
        else:
            found = y[np.arange(self.n), self.lengths - 1]
        if self.most < self.n:
            empty = self.lengths == 0
            found[empty] = start[empty]
        return found

    def bind(self, *calls: pool.Ready) -> pool.Run:
        """Return calls for these rows as one function of their arrays.

        Lengths hardly come again, and then it is not worth a `pool.in_order`.
        """
        return pool.in_order(*calls) if self.lengths is None else pool.once(*calls)

    def shares(self, parts: int) -> tuple[NDArray, NDArray, int]:
        """Cut the ranks for threads: the first rank of each, how many it has at each step, the gap.

        Ranks of unequal length are dealt in turns.
        """
        if parts not in self.known:
            self.known[parts] = self._shared(parts)
        return self.known[parts]

    def _shared(self, parts: int) -> tuple[NDArray, NDArray, int]:
        if parts == 1:
            return _FIRST, self.active[None], 1
        g = np.arange(parts)
        if self.order is None:
            ends = self.n * (g + 1) // parts
            begin = self.n * g // parts
            return begin, np.repeat((ends - begin)[:, None], self.steps, axis=1), 1
        return g, np.maximum(0, -((g[:, None] - self.active) // parts)), parts


_FIRST: Final = np.zeros(1, np.int64)


def columns_of(sides: int, way: int, width: int) -> tuple[int, int]:
    """Return how many columns y of one or two directions has, and the first of this `way`."""
    return sides * width, (sides - 1) * width if way < 0 else 0


def steps_of(x: NDArray, lengths: NDArray | None, reverse: bool = False) -> Steps:
    """Return the rows of x, shape (N, T, ...)."""
    n, steps = x.shape[:2]
    if lengths is None:
        return steps_like(n, steps, reverse)
    return _ragged(n, steps, np.asarray(lengths, np.int64).tobytes(), reverse)


# The layers and the passes of a batch ask for the same.


@lru_cache(KNOWN)
def steps_like(n: int, steps: int, reverse: bool = False) -> Steps:
    """Return the rows of N sequences of T steps."""
    return Steps(n, steps, reverse=reverse)


@lru_cache(RAGGED)
def _ragged(n: int, steps: int, lengths: bytes, reverse: bool) -> Steps:
    return Steps(n, steps, np.frombuffer(lengths, np.int64), reverse)


def kept_by_steps(function: Callable[..., R]) -> KeptBySize[R]:
    """Keep results of a function, which hold on to steps, for as many steps as are known."""
    return KeptBySize(function, KNOWN, RAGGED, lambda steps: steps.lengths is not None)


@jit.kernel
def _rank(
    steps: int, way: int, lengths: NDArray, order: NDArray, first: NDArray, active: NDArray,
    starts: NDArray, where: NDArray, following: NDArray,
) -> None:  # fmt: skip
    """Rank sequences by length, longest first.

    There are order and starts by rank; first and active by step; and by row where it is in x.
    """
    following[:] = 0
    for length in lengths:
        following[length] += 1
    longer = 0
    for length in range(steps, -1, -1):  # from how many of each length to how many are longer
        longer += following[length]
        following[length] = longer - following[length]
    rows = 0
    for t in range(steps):
        first[t], active[t] = rows, following[t]
        rows += active[t]
    for i in range(len(lengths)):
        rank = following[lengths[i]]
        following[lengths[i]] += 1
        order[rank] = i
        starts[rank] = i * steps + (lengths[i] - 1 if way < 0 else 0)
    for t in range(steps):
        for rank in range(active[t]):
            where[first[t] + rank] = starts[rank] + t * way


@jit.kernel
def _clear(g: int, at: int) -> None:
    """Clear the padding of part g of the sequences. Arrays come as `jit.held` gave them."""
    parts, n, steps, width, size, lane, copy, lengths, x, zeros = jit.constants(at, 10)
    lengths, x, zeros = jit.data(lengths), jit.data(x), jit.data(zeros)
    vectors = (width + lane - 1) // lane
    last = width - (vectors - 1) * lane
    for i in range(n * g // parts, n * (g + 1) // parts):
        length = item(lengths, i)
        into = x + (i * steps + length) * width * size
        call(copy, (zeros, 0, steps - length, vectors, last, into, width))


@jit.kernel
def gather(
    rows: int, places: Any, apart: int, source: Any, row: int, size: int, copy: Any, vectors: int,
    last: int, target: Any, pitch: int,
) -> None:  # fmt: skip
    """Copy rows of an array, those at every so many `places`, to rows one after the other."""
    for r in range(rows):
        line = source + item(places, r * apart) * row * size
        call(copy, (line, row, 1, vectors, last, target + r * pitch * size, pitch))


@jit.kernel
def scatter(
    rows: int, places: Any, apart: int, source: Any, pitch: int, size: int, copy: Any, vectors: int,
    last: int, target: Any, row: int,
) -> None:  # fmt: skip
    """Copy rows one after the other to every so many `places` of an array: undo `gather`."""
    for r in range(rows):
        line = target + item(places, r * apart) * row * size
        call(copy, (source + r * pitch * size, pitch, 1, vectors, last, line, row))


@jit.kernel
def pack(
    g: int, parts: int, k0: int, k: int, tall: int, columns: int, width: int, size: int, lane: int,
    copy: Any, transpose: Any, zeros: Any, source: Any, row: int, col: int, panels: Any,
) -> None:  # fmt: skip
    """Copy part g of a matrix (k, columns), of strides row and col, to rows k0 ... of panels."""
    vectors = (columns + lane - 1) // lane
    count = (vectors + width - 1) // width
    for p in range(count * g // parts, count * (g + 1) // parts):
        p0, p1 = vectors * p // count, vectors * (p + 1) // count
        ldb = (p1 - p0) * lane
        pack_panel(
            k, min(columns, p1 * lane) - p0 * lane, size, lane, copy, transpose, zeros,
            source + p0 * lane * col * size, row, col,
            panels + (p0 * lane * tall + k0 * ldb) * size, ldb,
        )  # fmt: skip


@jit.kernel
def product(
    rows: int, k: int, columns: int, width: int, size: int, lane: int, tile: Any, origin: Any,
    heights: Any, a: Any, a_row: int, b: Any, b_row: int, tall: int,
    start: Any, start_row: int, start_col: int, c: Any, ldc: int, back: int,
) -> None:  # fmt: skip
    """Compute C = start + A B for a few rows and all columns.

    B is in panels of `tall` rows; in place, by its stride of rows, where that is 0. The panels pass
    by from first to last, or `back` from last to first: where each step turns round, it begins with
    those that the caches still hold from the step before.
    """
    vectors = (columns + lane - 1) // lane
    count = (vectors + width - 1) // width
    blocks = (k + TERMS - 1) // TERMS
    for i in range(count):
        p = count - 1 - i if back else i
        p0, p1 = vectors * p // count, vectors * (p + 1) // count
        beside = p0 if i + 1 == count else vectors * (p - 1) // count if back else p1
        last = min(lane, columns - (p1 - 1) * lane)
        panel, ldb = b + p0 * lane * size, b_row
        if tall:
            ldb = (p1 - p0) * lane
            panel = b + p0 * lane * tall * size
        lines = (ldb * size + LINE - 1) // LINE
        height = item(heights, p1 - p0)
        tiles = (rows + height - 1) // height  # their heights equalised
        tall_rows = rows // tiles
        taller = rows - tall_rows * tiles
        for block in range(blocks):
            i0, i1 = k * block // blocks, k * (block + 1) // blocks
            into = c + p0 * lane * size
            begin, lds = into, ldc
            if block == 0:
                begin, lds = start + p0 * lane * start_col * size, start_row
            part, piece = a + i0 * size, panel + i0 * ldb * size
            # What is read of B next, line by line. To ask for memory that is not there is slow, and
            # what is one ALIAS away would push out what is read now.
            following, step = piece + (i1 - i0) * ldb * size, ldb
            if (i1 - i0) * ldb * size % ALIAS == 0:
                following, step = piece, 0
            elif i1 == k:
                following = b + beside * lane * (tall if tall else 1) * size
            for m in range(tiles):
                h = tall_rows + (1 if m < taller else 0)
                call(tile, (
                    h, p1 - p0, part, origin, a_row, 1, piece, origin, ldb, 1, i1 - i0,
                    begin, lds, into, ldc, last, 0, following + m % lines * LINE, step,
                ))  # fmt: skip
                part, into, begin = (
                    part + h * a_row * size, into + h * ldc * size, begin + h * lds * size
                )  # fmt: skip


class Weights(NamedTuple):
    """The parameters of a layer.

    Attributes
    ----------
    x, h : array, shapes (I, G H), (P, G H)
        P is H without a projection.
    bias : array, shape (G H,), optional
    p : array, shape (H, P), optional
        The projection: h is what the cell shows times p.
    panels : dict, optional
        Keeps the matrices in panels, for weights that will not change.
    """

    x: NDArray
    h: NDArray
    bias: NDArray | None
    p: NDArray | None = None
    panels: dict[tuple[Any, ...], NDArray] | None = None


@dataclass(frozen=True, eq=False)
class Pass:
    """How a batch goes forward, whatever its arrays.

    Attributes
    ----------
    steps : Steps
    work : int
        The elements that it works in.
    masked : bool
    given : callable
        Returns the weights as the kernel reads them: `Weights` without None.
    ready : callable
        Returns it as a call, for what `held` says of these, and of x, h, c, c_next, s, y and where
        the kernel works, of the mask or None, and of the arrays of `Kept`.
    """

    steps: Steps
    work: int
    masked: bool
    given: Callable[[Any], tuple[NDArray, ...]]
    ready: Callable[..., pool.Ready]

    @cached_property
    def run(self) -> pool.Run:
        """The same as a function of these arrays, in this order; any mask does for None."""
        mask: int | None
        given, others, (mask, *kept) = (
            [pool.late(i) for i in numbers] for numbers in (range(4), range(4, 11), range(11, 15))
        )
        mask = mask if self.masked else None
        return self.steps.bind(self.ready(given, *others, mask, *kept))


class Kept(NamedTuple):
    """What backward needs of forward, by row.

    Attributes
    ----------
    h : array, shape (rows, P)
        m ⊙ h before the step.
    c : array, shape (rows, H), optional
        The state of the cell before the step.
    gates : array, shape (rows, G H), optional
    """

    h: NDArray
    c: NDArray | None = None
    gates: NDArray | None = None


@lru_cache(maxsize=1024)
def widest(rows: int, columns: int, dtype: np.dtype[Any]) -> int:
    """Return how many vectors wide the tiles of so many rows and columns are to be."""
    machine = machine_of(dtype)
    vectors, heights = -(-columns // machine.lane), machine.heights
    best, fewest = 1, float("inf")
    for v in range(min(8, vectors), 0, -1):
        tiles = -(-rows // int(heights[v]))
        tall = rows / tiles
        # Two multiply-adds a cycle, two loads, a vector of B from level 2 in about two cycles, and
        # no chain is faster than its latency.
        cycles = tiles * max(tall * v / 2, (tall + v) / 2, 2.2 * v, 4.8) / v
        if cycles < 0.97 * fewest:
            best, fewest = v, cycles
    return best


def places(size: int, *counts: int) -> tuple[list[int], int]:
    """Return where arrays stand in one, each on a line of its own, in bytes; and its elements."""
    line, found, end = LINE // size, [], 0
    for count in counts:
        found.append(end * size)
        end += -(-count // line) * line
    return found, end


@lru_cache(maxsize=256)
def zeros_and_ones(size: int, dtype: np.dtype[Any]) -> tuple[NDArray, NDArray]:
    """Return arrays of so many elements, and of a vector at the least, that nobody writes to."""
    size = max(size, lanes(dtype))
    return np.zeros(size, dtype), np.ones(size, dtype)
