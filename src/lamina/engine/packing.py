"""Copies of blocks of a matrix, straight or transposed in registers, emitted as LLVM vector IR."""

from typing import Any, Final

from llvmlite import ir
from numba.core import cgutils

from .jit import Address, Code
from .tile import Emitter, lanes

_i64, _i32, _pointer = ir.IntType(64), ir.IntType(32), ir.PointerType()


def _emit_copy(dtype: Any) -> str:
    """Copy rows: target[i·ldt + j] = source[i·lds + j], vector by vector."""
    e = Emitter(dtype)
    f = ir.Function(e.module, ir.FunctionType(ir.VoidType(), [_i64] * 7), "copy")
    b = ir.IRBuilder(f.append_basic_block("entry"))
    source, lds, rows, vectors, last, target, ldt = f.args
    source, target = b.inttoptr(source, _pointer), b.inttoptr(target, _pointer)
    mask = e.first_lanes(b, last)
    partly = b.icmp_signed("<", last, _i64(e.lanes))  # masked stores are slow on some CPUs
    whole = b.sub(vectors, b.zext(partly, _i64))
    with cgutils.for_range(b, rows, intp=_i64) as i:
        from_row = e.at(b, source, b.mul(i.index, lds))
        into_row = e.at(b, target, b.mul(i.index, ldt))
        with cgutils.for_range(b, whole, intp=_i64) as v:
            j = b.mul(v.index, _i64(e.lanes))
            e.store(b, e.load(b, e.at(b, from_row, j), None), e.at(b, into_row, j), None)
        with b.if_then(partly):
            j = b.mul(whole, _i64(e.lanes))
            e.store(b, e.load(b, e.at(b, from_row, j), mask), e.at(b, into_row, j), mask)
    b.ret_void()
    return str(e.module)


def _copy_twin(
    source: Address, lds: int, rows: int, vectors: int, last: int, target: Address, ldt: int
) -> None:
    width = (vectors - 1) * lanes(source.dtype) + last
    for i in range(rows):
        target.row(i * ldt, width)[...] = source.row(i * lds, width)


def _emit_transpose(dtype: Any) -> str:
    """Transpose: target[i·ldt + j] = source[j·lds + i], 0 <= i < rows, 0 <= j < columns.

    L × L blocks, L the lanes of a vector, are loaded by rows and shuffled in log2(L) stages: stage
    s exchanges, between rows s apart, the lanes that are s apart. What is left over goes singly.
    """
    e = Emitter(dtype)
    n = e.lanes
    f = ir.Function(e.module, ir.FunctionType(ir.VoidType(), [_i64] * 6), "transpose")
    b = ir.IRBuilder(f.append_basic_block("entry"))
    source, lds, rows, columns, target, ldt = f.args
    source, target = b.inttoptr(source, _pointer), b.inttoptr(target, _pointer)
    row_blocks, column_blocks = b.sdiv(rows, _i64(n)), b.sdiv(columns, _i64(n))
    whole_rows, whole_columns = b.mul(row_blocks, _i64(n)), b.mul(column_blocks, _i64(n))

    with cgutils.for_range(b, column_blocks, intp=_i64) as bj:
        j = b.mul(bj.index, _i64(n))
        from_block = e.at(b, source, b.mul(j, lds))
        with cgutils.for_range(b, row_blocks, intp=_i64) as bi:
            i = b.mul(bi.index, _i64(n))
            lines = [
                e.load(b, e.at(b, e.at(b, from_block, i), b.mul(lds, _i64(q))), None)
                for q in range(n)
            ]
            stage = 1
            while stage < n:
                shuffled = list(lines)
                for q in (q for q in range(n) if not q & stage):
                    low = [p if not p & stage else n + p - stage for p in range(n)]
                    high = [p + stage if not p & stage else n + p for p in range(n)]
                    for into, order in ((q, low), (q + stage, high)):
                        chosen = ir.Constant(ir.VectorType(_i32, n), order)
                        shuffled[into] = b.shuffle_vector(lines[q], lines[q + stage], chosen)
                lines = shuffled
                stage *= 2
            into_block = e.at(b, e.at(b, target, b.mul(i, ldt)), j)
            for q, line in enumerate(lines):
                e.store(b, line, e.at(b, into_block, b.mul(ldt, _i64(q))), None)

    def singly(row_from: Any, column_from: Any, column_to: Any) -> None:
        with (
            cgutils.for_range(b, column_to, start=column_from, intp=_i64) as j,
            cgutils.for_range(b, rows, start=row_from, intp=_i64) as i,
        ):
            at = e.at(b, source, b.add(b.mul(j.index, lds), i.index))
            into = e.at(b, target, b.add(b.mul(i.index, ldt), j.index))
            value = b.load(at, typ=e.scalar, align=e.align)
            b.store(value, into, align=e.align)

    singly(whole_rows, _i64(0), whole_columns)
    singly(_i64(0), whole_columns, columns)
    b.ret_void()
    return str(e.module)


def _transpose_twin(
    source: Address, lds: int, rows: int, columns: int, target: Address, ldt: int
) -> None:
    for j in range(columns):
        line = source.row(j * lds, rows)
        for i in range(rows):
            target.row(i * ldt + j, 1)[0] = line[i]


copy: Final = Code("copy", _emit_copy, _copy_twin)
"""`copy(dtype)`: code with the arguments source, lds, rows, vectors, last, target, ldt."""

transpose: Final = Code("transpose", _emit_transpose, _transpose_twin)
"""`transpose(dtype)`: code with the arguments source, lds, rows, columns, target, ldt."""
