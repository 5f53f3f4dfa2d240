"""What BatchNorm does to columns, emitted as LLVM vector IR: sums down the rows, maps of them.

Sums over a block of rows are one chain a column, in the dtype of x, centred; everything that
comes of them is float64. A set of values of one channel is known by three numbers: how many there
are, n; its mean, as the distance δ from a *pivot* that all sets of the channel have in common; and
q = Σ (x - mean)². Two sets make one by the formula of Chan, Golub and LeVeque (1983):

    δ = δ_a + (δ_b - δ_a) n_b / n      q = q_a + q_b + (δ_b - δ_a)² n_a n_b / n                 (1)

A mean is given to the maps as two numbers, `mean` in the dtype of x and the `rest` that its
rounding left out: x - mean is as good as exact where the mean is large beside the deviation.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
from llvmlite import ir

from ..engine import elements
from ..engine.jit import Address, Code
from ..engine.sweep import DOUBLE, Masks, Sweep, Values, strips

_i64 = ir.IntType(64)


# A ReLU that stands after y = slope (x - mean) + intercept goes into the same passes. Backward has
# the x of forward and computes the same y again: what the ReLU let through needs no memory.


def _rectified(s: Sweep, y: ir.Value, value: ir.Value) -> ir.Value:
    """Return a value where a ReLU lets y through, else 0; NaN goes through."""
    zero = s.vector(0.0)
    return s.builder.select(s.builder.fcmp_ordered("<=", y, zero), zero, value)


def _lines(
    s: Sweep, relu: bool, slope: ir.Value, intercept: ir.Value, j: ir.Value, masks: Masks
) -> list[tuple[ir.Value, ir.Value] | None]:
    """Return slope and intercept of each vector where there is a ReLU."""
    if not relu:
        return [None] * len(masks)
    found = (s.loads(s.at(s.builder, a, j), masks) for a in (slope, intercept))
    return list(zip(*found, strict=True))


def _passed(
    s: Sweep, dy: ir.Value, centred: ir.Value, line: tuple[ir.Value, ir.Value] | None
) -> ir.Value:
    """Return the dy that comes through the ReLU, if there is one."""
    if line is None:
        return dy
    return _rectified(s, s.multiply_add(s.builder, centred, *line), dy)


# Sums down the rows


def _emit_moments(dtype: Any) -> str:
    """δ and q of a block, about the mean c of an eighth of its rows, which is read first.

    Whatever the values, Σ (x - c)² is at most 8 q: the mean of k of n numbers is at most
    √(n / k - 1) deviations from that of all. So q = Σ (x - c)² - n (mean - c)² loses 3 bits at
    the worst, and next to nothing as a rule.
    """
    s = Sweep("moments", dtype, "*x ld rows width *pivot *delta *q")
    b = s.builder
    x, ld, rows, width, pivot, delta, q = s.given
    few = b.sdiv(b.add(rows, _i64(7)), _i64(8))
    few_count, wide_count = s.number(few), s.wide_number(rows)
    zero, wide_zero = s.vector(0.0), s.double.vector(0.0)

    def strip(j: ir.Value, masks: Masks) -> None:
        column, pivots = s.at(b, x, j), s.loads(s.at(b, pivot, j), masks)
        nothing = [zero] * len(masks)

        def total(at: Values, sums: Values) -> Values:
            terms = zip(sums, s.loads(at[0], masks), pivots, strict=True)
            return [b.fadd(sum_, b.fsub(value, p)) for sum_, value, p in terms]

        sums = s.down(few, [column], [ld], nothing, total)
        centres = [b.fadd(p, b.fdiv(sum_, few_count)) for p, sum_ in zip(pivots, sums, strict=True)]

        def centred(at: Values, sums: Values) -> Values:
            after = []
            for v, value in enumerate(s.loads(at[0], masks)):
                d = b.fsub(value, centres[v])
                after += [b.fadd(sums[2 * v], d), s.multiply_add(b, d, d, sums[2 * v + 1])]
            return after

        sums = s.down(rows, [column], [ld], nothing * 2, centred)
        for v, mask in enumerate(masks):
            deltas, qs = [], []
            for c, p, d, squares in zip(
                *(s.widen(a) for a in (centres[v], pivots[v], sums[2 * v], sums[2 * v + 1])),
                strict=True,
            ):
                # What the centre, as rounded, is beside the mean.
                off = b.fdiv(d, wide_count)
                deltas.append(b.fadd(b.fsub(c, p), off))
                rest = b.fsub(squares, b.fmul(d, off))
                below = b.fcmp_ordered("<", rest, wide_zero)
                qs.append(b.select(below, wide_zero, rest))
            place = b.add(j, _i64(v * s.lanes))
            s.wide_stores(deltas, s.double.at(b, delta, place), mask)
            s.wide_stores(qs, s.double.at(b, q, place), mask)

    s.across(width, strips(), strip)
    return s.end()


def _moments_twin(
    x: Address, ld: int, rows: int, width: int, pivot: Address, delta: Address, q: Address
) -> None:
    block = np.stack([x.row(i * ld, width) for i in range(rows)])
    pivots = pivot.row(0, width)
    few = -(-rows // 8)
    centre = pivots + (block[:few] - pivots).sum(axis=0) / x.dtype.type(few)
    d = block - centre
    total = d.sum(axis=0).astype(DOUBLE)
    delta.row(0, width)[...] = (centre.astype(DOUBLE) - pivots) + total / rows
    rest = (d * d).sum(axis=0) - total * (total / rows)
    q.row(0, width)[...] = np.where(rest < 0, 0, rest)


def _emit_products(name: str, relu: bool, dtype: Any) -> str:
    s = Sweep(name, dtype, "*x *dy ld rows width *mean *slope *intercept *dys *products")
    b = s.builder
    x, dy, ld, rows, width, mean, slope, intercept, dys, products = s.given
    zero = s.vector(0.0)

    def strip(j: ir.Value, masks: Masks) -> None:
        means = s.loads(s.at(b, mean, j), masks)
        lines = _lines(s, relu, slope, intercept, j, masks)

        def row(at: Values, sums: Values) -> Values:
            after = []
            pairs = zip(s.loads(at[0], masks), s.loads(at[1], masks), strict=True)
            for v, (value, d) in enumerate(pairs):
                centred = b.fsub(value, means[v])
                d = _passed(s, d, centred, lines[v])
                after += [
                    b.fadd(sums[2 * v], d),
                    s.multiply_add(b, d, centred, sums[2 * v + 1]),
                ]
            return after

        at = [s.at(b, x, j), s.at(b, dy, j)]
        sums = s.down(rows, at, [ld, ld], [zero] * (2 * len(masks)), row)
        for v, mask in enumerate(masks):
            place = b.add(j, _i64(v * s.lanes))
            s.wide_stores(s.widen(sums[2 * v]), s.double.at(b, dys, place), mask)
            s.wide_stores(s.widen(sums[2 * v + 1]), s.double.at(b, products, place), mask)

    s.across(width, strips(), strip)
    return s.end()


def _products_twin(
    relu: bool, x: Address, dy: Address, ld: int, rows: int, width: int,
    mean: Address, slope: Address, intercept: Address, dys: Address, products: Address,
) -> None:  # fmt: skip
    centred = np.stack([x.row(i * ld, width) for i in range(rows)]) - mean.row(0, width)
    d = np.stack([dy.row(i * ld, width) for i in range(rows)])
    if relu:
        d = np.where(centred * slope.row(0, width) + intercept.row(0, width) <= 0, 0, d)
    dys.row(0, width)[...] = d.sum(axis=0)
    products.row(0, width)[...] = (d * centred).sum(axis=0)


# Sets made one


def _emit_merge(dtype: Any) -> str:
    s = Sweep("merge", dtype, "n_a n_b *delta_a *q_a *delta_b *q_b width")
    b = s.builder
    n_a, n_b, delta_a, q_a, delta_b, q_b, width = s.given
    share = b.fdiv(s.number(n_b), s.number(b.add(n_a, n_b)))
    both = b.fmul(s.number(n_a), share)

    def strip(j: ir.Value, masks: Masks) -> None:
        at = [s.at(b, a, j) for a in (delta_a, q_a, delta_b, q_b)]
        (first,), (q_first,), (second,), (q_second,) = (s.loads(p, masks) for p in at)
        apart = b.fsub(second, first)
        s.stores([s.multiply_add(b, apart, share, first)], at[0], masks)
        between = b.fmul(b.fmul(apart, apart), both)
        s.stores([b.fadd(b.fadd(q_first, q_second), between)], at[1], masks)

    s.across(width, (1,), strip)
    return s.end()


def _merge_twin(
    n_a: int, n_b: int,
    delta_a: Address, q_a: Address, delta_b: Address, q_b: Address, width: int,
) -> None:  # fmt: skip
    share = n_b / (n_a + n_b)
    apart = delta_b.row(0, width) - delta_a.row(0, width)
    delta_a.row(0, width)[...] += apart * share
    q_a.row(0, width)[...] += q_b.row(0, width)
    q_a.row(0, width)[...] += apart * apart * (n_a * share)


def _emit_add(dtype: Any) -> str:
    s = Sweep("add", dtype, "*a *b width")
    b = s.builder
    first, second, width = s.given

    def strip(j: ir.Value, masks: Masks) -> None:
        into = s.at(b, first, j)
        (left,), (right,) = s.loads(into, masks), s.loads(s.at(b, second, j), masks)
        s.stores([b.fadd(left, right)], into, masks)

    s.across(width, (1,), strip)
    return s.end()


def _add_twin(a: Address, b: Address, width: int) -> None:
    a.row(0, width)[...] += b.row(0, width)


# What a channel's numbers come to


def _emit_settle(dtype: Any) -> str:
    s = Sweep("settle", dtype, "n *pivot *delta *q width *mean *rest *var")
    b = s.builder
    n, pivot, delta, q, width, mean, rest, var = s.given
    count = s.wide_number(n)

    def strip(j: ir.Value, masks: Masks) -> None:
        (p,), (mask,) = s.loads(s.at(b, pivot, j), masks), masks
        pivots = s.widen(p)
        deltas = s.wide_loads(s.double.at(b, delta, j), mask)
        qs = s.wide_loads(s.double.at(b, q, j), mask)
        found = s.narrow([b.fadd(p, d) for p, d in zip(pivots, deltas, strict=True)])
        left = [
            b.fadd(b.fsub(p, m), d) for p, m, d in zip(pivots, s.widen(found), deltas, strict=True)
        ]
        s.stores([found], s.at(b, mean, j), masks)
        s.stores([s.narrow(left)], s.at(b, rest, j), masks)
        s.stores([s.narrow([b.fdiv(a, count) for a in qs])], s.at(b, var, j), masks)

    s.across(width, (1,), strip)
    return s.end()


def _settle_twin(
    n: int, pivot: Address, delta: Address, q: Address, width: int,
    mean: Address, rest: Address, var: Address,
) -> None:  # fmt: skip
    p, d = pivot.row(0, width).astype(DOUBLE), delta.row(0, width)
    mean.row(0, width)[...] = p + d
    rest.row(0, width)[...] = (p - mean.row(0, width)) + d
    var.row(0, width)[...] = q.row(0, width) / n


def _emit_line(dtype: Any) -> str:
    s = Sweep("line", dtype, "*eps *rest *var *gamma *beta width *scale *slope *intercept")
    b = s.builder
    eps, rest, var, gamma, beta, width, scale, slope, intercept = s.given
    double = s.double
    added = double.spread(b, b.load(eps, typ=double.scalar, align=8), double.vector)

    def strip(j: ir.Value, masks: Masks) -> None:
        (v,), (g,), (r,), (offset,) = (
            s.loads(s.at(b, a, j), masks) for a in (var, gamma, rest, beta)
        )
        scales = [b.fdiv(double.vector(1.0), s.root(b.fadd(part, added))) for part in s.widen(v)]
        slopes = [b.fmul(a, part) for a, part in zip(scales, s.widen(g), strict=True)]
        intercepts = [
            b.fsub(o, b.fmul(part, a))
            for o, part, a in zip(s.widen(offset), s.widen(r), slopes, strict=True)
        ]
        for values, into in ((scales, scale), (slopes, slope), (intercepts, intercept)):
            s.stores([s.narrow(values)], s.at(b, into, j), masks)

    s.across(width, (1,), strip)
    return s.end()


def _line_twin(
    eps: Address, rest: Address, var: Address, gamma: Address, beta: Address, width: int,
    scale: Address, slope: Address, intercept: Address,
) -> None:  # fmt: skip
    s = 1 / np.sqrt(var.row(0, width).astype(DOUBLE) + eps.row(0, 1))
    a = s * gamma.row(0, width)
    scale.row(0, width)[...] = s
    slope.row(0, width)[...] = a
    intercept.row(0, width)[...] = beta.row(0, width) - rest.row(0, width) * a


def _emit_plane(dtype: Any) -> str:
    s = Sweep(
        "plane", dtype,
        "n *dys *products *rest *scale *gamma width *dgamma *dbeta *of_dy *of_x *constant",
    )  # fmt: skip
    b = s.builder
    (n, dys, products, rest, scale, gamma, width, dgamma, dbeta, of_dy, of_x, constant) = s.given
    count = s.wide_number(n)

    def strip(j: ir.Value, masks: Masks) -> None:
        (mask,) = masks
        (r,), (sc,), (g,) = (s.loads(s.at(b, a, j), masks) for a in (rest, scale, gamma))
        total = s.wide_loads(s.double.at(b, dys, j), mask)
        product = s.wide_loads(s.double.at(b, products, j), mask)
        found: list[Values] = []
        for t, p, rs, scales, gammas in zip(
            total, product, s.widen(r), s.widen(sc), s.widen(g), strict=True
        ):
            dg = b.fmul(scales, b.fsub(p, b.fmul(rs, t)))
            k1 = b.fmul(gammas, scales)
            k2 = b.fneg(b.fdiv(b.fmul(b.fmul(k1, scales), dg), count))
            k3 = b.fneg(b.fadd(b.fdiv(b.fmul(k1, t), count), b.fmul(k2, rs)))
            found.append([dg, t, k1, k2, k3])
        into = dgamma, dbeta, of_dy, of_x, constant
        for place, parts in zip(into, zip(*found, strict=True), strict=True):
            s.stores([s.narrow(list(parts))], s.at(b, place, j), masks)

    s.across(width, (1,), strip)
    return s.end()


def _plane_twin(
    n: int, dys: Address, products: Address, rest: Address, scale: Address, gamma: Address,
    width: int, dgamma: Address, dbeta: Address, of_dy: Address, of_x: Address, constant: Address,
) -> None:  # fmt: skip
    total, r, s = dys.row(0, width), rest.row(0, width), scale.row(0, width).astype(DOUBLE)
    dg = s * (products.row(0, width) - r * total)
    k1 = gamma.row(0, width) * s
    k2 = -k1 * s * dg / n
    dgamma.row(0, width)[...] = dg
    dbeta.row(0, width)[...] = total
    of_dy.row(0, width)[...] = k1
    of_x.row(0, width)[...] = k2
    constant.row(0, width)[...] = -(k1 * total / n + k2 * r)


# Maps of rows


def _emit_apply(name: str, relu: bool, dtype: Any, *, past: bool) -> str:
    s = Sweep(name, dtype, "*x *y ld rows width *mean *slope *intercept")
    b = s.builder
    x, y, ld, rows, width, mean, slope, intercept = s.given
    write = s.streams if past else s.stores

    def strip(j: ir.Value, masks: Masks) -> None:
        means, slopes, intercepts = (
            s.loads(s.at(b, a, j), masks) for a in (mean, slope, intercept)
        )

        def row(at: Values, carried: Values) -> Values:
            terms = zip(s.loads(at[0], masks), means, slopes, intercepts, strict=True)
            results = [s.multiply_add(b, b.fsub(v, m), a, c) for v, m, a, c in terms]
            if relu:
                results = [_rectified(s, y, y) for y in results]
            write(results, at[1], masks)
            return []

        s.down(rows, [s.at(b, x, j), s.at(b, y, j)], [ld, ld], [], row)

    s.across(width, strips(), strip)
    return s.end()


def _apply_twin(
    relu: bool, x: Address, y: Address, ld: int, rows: int, width: int,
    mean: Address, slope: Address, intercept: Address,
) -> None:  # fmt: skip
    m, a, c = (column.row(0, width) for column in (mean, slope, intercept))
    for i in range(rows):
        found = (x.row(i * ld, width) - m) * a + c
        y.row(i * ld, width)[...] = np.where(found <= 0, 0, found) if relu else found


def _emit_gradient(name: str, relu: bool, dtype: Any, *, past: bool) -> str:
    s = Sweep(
        name, dtype, "*x *dy *dx ld rows width *mean *of_dy *of_x *constant *slope *intercept"
    )
    b = s.builder
    x, dy, dx, ld, rows, width, mean, of_dy, of_x, constant, slope, intercept = s.given
    write = s.streams if past else s.stores

    def strip(j: ir.Value, masks: Masks) -> None:
        numbers = [s.loads(s.at(b, a, j), masks) for a in (mean, of_dy, of_x, constant)]
        lines = _lines(s, relu, slope, intercept, j, masks)

        def row(at: Values, carried: Values) -> Values:
            pairs = s.loads(at[0], masks), s.loads(at[1], masks)
            results = []
            for v, d, m, k1, k2, k3, line in zip(*pairs, *numbers, lines, strict=True):
                centred = b.fsub(v, m)
                passed = _passed(s, d, centred, line)
                of_sums = s.multiply_add(b, centred, k2, k3)
                results.append(s.multiply_add(b, passed, k1, of_sums))
            write(results, at[2], masks)
            return []

        at = [s.at(b, a, j) for a in (x, dy, dx)]
        s.down(rows, at, [ld] * 3, [], row)

    s.across(width, strips()[-2:], strip)
    return s.end()


def _gradient_twin(
    relu: bool, x: Address, dy: Address, dx: Address, ld: int, rows: int, width: int,
    mean: Address, of_dy: Address, of_x: Address, constant: Address,
    slope: Address, intercept: Address,
) -> None:  # fmt: skip
    m, k1, k2, k3 = (column.row(0, width) for column in (mean, of_dy, of_x, constant))
    for i in range(rows):
        centred, d = x.row(i * ld, width) - m, dy.row(i * ld, width)
        if relu:
            d = np.where(centred * slope.row(0, width) + intercept.row(0, width) <= 0, 0, d)
        dx.row(i * ld, width)[...] = d * k1 + (centred * k2 + k3)


def _either(name: str, emit: Callable[..., str], twin: Callable[..., None]) -> tuple[Code, Code]:
    """Return the code without a ReLU and the code with one."""
    names = name, f"{name}_relu"
    without, with_one = (
        Code(n, partial(emit, n, relu), partial(twin, relu))
        for n, relu in zip(names, (False, True), strict=True)
    )
    return without, with_one


moments: Final = Code("moments", _emit_moments, _moments_twin)
"""δ and q of the columns of a block of rows."""
products: Final = _either("products", _emit_products, _products_twin)
"""Σ dy and Σ dy (x - mean) of the columns of a block of rows."""
merge: Final = Code("merge", _emit_merge, _merge_twin)
"""Set b joins set a, equation (1); float64 alone."""
add: Final = Code("add", _emit_add, _add_twin)
"""Sums b join sums a; float64 alone."""
settle: Final = Code("settle", _emit_settle, _settle_twin)
"""Mean, rest and variance of a set of n."""
line: Final = Code("line", _emit_line, _line_twin)
"""The scale 1 / √(var + eps), and y = slope (x - mean) + intercept."""
plane: Final = Code("plane", _emit_plane, _plane_twin)
"""The gradients of gamma and beta, and dx = of_dy dy + (of_x (x - mean) + constant)."""
apply: Final = _either("apply", partial(_emit_apply, past=False), _apply_twin)
"""y of rows."""
apply_past: Final = _either("apply_past", partial(_emit_apply, past=True), _apply_twin)
"""y of rows, written past the caches in whole and aligned vectors."""
gradient: Final = _either("gradient", partial(_emit_gradient, past=False), _gradient_twin)
"""dx of rows."""
gradient_past: Final = _either("gradient_past", partial(_emit_gradient, past=True), _gradient_twin)
"""dx of rows, written past the caches."""


def _followed(e: Any, b: Any, running: Any, of_batch: Any, number: Any) -> Any:
    new = b.fmul(number(1), b.fmul(number(2), of_batch))
    return (b.fadd(b.fmul(number(0), running), new),)


follow: Final = elements.Each(
    "follow",
    _followed,
    lambda running, of_batch, kept, new, times: (kept * running + new * (times * of_batch),),
    arrays=2,
    light=False,
)
"""Running values after one batch more, with the numbers ρ, 1 - ρ and a factor of the batch's."""
