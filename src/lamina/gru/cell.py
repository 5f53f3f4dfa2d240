"""The equations of formula.py that go element by element, as LLVM vector IR.

The four sums of a unit are aʳ, aᶻ, xWⁿ + b and v of equations (2) and (5a). The state has two
arrays, h itself, where other cells have c, and m ⊙ h, which goes to the product.
"""

from functools import partial
from typing import Any, Final

import numpy as np
from llvmlite import ir

from ..arrays import sigmoid
from ..engine.jit import Address, Code, item
from ..engine.loops import for_range
from ..engine.pointwise import Functions
from ..engine.tile import lanes

_i64 = ir.IntType(64)


def _emit_forward(dtype: Any) -> str:
    """Emit equations (3) to (8); the arguments are those of `_forward_twin`."""
    e = Functions(dtype)
    b, arguments = e.function("gru_forward", "iiii" + "pi" * 6 + "iiiipp")
    (rows, vectors, last, hidden, a, lda, c, c_row, u, u_row, m, m_row, s, s_row, starts, apart,
     way, keep, gap, ahead, before, gates) = arguments  # fmt: skip
    one = e.number(1)
    kept_row, next_row, next_s = b.mul(gap, hidden), b.mul(ahead, hidden), b.mul(way, s_row)
    next_gates = b.mul(next_row, _i64(4))

    def row_by_row(keeps: bool) -> None:
        with for_range(b, rows) as loop:

            def line(base: ir.Value, stride: ir.Value, width: int = 1) -> ir.Value:
                return e.at(b, base, b.mul(loop.index, b.mul(stride, _i64(width))))

            a_line, c_line, u_line, m_line = (
                line(*pair) for pair in ((a, lda), (c, c_row), (u, u_row), (m, m_row))
            )
            start = e.whole_number(b, starts, b.mul(loop.index, apart))
            s_line = e.at(b, s, b.mul(start, s_row))
            before_line, gates_line = line(before, kept_row), line(gates, kept_row, 4)
            offsets = [b.mul(hidden, _i64(q)) for q in range(4)]

            def at(b: ir.IRBuilder, line: ir.Value, element: ir.Value, gate: int = 0) -> ir.Value:
                return e.at(b, e.at(b, line, offsets[gate]), element)

            def keep_gate(b: ir.IRBuilder, value: ir.Value, place: ir.Value, mask: Any) -> None:
                e.store(b, value, place, mask)
                e.prefetch(b, e.at(b, place, next_gates), write=True)

            def both(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
                a_r, a_z, a_n, v = (e.load(b, at(b, a_line, element, q), mask) for q in range(4))
                words = [partial(e.sigmoid, a=x) for x in (a_r, a_z)]
                r, z = e.together(b, words)  # (3), (4)
                e.store(b, e.multiply_add(b, r, v, a_n), at(b, a_line, element, 2), mask)  # (5a)
                e.store(b, z, at(b, a_line, element, 1), mask)
                if keeps:
                    for q, value in ((0, r), (1, z), (3, v)):
                        keep_gate(b, value, at(b, gates_line, element, q), mask)

            def state(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
                z, a_n = (e.load(b, at(b, a_line, element, q), mask) for q in (1, 2))
                h = e.load(b, at(b, c_line, element), mask)
                n = e.tanh(b, a_n)  # (6)
                after = e.multiply_add(b, z, h, b.fmul(b.fsub(one, z), n))  # (7)
                if keeps:
                    e.store(b, h, at(b, before_line, element), mask)
                    e.prefetch(b, e.at(b, at(b, before_line, element), next_row), write=True)
                    keep_gate(b, n, at(b, gates_line, element, 2), mask)
                e.store(b, after, at(b, c_line, element), mask)
                e.store(b, after, at(b, s_line, element), mask)
                e.prefetch(b, e.at(b, at(b, s_line, element), next_s), write=True)
                masked = b.fmul(after, e.load(b, at(b, m_line, element), mask))
                e.store(b, masked, at(b, u_line, element), mask)

            # Four chains at a time: both gates of two vectors, then the candidates of four.
            e.sweep(b, vectors, last, both, together=2)
            e.sweep(b, vectors, last, state, together=4)

    with b.if_else(b.icmp_signed("!=", keep, _i64(0))) as (kept, not_kept):
        with kept:
            row_by_row(True)
        with not_kept:
            row_by_row(False)
    b.ret_void()
    return str(e.module)


def _forward_twin(
    rows: int, vectors: int, last: int, hidden: int, a: Address, lda: int, c: Address, c_row: int,
    u: Address, u_row: int, m: Address, m_row: int,
    s: Address, s_row: int, starts: Address, apart: int, way: int,
    keep: int, gap: int, ahead: int, before: Address, gates: Address,
) -> None:  # fmt: skip
    units = (vectors - 1) * lanes(s.dtype) + last
    for k in range(rows):
        a_r, a_z, a_n, v = (a.row(k * lda + q * hidden, units) for q in range(4))
        r, z = sigmoid(a_r), sigmoid(a_z)
        n = np.tanh(a_n + r * v)
        h = c.row(k * c_row, units)
        if keep:
            before.row(k * gap * hidden, units)[...] = h
            for q, gate in enumerate((r, z, n, v)):
                gates.row((k * gap * 4 + q) * hidden, units)[...] = gate
        h[...] = (1 - z) * n + z * h
        s.row(item(starts, k * apart) * s_row, units)[...] = h
        u.row(k * u_row, units)[...] = h * m.row(k * m_row, units)


def _emit_backward(dtype: Any) -> str:
    """Emit equations (10) to (16) and a part of (18); the arguments are `_backward_twin`'s."""
    e = Functions(dtype)
    b, arguments = e.function("gru_backward", "iiii" + "pi" * 5 + "iiippp")
    (rows, vectors, last, hidden, du, du_row, dc, dc_row, _, _, dy, dy_row, starts, apart, way,
     gap, ahead, before, gates, da) = arguments  # fmt: skip
    one = e.number(1)
    kept_row, next_row, next_dy = b.mul(gap, hidden), b.mul(ahead, hidden), b.mul(way, dy_row)
    next_gates = b.mul(next_row, _i64(4))
    with for_range(b, rows) as loop:

        def line(base: ir.Value, stride: ir.Value, width: int = 1) -> ir.Value:
            return e.at(b, base, b.mul(loop.index, b.mul(stride, _i64(width))))

        du_line, dc_line, before_line = line(du, du_row), line(dc, dc_row), line(before, kept_row)
        start = e.whole_number(b, starts, b.mul(loop.index, apart))
        dy_line = e.at(b, dy, b.mul(start, dy_row))
        gates_line, da_line = line(gates, kept_row, 4), line(da, kept_row, 4)
        offsets = [b.mul(hidden, _i64(q)) for q in range(4)]

        def cell(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
            def at(line: ir.Value, gate: int = 0) -> ir.Value:
                return e.at(b, e.at(b, line, offsets[gate]), element)

            def slope(value: ir.Value) -> ir.Value:
                return b.fmul(value, b.fsub(one, value))

            r, z, n, v = (e.load(b, at(gates_line, q), mask) for q in range(4))
            h = e.load(b, at(before_line), mask)
            through_u, through_h, dy_t = (
                e.load(b, at(line), mask) for line in (du_line, dc_line, dy_line)
            )
            dh = b.fadd(b.fadd(through_u, through_h), dy_t)  # (10)
            dn, dz = b.fmul(dh, b.fsub(one, z)), b.fmul(dh, b.fsub(h, n))  # (11), (12)
            da_n = b.fmul(dn, b.fsub(one, b.fmul(n, n)))  # (13)
            dr, dv = b.fmul(da_n, v), b.fmul(da_n, r)  # (14a)
            da_r, da_z = b.fmul(dr, slope(r)), b.fmul(dz, slope(z))  # (15), (16)
            e.store(b, b.fmul(dh, z), at(dc_line), mask)  # (18)
            for q, value in enumerate((da_r, da_z, da_n, dv)):
                e.store(b, value, at(da_line, q), mask)
                e.prefetch(b, e.at(b, at(gates_line, q), next_gates))
                e.prefetch(b, e.at(b, at(da_line, q), next_gates), write=True)
            e.prefetch(b, e.at(b, at(before_line), next_row))
            e.prefetch(b, e.at(b, at(dy_line), next_dy))

        e.sweep(b, vectors, last, cell, together=2)
    b.ret_void()
    return str(e.module)


def _backward_twin(
    rows: int, vectors: int, last: int, hidden: int, du: Address, du_row: int, dc: Address,
    dc_row: int, y: Address, y_row: int, dy: Address, dy_row: int, starts: Address, apart: int,
    way: int, gap: int, ahead: int, before: Address, gates: Address, da: Address,
) -> None:  # fmt: skip
    units = (vectors - 1) * lanes(da.dtype) + last
    for k in range(rows):
        r, z, n, v = (gates.row((k * gap * 4 + q) * hidden, units) for q in range(4))
        h, through_h = before.row(k * gap * hidden, units), dc.row(k * dc_row, units)
        dy_t = dy.row(item(starts, k * apart) * dy_row, units)
        dh = du.row(k * du_row, units) + through_h + dy_t
        da_n = dh * (1 - z) * (1 - n * n)
        das = da_n * v * (r * (1 - r)), dh * (h - n) * (z * (1 - z)), da_n, da_n * r
        through_h[...] = dh * z
        for q, da_q in enumerate(das):
            da.row((k * gap * 4 + q) * hidden, units)[...] = da_q


forward: Final = Code("gru_forward", _emit_forward, _forward_twin)
"""`forward(dtype)`: the cell that `engine.recurrent.forward` calls."""

backward: Final = Code("gru_backward", _emit_backward, _backward_twin)
"""`backward(dtype)`: the cell that `engine.recurrent.backward` calls."""
