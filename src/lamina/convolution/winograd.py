r"""Convolutions with 3x3 taps one apart, by 16 products in the place of 36: Winograd's F(2x2, 3x3).

A window of 4 positions d and a kernel g of 3 have 2 results, of 4 products and some sums:

    y = Aᵀ [(G g) ⊙ (Bᵀ d)]                                                     (1)

           ⎡1  0 -1  0⎤        ⎡1  0  0⎤        ⎡1  1  1  0⎤
      Bᵀ = ⎢0  1  1  0⎥    G = ⎢½  ½  ½⎥   Aᵀ = ⎣0  1 -1  1⎦
           ⎢0 -1  1  0⎥        ⎢½ -½  ½⎥
           ⎣0 -1  0  1⎦        ⎣0  0  1⎦

On two axes the same goes down columns and along rows. With the channels c and o, for a *tile* of
2 x 2 results of an image,

    U[e, c, o] = (G W[:, :, c, o] Gᵀ)[e]        V[t, e, c] = (Bᵀ X̃[t, :, :, c] B)[e]          (2)
    M[t, e, o] = Σ_c V[t, e, c] U[e, c, o]      Y[t, :, :, o] = Aᵀ M[t, :, o] A                (3)

with e for the 16 places of a transformed tile. The sum over c is a product of matrices for each e,
on the engine's tile, and takes nearly all of the time. Its order is fixed, and rounding errors are
smaller than those of the sum of 9 C terms that this stands for, which grow with its length.

dX is the same of dY, with the kernel turned round. dW is (1) read backwards:

    dU[e, c, o] = Σ_t V[t, e, c] (A dY[t] Aᵀ)[e, o]     dW[:, :, c, o] = Gᵀ dU[:, c, o] G      (4)

Tiles go by *blocks* that stay in level 2 from X to Y. X is read where it lies, and zeros around it;
while a block is multiplied, what the next one reads of X is asked for, and where Y will stand.

A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, sections 4 and 4.1.
"""

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..engine import jit
from ..engine.jit import Arguments, Task, call, data, int64
from ..engine.matmul import SERIAL, SERIAL_PLANNED, grid, machine_of, pack_panel
from ..engine.memory import LEVEL_2, LINE, lasting
from ..engine.patches import patches
from ..windows import Ints
from .blocks import bounds, count, cut
from .direct import APART, EVEN, PACKED, Correlation, Packed, pack_panels, zeros_of
from .weights import BLOCKS, CHUNKS, Chunks

NDArray = npt.NDArray[Any]

_B: Final = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1))
_G: Final = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_A: Final = ((1, 1, 1, 0), (0, 1, -1, 1))

AHEAD: Final = 4
"""Y, which no cache may hold, is asked for so many tiles before it is written."""

of_x: Final = patches("winograd_x", _B, padded=True)
of_weight: Final = patches("winograd_weight", _G)
to_y: Final = patches("winograd_y", _A, ahead=AHEAD)
to_y_relu: Final = patches("winograd_y_relu", _A, relu=True, ahead=AHEAD)
of_dy: Final = patches("winograd_dy", tuple(zip(*_A, strict=True)), padded=True)
to_dweight: Final = patches("winograd_dweight", tuple(zip(*_G, strict=True)))

FEWEST: Final = 16
"""With fewer channels, to begin and end the sums would take more than is saved."""
MULTIPLE: Final = 16
"""dW goes by strips of a multiple of so many channels, which the lanes of all CPUs divide."""
NEAR: Final = LEVEL_2 // 4
"""About how many bytes V has for a block: with what is made of it, level 2 holds it."""
TILES: Final = 36
"""The least tiles of a block, though it be larger then: each block reads all of U."""
LARGE: Final = 2**21
"""The most bytes of V for a block, whatever `TILES` asks for, and of a panel of U."""
SEVERAL: Final = 2**24
"""Bytes of U at the most for each thread to have a panel."""
STREAM: Final = 2**19
"""About how many bytes V and the same of dY have for a block of dW."""
STRIP: Final = 8192
"""The most elements of a strip of dW: level 2 holds its sums."""
MOST: Final = 128
"""The most outputs of such a strip."""


