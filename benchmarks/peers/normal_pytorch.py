"""PyTorch's BatchNorm, channels first and channels last, and its Dropout."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from ..batchnorm import BatchNorm
from ..dropout import RATE, Dropout
from .runner import Form, NDArray
from .torch_passes import passes


def forms(
    case: BatchNorm | Dropout,
    given: Mapping[str, NDArray],
    wrap: Callable[[torch.nn.Module], Any] = lambda module: module,
) -> dict[str, Form]:
    """Return the module in each layout; `wrap` may compile it."""
    if isinstance(case, Dropout) or len(case.x) == 2:
        return {"": _form(case, given, torch.contiguous_format, wrap)}
    kinds = {"channels first": torch.contiguous_format}
    if len(case.x) == 4:
        kinds["channels last"] = torch.channels_last
    return {name: _form(case, given, kind, wrap) for name, kind in kinds.items()}


def _form(
    case: BatchNorm | Dropout, given: Mapping[str, NDArray], kind: Any, wrap: Callable[..., Any]
) -> Form:
    moved = isinstance(case, BatchNorm) and len(case.x) > 2

    def tensor(name: str) -> torch.Tensor:
        array = np.moveaxis(given[name], -1, 1) if moved else given[name]
        return torch.from_numpy(np.array(array)).contiguous(memory_format=kind)

    module: torch.nn.Module = torch.nn.Dropout(RATE)
    if isinstance(case, BatchNorm):
        of_rank = torch.nn.BatchNorm2d if len(case.x) == 4 else torch.nn.BatchNorm1d
        module = of_rank(case.x[-1], dtype=getattr(torch, case.dtype))
        for name, theirs in (("gamma", "weight"), ("beta", "bias")):
            getattr(module, theirs).data = torch.from_numpy(given[name].copy())
    x, dy, run = tensor("x"), tensor("dy"), wrap(module)
    watched = tensor("x").requires_grad_()
    differentiated = [watched, *module.parameters()]

    def restore(name: str, result: torch.Tensor) -> NDArray:
        array: NDArray = result.detach().numpy()
        if isinstance(case, Dropout):
            return case.undropped(array, given[{"y": "x", "dx": "dy"}[name]])
        return np.moveaxis(array, 1, -1) if moved and name in ("y", "dx") else array

    return Form(passes(run, x, differentiated, dy, torch.no_grad), restore)
