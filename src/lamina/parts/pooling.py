r"""Pooling: the largest value, or the mean, of each window or of everything.

With x (N, \*S, C) and y (N, \*Q, C). Positions p in y, q in the padded x and k in the window, of
size K, have a component for each of the axes \*S; s is the stride. Padding is no element of a
window: m[p] is how many real elements window p has, and maxima and sums go over those alone.

    MaxPool  y[n, p, c] = max_k x[n, p s + k, c] = x[n, p s + k*, c]                  (1)
             with k* = k*[n, p, c] the first k that reaches the maximum               (2)
    AvgPool  y[n, p, c] = Σ_k x[n, p s + k, c] / m[p]                                 (3)

Backward. Element q is k of window p where p s + k = q. To find those p for each k, spread dy by the
stride and look for it k before q, as the convolution does: with ẏ[n, p s, c] = dy[n, p, c],

    MaxPool  dx[n, q, c] = Σ_k ẏ[n, q - k, c] where k* is k there                     (4)
    AvgPool  dx[n, q, c] = Σ_k ẏ[n, q - k, c] / m                                     (5)

The global layers have one window over all of \*S. NaN in a window gives NaN, whose gradient goes
to the first NaN.
"""

import math
import operator
from functools import reduce
from typing import Any, Final

from .. import arguments, kernels
from ..arrays import Array, arange, is_step, mask_steps, namespace, whole_lengths
from ..calls import Live, by_steps
from ..layer import NDArray, Shape
from ..windowed import Windowed
from ..windows import Ints, Pads, Windows, crop, fill
from .steps import Reduction, mean_steps, mean_steps_backward


def max_pool(
    x: Array,
    lengths: Array | None = None,
    *,
    pool_size: Ints,
    stride: Ints,
    padding: Pads,
) -> tuple[Array, Any]:
    """Return y and the cache of `max_pool_backward`."""
    xp = namespace(x)
    windows, real = _placed(x, lengths, pool_size, stride, padding)
    if lengths is not None:
        x = xp.where(is_step(x, lengths), x, -xp.inf)
    padded = fill(x, padding, -xp.inf)
    y = reduce(xp.maximum, (windows.meet(padded, k) for k in windows.taps))  # (1)
    out_lengths = windows.output_lengths(lengths)
    return mask_steps(y, out_lengths), (y, padded, real, windows, lengths, out_lengths)


def max_pool_backward(dy: Array, cache: Any) -> Array:
    """Return dx."""
    y, padded, real, windows, lengths, out_lengths = cache
    xp = namespace(dy)
    sizes, taps = padded.shape[1:-1], list(enumerate(windows.taps))
    first = xp.full_like(y, -1, dtype=xp.int32)
    for i, k in reversed(taps):
        met = windows.meet(padded, k)
        reaches = windows.meet(real, k) & ((met == y) | xp.isnan(met))
        first = xp.where(reaches, i, first)  # (2)

    first = windows.spread(first, sizes, -1)
    dy = windows.spread(mask_steps(dy, out_lengths), sizes)
    terms = (
        xp.where(windows.meet_back(first, k) == i, windows.meet_back(dy, k), 0) for i, k in taps
    )
    dx = reduce(operator.add, terms)  # (4)
    return mask_steps(crop(dx, windows.pads), lengths)


def avg_pool(
    x: Array,
    lengths: Array | None = None,
    *,
    pool_size: Ints,
    stride: Ints,
    padding: Pads,
) -> tuple[Array, Any]:
    """Return y and the cache of `avg_pool_backward`."""
    xp = namespace(x)
    windows, real = _placed(x, lengths, pool_size, stride, padding)
    padded, real = fill(mask_steps(x, lengths), padding), xp.astype(real, x.dtype)
    total = reduce(operator.add, (windows.meet(padded, k) for k in windows.taps))
    count = reduce(operator.add, (windows.meet(real, k) for k in windows.taps))
    count = xp.clip(count, min=1.0)  # windows beyond the end of a sequence have none
    out_lengths = windows.output_lengths(lengths)
    cache = count, padded.shape[1:-1], windows, lengths, out_lengths
    return mask_steps(total / count, out_lengths), cache  # (3)


