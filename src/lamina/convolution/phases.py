"""The gradient of a convolution's x: for each phase of the stride a direct correlation of dY.

Position i of dX lies at i + before in padded X, and element k of window p at p s + k d. So i meets
the k for which s divides i + before - k d: the same k for all i of a *phase*, i mod s, and each
with p = (i + before - k d) / s, which falls as k rises. Each phase is a correlation with taps and
places of its own, and the phases of the axes together write each element of dX once.

Few channels would leave most lanes of the tiles empty: for them there is narrow.py, which takes
terms of the sum for lanes.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ..engine import jit, pool
from ..engine.jit import Arguments, Task, address, call, data
from ..engine.matmul import machine_of
from ..windows import Ints
from . import direct
from .bound import Part
from .direct import Correlation, Packed, Taps, correlation, edges_packed, zeros_of

NDArray = npt.NDArray[Any]
Phases: TypeAlias = dict[tuple[Ints, ...], Packed]
"""Weights packed beforehand, by the taps on the three axes that a phase meets."""

MANY: Final = 64
"""With more phases than that a plan is large,"""
FEW: Final = 4
"""and so few of its kind are kept."""
ALONE: Final = 2**16
"""So many elements of dX, or fewer, are filled on one core."""


@jit.kernel
def _fill(g: int, shape: Task, at: Task) -> None:
    """Set part g of a phase of dX, all its positions, to the same channels: 0, or a bias."""
    parts, size, lane, copy, n, deep, high, wide, c, first, s_n, s_d, s_h, s_w = shape
    dx, channels = at
    dx = data(dx) + first * size
    vectors = (c + lane - 1) // lane
    last = c - (vectors - 1) * lane
    lines = n * deep * high
    for i in range(lines * g // parts, lines * (g + 1) // parts):
        place = i // high // deep * s_n + i // high % deep * s_d + i % high * s_h
        call(copy, (channels, 0, wide, vectors, last, dx + place * size, s_w))


@dataclass(frozen=True)
class _Phase:
    """Positions first, first + step, ... of an axis of dX, and the taps they meet, or None."""

    first: int
    step: int
    count: int
    taps: Taps | None


@dataclass(frozen=True)
class Gradient:
    """The plan of dX: correlations, by their taps, and how `_fill` is told of what meets none."""

    correlations: dict[tuple[Ints, ...], Correlation]
    unmet: list[Arguments]
    zeros: NDArray
    """What it is then, unless there is a bias."""
    fill_parts: int = 1
    """In how many parts it is filled."""

    @property
    def bytes(self) -> int:
        """The bytes of its scratch, in which one correlation works after the other."""
        return max((one.bytes for one in self.correlations.values()), default=0)


def gradient(
    dy: Ints, weight: Ints, dx: Ints, groups: int, stride: Ints, dilation: Ints, before: Ints,
    dtype: np.dtype[Any], threads: int, given: bool = False,
) -> Gradient:  # fmt: skip
    """Plan dX.

    Parameters
    ----------
    dy, weight, dx : tuple of int
        Shapes: N, QD, QH, QW, O; KD, KH, KW, C / groups, O; N, D, H, W, C.
    groups : int
    stride, dilation, before : tuple of three int
        `before` is what pads x with zeros at the start of each axis.
    dtype : dtype
    threads : int
        How many there are for large work.
    given : bool
        Whether weights are given packed, by `pack`.
    """
    axes = [
        _phases(
            weight[axis], stride[axis], dilation[axis], before[axis], dx[1 + axis], dy[1 + axis]
        )
        for axis in range(3)
    ]
    n, _, height, width, c = dx
    apart = height * width * c, width * c, c
    machine, parts = machine_of(dtype), threads if math.prod(dx) > ALONE else 1
    correlations, unmet = {}, []
    for phases in itertools.product(*axes):
        taps = [phase.taps for phase in phases if phase.taps is not None]
        steps = tuple(p.step * a for p, a in zip(phases, apart, strict=True))
        first = sum(p.first * a for p, a in zip(phases, apart, strict=True))
        if len(taps) == 3:
            chosen = tuple(axis.chosen for axis in taps)
            terms = math.prod(map(len, chosen)) * weight[4]
            edges = edges_packed(terms, c, dtype) if given else None
            correlations[chosen] = correlation(
                dy, weight, groups, True, taps, dx, first, steps, dtype, threads, edges
            )
        else:
            shape = (
                parts, machine.size, machine.lane, machine.codes[1], n,
                *(phase.count for phase in phases), c, first, math.prod(dx[1:]), *steps,
            )  # fmt: skip
            unmet.append(Arguments(shape))
    return Gradient(correlations, unmet, zeros_of(c, dtype), parts)


def pack(
    weight: NDArray, stride: Ints, dilation: Ints, before: Ints, how: Callable[[NDArray], Packed]
) -> Phases:
    """Return weights, shape (KD, KH, KW, C, O), packed for dY of any size, each phase by `how`."""
    axes = [
        [phase.taps.chosen for phase in _phases(*axis, size=axis[1], outputs=1) if phase.taps]
        for axis in zip(weight.shape[:3], stride, dilation, before, strict=True)
    ]
    return {
        taps: how(np.ascontiguousarray(weight[np.ix_(*taps)].swapaxes(-1, -2)))
        for taps in itertools.product(*axes)
    }


def parts(
    plan: Gradient, dy: int, weight: int, dx: int, bias: int | None = None,
    relu: bool = False, given: bool = False,
) -> list[Part]:  # fmt: skip
    """Return what writes dx, as planned, with a bias added if there is one, and a ReLU on top.

    Each number is which of the arrays that come later it is. Behind a bias comes what dX is where
    no window meets it. Where weights are given packed there is an array for each correlation.
    """
    begin = address(plan.zeros) if bias is None else pool.late_data(bias + 1)
    at = pool.late(dx), begin
    unmet = [pool.ready(_fill, plan.fill_parts, phase, at) for phase in plan.unmet]
    return [
        Part(unmet, plan),
        *(
            direct.part(one, dy, weight + i if given else weight, dx, bias, relu, given)
            for i, one in enumerate(plan.correlations.values())
        ),
    ]


def bind(
    plan: Gradient, weight: Phases, bias: NDArray | None, unmet: NDArray, relu: bool,
    scratch: NDArray,
) -> pool.Run:  # fmt: skip
    """Return the same with these weights, for dy and dx; it works in `plan.bytes` of scratch.

    `unmet` is what dX is where no window meets it. Like the plan, the weights and the bias, it must
    be there as long as what is returned.
    """
    dy, dx = pool.late(0), pool.late(1)
    at = dx, address(unmet)
    calls = [pool.ready(_fill, plan.fill_parts, phase, at) for phase in plan.unmet]
    for taps, one in plan.correlations.items():
        calls += direct.bind(one, weight[taps], bias, relu, dy, dx, scratch)
    return pool.in_order(*calls)


def unmet_of(bias: NDArray, relu: bool) -> NDArray:
    """Return what dX is where no window meets it."""
    return np.maximum(bias, 0) if relu else bias


def _phases(
    taps: int, stride: int, dilation: int, before: int, size: int, outputs: int
) -> list[_Phase]:
    """Return the phases of an axis of dX, of `size`, one position apart."""
    found = []
    for first in range(min(stride, size)):
        place = first + before
        kernel = reversed(range(taps))
        chosen = tuple(k for k in kernel if (place - k * dilation) % stride == 0)
        meets, count = None, (size - first - 1) // stride + 1
        if chosen and outputs:
            apart = dilation // math.gcd(dilation, stride)
            low = (place - chosen[0] * dilation) // stride
            at = low + np.arange(count + (len(chosen) - 1) * apart)
            meets = Taps(chosen, apart, 1, count, _within(at, outputs))
        found.append(_Phase(first, stride, count, meets))
    return found


def _within(at: NDArray, size: int) -> NDArray:
    """Return positions with -1 in the place of those outside 0 ... size - 1."""
    return np.where((at < 0) | (at >= size), -1, at)
