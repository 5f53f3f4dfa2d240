r"""Convolutions with 3 or 5 taps on an axis, by Winograd's products: 16 in the place of 36 for 3x3.

A window of 4 positions d and a kernel g of 3 have 2 results, F(2, 3), of 4 products and some sums:

    y = Aᵀ [(G g) ⊙ (Bᵀ d)]                                                     (1)

           ⎡1  0 -1  0⎤        ⎡1  0  0⎤        ⎡1  1  1  0⎤
      Bᵀ = ⎢0  1  1  0⎥    G = ⎢½  ½  ½⎥   Aᵀ = ⎣0  1 -1  1⎦
           ⎢0 -1  1  0⎥        ⎢½ -½  ½⎥
           ⎣0 -1  0  1⎦        ⎣0  0  1⎦

A kernel of 2 has them, F(2, 2), of 3 products:

           ⎡1 -1  0⎤        ⎡1  0⎤        ⎡1  1  0⎤
      Bᵀ = ⎢0  1  0⎥    G = ⎢1  1⎥   Aᵀ = ⎣0  1  1⎦
           ⎣0 -1  1⎦        ⎣0  1⎦

and one of 5 of 7: the sum of what its first 3 and its last 2 give, their matrices side by side.

On two axes the same goes down columns and along rows: 49 products in the place of 100 for 5x5. With
the channels c and o, for a *tile* of 2 x 2 results of an image,

    U[e, c, o] = (G W[:, :, c, o] Gᵀ)[e]        V[t, e, c] = (Bᵀ X̃[t, :, :, c] B)[e]          (2)
    M[t, e, o] = Σ_c V[t, e, c] U[e, c, o]      Y[t, :, :, o] = Aᵀ M[t, :, o] A                (3)

with e for the places of a transformed tile. The sum over c is a product of matrices for each e, on
the engine's tile, and takes nearly all of the time. Its order is fixed, and rounding errors are
smaller than those of the sum over taps and channels that this stands for, which grow with its
length.

dX is the same of dY, with the kernel turned round. dW is (1) read backwards:

    dU[e, c, o] = Σ_t V[t, e, c] (A dY[t] Aᵀ)[e, o]     dW[:, :, c, o] = Gᵀ dU[:, c, o] G      (4)

Taps that are d apart meet every d-th row and column alone: an image is d x d smaller ones then,
its *phases*, that go as above.

Tiles go by *blocks* that stay in level 2 from X to Y. X is read where it lies, and zeros around it;
while a block is multiplied, what the next one reads of X is asked for, and where Y will stand.

S. Winograd, "Arithmetic Complexity of Computations", 1980, chapter 4; A. Lavin and S. Gray, "Fast
Algorithms for Convolutional Neural Networks", 2015, sections 4 and 4.1.
"""

import math
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..engine import jit
from ..engine.jit import Arguments, Task, call, data, int64
from ..engine.matmul import SERIAL, SERIAL_PLANNED, grid, machine_of, pack_panel
from ..engine.memory import LEVEL_2, LINE, lasting, placed
from ..engine.patches import Matrix, patches
from ..windows import Ints
from .blocks import bounds, count, cut
from .direct import APART, EVEN, PACKED, Correlation, Packed, pack_panels, zeros_of
from .weights import BLOCKS, CHUNKS, Chunks

NDArray = npt.NDArray[Any]

AHEAD: Final = 4
"""Y, which no cache may hold, is asked for so many tiles before it is written."""


class _Axis(NamedTuple):
    """Bᵀ, G and Aᵀ of (1)."""

    b: Matrix
    g: Matrix
    a: Matrix

    def then(self, other: "_Axis") -> "_Axis":
        """Return the matrices of the taps of both, one behind the other."""
        taps = len(self.g[0])
        a = tuple((*row, *more) for row, more in zip(self.a, other.a, strict=True))
        return _Axis(_below(self.b, other.b, taps), _below(self.g, other.g, taps), a)


def _below(first: Matrix, second: Matrix, columns: int) -> Matrix:
    """Return the rows of both, those of the second so many columns further on."""
    behind = (0,) * (columns + len(second[0]) - len(first[0]))
    return (*((*row, *behind) for row in first), *((*(0,) * columns, *row) for row in second))


def _turn(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


_TWO: Final = _Axis(
    ((1, -1, 0), (0, 1, 0), (0, -1, 1)), ((1, 0), (1, 1), (0, 1)), ((1, 1, 0), (0, 1, 1))
)
_THREE: Final = _Axis(
    ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1)),
    ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    ((1, 1, 1, 0), (0, 1, -1, 1)),
)
AXES: Final = {3: _THREE, 5: _THREE.then(_TWO)}
"""By the number of taps."""


