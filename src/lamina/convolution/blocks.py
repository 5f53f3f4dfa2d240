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
def copy_rows(
    windows: Task, p0: int, p1: int, h0: int, h1: int, w0: int, w1: int, x: int, zeros: int,
    into: int,
) -> None:  # fmt: skip
    """Copy the rows of X̃ that a block of dY meets: the block goes from p0, h0, w0 to p1, h1, w1."""
    (
        size, lane, copy, out_d, deep, high, wide, c, kd, kh, reach, s_d, s_h, s_w, d_d, d_h,
        b_d, b_h, b_w, every, slots, pitch,
    ) = windows  # fmt: skip
    columns = (w1 - w0 - 1) * s_w + reach
    first = w0 * s_w - b_w
    low = min(max(0, -first), columns)
    high_end = max(low, min(columns, wide - first))
    rows = ((h1 - h0 - 1) * s_h + (kh - 1) * d_h) // every + 1
    for p in range(p0, p1):
        for t in range(kd):
            z = p % out_d * s_d + t * d_d - b_d
            for r in range(rows):
                y = h0 * s_h + r * every - b_h
                target = into + (((p - p0) * kd + t) * slots + r) * pitch * size
                inside = 0 <= z < deep and 0 <= y < high
                line = x + (((p // out_d * deep + z) * high + y) * wide + first) * c * size
                for part in range(3):  # before x, of x, behind it
                    i0, i1 = low, high_end
                    if part == 0:
                        i0, i1 = 0, low
                    elif part == 2:
                        i0, i1 = high_end, columns
                    if i0 == i1:
                        continue
                    source = zeros
                    if part == 1 and inside:
                        source = line + i0 * c * size
                    terms = (i1 - i0) * c
                    vectors = (terms + lane - 1) // lane
                    call(copy, (
                        source, 0, 1, vectors, terms - (vectors - 1) * lane,
                        target + i0 * c * size, 0,
                    ))  # fmt: skip
