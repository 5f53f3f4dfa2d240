"""Embedding: a vector for each of V things, named by their number.

With ids (...), W (V, F), y (..., F) and p the padding index, if there is one; n runs over all axes.

    y[n, f]  = W[ids[n], f], or 0 where ids[n] = p                               (1)
    dW[v, f] = Σ_{n: ids[n] = v} dy[n, f], or 0 where v = p                      (2)

since ∂y[n, f]/∂W[v, f] is 1 where ids[n] = v ≠ p and 0 elsewhere. The ids have no gradient.
"""

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from .. import arguments, initializers
from ..arrays import mask_steps
from ..layer import SETTLED, Arrays, Layer, NDArray, Parameter, Shape


class Embedding(Layer):
    r"""A vector of its own, which is learned, for each of V things: words, users, categories.

    .. math:: y_{n} = W_{\text{ids}_n}

    Parameters
    ----------
    count : int
        V, how many things there are; ids run from 0 to V - 1.
    features : int
        F, the length of a vector.
    padding_index : int, optional
        An id, from 0 to V - 1, that stands for nothing: its y is 0 and its row of W, drawn as 0,
        gets no gradient.
    init : str
        The preset that draws the weights, one of `lamina.initializers.PRESETS`; ``"torch"`` is
        ``"normal"`` here, as in ``torch.nn``.
    dtype : dtype
        float32 or float64.
    rng : int, numpy.random.Generator or None
        Draws the weights; None takes fresh entropy.

    Attributes
    ----------
    weight : array, shape (V, F)

    Notes
    -----
    x are integers of any shape (...), y has shape (..., F). With ``lengths``, x has shape
    (N, T, ...); ids in padding may be any integers. dx is None, since integers have no gradient.

    Raises
    ------
    TypeError
        The ids are no integers; an option is of another type.
    ValueError
        An id outside 0 ... V - 1; an option is out of its range.

    References
    ----------
    Y. Bengio, R. Ducharme, P. Vincent, C. Jauvin, *A Neural Probabilistic Language Model* (2003),
    sec. 2: the matrix C.

    Examples
    --------
    >>> layer = Embedding(4, 2, dtype=np.float64, rng=0)
    >>> layer.weight = [[0, 1], [2, 3], [4, 5], [6, 7]]
    >>> y, cache = layer.forward(np.array([2, 0, 2]), training=True)
    >>> y
    array([[4., 5.],
           [0., 1.],
           [4., 5.]])
    >>> dx, grads = layer.backward(np.ones((3, 2)), cache)
    >>> dx is None
    True
    >>> grads["weight"]
    array([[1., 1.],
           [0., 0.],
           [2., 2.],
           [0., 0.]])
    """

    stepwise = True
    settable = SETTLED
    weight = Parameter()

    def __init__(
        self,
        count: int,
        features: int,
        *,
        padding_index: int | None = None,
        init: str = "normal",
        dtype: npt.DTypeLike = np.float32,
        rng: initializers.RNG = None,
    ) -> None:
        self.count = arguments.integer(self, "count", count)
        self.features = arguments.integer(self, "features", features)
        if padding_index is not None:
            padding_index = arguments.integer(self, "padding_index", padding_index, least=0)
            if padding_index >= self.count:
                raise ValueError(
                    f"{self}: padding_index must be an id, 0 ... {self.count - 1}, "
                    f"got {padding_index}"
                )
        self.padding_index = padding_index
        self.init = arguments.choice(self, "init", init, initializers.PRESETS)
        self._dtype = arguments.float_dtype(self, dtype).type
        self.initialize(rng)

    def initialize(self, rng: initializers.RNG = None) -> Self:
        """Draw all parameters anew and return the layer."""
        rng = initializers.generator(rng)
        size = self.count, self.features
        preset = "normal" if self.init == "torch" else self.init
        self.params = {"weight": initializers.draw(preset, size, *size, rng, self.dtype)}
        if self.padding_index is not None:
            self.weight[self.padding_index] = 0
        return self

    def forward(
        self, x: NDArray, *, lengths: Any = None, training: bool = False
    ) -> tuple[NDArray, Any]:
        """Return y, shape (..., F), and the cache of `backward`."""
        x = arguments.as_array(self, "x", x)
        if x.dtype.kind not in "iu":
            raise TypeError(
                f"{self}: x has dtype {x.dtype}, expected integers; cast it: x.astype(np.int64)"
            )
        arguments.parameter(self, "weight", self.weight, (self.count, self.features))
        lengths = arguments.lengths(self, lengths, x, ndim=2)
        x = mask_steps(x, lengths)
        if x.size and not (x.min() >= 0 and x.max() < self.count):
            raise ValueError(
                f"{self}: ids must lie in 0 ... {self.count - 1}, got {x.min()} ... {x.max()}"
            )
        y = mask_steps(self._without_padding(x, self.weight[x]), lengths)  # (1)
        return y, (y.shape, x, lengths)

    def backward(self, dy: NDArray, cache: Any) -> tuple[Any, Arrays]:
        """Return None in place of dx, and the gradient of weight."""
        shape, x, lengths = arguments.cached(self, cache, 3)
        dy = arguments.gradient(self, dy, shape, self.dtype)
        dy = self._without_padding(x, mask_steps(dy, lengths))
        # One flat index an element: numpy adds those in order, and faster than whole rows.
        element = x[..., None].astype(np.int64) * self.features + np.arange(self.features)
        dweight = np.zeros(self.weight.shape, self.weight.dtype)
        np.add.at(dweight.reshape(-1), element.reshape(-1), dy.reshape(-1))  # (2)
        return None, {"weight": dweight}

    def _without_padding(self, x: NDArray, y: NDArray) -> NDArray:
        """Return y with 0 where x is the padding index."""
        if self.padding_index is None:
            return y
        return np.where((x == self.padding_index)[..., None], y.dtype.type(0), y)

    def output_shape(self, shape: Shape) -> Shape:
        """Return (..., F) for (...)."""
        return (*shape, self.features)
