"""The cases of all layers, chosen before any was measured: a file for each layer."""

from collections.abc import Mapping
from typing import Final

from . import (
    activations,
    batchnorm,
    convolution,
    dropout,
    gru,
    linear,
    losses,
    lstm,
    networks,
    optimizers,
    pooling,
    rnn,
)
from .case import Case, Pass

LAYERS: Final = {
    "linear": linear,
    "convolution": convolution,
    "batchnorm": batchnorm,
    "dropout": dropout,
    "rnn": rnn,
    "lstm": lstm,
    "gru": gru,
    "activations": activations,
    "pooling": pooling,
    "losses": losses,
    "optimizers": optimizers,
    "networks": networks,
}
PASS_TITLES: Final[Mapping[Pass, str]] = {"forward": "forward", "both": "forward + backward"}
CASES: Final[tuple[Case, ...]] = tuple(case for layer in LAYERS.values() for case in layer.CASES)
MEANS: Final[dict[tuple[str, Pass], float]] = {
    (name, which): bar for name, layer in LAYERS.items() for which, bar in layer.MEANS.items()
}


def pass_title(layer: str, which: Pass) -> str:
    """Return what a pass is called in the tables of a layer."""
    titles: Mapping[Pass, str] = getattr(LAYERS[layer], "PASS_TITLES", PASS_TITLES)
    return titles[which]


def find(name: str) -> Case:
    """Return the case of that name."""
    (found,) = (case for case in CASES if case.name == name)
    return found
