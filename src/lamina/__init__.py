"""Neural-network layers for NumPy: readable formulas, exact gradients, the speed of the CPU."""

from . import (
    batchnorm,
    convolution,
    data,
    dropout,
    gru,
    initializers,
    linear,
    lstm,
    parts,
    plot,
    rnn,
    train,
)
from .batchnorm import BatchNorm
from .checking import CheckError, check
from .containers import Concat, Residual, Sequential
from .convolution import Conv1d, Conv2d, Conv3d
from .dropout import Dropout
from .engine.denormals import flush_denormals
from .engine.threads import threads
from .gru import GRU
from .kernels import formulas
from .layer import Layer
from .linear import Linear
from .lstm import LSTM
from .montecarlo import mc
from .parts import (
    GELU,
    SELU,
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
from .train import (
    SGD,
    Adam,
    AdamW,
    Constant,
    Cosine,
    EarlyStopping,
    FormatError,
    History,
    RMSprop,
    StepDecay,
    WarmUp,
    accuracy,
    evaluate,
    fit,
    load,
    predict,
    recalibrate,
    save,
)

__version__ = "0.1.0"
__all__ = [
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "SELU",
    "SGD",
    "Adam",
    "AdamW",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BatchNorm",
    "BinaryCrossEntropy",
    "CheckError",
    "Concat",
    "Constant",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Cosine",
    "CrossEntropy",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "Flatten",
    "FormatError",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "History",
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
    "RMSprop",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "StepDecay",
    "Tanh",
    "WarmUp",
    "accuracy",
    "batchnorm",
    "check",
    "convolution",
    "data",
    "dropout",
    "evaluate",
    "fit",
    "flush_denormals",
    "formulas",
    "gru",
    "initializers",
    "linear",
    "load",
    "lstm",
    "mc",
    "parts",
    "plot",
    "predict",
    "recalibrate",
    "rnn",
    "save",
    "threads",
    "train",
]


def __dir__() -> list[str]:
    """List what is meant to be used: modules inside are not."""
    return sorted([*__all__, "__version__"])
