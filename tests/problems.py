"""Random arguments of the kernels of Linear and the convolutions, and what they must give.

Kernels are held against their formulas in float64 by the bound on the rounding of a sum of n
products, |fl(Σ a b) - Σ a b| <= n ε Σ |a| |b|, element by element (N. J. Higham, *Accuracy and
Stability of Numerical Algorithms*, sec. 3.1). The formulas on absolute values give Σ |a| |b|.
"""

import contextlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from contract import EPS, assert_same
from lamina.arrays import mask_steps
from lamina.convolution import formula as convolution_formula
from lamina.convolution import kernel as convolution_kernel
from lamina.convolution import winograd
from lamina.convolution.transposed import formula as transposed_formula
from lamina.convolution.transposed import kernel as transposed_kernel
from lamina.engine import program, threads
from lamina.linear import formula as linear_formula
from lamina.linear import kernel as linear_kernel
from lamina.windows import MODES, Windows, each, pairs

LAYERS = {
    "linear": (linear_kernel, linear_formula),
    "convolution": (convolution_kernel, convolution_formula),
    "transposed": (transposed_kernel, transposed_formula),
}
LAYOUTS = ("plain", "transposed", "strided", "reversed", "read-only", "misaligned")


@dataclass(frozen=True)
class Problem:
    """Shapes and options of one call of a layer's functions."""

    layer: str
    x: tuple[int, ...]
    weight: tuple[int, ...]
    dtype: str = "float32"
    bias: bool = True
    lengths: tuple[int, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def arrays(self, seed: int = 0) -> dict[str, Any]:
        """Return the arrays of `forward`."""
        rng = np.random.default_rng(seed)
        shapes = {"x": self.x, "weight": self.weight}
        shapes |= {"bias": self.y[-1:]} if self.bias else {}
        arrays = {n: rng.standard_normal(s).astype(self.dtype) for n, s in shapes.items()}
        return arrays | ({} if self.lengths is None else {"lengths": np.array(self.lengths)})

    @property
    def y(self) -> tuple[int, ...]:
        """The shape of y."""
        if self.layer == "linear":
            return (*self.x[:-1], self.weight[-1])
        if self.layer == "transposed":
            sizes = self.windows.inputs(self.x[1:-1], self.options["output_padding"])
            return (self.x[0], *sizes, self.weight[-2] * self.options["groups"])
        return (self.x[0], *self.windows.outputs(self.x[1:-1]), self.weight[-1])

    @property
    def windows(self) -> Windows:
        rank = len(self.x) - 2
        stride, dilation = (each(self.options.get(n, 1), rank) for n in ("stride", "dilation"))
        pads = pairs(self.options.get("padding", 0), rank)
        return Windows(self.weight[:rank], stride, dilation, pads)

    @property
    def products(self) -> int:
        """How many products the sums of y have in all."""
        positions = self.x if self.layer == "transposed" else self.y
        return math.prod(positions[:-1]) * math.prod(self.weight)

    @property
    def may_be_winograd(self) -> bool:
        """Whether it is a convolution that Winograd's products may compute."""
        *taps, c, o = self.weight
        return len(taps) > 1 and winograd.fits((1, *taps[-2:], c, o), 1, (1, 1, 1), (1, 1, 1))

    @property
    def terms(self) -> dict[str, int]:
        """How many products the longest sum of each result has."""
        groups, taps = self.options.get("groups", 1), math.prod(self.weight[:-2])
        rows = math.prod(self.y[:-1])
        repeats = 0  # padding that repeats x adds up in dx
        if self.options.get("padding_mode", "zeros") != "zeros":
            repeats = math.prod(1 + sum(pad) for pad in self.windows.pads)
        there, back = taps * self.weight[-2], taps * self.weight[-1] // groups
        if self.layer == "transposed":
            there, back = back, there
        return {"y": there + 1, "dx": back + repeats, "weight": rows, "bias": rows}


def passes(module: Any, problem: Problem, arrays: dict[str, Any], dy: Any) -> dict[str, Any]:
    """y, dx and the gradients, by a kernel or a formula."""
    y, cache = module.forward(**arrays, **problem.options)
    dx, grads = module.backward(dy, cache)
    return {"y": y, "dx": dx, **grads}


def inferred(problem: Problem, arrays: dict[str, Any], relu: bool) -> list[np.ndarray]:
    """Y from weights that were prepared beforehand, called and, where it can be, planned."""
    kernel, options = LAYERS[problem.layer][0], dict(problem.options)
    padding = ()
    if problem.layer == "convolution":
        options.pop("padding", None)
        padding = (problem.windows.pads,)
    run = kernel.fixed(arrays["weight"], arrays.get("bias"), relu, **options)
    found = [run(arrays["x"], arrays.get("lengths"), *padding)]
    if problem.lengths is None and 0 not in problem.x and len(problem.x) > 1:
        plan = program.Plan(problem.x, np.dtype(problem.dtype))
        with contextlib.suppress(program.PlanError):
            found.append(program.Program(plan, run.plan(plan, 0, *padding))(arrays["x"]))
    return found


def random_dy(problem: Problem, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, 1])
    return rng.standard_normal(problem.y).astype(problem.dtype)


