"""Flatten: the features of a sample as one axis."""

import math
from typing import Any

from .. import arguments
from ..layer import Arrays, Layer, NDArray, Shape


class Flatten(Layer):
    """All axes but the batch's as one, in the order of memory (the last axis runs fastest).

    Notes
    -----
    x has shape (N, ...), y (N, F) with F the product of the other axes. As of NumPy's reshape, y is
    a view of x where it can be.

    Raises
    ------
    ValueError
        x has no axes, or comes with ``lengths``: the steps of a sequence would become features.

    Examples
    --------
    >>> import numpy as np
    >>> Flatten()(np.zeros((5, 8, 8, 3))).shape
    (5, 192)
    """

    def forward(
        self, x: NDArray, *, lengths: Any = None, training: bool = False
    ) -> tuple[NDArray, Any]:
        """Return y, shape (N, F), and the cache of `backward`."""
        arguments.no_lengths(
            self, lengths, "it makes features of steps; put LastStep or MeanSteps before it"
        )
        x = arguments.array(self, "x", x)
        y = x.reshape(self.output_shape(x.shape))
        return y, (y.shape, y.dtype, x.shape)

    def backward(self, dy: NDArray, cache: Any) -> tuple[NDArray, Arrays]:
        """Return dx, of x's shape, and no gradients."""
        shape, dtype, x_shape = arguments.cached(self, cache, 3)
        return arguments.gradient(self, dy, shape, dtype).reshape(x_shape), {}

    def _plan(self, plan: Any, x: int) -> int:
        y: int = plan.view(x, self.output_shape(plan.shapes[x]))
        return y

    def output_shape(self, shape: Shape) -> Shape:
        """Return (N, F) for (N, ...)."""
        if not shape:
            raise ValueError("Flatten(): x has no axes, expected a batch of shape (N, ...)")
        return shape[0], math.prod(shape[1:])
