"""Running values of BatchNorm found anew, after the parameters have changed."""

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arguments import say
from ..batchnorm import BatchNorm, formula
from ..data.splits import Split
from ..layer import Layer, NDArray, check_layer
from .batches import Batches, Data


def recalibrate(model: Layer, data: npt.ArrayLike | Data, *, batch_size: int = 256) -> None:
    """Set the running values of all BatchNorm layers to the statistics of data.

    Running values lag behind the parameters, and after averaging or changing these they are wrong.
    Here they become the mean and the variance of all that reaches a layer when the batches pass
    through the model in training: not the means of the batches' variances, but what a single large
    batch has.

    Parameters
    ----------
    model : Layer
        Its other buffers stay as they are. BatchNorm layers that are frozen, keep no running
        values or do not update them are passed over.
    data : x, (x, y) or iterable of such batches
        As in `fit`, or arrays x alone: targets are not used. For padded sequences ``(x, lengths)``
        comes in the place of x, so with y.
    batch_size : int
        How many samples pass at a time, where data is no iterable of batches.

    Raises
    ------
    ValueError, TypeError
        `data` is not of that form, or has no batches.
    FloatingPointError
        A mean or a variance is not finite. The model is as it was.

    References
    ----------
    Y. Wu, J. Johnson, *Rethinking "Batch" in BatchNorm* (2021), sec. 3: PreciseBN.

    Examples
    --------
    >>> import numpy as np
    >>> import lamina as lm
    >>> model = lm.Sequential(lm.BatchNorm(1, unbiased=False, dtype=np.float64))
    >>> x, y = np.array([[1.0], [3.0], [5.0], [7.0]]), np.array([0, 0, 1, 1])
    >>> lm.recalibrate(model, (x, y), batch_size=2)
    >>> model[0].running_mean, model[0].running_var
    (array([4.]), array([5.]))
    """
    check_layer("recalibrate", model)
    if isinstance(data, (np.ndarray, tuple)):
        data = _paired(data)
    elif isinstance(data, Iterable) and not isinstance(data, (Split, dict)):
        data = map(_paired, data)
    batches = Batches("recalibrate", data, batch_size, model.dtype)
    probe = copy.deepcopy(model)  # whose passes may count and draw as they like
    layers = dict(model.walk())
    found: list[tuple[str, BatchNorm, list[formula.Statistics]]] = []
    for name, layer in probe.walk():
        if not isinstance(layer, BatchNorm) or "_forward" in vars(layer):
            continue
        original: Any = layers[name]
        if layer.running and layer.update and not layer.frozen:
            original._check_writeable()
            found.append((name, original, []))
            vars(layer)["_forward"] = partial(_note, layer, layer._forward, found[-1][-1])
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is found and said below
        for batch in batches.epoch():
            probe.forward(batch.x, **probe._accepted(batch.lengths, None), training=True)
        values = [_values(layer, parts) for _, layer, parts in found]
    for (name, layer, _), new in zip(found, values, strict=True):
        if not np.isfinite(new).all():
            place = f"layer {name}, {say(layer)}," if name else say(layer)
            raise FloatingPointError(
                f"recalibrate: what reaches {place} has a mean or a variance that is not finite; "
                "look for NaN, infinity and huge numbers in the data and the parameters"
            )
    for (_, layer, parts), new in zip(found, values, strict=True):
        layer.running_mean, layer.running_var = new
        layer.batches = len(parts)


def _values(layer: BatchNorm, parts: list[formula.Statistics]) -> tuple[Any, Any]:
    """Return the running mean and variance that a layer gets from its batches' statistics."""
    whole = formula.merge(parts)
    unbiased = whole.count / max(whole.count - 1, 1) if layer.unbiased else 1
    return whole.mean + whole.rest, whole.var * unbiased


def _note(
    layer: BatchNorm,
    forward: Any,
    parts: list[formula.Statistics],
    x: NDArray,
    lengths: Any,
    *given: Any,
    **options: Any,
) -> Any:
    """Pass a batch through a layer, and note its statistics."""
    parts.append(layer.stats(x, lengths=lengths))
    return forward(x, lengths, *given, **options)


def _paired(x: Any) -> Any:
    """Let an array stand for the targets that it comes without: nobody looks at them."""
    return (x, x) if isinstance(x, np.ndarray) else x
