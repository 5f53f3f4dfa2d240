"""What the code of cells with four sums a unit has in common: how it goes from row to row.

Of the sums, the gates and the gradients of the sums, each row has four blocks of H columns.
recurrent.py says what a cell is given: `choose` going forward, `backward` going back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from llvmlite import ir

from .jit import Code
from .loops import for_range
from .pointwise import Functions

_i64 = ir.IntType(64)


@dataclass(frozen=True)
class Row:
    """The row of a batch.

    Attributes
    ----------
    e : Functions
    lines : mapping of str to pointer
        Where the row begins in each array.
    ahead : mapping of str to integer
        How many elements behind it the same row of the next step begins.
    offsets : list of integer
        Where blocks of columns begin.
    sweep : function
        `Functions.sweep` for the vectors of a row, but for what it sweeps.
    """

    e: Functions
    lines: Mapping[str, ir.Value]
    ahead: Mapping[str, ir.Value]
    offsets: list[ir.Value]
    sweep: Callable[..., None]

    def at(self, b: ir.IRBuilder, name: str, element: ir.Value, block: int = 0) -> ir.Value:
        """Return where an element of an array's block of columns is."""
        return self.e.at(b, self.e.at(b, self.lines[name], self.offsets[block]), element)

    def prefetch(
        self, b: ir.IRBuilder, name: str, element: ir.Value, block: int = 0, write: bool = False
    ) -> None:
        """Ask for what stands there at the next step."""
        place = self.e.at(b, self.at(b, name, element, block), self.ahead[name])
        self.e.prefetch(b, place, write=write)


def forward(name: str, emit: Callable[[Row, bool], None], twin: Callable[..., None]) -> Code:
    """Return a cell going forward: what `emit` does in a row, keeping what backward needs or not.

    There are the sums a, the state h and c, a mask m, what is shown, s, and what is kept, c
    `before` the step and the gates.
    """
    return Code(name, partial(_forward, name, emit), twin)


def _forward(name: str, emit: Callable[[Row, bool], None], dtype: Any) -> str:
    e = Functions(dtype)
    b, arguments = e.function(name, "iiii" + "pi" * 6 + "iiiipp")
    (rows, vectors, last, hidden, a, lda, c, c_row, h, h_row, m, m_row, s, s_row, starts, apart,
     way, keep, gap, next_, before, gates) = arguments  # fmt: skip
    kept_row, next_row, next_s = b.mul(gap, hidden), b.mul(next_, hidden), b.mul(way, s_row)
    ahead = {"before": next_row, "s": next_s, "gates": b.mul(next_row, _i64(4))}

    def row_by_row(keeps: bool) -> None:
        with for_range(b, rows) as loop:

            def line(base: ir.Value, stride: ir.Value, width: int = 1) -> ir.Value:
                return e.at(b, base, b.mul(loop.index, b.mul(stride, _i64(width))))

            lines = {"a": line(a, lda), "c": line(c, c_row), "h": line(h, h_row)}
            lines["m"] = line(m, m_row)
            start = e.whole_number(b, starts, b.mul(loop.index, apart))
            lines["s"] = e.at(b, s, b.mul(start, s_row))
            lines |= {"before": line(before, kept_row), "gates": line(gates, kept_row, 4)}
            offsets = [b.mul(hidden, _i64(q)) for q in range(4)]
            emit(Row(e, lines, ahead, offsets, partial(e.sweep, b, vectors, last)), keeps)

    with b.if_else(b.icmp_signed("!=", keep, _i64(0))) as (kept, not_kept):
        with kept:
            row_by_row(True)
        with not_kept:
            row_by_row(False)
    b.ret_void()
    return str(e.module)


def backward(name: str, emit: Callable[[Row], None], twin: Callable[..., None]) -> Code:
    """Return a cell going backward: what `emit` does in a row.

    There are the gradients dh, dc, dy and those of the sums, da, and what was kept.
    """
    return Code(name, partial(_backward, name, emit), twin)


def _backward(name: str, emit: Callable[[Row], None], dtype: Any) -> str:
    e = Functions(dtype)
    b, arguments = e.function(name, "iiii" + "pi" * 5 + "iiippp")
    (rows, vectors, last, hidden, dh, dh_row, dc, dc_row, _, _, dy, dy_row, starts, apart, way,
     gap, next_, before, gates, da) = arguments  # fmt: skip
    kept_row, next_row, next_dy = b.mul(gap, hidden), b.mul(next_, hidden), b.mul(way, dy_row)
    next_gates = b.mul(next_row, _i64(4))
    ahead = {"before": next_row, "dy": next_dy, "gates": next_gates, "da": next_gates}
    with for_range(b, rows) as loop:

        def line(base: ir.Value, stride: ir.Value, width: int = 1) -> ir.Value:
            return e.at(b, base, b.mul(loop.index, b.mul(stride, _i64(width))))

        lines = {"dh": line(dh, dh_row), "dc": line(dc, dc_row), "before": line(before, kept_row)}
        start = e.whole_number(b, starts, b.mul(loop.index, apart))
        lines["dy"] = e.at(b, dy, b.mul(start, dy_row))
        lines |= {"gates": line(gates, kept_row, 4), "da": line(da, kept_row, 4)}
        offsets = [b.mul(hidden, _i64(q)) for q in range(4)]
        emit(Row(e, lines, ahead, offsets, partial(e.sweep, b, vectors, last)))
    b.ret_void()
    return str(e.module)
