"""Dropout: the functions of formula.py, in one pass over memory.

A mask that is drawn is never stored. It is drawn where it is used, 32 bits a unit, and drawn again
in the backward pass. The stream names units, not places, so neither the width of vectors nor
threads nor the batch change a bit of it.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from ..arrays import mask_steps
from ..engine import elements, jit, philox, pool
from ..engine.jit import Address, Code, call, data, held, item
from ..engine.loops import for_range
from ..engine.matmul import contiguous
from ..engine.memory import ALIGNMENT, empty, past_caches
from ..engine.sweep import Masks, Sweep, Values
from ..engine.threads import count as count_threads
from . import formula
from .formula import Affine, Draw, Mode

NDArray = npt.NDArray[Any]
Shape = tuple[int, ...]
_i64, _i8, _pointer = ir.IntType(64), ir.IntType(8), ir.PointerType()

CHUNK: Final = 8192
"""The most units of a sample that a thread takes at once; a multiple of 4."""
SERIAL: Final = 16_384
"""Up to so many units a call stays on one core: a second one would cost more."""
KEPT: Final = 64
"""For how many sizes and rates it is kept what follows from them, ..."""
FEW: Final = 8
"""... and for how many sizes what has a number a sample."""


class Cache(NamedTuple):
    """What `backward` needs."""

    keep: Draw | NDArray | None
    scale: float
    lengths: NDArray | None
    y: NDArray | None = None
    """Where a ReLU is done, too: y is positive where a unit passes both, and 0 elsewhere."""


# Vector code


def _unrolled() -> int:
    """Return how many vectors of counters go side by side, to hide the latency of their rounds."""
    return 4 if jit.vector_registers() == 32 else 2


def _emit_drop(name: str, relu: bool, past: bool, dtype: Any) -> str:
    """Write y = s v + t, v = x where units are kept, a elsewhere, for `count` units of a sample.

    With a ReLU, v is that of x where units are kept; y may be written past the caches.
    """
    s = Sweep(name, dtype, "*x *y first count *id call k0 k1 threshold *affine")
    b = s.builder
    x, y, first, count, id_at, call_, k0, k1, threshold, affine = s.given
    write = s.streams if past else s.stores
    constants = _constants(s, affine)
    identity = b.load(id_at, typ=_i64, align=8)
    low, high = b.and_(identity, _i64(0xFFFFFFFF)), b.lshr(identity, _i64(32))
    rest = [philox.spread(b, word) for word in (low, high, call_)]
    keys = philox.keys(b, [k0, k1])
    narrow = ir.VectorType(ir.IntType(32), 2 * philox.lanes())
    limit = b.bitcast(philox.spread(b, b.or_(threshold, b.shl(threshold, _i64(32)))), narrow)
    block = b.sdiv(first, _i64(4))
    numbers = philox.order()
    done = philox.ahead(b, rest, keys)
    each = 4 * philox.lanes()  # units that a vector of counters serves
    vectors = each // s.lanes

    def some(j: ir.Value, count: int, masks: Masks) -> None:
        counters = b.add(philox.spread(b, b.add(block, b.sdiv(j, _i64(4)))), numbers)
        firsts = [b.add(counters, philox.spread(b, _i64(i * philox.lanes()))) for i in range(count)]
        for i, words in enumerate(philox.philox(b, firsts, done, keys)):
            kept: Values = []
            for draw in philox.draws(b, words):
                keep = b.icmp_unsigned(">=", draw, limit)
                kept += [keep] if s.size == 4 else _halves(b, keep)
            at = b.add(j, _i64(i * each))
            values = s.loads(s.at(b, x, at), masks)
            if relu:
                values = [_relu(b, v) for v in values]
            found = [_chosen(b, m, v, constants) for m, v in zip(kept, values, strict=True)]
            write(found, s.at(b, y, at), masks)

    unrolled = _unrolled()
    wide = each * unrolled
    whole = b.sdiv(count, _i64(wide))
    with for_range(b, whole) as loop:
        some(b.mul(loop.index, _i64(wide)), unrolled, [None] * vectors)
    served = b.mul(whole, _i64(wide))
    left = b.sdiv(b.add(b.sub(count, served), _i64(each - 1)), _i64(each))
    with for_range(b, left) as loop:
        j = b.add(served, b.mul(loop.index, _i64(each)))
        masks: Masks = [
            s.first_lanes(b, b.sub(count, b.add(j, _i64(v * s.lanes)))) for v in range(vectors)
        ]
        some(j, 1, masks)
    return s.end()


def _constants(s: Sweep, affine: ir.Value) -> Values:
    """Return s, t and s a + t, in every lane."""
    b = s.builder
    places = [s.at(b, affine, i) for i in range(3)]
    scale, shift, dropped = (
        s.spread(b, b.load(p, typ=s.scalar, align=s.size), s.vector) for p in places
    )
    return [scale, shift, b.fadd(b.fmul(dropped, scale), shift)]


def _chosen(b: ir.IRBuilder, keep: ir.Value, x: ir.Value, constants: Values) -> ir.Value:
    scale, shift, dropped = constants
    return b.select(keep, b.fadd(b.fmul(x, scale), shift), dropped)  # no FMA: the formula's bits


def _relu(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    zero = ir.Constant(x.type, [0.0] * x.type.count)
    return b.select(b.fcmp_ordered("<", x, zero), zero, x)  # NaN goes through; -0 + shift = 0


def _halves(b: ir.IRBuilder, keep: ir.Value) -> Values:
    n = keep.type.count // 2
    numbers = ir.VectorType(ir.IntType(32), n)
    undefined = ir.Constant(keep.type, ir.Undefined)
    return [
        b.shuffle_vector(keep, undefined, ir.Constant(numbers, list(range(i * n, i * n + n))))
        for i in (0, 1)
    ]


def _drop_twin(
    relu: bool, x: Address, y: Address, first: int, count: int,
    id_at: Address, call_: int, k0: int, k1: int, threshold: int, affine: Address,
) -> None:  # fmt: skip
    blocks = first // 4 + np.arange(-(-count // 4), dtype=np.uint64)
    identity = int(id_at.row(0, 1)[0])
    low, high, number = (
        np.full(blocks.shape, word, np.uint64)
        for word in (identity & formula.LOW, identity >> 32, call_)
    )
    words = formula.philox((blocks, low, high, number), (k0, k1))
    draws = np.stack(words, axis=-1).reshape(-1)[:count]
    scale, shift, dropped = affine.row(0, 3)
    values = x.row(0, count)
    if relu:
        values = np.where(values <= 0, 0, values)
    y.row(0, count)[...] = np.where(draws >= threshold, values, dropped) * scale + shift


def _emit_select(dtype: Any) -> str:
    """Write y = s v + t, v = x where a byte of the mask is not 0, a elsewhere, for some rows."""
    s = Sweep("select", dtype, "*x *y ld rows width *keep *affine")
    b = s.builder
    x, y, ld, rows, width, keep, affine = s.given
    constants = _constants(s, affine)
    bytes_ = ir.VectorType(_i8, s.lanes)
    masked = s.intrinsic(
        f"llvm.masked.load.v{s.lanes}i8.p0", bytes_,
        [_pointer, ir.IntType(32), s.mask, bytes_],
    )  # fmt: skip
    none = ir.Constant(bytes_, [0] * s.lanes)

    def strip(j: ir.Value, masks: Masks) -> None:
        kept = []
        for v, mask in enumerate(masks):
            at = b.gep(keep, [b.add(j, _i64(v * s.lanes))], source_etype=_i8)
            if mask is None:
                found = b.load(at, typ=bytes_, align=1)
            else:
                found = b.call(masked, [at, ir.IntType(32)(1), mask, none])
            kept.append(b.icmp_unsigned("!=", found, none))

        def row(at: Values, carried: Values) -> Values:
            values = zip(kept, s.loads(at[0], masks), strict=True)
            s.stores([_chosen(b, m, v, constants) for m, v in values], at[1], masks)
            return []

        s.down(rows, [s.at(b, x, j), s.at(b, y, j)], [ld, ld], [], row)

    s.across(width, (4, 1), strip)
    return s.end()


def _select_twin(
    x: Address, y: Address, ld: int, rows: int, width: int, keep: Address, affine: Address
) -> None:
    scale, shift, dropped = affine.row(0, 3)
    for i in range(rows):
        values = np.where(keep.row(0, width), x.row(i * ld, width), dropped)
        y.row(i * ld, width)[...] = values * scale + shift


def _codes(name: str, relu: bool) -> tuple[Code, Code]:
    """Return usual code, and code that writes past the caches."""
    usual, past = (
        Code(n, partial(_emit_drop, n, relu, n != name), partial(_drop_twin, relu))
        for n in (name, f"{name}_past")
    )
    return usual, past


drop, relu_drop = _codes("drop", False), _codes("relu_drop", True)
"""Units of a sample, by a mask that is drawn; and those of the ReLU of x."""
select: Final = Code("select", _emit_select, _select_twin)
"""Rows of a sample, by a mask that is given."""


def _back(e: Any, b: Any, dy: Any, y: Any, number: Any) -> Any:
    passed, zero = b.fadd(b.fmul(dy, number(0)), e.number(0)), e.number(0)  # as of `_chosen`
    return (b.select(b.fcmp_ordered("<=", y, zero), zero, passed),)


relu_drop_backward: Final = elements.Each(
    "relu_drop_backward",
    _back,
    lambda dy, y, scale: (np.where(y <= 0, 0, dy * scale + 0).astype(dy.dtype),),
    2,
)
"""The gradient of `relu_drop`, of dy and y, to the bit that of its two parts one by one."""


# Threads


@jit.kernel
def _drop(g: int, at: int) -> None:
    """Do part g of all samples, chunk by chunk, as far as their units are real."""
    (
        parts, size, code, n, units, threshold, affine, x, y, ids, real, numbers,
    ) = jit.constants(at, 12)  # fmt: skip
    x, y, ids, real, affine = data(x), data(y), data(ids), data(real), data(affine)
    numbers = data(numbers)
    call_, k0, k1 = item(numbers, 0), item(numbers, 1), item(numbers, 2)
    chunks = (units + CHUNK - 1) // CHUNK
    total = n * chunks
    for u in range(total * g // parts, total * (g + 1) // parts):
        sample, first = u // chunks, u % chunks * CHUNK
        count = min(CHUNK, item(real, sample) - first)
        if count > 0:
            place = (sample * units + first) * size
            call(code, (
                x + place, y + place, first, count, ids + sample * 8, call_, k0, k1, threshold,
                affine,
            ))  # fmt: skip


@jit.kernel
def _select(g: int, at: int) -> None:
    """Do part g: chunks of the units whose fate `rows` rows share."""
    parts, size, code, n, rows, units, x, y, keep, affine = jit.constants(at, 10)
    x, y, keep, affine = data(x), data(y), data(keep), data(affine)
    chunks = (units + CHUNK - 1) // CHUNK
    total = n * chunks
    for u in range(total * g // parts, total * (g + 1) // parts):
        sample, first = u // chunks, u % chunks * CHUNK
        place = (sample * rows * units + first) * size
        call(code, (
            x + place, y + place, units, rows, min(CHUNK, units - first),
            keep + sample * units + first, affine,
        ))  # fmt: skip


def forward(
    x: NDArray,
    keep: Draw | NDArray | None = None,
    rate: float = 0.5,
    mode: Mode = "inverted",
    lengths: NDArray | None = None,
    relu: bool = False,
) -> tuple[NDArray, Cache]:
    """Return y, of the shape of x, and the cache of `backward`; y may be x itself.

    A ReLU of x before is for a mask that is drawn without shared axes, not of the mode "alpha".
    """
    affine = formula.constants(rate, mode, keep is not None)
    if relu and isinstance(keep, Draw):
        y = _drawn(contiguous(x), keep, affine, lengths, relu_drop)
        return y, Cache(keep, affine.scale, lengths, y)
    return _apply(x, keep, affine, lengths), Cache(keep, affine.scale, lengths)


def backward(dy: NDArray, cache: Cache) -> tuple[NDArray, dict[str, NDArray]]:
    """Return dx, of the shape of x, and no gradients: there are no parameters."""
    keep, scale, lengths, y = cache
    if y is not None:
        dx = empty(y.shape, y.dtype)
        elements.run(relu_drop_backward, (contiguous(dy), y, dx), (scale,))
        return dx, {}
    return _apply(dy, keep, Affine(scale), lengths), {}


def mask(keep: Any) -> Any:
    """Return a mask that is given as one or as what draws it."""
    if not isinstance(keep, Draw):
        return keep
    shape = keep.mask_shape
    ones = np.ones(shape, np.float32)
    drawn = keep._replace(shape=shape, shared_axes=())
    if 0 in keep.shared:
        drawn = drawn._replace(sample_ids=None)
    kept: NDArray = _drawn(ones, drawn, Affine(1.0), None) != 0
    return kept


def _apply(
    x: NDArray, keep: Draw | NDArray | None, affine: Affine, lengths: NDArray | None
) -> NDArray:
    if keep is None:
        if affine.scale == 1 and lengths is None:
            return x
        scaled: NDArray = mask_steps(x, lengths) * affine.scale
        return scaled
    x = contiguous(x)
    if isinstance(keep, Draw) and not keep.shared_axes:
        return _drawn(x, keep, affine, lengths)
    y: NDArray = mask_steps(_selected(x, mask(keep), affine), lengths)
    return y


def _drawn(
    x: NDArray, keep: Draw, affine: Affine, lengths: NDArray | None, code: tuple[Code, Code] = drop
) -> NDArray:
    dropped = _bound(code, x.shape, x.dtype, keep.rate, affine, count_threads())
    return dropped(x, keep, lengths)


# What follows from shapes and options alone, which nobody writes to


@lru_cache(KEPT)
def _bound(
    code: tuple[Code, Code], shape: Shape, dtype: np.dtype[Any], rate: float, affine: Affine,
    threads: int,
) -> Callable[..., NDArray]:  # fmt: skip
    """Return y as a function of an x of that shape, what draws its mask, and lengths."""
    size, threshold = math.prod(shape), round(rate * 2**32)
    if threshold == 2**32 or size == 0:
        return lambda x, keep, lengths=None: np.zeros(shape, dtype)
    n, units = shape[0], size // shape[0]
    parts, constants = 1 if size <= SERIAL else threads, _numbers(affine, dtype)
    past = units * dtype.itemsize % ALIGNMENT == 0 and past_caches(2, size * dtype.itemsize)
    fixed = parts, dtype.itemsize, code[past](dtype), n, units, threshold, held(constants)
    arguments = *fixed, *map(pool.late, range(5))
    run = pool.in_order(pool.Ready(_drop, parts, arguments, constants))

    def dropped(x: NDArray, keep: Draw, lengths: NDArray | None = None) -> NDArray:
        y, (ids, real) = empty(shape, dtype), _all(n, units)
        if lengths is not None:
            for sample, length in zip(y, lengths.tolist(), strict=True):
                sample[length:] = 0
            real = lengths.astype(np.int64) * (units // shape[1])
        if keep.sample_ids is not None:
            ids = keep.sample_ids.astype(np.uint64)
        run(x, y, ids, real, np.array((keep.call & formula.LOW, *keep.key.tolist())))
        return y

    return dropped


@lru_cache(FEW)
def _all(n: int, units: int) -> tuple[NDArray, NDArray]:
    """Return the places of all samples, and how many units of each are real."""
    return np.arange(n, dtype=np.uint64), np.full(n, units)


@lru_cache(KEPT)
def _numbers(affine: Affine, dtype: np.dtype[Any]) -> NDArray:
    return np.array(affine, dtype)


def _selected(x: NDArray, keep: NDArray, affine: Affine) -> NDArray:
    """Return s v + t, v = x where a mask that broadcasts to x is true, a elsewhere."""
    y = empty(x.shape, x.dtype)
    if x.size == 0:
        return y
    n, rows, units = _shared(x.shape, keep.shape)
    if n * units != keep.size:
        keep, (n, rows, units) = np.broadcast_to(keep, x.shape), (1, 1, x.size)
    keep, constants = contiguous(keep), _numbers(affine, x.dtype)
    parts = 1 if x.size <= SERIAL else count_threads()
    pool.share(
        _select, parts, parts, x.dtype.itemsize, select(x.dtype), n, rows, units, held(x), held(y),
        held(keep), held(constants),
    )  # fmt: skip
    return y


def _shared(shape: tuple[int, ...], mask: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the sizes of x before, along and behind axes that share a mask, if they adjoin."""
    mask = (1,) * (len(shape) - len(mask)) + mask
    behind = len(shape)
    while behind and mask[behind - 1] == shape[behind - 1]:
        behind -= 1
    before = behind
    while before and mask[before - 1] == 1:
        before -= 1
    return math.prod(shape[:before]), math.prod(shape[before:behind]), math.prod(shape[behind:])
