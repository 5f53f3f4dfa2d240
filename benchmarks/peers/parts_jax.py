"""Activations, pooling, losses and updates as functions of JAX, under `jit`, channels last."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from ..activations import SLOPE, Activation
from ..losses import Loss
from ..optimizers import ALPHA, BETAS, CHECKED, CLIP, DECAY, EPS, MOMENTUM, RATE, Update
from ..parts import Part
from .runner import Form, NDArray

Arrays = dict[str, jax.Array]

_ACTIVATIONS: Final[Mapping[str, Callable[[jax.Array], jax.Array]]] = {
    "ReLU": jax.nn.relu,
    "LeakyReLU": partial(jax.nn.leaky_relu, negative_slope=SLOPE),
    "Sigmoid": jax.nn.sigmoid,
    "Tanh": jnp.tanh,
    "GELU": partial(jax.nn.gelu, approximate=False),
    "GELU by tanh": jax.nn.gelu,
    "SELU": jax.nn.selu,
    "Softmax": jax.nn.softmax,
}


def forms(case: Part, given: Mapping[str, NDArray]) -> dict[str, Form]:
    """Return the function, and its value with its gradient; or an update that writes in place."""
    if isinstance(case, Update):
        return {"": _update(case, given)}
    x = jnp.asarray(given["x"])
    if isinstance(case, Loss):
        of = jax.jit(jax.value_and_grad(partial(_loss, case.kind)))
        target = jnp.asarray(given["target"])
        return {"": Form({"both": lambda: jax.block_until_ready(of(x, target))}, _array)}
    function = _ACTIVATIONS[case.function] if isinstance(case, Activation) else partial(_pool, case)

    def gradients(dy: jax.Array, x: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(function, x)
        return (y, *pull(dy))

    dy, forward, both = jnp.asarray(given["dy"]), jax.jit(function), jax.jit(gradients)
    passes: dict[Any, Callable[[], Any]] = {
        "forward": lambda: jax.block_until_ready(forward(x)),
        "both": lambda: jax.block_until_ready(both(dy, x)),
    }
    return {"": Form(passes, _array)}


def _pool(case: Any, x: jax.Array) -> jax.Array:
    if not case.window:
        return x.mean(axis=(1, 2))
    window, strides = ((1, *(n,) * case.rank, 1) for n in (case.window, case.step))
    padding = ((0, 0), *((case.padding,) * 2,) * case.rank, (0, 0))
    if case.kind == "Max":
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, padding)
    return total / case.window**case.rank


def _loss(kind: str, x: jax.Array, target: jax.Array) -> jax.Array:
    match kind:
        case "CrossEntropy":
            log_p = jax.nn.log_softmax(x)
            return -jnp.take_along_axis(log_p, target[..., None], axis=-1).mean()
        case "BinaryCrossEntropy":
            below, above = jax.nn.log_sigmoid(-x), jax.nn.log_sigmoid(x)
            return -(target * above + (1 - target) * below).mean()
        case "Huber":
            r = jnp.abs(x - target)
            return jnp.where(r < 1, r * r / 2, r - 0.5).mean()
    return jnp.square(x - target).mean()


def _update(case: Update, given: Mapping[str, NDArray]) -> Form:
    def own(p: jax.Array, g: jax.Array, slots: Any, t: jax.Array) -> Any:
        match case.rule:
            case "SGD":
                v = MOMENTUM * slots[0] + g
                return p - RATE * v, (v,)
            case "RMSprop":
                s = ALPHA * slots[0] + (1 - ALPHA) * g * g
                return p - RATE * g / (jnp.sqrt(s) + EPS), (s,)
        if case.rule == "AdamW":
            p = p * (1 - RATE * DECAY)
        m = BETAS[0] * slots[0] + (1 - BETAS[0]) * g
        s = BETAS[1] * slots[1] + (1 - BETAS[1]) * g * g
        correct, correct_root = (1 - beta**t for beta in BETAS)
        root = jnp.sqrt(s / correct_root.astype(s.dtype)) + EPS
        return p - (RATE / correct).astype(p.dtype) * m / root, (m, s)

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Arrays, slots: dict[str, Any], grads: Arrays, t: jax.Array) -> Any:
        if case.clipped:
            norm = jnp.sqrt(sum(jnp.sum(g * g) for g in grads.values()))
            factor = jnp.minimum(1, CLIP / norm)
            grads = {name: g * factor for name, g in grads.items()}
        found = {name: own(p, grads[name], slots[name], t) for name, p in params.items()}
        return {k: p for k, (p, _) in found.items()}, {k: s for k, (_, s) in found.items()}, t + 1

    def fresh() -> Any:
        params = {name: jnp.array(given[name]) for name in case.shapes}
        slots = {k: tuple(jnp.zeros_like(p) for _ in range(case.slots)) for k, p in params.items()}
        return params, slots, jnp.asarray(1.0)

    grads = {name: jnp.array(given[f"g.{name}"]) for name in case.shapes}
    state = [fresh()]

    def step() -> None:
        params, slots, t = state[0]
        state[0] = jax.block_until_ready(update(params, slots, grads, t))

    def results() -> list[jax.Array]:
        params, slots, t = fresh()
        for _ in range(CHECKED):
            params, slots, t = update(params, slots, grads, t)
        return [params[name] for name in case.shapes]

    return Form({"both": step}, _array, {"both": results})


def _array(name: str, result: jax.Array) -> NDArray:
    return np.asarray(result)
