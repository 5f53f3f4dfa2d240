"""What Linear and the convolutions share: a weight and a bias, the way back, a ReLU on top."""

from abc import abstractmethod
from typing import Any

from . import arguments
from .layer import SETTLED, Arrays, Fixed, Layer, NDArray, Parameter


class Weighted(Layer):
    """A layer of a weight and a bias, whose cache is of three parts.

    These are the shape of y, the module that computed it and the cache of that.
    """

    settable = SETTLED
    derived = frozenset({"has_bias"})

    weight = Parameter()
    bias = Parameter()

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


class Affine(Weighted):
    """One that may take in what stands after it: a BatchNorm at inference, a ReLU."""

    _factors: NDArray | None = None
    """What an inference model multiplies the weights of each output by, when it packs them."""

    @abstractmethod
    def _forward(self, x: NDArray, lengths: Any, **options: bool) -> tuple[NDArray, Any]:
        """Return y and the cache of `backward`."""

    @abstractmethod
    def _fixed(self, relu: bool = False) -> Fixed:
        """Return how the layer computes in an inference model, with a ReLU on top if asked for."""

    def _forward_fused(
        self, x: NDArray, after: Any, *, lengths: Any = None
    ) -> tuple[NDArray, Any, Any]:
        """Return what the ReLU after this layer makes of y, in training, and the caches of both."""
        y, cache = self._forward(x, lengths, relu=True)
        return y, cache, after._fused_cache(y)