def check(problem: Problem, seed: int = 0, layouts: tuple[str, ...] = ("plain",)) -> None:
    """Hold the kernels of a problem against its formulas.

    x, weight, bias and dy take the `layouts` in turn.
    """
    kernel, formula = LAYERS[problem.layer]
    arrays, dy = problem.arrays(seed), random_dy(problem, seed)
    given = {
        n: lay_out(a, layouts[i % len(layouts)]) if n != "lengths" else a
        for i, (n, a) in enumerate(arrays.items())
    }
    before = {n: a.copy() for n, a in given.items()}
    given_dy = lay_out(dy, layouts[len(arrays) % len(layouts)])
    found = passes(kernel, problem, given, given_dy)
    for name, a in before.items():
        np.testing.assert_array_equal(given[name], a, err_msg=f"{name} was written to")
    np.testing.assert_array_equal(given_dy, dy, err_msg="dy was written to")

    wide = {n: a.astype(np.float64) if n != "lengths" else a for n, a in arrays.items()}
    expected = passes(formula, problem, wide, dy.astype(np.float64))
    absolute = {n: np.abs(a) for n, a in wide.items()}
    size = passes(formula, problem, absolute, np.abs(dy.astype(np.float64)))
    for relu in (False, True) if hasattr(kernel, "fixed") else ():
        y = np.maximum(found["y"], 0) if relu else found["y"]
        for prepared in inferred(problem, given, relu):
            assert_same(prepared, y, "y from prepared weights")
    assert found.keys() == expected.keys()
    for name, a in found.items():
        assert (a.shape, a.dtype) == (expected[name].shape, problem.dtype), name
        assert a.flags.c_contiguous, name
        # Products that many results share give errors as large as the largest of these allows.
        scale = size[name]
        if problem.may_be_winograd and name != "bias":
            scale = np.max(scale, initial=0)
        bound = (problem.terms[name] + 2) * EPS[np.dtype(problem.dtype)] * scale
        assert np.all(np.abs(a - expected[name]) <= bound), (
            f"{name} of {problem}: off by {np.max(np.abs(a - expected[name]) - bound)}"
        )
    if problem.lengths is not None:
        assert not (found["dx"] - mask_steps(found["dx"], arrays["lengths"])).any()


def lay_out(a: np.ndarray, layout: str) -> np.ndarray:
    """Return an array equal to a that lies otherwise in memory."""
    if layout == "transposed":
        return np.asfortranarray(a)
    if layout == "strided":
        return np.repeat(a, 2, axis=-1)[..., ::2]
    if layout == "reversed":
        return np.ascontiguousarray(a[::-1])[::-1]
    if layout == "misaligned":
        memory = np.empty(a.nbytes + 1, np.uint8)
        other = memory[1:].view(a.dtype).reshape(a.shape)
        other[...] = a
        return other
    other = a.copy()
    other.flags.writeable = layout != "read-only"
    return other


# Inside the kernels


def modules() -> list[Any]:
    """Return the modules that kernels consist of."""
    layers = (
        "engine",
        "linear",
        "convolution",
        "batchnorm",
        "dropout",
        "rnn",
        "lstm",
        "gru",
        "parts",
        "train",
    )
    packages = tuple(f"lamina.{layer}." for layer in layers)
    return [module for name, module in sorted(sys.modules.items()) if name.startswith(packages)]


def cut(parts: int, set: Callable[[Any, str, Any], Any] = setattr) -> None:
    """Let kernels cut the smallest work to so many parts on any machine, and copy it to panels."""
    set(threads, "count", lambda: parts)
    for module in modules():
        for name, value in (
            ("SERIAL", 0), ("count_threads", lambda: parts), ("REUSED", 0), ("COPIED", 1),
            ("SOME", 1), ("TILES", 1), ("STREAM", 1), ("STRIP", 512), ("FAR", 128), ("ALONE", 0),
            ("POSITIONS", 24),
        ):  # fmt: skip
            if hasattr(module, name):
                set(module, name, value)
    forget()


def forget() -> None:
    """Let kernels plan anew."""
    for module in modules():
        for name in (
            "_back", "_bound", "_chosen", "_dw", "_dw_of_one", "_dx", "_pass",
            "_pass_back", "_plan", "_plan_dw", "_plan_dx",
            "_products", "_y", "layout", "product",
        ):  # fmt: skip
            if hasattr(plans := getattr(module, name, None), "cache_clear"):
                plans.cache_clear()


# Random problems


def ragged(rng: Any, most: int) -> int:
    """A size, more often than not one next to a tile's edge."""
    edges = [n + d for n in (2, 4, 8, 16, 32, 64, 128, 256) for d in (-1, 0, 1)]
    near = [n for n in edges if n <= most]
    return int(rng.choice(near)) if near and rng.random() < 0.6 else int(rng.integers(1, most + 1))


