"""The cases of RNN."""

from dataclasses import dataclass
from typing import ClassVar, Final

from .recurrent import Recurrence, cases

TITLE: Final = "RNN"
MEANS: Final = {"forward": 2.0, "both": 3.0}
"""What the geometric means of the ratios should be, by pass."""


@dataclass(frozen=True, kw_only=True)
class RNN(Recurrence):
    """h_t = tanh(x_t W_x + h_{t-1} W_h + b)."""

    layer: ClassVar[str] = "rnn"
    gates: ClassVar[int] = 1
    shares = {"forward": 0.75, "both": 0.70}


CASES: Final = cases(RNN)
