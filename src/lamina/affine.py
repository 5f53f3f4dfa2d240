"""What Linear and the convolutions share: a weight and a bias, the way back, a ReLU on top."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arguments
from .calls import Live, by_steps, has
from .kernels import kernel, used
from .layer import SETTLED, Arrays, Fixed, Layer, NDArray, Parameter, Shape
from .parts.activations import ReLU

if TYPE_CHECKING:
    from .engine.program import Plan, Program


class Affine(Layer):
    """A layer of a weight and a bias, which may take in what stands after it.

    That is a BatchNorm at inference, and a ReLU. Its cache is of three parts: the shape of y, the
    module that computed it and the cache of that.
    """

    settable = SETTLED
    derived = frozenset({"has_bias"})

    weight = Parameter()
    bias = Parameter()

    _factors: NDArray | None = None
    """What an inference model multiplies the weights of each output by, when it packs them."""

    def forward(
        self, x: NDArray, *, lengths: Any = None, training: bool = False
    ) -> tuple[NDArray, Any]:
        """Return y, shape (..., O), and the cache of `backward`."""
        planned = self._planned(x, lengths, training, False)
        return self._forward(x, lengths) if planned is None else planned(x)

    def backward(self, dy: NDArray, cache: Any) -> tuple[NDArray, Arrays]:
        """Return dx, of the shape of x, and the gradients of weight and bias."""
        shape, how, cache = arguments.cached(self, cache, 3)
        dy = arguments.gradient(self, dy, shape, self.dtype)
        found: tuple[NDArray, Arrays] = how.backward(dy, cache)
        return found

    def gradients(self, dy: NDArray, cache: Any) -> Arrays:
        """Return the gradients of weight and bias."""
        shape, how, inner = arguments.cached(self, cache, 3)
        if not hasattr(how, "gradients"):  # a formula
            return self.backward(dy, cache)[1]
        dy = arguments.gradient(self, dy, shape, self.dtype)
        grads: Arrays = how.gradients(dy, inner)
        return grads

    @property
    @abstractmethod
    def _features(self) -> int:
        """How many features y has."""

    @abstractmethod
    def _forward(self, x: NDArray, lengths: Any, **options: bool) -> tuple[NDArray, Any]:
        """Return y and the cache of `backward`."""

    @abstractmethod
    def _arrays(self) -> tuple[NDArray, NDArray | None]:
        """Return weight and bias, checked."""

    def _options(self) -> dict[str, Any]:
        """Return what kernels are told beside arrays, but for what the size of x decides."""
        return {}

    def _fuses(self, after: Layer) -> bool:
        """Return whether `_forward_fused` does the layer after this one, too: a ReLU."""
        return type(after) is ReLU and self._is_own and used()

    def _live(self, *options: bool) -> Live | None:
        """Return how to plan a call with the parameters that are there now.

        Of a pass of training the option is whether a ReLU goes on top.
        """
        if not self._is_own:
            return None
        how, (weight, bias) = kernel(type(self).__module__), self._arrays()
        live = how.live(weight, bias, *options, **self._options())
        if live is None:
            return None
        bind = by_steps(partial(self._plan_given, live))

        def train(shape: Shape, dtype: np.dtype[Any]) -> Callable[[NDArray], tuple[NDArray, Any]]:
            run = self._bind_given(live, bind(shape, dtype))

            def forward(x: NDArray) -> tuple[NDArray, Any]:
                y, cache = run(x)
                return y, (y.shape, how, cache)

            return forward

        return Live(train if options else bind, has(weight, bias))

    def _plan_given(self, given: Any, plan: "Plan", x: int) -> int:
        """Plan y of the array of that number by `live` or `fixed`; return the number of y."""
        plan.check(self.dtype)
        self.output_shape(plan.shapes[x])
        y: int = given.plan(plan, x)
        return y

    @abstractmethod
    def _bind_given(
        self, given: Any, program: "Program"
    ) -> Callable[[NDArray], tuple[NDArray, Any]]:
        """Return a pass of training by `live` and a program of its plan."""

    @abstractmethod
    def _fixed(self, relu: bool = False) -> Fixed:
        """Return how the layer computes in an inference model, with a ReLU on top if asked for."""

    def _forward_fused(
        self, x: NDArray, after: Any, *, lengths: Any = None
    ) -> tuple[NDArray, Any, Any]:
        """Return what the ReLU after this layer makes of y, in training, and the caches of both."""
        planned = self._planned(x, lengths, True, True)
        y, cache = self._forward(x, lengths, relu=True) if planned is None else planned(x)
        return y, cache, after._fused_cache(y)
