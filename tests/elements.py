"""Random arguments of the kernels that go over arrays element by element, and what they must give.

They are held against their formulas in float64.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

import problems
from contract import EPS, assert_same
from lamina.batchnorm import formula as batchnorm_formula
from lamina.batchnorm import kernel as batchnorm_kernel
from lamina.dropout import formula as dropout_formula
from lamina.dropout import kernel as dropout_kernel
from lamina.dropout.formula import Draw
from lamina.engine import columns, denormals, outer
from lamina.parts import (
    activations,
    activations_kernel,
    losses,
    losses_kernel,
    pooling,
    pooling_kernel,
    rows_kernel,
    sums,
    sums_kernel,
)
from lamina.train import fused
from lamina.windows import Windows
from problems import LAYOUTS, lay_out
from recurrences import recurrence


@dataclass(frozen=True)
class BatchNorm:
    """One call of BatchNorm's functions; `given` brings the statistics along."""

    x: tuple[int, ...]
    dtype: str = "float32"
    lengths: tuple[int, ...] | None = None
    given: bool = False
    affine: bool = True

    def arrays(self, seed: int = 0) -> dict[str, Any]:
        """Return the arrays of `forward`; means are large beside deviations, or are not."""
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(self.x) + 30 * rng.standard_normal(self.x[-1])
        names = ["gamma", "beta"] * self.affine + ["mean"] * self.given
        arrays = {"x": x} | {name: rng.standard_normal(self.x[-1]) for name in names}
        if self.given:
            arrays["var"] = 0.3 + rng.random(self.x[-1])
        arrays = {name: a.astype(self.dtype) for name, a in arrays.items()}
        return arrays | ({} if self.lengths is None else {"lengths": np.array(self.lengths)})

    def running(self, count: int, dtype: str) -> batchnorm_formula.Running:
        """Return running values; of one value a channel there is no unbiased variance."""
        mean, var = np.linspace(-1, 2, 2 * self.x[-1]).astype(self.dtype).reshape(2, -1)
        mean, var = mean.astype(dtype), var.astype(dtype)
        return batchnorm_formula.Running(mean, var, np.array(3), 0.75, unbiased=count > 1)

    def check(self, seed: int = 0, layouts: tuple[str, ...] = ("plain",)) -> None:
        """Hold the kernel against the formula; the arrays take the `layouts` in turn."""
        arrays = self.arrays(seed)
        dy = np.random.default_rng([seed, 1]).standard_normal(self.x).astype(self.dtype)
        given = {
            name: lay_out(a, layouts[i % len(layouts)]) if name in ("x", "gamma") else a
            for i, (name, a) in enumerate(arrays.items())
        }
        count = int(batchnorm_formula.count(arrays["x"], arrays.get("lengths")))
        if count and not self.given:
            given["running"] = self.running(count, self.dtype)
        y, cache = batchnorm_kernel.forward(**given)
        dx, grads = batchnorm_kernel.backward(lay_out(dy, layouts[-1]), cache)
        np.testing.assert_array_equal(given["x"], arrays["x"], err_msg="x was written to")

        if not self.given:  # a ReLU in the same passes
            rectified, joined = batchnorm_kernel.forward(**given, relu=True)
            assert_same(rectified, np.where(y <= 0, 0, y), "y of the ReLU")
            passed = np.where(y <= 0, 0, dy).astype(self.dtype)
            one_by_one = batchnorm_kernel.backward(passed, cache)
            at_once = batchnorm_kernel.backward(lay_out(dy, layouts[-1]), joined)
            assert_same(at_once[0], one_by_one[0], "dx through the ReLU")
            for name, g in one_by_one[1].items():
                assert_same(at_once[1][name], g, f"{name} through the ReLU")

        wide = {n: a.astype(np.float64) if n != "lengths" else a for n, a in arrays.items()}
        if "running" in given:
            wide["running"] = self.running(count, "float64")
        y_exact, exact = batchnorm_formula.forward(**wide)
        dx_exact, grads_exact = batchnorm_formula.backward(dy.astype(np.float64), exact)
        # dx may be a small difference of large terms.
        slope = np.abs(exact.scale * (1 if exact.gamma is None else exact.gamma))
        terms = np.max(np.abs(exact.normalized), initial=1) * np.max(np.abs(dy), initial=0)
        large = np.max(slope) * terms
        for name, found, expected, size in (
            ("y", y, y_exact, np.max(np.abs(y_exact), initial=0)),
            ("dx", dx, dx_exact, large),
            *((n, grads[n], g, 10 + terms) for n, g in grads_exact.items()),
            ("mean", cache.mean, exact.mean, np.max(np.abs(exact.mean))),
            ("var", cache.var, exact.var, np.max(exact.var)),
            *(
                (f"running value {i}", cache.running[i], a, 1 + np.max(np.abs(a)))
                for i, a in enumerate(exact.running or ())
            ),
        ):
            assert (found.shape, found.dtype) == (expected.shape, self.dtype), name
            off = np.max(np.abs(found - expected), initial=0)
            assert off <= 100 * EPS[np.dtype(self.dtype)] * size, f"{name} of {self}: off by {off}"


