"""Random arguments of the kernels that go over arrays element by element, and what they must give.

They are held against their formulas in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import problems
from contract import EPS
from lamina.batchnorm import formula as batchnorm_formula
from lamina.batchnorm import kernel as batchnorm_kernel
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

    def check(self, seed: int = 0, layouts: tuple[str, ...] = ("plain",)) -> None:
        """Hold the kernel against the formula; the arrays take the `layouts` in turn."""
        arrays = self.arrays(seed)
        dy = np.random.default_rng([seed, 1]).standard_normal(self.x).astype(self.dtype)
        given = {
            name: lay_out(a, layouts[i % len(layouts)]) if name in ("x", "gamma") else a
            for i, (name, a) in enumerate(arrays.items())
        }
        y, cache = batchnorm_kernel.forward(**given)
        dx, grads = batchnorm_kernel.backward(lay_out(dy, layouts[-1]), cache)
        np.testing.assert_array_equal(given["x"], arrays["x"], err_msg="x was written to")

        wide = {n: a.astype(np.float64) if n != "lengths" else a for n, a in arrays.items()}
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


KINDS: dict[str, Callable[..., Any]] = {"batchnorm": batchnorm, "recurrent": recurrence}


def sweep(kind: str, seed: int, count: int, report: Callable[[str], None] = str) -> None:
    """Check so many random problems of a kind, in one part and in several."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        problem, parts = KINDS[kind](rng), int(rng.integers(1, 4))
        report(f"{i}, in {parts} parts: {problem}")
        problems.cut(parts)
        problem.check(i, tuple(rng.permutation(LAYOUTS)) if i % 2 else ("plain",))
