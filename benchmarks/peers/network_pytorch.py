"""Whole networks as modules of PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import lamina as lm

from ..networks import Network, pads
from .runner import Form, NDArray

Slot = tuple[str, nn.Parameter, Callable[[NDArray], NDArray], Callable[[NDArray], NDArray]]
"""The name of a parameter in Lamina, PyTorch's, and how its values go there and back."""


class Residual(nn.Module):
    """A body beside a shortcut."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum."""
        y: torch.Tensor = self.body(x) + self.shortcut(x)
        return y


class Recurrent(nn.Module):
    """An LSTM, of which the states of all steps go on."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, x: Any) -> Any:
        """Return them; of packed sequences, one below the other."""
        y, _ = self.lstm(x)
        return y.data if isinstance(y, PackedSequence) else y


class LastStep(nn.Module):
    """The last step alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return it."""
        return x[:, -1]


class Translation:
    """A module that computes what Lamina's model does, and where its parameters come from."""

    def __init__(self, model: lm.Sequential, shape: tuple[int, ...]) -> None:
        self.shapes = {name: given for name, _, given in model.trace(shape)}
        self.slots: list[Slot] = []
        self.norms: dict[str, Any] = {}
        self.flattened: tuple[int, ...] | None = None
        self.module = self.of(model, "")

    def of(self, layer: Any, name: str) -> nn.Module:
        """Return the module of a layer of that name."""
        match layer:
            case lm.Sequential():
                inside = [
                    self.of(child, f"{name}.{k}" if name else k)
                    for k, child in layer.children().items()
                ]
                return nn.Sequential(*inside)
            case lm.Residual():
                return Residual(*(self.of(b, f"{name}.{k}") for k, b in layer.children().items()))
            case lm.Linear():
                return self._linear(layer, name)
            case lm.Conv2d():
                bias = layer.bias is not None
                padding = tuple(before for before, _ in pads(layer))
                convolution = nn.Conv2d(
                    layer.in_channels, layer.out_channels, layer.window, layer.stride, padding,
                    bias=bias,
                )  # fmt: skip
                self._add(
                    f"{name}.weight",
                    convolution.weight,
                    lambda a: np.moveaxis(a, (-1, -2), (0, 1)),
                    lambda a: np.moveaxis(a, (0, 1), (-1, -2)),
                )
                if convolution.bias is not None:
                    self._add(f"{name}.bias", convolution.bias)
                return convolution
            case lm.BatchNorm():
                of_rank = nn.BatchNorm2d if len(self.shapes[name]) == 4 else nn.BatchNorm1d
                norm = of_rank(layer.features)
                self.norms[name] = norm
                self._add(f"{name}.gamma", norm.weight)
                self._add(f"{name}.beta", norm.bias)
                return norm
            case lm.LSTM():
                return self._lstm(layer, name)
            case lm.Dropout():
                return nn.Dropout(layer.rate)
            case lm.MaxPool2d():
                before = tuple(before for before, _ in pads(layer))
                return nn.MaxPool2d(layer.window, layer.stride, before)
            case lm.ReLU():
                return nn.ReLU(inplace=True)
            case lm.LastStep():
                return LastStep()
            case lm.Identity():
                return nn.Identity()
            case lm.GlobalAvgPool():
                return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            case lm.Flatten():
                self.flattened = self.shapes[name][1:]
                return nn.Flatten()
        raise TypeError(f"no module for {layer}")

    def _add(
        self,
        name: str,
        parameter: nn.Parameter,
        there: Callable[[NDArray], NDArray] = lambda a: a,
        back: Callable[[NDArray], NDArray] = lambda a: a,
    ) -> None:
        self.slots.append((name, parameter, there, back))

    def _linear(self, layer: lm.Linear, name: str) -> nn.Module:
        inputs, outputs = layer.weight.shape
        linear = nn.Linear(inputs, outputs, bias=layer.bias is not None)
        order = np.arange(inputs)
        if self.flattened is not None:  # channels come first where PyTorch flattens
            order = np.moveaxis(order.reshape(self.flattened), -1, 0).ravel()
            self.flattened = None
        self._add(
            f"{name}.weight", linear.weight, lambda a: a[order].T, lambda a: a.T[np.argsort(order)]
        )
        if layer.bias is not None:
            self._add(f"{name}.bias", linear.bias)
        return linear

    def _lstm(self, layer: Any, name: str) -> nn.Module:
        lstm = nn.LSTM(
            layer.in_features, layer.hidden, layer.layers, batch_first=True,
            bidirectional=layer.bidirectional,
        )  # fmt: skip
        theirs = dict(lstm.named_parameters())
        for k in range(layer.layers):
            for end in ("", "_reverse")[: 1 + layer.bidirectional]:
                ours = (f"_{k}" if k else "") + end
                for name_of, name_there in (("weight_x", "weight_ih"), ("weight_h", "weight_hh")):
                    self._add(
                        f"{name}.{name_of}{ours}", theirs[f"{name_there}_l{k}{end}"],
                        lambda a: a.T, lambda a: a.T,
                    )  # fmt: skip
                self._add(f"{name}.bias{ours}", theirs[f"bias_ih_l{k}{end}"])
                second = theirs[f"bias_hh_l{k}{end}"]
                second.data.zero_()
                second.requires_grad_(False)  # one bias is enough
        return Recurrent(lstm)


