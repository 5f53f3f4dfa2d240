r"""Activations: functions of each element, and softmax, a function of the last axis.

With x, y, dy and dx of one shape (..., C). Forward, and backward by dx = dy ∂y/∂x:

    ReLU        y = max(x, 0)                        dx = dy where x > 0, else 0         (1)
    LeakyReLU   y = x where x > 0, else s x          dx = dy where x > 0, else s dy      (2)
    Sigmoid     y = σ(x) = 1/(1 + exp(−x))           dx = dy y (1 − y)                   (3)
    Tanh        y = tanh(x)                          dx = dy (1 − y²)                    (4)
    GELU        y = x Φ(x)                           dx = dy (Φ(x) + x φ(x))             (5)
                Φ(x) = erfc(−x/√2)/2                 φ(x) = Φ'(x) = exp(−x²/2)/√(2π)     (6)
    GELU, tanh  y = x σ(v)                           dx = dy σ(v) (1 + x (1 − σ(v)) v')  (7)
                v = √(8/π) (x + k x³), k = 0.044715  v' = √(8/π) (1 + 3 k x²)            (8)
    Softmax     y_c = exp(x_c − m)/Σ_k exp(x_k − m)  dx_c = y_c (dy_c − Σ_k dy_k y_k)    (9)
    SELU        y = λ x where x > 0, else λ α u      dx = λ dy where x > 0, else         (10)
                u = exp(x) − 1                            λ α (u + 1) dy

The tanh of (7): σ(v) = (1 + tanh(v/2))/2, and as σ it keeps its digits where it is close to 0.
In (9) any m gives the same y, since exp(−m) cancels; m = max_c x_c keeps exp from overflowing. Its
gradient follows from ∂y_k/∂x_c = y_k (δ_kc − y_c). λ and α of (10) are those with which y has mean
0 and variance 1 where x is normal and has them too. No exp overflows; NaN gives NaN, infinity a
limit, but in (9) NaN where there is none: for +∞, and where all x_k are −∞.
"""

import math
from typing import Any

from .. import arguments, kernels
from ..arrays import Array, mask_steps, namespace
from ..arrays import sigmoid as logistic
from ..calls import Live, by_steps
from ..dropout import Dropout
from ..layer import SETTLED, Arrays, Fused, Layer, NDArray, Shape
from .erfc import erfc
from .pooling import MAX_POOLS

ROOT_8_OVER_PI = math.sqrt(8 / math.pi)
LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772  # of (10), to the last digit


def relu(x: Array) -> tuple[Array, Array]:
    """Return y and the cache of `relu_backward`."""
    off = x <= 0  # not for NaN, which goes through
    return namespace(x).where(off, 0, x), off  # (1)


def relu_backward(dy: Array, off: Array) -> Array:
    """Return dx."""
    return namespace(dy).where(off, 0, dy)  # (1)


def leaky_relu(x: Array, slope: float) -> tuple[Array, Any]:
    """Return y and the cache of `leaky_relu_backward`."""
    on = x > 0
    return namespace(x).where(on, x, slope * x), (on, slope)  # (2)


def leaky_relu_backward(dy: Array, cache: Any) -> Array:
    """Return dx."""
    on, slope = cache
    return namespace(dy).where(on, dy, slope * dy)  # (2)


def sigmoid(x: Array) -> tuple[Array, Array]:
    """Return y, which is the cache of `sigmoid_backward` too."""
    y = logistic(x)  # (3)
    return y, y


def sigmoid_backward(dy: Array, y: Array) -> Array:
    """Return dx."""
    return dy * (y * (1 - y))  # (3)


def tanh(x: Array) -> tuple[Array, Array]:
    """Return y, which is the cache of `tanh_backward` too."""
    y = namespace(x).tanh(x)  # (4)
    return y, y


def tanh_backward(dy: Array, y: Array) -> Array:
    """Return dx."""
    return dy * ((1 - y) * (1 + y))  # (4)


