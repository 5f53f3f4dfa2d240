"""Dropout: units set to 0 at random, so that none can rely on another.

With x and y (N, ...), the rate p at which units are dropped, and the mask m, true where a unit is
kept: of the shape of x, or with 1 in the axes along which units share their fate.

Forward

    y = s v + t,   v = x  where m,  a elsewhere                                 (1)

                    a pass that drops        inference: m is true everywhere
    s  inverted     1 / (1 - p)              1                                  (2)
       classic      1                        1 - p
       alpha        1 / √((1 - p)(1 + p a²)) 1

with a = t = 0 but in a pass of "alpha" that drops: a = -λα = -1.7580993408473766, t = -s p a.

A unit is kept with probability 1 - p, so the mean of y over masks is (1 - p) s x: in the modes
"inverted" and "classic" what inference gives. The mode "alpha" is for SELU, whose least value is a:
where x has mean 0 and variance 1, v has mean p a and variance (1 - p)(1 + p a²), and y has mean 0
and variance 1 again (G. Klambauer et al., *Self-Normalizing Neural Networks*, 2017, sec. 3). (1)
selects and does not multiply, so a dropped NaN or infinity is gone.

Backward. With dy = ∂L/∂y and ∂y/∂x = s where m, 0 elsewhere,

    dx = s dy  where m,  0 elsewhere                                            (3)

The mask. Philox4x32-10 turns a counter of four 32-bit words and a key of two into four random words
by ten rounds, with the 64-bit products f = 0xD2511F53 c0 and g = 0xCD9E8D57 c2, high and low:

    c0, c1, c2, c3 <- high(g) ^ c1 ^ k0, low(g), high(f) ^ c3 ^ k1, low(f)      (4)
    k0, k1 <- k0 + 0x9E3779B9, k1 + 0xBB67AE85 modulo 2³², between rounds       (5)

The draw of unit u of sample id in pass number `call`, and its fate:

    draw = word u mod 4 of philox((u div 4, id mod 2³², id div 2³², call mod 2³²), key)     (6)
    m = draw >= p 2³², rounded to an integer                                    (7)

J. Salmon, M. Moraes, R. Dror, D. Shaw, *Parallel Random Numbers: As Easy as 1, 2, 3* (2011),
sec. 3.3 and table 2, give Philox.
"""

import math
from typing import Final, Literal, NamedTuple, TypeAlias

from ..arrays import Array, arange, mask_steps, namespace

Mode: TypeAlias = Literal["inverted", "classic", "alpha"]
Words: TypeAlias = tuple[Array, Array, Array, Array]

LOW: Final = 0xFFFFFFFF
LEAST: Final = -1.7580993408473766
"""a of (2), the least value of SELU."""


class Draw(NamedTuple):
    """What a mask is drawn by: the arguments of `keep_mask`."""

    shape: tuple[int, ...]
    rate: float
    key: Array
    call: int
    shared_axes: tuple[int, ...] = ()
    sample_ids: Array | None = None

    @property
    def shared(self) -> set[int]:
        """The shared axes, counted from 0."""
        return {axis % len(self.shape) for axis in self.shared_axes}

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """`shape`, but for 1 in the shared axes."""
        return tuple(1 if axis in self.shared else n for axis, n in enumerate(self.shape))


class Affine(NamedTuple):
    """The constants of (1): s, t and a."""

    scale: float
    shift: float = 0.0
    dropped: float = 0.0


class Cache(NamedTuple):
    """What `backward` needs."""

    keep: Array | None
    scale: float
    lengths: Array | None


