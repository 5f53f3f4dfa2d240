"""RNN with another activation, clipping, or normalisation inside the step. By formula only.

With x (N, T, I), h and y (N, T, H), W_x (I, H), W_h (H, H), b, γ (H), m (N, H) as in formula.py,

    u_t = m ⊙ h_{t-1}
    a_t = norm(x_t W_x + u_t W_h; γ) + b                                        (1)
    h_t = φ(clip(a_t; κ)),  y_t = h_t                                           (2)

Without γ or κ, norm or clip leave out what they do. Backward, for t = T ... 1,

    dh_t = dy_t + dh'_t                                                         (3)
    da_t = dh_t ⊙ φ'(clip(a_t; κ)) ⊙ clip'(a_t; κ)         by (2)               (4)
    dv_t = norm'(da_t),  dγ = Σ_t ...                      by (1)               (5)
    dh'_{t-1} = m ⊙ (dv_t W_hᵀ),  dx_t = dv_t W_xᵀ         by (1)               (6)
    dW_x = Σ_t x_tᵀ dv_t,  dW_h = Σ_t u_tᵀ dv_t,  db = Σ_t Σ_n da_t[n]          (7)

cells.py has φ, clip and norm with their gradients. J. Ba, J. Kiros, G. Hinton, *Layer
Normalization* (2016), eq. 4, has (1).
"""

from typing import Any, TypeAlias

from .. import cells
from ..arrays import Array, mask_steps, namespace, scale, stack_steps, zeros

State: TypeAlias = tuple[Array]
"""(h,), shape (N, H)."""
Weights: TypeAlias = tuple[Array, Array, Array | None, Array | None]
"""(W_x, W_h, b, γ)."""


def step(
    x_t: Array,
    state: State,
    weights: Weights,
    activation: str = "tanh",
    clip: float | None = None,
) -> State:
    """Return the state after one step: x_t has shape (N, I), weights are (W_x, W_h, b, γ)."""
    after, _ = _step(x_t, state, weights, None, activation, clip)
    return after


def _step(
    x_t: Array,
    state: State,
    weights: Weights,
    mask: Array | None,
    activation: str,
    clip: float | None,
) -> tuple[State, Any]:
    (h,) = state
    weight_x, weight_h, bias, gamma = weights
    u = scale(h, mask)
    a, normalized = cells.normalize(x_t @ weight_x + u @ weight_h, gamma)  # (1)
    if bias is not None:
        a = a + bias
    clipped = cells.clip(a, clip)
    h_t = cells.ACTIVATIONS[activation](clipped)  # (2)
    return (h_t,), (x_t, u, normalized, a, clipped, h_t)


def run(
    x: Array,
    state: State,
    weight_x: Array,
    weight_h: Array,
    bias: Array | None = None,
    gamma: Array | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Array, State, tuple[Any, ...]]:
    """Return y, shape (N, T, H), the state after the last step, and the cache of `run_backward`.

    Parameters are those of formula.py, and

    Parameters
    ----------
    gamma : array, shape (H,), optional
        γ: sums are normalised, with this gain.
    activation : str
        φ, one of `lamina.cells.ACTIVATIONS`.
    clip : float, optional
        κ: a is clipped to [-κ, κ].
    """
    weights = weight_x, weight_h, bias, gamma

    def one(x_t: Array, before: State) -> tuple[State, Any]:
        return _step(x_t, before, weights, mask, activation, clip)

    y, end, states, kept = cells.run(one, x, state, lengths)
    return y, end, (x, states, kept, weights, lengths, mask, activation, clip)


def run_backward(
    dy: Array, dstate: State, cache: tuple[Any, ...], trace: dict[str, Array] | None = None
) -> tuple[Array, State, dict[str, Array]]:
    """Return dx, the gradient of the state before the first step, and those of the weights.

    `dstate` is the gradient of the state after the last step. A `trace` is given ``"da"``, the
    gradient of a by step, shape (N, T, H).
    """
    x, _, kept, weights, lengths, mask, activation, clip = cache
    weight_x, weight_h, bias, gamma = weights

    def back(dstate: State, keeps: Any) -> tuple[Array, State, dict[str, Array], Array]:
        (dh,) = dstate
        x_t, u, normalized, a, clipped, h_t = keeps
        da = cells.through(dh * cells.SLOPES[activation](clipped, h_t), a, clip)  # (4)
        dv, dgamma = cells.normalize_backward(da, normalized)  # (5)
        grads = {
            "weight_x": x_t.T @ dv,  # (7)
            "weight_h": u.T @ dv,
            "bias": namespace(da).sum(da, axis=0),
            "gamma": dgamma,
        }
        return dv @ weight_x.T, (scale(dv @ weight_h.T, mask),), grads, da  # (6)

    named = {"weight_x": weight_x, "weight_h": weight_h, "bias": bias, "gamma": gamma}
    dx, before, grads, das = cells.run_backward(back, dy, dstate, kept, x, named, lengths)
    if trace is not None:
        trace["da"] = stack_steps(das, like=before[0])
    return dx, before, grads


def trace(cache: tuple[Any, ...]) -> dict[str, Array]:
    """Return what a run went through by step: h, shape (N, T, H), 0 in padding."""
    x, states, _, (_, weight_h, *_), lengths, *_ = cache
    like = zeros((x.shape[0], weight_h.shape[0]), like=x)
    return {"h": mask_steps(stack_steps([h for (h,) in states], like), lengths)}
