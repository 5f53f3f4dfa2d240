"""PyTorch's activations, pooling, losses and optimizers."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from ..activations import SLOPE, Activation
from ..losses import Loss
from ..optimizers import ALPHA, BETAS, CHECKED, CLIP, DECAY, EPS, MOMENTUM, RATE, Update
from ..parts import Part
from ..pooling import Pool
from .runner import Form, NDArray
from .torch_passes import passes

Wrap = Callable[[Any], Any]

_ACTIVATIONS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "ReLU": nn.ReLU,
    "LeakyReLU": lambda: nn.LeakyReLU(SLOPE),
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "GELU": nn.GELU,
    "GELU by tanh": lambda: nn.GELU(approximate="tanh"),
    "SELU": nn.SELU,
    "Softmax": lambda: nn.Softmax(-1),
}
_LOSSES: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "CrossEntropy": nn.CrossEntropyLoss,
    "MeanSquaredError": nn.MSELoss,
    "Huber": nn.HuberLoss,
    "BinaryCrossEntropy": nn.BCEWithLogitsLoss,
}


def forms(case: Part, given: Mapping[str, NDArray], wrap: Wrap | None = None) -> dict[str, Form]:
    """Return the ways to compute a case; `wrap` may compile a module or an update."""
    if isinstance(case, Loss):
        return {"": _loss(case, given, wrap)}
    if isinstance(case, Update):
        # The plain loop over parameters is slower than these; what is compiled becomes one anyway.
        ways = [{"foreach": True}]
        if wrap is None and case.rule != "RMSprop":
            ways.append({"fused": True})
        return {next(iter(way)): _update(case, given, way, wrap) for way in ways}
    if isinstance(case, Pool) and case.rank == 2:
        kinds = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
        if wrap is not None:
            del kinds["channels first"]
        return {name: _module(case, given, wrap, kind) for name, kind in kinds.items()}
    return {"": _module(case, given, wrap, torch.contiguous_format)}


def _module(
    case: Any, given: Mapping[str, NDArray], wrap: Wrap | None, kind: torch.memory_format
) -> Form:
    moved = isinstance(case, Pool)

    def tensor(name: str) -> torch.Tensor:
        array = given[name]
        if moved and array.ndim > 2:
            array = np.moveaxis(array, -1, 1)
        found = torch.from_numpy(np.array(array, order="C"))
        return found.contiguous(memory_format=kind) if array.ndim == 4 and moved else found

    module = _ACTIVATIONS[case.function]() if isinstance(case, Activation) else _pool(case)
    run = module if wrap is None else wrap(module)
    x, dy, watched = tensor("x"), tensor("dy"), tensor("x").requires_grad_()

    def restore(name: str, result: torch.Tensor) -> NDArray:
        array: NDArray = result.detach().numpy()
        return np.moveaxis(array, 1, -1) if moved and array.ndim > 2 else array

    return Form(passes(run, x, [watched], dy), restore)


def _pool(case: Pool) -> nn.Module:
    if not case.window:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    name = f"{case.kind}Pool{case.rank}d"
    found: nn.Module = getattr(nn, name)(case.window, case.step, case.padding)
    return found


def _loss(case: Loss, given: Mapping[str, NDArray], wrap: Wrap | None) -> Form:
    x, target = (torch.from_numpy(given[name].copy()) for name in ("x", "target"))
    if case.kind == "CrossEntropy":
        x, target = x.flatten(0, -2), target.flatten()
    x.requires_grad_()
    module = _LOSSES[case.kind]()
    run = module if wrap is None else wrap(module)

    def both() -> list[torch.Tensor]:
        value = run(x, target)
        return [value, *torch.autograd.grad(value, x)]

    def restore(name: str, result: torch.Tensor) -> NDArray:
        array: NDArray = result.detach().numpy()
        return array if name == "value" else array.reshape(case.x)

    return Form({"both": both}, restore)


def _update(
    case: Update, given: Mapping[str, NDArray], way: Mapping[str, bool], wrap: Wrap | None
) -> Form:
    def update_of(wrap: Wrap | None) -> tuple[list[torch.Tensor], Callable[[], Any]]:
        params = [torch.from_numpy(given[name].copy()) for name in case.shapes]
        for p, name in zip(params, case.shapes, strict=True):
            p.requires_grad_()
            p.grad = torch.from_numpy(given[f"g.{name}"].copy())
        optimizer = _optimizer(case, params, way)

        def update() -> None:
            if case.clipped:
                nn.utils.clip_grad_norm_(params, CLIP, foreach=True)
            optimizer.step()

        return params, update if wrap is None else wrap(update)

    _, update = update_of(wrap)

    def results() -> list[torch.Tensor]:
        checked, own = update_of(wrap)
        for _ in range(CHECKED):
            own()
        return checked

    def restore(name: str, result: torch.Tensor) -> NDArray:
        array: NDArray = result.detach().numpy()
        return array

    return Form({"both": update}, restore, {"both": results})


def _optimizer(case: Update, params: list[torch.Tensor], way: Mapping[str, bool]) -> Any:
    match case.rule:
        case "SGD":
            return torch.optim.SGD(params, RATE, momentum=MOMENTUM, **way)
        case "Adam":
            return torch.optim.Adam(params, RATE, BETAS, EPS, **way)
        case "AdamW":
            return torch.optim.AdamW(params, RATE, BETAS, EPS, weight_decay=DECAY, **way)
    return torch.optim.RMSprop(params, RATE, ALPHA, EPS, **way)
