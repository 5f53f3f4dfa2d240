"""A kernel of 3 x 3 that each element of an image of one channel lays on y."""

from itertools import product
from typing import Any

import numpy as np

from lamina.convolution import transposed

KERNELS = {
    "all one": [[1, 1, 1], [1, 1, 1], [1, 1, 1]],
    "tent": [[1, 2, 1], [2, 4, 2], [1, 2, 1]],
    "corners": [[1, 0, 2], [0, 0, 0], [3, 0, 4]],
}


def data() -> dict[str, Any]:
    """Return the kernels."""
    return {"kernels": KERNELS}


def compute(state: dict[str, Any]) -> dict[str, Any]:
    """Return y."""
    x = np.array([float(c) for c in state["image"]]).reshape(1, 3, 3, 1)
    weight = np.array(KERNELS[state["kernel"]], float).reshape(3, 3, 1, 1)
    options = {k: state[k] for k in ("stride", "padding")}
    y, _ = transposed.formula.forward(x, weight, **options)
    return {"y": y[0, :, :, 0].tolist()}


def checks() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return every setting of the controls, on the image that is there and on one at random."""
    rng = np.random.default_rng(0)
    found = []
    for kernel, stride, padding in product(KERNELS, (1, 2, 3), (0, 1)):
        for image in ("111121111", "".join(map(str, rng.integers(0, 4, 9)))):
            state = {"image": image, "kernel": kernel, "stride": stride, "padding": padding}
            found.append((state, compute(state)))
    return found