def batchnorm(rng: Any, most: int = 140) -> BatchNorm:
    """A batch of some rows and channels, some of them images or sequences."""
    channels, rows = (problems.ragged(rng, most) for _ in range(2))
    if rng.random() < 0.2:
        rows *= int(rng.integers(1, 40))
    leading = (rows,)
    if rng.random() < 0.5:
        leading = (int(rng.integers(1, 5)), int(rng.integers(1, 12)), int(rng.integers(1, 9)))
    lengths = None
    if len(leading) > 1 and rng.random() < 0.4:
        lengths = tuple(int(n) for n in rng.integers(0, leading[1] + 1, leading[0]))
    return BatchNorm(
        (*leading, channels),
        str(rng.choice(["float32", "float64"])),
        lengths,
        bool(rng.random() < 0.3),
        bool(rng.random() < 0.8),
    )


@dataclass(frozen=True)
class Dropout:
    """One call of Dropout's functions, by a mask that is drawn or, if `given`, brought along."""

    x: tuple[int, ...]
    rate: float = 0.5
    dtype: str = "float32"
    mode: str = "inverted"
    lengths: tuple[int, ...] | None = None
    shared_axes: tuple[int, ...] = ()
    named: bool = False
    given: bool = False

    def check(self, seed: int = 0, layouts: tuple[str, ...] = ("plain",)) -> None:
        """Hold the kernel to the bits of the formula."""
        rng = np.random.default_rng(seed)
        x, dy = (rng.standard_normal(self.x).astype(self.dtype) for _ in range(2))
        key, call = rng.integers(2**32, size=2, dtype=np.uint32), int(rng.integers(2**40))
        ids = rng.integers(0, 2**63, self.x[0]) if self.named else None
        draw = Draw(self.x, self.rate, key, call, self.shared_axes, ids)
        keep = dropout_formula.mask(draw) if self.given else draw
        lengths = None if self.lengths is None else np.array(self.lengths)
        arguments = keep, self.rate, self.mode, lengths
        y, cache = dropout_kernel.forward(lay_out(x, layouts[0]), *arguments)
        dx, _ = dropout_kernel.backward(lay_out(dy, layouts[-1]), cache)
        y_exact, exact = dropout_formula.forward(x, *arguments)
        assert_same(y, y_exact, f"y of {self}")
        assert_same(dx, dropout_formula.backward(dy, exact)[0], f"dx of {self}")
        assert_same(dropout_kernel.mask(keep), exact.keep, f"mask of {self}")

        if not (self.given or self.shared_axes or self.mode == "alpha"):  # a ReLU in the same pass
            rectified, off = activations.relu(x)
            y, cache = dropout_kernel.forward(lay_out(x, layouts[0]), *arguments, relu=True)
            dx, _ = dropout_kernel.backward(lay_out(dy, layouts[-1]), cache)
            y_exact, exact = dropout_formula.forward(rectified, *arguments)
            passed = dropout_formula.backward(dy, exact)[0]
            assert_same(y, y_exact, f"y of {self} after a ReLU")
            assert_same(dx, activations.relu_backward(passed, off), f"dx of {self} after a ReLU")


