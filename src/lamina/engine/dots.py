"""Tiles of dot products, whose sums' terms lie side by side in memory, emitted as LLVM vector IR.

A tile of H rows, for a matrix W of N rows known when code is made, computes

    Y[m·N + n] = start[m·N + n] + Σ_s Σ_i X[x_s + m·move + i] · W[w_s + n·line + i]             (1)

for 0 <= m < H and 0 <= n < N. Where tile.py has columns of C as lanes of its vectors, and A element
by element, here lanes are terms: of X and W whole vectors are read, each lane has a sum of its own,
and at the end these are joined, always in the same tree. Vectors are a line of the cache wide, for
the sums to be the same with all CPUs that have FMA. Where a register holds a part of a line, all
terms go by for the first part of each line, then for the next.

- Segments s are parts of the sum of `vectors` vectors each. In the last one `last` lanes count: X
  is read behind them, whatever stands there, and W holds zeros there.
- An element has the same chains and the same tree in a tile of any height.
- Y is written by whole vectors, and as much is read of `start`: the next tile covers what is too
  much.
"""

from functools import cache, partial
from typing import Any, Final

import numpy as np
from llvmlite import ir

from . import jit
from .jit import Address, Code
from .loops import State, is_below, loop_while
from .memory import LINE
from .packing import joined
from .tile import Emitter, lanes

TALLEST: Final = 16
"""No tile has more rows: addresses of so many need few registers."""

_i64, _i32, _pointer = ir.IntType(64), ir.IntType(32), ir.PointerType()


def chains(dtype: np.dtype[Any]) -> int:
    """Return how many terms a vector here has, each for a sum of its own."""
    return LINE // dtype.itemsize if jit.has_fma() else lanes(dtype)


