"""Products of a few rows, or of a few terms, where reading B or writing C is all the time it takes.

    C[m, j] = start[m, j] + Σ_k A[m, k] B[k, j]                                                 (1)

The sums of a tile stay in registers while B passes by in columns as narrow as the tile. Here a few
rows of B pass by in their whole length, as memory likes best to be read, and the sums lie in C,
which a cache holds. Of few terms it is B that stays there, while rows of C go by. For the sums of
columns, a row of A that is one element, they stay in registers while many rows pass by. A B that
lies by columns passes by in a few vectors of columns, of which blocks are turned in registers; one
in panels, which lie along memory, in a few of them at a time. An element is the same chain of
multiply-adds as in a tile: these are other loops around it, not other sums.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from . import jit
from .jit import Address, Code
from .memory import LINE
from .packing import transposed
from .tile import Emitter, lanes, panel_vectors

MOST: Final = 2
"""The most rows at once."""
TOGETHER: Final = 8
"""How many rows of B, or vectors of its panels, pass by together for one row of C, half as many for
two."""
SOON: Final = 256
"""How many bytes before its turn a B that lies by columns is asked for: many pass by together."""
CHAINS: Final = 3
"""How many vectors of columns pass by together: each is a chain, which waits for itself."""
ABREAST: Final = 8
"""Vectors whose sums stay in registers while rows of B pass by that are multiplied alike."""
CHUNK: Final = 2**14
"""Bytes of such rows that pass by before the next columns do, while those that follow are asked
for: memory is all that they wait for."""

TERMS: Final = 5
"""Where the number of terms stands among the arguments of a function."""

NDArray = npt.NDArray[Any]

_i64, _i1, _pointer = ir.IntType(64), ir.IntType(1), ir.PointerType()


class _Product:
    """The arguments that all functions here share, within a function of a number of rows.

    In one of a number of terms, `k` is how many rows there are.
    """

    def __init__(self, e: Emitter, name: str, rows: int) -> None:
        kinds = [_pointer, _i64, _i64, _pointer, _i64, _i64, _pointer, _i64, _pointer] + [_i64] * 4
        self.e, self.rows = e, rows
        self.function = ir.Function(e.module, ir.FunctionType(ir.VoidType(), kinds), name)
        self.function.linkage = "internal"
        self.function.attributes.add("nounwind")
        (
            self.a, self.a_row, self.a_col, self.b_, self.ldb, self.k, self.start, self.start_col,
            self.c, self.ldc, self.vectors, self.last, self.relu,
        ) = self.function.args  # fmt: skip
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))

    def loop(
        self, count: ir.Value, values: list[ir.Value], body: Callable[..., list[ir.Value]]
    ) -> list[ir.Value]:
        """Emit body(0, values), body(1, what that returned) and so on: `count` times or none."""
        b = self.b
        before = b.block
        start, end = (self.function.append_basic_block(name) for name in ("loop", "end"))
        b.cbranch(b.icmp_signed(">", count, _i64(0)), start, end)
        b.position_at_end(start)
        i, phis = b.phi(_i64), [b.phi(value.type) for value in values]
        results = body(i, phis)
        following, after = b.add(i, _i64(1)), b.block
        i.add_incoming(_i64(0), before)
        i.add_incoming(following, after)
        b.cbranch(b.icmp_signed("<", following, count), start, end)
        b.position_at_end(end)
        found = []
        for phi, first, result in zip(phis, values, results, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(result, after)
            outcome = b.phi(first.type)
            outcome.add_incoming(first, before)
            outcome.add_incoming(result, after)
            found.append(outcome)
        return found

    def element(self, row: ir.Value | int, term: ir.Value) -> ir.Value:
        """Return A[row, term] in every lane."""
        e, b = self.e, self.b
        row = _i64(row) if isinstance(row, int) else row
        place = b.add(b.mul(self.a_row, row), b.mul(self.a_col, term))
        value = b.load(e.at(b, self.a, place), typ=e.scalar, align=e.align)
        return e.spread(b, value, e.vector)

    def floor(self, here: ir.Value) -> ir.Value:
        """Return what results are not below: 0 where there is a ReLU, and it is its turn here."""
        e, b = self.e, self.b
        relu = b.and_(b.icmp_signed("!=", self.relu, _i64(0)), here)
        return e.spread(b, e.floor(b, relu), e.vector)


def _rows(e: Emitter, rows: int, past: bool = False) -> ir.Function:
    """Emit (1) for so many rows: a few rows of B at a time; of few terms, C past the caches."""
    p = _Product(e, f"rows_{rows}", rows)
    b, line = p.b, max(1, LINE // jit.vector_bytes())
    into = [e.at(b, p.c, b.mul(p.ldc, _i64(m))) for m in range(rows)]

    # What is larger, B or C, is cut into vectors that lie within lines of the cache. What is left
    # over at both ends goes singly, with its sums in registers.
    columns = b.add(b.mul(b.sub(p.vectors, _i64(1)), _i64(e.lanes)), p.last)
    larger = p.c if past else b.select(b.icmp_signed(">", p.k, _i64(MOST)), p.b_, p.c)
    before = b.and_(b.neg(b.ptrtoint(larger, _i64)), _i64(e.lanes * e.align - 1))
    head = b.udiv(before, _i64(e.align))
    head = b.select(b.icmp_signed("<", head, columns), head, columns)
    whole = b.sdiv(b.sub(columns, head), _i64(e.lanes))
    tail = b.srem(b.sub(columns, head), _i64(e.lanes))

    def end(j: ir.Value, some: ir.Value) -> None:
        """Add all terms to so many lanes from column j on."""
        mask = e.first_lanes(b, some)
        begin = e.load(b, e.at(b, p.start, b.mul(j, p.start_col)), mask)

        def term(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            values = e.load(b, e.at(b, p.b_, b.add(b.mul(p.ldb, i), j)), mask)
            return [e.multiply_add(b, p.element(m, i), values, z) for m, z in enumerate(sums)]

        floor = p.floor(_i1(1))
        for place, z in zip(into, p.loop(p.k, [begin] * rows, term), strict=True):
            e.store(b, e.at_least(b, z, floor), e.at(b, place, j), mask)

    for j, some in ((_i64(0), head), (b.sub(columns, tail), tail)):
        with b.if_then(b.icmp_signed(">", some, _i64(0))):
            end(j, some)

    def terms(first: ir.Value, many: int) -> None:
        """Add so many terms to all whole vectors; the very first begin from `start`."""
        is_first = b.icmp_signed("==", first, _i64(0))
        begin = b.select(is_first, p.start, p.c)
        begin_step = b.select(is_first, p.start_col, _i64(1))
        begin_row = b.select(is_first, _i64(0), p.ldc)
        begins = [e.at(b, begin, b.mul(begin_row, _i64(m))) for m in range(rows)]
        floor = p.floor(b.icmp_signed("==", b.add(first, _i64(many)), p.k))
        factors = [[p.element(m, b.add(first, _i64(u))) for u in range(many)] for m in range(rows)]
        lines = [e.at(b, p.b_, b.mul(p.ldb, b.add(first, _i64(u)))) for u in range(many)]

        def vector(j: ir.Value) -> None:
            values = [e.load(b, e.at(b, place, j), None) for place in lines]
            for m in range(rows):
                z = e.load(b, e.at(b, begins[m], b.mul(j, begin_step)), None)
                for factor, value in zip(factors[m], values, strict=True):
                    z = e.multiply_add(b, factor, value, z)
                z, place = e.at_least(b, z, floor), e.at(b, into[m], j)
                if past:
                    e.stream(b, z, place)
                else:
                    e.store(b, z, place, None)

        def whole_line(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            j = b.add(head, b.mul(i, _i64(line * e.lanes)))
            for v in range(line):
                vector(b.add(j, _i64(v * e.lanes)))
            return []

        def single(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            vector(b.add(head, b.mul(b.add(done, i), _i64(e.lanes))))
            return []

        count = b.sdiv(whole, _i64(line))
        done = b.mul(count, _i64(line))
        p.loop(count, [], whole_line)
        p.loop(b.sub(whole, done), [], single)

    def group(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        terms(b.mul(i, _i64(together)), together)
        return []

    def rest(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        terms(b.add(grouped, i), 1)
        return []

    together = MOST if past else TOGETHER // rows
    groups = b.sdiv(p.k, _i64(together))
    grouped = b.mul(groups, _i64(together))
    p.loop(groups, [], group)
    p.loop(b.sub(p.k, grouped), [], rest)
    b.ret_void()
    return p.function


def _sums(e: Emitter, rows: int) -> ir.Function:
    """Emit (1) for one row of A whose elements are one and the same: sums of columns."""
    p = _Product(e, "sums", rows)
    b, line = p.b, max(1, LINE // jit.vector_bytes())
    factor = p.element(0, _i64(0))
    partly = b.icmp_signed("<", p.last, _i64(e.lanes))
    whole = b.sub(p.vectors, b.zext(partly, _i64))
    blocks = b.sdiv(whole, _i64(ABREAST))
    blocked = b.mul(blocks, _i64(ABREAST))
    chunk = b.sdiv(_i64(CHUNK // (e.lanes * e.align)), p.vectors)
    chunk = b.select(b.icmp_signed(">", chunk, _i64(1)), chunk, _i64(1))
    chunks = b.sdiv(b.add(p.k, b.sub(chunk, _i64(1))), chunk)

    def some(first: ir.Value, many: int, v: ir.Value, mask: ir.Value | None = None) -> None:
        """Add a chunk of rows to so many vectors; the very first begins from `start`."""
        left, j = b.sub(p.k, first), b.mul(v, _i64(e.lanes))
        count = b.select(b.icmp_signed("<", left, chunk), left, chunk)
        follows = b.icmp_signed(">=", left, b.mul(chunk, _i64(2)))
        ahead = b.select(follows, b.mul(chunk, p.ldb), _i64(0))
        is_first = b.icmp_signed("==", first, _i64(0))
        begin = b.select(is_first, e.at(b, p.start, b.mul(j, p.start_col)), e.at(b, p.c, j))
        step = b.select(is_first, b.mul(p.start_col, _i64(e.lanes)), _i64(e.lanes))
        begins = [e.load(b, e.at(b, begin, b.mul(step, _i64(n))), mask) for n in range(many)]

        def row(i: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
            at, *sums = values
            places = [e.at(b, at, n * e.lanes) for n in range(many)]
            for place in places[::line]:
                e.prefetch(b, e.at(b, place, ahead))
            terms = [e.load(b, place, mask) for place in places]
            added = [e.multiply_add(b, factor, *z) for z in zip(terms, sums, strict=True)]
            return [e.at(b, at, p.ldb), *added]

        at = e.at(b, p.b_, b.add(b.mul(first, p.ldb), j))
        _, *sums = p.loop(count, [at, *begins], row)
        floor, into = p.floor(b.icmp_signed("==", count, left)), e.at(b, p.c, j)
        for n, z in enumerate(sums):
            e.store(b, e.at_least(b, z, floor), e.at(b, into, n * e.lanes), mask)

    def rows_of(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        first = b.mul(i, chunk)

        def block(v: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            some(first, ABREAST, b.mul(v, _i64(ABREAST)))
            return []

        def single(v: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            some(first, 1, b.add(blocked, v))
            return []

        p.loop(blocks, [], block)
        p.loop(b.sub(whole, blocked), [], single)
        with b.if_then(partly):
            some(first, 1, whole, e.first_lanes(b, p.last))
        return []

    p.loop(chunks, [], rows_of)
    b.ret_void()
    return p.function


def _terms(e: Emitter, terms: int) -> ir.Function:
    """Emit (1) for so few terms: row after row of C, while B stays in a level-1 cache."""
    p = _Product(e, f"terms_{terms}", 0)
    b = p.b
    lines = [e.at(b, p.b_, b.mul(p.ldb, _i64(t))) for t in range(terms)]
    partly = b.icmp_signed("<", p.last, _i64(e.lanes))
    whole = b.sub(p.vectors, b.zext(partly, _i64))
    groups = b.sdiv(whole, _i64(ABREAST))
    grouped = b.mul(groups, _i64(ABREAST))
    mask, floor = e.first_lanes(b, p.last), p.floor(_i1(1))

    def row(m: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        into = e.at(b, p.c, b.mul(p.ldc, m))
        factors = [p.element(m, _i64(t)) for t in range(terms)]

        def some(v: ir.Value, many: int, mask: ir.Value | None = None) -> list[ir.Value]:
            for n in range(many):
                j = b.mul(b.add(v, _i64(n)), _i64(e.lanes))
                z = e.load(b, e.at(b, p.start, b.mul(j, p.start_col)), mask)
                for factor, line in zip(factors, lines, strict=True):
                    z = e.multiply_add(b, factor, e.load(b, e.at(b, line, j), mask), z)
                e.store(b, e.at_least(b, z, floor), e.at(b, into, j), mask)
            return []

        p.loop(groups, [], lambda g, _: some(b.mul(g, _i64(ABREAST)), ABREAST))
        p.loop(b.sub(whole, grouped), [], lambda v, _: some(b.add(grouped, v), 1))
        with b.if_then(partly):
            some(whole, 1, mask)
        return []

    p.loop(p.k, [], row)
    b.ret_void()
    return p.function


def _turned(e: Emitter, rows: int) -> ir.Function:
    """Emit (1) for so many rows where B[k, j] is at j·ldb + k: blocks are turned in registers.

    Where a vector is a line of the cache, and all columns begin with one, whole lines are loaded.
    """
    if e.lanes * e.align != LINE:
        return _turned_by(e, rows, False)
    p = _Product(e, f"turned_{rows}", rows)
    b = p.b
    places = b.or_(b.ptrtoint(p.b_, _i64), b.mul(p.ldb, _i64(e.align)))
    on_lines = b.icmp_signed("==", b.and_(places, _i64(LINE - 1)), _i64(0))
    with b.if_else(on_lines) as branches:
        for branch, whole in zip(branches, (True, False), strict=True):
            with branch:
                b.call(_turned_by(e, rows, whole), p.function.args)
    b.ret_void()
    return p.function


def _turned_by(e: Emitter, rows: int, whole_lines: bool) -> ir.Function:
    """Emit that of blocks that are loaded by whole lines, or by 128 bits."""
    p = _Product(e, f"turned_{rows}_by_{'lines' if whole_lines else 'blocks'}", rows)
    b, n, line = p.b, e.lanes, max(1, LINE // jit.vector_bytes())
    turned = b.alloca(ir.ArrayType(e.vector, n))
    turned.type = _pointer
    columns = b.add(b.mul(b.sub(p.vectors, _i64(1)), _i64(n)), p.last)
    into = [e.at(b, p.c, b.mul(p.ldc, _i64(m))) for m in range(rows)]
    floor = p.floor(_i1(1))

    def add(i: ir.Value, lines: list[ir.Value], sums: list[ir.Value]) -> list[ir.Value]:
        """Add the terms i, i + 1, ... of turned lines to the sums of all rows."""
        for q, values in enumerate(lines):
            term = b.add(i, _i64(q))
            sums = [e.multiply_add(b, p.element(m, term), values, z) for m, z in enumerate(sums)]
        return sums

    def some(first: ir.Value, many: int) -> None:
        """Compute so many vectors of columns; only a single one may be that at the end."""
        j = b.mul(first, _i64(n))
        left = b.sub(columns, j)
        mask = None if many > 1 else e.first_lanes(b, left)

        def places(v: int, i: ir.Value) -> list[ir.Value]:
            found = [e.at(b, e.at(b, p.b_, b.mul(p.ldb, b.add(j, _i64(v * n)))), i)]
            for q in range(1, n):  # in the place of a column that is not there the last one
                step = p.ldb
                if mask is not None:
                    step = b.select(b.icmp_signed("<", _i64(q), left), p.ldb, _i64(0))
                found.append(e.at(b, found[-1], step))
            return found

        distance = _i64(SOON // e.align)

        def blocks(count: int) -> Callable[[ir.Value, list[ir.Value]], list[ir.Value]]:
            """Return what adds so many blocks of L terms to all sums."""

            def body(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
                i = b.mul(i, _i64(count * n)) if count > 1 else b.add(whole, b.mul(i, _i64(n)))
                soon = b.select(
                    b.icmp_signed("<", b.add(i, distance), p.k), distance, _i64(0)
                )  # behind a column is one that passes by beside it, or nothing
                found = []
                for v in range(many):
                    mine = sums[v * rows : (v + 1) * rows]
                    at = places(v, i)
                    for u in range(count):
                        part = [e.at(b, place, u * n) for place in at]
                        lines = transposed(e, b, part, whole=whole_lines)
                        mine = add(b.add(i, _i64(u * n)), lines, mine)
                    for place in at:
                        e.prefetch(b, e.at(b, place, soon))
                    found += mine
                return found

            return body

        sums = []
        for v in range(many):
            begin = b.add(j, _i64(v * n))
            sums += [e.load(b, e.at(b, p.start, b.mul(begin, p.start_col)), mask)] * rows
        together = max(2, line)
        count = b.sdiv(p.k, _i64(together * n))
        whole = b.mul(count, _i64(together * n))
        sums = p.loop(count, sums, blocks(together))
        rest = b.sdiv(b.sub(p.k, whole), _i64(n))
        sums = p.loop(rest, sums, blocks(1))
        done = b.add(whole, b.mul(rest, _i64(n)))
        for v in range(many):
            lines = transposed(e, b, places(v, done), b.sub(p.k, done), whole_lines)
            for q, values in enumerate(lines):
                e.store(b, values, e.at(b, turned, q * n), None)

            def term(i: ir.Value, mine: list[ir.Value]) -> list[ir.Value]:
                values = e.load(b, e.at(b, turned, b.mul(i, _i64(n))), None)
                return add(b.add(done, i), [values], mine)

            mine = p.loop(b.sub(p.k, done), sums[v * rows : (v + 1) * rows], term)
            for place, z in zip(into, mine, strict=True):
                at = e.at(b, place, b.add(j, _i64(v * n)))
                e.store(b, e.at_least(b, z, floor), at, mask)

    def group(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        some(b.mul(i, _i64(CHAINS)), CHAINS)
        return []

    def single(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        some(b.add(grouped, i), 1)
        return []

    groups = b.sdiv(columns, _i64(CHAINS * n))
    grouped = b.mul(groups, _i64(CHAINS))
    p.loop(groups, [], group)
    p.loop(b.sub(p.vectors, grouped), [], single)
    b.ret_void()
    return p.function


def _panels(e: Emitter, rows: int) -> ir.Function:
    """Emit (1) for so many rows where B lies in whole panels, of which some pass by together."""
    p = _Product(e, f"panels_{rows}", rows)
    b, wide = p.b, panel_vectors()
    pitch = b.mul(p.k, _i64(wide * e.lanes))
    into = [e.at(b, p.c, b.mul(p.ldc, _i64(m))) for m in range(rows)]
    floor = p.floor(_i1(1))

    def some(first: ir.Value, many: int) -> None:
        """Compute the columns of so many panels."""
        j = b.mul(first, _i64(wide * e.lanes))
        columns = [b.add(j, _i64(v * e.lanes)) for v in range(many * wide)]
        panels = [e.at(b, p.b_, b.mul(pitch, b.add(first, _i64(q)))) for q in range(many)]
        begins = [e.load(b, e.at(b, p.start, b.mul(at, p.start_col)), None) for at in columns]

        def term(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            row = b.mul(i, _i64(wide * e.lanes))
            lines = [e.at(b, panel, row) for panel in panels]
            values = [e.load(b, e.at(b, x, v * e.lanes), None) for x in lines for v in range(wide)]
            factors = [p.element(m, i) for m in range(rows)]
            pairs = itertools.product(factors, values)
            return [e.multiply_add(b, *pair, z) for pair, z in zip(pairs, sums, strict=True)]

        places = itertools.product(into, columns)
        for (c, at), z in zip(places, p.loop(p.k, begins * rows, term), strict=True):
            e.store(b, e.at_least(b, z, floor), e.at(b, c, at), None)

    def group(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        some(b.mul(i, _i64(together)), together)
        return []

    def single(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        some(b.add(grouped, i), 1)
        return []

    together = max(1, TOGETHER // (wide * rows))
    count = b.sdiv(p.vectors, _i64(wide))
    groups = b.sdiv(count, _i64(together))
    grouped = b.mul(groups, _i64(together))
    p.loop(groups, [], group)
    p.loop(b.sub(count, grouped), [], single)
    b.ret_void()
    return p.function


def _emit(
    name: str, of: Callable[[Emitter, int], ir.Function], most: int, by_terms: bool, dtype: Any
) -> str:
    """Emit `name(m, ...)`, which calls the function for so many rows, `most` at the most.

    Or that for so many terms: it takes the rows in their place.
    """
    e = Emitter(dtype)
    f = ir.Function(e.module, ir.FunctionType(ir.VoidType(), [_i64] * 14), name)
    b = ir.IRBuilder(f.append_basic_block("entry"))
    nothing = f.append_basic_block("nothing")
    m, given = f.args[0], list(f.args[1:])
    if by_terms:
        m, given[TERMS] = given[TERMS], m
    choose = b.switch(m, nothing)
    for count in range(1, most + 1):
        function = of(e, count)
        block = f.append_basic_block(f"call_{count}")
        choose.add_case(_i64(count), block)
        b.position_at_end(block)
        arguments = [
            b.inttoptr(v, kind.type) if kind.type == _pointer else v
            for v, kind in zip(given, function.args, strict=True)
        ]
        b.call(function, arguments)
        b.ret_void()
    b.position_at_end(nothing)
    b.ret_void()
    return str(e.module)


def _lines_by_rows(b: Address, ldb: int, k: int, width: int) -> NDArray:
    return np.stack([b.row(t * ldb, width) for t in range(k)])


def _lines_by_columns(b: Address, ldb: int, k: int, width: int) -> NDArray:
    return np.stack([b.row(j * ldb, k) for j in range(width)], axis=1)


def _lines_of_panels(b: Address, ldb: int, k: int, width: int) -> NDArray:
    wide = panel_vectors() * lanes(b.dtype)
    if width % wide:
        raise IndexError(f"{width} columns are not whole panels")
    panels = [b.row(j * k, wide * k).reshape(k, wide) for j in range(0, width, wide)]
    return np.concatenate(panels, axis=1)


def _twin(
    lines_of: Callable[..., NDArray], by_terms: bool,
    m: int, a: Address, a_row: int, a_col: int, b: Address, ldb: int, k: int,
    start: Address, start_col: int, c: Address, ldc: int, vectors: int, last: int, relu: int,
) -> None:  # fmt: skip
    """Compute (1) in plain Python, each access checked."""
    n = lanes(c.dtype)
    few, many = (k, m) if by_terms else (m, k)
    if not (1 <= few <= MOST and many >= 1 and vectors >= 1 and 1 <= last <= n):
        raise IndexError(f"no product of {m} rows, {vectors} vectors, {k} terms")
    width = (vectors - 1) * n + last
    begin = start.row(0, width) if start_col else np.resize(start.row(0, min(width, n)), width)
    lines = lines_of(b, ldb, k, width)
    for i in range(m):
        sums = begin.copy()
        for t in range(k):
            sums += a.row(i * a_row + t * a_col, 1)[0] * lines[t]
        if relu:
            sums[sums < 0] = 0
        c.row(i * ldc, width)[...] = sums


def _code(
    name: str,
    of: Callable[..., ir.Function],
    lines_of: Callable[..., NDArray],
    most: int = MOST,
    by_terms: bool = False,
) -> Code:
    return Code(name, partial(_emit, name, of, most, by_terms), partial(_twin, lines_of, by_terms))


few_rows: Final = _code("few_rows", _rows, _lines_by_rows)
"""`few_rows(dtype)`: code with the arguments of `_twin`, but for the first."""

few_rows_past: Final = _code("few_rows_past", partial(_rows, past=True), _lines_by_rows, 1)
"""The same of one row and at most MOST terms, written past the caches: memory need not be read
before it is written then. Two rows at once would fill lines of memory in turns, at half the speed.
"""

few_terms: Final = _code("few_terms", _terms, _lines_by_rows, by_terms=True)
"""The same of at most MOST terms, and any number of rows."""

few_sums: Final = _code("few_sums", _sums, _lines_by_rows, 1)
"""The same of one row of A, a·Σ_k B[k, j] for one element a."""

few_turned: Final = _code("few_turned", _turned, _lines_by_columns)
"""`few_turned(dtype)`: that of a B that lies by columns, B[k, j] at j·ldb + k."""

few_panels: Final = _code("few_panels", _panels, _lines_of_panels)
"""`few_panels(dtype)`: that of whole panels, one behind the other; ldb is not used."""
