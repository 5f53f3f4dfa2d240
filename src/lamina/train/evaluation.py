"""A trained model at work: predict, evaluate, accuracy."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..arguments import integer, short, spoken
from ..arguments import lengths as checked_lengths
from ..arrays import is_step
from ..containers import lengths_after
from ..layer import Layer, NDArray, check_layer
from ..parts.losses import BinaryCrossEntropy, CrossEntropy, are_shares
from .batches import Batches, Data, cuts, inputs, samples

Loss: TypeAlias = Callable[..., tuple[float, NDArray]]
"""``loss(y, target, lengths=None, normalizer=None)`` returns the loss and dy.

``lengths`` is given for sequences alone, ``normalizer`` where gradients accumulate.
"""
Metric: TypeAlias = Callable[[NDArray, NDArray, NDArray | None], float]
"""``metric(y, target, lengths)`` returns a mean over samples or, with lengths, over real steps."""


class Evaluation(NamedTuple):
    """What `evaluate` found; it unpacks into loss and metric, None where not asked for."""

    loss: float | None
    metric: float | None


class Mean:
    """A weighted mean that grows."""

    def __init__(self) -> None:
        self._total = self._weight = 0.0

    def add(self, value: float, weight: float) -> None:
        """Take in a value; one without weight may be NaN."""
        if weight:
            self._total += weight * float(value)
            self._weight += weight

    @property
    def value(self) -> float:
        """The mean so far; NaN before there is any."""
        return self._total / self._weight if self._weight else np.nan


def accuracy(
    y: npt.ArrayLike, target: npt.ArrayLike, lengths: npt.ArrayLike | None = None
) -> float:
    """Return the share of samples, or of real steps, whose class is the one of the largest y.

    Parameters
    ----------
    y : array, shape (N, ..., C)
        A value a class: logits or probabilities. Or, in shape (N,) or (N, ..., 1), the logit of a
        yes-or-no question, whose answer is yes where it is above 0.
    target : array
        Classes, shape (N, ...), or their shares, y's shape, of which the largest counts. Or, to
        yes-or-no questions, the answers from 0 to 1, in y's shape or without its last axis: yes is
        what is above 0.5.
    lengths : integer array, shape (N,), optional
        y has shape (N, T, ..., C); steps from lengths[n] on are padding.

    Returns
    -------
    float
        NaN where there are no samples or steps.

    Raises
    ------
    ValueError, TypeError
        The shapes of y and target do not fit together; y holds classes, or target neither shares
        nor answers; they are no real numbers.

    Examples
    --------
    >>> accuracy([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], [1, 0, 1, 1])
    0.75

    Several yes-or-no questions a sample, as `BinaryCrossEntropy` takes them, are told from shares
    by an axis more:

    >>> y, answers = np.array([[1.0, -1.0, 2.0], [3.0, 2.0, -1.0]]), [[1, 0, 1], [1, 1, 1]]
    >>> round(accuracy(y[..., None], answers), 3)
    0.833
    """
    y = inputs("accuracy", "y", y, None)
    target = inputs("accuracy", "target", target, None)
    if _asks(y) and target.shape == y.shape[:-1]:
        target = target[..., None]
    if target.shape not in (y.shape, y.shape[:-1]):
        raise ValueError(
            f"accuracy: y has shape {y.shape} and target {target.shape}; expected (N, ..., C) and "
            "(N, ...), or the same shape"
        )
    lengths = checked_lengths("accuracy", lengths, y)
    if lengths is None:
        right = _right(y, target)
    else:
        right = _right(_real_steps(y, lengths), _real_steps(target, lengths))
    return float(np.mean(right)) if right.size else np.nan


def _asks(y: NDArray) -> bool:
    """Tell whether y answers a yes-or-no question."""
    return y.ndim == 1 or y.shape[-1] == 1


def _right(y: NDArray, target: NDArray) -> NDArray:
    """Tell where the class or the answer is the right one."""
    if _asks(y):
        _check_answers(y, target)
        answers: NDArray = (y > 0) == (target > 0.5)
        return answers
    if target.shape == y.shape:
        _check_shares(target)
        target = np.argmax(target, axis=-1)
    elif not np.all((target >= 0) & (target < y.shape[-1])):
        raise ValueError(
            f"accuracy: target holds {np.min(target)} ... {np.max(target)}, expected classes, "
            f"0 ... {y.shape[-1] - 1}; rows without one: accuracy(y[keep], target[keep]), in fit "
            "and evaluate loss=CrossEntropy(ignore=...)"
        )
    classes: NDArray = np.argmax(y, axis=-1) == target
    return classes


def _real_steps(a: NDArray, lengths: NDArray) -> NDArray:
    """Return the steps that are no padding, one after the other."""
    real: NDArray = a[is_step(a, lengths).reshape(a.shape[:2])]
    return real


def _check_answers(y: NDArray, target: NDArray) -> None:
    """Check the logits of yes-or-no questions and the answers to them."""
    if not np.all((target >= 0) & (target <= 1)):
        raise ValueError(
            f"accuracy: target holds {np.min(target):g} ... {np.max(target):g}, expected answers, "
            "0 or 1, for y has one value a sample, the logit of a yes-or-no question; for classes "
            "y needs a value each; if it holds classes itself: np.mean(y == target)"
        )
    if y.dtype.kind in "iu" and not np.all((y == 0) | (y == 1)):
        raise ValueError(
            f"accuracy: y holds integers, {np.min(y)} ... {np.max(y)}, expected logits, for it has "
            "one value a sample; if they are classes: np.mean(y == target); if logits, make them "
            "floats"
        )


def _check_shares(target: NDArray) -> None:
    """Check the shares of classes."""
    if not np.all(are_shares(target)):
        sums = np.sum(target, axis=-1, dtype=np.float64)
        raise ValueError(
            "accuracy: target has y's shape, expected shares of the classes, at least 0, with the "
            f"sum 1 in each row; the sums are {np.min(sums):g} ... {np.max(sums):g}; if each value "
            "of y answers a yes-or-no question: accuracy(y[..., None], target), as fit and "
            "evaluate do by loss=BinaryCrossEntropy()"
        )


def _each_answer(y: NDArray, target: NDArray, lengths: NDArray | None) -> float:
    """Return the share of right answers to all the questions that BinaryCrossEntropy asks."""
    return accuracy(y[..., None], target[..., None], lengths)


class _AccuracyOfKept:
    """The share of right classes among the rows that a CrossEntropy does not ignore."""

    def __init__(self, ignore: int) -> None:
        self.ignore, self.count = ignore, CrossEntropy(ignore=ignore).count

    def __call__(self, y: NDArray, target: NDArray, lengths: NDArray | None) -> float:
        if target.dtype.kind == "f":
            return accuracy(y, target, lengths)
        kept = target != self.ignore
        if lengths is not None:
            kept &= is_step(target, lengths)
        return accuracy(y[kept], target[kept])


def predict(
    model: Layer, x: npt.ArrayLike, *, lengths: npt.ArrayLike | None = None, batch_size: int = 256
) -> NDArray:
    """Return y of all samples, computed batch by batch.

    Parameters
    ----------
    model : Layer
    x : array, shape (N, ...)
        Floats are cast to the dtype of the model, integers stay.
    lengths : integer array, shape (N,), optional
        For padded sequences, x of shape (N, T, ...).
    batch_size : int
        How many samples are computed at a time: it bounds the memory.

    Raises
    ------
    ValueError, TypeError
        x is no array of real numbers, or `lengths` do not fit it.

    Examples
    --------
    >>> from lamina import Linear
    >>> predict(Linear(3, 2, rng=0), np.ones((1000, 3))).shape
    (1000, 2)
    """
    check_layer("predict", model)
    batch_size = integer("predict", "batch_size", batch_size)
    x, lengths = samples("predict", x, lengths, model.dtype)
    ys = []
    for start, stop in cuts(len(x), batch_size):
        some = None if lengths is None else lengths[start:stop]
        ys.append(model(x[start:stop], **model._accepted(some, None)))
    return np.concatenate(ys)


@spoken("data is one argument, (x, y)")
def evaluate(
    model: Layer,
    data: Data,
    *,
    loss: Loss | None = None,
    metric: Metric | str | None = None,
    batch_size: int = 256,
) -> Evaluation:
    """Return the loss and the metric of a model at inference, over all samples.

    Parameters
    ----------
    model : Layer
    data : (x, y) or iterable of such batches
        As in `fit`.
    loss : Loss, optional
    metric : callable or "accuracy", optional
        As in `fit`. At least one of the two must be given.
    batch_size : int
        How many samples are computed at a time, where data is ``(x, y)``.

    Returns
    -------
    Evaluation
        A named tuple: ``loss, metric = evaluate(...)``.

    Raises
    ------
    ValueError, TypeError
        Neither a loss nor a metric is given; data is not of that form.

    Examples
    --------
    >>> from lamina import Linear
    >>> layer = Linear(2, 2, dtype=np.float64, rng=0)
    >>> layer.weight = [[1, 0], [0, 1]]
    >>> evaluate(layer, (np.eye(2), np.array([0, 0])), metric="accuracy")
    Evaluation(loss=None, metric=0.5)
    """
    if loss is None and metric is None:
        raise ValueError('evaluate: nothing to evaluate; give loss= or metric="accuracy"')
    check_layer("evaluate", model)
    if loss is not None:
        check_loss("evaluate", loss)
    batches = Batches("evaluate", data, batch_size, model.dtype)
    return score(model, batches, loss, as_metric("evaluate", metric, loss))


def score(model: Layer, batches: Batches, loss: Loss | None, metric: Metric | None) -> Evaluation:
    """Return the loss and the metric over all batches."""
    losses, metrics = Mean(), Mean()
    for batch in batches.epoch():
        y = model(batch.x, **model._accepted(batch.lengths, None))
        lengths = lengths_after(model, batch.lengths)
        if loss is not None:
            options = {} if lengths is None else {"lengths": lengths}
            value, _ = with_gradient(loss, y, batch.y, options)
            losses.add(value, loss_count(loss, batch.y, lengths))
        if metric is not None:
            metrics.add(*measured(metric, y, batch.y, lengths))
    return Evaluation(
        None if loss is None else losses.value, None if metric is None else metrics.value
    )


def check_loss(owner: str, loss: Any) -> None:
    """Check that a loss can be called as one: a call of a class would build a loss."""
    if isinstance(loss, type) or not callable(loss):
        raise TypeError(f"{owner}: loss must be a loss, CrossEntropy() say, got {loss!r}")


def with_gradient(
    loss: Loss, y: NDArray, target: NDArray, options: dict[str, Any]
) -> tuple[float, NDArray]:
    """Return the value and the gradient that a loss finds; one of the user's may return less."""
    try:
        found: Any = loss(y, target, **options)
    except TypeError:
        said = "a loss is called as loss(y, target, lengths=, normalizer=)"
        check_called(said, loss, 2, options)
        raise
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise TypeError(
            f"a loss must return its value and dy, its gradient by y; {loss!r} returned "
            f"{type(found).__name__}"
        )
    value, dy = found
    if not isinstance(dy, np.ndarray) or dy.shape != y.shape or dy.dtype != y.dtype:
        is_array = isinstance(dy, np.ndarray)
        got = f"shape {dy.shape} and dtype {dy.dtype}" if is_array else type(dy).__name__
        cure = "; cast it: dy.astype(y.dtype)" if is_array and dy.shape == y.shape else ""
        raise TypeError(
            f"a loss must return dy as an array of y's shape {y.shape} and dtype {y.dtype}; "
            f"{loss!r} returned {got}{cure}"
        )
    return _as_number(f"a loss must return its value as a number; {loss!r}", value), dy


