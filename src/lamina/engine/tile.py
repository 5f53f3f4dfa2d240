"""THE microkernel: a register tile, emitted as LLVM vector IR.

A tile of H rows and V vectors of L lanes computes

    C[m, j] = start[m, j] + Σ_s Σ_i A[a_s + m·row + i·col] · B[b_s + i·ldb + j]                 (1)

for 0 <= m < H and 0 <= j < (V - 1)·L + last, with all its sums in registers, and at the end
max(0, C) where a ReLU is asked for. Segments s are consecutive parts of the sum, each of K terms
i: one for a matrix product or a step of a recurrence, one a kernel row for a convolution over
channels-last images.

- Each element is ONE chain of multiply-adds, over s and within it over i in rising order. Height,
  width and place of the tile do not matter to it: that is why results have the same bits alone, in
  any batch, and on any number of threads.
- `start` is C itself to go on with a sum, a bias (row stride 0), or zeros (row stride 0).
- More rows than a tile has are tiles one below the other, their heights equalised.
- The last vector has `last` lanes, 1 to L; the others are not read or written, in C or start. In B
  they are, but with AVX-512, read where a later row of the segment follows, whatever stands there:
  a mask at each term would cost as much as ten multiply-adds on some CPUs. In panels zeros do, for
  denormal numbers would cost far more.
- With AVX-512, narrow tiles of few terms hold rows of B in registers in the place of sums.
- With AVX-512, a last vector of at most L / 2 lanes is half a register: some CPUs work on the whole
  of one in two halves.
- A tile of another code packs: it writes the rows of B, as it reads them, to a panel for the tiles
  below it. The multiply-adds hide what the copy takes.
- NaN passes the ReLU, as it passes everything else.

The code of all heights and widths is one LLVM module, compiled once a dtype and machine and kept in
the cache on disk. Drivers call it through its address, so that no driver compiles it again.
"""

from copy import copy
from functools import partial, reduce
from typing import Any, Final, TypeAlias

import numpy as np
from llvmlite import ir

from . import jit
from .jit import Address, Code
from .loops import for_range

WIDTHS: Final = range(1, 9)
"""The numbers of vectors a tile may have."""
TALLEST: Final = 9
"""No tile is taller, however narrow: enough chains to hide the latency of a multiply-add."""

NEXT: Final = 16
"""A tile that packs asks for the row of B that comes so many rows later."""
UNROLLED: Final = 4
"""Terms that go together in large tiles: all that is no multiply-add counts, the more as programs
that share a core share its instructions."""
ROWS: Final = 8
"""The rows of a narrow tile, ..."""
TERMS: Final = 16
"""... and how many rows of B it holds in registers, with AVX-512."""

_i64, _i32, _i1, _pointer = ir.IntType(64), ir.IntType(32), ir.IntType(1), ir.PointerType()
_Values: TypeAlias = list[list[ir.Value]]


def lanes(dtype: Any) -> int:
    """Return how many elements a vector register holds."""
    size: int = np.dtype(dtype).itemsize
    return jit.vector_bytes() // size


