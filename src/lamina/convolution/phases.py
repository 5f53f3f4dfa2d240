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
from .direct import Taps, correlate

NDArray = npt.NDArray[Any]


@dataclass(frozen=True)
class _Phase:
    """Positions first, first + step, ... of an axis of dX, the taps they meet, and the weights.

    `taps` is None where they meet none.
    """

    first: int
    step: int
    taps: Taps | None
    weight: NDArray


def input_gradient(
    dy: NDArray, weight: NDArray, dx: NDArray, groups: int,
    stride: Ints, dilation: Ints, before: Ints,
) -> None:  # fmt: skip
    """Write dx.

    Parameters
    ----------
    dy : array, shape (N, QD, QH, QW, O)
    weight : array, shape (KD, KH, KW, C / groups, O)
    dx : array, shape (N, D, H, W, C)
    groups : int
    stride, dilation, before : tuple of three int
        `before` is what pads x with zeros at the start of each axis.
    """
    if not dx.size:
        return
    axes = [
        _phases(weight, axis, stride[axis], dilation[axis], before[axis], dx, dy)
        for axis in range(3)
    ]
    if groups == 1 and (many := _side_by_side(weight, stride[2], dilation[2], dx)) > 1:
        axes[2] = _groups(weight, many, stride[2], dilation[2], before[2], dx, dy)
    if not dy.size or any(phase.taps is None for phase in itertools.chain(*axes)):
        dx[...] = 0  # what no window meets
    if not dy.size:
        return
    _, height, width, c = dx.shape[1:]
    apart = height * width * c, width * c, c
    for deep, rows, columns in itertools.product(*axes):
        taps = [phase.taps for phase in (deep, rows, columns) if phase.taps is not None]
        if len(taps) == 3:
            steps = [p.step * a for p, a in zip((deep, rows, columns), apart, strict=True)]
            first = sum(p.first * a for p, a in zip((deep, rows, columns), apart, strict=True))
            correlate(dy, columns.weight, groups, True, taps, dx, first, tuple(steps), None, False)


def _phases(
    weight: NDArray, axis: int, stride: int, dilation: int, before: int, dx: NDArray, dy: NDArray
) -> list[_Phase]:
    """Return the phases of an axis, one position apart."""
    size, outputs, found = dx.shape[1 + axis], dy.shape[1 + axis], []
    for first in range(min(stride, size)):
        place = first + before
        kernel = reversed(range(weight.shape[axis]))
        chosen = tuple(k for k in kernel if (place - k * dilation) % stride == 0)
        taps = None
        if chosen:
            count = (size - first - 1) // stride + 1
            apart = dilation // math.gcd(dilation, stride)
            low = (place - chosen[0] * dilation) // stride
            at = low + np.arange(count + (len(chosen) - 1) * apart)
            taps = Taps(chosen, apart, 1, count, _within(at, outputs))
        found.append(_Phase(first, stride, taps, weight))
    return found


def _side_by_side(weight: NDArray, stride: int, dilation: int, dx: NDArray) -> int:
    """Return how many columns of dX to take side by side; 1 for phases."""
    width: int = dx.shape[3]
    reach: int = (weight.shape[2] - 1) * dilation + 1
    tall = tallest(1)

    def cycles(many: int) -> float:
        """About how long a row takes: a term of a tile costs half a cycle a row, and at least 4."""
        if many == 1:
            positions, taps = -(-width // stride), reach / stride / dilation
            return stride * taps * -(-positions // tall) * max(4.0, min(positions, tall) / 2)
        positions, taps = width // many, (reach + many - 1) / stride
        rest = 4.0 * taps if width % many else 0.0
        return rest + taps * -(-positions // tall) * max(4.0, min(positions, tall) / 2)

    most: int = min(width, lanes(dx.dtype) // weight.shape[3])
    options: list[int] = [1, *range(stride if stride > 1 else 2, most + 1, stride)]
    return min(options, key=cycles)


def _groups(
    weight: NDArray, many: int, stride: int, dilation: int, before: int, dx: NDArray, dy: NDArray
) -> list[_Phase]:
    """Return the phases of the columns in groups of `many`, and one of what is left over."""
    size, outputs, found = dx.shape[3], dy.shape[3], []
    *kernel, c, o = weight.shape
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
        taps, wide = None, weight
        if meets:
            low, high = min(t for _, _, t in meets), max(t for _, _, t in meets)
            wide = np.zeros((*kernel[:2], high - low + 1, width, c, o), weight.dtype)
            for j, k, t in meets:
                wide[:, :, t - low, j] = weight[:, :, k]
            wide = wide.reshape(*kernel[:2], high - low + 1, width * c, o)
            count, step = (end - first) // width, max(width // stride, 1)
            at = low + np.arange((count - 1) * step + high - low + 1)
            chosen = tuple(range(high - low + 1))
            taps = Taps(chosen, 1, step, count, _within(at, outputs))
        found.append(_Phase(first, width, taps, wide))
    return found


def _within(at: NDArray, size: int) -> NDArray:
    """Return positions with -1 in the place of those outside 0 ... size - 1."""
    return np.where((at < 0) | (at >= size), -1, at)
