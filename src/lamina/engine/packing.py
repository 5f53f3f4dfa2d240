"""Copies of blocks of a matrix, straight or transposed in registers, emitted as LLVM vector IR."""

from typing import Any, Final

from llvmlite import ir

from .jit import Address, Code
from .loops import for_range
from .tile import Emitter, lanes

LATER: Final = 16
"""What spreads rows asks for the one that comes so many rows later: memory may be far away."""

_i64, _i32, _pointer = ir.IntType(64), ir.IntType(32), ir.PointerType()


def _emit_copy(dtype: Any) -> str:
    """Copy rows: target[i·ldt + j] = source[i·lds + j], vector by vector."""
    e = Emitter(dtype)
    f = ir.Function(e.module, ir.FunctionType(ir.VoidType(), [_i64] * 7), "copy")
    b = ir.IRBuilder(f.append_basic_block("entry"))
    source, lds, rows, vectors, last, target, ldt = f.args
    source, target = b.inttoptr(source, _pointer), b.inttoptr(target, _pointer)
    mask = e.first_lanes(b, last)
    partly = b.icmp_signed("<", last, _i64(e.lanes))
    whole = b.sub(vectors, b.zext(partly, _i64))
    with for_range(b, rows) as i:
        from_row = e.at(b, source, b.mul(i.index, lds))
        into_row = e.at(b, target, b.mul(i.index, ldt))
        with for_range(b, whole) as v:
            j = b.mul(v.index, _i64(e.lanes))
            e.store(b, e.load(b, e.at(b, from_row, j), None), e.at(b, into_row, j), None)
        with b.if_then(partly):
            j = b.mul(whole, _i64(e.lanes))
            value = e.load(b, e.at(b, from_row, j), mask)
            e.store_first(b, [value], [e.at(b, into_row, j)], last)
    b.ret_void()
    return str(e.module)


def _emit_spread(dtype: Any) -> str:
    """Copy rows to panels: row i of panel p, `width` elements, goes to target + p·gap + i·width.

    Rows are read in their whole length, as memory likes best to be read. Whole vectors are copied
    where less will do: the next row of the panel covers what is too much. So a panel is followed by
    room for the rest of a vector, and the last row, of at least one, is read and written by masks.
    """
    e = Emitter(dtype)
    f = ir.Function(e.module, ir.FunctionType(ir.VoidType(), [_i64] * 7), "spread")
    b = ir.IRBuilder(f.append_basic_block("entry"))
    source, lds, rows, panels, width, target, gap = f.args
    source, target = b.inttoptr(source, _pointer), b.inttoptr(target, _pointer)
    before_last = b.sdiv(b.sub(width, _i64(1)), _i64(e.lanes))
    whole = b.add(before_last, _i64(1))
    last = b.mul(before_last, _i64(e.lanes))
    mask = e.first_lanes(b, b.sub(width, last))
    # A vector too long must end within the next row.
    freely = b.select(b.icmp_signed("<", lds, _i64(e.lanes)), _i64(0), b.sub(rows, _i64(1)))

    def lines(start: ir.Value, stop: ir.Value, vectors: ir.Value, masked: bool) -> None:
        with for_range(b, stop, start=start) as i:
            follows = b.icmp_signed("<", b.add(i.index, _i64(LATER)), rows)
            ahead = b.select(follows, b.mul(lds, _i64(LATER)), _i64(0))
            with for_range(b, panels) as p:
                line = e.at(b, source, b.add(b.mul(i.index, lds), b.mul(p.index, width)))
                into = e.at(b, target, b.add(b.mul(p.index, gap), b.mul(i.index, width)))
                e.prefetch(b, e.at(b, line, ahead))
                with for_range(b, vectors) as v:
                    j = b.mul(v.index, _i64(e.lanes))
                    e.store(b, e.load(b, e.at(b, line, j), None), e.at(b, into, j), None)
                if masked:
                    e.store(b, e.load(b, e.at(b, line, last), mask), e.at(b, into, last), mask)

    lines(_i64(0), freely, whole, False)
    lines(freely, rows, before_last, True)
    b.ret_void()
    return str(e.module)


def _spread_twin(
    source: Address, lds: int, rows: int, panels: int, width: int, target: Address, gap: int
) -> None:
    for i in range(rows):
        for p in range(panels):
            line = source.row(i * lds + p * width, width)
            target.row(p * gap + i * width, width)[...] = line


def _copy_twin(
    source: Address, lds: int, rows: int, vectors: int, last: int, target: Address, ldt: int
) -> None:
    width = (vectors - 1) * lanes(source.dtype) + last
    for i in range(rows):
        target.row(i * ldt, width)[...] = source.row(i * lds, width)


