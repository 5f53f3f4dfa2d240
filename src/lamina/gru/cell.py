"""The equations of formula.py that go element by element, as LLVM vector IR.

The four sums of a unit are aʳ, aᶻ, xWⁿ + b and v of equations (2) and (5a). The state has two
arrays, h itself, where other cells have c, and m ⊙ h, which goes to the product.
"""

from functools import partial
from typing import Any, Final

import numpy as np
from llvmlite import ir

from ..arrays import sigmoid
from ..engine import gated
from ..engine.gated import Row
from ..engine.jit import Address, item
from ..engine.tile import lanes


def _forward(row: Row, keeps: bool) -> None:
    """Emit equations (3) to (8)."""
    e, at, one = row.e, row.at, row.e.number(1)

    def keep(b: ir.IRBuilder, value: ir.Value, element: ir.Value, block: int, mask: Any) -> None:
        e.store(b, value, at(b, "gates", element, block), mask)
        row.prefetch(b, "gates", element, block, write=True)

    def gates(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
        a_r, a_z, a_n, v = (e.load(b, at(b, "a", element, q), mask) for q in range(4))
        r, z = e.together(b, [partial(e.sigmoid, a=x) for x in (a_r, a_z)])  # (3), (4)
        e.store(b, e.multiply_add(b, r, v, a_n), at(b, "a", element, 2), mask)  # (5a)
        e.store(b, z, at(b, "a", element, 1), mask)
        if keeps:
            for q, value in ((0, r), (1, z), (3, v)):
                keep(b, value, element, q, mask)

    def state(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
        z, a_n = (e.load(b, at(b, "a", element, q), mask) for q in (1, 2))
        h = e.load(b, at(b, "c", element), mask)
        n = e.tanh(b, a_n)  # (6)
        after = e.multiply_add(b, z, h, b.fmul(b.fsub(one, z), n))  # (7)
        if keeps:
            e.store(b, h, at(b, "before", element), mask)
            row.prefetch(b, "before", element, write=True)
            keep(b, n, element, 2, mask)
        e.store(b, after, at(b, "c", element), mask)
        e.store(b, after, at(b, "s", element), mask)
        row.prefetch(b, "s", element, write=True)
        u = b.fmul(after, e.load(b, at(b, "m", element), mask))
        e.store(b, u, at(b, "h", element), mask)

    # Four chains at a time: both gates of two vectors, then the candidates of four.
    row.sweep(gates, together=2)
    row.sweep(state, together=4)


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


def _backward(row: Row) -> None:
    """Emit equations (10) to (16) and a part of (18)."""
    e, at, one = row.e, row.at, row.e.number(1)

    def cell(b: ir.IRBuilder, element: ir.Value, mask: ir.Value | None) -> None:
        def slope(value: ir.Value) -> ir.Value:
            return b.fmul(value, b.fsub(one, value))

        r, z, n, v = (e.load(b, at(b, "gates", element, q), mask) for q in range(4))
        h, through_u, through_h, dy = (
            e.load(b, at(b, name, element), mask) for name in ("before", "dh", "dc", "dy")
        )
        dh = b.fadd(b.fadd(through_u, through_h), dy)  # (10)
        dn, dz = b.fmul(dh, b.fsub(one, z)), b.fmul(dh, b.fsub(h, n))  # (11), (12)
        da_n = b.fmul(dn, b.fsub(one, b.fmul(n, n)))  # (13)
        dr, dv = b.fmul(da_n, v), b.fmul(da_n, r)  # (14a)
        da_r, da_z = b.fmul(dr, slope(r)), b.fmul(dz, slope(z))  # (15), (16)
        e.store(b, b.fmul(dh, z), at(b, "dc", element), mask)  # (18)
        for q, value in enumerate((da_r, da_z, da_n, dv)):
            e.store(b, value, at(b, "da", element, q), mask)
            row.prefetch(b, "gates", element, q)
            row.prefetch(b, "da", element, q, write=True)
        row.prefetch(b, "before", element)
        row.prefetch(b, "dy", element)

    row.sweep(cell, together=2)


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


forward: Final = gated.forward("gru_forward", _forward, _forward_twin)
"""`forward(dtype)`: the cell that `engine.recurrent.forward` calls."""

backward: Final = gated.backward("gru_backward", _backward, _backward_twin)
"""`backward(dtype)`: the cell that `engine.recurrent.backward` calls."""
