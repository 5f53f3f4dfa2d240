"""The gradient of a convolution's x: for each phase of the stride a direct correlation of dY.

Position i of dX lies at i + before in padded X, and element k of window p at p s + k d. So i meets
the k for which s divides i + before - k d: the same k for all i of a *phase*, i mod s, and each
with p = (i + before - k d) / s, which falls as k rises. Each phase is a correlation with taps and
places of its own, and the phases of the axes together write each element of dX once.

Few channels would leave most lanes of the tiles empty. Then as many columns of dX as fit stand side
by side as if they were channels: `many` columns j at a time, from i = many a on. They meet

    p = a (many / s) + (j + before - k d) / s

so that the taps t of the group are the values of the last term, and the weight of tap t for column
j is that of the k it comes from, or 0. (So an infinite dY reaches all columns of its group.)
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engine.tile import lanes, tallest
from ..windows import Ints
from .direct import Correlation, Taps, correlate, correlation

NDArray = npt.NDArray[Any]


@dataclass(frozen=True)
class _Spread:
    """Weights for columns side by side: tap t of column j is that of k, and 0 elsewhere."""

    shape: Ints  # KD, KH, T, J, C, O
    meets: tuple[NDArray, NDArray, NDArray]  # t, j, k

    def __call__(self, weight: NDArray) -> NDArray:
        t, j, k = self.meets
        wide = np.zeros(self.shape, weight.dtype)
        wide[:, :, t, j] = weight[:, :, k]
        kd, kh, taps, many, c, o = self.shape
        return wide.reshape(kd, kh, taps, many * c, o)


@dataclass(frozen=True)
class _Phase:
    """Positions first, first + step, ... of an axis of dX, and the taps they meet, or None.

    `spread` makes the weights, if they are not those of the convolution.
    """

    first: int
    step: int
    taps: Taps | None
    spread: _Spread | None = None


@dataclass(frozen=True)
class Gradient:
    """The plan of dX: its correlations, each with what makes its weights.

    `clear` tells that no window meets some of dX, which is to be set to 0 first.
    """

    clear: bool
    correlations: list[tuple[Correlation, _Spread | None]]


def gradient(
    dy: Ints, weight: Ints, dx: Ints, groups: int, stride: Ints, dilation: Ints, before: Ints,
    dtype: np.dtype[Any], threads: int,
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
    """
    if not math.prod(dx) * math.prod(dy):
        return Gradient(True, [])
    axes = [
        _phases(
            weight[axis], stride[axis], dilation[axis], before[axis], dx[1 + axis], dy[1 + axis]
        )
        for axis in range(3)
    ]
    if groups == 1:
        many = _side_by_side(weight, stride[2], dilation[2], dx[3], dtype)
        if many > 1:
            axes[2] = _groups(weight, many, stride[2], dilation[2], before[2], dx[3], dy[3])
    clear = any(phase.taps is None for phase in itertools.chain(*axes))
    _, height, width, c = dx[1:]
    apart = height * width * c, width * c, c
    correlations = []
    for phases in itertools.product(*axes):
        taps = [phase.taps for phase in phases if phase.taps is not None]
        if len(taps) == 3:
            steps = tuple(p.step * a for p, a in zip(phases, apart, strict=True))
            first = sum(p.first * a for p, a in zip(phases, apart, strict=True))
            spread = phases[2].spread
            kernel = weight
            if spread is not None:
                kd, kh, t, j, c, o = spread.shape
                kernel = kd, kh, t, j * c, o
            plan = correlation(dy, kernel, groups, True, taps, dx, first, steps, dtype, threads)
            correlations.append((plan, spread))
    return Gradient(clear, correlations)


def input_gradient(plan: Gradient, dy: NDArray, weight: NDArray, dx: NDArray) -> None:
    """Write dx, as planned."""
    if plan.clear:
        dx[...] = 0
    for part, spread in plan.correlations:
        correlate(part, dy, weight if spread is None else spread(weight), dx)


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


def _side_by_side(
    weight: Ints, stride: int, dilation: int, width: int, dtype: np.dtype[Any]
) -> int:
    """Return how many columns of dX, of `width`, to take side by side; 1 for phases."""
    reach = (weight[2] - 1) * dilation + 1
    tall = tallest(1)

    def cycles(many: int) -> float:
        """About how long a row takes: a term of a tile costs half a cycle a row, and at least 4."""
        if many == 1:
            positions, taps = -(-width // stride), reach / stride / dilation
            return stride * taps * -(-positions // tall) * max(4.0, min(positions, tall) / 2)
        positions, taps = width // many, (reach + many - 1) / stride
        rest = 4.0 * taps if width % many else 0.0
        return rest + taps * -(-positions // tall) * max(4.0, min(positions, tall) / 2)

    most = min(width, lanes(dtype) // weight[3])
    options: list[int] = [1, *range(stride if stride > 1 else 2, most + 1, stride)]
    return min(options, key=cycles)


def _groups(
    weight: Ints, many: int, stride: int, dilation: int, before: int, size: int, outputs: int
) -> list[_Phase]:
    """Return the phases of the columns in groups of `many`, and one of what is left over."""
    found = []
    *kernel, c, o = weight
    whole = size // many * many
    for first, end, width in ((0, whole, many), (whole, size, size - whole)):
        if first == end:
            continue
        meets = [
            (j, k, (first + j + before - k * dilation) // stride)
            for j in range(width)
            for k in range(kernel[2])
            if (first + j + before - k * dilation) % stride == 0
        ]
        taps, spread = None, None
        if meets:
            j, k, t = np.array(meets).T
            low, high = int(t.min()), int(t.max())
            shape = *kernel[:2], high - low + 1, width, c, o
            spread = _Spread(shape, (t - low, j, k))
            count, step = (end - first) // width, max(width // stride, 1)
            at = low + np.arange((count - 1) * step + high - low + 1)
            chosen = tuple(range(high - low + 1))
            taps = Taps(chosen, 1, step, count, _within(at, outputs))
        found.append(_Phase(first, width, taps, spread))
    return found


def _within(at: NDArray, size: int) -> NDArray:
    """Return positions with -1 in the place of those outside 0 ... size - 1."""
    return np.where((at < 0) | (at >= size), -1, at)