def transposed(
    e: Emitter,
    b: ir.IRBuilder,
    places: list[ir.Value],
    count: ir.Value | None = None,
    whole: bool = False,
) -> list[ir.Value]:
    """Load L vectors of L lanes and transpose them; lanes from `count` on are 0 and not read.

    They are loaded by blocks of 128 bits, each to where it belongs: to exchange such blocks between
    registers takes some CPUs many cycles. So they are only where `whole` vectors, of four blocks,
    are loaded, each of which is a line of the cache: a line is then read once, for level 1 soon
    loses those that lie a power of two apart. Within a block, elements are interleaved and then
    pairs of them, for which every CPU has an instruction.
    """
    n, block = e.lanes, 16 // e.align
    lines = []
    if whole:
        mask = None if count is None else e.first_lanes(b, count)
        loaded = [e.load(b, place, mask) for place in places]
        exchanged = [_exchanged(b, loaded[q::block]) for q in range(block)]
        lines = [line for group in zip(*exchanged, strict=True) for line in group]
    else:
        part = e.of_lanes(block)
        for first in range(0, n, block):
            mask = None if count is None else part.first_lanes(b, b.sub(count, _i64(first)))
            for q in range(block):
                parts = [part.load(b, e.at(b, place, first), mask) for place in places[q::block]]
                while len(parts) > 1:
                    pairs = zip(parts[::2], parts[1::2], strict=True)
                    parts = [joined(b, *pair) for pair in pairs]
                lines += parts
    stage = 1
    while stage < block:
        starts = [s + g for s in range(0, n, block) for g in range(0, block // 2, stage)]
        low = [p + i for s in starts for p in (s, n + s) for i in range(stage)]
        high = [p + block // 2 for p in low]
        shuffled = list(lines)
        for q in (q for q in range(n) if not q & stage):
            for into, order in ((q, low), (q + stage, high)):
                chosen = ir.Constant(ir.VectorType(_i32, n), order)
                shuffled[into] = b.shuffle_vector(lines[q], lines[q + stage], chosen)
        lines = shuffled
        stage *= 2
    if block == 4:  # interleaving twice leaves the middle two of four exchanged
        lines = [lines[q - q % 4 + (0, 2, 1, 3)[q % 4]] for q in range(n)]
    return lines


def _exchanged(b: ir.IRBuilder, lines: list[ir.Value]) -> list[ir.Value]:
    """Return the i-th blocks of four vectors, of four blocks each, as the i-th vector."""
    n = lines[0].type.count
    kind, block = ir.VectorType(_i32, n), n // 4

    def chosen(x: ir.Value, y: ir.Value, *blocks: int) -> ir.Value:
        """Return two blocks of x and behind them the same of y."""
        order = [s + q * block + i for s in (0, n) for q in blocks for i in range(block)]
        return b.shuffle_vector(x, y, ir.Constant(kind, order))

    (w, x, y, z), halves = lines, ((0, 1), (2, 3))
    pairs = [(chosen(w, x, *half), chosen(y, z, *half)) for half in halves]
    return [chosen(low, high, q, q + 2) for low, high in pairs for q in (0, 1)]


def joined(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Return the lanes of x and behind them those of y."""
    count = 2 * x.type.count
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(_i32, count), list(range(count))))


def _emit_transpose(dtype: Any) -> str:
    """Transpose: target[i·ldt + j] = source[j·lds + i], 0 <= i < rows, 0 <= j < columns.

    L × L blocks, L the lanes of a vector, are loaded by rows and transposed in registers. What is
    left over goes singly.
    """
    e = Emitter(dtype)
    n = e.lanes
    f = ir.Function(e.module, ir.FunctionType(ir.VoidType(), [_i64] * 6), "transpose")
    b = ir.IRBuilder(f.append_basic_block("entry"))
    source, lds, rows, columns, target, ldt = f.args
    source, target = b.inttoptr(source, _pointer), b.inttoptr(target, _pointer)
    row_blocks, column_blocks = b.sdiv(rows, _i64(n)), b.sdiv(columns, _i64(n))
    whole_rows, whole_columns = b.mul(row_blocks, _i64(n)), b.mul(column_blocks, _i64(n))

    with for_range(b, column_blocks) as bj:
        j = b.mul(bj.index, _i64(n))
        from_block = e.at(b, source, b.mul(j, lds))
        with for_range(b, row_blocks) as bi:
            i = b.mul(bi.index, _i64(n))
            rows_at = [e.at(b, e.at(b, from_block, i), b.mul(lds, _i64(q))) for q in range(n)]
            into_block = e.at(b, e.at(b, target, b.mul(i, ldt)), j)
            for q, line in enumerate(transposed(e, b, rows_at)):
                e.store(b, line, e.at(b, into_block, b.mul(ldt, _i64(q))), None)

    def singly(row_from: Any, column_from: Any, column_to: Any) -> None:
        with (
            for_range(b, column_to, start=column_from) as j,
            for_range(b, rows, start=row_from) as i,
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

spread: Final = Code("spread", _emit_spread, _spread_twin)
"""`spread(dtype)`: code with the arguments source, lds, rows, panels, width, target, gap."""

transpose: Final = Code("transpose", _emit_transpose, _transpose_twin)
"""`transpose(dtype)`: code with the arguments source, lds, rows, columns, target, ldt."""
