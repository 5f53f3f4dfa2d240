"""The classes Conv1d, Conv2d and Conv3d."""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .. import arguments, initializers
from ..kernels import functions, kernel
from ..layer import Arrays, Fixed, NDArray, Shape, in_step
from ..windows import MODES, Pads
from . import streaming
from .convolving import Convolving
from .ring import Ring, State

if TYPE_CHECKING:
    from ..engine.program import Plan, Program


class _Conv(Convolving):
    """A convolution over `rank` axes."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        *,
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int | tuple[int, int], ...] = "valid",
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        init: str = "glorot_uniform",
        dtype: npt.DTypeLike = np.float32,
        rng: initializers.RNG = None,
    ) -> None:
        self._settle(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, init,
            dtype,
        )  # fmt: skip
        self.padding_mode = arguments.choice(self, "padding_mode", padding_mode, MODES)
        self.initialize(rng)

    @property
    def _weight(self) -> Shape:
        return (*self.kernel_size, self.in_channels // self.groups, self.out_channels)

    def _forward(self, x: NDArray, lengths: Any, **options: bool) -> tuple[NDArray, Any]:
        x = arguments.array(self, "x", x, self.dtype)
        lengths = self._checked(x, lengths)
        how = functions(__name__)
        y, cache = how.forward(
            x,
            *self._arrays(),
            lengths,
            padding=self._windows(x.shape[1:-1]).pads,
            **self._options(),
            **options,
        )
        return y, (y.shape, how, cache)

    def _options(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "dilation": self.dilation,
            "padding_mode": self.padding_mode,
            "groups": self.groups,
        }

    def _bind_given(
        self, given: Any, program: "Program"
    ) -> Callable[[NDArray], tuple[NDArray, Any]]:
        plan = program.plan
        case = given.case(plan.shapes[0], plan.dtype, self._padding(plan.shapes[0]))
        return partial(given.train, program, case)

    def _fixed(self, relu: bool = False) -> Fixed:
        """Return how the layer computes in an inference model, with a ReLU on top if asked for."""
        weights, dtype = (*self._arrays(), relu, self._factors), self.dtype
        given = kernel(__name__).fixed(*weights, **self._options())

        def call(x: NDArray, *, lengths: Any = None) -> NDArray:
            x = arguments.array(self, "x", x, dtype)
            lengths = self._checked(x, lengths)
            y: NDArray = given(x, lengths, self._windows(x.shape[1:-1]).pads)
            return y

        return Fixed(call, self.step, partial(self._plan_given, given))

    def _plan_given(self, given: Any, plan: "Plan", x: int) -> int:
        plan.check(self.dtype)
        y: int = given.plan(plan, x, self._padding(plan.shapes[x]))
        return y

    def _padding(self, shape: Shape) -> Pads:
        """Check the shape of x, and return its padding."""
        self._channels(shape)
        self._fit(shape[1:-1])
        return self._windows(shape[1:-1]).pads

    def flops(self, shape: Shape) -> int:
        r"""Return 2 ∏K C / G, and 1 for the bias, for each element of y."""
        taps = math.prod(self.kernel_size) * self.in_channels // self.groups
        per_output: int = 2 * taps + self.has_bias
        return math.prod(self.output_shape(shape)) * per_output


class Conv1d(_Conv):
    r"""A convolution over signals and sequences, of any lengths, whole or in parts.

    .. math:: y_{n,t,o} = \sum_{k,c} \tilde x_{n,\,t s + k d,\,c} W_{k,c,o} + b_o

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, dilation, groups, bias, padding_mode
        As of `Conv2d`, with one axis in the place of two.
    padding : str, int or tuple
        As of `Conv2d`; ``((1, 2),)`` is one before and two after. Moreover ``"causal"`` puts
        (K - 1) d elements before x and none after, so that an output depends on no later step.
    init, dtype, rng
        As of `Conv2d`.

    Attributes
    ----------
    weight : array, shape (K, C/G, O)
    bias : array, shape (O,), or None
    stepwise : bool
        Whether the layer may `run` and `step`: with causal padding of zeros and a stride of 1.

    Notes
    -----
    x has shape (N, T, C); y has shape (N, Q, O), with Q as for `Conv2d`.

    With ``lengths``, the zeros of the padding begin at each sequence's own end, and y holds of each
    sequence what it gives alone: none where it is empty or shorter than the kernel. Padding that
    depends on where a sequence ends is refused: ``"same"`` and ``"same_lower"`` with a stride above
    1, and every `padding_mode` but ``"zeros"``.

    The state of `run` and `step` holds the last (K - 1) d inputs, zeros at first, in a ring: a
    tuple of arrays (N, steps, C), its blocks, and of an integer array, the position in it. No state
    is ever written to: a step shares with the one before what it does not replace. With
    ``lengths``, `run` returns the state after each sequence's own last step.

    Raises
    ------
    ValueError, TypeError
        As `Conv2d`; lengths or steps that the padding does not allow.

    References
    ----------
    A. van den Oord et al., *WaveNet: A Generative Model for Raw Audio* (2016), sec. 2.1: causal and
    dilated convolutions.

    Examples
    --------
    >>> layer = Conv1d(1, 1, 3, padding="causal", bias=False, dtype=np.float64)
    >>> layer.weight = np.reshape([1, 10, 100], (3, 1, 1))
    >>> x = np.array([1.0, 2, 3, 4]).reshape(1, 4, 1)
    >>> layer(x).ravel()
    array([100., 210., 321., 432.])
    >>> y, state, cache = layer.run(x[:, :2])
    >>> y.ravel()
    array([100., 210.])
    >>> y_t, state = layer.step(x[:, 2], state)
    >>> y_t
    array([[321.]])
    """

    rank = 1

    @property
    def stepwise(self) -> bool:  # type: ignore[override]
        """Whether the layer may `run` and `step`: with causal zeros and a stride of 1."""
        as_built = (self.padding, self.stride, self.padding_mode) == ("causal", (1,), "zeros")
        return as_built and in_step(type(self))

    @property
    def _ring(self) -> Ring:
        """The form of states."""
        past = (self.kernel_size[0] - 1) * self.dilation[0]
        return Ring(self, past, self.in_channels, self.dtype)

    def initial_state(self, n: int) -> State:
        """Return the state before the first step of `n` sequences: zeros."""
        self._refuse_steps()
        return self._ring.zeros(arguments.integer(self, "n", n, least=0))

    def run(
        self,
        x: NDArray,
        state: Any = None,
        *,
        lengths: Any = None,
        training: bool = False,
        sample_ids: Any = None,
    ) -> tuple[NDArray, State, Any]:
        """Return y, the state after the last step, and the cache of `run_backward`."""
        self._refuse_steps()
        x = arguments.array(self, "x", x, self.dtype)
        lengths = self._checked(x, lengths)
        ring, n = self._ring, len(x)
        past, position = ring.unroll(ring.zeros(n) if state is None else state, n)
        y, after, cache = streaming.run(
            x,
            past,
            *self._arrays(),
            lengths,
            dilation=self.dilation[0],
            groups=self.groups,
            how=functions(__name__),
        )
        end = (position + x.shape[1]) % max(ring.size, 1)
        return y, ring.roll(after, end), (y.shape, position, cache)

    def run_backward(self, dy: NDArray, dstate: Any, cache: Any) -> tuple[NDArray, State, Arrays]:
        """Return dx, the gradient of the state before the first step, and those of parameters.

        `dstate` is the gradient of the state after the last step, in the form of a state; None
        stands for zero.
        """
        shape, position, cache = arguments.cached(self, cache, 3)
        dy = arguments.gradient(self, dy, shape, self.dtype)
        ring, n = self._ring, len(dy)
        dafter, _ = ring.unroll(ring.zeros(n) if dstate is None else dstate, n, "dstate")
        dx, dbefore, grads = streaming.run_backward(dy, dafter, cache)
        return dx, ring.roll(dbefore, position), grads

    def step(self, x_t: NDArray, state: Any) -> tuple[NDArray, State]:
        """Return y at one step, at inference, and the next state; x_t has shape (N, C)."""
        self._refuse_steps()
        z, after = self._window(self._ring, x_t, state)
        y: NDArray = functions(__name__).step(z, *self._arrays(), groups=self.groups)
        return y, after

    def _window(self, ring: Ring, x_t: Any, state: Any) -> tuple[NDArray, State]:
        """Return what the window that ends at x_t meets, shape (N, K, C), and the next state."""
        x_t = arguments.array(self, "x_t", x_t, ring.dtype)
        arguments.features(self, x_t.shape, self.in_channels, 2)
        n = len(x_t)
        delays = range(ring.size, 0, -self.dilation[0])
        before, after = ring.step(ring.zeros(n) if state is None else state, x_t, delays)
        z = np.concatenate([*before, x_t], axis=1)
        return z.reshape(n, self.kernel_size[0], self.in_channels), after

    def _fixed(self, relu: bool = False) -> Fixed:
        """Return how the layer computes in an inference model, with a ReLU on top if asked for."""
        fixed = super()._fixed(relu)
        if not self.stepwise:
            return fixed
        ring = self._ring
        weights = *self._arrays(), relu, self._factors
        run = kernel(__name__).fixed_step(*weights, groups=self.groups)

        def step(x_t: NDArray, state: Any) -> tuple[NDArray, State]:
            z, after = self._window(ring, x_t, state)
            return run(z), after

        return fixed._replace(step=step)

    def _refuse_steps(self) -> None:
        if not self.stepwise:
            raise TypeError(
                f'{arguments.say(self)}: goes step by step with padding="causal", stride=1 and '
                'padding_mode="zeros" alone; use the whole sequence: layer(x)'
            )


class Conv2d(_Conv):
    r"""A convolution over images: a small grid of weights slides over x.

    With the padded x written :math:`\tilde x`, the stride s and the dilation d,

    .. math::
        y_{n,p,q,o} = \sum_{u,v,c} \tilde x_{n,\,p s + u d,\,q s + v d,\,c} W_{u,v,c,o} + b_o

    Parameters
    ----------
    in_channels, out_channels : int
        C and O, at least 1.
    kernel_size : int or (int, int)
        K, for both axes or for each, as is every option that may be a tuple.
    stride : int or (int, int)
        s: how far the kernel moves from one output to the next.
    padding : str, int or tuple
        What stands around x, on an axis of S elements:

        - ``"valid"``: nothing;
        - ``"same"``: as much as gives ⌈S / s⌉ outputs, half of it on each side and an odd element
          at the end (TensorFlow's rule; it depends on S where s > 1);
        - ``"same_lower"``: the same with the odd element at the start;
        - an integer, or one for each axis: so much on both sides;
        - (before, after) pairs, one for each axis: ``((1, 2), (0, 1))``.
    dilation : int or (int, int)
        d: how far apart in x the elements of the kernel are.
    groups : int
        G, which divides C and O: the g-th C/G of the inputs go to the g-th O/G of the outputs
        alone. ``groups=in_channels`` is a depthwise convolution.
    bias : bool
        Whether to add b.
    padding_mode : str
        What the padding holds: ``"zeros"``; ``"reflect"``, x mirrored about its first and last
        element (padding below S); ``"replicate"``, the nearest element of x; ``"circular"``, x
        once more (padding up to S).
    init : str
        The preset that draws the weights, one of `lamina.initializers.PRESETS`, with a fan-in of
        ∏K C/G and a fan-out of ∏K O/G.
    dtype : dtype
        float32 or float64.
    rng : int, numpy.random.Generator or None
        Draws the weights; None takes fresh entropy.

    Attributes
    ----------
    weight : array, shape (K, K, C/G, O)
    bias : array, shape (O,), or None

    Notes
    -----
    x has shape (N, H, W, C), channels last; y has shape (N, P, Q, O), with P from H, as Q from W,

    .. math:: P = \lfloor (\text{before} + H + \text{after} - (K - 1) d - 1) / s \rfloor + 1

    An axis of no elements gives no outputs. There are no ``lengths``: an image has no steps.

    Raises
    ------
    ValueError, TypeError
        An option is out of its range, or two do not fit together; x has another shape or dtype, or
        is smaller than the kernel or than the padding that repeats it.

    References
    ----------
    V. Dumoulin, F. Visin, *A guide to convolution arithmetic for deep learning* (2016), ch. 2 on
    sizes, ch. 4 on the transposed convolution, which is the gradient of x.

    Examples
    --------
    >>> image = np.array(
    ...     [
    ...         [260.745, 261.332, 112.27, 262.351],
    ...         [260.302, 208.802, 139.05, 230.709],
    ...         [261.775, 93.73, 166.118, 122.847],
    ...         [259.56, 232.038, 262.351, 228.937],
    ...     ]
    ... )
    >>> layer = Conv2d(1, 1, 2, bias=False, dtype=np.float64)
    >>> layer.weight = np.reshape([[1, 0], [0, 1]], (2, 2, 1, 1))
    >>> y, cache = layer.forward(image.reshape(1, 4, 4, 1), training=True)
    >>> y[0, :, :, 0]
    array([[469.547, 400.382, 342.979],
           [354.032, 374.92 , 261.897],
           [493.813, 356.081, 395.055]])
    >>> dx, grads = layer.backward(np.ones((1, 3, 3, 1)), cache)
    >>> dx[0, :, :, 0]
    array([[1., 1., 1., 0.],
           [1., 2., 2., 1.],
           [1., 2., 2., 1.],
           [0., 1., 1., 1.]])
    """

    rank = 2


class Conv3d(_Conv):
    r"""A convolution over volumes, or over images in time: `Conv2d` with an axis more.

    .. math::
        y_{n,p,q,r,o} = \sum_{u,v,w,c}
        \tilde x_{n,\,p s + u d,\,q s + v d,\,r s + w d,\,c} W_{u,v,w,c,o} + b_o

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
        As of `Conv2d`, with three axes in the place of two.
    init, dtype, rng
        As of `Conv2d`.

    Attributes
    ----------
    weight : array, shape (K, K, K, C/G, O)
    bias : array, shape (O,), or None

    Notes
    -----
    x has shape (N, D, H, W, C); y has shape (N, P, Q, R, O), sizes as those of `Conv2d`.

    Raises
    ------
    ValueError, TypeError
        As `Conv2d`.

    References
    ----------
    D. Tran, L. Bourdev, R. Fergus, L. Torresani, M. Paluri, *Learning Spatiotemporal Features with
    3D Convolutional Networks* (2015), sec. 3.1.

    Examples
    --------
    >>> layer = Conv3d(1, 8, 3, padding="same", stride=(1, 2, 2), rng=0)
    >>> layer(np.ones((2, 5, 9, 9, 1), np.float32)).shape
    (2, 5, 5, 5, 8)
    """

    rank = 3
