"""Steps of time as in recurrent.py, where threads share the columns of each step.

That is for few sequences and large weights: a step waits for the weights, and each thread reads
its own part of them alone, all gates of some units of the state. The threads wait for one another
once a step. h stands twice, for some read the one before while others write the next; and backward
a thread first takes what the step after hands on to its units, then goes through its cells.
"""

from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

from . import denormals, jit, pool
from .few import few_rows
from .jit import Code, address, call, item
from .matmul import plan_of
from .memory import empty
from .mode import flush as flush_code
from .steps import AHEAD, Kept, Steps, Weights, pack, product, widest, zeros_and_ones

NDArray = npt.NDArray[Any]

LEAST: Final = 200_000
"""The least elements of W_h: with fewer, threads would wait for one another longer than work."""
SOME: Final = 4
"""The least steps for which weights are packed."""
MANY: Final = 32
"""The same for one sequence, whose steps read each weight once; half of it with several gates."""
MOST: Final = 2
"""The most sequences for each thread: with more, each is busy on its own."""


def is_better(weights: Weights, n: int, steps: int, threads: int) -> bool:
    """Tell whether threads should share the columns rather than the sequences."""
    if weights.p is not None or (n > 1 and steps < SOME and weights.panels is None):
        return False
    return threads > 1 and n <= MOST * threads and weights.h.size >= LEAST


@jit.kernel
def _forward(part: int, at: int) -> None:
    """Go through step t with the units of part g."""
    (
        parts, steps, chunk, stride, size, lane, tile, copy, origin, cell, width, width_x,
        inputs, hidden, gates, n, x, bias, bias_col, weight_x, weight_h, x_ahead,
        h, c, sums, y, mask, mask_row, keep, h_before, c_before, kept, set_mode, flush, modes,
        heights, first, active, before, few,
    ) = jit.constants(at, 40)  # fmt: skip
    t, g = part // parts, part % parts
    rows, first_row = item(active, t), item(first, t)
    if rows == 0:
        return
    call(set_mode, (flush, 0, modes + g * 8))
    zero, one = numba.int64(0), numba.int64(1)  # not literals: `product` is compiled once
    columns, vectors = gates * hidden, (hidden + lane - 1) // lane
    u0, u1 = vectors * g // parts * lane, min(hidden, vectors * (g + 1) // parts * lane)
    units, padded = u1 - u0, vectors * lane
    tall, first_x, first_h = inputs, u0 * inputs, u0 * hidden  # from panels
    gate_x, gate_h = padded * inputs, padded * hidden
    if few:  # in place
        tall, first_x, first_h, gate_x, gate_h = zero, u0, u0, hidden, hidden
    unit_vectors, unit = (units + lane - 1) // lane, u0 * size
    last = units - (unit_vectors - 1) * lane
    begun = t - t % chunk
    offset = item(before, t) - item(before, begun)
    if t == begun:  # x W_x + b of some steps at once
        x_vectors, mine = (inputs + lane - 1) // lane, x_ahead + g * chunk * n * inputs * size
        many = 0
        for u in range(begun, min(steps, begun + chunk)):
            call(copy, (
                x + item(first, u) * inputs * size, stride * inputs, item(active, u), x_vectors,
                inputs - (x_vectors - 1) * lane, mine + many * inputs * size, inputs,
            ))  # fmt: skip
            many += item(active, u)
        for q in range(gates):
            gate = (q * hidden + u0) * size
            product(
                many, inputs, units, width_x, size, lane, tile, origin, heights, mine, inputs,
                weight_x + (q * gate_x + first_x) * size, columns, tall, bias + gate * bias_col,
                zero, bias_col, sums + gate, columns,
            )  # fmt: skip
    a = sums + offset * columns * size
    here, there = h + t % 2 * n * hidden * size, h + (t + 1) % 2 * n * hidden * size
    row = first_row * hidden * size + unit
    if keep:
        call(copy, (
            here + unit, hidden, rows, unit_vectors, last, h_before + row, stride * hidden
        ))  # fmt: skip
    for q in range(gates):
        gate, weights = a + (q * hidden + u0) * size, weight_h + (q * gate_h + first_h) * size
        if few:
            call(few, (
                1, here, 0, 1, weights, columns, hidden, gate, 1, gate, 0, unit_vectors, last, 0
            ))  # fmt: skip
        else:
            product(
                rows, hidden, units, width, size, lane, tile, origin, heights, here, hidden,
                weights, zero, hidden, gate, columns, one, gate, columns,
            )  # fmt: skip
    call(cell, (
        rows, unit_vectors, last, hidden, a + unit, columns, c + unit, hidden,
        y + row, stride * hidden, there + unit, hidden, mask + unit, mask_row,
        keep, item(first, t + 1) - first_row if t + 1 < steps else 0,
        c_before + row * keep, kept + (first_row * columns * size + unit) * keep,
    ))  # fmt: skip
    call(set_mode, (flush, 1, modes + g * 8))


