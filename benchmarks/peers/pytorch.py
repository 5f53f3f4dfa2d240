"""PyTorch, eager: its modules, images channels first and channels last."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from ..batchnorm import BatchNorm
from ..case import Case
from ..convolution import Convolution
from ..dropout import Dropout
from ..networks import Network
from ..parts import Part
from ..recurrent import Recurrence
from . import network_pytorch, normal_pytorch, parts_pytorch, recurrent_pytorch, runner
from .runner import Form, NDArray
from .torch_passes import passes

torch.set_num_threads(runner.THREADS)
torch.set_num_interop_threads(1)

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def versions() -> dict[str, str]:
    """Return the version of PyTorch."""
    return {"torch": torch.__version__}


def release() -> None:
    """Give back the memory that is kept for calls to come: none is."""


def forms(case: Case, given: Mapping[str, NDArray]) -> dict[str, Form]:
    """Return the module in each memory format that PyTorch has for it."""
    if isinstance(case, Network):
        layouts = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
        return network_pytorch.forms(case, given, layouts)
    if isinstance(case, Part):
        return parts_pytorch.forms(case, given)
    if isinstance(case, (BatchNorm, Dropout)):
        return normal_pytorch.forms(case, given)
    if isinstance(case, Recurrence):
        return recurrent_pytorch.forms(case, given)
    if not isinstance(case, Convolution):
        return {"": form(case, given)}
    found = {"channels first": form(case, given)}
    if case.rank in CHANNELS_LAST:
        found["channels last"] = form(case, given, CHANNELS_LAST[case.rank])
    return found


def form(
    case: Case,
    given: Mapping[str, NDArray],
    memory_format: torch.memory_format = torch.contiguous_format,
    wrap: Callable[[torch.nn.Module], Any] = lambda module: module,
) -> Form:
    """Return how PyTorch computes a case; `wrap` may compile its module."""
    layer, module = _modules(case)
    convolution = isinstance(case, Convolution)

    def tensor(name: str) -> torch.Tensor:
        array = given[name]
        if convolution and name != "bias":
            array = _channels_first(array) if name in ("x", "dy") else _outputs_first(array)
        elif name == "weight":
            array = array.T
        return torch.from_numpy(np.array(array)).contiguous(
            memory_format=(memory_format if array.ndim > 3 else torch.contiguous_format)
        )

    for name, parameter in layer.named_parameters():
        parameter.data = tensor(name)
    x, dy = tensor("x"), tensor("dy")
    watched = tensor("x").requires_grad_()
    run = wrap(module)
    differentiated = [watched, *layer.parameters()]

    def restore(name: str, result: torch.Tensor) -> NDArray:
        array: NDArray = result.detach().numpy()
        if convolution and name != "bias":
            return _channels_last(array) if name in ("y", "dx") else _outputs_last(array)
        return array.T if name == "weight" else array

    return Form(passes(run, x, differentiated, dy), restore)


def _modules(case: Case) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return the layer of a case, and the module that computes it: with its padding, if causal."""
    dtype = getattr(torch, case.dtype)
    if not isinstance(case, Convolution):
        _, inputs = case.shapes["x"]
        linear = torch.nn.Linear(inputs, case.shapes["y"][-1], dtype=dtype)
        return linear, linear
    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    layer = kinds[case.rank - 1](
        case.inputs,
        case.outputs,
        case.kernel,
        case.stride,
        0 if case.causal else tuple(before for before, _ in case.padding),
        case.dilation,
        case.groups,
        case.bias,
        dtype=dtype,
    )
    if not case.causal:
        return layer, layer
    pads = [n for pair in reversed(case.padding) for n in pair]
    kind = (torch.nn.ConstantPad1d, torch.nn.ConstantPad2d, torch.nn.ConstantPad3d)[case.rank - 1]
    return layer, torch.nn.Sequential(kind(tuple(pads), 0.0), layer)


def _channels_first(array: NDArray) -> NDArray:
    return np.moveaxis(array, -1, 1)


def _channels_last(array: NDArray) -> NDArray:
    return np.moveaxis(array, 1, -1)


def _outputs_first(weight: NDArray) -> NDArray:
    return np.moveaxis(weight, (-1, -2), (0, 1))


def _outputs_last(weight: NDArray) -> NDArray:
    return np.moveaxis(weight, (0, 1), (-1, -2))


if __name__ == "__main__":
    runner.serve(sys.modules[__name__])
