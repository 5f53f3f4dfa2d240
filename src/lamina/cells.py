"""What the variants of recurrent cells share: activations, clipping, normalisation, and the loop.

Activations φ, with the slope φ' as a function of a and y = φ(a), by name:

    name           y                                    φ'(a)
    tanh           tanh(a)                              1 - y²
    sigmoid        1 / (1 + e⁻ᵃ)                        y (1 - y)
    relu           max(a, 0)                            1 where a > 0, else 0
    leaky_relu     a where a > 0, else 0.01 a           1 where a > 0, else 0.01
    elu            a where a > 0, else eᵃ - 1           1 where a > 0, else y + 1
    softplus       ln(1 + eᵃ)                           1 / (1 + e⁻ᵃ)
    softsign       a / (1 + |a|)                        1 / (1 + |a|)²
    hard_sigmoid   a / 5 + 1/2, within [0, 1]           1/5 where 0 < y < 1, else 0
    hard_tanh      a, within [-1, 1]                    1 where |a| < 1, else 0
    identity       a                                    1

Clipping to κ: y = a within [-κ, κ], with slope 1 where |a| <= κ, else 0.

Normalisation of a vector v of n values (J. Ba, J. Kiros, G. Hinton, *Layer Normalization* (2016),
eq. 3 and 4), γ being its gain:

    μ = Σ v / n,  s = 1 / √(Σ (v - μ)² / n + ε),  w = s (v - μ),  y = γ ⊙ w     (1)
    dγ = Σ over rows dy ⊙ w,  dw = γ ⊙ dy                                       (2)
    dv = s (dw - Σ dw / n - w ⊙ Σ (dw ⊙ w) / n)                                 (3)
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from .arrays import Array, hold, mask_steps, namespace, sigmoid, stack_steps, zeros

State: TypeAlias = tuple[Array, ...]
Grads: TypeAlias = dict[str, Array]

EPSILON: Final = 1e-5
"""ε of (1)."""


def _where(holds: Array, like: Array) -> Array:
    """Return 1 where something holds, else 0."""
    return namespace(like).astype(holds, like.dtype)


def _relu(a: Array) -> Array:
    return namespace(a).where(a <= 0, zeros((), a), a)


def _elu(a: Array) -> Array:
    xp = namespace(a)
    return xp.where(a > 0, a, xp.expm1(xp.clip(a, max=0.0)))


def _softplus(a: Array) -> Array:
    xp = namespace(a)
    return _relu(a) + xp.log1p(xp.exp(-xp.abs(a)))


def _softsign(a: Array) -> Array:
    xp = namespace(a)
    a = xp.clip(a, min=-1e30, max=1e30)  # y is -1 or 1 there, and ∞/∞ would be none
    return a / (1 + xp.abs(a))


ACTIVATIONS: Final[Mapping[str, Callable[[Array], Array]]] = {
    "tanh": lambda a: namespace(a).tanh(a),
    "sigmoid": sigmoid,
    "relu": _relu,
    "leaky_relu": lambda a: namespace(a).where(a > 0, a, 0.01 * a),
    "elu": _elu,
    "softplus": _softplus,
    "softsign": _softsign,
    "hard_sigmoid": lambda a: namespace(a).clip(0.2 * a + 0.5, min=0.0, max=1.0),
    "hard_tanh": lambda a: namespace(a).clip(a, min=-1.0, max=1.0),
    "identity": lambda a: a,
}
SLOPES: Final[Mapping[str, Callable[[Array, Array], Array]]] = {
    "tanh": lambda a, y: 1 - y * y,
    "sigmoid": lambda a, y: y * (1 - y),
    "relu": lambda a, y: _where(a > 0, a),
    "leaky_relu": lambda a, y: 0.01 + 0.99 * _where(a > 0, a),
    "elu": lambda a, y: namespace(a).where(a > 0, namespace(a).ones_like(y), y + 1),
    "softplus": lambda a, y: sigmoid(a),
    "softsign": lambda a, y: (1 / (1 + namespace(a).abs(a))) ** 2,  # no square overflows
    "hard_sigmoid": lambda a, y: 0.2 * _where((y > 0) & (y < 1), a),
    "hard_tanh": lambda a, y: _where(namespace(a).abs(a) < 1, a),
    "identity": lambda a, y: namespace(a).ones_like(a),
}


def clip(a: Array, limit: float | None) -> Array:
    """Return a within [-limit, limit]; None is no limit."""
    return a if limit is None else namespace(a).clip(a, min=-limit, max=limit)


def through(da: Array, a: Array, limit: float | None) -> Array:
    """Return the gradient by a, given that by ``clip(a, limit)``."""
    return da if limit is None else da * _where(namespace(a).abs(a) <= limit, a)


def normalize(v: Array, gamma: Array | None) -> tuple[Array, Any]:
    """Return y, shape (N, n), and the cache of `normalize_backward`; without gamma, y = v."""
    if gamma is None:
        return v, None
    xp = namespace(v)
    v = v - xp.mean(v, axis=1, keepdims=True)
    s = 1 / xp.sqrt(xp.mean(v * v, axis=1, keepdims=True) + EPSILON)
    w = s * v
    return gamma * w, (w, s, gamma)  # (1)


def normalize_backward(dy: Array, cache: Any) -> tuple[Array, Array]:
    """Return dv and the gradient of gamma."""
    if cache is None:
        return dy, None
    w, s, gamma = cache
    xp = namespace(dy)
    dw = gamma * dy
    mean, slope = (xp.mean(a, axis=1, keepdims=True) for a in (dw, dw * w))
    return s * (dw - mean - w * slope), xp.sum(dy * w, axis=0)  # (2), (3)


def run(
    step: Callable[[Array, State], tuple[State, Any]],
    x: Array,
    state: State,
    lengths: Array | None,
) -> tuple[Array, State, list[State], list[Any]]:
    """Take a cell through time: return y, the last state, all of them, and what each step keeps.

    ``step(x_t, state)`` returns the next state, whose first array is y_t, and what it keeps.
    """
    x = mask_steps(x, lengths)
    states, kept = [state], []
    for t in range(1, x.shape[1] + 1):
        after, keeps = step(x[:, t - 1, :], states[-1])
        both = zip(after, states[-1], strict=True)
        states.append(tuple(hold(new, old, t, lengths) for new, old in both))
        kept.append(keeps)
    y = mask_steps(stack_steps([h for h, *_ in states[1:]], like=state[0]), lengths)
    return y, states[-1], states[1:], kept


def run_backward(
    step_backward: Callable[[State, Any], tuple[Array, State, Grads, Array]],
    dy: Array,
    dstate: State,
    kept: list[Any],
    x: Array,
    weights: Mapping[str, Array | None],
    lengths: Array | None,
) -> tuple[Array, State, Grads, list[Array]]:
    """Take gradients back through time: return dx, dstate, those of the weights, and da by step.

    ``step_backward(dstate, keeps)`` returns dx_t, the gradient of the state before, those of the
    weights, and da_t; all are linear in dstate, hence 0 where that is.
    """
    dy = mask_steps(dy, lengths)
    grads = {name: zeros(w.shape, like=w) for name, w in weights.items() if w is not None}
    dx, das = [], []
    for t in range(len(kept), 0, -1):
        dh, *rest = dstate
        dstate = (dh + dy[:, t - 1, :], *rest)
        real = tuple(hold(d, 0 * d, t, lengths) for d in dstate)
        dx_t, before, found, da = step_backward(real, kept[t - 1])
        dstate = tuple(hold(new, old, t, lengths) for new, old in zip(before, dstate, strict=True))
        grads = {name: g + found[name] for name, g in grads.items()}
        dx.append(dx_t)
        das.append(da)
    like = zeros((x.shape[0], x.shape[2]), like=x)
    return stack_steps(dx[::-1], like), dstate, grads, das[::-1]
