"""PyTorch's modules through torch.compile, images channels last."""

import sys
from collections.abc import Mapping
from typing import Any

import torch

from ..batchnorm import BatchNorm
from ..case import Case
from ..convolution import Convolution
from ..dropout import Dropout
from ..networks import Network
from ..parts import Part
from ..recurrent import Recurrence
from . import network_pytorch, normal_pytorch, parts_pytorch, pytorch, recurrent_pytorch, runner
from .runner import Form, NDArray


def versions() -> dict[str, str]:
    """Return the version of PyTorch; raise where torch.compile does not work."""
    compile(torch.nn.ReLU())(torch.ones(8))  # it needs a C++ compiler
    return pytorch.versions()


def compile(module: Any) -> Any:
    """Return a module or a function compiled for the shapes it first meets."""
    torch.compiler.reset()  # else the shapes of earlier cases make it compile for any
    return torch.compile(module, dynamic=False)


def release() -> None:
    """Give back the memory that is kept for calls to come: none is."""


def forms(case: Case, given: Mapping[str, NDArray]) -> dict[str, Form]:
    """Return the compiled module."""
    if isinstance(case, Network):
        # Weights packed once, as by for_inference: faster for batches, slower for one sample.
        torch._inductor.config.freezing = case.which == "forward" and case.batch > 1
        layouts = {"channels last": torch.channels_last}
        return network_pytorch.forms(case, given, layouts, compile)
    if isinstance(case, Part):
        return parts_pytorch.forms(case, given, compile)
    if isinstance(case, (BatchNorm, Dropout)):
        return normal_pytorch.forms(case, given, compile)
    if isinstance(case, Recurrence):
        return recurrent_pytorch.forms(case, given, compile)
    if isinstance(case, Convolution) and case.rank in pytorch.CHANNELS_LAST:
        kind = pytorch.CHANNELS_LAST[case.rank]
        return {"channels last": pytorch.form(case, given, kind, compile)}
    return {"": pytorch.form(case, given, wrap=compile)}


if __name__ == "__main__":
    runner.serve(sys.modules[__name__])
