r"""Losses: how far an output y is from its target, and the gradient with respect to y.

Every loss is a mean over terms l. With targets t, a term and its derivative are:

    mean squared error     l = (y − t)²                        ∂l/∂y = 2 (y − t)                 (1)
    Huber                  l = c (r − c/2), r = y − t          ∂l/∂y = c                         (2)
                           c = min(max(r, −δ), δ)
    binary cross-entropy   l = w t s(−y) + (1 − t) s(y)        ∂l/∂y = (1 − t) σ(y) − w t σ(−y)  (3)
                           s(y) = log(1 + exp(y))              s'(y) = σ(y) = 1/(1 + exp(−y))
                                = max(y, 0) + log(1 + exp(−|y|))                                 (4)
    cross-entropy          l = −Σ_c q_c log p_c, q_c = w_c t_c                                   (5)
                           log p_c = y_c − m − log Σ_k exp(y_k − m), m = max_k y_k               (6)
                           ∂l/∂y_c = p_c Σ_k q_k − q_c                                           (7)

In (2), c = r near 0, where l = r²/2. In (3), y is a logit: log σ(y) = −s(−y), and
log(1 − σ(y)) = −s(y). (7) is (5) with ∂log p_k/∂y_c = δ_kc − p_c.

The mean goes over all samples or, with lengths, all real steps n, each of R terms:

    L = 1/(K R) Σ_n Σ_r l[n, r]                                ∂L/∂y = (∂l/∂y)/(K R)             (8)

K is the number of samples or of real steps. Where classes have weights, a sample or step counts as
the mean weight of its R targets' classes; a row to ignore weighs 0. A normalizer stands in for K
where a batch is part of a larger one: the K of all parts together, whose losses and gradients then
add to those of the whole.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from .. import arguments, kernels
from ..arrays import Array, mask_steps, namespace, sigmoid
from ..layer import NDArray, Shape

SHARES_TOLERANCE = 1e-3
"""How far the sum of a target's shares may be from 1: float16 shares are rounded by 5e-4."""


def squared_error(y: Array, target: Array) -> tuple[Array, Array]:
    """Return l and ∂l/∂y, of y's shape."""
    r = y - target
    return r * r, 2 * r  # (1)


def huber(y: Array, target: Array, delta: float) -> tuple[Array, Array]:
    """Return l and ∂l/∂y, of y's shape."""
    r = y - target
    c = namespace(r).clip(r, min=-delta, max=delta)
    return c * (r - c / 2), c  # (2)


def binary_cross_entropy(y: Array, target: Array, weight: Array | float) -> tuple[Array, Array]:
    """Return l and ∂l/∂y, of y's shape; `weight` goes with the targets 1."""
    xp = namespace(y)
    rest = xp.log1p(xp.exp(-xp.abs(y)))
    softplus, softplus_of_minus = xp.clip(y, min=0.0) + rest, xp.clip(-y, min=0.0) + rest  # (4)
    positive = weight * target
    loss = positive * softplus_of_minus + (1 - target) * softplus
    return loss, (1 - target) * sigmoid(y) - positive * sigmoid(-y)  # (3)


def cross_entropy(y: Array, target: Array) -> tuple[Array, Array]:
    """Return l, shape (...), and ∂l/∂y, shape (..., C); `target` is q, shape (..., C)."""
    xp = namespace(y)
    shifted = y - xp.max(y, axis=-1, keepdims=True)
    log_p = shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))  # (6)
    # A target of 0 asks nothing of its logit, which may be -inf.
    asked = xp.where(target == 0, 0, log_p)
    loss = -xp.sum(target * asked, axis=-1)  # (5)
    return loss, xp.exp(log_p) * xp.sum(target, axis=-1, keepdims=True) - target  # (7)


