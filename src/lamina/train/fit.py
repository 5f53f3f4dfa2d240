"""The training loop."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, TypeAlias

import numpy as np
from tqdm import tqdm

from .. import kernels
from ..arguments import integer, say, spoken
from ..containers import Concat, Residual, Sequential, lengths_after
from ..layer import Arrays, Layer, NDArray, check_layer
from ..recurrence import Recurrent
from .batches import Batch, Batches, Data
from .evaluation import (
    Evaluation,
    Loss,
    Mean,
    Metric,
    as_metric,
    check_called,
    check_loss,
    loss_count,
    measured,
    score,
    with_gradient,
)
from .history import History
from .names import as_patterns, matches, refuse_idle
from .optimizers import Optimizer
from .schedules import rate
from .stopping import EarlyStopping, Watch, put_back

_BACKS: Final = tuple(
    layer.run_backward for layer in (Layer, Recurrent, Sequential, Residual, Concat)
)
"""Those by which `gradients` goes back, too: it spares the dx that nobody asks for."""
Callback: TypeAlias = Callable[[History, Layer], Any]
"""``callback(history, model)``, called after each epoch; True ends the training."""


@spoken("data is one argument, (x, y)")
def fit(
    model: Layer,
    data: Data,
    *,
    loss: Loss,
    optimizer: Optimizer,
    epochs: int,
    first_epoch: int = 0,
    batch_size: int = 32,
    accumulate: int = 1,
    bptt: int | None = None,
    metric: Metric | str | None = None,
    validation: Data | None = None,
    seed: int = 0,
    trainable: str | Iterable[str] = "*",
    callbacks: Iterable[Callback] | Callback = (),
    early_stopping: EarlyStopping | None = None,
    progress: bool | None = None,
) -> History:
    r"""Train a model: change its parameters so that the loss falls.

    Parameters
    ----------
    model : Layer
        Trained in place.
    data : (x, y) or iterable of such batches
        A tuple of arrays with as many samples; for padded sequences x is ``(x, lengths)``. Floats
        are cast to the dtype of the model once, integers stay. Or an iterable of such tuples, the
        batches, gone through anew each epoch in its own order.
    loss : callable
        One of Lamina's, or ``loss(y, target, lengths=None, normalizer=None)`` that returns the loss
        and its gradient dy, of y's shape and dtype. `lengths` are those of the model's output; it
        and `normalizer` are given only where there are any.
    optimizer : Optimizer
        It keeps its state: a second training with the same one goes on where the first ended.
    epochs : int
        How often to go through the data.
    first_epoch : int
        How many of these epochs a training that was stopped has behind it: with its model and its
        optimizer, this one goes on as if it had not been. (`early_stopping` begins anew.)
    batch_size : int
        Samples a batch, where data is ``(x, y)``. The last batch of an epoch has what is left; a
        single sample left over joins the batch before, since batch statistics of one are none.
    accumulate : int
        Batches an update. Their gradients add to that of the one large batch that they make up
        together, at the memory of a small one. (BatchNorm normalises each batch by itself, and
        Dropout draws for each anew.)
    bptt : int, optional
        Truncated backpropagation through time: batches of sequences, with a target a step, are gone
        through in windows of so many steps, an update each. A window starts from the state in which
        the one before ended, but its gradient stops there; so memory does not grow with the length.
        A single step left over, of all sequences, joins the window before, as samples do. The model
        must be able to go step by step.
    metric : callable or "accuracy", optional
        ``metric(y, target, lengths)``, a mean over samples or real steps, with the lengths of y or
        None; its mean over the batches is reported. "accuracy" is `lamina.accuracy`, with
        `BinaryCrossEntropy` that of each answer, with `CrossEntropy` that of what it does not
        ignore.
    validation : (x, y) or iterable of such batches, optional
        Evaluated after each epoch.
    seed : int
        Of the order of the samples: ``numpy.random.default_rng([seed, epoch])`` draws it. The same
        model, data, settings and seed give the same bits.
    trainable : str or iterable of str
        Patterns of the names of the parameters to change, ``"4.*"`` say; the others stay as they
        are. Buffers are not parameters: to keep BatchNorm's, build it with ``frozen=True``.
    callbacks : iterable of callables, or one
        Each is called as ``callback(history, model)`` after each epoch; where one returns True,
        training ends there.
    early_stopping : EarlyStopping, optional
    progress : bool, optional
        Whether to show a bar; by default where standard error is a terminal. Until the first
        update is over it says that kernels may be compiled, which takes some seconds once.

    Returns
    -------
    History
        Of the epochs from `first_epoch` on.

    Raises
    ------
    FloatingPointError
        The loss, a gradient or a parameter is not finite. The model has the parameters of the last
        finite loss.
    ValueError, TypeError
        The arguments do not fit together.

    References
    ----------
    R. Williams, J. Peng, *An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent
    Network Trajectories* (1990), sec. 3.3: truncated backpropagation through time, BPTT(h; h').

    Examples
    --------
    >>> import lamina as lm
    >>> x = np.linspace(-1, 1, 32)[:, None]
    >>> model = lm.Linear(1, 1, rng=0)
    >>> history = lm.fit(
    ...     model, (x, 3 * x + 1), loss=lm.MeanSquaredError(), optimizer=lm.SGD(0.5), epochs=40
    ... )
    >>> model.weight.round(2), model.bias.round(2)
    (array([[3.]], dtype=float32), array([1.], dtype=float32))
    """
    check_layer("fit", model)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"fit: optimizer must be an optimizer, Adam(1e-3) say, got {optimizer!r}")
    check_loss("fit", loss)
    epochs = integer("fit", "epochs", epochs)
    first_epoch = integer("fit", "first_epoch", first_epoch, least=0)
    if first_epoch > epochs:
        raise ValueError(
            f"fit: first_epoch is {first_epoch}, expected at most epochs, {epochs}, which counts "
            "those before it too"
        )
    passes = epochs - first_epoch
    accumulate = integer("fit", "accumulate", accumulate)
    seed = integer("fit", "seed", seed, least=0)
    metric = as_metric("fit", metric, loss)
    callbacks = tuple(callbacks) if isinstance(callbacks, Iterable) else (callbacks,)
    if not all(map(callable, callbacks)):
        stopping = any(isinstance(callback, EarlyStopping) for callback in callbacks)
        cure = "; give EarlyStopping as early_stopping=" if stopping else ""
        raise TypeError(
            f"fit: callbacks must be functions of history and model, got {callbacks}{cure}"
        )
    for callback in callbacks:
        check_called("fit: a callback is called as callback(history, model)", callback, 2)
    batches = Batches("fit", data, batch_size, model.dtype, passes)
    held_out = (
        None
        if validation is None
        else Batches("fit: validation", validation, batch_size, model.dtype, passes)
    )
    watch = _watch(early_stopping, metric is not None, held_out is not None)
    if bptt is not None:
        bptt = integer("fit", "bptt", bptt)
        if accumulate > 1:
            raise ValueError("fit: bptt makes an update a window; leave accumulate out")
        if not model.stepwise:
            raise TypeError(
                f"fit: bptt carries the state from window to window, and {say(model)} has a layer "
                "that needs whole sequences; leave bptt out, or build it to go forward only"
            )
    update = (
        _Update(model, loss, metric, optimizer, trainable)
        if bptt is None
        else _TruncatedUpdate(bptt, model, loss, metric, optimizer, trainable)
    )
    history = History()
    total = None if batches.samples is None else passes * batches.samples
    disable = None if progress is None else not progress
    with (
        tqdm(total=total, unit=" samples", unit_scale=True, disable=disable) as bar,
        np.errstate(over="ignore", invalid="ignore"),  # what comes of it is found and said below
    ):
        bar.set_postfix_str("compiling kernels that are new here" * (kernels.used() and passes > 0))
        for epoch in range(first_epoch, epochs):
            start = time.perf_counter()
            bar.set_description(f"epoch {epoch + 1}/{epochs}", refresh=False)
            losses, metrics = Mean(), Mean()
            updates = 0
            for group in _groups(batches, accumulate, seed, epoch):
                for part in update.parts(group):
                    updates += 1
                    try:
                        update(part, losses, metrics)
                    except FloatingPointError as error:
                        raise FloatingPointError(
                            f"fit: epoch {epoch + 1}, update {updates}: {error}"
                        ) from error
                said = {"loss": losses.value}
                if metric is not None:
                    said["metric"] = metrics.value
                bar.set_postfix(said, refresh=False)
                bar.update(sum(map(len, group)))
            found = Evaluation(None, None)
            if held_out is not None:
                found = score(model, held_out, loss, metric)
            history.record(
                loss=losses.value,
                metric=None if metric is None else metrics.value,
                val_loss=found.loss,
                val_metric=found.metric,
                lr=rate(optimizer.lr, optimizer.steps - 1),
                seconds=time.perf_counter() - start,
            )
            stop = watch is not None and watch.look(history, model)
            for callback in callbacks:
                stop |= _ends(callback(history, model))
            update.take()
            if stop:
                break
    if watch is not None:
        watch.restore(model)
    return history


class _Update:
    """One update of the parameters after the other, each from a group of batches."""

    def __init__(
        self,
        model: Layer,
        loss: Loss,
        metric: Metric | None,
        optimizer: Optimizer,
        trainable: str | Iterable[str],
    ) -> None:
        self.model, self.loss, self.metric, self.optimizer = model, loss, metric, optimizer
        self.patterns = as_patterns("fit", "trainable", trainable)
        if not self.patterns:
            raise ValueError("fit: trainable has no pattern, so nothing would change; leave it out")
        refuse_idle("fit", "trainable", self.patterns, model.params)
        self.params: Arrays = {}
        self.before: Arrays = {}
        self.take()

    def take(self) -> None:
        """Take the parameters to change, where the model has others than those taken before."""
        params = {n: p for n, p in self.model.params.items() if matches(self.patterns, n)}
        if [*map(id, params.values())] != [*map(id, self.params.values())]:
            self.params = params
            self.before = {name: p.copy() for name, p in params.items()}

    def parts(self, group: list[Batch]) -> Iterable[list[Batch]]:
        """Return what each update that a group of batches makes is from: one from all of it."""
        return [group]

    def __call__(self, group: list[Batch], losses: Mean, metrics: Mean) -> None:
        """Make one update, or leave the model at the last finite loss; add to the means."""
        buffers = {name: a.copy() for name, a in self.model.buffers.items()}
        last = self.before  # the parameters of the last finite loss
        try:
            grads = self._gradients(group, losses, metrics)
            last = {}  # those there are
            finite = self.optimizer._step(self.params, grads, self.before)
            last = self.before
            if not finite:
                name = next(n for n, p in self.params.items() if not np.isfinite(p).all())
                raise FloatingPointError(f"{name} became infinite; lower the learning rate")
        except FloatingPointError:
            put_back(self.model, {**last, **buffers})
            raise
        except Exception:
            put_back(self.model, buffers)
            raise

    def _gradients(self, group: list[Batch], losses: Mean, metrics: Mean) -> Arrays:
        """Return the gradients of the mean loss over all batches of a group."""
        lengths = [lengths_after(self.model, batch.lengths) for batch in group]
        count = sum(
            loss_count(self.loss, batch.y, n) for batch, n in zip(group, lengths, strict=True)
        )
        grads: Arrays = {}
        total = 0.0
        for batch, n in zip(group, lengths, strict=True):
            y, cache = self._forward(batch)
            options: dict[str, Any] = {} if n is None else {"lengths": n}
            if len(group) > 1:
                options["normalizer"] = count
            value, dy = with_gradient(self.loss, y, batch.y, options)
            if not np.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value}; lower the learning rate or set clip_norm=, and look for "
                    "NaN in the data"
                )
            own = self._backward(dy, cache)
            for name, g in own.items():
                grads[name] = grads[name] + g if name in grads else g
            total += value
            if self.metric is not None:
                metrics.add(*measured(self.metric, y, batch.y, n))
        losses.add(total, count)
        return grads

    def _forward(self, batch: Batch) -> tuple[NDArray, Any]:
        return self.model.forward(
            batch.x, **self.model._accepted(batch.lengths, None), training=True
        )

    def _backward(self, dy: NDArray, cache: Any) -> Arrays:
        return self.model.gradients(dy, cache)


class _TruncatedUpdate(_Update):
    """Updates from windows of sequences: each starts from the state in which the last one ended."""

    def __init__(self, bptt: int, *rest: Any) -> None:
        super().__init__(*rest)
        self.bptt = bptt
        self.state: Any = None
        self.spares = all(type(layer).run_backward in _BACKS for _, layer in self.model.walk())

    def parts(self, group: list[Batch]) -> Iterator[list[Batch]]:
        """Go through the windows of a batch, from a state of 0."""
        (batch,) = group
        self.state = None
        for window in batch.windows("fit", self.bptt):
            yield [window]

    def _forward(self, batch: Batch) -> tuple[NDArray, Any]:
        y, self.state, cache = self.model.run(
            batch.x, self.state, lengths=batch.lengths, training=True
        )
        return y, cache

    def _backward(self, dy: NDArray, cache: Any) -> Arrays:
        if self.spares:
            return super()._backward(dy, cache)
        return self.model.run_backward(dy, None, cache)[2]


def _groups(batches: Batches, size: int, seed: int, epoch: int) -> Iterator[list[Batch]]:
    """Go through an epoch's batches, `size` at a time, fewer at the end."""
    epoch_batches = batches.epoch(np.random.default_rng([seed, epoch]))
    while group := list(islice(epoch_batches, size)):
        yield group


def _ends(returned: Any) -> bool:
    """Return whether what a callback returned ends the training."""
    if not isinstance(returned, (bool, np.bool_, type(None))):
        raise TypeError(
            f"fit: a callback returned {type(returned).__name__}; return True to end the training, "
            "or nothing"
        )
    return bool(returned)


def _watch(rule: EarlyStopping | None, metric: bool, validation: bool) -> Watch | None:
    if rule is None:
        return None
    if not isinstance(rule, EarlyStopping):
        raise TypeError(
            f"fit: early_stopping must be an EarlyStopping, EarlyStopping() say, got {rule!r}"
        )
    if rule.monitor.startswith("val_") and not validation:
        raise ValueError(f"fit: early stopping watches {rule.monitor}; give validation=")
    if rule.monitor.endswith("metric") and not metric:
        raise ValueError(f"fit: early stopping watches {rule.monitor}; give metric=")
    return Watch(rule)