class _Transforms:
    """The code of (2) to (4) for a kernel of so many rows and columns of taps."""

    def __init__(self, rows: int, columns: int) -> None:
        h, w, name = AXES[rows], AXES[columns], f"winograd_{rows}x{columns}"
        self.row, self.places = len(w.b), len(h.b) * len(w.b)
        self.of_x = patches(f"{name}_x", h.b, w.b, padded=True)
        self.of_weight = patches(f"{name}_weight", h.g, w.g)
        self.to_y = patches(f"{name}_y", h.a, w.a, ahead=AHEAD)
        self.to_y_relu = patches(f"{name}_y_relu", h.a, w.a, relu=True, ahead=AHEAD)
        self.of_dy = patches(f"{name}_dy", _turn(h.a), _turn(w.a), padded=True)
        self.to_dweight = patches(f"{name}_dweight", _turn(h.g), _turn(w.g))


transforms_of = cache(_Transforms)

FEWEST: Final = 16
"""With fewer channels, to begin and end the sums would take more than is saved."""
FARTHEST: Final = 2
"""Of taps farther apart the phases of an image are so small that their edges take what is saved."""
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
    """Compute part g of U: panel by panel of o, (places, taps of depth and c, its columns)."""
    (
        parts, size, lane, wide, copy, transpose, of_weight, places, row, kd, kh, kw, c, outputs,
        turned, held,
    ) = shape  # fmt: skip
    weight, into, first, end, zeros = at
    one = int64(1)  # not a literal: `pack_panel` is compiled once
    vectors = (outputs + lane - 1) // lane
    taps = kh * kw
    mine = into + ((end - first) * wide * lane * places * kd * c + g * held) * size
    for p in range(first + (end - first) * g // parts, first + (end - first) * (g + 1) // parts):
        o, many = p * wide * lane, min(wide, vectors - p * wide)
        width = many * lane
        columns = min(width, outputs - o)
        panel = into + (p - first) * wide * lane * places * kd * c * size
        for t in range(kd):
            at_t = weight + t * taps * c * outputs * size
            source, step, plane = at_t + o * size, outputs, t
            if turned:  # the last tap is the first, and the sum goes over what were outputs
                source, step, plane = mine, width, kd - 1 - t
                for k in range(taps):
                    pack_panel(
                        c, columns, size, lane, copy, transpose, zeros,
                        at_t + (k * outputs + o) * c * size, one, c,
                        mine + (taps - 1 - k) * c * width * size, width,
                    )  # fmt: skip
            elif columns < width:
                source, step = mine, width
                pack_panel(
                    taps * c, columns, size, lane, copy, transpose, zeros,
                    at_t + o * size, outputs, one, mine, width,
                )  # fmt: skip
            call(of_weight, (
                c, source, kw * c * step, c * step, step, panel + plane * c * width * size,
                row * kd * c * width, kd * c * width, width, many,
            ))  # fmt: skip


@jit.kernel
def _rest(i: int, apart: int, size: int) -> int:
    """Return how many positions there are from i on, so far apart, before `size`."""
    return max(0, (size - i + apart - 1) // apart)


@jit.kernel
def _into_v(
    ends: Task, image: Task, size: int, of_x: int, kd: int, c: int, channels: int, x: int, v: int,
    v_row: int, v_plane: int, v_pitch: int, zeros: int,
) -> int:  # fmt: skip
    """Compute V of a block, of some channels; return about where x goes on behind it."""
    p0, p1, h0, h1, w0, w1 = ends
    out_d, deep, high, wide, b_d, b_h, b_w, d_d, d_h, d_w, reach = image
    nothing = int64(0)
    for r in range((p1 - p0) * (h1 - h0)):
        p, phase = (p0 + r // (h1 - h0)) // (d_h * d_w), (p0 + r // (h1 - h0)) % (d_h * d_w)
        # The first row and column of x that the first tile of the phase meets, in and before x
        row, column = phase // d_w - b_h, phase % d_w - b_w
        first_h, first_w = row % d_h, column % d_w
        top, left = row // d_h + 2 * (h0 + r % (h1 - h0)), column // d_w + 2 * w0
        many_h, many_w = _rest(first_h, d_h, high), _rest(first_w, d_w, wide)
        for t in range(kd):
            z = p % out_d + t * d_d - b_d
            line = (p // out_d * deep + z) * high + first_h + top * d_h
            call(of_x, (
                w1 - w0, x + (line * wide + first_w + left * d_w) * c * size, d_h * wide * c,
                d_w * c, 2 * d_w * c, v + (r * (w1 - w0) * v_pitch + t * channels) * size,
                v_row, v_plane, v_pitch, channels, top, many_h if 0 <= z < deep else nothing,
                left, many_w, zeros,
            ))  # fmt: skip
    p = (p1 - 1) // (d_h * d_w)
    plane = p // out_d * deep + p % out_d + (kd - 1) * d_d - b_d  # the last that was read
    there: int = x + (plane * high + min(2 * h1 * d_h + reach - b_h, high)) * wide * c * size
    return there


@jit.kernel
def _tiles(g: int, shape: Task, image: Task, at: Task, lists: NDArray) -> None:
    """Compute part g of Y: some blocks, some panels. There is no use for lists of segments."""
    (
        parts, cols, size, lane, wide, tile, copy, of_x, to_y, to_y_relu, places, row, planes,
        lines, columns, all_planes, many_h, many_w, high, across, kd, c, outputs, held, m_at,
        edge_at, v_plane, v_pitch, m_plane,
    ) = shape  # fmt: skip
    x, y, scratch, zeros, origin, _, u, first, end, start, start_col, relu = at
    x, y = data(x), data(y)
    zero, one = int64(0), int64(1)  # not literals: `pack_panel` is compiled once
    if relu:
        to_y = to_y_relu
    half = LINE // 2 // size
    d_h, d_w = image[8], image[9]
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
            (p0, p1, h0, h1, w0, w1), image, size, of_x, kd, c, c, x, v, row * v_plane, v_plane,
            v_pitch, zeros,
        )  # fmt: skip
        y_now = y + (p0 // (d_h * d_w) * high + 2 * h0 * d_h) * across * outputs * size
        asked = rows * some * v_pitch * size
        for p in range(c0, c1):
            o, many = p * wide * lane, min(wide, vectors - p * wide)
            width = many * lane
            last = min(lane, outputs - o - width + lane)
            panel = u + (p - first) * wide * lane * places * terms * size
            bias = start + o * start_col * size
            if last < lane and start_col == 1:
                pack_panel(
                    one, width - lane + last, size, lane, copy, copy, zeros,
                    bias, zero, one, edge, width,
                )  # fmt: skip
                bias = edge
            for e in range(places):
                begin, part = zeros, v + e * v_plane * size
                if e == row + 1:  # which all four results have once
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
                h, at_p = h0 + r % (h1 - h0), p0 + r // (h1 - h0)
                first_h, first_w = at_p % (d_h * d_w) // d_w, at_p % d_w
                in_y, in_row = _rest(first_h, d_h, high) - 2 * h, _rest(first_w, d_w, across)
                line = at_p // (d_h * d_w) * high + first_h + 2 * h * d_h
                into = y + ((line * across + first_w + 2 * w0 * d_w) * outputs + o) * size
                source = m + r * some * width * size
                whole = zero
                if in_y >= 2 and last == lane:
                    whole = max(zero, min(some, in_row // 2 - w0))
                    call(to_y, (
                        whole, source, row * m_plane, m_plane, width, into, d_h * across * outputs,
                        d_w * outputs, 2 * d_w * outputs, many,
                    ))  # fmt: skip
                if whole < some:  # tiles, or their last vectors, that are only in part in Y
                    call(to_y, (
                        some - whole, source + whole * width * size, row * m_plane, m_plane, width,
                        edge, 2 * columns * width, width, 2 * width, many,
                    ))  # fmt: skip
                    for q in range(min(2, in_y)):
                        call(copy, (
                            edge + q * 2 * columns * width * size, width,
                            max(zero, min(2 * some, in_row - 2 * w0) - 2 * whole), many, last,
                            into + (q * d_h * across + 2 * whole * d_w) * outputs * size,
                            d_w * outputs,
                        ))  # fmt: skip


@jit.kernel
def _sums(g: int, shape: Task, image: Task, at: Task, lists: NDArray) -> None:
    """Compute part g of dW: some strips of some chunks."""
    (
        parts, chunks, strips_c, strips_o, size, lane, wide, tile, copy, of_x, of_dy, to_dweight,
        places, row, planes, lines, columns, all_planes, many_h, many_w, high, across, kd, kh, kw,
        c, o, strip_c, strip_o, held, d_at, sum_at, v_plane, d_plane, sum_plane,
    ) = shape  # fmt: skip
    x, dy, dw, zeros, scratch, origin = at
    zero = int64(0)  # not a literal, as above
    origin += g * 2 * 8  # of this thread's lists, of which it takes one element
    lists[g, 0, 0] = 0
    d_h, d_w = image[8], image[9]
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
                ends, image, size, of_x, kd, c, rows, x + c0 * size, v, row * v_plane, v_plane,
                v_pitch, zeros,
            )  # fmt: skip
            y_next = (
                dy + ((p1 - 1) // (d_h * d_w) * high + min(2 * h1 * d_h, high)) * across * o * size
            )
            some, tiles = w1 - w0, (p1 - p0) * (h1 - h0) * (w1 - w0)
            for r in range((p1 - p0) * (h1 - h0)):
                top, at_p = 2 * (h0 + r % (h1 - h0)), p0 + r // (h1 - h0)
                first_h, first_w = at_p % (d_h * d_w) // d_w, at_p % d_w
                line = at_p // (d_h * d_w) * high + first_h + top * d_h
                at_line = dy + (line * across + first_w + 2 * w0 * d_w) * o * size
                for q in range(0, vectors, wide):
                    width, at_o = min(wide, vectors - q) * lane, o0 + q * lane
                    call(of_dy, (
                        some, at_line + at_o * size, d_h * across * o, d_w * o, 2 * d_w * o,
                        d + (q * lane * tiles + r * some * width) * size, row * d_plane, d_plane,
                        width, min(width, o0 + outputs - at_o), top, _rest(first_h, d_h, high),
                        2 * w0, _rest(first_w, d_w, across), zeros,
                    ))  # fmt: skip
            by = kd * rows // 2  # elements that a product asks for at a term, by its tiles
            for e in range(places):
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
            kd * rows, sums, row * sum_plane, sum_plane, s_pitch,
            sums, kw * sum_plane, sum_plane, s_pitch, vectors,
        ))  # fmt: skip
        for t in range(kd):
            for k in range(kh * kw):
                call(copy, (
                    sums + (k * sum_plane + t * rows * s_pitch) * size, s_pitch, rows, vectors,
                    outputs - s_pitch + lane,
                    dw + ((((chunk * kd + t) * kh * kw + k) * c + c0) * o + o0) * size, o,
                ))  # fmt: skip


def fits(weight: Ints, groups: int, stride: Ints, dilation: Ints) -> bool:
    """Return whether a convolution is one that this file serves.

    Only what the layer is decides, for a sample to have the same bits in any batch and padding.
    """
    _, *taps, c, o = weight
    near = set(stride) == {1} and max(dilation[1:]) <= FARTHEST
    return set(taps) <= set(AXES) and groups == 1 and near and min(c, o) >= FEWEST


def winograd(
    x: Ints, weight: Ints, y: Ints, before: Ints, dilation: Ints, turned: bool,
    dtype: np.dtype[Any], threads: int, given: bool = False,
) -> Correlation:  # fmt: skip
    """Plan the correlation of x by (2) and (3).

    Parameters
    ----------
    x, weight, y : tuple of int
        Shapes: N, D, H, W, C; KD, KH, KW, C, O, or O, C where weights are turned;
        N, QD, QH, QW, O.
    before, dilation : tuple of three int
        What pads x with zeros at the start of each axis, and how far apart taps are.
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
    (*_, high, across, o), (kd, kh, kw), c = y, weight[:3], x[4]
    codes, image, terms = transforms_of(kh, kw), _phases(y, dilation), kd * c
    places = codes.places
    length = places * terms  # elements of V for a tile, of U for an output
    largest = max(1, LARGE // (length * size))
    wide = min(machine.wide, -(-o // lane), max(1, largest // lane))
    if math.prod(y) * kh * kw * terms <= (SERIAL_PLANNED if given else SERIAL):
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
    m_at = places * v_plane
    edge_at = m_at + places * m_plane
    mine = edge_at + 4 * columns * wide * lane + APART
    shape = (
        parts, cols, size, lane, wide, tile, copy, codes.of_x(dtype), codes.to_y(dtype),
        codes.to_y_relu(dtype), places, codes.row, *cuts, *image, high, across, kd, c, o, mine,
        m_at, edge_at, v_plane, v_pitch, m_plane,
    )  # fmt: skip
    transform_parts, held = min(threads, at_once), kh * kw * c * wide * lane
    transforms = (
        transform_parts, size, lane, wide, copy, transpose, codes.of_weight(dtype), places,
        codes.row, kd, kh, kw, c, o, int(turned), held,
    )  # fmt: skip
    return Correlation(
        _tiles, _transform, dtype, True, Arguments(transforms), transform_parts,
        transform_parts * held if turned or o % lane else 0, panel,
        tuple((first, min(first + at_once, panels)) for first in range(0, panels, at_once)),
        (parts, cols), Arguments(shape, _described(x, y, weight, before, dilation)),
        parts * cols * mine, (1, 1, 1),
        zeros_of(max((2 * columns + kw - 1) * dilation[2] * c, 8 * lane), dtype),
    )  # fmt: skip


def _described(x: Ints, y: Ints, weight: Ints, before: Ints, dilation: Ints) -> Ints:
    """Return what `_into_v` is told of x, and how many rows of it a row of windows meets more."""
    return y[1], *x[1:4], *before, *dilation, (weight[1] - 1) * dilation[1]


def _phases(y: Ints, dilation: Ints) -> tuple[int, int, int]:
    """Return how many phases all images of y have, and the rows and columns of tiles of each."""
    (n, out_d, high, across, _), (_, d_h, d_w) = y, dilation
    return n * out_d * d_h * d_w, -(-high // (2 * d_h)), -(-across // (2 * d_w))


def _plane(count: int, size: int) -> int:
    """Return how far planes of so many elements are apart, in whole lines of the caches.

    It is no power of two: of lines so far apart level 1 holds a few only.
    """
    line = LINE // size
    return (-(-count // line) | 1) * line


def pack(weight: NDArray) -> Packed:
    """Return weights, shape (KD, KH, KW, C, O), packed for inputs of any size."""
    *_, c, o = weight.shape
    zero, *one = (0, 0, 0), *(1,) * 4
    sizes = (*one, c), weight.shape, (*one, o)
    plan = winograd(*sizes, zero, (1, 1, 1), False, weight.dtype, 1, given=True)
    ((first, end),) = plan.spans
    count = end * plan.panel
    packed = lasting(count + plan.room, weight.dtype)
    pack_panels(plan, weight, first, end, packed)
    panels = placed(packed[:count], weight.dtype) if plan.room else packed
    panels.flags.writeable = False
    return Packed((), panels)


def weights(
    x: Ints, dy: Ints, weight: Ints, before: Ints, dilation: Ints, dtype: np.dtype[Any],
    threads: int,
) -> Chunks:  # fmt: skip
    """Plan dW, with shapes as `winograd` has them for x, y and weight."""
    machine = machine_of(dtype)
    size, lane, wide = machine.size, machine.lane, machine.wide
    tile, copy, _ = machine.codes
    (*_, high, across, o), (kd, kh, kw), c = dy, weight[:3], x[4]
    codes, image = transforms_of(kh, kw), _phases(dy, dilation)
    places = codes.places
    if math.prod(dy) * math.prod(weight[:3]) * c <= SERIAL:
        threads = 1
    outputs = _share(o, MOST)
    rows = _share(c, STRIP // (kd * outputs))
    strips_c, strips_o = -(-c // rows), -(-o // outputs)
    tiles = max(TILES, STREAM // (places * (kd * rows + outputs) * size))
    *_, columns = cuts = cut(*image, tiles)
    chunks = CHUNKS if strips_c * strips_o == 1 else 1
    while chunks > 1 and chunks > count(*cuts, *image) // BLOCKS:
        chunks //= 2
    parts = min(threads, chunks * strips_c * strips_o)
    most = math.prod(cuts)
    v_plane, d_plane = _plane(most * kd * rows, size), _plane(most * outputs, size)
    sum_plane = _plane(kd * rows * outputs, size)
    d_at = places * v_plane
    sum_at = d_at + places * d_plane
    mine = sum_at + places * sum_plane + APART
    shape = (
        parts, chunks, strips_c, strips_o, size, lane, wide, tile, copy, codes.of_x(dtype),
        codes.of_dy(dtype), codes.to_dweight(dtype), places, codes.row, *cuts, *image, high,
        across, kd, kh, kw, c, o, rows, outputs, mine, d_at, sum_at, v_plane, d_plane, sum_plane,
    )  # fmt: skip
    return Chunks(
        _sums, chunks, parts, Arguments(shape, _described(x, dy, weight, before, dilation)),
        parts * mine, 1,
        zeros_of(max((2 * columns + kw - 1) * dilation[2] * max(c, o), 8 * lane), dtype),
    )  # fmt: skip


def _share(count: int, most: int) -> int:
    """Return the size of equal shares that have about so many channels at the most.

    It is the same on all CPUs, for sums to be.
    """
    groups = -(-count // MULTIPLE)
    return -(-groups // -(-count // max(most, MULTIPLE))) * MULTIPLE
