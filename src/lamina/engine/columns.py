"""Steps of time as in recurrent.py, where threads share the columns of each step.

That is for few sequences and large weights: a step waits for the weights, and each thread reads
its own part of them alone, all gates of some units of the state. The threads wait for one another
once a step. h stands twice, for some read the one before while others write the next; and backward
a thread first takes what the step after hands on to its units, then goes through its cells.
"""

from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from . import denormals, jit, pool
from .few import few_rows
from .jit import Code, address, call, held, int64, item
from .matmul import plan_of
from .memory import empty
from .mode import flush as flush_code
from .steps import AHEAD, Kept, Pass, Steps, Weights, pack, places, product, widest, zeros_and_ones

NDArray = npt.NDArray[Any]

LEAST: Final = 200_000
"""The least elements of W_h: with fewer, threads would wait for one another longer than work."""
ALONE: Final = 32_768
"""The same for one sequence, which keeps one thread busy otherwise; half of it with several gates,
whose cells are work to share, too."""
WORTH: Final = 250_000
"""Its least multiply-adds by W_h in all: fewer are done before another thread wakes."""
SOME: Final = 4
"""The least steps for which weights are packed."""
MANY: Final = 32
"""The same for one sequence, whose steps read each weight once; half of it with several gates."""
MOST: Final = 2
"""The most sequences for each thread: with more, each is busy on its own."""


def is_better(
    hidden: int, columns: int, n: int, steps: int, threads: int, packed: bool = False
) -> bool:
    """Tell whether threads should share the columns of W_h rather than the sequences.

    `packed` tells that weights stay in panels from call to call.
    """
    if n > 1 and steps < SOME and not packed:
        return False
    size = hidden * columns
    alone = size * min(columns // hidden, 2) >= ALONE and steps * size >= WORTH
    enough = alone if n == 1 else size >= LEAST
    return threads > 1 and n <= MOST * threads and enough


@jit.kernel
def _forward(part: int, at: int) -> None:
    """Go through step t with the units of part g. Arrays come as `jit.held` gave them."""
    (
        fixed, x, bias, weight_x, weight_h, h, c, c_next, y, mask, h_before, c_before, kept, work,
        first, active, before,
    ) = jit.constants(at, 17)  # fmt: skip
    (
        parts, steps, chunk, stride, size, lane, tile, copy, origin, cell, width, width_x,
        inputs, hidden, gates, n, bias_col, mask_row, cells, keep, set_mode, flush, heights, few,
        sums, x_ahead, states, modes,
    ) = jit.constants(fixed, 28)  # fmt: skip
    work, x, bias, weight_x, weight_h, h, c, c_next, y, mask, h_before, c_before, kept = (
        jit.data(work), jit.data(x), jit.data(bias), jit.data(weight_x), jit.data(weight_h),
        jit.data(h), jit.data(c), jit.data(c_next), jit.data(y), jit.data(mask),
        jit.data(h_before), jit.data(c_before), jit.data(kept),
    )  # fmt: skip
    first, active, before = jit.data(first), jit.data(active), jit.data(before)
    sums, x_ahead, states, modes = work + sums, work + x_ahead, work + states, work + modes
    t, g = part // parts, part % parts
    rows, first_row = item(active, t), item(first, t)
    if rows == 0:
        return
    call(set_mode, (flush, 0, modes + g * 8))
    zero, one = int64(0), int64(1)  # not literals: `product` is compiled once
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
                zero, bias_col, sums + gate, columns, zero,
            )  # fmt: skip
    a = sums + offset * columns * size
    here, there = states + t % 2 * n * hidden * size, states + (t + 1) % 2 * n * hidden * size
    if t == 0:
        here = h
        if cells:
            call(copy, (c + unit, hidden, rows, unit_vectors, last, c_next + unit, hidden))
    row = first_row * hidden * size + unit
    if keep:
        call(copy, (
            here + unit, hidden, rows, unit_vectors, last, h_before + row, stride * hidden
        ))  # fmt: skip
    for i in range(gates):
        q = gates - 1 - i if t % 2 else i
        gate, weights = a + (q * hidden + u0) * size, weight_h + (q * gate_h + first_h) * size
        if few:
            call(few, (
                1, here, 0, 1, weights, columns, hidden, gate, 1, gate, 0, unit_vectors, last, 0
            ))  # fmt: skip
        else:
            product(
                rows, hidden, units, width, size, lane, tile, origin, heights, here, hidden,
                weights, zero, hidden, gate, columns, one, gate, columns, t % 2,
            )  # fmt: skip
    call(cell, (
        rows, unit_vectors, last, hidden, a + unit, columns, c_next + unit, hidden,
        y + row, stride * hidden, there + unit, hidden, mask + unit, mask_row,
        keep, item(first, t + 1) - first_row if t + 1 < steps else 0,
        c_before + row * keep, kept + (first_row * columns * size + unit) * keep,
    ))  # fmt: skip
    call(set_mode, (flush, 1, modes + g * 8))