class _Loss(arguments.Constructed, ABC):
    """What all losses share: lengths and the mean."""

    _own_axes: ClassVar = 0
    """The last axes of y, of which each term has all."""

    def __call__(
        self,
        y: NDArray,
        target: npt.ArrayLike,
        lengths: Any = None,
        normalizer: float | None = None,
    ) -> tuple[float, NDArray]:
        """Return the loss and its gradient dy, of y's shape and dtype.

        Parameters
        ----------
        y : array, shape (N, ...)
            The output of the network, float32 or float64; with `lengths`, of shape (N, T, ...).
        target : array
        lengths : integer array, shape (N,), optional
            What y and target hold from step lengths[n] on is ignored, and dy is 0 there.
        normalizer : float, optional
            K, where the batch is part of a larger one: the sum of `count` over all its parts.

        Notes
        -----
        Where K is 0, as in an empty batch or one of padding alone, the loss and dy are 0.

        Raises
        ------
        ValueError, TypeError
            The target has another shape or dtype than goes with y, or values out of range.
        """
        y = arguments.array(self, "y", y)
        rows = y.ndim - self._own_axes
        if rows < 1:
            raise ValueError(
                f"{self}: y has {y.ndim} axes (shape {y.shape}), expected {1 + self._own_axes} or "
                "more, batch first"
            )
        lengths = arguments.lengths(self, lengths, y)
        target = arguments.as_array(self, "target", target)
        goal = self._goal(y, target, lengths)
        if normalizer is None:
            count = self.count(target, lengths)
        else:
            count = arguments.number(self, "normalizer", normalizer, low=0)
        total = count * math.prod(y.shape[1 if lengths is None else 2 : rows])
        if total == 0:
            return 0.0, np.zeros_like(y)
        return self._mean(mask_steps(y, lengths), goal, lengths, total)

    def count(self, target: npt.ArrayLike, lengths: Any = None) -> float:
        """Return K of a batch: its samples or, with lengths, its real steps."""
        return float(len(np.asarray(target)) if lengths is None else np.sum(lengths))

    def _mean(
        self, y: NDArray, goal: NDArray, lengths: NDArray | None, total: float
    ) -> tuple[float, NDArray]:
        """Return L and its gradient; `total` is K R."""
        # In one layout, for the order of NumPy's sums follows it.
        terms, dy = self._terms(np.ascontiguousarray(y), np.ascontiguousarray(goal))
        value = np.sum(mask_steps(terms, lengths), dtype=np.float64) / total
        dy = mask_steps(dy, lengths)
        dy /= total
        return float(value), dy  # (8)

    @abstractmethod
    def _goal(self, y: NDArray, target: NDArray, lengths: NDArray | None) -> NDArray:
        """Check the target; return it as `_terms` takes it."""

    @abstractmethod
    def _terms(self, y: NDArray, goal: NDArray) -> tuple[NDArray, NDArray]:
        """Return l, which may lack y's last axis, and its derivative."""


class _Pointwise(_Loss):
    """What the losses share whose target is an array of y's shape."""

    def _goal(self, y: NDArray, target: NDArray, lengths: NDArray | None) -> NDArray:
        if target.dtype.kind not in "biuf":
            raise TypeError(f"{self}: target has dtype {target.dtype}, expected real numbers")
        if target.shape != y.shape:
            raise ValueError(
                f"{self}: target has shape {target.shape}, expected {y.shape}, the shape of y"
                f"{_shape_cure(target.shape, y.shape)}"
            )
        found: NDArray = mask_steps(target, lengths).astype(y.dtype, copy=False)
        return found

    def _mean(
        self, y: NDArray, goal: NDArray, lengths: NDArray | None, total: float
    ) -> tuple[float, NDArray]:
        if lengths is None and kernels.used():
            found = self._in_one_pass(kernels.beside(__name__), y, goal, total)
            if found is not None:
                return found
        return super()._mean(y, goal, lengths, total)

    @abstractmethod
    def _in_one_pass(
        self, how: Any, y: NDArray, goal: NDArray, total: float
    ) -> tuple[float, NDArray] | None:
        """Return L and its gradient by kernels, or None where there are none."""


