"""The cases of Dropout: passes of training, each with a mask of its own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

import lamina as lm

from .case import Case, NDArray, Pass, Shape

RATE: Final = 0.5
TITLE: Final = "Dropout"
MEANS: Final[dict[Pass, float]] = {}
"""No bar for geometric means: each case has one."""


@dataclass(frozen=True, kw_only=True)
class Dropout(Case):
    """y = 2 x where a mask keeps x, 0 elsewhere; forward is that of training, too.

    Masks differ from library to library. What is compared is x and dy, which `undropped` finds in
    y and dx.
    """

    layer: ClassVar[str] = "dropout"
    x: Shape

    def ratio_wanted(self, which: Pass) -> float:
        """Return the bar of a pass: time of the fastest library / Lamina's, at least."""
        return 10.0 if math.prod(self.x) >= 2**17 else 3.0

    @property
    def title(self) -> str:
        """What is computed, apart from the dtype."""
        return f"Dropout {'x'.join(map(str, self.x))}"

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of x and y."""
        return {"x": self.x, "y": self.x}

    @property
    def terms(self) -> int:
        """A product; what a random number takes is each library's own."""
        return 1

    def bytes(self, which: Pass) -> tuple[int, int]:
        """Return how many bytes a pass reads, and how many it writes; a mask need not be kept."""
        size = math.prod(self.x) * np.dtype(self.dtype).itemsize
        return (2 * size, 2 * size) if which == "both" else (size, size)

    def layer_of(self) -> lm.Dropout:
        """Return Lamina's layer."""
        return lm.Dropout(RATE, rng=0)

    def exact(self, given: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return what `undropped` should find in y and dx."""
        return {"y": given["x"], "dx": given["dy"]}

    def undropped(self, array: NDArray, source: NDArray) -> NDArray:
        """Return the source of y or dx: unscaled where it was kept, else as it was.

        NaN, if the share that was kept is off by 6 deviations of a fair draw.
        """
        kept = array != 0
        if abs(kept.mean() - (1 - RATE)) > 6 * math.sqrt(RATE * (1 - RATE) / array.size):
            return np.full_like(source, np.nan)
        return np.where(kept, array * (1 - RATE), source)


def _cases() -> list[Dropout]:
    shapes = [
        (128, 1024), (32, 256), (64, 28, 28, 32), (512, 4096), (128, 128), (1, 4096),
        (64, 100, 256), (4096, 4096),
    ]  # fmt: skip
    odd = [(33, 100), (500, 777), (7, 13, 11, 100), (1000, 17)]
    quick = {(128, 1024), (32, 256), (500, 777)}
    return [
        Dropout(family=family, x=shape, quick=shape in quick)
        for family, of_family in (("Layers of many sizes", shapes), ("Odd sizes", odd))
        for shape in of_family
    ]


_IN_FLOAT32: Final = _cases()
CASES: Final = (
    *_IN_FLOAT32,
    *(case.in_float64() for case in _IN_FLOAT32 if case.x in {(128, 1024), (500, 777)}),
)