def tallest(vectors: int, masked: bool = False) -> int:
    """Return the height of the tallest tile of so many vectors that stays in registers.

    Besides the sums it holds a row of B and one element of A; a row of one or two tiles reads B
    from memory instead. A mask takes one more, but with AVX-512.
    """
    registers = jit.vector_registers() - (0 if jit.has_fma() else 1)
    registers -= masked and jit.vector_bytes() < 64
    if vectors * 2 + 2 > registers:
        return 1
    return max(1, min(TALLEST, (registers - 1) // vectors - 1))


def heights(vectors: int, masked: bool = False) -> range:
    """Return the heights of the tiles of so many vectors."""
    return range(1, tallest(vectors, masked) + 1)


def together(rows: int, vectors: int) -> int:
    """Return how many terms of a tile go together, if it is neither masked nor packs."""
    large = vectors > 1 and rows * vectors > jit.vector_registers() // 2
    return UNROLLED if large and jit.vector_bytes() >= 32 else 1


def narrow_terms() -> dict[int, int]:
    """Return up to how many terms a narrow tile takes less time, by its vectors.

    With more its sums wait too often. AMD's CPUs lose less by the loads that it spares.
    """
    if jit.vector_bytes() < 64:
        return {}
    return {1: 64} if jit.is_amd() else {1: 512, 2: 64}


def last_vectors(lanes: int) -> list[int]:
    """Return the lanes that a last vector may be computed with, if it has fewer."""
    return [lanes, lanes // 2] if jit.vector_bytes() == 64 else [lanes]


def panel_vectors() -> int:
    """Return how many vectors a panel of B is wide.

    They are those of the widest tile whose sums are chains enough to hide the latency of a
    multiply-add.
    """
    return max(v for v in (1, 2, 4) if v * tallest(v) >= 12)


class Emitter:
    """An LLVM module of functions on vectors of one dtype, and the words to write them with."""

    def __init__(self, dtype: Any) -> None:
        self.lanes = lanes(dtype)
        double = np.dtype(dtype) == np.float64
        self.scalar = ir.DoubleType() if double else ir.FloatType()
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.mask = ir.VectorType(_i1, self.lanes)
        self.suffix = f"v{self.lanes}f{64 if double else 32}"
        self.align = np.dtype(dtype).itemsize
        self.module = ir.Module("lamina")
        self.arguments = [
            _pointer, _pointer, _i64, _i64,  # a, its segments, row, col
            _pointer, _pointer, _i64,  # b, its segments, ldb
            _i64, _i64,  # segments, k
            _pointer, _i64,  # start, its row stride
            _pointer, _i64,  # c, ldc
            _i64, _i64,  # last, relu
            _pointer, _i64,  # what to prefetch while summing, its stride by k
        ]  # fmt: skip

    def of_lanes(self, count: int) -> "Emitter":
        """Return the same words for vectors of so many lanes, in the same module."""
        other = copy(self)
        other.lanes, other.vector = count, ir.VectorType(self.scalar, count)
        other.mask = ir.VectorType(_i1, count)
        other.suffix = f"v{count}f{8 * self.align}"
        return other

    # Small words

    def intrinsic(self, name: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Function:
        """Return the function of that name that LLVM provides."""
        found = self.module.globals.get(name)
        return found or ir.Function(self.module, ir.FunctionType(result, arguments), name)

    def at(self, b: ir.IRBuilder, pointer: ir.Value, elements: ir.Value | int) -> ir.Value:
        """Return the pointer to an element."""
        if isinstance(elements, int):
            if elements == 0:
                return pointer
            elements = _i64(elements)
        return b.gep(pointer, [elements], source_etype=self.scalar)

    def whole_number(self, b: ir.IRBuilder, pointer: ir.Value, index: ir.Value) -> ir.Value:
        """Return an element of an array of 64-bit integers."""
        return b.load(b.gep(pointer, [index], source_etype=_i64), typ=_i64)

    def load(self, b: ir.IRBuilder, pointer: ir.Value, mask: ir.Value | None) -> ir.Value:
        """Return a vector; lanes outside the mask are 0 and are not read."""
        if mask is None:
            return b.load(pointer, typ=self.vector, align=self.align)
        call = self.intrinsic(
            f"llvm.masked.load.{self.suffix}.p0", self.vector,
            [_pointer, _i32, self.mask, self.vector],
        )  # fmt: skip
        return b.call(call, [pointer, _i32(self.align), mask, self.vector(None)])

    def store(
        self, b: ir.IRBuilder, value: ir.Value, pointer: ir.Value, mask: ir.Value | None
    ) -> None:
        """Write a vector; lanes outside the mask are not written."""
        if mask is None:
            b.store(value, pointer, align=self.align)
            return
        call = self.intrinsic(
            f"llvm.masked.store.{self.suffix}.p0", ir.VoidType(),
            [self.vector, _pointer, _i32, self.mask],
        )  # fmt: skip
        b.call(call, [value, pointer, _i32(self.align), mask])

    def store_first(
        self, b: ir.IRBuilder, values: list[ir.Value], pointers: list[ir.Value], count: ir.Value
    ) -> None:
        """Write the first `count` lanes of each vector, fewer than a register holds.

        They go by halves of a register, quarters and so on: a masked store takes some CPUs twenty
        cycles, if they have no registers for masks.
        """
        if jit.vector_bytes() == 64:
            mask = self.first_lanes(b, count)
            for value, pointer in zip(values, pointers, strict=True):
                self.store(b, value, pointer, mask)
            return
        width, done = jit.vector_bytes() // self.align // 2, _i64(0)
        while width:
            low, high = (
                ir.Constant(ir.VectorType(_i32, width), list(range(first, first + width)))
                for first in (0, width)
            )
            before, lows = b.block, [b.shuffle_vector(v, v, low) for v in values]
            with b.if_then(b.icmp_signed("!=", b.and_(count, _i64(width)), _i64(0))):
                for value, pointer in zip(lows, pointers, strict=True):
                    b.store(value, self.at(b, pointer, done), align=self.align)
                highs = [b.shuffle_vector(v, v, high) for v in values]
                after, within = b.add(done, _i64(width)), b.block
            skipped, written = [done, *lows], [after, *highs]
            done, *values = phis = [b.phi(value.type) for value in skipped]
            for block, incoming in ((before, skipped), (within, written)):
                for phi, value in zip(phis, incoming, strict=True):
                    phi.add_incoming(value, block)
            width //= 2

    def stream(self, b: ir.IRBuilder, value: ir.Value, pointer: ir.Value) -> None:
        """Write a vector past the caches; the pointer is aligned as vectors are.

        It wants no fence: threads hand over by locked instructions, which wait for such stores.
        """
        store = b.store(value, pointer, align=self.lanes * self.align)
        store.set_metadata("nontemporal", self.module.add_metadata([_i32(1)]))

    def spread(self, b: ir.IRBuilder, scalar: ir.Value, vector: ir.Type) -> ir.Value:
        """Return a vector with the scalar in every lane."""
        first = b.insert_element(vector(None), scalar, _i32(0))
        return b.shuffle_vector(first, first, ir.VectorType(_i32, vector.count)(None))

    def first_lanes(self, b: ir.IRBuilder, count: ir.Value) -> ir.Value:
        """Return the mask of the first `count` lanes."""
        numbers = ir.VectorType(_i32, self.lanes)
        limit = self.spread(b, b.trunc(count, _i32), numbers)
        return b.icmp_signed("<", ir.Constant(numbers, list(range(self.lanes))), limit)

    def narrowed(self, b: ir.IRBuilder, value: ir.Value) -> ir.Value:
        """Return the first lanes of a vector, as many as there are here."""
        if value.type.count == self.lanes:
            return value
        first = ir.Constant(ir.VectorType(_i32, self.lanes), list(range(self.lanes)))
        return b.shuffle_vector(value, value, first)

    def multiply_add(self, b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """Return x y + z, rounded once where the CPU can."""
        if not jit.has_fma():
            return b.fadd(b.fmul(x, y), z)
        fma = self.intrinsic(f"llvm.fma.{self.suffix}", self.vector, [self.vector] * 3)
        return b.call(fma, [x, y, z])

    def prefetch(
        self, b: ir.IRBuilder, pointer: ir.Value, write: bool = False, once: bool = False
    ) -> None:
        """Ask for the memory at a pointer, which need not be there, to read it or to write.

        It goes to level 2 as a rule, and past all but level 1 where it is used once: with AMD's
        CPUs, for Intel's then ask for nothing ahead by themselves, and are half as fast.
        """
        call = self.intrinsic("llvm.prefetch.p0", ir.VoidType(), [_pointer, _i32, _i32, _i32])
        level = 0 if once and jit.is_amd() else 2
        b.call(call, [pointer, _i32(int(write)), _i32(level), _i32(1)])

    def lines(self, b: ir.IRBuilder, places: list[ir.Value]) -> list[ir.Value]:
        """Return pointers to all lines of the cache in which vectors side by side may lie."""
        return [
            *places[:: max(1, 64 // jit.vector_bytes())],
            self.at(b, places[-1], self.lanes - 1),
        ]

    def hidden(self, b: ir.IRBuilder, pointer: ir.Value) -> ir.Value:
        """Return the pointer by way of an empty line of assembly, behind which LLVM cannot see.

        Of pointers that it knows to move alike it would keep each in a register of its own.
        """
        kind = ir.FunctionType(_pointer, [_pointer])
        return b.asm(kind, "", "=r,0", [pointer], True)

    def by_size(self, name: str, functions: dict[int, ir.Function]) -> str:
        """Emit `name(size, ...)`, which calls the function of that size; return the module."""
        kinds: Any = next(iter(functions.values())).function_type.args
        whole = ir.FunctionType(ir.VoidType(), [_i64] * (1 + len(kinds)))
        f = ir.Function(self.module, whole, name)
        b = ir.IRBuilder(f.append_basic_block("entry"))
        nothing = f.append_basic_block("nothing")
        arguments = [
            b.inttoptr(value, kind) if kind == _pointer else value
            for value, kind in zip(f.args[1:], kinds, strict=True)
        ]
        choose = b.switch(f.args[0], nothing)
        for size, function in functions.items():
            block = f.append_basic_block(f"call_{size}")
            choose.add_case(_i64(size), block)
            b.position_at_end(block)
            b.call(function, arguments)
            b.ret_void()
        b.position_at_end(nothing)
        b.ret_void()
        return str(self.module)

    # The tile

    def inner(self, name: str) -> ir.Function:
        """Begin a function, for this module alone, of a count and a tile's arguments."""
        kinds = [_i64, *self.arguments]
        f = ir.Function(self.module, ir.FunctionType(ir.VoidType(), kinds), name)
        f.linkage = "internal"
        f.attributes.add("nounwind")
        return f

    def tile(
        self, rows: int, vectors: int, last_lanes: int | None = None, packs: bool = False
    ) -> ir.Function:
        """Emit tiles of one height and width: `count` of them, one below the other.

        Where `last_lanes` are given, the last vector is one of so many, and masked. A tile that
        packs writes the rows of B that it reads to where others ask for memory.
        """
        masked = last_lanes is not None
        words = [self] * vectors
        if last_lanes is not None:
            words[-1] = self.of_lanes(last_lanes)
        name = f"tile_{rows}x{vectors}{f'_{last_lanes}' * masked}{'_packing' * packs}"
        f = self.inner(name)
        (count, a_top, a_at, row, col, b_, b_at, ldb, segments, k, start_top, lds, c_top, ldc, last,
         relu, ahead_top, ahead_step) = f.args  # fmt: skip
        b = ir.IRBuilder(f.append_basic_block("entry"))
        masks = [None] * (vectors - 1) + [words[-1].first_lanes(b, last) if masked else None]
        tops, before, one = [a_top, start_top, c_top, ahead_top], b.block, b.append_basic_block()
        b.branch(one)

        b.position_at_end(one)
        left = b.phi(_i64)
        places = [b.phi(_pointer) for _ in tops]
        left.add_incoming(count, before)
        for place, top in zip(places, tops, strict=True):
            place.add_incoming(top, before)
        a, start, c, ahead = places

        def phis() -> _Values:
            return [[b.phi(word.vector) for word in words] for _ in range(rows)]

        def grid(base: ir.Value, stride: ir.Value) -> _Values:
            lines = [self.at(b, base, b.mul(stride, _i64(m))) for m in range(rows)]
            return [[self.at(b, line, v * self.lanes) for v in range(vectors)] for line in lines]

        first = [
            [word.load(b, *at) for word, *at in zip(words, line, masks, strict=True)]
            for line in grid(start, lds)
        ]
        # The sums of the tile below would else wait for memory. What is below the last one may be
        # another thread's, which would wait for it: there it is the tile's own.
        below = b.select(b.icmp_signed(">", left, _i64(1)), b.mul(ldc, _i64(rows)), _i64(0))
        for line in grid(self.at(b, c, below), ldc):
            for pointer in self.lines(b, line):
                self.prefetch(b, pointer, write=True)
        row_bytes = b.mul(row, _i64(self.align))
        odd = {m: b.mul(row_bytes, _i64(m)) for m in range(1, rows, 2)}
        by_terms = [[b.mul(by, _i64(j)) for j in range(UNROLLED + 1)] for by in (ldb, ahead_step)]
        entry = b.block
        segment, joined, done = (
            f.append_basic_block(name) for name in ("segment", "joined", "done")
        )
        some_terms = 1 if masked or packs else together(rows, vectors)
        quickly = masked and jit.vector_bytes() < 64  # without the mask, then with it
        twice = quickly or some_terms > 1
        rest_of_k = k
        if twice:
            least = self.terms_at_the_end(b, ldb, last, k) if masked else _i64(1)
            rest_of_k = b.sub(k, b.and_(b.sub(k, least), _i64(-some_terms)))
        b.branch(segment)

        b.position_at_end(segment)
        s = b.phi(_i64)
        segment_sums = phis()
        segment_ahead = b.phi(_pointer)
        s.add_incoming(_i64(0), entry)
        segment_ahead.add_incoming(ahead, entry)
        _each(segment_sums, first, lambda phi, value: phi.add_incoming(value, entry))
        a_first = self.at(b, a, b.load(b.gep(a_at, [s], source_etype=_i64), typ=_i64))
        b_first = self.at(b, b_, b.load(b.gep(b_at, [s], source_etype=_i64), typ=_i64))
        moving = [b_first, segment_ahead, a_first]

        if packs:
            to_next = b.mul(ldb, _i64(NEXT))
            final = self.at(b, b_first, b.mul(ldb, b.sub(k, _i64(1))))

        def pack(row: list[ir.Value], place: ir.Value, panel: ir.Value) -> None:
            """Emit the copy of a row of B, and ask for one that follows."""
            for v, value in enumerate(row):
                self.store(b, value, self.at(b, panel, v * self.lanes), None)
            later = self.at(b, place, to_next)
            later = b.select(b.icmp_unsigned("<", later, final), later, final)
            for pointer in self.lines(
                b, [self.at(b, later, v * self.lanes) for v in range(vectors)]
            ):
                self.prefetch(b, pointer)

        def element(a_k: ir.Value, m: int) -> ir.Value:
            """Emit the load of A in row m: an address adds 1, 2, 4 or 8 times an odd multiple."""
            if m:
                doubled = (m & -m).bit_length() - 1
                far = b.shl(odd[m >> doubled], _i64(doubled))
                a_k = b.gep(a_k, [far], source_etype=ir.IntType(8))
            return b.load(a_k, typ=self.scalar, align=self.align)

        def term(masks: list[Any], j: int, places: list[ir.Value], sums: _Values) -> _Values:
            """Emit the multiply-adds of one term, the j-th of those that go together."""
            b_k, ahead_k = (self.at(b, at, by[j]) for at, by in zip(places, by_terms, strict=False))
            line = [
                word.load(b, self.at(b, b_k, v * self.lanes), masks[v])
                for v, word in enumerate(words)
            ]
            if packs:
                pack(line, b_k, ahead_k)
            elif j % 2 == 0:
                self.prefetch(b, ahead_k)
            added = []
            for m in range(rows):
                value = self.spread(b, element(places[2], m), self.vector)
                terms = zip(words, line, sums[m], strict=True)
                added.append([w.multiply_add(b, w.narrowed(b, value), *term) for w, *term in terms])
            return added

        def loop(
            masks: list[Any], some: int, count: ir.Value, places: list[ir.Value], sums: _Values
        ) -> tuple[list[ir.Value], _Values]:
            """Emit so many terms, at least one, some together; return what is behind, and sums."""
            before, step, behind = b.block, b.append_basic_block("step"), b.append_basic_block()
            b.branch(step)
            b.position_at_end(step)
            i, now = b.phi(_i64), [b.phi(_pointer) for _ in places]
            now_sums = added = phis()
            b_k, ahead_k, a_k = (self.hidden(b, place) for place in now)
            for j in range(some):
                added = term(masks, j, [b_k, ahead_k, a_k], added)
                a_k = self.at(b, a_k, col)
            next_i = b.add(i, _i64(some))
            by = [terms[some] for terms in by_terms]
            after = [self.at(b, b_k, by[0]), self.at(b, ahead_k, by[1]), a_k]
            moved = zip((i, *now), (_i64(0), *places), (next_i, *after), strict=True)
            for phi, first_value, next_value in moved:
                phi.add_incoming(first_value, before)
                phi.add_incoming(next_value, step)
            _each(now_sums, sums, lambda phi, value: phi.add_incoming(value, before))
            _each(now_sums, added, lambda phi, value: phi.add_incoming(value, step))
            b.cbranch(b.icmp_signed("<", next_i, count), step, behind)
            b.position_at_end(behind)
            return after, added

        added = segment_sums
        if twice:
            whole, here = b.sub(k, rest_of_k), b.block
            some, rest = b.append_basic_block("some"), b.append_basic_block("rest")
            b.cbranch(b.icmp_signed(">", whole, _i64(0)), some, rest)
            b.position_at_end(some)
            moved, sums = loop([None] * vectors, some_terms, whole, moving, segment_sums)
            there = b.block
            b.branch(rest)
            b.position_at_end(rest)
            places_at_rest = [b.phi(_pointer) for _ in moving]
            added = phis()
            for block, at_block, sums_there in ((here, moving, segment_sums), (there, moved, sums)):
                for phi, value in zip(places_at_rest, at_block, strict=True):
                    phi.add_incoming(value, block)
                for line, values in zip(added, sums_there, strict=True):
                    for phi, value in zip(line, values, strict=True):
                        phi.add_incoming(value, block)
            moving = places_at_rest
        (_, segment_ahead_next, *_), added = loop(masks, 1, rest_of_k, moving, added)
        b.branch(joined)

        b.position_at_end(joined)
        s_next = b.add(s, _i64(1))
        s.add_incoming(s_next, joined)
        segment_ahead.add_incoming(segment_ahead_next, joined)
        _each(segment_sums, added, lambda phi, value: phi.add_incoming(value, joined))
        b.cbranch(b.icmp_signed("<", s_next, segments), segment, done)

        b.position_at_end(done)
        # `left`, which is above 0, keeps the floor out of the registers while sums need them.
        floored = b.and_(b.icmp_signed("!=", relu, _i64(0)), b.icmp_signed(">", left, _i64(0)))
        floor = self.floor(b, floored)
        low = [word.spread(b, floor, word.vector) for word in words]
        into, whole = grid(c, ldc), vectors - masked
        results = [list(map(partial(self.at_least, b), line, low)) for line in added]
        for pointers, values in zip(into, results, strict=True):
            for pointer, value in zip(pointers[:whole], values[:whole], strict=True):
                self.store(b, value, pointer, None)
        if masked:
            last_values, last_places = ([line[-1] for line in lines] for lines in (results, into))
            words[-1].store_first(b, last_values, last_places, last)
        end = f.append_basic_block("end")
        after = b.sub(left, _i64(1))
        left.add_incoming(after, b.block)
        for place, stride in zip(places, (row, lds, ldc, row), strict=True):
            place.add_incoming(self.at(b, place, b.mul(stride, _i64(rows))), b.block)
        b.cbranch(b.icmp_signed(">", after, _i64(0)), one, end)
        b.position_at_end(end)
        b.ret_void()
        return f

    def narrow_tile(self, vectors: int) -> ir.Function:
        """Emit narrow tiles, `count` of them, one below the other, with B in registers.

        For `TERMS` rows of B, a vector wide, all rows of A go by; their sums wait in C. No load
        precedes a multiply-add then, which takes its element of A from memory.
        """
        f = self.inner(f"narrow_{vectors}")
        (count, a_top, a_at, row, _, b_top, b_at, ldb, segments, k, start, lds, c, ldc, last,
         relu, ahead, ahead_step) = f.args  # fmt: skip
        b = ir.IRBuilder(f.append_basic_block("entry"))
        passes = b.sdiv(k, _i64(TERMS))
        turns = b.mul(segments, passes)
        asks, rows_on = b.icmp_signed("!=", ahead_step, _i64(0)), b.mul(row, _i64(ROWS))

        def down(base: ir.Value, stride: ir.Value, tile: ir.Value) -> list[ir.Value]:
            top = b.mul(tile, _i64(ROWS))
            return [self.at(b, base, b.mul(b.add(top, _i64(m)), stride)) for m in range(ROWS)]

        with for_range(b, turns) as turn:
            s, term = b.sdiv(turn.index, passes), b.mul(b.srem(turn.index, passes), _i64(TERMS))
            a = self.at(b, a_top, b.add(self.whole_number(b, a_at, s), term))
            b_ = self.at(b, b_top, b.add(self.whole_number(b, b_at, s), b.mul(term, ldb)))
            first_asked = self.at(b, ahead, b.mul(b.mul(turn.index, _i64(TERMS)), ahead_step))
            begins = b.icmp_signed("==", turn.index, _i64(0))
            before, by = b.select(begins, start, c), b.select(begins, lds, ldc)
            ends = b.icmp_signed("==", turn.index, b.sub(turns, _i64(1)))
            floor = self.floor(b, b.and_(ends, b.icmp_signed("!=", relu, _i64(0))))
            low = self.spread(b, floor, self.vector)
            for v in range(vectors):
                mask = self.first_lanes(b, last) if v == vectors - 1 else None
                b_v, before_v, c_v = (self.at(b, p, v * self.lanes) for p in (b_, before, c))
                lines = [
                    self.load(b, self.at(b, b_v, b.mul(ldb, _i64(i))), mask) for i in range(TERMS)
                ]
                with for_range(b, count) as tile:
                    sums = [self.load(b, p, mask) for p in down(before_v, by, tile.index)]
                    with b.if_then(asks):
                        asked = self.at(b, first_asked, b.mul(tile.index, rows_on))
                        for i in range(0, TERMS, 2):
                            self.prefetch(b, self.at(b, asked, b.mul(ahead_step, _i64(i))))
                    rows = down(a, row, tile.index)
                    for i, line in enumerate(lines):
                        rows = [self.hidden(b, p) for p in rows]  # keeps the order of terms
                        for m, place in enumerate(self.at(b, p, i) for p in rows):
                            element = b.load(place, typ=self.scalar, align=self.align)
                            value = self.spread(b, element, self.vector)
                            sums[m] = self.multiply_add(b, value, line, sums[m])
                    for value, place in zip(sums, down(c_v, ldc, tile.index), strict=True):
                        self.store(b, self.at_least(b, value, low), place, mask)
        b.ret_void()
        return f

    def at_least(self, b: ir.IRBuilder, value: ir.Value, low: ir.Value) -> ir.Value:
        """Return a vector whose elements below a floor are on it; NaN stays."""
        return b.select(b.fcmp_ordered("<", value, low), low, value)

    def floor(self, b: ir.IRBuilder, relu: ir.Value) -> ir.Value:
        """Return 0 where there is a ReLU, else -inf: nothing is below, and NaN is below nothing.

        An integer for -inf keeps it out of the registers while sums need them.
        """
        bits = ir.IntType(8 * self.align)
        lowest = bits(-(1 << (52 if self.align == 8 else 23)))
        return b.bitcast(b.select(relu, bits(0), lowest), self.scalar)

    def terms_at_the_end(
        self, b: ir.IRBuilder, ldb: ir.Value, last: ir.Value, k: ir.Value
    ) -> ir.Value:
        """Return how many of k terms have less than a whole vector of B before its end."""
        behind = b.icmp_signed(">=", ldb, b.sub(_i64(self.lanes), last))  # one row more has it
        several = b.select(b.icmp_signed(">", ldb, _i64(0)), _i64(self.lanes), k)
        count = b.select(behind, _i64(1), several)
        return b.select(b.icmp_signed("<", count, k), count, k)

    def begin(self, name: str) -> tuple[ir.IRBuilder, list[ir.Value], list[ir.Value]]:
        """Begin `name(rows, vectors, ...)`; return the builder, its arguments and a tile's."""
        kinds = [_i64] * (2 + len(self.arguments))
        f = ir.Function(self.module, ir.FunctionType(ir.VoidType(), kinds), name)
        b = ir.IRBuilder(f.append_basic_block("entry"))
        arguments = [
            b.inttoptr(v, kind) if kind == _pointer else v
            for v, kind in zip(f.args[2:], self.arguments, strict=True)
        ]
        return b, f.args, arguments

    def packing(self) -> None:
        """Emit `tile_packing(rows, vectors, ...)`: the tallest tile of a panel."""
        b, _, arguments = self.begin("tile_packing")
        vectors = panel_vectors()
        tile = self.tile(tallest(vectors), vectors, packs=True)
        b.call(tile, [_i64(1), *arguments])
        b.ret_void()

    def entry(self) -> None:
        """Emit `tile(rows, vectors, ...)`, which calls the tiles of that width."""
        b, (rows, vectors, *rest), arguments = self.begin("tile")
        nothing = b.append_basic_block("nothing")
        kinds = [None, *last_vectors(self.lanes)]
        kind: ir.Value = _i64(0)
        for most in kinds[1:]:  # the fewer lanes, the further behind
            less = b.icmp_signed("<" if most == self.lanes else "<=", rest[13], _i64(most))
            kind = b.add(kind, b.zext(less, _i64))
        choose = b.switch(b.add(b.mul(vectors, _i64(len(kinds))), kind), nothing)
        for v in WIDTHS:
            for i, most in enumerate(kinds):
                block = b.append_basic_block(f"width_{v}")
                choose.add_case(_i64(len(kinds) * v + i), block)
                b.position_at_end(block)
                self.column(b, v, most, rows, arguments)
        b.position_at_end(nothing)
        b.ret_void()

    def column(
        self,
        b: ir.IRBuilder,
        vectors: int,
        last_lanes: int | None,
        rows: ir.Value,
        arguments: list[ir.Value],
    ) -> None:
        """Emit the tiles of one width for so many rows, at least 1, and the return behind them."""
        if vectors in narrow_terms():
            rows, arguments = self.narrow_tiles(b, vectors, rows, arguments)
        tall = heights(vectors, last_lanes is not None)
        tiles = {m: self.tile(m, vectors, last_lanes) for m in tall}
        top = _i64(max(tiles))
        single, several, end = (b.append_basic_block(n) for n in ("single", "several", "end"))

        def call(height: ir.Value, count: ir.Value, given: list[ir.Value], then: ir.Block) -> None:
            """Emit the call of so many tiles of a height."""
            choose = b.switch(height, then)
            for m, function in tiles.items():
                block = b.append_basic_block(f"call_{m}")
                choose.add_case(_i64(m), block)
                b.position_at_end(block)
                b.call(function, [count, *given])
                b.branch(then)
            b.position_at_end(then)

        b.cbranch(b.icmp_signed(">", rows, top), several, single)
        b.position_at_end(single)
        call(rows, _i64(1), arguments, end)
        b.ret_void()

        b.position_at_end(several)
        count = b.sdiv(b.add(rows, b.sub(top, _i64(1))), top)
        height, higher = b.sdiv(rows, count), b.srem(rows, count)
        some_higher = b.icmp_signed(">", higher, _i64(0))
        rest, last = b.append_basic_block("rest"), b.append_basic_block("last")
        above = b.add(height, _i64(1))
        call(b.select(some_higher, above, _i64(0)), higher, arguments, rest)
        skipped = b.mul(higher, above)
        call(height, b.sub(count, higher), self.further_down(b, arguments, skipped), last)
        b.ret_void()

    def narrow_tiles(
        self, b: ir.IRBuilder, vectors: int, rows: ir.Value, arguments: list[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        """Emit the narrow tiles for so many rows; return how many are left, and their arguments.

        They want four of them, as B is read for each pass; terms side by side in A, all of them by
        `TERMS`; and rows of C apart: a load that meets a masked store would wait for it.
        """
        tile = self.module.globals.get(f"narrow_{vectors}") or self.narrow_tile(vectors)
        col, k, ldc = arguments[3], arguments[8], arguments[12]
        conditions = [
            b.icmp_signed(">=", rows, _i64(4 * ROWS)),
            b.icmp_signed("==", col, _i64(1)),
            b.icmp_signed("==", b.and_(k, _i64(TERMS - 1)), _i64(0)),
            b.icmp_signed("<=", k, _i64(narrow_terms()[vectors])),
            b.icmp_signed(">=", ldc, _i64(vectors * self.lanes)),
        ]
        fits = reduce(b.and_, conditions)
        count = b.select(fits, b.sdiv(rows, _i64(ROWS)), _i64(0))
        with b.if_then(b.icmp_signed(">", count, _i64(0))):
            b.call(tile, [count, *arguments])
        done = b.mul(count, _i64(ROWS))
        left = b.sub(rows, done)
        with b.if_then(b.icmp_signed("==", left, _i64(0))):
            b.ret_void()
        return left, self.further_down(b, arguments, done)

    def further_down(
        self, b: ir.IRBuilder, arguments: list[ir.Value], rows: ir.Value
    ) -> list[ir.Value]:
        """Return the arguments of a tile that many rows further down."""
        moved = list(arguments)
        for place, stride in ((0, 2), (9, 10), (11, 12), (15, 2)):  # a, start, c, to prefetch
            moved[place] = self.at(b, arguments[place], b.mul(arguments[stride], rows))
        return moved


def _each(phis: _Values, values: _Values, do: Any) -> None:
    for line, others in zip(phis, values, strict=True):
        for phi, value in zip(line, others, strict=True):
            do(phi, value)


def _emit(dtype: Any) -> str:
    emitter = Emitter(dtype)
    emitter.entry()
    return str(emitter.module)


def _emit_packing(dtype: Any) -> str:
    emitter = Emitter(dtype)
    emitter.packing()
    return str(emitter.module)


def twin(
    rows: int, vectors: int,
    a: Address, a_at: Address, row: int, col: int, b: Address, b_at: Address, ldb: int,
    segments: int, k: int, start: Address, lds: int, c: Address, ldc: int,
    last: int, relu: int, ahead: Address, ahead_step: int,
) -> None:  # fmt: skip
    """Compute equation (1) in plain Python: what the machine code does, each access checked."""
    n = lanes(c.dtype)
    fits = vectors in WIDTHS and rows >= 1 and 1 <= last <= n
    if not (fits and segments >= 1 and k >= 1):
        raise IndexError(f"no tile of {rows} rows, {vectors} vectors, {segments} x {k} terms")
    width = (vectors - 1) * n + last
    sums = np.stack([start.row(m * lds, width) for m in range(rows)])
    for s in range(segments):
        a_s, b_s = int(a_at.row(s, 1)[0]), int(b_at.row(s, 1)[0])
        for i in range(k):
            column = np.stack([a.row(a_s + m * row + i * col, 1) for m in range(rows)])
            sums += column * b.row(b_s + i * ldb, width)
    if relu:
        sums[sums < 0] = 0
    for m in range(rows):
        c.row(m * ldc, width)[...] = sums[m]


def packing_twin(
    rows: int, vectors: int,
    a: Address, a_at: Address, row: int, col: int, b: Address, b_at: Address, ldb: int,
    segments: int, k: int, start: Address, lds: int, c: Address, ldc: int,
    last: int, relu: int, panel: Address, panel_row: int,
) -> None:  # fmt: skip
    """Compute equation (1), and copy the rows of B to a panel."""
    width = vectors * lanes(c.dtype)
    if (rows, vectors, last, segments) != (tallest(vectors), panel_vectors(), lanes(c.dtype), 1):
        raise IndexError(f"no tile of {rows} rows, {vectors} vectors, packs its B")
    for i in range(k):
        panel.row(i * panel_row, width)[...] = b.row(int(b_at.row(0, 1)[0]) + i * ldb, width)
    twin(
        rows, vectors, a, a_at, row, col, b, b_at, ldb, segments, k, start, lds, c, ldc,
        last, relu, panel, panel_row,
    )  # fmt: skip


tile: Final = Code("tile", _emit, twin)
"""`tile(dtype)`: the code for `jit.call`; its arguments are those of `twin`."""

tile_packing: Final = Code("tile_packing", _emit_packing, packing_twin)
"""`tile_packing(dtype)`: the tallest tile of a panel; its arguments are those of `packing_twin`."""
