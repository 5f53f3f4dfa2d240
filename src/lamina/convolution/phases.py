"""The gradient of a convolution's x: for each phase of the stride a direct correlation of dY.

Position i of dX lies at i + before in padded X, and element k of window p at p s + k d. So i meets
the k for which s divides i + before - k d: the same k for all i of a *phase*, i mod s, and each
with p = (i + before - k d) / s, which falls as k rises. Each phase is a correlation with taps and
places of its own, and the phases of the axes together write each element of dX once.

Few channels would leave most lanes of the tiles empty: narrow.py takes columns for lanes then.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..windows import Ints
from .direct import Correlation, Taps, correlate, correlation
from .narrow import Narrow, narrow, write

NDArray = npt.NDArray[Any]


@dataclass(frozen=True)
class _Phase:
    """Positions first, first + step, ... of an axis of dX, and the taps they meet, or None."""

    first: int
    step: int
    taps: Taps | None


@dataclass(frozen=True)
class Gradient:
    """The plan of dX: its correlations.

    `clear` tells that no window meets some of dX, which is to be set to 0 first.
    """

    clear: bool
    correlations: list[Correlation]


def gradient(
    dy: Ints, weight: Ints, dx: Ints, groups: int, stride: Ints, dilation: Ints, before: Ints,
    dtype: np.dtype[Any], threads: int,
) -> Gradient | Narrow:  # fmt: skip
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
    """
    if not math.prod(dx) * math.prod(dy):
        return Gradient(True, [])
    if groups == 1:
        plan = narrow(dy, weight, dx, stride, dilation, before, dtype, threads)
        if plan is not None:
            return plan
    axes = [
        _phases(
            weight[axis], stride[axis], dilation[axis], before[axis], dx[1 + axis], dy[1 + axis]
        )
        for axis in range(3)
    ]
    clear = any(phase.taps is None for phase in itertools.chain(*axes))
    _, height, width, c = dx[1:]
    apart = height * width * c, width * c, c
    correlations = []
    for phases in itertools.product(*axes):
        taps = [phase.taps for phase in phases if phase.taps is not None]
        if len(taps) == 3:
            steps = tuple(p.step * a for p, a in zip(phases, apart, strict=True))
            first = sum(p.first * a for p, a in zip(phases, apart, strict=True))
            correlations.append(
                correlation(dy, weight, groups, True, taps, dx, first, steps, dtype, threads)
            )
    return Gradient(clear, correlations)


def input_gradient(plan: Gradient | Narrow, dy: NDArray, weight: NDArray, dx: NDArray) -> None:
    """Write dx, as planned."""
    if isinstance(plan, Narrow):
        write(plan, dy, weight, dx)
        return
    if plan.clear:
        dx[...] = 0
    for part in plan.correlations:
        correlate(part, dy, weight, dx)


def _phases(
    taps: int, stride: int, dilation: int, before: int, size: int, outputs: int
) -> list[_Phase]:
    """Return the phases of an axis of dX, of `size`, one position apart."""
    found = []
    for first in range(min(stride, size)):
        place = first + before
        kernel = reversed(range(taps))
        chosen = tuple(k for k in kernel if (place - k * dilation) % stride == 0)
        meets = None
        if chosen:
            count = (size - first - 1) // stride + 1
            apart = dilation // math.gcd(dilation, stride)
            low = (place - chosen[0] * dilation) // stride
            at = low + np.arange(count + (len(chosen) - 1) * apart)
            meets = Taps(chosen, apart, 1, count, _within(at, outputs))
        found.append(_Phase(first, stride, meets))
    return found


def _within(at: NDArray, size: int) -> NDArray:
    """Return positions with -1 in the place of those outside 0 ... size - 1."""
    return np.where((at < 0) | (at >= size), -1, at)