@jit.kernel
def _transform(g: int, shape: Task, at: Task) -> None:
    """Compute part g of U: panel by panel of o, (16, taps of depth and c, columns of the panel)."""
    (
        parts, size, lane, wide, copy, transpose, of_weight, kd, c, outputs, turned, held,
    ) = shape  # fmt: skip
    weight, into, first, end, zeros = at
    one = int64(1)  # not a literal: `pack_panel` is compiled once
    vectors = (outputs + lane - 1) // lane
    mine = into + ((end - first) * wide * lane * 16 * kd * c + g * held) * size
    for p in range(first + (end - first) * g // parts, first + (end - first) * (g + 1) // parts):
        o, many = p * wide * lane, min(wide, vectors - p * wide)
        width = many * lane
        columns = min(width, outputs - o)
        panel = into + (p - first) * wide * lane * 16 * kd * c * size
        for t in range(kd):
            taps = weight + t * 9 * c * outputs * size
            source, step, plane = taps + o * size, outputs, t
            if turned:  # the last tap is the first, and the sum goes over what were outputs
                source, step, plane = mine, width, kd - 1 - t
                for k in range(9):
                    pack_panel(
                        c, columns, size, lane, copy, transpose, zeros,
                        taps + (k * outputs + o) * c * size, one, c,
                        mine + (8 - k) * c * width * size, width,
                    )  # fmt: skip
            elif columns < width:
                source, step = mine, width
                pack_panel(
                    9 * c, columns, size, lane, copy, transpose, zeros,
                    taps + o * size, outputs, one, mine, width,
                )  # fmt: skip
            call(of_weight, (
                c, source, 3 * c * step, c * step, step, panel + plane * c * width * size,
                4 * kd * c * width, kd * c * width, width, many,
            ))  # fmt: skip


@jit.kernel
def _into_v(
    ends: Task, image: Task, size: int, of_x: int, kd: int, c: int, channels: int, x: int, v: int,
    v_plane: int, v_pitch: int, zeros: int,
) -> int:  # fmt: skip
    """Compute V of a block, of some channels; return where x goes on that no block yet has read."""
    p0, p1, h0, h1, w0, w1 = ends
    out_d, deep, high, wide, b_d, b_h, b_w = image
    nothing, left = int64(0), 2 * w0 - b_w
    for r in range((p1 - p0) * (h1 - h0)):
        p, top = p0 + r // (h1 - h0), 2 * (h0 + r % (h1 - h0)) - b_h
        for t in range(kd):
            z = p % out_d + t - b_d
            first = ((p // out_d * deep + z) * high + top) * wide + left
            call(of_x, (
                w1 - w0, x + first * c * size, wide * c, c, 2 * c,
                v + (r * (w1 - w0) * v_pitch + t * channels) * size, 4 * v_plane, v_plane, v_pitch,
                channels, top, high if 0 <= z < deep else nothing, left, wide, zeros,
            ))  # fmt: skip
    plane = (p1 - 1) // out_d * deep + (p1 - 1) % out_d + kd - 1 - b_d  # the last that was read
    there: int = x + (plane * high + min(2 * h1 + 2 - b_h, high)) * wide * c * size
    return there


@jit.kernel
def _tiles(g: int, shape: Task, image: Task, at: Task, lists: NDArray) -> None:
    """Compute part g of Y: some blocks, some panels. There is no use for lists of segments."""
    (
        parts, cols, size, lane, wide, tile, copy, of_x, to_y, to_y_relu, planes, lines, columns,
        all_planes, many_h, many_w, high, across, kd, c, outputs, held, m_at, edge_at, v_plane,
        v_pitch, m_plane,
    ) = shape  # fmt: skip
    x, y, scratch, zeros, origin, _, u, first, end, start, start_col, relu = at
    x, y = data(x), data(y)
    zero, one = int64(0), int64(1)  # not literals: `pack_panel` is compiled once
    if relu:
        to_y = to_y_relu
    half = LINE // 2 // size
    terms, vectors = kd * c, (outputs + lane - 1) // lane
    blocks = count(planes, lines, columns, all_planes, many_h, many_w)
    c0 = first + (end - first) * (g % cols) // cols
    c1 = first + (end - first) * (g % cols + 1) // cols
    v = scratch + g * held * size
    m, edge = v + m_at * size, v + edge_at * size
    for block in range(blocks * (g // cols) // parts, blocks * (g // cols + 1) // parts):
        p0, p1, h0, h1, w0, w1 = bounds(block, planes, lines, columns, all_planes, many_h, many_w)
        rows, some = (p1 - p0) * (h1 - h0), w1 - w0
        x_next = _into_v(
            (p0, p1, h0, h1, w0, w1), image, size, of_x, kd, c, c, x, v, v_plane, v_pitch, zeros
        )
        y_now = y + (p0 * high + 2 * h0) * across * outputs * size
        asked = rows * some * v_pitch * size
        for p in range(c0, c1):
            o, many = p * wide * lane, min(wide, vectors - p * wide)
            width = many * lane
            last = min(lane, outputs - o - width + lane)
            panel = u + (p - first) * wide * lane * 16 * terms * size
            bias = start + o * start_col * size
            if last < lane and start_col == 1:
                pack_panel(
                    one, width - lane + last, size, lane, copy, copy, zeros,
                    bias, zero, one, edge, width,
                )  # fmt: skip
                bias = edge
            for e in range(16):
                begin, part = zeros, v + e * v_plane * size
                if e == 5:  # which all four results have once
                    begin = bias
                # A product asks for as much memory as its part of V has, a line at two terms.
                ask, step = part, zero
                if p == c1 - 1 and e * v_pitch < 4 * c:
                    ask, step = x_next + e * asked, half
                elif p == c0 and 0 <= (e - 4) * v_pitch < 4 * outputs:
                    ask, step = y_now + (e - 4) * asked, half
                call(tile, (
                    rows * some, many, part, origin, v_pitch, 1,
                    panel + e * terms * width * size, origin, width, 1, terms,
                    begin, 0, m + e * m_plane * size, width, lane, 0, ask, step,
                ))  # fmt: skip
            for r in range(rows):
                h = h0 + r % (h1 - h0)
                line = (p0 + r // (h1 - h0)) * high + 2 * h
                into = y + ((line * across + 2 * w0) * outputs + o) * size
                source = m + r * some * width * size
                whole = 0
                if 2 * h + 2 <= high and last == lane:
                    whole = min(some, across // 2 - w0)
                    call(to_y, (
                        whole, source, 4 * m_plane, m_plane, width, into, across * outputs, outputs,
                        2 * outputs, many,
                    ))  # fmt: skip
                if whole < some:  # tiles, or their last vectors, that are only in part in Y
                    call(to_y, (
                        some - whole, source + whole * width * size, 4 * m_plane, m_plane, width,
                        edge, 2 * columns * width, width, 2 * width, many,
                    ))  # fmt: skip
                    for q in range(min(2, high - 2 * h)):
                        call(copy, (
                            edge + q * 2 * columns * width * size, width,
                            min(2 * some, across - 2 * w0) - 2 * whole, many, last,
                            into + (q * across + 2 * whole) * outputs * size, outputs,
                        ))  # fmt: skip


@jit.kernel
def _sums(g: int, shape: Task, image: Task, at: Task, lists: NDArray) -> None:
    """Compute part g of dW: some strips of some chunks."""
    (
        parts, chunks, strips_c, strips_o, size, lane, wide, tile, copy, of_x, of_dy, to_dweight,
        planes, lines, columns, all_planes, many_h, many_w, high, across, kd, c, o, strip_c,
        strip_o, held, d_at, sum_at, v_plane, d_plane, sum_plane,
    ) = shape  # fmt: skip
    x, dy, dw, zeros, scratch, origin = at
    zero = int64(0)  # not a literal, as above
    origin += g * 2 * 8  # of this thread's lists, of which it takes one element
    lists[g, 0, 0] = 0
    blocks = count(planes, lines, columns, all_planes, many_h, many_w)
    v = scratch + g * held * size
    d, sums = v + d_at * size, v + sum_at * size
    units, strips = chunks * strips_c * strips_o, strips_c * strips_o
    for unit in range(units * g // parts, units * (g + 1) // parts):
        chunk = unit // strips
        c0, o0 = unit // strips_o % strips_c * strip_c, unit % strips_o * strip_o
        rows, outputs = min(strip_c, c - c0), min(strip_o, o - o0)
        vectors = (outputs + lane - 1) // lane
        v_pitch, s_pitch = (kd - 1) * rows + (rows + lane - 1) // lane * lane, vectors * lane
        first, end = blocks * chunk // chunks, blocks * (chunk + 1) // chunks
        for block in range(first, end):
            ends = bounds(block, planes, lines, columns, all_planes, many_h, many_w)
            p0, p1, h0, h1, w0, w1 = ends
            x_next = _into_v(
                ends, image, size, of_x, kd, c, rows, x + c0 * size, v, v_plane, v_pitch, zeros
            )
            y_next = dy + ((p1 - 1) * high + min(2 * h1, high)) * across * o * size
            some, tiles = w1 - w0, (p1 - p0) * (h1 - h0) * (w1 - w0)
            for r in range((p1 - p0) * (h1 - h0)):
                top = 2 * (h0 + r % (h1 - h0))
                line = (p0 + r // (h1 - h0)) * high + top
                for q in range(0, vectors, wide):
                    width, at_o = min(wide, vectors - q) * lane, o0 + q * lane
                    call(of_dy, (
                        some, dy + ((line * across + 2 * w0) * o + at_o) * size, across * o, o,
                        2 * o, d + (q * lane * tiles + r * some * width) * size,
                        4 * d_plane, d_plane, width, min(width, o0 + outputs - at_o),
                        top, high, 2 * w0, across, zeros,
                    ))  # fmt: skip
            by = kd * rows // 2  # elements that a product asks for at a term, by its tiles
            for e in range(16):
                part = v + e * v_plane * size
                for q in range(0, vectors, wide):
                    width = min(wide, vectors - q) * lane
                    into = sums + (e * sum_plane + q * lane) * size
                    begin, lds = into, s_pitch
                    if block == first:
                        begin, lds = zeros, 0
                    ask, step = part, zero
                    if strips == 1 and q == 0 and e * by < 4 * c:
                        ask, step = x_next + e * tiles * by * size, by
                    elif strips == 1 and 0 <= (e - 8) * by < 4 * o:
                        ask, step = y_next + (e - 8) * tiles * by * size, by
                    call(tile, (
                        kd * rows, width // lane, part, origin, 1, v_pitch,
                        d + (e * d_plane + q * lane * tiles) * size, origin, width, 1, tiles,
                        begin, lds, into, s_pitch, lane, 0, ask, step,
                    ))  # fmt: skip
        call(to_dweight, (
            kd * rows, sums, 4 * sum_plane, sum_plane, s_pitch,
            sums, 3 * sum_plane, sum_plane, s_pitch, vectors,
        ))  # fmt: skip
        for t in range(kd):
            for k in range(9):
                call(copy, (
                    sums + (k * sum_plane + t * rows * s_pitch) * size, s_pitch, rows, vectors,
                    outputs - s_pitch + lane,
                    dw + ((((chunk * kd + t) * 9 + k) * c + c0) * o + o0) * size, o,
                ))  # fmt: skip


def fits(weight: Ints, groups: int, stride: Ints, dilation: Ints) -> bool:
    """Return whether a convolution is one that this file serves.

    Only what the layer is decides, for a sample to have the same bits in any batch and padding.
    """
    _, *taps, c, o = weight
    together = groups == 1 and {*stride, *dilation} == {1}
    return taps == [3, 3] and together and min(c, o) >= FEWEST


def winograd(
    x: Ints, weight: Ints, y: Ints, before: Ints, turned: bool, dtype: np.dtype[Any], threads: int,
    given: bool = False,
) -> Correlation:  # fmt: skip
    """Plan the correlation of x by (2) and (3).

    Parameters
    ----------
    x, weight, y : tuple of int
        Shapes: N, D, H, W, C; KD, 3, 3, C, O, or O, C where weights are turned; N, QD, QH, QW, O.
    before : tuple of three int
        What pads x with zeros at the start of each axis.
    turned : bool
        Whether the sum goes over the last axis of weights, and taps go from the last to the first.
    dtype : dtype
    threads : int
        How many there are for large work.
    given : bool
        Whether U is given, packed beforehand.
    """
    machine = machine_of(dtype)
    size, lane = machine.size, machine.lane
    tile, copy, transpose = machine.codes
    (n, out_d, high, across, o), kd, c = y, weight[0], x[4]
    image, terms = (n * out_d, -(-high // 2), -(-across // 2)), kd * c
    length = 16 * terms  # elements of V for a tile, of U for an output
    largest = max(1, LARGE // (length * size))
    wide = min(machine.wide, -(-o // lane), max(1, largest // lane))
    if math.prod(image) * 36 * terms * o <= (SERIAL_PLANNED if given else SERIAL):
        threads = 1
    panels, equal = -(-o // (lane * wide)), -(-math.prod(image) // threads)
    near = min(NEAR // (length * size), equal)
    tiles = min(max(TILES, near), largest)
    if panels * -(-math.prod(image) // tiles) < threads:
        tiles = min(equal, largest)  # though each reads all of U
    together, lines, columns = cut(*image, tiles)
    if together > 1:  # as many blocks for each thread
        groups = -(-image[0] // (together * threads)) * threads
        together = -(-image[0] // groups)
    cuts = together, lines, columns
    blocks = count(*cuts, *image)
    panel = length * wide * lane
    # A panel for each thread, as far as they are not too large together.
    each = min(threads, SEVERAL // (panel * size))
    at_once = panels if given else min(panels, max(1, each, PACKED // (panel * size)))
    parts, cols = grid(blocks, at_once, threads)
    if -(-blocks // threads) * threads <= EVEN * blocks:
        parts, cols = threads, 1
    v_pitch = terms - c + -(-c // lane) * lane
    most = math.prod(cuts)
    v_plane, m_plane = _plane(most * v_pitch, size), _plane(most * wide * lane, size)
    m_at = 16 * v_plane
    edge_at = m_at + 16 * m_plane
    mine = edge_at + 4 * columns * wide * lane + APART
    shape = (
        parts, cols, size, lane, wide, tile, copy, of_x(dtype), to_y(dtype), to_y_relu(dtype),
        *cuts, *image, high, across, kd, c, o, mine, m_at, edge_at, v_plane, v_pitch, m_plane,
    )  # fmt: skip
    transform_parts, held = min(threads, at_once), 9 * c * wide * lane
    transforms = (
        transform_parts, size, lane, wide, copy, transpose, of_weight(dtype), kd, c, o,
        int(turned), held,
    )  # fmt: skip
    return Correlation(
        _tiles, _transform, dtype, True, Arguments(transforms), transform_parts,
        transform_parts * held if turned or o % lane else 0, panel,
        tuple((first, min(first + at_once, panels)) for first in range(0, panels, at_once)),
        (parts, cols), Arguments(shape, (out_d, *x[1:4], *before)), parts * cols * mine, (1, 1, 1),
        zeros_of(max((2 * columns + 2) * c, 8 * lane), dtype),
    )  # fmt: skip


def _plane(count: int, size: int) -> int:
    """Return how far planes of so many elements are apart, in whole lines of the caches.

    It is no power of two: of lines so far apart level 1 holds a few only.
    """
    line = LINE // size
    return (-(-count // line) | 1) * line


def pack(weight: NDArray) -> Packed:
    """Return weights, shape (KD, 3, 3, C, O), packed for inputs of any size."""
    *_, c, o = weight.shape
    one, zero = (1, 1, 1, 1), (0, 0, 0)
    plan = winograd((*one, c), weight.shape, (*one, o), zero, False, weight.dtype, 1, given=True)
    ((first, end),) = plan.spans
    panels = lasting(end * plan.panel + plan.room, weight.dtype)
    pack_panels(plan, weight, first, end, panels)
    panels.flags.writeable = False
    return Packed((), panels)


def weights(
    x: Ints, dy: Ints, weight: Ints, before: Ints, dtype: np.dtype[Any], threads: int
) -> Chunks:
    """Plan dW, with shapes as `winograd` has them for x, y and weight."""
    machine = machine_of(dtype)
    size, lane, wide = machine.size, machine.lane, machine.wide
    tile, copy, _ = machine.codes
    (n, out_d, high, across, o), kd, c = dy, weight[0], x[4]
    image = n * out_d, -(-high // 2), -(-across // 2)
    if math.prod(image) * 36 * kd * c * o <= SERIAL:
        threads = 1
    outputs = _share(o, MOST)
    rows = _share(c, STRIP // (kd * outputs))
    strips_c, strips_o = -(-c // rows), -(-o // outputs)
    tiles = max(TILES, STREAM // (16 * (kd * rows + outputs) * size))
    *_, columns = cuts = cut(*image, tiles)
    chunks = CHUNKS if strips_c * strips_o == 1 else 1
    while chunks > 1 and chunks > count(*cuts, *image) // BLOCKS:
        chunks //= 2
    parts = min(threads, chunks * strips_c * strips_o)
    most = math.prod(cuts)
    v_plane, d_plane = _plane(most * kd * rows, size), _plane(most * outputs, size)
    sum_plane = _plane(kd * rows * outputs, size)
    d_at = 16 * v_plane
    sum_at = d_at + 16 * d_plane
    mine = sum_at + 16 * sum_plane + APART
    shape = (
        parts, chunks, strips_c, strips_o, size, lane, wide, tile, copy, of_x(dtype),
        of_dy(dtype), to_dweight(dtype), *cuts, *image, high, across, kd, c, o, rows, outputs,
        mine, d_at, sum_at, v_plane, d_plane, sum_plane,
    )  # fmt: skip
    return Chunks(
        _sums, chunks, parts, Arguments(shape, (out_d, *x[1:4], *before)), parts * mine, 1,
        zeros_of(max((2 * columns + 2) * max(c, o), 8 * lane), dtype),
    )  # fmt: skip


def _share(count: int, most: int) -> int:
    """Return the size of equal shares that have about so many channels at the most.

    It is the same on all CPUs, for sums to be.
    """
    groups = -(-count // MULTIPLE)
    return -(-groups // -(-count // max(most, MULTIPLE))) * MULTIPLE
