"""Convolution: the functions of formula.py, as direct correlations on the engine's tile."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Final, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from ..arrays import mask_steps, scale
from ..engine import matmul, pool
from ..engine.cached import KeptBySize
from ..engine.jit import held
from ..engine.matmul import are_contiguous, column_sums, contiguous, machine_of, product
from ..engine.memory import empty
from ..engine.program import Plan
from ..engine.threads import count as count_threads
from ..windows import Ints, Pads, Windows, each, pad, pairs, unpad
from . import depthwise, direct, narrow, phases, weights, winograd
from .bound import ARRAYS, WORK, Bound, Part
from .case import Case, case_of
from .direct import PLANS, Correlation, Taps, correlation
from .gathered import Product
from .phases import Gradient, Phases, gradient
from .weights import Chunks

NDArray = npt.NDArray[Any]
_Weights: TypeAlias = NDArray | direct.Packed | matmul.Packed
BackWeights: TypeAlias = NDArray | Phases | matmul.Packed
R = TypeVar("R")

_NUMPY_MODES: Final = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def forward(
    x: NDArray,
    weight: NDArray,
    bias: NDArray | None = None,
    lengths: NDArray | None = None,
    *,
    stride: int | Ints = 1,
    dilation: int | Ints = 1,
    padding: int | Pads = 0,
    padding_mode: str = "zeros",
    groups: int = 1,
    relu: bool = False,
) -> tuple[NDArray, tuple[Any, ...]]:
    r"""Return y, shape (N, \*Q, O), with a ReLU on top if asked for, and `backward`'s cache."""
    windows = windows_of(weight.shape, stride, dilation, padding)
    x, weight = contiguous(mask_steps(x, lengths)), contiguous(weight)
    bias = None if bias is None else contiguous(bias)
    case = case_of(x.shape, weight.shape, windows, padding_mode, groups, x.dtype, count_threads())
    y = y_of(case, x, weight, bias, relu)
    out_lengths = None if lengths is None else windows.output_lengths(lengths)
    return mask_steps(y, out_lengths), (x, weight, bias is not None, lengths, out_lengths, case)


def backward(dy: NDArray, cache: tuple[Any, ...]) -> tuple[NDArray, dict[str, NDArray]]:
    r"""Return dx, shape (N, \*S, C), and the gradients of weight and bias."""
    return _backward(dy, cache, True)


def gradients(dy: NDArray, cache: tuple[Any, ...]) -> dict[str, NDArray]:
    """Return the gradients of weight and bias."""
    return _backward(dy, cache, False)[1]


def _backward(dy: NDArray, cache: tuple[Any, ...], of_x: bool) -> tuple[Any, dict[str, NDArray]]:
    """Return dx, unless it is not asked for, and the gradients of weight and bias."""
    x, weight, has_bias, lengths, out_lengths, case = cache
    case = case.now()
    dy = contiguous(mask_steps(dy, out_lengths))
    if not case.goes_back_at_once:
        dx = dx_of(case, dy, weight) if of_x else None
        grads = {"weight": dw_of(case, dy, x)}
        summed = False
    else:
        dx = empty(case.x, dy.dtype) if of_x else None
        grads = {"weight": empty(case.weight, dy.dtype)}
        summed = has_bias and matmul.sums_are_product(dy.size, case.weight[-1])
        if summed:
            grads["bias"] = np.empty(case.weight[-1], dy.dtype)
        if dx is None:
            _back(case, False, summed, False)(dy, x, weight, dy, *grads.values())
        else:
            run = _back(case, True, summed, _goes_past(case, dx, True))
            run(dy, x, _turned(case, weight), dx, *grads.values())
    if has_bias and not summed:
        grads["bias"] = column_sums(dy)  # (4)
    return None if dx is None else mask_steps(dx, lengths), grads


class Parameters:
    """The parameters of a forward pass, and whether a ReLU goes on top.

    Weights are packed when it is first known how; those of each output are multiplied by a factor
    then, if there are some.
    """

    def __init__(
        self,
        weight: NDArray,
        bias: NDArray | None = None,
        relu: bool = False,
        factors: NDArray | None = None,
    ) -> None:
        self.weight, self.factors, self.relu = contiguous(weight), factors, relu
        self.bias = None if bias is None else contiguous(bias)
        self.packed: dict[bool, Any] = {}  # by whether a case is a product