@jit.kernel
def _backward(part: int, at: int) -> None:
    """Go back through step t with the units of part g; t = -1 hands on what step 0 gives."""
    (
        parts, steps, stride, size, lane, tile, scale, origin, cell, width, hidden, gates,
        weight_h, masked, mask, zeros, y, dy, dh, dc, c_before, kept, da,
        set_mode, flush, modes, heights, first, active,
    ) = jit.constants(at, 29)  # fmt: skip
    t, g = steps - 1 - part // parts, part % parts
    call(set_mode, (flush, 0, modes + g * 8))
    zero = numba.int64(0)  # not a literal: `product` is compiled once
    columns, vectors = gates * hidden, (hidden + lane - 1) // lane
    u0, u1 = vectors * g // parts * lane, min(hidden, vectors * (g + 1) // parts * lane)
    units = u1 - u0
    unit_vectors, unit = (units + lane - 1) // lane, u0 * size
    last = units - (unit_vectors - 1) * lane
    rows = item(active, t + 1) if t + 1 < steps else zero
    if rows > 0:
        product(
            rows, columns, units, width, size, lane, tile, origin, heights,
            da + item(first, t + 1) * columns * size, stride * columns,
            weight_h + u0 * columns * size, zero, columns, zeros, zero, zero, dh + unit, hidden,
        )  # fmt: skip
        if masked:
            call(scale, (
                rows, unit_vectors, last, dh + unit, hidden, mask + unit, hidden,
                zeros, 0, dh + unit, hidden,
            ))  # fmt: skip
    rows = item(active, t) if t >= 0 else zero
    if rows > 0:
        row = item(first, t) * hidden * size + unit
        wide = item(first, t) * columns * size + unit
        call(cell, (
            rows, unit_vectors, last, hidden, y + row, stride * hidden, dh + unit, hidden,
            dy + row, stride * hidden, dc + unit, hidden,
            item(first, t - 1) - item(first, t) if t > 0 else 0,
            c_before + row, kept + wide, da + wide,
        ))  # fmt: skip
    call(set_mode, (flush, 1, modes + g * 8))


@jit.kernel
def _pack(g: int, at: int) -> None:
    """Copy the columns of each gate that belong to part g to their panels."""
    (
        parts, gates, gate, k, vectors, hidden, unit, row, col, width, size, lane, copy, transpose,
        source, panels,
    ) = jit.constants(at, 16)  # fmt: skip
    zero, one = numba.int64(0), numba.int64(1)  # not literals: `pack` is compiled once
    u0, u1 = vectors * g // parts * lane, min(hidden, vectors * (g + 1) // parts * lane)
    for q in range(gates):
        pack(
            zero, one, zero, k, k, u1 - u0, width, size, lane, copy, transpose,
            source + (q * gate + u0 * unit) * size, row, col,
            panels + (q * vectors * lane + u0) * k * size,
        )  # fmt: skip


