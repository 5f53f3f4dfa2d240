"""Loops over the rows and columns of a matrix, vector by vector: words to emit kernels with.

A `Sweep` is an LLVM function under construction. Its arguments are 64-bit integers, some of them
addresses; its vectors run along columns, so that what happens to a column does not depend on the
width of a vector, nor on where in the matrix the column stands.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from llvmlite import ir

from . import jit
from .loops import for_range
from .tile import Emitter

_i64, _i32, _pointer = ir.IntType(64), ir.IntType(32), ir.PointerType()
Values: TypeAlias = list[ir.Value]
Masks: TypeAlias = list[ir.Value | None]

DOUBLE: Final = np.dtype(np.float64)


class Sweep(Emitter):
    """A function on vectors of one dtype, with float64 beside it.

    Parameters
    ----------
    name : str
    dtype : dtype
    arguments : str
        The names of the arguments, parted by spaces, those of addresses with a star in front.
    """

    def __init__(self, name: str, dtype: Any, arguments: str) -> None:
        super().__init__(dtype)
        names = arguments.split()
        kind = ir.FunctionType(ir.VoidType(), [_i64] * len(names))
        self.function = ir.Function(self.module, kind, name)
        self.function.attributes.add("nounwind")
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.given = [
            self.builder.inttoptr(v, _pointer) if name.startswith("*") else v
            for name, v in zip(names, self.function.args, strict=True)
        ]
        self.size = np.dtype(dtype).itemsize
        self.double = Emitter(DOUBLE)
        self.double.module = self.module
        self.parts = self.lanes // self.double.lanes

    def end(self) -> str:
        """Return the module's IR."""
        self.builder.ret_void()
        return str(self.module)

    # Loops

    def down(
        self,
        rows: ir.Value,
        starts: Values,
        strides: Values,
        carried: Values,
        body: Callable[[Values, Values], Values],
    ) -> Values:
        """Go down the rows: `body(pointers, carried)` returns what to carry to the next row.

        Pointers move on by strides, in elements. What is carried after the last row is returned.
        """
        b = self.builder
        entry, turn, done = b.block, b.append_basic_block("turn"), b.append_basic_block("done")
        b.cbranch(b.icmp_signed(">", rows, _i64(0)), turn, done)
        b.position_at_end(turn)
        i = b.phi(_i64)
        i.add_incoming(_i64(0), entry)
        pointers, values = [b.phi(_pointer) for _ in starts], [b.phi(v.type) for v in carried]
        for phi, value in zip([*pointers, *values], [*starts, *carried], strict=True):
            phi.add_incoming(value, entry)
        after = body(pointers, values)
        moved = [self.at(b, p, s) for p, s in zip(pointers, strides, strict=True)]
        i_next = b.add(i, _i64(1))
        i.add_incoming(i_next, b.block)
        for phi, value in zip([*pointers, *values], [*moved, *after], strict=True):
            phi.add_incoming(value, b.block)
        b.cbranch(b.icmp_signed("<", i_next, rows), turn, done)
        last = b.block
        b.position_at_end(done)
        result = [b.phi(v.type) for v in carried]
        for phi, before, value in zip(result, carried, after, strict=True):
            phi.add_incoming(before, entry)
            phi.add_incoming(value, last)
        return result

    def across(
        self, width: ir.Value, sizes: Sequence[int], body: Callable[[ir.Value, Masks], None]
    ) -> None:
        """Go across the columns in strips: `body(first column, masks)`, a mask a vector.

        Strips have as many vectors as the first of `sizes` says, what is left over as many as the
        next, and so on to 1. At the end is one vector with a mask.
        """
        b, first = self.builder, _i64(0)
        for vectors in sizes:
            wide = _i64(vectors * self.lanes)
            count = b.sdiv(b.sub(width, first), wide)
            with for_range(b, count) as strip:
                body(b.add(first, b.mul(strip.index, wide)), [None] * vectors)
            first = b.add(first, b.mul(count, wide))
        with b.if_then(b.icmp_signed("<", first, width)):
            body(first, [self.first_lanes(b, b.sub(width, first))])

    # Vectors

    def loads(self, pointer: ir.Value, masks: Masks) -> Values:
        """Return the vectors side by side from a pointer on."""
        b = self.builder
        return [self.load(b, self.at(b, pointer, v * self.lanes), m) for v, m in enumerate(masks)]

    def stores(self, values: Values, pointer: ir.Value, masks: Masks) -> None:
        """Write vectors side by side."""
        b = self.builder
        for v, (value, mask) in enumerate(zip(values, masks, strict=True)):
            self.store(b, value, self.at(b, pointer, v * self.lanes), mask)

    def streams(self, values: Values, pointer: ir.Value, masks: Masks) -> None:
        """Write vectors side by side past the caches; the pointer is aligned as they are."""
        b = self.builder
        for v, (value, mask) in enumerate(zip(values, masks, strict=True)):
            place = self.at(b, pointer, v * self.lanes)
            if mask is None:
                self.stream(b, value, place)
            else:
                self.store(b, value, place, mask)

    def number(self, integer: ir.Value) -> ir.Value:
        """Return a vector of an integer in every lane."""
        b = self.builder
        return self.spread(b, b.sitofp(integer, self.scalar), self.vector)

    # Vectors of float64, `parts` of which have the lanes of one

    def halves(self, value: ir.Value, kind: ir.Type) -> Values:
        """Return the parts of a vector that have the lanes of one of float64."""
        if self.parts == 1:
            return [value]
        n = self.double.lanes
        numbers = ir.VectorType(_i32, n)
        return [
            self.builder.shuffle_vector(
                value,
                ir.Constant(kind, ir.Undefined),
                ir.Constant(numbers, list(range(part * n, part * n + n))),
            )
            for part in range(self.parts)
        ]

    def widen(self, value: ir.Value) -> Values:
        """Return a vector's values as vectors of float64."""
        parts = self.halves(value, self.vector)
        if self.parts == 1:
            return parts
        return [self.builder.fpext(part, self.double.vector) for part in parts]

    def narrow(self, parts: Values) -> ir.Value:
        """Return vectors of float64, rounded, as one vector."""
        if self.parts == 1:
            return parts[0]
        b, n = self.builder, self.double.lanes
        small = ir.VectorType(self.scalar, n)
        low, high = (b.fptrunc(part, small) for part in parts)
        order = ir.Constant(ir.VectorType(_i32, 2 * n), list(range(2 * n)))
        return b.shuffle_vector(low, high, order)

    def wide_masks(self, mask: ir.Value | None) -> Masks:
        """Return a vector's mask as those of its parts."""
        return [None] * self.parts if mask is None else list(self.halves(mask, self.mask))

    def wide_loads(self, pointer: ir.Value, mask: ir.Value | None) -> Values:
        """Return the float64 that stand for one vector, from a pointer to float64 on."""
        b, double = self.builder, self.double
        return [
            double.load(b, double.at(b, pointer, part * double.lanes), m)
            for part, m in enumerate(self.wide_masks(mask))
        ]

    def wide_stores(self, parts: Values, pointer: ir.Value, mask: ir.Value | None) -> None:
        """Write the float64 that stand for one vector."""
        b, double = self.builder, self.double
        for part, (value, m) in enumerate(zip(parts, self.wide_masks(mask), strict=True)):
            double.store(b, value, double.at(b, pointer, part * double.lanes), m)

    def wide_number(self, integer: ir.Value) -> ir.Value:
        """Return a vector of float64 with an integer in every lane."""
        b, double = self.builder, self.double
        return double.spread(b, b.sitofp(integer, double.scalar), double.vector)

    def root(self, value: ir.Value) -> ir.Value:
        """Return the square roots of a vector of float64."""
        call = self.intrinsic(
            f"llvm.sqrt.{self.double.suffix}", self.double.vector, [self.double.vector]
        )
        return self.builder.call(call, [value])


def strips() -> tuple[int, ...]:
    """Return the widths of strips, for a loop that holds three vectors a column in registers."""
    return (8, 4, 1) if jit.vector_registers() == 32 else (4, 1)
