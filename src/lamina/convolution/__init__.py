"""Convolution: a small grid of weights that slides over a signal, an image or a volume."""

from . import formula, transposed
from .layer import Conv1d, Conv2d, Conv3d
from .transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "formula",
    "transposed",
]