def dropout(rng: Any, most: int = 140) -> Dropout:
    """Samples of one to three axes; every other mask has shared axes or is given."""
    axes = int(rng.integers(1, 4))
    shape = (*(int(n) for n in rng.integers(1, 7, axes)), problems.ragged(rng, most))
    if rng.random() < 0.1:
        shape = (2, int(rng.integers(8000, 20000)))
    shared = tuple(int(a) for a in range(len(shape)) if rng.random() < 0.2)
    lengths = None
    if len(shape) > 2 and rng.random() < 0.4:
        lengths = tuple(int(n) for n in rng.integers(0, shape[1] + 1, shape[0]))
    return Dropout(
        shape,
        float(rng.choice([0, 0.01, 0.5, 0.9, 1])),
        str(rng.choice(["float32", "float64"])),
        str(rng.choice(["inverted", "classic", "alpha"])),
        lengths,
        shared,
        bool(rng.random() < 0.5),
        bool(rng.random() < 0.2),
    )


@dataclass(frozen=True)
class Update:
    """One update of a parameter by an optimizer's rule, and the sums over its gradient."""

    rule: str
    size: int
    dtype: str = "float32"

    def check(self, seed: int = 0, layouts: tuple[str, ...] = ("plain",)) -> None:
        """Hold the kernel against the rule in float64; memory is always contiguous."""
        rng = np.random.default_rng(seed)
        slots, count = {"sgd": (0, 1), "adam": (2, 7)}.get(self.rule, (1, 4))
        arrays = [rng.random(self.size).astype(self.dtype) for _ in range(2 + slots)]
        numbers = 0.1 + rng.random(3 + count)
        value, gradient, *own = (a.astype(np.float64) for a in arrays)
        scale, decay, shrink, *rest = numbers.astype(self.dtype).astype(np.float64)
        gradient = scale * gradient + decay * value
        rule = {"sgd": fused._sgd, "adam": fused._adam, "rmsprop": fused._rmsprop}
        rule = rule.get(self.rule, fused._momentum)
        expected = rule(fused.Plain(), shrink * value, gradient, own, rest)
        held = [fused.np.array(a) for a in arrays]  # on guarded pages, where kernels' memory is
        before = fused.np.array(arrays[1])
        updates = fused.Updates(self.rule, held[:1], [before], [held[2:]], [0])
        assert updates.update(held[1:2], [numbers])
        assert_same(before, arrays[0], "what the parameter was")
        assert_same(held[1], arrays[1], "the gradient")
        for found, exact in zip([held[0], *held[2:]], expected, strict=True):
            np.testing.assert_allclose(found, exact, rtol=0, atol=100 * EPS[found.dtype])
        total = np.sum(arrays[1].astype(np.float64) ** 2)
        np.testing.assert_allclose(updates.squares(held[1:2]), total, rtol=1e-12)
        assert updates.zeros(held[1:2]) == 0


def update(rng: Any) -> Update:
    """A parameter of some size."""
    size = problems.ragged(rng, 300) if rng.random() < 0.7 else int(rng.integers(1, 200_000))
    return Update(
        str(rng.choice(sorted(fused.RULES))), size, str(rng.choice(["float32", "float64"]))
    )


