"""Networks that learn the sets of `lamina.data`, and how each is trained: what `lamina train` runs.

They are small and meant to be read; the first of a set is the one that is trained by default.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .batchnorm import BatchNorm
from .containers import Sequential
from .convolution import Conv1d, Conv2d
from .dropout import Dropout
from .linear import Linear
from .lstm import LSTM
from .parts import Flatten, MaxPool2d, MeanSteps, ReLU
from .rnn import RNN


@dataclass(frozen=True)
class Recipe:
    """A network and how it is trained: AdamW, the learning rate falling to 0 along a cosine.

    Attributes
    ----------
    network : function of no arguments
        Builds the layers; their parameters are drawn later, from the seed.
    lr, weight_decay : float
    epochs, batch_size : int
    """

    network: Callable[[], Sequential]
    lr: float
    weight_decay: float
    epochs: int
    batch_size: int


def image_convolutions(size: int, channels: tuple[int, int]) -> Sequential:
    """Build two convolutions over gray images of `size` x `size`, halved once, for 10 classes."""
    a, b = channels
    return Sequential(
        Conv2d(1, a, 3, padding="same", bias=False, init="torch"),
        BatchNorm(a),
        ReLU(),
        Conv2d(a, b, 3, padding="same", bias=False, init="torch"),
        BatchNorm(b),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Dropout(0.3),
        Linear((size // 2) ** 2 * b, 64, init="torch"),
        ReLU(),
        Dropout(0.3),
        Linear(64, 10, init="torch"),
    )


def perceptron(features: int, hidden: int) -> Sequential:
    """Build two hidden layers over all values of a sample at once, for 10 classes."""
    return Sequential(
        Flatten(),
        Linear(features, hidden, init="he_normal"),
        ReLU(),
        Dropout(0.3),
        Linear(hidden, hidden, init="he_normal"),
        ReLU(),
        Dropout(0.3),
        Linear(hidden, 10),
    )


def speaker(kind: type[LSTM | RNN]) -> Sequential:
    """Build a recurrent layer over normalised coefficients, both ways, its outputs averaged."""
    return Sequential(
        BatchNorm(12),
        kind(12, 32, bidirectional=True),
        MeanSteps(),
        Dropout(0.3),
        Linear(64, 9),
    )


def signal_convolutions() -> Sequential:
    """Build three convolutions of stride 2 over signals of 40 values, for 10 classes."""
    return Sequential(
        Conv1d(1, 32, 5, stride=2, padding=2, bias=False),
        BatchNorm(32),
        ReLU(),
        Conv1d(32, 32, 3, stride=2, padding=1, bias=False),
        BatchNorm(32),
        ReLU(),
        Conv1d(32, 32, 3, stride=2, padding=1, bias=False),
        BatchNorm(32),
        ReLU(),
        Flatten(),
        Dropout(0.2),
        Linear(160, 10),
    )


def signal_lstm() -> Sequential:
    """Build an LSTM in both directions over signals of 40 values, for 10 classes."""
    return Sequential(
        LSTM(1, 32, bidirectional=True),
        Flatten(),
        Dropout(0.2),
        Linear(40 * 64, 10),
    )


RECIPES: Final[dict[str, dict[str, Recipe]]] = {
    "digits": {
        "conv": Recipe(lambda: image_convolutions(8, (16, 32)), 2e-3, 0.01, 30, 32),
        "mlp": Recipe(lambda: perceptron(64, 128), 2e-3, 0.01, 40, 32),
    },
    "vowels": {
        "lstm": Recipe(lambda: speaker(LSTM), 5e-3, 0.01, 40, 30),
        "rnn": Recipe(lambda: speaker(RNN), 5e-3, 0.01, 40, 30),
    },
    "fashion-mnist": {
        "conv": Recipe(lambda: image_convolutions(28, (8, 16)), 2e-3, 0.01, 3, 128),
        "mlp": Recipe(lambda: perceptron(784, 256), 1e-3, 0.01, 5, 128),
    },
    "mnist1d": {
        "conv": Recipe(signal_convolutions, 5e-3, 0.01, 40, 64),
        "lstm": Recipe(signal_lstm, 5e-3, 0.01, 20, 64),
        "mlp": Recipe(lambda: perceptron(40, 256), 2e-3, 0.01, 40, 64),
    },
}
"""By the name of the set, then of the model."""
