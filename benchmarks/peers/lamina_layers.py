"""Lamina: its layers as a user calls them, checks of arguments inside the clock."""

import sys
import tracemalloc
from collections.abc import Mapping
from typing import Any

import numpy as np

import lamina as lm
from lamina.engine import memory

from ..activations import Activation
from ..batchnorm import BatchNorm
from ..case import Case, Pass
from ..convolution import Convolution
from ..dropout import Dropout
from ..linear import Linear
from ..losses import Loss
from ..networks import Network
from ..optimizers import Update
from ..pooling import Pool
from ..recurrent import Recurrence
from . import network_lamina, parts_lamina, runner
from .runner import Form, NDArray


def versions() -> dict[str, str]:
    """Return the versions of Lamina and what it computes with."""
    import numba
    import numpy

    return {"lamina": lm.__version__, "numpy": numpy.__version__, "numba": numba.__version__}


def layer_of(case: Case) -> Any:
    """Return the layer of a case."""
    if isinstance(case, Linear):
        return lm.Linear(case.inputs, case.outputs, dtype=case.dtype, rng=0)
    if isinstance(case, Convolution):
        return (lm.Conv1d, lm.Conv2d, lm.Conv3d)[case.rank - 1](
            case.inputs,
            case.outputs,
            case.kernel,
            stride=case.stride,
            dilation=case.dilation,
            padding=case.padding,
            groups=case.groups,
            bias=case.bias,
            dtype=case.dtype,
            rng=0,
        )
    if isinstance(case, (BatchNorm, Dropout, Recurrence, Activation, Pool)):
        return case.layer_of()
    raise TypeError(f"no layer for {case}")


def forms(case: Case, given: Mapping[str, NDArray]) -> dict[str, Form]:
    """Return the layer, and the inference model of it."""
    if isinstance(case, Network):
        return network_lamina.forms(case, given)
    if isinstance(case, (Loss, Update)):
        return parts_lamina.forms(case, given)
    layer = layer_of(case)
    x, dy = given["x"], given["dy"]
    layer.assign({name: given[name] for name in case.parameters})

    def both() -> tuple[NDArray, ...]:
        y, cache = layer.forward(x, training=True)
        dx, grads = layer.backward(dy, cache)
        return (y, dx, *(grads[name] for name in case.parameters))

    if isinstance(case, (BatchNorm, Dropout)):  # whose forward pass is that of training, too
        sources = {"y": x, "dx": dy}

        def restore(name: str, array: NDArray) -> NDArray:
            return case.undropped(array, sources[name]) if isinstance(case, Dropout) else array

        forward = lambda: layer.forward(x, training=True)[0]  # noqa: E731
        return {"layer": Form({"forward": forward, "both": both}, restore)}
    fixed = layer.for_inference()
    return {
        "layer": Form({"forward": lambda: layer(x), "both": both}, _same),
        "for_inference": Form({"forward": lambda: fixed(x)}, _same),
    }


def release() -> None:
    """Give back the memory that is kept for calls to come."""
    memory._waiting.clear()


def workspace(form: Form, which: Pass) -> int:
    """Return the most bytes that a pass takes at once, beside its results."""
    release()  # what is used again would not be seen
    tracemalloc.start()
    try:
        found = form.passes[which]()
        results = found if isinstance(found, tuple) else (found,)
        kept = sum(array.nbytes for array in results if isinstance(array, np.ndarray))
        return tracemalloc.get_traced_memory()[1] - kept
    finally:
        tracemalloc.stop()


def _same(name: str, array: NDArray) -> NDArray:
    return array


if __name__ == "__main__":
    runner.serve(sys.modules[__name__])
