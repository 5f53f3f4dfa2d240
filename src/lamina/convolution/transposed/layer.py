"""The classes ConvTranspose1d, ConvTranspose2d and ConvTranspose3d."""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ... import arguments, initializers
from ...kernels import functions, kernel
from ...layer import Fixed, NDArray, Shape
from ...windowed import overflow
from ...windows import Ints, Windows
from ..convolving import Convolving

if TYPE_CHECKING:
    from ...engine.program import Program


class _ConvTranspose(Convolving):
    """A transposed convolution over `rank` axes."""

    paddings = ("valid", "same", "same_lower")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        *,
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int | tuple[int, int], ...] = "valid",
        output_padding: int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        init: str = "glorot_uniform",
        dtype: npt.DTypeLike = np.float32,
        rng: initializers.RNG = None,
    ) -> None:
        self._settle(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, init,
            dtype,
        )  # fmt: skip
        self.output_padding = self._settled_output_padding(output_padding)
        self.initialize(rng)

    def _settled_output_padding(self, output_padding: Any) -> Ints:
        found = arguments.integers(self, "output_padding", output_padding, self.rank, least=0)
        if any(found) and self._keeps_sizes:
            raise ValueError(
                f'{arguments.say(self)}: with padding="{self.padding}" y is the stride times as '
                "large as x; leave output_padding out, or give the padding as an integer or "
                "(before, after)"
            )
        for more, stride, dilation in zip(found, self.stride, self.dilation, strict=True):
            if more >= max(stride, dilation):
                raise ValueError(
                    f"{arguments.say(self)}: output_padding must be less than the stride or the "
                    f"dilation, got {more} with a stride of {stride} and a dilation of {dilation}; "
                    "larger outputs come from larger inputs"
                )
        return found

    @property
    def _weight(self) -> Shape:
        return (*self.kernel_size, self.out_channels // self.groups, self.in_channels)

    # Sizes: x has as many elements as windows of the kernel lie on y

    @property
    def _keeps_sizes(self) -> bool:
        """Whether y is the stride times as large as x, whatever the kernel."""
        return self.padding in ("same", "same_lower")

    @property
    def _more(self) -> Ints:
        """What the last window leaves of each axis of y."""
        if not self._keeps_sizes:
            return self.output_padding
        return tuple(
            max(s - span, 0) for s, span in zip(self.stride, self._windows().spans, strict=True)
        )

    def _windows(self, sizes: Ints = ()) -> Windows:
        """Return the windows on y: the same for all sizes of x, by name from those of one."""
        return super()._windows(self.stride)

    def _outputs(self, sizes: Ints) -> Ints:
        return self._windows().inputs(sizes, self._more)

    def _fit(self, sizes: Ints) -> None:
        """Check that the padding leaves something of each axis, and no more than memory holds."""
        pads, found = self._windows().pads, self._outputs(sizes)
        if refusal := overflow(self._windows(), found):
            raise ValueError(f"{arguments.say(self)}: {refusal}")
        for axis, (size, pair, left) in enumerate(zip(sizes, pads, found, strict=True), start=1):
            if size and left < 1:
                raise ValueError(
                    f"{arguments.say(self)}: padding {pair} on axis {axis} takes away all of the "
                    f"{left + sum(pair)} elements that {size} of x give there; use less padding"
                )

    def _served(self, lengths: Any) -> None:
        """Refuse `lengths` where there are several axes; with one the padding is that of all."""
        if self.rank > 1:
            super()._served(lengths)

    def _checked(self, x: NDArray, lengths: Any) -> NDArray | None:
        found = super()._checked(x, lengths)
        self._fit(x.shape[1:-1])
        return found

    def output_lengths(self, lengths: NDArray) -> NDArray | None:
        """Return how many steps each sequence gives: 0 where the padding leaves none."""
        self._served(lengths)
        outputs = arguments.steps(self, lengths)
        found: NDArray | None = self._windows().input_lengths(outputs, self._more)
        return found

    def flops(self, shape: Shape) -> int:
        r"""Return 2 ∏K O / G for each element of x, and for the bias 1 for each of y."""
        taps = math.prod(self.kernel_size) * self.out_channels // self.groups
        y = math.prod(self.output_shape(shape))
        return 2 * taps * math.prod(shape) + (y if self.has_bias else 0)

    # What it computes

    def _forward(self, x: NDArray, lengths: Any, **options: bool) -> tuple[NDArray, Any]:
        x = arguments.array(self, "x", x, self.dtype)
        lengths = self._checked(x, lengths)
        how = functions(__name__)
        y, cache = how.forward(x, *self._arrays(), lengths, **self._options(), **options)
        return y, (y.shape, how, cache)

    def _options(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "dilation": self.dilation,
            "padding": self._windows().pads,
            "output_padding": self._more,
            "groups": self.groups,
        }

    def _bind_given(
        self, given: Any, program: "Program"
    ) -> Callable[[NDArray], tuple[NDArray, Any]]:
        plan = program.plan
        return partial(given.train, program, given.case(plan.shapes[0], plan.dtype))

    def _fixed(self, relu: bool = False) -> Fixed:
        """Return how the layer computes in an inference model, with a ReLU on top if asked for."""
        weights, dtype = (*self._arrays(), relu, self._factors), self.dtype
        given = kernel(__name__).fixed(*weights, **self._options())

        def call(x: NDArray, *, lengths: Any = None) -> NDArray:
            x = arguments.array(self, "x", x, dtype)
            y: NDArray = given(x, self._checked(x, lengths))
            return y

        return Fixed(call, self.step, partial(self._plan_given, given))


class ConvTranspose1d(_ConvTranspose):
    r"""A transposed convolution over signals and sequences.

    .. math:: y_{n,q,o} = b_o + \sum_{\substack{t,k\\ t s + k d = q + \text{before}}}
        \sum_c x_{n,t,c} W_{k,o,c}

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, output_padding, dilation, groups, bias
        As of `ConvTranspose2d`, with one axis in the place of two.
    padding : str, int or tuple
        As of `ConvTranspose2d`; ``((1, 2),)`` is one before and two after.
    init, dtype, rng
        As of `ConvTranspose2d`.

    Attributes
    ----------
    weight : array, shape (K, O/G, C)
    bias : array, shape (O,), or None

    Notes
    -----
    x has shape (N, T, C); y has shape (N, P, O), with P from T as for `ConvTranspose2d`.

    With ``lengths``, y holds of each sequence what it gives alone: none where it is empty or where
    the padding takes all away.

    Raises
    ------
    ValueError, TypeError
        As `ConvTranspose2d`.

    References
    ----------
    V. Dumoulin, F. Visin, *A guide to convolution arithmetic for deep learning* (2016), ch. 4.

    Examples
    --------
    >>> layer = ConvTranspose1d(1, 1, 3, stride=2, bias=False, dtype=np.float64)
    >>> layer.weight = np.reshape([1, 10, 100], (3, 1, 1))
    >>> layer(np.array([1.0, 2, 3]).reshape(1, 3, 1)).ravel()
    array([  1.,  10., 102.,  20., 203.,  30., 300.])
    """

    rank = 1


class ConvTranspose2d(_ConvTranspose):
    r"""A transposed convolution over images: x is laid out wider, as y, by a small grid of weights.

    Each element of x lays the grid, times it, on y, the stride s apart from that of the next; what
    overlaps adds up. It is the gradient of x that `Conv2d` computes, as a layer, and makes images
    larger where that makes them smaller. With the dilation d and the padding `before`,

    .. math:: y_{n,i,j,o} = b_o
        + \sum_{\substack{p,u\\ p s + u d = i + \text{before}}}
        \sum_{\substack{q,v\\ q s + v d = j + \text{before}}}
        \sum_c x_{n,p,q,c} W_{u,v,o,c}

    Parameters
    ----------
    in_channels, out_channels : int
        C and O, at least 1.
    kernel_size : int or (int, int)
        K, for both axes or for each, as is every option that may be a tuple.
    stride : int or (int, int)
        s: how far apart on y the grids of neighbours lie.
    padding : str, int or tuple
        What is taken away from y, as the convolution back from y to x would pad it:

        - ``"valid"``: nothing;
        - ``"same"``: as much as leaves S s of an axis of S elements, half of it on each side and an
          odd element at the end; where the grids leave gaps, so many zeros at the end;
        - ``"same_lower"``: the same with the odd element at the start;
        - an integer, or one for each axis: so much on both sides;
        - (before, after) pairs, one for each axis: ``((1, 2), (0, 1))``.
    output_padding : int or (int, int)
        How much less is taken away at the end, below the stride or the dilation. Below the stride
        it says which one of the s sizes that a convolution makes the same y has. Not with
        ``"same"``.
    dilation : int or (int, int)
        d: how far apart on y the elements of a grid are.
    groups : int
        G, which divides C and O: the g-th C/G of the inputs go to the g-th O/G of the outputs
        alone.
    bias : bool
        Whether to add b.
    init : str
        The preset that draws the weights, one of `lamina.initializers.PRESETS`, with a fan-in of
        ∏K O/G and a fan-out of ∏K C/G: those of the convolution back, as in PyTorch and Keras.
    dtype : dtype
        float32 or float64.
    rng : int, numpy.random.Generator or None
        Draws the weights; None takes fresh entropy.

    Attributes
    ----------
    weight : array, shape (K, K, O/G, C)
        That of a convolution from O channels to C.
    bias : array, shape (O,), or None

    Notes
    -----
    x has shape (N, H, W, C), channels last; y has shape (N, P, Q, O), with P from H, as Q from W,

    .. math:: P = (H - 1) s + (K - 1) d + 1 - \text{before} - \text{after} + \text{output padding}

    An axis of no elements gives no outputs. There are no ``lengths``: an image has no steps.

    Raises
    ------
    ValueError, TypeError
        An option is out of its range, or two do not fit together; x has another shape or dtype, or
        the padding leaves nothing of y.

    References
    ----------
    V. Dumoulin, F. Visin, *A guide to convolution arithmetic for deep learning* (2016), ch. 4.

    M. D. Zeiler, D. Krishnan, G. W. Taylor, R. Fergus, *Deconvolutional Networks* (2010), sec. 2.

    Examples
    --------
    >>> layer = ConvTranspose2d(1, 1, 2, stride=2, bias=False, dtype=np.float64)
    >>> layer.weight = np.reshape([[1, 2], [3, 4]], (2, 2, 1, 1))
    >>> x = np.array([[1.0, 10], [100, 1000]]).reshape(1, 2, 2, 1)
    >>> y, cache = layer.forward(x, training=True)
    >>> y[0, :, :, 0]
    array([[1.e+00, 2.e+00, 1.e+01, 2.e+01],
           [3.e+00, 4.e+00, 3.e+01, 4.e+01],
           [1.e+02, 2.e+02, 1.e+03, 2.e+03],
           [3.e+02, 4.e+02, 3.e+03, 4.e+03]])
    >>> dx, grads = layer.backward(np.ones_like(y), cache)
    >>> dx[0, :, :, 0]
    array([[10., 10.],
           [10., 10.]])
    """

    rank = 2


class ConvTranspose3d(_ConvTranspose):
    r"""A transposed convolution over volumes: `ConvTranspose2d` with an axis more.

    .. math:: y_{n,q,o} = b_o + \sum_{\substack{p,k\\ p s + k d = q + \text{before}}}
        \sum_c x_{n,p,c} W_{k,o,c}

    with p, q and k of three components each, and arithmetic axis by axis.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, output_padding, dilation, groups, bias
        As of `ConvTranspose2d`, with three axes in the place of two.
    init, dtype, rng
        As of `ConvTranspose2d`.

    Attributes
    ----------
    weight : array, shape (K, K, K, O/G, C)
    bias : array, shape (O,), or None

    Notes
    -----
    x has shape (N, D, H, W, C); y has shape (N, P, Q, R, O), sizes as those of `ConvTranspose2d`.

    Raises
    ------
    ValueError, TypeError
        As `ConvTranspose2d`.

    References
    ----------
    V. Dumoulin, F. Visin, *A guide to convolution arithmetic for deep learning* (2016), ch. 4.

    Examples
    --------
    >>> layer = ConvTranspose3d(8, 1, 3, padding="same", stride=(1, 2, 2), rng=0)
    >>> layer(np.ones((2, 5, 4, 4, 8), np.float32)).shape
    (2, 5, 8, 8, 1)
    """

    rank = 3
