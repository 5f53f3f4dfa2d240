"""The cases of BatchNorm: passes of training, with the statistics of the batch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

import lamina as lm

from .case import Case, NDArray, Pass, Shape

TITLE: Final = "BatchNorm"
MEANS: Final[dict[Pass, float]] = {}
"""No bar for geometric means: each case has one."""


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Case):
    """y = γ (x - μ) / √(σ² + ε) + β, μ and σ² of the batch; running values follow.

    Forward is that of training, too. It reads x twice, and backward x and dy: what μ and σ² are
    must be known before there is a y.
    """

    layer: ClassVar[str] = "batchnorm"
    x: Shape

    def ratio_wanted(self, which: Pass) -> float:
        """Return the bar of a pass: time of the fastest library / Lamina's, at least."""
        return 1.3 if which == "forward" else 2.0

    @property
    def title(self) -> str:
        """What is computed, apart from the dtype."""
        return f"BatchNorm {'x'.join(map(str, self.x))}"

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of x, gamma, beta and y."""
        return {"x": self.x, "gamma": self.x[-1:], "beta": self.x[-1:], "y": self.x}

    @property
    def terms(self) -> int:
        """A subtraction, a square and two sums; a product and a sum."""
        return 3

    def bytes(self, which: Pass) -> tuple[int, int]:
        """Return how many bytes a pass reads, and how many it writes."""
        size = math.prod(self.x) * np.dtype(self.dtype).itemsize
        return (6 * size, 2 * size) if which == "both" else (2 * size, size)

    def share_wanted(self, which: Pass) -> float:
        """Return the share of the limit that is the bar of a pass: of what no cache holds."""
        return 1 / 1.3 if self.working_set("forward") > 2**25 else 0

    def draw(self, rng: np.random.Generator) -> dict[str, NDArray]:
        """Return x, the parameters and dy, random; dy does not cancel in sums over the batch."""
        given = super().draw(rng)
        given["dy"] += 1
        return given

    def layer_of(self) -> lm.BatchNorm:
        """Return Lamina's layer."""
        return lm.BatchNorm(self.x[-1], dtype=self.dtype)

    def exact(self, given: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return y, dx and the gradients of gamma and beta."""
        x, dy, axes = given["x"], given["dy"], tuple(range(len(self.x) - 1))
        deviation = np.sqrt(x.var(axis=axes) + 1e-5)
        normalized = (x - x.mean(axis=axes)) / deviation
        gamma, beta = (dy * normalized).sum(axis=axes), dy.sum(axis=axes)
        count = math.prod(self.x[:-1])
        dx = given["gamma"] / deviation * (dy - beta / count - normalized * gamma / count)
        y = given["gamma"] * normalized + given["beta"]
        return {"y": y, "dx": dx, "gamma": gamma, "beta": beta}


def _cases() -> list[BatchNorm]:
    families = {
        "Layers of many sizes": [
            (128, 1024), (32, 128), (512, 256), (64, 28, 28, 32), (16, 56, 56, 64),
            (16, 14, 14, 256), (128, 32, 32, 16), (8, 7, 7, 512), (32, 112, 112, 64),
        ],
        "Odd sizes": [
            (500, 777), (33, 100), (1000, 1), (200_000, 1), (64, 64, 64, 3), (512, 17),
            (7, 13, 11, 100), (20, 50, 65), (129, 63),
        ],
    }  # fmt: skip
    quick = {(128, 1024), (32, 128), (64, 28, 28, 32), (500, 777)}
    return [
        BatchNorm(family=family, x=shape, quick=shape in quick)
        for family, shapes in families.items()
        for shape in shapes
    ]


def _in_float64(cases: list[BatchNorm]) -> list[BatchNorm]:
    """Return a choice of the cases once more, in float64."""
    chosen = [case for case in cases if case.x in {(128, 1024), (64, 28, 28, 32), (500, 777)}]
    return [case.in_float64(quick=case.x == (500, 777)) for case in chosen]


_IN_FLOAT32: Final = _cases()
CASES: Final = (*_IN_FLOAT32, *_in_float64(_IN_FLOAT32))
