"""`lm.check`: whether a layer's gradients are right, and its kernels do what its formula does."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .arguments import FLOATS, as_array
from .initializers import RNG, generator
from .kernels import formulas
from .layer import Layer, as_pair, check_layer

NDArray = npt.NDArray[Any]

GRADIENT_TOLERANCE = 1e-6
"""Relative, in float64 with the step below: central differences are right to about 1e-9."""
STEP = 1e-5
TWIN_TOLERANCE = 256
"""In units of the dtype's eps, relative to the largest value of the array in question."""
FLOOR = 1e-2
"""A gradient smaller than this share of |y u|, and in the twin of the largest gradient, is compared
as if it were as large: one that is 0 by cancelling (of a bias before BatchNorm) is rounding, and
has no relative error."""


@dataclass(frozen=True)
class Finding:
    """One comparison: what was compared, the relative error found, the one allowed."""

    name: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the error is small enough; NaN is not."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Report:
    """What `check` found for one layer; its text is a line a comparison."""

    layer: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every comparison held."""
        return all(finding.ok for finding in self.findings)

    def __repr__(self) -> str:
        width = max(len(f.name) for f in self.findings)
        lines = [
            f"  {'ok  ' if f.ok else 'FAIL'}  {f.name:<{width}}  error {f.error:.1e}  "
            f"(allowed {f.tolerance:.1e})"
            for f in self.findings
        ]
        return "\n".join([self.layer, *lines])


class CheckError(AssertionError):
    """A layer failed `check`; the message is the whole report."""


def check(
    layer: Layer,
    x: npt.ArrayLike,
    *,
    lengths: npt.ArrayLike | None = None,
    training: bool = True,
    rng: RNG = 0,
) -> Report:
    r"""Check a layer's gradients, and what it computes against its formula in float64.

    With :math:`L = \langle y, u \rangle` for a random u, `backward(u)` must give the gradient of L.
    For each of x and the parameters p, along a random direction v,

    .. math::
        \langle \partial L / \partial p, v \rangle \approx
        \frac{L(p + h v) - L(p - h v)}{2 h}, \quad h = 10^{-5} \max(1, \max |p|),

    is compared in float64, by the layer's formula where it has one. The *twin* then holds y, dx and
    the gradients that the layer computes, by its kernels where it has them, in float64 and in
    float32, against these. The layer itself is left as it is.

    Parameters
    ----------
    layer : Layer
        Of Lamina, or your own.
    x : array
        An input, of a few elements to a few thousand. Integers (as Embedding takes) have no dx.
    lengths : integer array, optional
    training : bool
        Check the pass of training or that of inference.
    rng : int, numpy.random.Generator or None
        Draws u and v.

    Returns
    -------
    Report
        With every comparison and its error.

    Raises
    ------
    CheckError
        A gradient or the twin is off, and the message is the report; or an array that the layer
        gave is missing or of another shape or dtype, or one that it was given is changed.

    References
    ----------
    A. Griewank, A. Walther, *Evaluating Derivatives* (2008), sec. 1.1: central differences.

    Examples
    --------
    >>> from lamina import Linear
    >>> report = check(Linear(3, 2, rng=0), np.ones((4, 3), np.float32))
    >>> report.ok
    True
    """
    rng = generator(rng).spawn(1)[0]  # or else x drawn from the same seed would be u
    check_layer("check", layer)
    x = as_array("check", "x", x)
    options: dict[str, Any] = {"training": training}
    if lengths is not None:
        options["lengths"] = np.asarray(lengths)

    with formulas():
        formula = _Probe(layer, x, options, np.float64)
        u = rng.standard_normal(formula.y.shape)
        exact = formula.gradients(u)
        floor = FLOOR * float(np.sqrt(np.sum((formula.y * u) ** 2)))
        findings = [
            Finding(
                f"gradient of {name}",
                _difference(formula, name, g, u, floor, rng),
                GRADIENT_TOLERANCE,
            )
            for name, g in exact.items()
        ]

    floor = max([floor, *(FLOOR * float(np.max(np.abs(g), initial=0)) for g in exact.values())])
    for dtype in FLOATS:
        twin = _Probe(layer, x, options, dtype)
        grads = twin.gradients(u)
        allowed = TWIN_TOLERANCE * float(np.finfo(dtype).eps)
        findings.append(Finding(f"{dtype} y", _distance(twin.y, formula.y), allowed))
        findings += [
            Finding(f"{dtype} gradient of {name}", _distance(grads[name], g, floor), allowed)
            for name, g in exact.items()
        ]

    report = Report(repr(layer), tuple(findings))
    if not report.ok:
        raise CheckError(str(report))
    return report


class _Probe:
    """A layer at a point: every pass starts from the same buffers, so Dropout drops the same."""

    def __init__(
        self, layer: Layer, x: NDArray, options: Mapping[str, Any], dtype: npt.DTypeLike
    ) -> None:
        self.layer = layer.astype(dtype)
        self.x = x.astype(dtype) if x.dtype.kind == "f" else x
        self.options, self.dtype = options, np.dtype(dtype)
        self.y, self.cache = self._forward(self.layer, self.x)
        self._fits("y", self.y, self.y.shape)

    def _forward(self, layer: Layer, x: NDArray) -> tuple[NDArray, Any]:
        before = x.copy()
        pair = as_pair(layer, "forward", copy.deepcopy(layer).forward(x, **self.options))
        self._unchanged("forward wrote into x", x, before)
        return pair

    @property
    def arrays(self) -> dict[str, NDArray]:
        """Return what y can be differentiated by: the parameters, and x where it is no integers."""
        return ({"x": self.x} if self.x.dtype.kind == "f" else {}) | self.layer.params

    def gradients(self, u: NDArray) -> dict[str, NDArray]:
        """Return the gradients of <y, u> by name."""
        x, dy = self.x.copy(), u.astype(self.dtype)
        dx, grads = as_pair(self.layer, "backward", self.layer.backward(dy, self.cache))
        self._unchanged("backward wrote into dy", dy, u.astype(self.dtype))
        self._unchanged("backward wrote into x", self.x, x)
        unknown = sorted(set(grads) - set(self.layer.params))
        if unknown:
            raise CheckError(
                f"{self.layer!r}: backward gave gradients for no parameter: {unknown}; "
                f"layer.params has {', '.join(self.layer.params) or 'none'}, and what is trained "
                "belongs there"
            )
        found = {"x": dx, **grads}
        for name, a in self.arrays.items():
            if found.get(name) is None:
                raise CheckError(f"{self.layer!r}: backward gave no gradient of {name}")
            self._fits(f"the gradient of {name}", found[name], a.shape)
        return {name: found[name] for name in self.arrays}

    def _unchanged(self, what: str, a: NDArray, before: NDArray) -> None:
        if not np.array_equal(a, before, equal_nan=True):
            raise CheckError(f"{self.layer!r}: {what}; work on a copy")

    def _fits(self, what: str, a: NDArray, shape: tuple[int, ...]) -> None:
        if a.shape != shape:
            raise CheckError(f"{self.layer!r}: {what} has shape {a.shape}, expected {shape}")
        if a.dtype != self.dtype:
            raise CheckError(
                f"{self.layer!r}: {what} has dtype {a.dtype}, expected {self.dtype}, "
                "that of x and the parameters"
            )

    def loss(self, name: str, value: NDArray, u: NDArray) -> float:
        """Return <y, u> with x or a parameter replaced by `value`."""
        if name == "x":
            return float(np.sum(self._forward(self.layer, value)[0] * u))
        layer = copy.deepcopy(self.layer)
        layer.assign({name: value})
        return float(np.sum(self._forward(layer, self.x)[0] * u))


def _difference(
    probe: _Probe,
    name: str,
    gradient: NDArray,
    u: NDArray,
    floor: float,
    rng: np.random.Generator,
) -> float:
    """Return the relative error of a gradient along a random direction."""
    p = probe.arrays[name]
    if p.size == 0:
        return 0.0
    v = rng.standard_normal(p.shape)
    h = STEP * max(1.0, float(np.max(np.abs(p))))
    numeric = (probe.loss(name, p + h * v, u) - probe.loss(name, p - h * v, u)) / (2 * h)
    analytic = float(np.sum(gradient * v))
    # The size of the terms: a sum that cancels to nothing has no relative error of its own.
    scale = max(float(np.sqrt(np.sum((gradient * v) ** 2))), abs(analytic), floor)
    return abs(numeric - analytic) / (scale or 1.0)


def _distance(a: NDArray, b: NDArray, floor: float = 0.0) -> float:
    """Return the largest difference relative to the largest value."""
    if b.size == 0:
        return 0.0
    return float(np.max(np.abs(a - b)) / (max(np.max(np.abs(b)), floor) or 1.0))
