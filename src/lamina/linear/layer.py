"""The class Linear."""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from .. import arguments, initializers
from ..affine import Affine
from ..kernels import functions, kernel
from ..layer import Fixed, NDArray, Shape

if TYPE_CHECKING:
    from ..engine.program import Program


class Linear(Affine):
    r"""An affine map of the last axis: every output is a weighted sum of all inputs.

    .. math:: y_{n,o} = \sum_i x_{n,i} W_{i,o} + b_o

    Parameters
    ----------
    in_features, out_features : int
        I and O, at least 1.
    bias : bool
        Whether to add b.
    init : str
        The preset that draws the weights, one of `lamina.initializers.PRESETS`.
    dtype : dtype
        float32 or float64.
    rng : int, numpy.random.Generator or None
        Draws the weights; None takes fresh entropy.

    Attributes
    ----------
    weight : array, shape (I, O)
    bias : array, shape (O,), or None

    Notes
    -----
    x has shape (..., I), any number of leading axes; y has shape (..., O). With ``lengths``, x has
    shape (N, T, ..., I).

    Raises
    ------
    ValueError, TypeError
        An option is out of its range; x has another number of features or another dtype.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, *Deep Learning* (2016), sec. 6.5.6, gives the gradients.

    Examples
    --------
    >>> layer = Linear(2, 3, dtype=np.float64, rng=0)
    >>> layer.weight = [[1, -1, 0.5], [0, 2, 0.5]]
    >>> layer.bias = [0, 1, -1]
    >>> y, cache = layer.forward(np.array([[1.0, 2.0]]), training=True)
    >>> y
    array([[1. , 4. , 0.5]])
    >>> dx, grads = layer.backward(np.ones((1, 3)), cache)
    >>> dx
    array([[0.5, 2.5]])
    >>> grads["weight"]
    array([[1., 1., 1.],
           [2., 2., 2.]])
    """

    stepwise = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        init: str = "glorot_uniform",
        dtype: npt.DTypeLike = np.float32,
        rng: initializers.RNG = None,
    ) -> None:
        self.in_features = arguments.integer(self, "in_features", in_features)
        self.out_features = arguments.integer(self, "out_features", out_features)
        self.has_bias = arguments.flag(self, "bias", bias)
        self.init = arguments.choice(self, "init", init, initializers.PRESETS)
        self._dtype = arguments.float_dtype(self, dtype).type
        self.initialize(rng)

    def initialize(self, rng: initializers.RNG = None) -> Self:
        """Draw all parameters anew and return the layer."""
        rng = initializers.generator(rng)
        dtype = self.dtype
        fans = self.in_features, self.out_features
        self.params = {"weight": initializers.draw(self.init, fans, *fans, rng, dtype)}
        if self.has_bias:
            shape = (self.out_features,)
            self.params["bias"] = initializers.draw_bias(self.init, shape, fans[0], rng, dtype)
        return self

    @property
    def _features(self) -> int:
        return self.out_features

    def _forward(self, x: NDArray, lengths: Any, **options: bool) -> tuple[NDArray, Any]:
        weight, bias = self._arrays()
        x, lengths = self._checked(x, lengths)
        how = functions(__name__)
        y, cache = how.forward(x, weight, bias, lengths, **options)
        return y, (y.shape, how, cache)

    def _arrays(self) -> tuple[NDArray, NDArray | None]:
        shape = self.in_features, self.out_features
        return arguments.parameters(self, shape, self.out_features)

    def _checked(self, x: Any, lengths: Any) -> tuple[NDArray, NDArray | None]:
        x = arguments.array(self, "x", x, self.dtype)
        arguments.features(self, x.shape, self.in_features)
        return x, arguments.lengths(self, lengths, x)

    def _bind_given(
        self, given: Any, program: "Program"
    ) -> Callable[[NDArray], tuple[NDArray, Any]]:
        return partial(given.train, program)

    def _fixed(self, relu: bool = False) -> Fixed:
        """Return how the layer computes in an inference model, with a ReLU on top if asked for."""
        given = kernel(__name__).fixed(*self._arrays(), relu, self._factors)

        def call(x: NDArray, *, lengths: Any = None) -> NDArray:
            y: NDArray = given(*self._checked(x, lengths))
            return y

        plan = partial(self._plan_given, given)
        return Fixed(call, lambda x_t, state: (call(x_t), ()), plan)

    def output_shape(self, shape: Shape) -> Shape:
        """Return (..., O) for (..., I)."""
        arguments.features(self, shape, self.in_features)
        return (*shape[:-1], self.out_features)

    def flops(self, shape: Shape) -> int:
        """Return 2 I O, and O for the bias, for each row of x."""
        per_row: int = self.out_features * (2 * self.in_features + self.has_bias)
        return math.prod(self.output_shape(shape)[:-1]) * per_row
