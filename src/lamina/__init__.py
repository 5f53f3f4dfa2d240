"""Neural-network layers for NumPy: readable formulas, exact gradients, the speed of the CPU."""

from . import batchnorm, convolution, dropout, initializers, linear, lstm, parts, rnn
from .batchnorm import BatchNorm
from .checking import CheckError, check
from .containers import Concat, Residual, Sequential
from .convolution import Conv1d, Conv2d, Conv3d
from .dropout import Dropout
from .layer import Layer
from .linear import Linear
from .lstm import LSTM
from .parts import (
    GELU,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    BinaryCrossEntropy,
    CrossEntropy,
    Embedding,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    Huber,
    Identity,
    LastStep,
    LeakyReLU,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MeanSquaredError,
    MeanSteps,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from .rnn import RNN

__version__ = "0.1.0"
__all__ = [
    "GELU",
    "LSTM",
    "RNN",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BatchNorm",
    "BinaryCrossEntropy",
    "CheckError",
    "Concat",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "CrossEntropy",
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "Huber",
    "Identity",
    "LastStep",
    "Layer",
    "LeakyReLU",
    "Linear",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MeanSquaredError",
    "MeanSteps",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "batchnorm",
    "check",
    "convolution",
    "dropout",
    "initializers",
    "linear",
    "lstm",
    "parts",
    "rnn",
]
