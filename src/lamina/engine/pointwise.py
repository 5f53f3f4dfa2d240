r"""exp, tanh, the logistic and the normal function of vectors, as polynomials in LLVM vector IR.

The first three come from one reduction. With n the integer next to a / ln 2 and r = a - n ln 2, so
that |r| <= ln(2) / 2,

    eᵃ = 2ⁿ (1 + p),    p = eʳ - 1 = r + r² q(r)                                                (1)

where q is the polynomial that equals (eʳ - 1 - r) / r² at the Chebyshev nodes of that interval.
ln 2 is subtracted in two parts, of which the first has so few bits that n times it is exact
(W. J. Cody, W. Waite, *Software Manual for the Elementary Functions*, 1980, ch. 6). Then

    σ(a) = 1 / (1 + u)  for a >= 0,  u / (1 + u)  for a < 0,   u = e^-|a|                       (2)
    tanh |a| = -m / (2 + m),   m = e^-2|a| - 1 = 2ⁿ p + (2ⁿ - 1)                                (3)

No term of these overflows, and none cancels, nor does m itself: σ keeps its relative accuracy
where it is tiny, down to the smallest number there is, and tanh near 0.

The normal distribution has a smooth factor beside its density, which a polynomial in
t = (|x| - 4) / (|x| + 4) follows, found as q is (J. Schonfelder, *Chebyshev Expansions for the
Error and Related Functions*, 1978, takes such a factor):

    Φ(-|x|) = g s(t) / (4 + |x|),   Φ(|x|) = 1 - Φ(-|x|),   g = √(2π) φ(x) = e^(-x²/2)       (4)

With an FMA x² is not rounded where r is found.

Errors, in units in the last place of the exact value, stay below these bounds, with an FMA and
without, denormal numbers among the results:

    =======  =======  =======
    ..       float32  float64
    =======  =======  =======
    eᵃ       1.1      1.1
    tanh     2.6      2.7
    σ        2.4      2.4
    =======  =======  =======

eᵃ is there for a <= 0 alone, which is all that the others need. NaN gives NaN, tanh(±inf) = ±1,
σ(-inf) = 0, σ(inf) = 1, and tanh(±0) = ±0.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
from llvmlite import ir

from .loops import for_range
from .tile import Emitter

_i64 = ir.IntType(64)


class Format(NamedTuple):
    """The constants of a floating-point format.

    Attributes
    ----------
    bits, mantissa, bias : int
        The width of the format, of its fraction, and the bias of its exponent.
    ln2 : tuple of two float
        The parts of ln 2.
    q : tuple of float
        The coefficients of q, from the highest power down.
    least : float
        At or below it exp is 0. 2^(n + shift) of it is 0 as `power` makes it: to round to 0 what is
        too small takes some CPUs a hundred times as long.
    s : tuple of float
        The coefficients of s, from the highest power down.
    """

    bits: int
    mantissa: int
    bias: int
    ln2: tuple[float, float]
    q: tuple[float, ...]
    least: float
    s: tuple[float, ...]


FORMATS: Final = {
    np.dtype(np.float32): Format(
        32, 23, 127, (0.693359375, -2.1219444e-4),
        (0.001392625, 0.008363233, 0.041666552, 0.16666576, 0.5),
        -190 * math.log(2),
        (
            -0.000122713719, 0.000195417003, 0.00156958658, -0.00352383529, -0.00752740614,
            0.0604064949, -0.186522975, 0.38713668, -0.607896607, 0.755285138,
        ),
    ),
    np.dtype(np.float64): Format(
        64, 52, 1023, (6.93147180369123816490e-01, 1.90821492927058770002e-10),
        (
            2.5100472505694996e-08, 2.7620201591031547e-07, 2.7557268276905696e-06,
            2.4801521057868204e-05, 0.00019841269863171557, 0.0013888888917367081,
            0.008333333333330039, 0.041666666666623824, 0.16666666666666669, 0.5000000000000001,
        ),
        -1534 * math.log(2),
        (
            -9.548406261831183e-10, 9.883266796936845e-11, 1.3908604716549315e-08,
            1.4496295587963517e-08, -7.639378494529246e-08, -1.5415337090279745e-07,
            2.637285518450446e-07, 1.0197239060965834e-06, -6.251776127220533e-07,
            -5.918856754797994e-06, 7.150293076563748e-07, 3.514417126612951e-05,
            -1.9078737869042445e-06, -0.0002310948166583373, 0.00013334425533584467,
            0.0016308184417281584, -0.003479692362377773, -0.007540188965584718,
            0.06039657489070645, -0.18652185795969434, 0.38713740074221875, -0.6078966419718917,
            0.7552851304157515,
        ),
    ),
}  # fmt: skip


class Functions(Emitter):
    """An emitter that knows exp, tanh, the logistic and the normal function of a vector."""

    def __init__(self, dtype: Any) -> None:
        super().__init__(dtype)
        self.format = FORMATS[np.dtype(dtype)]
        self.whole = ir.IntType(self.format.bits)
        self.integers = ir.VectorType(self.whole, self.lanes)

    def function(self, name: str, kinds: str) -> tuple[ir.IRBuilder, list[ir.Value]]:
        """Begin a function of integers; return its builder and arguments.

        `kinds` has a letter for each: "p" for an address, which is returned as a pointer, "i".
        """
        f = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [_i64] * len(kinds)), name)
        b = ir.IRBuilder(f.append_basic_block("entry"))
        return b, [
            b.inttoptr(v, ir.PointerType()) if kind == "p" else v
            for v, kind in zip(f.args, kinds, strict=True)
        ]

    def number(self, value: float) -> ir.Constant:
        """Return a vector with the number in every lane."""
        return ir.Constant(self.vector, [value] * self.lanes)

    def integer(self, value: int) -> ir.Constant:
        """Return a vector of integers, all the same."""
        return ir.Constant(self.integers, [value] * self.lanes)

    def magnitude(self, b: ir.IRBuilder, x: ir.Value) -> ir.Value:
        """Return |x|."""
        return b.call(self.intrinsic(f"llvm.fabs.{self.suffix}", self.vector, [self.vector]), [x])

    def signed(self, b: ir.IRBuilder, x: ir.Value, sign: ir.Value) -> ir.Value:
        """Return x with the sign of another."""
        name = f"llvm.copysign.{self.suffix}"
        return b.call(self.intrinsic(name, self.vector, [self.vector] * 2), [x, sign])

    def below(self, b: ir.IRBuilder, x: ir.Value, most: float) -> ir.Value:
        """Return the smaller of x and a number; NaN passes."""
        limit = self.number(most)
        return b.select(b.fcmp_ordered("<", limit, x), limit, x)

    def power(self, b: ir.IRBuilder, biased: ir.Value) -> ir.Value:
        """Return 2^(k - bias) for integers whose lowest bits are those of k: 0 where k is 0."""
        return b.bitcast(b.shl(biased, self.integer(self.format.mantissa)), self.vector)

    def polynomial(self, b: ir.IRBuilder, coefficients: Sequence[float], x: ir.Value) -> ir.Value:
        """Return a polynomial's value by Horner's rule; its highest power comes first."""
        found: ir.Value = self.number(coefficients[0])
        for coefficient in coefficients[1:]:
            found = self.multiply_add(b, found, x, self.number(coefficient))
        return found

    def reduce(self, b: ir.IRBuilder, a: ir.Value, plus: int = 0) -> tuple[ir.Value, ir.Value]:
        """Return integers, whose `power` is 2^(n + plus), and p of equation (1)."""
        form = self.format
        magic = self._magic(plus)  # added to a number, it rounds to integers
        sum_ = self.multiply_add(b, a, self.number(1.4426950408889634), self.number(magic))
        n = b.fsub(sum_, self.number(magic))
        r = a
        for part in form.ln2:
            r = self.multiply_add(b, n, self.number(-part), r)
        q = self.polynomial(b, form.q, r)
        p = self.multiply_add(b, b.fmul(r, r), q, r)
        return b.bitcast(sum_, self.integers), p

    def _magic(self, plus: int) -> float:
        """Return a number with bias + plus in its lowest bits, whose unit is 1."""
        return 1.5 * 2.0**self.format.mantissa + self.format.bias + plus

    @property
    def shift(self) -> int:
        """Of numbers that may be too small to be normal, 2^shift times as much is."""
        return self.format.bias // 2

    def shifted_exp(self, b: ir.IRBuilder, a: ir.Value) -> ir.Value:
        """Return 2^shift eᵃ for a from `least` of the format to 0."""
        biased, p = self.reduce(b, a, self.shift)
        power = self.power(b, biased)
        return self.multiply_add(b, p, power, power)

    def expm1_of_negative(self, b: ir.IRBuilder, a: ir.Value) -> ir.Value:
        """Return eᵃ - 1 for a <= 0, the m of equation (3); 0 for others."""
        least = self.number(-60)  # it is -1 from there on in either format
        a = self.below(b, self.at_least(b, a, least), 0)
        return self._minus_one(b, a)

    def _minus_one(self, b: ir.IRBuilder, a: ir.Value) -> ir.Value:
        """Return eᵃ - 1 where eᵃ is normal."""
        biased, p = self.reduce(b, a)
        power = self.power(b, biased)
        return self.multiply_add(b, p, power, b.fsub(power, self.number(1)))

    def normal(self, b: ir.IRBuilder, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return Φ(x) and 2^shift √(2π) φ(x) by equation (4)."""
        form, one = self.format, self.number(1)
        # From there on both are 0 or 1.
        size = self.below(b, self.magnitude(b, x), math.sqrt(-2 * form.least))
        magic = self.number(self._magic(self.shift))
        square = b.fmul(size, size)
        biased = self.multiply_add(b, square, self.number(-0.5 * 1.4426950408889634), magic)
        n, (high, low) = b.fsub(biased, magic), form.ln2
        double = self.multiply_add(b, b.fneg(size), size, b.fmul(n, self.number(-2 * high)))
        double = self.multiply_add(b, n, self.number(-2 * low), double)  # 2 r
        q = [c * 0.5 ** (len(form.q) + 1 - i) for i, c in enumerate(form.q)]
        p = b.fmul(double, self.polynomial(b, [*q, 0.5], double))
        power = self.power(b, b.bitcast(biased, self.integers))
        g = self.multiply_add(b, p, power, power)
        inverse = b.fdiv(one, b.fadd(size, self.number(4)))
        t = b.fmul(b.fsub(size, self.number(4)), inverse)
        s = self.polynomial(b, [c * 2.0**-self.shift for c in form.s], t)
        tail = b.fmul(b.fmul(g, s), inverse)
        return b.select(b.fcmp_ordered(">", x, self.number(0)), b.fsub(one, tail), tail), g

    def sigmoid(self, b: ir.IRBuilder, a: ir.Value) -> ir.Value:
        """Return σ(a) by equation (2), above and below times 2^shift."""
        size = self.below(b, self.magnitude(b, a), -self.format.least)
        u, one = self.shifted_exp(b, b.fneg(size)), self.number(2.0**self.shift)
        negative = b.icmp_signed("<", b.bitcast(a, self.integers), self.integer(0))
        return b.fdiv(b.select(negative, u, one), b.fadd(one, u))

    def tanh(self, b: ir.IRBuilder, a: ir.Value) -> ir.Value:
        """Return tanh(a) by equation (3)."""
        # Beyond 40, tanh is 1 in either format.
        size = self.below(b, self.magnitude(b, a), 40)
        m = self._minus_one(b, b.fmul(size, self.number(-2)))
        return self.signed(b, b.fdiv(m, b.fadd(m, self.number(2))), a)

    def together(
        self, b: ir.IRBuilder, words: Sequence[Callable[[ir.IRBuilder], Any]]
    ) -> list[Any]:
        """Return the values of words without branches, their instructions in turns.

        Each is a chain of operations that wait for one another; several at a time keep the
        processor busy.
        """
        instructions = b.block.instructions
        first = len(instructions)
        values, parts = [], []
        for word in words:
            start = len(instructions)
            values.append(word(b))
            parts.append(instructions[start:])
        turns = itertools.zip_longest(*parts)
        instructions[first:] = [i for turn in turns for i in turn if i is not None]
        return values

    def sweep(
        self,
        b: ir.IRBuilder,
        vectors: ir.Value,
        last: ir.Value,
        body: Callable[..., None],
        together: int = 1,
    ) -> None:
        """Emit `body(b, element, mask)` for every vector of a row, some of them together.

        The last vector has `last` lanes; the mask is None where it has all.
        """
        partly = b.icmp_signed("<", last, _i64(self.lanes))
        whole = b.sub(vectors, b.zext(partly, _i64))
        done: ir.Value = _i64(0)
        for count in sorted({together, 1}, reverse=True):
            turns = b.sdiv(b.sub(whole, done), _i64(count))
            with for_range(b, turns) as turn:
                v = b.add(done, b.mul(turn.index, _i64(count)))
                places = [b.mul(b.add(v, _i64(u)), _i64(self.lanes)) for u in range(count)]
                self.together(b, [partial(body, element=j, mask=None) for j in places])
            done = b.add(done, b.mul(turns, _i64(count)))
        with b.if_then(partly):
            body(b, b.mul(whole, _i64(self.lanes)), self.first_lanes(b, last))