@dataclass(frozen=True)
class Sum:
    """One call of a sum's function."""

    name: str
    x: tuple[int, ...]
    dtype: str = "float32"

    def check(self, seed: int = 0, layouts: tuple[str, ...] = ("plain",)) -> None:
        """Hold the kernel to the bits of the formula."""
        rng = np.random.default_rng(seed)
        values = np.array([-0.0, np.nan, np.inf, *rng.standard_normal(9)])
        x, y = (rng.choice(values, self.x).astype(self.dtype) for _ in range(2))
        with np.errstate(invalid="ignore"):
            expected = getattr(sums, self.name)(x, y)
        found = getattr(sums_kernel, self.name)(lay_out(x, layouts[0]), lay_out(y, layouts[-1]))
        assert_same(found, expected, f"{self}")


ACTIVATIONS = {"relu": (), "leaky_relu": (0.1,)} | dict.fromkeys(
    ("sigmoid", "tanh", "selu", "gelu", "gelu_tanh"), ()
)


@dataclass(frozen=True)
class Activation:
    """One call of an activation's functions, on values of many sizes."""

    name: str
    x: tuple[int, ...]
    dtype: str = "float32"

    def check(self, seed: int = 0, layouts: tuple[str, ...] = ("plain",)) -> None:
        """Hold the kernel against the formula in float64."""
        rng = np.random.default_rng(seed)
        scale = rng.choice([1e-3, 1, 10, 1e3], self.x)
        x, dy = (rng.standard_normal(self.x).astype(self.dtype) for _ in range(2))
        x = (x * scale).astype(self.dtype)
        (forward, backward), (exact_forward, exact_backward) = (
            (getattr(module, self.name), getattr(module, f"{self.name}_backward"))
            for module in (activations_kernel, activations)
        )
        y, cache = forward(lay_out(x, layouts[0]), *ACTIVATIONS[self.name])
        dx = backward(lay_out(dy, layouts[-1]), cache)
        y_exact, exact = exact_forward(x.astype(np.float64), *ACTIVATIONS[self.name])
        dx_exact = exact_backward(dy.astype(np.float64), exact)
        for what, found, expected in (("y", y, y_exact), ("dx", dx, dx_exact)):
            assert (found.shape, found.dtype) == (self.x, self.dtype), what
            size = np.maximum(np.abs(expected), np.abs(x) if what == "y" else np.abs(dy))
            off = np.abs(found - expected) / (size + 1e-30)
            assert np.max(off, initial=0) <= 100 * EPS[found.dtype], f"{what} of {self}"


def activation(rng: Any) -> Activation | Sum:
    """An array of one to three axes, now and then a large one; or two of them, to add."""
    shape = (*(int(n) for n in rng.integers(1, 7, rng.integers(0, 3))), problems.ragged(rng, 300))
    if rng.random() < 0.1:
        shape = (int(rng.integers(30_000, 100_000)),)
    name = str(rng.choice([*sorted(ACTIVATIONS), "add", "add_relu"]))
    kind = Activation if name in ACTIVATIONS else Sum
    return kind(name, shape, str(rng.choice(["float32", "float64"])))