class Forward(Parameters):
    """The forward pass with given `Parameters`."""

    def __init__(
        self, *given: Any, stride: int | Ints = 1, dilation: int | Ints = 1,
        padding_mode: str = "zeros", groups: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(*given)
        weight, rank = self.weight, self.weight.ndim - 2
        self.window = weight.shape[:rank], each(stride, rank), each(dilation, rank)
        self.options = padding_mode, groups

    def __call__(self, x: NDArray, lengths: NDArray | None, padding: Pads) -> NDArray:
        """Return y."""
        x = contiguous(mask_steps(x, lengths))
        case = self.case(x.shape, x.dtype, padding)
        y = y_of(case, x, self._weights(case), self.bias, self.relu)
        masked: NDArray = mask_steps(y, case.windows.output_lengths(lengths))
        return masked

    def plan(self, plan: Plan, x: int, padding: Pads) -> int:
        """Plan y of the array of that number; return the number of y."""
        case = self.case(plan.shapes[x], plan.dtype, padding)
        weights: Any = self._weights(case)
        bias, relu = self.bias, self.relu
        if case.is_product:
            if isinstance(weights, np.ndarray):
                weights = weights.reshape(-1, case.weight[-1])
            return plan.multiply(x, matmul.Given(weights, bias, relu), case.y)
        how = self._correlation(case, weights)
        if how is not None:
            calls = partial(direct.bind, how, weights, bias, relu)

            def ready(*places: Any) -> pool.Ready | None:
                return calls(*places)[0] if len(how.spans) == 1 else None

            def bind(scratch: NDArray) -> pool.Run:
                return pool.in_order(*calls(pool.late(0), pool.late(1), scratch))

            return plan.add_bound(case.y, bind, how.bytes, x, ready=ready)
        return plan.add(case.y, lambda x, y: y_of(case, x, weights, bias, relu, y), x)

    def case(self, x: Ints, dtype: np.dtype[Any], padding: Pads) -> Case:
        """Return what plans for x of that shape follow from."""
        windows = Windows(*self.window, padding)
        return case_of(x, self.weight.shape, windows, *self.options, dtype, count_threads())

    def _correlation(self, case: Case, weights: _Weights) -> Correlation | None:
        """Return the plan of y that a program binds to its memory, if it does."""
        if not isinstance(weights, direct.Packed) or 0 in case.y:
            return None
        return _plan(case, weights.edges)

    def _weights(self, case: Case) -> _Weights:
        kind = case.is_product
        found = self.packed.get(kind)
        if found is None:
            found, o = scaled(self.weight, self.factors), case.weight[-1]
            if case.is_product:
                found = matmul.pack(found, o, 1, o, found.size // o)
            elif case.groups == 1:
                pack = winograd.pack if case.is_winograd else direct.pack
                found = pack(found.reshape(case.volumes[1]))
            self.packed[kind] = found
        return found


def scaled(weight: NDArray, factors: NDArray | None) -> NDArray:
    """Return weights multiplied by factors, in their dtype."""
    found: NDArray = scale(weight, factors)
    return found.astype(weight.dtype, copy=False)


class Live(Parameters):
    """What a forward pass is with parameters whose values may change: nothing is packed."""

    @classmethod
    def of(
        cls, weight: NDArray, bias: NDArray | None, relu: bool = False, **options: Any
    ) -> Self | None:
        """Return it for parameters; None where they lie apart."""
        return cls(weight, bias, relu, **options) if are_contiguous(weight, bias) else None

    def _weights(self, case: Case) -> NDArray:
        return self.weight

    def train(
        self, program: Callable[[NDArray], NDArray], case: Case, x: NDArray
    ) -> tuple[NDArray, tuple[Any, ...]]:
        """Return y, by a program of the plan for x of that case, and the cache of `backward`."""
        x = contiguous(x)
        return program(x), (x, self.weight, self.bias is not None, None, None, case)


class _LiveForward(Live, Forward):
    """The forward pass with such parameters."""

    def _correlation(self, case: Case, weights: _Weights) -> Correlation | None:
        if case.is_depthwise or 0 in case.y:
            return None
        found = _plan(case, None)
        # A layer is called with many shapes, and no more than that is kept for each.
        return None if found.packed or found.bytes > matmul.SCRATCH else found


fixed: Final = Forward
"""`fixed(weight, bias, relu, ...)`: the forward pass with parameters that stay, packed once."""

live: Final = _LiveForward.of
"""The same with parameters whose values may change."""


def step(z: NDArray, weight: NDArray, bias: NDArray | None = None, *, groups: int = 1) -> NDArray:
    """Return y, shape (N, O), of the only window in z, shape (N, K, C); `weight` has one axis K."""
    if groups > 1:
        return forward(z, weight, bias, groups=groups)[0][:, 0, :]
    z, weight = contiguous(z), contiguous(weight)
    bias = None if bias is None else contiguous(bias)
    o = weight.shape[-1]
    k = weight.size // o
    y = empty((len(z), o), z.dtype)
    matmul.matmul(z, k, 1, weight, o, 1, len(z), o, k, y, bias)
    return y


def fixed_step(
    weight: NDArray,
    bias: NDArray | None = None,
    relu: bool = False,
    factors: NDArray | None = None,
    *,
    groups: int = 1,
) -> Callable[[NDArray], NDArray]:
    """Return `step` as a function of z, with what `fixed` takes."""
    if groups > 1:
        several = fixed(weight, bias, relu, factors, groups=groups)
        return lambda z: several(z, None, ((0, 0),))[:, 0, :]
    o = weight.shape[-1]
    k = weight.size // o
    bias = None if bias is None else contiguous(bias)
    weight = contiguous(scaled(weight, factors))
    multiply = matmul.Given(matmul.pack(weight, o, 1, o, k), bias, relu)

    def run(z: NDArray) -> NDArray:
        y = empty((len(z), o), z.dtype)
        multiply(contiguous(z), len(z), y)
        return y

    return run


# Plans


@lru_cache(PLANS)
def _plan(case: Case, edges: Ints | None) -> Correlation:
    """Plan y, with weights packed beforehand if there are edges."""
    x, weight, y = case.volumes
    if case.is_winograd:
        _, dilation, before = case.moves
        how = before, dilation, False, case.dtype, case.threads
        return winograd.winograd(x, weight, y, *how, given=edges is not None)
    windows, (_, *sizes, _), (_, *outputs, _) = case.windows, case.x, case.y
    axes = [
        Taps(tuple(range(k)), d, s, q, _map(size, pads, case.padding_mode)[: (q - 1) * s + span])
        for k, d, s, q, size, pads, span in zip(
            windows.size, windows.dilation, windows.stride, outputs, sizes, windows.pads,
            windows.spans, strict=True,
        )
    ]  # fmt: skip
    axes = [Taps((0,), 1, 1, 1, np.zeros(1, np.int64))] * (3 - len(axes)) + axes
    _, _, rows, columns, o = y
    strides = rows * columns * o, columns * o, o
    return correlation(
        x, weight, case.groups, False, axes, y, 0, strides, case.dtype, case.threads, edges
    )


def _kept_by_phases(function: Callable[..., R]) -> KeptBySize[R]:
    """Keep results of a function of a case: the strides are how many phases dX has."""
    return KeptBySize(
        function, PLANS, phases.FEW, lambda case: math.prod(case.windows.stride) > phases.MANY
    )


@_kept_by_phases
def _plan_dx(case: Case, given: bool) -> Gradient:
    """Plan dx by phases, with weights packed beforehand if they are given so."""
    x, weight, dy = case.volumes
    if case.is_winograd:
        _, dilation, before = case.moves
        after = tuple((k - 1) * d - b for k, d, b in zip(weight[:3], dilation, before, strict=True))
        how = after, dilation, True, case.dtype, case.threads
        plan = winograd.winograd(dy, weight, x, *how, given=given)
        taps = tuple(tuple(range(k))[::-1] for k in weight[:3])
        return Gradient({taps: plan}, [], plan.zeros)
    return gradient(dy, weight, x, case.groups, *case.moves, case.dtype, case.threads, given)


@lru_cache(PLANS)
def _plan_dw(case: Case) -> Product | Chunks:
    """Plan dW."""
    x, weight, dy = case.volumes
    if case.is_winograd:
        _, dilation, before = case.moves
        return winograd.weights(x, dy, weight, before, dilation, case.dtype, case.threads)
    return weights.weights(x, dy, weight, case.groups, *case.moves, case.dtype, case.threads)


def _padded(case: Case) -> Case:
    """Return the case of one sample that was padded before."""
    (_, *sizes, c), windows = case.x, case.windows
    padded = (s + sum(pads) for s, pads in zip(sizes, windows.pads, strict=True))
    unpadded = Windows(windows.size, windows.stride, windows.dilation, ((0, 0),) * len(sizes))
    rest = case.groups, case.dtype, case.threads
    return case_of((1, *padded, c), case.weight, unpadded, "zeros", *rest)


# The passes, whose arrays come later: the numbers below say in which order


def _parts_of_dx(
    case: Case, dy: int, weight: int, dx: int, bias: int | None = None, relu: bool = False,
    given: bool = False, past: bool = False,
) -> Sequence[Part]:  # fmt: skip
    """Return what writes dX."""
    if case.is_depthwise:
        return [depthwise.part(case, (dy, weight, dx, bias), relu, past, back=True)]
    if case.has_narrow_dx and 0 not in case.y:
        plan = narrow.narrow(*case.volumes[::-1], *case.moves, case.dtype, case.threads)
        return [narrow.part(plan, dy, weight, dx, bias)]
    if not case.has_product_dx:
        return phases.parts(_plan_dx(case, given), dy, weight, dx, bias, relu, given)
    (c, o), rows = case.matrix, math.prod(case.y[:-1])
    return [_product(case, (dy, o, 1), (weight, 1, o), dx, (rows, c, o), bias, relu)]


def _part_of_dw(case: Case, x: int, dy: int, dw: int) -> Part:
    """Return what writes dW."""
    if case.is_depthwise:
        return depthwise.part_of_dw(case, x, dy, dw)
    (c, o), rows = case.matrix, math.prod(case.y[:-1])
    if not case.is_product:
        return weights.part(_plan_dw(case), x, dy, dw, c * o)
    return _product(case, (x, 1, c), (dy, o, 1), dw, (c, o, rows))


def _product(
    case: Case, a: Ints, b: Ints, c: int, sizes: Ints, bias: int | None = None, relu: bool = False
) -> Part:
    """Return a product of `matmul` of so many rows, columns and terms.

    a and b are which matrices they are, each with its strides.
    """
    late, strides = pool.late, (*a[1:], *b[1:])
    found = product(case.dtype, *sizes, *strides, case.threads, bias=bias is not None, relu=relu)
    start = None if bias is None else late(bias)
    ready = found.ready(late(a[0]), late(b[0]), late(c), late(WORK), start)
    return Part([ready], found, found.panels)


@lru_cache(PLANS)
def _y(case: Case, edges: Ints | None, bias: bool, relu: bool, past: bool) -> Bound:
    """Return a function of x, the weights, or their panels, y and maybe a bias that writes y."""
    x, weight, y, start = range(ARRAYS, ARRAYS + 4)
    if case.is_depthwise:
        arrays = x, weight, y, start if bias else None
        return Bound(case.dtype, depthwise.part(case, arrays, relu, past, back=False))
    plan, given = _plan(case, edges), edges is not None
    return Bound(case.dtype, direct.part(plan, x, weight, y, start if bias else None, relu, given))


@_kept_by_phases
def _dx(case: Case, bias: bool, relu: bool, given: bool, past: bool) -> Bound:
    """Return a function of dy, dx, maybe what `_starts` gives, and the weight that writes dx.

    Where weights are given packed, there are some.
    """
    dy, dx, start, _, weight = range(ARRAYS, ARRAYS + 5)
    how = relu, given, past
    if bias:
        return Bound(case.dtype, *_parts_of_dx(case, dy, weight, dx, start, *how))
    return Bound(case.dtype, *_parts_of_dx(case, dy, start, dx, None, *how))


@lru_cache(PLANS)
def _dw(case: Case) -> Bound:
    """Return a function of x, dy and dw that writes dw."""
    x, dy, dw = range(ARRAYS, ARRAYS + 3)
    return Bound(case.dtype, _part_of_dw(case, x, dy, dw))


@_kept_by_phases
def _back(case: Case, of_x: bool, of_bias: bool, past: bool) -> Bound:
    """Return a function of dy, x, the weight, dx, dw and db that writes what is asked for, and dw.

    db, shape (O,), is for a sum that is a product.
    """
    dy, x, weight, dx, dw, db = range(ARRAYS, ARRAYS + 6)
    parts = [*_parts_of_dx(case, dy, weight, dx, past=past)] if of_x else []
    parts.append(_part_of_dw(case, x, dy, dw))
    if of_bias:  # (4)
        parts.append(_column_sums(case, dy, db))
    return Bound(case.dtype, *parts)


def _column_sums(case: Case, dy: int, sums: int) -> Part:
    rows, late = math.prod(case.y[:-1]), pool.late
    one, o = machine_of(case.dtype).one, case.y[-1]
    found = product(case.dtype, 1, o, rows, 0, 0, o, 1, case.threads)
    ready = found.ready(held(one), late(dy), late(sums), late(WORK))
    return Part([ready], (found, one), found.panels)


@lru_cache(PLANS)
def _dw_of_one(case: Case, add: bool) -> Bound:
    """Return `_dw` for a sample that was padded before, which may add to what dw holds."""
    x, dy, dw = range(ARRAYS, ARRAYS + 3)
    return Bound(case.dtype, weights.part(_plan_dw(case), x, dy, dw, math.prod(case.weight), add))


def y_of(
    case: Case, x: NDArray, weight: _Weights, bias: NDArray | None = None, relu: bool = False,
    y: NDArray | None = None,
) -> NDArray:  # fmt: skip
    """Return y, in the array that is given for it, if one is."""
    y = empty(case.y, x.dtype) if y is None else y
    if not isinstance(weight, direct.Packed) and case.is_product:
        c, o = case.matrix
        matmul.matmul(x, c, 1, weight, o, 1, y.size // o, o, c, y, bias, relu)
    elif y.size and not isinstance(weight, matmul.Packed):
        edges = weight.edges if isinstance(weight, direct.Packed) else None
        array = weight.panels if isinstance(weight, direct.Packed) else weight
        given = () if bias is None else (bias,)
        _y(case, edges, bias is not None, relu, _goes_past(case, y, False))(x, array, y, *given)
    return y


def dw_of(case: Case, dy: NDArray, x: NDArray) -> NDArray:
    """Return dW; where padding repeats x, of x padded sample by sample."""
    dweight = empty(case.weight, dy.dtype)
    if not dy.size:
        dweight[...] = 0
    elif not case.repeats:
        _dw(case)(x, dy, dweight)
    else:
        one = _padded(case)
        for n in range(len(x)):
            padded = contiguous(pad(x[n : n + 1], case.windows.pads, case.padding_mode))
            _dw_of_one(one, n > 0)(padded, dy[n], dweight)
    return dweight


def dx_of(
    case: Case, dy: NDArray, weight: BackWeights, bias: NDArray | None = None, relu: bool = False,
    dx: NDArray | None = None,
) -> NDArray:  # fmt: skip
    """Return dx: of padded x, and folded back sample by sample, where padding repeats x.

    Where padding is of zeros, there may be a bias for each channel of x to add, and a ReLU on top,
    the weights may be what `pack_back` returned, and the array may be given.
    """
    dx = empty(case.x, dy.dtype) if dx is None else dx
    if not dx.size:
        return dx
    if case.has_product_dx:
        bias = _product_bias(case, bias)
    if isinstance(weight, matmul.Packed):
        c, o = case.matrix
        matmul.matmul(dy, o, 1, weight, 1, o, dy.size // o, c, o, dx, bias, relu)
    elif isinstance(weight, dict):
        panels = [weight[taps].panels for taps in _plan_dx(case, True).correlations]
        _dx(case, bias is not None, relu, True, False)(dy, dx, *_starts(bias, relu), *panels)
    elif not case.repeats:
        run = _dx(case, bias is not None, relu, False, _goes_past(case, dx, True))
        run(dy, dx, *_starts(bias, relu), _turned(case, weight))
        if relu and case.has_narrow_dx:
            np.maximum(dx, 0, out=dx)
    else:
        one = _padded(case)
        dpadded = empty(one.x, dy.dtype)
        for n in range(len(dy)):
            _dx(one, False, False, False, False)(dy[n], dpadded, weight)
            dx[n : n + 1] = unpad(dpadded, case.windows.pads, case.padding_mode)
    return dx


def _goes_past(case: Case, result: NDArray, back: bool) -> bool:
    """Return whether y, or for `back` dx, is written past the caches."""
    if not case.is_depthwise:
        return False
    c, o = case.weight[-2], case.weight[-1] // case.groups
    return depthwise.goes_past(*((o, c) if back else (c, o)), result)


def _turned(case: Case, weight: NDArray) -> NDArray:
    """Return the weight as dx is computed with it."""
    return depthwise.turned(weight, case.groups) if case.is_depthwise else weight


def _starts(bias: NDArray | None, relu: bool) -> tuple[NDArray, ...]:
    """Return what sums of dX begin with, and what it is where no window meets it."""
    if bias is None:
        return ()
    return bias, phases.unmet_of(bias, relu)


def plan_back(
    plan: Plan, case: Case, dy: int, weight: BackWeights, bias: NDArray | None, relu: bool
) -> int:
    """Plan `dx_of` the array of that number, with weights from `pack_back`; return dX's number."""
    if isinstance(weight, matmul.Packed):
        return plan.multiply(dy, matmul.Given(weight, _product_bias(case, bias), relu), case.x)
    if isinstance(weight, dict) and 0 not in case.x:
        how = _plan_dx(case, True)
        unmet = how.zeros if bias is None else phases.unmet_of(bias, relu)
        bind = partial(phases.bind, how, weight, bias, unmet, relu)
        return plan.add_bound(case.x, bind, how.bytes, dy)
    return plan.add(case.x, lambda dy, dx: dx_of(case, dy, weight, bias, relu, dx), dy)


def _product_bias(case: Case, bias: NDArray | None) -> NDArray | None:
    """Return the bias of dX as a product: where x is one window, its columns are tap by tap."""
    c, _ = case.matrix
    return bias if bias is None or len(bias) == c else np.tile(bias, c // len(bias))


def pack_back(case: Case, weight: NDArray) -> BackWeights:
    """Return weights for `dx_of`, packed as far as they are."""
    if case.has_product_dx:
        return matmul.pack(weight, 1, case.matrix[1], *case.matrix)
    if case.groups > 1 or case.has_narrow_dx:
        return weight
    how = winograd.pack if case.is_winograd else direct.pack
    return phases.pack(weight.reshape(case.volumes[1]), *case.moves, how)


@lru_cache(PLANS)
def windows_of(
    weight: Ints, stride: int | Ints, dilation: int | Ints, padding: int | Pads
) -> Windows:
    """Return the windows of a kernel, of the shape of its weight."""
    rank = len(weight) - 2
    return Windows(weight[:rank], each(stride, rank), each(dilation, rank), pairs(padding, rank))


def _map(size: int, pads: tuple[int, int], mode: str) -> NDArray:
    """Return which position of x stands at each position of padded x; -1 for zero."""
    if mode == "zeros":
        before, after = pads
        return np.pad(np.arange(size), (before, max(after, 0)), constant_values=-1)
    found: NDArray = np.pad(np.arange(size), pads, mode=_NUMPY_MODES[mode])  # type: ignore[call-overload]
    return found
