"""The equations of formula.py that go element by element, as LLVM vector IR."""

from functools import partial
from typing import Final

import numpy as np
from llvmlite import ir

from ..arrays import sigmoid
from ..engine import gated
from ..engine.gated import Row
from ..engine.jit import Address, item
from ..engine.tile import lanes


def _forward(row: Row, keeps: bool) -> None:
    """Emit equations (2) to (8)."""
    e, at = row.e, row.at
    words = e.sigmoid, e.sigmoid, e.tanh, e.sigmoid

    def cell(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
        sums = [e.load(b, at(b, "a", element, q), mask) for q in range(4)]
        found = e.together(b, [partial(w, a=x) for w, x in zip(words, sums, strict=True)])
        i, f, g, o = found
        before = e.load(b, at(b, "c", element), mask)
        e.store(b, e.multiply_add(b, f, before, b.fmul(i, g)), at(b, "c", element), mask)  # (6)
        e.store(b, o, at(b, "a", element, 3), mask)
        if keeps:
            e.store(b, before, at(b, "before", element), mask)
            row.prefetch(b, "before", element, write=True)
            for q, value in enumerate(found):
                e.store(b, value, at(b, "gates", element, q), mask)
                row.prefetch(b, "gates", element, q, write=True)

    def shown(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
        o = e.load(b, at(b, "a", element, 3), mask)
        after = b.fmul(o, e.tanh(b, e.load(b, at(b, "c", element), mask)))  # (7)
        e.store(b, after, at(b, "s", element), mask)
        row.prefetch(b, "s", element, write=True)
        e.store(b, b.fmul(after, e.load(b, at(b, "m", element), mask)), at(b, "h", element), mask)

    # Four chains at a time: the gates of one vector, then tanh(c) of several.
    row.sweep(cell)
    row.sweep(shown, together=4)


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


def _backward(row: Row) -> None:
    """Emit equations (10) to (20)."""
    e, at, one = row.e, row.at, row.e.number(1)

    def cell(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
        i, f, g, o = (e.load(b, at(b, "gates", element, q), mask) for q in range(4))
        before = e.load(b, at(b, "before", element), mask)
        tanh_c = e.tanh(b, e.multiply_add(b, f, before, b.fmul(i, g)))
        dh, dy = (e.load(b, at(b, name, element), mask) for name in ("dh", "dy"))
        dh_t = b.fadd(dh, dy)  # (10)
        do = b.fmul(dh_t, tanh_c)  # (11)
        slope = b.fsub(one, b.fmul(tanh_c, tanh_c))
        dc_next = e.load(b, at(b, "dc", element), mask)
        dc_t = e.multiply_add(b, b.fmul(dh_t, o), slope, dc_next)  # (12)
        di, df, dg = b.fmul(dc_t, g), b.fmul(dc_t, before), b.fmul(dc_t, i)  # (13) to (15)
        e.store(b, b.fmul(dc_t, f), at(b, "dc", element), mask)  # (16)
        for q, (d, value) in enumerate(((di, i), (df, f), (dg, g), (do, o))):
            if q == 2:
                da_q = b.fmul(d, b.fsub(one, b.fmul(value, value)))  # (19)
            else:
                da_q = b.fmul(b.fmul(d, value), b.fsub(one, value))  # (17), (18), (20)
            e.store(b, da_q, at(b, "da", element, q), mask)
            row.prefetch(b, "gates", element, q)
            row.prefetch(b, "da", element, q, write=True)
        row.prefetch(b, "before", element)
        row.prefetch(b, "dy", element)

    row.sweep(cell, together=2)


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


forward: Final = gated.forward("lstm_forward", _forward, _forward_twin)
"""`forward(dtype)`: the cell that `engine.recurrent.forward` calls."""

backward: Final = gated.backward("lstm_backward", _backward, _backward_twin)
"""`backward(dtype)`: the cell that `engine.recurrent.backward` calls."""