@dataclass(frozen=True)
class Pool:
    """One call of a pooling's functions; ties among the elements of x are frequent."""

    name: str
    x: tuple[int, ...]
    windows: Windows | None = None
    lengths: tuple[int, ...] | None = None
    dtype: str = "float32"

    def check(self, seed: int = 0, layouts: tuple[str, ...] = ("plain",)) -> None:
        """Hold the kernel against the formula, maxima to the bit."""
        rng = np.random.default_rng(seed)
        x = rng.choice([-np.inf, *rng.standard_normal(5)], self.x).astype(self.dtype)
        if self.name.endswith(("avg", "avg_pool")):
            x = rng.standard_normal(self.x).astype(self.dtype)
        elif rng.random() < 0.3:
            x[rng.random(self.x) < 0.1] = np.nan
        options = {}
        if self.windows is not None:
            w = self.windows
            options = {"pool_size": w.size, "stride": w.stride, "padding": w.pads}
        lengths = None if self.lengths is None else np.array(self.lengths)
        (forward, backward), (exact_forward, exact_backward) = (
            (getattr(module, self.name), getattr(module, f"{self.name}_backward"))
            for module in (pooling_kernel, pooling)
        )
        y, cache = forward(lay_out(x, layouts[0]), lengths, **options)
        y_exact, exact = exact_forward(x, lengths, **options)
        dy = rng.standard_normal(y_exact.shape).astype(self.dtype)
        dx = backward(lay_out(dy, layouts[-1]), cache)
        dx_exact = exact_backward(dy, exact)

        if self.name == "max_pool":  # a ReLU in the same pass
            rectified, off = activations.relu(x)
            together, cache = forward(lay_out(x, layouts[0]), lengths, **options, relu=True)
            at_once = backward(lay_out(dy, layouts[-1]), cache)
            y_after, cache = forward(rectified, lengths, **options)
            assert_same(together, y_after, f"y of {self} after a ReLU")
            passed = activations.relu_backward(backward(dy, cache), off)
            assert_same(at_once, passed, f"dx of {self} after a ReLU")

        for what, found, expected in (("y", y, y_exact), ("dx", dx, dx_exact)):
            assert (found.shape, found.dtype) == (expected.shape, self.dtype), what
            np.testing.assert_allclose(
                found, expected, rtol=0, atol=30 * EPS[found.dtype], err_msg=f"{what} of {self}"
            )


def pool(rng: Any) -> Pool:
    """Windows over one to three axes, or one over all of them."""
    rank, name = int(rng.integers(1, 4)), str(rng.choice(["max", "avg"]))
    dtype, channels = str(rng.choice(["float32", "float64"])), problems.ragged(rng, 80)
    n, most = int(rng.integers(1, 4)), (40, 12, 6)[rank - 1]
    if rng.random() < 0.2:
        sizes, windows, name = rng.integers(1, most, rank).tolist(), None, f"global_{name}"
    else:
        axes = []
        for _ in range(rank):
            k, s = (int(v) for v in rng.integers(1, 5, 2))
            pair = tuple(int(v) for v in rng.integers(0, k, 2) * rng.integers(0, 2, 2))
            axes.append((k, s, 1, pair, max(k - sum(pair), 1) + int(rng.integers(0, most))))
        *options, sizes = zip(*axes, strict=True)
        windows, name = Windows(*options), f"{name}_pool"
    lengths = None
    if rank == 1 and rng.random() < 0.4:
        lengths = tuple(int(t) for t in rng.integers(0, sizes[0] + 1, n))
    return Pool(name, (n, *sizes, channels), windows, lengths, dtype)


@dataclass(frozen=True)
class Rows:
    """One call of softmax's functions and of the cross-entropy of classes."""

    x: tuple[int, int]
    dtype: str = "float32"

    def check(self, seed: int = 0, layouts: tuple[str, ...] = ("plain",)) -> None:
        """Hold the kernels against the formulas in float64."""
        rng = np.random.default_rng(seed)
        x, dy = (rng.standard_normal(self.x).astype(self.dtype) for _ in range(2))
        classes = rng.integers(0, self.x[1], self.x[0])
        wide, dwide = (a.astype(np.float64) for a in (x, dy))
        y, cache = rows_kernel.softmax(lay_out(x, layouts[0]))
        dx = rows_kernel.softmax_backward(lay_out(dy, layouts[-1]), cache)
        y_exact, exact = activations.softmax(wide)
        loss, dlogits = rows_kernel.cross_entropy_of_classes(lay_out(x, layouts[0]), classes, 7.0)
        shares = classes[:, None] == np.arange(self.x[1])
        loss_exact, dlogits_exact = losses.cross_entropy(wide, shares.astype(np.float64))
        for what, found, expected in (
            ("y", y, y_exact),
            ("dx", dx, activations.softmax_backward(dwide, exact)),
            ("loss", loss, loss_exact),
            ("dlogits", dlogits, dlogits_exact / 7),
        ):
            assert (found.shape, found.dtype) == (expected.shape, self.dtype), what
            np.testing.assert_allclose(
                found, expected, rtol=30 * EPS[found.dtype], atol=30 * EPS[found.dtype],
                err_msg=f"{what} of {self}",
            )  # fmt: skip


