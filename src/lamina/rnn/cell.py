"""The equations of formula.py that go element by element, as LLVM vector IR."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from ..arrays import sigmoid
from ..engine.jit import Address, Code, item
from ..engine.loops import for_range
from ..engine.pointwise import Functions
from ..engine.tile import lanes
from .formula import SLOPES

NDArray = npt.NDArray[Any]


def _activate(e: Functions, activation: str, b: ir.IRBuilder, a: ir.Value) -> ir.Value:
    """Return φ(a)."""
    if activation == "relu":
        zero = e.number(0)
        return b.select(b.fcmp_ordered("<=", a, zero), zero, a)
    return {"tanh": e.tanh, "sigmoid": e.sigmoid}[activation](b, a)


def _slope(e: Functions, activation: str, b: ir.IRBuilder, h: ir.Value) -> ir.Value:
    """Return φ'(a) as a function of h = φ(a)."""
    one, zero = e.number(1), e.number(0)
    if activation == "relu":
        return b.select(b.fcmp_ordered(">", h, zero), one, zero)
    if activation == "tanh":
        return b.fsub(one, b.fmul(h, h))
    return b.fmul(h, b.fsub(one, h))


def _emit_forward(activation: str, dtype: Any) -> str:
    """Emit equation (2); the arguments are those of `_forward_twin`."""
    e = Functions(dtype)
    b, arguments = e.function(f"{activation}_forward", "iiii" + "pi" * 6 + "iiiipp")
    rows, vectors, last, _, a, lda, _, _, h, h_row, m, m_row, s, s_row, starts, apart, way, *_ = (
        arguments
    )
    next_row = b.mul(way, s_row)
    with for_range(b, rows) as loop:
        a_line, h_line, m_line = (
            e.at(b, base, b.mul(loop.index, row))
            for base, row in ((a, lda), (h, h_row), (m, m_row))
        )
        start = e.whole_number(b, starts, b.mul(loop.index, apart))
        s_line = e.at(b, s, b.mul(start, s_row))

        def cell(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
            found = _activate(e, activation, b, e.load(b, e.at(b, a_line, element), mask))
            place = e.at(b, s_line, element)
            e.store(b, found, place, mask)
            e.prefetch(b, e.at(b, place, next_row), write=True)
            scaled = b.fmul(found, e.load(b, e.at(b, m_line, element), mask))
            e.store(b, scaled, e.at(b, h_line, element), mask)

        e.sweep(b, vectors, last, cell, together=4)
    b.ret_void()
    return str(e.module)


def _forward_twin(
    activate: Callable[[NDArray], NDArray],
    rows: int, vectors: int, last: int, hidden: int, a: Address, lda: int, c: Address, c_row: int,
    h: Address, h_row: int, m: Address, m_row: int,
    s: Address, s_row: int, starts: Address, apart: int, way: int,
    keep: int, gap: int, ahead: int, c_before: Address, gates: Address,
) -> None:  # fmt: skip
    units = (vectors - 1) * lanes(s.dtype) + last
    for r in range(rows):
        found = activate(a.row(r * lda, units))
        s.row(item(starts, r * apart) * s_row, units)[...] = found
        h.row(r * h_row, units)[...] = found * m.row(r * m_row, units)


def _emit_backward(activation: str, dtype: Any) -> str:
    """Emit equations (5) and (6); the arguments are those of `_backward_twin`."""
    e = Functions(dtype)
    b, arguments = e.function(f"{activation}_backward", "iiii" + "pi" * 5 + "iiippp")
    (rows, vectors, last, hidden, dh, dh_row, _, _, y, y_row, dy, dy_row, starts, apart, way,
     gap, ahead, _, _, da) = arguments  # fmt: skip
    next_y, next_dy, next_da = b.mul(way, y_row), b.mul(way, dy_row), b.mul(ahead, hidden)
    with for_range(b, rows) as loop:
        start = e.whole_number(b, starts, b.mul(loop.index, apart))
        y_line, dy_line = (
            e.at(b, base, b.mul(start, row)) for base, row in ((y, y_row), (dy, dy_row))
        )
        dh_line, da_line = (
            e.at(b, base, b.mul(loop.index, row))
            for base, row in ((dh, dh_row), (da, b.mul(gap, hidden)))
        )

        def cell(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
            h, dh_next, dy_t = (
                e.load(b, e.at(b, line, element), mask) for line in (y_line, dh_line, dy_line)
            )
            dh_t = b.fadd(dh_next, dy_t)  # (5)
            da_t = b.fmul(dh_t, _slope(e, activation, b, h))  # (6)
            e.store(b, da_t, e.at(b, da_line, element), mask)
            for line, ahead, write in (
                (y_line, next_y, False), (dy_line, next_dy, False), (da_line, next_da, True),
            ):  # fmt: skip
                e.prefetch(b, e.at(b, e.at(b, line, element), ahead), write)

        e.sweep(b, vectors, last, cell, together=4)
    b.ret_void()
    return str(e.module)


def _backward_twin(
    slope: Callable[[NDArray], NDArray],
    rows: int, vectors: int, last: int, hidden: int, dh: Address, dh_row: int, dc: Address,
    dc_row: int, y: Address, y_row: int, dy: Address, dy_row: int, starts: Address, apart: int,
    way: int, gap: int, ahead: int, c_before: Address, gates: Address, da: Address,
) -> None:  # fmt: skip
    units = (vectors - 1) * lanes(da.dtype) + last
    for r in range(rows):
        start = item(starts, r * apart)
        dh_t = dh.row(r * dh_row, units) + dy.row(start * dy_row, units)
        da.row(r * gap * hidden, units)[...] = dh_t * slope(y.row(start * y_row, units))


_TWINS: Final[dict[str, Callable[[NDArray], NDArray]]] = {
    "tanh": np.tanh,
    "relu": lambda a: np.where(a <= 0, np.zeros_like(a), a),
    "sigmoid": sigmoid,
}

forward: Final = {
    name: Code(f"{name}_forward", partial(_emit_forward, name), partial(_forward_twin, twin))
    for name, twin in _TWINS.items()
}
"""`forward[activation](dtype)`: the cell that `engine.recurrent.forward` calls."""

backward: Final = {
    name: Code(
        f"{name}_backward", partial(_emit_backward, name), partial(_backward_twin, SLOPES[name])
    )
    for name in _TWINS
}
"""`backward[activation](dtype)`: the cell that `engine.recurrent.backward` calls."""