def measured(
    metric: Metric, y: NDArray, target: NDArray, lengths: NDArray | None
) -> tuple[float, float]:
    """Return what a metric finds and how much it counts; one of the user's may return no number."""
    found = metric(y, target, lengths)
    count = metric.count if isinstance(metric, _AccuracyOfKept) else real_count
    return (
        _as_number(f"a metric must return a number, a mean; {metric!r}", found),
        count(target, lengths),
    )


def _as_number(said: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{said} returned {short(value)}") from None


def as_metric(owner: str, metric: Metric | str | None, loss: Loss | None) -> Metric | None:
    """Return a metric given as a function or by name as a function, one that goes with the loss."""
    if metric is None:
        return None
    if callable(metric):
        check_called(
            f"{owner}: metric is called as metric(y, target, lengths), with lengths None but for "
            "sequences",
            metric,
            3,
        )
        return metric
    if metric == "accuracy":
        if isinstance(loss, CrossEntropy) and loss.ignore is not None:
            return _AccuracyOfKept(loss.ignore)
        return _each_answer if isinstance(loss, BinaryCrossEntropy) else accuracy
    raise ValueError(
        f'{owner}: metric must be "accuracy" or a function of y, target and lengths, got {metric!r}'
    )


def check_called(
    said: str, function: Callable[..., Any], count: int, options: Iterable[str] = ()
) -> None:
    """Refuse a function of the user's that cannot be called with so many arguments and options."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some functions in C it is not known
        return
    try:
        signature.bind(*[None] * count, **dict.fromkeys(options))
    except TypeError as error:
        raise TypeError(f"{said}; {function!r}: {error}") from None


def real_count(target: NDArray, lengths: NDArray | None) -> float:
    """Return the number of samples or, with lengths, of real steps."""
    return float(len(target) if lengths is None else np.sum(lengths))


def loss_count(loss: Loss, target: NDArray, lengths: NDArray | None) -> float:
    """Return what a loss divides by: what it counts itself, or else samples or real steps."""
    own: Any = getattr(loss, "count", None)
    return real_count(target, lengths) if own is None else float(own(target, lengths))
