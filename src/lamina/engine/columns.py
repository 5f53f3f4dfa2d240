"""Steps of time as in recurrent.py, where threads share the columns of each step.

That is for few sequences and large weights: a step waits for the weights, and each thread reads
its own part of them alone, all gates of some units of the state. The threads wait for one another
once a step. h stands twice, for some read the one before while others write the next; and backward
a thread first takes what the step after hands on to its units, then goes through its cells.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from . import jit, pool
from .few import few_rows
from .jit import Code, address, call, held, int64, item
from .matmul import BEFORE, IN_PLACE, WITHIN, machine_of
from .memory import lasting
from .mode import flush as flush_code
from .steps import (
    AHEAD,
    Pass,
    Steps,
    Weights,
    columns_of,
    gather,
    pack,
    places,
    product,
    widest,
    zeros_and_ones,
)

NDArray = npt.NDArray[Any]

LEAST: Final = 200_000
"""The least elements of W_h: with fewer, threads would wait for one another longer than work."""
ALONE: Final = 65_536
"""The same for one sequence, which keeps one thread busy otherwise."""
WORTH: Final = 250_000
"""Its least multiply-adds by W_h in all: fewer are done before another thread wakes."""
SOME: Final = 4
"""The least steps for which weights are packed."""
MANY: Final = 32
"""The same for one sequence, whose steps read each weight once; half of it with several gates, or
where W_h is large."""
LARGE: Final = 2**20
"""The elements of such a W_h, which with W_x is more than a cache of level 3 holds."""
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
    alone = size >= ALONE and steps * size >= WORTH
    enough = alone if n == 1 else size >= LEAST
    return threads > 1 and n <= MOST * threads and enough


@jit.kernel
def _forward(part: int, at: int) -> None:
    """Go through step t with the units of part g. Arrays come as `jit.held` gave them."""
    (
        fixed, x, bias, weight_x, weight_h, h, c, c_next, y, mask, h_before, c_before, kept, work,
        first, active, before, starts,
    ) = jit.constants(at, 18)  # fmt: skip
    (
        parts, steps, chunk, stride, size, lane, tile, copy, origin, cell, width, width_x,
        inputs, hidden, gates, n, bias_col, mask_row, cells, keep, set_mode, flush, heights, few,
        way, zeros, panels_x, panels_h, sums, x_ahead, states, modes, turn, y_row, y_at,
    ) = jit.constants(fixed, 35)  # fmt: skip
    work, x, bias, weight_x, weight_h, h, c, c_next, y, mask, h_before, c_before, kept = (
        jit.data(work), jit.data(x), jit.data(bias), jit.data(weight_x), jit.data(weight_h),
        jit.data(h), jit.data(c), jit.data(c_next), jit.data(y) + y_at * size, jit.data(mask),
        jit.data(h_before), jit.data(c_before), jit.data(kept),
    )  # fmt: skip
    first, active, before, starts = (
        jit.data(first), jit.data(active), jit.data(before), jit.data(starts)
    )  # fmt: skip
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
    given_x, given_h = weight_x, weight_h
    if way == IN_PLACE:
        tall, first_x, first_h, gate_x, gate_h = zero, u0, u0, hidden, hidden
    elif way == WITHIN:
        weight_x, weight_h = work + panels_x, work + panels_h
        if steps <= chunk:
            gate_x = zero  # the panels of a gate make room for those of the next
    unit_vectors, unit = (units + lane - 1) // lane, u0 * size
    last = units - (unit_vectors - 1) * lane
    begun = t - t % chunk
    offset = item(before, t) - item(before, begun)
    if t == begun:  # x W_x + b of some steps at once
        x_vectors, mine = (inputs + lane - 1) // lane, x_ahead + g * chunk * n * inputs * size
        many = 0
        for u in range(begun, min(steps, begun + chunk)):
            gather(
                item(active, u), starts, one, x + u * turn * inputs * size, inputs, size, copy,
                x_vectors, inputs - (x_vectors - 1) * lane, mine + many * inputs * size, inputs,
            )  # fmt: skip
            many += item(active, u)
        for q in range(gates):
            gate, weights = (q * hidden + u0) * size, weight_x + (q * gate_x + first_x) * size
            if way == WITHIN and t == 0:
                pack(
                    zero, one, zero, inputs, inputs, units, width_x, size, lane, copy, copy, zeros,
                    given_x + gate, columns, one, weights,
                )  # fmt: skip
            product(
                many, inputs, units, width_x, size, lane, tile, origin, heights, mine, inputs,
                weights, columns, tall, bias + gate * bias_col, zero, bias_col, sums + gate,
                columns, zero,
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
        gate, weights = (q * hidden + u0) * size, weight_h + (q * gate_h + first_h) * size
        if way == WITHIN and t == 0:
            pack(
                zero, one, zero, hidden, hidden, units, width, size, lane, copy, copy, zeros,
                given_h + gate, columns, one, weights,
            )  # fmt: skip
        gate = a + gate
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
        there + unit, hidden, mask + unit, mask_row,
        y + t * turn * y_row * size + unit, y_row, starts, one, turn if t + 1 < steps else 0,
        keep, stride, item(first, t + 1) - first_row if t + 1 < steps else 0,
        c_before + row * keep, kept + (first_row * columns * size + unit) * keep,
    ))  # fmt: skip
    call(set_mode, (flush, 1, modes + g * 8))


@jit.kernel
def _backward(part: int, at: int) -> None:
    """Go back through step t with the units of part g; t = -1 hands on what step 0 gives."""
    (
        fixed, weight_h, mask, y, dy, dh, dc, c_before, kept, da, work, first, active, starts,
    ) = jit.constants(at, 14)  # fmt: skip
    (
        parts, steps, stride, size, lane, tile, scale, origin, cell, width, hidden, gates,
        masked, zeros, set_mode, flush, heights, copy, transpose, modes, turn, y_row,
        y_at,
    ) = jit.constants(fixed, 23)  # fmt: skip
    weight_h, mask, y, dy, dh, dc, c_before, kept, da, work, first, active = (
        jit.data(weight_h), jit.data(mask), jit.data(y) + y_at * size, jit.data(dy) + y_at * size,
        jit.data(dh), jit.data(dc), jit.data(c_before), jit.data(kept), jit.data(da),
        jit.data(work), jit.data(first), jit.data(active),
    )  # fmt: skip
    starts, modes = jit.data(starts), work + modes
    t, g = steps - 1 - part // parts, part % parts
    call(set_mode, (flush, 0, modes + g * 8))
    zero, one = int64(0), int64(1)  # not literals: `product` is compiled once
    columns, vectors = gates * hidden, (hidden + lane - 1) // lane
    u0, u1 = vectors * g // parts * lane, min(hidden, vectors * (g + 1) // parts * lane)
    units = u1 - u0
    unit_vectors, unit = (units + lane - 1) // lane, u0 * size
    last = units - (unit_vectors - 1) * lane
    panels = work + u0 * columns * size
    if t == steps - 1:
        pack(
            zero, one, zero, columns, columns, units, width, size, lane, copy, transpose, zeros,
            weight_h + u0 * columns * size, one, columns, panels,
        )  # fmt: skip
    rows = item(active, t + 1) if t + 1 < steps else zero
    if rows > 0:
        product(
            rows, columns, units, width, size, lane, tile, origin, heights,
            da + item(first, t + 1) * columns * size, stride * columns, panels, zero, columns,
            zeros, zero, zero, dh + unit, hidden, t % 2,
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
        shown = t * turn * y_row * size + unit
        call(cell, (
            rows, unit_vectors, last, hidden, dh + unit, hidden, dc + unit, hidden,
            y + shown, y_row, dy + shown, y_row, starts, one, -turn if t > 0 else 0,
            stride, item(first, t - 1) - item(first, t) if t > 0 else 0,
            c_before + row, kept + wide, da + wide,
        ))  # fmt: skip
    call(set_mode, (flush, 1, modes + g * 8))


def _panels(matrix: NDArray, gates: int, parts: int, width: int) -> NDArray:
    """Return the columns of each gate and part in panels, to keep.

    Gates take whole vectors; the first column u of a part is at element u · k of its gate.
    """
    machine, (k, columns) = machine_of(matrix.dtype), matrix.shape
    hidden = columns // gates
    vectors = -(-hidden // machine.lane)
    panels, values = lasting(k * gates * vectors * machine.lane, matrix.dtype), matrix.reshape(-1)
    for g in range(parts):
        u0, u1 = vectors * g // parts * machine.lane, vectors * (g + 1) // parts * machine.lane
        for q in range(gates):
            jit.run(
                pack, 0, 1, 0, k, k, min(hidden, u1) - u0, width, machine.size, machine.lane,
                *machine.codes[1:], machine.zeros_at, address(values[q * hidden + u0 :]),
                columns, 1, address(panels[(q * vectors * machine.lane + u0) * k :]),
            )  # fmt: skip
    panels.flags.writeable = False
    return panels


def forward(
    cell: Code, steps: Steps, dtype: np.dtype[Any], parts: int, inputs: int, hidden: int,
    columns: int, bias: bool, packed: bool, cells: bool, masked: bool, keep: bool, sides: int,
    flushing: int,
) -> Pass:  # fmt: skip
    """Return how to do what `recurrent.forward` does, on so many threads."""
    plan = _plan(
        dtype, cell, steps.n, steps.steps, parts, steps.stride, steps.way, inputs, hidden, columns,
        bias, packed, cells, masked, keep, sides, flushing,
    )  # fmt: skip

    def given(weights: Weights) -> tuple[NDArray, ...]:
        x, h, bias, _, known = weights
        if known is not None:
            gates = columns // hidden
            x = _known(known, "x", x, gates, parts, plan.width_x)
            h = _known(known, "h", h, gates, parts, plan.width)
        return x, h, plan.zeros if bias is None else bias, x

    def ready(
        given: Sequence[Any], x: Any, h: Any, c: Any, c_next: Any, s: Any, y: Any, work: Any,
        mask: Any, *before: Any,
    ) -> pool.Ready:  # fmt: skip
        weight_x, weight_h, bias, _ = given
        arguments = (
            plan.constants.at, x, bias, weight_x, weight_h, h, c, c_next, y,
            held(plan.ones) if mask is None else mask, *before, work, held(steps.first),
            held(steps.active), held(steps.before), held(steps.starts),
        )  # fmt: skip
        return pool.Ready(_forward, parts, arguments, (plan, steps), phases=steps.steps)

    return Pass(steps, plan.work, masked, given, ready)


class _Plan(NamedTuple):
    """How a batch goes forward, whatever its arrays."""

    width: int
    width_x: int
    work: int
    zeros: NDArray
    ones: NDArray
    constants: jit.Constants


@lru_cache(maxsize=1024)
def _plan(
    dtype: np.dtype[Any], cell: Code, n: int, steps: int, parts: int, stride: int, turn: int,
    inputs: int, hidden: int, columns: int, bias: bool, before: bool, cells: bool, masked: bool,
    keep: bool, sides: int, flushing: int,
) -> _Plan:  # fmt: skip
    """Choose how to go forward."""
    machine = machine_of(dtype)
    gates, chunk = columns // hidden, max(1, AHEAD // n)
    width, width_x = (widest(rows, hidden // parts, dtype) for rows in (n, chunk * n))
    # A thread's columns of several gates lie apart in each row: panels bring them together.
    way = BEFORE if before else WITHIN
    soon = gates > 1 or hidden * columns >= LARGE
    if n == 1 and steps < (MANY // 2 if soon else MANY) and not before:
        way = IN_PLACE
    padded = -(-hidden // machine.lane) * machine.lane * (way == WITHIN)
    (panels_x, panels_h, sums, x_ahead, states, modes), work = places(
        machine.size, padded * inputs * (gates if steps > chunk else 1), padded * hidden * gates,
        chunk * n * columns, parts * chunk * n * inputs, 2 * n * hidden, parts * 8 // machine.size,
    )  # fmt: skip
    zeros, ones = zeros_and_ones(hidden, dtype)
    constants = jit.Constants(
        parts, steps, chunk, stride, machine.size, machine.lane, *machine.codes[:2],
        machine.origin_at, cell(dtype), width, width_x, inputs, hidden, gates, n, int(bias),
        hidden * masked, int(cells), int(keep), flush_code(dtype), flushing,
        address(machine.heights), few_rows(dtype) if way == IN_PLACE else 0, way, zeros,
        panels_x, panels_h, sums, x_ahead, states, modes, turn, *columns_of(sides, turn, hidden),
    )  # fmt: skip
    return _Plan(width, width_x, work, machine.zeros, ones, constants)


def backward(
    cell: Code, steps: Steps, dtype: np.dtype[Any], parts: int, hidden: int, columns: int,
    masked: bool, sides: int, scale: Code, flushing: int, weight_h: Any, mask: Any, y: Any,
    dy: Any, dh: Any, dc: Any, c_before: Any, gates: Any, da: Any, work: Any,
) -> tuple[pool.Ready, int]:  # fmt: skip
    """Return what `recurrent.backward` does through time, as a call; `scale` is its `affine`.

    Beside it comes how many elements of `work` it takes.
    """
    constants, room = _plan_back(
        dtype, cell, scale, steps.n, steps.steps, parts, steps.stride, steps.way, hidden, columns,
        masked, sides, flushing,
    )  # fmt: skip
    arguments = (
        constants.at, weight_h, mask, y, dy, dh, dc, c_before, gates, da, work,
        held(steps.first), held(steps.active), held(steps.starts),
    )  # fmt: skip
    keep = constants, steps
    return pool.Ready(_backward, parts, arguments, keep, phases=steps.steps + 1), room


@lru_cache(maxsize=1024)
def _plan_back(
    dtype: np.dtype[Any], cell: Code, scale: Code, n: int, steps: int, parts: int, stride: int,
    turn: int, hidden: int, columns: int, masked: bool, sides: int, flushing: int,
) -> tuple[jit.Constants, int]:  # fmt: skip
    """Choose how to go backward: return it, and how many elements of `work` it takes."""
    machine = machine_of(dtype)
    zeros, _ = zeros_and_ones(hidden, dtype)
    padded = -(-hidden // machine.lane) * machine.lane
    (_, modes), work = places(machine.size, padded * columns, parts * 8 // machine.size)
    constants = jit.Constants(
        parts, steps, stride, machine.size, machine.lane, machine.codes[0], scale(dtype),
        machine.origin_at, cell(dtype), widest(n, hidden // parts, dtype), hidden,
        columns // hidden, int(masked), zeros, flush_code(dtype), flushing,
        address(machine.heights), *machine.codes[1:], modes, turn, *columns_of(sides, turn, hidden),
    )  # fmt: skip
    return constants, work


def _known(
    known: dict[tuple[Any, ...], NDArray], name: str, matrix: NDArray, gates: int, parts: int,
    width: int,
) -> NDArray:  # fmt: skip
    """Return the panels of a matrix, which weights that will not change keep."""
    key = name, parts, width
    if key not in known:
        known[key] = _panels(matrix, gates, parts, width)
    return known[key]
