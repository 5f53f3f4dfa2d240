"""The cases of all layers, chosen before any was measured: a file for each layer."""

from typing import Final

from . import batchnorm, convolution, dropout, linear, lstm, rnn
from .case import Case, Pass

LAYERS: Final = {
    "linear": linear,
    "convolution": convolution,
    "batchnorm": batchnorm,
    "dropout": dropout,
    "rnn": rnn,
    "lstm": lstm,
}
CASES: Final[tuple[Case, ...]] = tuple(case for layer in LAYERS.values() for case in layer.CASES)
MEANS: Final[dict[tuple[str, Pass], float]] = {
    (name, which): bar for name, layer in LAYERS.items() for which, bar in layer.MEANS.items()
}


def find(name: str) -> Case:
    """Return the case of that name."""
    (found,) = (case for case in CASES if case.name == name)
    return found
