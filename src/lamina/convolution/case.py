"""What the plans of a convolution follow from: shapes, options, and which kernels serve it."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..engine.cached import cached_property
from ..engine.taps import serves
from ..engine.threads import count as count_threads
from ..windows import Ints, Windows
from . import narrow, winograd
from .direct import PLANS


@dataclass(frozen=True, eq=False)
class Case:
    """The shapes and options that plans follow from; the same object for the same, by `case_of`."""

    x: Ints
    weight: Ints
    windows: Windows
    padding_mode: str
    groups: int
    dtype: np.dtype[Any]
    threads: int

    def now(self) -> "Case":
        """Return the case for as many threads as there are now."""
        threads = count_threads()
        if threads == self.threads:
            return self
        options = self.windows, self.padding_mode, self.groups, self.dtype
        return case_of(self.x, self.weight, *options, threads)

    @cached_property
    def y(self) -> Ints:
        r"""The shape of y: N, \*Q, O."""
        return (self.x[0], *self.windows.outputs(self.x[1:-1]), self.weight[-1])

    @property
    def matrix(self) -> tuple[int, int]:
        """The shape of the weight as a matrix: an output a column."""
        *taps, o = self.weight
        return math.prod(taps), o

    @cached_property
    def is_product(self) -> bool:
        """Whether the convolution is a product of matrices.

        It is with one tap that meets each position once, or with one window that is all of x.
        """
        windows = self.windows
        each_position = {*windows.size, *windows.stride} == {1}
        all_of_x = windows.size == self.x[1:-1] and set(windows.dilation) == {1}
        one = each_position or all_of_x
        return one and self.groups == 1 and not any(map(any, windows.pads))

    @cached_property
    def repeats(self) -> bool:
        """Whether padding repeats x, which is padded sample by sample then to go back."""
        return self.padding_mode != "zeros" and not (self.is_product or self.is_depthwise)

    @cached_property
    def goes_back_at_once(self) -> bool:
        """Whether all of the way back is planned as one call."""
        return not (self.repeats or 0 in self.x or 0 in self.y)

    @cached_property
    def is_depthwise(self) -> bool:
        """Whether its groups are of so few channels that lanes are channels of many."""
        (*_, c, o), groups = self.weight, self.groups
        return groups > 1 and serves(c, o // groups, self.dtype)

    @cached_property
    def is_winograd(self) -> bool:
        """Whether Winograd's products serve it."""
        zeros = self.padding_mode == "zeros"
        return zeros and winograd.fits(self.volumes[1], self.groups, *self.moves[:2])

    @cached_property
    def has_narrow_dx(self) -> bool:
        """Whether lanes are terms of the sums of dX, which have an order of their own then."""
        return self.groups == 1 and narrow.fits(self.volumes[1], *self.moves, self.dtype)

    @property
    def has_product_dx(self) -> bool:
        """Whether dX is a product of matrices, too."""
        return self.is_product and not self.has_narrow_dx

    @cached_property
    def volumes(self) -> tuple[Ints, Ints, Ints]:
        """The shapes of x, the weight and y with three axes between those of batch and channels."""
        (n, *sizes), (_, *outputs), one = self.x, self.y, (1,) * (5 - len(self.x))
        return (n, *one, *sizes), one + self.weight, (n, *one, *outputs)

    @cached_property
    def moves(self) -> tuple[Ints, Ints, Ints]:
        """Stride, dilation and what zeros pad before, on three axes."""
        windows, one = self.windows, (1,) * (5 - len(self.x))
        before = tuple(pad[0] for pad in windows.pads)
        return one + windows.stride, one + windows.dilation, (0,) * len(one) + before


case_of = lru_cache(2 * PLANS)(Case)