def forms(
    case: Network,
    given: Mapping[str, NDArray],
    layouts: Mapping[str, torch.memory_format],
    wrap: Callable[[nn.Module], Any] = lambda module: module,
) -> dict[str, Form]:
    """Return the network or its step of training in each layout; `wrap` may compile it."""
    if len(case.of.x) != 3:
        layouts = {"": torch.contiguous_format}
    return {name: _form(case, given, layout, wrap) for name, layout in layouts.items()}


def _form(
    case: Network,
    given: Mapping[str, NDArray],
    layout: torch.memory_format,
    wrap: Callable[[nn.Module], Any],
) -> Form:
    images = len(case.of.x) == 3
    translation = Translation(case.of.build(), given["x"].shape)
    module = translation.module
    for name, parameter, there, _ in translation.slots:
        parameter.data = torch.from_numpy(np.array(there(given[name]), order="C"))
    for name, norm in translation.norms.items():
        norm.running_mean.copy_(torch.from_numpy(given[f"{name}.running_mean"]))
        norm.running_var.copy_(torch.from_numpy(given[f"{name}.running_var"]))
    array = np.moveaxis(given["x"], -1, 1) if images else given["x"]
    x: Any = torch.from_numpy(np.array(array, order="C"))
    if images:
        module, x = module.to(memory_format=layout), x.contiguous(memory_format=layout)  # type: ignore[call-overload]
    target = torch.from_numpy(given["target"])
    packed = None
    if case.of.ragged:
        lengths = torch.from_numpy(given["lengths"])
        packed = x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        target = pack_padded_sequence(target, lengths, batch_first=True, enforce_sorted=False).data
    run = wrap(module)

    def padded(y: torch.Tensor) -> torch.Tensor:
        if packed is None:
            return y
        return pad_packed_sequence(packed._replace(data=y), batch_first=True)[0]

    def restore(name: str, result: torch.Tensor) -> NDArray:
        array: NDArray = result.detach().numpy()
        return array if name == "y" else backs[name](array)

    backs = {name: back for name, _, _, back in translation.slots}
    if case.which == "forward":
        module.eval()

        def forward() -> torch.Tensor:
            with torch.inference_mode():
                return padded(run(x))

        return Form({"forward": forward}, restore)
    parameters = {name: parameter for name, parameter, _, _ in translation.slots}
    optimizer: torch.optim.Optimizer
    if case.of.optimizer == "adam":
        optimizer = torch.optim.Adam(parameters.values(), 1e-7, fused=True)
    else:
        optimizer = torch.optim.SGD(parameters.values(), 1e-7, momentum=0.9, fused=True)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(run(x), target)
        loss.backward()
        optimizer.step()
        return loss

    def results() -> list[torch.Tensor]:
        with _without_dropout(module):
            y = module(x)
            loss = nn.functional.cross_entropy(y, target)
            ordered = [parameters[name] for name in case.parameters]
            return [padded(y), *torch.autograd.grad(loss, ordered)]

    return Form({"both": step}, restore, {"both": results})


class _without_dropout:  # noqa: N801
    """Within the block, Dropout keeps everything."""

    def __init__(self, module: nn.Module) -> None:
        self.drops = [m for m in module.modules() if isinstance(m, nn.Dropout)]

    def __enter__(self) -> None:
        for drop in self.drops:
            drop.eval()

    def __exit__(self, *error: Any) -> None:
        for drop in self.drops:
            drop.train()