def gelu(x: Array) -> tuple[Array, Any]:
    """Return y and the cache of `gelu_backward`."""
    Phi = erfc(x * -math.sqrt(0.5)) / 2  # (6)
    # Φ is 0 from -40 on, but infinity times 0 is none.
    return namespace(x).clip(x, min=-40.0) * Phi, (x, Phi)  # (5)


def gelu_backward(dy: Array, cache: Any) -> Array:
    """Return dx."""
    x, Phi = cache
    xp = namespace(x)
    z = xp.clip(x, min=-40.0, max=40.0)  # φ is 0 there, and x² would overflow farther out
    phi = xp.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)  # (6)
    return dy * (Phi + z * phi)  # (5)


def gelu_tanh(x: Array) -> tuple[Array, Any]:
    """Return y and the cache of `gelu_tanh_backward`."""
    xp = namespace(x)
    x = xp.clip(x, min=-100.0)  # σ is 0 there, but infinity times 0 is none
    z = xp.clip(x, max=100.0)  # σ is 1 there, and x³ may overflow
    s = logistic(ROOT_8_OVER_PI * (z + 0.044715 * z * z * z))  # (8)
    return x * s, (z, s)  # (7)


def gelu_tanh_backward(dy: Array, cache: Any) -> Array:
    """Return dx."""
    z, s = cache
    dv = ROOT_8_OVER_PI * (1 + 3 * 0.044715 * z * z)  # (8)
    return dy * (s * (1 + z * (1 - s) * dv))  # (7)


def softmax(x: Array) -> tuple[Array, Array]:
    """Return y, which is the cache of `softmax_backward` too."""
    xp = namespace(x)
    e = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    y = e / xp.sum(e, axis=-1, keepdims=True)  # (9)
    return y, y


def softmax_backward(dy: Array, y: Array) -> Array:
    """Return dx."""
    return y * (dy - namespace(dy).sum(dy * y, axis=-1, keepdims=True))  # (9)


def selu(x: Array) -> tuple[Array, Any]:
    """Return y and the cache of `selu_backward`."""
    xp = namespace(x)
    on = x > 0
    u = xp.expm1(xp.clip(x, max=0.0))
    return xp.where(on, LAMBDA * x, LAMBDA * ALPHA * u), (on, u)  # (10)


def selu_backward(dy: Array, cache: Any) -> Array:
    """Return dx."""
    on, u = cache
    return namespace(dy).where(on, LAMBDA * dy, LAMBDA * ALPHA * (u + 1) * dy)  # (10)


class _Activation(Layer):
    """What all activations share: no parameters, y of x's shape and dtype, steps and lengths."""

    stepwise = True
    settable = SETTLED

    _function: str
    """What computes y, by name, in this module and in its kernels; dx by ``.._backward``."""

    def _y(self, how: Any, x: Any) -> Any:
        """Return y and the cache of `_dx`, by this module, its kernels or their plan."""
        return getattr(how, self._function)(x)

    def _dx(self, how: Any, dy: NDArray, cache: Any) -> Any:
        """Return dx."""
        return getattr(how, f"{self._function}_backward")(dy, cache)

    def forward(
        self, x: NDArray, *, lengths: Any = None, training: bool = False
    ) -> tuple[NDArray, Any]:
        """Return y, of x's shape, and the cache of `backward`."""
        x = arguments.array(self, "x", x)
        self.output_shape(x.shape)
        lengths, how = arguments.lengths(self, lengths, x), kernels.beside(__name__)
        y, cache = self._y(how, mask_steps(x, lengths))
        return mask_steps(y, lengths), (y.shape, y.dtype, lengths, how, cache)

    def backward(self, dy: NDArray, cache: Any) -> tuple[NDArray, Arrays]:
        """Return dx, of x's shape, and no gradients."""
        shape, dtype, lengths, how, cache = arguments.cached(self, cache, 5)
        dy = arguments.gradient(self, dy, shape, dtype)
        return self._dx(how, mask_steps(dy, lengths), cache), {}

    def _live(self, *options: bool) -> Live | None:
        """Return how to plan a call."""
        return None if type(self) is Identity else Live(by_steps(self._plan))

    def _plan(self, plan: Any, x: int) -> int:
        self.output_shape(plan.shapes[x])
        y: int = self._y(kernels.beside(__name__).Planner(plan), x)[0]
        return y

    def output_shape(self, shape: Shape) -> Shape:
        """Return `shape`."""
        return shape


