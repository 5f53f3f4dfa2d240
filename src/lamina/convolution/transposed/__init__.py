"""Transposed convolution: each element of x lays a small grid of weights, times it, on y."""

from . import formula
from .layer import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

__all__ = ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "formula"]
