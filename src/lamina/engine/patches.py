"""Linear maps of small square patches, emitted as LLVM vector IR.

A patch X is n x n vectors: places in an image, each with some channels. For a matrix M, known when
code is made, and for many patches one after the other,

    Y = M X Mᵀ                                                                  (1)

first down the columns, then along the rows; a sum takes positive terms before negative ones. At the
end Y is max(0, Y) where a ReLU is asked for.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir

from .jit import Address, Code
from .loops import for_range
from .tile import Emitter, lanes

Matrix: TypeAlias = tuple[tuple[float, ...], ...]

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


def _emit(name: str, matrix: Matrix, relu: bool, ahead: int, dtype: Any) -> str:
    e = Emitter(dtype)
    f = ir.Function(e.module, ir.FunctionType(ir.VoidType(), [_i64] * 10), name)
    b = ir.IRBuilder(f.append_basic_block("entry"))
    count, x, x_row, x_col, x_next, y, y_row, y_col, y_next, vectors = f.args
    x, y = b.inttoptr(x, _pointer), b.inttoptr(y, _pointer)

    def places(
        at: ir.Value, rows: list[ir.Value], columns: list[ir.Value], n: int
    ) -> list[list[ir.Value]]:
        """Return pointers to n x n places: an address adds a distance to that of a row."""
        first = e.hidden(b, at)
        lines = [first, *(e.hidden(b, e.at(b, first, row)) for row in rows[1:n])]
        return [[e.at(b, line, column) for column in columns[:n]] for line in lines]

    x_rows, x_columns, y_rows, y_columns = (
        [b.mul(distance, _i64(i)) for i in range(4)] for distance in (x_row, x_col, y_row, y_col)
    )
    to_later = b.mul(y_next, _i64(ahead))
    with for_range(b, count) as patch, for_range(b, vectors) as v:
        lane = b.mul(v.index, _i64(e.lanes))
        first = e.at(b, e.at(b, x, b.mul(patch.index, x_next)), lane)
        into = e.at(b, e.at(b, y, b.mul(patch.index, y_next)), lane)
        columns = [
            [e.load(b, place, None) for place in column]
            for column in zip(*places(first, x_rows, x_columns, len(matrix[0])), strict=True)
        ]
        lines = places(into, y_rows, y_columns, len(matrix))
        for weights, line in zip(matrix, lines, strict=True):
            values = [_sum(e, b, weights, column) for column in columns]
            for weights_, place in zip(matrix, line, strict=True):
                value = _sum(e, b, weights_, values)
                if relu:  # which NaN passes
                    value = e.at_least(b, value, e.vector(0.0))
                e.store(b, value, place, None)
                if ahead:
                    e.prefetch(b, e.at(b, place, to_later), write=True)
    b.ret_void()
    return str(e.module)


def _twin(
    matrix: Matrix, relu: bool,
    count: int, x: Address, x_row: int, x_col: int, x_next: int,
    y: Address, y_row: int, y_col: int, y_next: int, vectors: int,
) -> None:  # fmt: skip
    """Compute equation (1) in plain Python: what the machine code does, each access checked."""
    m = np.array(matrix, x.dtype)
    width, (rows, n) = vectors * lanes(x.dtype), m.shape
    for p in range(count):
        patch = np.array([
            [x.row(p * x_next + i * x_row + j * x_col, width) for j in range(n)] for i in range(n)
        ])  # fmt: skip
        found = np.einsum("ai,bj,ijc->abc", m, m, patch)
        if relu:
            found[found < 0] = 0
        for i in range(rows):
            for j in range(rows):
                y.row(p * y_next + i * y_row + j * y_col, width)[...] = found[i, j]


def patches(name: str, matrix: Matrix, relu: bool = False, ahead: int = 0) -> Code:
    """Return the code of (1) for a matrix of at most 4 x 4, with something positive in each row.

    Its arguments are those of `_twin` from `count` on: how many patches; where the first begins,
    and how many elements apart rows, columns and patches are; the same for what is written; and how
    many vectors are at each place. Where what is written lies in no cache, it is asked for so many
    patches `ahead`.
    """
    return Code(name, partial(_emit, name, matrix, relu, ahead), partial(_twin, matrix, relu))
