"""The functions of sums.py, in one pass over memory."""

from functools import partial
from typing import Any, Final

import numpy.typing as npt

from ..arguments import FLOATS
from ..engine import elements
from ..engine.matmul import contiguous
from ..engine.memory import empty
from . import sums as formula

NDArray = npt.NDArray[Any]


def _add(e: Any, b: Any, x: Any, y: Any, number: Any) -> Any:
    return (b.fadd(x, y),)


def _add_relu(e: Any, b: Any, x: Any, y: Any, number: Any) -> Any:
    total, zero = b.fadd(x, y), e.number(0)
    return (b.select(b.fcmp_ordered("<=", total, zero), zero, total),)  # NaN goes through


def _code(name: str, rule: Any) -> elements.Each:
    function = getattr(formula, name)
    return elements.Each(name, rule, lambda a, b: (function(a, b),), 2)


def _sum(code: elements.Each, name: str, a: NDArray, b: NDArray) -> NDArray:
    if a.dtype != b.dtype or a.dtype not in FLOATS or a.shape != b.shape:
        found: NDArray = getattr(formula, name)(a, b)
        return found
    y = empty(a.shape, a.dtype)
    elements.run(code, (contiguous(a), contiguous(b), y))
    return y


CODES: Final = _code("add", _add), _code("add_relu", _add_relu)
"""Code of the sum, and of that with a ReLU on top."""
add, add_relu = partial(_sum, CODES[False], "add"), partial(_sum, CODES[True], "add_relu")
