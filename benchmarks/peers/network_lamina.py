"""Whole networks as a user of Lamina trains and calls them."""

from collections.abc import Mapping

import lamina as lm

from ..networks import Network, without_dropout
from .runner import Form, NDArray

OPTIMIZERS = {"adam": lambda: lm.Adam(1e-7), "momentum": lambda: lm.SGD(1e-7, momentum=0.9)}


def forms(case: Network, given: Mapping[str, NDArray]) -> dict[str, Form]:
    """Return the inference model or a step of training."""
    model, x, target = case.layer_of(given), given["x"], given["target"]
    lengths = given.get("lengths")
    options = {} if lengths is None else {"lengths": lengths}
    if case.which == "forward":
        fixed = model.for_inference()
        return {"layer": Form({"forward": lambda: fixed(x, **options)}, _same)}
    loss, optimizer = lm.CrossEntropy(), OPTIMIZERS[case.of.optimizer]()

    def step() -> float:  # holds nothing of `given` that it does not use
        y, cache = model.forward(x, **options, training=True)
        value, dy = loss(y, target, lengths)
        optimizer.step(model.params, model.gradients(dy, cache))
        return value

    def results() -> list[NDArray]:
        checked = without_dropout(case.layer_of(given))
        y, cache = checked.forward(x, **options, training=True)
        _, grads = checked.backward(loss(y, target, lengths)[1], cache)
        return [y, *(grads[name] for name in case.parameters)]

    return {"layer": Form({"both": step}, _same, {"both": results})}


def _same(name: str, array: NDArray) -> NDArray:
    return array
