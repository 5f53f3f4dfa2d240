r"""What convolution and pooling share: windows that slide over the axes between batch and channels.

An array of windows has shape (N, \*S, C). On an axis of S elements, padded by (before, after), a
window of K elements, d apart, moves by the stride s. It spans (K - 1) d + 1 elements, and fits

    Q = ⌊(before + S + after - (K - 1) d - 1) / s⌋ + 1                          (1)

times, or not at all where it spans more than there is or where S = 0: of nothing comes nothing.
Output p meets, with element k of the window, element p s + k d of the padded axis.

The other way round, Q windows fit on axes of

    S = (Q - 1) s + (K - 1) d + 1 - before - after + more                       (2)

elements, where `more`, 0 ... s - 1, is what of them the last window leaves; on none where Q = 0.
With more than that, one window more would fit, unless less padding makes up for it.

What the padding holds, by mode, around the elements 0 ... S - 1:

    zeros        ... 0  0 | 0  1 ... S-1 | 0    0   ...
    reflect      ... 2  1 | 0  1 ... S-1 | S-2  S-3 ...
    replicate    ... 0  0 | 0  1 ... S-1 | S-1  S-1 ...
    circular     ... S-2 S-1 | 0  1 ... S-1 | 0  1  ...
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from array_api_compat import device

from .arrays import Array, namespace

Ints: TypeAlias = tuple[int, ...]
Pads: TypeAlias = tuple[tuple[int, int], ...]
"""(before, after) for each axis between batch and channels."""

NAMES: Final = ("valid", "same", "same_lower", "causal")
"""Paddings by name; ``"causal"`` is for one axis."""
MODES: Final = ("zeros", "reflect", "replicate", "circular")


@dataclass(frozen=True)
class Windows:
    """Windows of one shape, on the padded axes between batch and channels.

    Attributes
    ----------
    size, stride, dilation : tuple of int
        K, s and d of each axis.
    pads : tuple of (before, after)

    Examples
    --------
    >>> windows = Windows((3, 3), (2, 1), (1, 2), ((1, 1), (0, 0)))
    >>> windows.spans
    (3, 5)
    >>> windows.outputs((8, 8))
    (4, 4)
    """

    size: Ints
    stride: Ints
    dilation: Ints
    pads: Pads

    @property
    def spans(self) -> Ints:
        """How many elements a window reaches over, from its first to its last."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.size, self.dilation, strict=True))

    @property
    def taps(self) -> Iterator[Ints]:
        """The places of the elements in a window, the last axis fastest."""
        return itertools.product(*map(range, self.size))

    def outputs(self, sizes: Ints) -> Ints:
        """Return how often the windows fit on axes of `sizes`."""
        axes = zip(sizes, self.spans, self.stride, self.pads, strict=True)
        return tuple(
            max((size + sum(pair) - span) // s + 1, 0) if size else 0  # (1)
            for size, span, s, pair in axes
        )

    def fits(self, padded: Array) -> Ints:
        r"""Return how often the windows fit on the axes \*P of the padded x, shape (N, \*P, C)."""
        axes = zip(padded.shape[1:-1], self.pads, strict=True)
        return self.outputs(tuple(p - sum(pair) for p, pair in axes))

    def output_lengths(self, lengths: Array | None) -> Array | None:
        """Return how often the windows fit on sequences of `lengths`; None for None."""
        if lengths is None:
            return None
        xp = namespace(lengths)
        (span,), (s,), (pair,) = self.spans, self.stride, self.pads
        fits = (lengths + (sum(pair) - span)) // s + 1  # (1)
        return xp.where((lengths > 0) & (fits > 0), fits, 0)

    def inputs(self, outputs: Ints, more: Ints) -> Ints:
        """Return the sizes of axes on which the windows fit `outputs` times; below 1: on none."""
        axes = zip(outputs, self.spans, self.stride, self.pads, more, strict=True)
        return tuple(
            (q - 1) * s + span - sum(pair) + extra if q else 0  # (2)
            for q, span, s, pair, extra in axes
        )

    def input_lengths(self, outputs: Array | None, more: Ints) -> Array | None:
        """Return the lengths of sequences on which the windows fit `outputs` times, at least 0."""
        if outputs is None:
            return None
        xp = namespace(outputs)
        (span,), (s,), (pair,), (extra,) = self.spans, self.stride, self.pads, more
        sizes = (outputs - 1) * s + (span - sum(pair) + extra)  # (2)
        return xp.where((outputs > 0) & (sizes > 0), sizes, 0)

    def longer(self, more: Ints) -> "Windows":
        """Return as many windows on axes so much longer, with less padding behind, below 0 too."""
        pads = ((before, after - m) for (before, after), m in zip(self.pads, more, strict=True))
        return replace(self, pads=tuple(pads))

    def meet(self, padded: Array, tap: Ints) -> Array:
        r"""Return what element `tap` of each window meets in the padded x, shape (N, \*Q, C)."""
        axes = zip(tap, self.fits(padded), self.stride, self.dilation, strict=True)
        index = [slice(k * d, k * d + max((q - 1) * s + 1, 0), s) for k, q, s, d in axes]
        return padded[(slice(None), *index, slice(None))]

    # What the padded x gets back. Its element q is element k of window p where q = p s + k d.

    def spread(self, dy: Array, sizes: Ints, value: float = 0.0) -> Array:
        r"""Return dy, shape (N, \*Q, C), with p at the place p s and `value` elsewhere.

        `sizes` are those of the padded x. So much of `value` goes before and after that
        `meet_back` meets each of its elements.
        """
        xp = namespace(dy)
        pads = []
        for axis, (size, span, s) in enumerate(
            zip(sizes, self.spans, self.stride, strict=True), start=1
        ):
            before, count, after = dy.shape[:axis], dy.shape[axis], dy.shape[axis + 1 :]
            if s > 1 and count > 0:
                apart = xp.reshape(dy, (*before, count, 1, *after))
                apart = _extend(apart, axis + 1, 0, s - 1, value)
                apart = xp.reshape(apart, (*before, count * s, *after))
                dy = _cut(apart, axis, 0, (count - 1) * s + 1)
            pads.append((span - 1, size - dy.shape[axis]))
        return fill(dy, tuple(pads), value)

    @property
    def back(self) -> "Windows":
        """The windows over what `spread` returns: one for each element of the padded x.

        Element K - 1 - k of window q meets the place q - k d.
        """
        rank = len(self.size)
        return Windows(self.size, (1,) * rank, self.dilation, ((0, 0),) * rank)

    def meet_back(self, spread: Array, tap: Ints) -> Array:
        r"""Return what stands k d before each q in what `spread` returned, shape (N, \*P, C)."""
        mirrored = tuple(size - 1 - k for size, k in zip(self.size, tap, strict=True))
        return self.back.meet(spread, mirrored)


def each(value: int | Ints, rank: int) -> Ints:
    """Return `value`, an integer for all or one for each of `rank` axes, as a tuple."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


def pairs(padding: int | Pads, rank: int) -> Pads:
    """Return `padding`, an integer for all sides or pairs, as pairs."""
    return ((padding, padding),) * rank if isinstance(padding, int) else padding


def resolve(padding: str, sizes: Ints, size: Ints, stride: Ints, dilation: Ints) -> Pads:
    """Return the padding of that name, for axes of `sizes`, as pairs.

    Parameters
    ----------
    padding : str
        ``"valid"``: none. ``"same"``: as little as gives ⌈S / s⌉ outputs, half of it on each side
        and an odd one after; ``"same_lower"``: the odd one before. ``"causal"``: (K - 1) d before,
        so that an output depends on no later element.
    sizes, size, stride, dilation : tuple of int
        S, K, s and d of each axis.

    Examples
    --------
    >>> resolve("same", (5,), (3,), (2,), (1,)), resolve("same", (6,), (3,), (2,), (1,))
    (((1, 1),), ((0, 1),))
    >>> resolve("causal", (5,), (3,), (1,), (2,))
    ((4, 0),)
    """
    pads = []
    for S, K, s, d in zip(sizes, size, stride, dilation, strict=True):
        span = (K - 1) * d + 1
        total = max((-(-S // s) - 1) * s + span - S, 0)
        half, rest = total // 2, total - total // 2
        pads.append(
            {
                "valid": (0, 0),
                "same": (half, rest),
                "same_lower": (rest, half),
                "causal": (span - 1, 0),
            }[padding]
        )
    return tuple(pads)


# Padding


def fill(x: Array, pads: Pads, value: float = 0.0) -> Array:
    r"""Return x, shape (N, \*S, C), with `value` around it; what is below 0 is cut off its end."""
    for axis, (before, after) in enumerate(pads, start=1):
        if before or after > 0:
            x = _extend(x, axis, before, max(after, 0), value)
        if after < 0:
            x = _cut(x, axis, 0, max(x.shape[axis] + after, 0))
    return x


def crop(dy: Array, pads: Pads) -> Array:
    r"""Return dy, shape (N, \*P, C), without its padding: the transpose of `fill`."""
    for axis, (before, after) in enumerate(pads, start=1):
        dy = _cut(dy, axis, before, dy.shape[axis] - after)
    return dy


def pad(x: Array, pads: Pads, mode: str) -> Array:
    r"""Return x, shape (N, \*S, C), padded in that mode."""
    if mode == "zeros":
        return fill(x, pads)
    xp = namespace(x)
    for axis, pair in enumerate(pads, start=1):
        if not any(pair):
            continue
        edges = []
        for (start, stop), count in zip(_sources(mode, x.shape[axis], pair), pair, strict=True):
            edge = _cut(x, axis, start, stop)
            if mode == "reflect":
                edge = xp.flip(edge, axis=axis)
            elif mode == "replicate":
                edge = xp.broadcast_to(edge, (*x.shape[:axis], count, *x.shape[axis + 1 :]))
            edges.append(edge)
        x = xp.concat([edges[0], x, edges[1]], axis=axis)
    return x


def unpad(dy: Array, pads: Pads, mode: str) -> Array:
    r"""Return the gradient of x, given that of `pad` of x: the transpose of `pad`.

    Each element of x gets, beside its own gradient, those of the padding that repeats it.
    """
    if mode == "zeros":
        return crop(dy, pads)
    xp = namespace(dy)
    for axis, (before, after) in enumerate(pads, start=1):
        if not (before or after):
            continue
        end = dy.shape[axis] - after
        size = end - before
        edges = _cut(dy, axis, 0, before), _cut(dy, axis, end, dy.shape[axis])
        dy = _cut(dy, axis, before, end)
        sources = _sources(mode, size, (before, after))
        for edge, (start, stop) in zip(edges, sources, strict=True):
            if mode == "reflect":
                edge = xp.flip(edge, axis=axis)
            elif mode == "replicate":
                edge = xp.sum(edge, axis=axis, keepdims=True)
            dy = dy + _extend(edge, axis, start, size - stop, 0.0)
    return dy


def _sources(mode: str, size: int, pair: tuple[int, int]) -> Pads:
    """Return where the elements before and after an axis come from: (start, stop) in it."""
    before, after = pair
    return {
        "reflect": ((1, 1 + before), (size - 1 - after, size - 1)),
        "replicate": ((0, 1), (size - 1, size)),
        "circular": ((size - before, size), (0, after)),
    }[mode]


def _cut(x: Array, axis: int, start: int, stop: int) -> Array:
    return x[(slice(None),) * axis + (slice(start, stop), ...)]


def _extend(x: Array, axis: int, before: int, after: int, value: float) -> Array:
    xp = namespace(x)
    blocks = [
        xp.full(
            (*x.shape[:axis], count, *x.shape[axis + 1 :]), value, dtype=x.dtype, device=device(x)
        )
        for count in (before, after)
    ]
    return xp.concat([blocks[0], x, blocks[1]], axis=axis)
