"""The cases of LSTM."""

from dataclasses import dataclass
from typing import ClassVar, Final

from .recurrent import Recurrence, cases

TITLE: Final = "LSTM"
MEANS: Final = {"forward": 1.15, "both": 1.6}
"""What the geometric means of the ratios should be, by pass."""


@dataclass(frozen=True, kw_only=True)
class LSTM(Recurrence):
    """Four gates that decide what a cell takes in, keeps and shows."""

    layer: ClassVar[str] = "lstm"
    gates: ClassVar[int] = 4
    shares = {"forward": 0.82, "both": 0.78}


CASES: Final = cases(LSTM)
