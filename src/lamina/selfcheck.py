"""Small examples of every layer, on which `lamina check` tries it on the machine at hand."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from .batchnorm import BatchNorm
from .checking import CheckError, Report, check
from .containers import Concat, Residual, Sequential
from .convolution import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from .dropout import Dropout
from .gru import GRU
from .layer import Layer, NDArray
from .linear import Linear
from .lstm import LSTM
from .parts import (
    GELU,
    SELU,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    Embedding,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    LastStep,
    LeakyReLU,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MeanSteps,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from .rnn import RNN


@dataclass(frozen=True)
class Example:
    """A layer and the shape of its x; integers below `integers` where that is given."""

    layer: Callable[[], Layer]
    shape: tuple[int, ...]
    lengths: tuple[int, ...] | None = None
    integers: int | None = None
    training: bool = True

    def x(self) -> NDArray:
        """Return an input, always the same."""
        rng = np.random.default_rng(0)
        if self.integers is not None:
            return rng.integers(0, self.integers, self.shape)
        return rng.standard_normal(self.shape)


EXAMPLES: Final[dict[str, list[Example]]] = {
    "linear": [
        Example(lambda: Linear(5, 3, rng=0), (4, 5)),
        Example(lambda: Linear(5, 3, bias=False, rng=0), (3, 6, 5), (6, 0, 2)),
    ],
    "convolution": [
        Example(lambda: Conv1d(3, 4, 3, padding="causal", rng=0), (3, 9, 3), (9, 0, 4)),
        Example(lambda: Conv2d(4, 6, 3, stride=2, padding="same", groups=2, rng=0), (2, 7, 6, 4)),
        Example(lambda: Conv2d(2, 3, 3, padding=1, padding_mode="reflect", rng=0), (2, 5, 6, 2)),
        Example(lambda: Conv3d(2, 3, 2, dilation=2, rng=0), (2, 5, 4, 4, 2)),
        Example(lambda: ConvTranspose1d(3, 4, 3, stride=2, rng=0), (3, 6, 3), (6, 0, 2)),
        Example(
            lambda: ConvTranspose2d(
                4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, rng=0
            ),
            (2, 4, 3, 4),
        ),
        Example(
            lambda: ConvTranspose3d(2, 3, 2, stride=(1, 2, 2), padding="same", rng=0),
            (2, 4, 3, 3, 2),
        ),
    ],
    "batchnorm": [
        Example(lambda: BatchNorm(4), (8, 4)),
        Example(lambda: BatchNorm(4), (3, 6, 4), (6, 0, 2)),
        Example(lambda: BatchNorm(4), (2, 3, 3, 4), training=False),
    ],
    "dropout": [
        Example(lambda: Dropout(0.3, rng=0), (6, 5)),
        Example(lambda: Dropout(0.3, mode="classic", rng=0), (3, 6, 5), (6, 0, 2), training=False),
        Example(lambda: Dropout(0.3, shared_axes=(1, 2), rng=0), (3, 4, 4, 5)),
        Example(lambda: Dropout(0.3, mode="alpha", rng=0), (3, 6, 5), (6, 0, 2)),
    ],
    "rnn": [
        Example(lambda: RNN(3, 4, rng=0), (3, 7, 3), (7, 0, 4)),
        Example(lambda: RNN(3, 4, layers=2, bidirectional=True, rng=0), (3, 7, 3), (7, 0, 4)),
        Example(lambda: RNN(3, 4, activation="sigmoid", recurrent_dropout=0.3, rng=0), (3, 7, 3)),
    ],
    "lstm": [
        Example(lambda: LSTM(3, 4, rng=0), (3, 7, 3), (7, 0, 4)),
        Example(lambda: LSTM(3, 4, layers=2, bidirectional=True, rng=0), (3, 7, 3), (7, 0, 4)),
        Example(lambda: LSTM(3, 4, projection=2, recurrent_dropout=0.3, rng=0), (3, 7, 3)),
        Example(lambda: LSTM(3, 4, peepholes=True, coupled=True, cell_clip=3, rng=0), (3, 7, 3)),
    ],
    "gru": [
        Example(lambda: GRU(3, 4, rng=0), (3, 7, 3), (7, 0, 4)),
        Example(
            lambda: GRU(3, 4, reset="before", layers=2, bidirectional=True, rng=0),
            (3, 7, 3),
            (7, 0, 4),
        ),
    ],
    "parts": [
        Example(ReLU, (4, 5)),
        Example(LeakyReLU, (4, 5)),
        Example(GELU, (4, 5)),
        Example(SELU, (4, 5)),
        Example(Sigmoid, (4, 5)),
        Example(Tanh, (4, 5)),
        Example(Softmax, (4, 5)),
        Example(lambda: MaxPool1d(2), (3, 6, 3), (6, 0, 3)),
        Example(lambda: MaxPool2d(2), (2, 6, 6, 3)),
        Example(lambda: MaxPool3d(2), (2, 4, 4, 4, 3)),
        Example(lambda: AvgPool1d(3, 1, padding="same"), (3, 6, 3), (6, 0, 3)),
        Example(lambda: AvgPool2d(2), (2, 6, 6, 3)),
        Example(lambda: AvgPool3d(2), (2, 4, 4, 4, 3)),
        Example(GlobalMaxPool, (2, 6, 6, 3)),
        Example(GlobalAvgPool, (2, 6, 6, 3)),
        Example(Flatten, (2, 3, 4)),
        Example(lambda: Embedding(10, 4, padding_index=0, rng=0), (3, 6), (6, 0, 2), integers=10),
        Example(LastStep, (3, 6, 4), (6, 1, 2)),
        Example(MeanSteps, (3, 6, 4), (6, 1, 2)),
        Example(
            lambda: Sequential(Residual(Linear(4, 4)), Concat(Linear(4, 2), Linear(4, 3)), rng=0),
            (5, 4),
        ),
    ],
}
"""By the name of the layer's folder."""


def reports(name: str) -> Iterator[Report | CheckError]:
    """Check all examples of a name; what failed comes as the error."""
    for example in EXAMPLES[name]:
        try:
            yield check(
                example.layer(), example.x(), lengths=example.lengths, training=example.training
            )
        except CheckError as error:
            yield error
