"""Convolving: what the convolutions and the transposed ones share."""

import math
from abc import abstractmethod
from typing import Any, Self

import numpy.typing as npt

from .. import arguments, initializers
from ..affine import Affine
from ..layer import NDArray, Shape
from ..windowed import Windowed
from ..windows import Ints


class Convolving(Affine, Windowed):
    """A layer with a kernel of weights over `rank` axes."""

    @property
    @abstractmethod
    def _weight(self) -> Shape:
        """The shape of the weight: of the kernel, and two of channels."""

    def _settle(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any, padding: Any,
        dilation: Any, groups: int, bias: bool, init: str, dtype: npt.DTypeLike,
    ) -> None:  # fmt: skip
        """Check the options, and set the attributes."""
        self.in_channels = arguments.integer(self, "in_channels", in_channels)
        self.out_channels = arguments.integer(self, "out_channels", out_channels)
        self.kernel_size = arguments.integers(self, "kernel_size", kernel_size, self.rank)
        self.stride = arguments.integers(self, "stride", stride, self.rank)
        self.padding = self._settled_padding(padding)
        self.dilation = arguments.integers(self, "dilation", dilation, self.rank)
        self.groups = arguments.integer(self, "groups", groups)
        for name, count in (("in_channels", in_channels), ("out_channels", out_channels)):
            if count % groups:
                raise ValueError(
                    f"{arguments.say(self)}: groups must divide {name}; {count} is no multiple "
                    f"of {groups}"
                )
        self.has_bias = arguments.flag(self, "bias", bias)
        self.init = arguments.choice(self, "init", init, initializers.PRESETS)
        self._dtype = arguments.float_dtype(self, dtype).type

    @property
    def _features(self) -> int:
        return self.out_channels

    @property
    def window(self) -> Ints:
        """`kernel_size`, for each axis."""
        return self.kernel_size

    def initialize(self, rng: initializers.RNG = None) -> Self:
        """Draw all parameters anew and return the layer."""
        rng = initializers.generator(rng)
        shape, dtype = self._weight, self.dtype
        taps = math.prod(self.kernel_size)
        fans = taps * shape[-2], taps * shape[-1] // self.groups
        self.params = {"weight": initializers.draw(self.init, shape, *fans, rng, dtype)}
        if self.has_bias:
            self.params["bias"] = initializers.draw_bias(
                self.init, (self.out_channels,), fans[0], rng, dtype
            )
        return self

    def _arrays(self) -> tuple[NDArray, NDArray | None]:
        return arguments.parameters(self, self._weight, self.out_channels)

    def _channels(self, shape: Shape) -> int:
        arguments.features(self, shape, self.in_channels, self.rank + 2)
        return self.out_channels
