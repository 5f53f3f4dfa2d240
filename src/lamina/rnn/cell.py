"""The equations of formula.py that go element by element, as LLVM vector IR."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from ..engine.jit import Address, Code
from ..engine.loops import for_range
from ..engine.pointwise import Functions, logistic
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
    b, arguments = e.function(f"{activation}_forward", "iiii" + "pi" * 5 + "iipp")
    rows, vectors, last, hidden, a, lda, _, _, s, s_row, h, h_row, m, m_row, _, ahead, *_ = (
        arguments
    )
    next_row = b.mul(ahead, hidden)
    with for_range(b, rows) as loop:
        a_line, s_line, h_line, m_line = (
            e.at(b, base, b.mul(loop.index, row))
            for base, row in ((a, lda), (s, s_row), (h, h_row), (m, m_row))
        )

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
    s: Address, s_row: int, h: Address, h_row: int, m: Address, m_row: int,
    keep: int, ahead: int, c_before: Address, gates: Address,
) -> None:  # fmt: skip
    units = (vectors - 1) * lanes(s.dtype) + last
    for r in range(rows):
        found = activate(a.row(r * lda, units))
        s.row(r * s_row, units)[...] = found
        h.row(r * h_row, units)[...] = found * m.row(r * m_row, units)


def _emit_backward(activation: str, dtype: Any) -> str:
    """Emit equations (5) and (6); the arguments are those of `_backward_twin`."""
    e = Functions(dtype)
    b, arguments = e.function(f"{activation}_backward", "iiii" + "pi" * 4 + "ippp")
    rows, vectors, last, hidden, y, y_row, dh, dh_row, dy, dy_row, *_, ahead, _, _, da = arguments
    next_row = b.mul(ahead, hidden)
    with for_range(b, rows) as loop:
        y_line, dh_line, dy_line, da_line = (
            e.at(b, base, b.mul(loop.index, row))
            for base, row in ((y, y_row), (dh, dh_row), (dy, dy_row), (da, y_row))
        )

        def cell(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
            h, dh_next, dy_t = (
                e.load(b, e.at(b, line, element), mask) for line in (y_line, dh_line, dy_line)
            )
            dh_t = b.fadd(dh_next, dy_t)  # (5)
            da_t = b.fmul(dh_t, _slope(e, activation, b, h))  # (6)
            e.store(b, da_t, e.at(b, da_line, element), mask)
            for line, write in ((y_line, False), (dy_line, False), (da_line, True)):
                e.prefetch(b, e.at(b, e.at(b, line, element), next_row), write)

        e.sweep(b, vectors, last, cell, together=4)
    b.ret_void()
    return str(e.module)


def _backward_twin(
    slope: Callable[[NDArray], NDArray],
    rows: int, vectors: int, last: int, hidden: int, y: Address, y_row: int, dh: Address,
    dh_row: int, dy: Address, dy_row: int, dc: Address, dc_row: int,
    ahead: int, c_before: Address, gates: Address, da: Address,
) -> None:  # fmt: skip
    units = (vectors - 1) * lanes(da.dtype) + last
    for r in range(rows):
        dh_t = dh.row(r * dh_row, units) + dy.row(r * dy_row, units)
        da.row(r * y_row, units)[...] = dh_t * slope(y.row(r * y_row, units))


_TWINS: Final[dict[str, Callable[[NDArray], NDArray]]] = {
    "tanh": np.tanh,
    "relu": lambda a: np.where(a <= 0, np.zeros_like(a), a),
    "sigmoid": logistic,
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