def avg_pool_backward(dy: Array, cache: Any) -> Array:
    """Return dx."""
    count, sizes, windows, lengths, out_lengths = cache
    share = windows.spread(mask_steps(dy, out_lengths) / count, sizes)
    dx = reduce(operator.add, (windows.meet_back(share, k) for k in windows.taps))  # (5)
    return mask_steps(crop(dx, windows.pads), lengths)


def _placed(
    x: Array, lengths: Array | None, pool_size: Ints, stride: Ints, padding: Pads
) -> tuple[Windows, Array]:
    """Return the windows, and which elements of the padded x are real: of one channel, as bools."""
    xp = namespace(x)
    real = xp.ones_like(x[:1, ..., :1], dtype=xp.bool) if lengths is None else is_step(x, lengths)
    windows = Windows(pool_size, stride, (1,) * len(pool_size), padding)
    return windows, fill(real, padding, False)


def global_max(x: Array, lengths: Array | None = None) -> tuple[Array, Any]:
    """Return y, shape (N, C), and the cache of `global_max_backward`."""
    xp = namespace(x)
    steps, lengths = _as_steps(x, lengths)
    if steps.shape[1] == 0:
        steps = fill(steps, ((0, 1),))  # there is no maximum of nothing; is_step leaves this out
    real = is_step(steps, lengths)
    y = xp.max(xp.where(real, steps, -xp.inf), axis=1, keepdims=True)
    reaches = real & ((steps == y) | xp.isnan(steps))
    none = steps.shape[1]
    t = xp.reshape(arange(none, lengths), (1, -1, 1))
    first = xp.min(xp.where(reaches, t, none), axis=1, keepdims=True)
    y = xp.where(first < none, y, 0)
    return y[:, 0, :], (first, x.shape)


def global_max_backward(dy: Array, cache: Any) -> Array:
    """Return dx."""
    first, shape = cache
    xp = namespace(dy)
    t = xp.reshape(arange(math.prod(shape[1:-1]), first), (1, -1, 1))
    dx = xp.where(t == first, dy[:, None, :], 0)
    return xp.reshape(dx, shape)


def global_avg(x: Array, lengths: Array | None = None) -> tuple[Array, Any]:
    """Return y, shape (N, C), and the cache of `global_avg_backward`."""
    y, cache = mean_steps(*_as_steps(x, lengths))
    return y, (cache, x.shape)


def global_avg_backward(dy: Array, cache: Any) -> Array:
    """Return dx."""
    cache, shape = cache
    return namespace(dy).reshape(mean_steps_backward(dy, cache), shape)


def _as_steps(x: Array, lengths: Array | None) -> tuple[Array, Array]:
    r"""Return x, shape (N, \*S, C), as (N, T, C), and how many of its T steps are real."""
    xp = namespace(x)
    x = xp.reshape(x, (x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]))
    return x, whole_lengths(x) if lengths is None else lengths