LOSSES = {"squared_error": (), "huber": (0.7,), "binary_cross_entropy": (1.5,)}


@dataclass(frozen=True)
class Loss:
    """One call of a loss whose target has y's shape."""

    name: str
    y: tuple[int, ...]
    dtype: str = "float32"

    def check(self, seed: int = 0, layouts: tuple[str, ...] = ("plain",)) -> None:
        """Hold the kernel against the formula in float64."""
        rng = np.random.default_rng(seed)
        y = (rng.standard_normal(self.y) * rng.choice([1e-3, 1, 30], self.y)).astype(self.dtype)
        target = rng.random(self.y).astype(self.dtype)
        kernel, exact = (getattr(m, self.name) for m in (losses_kernel, losses))
        given = lay_out(y, layouts[0]), lay_out(target, layouts[-1])
        value, dy = kernel(*given, 7.0, *LOSSES[self.name])
        wide = y.astype(np.float64), target.astype(np.float64)
        terms, gradient = exact(*wide, *LOSSES[self.name])
        eps = EPS[np.dtype(self.dtype)]
        assert (dy.shape, dy.dtype) == (self.y, self.dtype)
        size = 1 + np.abs(gradient) if self.name != "squared_error" else np.abs(wide).max(axis=0)
        assert np.all(np.abs(7 * dy - gradient) <= 10 * eps * size), self
        np.testing.assert_allclose(value, terms.sum() / 7, rtol=20 * eps)
        if self.name == "binary_cross_entropy":
            target.flat[-1] = rng.choice([-1e-3, 1.001, np.nan])
            assert kernel(y, target, 7.0, 1.5)[0] is None


def loss(rng: Any) -> Loss:
    """An array of one to three axes, now and then a large one."""
    shape = (*(int(n) for n in rng.integers(1, 7, rng.integers(0, 3))), problems.ragged(rng, 300))
    if rng.random() < 0.1:
        shape = (int(rng.integers(4_000, 50_000)),)
    return Loss(str(rng.choice(sorted(LOSSES))), shape, str(rng.choice(["float32", "float64"])))


def rows(rng: Any) -> Rows:
    """Rows of some classes."""
    shape = int(rng.integers(1, 60)), problems.ragged(rng, 300)
    return Rows(shape, str(rng.choice(["float32", "float64"])))


KINDS: dict[str, Callable[..., Any]] = {
    "activation": activation,
    "batchnorm": batchnorm,
    "dropout": dropout,
    "loss": loss,
    "pool": pool,
    "recurrent": recurrence,
    "rows": rows,
    "update": update,
}


def sweep(kind: str, seed: int, count: int, report: Callable[[str], None] = str) -> None:
    """Check so many random problems of a kind, in one part and in several."""
    rng = np.random.default_rng(seed)
    outer.TERMS = 64  # bytes, lest the gradients of weights alone say how large a workspace is
    outer._plan.cache_clear()
    for i in range(count):
        problem, parts = KINDS[kind](rng), int(rng.integers(1, 4))
        report(f"{i}, in {parts} parts: {problem}")
        problems.cut(parts)
        columns.is_better = lambda *_, shared=i // 2 % 2 == 1: shared  # by steps, or by columns
        with denormals.flush_denormals() if i // 4 % 2 else nullcontext():
            problem.check(i, tuple(rng.permutation(LAYOUTS)) if i % 2 else ("plain",))
