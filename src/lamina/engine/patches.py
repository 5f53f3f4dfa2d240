"""Linear maps of small patches, emitted as LLVM vector IR.

A patch X is a few rows and columns of vectors: places in an image, each with some channels. For
matrices M and N, known when code is made, and for many patches one after the other,

    Y = M X Nᵀ                                                                  (1)

first down the columns, then along the rows; a sum takes positive terms before negative ones. At the
end Y is max(0, Y) where a ReLU is asked for.
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, Final, TypeAlias

import numpy as np
from llvmlite import ir

from .jit import Address, Code
from .loops import for_range
from .tile import Emitter, lanes

Matrix: TypeAlias = tuple[tuple[float, ...], ...]

_Places: TypeAlias = list[list[ir.Value]]

APART: Final = 2
"""Patches side by side in an image begin so many columns apart."""

_i64, _pointer = ir.IntType(64), ir.PointerType()


def _sum(
    e: Emitter, b: ir.IRBuilder, weights: Sequence[float], values: Sequence[ir.Value]
) -> ir.Value:
    """Return the sum of values times weights, of which one or more are positive."""
    terms = [(weight, value) for weight, value in zip(weights, values, strict=True) if weight]
    total = None
    for weight, value in sorted(terms, key=lambda term: term[0] < 0):
        size = abs(weight)
        term = value if size == 1 else b.fmul(value, e.vector(size))
        if total is None:
            total = term
        else:
            total = b.fadd(total, term) if weight > 0 else b.fsub(total, term)
    return total


def _emit(name: str, m: Matrix, n: Matrix, relu: bool, ahead: int, padded: bool, dtype: Any) -> str:
    e = Emitter(dtype)
    kinds = [_i64] * (15 if padded else 10)
    f = ir.Function(e.module, ir.FunctionType(ir.VoidType(), kinds), name)
    b = ir.IRBuilder(f.append_basic_block("entry"))
    count, x, x_row, x_col, x_next, y, y_row, y_col, y_next, channels, *image = f.args
    x, y = b.inttoptr(x, _pointer), b.inttoptr(y, _pointer)
    high, wide = len(m[0]), len(n[0])
    x_columns = [b.mul(x_col, _i64(j)) for j in range(wide)]
    y_rows = [b.mul(y_row, _i64(i)) for i in range(len(m))]
    y_columns = [b.mul(y_col, _i64(j)) for j in range(len(n))]
    to_later = b.mul(y_next, _i64(ahead))

    def grid(lines: Sequence[ir.Value], columns: Sequence[ir.Value]) -> _Places:
        """Return pointers to places of a patch: an address adds a distance to that of a row."""
        lines = [e.hidden(b, line) for line in lines]
        return [[e.at(b, line, column) for column in columns] for line in lines]

    def transform(patch: ir.Value, v: ir.Value, mask: ir.Value | None, places: _Places) -> None:
        """Emit (1) for a vector of a patch that lies at such places."""
        columns = [[e.load(b, p, mask) for p in column] for column in zip(*places, strict=True)]
        into = e.hidden(b, e.at(b, e.at(b, y, b.mul(patch, y_next)), b.mul(v, _i64(e.lanes))))
        lines = grid([e.at(b, into, row) for row in y_rows], y_columns)
        for weights, line in zip(m, lines, strict=True):
            values = [_sum(e, b, weights, column) for column in columns]
            for weights_, place in zip(n, line, strict=True):
                value = _sum(e, b, weights_, values)
                if relu:  # which NaN passes
                    value = e.at_least(b, value, e.vector(0.0))
                e.store(b, value, place, None)
                if ahead:
                    e.prefetch(b, e.at(b, place, to_later), write=True)

    lines = [e.at(b, x, b.mul(x_row, _i64(i))) for i in range(high)]

    def vector_of(patch: ir.Value, v: ir.Value) -> _Places:
        moved = b.add(b.mul(patch, x_next), b.mul(v, _i64(e.lanes)))
        return grid([e.at(b, line, moved) for line in lines], x_columns)

    if not padded:
        with for_range(b, count) as patch, for_range(b, channels) as v:
            transform(patch.index, v.index, None, vector_of(patch.index, v.index))
        b.ret_void()
        return str(e.module)

    top, end, left, across, zeros = image
    zeros = b.inttoptr(zeros, _pointer)
    for i in range(high):
        inside = b.icmp_unsigned("<", b.add(top, _i64(i)), end)
        lines[i] = b.select(inside, lines[i], zeros)
    whole, rest = b.sdiv(channels, _i64(e.lanes)), b.srem(channels, _i64(e.lanes))
    mask = e.first_lanes(b, rest)
    with for_range(b, count) as patch:
        column = b.add(left, b.mul(patch.index, _i64(APART)))
        inside = [b.icmp_unsigned("<", b.add(column, _i64(j)), across) for j in range(wide)]

        def places(v: ir.Value, at_edge: bool) -> _Places:
            found = vector_of(patch.index, v)
            if at_edge:
                found = [[b.select(*c, zeros) for c in zip(inside, r, strict=True)] for r in found]
            return found

        with b.if_else(reduce(b.and_, inside)) as branches:
            for branch, at_edge in zip(branches, (False, True), strict=True):
                with branch:
                    with for_range(b, whole) as v:
                        transform(patch.index, v.index, None, places(v.index, at_edge))
                    with b.if_then(b.icmp_signed(">", rest, _i64(0))):
                        transform(patch.index, whole, mask, places(whole, at_edge))
    b.ret_void()
    return str(e.module)


def _twin(
    down: Matrix, along: Matrix, relu: bool,
    count: int, x: Address, x_row: int, x_col: int, x_next: int,
    y: Address, y_row: int, y_col: int, y_next: int, channels: int, *image: Any,
) -> None:  # fmt: skip
    """Compute equation (1) in plain Python: what the machine code does, each access checked."""
    m, n, lane = np.array(down, x.dtype), np.array(along, x.dtype), lanes(x.dtype)
    high, wide, given = m.shape[1], n.shape[1], channels if image else channels * lane
    width = -(-given // lane) * lane
    top, end, left, across, _ = image or (0, high, 0, wide + APART * count, None)
    for p in range(count):
        patch = np.zeros((high, wide, width), x.dtype)
        for i, j in np.ndindex(high, wide):
            if 0 <= top + i < end and 0 <= left + APART * p + j < across:
                patch[i, j, :given] = x.row(p * x_next + i * x_row + j * x_col, given)
        found = np.einsum("ai,bj,ijc->abc", m, n, patch)
        if relu:
            found[found < 0] = 0
        for i, j in np.ndindex(len(m), len(n)):
            y.row(p * y_next + i * y_row + j * y_col, width)[...] = found[i, j]


def patches(
    name: str, m: Matrix, n: Matrix, relu: bool = False, ahead: int = 0, padded: bool = False
) -> Code:
    """Return the code of (1) for small matrices, with something positive in each row.

    Its arguments are those of `_twin` from `count` on: how many patches; where the first begins,
    and how many elements apart rows, columns and patches are; the same for what is written; and how
    many vectors are at each place. Where what is written lies in no cache, it is asked for so many
    patches `ahead`.

    Where the patches are of an image `padded` with zeros, `channels` is what it says, and nothing
    behind them is read; otherwise it is a number of vectors. There are five arguments more then: in
    which row of the image the patches begin, and how many it has; in which column, each `APART`
    behind the one before, and how many; and zeros to read in the place of a row, as far as the
    patches go.
    """
    emit = partial(_emit, name, m, n, relu, ahead, padded)
    return Code(name, emit, partial(_twin, m, n, relu))
