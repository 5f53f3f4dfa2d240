"""BatchNorm and Dropout as functions of JAX, under `jit`."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..batchnorm import BatchNorm
from ..case import Pass
from ..dropout import RATE, Dropout
from .runner import Form, NDArray


def forms(case: BatchNorm | Dropout, given: Mapping[str, NDArray]) -> dict[str, Form]:
    """Return the function, and its value with its gradients; the mask of a pass is drawn in it."""
    axes = tuple(range(len(case.x) - 1))

    def normalize(x: jax.Array, gamma: jax.Array, beta: jax.Array) -> jax.Array:
        mean, var = jnp.mean(x, axis=axes), jnp.var(x, axis=axes)
        return gamma * (x - mean) * jax.lax.rsqrt(var + 1e-5) + beta

    def function(key: jax.Array, x: jax.Array, *parameters: jax.Array) -> jax.Array:
        if isinstance(case, BatchNorm):
            return normalize(x, *parameters)
        keep = jax.random.bernoulli(key, 1 - RATE, x.shape)
        return jnp.where(keep, x / (1 - RATE), 0).astype(x.dtype)

    def gradients(key: jax.Array, dy: jax.Array, *arguments: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(lambda *a: function(key, *a), *arguments)
        return (y, *pull(dy))

    arguments = [jnp.asarray(given[name]) for name in ("x", *case.parameters)]
    dy, keys = jnp.asarray(given["dy"]), itertools.cycle(jax.random.split(jax.random.key(0), 64))
    forward, both = jax.jit(function), jax.jit(gradients)
    passes: dict[Pass, Callable[[], Any]] = {
        "forward": lambda: jax.block_until_ready(forward(next(keys), *arguments)),
        "both": lambda: jax.block_until_ready(both(next(keys), dy, *arguments)),
    }

    def restore(name: str, result: jax.Array) -> NDArray:
        array = np.asarray(result)
        if isinstance(case, Dropout):
            return case.undropped(array, given[{"y": "x", "dx": "dy"}[name]])
        return array

    return {"": Form(passes, restore)}