class _Pool(Reduction, Windowed):
    """What MaxPool and AvgPool share, over `rank` axes."""

    derived = frozenset({"dilation"})

    def __init__(
        self,
        pool_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None = None,
        padding: str | int | tuple[int | tuple[int, int], ...] = "valid",
    ) -> None:
        self.pool_size = arguments.integers(self, "pool_size", pool_size, self.rank)
        stride = self.pool_size if stride is None else stride
        self.stride = arguments.integers(self, "stride", stride, self.rank)
        self.dilation = (1,) * self.rank
        self.padding = self._settled_padding(padding)
        for size, pair in zip(self.pool_size, self._windows(self.pool_size).pads, strict=True):
            if max(pair) >= size:
                raise ValueError(
                    f"{arguments.say(self)}: padding {pair} leaves windows of {size} without any "
                    f"element of x; it must be below {size}"
                )

    @property
    def window(self) -> Ints:
        """`pool_size`, for each axis."""
        return self.pool_size

    def forward(
        self, x: NDArray, *, lengths: Any = None, training: bool = False
    ) -> tuple[NDArray, Any]:
        r"""Return y, shape (N, \*Q, C), and the cache of `backward`."""
        return self._forward(x, lengths)

    def _forward(self, x: NDArray, lengths: Any, **options: Any) -> tuple[NDArray, Any]:
        x = arguments.array(self, "x", x)
        lengths = self._checked(x, lengths)
        how = kernels.beside(__name__)
        y, cache = getattr(how, self._function)(x, lengths, **self._sizes(x.shape), **options)
        return y, (y.shape, y.dtype, how, cache)

    def _sizes(self, shape: Shape) -> dict[str, Any]:
        padding = self._windows(shape[1:-1]).pads
        return {"pool_size": self.pool_size, "stride": self.stride, "padding": padding}

    def _live(self, *options: bool) -> Live | None:
        """Return how to plan a call."""
        return Live(by_steps(self._plan))

    def _plan(self, plan: Any, x: int) -> int:
        planner = kernels.beside(__name__).Planner(plan)
        shape = plan.shapes[x]
        self.output_shape(shape)
        y: int = getattr(planner, self._function)(x, None, **self._sizes(shape))[0]
        return y

    def _channels(self, shape: Shape) -> int:
        channels = shape[-1] if shape else 0
        arguments.features(self, shape, channels, self.rank + 2)
        return channels


class _MaxPool(_Pool):
    """The maximum over `rank` axes."""

    _function = "max_pool"

    def _infer(self, x: NDArray, **options: Any) -> NDArray:
        """Return y; the places of maxima are not kept."""
        if options.keys() - {"lengths"} or not kernels.used():
            return super()._infer(x, **options)
        return self._forward(x, options.get("lengths"), keep=False)[0]

    def _forward_with_relu(self, x: NDArray, *, lengths: Any = None) -> tuple[NDArray, Any]:
        """Return y for the ReLU of x, and the cache of `backward` through both."""
        return self._forward(x, lengths, relu=True)


class _AvgPool(_Pool):
    """The mean over `rank` axes."""

    _function = "avg_pool"

    def flops(self, shape: Shape) -> int:
        """Return ∏K for each element of y: an addition for all but one, and a division."""
        return math.prod(self.output_shape(shape)) * math.prod(self.pool_size)


class MaxPool1d(_MaxPool):
    r"""The largest value of each window of a signal or a sequence.

    .. math:: y_{n,t,c} = \max_k x_{n,\,t s + k,\,c}

    Parameters
    ----------
    pool_size, stride, padding
        As of `MaxPool2d`, with one axis; ``"causal"`` padding as of `Conv1d`.

    Notes
    -----
    x has shape (N, T, C); y has shape (N, Q, C). With ``lengths``, padding begins at each
    sequence's own end, as for `Conv1d`: y holds of each sequence what it gives alone.

    Raises
    ------
    ValueError, TypeError
        As `MaxPool2d`; lengths with ``"same"`` padding and a stride above 1.

    Examples
    --------
    >>> import numpy as np
    >>> MaxPool1d(2)(np.array([1.0, 3, 2, 5]).reshape(2, 2, 1), lengths=[2, 1]).ravel()
    array([3., 0.])
    """

    rank = 1


class MaxPool2d(_MaxPool):
    r"""The largest value of each window of an image.

    .. math:: y_{n,p,q,c} = \max_{u,v} x_{n,\,p s + u,\,q s + v,\,c}

    Parameters
    ----------
    pool_size : int or (int, int)
        K, for both axes or for each.
    stride : int, (int, int) or None
        s; None takes `pool_size`, so that the windows lie side by side.
    padding : str, int or tuple
        As of `Conv2d`, below K on each side. Padding is no element of a window: it is never the
        maximum.

    Notes
    -----
    x has shape (N, H, W, C); y has shape (N, P, Q, C), sizes as those of `Conv2d`. The gradient of
    y goes to the first of a window's elements that reach its maximum. NaN in a window gives NaN.
    There are no ``lengths``: an image has no steps.

    Raises
    ------
    ValueError, TypeError
        Options that do not fit together; x of another shape, or smaller than a window.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, *Deep Learning* (2016), sec. 9.3.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0, 2, 0, 4], [5, 3, 4, 4]]).reshape(1, 2, 4, 1)
    >>> layer = MaxPool2d(2)
    >>> y, cache = layer.forward(x)
    >>> y[0, :, :, 0]
    array([[5., 4.]])
    >>> dx, _ = layer.backward(np.ones_like(y), cache)
    >>> dx[0, :, :, 0]
    array([[0., 0., 0., 1.],
           [1., 0., 0., 0.]])
    """

    rank = 2


