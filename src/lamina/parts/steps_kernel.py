"""The functions of steps.py: the last step without reading the others, the mean as pooling's."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from . import pooling_kernel, steps
from .steps import last_step_backward

__all__ = ["last_step", "last_step_backward", "mean_steps", "mean_steps_backward"]

NDArray = npt.NDArray[Any]


def last_step(x: NDArray, lengths: NDArray | None = None) -> tuple[NDArray, Any]:
    """Return y and the cache of `last_step_backward`."""
    n, T = x.shape[:2]
    if T == 0:
        return steps.last_step(x, lengths)
    ends = np.full(n, T) if lengths is None else lengths
    y = x[np.arange(n), ends - 1]
    y[ends == 0] = 0
    return y, steps.is_last(x, lengths)


def mean_steps(x: NDArray, lengths: NDArray | None = None) -> tuple[NDArray, Any]:
    """Return y and the cache of `mean_steps_backward`."""
    n, T, *others = x.shape
    y, cache = pooling_kernel.global_avg(x.reshape(n, T, math.prod(others)), lengths)
    return y.reshape(n, *others), (x.shape, cache)


def mean_steps_backward(dy: NDArray, cache: Any) -> NDArray:
    """Return dx."""
    shape, cache = cache
    rows = dy.reshape(len(dy), math.prod(shape[2:]))
    return pooling_kernel.global_avg_backward(rows, cache).reshape(shape)
