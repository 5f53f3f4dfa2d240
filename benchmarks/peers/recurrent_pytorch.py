"""PyTorch's RNN, LSTM and GRU, batch first and steps first."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from ..recurrent import Recurrence
from .runner import Form, NDArray
from .torch_passes import passes

_NAMES = {"weight_x": "weight_ih", "weight_h": "weight_hh", "bias": "bias_ih"}


def forms(
    case: Recurrence,
    given: Mapping[str, NDArray],
    wrap: Callable[[torch.nn.Module], Any] = lambda module: module,
) -> dict[str, Form]:
    """Return the module in either layout; `wrap` may compile it."""
    return {
        name: _form(case, given, batch_first, wrap)
        for name, batch_first in (("batch first", True), ("steps first", False))
    }


def _form(
    case: Recurrence, given: Mapping[str, NDArray], batch_first: bool, wrap: Callable[..., Any]
) -> Form:
    kind = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[case.layer]
    module = kind(
        case.inputs, case.hidden, case.layers, batch_first=batch_first,
        bidirectional=case.bidirectional, dtype=getattr(torch, case.dtype),
    )  # fmt: skip
    parameters = dict(module.named_parameters())
    for name, parameter in parameters.items():
        parameter.data.zero_()
        if name.startswith("bias_hh") and case.layer != "gru":
            parameter.requires_grad_(False)  # one bias is enough
    watched: dict[str, torch.Tensor] = {}
    for k, suffix in enumerate(case.suffixes()):
        end = f"_l{k // case.directions}" + ("_reverse" if k % case.directions else "")
        for name, theirs in _NAMES.items():
            parameter = parameters[theirs + end]
            parameter.data = torch.from_numpy(np.ascontiguousarray(given[name + suffix].T))
            watched[name + suffix] = parameter
        if case.layer == "gru":
            watched[f"bias_h{suffix}"] = parameters["bias_hh" + end]
            watched[f"bias_h{suffix}"].data[-case.hidden :] = torch.from_numpy(
                given[f"bias_h{suffix}"]
            )

    def laid_out(name: str) -> torch.Tensor:
        array = given[name] if batch_first else given[name].swapaxes(0, 1)
        return torch.from_numpy(np.array(array, order="C"))

    x, dy = laid_out("x"), laid_out("dy")
    run, differentiated = wrap(module), [laid_out("x").requires_grad_()]
    differentiated += [watched[name] for name in case.parameters]

    def restore(name: str, result: torch.Tensor) -> NDArray:
        array: NDArray = result.detach().numpy()
        if name in ("y", "dx"):
            return array if batch_first else array.swapaxes(0, 1)
        return array[-case.hidden :] if name.startswith("bias_h") else array.T

    return Form(passes(lambda x: run(x)[0], x, differentiated, dy), restore)
