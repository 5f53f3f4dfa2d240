"""The cases of optimizers: an update of parameters whose gradients are there."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

import lamina as lm

from .case import NDArray, Pass, Shape
from .networks import resnet_20
from .parts import Part

TITLE: Final = "Optimizers"
MEANS: Final[dict[Pass, float]] = {}
"""No bar for geometric means: each case has one."""
PASS_TITLES: Final[dict[Pass, str]] = {"forward": "", "both": "an update"}

RATE: Final = 1e-3
MOMENTUM: Final = 0.9
BETAS: Final = (0.9, 0.999)
ALPHA: Final = 0.99
DECAY: Final = 0.01
EPS: Final = 1e-8
CLIP: Final = 1.0
"""The norm that gradients are scaled down to, where they are."""
CHECKED: Final = 3
"""After so many updates the parameters are compared."""
ARRAYS: Final[dict[str, Mapping[str, Shape]]] = {
    "4 million in one array": {"weight": (2048, 2048)},
    "ResNet-20": {name: p.shape for name, p in resnet_20().params.items()},
}


@dataclass(frozen=True, kw_only=True)
class Update(Part):
    """An update of all parameters, with the same gradients each time.

    Attributes
    ----------
    rule : "SGD", "Adam", "AdamW" or "RMSprop"
        SGD has momentum.
    arrays : str
        Which of `ARRAYS` the parameters are.
    clipped : bool
        Whether gradients are scaled to a norm of `CLIP`.
    """

    layer: ClassVar[str] = "optimizers"
    rule: str
    arrays: str
    clipped: bool = False

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The pass that is measured."""
        return ("both",)

    @property
    def title(self) -> str:
        """What is computed, apart from the dtype."""
        return f"{self.rule}{', clipped' * self.clipped}, {self.arrays}"

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of the parameters."""
        return ARRAYS[self.arrays]

    @property
    def slots(self) -> int:
        """How many arrays go with a parameter from update to update."""
        return 2 if self.rule.startswith("Adam") else 1

    def names(self, which: Pass) -> tuple[str, ...]:
        """Return the names of a pass's results."""
        return tuple(self.shapes)

    def flops(self, which: Pass) -> int:
        """Return the floating-point operations of a pass: few for each element."""
        return sum(map(math.prod, self.shapes.values()))

    def bytes(self, which: Pass) -> tuple[int, int]:
        """Return how many bytes a pass reads, and how many it writes.

        It reads the parameters, the gradients, and these again after their norm, and the slots,
        and writes parameters and slots.
        """
        size = sum(map(self.size, self.shapes))
        return size * (2 + self.slots + self.clipped), size * (1 + self.slots)

    def working_set(self, which: Pass) -> int:
        """Return the bytes of all arrays of a pass."""
        return sum(map(self.size, self.shapes)) * (2 + self.slots)

    def draw(self, rng: np.random.Generator) -> dict[str, NDArray]:
        """Return the parameters, and the gradients by the names with "g." before them."""
        given = {}
        for name, shape in self.shapes.items():
            for prefix in ("", "g."):
                array = rng.standard_normal(shape, np.float32)
                given[prefix + name] = array.astype(self.dtype)
        return given

    def optimizer_of(self) -> Any:
        """Return Lamina's optimizer."""
        clip = CLIP if self.clipped else None
        match self.rule:
            case "SGD":
                return lm.SGD(RATE, momentum=MOMENTUM, clip_norm=clip)
            case "Adam":
                return lm.Adam(RATE, BETAS, EPS, clip_norm=clip)
            case "AdamW":
                return lm.AdamW(RATE, BETAS, EPS, weight_decay=DECAY, no_decay=(), clip_norm=clip)
        return lm.RMSprop(RATE, ALPHA, EPS, clip_norm=clip)

    def exact(self, given: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return the parameters after `CHECKED` updates."""
        squares = sum(np.sum(given[f"g.{name}"] ** 2) for name in self.shapes)
        factor = min(1.0, CLIP / math.sqrt(squares)) if self.clipped else 1.0
        return {
            name: self._updated(given[name], given[f"g.{name}"] * factor) for name in self.shapes
        }

    def _updated(self, p: NDArray, g: NDArray) -> NDArray:
        first, second = np.zeros_like(p), np.zeros_like(p)
        for t in range(1, CHECKED + 1):
            match self.rule:
                case "SGD":
                    first = MOMENTUM * first + g
                    p = p - RATE * first
                case "RMSprop":
                    second = ALPHA * second + (1 - ALPHA) * g**2
                    p = p - RATE * g / (np.sqrt(second) + EPS)
                case _:
                    if self.rule == "AdamW":
                        p = p * (1 - RATE * DECAY)
                    first = BETAS[0] * first + (1 - BETAS[0]) * g
                    second = BETAS[1] * second + (1 - BETAS[1]) * g**2
                    root = np.sqrt(second / (1 - BETAS[1] ** t)) + EPS
                    p = p - RATE * first / (1 - BETAS[0] ** t) / root
        return p


def _cases() -> list[Update]:
    return [
        Update(
            family=arrays,
            rule=rule,
            arrays=arrays,
            clipped=clipped,
            quick=rule == "Adam" and arrays == "ResNet-20",
        )
        for arrays in ARRAYS
        for rule, clipped in (
            ("SGD", False), ("SGD", True), ("Adam", False), ("AdamW", False), ("RMSprop", False),
        )
    ]  # fmt: skip


CASES: Final = tuple(_cases())
