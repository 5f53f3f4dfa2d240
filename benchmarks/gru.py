"""The cases of GRU, with its reset gate after the product."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from .case import Pass, Shape
from .recurrent import Recurrence, cases

TITLE: Final = "GRU"
MEANS: Final[dict[Pass, float]] = {}
"""No bars are set."""


@dataclass(frozen=True, kw_only=True)
class GRU(Recurrence):
    """Two gates that decide how much of a state to renew."""

    layer: ClassVar[str] = "gru"
    gates: ClassVar[int] = 3
    shares = {"forward": 0, "both": 0}

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of x, the parameters and y."""
        shapes = dict(super().shapes)
        y = shapes.pop("y")
        return {**shapes, **{f"bias_h{end}": (self.hidden,) for end in self.suffixes()}, "y": y}


CASES: Final = tuple(
    case for case in cases(GRU) if (case.layers, case.directions, case.dtype) == (1, 1, "float32")
)
