"""The inputs of a case, the same in every process, and its results in float64, in plain NumPy.

It shares no code with what it judges: a convolution is one matrix product a sample here, over the
values that its windows meet, laid out at length.
"""

import itertools
import math
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from .cases import Case, Convolution

NDArray = npt.NDArray[Any]

TOLERANCE: Final = {"float32": 1e-4, "float64": 1e-12}
"""The most that ‖result - reference‖ / ‖reference‖ may be; fewer bits than float32's show."""


def inputs(case: Case) -> dict[str, NDArray]:
    """Return x, weight, bias (if there is one) and dy, random, in Lamina's layout."""
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    dtype = np.float32 if case.dtype == "float32" else np.float64
    return {
        "dy" if name == "y" else name: rng.standard_normal(shape, dtype)
        for name, shape in case.shapes.items()
    }


def results(case: Case, given: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Return y, dx and the gradients of weight and bias in float64."""
    exact = {name: array.astype(np.float64) for name, array in given.items()}
    if isinstance(case, Convolution):
        found = _convolution(case, exact["x"], exact["weight"], exact["dy"])
    else:
        x, weight, dy = exact["x"], exact["weight"], exact["dy"]
        found = {"y": x @ weight, "dx": dy @ weight.T, "weight": x.T @ dy}
    if "bias" in exact:
        found["y"] += exact["bias"]
        found["bias"] = exact["dy"].sum(axis=tuple(range(exact["dy"].ndim - 1)))
    return found


def distance(found: NDArray, exact: NDArray) -> float:
    """Return ‖found - exact‖ / ‖exact‖; infinite where shapes differ."""
    if found.shape != exact.shape:
        return math.inf
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def _convolution(case: Convolution, x: NDArray, weight: NDArray, dy: NDArray) -> dict[str, NDArray]:
    G, c, o = case.groups, case.inputs // case.groups, case.outputs // case.groups
    spans = tuple((k - 1) * d + 1 for k, d in zip(case.kernel, case.dilation, strict=True))
    outs = dy.shape[1:-1]
    # Matrices of a group: (K, c, G, o) -> (G, K c, o)
    matrices = weight.reshape(-1, c, G, o).transpose(2, 0, 1, 3).reshape(G, -1, o)
    y, dx, dmatrices = np.empty_like(dy), np.empty_like(x), np.zeros_like(matrices)
    inside = tuple(
        slice(before, before + n) for (before, _), n in zip(case.padding, case.sizes, strict=True)
    )
    for n in range(case.batch):
        padded = np.pad(x[n], (*case.padding, (0, 0)))
        windows: NDArray = sliding_window_view(padded, spans, axis=tuple(range(case.rank)))
        by_stride = (slice(None, None, s) for s in case.stride)
        by_dilation = (slice(None, None, d) for d in case.dilation)
        windows = windows[(*by_stride, slice(None), *by_dilation)]  # (*Q, C, *K)
        values = windows.reshape(math.prod(outs), G, c, -1).transpose(1, 0, 3, 2)
        rows = values.reshape(G, math.prod(outs), -1)  # (G, Q, K c)
        dy_n = dy[n].reshape(-1, G, o).transpose(1, 0, 2)
        y[n] = (rows @ matrices).transpose(1, 0, 2).reshape(y[n].shape)
        dmatrices += rows.transpose(0, 2, 1) @ dy_n
        drows = (dy_n @ matrices.transpose(0, 2, 1)).reshape(G, *outs, -1, c)
        dpadded = np.zeros_like(padded)
        for k, tap in enumerate(itertools.product(*map(range, case.kernel))):
            met = tuple(
                slice(k_i * d, k_i * d + (q - 1) * s + 1, s)
                for k_i, d, q, s in zip(tap, case.dilation, outs, case.stride, strict=True)
            )
            part = np.moveaxis(drows[..., k, :], 0, -2)  # (*Q, G, c)
            dpadded[met] += part.reshape(*outs, G * c)
        dx[n] = dpadded[inside]
    dweight = dmatrices.reshape(G, -1, c, o).transpose(1, 2, 0, 3).reshape(weight.shape)
    return {"y": y, "dx": dx, "weight": dweight}