def _panels(matrix: NDArray, gates: int, parts: int, width: int, transposed: bool) -> NDArray:
    """Return the columns of each gate and part, or rows of each part where transposed, in panels.

    Gates take whole vectors; the first column u of a part is at element u · k of its gate.
    """
    plan = plan_of(matrix.dtype)
    k, columns = matrix.shape[::-1] if transposed else matrix.shape
    gates = 1 if transposed else gates
    hidden = columns // gates
    vectors = -(-hidden // plan.lane)
    panels = empty(k * gates * vectors * plan.lane, matrix.dtype)
    unit, row, col = (k, 1, k) if transposed else (1, columns, 1)
    pool.share(
        _pack, parts, parts, gates, hidden, k, vectors, hidden, unit, row, col, width, plan.size,
        plan.lane, *plan.codes[1:], address(matrix), address(panels),
    )  # fmt: skip
    return panels


def forward(
    cell: Code, steps: Steps, parts: int, x: NDArray, weights: Weights, h: NDArray,
    c: NDArray | None, mask: NDArray | None, y: NDArray, kept: Kept | None,
) -> None:  # fmt: skip
    """Do what `recurrent.forward` does, on so many threads."""
    plan = plan_of(y.dtype)
    (hidden, columns), inputs, n = weights.h.shape, x.shape[1], steps.n
    gates, chunk = columns // hidden, max(1, AHEAD // n)
    width, width_x = (widest(rows, hidden // parts, y.dtype) for rows in (n, chunk * n))
    # A thread's columns of several gates lie apart in each row: panels bring them together.
    in_place = n == 1 and steps.steps < MANY // min(gates, 2) and weights.panels is None
    if in_place:
        w_x, w_h = weights.x, weights.h
    else:
        w_x, w_h = (
            _known(weights, name, gates, parts, wide)
            for name, wide in (("x", width_x), ("h", width))
        )
    modes = np.zeros(parts, np.int64)
    both = empty((2, n, hidden), y.dtype)
    both[0] = h if mask is None else h * mask
    sums = empty((chunk * n, columns), y.dtype)
    x_ahead = empty((parts, chunk * n, inputs), y.dtype)
    _, ones = zeros_and_ones(hidden, y.dtype)
    mask, mask_row = (ones, 0) if mask is None else (mask, hidden)
    bias, bias_col = (plan.zeros, 0) if weights.bias is None else (weights.bias, 1)
    before = [y if kept is None or a is None else a for a in kept or [None] * 3]
    so_far = np.cumsum(steps.active) - steps.active
    pool.share(
        _forward, parts, parts, steps.steps, chunk, steps.stride, plan.size, plan.lane,
        *plan.codes[:2], plan.origin_at, cell(y.dtype), width, width_x, inputs, hidden, gates, n,
        address(x), address(bias), bias_col, address(w_x), address(w_h), address(x_ahead),
        address(both), address(both if c is None else c), address(sums), address(y),
        address(mask), mask_row, int(kept is not None), *map(address, before),
        flush_code(y.dtype), denormals.flushing(), address(modes), address(plan.heights),
        address(steps.first), address(steps.active), address(so_far),
        few_rows(y.dtype) if in_place else 0, phases=steps.steps,
    )  # fmt: skip


def backward(
    cell: Code, steps: Steps, parts: int, weights: Weights, dh: NDArray, dc: NDArray | None,
    mask: NDArray | None, y: NDArray, dy: NDArray, kept: Kept, da: NDArray, scale: Code,
) -> None:  # fmt: skip
    """Do what `recurrent.backward` does, on so many threads; `scale` is its `affine`."""
    plan = plan_of(da.dtype)
    hidden, columns = weights.h.shape
    width = widest(steps.n, hidden // parts, da.dtype)
    panels = _panels(weights.h, columns // hidden, parts, width, True)
    modes = np.zeros(parts, np.int64)
    zeros, _ = zeros_and_ones(hidden, da.dtype)
    c_before, gates = (y if a is None else a for a in kept[1:])
    pool.share(
        _backward, parts, parts, steps.steps, steps.stride, plan.size, plan.lane, plan.codes[0],
        scale(da.dtype), plan.origin_at, cell(da.dtype), width, hidden, columns // hidden,
        address(panels), int(mask is not None), address(dh if mask is None else mask),
        address(zeros), address(y), address(dy), address(dh), address(dh if dc is None else dc),
        address(c_before), address(gates), address(da), flush_code(da.dtype),
        denormals.flushing(), address(modes), address(plan.heights), address(steps.first),
        address(steps.active), phases=steps.steps + 1,
    )  # fmt: skip


def _known(weights: Weights, name: str, gates: int, parts: int, width: int) -> NDArray:
    """Return the panels of a matrix, which weights that will not change keep."""
    key, known = (name, parts, width), weights.panels
    if known is not None and key in known:
        return known[key]
    panels = _panels(getattr(weights, name), gates, parts, width, False)
    if known is not None:
        known[key] = panels
    return panels
