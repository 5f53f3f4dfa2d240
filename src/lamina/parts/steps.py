"""From sequences to vectors: the last step, or the mean of all.

With x (N, T, ...), y (N, ...), and l[n] the length of sequence n (T where no lengths are given);
both give 0 for a sequence of length 0.

    LastStep   y[n] = x[n, l[n] − 1]              dx[n, t] = dy[n] where t = l[n] − 1, else 0    (1)
    MeanSteps  y[n] = Σ_{t < l[n]} x[n, t]/l[n]   dx[n, t] = dy[n]/l[n] where t < l[n], else 0   (2)
"""

from typing import Any, ClassVar

from .. import arguments, kernels
from ..arrays import Array, is_step, mask_steps, namespace, whole_lengths
from ..layer import Arrays, Layer, NDArray, Shape


def last_step(x: Array, lengths: Array | None = None) -> tuple[Array, Any]:
    """Return y and the cache of `last_step_backward`."""
    xp = namespace(x, lengths)
    last = is_last(x, lengths)
    return xp.sum(xp.where(last, x, 0), axis=1), last  # (1)


def is_last(x: Array, lengths: Array | None) -> Array:
    """Return whether a step is the last of its sequence, shape (N, T, 1, ...)."""
    lengths = whole_lengths(x) if lengths is None else lengths
    return is_step(x, lengths) & ~is_step(x, lengths - 1)


def last_step_backward(dy: Array, last: Array) -> Array:
    """Return dx."""
    return namespace(dy).where(last, dy[:, None, ...], 0)  # (1)


def mean_steps(x: Array, lengths: Array | None = None) -> tuple[Array, Any]:
    """Return y and the cache of `mean_steps_backward`."""
    xp = namespace(x, lengths)
    lengths = whole_lengths(x) if lengths is None else lengths
    count = xp.astype(xp.clip(lengths, min=1), x.dtype)  # a sequence of length 0 sums to 0
    count = xp.reshape(count, (-1,) + (1,) * (x.ndim - 2))
    return xp.sum(mask_steps(x, lengths), axis=1) / count, (is_step(x, lengths), count)  # (2)


def mean_steps_backward(dy: Array, cache: Any) -> Array:
    """Return dx."""
    real, count = cache
    return namespace(dy).where(real, (dy / count)[:, None, ...], 0)  # (2)


class Reduction(Layer):
    """A layer without parameters whose functions go by one name."""

    _function: ClassVar[str]
    """What computes y, by name, in a module and in its kernels; dx by ``.._backward``."""

    def backward(self, dy: NDArray, cache: Any) -> tuple[NDArray, Arrays]:
        """Return dx, of x's shape, and no gradients."""
        shape, dtype, how, cache = arguments.cached(self, cache, 4)
        dy = arguments.gradient(self, dy, shape, dtype)
        return getattr(how, f"{self._function}_backward")(dy, cache), {}


class _OfSteps(Reduction):
    """What both share: y has no steps."""

    def forward(
        self, x: NDArray, *, lengths: Any = None, training: bool = False
    ) -> tuple[NDArray, Any]:
        """Return y, shape (N, ...), and the cache of `backward`."""
        x = arguments.array(self, "x", x)
        self.output_shape(x.shape)
        how = kernels.beside(__name__)
        y, cache = getattr(how, self._function)(x, arguments.lengths(self, lengths, x))
        return y, (y.shape, y.dtype, how, cache)

    def output_shape(self, shape: Shape) -> Shape:
        """Return (N, ...) for (N, T, ...)."""
        if len(shape) < 3:
            raise ValueError(f"{self}: x has shape {shape}, expected sequences (N, T, ...)")
        return shape[0], *shape[2:]

    def output_lengths(self, lengths: NDArray) -> None:
        """Return None: y has no steps."""


class LastStep(_OfSteps):
    r"""The last step of each sequence.

    .. math:: y_n = x_{n,\,l_n - 1}

    Notes
    -----
    x has shape (N, T, ...), y (N, ...). Without ``lengths`` every sequence ends at T; one of length
    0 gives 0.

    Raises
    ------
    ValueError
        x has fewer than 3 axes.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(6.0).reshape(2, 3, 1)
    >>> LastStep()(x, lengths=[3, 1])
    array([[2.],
           [3.]])
    """

    _function = "last_step"


class MeanSteps(_OfSteps):
    r"""The mean over the steps of each sequence.

    .. math:: y_n = \frac{1}{l_n} \sum_{t < l_n} x_{n,t}

    Notes
    -----
    x has shape (N, T, ...), y (N, ...). Without ``lengths`` every sequence ends at T; one of length
    0 gives 0.

    Raises
    ------
    ValueError
        x has fewer than 3 axes.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(6.0).reshape(2, 3, 1)
    >>> MeanSteps()(x, lengths=[3, 1])
    array([[1.],
           [3.]])
    """

    _function = "mean_steps"
