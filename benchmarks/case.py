"""What a case is, and what every layer's cases count alike.

A case counts its own arithmetic and bytes, for its two passes, "forward" (inference) and "both"
(forward and backward, with the gradients of x and of all parameters).

- Arithmetic: two operations for each multiply-add of the sum, products with the zeros of padding
  among them, as is usual; the bias is not counted. Backward is two such sums, so "both" is three
  times "forward".
- Bytes: every array once a pass. Forward reads x, weight and bias and writes y; backward reads dy,
  x and weight and writes dx and the gradients of weight and bias. What a stride steps over in x is
  not read; dx is written whole.
- The working set, which decides what level of memory the bytes come from, is all those arrays.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt

Shape: TypeAlias = tuple[int, ...]
Pass: TypeAlias = Literal["forward", "both"]
NDArray: TypeAlias = npt.NDArray[Any]

RATIO_AT_LIMIT: Final = 0.97
"""Fastest library / Lamina, at least, forward, where that library is within 5% of the limit."""
PASSES: Final[tuple[Pass, ...]] = ("forward", "both")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the cases of all layers have.

    Attributes
    ----------
    family : str
        Where the case is from.
    dtype : str
    quick : bool
        Whether a quick run measures it too.
    """

    layer: ClassVar[str]
    tolerance: ClassVar[float | None] = None
    """The most that a result may be off, where the dtype does not say it."""
    family: str
    dtype: str = "float32"
    quick: bool = False

    @property
    def title(self) -> str:
        """What is computed, apart from the dtype."""
        raise NotImplementedError

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of x, y and the parameters."""
        raise NotImplementedError

    @property
    def terms(self) -> int:
        """How many products each element of y sums."""
        raise NotImplementedError

    def exact(self, given: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return y, dx and the gradients of the parameters, in the precision of what is given."""
        raise NotImplementedError

    def scale(self, name: str) -> float:
        """How large the random values of an array are."""
        return 1.0

    def ratio_wanted(self, which: Pass) -> float:
        """Return the bar of a pass: time of the fastest library / Lamina's, at least."""
        return 1.0 if which == "forward" else 1.15

    def ratio_beside(self, which: Pass, share: float) -> float:
        """Return the bar where the fastest library reaches a share of the limit."""
        bar = self.ratio_wanted(which)
        return RATIO_AT_LIMIT if bar == 1.0 and share >= 0.95 else bar

    def share_wanted(self, which: Pass) -> float | None:
        """Return the share of the limit that is the bar of a pass; None for the usual one."""
        return None

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes that are measured."""
        return PASSES

    def names(self, which: Pass) -> tuple[str, ...]:
        """Return the names of a pass's results."""
        return ("y",) if which == "forward" else ("y", "dx", *self.parameters)

    def draw(self, rng: np.random.Generator) -> dict[str, NDArray]:
        """Return x, the parameters and dy, random."""
        dtype = np.float32 if self.dtype == "float32" else np.float64
        return {
            "dy" if name == "y" else name: rng.standard_normal(shape, dtype)
            * dtype(self.scale(name))
            for name, shape in self.shapes.items()
        }

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the arrays that get a gradient beside x."""
        return tuple(name for name in self.shapes if name not in ("x", "y"))

    @property
    def read_of_x(self) -> int:
        """How many elements of x matter to y."""
        return math.prod(self.shapes["x"])

    @property
    def name(self) -> str:
        """Title and dtype: no other case of the layer has the same."""
        return self.title + ("" if self.dtype == "float32" else f", {self.dtype}")

    def flops(self, which: Pass) -> int:
        """Return the floating-point operations of a pass."""
        forward = 2 * math.prod(self.shapes["y"]) * self.terms
        return forward * (3 if which == "both" else 1)

    def bytes(self, which: Pass) -> tuple[int, int]:
        """Return how many bytes a pass reads, and how many it writes."""
        x, y, parameters = self._elements()
        read, written = self.read_of_x + parameters, y
        if which == "both":
            weights = (math.prod(self.shapes[name]) for name in self.parameters if name != "bias")
            read += y + self.read_of_x + sum(weights)
            written += x + parameters
        size = np.dtype(self.dtype).itemsize
        return read * size, written * size

    def working_set(self, which: Pass) -> int:
        """Return the bytes of all arrays of a pass."""
        return sum(self._elements()) * (2 if which == "both" else 1) * np.dtype(self.dtype).itemsize

    def _elements(self) -> tuple[int, int, int]:
        sizes = {name: math.prod(shape) for name, shape in self.shapes.items()}
        return sizes["x"], sizes["y"], sum(sizes[name] for name in self.parameters)

    def in_float64(self, quick: bool = False) -> Self:
        """Return the case once more, in float64."""
        return replace(self, dtype="float64", family="In float64", quick=quick)
