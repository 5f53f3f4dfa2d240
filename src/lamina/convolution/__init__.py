"""Convolution: a small grid of weights that slides over a signal, an image or a volume."""

from . import formula
from .layer import Conv1d, Conv2d, Conv3d

__all__ = ["Conv1d", "Conv2d", "Conv3d", "formula"]
