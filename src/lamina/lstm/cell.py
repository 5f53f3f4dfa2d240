"""The equations of formula.py that go element by element, as LLVM vector IR."""

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
    """Emit equations (2) to (8); the arguments are those of `_forward_twin`."""
    e = Functions(dtype)
    b, arguments = e.function("lstm_forward", "iiii" + "pi" * 6 + "iiiipp")
    (rows, vectors, last, hidden, a, lda, c, c_row, h, h_row, m, m_row, s, s_row, starts, apart,
     way, keep, gap, ahead, c_before, gates) = arguments  # fmt: skip
    words = e.sigmoid, e.sigmoid, e.tanh, e.sigmoid
    kept_row, next_row, next_s = b.mul(gap, hidden), b.mul(ahead, hidden), b.mul(way, s_row)
    next_gates = b.mul(next_row, _i64(4))

    def row_by_row(keeps: bool) -> None:
        with for_range(b, rows) as loop:

            def line(base: ir.Value, stride: ir.Value, width: int = 1) -> ir.Value:
                return e.at(b, base, b.mul(loop.index, b.mul(stride, _i64(width))))

            a_line, c_line, h_line, m_line = (
                line(*pair) for pair in ((a, lda), (c, c_row), (h, h_row), (m, m_row))
            )
            start = e.whole_number(b, starts, b.mul(loop.index, apart))
            s_line = e.at(b, s, b.mul(start, s_row))
            c_kept, gates_kept = line(c_before, kept_row), line(gates, kept_row, 4)
            offsets = [b.mul(hidden, _i64(q)) for q in range(4)]

            def cell(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
                def at(line: ir.Value, gate: int = 0) -> ir.Value:
                    return e.at(b, e.at(b, line, offsets[gate]), element)

                sums = [e.load(b, at(a_line, q), mask) for q in range(4)]
                found = e.together(b, [partial(w, a=x) for w, x in zip(words, sums, strict=True)])
                i, f, g, o = found
                before = e.load(b, at(c_line), mask)
                e.store(b, e.multiply_add(b, f, before, b.fmul(i, g)), at(c_line), mask)  # (6)
                e.store(b, o, at(a_line, 3), mask)
                if keeps:
                    e.store(b, before, at(c_kept), mask)
                    e.prefetch(b, e.at(b, at(c_kept), next_row), write=True)
                    for q, value in enumerate(found):
                        e.store(b, value, at(gates_kept, q), mask)
                        e.prefetch(b, e.at(b, at(gates_kept, q), next_gates), write=True)

            def shown(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
                def at(line: ir.Value) -> ir.Value:
                    return e.at(b, line, element)

                o = e.load(b, e.at(b, at(a_line), offsets[3]), mask)
                after = b.fmul(o, e.tanh(b, e.load(b, at(c_line), mask)))  # (7)
                e.store(b, after, at(s_line), mask)
                e.prefetch(b, e.at(b, at(s_line), next_s), write=True)
                e.store(b, b.fmul(after, e.load(b, at(m_line), mask)), at(h_line), mask)

            # Four chains at a time: the gates of one vector, then tanh(c) of several.
            e.sweep(b, vectors, last, cell)
            e.sweep(b, vectors, last, shown, together=4)

    with b.if_else(b.icmp_signed("!=", keep, _i64(0))) as (kept, not_kept):
        with kept:
            row_by_row(True)
        with not_kept:
            row_by_row(False)
    b.ret_void()
    return str(e.module)


def _forward_twin(
    rows: int, vectors: int, last: int, hidden: int, a: Address, lda: int, c: Address, c_row: int,
    h: Address, h_row: int, m: Address, m_row: int,
    s: Address, s_row: int, starts: Address, apart: int, way: int,
    keep: int, gap: int, ahead: int, c_before: Address, gates: Address,
) -> None:  # fmt: skip
    units = (vectors - 1) * lanes(s.dtype) + last
    for r in range(rows):
        i, f, g, o = (a.row(r * lda + q * hidden, units) for q in range(4))
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c_r = c.row(r * c_row, units)
        if keep:
            c_before.row(r * gap * hidden, units)[...] = c_r
            for q, gate in enumerate((i, f, g, o)):
                gates.row((r * gap * 4 + q) * hidden, units)[...] = gate
        c_r[...] = f * c_r + i * g
        shown = o * np.tanh(c_r)
        s.row(item(starts, r * apart) * s_row, units)[...] = shown
        h.row(r * h_row, units)[...] = shown * m.row(r * m_row, units)


def _emit_backward(dtype: Any) -> str:
    """Emit equations (10) to (20); the arguments are those of `_backward_twin`."""
    e = Functions(dtype)
    b, arguments = e.function("lstm_backward", "iiii" + "pi" * 5 + "iiippp")
    (rows, vectors, last, hidden, dh, dh_row, dc, dc_row, _, _, dy, dy_row, starts, apart, way,
     gap, ahead, c_before, gates, da) = arguments  # fmt: skip
    one = e.number(1)
    kept_row, next_row, next_dy = b.mul(gap, hidden), b.mul(ahead, hidden), b.mul(way, dy_row)
    next_gates = b.mul(next_row, _i64(4))
    with for_range(b, rows) as loop:

        def line(base: ir.Value, stride: ir.Value, width: int = 1) -> ir.Value:
            return e.at(b, base, b.mul(loop.index, b.mul(stride, _i64(width))))

        dh_line, dc_line, c_kept = line(dh, dh_row), line(dc, dc_row), line(c_before, kept_row)
        start = e.whole_number(b, starts, b.mul(loop.index, apart))
        dy_line = e.at(b, dy, b.mul(start, dy_row))
        gates_line, da_line = line(gates, kept_row, 4), line(da, kept_row, 4)
        offsets = [b.mul(hidden, _i64(q)) for q in range(4)]

        def cell(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
            def at(line: ir.Value, gate: int = 0) -> ir.Value:
                return e.at(b, e.at(b, line, offsets[gate]), element)

            i, f, g, o = (e.load(b, at(gates_line, q), mask) for q in range(4))
            before = e.load(b, at(c_kept), mask)
            tanh_c = e.tanh(b, e.multiply_add(b, f, before, b.fmul(i, g)))
            dh_t = b.fadd(e.load(b, at(dh_line), mask), e.load(b, at(dy_line), mask))  # (10)
            do = b.fmul(dh_t, tanh_c)  # (11)
            slope = b.fsub(one, b.fmul(tanh_c, tanh_c))
            dc_next = e.load(b, at(dc_line), mask)
            dc_t = e.multiply_add(b, b.fmul(dh_t, o), slope, dc_next)  # (12)
            di, df, dg = b.fmul(dc_t, g), b.fmul(dc_t, before), b.fmul(dc_t, i)  # (13) to (15)
            e.store(b, b.fmul(dc_t, f), at(dc_line), mask)  # (16)
            for q, (d, value) in enumerate(((di, i), (df, f), (dg, g), (do, o))):
                if q == 2:
                    da_q = b.fmul(d, b.fsub(one, b.fmul(value, value)))  # (19)
                else:
                    da_q = b.fmul(b.fmul(d, value), b.fsub(one, value))  # (17), (18), (20)
                e.store(b, da_q, at(da_line, q), mask)
                e.prefetch(b, e.at(b, at(gates_line, q), next_gates))
                e.prefetch(b, e.at(b, at(da_line, q), next_gates), write=True)
            e.prefetch(b, e.at(b, at(c_kept), next_row))
            e.prefetch(b, e.at(b, at(dy_line), next_dy))

        e.sweep(b, vectors, last, cell, together=2)
    b.ret_void()
    return str(e.module)


def _backward_twin(
    rows: int, vectors: int, last: int, hidden: int, dh: Address, dh_row: int, dc: Address,
    dc_row: int, y: Address, y_row: int, dy: Address, dy_row: int, starts: Address, apart: int,
    way: int, gap: int, ahead: int, c_before: Address, gates: Address, da: Address,
) -> None:  # fmt: skip
    units = (vectors - 1) * lanes(da.dtype) + last
    for r in range(rows):
        i, f, g, o = (gates.row((r * gap * 4 + q) * hidden, units) for q in range(4))
        before, dc_r = c_before.row(r * gap * hidden, units), dc.row(r * dc_row, units)
        tanh_c = np.tanh(f * before + i * g)
        dh_t = dh.row(r * dh_row, units) + dy.row(item(starts, r * apart) * dy_row, units)
        dc_t = dc_r + dh_t * o * (1 - tanh_c * tanh_c)
        dc_r[...] = dc_t * f
        das = (
            dc_t * g * i * (1 - i),
            dc_t * before * f * (1 - f),
            dc_t * i * (1 - g * g),
            dh_t * tanh_c * o * (1 - o),
        )
        for q, da_q in enumerate(das):
            da.row((r * gap * 4 + q) * hidden, units)[...] = da_q


forward: Final = Code("lstm_forward", _emit_forward, _forward_twin)
"""`forward(dtype)`: the cell that `engine.recurrent.forward` calls."""

backward: Final = Code("lstm_backward", _emit_backward, _backward_twin)
"""`backward(dtype)`: the cell that `engine.recurrent.backward` calls."""