def tallest(columns: int, widest: bool = False) -> int:
    """Return how many rows a tile has at the most, for its sums to stay in registers; 0 if none.

    It is that of the widest vectors there are, if asked for.
    """
    registers = 32 if widest else jit.vector_registers() - (0 if jit.has_fma() else 1)
    held = min(registers * 3 // 4, registers - columns - 1)
    return max(0, min(TALLEST, held // columns))


def _summed(e: Emitter, b: ir.IRBuilder, sums: list[ir.Value]) -> ir.Value:
    """Return the sums of the lanes of each vector, side by side; there may be fewer than lanes."""
    n, bit = e.lanes, 1
    kind = ir.VectorType(_i32, n)
    while bit < n:
        orders = (
            [n + i - bit if i & bit else i for i in range(n)],
            [n + i if i & bit else i + bit for i in range(n)],
        )
        pairs = [(x, sums[min(i + 1, len(sums) - 1)]) for i, x in enumerate(sums) if i % 2 == 0]
        sums = [
            b.fadd(*(b.shuffle_vector(*pair, ir.Constant(kind, order)) for order in orders))
            for pair in pairs
        ]
        bit *= 2
    return sums[0]


def _beside(b: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    """Return the parts of a line, a power of two, as one vector."""
    while len(parts) > 1:
        parts = [joined(b, *pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _tile(e: Emitter, line_of: Emitter, rows: int, columns: int) -> ir.Function:
    """Emit the tile of so many rows, on registers and lines that several of these hold."""
    kinds = [_pointer, _pointer, _i64, _pointer, _pointer, _i64, _i64, _i64, _i64, _pointer,
             _pointer]  # fmt: skip
    f = ir.Function(e.module, ir.FunctionType(ir.VoidType(), kinds), f"dots_{rows}x{columns}")
    f.linkage = "internal"
    f.attributes.add("nounwind")
    x, x_at, move, w, w_at, line, segments, vectors, last, start, y = f.args
    b = ir.IRBuilder(f.append_basic_block("entry"))
    zero = e.vector(0.0)
    whole = b.sub(vectors, b.zext(b.icmp_signed("<", last, _i64(line_of.lanes)), _i64))
    moves, lines = (
        {m: b.mul(by, _i64(m * e.align)) for m in range(1, count, 2)}
        for by, count in ((move, rows), (line, columns))
    )

    def place(base: ir.Value, odd: dict[int, ir.Value], m: int) -> ir.Value:
        """Return where row m is: an address adds 1, 2, 4 or 8 times an odd multiple."""
        if not m:
            return base
        doubled = (m & -m).bit_length() - 1
        far = b.shl(odd[m >> doubled], _i64(doubled))
        return b.gep(base, [far], source_etype=ir.IntType(8))

    def add(x_i: ir.Value, w_i: ir.Value, sums: State, mask: ir.Value | None) -> State:
        """Emit the multiply-adds of a register of terms."""
        weights = [e.load(b, place(w_i, lines, n), None) for n in range(columns)]
        found: State = []
        for m in range(rows):
            value = e.load(b, place(x_i, moves, m), None)
            if mask is not None:
                value = b.select(mask, value, zero)
            of_row = sums[m * columns : (m + 1) * columns]
            found += [e.multiply_add(b, value, *term) for term in zip(weights, of_row, strict=True)]
        return found

    def vector(state: State) -> State:
        i, x_i, w_i, *sums = state
        x_i, w_i = e.hidden(b, x_i), e.hidden(b, w_i)
        sums = add(x_i, w_i, sums, None)
        return [b.add(i, _i64(1)), *(e.at(b, at, line_of.lanes) for at in (x_i, w_i)), *sums]

    def segment(part: int, state: State) -> State:
        s, *sums = state
        x_s, w_s = (
            e.at(b, e.at(b, base, e.whole_number(b, at, s)), part)
            for base, at in ((x, x_at), (w, w_at))
        )
        left = [_i64(0), x_s, w_s, *sums]
        left = loop_while(b, left, partial(is_below, b, whole), vector)
        _, x_i, w_i, *sums = left
        before = b.block
        with b.if_then(b.icmp_signed("<", whole, vectors)):
            mask = e.first_lanes(b, b.sub(last, _i64(part)))
            added, inside = add(x_i, w_i, sums, mask), b.block
        phis = [b.phi(e.vector) for _ in sums]
        for phi, skipped, total in zip(phis, sums, added, strict=True):
            phi.add_incoming(skipped, before)
            phi.add_incoming(total, inside)
        return [b.add(s, _i64(1)), *phis]

    parts = []
    for part in range(0, line_of.lanes, e.lanes):
        state = [_i64(0), *[zero] * (rows * columns)]
        going = partial(is_below, b, segments)
        _, *sums = loop_while(b, state, going, partial(segment, part))
        parts.append(sums)
    sums = [_beside(b, list(of_one)) for of_one in zip(*parts, strict=True)]
    for first in range(0, len(sums), line_of.lanes):
        total = _summed(line_of, b, sums[first : first + line_of.lanes])
        total = b.fadd(line_of.load(b, e.at(b, start, first), None), total)
        line_of.store(b, total, e.at(b, y, first), None)
    b.ret_void()
    return f


def _emit(name: str, columns: int, dtype: Any) -> str:
    e = Emitter(dtype)
    line_of = e.of_lanes(chains(np.dtype(dtype)))
    heights = range(1, tallest(columns) + 1)
    return e.by_size(name, {m: _tile(e, line_of, m, columns) for m in heights})


def _twin(
    columns: int,
    rows: int, x: Address, x_at: Address, move: int, w: Address, w_at: Address, line: int,
    segments: int, vectors: int, last: int, start: Address, y: Address,
) -> None:  # fmt: skip
    """Compute equation (1) in plain Python: what the machine code does, each access checked."""
    n = chains(y.dtype)
    if not (1 <= rows <= tallest(columns) and 1 <= last <= n):
        raise IndexError(f"no tile of {rows} x {columns} dot products and {last} lanes")
    width, sums = (vectors - 1) * n + last, np.zeros(-(-rows * columns // n) * n, y.dtype)
    for s in range(segments):
        x_s, w_s = (int(at.row(s, 1)[0]) for at in (x_at, w_at))
        for m in range(rows):
            for k in range(columns):
                values = x.row(x_s + m * move, vectors * n)[:width]
                sums[m * columns + k] += values @ w.row(w_s + k * line, vectors * n)[:width]
    y.row(0, sums.size)[...] = start.row(0, sums.size) + sums


@cache
def dots(columns: int) -> Code:
    """Return the code for so many rows of W: its arguments are `_twin`'s."""
    name = f"dots_{columns}"
    return Code(name, partial(_emit, name, columns), partial(_twin, columns))
