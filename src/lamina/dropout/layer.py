"""The class Dropout."""

import os
import threading
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from .. import arguments, initializers
from ..arguments import say
from ..kernels import functions
from ..layer import Arrays, Check, Layer, NDArray, Parameter, Shape
from . import formula

_counting = threading.RLock()  # a signal's handler may drop, too


def _rate(layer: Layer, value: Any) -> float:
    return arguments.number(layer, "rate", value, 0, 1)


def _always(layer: Layer, value: Any) -> bool:
    return arguments.flag(layer, "always", value)


class Dropout(Layer):
    r"""Units set to 0 at random, so that none can rely on another.

    .. math::
        y_u = s \begin{cases} x_u & \text{if unit } u \text{ is kept} \\ a & \text{if dropped}
        \end{cases} + t

    Units are dropped in training, each with probability p, to a = 0, with t = 0. The factor s makes
    up for them:
    :math:`1 / (1 - p)` in training and 1 at inference ("inverted"), or 1 in training and
    :math:`1 - p` at inference ("classic"): the probability to *keep*, so that inference gives the
    mean of training. (Some texts say "the dropout rate" there, which is right at p = 0.5 alone.)

    "alpha" dropout goes with `SELU`: units are dropped to its least value,
    :math:`a = -\lambda\alpha`, and :math:`s = ((1 - p)(1 + p a^2))^{-1/2}` and
    :math:`t = -s p a` in training bring mean 0 and variance 1 back to y where x had them.

    Parameters
    ----------
    rate : float
        p, the probability to drop a unit, 0 (y = x) to 1 (y = 0).
    mode : str
        ``"inverted"`` or ``"classic"``: whether s stands in training or at inference; or
        ``"alpha"``.
    shared_axes : tuple of int
        Axes of x along which units share their fate; negative ones count from the last. ``(1,)``
        for sequences (N, T, F) drops a feature at all steps (variational dropout); ``(1, 2)`` for
        images drops whole channels (spatial dropout).
    always : bool
        Drop at inference too, for Monte Carlo estimates.
    rng : int, numpy.random.Generator or None
        Draws `key`; None takes fresh entropy. Layers of one seed drop alike.

    Attributes
    ----------
    key : uint32 array, shape (2,)
        The seed of the masks, its low and its high 32 bits.
    calls : int64 array, shape ()
        How many passes have drawn a mask. They are those with ``training=True`` and, with
        `always`, those of inference: the one thing an inference call writes. Threads take numbers
        under a lock, so that no two draw the same mask.

    Notes
    -----
    x and y have one shape, (N, ...), and one dtype, float32 or float64. With ``lengths``, x has
    shape (N, T, ...). Where nothing is dropped or scaled, y may be x itself.

    **The stream, version 1.** A mask depends on `key`, `calls` and names of sample and unit alone:

    - The *unit* is its index, in C order, among those of its sample, over the axes of x without the
      batch axis and the shared axes. So the mask of a sequence's step does not depend on T.
    - The *sample id* is the sample's place in the batch unless ``sample_ids`` gives it, at least 0
      and below :math:`2^{64}`. It is 0 for all samples if axis 0 is shared.
    - The *call* is `calls` before the pass.
    - Philox4x32-10 turns the counter (unit div 4, id mod :math:`2^{32}`, id div :math:`2^{32}`,
      call mod :math:`2^{32}`) and `key` into four 32-bit words; word (unit mod 4) is the draw.
    - The unit is dropped if its draw is below :math:`p \, 2^{32}`, rounded to the nearest integer,
      half to even.

    Masks of this version will not change.

    Raises
    ------
    ValueError, TypeError
        An option is out of its range; x has another dtype; `shared_axes` are not axes of x; a mask
        or sample ids do not fit x.

    References
    ----------
    N. Srivastava et al., *Dropout: A Simple Way to Prevent Neural Networks from Overfitting*
    (2014), sec. 4 (classic) and sec. 10 (inverted). G. Klambauer et al., *Self-Normalizing Neural
    Networks* (2017), sec. 3: alpha. Y. Gal, Z. Ghahramani, *A Theoretically
    Grounded Application of Dropout in Recurrent Neural Networks* (2016), sec. 4: variational.
    J. Salmon et al., *Parallel Random Numbers: As Easy as 1, 2, 3* (2011), sec. 3.3: Philox.

    Examples
    --------
    >>> layer = Dropout(0.5, rng=1)
    >>> x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    >>> y, cache = layer.forward(x, training=True)
    >>> layer.mask(cache)
    array([[ True, False,  True],
           [False,  True,  True]])
    >>> y
    array([[ 2.,  0.,  6.],
           [ 0., 10., 12.]])
    >>> layer.backward(np.ones((2, 3)), cache)[0]
    array([[2., 0., 2.],
           [0., 2., 2.]])
    >>> bool(np.all(layer(x) == x))
    True
    """

    key = Parameter()
    calls = Parameter()

    settable: ClassVar[Mapping[str, Check]] = {"rate": _rate, "always": _always}

    def __init__(
        self,
        rate: float = 0.5,
        *,
        mode: str = "inverted",
        shared_axes: tuple[int, ...] = (),
        always: bool = False,
        rng: initializers.RNG = None,
    ) -> None:
        self.rate = _rate(self, rate)
        self.mode = arguments.choice(self, "mode", mode, ("inverted", "classic", "alpha"))
        if not isinstance(shared_axes, (tuple, list)):
            raise TypeError(
                f"{say(self)}: shared_axes must be a tuple of axes, as (1,), got {shared_axes!r}"
            )
        self.shared_axes = tuple(
            arguments.integer(self, "an axis of shared_axes", axis, least=-64)  # NumPy has no more
            for axis in shared_axes
        )
        self.always = _always(self, always)
        self.initialize(rng)

    @property
    def stepwise(self) -> bool:  # type: ignore[override]
        """Whether the layer may `step`: not if it drops at inference."""
        return not self.always

    def _refuse_steps(self) -> None:
        if self.always:
            raise TypeError(
                f"{say(self)}: cannot go step by step, since the mask of a step depends on its "
                "place in the sequence; use the whole sequence, layer(x), or always=False"
            )

    def initialize(self, rng: initializers.RNG = None) -> Self:
        """Draw the key anew, reset the count of calls, and return the layer."""
        rng = initializers.generator(rng)
        self.buffers = {
            "key": rng.integers(2**32, size=2, dtype=np.uint32),
            "calls": np.zeros((), np.int64),
        }
        return self

    def forward(
        self,
        x: NDArray,
        *,
        lengths: Any = None,
        training: bool = False,
        mask: Any = None,
        sample_ids: Any = None,
    ) -> tuple[NDArray, Any]:
        """Return y, of the shape of x, and the cache of `backward`.

        Parameters
        ----------
        x : array, shape (N, ...)
        lengths : integer array, shape (N,), optional
        training : bool
            Whether to drop; with `always` that is done in any case.
        mask : boolean array, broadcast to the shape of x, optional
            Keep the units where it is true: nothing is drawn, and `calls` stays.
        sample_ids : integer array, shape (N,), optional
            The samples' names in the stream, so that a sample is dealt with alike in any batch.
        """
        return self._forward(x, lengths, training, mask, sample_ids)

    def _forward_with_relu(
        self, x: NDArray, *, lengths: Any = None, sample_ids: Any = None
    ) -> tuple[NDArray, Any]:
        """Return y for the ReLU of x, in training, and the cache of `backward` through both."""
        return self._forward(x, lengths, True, None, sample_ids, relu=True)

    def _forward(
        self,
        x: NDArray,
        lengths: Any,
        training: bool,
        mask: Any,
        sample_ids: Any,
        **options: bool,
    ) -> tuple[NDArray, Any]:
        x = arguments.array(self, "x", x)
        lengths = arguments.lengths(self, lengths, x)
        sample_ids = self._checked_ids(sample_ids, x)
        keep: Any = None
        if mask is not None:
            keep = self._checked_mask(mask, x, training)
        elif training or self.always:
            keep = self._draw(x, sample_ids)
        how = functions(__name__)
        y, cache = how.forward(x, keep, self.rate, self.mode, lengths, **options)
        return y, (y.shape, y.dtype, how, cache)

    def backward(self, dy: NDArray, cache: Any) -> tuple[NDArray, Arrays]:
        """Return dx, of the shape of x, and no gradients: there are no parameters."""
        shape, dtype, how, cache = arguments.cached(self, cache, 4)
        dy = arguments.gradient(self, dy, shape, dtype)
        found: tuple[NDArray, Arrays] = how.backward(dy, cache)
        return found

    def mask(self, cache: Any) -> NDArray | None:
        """Return the mask of the pass with that cache, true where a unit was kept.

        It broadcasts to the shape of x, with 1 in the shared axes; None if nothing was dropped.
        Given to another pass, it drops the same units.
        """
        *_, how, cache = arguments.cached(self, cache, 4)
        keep: NDArray | None = how.mask(cache.keep)
        return keep

    def _draw(self, x: NDArray, sample_ids: NDArray | None) -> formula.Draw:
        if x.ndim < 1:
            raise ValueError(f"{say(self)}: x has no axes, expected (N, ...), batch first")
        for axis in self.shared_axes:
            if not -x.ndim <= axis < x.ndim:
                raise ValueError(
                    f"{say(self)}: shared axis {axis} is not an axis of x (shape {x.shape}), "
                    f"whose axes are {-x.ndim} ... {x.ndim - 1}"
                )
        with _counting:
            call = int(self.calls)
            self.buffers["calls"][...] = call + 1
        key = self.key.copy()  # the layer's may be drawn anew before the backward pass
        return formula.Draw(x.shape, self.rate, key, call, self.shared_axes, sample_ids)

    def _checked_mask(self, mask: Any, x: NDArray, training: bool) -> NDArray:
        found = arguments.as_array(self, "mask", mask)
        if not (training or self.always):
            raise ValueError(
                f"{say(self)}: mask= is for a pass that drops, and inference does not; "
                "pass training=True, or build the layer with always=True"
            )
        if found.dtype != np.bool:
            raise TypeError(
                f"{say(self)}: mask must be boolean, true where a unit is kept, "
                f"got dtype {found.dtype}"
            )
        sizes = zip(reversed(found.shape), reversed(x.shape), strict=False)
        if found.ndim > x.ndim or any(size not in (1, whole) for size, whole in sizes):
            raise ValueError(
                f"{say(self)}: mask has shape {found.shape}, which does not broadcast to that of "
                f"x, {x.shape}"
            )
        if self.rate == 1 and self.mode != "classic" and found.any():
            raise ValueError(
                f"{say(self)}: mask keeps units, but at rate 1 none is kept, and their factor has "
                "no value"
            )
        return found

    def _checked_ids(self, sample_ids: Any, x: NDArray) -> NDArray | None:
        if sample_ids is None:
            return None
        found = arguments.as_array(self, "sample_ids", sample_ids)
        if found.shape != x.shape[:1]:
            raise ValueError(
                f"{say(self)}: sample_ids has shape {found.shape}, expected {x.shape[:1]}, "
                f"one id a sample of x (shape {x.shape})"
            )
        if found.size and found.dtype.kind not in "iu":
            raise TypeError(f"{say(self)}: sample_ids must be integers, got dtype {found.dtype}")
        if found.size and found.min() < 0:
            raise ValueError(f"{say(self)}: sample_ids must be at least 0, got {found.min()}")
        return found

    def output_shape(self, shape: Shape) -> Shape:
        """Return `shape`."""
        return shape


def _after_fork() -> None:
    global _counting
    _counting = threading.RLock()  # who held it did not come along


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