class MaxPool3d(_MaxPool):
    r"""The largest value of each window of a volume: `MaxPool2d` with an axis more.

    .. math:: y_{n,p,q,r,c} = \max_{u,v,w} x_{n,\,p s + u,\,q s + v,\,r s + w,\,c}

    Parameters
    ----------
    pool_size, stride, padding
        As of `MaxPool2d`, with three axes in the place of two.

    Notes
    -----
    x has shape (N, D, H, W, C); y has shape (N, P, Q, R, C).

    Raises
    ------
    ValueError, TypeError
        As `MaxPool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> MaxPool3d((1, 2, 2))(np.zeros((2, 3, 4, 4, 5))).shape
    (2, 3, 2, 2, 5)
    """

    rank = 3


MAX_POOLS: Final = (MaxPool1d, MaxPool2d, MaxPool3d)
"""The layers that do a ReLU before them, too, where kernels do it."""


class AvgPool1d(_AvgPool):
    r"""The mean of each window of a signal or a sequence.

    .. math:: y_{n,t,c} = \frac{1}{m_{n,t}} \sum_k x_{n,\,t s + k,\,c}

    Parameters
    ----------
    pool_size, stride, padding
        As of `AvgPool2d`, with one axis; ``"causal"`` padding as of `Conv1d`.

    Notes
    -----
    x has shape (N, T, C); y has shape (N, Q, C). With ``lengths``, padding begins at each
    sequence's own end, as for `Conv1d`: y holds of each sequence what it gives alone.

    Raises
    ------
    ValueError, TypeError
        As `AvgPool2d`; lengths with ``"same"`` padding and a stride above 1.

    Examples
    --------
    >>> import numpy as np
    >>> AvgPool1d(3, 1, padding="same")(np.array([1.0, 3, 2, 6]).reshape(1, 4, 1)).ravel()
    array([2.        , 2.        , 3.66666667, 4.        ])
    """

    rank = 1


class AvgPool2d(_AvgPool):
    r"""The mean of each window of an image.

    With m the number of real elements of a window,

    .. math:: y_{n,p,q,c} = \frac{1}{m_{p,q}} \sum_{u,v} x_{n,\,p s + u,\,q s + v,\,c}

    Parameters
    ----------
    pool_size : int or (int, int)
        K, for both axes or for each.
    stride : int, (int, int) or None
        s; None takes `pool_size`, so that the windows lie side by side.
    padding : str, int or tuple
        As of `Conv2d`, below K on each side. Padding is no element of a window: it is not counted
        in m.

    Notes
    -----
    x has shape (N, H, W, C); y has shape (N, P, Q, C), sizes as those of `Conv2d`. There are no
    ``lengths``: an image has no steps.

    Raises
    ------
    ValueError, TypeError
        Options that do not fit together; x of another shape, or smaller than a window.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, *Deep Learning* (2016), sec. 9.3.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0, 2, 0, 4], [5, 4, 4, 4]]).reshape(1, 2, 4, 1)
    >>> AvgPool2d(2)(x)[0, :, :, 0]
    array([[3., 3.]])
    >>> AvgPool2d((1, 3), padding="same")(x)[0, :, :, 0]
    array([[1.5, 2. ],
           [4.5, 4. ]])
    """

    rank = 2