@dataclass(eq=False)
class MeanSquaredError(_Pointwise):
    r"""The mean of the squared differences between y and the target.

    .. math:: L = \frac{1}{K R} \sum_{n,r} (y_{n,r} - t_{n,r})^2

    Notes
    -----
    y and target have one shape (N, ...), with ``lengths`` (N, T, ...); K counts the samples or the
    real steps, R the elements of each.

    Raises
    ------
    ValueError, TypeError
        The target has another shape than y, or holds no real numbers; y is no float32 or float64.

    Examples
    --------
    >>> loss = MeanSquaredError()
    >>> loss(np.array([[1.0, 2.0]]), [[1, 4]])
    (2.0, array([[ 0., -2.]]))
    """

    def _terms(self, y: NDArray, goal: NDArray) -> tuple[NDArray, NDArray]:
        return squared_error(y, goal)

    def _in_one_pass(self, how: Any, y: NDArray, goal: NDArray, total: float) -> Any:
        return how.squared_error(y, goal, total)


@dataclass(eq=False)
class Huber(_Pointwise):
    r"""Squared error for small differences, absolute error for large ones: outliers pull less.

    .. math::
        L = \frac{1}{K R} \sum_{n,r} \begin{cases}
            \tfrac12 d^2 & |d| \le \delta \\
            \delta (|d| - \tfrac12 \delta) & \text{else} \end{cases},
        \quad d = y_{n,r} - t_{n,r}

    Parameters
    ----------
    delta : float
        Where the parabola goes over into a line, above 0.

    Notes
    -----
    y and target have one shape (N, ...), with ``lengths`` (N, T, ...); K counts the samples or the
    real steps, R the elements of each.

    Raises
    ------
    ValueError, TypeError
        The target has another shape than y, or holds no real numbers; y is no float32 or float64.

    References
    ----------
    P. Huber, *Robust Estimation of a Location Parameter* (1964), sec. 4.

    Examples
    --------
    >>> loss = Huber(delta=1.0)
    >>> loss(np.array([[1.0, 2.0]]), [[1.5, 6]])
    (1.8125, array([[-0.25, -0.5 ]]))
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        self.delta = arguments.positive(self, "delta", self.delta)

    def _terms(self, y: NDArray, goal: NDArray) -> tuple[NDArray, NDArray]:
        return huber(y, goal, self.delta)

    def _in_one_pass(self, how: Any, y: NDArray, goal: NDArray, total: float) -> Any:
        return how.huber(y, goal, total, self.delta)


@dataclass(eq=False)
class BinaryCrossEntropy(_Pointwise):
    r"""Cross-entropy of yes-or-no questions, from logits.

    .. math:: L = -\frac{1}{K R} \sum_{n,r} \bigl( w_r t_{n,r} \log \sigma(y_{n,r})
              + (1 - t_{n,r}) \log (1 - \sigma(y_{n,r})) \bigr)

    Parameters
    ----------
    pos_weight : float or array, shape (F,), optional
        w, for the last axis of y: how much more the targets 1 weigh. It changes no count.

    Notes
    -----
    y (logits) and target (from 0 to 1, or booleans) have one shape (N, ...), with ``lengths``
    (N, T, ...); K counts the samples or the real steps, R the elements of each.

    Raises
    ------
    ValueError, TypeError
        The target has another shape than y, or holds what lies outside 0 ... 1; y is no float32 or
        float64.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, *Deep Learning* (2016), sec. 6.2.2.2.

    Examples
    --------
    >>> loss = BinaryCrossEntropy()
    >>> value, dy = loss(np.array([[0.0, 1000.0]]), [[1, 0]])
    >>> value
    500.34657359027995
    >>> dy
    array([[-0.25,  0.5 ]])
    """

    pos_weight: npt.ArrayLike | None = None

    def __post_init__(self) -> None:
        if self.pos_weight is not None:
            self.pos_weight = _weights(self, "pos_weight", self.pos_weight)

    def _terms(self, y: NDArray, goal: NDArray) -> tuple[NDArray, NDArray]:
        if not np.all((goal >= 0) & (goal <= 1)):
            self._refuse(goal)
        weight = np.asarray(1 if self.pos_weight is None else self.pos_weight, y.dtype)
        if weight.ndim and weight.shape != y.shape[-1:]:
            raise ValueError(
                f"{self}: pos_weight has {len(weight)} entries, "
                f"but the last axis of y (shape {y.shape}) has {y.shape[-1]}"
            )
        return binary_cross_entropy(y, goal, weight)

    def _in_one_pass(self, how: Any, y: NDArray, goal: NDArray, total: float) -> Any:
        weight = 1.0 if self.pos_weight is None else self.pos_weight
        if not isinstance(weight, float):
            return None
        value, dy = how.binary_cross_entropy(y, goal, total, weight)
        if value is None:
            self._refuse(goal)
        return value, dy

    def _refuse(self, goal: NDArray) -> NoReturn:
        raise ValueError(
            f"{self}: targets must lie in [0, 1], got {np.min(goal):g} ... {np.max(goal):g}"
        )


@dataclass(eq=False)
class CrossEntropy(_Loss):
    r"""Cross-entropy between the target's classes and the softmax of y, from logits.

    .. math:: L = -\frac{1}{K R} \sum_{n,r} \sum_c w_c \, t_{n,r,c} \log p_{n,r,c}, \quad
              p_{n,r,c} = \frac{e^{y_{n,r,c}}}{\sum_k e^{y_{n,r,k}}}

    Parameters
    ----------
    label_smoothing : float
        s, from 0 to 1: the target t becomes (1 - s) t + s/C.
    weights : array, shape (C,), optional
        w, at least 0: how much each class weighs. The mean is then the weighted one: a sample or
        step counts in K as its class weighs.
    ignore : int, optional
        What marks rows without a class, 255 say: they count for nothing, and dy is 0 there.

    Notes
    -----
    y (logits) has shape (N, ..., C), with ``lengths`` (N, T, ..., C). The target holds integers,
    the classes 0 to C - 1, in shape (N, ...), or floats that sum to 1 over the classes, in y's
    shape. K counts the samples or the real steps, R the rows of logits in each.

    With `weights` and targets of y's shape PyTorch divides by the number of samples. Here a target
    means the same in both forms: the weight of a mixture is the mean of its classes'.

    Raises
    ------
    ValueError, TypeError
        The target fits y neither as classes nor as shares, or holds a class that y does not have; y
        is no float32 or float64.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, *Deep Learning* (2016), sec. 6.2.2.3; C. Szegedy et al.,
    *Rethinking the Inception Architecture for Computer Vision* (2016), sec. 7: label smoothing.

    Examples
    --------
    >>> loss = CrossEntropy()
    >>> value, dy = loss(np.array([[0.0, np.log(3.0)]]), [1])
    >>> round(value, 6)  # log 4/3
    0.287682
    >>> dy
    array([[ 0.25, -0.25]])

    Pixels or tokens without a class are left out:

    >>> value, dy = CrossEntropy(ignore=255)(np.array([[0.0, np.log(3.0)], [5.0, 6.0]]), [1, 255])
    >>> round(value, 6)
    0.287682
    """

    label_smoothing: float = 0.0
    weights: npt.ArrayLike | None = None
    ignore: int | None = None

    _own_axes = 1

    def __post_init__(self) -> None:
        self.label_smoothing = arguments.number(
            self, "label_smoothing", self.label_smoothing, low=0, high=1
        )
        if self.weights is not None:
            self.weights = _weights(self, "weights", self.weights)
            if not isinstance(self.weights, tuple):
                raise ValueError(f"{self}: weights must have one entry a class")
        if self.ignore is not None:
            self.ignore = arguments.integer(self, "ignore", self.ignore, least=-(2**63))

    def count(self, target: npt.ArrayLike, lengths: Any = None) -> float:
        """Return K of a batch: its samples or, with lengths, its real steps; or their weight."""
        target = np.ascontiguousarray(target)  # as in `_mean`
        kept = self._kept(target)
        if (self.weights is None and kept is None) or (lengths is not None and target.ndim < 2):
            return super().count(target, lengths)  # a call, which has y, says what is wrong
        lengths = None if lengths is None else np.asarray(lengths)
        each: Any = 1.0 if kept is None else kept.astype(np.float64)
        if self.weights is not None:
            weights = np.asarray(self.weights)
            try:
                if target.dtype.kind in "iu":
                    classes = self._classes(target, (*target.shape, len(weights)), lengths)
                    each = each * weights[classes]
                else:
                    shape = (*target.shape[:-1], len(weights))
                    each = self._shares(target, shape, lengths) @ weights
            except (ValueError, TypeError):  # as above
                return super().count(target, lengths)
        each = mask_steps(each, lengths)
        return float(np.sum(each)) / (math.prod(each.shape[1 if lengths is None else 2 :]) or 1)

    def _kept(self, target: NDArray) -> NDArray | None:
        """Return where a target does not say to ignore a row; None where it cannot."""
        if self.ignore is None or target.dtype.kind not in "iu":
            return None
        found: NDArray = target != self.ignore
        return found

    def _goal(self, y: NDArray, target: NDArray, lengths: NDArray | None) -> NDArray:
        """Check the target; return q of (5), or the classes themselves, which kernels take."""
        classes = y.shape[-1]
        weights = None if self.weights is None else np.asarray(self.weights, y.dtype)
        alone = not self.label_smoothing or weights is None
        if alone and target.dtype.kind in "iu" and kernels.used():
            self._check_shape(target, y.shape)
            goal: NDArray = mask_steps(target, lengths)
        else:
            goal = self._shares(target, y.shape, lengths).astype(y.dtype)
        if weights is not None and len(weights) != classes:
            raise ValueError(
                f"{self}: weights has {len(weights)} entries, but y (shape {y.shape}) has "
                f"{classes} classes"
            )
        if goal.dtype.kind in "iu":
            return goal
        if self.label_smoothing:
            goal = (1 - self.label_smoothing) * goal + self.label_smoothing / classes
        if weights is not None:
            goal = goal * weights
        kept = self._kept(target)
        return goal if kept is None else goal * kept[..., None]

    def _terms(self, y: NDArray, goal: NDArray) -> tuple[NDArray, NDArray]:
        terms, dy = cross_entropy(y, goal)
        if self.ignore is not None:
            dy[~goal.any(axis=-1)] = 0  # whatever y holds there
        return terms, dy

    def _mean(
        self, y: NDArray, goal: NDArray, lengths: NDArray | None, total: float
    ) -> tuple[float, NDArray]:
        if goal.dtype.kind not in "iu":
            return super()._mean(y, goal, lengths, total)
        kept = self._kept(goal)
        if kept is not None:
            goal = np.where(kept, goal, 0)
        if y.size == 0 or self.label_smoothing or self.weights is not None:
            self._check_range(goal, y.shape[-1])
        y = np.ascontiguousarray(y)
        terms, dy = kernels.beside(__name__).cross_entropy_of_classes(y, goal, total)
        if self.label_smoothing:  # l + s/C Σ_c (y_k − y_c) of the class k
            share, at = self.label_smoothing / y.shape[-1], goal[..., None]
            with np.errstate(invalid="ignore"):  # ∞ − ∞, which is left out
                more = share * np.sum(np.take_along_axis(y, at, axis=-1) - y, axis=-1)
            terms = np.add(terms, more, out=terms, where=np.isfinite(terms))
            dy -= share / total
            own = np.take_along_axis(dy, at, axis=-1) + self.label_smoothing / total
            np.put_along_axis(dy, at, own, axis=-1)
        elif self.weights is not None:
            w = np.asarray(self.weights, y.dtype)[goal]
            terms = np.multiply(w, terms, out=np.zeros_like(terms), where=w > 0)  # but for 0 ∞
            dy *= w[..., None]
        if kept is not None:
            terms[~kept] = 0
            dy[~kept] = 0
        value = float(mask_steps(terms, lengths).sum(dtype=np.float64)) / total
        if math.isnan(value):  # as with a class out of range
            self._check_range(goal, y.shape[-1])
        return value, mask_steps(dy, lengths)

    def _shares(self, target: NDArray, shape: Shape, lengths: NDArray | None) -> NDArray:
        """Check the target for y of that shape; return t, of that shape, from either form."""
        if target.dtype.kind not in "iuf":
            cast = "y.dtype" if target.shape == shape else "np.int64"
            raise TypeError(
                f"{self}: target has dtype {target.dtype}, expected integers (classes) or floats "
                "(shares of the classes)"
                f"{f'; cast it: target.astype({cast})' if target.dtype.kind == 'b' else ''}"
            )
        if target.dtype.kind == "f":
            if target.shape != shape:
                cure = _shape_cure(target.shape, shape)
                if math.prod(target.shape) == math.prod(shape[:-1]):
                    cure = "; if it holds classes, make them integers: target.astype(np.int64)"
                raise ValueError(
                    f"{self}: target has shape {target.shape}, expected {shape}, the shape of y"
                    f"{cure}"
                )
            target = mask_steps(target, lengths)
            if np.any(mask_steps(~are_shares(target), lengths)):
                raise ValueError(
                    f"{self}: each target's shares of the classes must be at least 0 and sum to 1"
                )
            return target
        found = self._classes(target, shape, lengths)
        one_hot: NDArray = found[..., None] == np.arange(shape[-1])
        return one_hot

    def _classes(self, target: NDArray, shape: Shape, lengths: NDArray | None) -> NDArray:
        """Check the classes for y of that shape; return them, with any one where none counts."""
        self._check_shape(target, shape)
        kept = self._kept(target)
        found: NDArray = mask_steps(target if kept is None else np.where(kept, target, 0), lengths)
        self._check_range(found, shape[-1])
        return found

    def _check_shape(self, target: NDArray, shape: Shape) -> None:
        if target.shape != shape[:-1]:
            cure = _one_a_sample(target.shape, shape)
            if target.shape == shape:
                cure = (
                    "; if it holds shares of the classes, make them floats: target.astype(y.dtype)"
                )
            elif target.shape == (*shape[:-1], 1):
                cure = "; take its only column: target[..., 0]"
            elif len(shape) > 2 and target.shape == (shape[0], *shape[2:]):
                cure = "; the classes of y seem to come second: np.moveaxis(y, 1, -1)"
            raise ValueError(
                f"{self}: target has shape {target.shape}, expected {shape[:-1]}, a class for each "
                f"row of y (shape {shape}){cure}"
            )

    def _check_range(self, target: NDArray, classes: int) -> None:
        if target.size and not (target.min() >= 0 and target.max() < classes):
            cure = ""
            if classes == 1:
                cure = "; for one output take BinaryCrossEntropy()"
            elif target.min() < 0:
                cure = "; padding is told by lengths=, other rows without a class by ignore="
            raise ValueError(
                f"{self}: classes must lie in 0 ... {classes - 1}, "
                f"got {target.min()} ... {target.max()}{cure}"
            )


def _shape_cure(target: Shape, shape: Shape) -> str:
    """Return how a target of another shape than y's is mended, where that is known."""
    if [n for n in target if n != 1] == [n for n in shape if n != 1]:
        return "; give it the same axes: target.reshape(y.shape)"
    return _one_a_sample(target, shape)