def linear(rng: Any, most: int = 80) -> Problem:
    """A Linear layer and its input, sizes up to `most`; a few are several blocks large."""
    i, o, rows = (
        int(rng.integers(1, 12 * most)) if rng.random() < 0.04 else ragged(rng, most)
        for _ in range(3)
    )
    axes = int(rng.integers(0, 4))
    leading = (*(int(n) for n in rng.integers(1, 5, axes - 1)), rows) if axes else ()
    if rng.random() < 0.05:
        leading = (0, *leading)
    lengths = None
    if axes > 1 and rng.random() < 0.3:
        lengths = tuple(int(n) for n in rng.integers(0, leading[1] + 1, leading[0]))
    dtype = str(rng.choice(["float32", "float64"]))
    return Problem("linear", (*leading, i), (i, o), dtype, bool(rng.random() < 0.8), lengths)


def convolution(rng: Any, most: int = 40) -> Problem:
    """A convolution that fits its input, channels up to `most`, fewer for three axes."""
    rank = int(rng.integers(1, 4))
    most = max(2, most // (1, 1, 4)[rank - 1])
    c, o = ragged(rng, most), ragged(rng, 2 * most)
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    if rng.random() < 0.25:  # depthwise, often with a multiplier
        groups, c, o = ragged(rng, most), 1, int(rng.choice([1, 1, 2, 3]))
    mode = str(rng.choice(MODES)) if rng.random() < 0.5 else "zeros"
    by_winograd = rank > 1 and rng.random() < 0.3
    if by_winograd:
        groups, c, o = 1, *(winograd.FEWEST + ragged(rng, most) for _ in range(2))
    kernel, stride, dilation, pads, sizes = [], [], [], [], []
    for axis in range(rank):
        k, s, d = (int(n) for n in rng.integers(1, (6, 4, 4)))
        if by_winograd:
            s, d = 1, min(d, winograd.FARTHEST)
            if axis >= rank - 2:
                k = int(rng.choice([3, 3, *winograd.AXES]))
        pair = tuple(int(n) for n in rng.integers(0, 7, 2) * rng.integers(0, 2, 2))
        fits = max((k - 1) * d + 1 - sum(pair), 1)
        if mode != "zeros":
            fits = max(fits, max(pair) + 1)
        kernel.append(k), stride.append(s), dilation.append(d), pads.append(pair)
        sizes.append(fits + int(rng.integers(0, (40, 20, 5)[rank - 1])))
    if rng.random() < 0.1:
        sizes[-1] *= int(rng.integers(1, (40, 10, 4)[rank - 1]))  # several strips or blocks
    n = int(rng.integers(1, 4))
    if rng.random() < 0.05:
        n, sizes[0] = (0, sizes[0]) if mode != "zeros" or rng.random() < 0.5 else (n, 0)
    lengths = None
    if rank == 1 and mode == "zeros" and rng.random() < 0.3:
        lengths = tuple(int(t) for t in rng.integers(0, sizes[0] + 1, n))
    options = {
        "stride": tuple(stride),
        "dilation": tuple(dilation),
        "padding": tuple(pads),
        "padding_mode": mode,
        "groups": groups,
    }
    return Problem(
        "convolution",
        (n, *sizes, groups * c),
        (*kernel, c, groups * o),
        str(rng.choice(["float32", "float64"])),
        bool(rng.random() < 0.8),
        lengths,
        options,
    )


def turned(problem: Problem) -> Problem:
    """Return the transposed convolution from y of a convolution to x, whose padding is of zeros."""
    windows, n = problem.windows, len(problem.x) - 2
    least = windows.inputs(problem.y[1:-1], (0,) * n)
    more = tuple(size - m for size, m in zip(problem.x[1:-1], least, strict=True))
    lengths = problem.lengths
    if lengths is not None:
        lengths = tuple(windows.output_lengths(np.array(lengths)).tolist())
    options = {
        "stride": windows.stride,
        "dilation": windows.dilation,
        "padding": windows.pads,
        "output_padding": more,
        "groups": problem.options.get("groups", 1),
    }
    return Problem(
        "transposed", problem.y, problem.weight, problem.dtype, problem.bias, lengths, options
    )


def transposed(rng: Any, most: int = 40) -> Problem:
    """A transposed convolution."""
    return turned(convolution(rng, most))


MAKES = (linear, convolution, transposed)


def sweep(seed: int, counts: tuple[int, ...], most: int = 40, products: float = math.inf) -> None:
    """Check random problems, so many of each of `MAKES`, of at most so many `products`."""
    rng = np.random.default_rng(seed)
    for make, count in zip(MAKES, counts, strict=True):
        for i in range(count):
            while (problem := make(rng, most)).products > products:
                pass
            check(problem, i, tuple(rng.permutation(LAYOUTS)) if i % 2 else ("plain",))