class Identity(_Activation):
    """y = x, the array itself: where a place in a network needs a layer that does nothing.

    Raises
    ------
    TypeError
        x has another dtype than float32 and float64.

    Examples
    --------
    >>> import numpy as np
    >>> Identity()(np.array([-1.0, 2.0]))
    array([-1.,  2.])
    """

    def _y(self, how: Any, x: Any) -> Any:
        return x, None

    def _dx(self, how: Any, dy: NDArray, cache: Any) -> Any:
        return dy


class ReLU(_Activation):
    r"""The rectified linear unit: what is positive passes, the rest is 0.

    .. math:: y = \max(x, 0)

    Notes
    -----
    x has any shape, with ``lengths`` (N, T, ...); y has the same. The gradient at 0 is 0.

    Raises
    ------
    TypeError
        x has another dtype than float32 and float64.

    References
    ----------
    V. Nair, G. Hinton, *Rectified Linear Units Improve Restricted Boltzmann Machines* (2010),
    sec. 2.

    Examples
    --------
    >>> import numpy as np
    >>> ReLU()(np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 2.])
    """

    _function = "relu"

    def _fuses(self, after: Layer) -> bool:
        """Return whether `_forward_fused` does the layer after this one, too.

        It does a maximum, and a Dropout that draws for each unit and drops to 0.
        """
        dropout = type(after) is Dropout and after.mode != "alpha" and not after.shared_axes
        known = dropout or type(after) in MAX_POOLS
        return known and type(self) is ReLU and kernels.used()

    def _forward_fused(self, x: NDArray, after: Any, **options: Any) -> tuple[NDArray, Any, Any]:
        """Return what the layer after this one makes of y, in training, and its cache for both."""
        y, cache = after._forward_with_relu(x, **options)
        return y, Fused, cache

    def _fused_cache(self, y: NDArray) -> Any:
        """Return the cache of `backward` where a kernel before gave y, which is 0 at padding."""
        return y.shape, y.dtype, None, kernels.beside(__name__), (y, ())


class LeakyReLU(_Activation):
    r"""A rectified linear unit that lets a little of the negative through.

    .. math:: y = x \text{ where } x > 0, \text{ else } s x

    Parameters
    ----------
    slope : float
        s, at least 0.

    Notes
    -----
    x has any shape, with ``lengths`` (N, T, ...); y has the same. The gradient at 0 is s. With
    s = 0 it is a `ReLU`, at -infinity too.

    Raises
    ------
    ValueError, TypeError
        The slope is below 0; x has another dtype than float32 and float64.

    References
    ----------
    A. Maas, A. Hannun, A. Ng, *Rectifier Nonlinearities Improve Neural Network Acoustic Models*
    (2013), sec. 2.

    Examples
    --------
    >>> import numpy as np
    >>> LeakyReLU(0.1)(np.array([-1.0, 0.0, 2.0]))
    array([-0.1,  0. ,  2. ])
    """

    _function = "leaky_relu"

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = arguments.number(self, "slope", slope, low=0)

    def _y(self, how: Any, x: Any) -> Any:
        relu = not self.slope  # 0 times -infinity would be NaN
        y, cache = how.relu(x) if relu else how.leaky_relu(x, self.slope)
        return y, (cache, relu)

    def _dx(self, how: Any, dy: NDArray, cache: Any) -> Any:
        cache, relu = cache
        return (how.relu_backward if relu else how.leaky_relu_backward)(dy, cache)


class Sigmoid(_Activation):
    r"""The logistic function, from 0 to 1.

    .. math:: y = \frac{1}{1 + e^{-x}}

    Notes
    -----
    x has any shape, with ``lengths`` (N, T, ...); y has the same. As the last layer before a loss,
    leave it out: `BinaryCrossEntropy` takes the logits.

    Raises
    ------
    TypeError
        x has another dtype than float32 and float64.

    Examples
    --------
    >>> import numpy as np
    >>> Sigmoid()(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """

    _function = "sigmoid"


