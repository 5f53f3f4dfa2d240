"""The cases of losses: their value and their gradient."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

import lamina as lm
from lamina.parts import losses as formula

from .case import NDArray, Pass, Shape
from .parts import Part

TITLE: Final = "Losses"
MEANS: Final[dict[Pass, float]] = {}
"""No bar for geometric means: each case has one."""
PASS_TITLES: Final[dict[Pass, str]] = {"forward": "value", "both": "value and gradient"}


@dataclass(frozen=True, kw_only=True)
class Loss(Part):
    """The mean of a loss over all elements, or of cross-entropy over all rows, and its gradient.

    x is what the network returns: for cross-entropies logits. Targets are classes of int64 for
    "CrossEntropy", else of x's shape: for "BinaryCrossEntropy" 0 or 1.
    """

    layer: ClassVar[str] = "losses"
    kind: str
    x: Shape

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The pass that is measured."""
        return ("both",)

    @property
    def title(self) -> str:
        """What is computed, apart from the dtype."""
        return f"{self.kind} {'x'.join(map(str, self.x))}"

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of x and y, where y is the loss."""
        return {"x": self.x, "y": (1,)}

    def names(self, which: Pass) -> tuple[str, ...]:
        """Return the names of a pass's results."""
        return ("value", "dx")

    def flops(self, which: Pass) -> int:
        """Return the floating-point operations of a pass: few for each element."""
        return math.prod(self.x) * (2 if which == "both" else 1)

    def bytes(self, which: Pass) -> tuple[int, int]:
        """Return how many bytes a pass reads, and how many it writes."""
        x = self.size("x")
        return x + self._target, x if which == "both" else 0

    def working_set(self, which: Pass) -> int:
        """Return the bytes of all arrays of a pass."""
        return sum(self.bytes(which))

    @property
    def _target(self) -> int:
        return 8 * math.prod(self.x[:-1]) if self.kind == "CrossEntropy" else self.size("x")

    def draw(self, rng: np.random.Generator) -> dict[str, NDArray]:
        """Return x and the target, random."""
        x = rng.standard_normal(self.x, np.float32).astype(self.dtype)
        match self.kind:
            case "CrossEntropy":
                return {"x": x, "target": rng.integers(0, self.x[-1], self.x[:-1])}
            case "BinaryCrossEntropy":
                return {"x": x, "target": (rng.random(self.x) < 0.5).astype(self.dtype)}
        return {"x": x, "target": rng.standard_normal(self.x, np.float32).astype(self.dtype)}

    def loss_of(self) -> Any:
        """Return Lamina's loss."""
        return getattr(lm, self.kind)()

    def exact(self, given: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return the value and the gradient."""
        x, target = given["x"], given["target"]
        match self.kind:
            case "CrossEntropy":
                terms, dx = formula.cross_entropy(x, np.eye(x.shape[-1])[target])
            case "BinaryCrossEntropy":
                terms, dx = formula.binary_cross_entropy(x, target, 1.0)
            case "Huber":
                terms, dx = formula.huber(x, target, 1.0)
            case _:
                terms, dx = formula.squared_error(x, target)
        return {"value": np.array(terms.mean()), "dx": dx / terms.size}


def _cases() -> list[Loss]:
    sizes: dict[str, tuple[Shape, ...]] = {
        "CrossEntropy": ((128, 10), (33, 60, 21), (8192, 1000)),
        "MeanSquaredError": ((128, 256), (2048, 4096)),
        "Huber": ((2048, 4096),),
        "BinaryCrossEntropy": ((128, 256), (2048, 4096)),
    }
    return [
        Loss(family="Losses", kind=kind, x=shape, quick=shape in ((128, 10), (128, 256)))
        for kind, of_kind in sizes.items()
        for shape in of_kind
    ]


CASES: Final = tuple(_cases())
