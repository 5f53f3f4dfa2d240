"""RNN: the next state is a function of the input and of the state before. One layer, one direction.

With x (N, T, I), h and y (N, T, H), h_0 (N, H), W_x (I, H), W_h (H, H), b (H); x_t is the step t of
all sequences, t = 1 ... T; ⊙ multiplies element by element. The mask m (N, H) is one for all steps:
1, but 0 or 1 / (1 - p) under variational dropout at rate p.

Forward

    a_t = x_t W_x + (m ⊙ h_{t-1}) W_h + b                                       (1)
    h_t = φ(a_t),  φ = tanh, relu or σ: σ(a) = 1 / (1 + e⁻ᵃ)                    (2)
    y_t = h_t                                                                   (3)

After the end of a sequence its state stays, h_t = h_{t-1}, and y_t = 0.         (4)

Backward, through time. The loss L depends on h_t through y_t and through step t + 1. With dy_t =
∂L/∂y_t, and dh'_t for what comes through step t + 1 (dh'_T is the gradient of the last state), the
chain rule gives, for t = T ... 1,

    dh_t = dy_t + dh'_t                      by (3) and (1)                      (5)
    da_t = dh_t ⊙ φ'(a_t)                    by (2); with h_t = φ(a_t),          (6)
           tanh'(a_t) = 1 - h_t²,  relu'(a_t) = 1 where h_t > 0, else 0,
           σ'(a_t) = h_t ⊙ (1 - h_t)
    dh'_{t-1} = m ⊙ (da_t W_hᵀ)              by (1); dh'_0 is the gradient       (7)
                                             of the first state

After the end of a sequence, by (4), da_t = 0 and dh'_{t-1} = dh'_t.             (8)
All steps share the weights, so their gradients add:

    dx_t = da_t W_xᵀ                                                            (9)
    dW_x = Σ_t x_tᵀ da_t                                                       (10)
    dW_h = Σ_t (m ⊙ h_{t-1})ᵀ da_t                                             (11)
    db   = Σ_t Σ_n da_t[n]                                                     (12)

From a step to the one before, the gradient is multiplied by φ'(a_t) and by W_hᵀ, hence over k steps
by about the k-th power of W_h: it vanishes or explodes. The LSTM was made against that.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from ..arrays import Array, hold, mask_steps, namespace, scale, sigmoid, stack_steps, zeros

State: TypeAlias = tuple[Array]
"""(h,), shape (N, H)."""

ACTIVATIONS: Final[dict[str, Callable[[Array], Array]]] = {
    "tanh": lambda a: namespace(a).tanh(a),
    "relu": lambda a: namespace(a).where(a <= 0, zeros((), a), a),
    "sigmoid": sigmoid,
}
"""φ, by name."""

SLOPES: Final[dict[str, Callable[[Array], Array]]] = {
    "tanh": lambda h: 1 - h * h,
    "relu": lambda h: namespace(h).astype(h > 0, h.dtype),
    "sigmoid": lambda h: h * (1 - h),
}
"""φ'(a) as a function of h = φ(a), by name."""


def step(
    x_t: Array,
    state: State,
    weights: tuple[Array, Array, Array | None],
    mask: Array | None = None,
    activation: str = "tanh",
) -> State:
    """Return the state after one step: x_t has shape (N, I), weights are (W_x, W_h, b)."""
    (h,) = state
    weight_x, weight_h, bias = weights
    a = x_t @ weight_x + scale(h, mask) @ weight_h  # (1)
    if bias is not None:
        a = a + bias  # (1)
    return (ACTIVATIONS[activation](a),)  # (2)


