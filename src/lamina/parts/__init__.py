"""What a network needs beside the six layers: activations, reductions, embedding, losses."""

from . import activations, losses, pooling, steps
from .activations import GELU, SELU, Identity, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from .embedding import Embedding
from .flatten import Flatten
from .losses import BinaryCrossEntropy, CrossEntropy, Huber, MeanSquaredError
from .pooling import (
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    GlobalAvgPool,
    GlobalMaxPool,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
)
from .steps import LastStep, MeanSteps

__all__ = [
    "GELU",
    "SELU",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Embedding",
    "Flatten",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "Huber",
    "Identity",
    "LastStep",
    "LeakyReLU",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MeanSquaredError",
    "MeanSteps",
    "ReLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "activations",
    "losses",
    "pooling",
    "steps",
]