@jit.kernel
def _backward(part: int, at: int) -> None:
    """Go back through step t with the units of part g; t = -1 hands on what step 0 gives."""
    (
        fixed, weight_h, mask, y, dy, dh, dc, c_before, kept, da, modes, first, active,
    ) = jit.constants(at, 13)  # fmt: skip
    (
        parts, steps, stride, size, lane, tile, scale, origin, cell, width, hidden, gates,
        masked, zeros, set_mode, flush, heights,
    ) = jit.constants(fixed, 17)  # fmt: skip
    weight_h, mask, y, dy, dh, dc, c_before, kept, da, modes, first, active = (
        jit.data(weight_h), jit.data(mask), jit.data(y), jit.data(dy), jit.data(dh), jit.data(dc),
        jit.data(c_before), jit.data(kept), jit.data(da), jit.data(modes), jit.data(first),
        jit.data(active),
    )  # fmt: skip
    t, g = steps - 1 - part // parts, part % parts
    call(set_mode, (flush, 0, modes + g * 8))
    zero = int64(0)  # not a literal: `product` is compiled once
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
            t % 2,
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
    zero, one = int64(0), int64(1)  # not literals: `pack` is compiled once
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
    cell: Code, steps: Steps, dtype: np.dtype[Any], parts: int, inputs: int, hidden: int,
    columns: int, bias: bool, packed: bool, cells: bool, masked: bool, keep: bool, flushing: int,
) -> Pass:  # fmt: skip
    """Return how to do what `recurrent.forward` does, on so many threads."""
    plan = _plan(
        dtype, cell, steps.n, steps.steps, parts, steps.stride, inputs, hidden, columns, bias,
        packed, cells, masked, keep, flushing,
    )  # fmt: skip

    def given(weights: Weights) -> tuple[NDArray, ...]:
        x, h, bias = weights.x, weights.h, weights.bias
        if not plan.in_place:
            x, h = (
                _known(weights, name, columns // hidden, parts, wide)
                for name, wide in (("x", plan.width_x), ("h", plan.width))
            )
        return plan.zeros if bias is None else bias, x, h

    def bind(
        given: tuple[NDArray, ...], x: Any, h: Any, c: Any, c_next: Any, s: Any, y: Any, work: Any,
        mask: Any, *before: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        return (
            plan.constants.at, x, *map(held, given), h, c, c_next, y,
            held(plan.ones) if mask is None else mask, *before, work, held(steps.first),
            held(steps.active), held(steps.before),
        )  # fmt: skip

    return Pass(_forward, parts, steps.steps, plan.work, plan.in_place, given, bind)


class _Plan(NamedTuple):
    """How a batch goes forward, whatever its arrays."""

    in_place: bool
    width: int
    width_x: int
    work: int
    zeros: NDArray
    ones: NDArray
    constants: jit.Constants


@lru_cache(maxsize=1024)
def _plan(
    dtype: np.dtype[Any], cell: Code, n: int, steps: int, parts: int, stride: int, inputs: int,
    hidden: int, columns: int, bias: bool, panels: bool, cells: bool, masked: bool, keep: bool,
    flushing: int,
) -> _Plan:  # fmt: skip
    """Choose how to go forward."""
    plan = plan_of(dtype)
    gates, chunk = columns // hidden, max(1, AHEAD // n)
    width, width_x = (widest(rows, hidden // parts, dtype) for rows in (n, chunk * n))
    # A thread's columns of several gates lie apart in each row: panels bring them together.
    in_place = n == 1 and steps < MANY // min(gates, 2) and not panels
    (sums, x_ahead, states, modes), work = places(
        plan.size, chunk * n * columns, parts * chunk * n * inputs, 2 * n * hidden,
        parts * 8 // plan.size,
    )  # fmt: skip
    _, ones = zeros_and_ones(hidden, dtype)
    constants = jit.Constants(
        parts, steps, chunk, stride, plan.size, plan.lane, *plan.codes[:2], plan.origin_at,
        cell(dtype), width, width_x, inputs, hidden, gates, n, int(bias), hidden * masked,
        int(cells), int(keep), flush_code(dtype), flushing, address(plan.heights),
        few_rows(dtype) if in_place else 0, sums, x_ahead, states, modes,
    )  # fmt: skip
    return _Plan(in_place, width, width_x, work, plan.zeros, ones, constants)


def backward(
    cell: Code, steps: Steps, parts: int, weights: Weights, dh: NDArray, dc: NDArray | None,
    mask: NDArray | None, y: NDArray, dy: NDArray, kept: Kept, da: NDArray, scale: Code,
) -> None:  # fmt: skip
    """Do what `recurrent.backward` does, on so many threads; `scale` is its `affine`."""
    hidden, columns = weights.h.shape
    width = widest(steps.n, hidden // parts, da.dtype)
    panels = _panels(weights.h, columns // hidden, parts, width, True)
    constants = _plan_back(
        da.dtype, cell, scale, width, steps.steps, parts, steps.stride, hidden, columns,
        mask is not None, denormals.flushing(),
    )  # fmt: skip
    modes = np.empty(parts, np.int64)
    pool.share(
        _backward, parts, constants.at, held(panels), held(dh if mask is None else mask), held(y),
        held(dy), held(dh), held(dh if dc is None else dc),
        *(held(y if a is None else a) for a in kept[1:]), held(da), held(modes),
        held(steps.first), held(steps.active), phases=steps.steps + 1,
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _plan_back(
    dtype: np.dtype[Any], cell: Code, scale: Code, width: int, steps: int, parts: int, stride: int,
    hidden: int, columns: int, masked: bool, flushing: int,
) -> jit.Constants:  # fmt: skip
    """Return what a batch that goes backward asks for, whatever its arrays."""
    plan = plan_of(dtype)
    zeros, _ = zeros_and_ones(hidden, dtype)
    return jit.Constants(
        parts, steps, stride, plan.size, plan.lane, plan.codes[0], scale(dtype), plan.origin_at,
        cell(dtype), width, hidden, columns // hidden, int(masked), address(zeros),
        flush_code(dtype), flushing, address(plan.heights),
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
