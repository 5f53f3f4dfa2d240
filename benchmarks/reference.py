"""The inputs of a case, the same in every process, and its results in float64."""

import math
import zlib
from collections.abc import Mapping
from typing import Final

import numpy as np

from .case import Case, NDArray

TOLERANCE: Final = {"float32": 1e-4, "float64": 1e-12}
"""The most that ‖result - reference‖ / ‖reference‖ may be; fewer bits than float32's show."""


def inputs(case: Case) -> dict[str, NDArray]:
    """Return x, the parameters and dy, random, in Lamina's layout."""
    return case.draw(np.random.default_rng(zlib.crc32(case.name.encode())))


def results(case: Case, given: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Return y, dx and the gradients of the parameters in float64."""
    return case.exact(
        {
            name: array.astype(np.float64) if array.dtype == np.float32 else array
            for name, array in given.items()
        }
    )


def tolerance(case: Case) -> float:
    """Return the most that a result of a case may be off."""
    return TOLERANCE[case.dtype] if case.tolerance is None else case.tolerance


def distance(found: NDArray, exact: NDArray) -> float:
    """Return ‖found - exact‖ / ‖exact‖, 0 where both are 0; infinite where shapes differ."""
    if found.shape != exact.shape:
        return math.inf
    off = np.linalg.norm(found - exact)
    return float(off / np.linalg.norm(exact)) if off else 0.0
