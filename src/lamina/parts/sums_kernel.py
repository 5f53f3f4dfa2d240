"""The functions of sums.py, in one pass over memory."""

from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..arguments import FLOATS
from ..engine import elements
from ..engine.matmul import contiguous
from ..engine.memory import empty
from . import sums as formula

NDArray = npt.NDArray[Any]


def _add_relu(e: Any, b: Any, x: Any, y: Any, number: Any) -> Any:
    total, zero = b.fadd(x, y), e.number(0)
    return (b.select(b.fcmp_ordered("<=", total, zero), zero, total),)  # NaN goes through


def _sum(
    code: elements.Each, name: str, a: NDArray, b: NDArray, into: NDArray | None = None
) -> NDArray:
    a, b = np.asarray(a), np.asarray(b)  # of arrays without axes, NumPy makes scalars
    if a.dtype != b.dtype or a.dtype not in FLOATS or a.shape != b.shape:
        found: NDArray = getattr(formula, name)(a, b)
        return found
    y = empty(a.shape, a.dtype) if into is None or not into.flags.carray else into
    elements.run(code, (contiguous(a), contiguous(b), y))
    return y


_ADD_RELU: Final = elements.Each("add_relu", _add_relu, lambda a, b: (formula.add_relu(a, b),), 2)
CODES: Final = elements.ADD, _ADD_RELU
"""Code of the sum, and of that with a ReLU on top."""
add, add_relu = partial(_sum, CODES[False], "add"), partial(_sum, CODES[True], "add_relu")
