"""Pictures of trainings and layers, by matplotlib: ``pip install matplotlib``.

Each function returns a matplotlib Figure: a notebook shows it, ``figure.savefig(path)`` writes it.
Nothing is drawn on a figure of pyplot's, and no style is set.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from .arguments import integer, say
from .convolution import Conv1d, Conv2d
from .layer import Arrays, Layer, NDArray
from .train import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["filters", "gates", "gradient_flow", "history"]

SHARES: Final = frozenset("iforz")
"""The gates that lie in 0 ... 1, by a sigmoid; everything else lies on either side of 0."""


def history(history: History) -> "Figure":
    """Draw the loss of a training by epoch, and the metric where there is one.

    Parameters
    ----------
    history : History
        What `fit` returned.

    Raises
    ------
    ValueError
        There is no epoch in it.

    Examples
    --------
    >>> from lamina import History
    >>> figure = history(History(loss=[0.9, 0.5], val_loss=[1.0, 0.7], best_epoch=2))
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['loss']
    """
    if not isinstance(history, History):
        raise TypeError(
            f"plot.history: history must be a History, as fit returns, got {type(history).__name__}"
        )
    if not history.epochs:
        raise ValueError("plot.history: the history has no epochs")
    kinds = ["loss", *(["metric"] if history.metric or history.val_metric else [])]
    figure = _figure(4.5 * len(kinds), 3.2)
    epochs = range(1, history.epochs + 1)
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for name, label in ((kind, "training"), (f"val_{kind}", "validation")):
            if values := getattr(history, name):
                axes.plot(epochs, values, marker=".", label=label)
        if history.best_epoch is not None:
            axes.axvline(history.best_epoch, color="0.6", linewidth=1, label="best")
        axes.set_xlabel("epoch")
        axes.set_ylabel(kind)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False)
    return figure


def gates(trace: Mapping[str, NDArray], sample: int = 0) -> "Figure":
    """Draw what a recurrent layer went through: its gates and its state, step by step.

    Parameters
    ----------
    trace : dict of str to array, shape (N, T, H)
        An entry of ``cache.trace``, as ``layer.run(x, trace=True)`` gives it.
    sample : int
        Which sequence of the batch.

    Raises
    ------
    TypeError
        The trace is no such dict: ``cache.trace`` has one for each layer and direction. Or `sample`
        is no integer.
    ValueError
        The trace has no such array, or the batch no such sequence.

    Examples
    --------
    >>> from lamina import LSTM
    >>> layer = LSTM(2, 4, rng=0)
    >>> _, _, cache = layer.run(np.ones((1, 6, 2), np.float32), trace=True)
    >>> figure = gates(cache.trace[0])
    >>> [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    ['i', 'f', 'g', 'o', 'c', 'h']
    """
    if not isinstance(trace, Mapping):
        raise TypeError(
            f"plot.gates: trace must be a dict of arrays by step, got {type(trace).__name__}; "
            "cache.trace has one for each layer and direction: cache.trace[0]"
        )
    arrays = {name: a for name, a in trace.items() if a.ndim == 3 and name != "da"}
    if not arrays:
        raise ValueError("plot.gates: trace has no array of shape (N, T, H)")
    count = min(map(len, arrays.values()))
    sample = integer("plot.gates", "sample", sample, least=-count)
    if sample >= count:
        raise ValueError(
            f"plot.gates: sample must be at most {count - 1}, as the batch has {count} sequences, "
            f"got {sample}"
        )
    rows = {name: a[sample].T for name, a in arrays.items()}
    figure = _figure(7, 0.9 * len(rows) + 0.6)
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, rows.items(), strict=True):
        low, high, colors = 0.0, 1.0, "Oranges"
        if name not in SHARES or ((values < 0) | (values > 1)).any():
            high = float(np.abs(values).max(initial=0.0)) or 1.0
            low, colors = -high, "RdBu_r"
        image = axes.imshow(
            values, aspect="auto", cmap=colors, vmin=low, vmax=high, interpolation="nearest"
        )
        axes.set_ylabel(name, rotation=0, labelpad=12)
        axes.set_yticks([])
        figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01)
    panels[-1].set_xlabel("step")
    return figure


def filters(layer: Layer) -> "Figure":
    """Draw the kernels of a convolution, a row for each input channel, a column for each output.

    Parameters
    ----------
    layer : Conv1d or Conv2d

    Raises
    ------
    TypeError
        It is no convolution of one or two axes.

    Examples
    --------
    >>> from lamina import Conv2d
    >>> figure = filters(Conv2d(1, 8, 3, rng=0))
    >>> figure.axes[0].images[0].get_array().shape
    (3, 31)
    """
    if not isinstance(layer, (Conv1d, Conv2d)):
        raise TypeError(f"plot.filters: layer must be a Conv1d or a Conv2d, got {say(layer)}")
    weight = layer.weight[None] if isinstance(layer, Conv1d) else layer.weight
    height, width, inputs, outputs = weight.shape
    tall, wide = height + 1, width + 1  # with a gap after each
    sheet = np.full((inputs * tall - 1, outputs * wide - 1), np.nan)
    for c in range(inputs):
        for o in range(outputs):
            sheet[c * tall : c * tall + height, o * wide : o * wide + width] = weight[..., c, o]
    most = float(np.abs(weight).max()) or 1.0
    figure = _figure(min(12, 1 + 0.16 * sheet.shape[1]), min(12, 0.8 + 0.16 * sheet.shape[0]))
    axes = figure.subplots()
    image = axes.imshow(sheet, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("output channel")
    axes.set_ylabel("input channel")
    figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01)
    return figure


def gradient_flow(grads: Arrays, params: Arrays | None = None) -> "Figure":
    """Draw how large the gradient of each parameter is, from the first layer to the last.

    Where bars fall by orders of magnitude towards the first layers, gradients vanish.

    Parameters
    ----------
    grads : dict of str to array
        What a model's `backward` returned.
    params : dict of str to array, optional
        Of the model; where given, gradients are shown as shares of their parameters.

    Raises
    ------
    ValueError, TypeError
        There are no gradients, or none of the names of `params`; one of the two is no dict.

    Examples
    --------
    >>> figure = gradient_flow({"0.weight": np.full((2, 2), 1e-3), "1.weight": np.ones((2, 2))})
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['0.weight', '1.weight']
    """
    for name, arrays in {"grads": grads, "params": {} if params is None else params}.items():
        if not isinstance(arrays, Mapping):
            raise TypeError(
                f"plot.gradient_flow: {name} must be a dict of arrays by name, as dx, grads = "
                f"model.backward(dy, cache) and model.params; got {type(arrays).__name__}"
            )
    names = sorted(grads, key=lambda name: [(not p.isdigit(), p.zfill(9)) for p in name.split(".")])
    if not names:
        raise ValueError("plot.gradient_flow: there are no gradients")
    missing = [name for name in names if params is not None and name not in params]
    if missing:
        raise ValueError(f"plot.gradient_flow: params has no {missing[0]!r}")
    sizes = [_root_mean_square(grads[name]) for name in names]
    if params is not None:
        sizes = [
            size / (_root_mean_square(params[name]) or 1.0)
            for size, name in zip(sizes, names, strict=True)
        ]
    figure = _figure(6, 0.28 * len(names) + 0.8)
    axes = figure.subplots()
    axes.barh(names, sizes)
    axes.invert_yaxis()
    if any(sizes):
        axes.set_xscale("log")
    what = "root mean square of the gradient"
    axes.set_xlabel(f"{what}, by that of the parameter" if params is not None else what)
    return figure


def _root_mean_square(a: NDArray) -> float:
    """Return the root of the mean of the squares, 0 of nothing."""
    return float(np.sqrt(np.mean(np.square(a, dtype=np.float64)))) if a.size else 0.0


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("lamina.plot draws with matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")