class AvgPool3d(_AvgPool):
    r"""The mean of each window of a volume: `AvgPool2d` with an axis more.

    .. math::
        y_{n,p,q,r,c} = \frac{1}{m_{p,q,r}} \sum_{u,v,w} x_{n,\,p s + u,\,q s + v,\,r s + w,\,c}

    Parameters
    ----------
    pool_size, stride, padding
        As of `AvgPool2d`, with three axes in the place of two.

    Notes
    -----
    x has shape (N, D, H, W, C); y has shape (N, P, Q, R, C).

    Raises
    ------
    ValueError, TypeError
        As `AvgPool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> AvgPool3d((1, 2, 2))(np.zeros((2, 3, 4, 4, 5))).shape
    (2, 3, 2, 2, 5)
    """

    rank = 3


class _GlobalPool(Reduction):
    """What GlobalMaxPool and GlobalAvgPool share."""

    def forward(
        self, x: NDArray, *, lengths: Any = None, training: bool = False
    ) -> tuple[NDArray, Any]:
        """Return y, shape (N, C), and the cache of `backward`."""
        x = arguments.array(self, "x", x)
        self.output_shape(x.shape)
        if x.ndim > 3:
            arguments.no_lengths(self, lengths, f"x has shape {x.shape}, not (N, T, C)")
        how = kernels.beside(__name__)
        y, cache = getattr(how, self._function)(x, arguments.lengths(self, lengths, x))
        return y, (y.shape, y.dtype, how, cache)

    def _live(self, *options: bool) -> Live | None:
        """Return how to plan a call."""
        return Live(by_steps(self._plan))

    def _plan(self, plan: Any, x: int) -> int:
        self.output_shape(plan.shapes[x])
        planner = kernels.beside(__name__).Planner(plan)
        y: int = getattr(planner, self._function)(x, None)[0]
        return y

    def output_shape(self, shape: Shape) -> Shape:
        r"""Return (N, C) for (N, \*S, C)."""
        if len(shape) < 3:
            raise ValueError(
                f"{arguments.say(self)}: x has shape {shape}, expected (N, ..., C) with axes to "
                "reduce between batch and channels"
            )
        return shape[0], shape[-1]

    def output_lengths(self, lengths: NDArray) -> None:
        """Return None: y has no steps."""


class GlobalMaxPool(_GlobalPool):
    r"""The largest value of each channel of a sample.

    .. math:: y_{n,c} = \max_p x_{n,p,c}

    Notes
    -----
    x has shape (N, \*S, C), with any number of axes S, y (N, C). With ``lengths``, x has shape
    (N, T, C). Of nothing, a sequence of length 0 or an axis without elements, the output is 0. The
    gradient goes to the first element that reaches the maximum; NaN gives NaN.

    Raises
    ------
    ValueError
        x has fewer than 3 axes, or more with ``lengths``.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0, 4, 9], [3, 5, 9]]).reshape(2, 3, 1)
    >>> GlobalMaxPool()(x, lengths=[2, 0])
    array([[4.],
           [0.]])
    """

    _function = "global_max"


class GlobalAvgPool(_GlobalPool):
    r"""The mean of each channel of a sample.

    .. math:: y_{n,c} = \frac{1}{m_n} \sum_p x_{n,p,c}

    Notes
    -----
    x has shape (N, \*S, C), with any number of axes S, y (N, C); m is the number of elements of S.
    With ``lengths``, x has shape (N, T, C), and m is the length of the sequence. Of nothing, a
    sequence of length 0 or an axis without elements, the output is 0.

    Raises
    ------
    ValueError
        x has fewer than 3 axes, or more with ``lengths``.

    References
    ----------
    M. Lin, Q. Chen, S. Yan, *Network in Network* (2014), sec. 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0, 4, 9], [3, 5, 9]]).reshape(2, 3, 1)
    >>> GlobalAvgPool()(x, lengths=[2, 0])
    array([[2.5],
           [0. ]])
    """

    _function = "global_avg"

    def flops(self, shape: Shape) -> int:
        """Return 1 for each element of x: an addition for all but one, and a division."""
        return math.prod(shape)