def forward(
    x: Array,
    keep: Array | Draw | None = None,
    rate: float = 0.5,
    mode: Mode = "inverted",
    lengths: Array | None = None,
) -> tuple[Array, Cache]:
    """Return y, of the shape of x, and the cache of `backward`.

    Parameters
    ----------
    x : array, shape (N, ...)
    keep : boolean array, broadcast to the shape of x, or Draw, optional
        The mask, or what draws it; without it the pass is one of inference.
    rate : float
        The probability to drop, 0 to 1.
    mode : str
        ``"inverted"``, ``"classic"`` or ``"alpha"``.
    lengths : integer array, shape (N,), optional
        x has shape (N, T, ...); steps from lengths[n] on are padding.
    """
    affine = constants(rate, mode, keep is not None)
    cache = Cache(mask(keep), affine.scale, lengths)
    return _select(x, cache.keep, affine, lengths), cache  # (1)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """Return dx, of the shape of x, and no gradients: there are no parameters."""
    keep, scale, lengths = cache
    return _select(dy, keep, Affine(scale), lengths), {}  # (3)


def constants(rate: float, mode: Mode, drops: bool) -> Affine:
    """Return s, t and a, for a pass that drops or one of inference."""
    if mode == "classic" and not drops:
        return Affine(1 - rate)  # (2)
    if mode == "classic" or not drops or rate == 1:  # at rate 1 there is nothing to scale
        return Affine(1.0)  # (2)
    if mode == "inverted":
        return Affine(1 / (1 - rate))  # (2)
    s = 1 / math.sqrt((1 - rate) * (1 + rate * LEAST**2))  # (2)
    return Affine(s, -s * rate * LEAST, LEAST)


def mask(keep: Array | Draw | None) -> Array | None:
    """Return a mask that is given as one or as what draws it."""
    return keep_mask(*keep) if isinstance(keep, Draw) else keep


def _select(x: Array, keep: Array | None, affine: Affine, lengths: Array | None) -> Array:
    scale, shift, dropped = affine
    if keep is not None:
        xp = namespace(x, keep)
        x = xp.where(keep, x, dropped)  # (1)
    return mask_steps(x * scale + shift, lengths)  # (1)


def keep_mask(
    shape: tuple[int, ...],
    rate: float,
    key: Array,
    call: int,
    shared_axes: tuple[int, ...] = (),
    sample_ids: Array | None = None,
) -> Array:
    """Return the mask of a pass: version 1 of the stream, equations (4) to (7).

    It needs a library with uint64, as NumPy; a mask made there serves everywhere.

    Parameters
    ----------
    shape : tuple of int
        Of x, (N, ...).
    rate : float
    key : integer array, shape (2,)
        The low and the high 32 bits of the seed.
    call : int
    shared_axes : tuple of int
        The axes along which units share their fate.
    sample_ids : integer array, shape (N,), optional
        0, 1, ..., N - 1 where left out; all 0 if axis 0 is shared.

    Returns
    -------
    boolean array, of `shape` but for 1 in the shared axes
    """
    xp = namespace(key, sample_ids)
    draw = Draw(shape, rate, key, call, shared_axes)
    shape = draw.mask_shape
    if sample_ids is None or 0 in draw.shared:
        sample_ids = arange(shape[0], key)
    ids = xp.astype(sample_ids, xp.uint64)[:, None]
    units = math.prod(shape[1:])
    blocks = arange(-(-units // 4), ids)[None, :]
    counter = blocks, ids & LOW, ids >> 32, call & LOW
    words = philox(counter, (int(key[0]), int(key[1])))
    draws = xp.reshape(xp.stack(words, axis=-1), (shape[0], 4 * blocks.shape[1]))[:, :units]  # (6)
    return xp.reshape(draws >= round(rate * 2**32), shape)  # (7)


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Return four random words for each counter; words are 32-bit values in uint64 arrays."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        f, g = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (g >> 32) ^ c1 ^ k0, g & LOW, (f >> 32) ^ c3 ^ k1, f & LOW  # (4)
        k0, k1 = (k0 + 0x9E3779B9) & LOW, (k1 + 0xBB67AE85) & LOW  # (5)
    return c0, c1, c2, c3