class Tanh(_Activation):
    r"""The hyperbolic tangent, from -1 to 1.

    .. math:: y = \tanh(x)

    Notes
    -----
    x has any shape, with ``lengths`` (N, T, ...); y has the same.

    Raises
    ------
    TypeError
        x has another dtype than float32 and float64.

    Examples
    --------
    >>> import numpy as np
    >>> Tanh()(np.array([-1000.0, 0.0, 1000.0]))
    array([-1.,  0.,  1.])
    """

    _function = "tanh"


class GELU(_Activation):
    r"""The Gaussian error linear unit: x times the probability that a normal variable is below x.

    .. math:: y = x \Phi(x), \quad \Phi(x) = \tfrac12 \operatorname{erfc}(-x / \sqrt 2)

    Parameters
    ----------
    approximate : bool
        Whether to take :math:`\tfrac12 (1 + \tanh(\sqrt{2/\pi} (x + 0.044715 x^3)))` for
        :math:`\Phi(x)`. It is off by up to 5e-4, and quicker.

    Notes
    -----
    x has any shape, with ``lengths`` (N, T, ...); y has the same.

    Raises
    ------
    ValueError, TypeError
        `approximate` is neither True nor False; x has another dtype than float32 and float64.

    References
    ----------
    D. Hendrycks, K. Gimpel, *Gaussian Error Linear Units* (2016), sec. 2.

    Examples
    --------
    >>> import numpy as np
    >>> GELU()(np.array([-1.0, 0.0, 2.0])).round(4)
    array([-0.1587,  0.    ,  1.9545])
    """

    def __init__(self, approximate: bool = False) -> None:
        self.approximate = arguments.flag(self, "approximate", approximate)
        self._function = "gelu_tanh" if self.approximate else "gelu"


class SELU(_Activation):
    r"""The scaled exponential linear unit, which keeps layers at mean 0 and variance 1.

    .. math:: y = \lambda x \text{ where } x > 0, \text{ else } \lambda \alpha (e^x - 1)

    with :math:`\lambda = 1.0507009873554805` and :math:`\alpha = 1.6732632423543772`: where x is
    normal, with mean 0 and variance 1, y has these too.

    Notes
    -----
    x has any shape, with ``lengths`` (N, T, ...); y has the same. The gradient at 0 is
    :math:`\lambda \alpha`. SELU asks for weights of variance 1/I (``init="lecun_normal"``), and for
    ``Dropout(mode="alpha")`` where units are to be dropped.

    Raises
    ------
    TypeError
        x has another dtype than float32 and float64.

    References
    ----------
    G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter, *Self-Normalizing Neural Networks* (2017),
    sec. 2, equations (2) and (14).

    Examples
    --------
    >>> import numpy as np
    >>> SELU()(np.array([-1.0, 0.0, 2.0])).round(4)
    array([-1.1113,  0.    ,  2.1014])
    """

    _function = "selu"


class Softmax(_Activation):
    r"""Positive shares that sum to 1, over the last axis.

    .. math:: y_c = \frac{e^{x_c}}{\sum_k e^{x_k}}

    Notes
    -----
    x has shape (..., C), with ``lengths`` (N, T, ..., C); y has the same. As the last layer before
    a loss, leave it out: `CrossEntropy` takes the logits.

    Raises
    ------
    ValueError
        x has no axes, or none of 1 class at least.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, *Deep Learning* (2016), sec. 6.2.2.3.

    Examples
    --------
    >>> import numpy as np
    >>> Softmax()(np.array([[0.0, np.log(3.0)], [1000.0, 1000.0]]))
    array([[0.25, 0.75],
           [0.5 , 0.5 ]])
    """

    _function = "softmax"

    def output_shape(self, shape: Shape) -> Shape:
        """Return `shape`."""
        if not shape or shape[-1] < 1:
            raise ValueError(
                f"Softmax(): x has shape {shape}, expected (..., C) with at least 1 class"
            )
        return shape
