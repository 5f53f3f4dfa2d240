"""Windowed: what the layers of convolution and pooling share."""

import math
from abc import abstractmethod
from functools import lru_cache
from typing import Any, ClassVar, Final

from . import arguments
from .layer import SETTLED, Layer, NDArray, Shape
from .windows import NAMES, Ints, Pads, Windows, resolve

SHAPES: Final = 256
"""For how many shapes it is kept how windows lie on them."""
MOST: Final = 2**40
"""Elements between batch and channels: no memory holds more, and with no more nothing overflows."""


class Windowed(Layer):
    r"""A layer whose windows slide over the axes between batch and channels.

    A subclass sets the attributes in its constructor, `padding` by `_settled_padding`; `window` is
    what it calls the size of its windows.

    Attributes
    ----------
    rank : int
        The number of those axes.
    paddings : tuple of str
        The names of paddings, of which several axes do not take ``"causal"``.
    window, stride, dilation : tuple of int
        One for each.
    padding : str or tuple of (before, after)
    padding_mode : str
    """

    settable = SETTLED

    rank: ClassVar[int]
    paddings: ClassVar[tuple[str, ...]] = NAMES
    stride: Ints
    dilation: Ints
    padding: str | Pads
    padding_mode: str = "zeros"

    @property
    @abstractmethod
    def window(self) -> Ints:
        """The size of a window on each axis."""

    @abstractmethod
    def _channels(self, shape: Shape) -> int:
        """Return the channels of y; refuse an x of `shape` that has the wrong number."""

    def _settled_padding(self, padding: Any) -> str | Pads:
        """Return `padding`, if it is one, as a name or as pairs."""
        names = [name for name in self.paddings if self.rank == 1 or name != "causal"]
        if isinstance(padding, str) and padding in names:
            return padding
        listed = padding if isinstance(padding, (tuple, list)) else (padding,) * self.rank
        if isinstance(padding, str) or len(listed) != self.rank:
            raise ValueError(
                f"{arguments.say(self)}: padding must be one of {', '.join(map(repr, names))}, an "
                f"integer, or a tuple of {self.rank} entries, one an axis, each an integer or "
                f"(before, after); got {padding!r}"
            )
        # Each entry is itself an integer for both sides or one for each.
        pairs = [arguments.integers(self, "padding", entry, 2, least=0) for entry in listed]
        return tuple((before, after) for before, after in pairs)

    def _windows(self, sizes: Ints) -> Windows:
        """Return the windows on axes of `sizes`."""
        return _windows(self.window, self.stride, self.dilation, self.padding, sizes)

    def _outputs(self, sizes: Ints) -> Ints:
        """Return the sizes of y between batch and channels, given those of x."""
        return self._windows(sizes).outputs(sizes)

    def _fit(self, sizes: Ints) -> None:
        """Check that windows fit on axes of `sizes`, and that x has what the padding repeats.

        On an axis of no elements there are no windows, and nothing needs to fit.
        """
        refusal = _refusal(self._windows(sizes), self.padding_mode, sizes)
        if refusal:
            raise ValueError(f"{arguments.say(self)}: {refusal}")

    def _served(self, lengths: Any) -> None:
        """Refuse `lengths` where the padding or the axes do not let sequences stand alone."""
        if lengths is None:
            return
        if self.rank > 1:
            arguments.no_lengths(
                self, lengths, f"x has {self.rank} axes between batch and channels, not steps"
            )
        if self.padding in ("same", "same_lower") and self.stride[0] > 1:
            arguments.no_lengths(
                self,
                lengths,
                f'with padding="{self.padding}" and a stride above 1, the padding depends on the '
                "length of each sequence; give it as an integer or (before, after)",
            )
        if self.padding_mode != "zeros":
            arguments.no_lengths(
                self,
                lengths,
                f"{self.padding_mode} padding depends on the end of each sequence; "
                'use padding_mode="zeros"',
            )

    def _checked(self, x: NDArray, lengths: Any) -> NDArray | None:
        """Return `lengths` as an array, having checked the shape of x."""
        self._channels(x.shape)
        self._served(lengths)
        sizes = x.shape[1:-1]
        if lengths is None:
            self._fit(sizes)
        elif refusal := overflow(self._windows(sizes), sizes):  # sequences may be too short
            raise ValueError(f"{arguments.say(self)}: {refusal}")
        return arguments.lengths(self, lengths, x)

    def output_shape(self, shape: Shape) -> Shape:
        r"""Return (N, \*Q, O) for (N, \*S, C)."""
        channels = self._channels(shape)
        sizes = tuple(shape[1:-1])
        self._fit(sizes)
        return (shape[0], *self._outputs(sizes), channels)

    def output_lengths(self, lengths: NDArray) -> NDArray | None:
        """Return how often the windows fit on each sequence: 0 where it is too short."""
        self._served(lengths)
        # Where lengths are served, the padding is the same for every length.
        windows, lengths = self._windows((1,)), arguments.steps(self, lengths)
        found: NDArray | None = windows.output_lengths(lengths)
        return found


@lru_cache(SHAPES)
def _windows(
    window: Ints, stride: Ints, dilation: Ints, padding: str | Pads, sizes: Ints
) -> Windows:
    if isinstance(padding, str):
        padding = resolve(padding, sizes, window, stride, dilation)
    return Windows(window, stride, dilation, padding)


@lru_cache(SHAPES)
def _refusal(windows: Windows, padding_mode: str, sizes: Ints) -> str | None:
    """Return why windows do not fit on axes of `sizes`, or None."""
    if found := overflow(windows, sizes):
        return found
    for axis, (size, span, pair) in enumerate(
        zip(sizes, windows.spans, windows.pads, strict=True), start=1
    ):
        if 0 < size < span - sum(pair):
            return (
                f"the window spans {span} elements, x has {size} on axis {axis}, "
                f"{size + sum(pair)} with padding; use a smaller window or "
                'padding="same"'
            )
        most = {
            "zeros": math.inf,
            "reflect": max(size - 1, 0),
            "replicate": math.inf if size else 0,
            "circular": size,
        }[padding_mode]
        if max(pair) > most:
            return (
                f"padding {pair} on axis {axis} repeats more than x has there: {size} elements "
                f'give at most {most} by padding_mode="{padding_mode}"; use less padding or '
                'padding_mode="zeros"'
            )
    return None


def overflow(windows: Windows, sizes: Ints) -> str | None:
    """Return why windows on axes of `sizes` lead beyond what memory holds, or None."""
    padded = (size + sum(pair) for size, pair in zip(sizes, windows.pads, strict=True))
    if math.prod(padded) <= MOST >= max(windows.stride):
        return None
    return (
        f"stride {windows.stride}, dilation {windows.dilation} and padding {windows.pads} lead "
        f"beyond the {MOST} elements that any memory holds; use smaller ones"
    )
