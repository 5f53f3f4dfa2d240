r"""Sums over the taps of a window, in groups of few channels: lanes are channels of many groups.

With c inputs and o outputs a group, output j is one of group ⌊j / o⌋. A tile of H places computes

    Y[m, j] = start[j] + Σ_s Σ_k Σ_i X[x_s + m·move + k·step + ⌊j / o⌋ c + i]
                                     · W[w_s + k·tap + i·line + j]                              (1)

for 0 <= m < H and all channels j, some vectors of them after the others, with their sums in
registers, and at the end max(0, Y) where a ReLU is asked for. Segments s are rows of taps, of K
taps k each; i goes over the c inputs of the group. The first place may lie at an edge, where it
does not meet the first tap, and the last one where it does not meet the last. With c = o = 1 this
is a depthwise convolution: a lane of X meets the same lane of W. Else the inputs of a vector of
outputs lie side by side too, and a shuffle puts the i-th of each group in its outputs' lanes.

Where places are as far apart as taps (move = step), place m meets with tap k + 1 what place m + 1
meets with tap k. Then a few taps are taken together: a vector of X is read once for all of them,
and their weights once for all places. It is the same where they are twice as far apart. A tile of
two rows of Y reads once what both meet: its segments are those of the upper row alone, then those
of both, then those of the lower row alone.

Each element is ONE chain of multiply-adds, over s, k and i in rising order.

Places lie far apart in memory, so that no hardware foresees what later ones read: tiles ask for it.
It begins `ahead`, and for a place and the vectors that go together is so many `lines`, each `apart`
from the one before.

The gradient of W for R rows of taps, K of each, goes over M places with its sums in registers:

    W[w_r + k·tap + i·line + j] += Σ_m X[x_r + m·move + k·step + ⌊j / o⌋ c + i] · Y[m·ldy + j]  (2)

Each element is ONE chain again, over m in rising order. Here, too, both ends may lie at edges.
"""

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Final

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from . import jit
from .jit import Address, Code
from .loops import State, is_below, loop_while
from .memory import LINE
from .tile import Emitter, lanes

MOST: Final = 8
"""No group has more inputs or outputs."""

_i64, _i32, _pointer = ir.IntType(64), ir.IntType(32), ir.PointerType()


def serves(inputs: int, outputs: int, dtype: np.dtype[Any]) -> bool:
    """Return whether there is code for groups of so many inputs and outputs.

    They divide the lanes of every CPU that has FMA, so that such CPUs give the same bits.
    """
    most = min(32, jit.vector_bytes()) // dtype.itemsize
    return all(n & (n - 1) == 0 and n <= min(most, MOST) for n in (inputs, outputs))


def split(terms: int, inputs: int, apart_by: int) -> tuple[int, int]:
    """Return how many taps of a row go together, over and over, and how many at its end.

    A row of few taps is its end as a whole: there is no loop then.
    """
    most = 3 if apart_by and inputs <= 2 and terms > 1 else 1
    return (0, terms) if 1 < terms <= most else (most, terms % most)


def rows_together(inputs: int, outputs: int) -> int:
    """Return how many rows of Y go together at the most."""
    return 2 if inputs == outputs == 1 and jit.vector_bytes() == LINE else 1


