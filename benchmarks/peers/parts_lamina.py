"""Losses and optimizers as a user of Lamina calls them."""

from collections.abc import Mapping

import numpy as np

from ..losses import Loss
from ..optimizers import CHECKED, Update
from .runner import Form, NDArray


def forms(case: Loss | Update, given: Mapping[str, NDArray]) -> dict[str, Form]:
    """Return the loss with its gradient, or an update."""
    return {"layer": _loss(case, given) if isinstance(case, Loss) else _update(case, given)}


def _loss(case: Loss, given: Mapping[str, NDArray]) -> Form:
    loss, x, target = case.loss_of(), given["x"], given["target"]
    return Form({"both": lambda: loss(x, target)}, _array)


def _update(case: Update, given: Mapping[str, NDArray]) -> Form:
    def fresh() -> dict[str, NDArray]:
        return {name: given[name].copy() for name in case.shapes}

    grads = {name: given[f"g.{name}"] for name in case.shapes}
    params, optimizer = fresh(), case.optimizer_of()

    def results() -> list[NDArray]:
        checked, own = fresh(), case.optimizer_of()
        for _ in range(CHECKED):
            own.step(checked, grads)
        return list(checked.values())

    return Form({"both": lambda: optimizer.step(params, grads)}, _array, {"both": results})


def _array(name: str, found: NDArray) -> NDArray:
    return np.asarray(found)
