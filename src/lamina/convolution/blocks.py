"""Blocks of positions of an image, or of several, and the rows of x that their windows meet.

A block is columns of a row, some rows, or some planes: `planes`, `lines` and `columns` at the most.
"""

from ..engine import jit
from ..engine.jit import Task, call
from ..windows import Ints


def cut(planes: int, high: int, wide: int, positions: int) -> Ints:
    """Return the planes, lines and columns of blocks of about so many positions."""
    columns = -(-wide // -(-wide // positions))
    lines = -(-high // -(-high // max(1, positions // wide)))
    return max(1, min(planes, positions // (high * wide))), lines, columns


@jit.kernel
def count(planes: int, lines: int, columns: int, all_planes: int, high: int, wide: int) -> int:
    """Return how many blocks there are."""
    rows = (all_planes + planes - 1) // planes * ((high + lines - 1) // lines)
    return rows * ((wide + columns - 1) // columns)


@jit.kernel
def bounds(
    block: int, planes: int, lines: int, columns: int, all_planes: int, high: int, wide: int
) -> tuple[int, int, int, int, int, int]:
    """Return from and to which plane, row and column a block goes; they are of equal size."""
    many_w, many_h = (wide + columns - 1) // columns, (high + lines - 1) // lines
    many_p = (all_planes + planes - 1) // planes
    i, j, k = block // many_w // many_h, block // many_w % many_h, block % many_w
    return (
        all_planes * i // many_p, all_planes * (i + 1) // many_p,
        high * j // many_h, high * (j + 1) // many_h,
        wide * k // many_w, wide * (k + 1) // many_w,
    )  # fmt: skip


@jit.kernel
def _clear(windows: Task, rows: int, columns: int, zeros: int, target: int) -> None:
    """Write zeros to so many columns of some rows."""
    lane, copy, c, pitch = windows[1], windows[2], windows[7], windows[-1]
    if rows > 0 and columns > 0:
        vectors = (columns * c + lane - 1) // lane
        last = columns * c - (vectors - 1) * lane
        call(copy, (zeros, 0, rows, vectors, last, target, pitch))


@jit.kernel
def copy_rows(
    windows: Task, p0: int, p1: int, h0: int, h1: int, w0: int, w1: int, shift: int, x: int,
    zeros: int, into: int,
) -> None:  # fmt: skip
    """Copy the rows of X̃ that a block of dY meets: the block goes from p0, h0, w0 to p1, h1, w1.

    They begin `shift` columns further on.
    """
    (
        size, lane, copy, out_d, deep, high, wide, c, kd, kh, reach, s_d, s_h, s_w, d_d, d_h,
        b_d, b_h, b_w, every, slots, pitch,
    ) = windows  # fmt: skip
    columns = (w1 - w0 - 1) * s_w + reach
    first = w0 * s_w - b_w + shift
    left = min(max(0, -first), columns)
    right = max(left, min(columns, wide - first))
    rows = ((h1 - h0 - 1) * s_h + (kh - 1) * d_h) // every + 1
    above = h0 * s_h - b_h
    top = min(max(0, (every - 1 - above) // every), rows)
    bottom = max(top, min(rows, (high - 1 - above) // every + 1))
    terms = (right - left) * c
    vectors = (terms + lane - 1) // lane
    for p in range(p0, p1):
        for t in range(kd):
            target = into + ((p - p0) * kd + t) * slots * pitch * size
            z = p % out_d * s_d + t * d_d - b_d
            if z < 0 or z >= deep:
                _clear(windows, rows, columns, zeros, target)
                continue
            inside, at_first = bottom - top, target + top * pitch * size
            _clear(windows, top, columns, zeros, target)
            _clear(windows, rows - bottom, columns, zeros, target + bottom * pitch * size)
            _clear(windows, inside, left, zeros, at_first)
            _clear(windows, inside, columns - right, zeros, at_first + right * c * size)
            if inside > 0 and terms > 0:
                y = (p // out_d * deep + z) * high + above + top * every
                call(copy, (
                    x + (y * wide + first + left) * c * size, every * wide * c, inside,
                    vectors, terms - (vectors - 1) * lane, at_first + left * c * size, pitch,
                ))  # fmt: skip
