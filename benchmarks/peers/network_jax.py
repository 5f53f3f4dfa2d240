"""Whole networks as functions of JAX, under `jit`, channels last."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lamina as lm

from ..case import Pass
from ..networks import Network, pads
from .runner import Form, NDArray

Weights = dict[str, jax.Array]


class Run:
    """Lamina's layers, computed by JAX.

    Parameters
    ----------
    weights : dict of arrays
        Parameters and statistics.
    lengths : array or None
    key : key or None
        Of what Dropout draws; None leaves it out.
    training : bool

    Attributes
    ----------
    statistics : dict of arrays
        BatchNorm's after the pass.
    """

    def __init__(
        self, weights: Weights, lengths: Any, key: jax.Array | None, training: bool
    ) -> None:
        self.weights, self.lengths, self.key, self.training = weights, lengths, key, training
        self.statistics: Weights = {}

    def __call__(self, layer: Any, x: jax.Array, name: str = "") -> jax.Array:
        """Return y of a layer of that name."""
        w = {
            k.removeprefix(f"{name}."): a
            for k, a in self.weights.items()
            if k.startswith(f"{name}.")
        }
        match layer:
            case lm.Sequential():
                for child, inner in layer.children().items():
                    x = self(inner, x, f"{name}.{child}" if name else child)
                return x
            case lm.Residual():
                body, shortcut = (self(b, x, f"{name}.{k}") for k, b in layer.children().items())
                return body + shortcut
            case lm.Identity():
                return x
            case lm.Linear():
                y = x @ w["weight"]
                return y + w["bias"] if "bias" in w else y
            case lm.Conv2d():
                y = jax.lax.conv_general_dilated(
                    x, w["weight"], layer.stride, pads(layer),
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )  # fmt: skip
                return y + w["bias"] if "bias" in w else y
            case lm.BatchNorm():
                return self._normalised(x, w, name)
            case lm.Dropout():
                if not self.training or self.key is None:
                    return x
                self.key, key = jax.random.split(self.key)
                keep = jax.random.bernoulli(key, 1 - layer.rate, x.shape)
                return jnp.where(keep, x / (1 - layer.rate), 0).astype(x.dtype)
            case lm.MaxPool2d():
                window, stride = (1, *layer.window, 1), (1, *layer.stride, 1)
                padding = ((0, 0), *pads(layer), (0, 0))
                return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, stride, padding)
            case lm.ReLU():
                return jax.nn.relu(x)
            case lm.GlobalAvgPool():
                return x.mean(axis=(1, 2))
            case lm.Flatten():
                return x.reshape(len(x), -1)
            case lm.LastStep():
                return x[:, -1]
            case lm.LSTM():
                return self._lstm(layer, x, w)
        raise TypeError(f"no function for {layer}")

    def _normalised(self, x: jax.Array, w: Weights, name: str) -> jax.Array:
        mean, var = w["running_mean"], w["running_var"]
        if self.training:
            axes = tuple(range(x.ndim - 1))
            batch_mean, batch_var = x.mean(axis=axes), x.var(axis=axes)
            self.statistics[f"{name}.running_mean"] = 0.9 * mean + 0.1 * batch_mean
            self.statistics[f"{name}.running_var"] = 0.9 * var + 0.1 * batch_var
            mean, var = batch_mean, batch_var
        return w["gamma"] * (x - mean) * jax.lax.rsqrt(var + 1e-5) + w["beta"]

    def _lstm(self, layer: Any, x: jax.Array, w: Weights) -> jax.Array:
        steps = x.swapaxes(0, 1)
        real = None
        if self.lengths is not None:
            real = (jnp.arange(len(steps))[:, None] < self.lengths)[..., None]

        def direction(xs: jax.Array, suffix: str, reverse: bool) -> jax.Array:
            weight_h = w[f"weight_h{suffix}"]
            zero = jnp.zeros((xs.shape[1], len(weight_h)), xs.dtype)

            def step(state: Any, given: Any) -> tuple[Any, jax.Array]:
                h, c = state
                a_t, real_t = given
                i, f, g, o = jnp.split(a_t + h @ weight_h, 4, axis=-1)
                c_t = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                h_t = jax.nn.sigmoid(o) * jnp.tanh(c_t)
                if real_t is not None:
                    h_t, c_t = jnp.where(real_t, h_t, 0), jnp.where(real_t, c_t, 0)
                return (h_t, c_t), h_t

            a = xs @ w[f"weight_x{suffix}"] + w[f"bias{suffix}"]
            return jax.lax.scan(step, (zero, zero), (a, real), reverse=reverse)[1]

        for k in range(layer.layers):
            ends = ["", "_reverse"][: 1 + layer.bidirectional]
            depth = f"_{k}" if k else ""
            ys = [direction(steps, depth + end, end != "") for end in ends]
            steps = jnp.concatenate(ys, axis=-1)
        return steps.swapaxes(0, 1)


def forms(case: Network, given: Mapping[str, NDArray]) -> dict[str, Form]:
    """Return the function, or a step that is given weights, slots and statistics to use up."""
    model = case.of.build()
    x, target = jnp.asarray(given["x"]), jnp.asarray(given["target"])
    lengths = jnp.asarray(given["lengths"]) if "lengths" in given else None
    weights = {k: jnp.asarray(a) for k, a in given.items() if k in case.parameters}
    statistics = {k: jnp.asarray(a) for k, a in given.items() if "running" in k}

    def restore(name: str, array: Any) -> NDArray:
        found = np.array(array)
        if name == "y" and lengths is not None:
            found[np.arange(found.shape[1]) >= given["lengths"][:, None]] = 0
        return found

    if case.which == "forward":
        infer = jax.jit(lambda w, x, n: Run(w, n, None, False)(model, x))
        everything = weights | statistics
        call = lambda: jax.block_until_ready(infer(everything, x, lengths))  # noqa: E731
        return {"": Form({"forward": call}, restore)}

    def loss(w: Weights, s: Weights, x: jax.Array, key: Any) -> Any:
        run = Run(w | s, lengths, key, True)
        y = run(model, x)
        logs = jax.nn.log_softmax(y)
        terms = -jnp.take_along_axis(logs, target[..., None], axis=-1)[..., 0]
        if lengths is not None:
            real = jnp.arange(terms.shape[1]) < lengths[:, None]
            return (terms * real).sum() / real.sum(), (y, run.statistics)
        return terms.mean(), (y, run.statistics)

    gradient = jax.value_and_grad(loss, has_aux=True)
    update = _adam if case.of.optimizer == "adam" else _momentum

    def step(w: Weights, s: Weights, slots: Any, x: jax.Array, key: Any) -> Any:
        (value, (_, s)), grads = gradient(w, s, x, key)
        w, slots = update(w, grads, slots)
        return value, w, s, slots

    zeros = {k: jnp.zeros_like(a) for k, a in weights.items()}
    state: list[Any] = [
        {k: a.copy() for k, a in weights.items()},
        {k: a.copy() for k, a in statistics.items()},
        (zeros, {k: a.copy() for k, a in zeros.items()}, jnp.zeros((), x.dtype)),
    ]
    compiled = jax.jit(step, donate_argnums=(0, 1, 2))
    keys = itertools.cycle(jax.random.split(jax.random.key(0), 64))

    def call_step() -> Any:
        value, *state[:] = compiled(*state, x, next(keys))
        return jax.block_until_ready((value, state))

    def results() -> list[jax.Array]:
        (_, (y, _)), grads = jax.jit(gradient)(weights, statistics, x, None)
        return [y, *(grads[name] for name in case.parameters)]

    passes: dict[Pass, Callable[[], Any]] = {"both": call_step}
    return {"": Form(passes, restore, {"both": results})}


def _momentum(w: Weights, grads: Weights, slots: Any) -> Any:
    v, unused, t = slots
    v = {k: 0.9 * v[k] + grads[k] for k in w}
    return {k: w[k] - 1e-7 * v[k] for k in w}, (v, unused, t)


def _adam(w: Weights, grads: Weights, slots: Any) -> Any:
    m, s, t = slots
    t = t + 1
    m = {k: 0.9 * m[k] + 0.1 * grads[k] for k in w}
    s = {k: 0.999 * s[k] + 0.001 * grads[k] ** 2 for k in w}
    first, second = 1 - 0.9**t, 1 - 0.999**t
    w = {k: w[k] - 1e-7 * (m[k] / first) / (jnp.sqrt(s[k] / second) + 1e-8) for k in w}
    return w, (m, s, t)
