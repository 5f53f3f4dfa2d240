"""Steps of time around the tile: what recurrent layers share, forward and backward.

A step of a batch is two products, of the input and of the state before, and a *cell*, code that
makes the next state of their sum:

    a_t = x_t W_x + h_{t-1} W_h + b,    state_t = cell(a_t, state_{t-1})                        (1)

Backward the cell comes first: it makes da_t of what reaches the state, and one product hands it on,

    dh_{t-1} = da_t W_hᵀ.                                                                       (2)

All that backward needs besides are products over all steps at once: of da and W_xᵀ, which is here,

    dx_t = da_t W_xᵀ,                                                                           (3)

and those that give the gradients of the weights (outer.py).

Threads share the ranks of the sequences (steps.py), and each goes through all steps on its own,
without waiting; or, where there are few sequences and the weights are large, the columns of a step
(columns.py). A sum is one chain over the elements of x and then of h in either case: no bit depends
on the batch, on the ranks or on the threads.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from . import columns as by_columns
from . import denormals, few, jit, pool, threads
from .jit import Address, Code, address, call, held, int64, item
from .loops import for_range
from .matmul import BEFORE, IN_PLACE, WITHIN, machine_of
from .matmul import product as matrix_product
from .memory import LINE, empty, lasting, placed, workspace
from .mode import flush as flush_code
from .outer import outer
from .pointwise import Functions
from .program import Plan, PlanError
from .steps import (
    AHEAD,
    Kept,
    Pass,
    Steps,
    Weights,
    columns_of,
    gather,
    kept_by_steps,
    pack,
    places,
    product,
    scatter,
    steps_like,
    widest,
    zeros_and_ones,
)
from .tile import lanes

NDArray = npt.NDArray[Any]
State: TypeAlias = Any
"""(h, c), or (h,)."""

SERIAL: Final = 200_000
"""Below so many multiply-adds a call stays on one core: a second one would cost more."""
FEW: Final = 4
"""With fewer rows a step, x W_x is computed for some steps at once."""
REUSED: Final = 3
"""Weights that so many rows of tiles or fewer meet are not worth a copy."""
TOGETHER: Final = 96
"""Rows of da that stay in level 2 while the panels of W_xᵀ pass."""
PLANNED: Final = 2**19
"""The most bytes of y, and that a pass works in, for a plan."""
FEWEST: Final = 4
"""The most sequences that a `stepper` takes: more fill taller tiles than it has."""
LARGE: Final = 2**22
"""Bytes of W_x and W_h from which on it leaves them to several threads, whose caches hold more."""


@jit.kernel
def _forward(part: int, at: int) -> None:
    """Pack part g of the weights, phase 0, or go through the steps of part g of the ranks.

    Arrays come as `jit.held` gave them.
    """
    (
        fixed, x, weight_x, weight_h, weight_p, bias, h, c, c_next, mask, s, y, h_before, c_before,
        gates, work, first, live, begin, starts,
    ) = jit.constants(at, 20)  # fmt: skip
    (
        parts, steps, apart, stride, size, lane, tile, copy, transpose, affine, origin, cell,
        width, width_p, width_x, inputs, hidden, outputs, columns, most, bias_col, way, stacked,
        projected, mask_row, ones, zeros, cells, keep, set_mode, flush,
        panels_x, panels_h, panels_p, xh, sums, ahead, modes, heights, turn, numbers,
        y_row, y_at,
    ) = jit.constants(fixed, 43)  # fmt: skip
    phase, g, work = part // parts, part % parts, jit.data(work)
    weight_x, weight_h, weight_p = jit.data(weight_x), jit.data(weight_h), jit.data(weight_p)
    zero, one = int64(0), int64(1)  # not literals: kernels are compiled once
    both = inputs + outputs
    tall_x = tall_h = both  # x and h side by side, their weights one above the other
    if not stacked:
        tall_x, tall_h = inputs, outputs
    if way == WITHIN and phase == 0:
        k_h = inputs if stacked else zero
        for k0, k, tall, n, wide, source, panels in (
            (zero, inputs, tall_x, columns, width_x, weight_x, panels_x),
            (k_h, outputs, tall_h, columns, width, weight_h, panels_h),
            (zero, hidden * projected, hidden, outputs, width_p, weight_p, panels_p),
        ):
            pack(
                g, parts, k0, k, tall, n, wide, size, lane, copy, transpose, zeros,
                source, n, one, work + panels,
            )  # fmt: skip
        return
    if way == IN_PLACE:
        tall_x, tall_h, tall_p = zero, zero, zero
    else:
        tall_p = hidden
    if way == WITHIN:
        weight_x, weight_h, weight_p = work + panels_x, work + panels_h, work + panels_p
    x, bias, h, c, c_next, mask, s, y, h_before, c_before, gates, first, live, begin = (
        jit.data(x), jit.data(bias), jit.data(h), jit.data(c), jit.data(c_next), jit.data(mask),
        jit.data(s), jit.data(y) + y_at * size, jit.data(h_before), jit.data(c_before),
        jit.data(gates),
        jit.data(first), jit.data(live), jit.data(begin),
    )  # fmt: skip
    starts, live = jit.data(starts), live + g * steps * 8
    modes = work + modes
    call(set_mode, (flush, 0, modes + g * 8))
    rank, own = item(begin, g), item(live, 0)
    starts = starts + rank * 8
    mine = work + sums + g * most * columns * size
    xh_mine, c_mine = work + xh + rank * both * size, c_next + rank * hidden * size
    h_mine, mask_mine = xh_mine + inputs * size, mask + rank * mask_row * size
    if mask_row == 0:
        mask_mine = ones
    vectors, x_vectors, h_vectors = (
        (hidden + lane - 1) // lane, (inputs + lane - 1) // lane, (outputs + lane - 1) // lane
    )  # fmt: skip
    last = hidden - (vectors - 1) * lane
    x_last = inputs - (x_vectors - 1) * lane
    h_last = outputs - (h_vectors - 1) * lane
    gap = apart * stride  # from row to row
    x_mine = work + ahead + g * most * inputs * size
    call(copy, (
        h + rank * outputs * size, apart * outputs, own, h_vectors, h_last, h_mine, apart * both
    ))  # fmt: skip
    if cells:
        call(copy, (
            c + rank * hidden * size, apart * hidden, own, vectors, last, c_mine, apart * hidden
        ))  # fmt: skip
    until, before, a = 0, 0, mine
    for t in range(steps):
        rows = item(live, t)
        if rows == 0:
            break
        row = item(first, t) + rank * stride
        if keep:
            into = h_before + row * outputs * size
            call(copy, (h_mine, apart * both, rows, h_vectors, h_last, into, gap * outputs))
        if stacked:  # x and h side by side, their weights one above the other
            gather(
                rows, starts, apart, x + t * turn * inputs * size, inputs, size, copy, x_vectors,
                x_last, xh_mine, apart * both,
            )  # fmt: skip
            product(
                rows, both, columns, width, size, lane, tile, origin, heights,
                xh_mine, apart * both, weight_x, columns, tall_x, bias, zero, bias_col, a, columns,
                t % 2,
            )  # fmt: skip
        else:
            a = a + before * columns * size
            if t == until:  # x W_x + b of as many steps as fill some tiles
                many, a = 0, mine
                while until < steps:
                    some = item(live, until)
                    if some == 0 or many + some > most:
                        break
                    gather(
                        some, starts, apart, x + until * turn * inputs * size, inputs, size, copy,
                        x_vectors, x_last, x_mine + many * inputs * size, inputs,
                    )  # fmt: skip
                    many += some
                    until += 1
                product(
                    many, inputs, columns, width_x, size, lane, tile, origin, heights,
                    x_mine, inputs, weight_x, columns, tall_x, bias, zero, bias_col, a, columns,
                    zero,
                )  # fmt: skip
            product(
                rows, outputs, columns, width, size, lane, tile, origin, heights,
                h_mine, apart * both, weight_h, columns, tall_h, a, columns, one, a, columns,
                t % 2,
            )  # fmt: skip
        at_cells, y_t = row * hidden * size, y + t * turn * y_row * size
        further = item(first, t + 1) - item(first, t) if t + 1 < steps else 0
        h, h_row, m, m_row = h_mine, apart * both, mask_mine, apart * mask_row
        shown, shown_row, shown_at, shown_apart = y_t, y_row, starts, apart
        if projected:  # y comes later
            h, h_row, m, m_row = s + at_cells, gap * hidden, ones, 0
            shown, shown_row, shown_at, shown_apart = a, columns, numbers, 1
        call(cell, (
            rows, vectors, last, hidden, a, columns, c_mine, apart * hidden, h, h_row, m, m_row,
            shown, shown_row, shown_at, shown_apart,
            turn if t + 1 < steps and not projected else 0, keep, gap, further,
            c_before + at_cells * keep, gates + row * columns * size * keep,
        ))  # fmt: skip
        if projected:
            product(
                rows, hidden, outputs, width_p, size, lane, tile, origin, heights,
                s + at_cells, gap * hidden, weight_p, outputs, tall_p,
                zeros, zero, zero, h_mine, apart * both, t % 2,
            )  # fmt: skip
            scatter(
                rows, starts, apart, h_mine, apart * both, size, copy, h_vectors, h_last, y_t,
                y_row,
            )  # fmt: skip
            call(affine, (
                rows, h_vectors, h_last, h_mine, apart * both, mask_mine, apart * mask_row,
                zeros, 0, h_mine, apart * both,
            ))  # fmt: skip
        before = rows
    call(set_mode, (flush, 1, modes + g * 8))


@jit.kernel
def _backward(part: int, at: int) -> None:
    """Pack part g of the weights, phase 0, or go back through the steps of part g of the ranks."""
    (
        fixed, weight_h, weight_p, mask, y, dy, dh, dc, dhs, c_before, gates, da, work, first,
        live, begin, starts,
    ) = jit.constants(at, 17)  # fmt: skip
    (
        parts, steps, apart, stride, size, lane, tile, copy, transpose, affine, origin, cell,
        width, width_p, hidden, outputs, columns, projected, masked, zeros, ones, set_mode, flush,
        panels_h, panels_p, ds, modes, heights, turned, turn, y_row, y_at,
    ) = jit.constants(fixed, 32)  # fmt: skip
    phase, g, work = part // parts, part % parts, jit.data(work)
    zero, one = int64(0), int64(1)  # not literals: kernels are compiled once
    if phase == 0:
        if turned:
            return
        for k, n, wide, source, panels in (
            (columns, outputs, width, weight_h, panels_h),
            (outputs * projected, hidden, width_p, weight_p, panels_p),
        ):
            pack(
                g, parts, zero, k, k, n, wide, size, lane, copy, transpose, zeros,
                jit.data(source), one, k, work + panels,
            )  # fmt: skip
        return
    given, weight_h, weight_p = jit.data(weight_h), work + panels_h, work + panels_p
    modes = work + modes
    mask, y, dy, dh, dc, dhs, c_before, gates, da, first, live, begin = (
        jit.data(mask), jit.data(y) + y_at * size, jit.data(dy) + y_at * size, jit.data(dh),
        jit.data(dc), jit.data(dhs), jit.data(c_before), jit.data(gates), jit.data(da),
        jit.data(first), jit.data(live), jit.data(begin),
    )  # fmt: skip
    call(set_mode, (flush, 0, modes + g * 8))
    rank, live = item(begin, g), live + g * steps * 8
    starts = jit.data(starts) + rank * 8
    dh_mine, dc_mine = dh + rank * outputs * size, dc + rank * hidden * size
    ds_mine, mask_mine = work + ds + rank * hidden * size, mask + rank * outputs * size
    vectors, h_vectors = (hidden + lane - 1) // lane, (outputs + lane - 1) // lane
    last, h_last = hidden - (vectors - 1) * lane, outputs - (h_vectors - 1) * lane
    gap = apart * stride
    for t in range(steps - 1, -1, -1):
        rows = item(live, t)
        if rows == 0:
            continue
        row = item(first, t) + rank * stride
        cells, wide, shown = row * hidden * size, row * columns * size, t * turn * y_row * size
        into, into_row, reaching, reaching_row = dh_mine, apart * outputs, dy + shown, y_row
        if projected:
            sums = dhs + row * outputs * size
            gather(
                rows, starts, apart, reaching, y_row, size, copy, h_vectors, h_last, sums,
                gap * outputs,
            )  # fmt: skip
            call(affine, (
                rows, h_vectors, h_last, dh_mine, apart * outputs, ones, 0,
                sums, gap * outputs, sums, gap * outputs,
            ))  # fmt: skip
            product(
                rows, outputs, hidden, width_p, size, lane, tile, origin, heights,
                sums, gap * outputs, weight_p, zero, outputs, zeros, zero, zero,
                ds_mine, apart * hidden, t % 2,
            )  # fmt: skip
            into, into_row, reaching, reaching_row = ds_mine, apart * hidden, zeros, 0
        call(cell, (
            rows, vectors, last, hidden, into, into_row, dc_mine, apart * hidden,
            y + shown, y_row, reaching, reaching_row, starts, apart, -turn if t > 0 else 0,
            gap, item(first, t - 1) - item(first, t) if t > 0 else 0,
            c_before + cells, gates + wide, da + wide,
        ))  # fmt: skip
        if turned:
            call(turned, (
                rows, da + wide, gap * columns, 1, given, columns, columns, zeros, 0,
                dh_mine, apart * outputs, h_vectors, h_last, 0,
            ))  # fmt: skip
        else:
            product(
                rows, columns, outputs, width, size, lane, tile, origin, heights,
                da + wide, gap * columns, weight_h, zero, columns, zeros, zero, zero,
                dh_mine, apart * outputs, t % 2,
            )  # fmt: skip
        if masked:
            call(affine, (
                rows, h_vectors, h_last, dh_mine, apart * outputs, mask_mine, apart * outputs,
                zeros, 0, dh_mine, apart * outputs,
            ))  # fmt: skip
    call(set_mode, (flush, 1, modes + g * 8))


def _packed(matrices: list[NDArray], width: int, known: dict[tuple[Any, ...], NDArray]) -> NDArray:
    """Return matrices one above the other in panels, which `known` keeps."""
    key = (width, *map(id, matrices))
    if key in known:
        return known[key]
    machine = machine_of(matrices[0].dtype)
    tall, columns = sum(map(len, matrices)), matrices[0].shape[1]
    panels = lasting(tall * -(-columns // machine.lane) * machine.lane, matrices[0].dtype)
    k0 = 0
    for matrix in matrices:
        k = len(matrix)
        jit.run(
            pack, 0, 1, k0, k, tall, columns, width, machine.size, machine.lane, *machine.codes[1:],
            machine.zeros_at, address(matrix), columns, 1, address(panels),
        )  # fmt: skip
        k0 += k
    panels.flags.writeable = False
    known[key] = panels
    return panels


def _fixed_panels(matrices: list[NDArray], wide: int) -> NDArray:
    """Return matrices one above the other in panels of equal width, but for the last."""
    machine = machine_of(matrices[0].dtype)
    lanes = wide * machine.lane
    whole = np.concatenate(matrices)
    parts = []
    for j in range(0, whole.shape[1], lanes):
        part = whole[:, j : j + lanes]
        parts.append(np.pad(part, ((0, 0), (0, -part.shape[1] % machine.lane))).ravel())
    panels = placed(np.concatenate(parts), whole.dtype)
    panels.flags.writeable = False
    return panels


def forward(
    found: Pass, weights: Weights, x: NDArray, h: NDArray, c: NDArray | None,
    c_next: NDArray | None, mask: NDArray | None, s: NDArray | None, y: NDArray,
    kept: Kept | None,
) -> None:  # fmt: skip
    """Go through the steps of a batch, by equation (1): there is a row, and an input, or more.

    Parameters
    ----------
    found : Pass
        As `choose` found it, for such arrays.
    weights : Weights
    x : array, shape (N, T, I)
    h, c : array, shapes (N, P), (N, H), by rank
        The state before the first step.
    c_next : array, shape (N, H), by rank
        Becomes c after the last step, where there is a step; it may be c.
    mask : array, shape (N, P), by rank, optional
        m, by which h is multiplied before W_h.
    s : array, shape (rows, H), optional
        What the cell shows: with a projection.
    y : array, shape (N, T, P), or (N, T, 2 P)
        h; of two directions those in reverse are the last P columns.
    kept : Kept, optional
    """
    start = h if mask is None else h * mask
    given = c, c_next, s, y, workspace(found.work, y.dtype), mask, *(kept or (None,) * 3)
    found.run(*found.given(weights), x, start, *[y if a is None else a for a in given])


def planned(
    cell: Code, cells: bool, weights: Weights, plan: Plan, x: int, reverse: bool = False
) -> int:
    """Plan y of the array of that number, from a state of 0; return the number of y.

    `cells` tells whether the state has c. There is no projection.

    Raises
    ------
    PlanError
        It is not worth a plan: the memory of large batches is better shared by all calls.
    """
    n, T, _ = plan.shapes[x]
    hidden, size = len(weights.h), plan.dtype.itemsize
    steps = steps_like(n, T, reverse)
    if n * T * hidden * size > PLANNED:
        raise PlanError("a batch for which a plan does not pay")
    found = choose(cell, steps, weights, cells, False, False, 1)
    (at, c_at), room = places(size, found.work, n * hidden)
    if room * size > PLANNED:
        raise PlanError("steps for which a plan does not pay")
    zeros, _ = zeros_and_ones(n * hidden, plan.dtype)
    start, given = zeros[: n * hidden].reshape(n, hidden), found.given(weights)

    def run(x: NDArray, y: NDArray) -> None:
        c, c_next = (start, np.empty_like(start)) if cells else (None, None)
        forward(found, weights, x, start, c, c_next, None, None, y, None)

    def ready(x: int, y: int, scratch: NDArray) -> pool.Ready:
        work, c = scratch[at:].view(plan.dtype), scratch[c_at:].view(plan.dtype)
        call = found.ready(
            [*map(held, given)], x, held(start), held(start), held(c), y, y, held(work), None,
            y, y, y,
        )  # fmt: skip
        return call._replace(keep=(call.keep, given, start, work, c))

    return plan.add((n, T, hidden), run, x, scratch=room * size, ready=ready)


def choose(
    cell: Code, steps: Steps, weights: Weights, cells: bool, masked: bool, keep: bool, sides: int
) -> Pass:
    """Choose how a batch goes forward, on as many threads as there are here and now.

    Parameters
    ----------
    cell : Code
        Takes rows, vectors, last, H, a, c, h, a mask and s, each with the stride of its rows;
        those of s lie at places that come next, with how many of these go on from row to row, and
        how many rows of s ahead the next step is. Then come keep, how many rows of c_before and
        gates go on from row to row, how many ahead the next step is, and these. It replaces c,
        writes s and m ⊙ s to h, and where `keep` is 1 c_before and gates.
    steps : Steps
    weights : Weights
    cells, masked, keep : bool
        Whether there are c, a mask, and what backward needs.
    sides : int
        The directions that share y.
    """
    return _chosen(
        steps, cell, weights.x.dtype, len(weights.x), *weights.h.shape,
        None if weights.p is None else len(weights.p), weights.bias is not None,
        weights.panels is not None, cells, masked, keep, sides, threads.count(),
        denormals.flushing(),
    )  # fmt: skip


@kept_by_steps
def _chosen(
    steps: Steps, cell: Code, dtype: np.dtype[Any], inputs: int, outputs: int, columns: int,
    inner: int | None, bias: bool, before: bool, cells: bool, masked: bool, keep: bool, sides: int,
    count: int, flushing: int,
) -> Pass:  # fmt: skip
    """Choose for weights of this kind; with a projection there are so many `inner` units."""
    projected, hidden = inner is not None, inner or outputs
    if not projected and by_columns.is_better(
        outputs, columns, steps.n, steps.steps, count, before
    ):
        return by_columns.forward(
            cell, steps, dtype, count, inputs, outputs, columns, bias, before, cells, masked, keep,
            sides, flushing,
        )  # fmt: skip
    work = steps.rows * (inputs + outputs) * columns
    begin, live, apart = steps.shares(min(count, steps.n) if work > SERIAL else 1)
    plan = _plan(
        dtype, cell, steps.n, steps.steps, len(begin), -(-steps.most // len(begin)), apart,
        steps.stride, steps.way, inputs, hidden, outputs, columns, bias, projected, before, cells,
        masked, keep, sides, flushing,
    )  # fmt: skip

    def given(weights: Weights) -> tuple[NDArray, ...]:
        x, h, bias, p, panels = weights
        bias, p = plan.zeros if bias is None else bias, x if p is None else p
        if panels is None:
            return x, h, bias, p
        if plan.stacked:
            x = h = _packed([x, h], plan.width, panels)
        else:
            x, h = _packed([x], plan.width_x, panels), _packed([h], plan.width, panels)
        return x, h, bias, _packed([p], plan.width_p, panels) if projected else p

    def ready(
        given: Sequence[Any], x: Any, h: Any, c: Any, c_next: Any, s: Any, y: Any, work: Any,
        mask: Any, *before: Any,
    ) -> pool.Ready:  # fmt: skip
        weight_x, weight_h, bias, weight_p = given
        arguments = (
            plan.constants.at, x, weight_x, weight_h, weight_p, bias, h, c, c_next,
            y if mask is None else mask, s, y, *before, work, held(steps.first), held(live),
            held(begin), held(steps.starts),
        )  # fmt: skip
        keep, phases = (plan, steps, live, begin), 2 if plan.way == WITHIN else 1
        return pool.Ready(_forward, len(begin), arguments, keep, phases=phases)

    return Pass(steps, plan.work, masked, given, ready)


class _Plan(NamedTuple):
    """How a batch goes forward, whatever its arrays."""

    way: int
    stacked: bool
    width: int
    width_x: int
    width_p: int
    work: int
    zeros: NDArray
    constants: jit.Constants


@lru_cache(maxsize=1024)
def _plan(
    dtype: np.dtype[Any], cell: Code, n: int, steps: int, parts: int, rows: int, apart: int,
    stride: int, turn: int, inputs: int, hidden: int, outputs: int, columns: int,
    bias: bool, projected: bool, before: bool, cells: bool, masked: bool, keep: bool, sides: int,
    flushing: int,
) -> _Plan:  # fmt: skip
    """Choose how to go forward; a part has so many `rows` at most."""
    machine = machine_of(dtype)
    width, width_p = widest(rows, columns, dtype), widest(rows, outputs, dtype)
    way = WITHIN if -(-rows // int(machine.heights[width])) * steps > REUSED else IN_PLACE
    if before:
        way = BEFORE
    stacked = way != IN_PLACE and rows >= FEW
    most = rows if stacked else max(AHEAD, rows)
    width_x = width if stacked else widest(most, columns, dtype)
    zeros, ones = zeros_and_ones(max(hidden, outputs), dtype)
    padded, padded_p = (-(-k // machine.lane) * machine.lane for k in (columns, outputs))
    within = way == WITHIN
    (panels_x, panels_h, panels_p, xh, sums, ahead, modes), work = places(
        machine.size, within * padded * (inputs + stacked * outputs),
        within * padded * outputs * (not stacked), within * projected * padded_p * hidden,
        n * (inputs + outputs), parts * most * columns, parts * most * inputs * (not stacked),
        parts * 8 // machine.size,
    )  # fmt: skip
    constants = jit.Constants(
        parts, steps, apart, stride, machine.size, machine.lane, *machine.codes, affine(dtype),
        machine.origin_at, cell(dtype), width, width_p, width_x, inputs, hidden, outputs, columns,
        most, int(bias), way, int(stacked), int(projected), outputs * masked, ones,
        zeros, int(cells), int(keep), flush_code(dtype), flushing,
        panels_x, panels_x if stacked else panels_h, panels_p, xh, sums, ahead, modes,
        address(machine.heights), turn, np.arange(n if projected else 0),
        *columns_of(sides, turn, outputs),
    )  # fmt: skip
    return _Plan(way, stacked, width, width_x, width_p, work, machine.zeros, constants)


def backward(
    cell: Code, steps: Steps, x: NDArray, weights: Weights, dh: NDArray, dc: NDArray | None,
    mask: NDArray | None, s: NDArray | None, y: NDArray, dy: NDArray, kept: Kept, of_x: bool,
) -> tuple[NDArray | None, Weights, NDArray]:  # fmt: skip
    """Go back through the steps of a batch, by equation (2).

    Parameters
    ----------
    cell : Code
        Takes rows, vectors, last, H, dh, dc, y and dy, each with the stride of its rows; those of y
        and dy lie at places that come next, with how many of these go on from row to row, and how
        many rows ahead the step before is. Then come how many rows of c_before, gates and da go on
        from row to row, how many ahead the step before is, and these. It writes da and replaces dc.
    steps : Steps
    x : array, shape (N, T, I)
    weights : Weights
    dh, dc : array, shapes (N, P), (N, H), by rank
        The gradient of the state after the last step; they become that of the state before the
        first.
    mask : array, shape (N, P), by rank, optional
    s : array, shape (rows, H), optional
        What the cell showed: with a projection.
    y, dy : array, shape (N, T, P), or (N, T, 2 P)
    kept : Kept
    of_x : bool
        Whether dx is wanted.

    Returns
    -------
    dx : array, shape (N, T, I), or None
    grads : Weights
        The gradients of the weights.
    da : array, shape (rows, G H)
        The gradient of the sums.
    """
    (inputs, columns), outputs, dtype = weights.x.shape, len(weights.h), dy.dtype
    inner = None if weights.p is None else len(weights.p)
    da = empty((steps.rows, columns), dtype)
    dx = steps.padded(inputs, dtype) if of_x else None
    all_rows = empty((inputs + outputs + 1, columns), dtype)
    dhs, dweight_p = dy, None
    if inner is not None:
        dhs, dweight_p = empty((steps.rows, outputs), dtype), empty((inner, outputs), dtype)
    dbias = all_rows[-1]
    grads = Weights(
        all_rows[:inputs], all_rows[inputs:-1], None if weights.bias is None else dbias, dweight_p
    )
    if not steps.rows:
        for g in grads[:4]:
            if g is not None:
                g[...] = 0
        return dx, grads, da
    run, room = _back(
        steps, cell, dtype, inputs, outputs, columns, inner, mask is not None, of_x,
        y.shape[-1] // outputs, threads.count(), denormals.flushing(),
    )  # fmt: skip
    given = weights.p, mask, dc, kept.c, kept.gates, s, dx, dweight_p
    run(
        *(dy if a is None else a for a in given), weights.x, weights.h, x, kept.h, y, dy, dh, dhs,
        da, all_rows, grads.x, grads.h, dbias, workspace(room, dtype),
    )  # fmt: skip
    return dx, grads, da


@kept_by_steps
def _back(
    steps: Steps, cell: Code, dtype: np.dtype[Any], inputs: int, outputs: int, columns: int,
    inner: int | None, masked: bool, of_x: bool, sides: int, count: int, flushing: int,
) -> tuple[pool.Run, int]:  # fmt: skip
    """Return how a batch goes backward, a function of its arrays, and the elements it works in."""
    (
        weight_p, mask, dc, c_before, gates, s, dx, dweight_p, weight_x, weight_h, x, h, y, dy, dh,
        dhs, da, all_rows, dweight_x, dweight_h, dbias, work,
    ) = map(pool.late, range(22))  # fmt: skip
    rows, hidden = steps.rows, inner or outputs
    if inner is None and by_columns.is_better(outputs, columns, steps.n, steps.steps, count):
        call, room = by_columns.backward(
            cell, steps, dtype, count, outputs, columns, masked, sides, affine, flushing, weight_h,
            mask, y, dy, dh, dc, c_before, gates, da, work,
        )  # fmt: skip
    else:
        parts = min(count, steps.n) if rows * outputs * columns > SERIAL else 1
        begin, live, apart = steps.shares(parts)
        constants, room = _plan_back(
            dtype, cell, steps.n, steps.steps, len(begin), -(-steps.most // len(begin)), apart,
            steps.stride, steps.way, hidden, outputs, columns, inner is not None, masked, sides,
            flushing,
        )  # fmt: skip
        arguments = (
            constants.at, weight_h, weight_p, mask, y, dy, dh, dc, dhs, c_before, gates, da,
            work, held(steps.first), held(live), held(begin), held(steps.starts),
        )  # fmt: skip
        keep = constants, steps, live, begin
        call = pool.Ready(_backward, len(begin), arguments, keep, phases=2)
    products = [
        outer(
            dtype, rows, inputs, outputs, columns, x, h, da, all_rows, dweight_x, dweight_h, dbias,
            work, steps.where,
        )
    ]  # fmt: skip
    if of_x:
        products.append(
            _inputs_of(dtype, rows, inputs, columns, count, weight_x, da, dx, work, steps.where)
        )
    if inner is not None:
        of_p = matrix_product(dtype, inner, outputs, rows, 1, inner, outputs, 1, count)
        products.append(([of_p.ready(s, dhs, dweight_p, work)], of_p.panels))
    calls = [call, *(one for some, _ in products for one in some)]
    return steps.bind(*calls), max(room, *(more for _, more in products))


@lru_cache(maxsize=1024)
def _plan_back(
    dtype: np.dtype[Any], cell: Code, n: int, steps: int, parts: int, rows: int, apart: int,
    stride: int, turn: int, hidden: int, outputs: int, columns: int, projected: bool, masked: bool,
    sides: int, flushing: int,
) -> tuple[jit.Constants, int]:  # fmt: skip
    """Choose how to go backward; a part has so many `rows` at most.

    Beside it comes how many elements of `work` it takes.
    """
    machine = machine_of(dtype)
    width, width_p = widest(rows, outputs, dtype), widest(rows, hidden, dtype)
    # Rows so few, and steps, are better met by W_h where it is, turned in registers.
    in_place = rows <= few.MOST and steps <= REUSED and not projected
    zeros, ones = zeros_and_ones(max(hidden, outputs), dtype)
    padded, padded_p = (-(-k // machine.lane) * machine.lane for k in (outputs, hidden))
    (panels_h, panels_p, ds, modes), work = places(
        machine.size, padded * columns * (not in_place), padded_p * outputs * projected,
        n * hidden * projected, parts * 8 // machine.size,
    )  # fmt: skip
    constants = jit.Constants(
        parts, steps, apart, stride, machine.size, machine.lane, *machine.codes, affine(dtype),
        machine.origin_at, cell(dtype), width, width_p, hidden, outputs, columns, int(projected),
        int(masked), zeros, ones, flush_code(dtype), flushing,
        panels_h, panels_p, ds, modes, address(machine.heights),
        few.few_turned(dtype) if in_place else 0, turn, *columns_of(sides, turn, outputs),
    )  # fmt: skip
    return constants, work


@jit.kernel
def _inputs(part: int, at: int) -> None:
    """Pack part g of the weights, phase 0, or compute part g of the rows of dx.

    Rows of da that lie a power of two apart share few sets of a level-1 cache: their copies do not.
    Arrays come as `jit.held` gave them.
    """
    fixed, rows, weight_x, da, dx, where, work = jit.constants(at, 7)
    (
        parts, columns, inputs, size, lane, width, tile, copy, transpose, origin, heights,
        zeros, together, pitch, strips, found,
    ) = jit.constants(fixed, 16)  # fmt: skip
    weight_x, da, dx, panels = jit.data(weight_x), jit.data(da), jit.data(dx), jit.data(work)
    where = jit.data(where)
    phase, g = part // parts, part % parts
    zero, one = int64(0), int64(1)  # not literals: kernels are compiled once
    if phase == 0:
        pack(
            g, parts, zero, columns, columns, inputs, width, size, lane, copy, transpose, zeros,
            weight_x, one, columns, panels,
        )  # fmt: skip
        return
    end, strip = rows * (g + 1) // parts, panels + strips + g * together * pitch * size
    vectors = (columns + lane - 1) // lane
    last = columns - (vectors - 1) * lane
    x_vectors = (inputs + lane - 1) // lane
    x_last = inputs - (x_vectors - 1) * lane
    for row in range(rows * g // parts, end, together):
        some = min(together, end - row)
        call(copy, (da + row * columns * size, columns, some, vectors, last, strip, pitch))
        into = dx + row * inputs * size
        if found:
            into = panels + found + g * together * inputs * size
        product(
            some, columns, inputs, width, size, lane, tile, origin, heights, strip, pitch,
            panels, zero, columns, zeros, zero, zero, into, inputs, zero,
        )  # fmt: skip
        if found:
            scatter(
                some, where + row * 8, 1, into, inputs, size, copy, x_vectors, x_last, dx, inputs
            )


def _inputs_of(
    dtype: np.dtype[Any], rows: int, inputs: int, columns: int, count: int, weight_x: Any, da: Any,
    dx: Any, work: Any, where: NDArray | None,
) -> tuple[list[pool.Ready], int]:  # fmt: skip
    """Return (3) for all rows of da, as calls, and how many elements of `work` they take.

    Where the rows of dx lie apart, `where` tells it.
    """
    if rows <= TOGETHER and where is None:  # to copy W_x would take longer than to turn da
        how = matrix_product(dtype, rows, inputs, columns, columns, 1, 1, columns, count)
        return [how.ready(da, weight_x, dx, work)], how.panels
    parts = count if rows * inputs * columns > SERIAL else 1
    together = min(TOGETHER, -(-rows // parts))
    fixed, room = _plan_inputs(dtype, inputs, columns, parts, together, where is not None)
    arguments = fixed.at, rows, weight_x, da, dx, dx if where is None else held(where), work
    return [pool.Ready(_inputs, parts, arguments, (fixed, where), phases=2)], room


@lru_cache(maxsize=256)
def _plan_inputs(
    dtype: np.dtype[Any], inputs: int, columns: int, parts: int, together: int, apart: bool
) -> tuple[jit.Constants, int]:
    """Return what many rows ask for, and how many elements of `work` they take."""
    machine, line = machine_of(dtype), LINE // dtype.itemsize
    pitch = (-(-columns // line) | 1) * line  # an odd number of lines, for no two to share a set
    (_, strips, found), room = places(
        machine.size, -(-inputs // machine.lane) * machine.lane * columns, parts * together * pitch,
        parts * together * inputs * apart,
    )  # fmt: skip
    return jit.Constants(
        parts, columns, inputs, machine.size, machine.lane, widest(together, inputs, dtype),
        *machine.codes, machine.origin_at, machine.heights, machine.zeros, together, pitch,
        strips, found * apart,
    ), room  # fmt: skip


@jit.kernel
def _step(
    n: int, fixed: Any, flush: int, x: Any, h: Any, c: Any, work: Any, h_next: Any, c_next: Any,
    y: Any,
) -> None:  # fmt: skip
    """Go through one step of a few sequences, from what `jit.held` gave for the arrays.

    Where there is no c, h stands for it.
    """
    x, h, c, work, h_next, c_next, y = (
        jit.data(x), jit.data(h), jit.data(c), jit.data(work), jit.data(h_next), jit.data(c_next),
        jit.data(y),
    )  # fmt: skip
    (
        size, lane, wide, height, last_wide, last_height, tile, copy, origin, cell,
        inputs, hidden, columns, panels, bias, bias_col, ones, numbers, set_mode, mode,
    ) = jit.constants(fixed, 20)  # fmt: skip
    call(set_mode, (flush, 0, work + mode))
    both = inputs + hidden
    vectors, x_vectors = (hidden + lane - 1) // lane, (inputs + lane - 1) // lane
    last = hidden - (vectors - 1) * lane
    sums = work + n * both * size
    h_at = work + inputs * size
    call(copy, (
        x, inputs, n, x_vectors, inputs - (x_vectors - 1) * lane, work, both
    ))  # fmt: skip
    call(copy, (h, hidden, n, vectors, last, h_at, both))
    call(copy, (c, hidden, n, vectors, last, c_next, hidden))
    all_vectors = (columns + lane - 1) // lane
    count = (all_vectors + wide - 1) // wide
    for p in range(count):
        j = p * wide * lane
        w, tall = (wide, height) if p + 1 < count else (last_wide, last_height)
        following = panels
        if p + 1 < count:
            following = panels + (j + w * lane) * both * size
        m = 0
        while m < n:
            rows = min(tall, n - m)
            call(tile, (
                rows, w, work + m * both * size, origin, both, 1, panels + j * both * size, origin,
                w * lane, 1, both, bias + j * bias_col * size, 0,
                sums + (m * columns + j) * size, columns,
                min(lane, columns - j - (w - 1) * lane), 0, following, w * lane,
            ))  # fmt: skip
            m += rows
    call(cell, (
        n, vectors, last, hidden, sums, columns, c_next, hidden, h_next, hidden, ones, 0,
        y, hidden, numbers, 1, 0, 0, 0, 0, h_next, h_next,
    ))  # fmt: skip
    call(set_mode, (flush, 1, work + mode))


def stepper(cell: Code, weights: Weights) -> Callable[[NDArray, State], tuple[NDArray, State]]:
    """Return one layer as a function for single steps of at most `FEWEST` sequences.

    It takes x, shape (n, I), and the state, all C-contiguous; it returns y, a copy of h which is
    the caller's to write to, and the next state. The weights are packed here, and what follows
    from them is looked up. Any number of threads may call it at once.
    """
    dtype, machine = weights.x.dtype, machine_of(weights.x.dtype)
    inputs, (hidden, columns) = len(weights.x), weights.h.shape
    vectors = -(-columns // machine.lane)
    wide = min(8, vectors)
    last = vectors - (-(-vectors // wide) - 1) * wide
    bias, bias_col = (machine.zeros, 0) if weights.bias is None else (weights.bias, 1)
    mode = FEWEST * (inputs + hidden + columns)  # where that of the thread is, to be restored
    fixed = jit.Constants(
        machine.size, machine.lane, wide, machine.heights[wide], last, machine.heights[last],
        *machine.codes[:2], machine.origin_at, cell(dtype), inputs, hidden, columns,
        _fixed_panels([weights.x, weights.h], wide), bias, bias_col, np.ones(hidden, dtype),
        np.arange(FEWEST), flush_code(dtype), mode * machine.size,
    )  # fmt: skip
    run = _step if jit.DISABLED else _step.entry(10).run
    new, room = np.empty, mode + 8 // machine.size
    waiting: list[NDArray] = []  # what calls that are over worked in

    def step(x: NDArray, state: State) -> tuple[NDArray, State]:
        n = len(x)
        shape = n, hidden
        y, h = new(shape, dtype), new(shape, dtype)
        after = (h,) if len(state) == 1 else (h, new(shape, dtype))
        try:
            work = waiting.pop()
        except IndexError:
            work = new(room, dtype)
        run(
            n, fixed.at, denormals.flushing(), held(x), held(state[0]), held(state[-1]),
            held(work), held(h), held(after[-1]), held(y),
        )  # fmt: skip
        waiting.append(work)
        return y, after

    return step


def _emit_affine(dtype: Any) -> str:
    """Emit target[m, j] = source[m, j] · factor[m, j] + term[m, j]."""
    e = Functions(dtype)
    b, arguments = e.function("affine", "iii" + "pi" * 4)
    rows, vectors, last, *matrices = arguments
    with for_range(b, rows) as loop:
        lines = [
            e.at(b, base, b.mul(loop.index, row))
            for base, row in zip(matrices[::2], matrices[1::2], strict=True)
        ]

        def one(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
            *operands, target = (e.at(b, line, element) for line in lines)
            values = [e.load(b, place, mask) for place in operands]
            e.store(b, e.multiply_add(b, *values), target, mask)

        e.sweep(b, vectors, last, one)
    b.ret_void()
    return str(e.module)


def _affine_twin(
    rows: int, vectors: int, last: int, source: Address, lds: int, factor: Address, ldf: int,
    term: Address, ldt: int, target: Address, ld: int,
) -> None:  # fmt: skip
    count = (vectors - 1) * lanes(source.dtype) + last
    for m in range(rows):
        product = source.row(m * lds, count) * factor.row(m * ldf, count)
        target.row(m * ld, count)[...] = product + term.row(m * ldt, count)


affine: Final = Code("affine", _emit_affine, _affine_twin)
"""`affine(dtype)`: code that scales by a mask, or adds what reaches a state from two sides."""
