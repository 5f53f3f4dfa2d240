"""The class BatchNorm."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from .. import arguments, initializers
from ..arguments import say
from ..calls import Live, has_all
from ..kernels import functions, kernel, used
from ..layer import Arrays, Check, Fused, Layer, NDArray, Parameter, Shape
from ..parts.activations import ReLU
from . import formula


def _eps(layer: Layer, value: Any) -> float:
    # Any less would be 0 in float32, and a constant channel 0 / 0.
    return arguments.number(layer, "eps", value, low=float(np.finfo(np.float32).tiny))


def _momentum(layer: Layer, value: Any) -> float | None:
    if value is None:
        return None
    momentum = arguments.number(layer, "momentum", value, 0, 1)
    if momentum < 0.5:
        warnings.warn(
            f"{say(layer)}: momentum is the share of the old running value that is kept; "
            f"PyTorch's momentum is 1 - ours, so its {momentum:g} is "
            f"momentum={1 - momentum:g} here",
            stacklevel=3,
        )
    return momentum


def _frozen(layer: "BatchNorm", value: Any) -> bool:
    frozen = arguments.flag(layer, "frozen", value)
    if frozen and not layer.running:
        raise ValueError(
            f"{say(layer)}: frozen=True uses running values, and running=False keeps none; "
            "leave one of them out"
        )
    return frozen


def _update(layer: Layer, value: Any) -> bool:
    return arguments.flag(layer, "update", value)


class BatchNorm(Layer):
    r"""Every channel at mean 0 and deviation 1 over the batch, then scaled and shifted.

    .. math::
        \hat x_{n,c} = \frac{x_{n,c} - \mu_c}{\sqrt{\sigma^2_c + \varepsilon}}, \qquad
        y_{n,c} = \gamma_c \hat x_{n,c} + \beta_c

    In training, :math:`\mu` and :math:`\sigma^2` are the mean and the variance of the batch, over
    all axes of x but the last, and running values follow them with the momentum a,

    .. math::
        \mu^{run} \leftarrow a \mu^{run} + (1 - a) \mu, \qquad
        \sigma^{2,run} \leftarrow a \sigma^{2,run} + (1 - a) \tfrac{M}{M - 1} \sigma^2

    for M values a channel. At inference the running values take their place.

    Parameters
    ----------
    features : int
        C, at least 1.
    eps : float
        :math:`\varepsilon`, above 0.
    momentum : float or None
        a, 0 to 1: the share of the *old* running value that is kept, as in Keras, ONNX and the
        literature. PyTorch's momentum is 1 - a. None makes the running values the mean over all
        batches so far.
    gamma, beta : bool
        Whether to scale by :math:`\gamma` and to shift by :math:`\beta`.
    running : bool
        Whether to keep running values; without, the batch's own are used at inference too.
    unbiased : bool
        Whether the running variance is the unbiased one, as PyTorch's; Keras and ONNX keep the
        biased one, without the factor M / (M - 1). The batch is normalised by the biased one
        always.
    frozen : bool
        Use the running values and keep them as they are, in training too.
    update : bool
        False keeps the running values as they are, though training uses the batch's own.
    init : str
        The preset that draws gamma, one of `lamina.initializers.PRESETS`, as for one input and one
        output; ``"torch"`` is ones here, as in ``torch.nn``. beta starts at 0.
    dtype : dtype
        float32 or float64.
    rng : int, numpy.random.Generator or None
        Draws gamma, where `init` is random; None takes fresh entropy.

    Attributes
    ----------
    gamma, beta : array, shape (C,), or None
    running_mean, running_var : array, shape (C,), or None
        0 and 1 at first. A pass with ``training=True`` writes into them.
    batches : int64 array, shape (), or None
        How many batches the running values have seen.

    Notes
    -----
    x and y have shape (..., C), any number of leading axes. With ``lengths``, x has shape
    (N, T, ..., C) and padding counts for nothing.

    **A batch in parts.** Where a batch is too large for one pass, or lies on several machines, its
    parts have the statistics of the whole, and gradients that are exact::

        found = [layer.stats(x) for x in parts]
        stats = formula.merge(found)                    # found[0] + found[1] + ...
        passes = [layer.forward(x, stats=stats, training=True) for x in parts]
        sums = formula.merge([layer.sums(dy, cache) for dy, (_, cache) in zip(dys, passes)])
        back = [layer.backward(dy, cache, sums=sums) for dy, (_, cache) in zip(dys, passes)]

    `merge` adds in a binary tree by index: the same parts give one answer wherever each was
    computed. Running values follow `stats` in none of these passes: `follow(stats)` once lets them.

    Raises
    ------
    ValueError, TypeError
        An option is out of its range, or `frozen` goes without running values; x has another
        number of features or another dtype; a training batch has fewer than 2 values a channel,
        whose variance says nothing; it would change running values that are read-only.

    Warns
    -----
    UserWarning
        `momentum` is below 0.5, which looks like PyTorch's.

    References
    ----------
    S. Ioffe, C. Szegedy, *Batch Normalization: Accelerating Deep Network Training by Reducing
    Internal Covariate Shift* (2015), sec. 3: algorithm 1 and the gradients; sec. 3.1: inference.

    Examples
    --------
    >>> layer = BatchNorm(2, eps=1e-8, dtype=np.float64)
    >>> x = np.array([[1.0, 10.0], [3.0, 50.0]])
    >>> y, cache = layer.forward(x, training=True)
    >>> y.round(6)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> layer.running_mean, layer.running_var
    (array([0.2, 3. ]), array([ 1.1, 80.9]))
    >>> dx, grads = layer.backward(np.array([[1.0, 0.0], [0.0, 2.0]]), cache)
    >>> grads["gamma"].round(6), grads["beta"]
    (array([-1.,  2.]), array([1., 2.]))
    """

    gamma = Parameter()
    beta = Parameter()
    running_mean = Parameter()
    running_var = Parameter()
    batches = Parameter()

    settable: ClassVar[Mapping[str, Check]] = {
        "eps": _eps,
        "momentum": _momentum,
        "frozen": _frozen,
        "update": _update,
    }
    derived = frozenset({"has_gamma", "has_beta"})

    def __init__(
        self,
        features: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.9,
        gamma: bool = True,
        beta: bool = True,
        running: bool = True,
        unbiased: bool = True,
        frozen: bool = False,
        update: bool = True,
        init: str = "ones",
        dtype: npt.DTypeLike = np.float32,
        rng: initializers.RNG = None,
    ) -> None:
        self.features = arguments.integer(self, "features", features)
        self.eps = _eps(self, eps)
        self.momentum = _momentum(self, momentum)
        self.has_gamma = arguments.flag(self, "gamma", gamma)
        self.has_beta = arguments.flag(self, "beta", beta)
        self.running = arguments.flag(self, "running", running)
        self.unbiased = arguments.flag(self, "unbiased", unbiased)
        self.frozen = _frozen(self, frozen)
        self.update = _update(self, update)
        self.init = arguments.choice(self, "init", init, initializers.PRESETS)
        self._dtype = arguments.float_dtype(self, dtype).type
        self.initialize(rng)

    @property
    def stepwise(self) -> bool:  # type: ignore[override]
        """Whether the layer may `step`: with running values, no step depends on another."""
        return self.running

    def initialize(self, rng: initializers.RNG = None) -> Self:
        """Draw gamma anew, reset beta and the running values, and return the layer."""
        rng = initializers.generator(rng)
        shape, dtype = (self.features,), self.dtype
        self.params, self.buffers = {}, {}
        if self.has_gamma:
            preset = "ones" if self.init == "torch" else self.init
            self.params["gamma"] = initializers.draw(preset, shape, 1, 1, rng, dtype)
        if self.has_beta:
            self.params["beta"] = np.zeros(shape, dtype)
        if self.running:
            self.buffers = {
                "running_mean": np.zeros(shape, dtype),
                "running_var": np.ones(shape, dtype),
                "batches": np.zeros((), np.int64),
            }
        return self

    def stats(self, x: NDArray, *, lengths: Any = None) -> formula.Statistics:
        """Return the statistics of x, a batch or a part of one; those of parts add."""
        x = arguments.array(self, "x", x, self.dtype)
        arguments.features(self, x.shape, self.features)
        lengths = arguments.lengths(self, lengths, x)
        found: formula.Statistics = functions(__name__).stats(x, lengths)
        return found

    def forward(
        self,
        x: NDArray,
        *,
        lengths: Any = None,
        training: bool = False,
        stats: formula.Statistics | None = None,
    ) -> tuple[NDArray, Any]:
        """Return y, of the shape of x, and the cache of `backward`.

        Parameters
        ----------
        x : array, shape (..., C)
        lengths : integer array, shape (N,), optional
        training : bool
        stats : Statistics, optional
            Those of the batch that x is a part of, from `stats`; needs ``training=True``. Running
            values stay as they are: `follow(stats)` lets them follow.
        """
        return self._forward(x, lengths, training, stats)

    def _fuses(self, after: Layer) -> bool:
        """Return whether `_forward_fused` does the layer after this one, too: a ReLU."""
        return type(after) is ReLU and type(self) is BatchNorm and not self.frozen and used()

    def _forward_fused(
        self, x: NDArray, after: Layer, *, lengths: Any = None
    ) -> tuple[NDArray, Any, Any]:
        """Return what the ReLU after this layer makes of y, in training, and a cache for both."""
        return (*self._forward(x, lengths, True, None, relu=True), Fused)

    def _forward(
        self,
        x: NDArray,
        lengths: Any,
        training: bool,
        stats: formula.Statistics | None,
        **options: bool,
    ) -> tuple[NDArray, Any]:
        of_batch = training and not self.frozen
        follows = of_batch and stats is None and self.running and self.update
        if follows:
            self._check_writeable()
        if of_batch and stats is None:
            planned = self._planned(x, lengths, True, options.get("relu", False))
            if planned is not None:
                y, cache = planned(x)
                if follows:
                    self._count()  # the running values have followed
                return y, (y.shape, kernel(__name__), cache)
        dtype = self.dtype
        self._check_arrays(dtype)
        x = arguments.array(self, "x", x, dtype)
        arguments.features(self, x.shape, self.features)
        lengths = arguments.lengths(self, lengths, x)
        if stats is not None:
            self._check_stats(stats, training)
        elif of_batch:
            self._check_count(x, lengths)
        mean = var = None
        if not of_batch:
            mean, var = self.running_mean, self.running_var
        running = self._running() if follows else None
        gamma, beta, how = self._params.get("gamma"), self._params.get("beta"), functions(__name__)
        given = x, gamma, beta, mean, var, self.eps, lengths, stats, running
        y, cache = how.forward(*given, **options)
        if running is not None:
            self._follow(running, *cache.running)
        return y, (y.shape, how, cache)

    def _live(self, *options: bool) -> Live | None:
        """Return how to plan a pass of training, whose option is whether a ReLU goes on top."""
        if type(self) is not BatchNorm or not options:
            return None
        self._check_arrays(self.dtype)
        running = self._running() if self.running and self.update else None
        given = self._params.get("gamma"), self._params.get("beta"), self.eps, running

        def bind(shape: Shape, dtype: np.dtype[Any]) -> Any:
            x = arguments.array(self, "x", np.broadcast_to(np.zeros((), dtype), shape), self.dtype)
            arguments.features(self, x.shape, self.features)
            self._check_count(x, None)
            return kernel(__name__).bind(shape, dtype, *given, *options)

        return Live(bind, has_all(self))

    def follow(self, stats: formula.Statistics) -> None:
        """Let the running values follow the statistics of a batch that came in parts.

        With ``update=False`` or ``running=False`` nothing happens; a frozen layer refuses them.
        """
        self._check_stats(stats, training=True)
        if self.running and self.update:
            self._check_writeable()
            running = self._running()
            self._follow(running, *formula.update(running, stats.mean, stats.var, stats.count))

    def sums(self, dy: NDArray, cache: Any) -> formula.Sums:
        """Return the sums over dy that the gradient of a part needs of all parts; they add."""
        shape, how, cache = arguments.cached(self, cache, 3)
        dy = arguments.gradient(self, dy, shape, self.dtype)
        found: formula.Sums = how.sums(dy, cache)
        return found

    def backward(
        self, dy: NDArray, cache: Any, *, sums: formula.Sums | None = None
    ) -> tuple[NDArray, Arrays]:
        """Return dx, of the shape of x, and the gradients of gamma and beta.

        Parameters
        ----------
        dy : array, of the shape of y
        cache : as `forward` returned it
        sums : Sums, optional
            Those of all parts of the batch, from `sums`. The gradients of gamma and beta are those
            of this part all the same: they add, as those of other layers do.
        """
        shape, how, cache = arguments.cached(self, cache, 3)
        dy = arguments.gradient(self, dy, shape, self.dtype)
        if sums is not None:
            self._check_found("sums", sums, formula.Sums, ("beta", "gamma"))
        found: tuple[NDArray, Arrays] = how.backward(dy, cache, sums)
        return found

    def _check_arrays(self, dtype: np.dtype[Any] | None) -> None:
        shape = (self.features,)
        for name, needed in (
            ("gamma", self.has_gamma),
            ("beta", self.has_beta),
            ("running_mean", self.running),
            ("running_var", self.running),
        ):
            a = getattr(self, name)
            wrong = needed if a is None else a.shape != shape or a.dtype is not dtype
            if wrong:
                arguments.parameter(self, name, a, shape)

    def _check_count(self, x: NDArray, lengths: NDArray | None) -> None:
        count = x.size // self.features if lengths is None else int(formula.count(x, lengths))
        real = "" if lengths is None else " without its padding"
        self._refuse_few(count, f"x (shape {x.shape}){real}")

    def _refuse_few(self, count: int, batch: str) -> None:
        if count < 2:
            raise ValueError(
                f"{say(self)}: a training batch needs 2 values a channel or more, for a variance; "
                f"{batch} has {count}; take a larger batch (drop the last one if it is smaller), "
                "or train on the running values: frozen=True"
            )

    def _check_writeable(self) -> None:
        for name, a in self._buffers.items():
            if not a.flags.writeable:
                raise ValueError(
                    f"{say(self)}: {name} is read-only, and training writes into it; put a copy "
                    f"in its place, layer.buffers[{name!r}] = layer.{name}.copy(), or keep it as "
                    "it is: update=False"
                )

    def _check_stats(self, stats: formula.Statistics, training: bool) -> None:
        if self.frozen or not training:
            raise ValueError(
                f"{say(self)}: stats are those of a training batch; pass training=True, on a "
                "layer that is not frozen"
            )
        self._check_found("stats", stats, formula.Statistics, ("mean", "rest", "squares"))
        self._refuse_few(stats.count, "the batch of these stats")

    def _check_found(self, name: str, found: Any, kind: type, arrays: tuple[str, ...]) -> None:
        if not isinstance(found, kind):
            raise TypeError(
                f"{say(self)}: {name} must be what the method `{name}` gives, got "
                f"{type(found).__name__}"
            )
        for part in arrays:
            a = np.asarray(getattr(found, part))
            if a.shape != (self.features,) or a.dtype != self.dtype:
                raise ValueError(
                    f"{say(self)}: {name}.{part} has shape {a.shape} and dtype {a.dtype}, expected "
                    f"{(self.features,)} and {self.dtype}, as this layer's own `{name}` gives it"
                )

    def _running(self) -> formula.Running:
        """Return the running values, and how they follow the next batch."""
        arrays, options = self._buffers, (self.momentum, self.unbiased)
        found = arrays["running_mean"], arrays["running_var"], arrays["batches"]
        return formula.Running(*found, *options)

    def _follow(self, running: formula.Running, mean: NDArray, var: NDArray) -> None:
        """Let the running values be those after one batch more."""
        running.mean[...], running.var[...] = mean, var
        self._count()

    def _count(self) -> None:
        """Count a batch that the running values have seen."""
        batches = self._buffers["batches"]
        batches[...] = int(batches) + 1  # += takes longer of an array of no axes

    def output_shape(self, shape: Shape) -> Shape:
        """Return `shape`."""
        arguments.features(self, shape, self.features)
        return shape

    def flops(self, shape: Shape) -> int:
        """Return 2 for each value of x, and 1 each for gamma and beta: the cost at inference."""
        return math.prod(self.output_shape(shape)) * (2 + self.has_gamma + self.has_beta)