def run(
    x: Array,
    state: State,
    weight_x: Array,
    weight_h: Array,
    bias: Array | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    activation: str = "tanh",
) -> tuple[Array, State, tuple[Any, ...]]:
    """Return y, shape (N, T, H), the state after the last step, and the cache of `run_backward`.

    Parameters
    ----------
    x : array, shape (N, T, I)
    state : tuple of one array, shape (N, H)
        The state before the first step, (h_0,).
    weight_x : array, shape (I, H)
    weight_h : array, shape (H, H)
    bias : array, shape (H,), optional
    lengths : integer array, shape (N,), optional
        Steps of x from lengths[n] on are padding; the state is that after step lengths[n].
    mask : array, shape (N, H), optional
        m: what h is multiplied by before W_h, at every step.
    activation : str
        φ, one of `ACTIVATIONS`.
    """
    xp = namespace(x)
    x = mask_steps(x, lengths)
    weights = weight_x, weight_h, bias
    h = [*state]
    for t in range(1, x.shape[1] + 1):
        (h_t,) = step(x[:, t - 1, :], (h[-1],), weights, mask, activation)
        h.append(hold(h_t, h[-1], t, lengths))  # (4)
    hs = xp.stack(h, axis=1)
    y = mask_steps(hs[:, 1:, :], lengths)  # (3), (4)
    return y, (h[-1],), (x, hs, weights, lengths, mask, activation)


def run_backward(
    dy: Array, dstate: State, cache: tuple[Any, ...], trace: dict[str, Array] | None = None
) -> tuple[Array, State, dict[str, Array]]:
    """Return dx, the gradient of the state before the first step, and those of the weights.

    `dstate` is the gradient of the state after the last step. A `trace` is given ``"da"``, the
    gradient of a by step, shape (N, T, H).
    """
    x, hs, (weight_x, weight_h, bias), lengths, mask, activation = cache
    xp = namespace(dy, x)
    dy = mask_steps(dy, lengths)
    (dh,) = dstate
    da = []
    for t in range(x.shape[1], 0, -1):
        dh = dh + dy[:, t - 1, :]  # (5)
        da_t = dh * SLOPES[activation](hs[:, t, :])  # (6)
        dh = hold(scale(da_t @ weight_h.T, mask), dh, t, lengths)  # (7), (8)
        da.append(da_t)
    das = mask_steps(stack_steps(da[::-1], like=dh), lengths)  # (8)
    if trace is not None:
        trace["da"] = das

    dx = das @ weight_x.T  # (9)
    rows_x = xp.reshape(x, (-1, weight_x.shape[0]))
    before = scale(hs[:, :-1, :], None if mask is None else mask[:, None, :])
    rows_h = xp.reshape(before, (-1, weight_h.shape[0]))
    rows_da = xp.reshape(das, (-1, weight_h.shape[1]))
    grads = {"weight_x": rows_x.T @ rows_da, "weight_h": rows_h.T @ rows_da}  # (10), (11)
    if bias is not None:
        grads["bias"] = xp.sum(rows_da, axis=0)  # (12)
    return dx, (dh,), grads


def trace(cache: tuple[Any, ...]) -> dict[str, Array]:
    """Return what a run went through by step: h, shape (N, T, H), 0 in padding."""
    _, hs, _, lengths, _, _ = cache
    return {"h": mask_steps(hs[:, 1:, :], lengths)}


def forward(
    x: Array,
    weight_x: Array,
    weight_h: Array,
    bias: Array | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    activation: str = "tanh",
) -> tuple[Array, tuple[Any, ...]]:
    """Return y and the cache of `backward`: `run` from a state of 0."""
    start = zeros((x.shape[0], weight_h.shape[0]), like=x)
    y, _, cache = run(x, (start,), weight_x, weight_h, bias, lengths, mask, activation)
    return y, cache


def backward(dy: Array, cache: tuple[Any, ...]) -> tuple[Array, dict[str, Array]]:
    """Return dx and the gradients of the weights, where the last state serves nothing else."""
    end = zeros((dy.shape[0], dy.shape[2]), like=dy)
    dx, _, grads = run_backward(dy, (end,), cache)
    return dx, grads