def abreast(inputs: int, outputs: int) -> int:
    """Return how many vectors of outputs go together.

    Depthwise it is those of a line of the caches, or two. Places often lie a power of two apart,
    and level 1 holds a few such lines only: it would lose them before their other half is read.
    """
    return min(2, LINE // jit.vector_bytes()) if inputs == outputs == 1 else 1


def tallest(inputs: int, outputs: int, rows: int = 1, apart_by: int = 1) -> int:
    """Return the height of the tallest tile that stays in registers with the weights of a chunk.

    Of two inputs, or two rows, LLVM reads so many ahead that taller ones do not, though 32
    registers were enough.
    """
    if rows == 2:
        return 8 if apart_by == 1 else 6
    most = 12 if jit.vector_registers() == 32 and inputs != 2 else 8
    return most // abreast(inputs, outputs)


class _Groups(Emitter):
    """What `Emitter` has, and the same for the inputs of groups of channels."""

    def __init__(self, dtype: Any, inputs: int, outputs: int) -> None:
        super().__init__(dtype)
        self.inputs, self.outputs = inputs, outputs
        # The same for the inputs that a vector of outputs has.
        self.wide = self.of_lanes(self.lanes * inputs // outputs)

    def behind(self, b: ir.IRBuilder, pointer: ir.Value, sums: list[ir.Value]) -> ir.Value:
        """Return the pointer; what is read there is read after some sums are known.

        An empty line of assembly says so. Else LLVM gives the distance of each place a register of
        its own, and reads all places before it multiplies the first: more than registers hold.
        """
        arm = llvm.get_process_triple().startswith(("aarch64", "arm64"))
        kind = ir.FunctionType(_pointer, [_pointer, *(value.type for value in sums)])
        register = "w" if arm else "v" if jit.vector_bytes() == 64 else "x"
        known = f",{register}" * len(sums)
        line = ir.InlineAsm(kind, "", f"=r,0{known},~{{memory}}", side_effect=True)
        return b.call(line, [pointer, *sums])

    def group_lanes(self, b: ir.IRBuilder, last: ir.Value) -> ir.Value:
        """Return the mask of the inputs that the first `last` outputs have."""
        return self.wide.first_lanes(b, b.sdiv(b.mul(last, _i64(self.inputs)), _i64(self.outputs)))

    def place(self, b: ir.IRBuilder, pointer: ir.Value, mask: ir.Value | None) -> list[ir.Value]:
        """Return for each input of a group the vector that has it in the lanes of its outputs."""
        values = self.wide.load(b, pointer, mask)
        if self.inputs == self.outputs == 1:
            return [values]
        undefined = ir.Constant(values.type, ir.Undefined)
        found = []
        for i in range(self.inputs):
            order = [j // self.outputs * self.inputs + i for j in range(self.lanes)]
            chosen = ir.Constant(ir.VectorType(_i32, self.lanes), order)
            found.append(b.shuffle_vector(values, undefined, chosen))
        return found


def _vectors(
    b: ir.IRBuilder, most: int, body: Callable[[int, State], State], state: State,
    vectors: ir.Value,
) -> State:  # fmt: skip
    """Emit a loop over vectors, which state[0] counts: `most` abreast, one where fewer are left."""
    for many in sorted({most, 1}, reverse=True):

        def going(state: State, many: int = many) -> ir.Value:
            return b.icmp_signed("<=", b.add(state[0], _i64(many)), vectors)

        state = loop_while(b, state, going, partial(body, many))
    return state


def _fetch(
    b: ir.IRBuilder, e: _Groups, ahead: ir.Value, lines: ir.Value, apart: ir.Value
) -> ir.Value:
    """Ask for some lines of X; return the pointer behind them."""

    def one(state: State) -> State:
        left, ahead = state
        e.prefetch(b, ahead)
        return [b.sub(left, _i64(1)), e.at(b, ahead, apart)]

    return loop_while(b, [lines, ahead], lambda state: b.icmp_signed(">", state[0], _i64(0)), one)[
        1
    ]


def _multiples(b: ir.IRBuilder, distance: ir.Value) -> list[ir.Value]:
    """Return zero to three times a distance, of which an address adds all but the last."""
    return [b.mul(distance, _i64(n)) for n in range(4)]


# The sums of places


def _tile(
    e: _Groups, height: int, together: int, rest: int, apart_by: int, rows: int, past: bool
) -> ir.Function:
    """Emit the tiles of one height: `tiles` of them, one beside the other."""
    kinds = [_i64, _pointer, _pointer, _i64, _i64, _pointer, _pointer, _pointer, _i64, _i64,
             _i64, _i64, _i64, _i64, _pointer, _i64, _pointer, _i64, _i64, _i64, _i64, _i64, _i64,
             _pointer, _i64, _i64]  # fmt: skip
    f = ir.Function(e.module, ir.FunctionType(ir.VoidType(), kinds), f"taps_{height}")
    f.linkage = "internal"
    f.attributes.add("nounwind")
    (tiles, x, x_at, move, step, w, w_at, below_at, tap, line, upper, both, lower, terms, start,
     start_step, y, ldy, row, vectors, last, relu, edges, ahead, lines, apart) = f.args  # fmt: skip
    b = ir.IRBuilder(f.append_basic_block("entry"))
    whole = b.sub(vectors, b.zext(b.icmp_signed("<", last, _i64(e.lanes)), _i64))
    # Nothing is below -inf, and NaN is below nothing.
    floor = b.select(b.icmp_signed("!=", relu, _i64(0)), e.scalar(0.0), e.scalar(float("-inf")))
    low = e.spread(b, floor, e.vector)
    mask, wide_mask = e.first_lanes(b, last), e.group_lanes(b, last)
    taps_on, steps_on, moves_on = (_multiples(b, by) for by in (tap, step, move))

    def some(at_edge: list[ir.Value], many: int, state: State, masked: bool = False) -> State:
        """Compute so many vectors of all places."""
        v, x, w, start, y, ahead = state
        masks = (mask, wide_mask) if masked else (None, None)
        each = range(many)

        def of(r: int, m: int, j: int) -> int:
            return (r * height + m) * many + j

        def taps(met: list[int], count: int, state: State) -> State:
            k, x_k, *rest_of = state
            w_k, sums = rest_of[: len(met)], rest_of[len(met) :]
            weights = []
            for w_r in w_k:
                of_row, w_r = [], e.hidden(b, w_r)
                for t in range(count):
                    w_t = e.at(b, w_r, taps_on[t])
                    inputs = [e.at(b, w_t, b.mul(line, _i64(i))) for i in range(e.inputs)]
                    of_row.append([
                        [e.load(b, e.at(b, w_i, j * e.lanes), masks[0]) for w_i in inputs]
                        for j in each
                    ])  # fmt: skip
                weights.append(of_row)
            by = apart_by if count > 1 else 1
            at, columns = x_k, by * (height - 1) + count
            on = steps_on if count > 1 else moves_on
            for column in range(columns):
                pairs = [(t, (column - t) // by) for t in range(count) if (column - t) % by == 0]
                pairs = [(t, m) for t, m in pairs if 0 <= m < height]

                def add(at: ir.Value, pairs: Any = pairs) -> list[tuple[int, ir.Value]]:
                    values = [e.place(b, e.at(b, at, j * e.wide.lanes), masks[1]) for j in each]
                    found = []
                    for (t, m), (n, r) in itertools.product(pairs, enumerate(met)):
                        for j in each:
                            total = sums[of(r, m, j)]
                            for value, weight in zip(values[j], weights[n][t][j], strict=True):
                                total = e.multiply_add(b, value, weight, total)
                            found.append((of(r, m, j), total))
                    return found

                outer = [0, columns - 1].index(column) if column in (0, columns - 1) else None
                place = e.at(b, at, on[column % 3])
                if outer is not None and together == 0:
                    before = b.block
                    with b.if_then(b.not_(at_edge[outer])):
                        found = add(place)
                        inside = b.block
                    for n, total in found:
                        phi = b.phi(total.type)
                        phi.add_incoming(sums[n], before)
                        phi.add_incoming(total, inside)
                        sums[n] = phi
                else:
                    for n, total in add(place):
                        sums[n] = total
                if column < columns - 1:
                    _, newest = pairs[-1] if pairs else (0, 0)
                    if column % 3 == 2:
                        at = e.at(b, at, on[3])
                    at = e.behind(b, at, [sums[of(met[-1], newest, j)] for j in each])
            x_k = e.at(b, x_k, b.mul(step, _i64(count)))
            w_k = [e.at(b, w_r, b.mul(tap, _i64(count))) for w_r in w_k]
            return [b.sub(k, _i64(count)), x_k, *w_k, *sums]

        def segment(met: list[int], state: State) -> State:
            s, *sums = state
            x_s, *w_s = (
                e.at(b, base, b.load(b.gep(at, [s], source_etype=_i64), typ=_i64))
                for base, at in ((x, x_at), *((w, (w_at, below_at)[r]) for r in met))
            )
            left = [terms, x_s, *w_s, *sums]
            if together:
                left = loop_while(
                    b,
                    left,
                    lambda state: b.icmp_signed(">=", state[0], _i64(together)),
                    partial(taps, met, together),
                )
            if rest:
                left = taps(met, rest, left)
            return [b.add(s, _i64(1)), *left[2 + len(met) :]]

        ahead = _fetch(b, e, ahead, b.mul(lines, _i64(height)), apart)
        first = [e.load(b, e.at(b, start, b.mul(start_step, _i64(j))), masks[0]) for j in each]
        state, end = [_i64(0), *first * (rows * height)], upper
        state = loop_while(
            b, state, lambda state: b.icmp_signed("<", state[0], upper), partial(segment, [0])
        )
        if rows == 2:
            for met, number in (([0, 1], both), ([1], lower)):
                end = b.add(end, number)
                state = loop_while(b, state, partial(is_below, b, end), partial(segment, met))
        sums = state[1:]
        moved = [
            b.add(v, _i64(many)), e.at(b, x, many * e.wide.lanes), e.at(b, w, many * e.lanes),
            e.at(b, start, b.mul(start_step, _i64(many))), e.at(b, y, many * e.lanes),
        ]  # fmt: skip
        for m in range(height):
            for r in range(rows):
                y_r = e.at(b, y, row) if r else y
                for j in each:
                    value = e.at_least(b, sums[of(r, m, j)], low)
                    if past and not masked:
                        e.stream(b, value, e.at(b, y_r, j * e.lanes))
                    else:
                        e.store(b, value, e.at(b, y_r, j * e.lanes), masks[0])
            y = e.behind(b, e.at(b, y, ldy), [value])
        return [*moved, ahead]

    def one_tile(state: State) -> State:
        t, x, y, ahead = state
        first_one = b.icmp_signed("==", t, _i64(0))
        last_one = b.icmp_signed("==", b.add(t, _i64(1)), tiles)
        at_edge = [
            b.and_(is_one, b.icmp_signed("!=", b.and_(edges, _i64(bit)), _i64(0)))
            for is_one, bit in ((first_one, 1), (last_one, 2))
        ]
        done = [_i64(0), x, w, start, y, ahead]
        compute = partial(some, at_edge)
        done = _vectors(b, abreast(e.inputs, e.outputs), compute, done, whole)
        with b.if_then(b.icmp_signed("<", done[0], vectors)):
            compute(1, done, masked=True)
        moved = e.at(b, x, b.mul(move, _i64(height))), e.at(b, y, b.mul(ldy, _i64(height)))
        return [b.add(t, _i64(1)), *moved, done[-1]]

    loop_while(
        b, [_i64(0), x, y, ahead], lambda state: b.icmp_signed("<", state[0], tiles), one_tile
    )
    b.ret_void()
    return f


def _emit(
    name: str, inputs: int, outputs: int, together: int, rest: int, apart_by: int, rows: int,
    past: bool, dtype: Any,
) -> str:  # fmt: skip
    e = _Groups(dtype, inputs, outputs)
    heights = range(1, tallest(inputs, outputs, rows, apart_by) + 1)
    return e.by_size(name, {h: _tile(e, h, together, rest, apart_by, rows, past) for h in heights})


def _twin(
    inputs: int, outputs: int, whole: int, apart_by: int, rows: int,
    height: int, tiles: int, x: Address, x_at: Address, move: int, step: int,
    w: Address, w_at: Address, below_at: Address, tap: int, line: int,
    upper: int, both: int, lower: int, terms: int,
    start: Address, start_step: int, y: Address, ldy: int, row: int, vectors: int, last: int,
    relu: int, edges: int, ahead: Address, lines: int, apart: int,
) -> None:  # fmt: skip
    """Compute equation (1) in plain Python: what the machine code does, each access checked."""
    n = lanes(y.dtype)
    if not (1 <= height <= tallest(inputs, outputs, rows, apart_by) and 1 <= last <= n):
        raise IndexError(f"no tile of {height} places and {last} lanes")
    fits = terms == whole if whole else not edges
    if not fits or (rows == 1 and (both, lower) != (0, 0)):
        raise IndexError(f"no tile of {rows} rows, {terms} taps and edges {edges}")
    met = [(w_at, 0, upper + both), (below_at, upper, upper + both + lower)][:rows]
    for v in range(vectors):
        width = last if v == vectors - 1 else n
        groups = np.arange(width) // outputs * inputs
        first = start.row(v * start_step, width)
        for (r, (at, s0, s1)), m in itertools.product(enumerate(met), range(tiles * height)):
            sums = first.copy()
            k0 = int(m == 0 and edges & 1 != 0)
            k1 = terms - int(m == tiles * height - 1 and edges & 2 != 0)
            for s in range(s0, s1):
                x_s = int(x_at.row(s, 1)[0]) + m * move + v * n * inputs // outputs
                w_s = int(at.row(s, 1)[0]) + v * n
                for k in range(k0, k1):
                    values = x.row(x_s + k * step, width * inputs // outputs)
                    for i in range(inputs):
                        weights = w.row(w_s + k * tap + i * line, width)
                        sums += values[groups + i] * weights
            if relu:
                sums[sums < 0] = 0
            y.row(r * row + m * ldy + v * n, width)[...] = sums


# The sums of weights


def most_taps(inputs: int) -> int:
    """Return how many taps of a row there are sums for at the most."""
    return 8 // inputs


def sums_abreast(inputs: int, outputs: int) -> tuple[int, int]:
    """Return how many vectors of sums go together, and of how many taps and inputs at the most.

    Depthwise it is two: they often lie in the same lines, which level 1 would lose in between.
    """
    if inputs == outputs == 1:
        return 2, 9 if jit.vector_registers() == 32 else 6
    return 1, 9


@jit.kernel
def most_rows(terms: int, inputs: int, most: int) -> int:
    """Return of how many rows, of so many taps, there are sums at the most."""
    return max(1, min(3, most // (terms * inputs)))


def at_once(many: int) -> int:
    """Return how many places share the X that their taps meet, of so many vectors abreast."""
    return 6 if jit.vector_registers() == 32 else 4 // many


def _gradient(e: _Groups, rows: int, terms: int, apart_by: int) -> ir.Function:
    """Emit equation (2) for so many rows and taps."""
    kinds = [_pointer, _pointer, _i64, _i64, _pointer, _i64, _i64, _i64,
             _pointer, _pointer, _i64, _i64, _i64, _i64, _i64, _pointer, _i64, _i64]  # fmt: skip
    name = f"gradient_{rows}x{terms}"
    f = ir.Function(e.module, ir.FunctionType(ir.VoidType(), kinds), name)
    f.linkage = "internal"
    f.attributes.add("nounwind")
    (x, x_at, move, step, y, ldy, places, edges, w, w_at, tap, line, vectors, last,
     below, ahead, lines, apart) = f.args  # fmt: skip
    b = ir.IRBuilder(f.append_basic_block("entry"))
    whole = b.sub(vectors, b.zext(b.icmp_signed("<", last, _i64(e.lanes)), _i64))
    mask, wide_mask = e.first_lanes(b, last), e.group_lanes(b, last)
    shared = b.icmp_signed("==", move, b.mul(step, _i64(apart_by)))
    steps_on = _multiples(b, step)
    behind_first = b.sub(places, b.and_(edges, _i64(1)))
    at_end = b.lshr(edges, _i64(1))

    def some(many: int, state: State, masked: bool = False) -> State:
        """Add to the sums of so many vectors, of all places."""
        v, x, y, w, ahead = state
        masks = (mask, wide_mask) if masked else (None, None)
        each = range(many)

        def row(base: ir.Value, at: ir.Value, r: int) -> ir.Value:
            return e.at(b, base, b.load(b.gep(at, [_i64(r)], source_etype=_i64), typ=_i64))

        def weights() -> list[ir.Value]:
            found = []
            for r in range(rows):
                place = row(w, w_at, r)
                for k in range(terms):
                    at = e.at(b, place, b.mul(tap, _i64(k)))
                    for i in range(e.inputs):
                        w_i = e.at(b, at, b.mul(line, _i64(i)))
                        found += [e.at(b, w_i, j * e.lanes) for j in each]
            return found

        def add(count: int, met: range, state: State) -> State:
            m, ahead, y_m, *rest = state
            x_m, sums = rest[:rows], rest[rows:]
            at = y_m
            for _ in range(count):
                e.prefetch(b, e.at(b, at, below))
                at = e.at(b, at, ldy)
            ahead = _fetch(b, e, ahead, b.mul(lines, _i64(count)), apart)
            columns = apart_by * (count - 1) + terms
            for j in each:
                ys, at = [], y_m
                for _ in range(count):
                    ys.append(e.load(b, e.at(b, at, j * e.lanes), masks[0]))
                    at = e.behind(b, e.at(b, at, ldy), ys[-1:])
                for r in range(rows):
                    at_row = x_m[r]
                    for column in range(columns):
                        pairs = [(k, n) for n in range(count) for k in met
                                 if n * apart_by + k == column]  # fmt: skip
                        place = e.at(b, e.at(b, at_row, steps_on[column % 3]), j * e.wide.lanes)
                        values = e.place(b, place, masks[1]) if pairs else []
                        for k, n in pairs:
                            for i, value in enumerate(values):
                                s = ((r * terms + k) * e.inputs + i) * many + j
                                sums[s] = e.multiply_add(b, value, ys[n], sums[s])
                        if column % 3 == 2:
                            at_row = e.at(b, at_row, steps_on[3])
                        if pairs:
                            at_row = e.behind(b, at_row, [sums[s]])
            moved = [e.at(b, x_r, b.mul(move, _i64(count))) for x_r in x_m]
            return [b.sub(m, _i64(count)), ahead, at, *moved, *sums]

        def at_first(state: State) -> ir.Value:
            return b.icmp_signed(">", state[0], behind_first)

        def between(count: int, state: State) -> ir.Value:
            enough = b.icmp_signed(">=", state[0], b.add(at_end, _i64(count)))
            return enough if count == 1 else b.and_(enough, shared)

        def at_last(state: State) -> ir.Value:
            return b.icmp_signed(">", state[0], _i64(0))

        begin = [e.load(b, at, masks[0]) for at in weights()]
        left = [places, ahead, y, *(row(x, x_at, r) for r in range(rows)), *begin]
        left = loop_while(b, left, at_first, partial(add, 1, range(1, terms)))
        for count in (at_once(many), 1) if apart_by else (1,):
            left = loop_while(b, left, partial(between, count), partial(add, count, range(terms)))
        left = loop_while(b, left, at_last, partial(add, 1, range(terms - 1)))
        for at, value in zip(weights(), left[3 + rows :], strict=True):
            e.store(b, value, at, masks[0])
        moved = (e.at(b, at, many * n) for at, n in ((x, e.wide.lanes), (y, e.lanes), (w, e.lanes)))
        return [b.add(v, _i64(many)), *moved, left[1]]

    many, most = sums_abreast(e.inputs, e.outputs)
    done = _vectors(b, many if terms <= most else 1, some, [_i64(0), x, y, w, ahead], whole)
    with b.if_then(b.icmp_signed("<", done[0], vectors)):
        some(1, done, masked=True)
    b.ret_void()
    return f


def _emit_gradient(name: str, inputs: int, outputs: int, apart_by: int, dtype: Any) -> str:
    e = _Groups(dtype, inputs, outputs)
    _, most = sums_abreast(inputs, outputs)
    sizes = [
        (rows, terms)
        for terms in range(1, most_taps(inputs) + 1)
        for rows in range(1, most_rows(terms, inputs, most) + 1)
    ]
    return e.by_size(name, {16 * r + k: _gradient(e, r, k, apart_by) for r, k in sizes})


def _gradient_twin(
    inputs: int, outputs: int,
    size: int, x: Address, x_at: Address, move: int, step: int, y: Address, ldy: int, places: int,
    edges: int, w: Address, w_at: Address, tap: int, line: int, vectors: int, last: int,
    below: int, ahead: Address, lines: int, apart: int,
) -> None:  # fmt: skip
    """Compute equation (2) in plain Python; `size` is 16 times the rows, and the taps of a row."""
    n = lanes(y.dtype)
    rows, terms = divmod(size, 16)
    _, most = sums_abreast(inputs, outputs)
    fits = 1 <= terms <= most_taps(inputs) and 1 <= rows <= most_rows(terms, inputs, most)
    if not (fits and 1 <= last <= n):
        raise IndexError(f"no sums for {rows} x {terms} taps and {last} lanes")
    width = (vectors - 1) * n + last
    groups = np.arange(width) // outputs * inputs
    for r in range(rows):
        x_r, w_r = int(x_at.row(r, 1)[0]), int(w_at.row(r, 1)[0])
        for k in range(terms):
            for i in range(inputs):
                sums = w.row(w_r + k * tap + i * line, width)
                m0, m1 = int(k == 0) & edges, places - (int(k == terms - 1) & edges >> 1)
                for m in range(m0, m1):
                    values = x.row(x_r + m * move + k * step, width * inputs // outputs)
                    sums += values[groups + i] * y.row(m * ldy, width)


@cache
def taps(
    inputs: int, outputs: int, together: int, rest: int, apart_by: int = 1, rows: int = 1,
    past: bool = False,
) -> Code:  # fmt: skip
    """Return the code for groups of so many inputs and outputs: its arguments are `_twin`'s.

    What goes `past` the caches is aligned, and so are its rows.
    """
    name = f"taps_of_{inputs}_to_{outputs}_by_{together}_and_{rest}_{apart_by}_{rows}"
    name += "_past" * past
    emit = partial(_emit, name, inputs, outputs, together, rest, apart_by, rows, past)
    whole = 0 if together else rest
    return Code(name, emit, partial(_twin, inputs, outputs, whole, apart_by, rows))


@cache
def taps_gradient(inputs: int, outputs: int, apart_by: int) -> Code:
    """Return the code for the gradient of weights: its arguments are `_gradient_twin`'s."""
    name = f"gradient_of_{inputs}_to_{outputs}_by_{apart_by}"
    emit = partial(_emit_gradient, name, inputs, outputs, apart_by)
    return Code(name, emit, partial(_gradient_twin, inputs, outputs))
