"""Monte Carlo prediction: how sure a model is, by what Dropout makes of it."""

import copy
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from .arguments import integer
from .containers import Sequential
from .dropout import Dropout
from .fusion import Inference, flat
from .initializers import RNG, generator
from .layer import Layer, NDArray, check_layer
from .train.batches import cuts, samples


def mc(
    model: Layer,
    x: npt.ArrayLike,
    n: int,
    *,
    lengths: npt.ArrayLike | None = None,
    rng: RNG = None,
    batch_size: int = 256,
) -> NDArray:
    r"""Return y of n passes at inference in each of which Dropout drops other units.

    Their mean is a prediction, their spread says how sure it is:

    .. math:: \bar y = \tfrac{1}{n} \sum_i y_i, \qquad
        s^2 = \tfrac{1}{n - 1} \sum_i (y_i - \bar y)^2

    What comes before the first Dropout is computed once. BatchNorm uses its running values. The
    model stays as it is, its Dropout layers' counts of calls too.

    Parameters
    ----------
    model : Layer
        With a `Dropout`, or a recurrent layer that has some inside.
    x : array, shape (N, ...)
        Floats are cast to the dtype of the model, integers stay.
    n : int
        The number of passes.
    lengths : integer array, shape (N,), optional
        For padded sequences, x of shape (N, T, ...).
    rng : int, numpy.random.Generator or None
        Draws the keys of the masks; None takes fresh entropy. The masks of a sample depend on its
        place in x and on the pass alone, so the same seed gives the same y for any `batch_size`.
    batch_size : int
        How many samples are computed at a time.

    Returns
    -------
    array, shape (n, N, ...)

    Raises
    ------
    ValueError, TypeError
        The model has no Dropout; x is no array of real numbers, or `lengths` do not fit it.

    References
    ----------
    Y. Gal, Z. Ghahramani, *Dropout as a Bayesian Approximation: Representing Model Uncertainty in
    Deep Learning* (2016), sec. 4.

    Examples
    --------
    >>> from lamina import Linear, ReLU
    >>> model = Sequential(Linear(2, 64), ReLU(), Dropout(0.5), Linear(64, 1), rng=0)
    >>> ys = mc(model, np.ones((3, 2)), 100, rng=0)
    >>> ys.shape, ys.mean(0).shape, bool((ys.std(0) > 0).all())
    ((100, 3, 1), (3, 1), True)
    """
    n = integer("mc", "n", n)
    check_layer("mc", model)
    batch_size = integer("mc", "batch_size", batch_size)
    x, lengths = samples("mc", x, lengths, model.dtype)
    layers = _dropping(model, generator(rng))
    first = next((i for i, layer in enumerate(layers) if _dropouts(layer)), None)
    if first is None:
        raise ValueError(
            "mc: the model has no Dropout that drops, so that all passes would be the same; "
            "predict(model, x) gives their y"
        )
    before = Sequential(*layers[:first]).for_inference() if first else None
    after = Sequential(*layers[first:]).for_inference()
    dropouts = _dropouts(after._model)
    ys: list[list[NDArray]] = [[] for _ in range(n)]
    for start, stop in cuts(len(x), batch_size):
        some: Any = None if lengths is None else lengths[start:stop]
        given = x[start:stop]
        if before is not None:
            given = before(given, **before._accepted(some, None))
            some = None if some is None else before.output_lengths(some)
        options = after._accepted(some, np.arange(start, stop))
        for i, found in enumerate(ys):
            for dropout in dropouts:  # which draws a mask in each of its places
                dropout.calls[...] = i * len(dropouts)
            found.append(after(given, **options))
    return np.stack([np.concatenate(found) for found in ys])


def _dropping(model: Layer, rng: np.random.Generator) -> list[Layer]:
    """Return copies of the layers of a model, whose Dropout drops at inference by new keys."""
    model = copy.deepcopy(model._model if isinstance(model, Inference) else model)
    seed = int(rng.integers(2**63))
    for name, layer in model.walk():
        if isinstance(layer, Dropout):
            layer.always = True
            layer.initialize(np.random.default_rng([seed, zlib.crc32(name.encode())]))
    return [leaf.layer for leaf in flat(Sequential(model))]


def _dropouts(layer: Layer) -> list[Dropout]:
    """Return the Dropout layers that a layer is or has inside, but for those of rate 0."""
    return [inner for _, inner in layer.walk() if isinstance(inner, Dropout) and inner.rate]
