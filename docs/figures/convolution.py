"""A kernel of 3 x 3 sliding over an image of one channel, and the gradient going back."""

from itertools import product
from typing import Any

import numpy as np

import lamina as lm

KERNELS = {
    "edges, left to right": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "edges, top to bottom": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
    "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
    "sum of the neighbours": [[1, 1, 1], [1, 0, 1], [1, 1, 1]],
    "nothing (identity)": [[0, 0, 0], [0, 1, 0], [0, 0, 0]],
}
IMAGE = "0000000003300000330000003300000330000003300000000"


def data() -> dict[str, Any]:
    """Return the kernels."""
    return {"kernels": KERNELS}


def compute(state: dict[str, Any]) -> dict[str, Any]:
    """Return y, and dx where dy = y: the gradient of half the sum of y²."""
    x = np.array([float(c) for c in state["image"]]).reshape(1, 7, 7, 1)
    weight = np.array(KERNELS[state["kernel"]], float).reshape(3, 3, 1, 1)
    options = {k: state[k] for k in ("stride", "padding", "dilation")}
    y, cache = lm.convolution.formula.forward(x, weight, **options)
    dx, _ = lm.convolution.formula.backward(y, cache)
    return {"y": y[0, :, :, 0].tolist(), "dx": dx[0, :, :, 0].tolist()}


def checks() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return every setting of the controls, on the image that is there and on one at random."""
    rng = np.random.default_rng(0)
    found = []
    for kernel, stride, padding, dilation in product(KERNELS, (1, 2, 3), (0, 1, 2), (1, 2)):
        for image in (IMAGE, "".join(map(str, rng.integers(0, 4, 49)))):
            state = {
                "image": image,
                "kernel": kernel,
                "stride": stride,
                "padding": padding,
                "dilation": dilation,
            }
            found.append((state, compute(state)))
    return found
