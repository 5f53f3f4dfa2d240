"""RNN, LSTM and GRU in JAX: `lax.scan` over the steps, with x W_x before it or in it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..case import Pass
from ..recurrent import Recurrence
from .runner import Form, NDArray


def forms(case: Recurrence, given: Mapping[str, NDArray]) -> dict[str, Form]:
    """Return the function in either way."""
    return {"x before": _form(case, given, True), "x in the scan": _form(case, given, False)}


def _form(case: Recurrence, given: Mapping[str, NDArray], before: bool) -> Form:
    def layer(x: jax.Array, weights: tuple[jax.Array, ...], reverse: bool) -> jax.Array:
        weight_x, weight_h, bias, *more = weights
        zero = jnp.zeros((case.batch, case.hidden), x.dtype)

        def step(state: Any, x_t: jax.Array) -> tuple[Any, jax.Array]:
            h, c = state
            of_x = x_t if before else x_t @ weight_x + bias
            if case.layer == "gru":
                of_h = h @ weight_h
                r, z = jnp.split(jax.nn.sigmoid((of_x + of_h)[:, : -case.hidden]), 2, axis=-1)
                v = of_h[:, -case.hidden :] + more[0]
                h = (1 - z) * jnp.tanh(of_x[:, -case.hidden :] + r * v) + z * h
                return (h, c), h
            a = of_x + h @ weight_h
            if case.layer == "rnn":
                h = jnp.tanh(a)
                return (h, c), h
            i, f, g, o = jnp.split(a, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        steps = x @ weight_x + bias if before else x
        return jax.lax.scan(step, (zero, zero), steps, reverse=reverse)[1]

    def function(x: jax.Array, *parameters: jax.Array) -> jax.Array:
        y = x.swapaxes(0, 1)
        by_name = dict(zip(case.parameters, parameters, strict=True))
        kinds, ends = ("weight_x", "weight_h", "bias", "bias_h"), case.suffixes()
        for k in range(0, len(ends), case.directions):
            ys = [
                layer(y, tuple(by_name[n + end] for n in kinds if n + end in by_name), d == 1)
                for d, end in enumerate(ends[k : k + case.directions])
            ]
            y = jnp.concatenate(ys, axis=-1)
        return y.swapaxes(0, 1)

    def gradients(dy: jax.Array, *arguments: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(function, *arguments)
        return (y, *pull(dy))

    arguments = [jnp.asarray(given[name]) for name in ("x", *case.parameters)]
    dy = jnp.asarray(given["dy"])
    forward, both = jax.jit(function), jax.jit(gradients)
    passes: dict[Pass, Callable[[], Any]] = {
        "forward": lambda: jax.block_until_ready(forward(*arguments)),
        "both": lambda: jax.block_until_ready(both(dy, *arguments)),
    }
    return Form(passes, lambda name, array: np.asarray(array))
