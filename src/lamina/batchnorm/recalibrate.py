"""Running values of BatchNorm found anew, after the parameters have changed."""

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from ..layer import Layer
from . import formula
from .layer import BatchNorm


def recalibrate(model: Layer, batches: Iterable[Any]) -> None:
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
    batches : iterable
        Arrays x, or pairs of x and lengths.

    Raises
    ------
    ValueError
        There is no batch.
    TypeError
        An array comes in the place of batches.

    References
    ----------
    Y. Wu, J. Johnson, *Rethinking "Batch" in BatchNorm* (2021), sec. 3: PreciseBN.

    Examples
    --------
    >>> import numpy as np
    >>> import lamina as lm
    >>> model = lm.Sequential(lm.BatchNorm(1, unbiased=False, dtype=np.float64))
    >>> lm.recalibrate(model, [np.array([[1.0], [3.0]]), np.array([[5.0], [7.0]])])
    >>> model[0].running_mean, model[0].running_var
    (array([4.]), array([5.]))
    """
    if isinstance(batches, np.ndarray):
        raise TypeError("recalibrate: batches must be an iterable of them; of one array: [x]")
    probe = copy.deepcopy(model)  # whose passes may count and draw as they like
    layers = dict(model.walk())
    found: list[tuple[BatchNorm, list[formula.Statistics]]] = []
    for name, layer in probe.walk():
        if not isinstance(layer, BatchNorm) or "_forward" in vars(layer):
            continue
        original: Any = layers[name]
        if layer.running and layer.update and not layer.frozen:
            found.append((original, []))
            vars(layer)["_forward"] = partial(_note, layer._forward, found[-1][1])
    for batch in batches:
        x, *lengths = batch if isinstance(batch, tuple) else (batch,)
        probe.forward(x, training=True, **({"lengths": lengths[0]} if lengths else {}))
    for layer, parts in found:
        if not parts:
            raise ValueError("recalibrate: no batch came; give one or more")
        whole = formula.merge(parts)
        unbiased = whole.count / max(whole.count - 1, 1) if layer.unbiased else 1
        layer.running_mean = whole.mean + whole.rest
        layer.running_var = whole.var * unbiased
        layer.batches = len(parts)


def _note(forward: Any, parts: list[formula.Statistics], *given: Any, **options: Any) -> Any:
    """Pass a batch through a layer, and note its statistics."""
    y, cache = forward(*given, **options)
    *_, found = cache
    mean, var, count = found.mean, found.var, found.M
    parts.append(
        formula.Statistics(mean, np.zeros_like(mean), var * var.dtype.type(count), int(count))
    )
    return y, cache