def _one_a_sample(target: Shape, shape: Shape) -> str:
    """Return what to do where y has steps or places, and the target one answer a sample."""
    if len(shape) < 3 or target not in (shape[:1], (shape[0], 1), (shape[0], shape[-1])):
        return ""
    return (
        "; y has an answer a step (or place): LastStep(), MeanSteps() or GlobalAvgPool() leave "
        "one a sample"
    )


def are_shares(target: NDArray) -> NDArray:
    """Return whether each row holds shares of the classes: at least 0, with the sum 1."""
    sums = np.sum(target, axis=-1, dtype=np.float64)
    found: NDArray = (np.abs(sums - 1) <= SHARES_TOLERANCE) & np.all(target >= 0, axis=-1)
    return found


def _weights(owner: _Loss, name: str, value: npt.ArrayLike) -> float | tuple[float, ...]:
    """Return weights at least 0 as a number or a tuple of numbers."""
    found = np.asarray(value)
    good = found.dtype.kind in "iuf" and found.ndim < 2
    if not (good and np.all(np.isfinite(found) & (found >= 0))):
        cure = "; give a list, one entry a class in order" if isinstance(value, dict) else ""
        raise ValueError(
            f"{type(owner).__name__}: {name} must be finite numbers, at least 0, got {value!r}"
            f"{cure}"
        )
    return tuple(map(float, found)) if found.ndim else float(found)
