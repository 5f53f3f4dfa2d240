"""GRU: two gates decide how much of the state to forget and to renew. One layer, one direction.

With x (N, T, I), h and y (N, T, H), h_0 (N, H), W_x (I, 3H), W_h (H, 3H), b (3H); x_t is the step t
of all sequences, t = 1 ... T; a_t (N, 3H) has three blocks of H columns: aʳ, aᶻ, aⁿ, and so have
W_h and what is made by it; σ(a) = 1 / (1 + e⁻ᵃ) is the logistic function; ⊙ multiplies element by
element. The mask m (N, H) is one for all steps: 1, but 0 or 1 / (1 - p) under variational dropout
at rate p.

Forward

    u_t = m ⊙ h_{t-1}                                                           (1)
    a_t = x_t W_x + b;  aʳ_t takes in u_t W_hʳ, aᶻ_t u_t W_hᶻ                   (2)
    r_t = σ(aʳ_t)           the reset gate: how much of the past the candidate  (3)
                            sees
    z_t = σ(aᶻ_t)           the update gate: how much of the state to keep      (4)

The reset gate acts after the product with W_hⁿ, which has a bias b_h (H) of its own (cuDNN,
PyTorch), or before it (Cho et al. 2014); aⁿ_t takes in what follows the comma:

    after   v_t = u_t W_hⁿ + b_h,  r_t ⊙ v_t                                    (5a)
    before  q_t = r_t ⊙ u_t,  q_t W_hⁿ                                          (5b)

    n_t = tanh(aⁿ_t)        the candidate                                       (6)
    h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}                                       (7)
    y_t = h_t                                                                   (8)

After the end of a sequence its state stays, h_t = h_{t-1}, and y_t = 0.         (9)

Backward, through time. The loss L depends on h_t through y_t and through step t + 1. With dy_t =
∂L/∂y_t, and dh'_t for what comes through step t + 1 (dh'_T is the gradient of the last state), the
chain rule gives, for t = T ... 1,

    dh_t = dy_t + dh'_t                                  by (8) and (7)         (10)
    dn_t = dh_t ⊙ (1 - z_t)                              by (7)                 (11)
    dz_t = dh_t ⊙ (h_{t-1} - n_t)                        by (7)                 (12)
    daⁿ_t = dn_t ⊙ (1 - n_t²)                            by (6)                 (13)
    after   dr_t = daⁿ_t ⊙ v_t,  dv_t = daⁿ_t ⊙ r_t,     by (5a)                (14a)
            duⁿ_t = dv_t W_hⁿᵀ
    before  dq_t = daⁿ_t W_hⁿᵀ,  dr_t = dq_t ⊙ u_t,      by (5b)                (14b)
            duⁿ_t = dq_t ⊙ r_t
    daʳ_t = dr_t ⊙ r_t ⊙ (1 - r_t)                       by (3): σ' = σ (1 - σ) (15)
    daᶻ_t = dz_t ⊙ z_t ⊙ (1 - z_t)                       by (4)                 (16)
    du_t = daʳ_t W_hʳᵀ + daᶻ_t W_hᶻᵀ + duⁿ_t             by (2)                 (17)
    dh'_{t-1} = dh_t ⊙ z_t + m ⊙ du_t                    by (7) and (1)         (18)

dh'_0 is the gradient of the first state. After the end of a sequence, by (9), da_t = dv_t = 0 and
dh'_{t-1} = dh'_t.                                                              (19)
All steps share the weights, so their gradients add:

    dx_t = da_t W_xᵀ                                                            (20)
    dW_x = Σ_t x_tᵀ da_t                                                        (21)
    dW_hʳ = Σ_t u_tᵀ daʳ_t,  dW_hᶻ = Σ_t u_tᵀ daᶻ_t                             (22)
    dW_hⁿ = Σ_t u_tᵀ dv_t after,  Σ_t q_tᵀ daⁿ_t before                         (23)
    db   = Σ_t Σ_n da_t[n],  db_h = Σ_t Σ_n dv_t[n]                             (24)

Where z_t is near 1 the state stays, and so does its gradient (18): the part of the LSTM's forget
gate, with one state instead of two. In some texts z and 1 - z change places.
"""

from typing import Any, Literal, TypeAlias

from ..arrays import Array, hold, mask_steps, namespace, scale, sigmoid, stack_steps, zeros

State: TypeAlias = tuple[Array]
"""(h,), shape (N, H)."""
Gates: TypeAlias = tuple[Array, Array, Array, Array]
"""(r, z, n, v), each of shape (N, H); before, u stands for v: what the reset gate acts on."""
Weights: TypeAlias = tuple[Array, Array, Array | None, Array | None]
"""(W_x, W_h, b, b_h)."""
Reset: TypeAlias = Literal["after", "before"]


def gates(
    x_t: Array, state: State, weights: Weights, mask: Array | None = None, reset: Reset = "after"
) -> Gates:
    """Return r, z and n of one step, and what the reset gate acts on."""
    (h,) = state
    weight_x, weight_h, bias, bias_h = weights
    H = h.shape[1]
    u = scale(h, mask)  # (1)
    a = x_t @ weight_x  # (2)
    if bias is not None:
        a = a + bias  # (2)
    rz = sigmoid(a[:, : 2 * H] + u @ weight_h[:, : 2 * H])  # (2), (3), (4)
    r, z = rz[:, :H], rz[:, H:]
    if reset == "after":
        v = u @ weight_h[:, 2 * H :]  # (5a)
        if bias_h is not None:
            v = v + bias_h  # (5a)
        recurrent = r * v  # (5a)
    else:
        v = u
        recurrent = (r * u) @ weight_h[:, 2 * H :]  # (5b)
    n = namespace(a).tanh(a[:, 2 * H :] + recurrent)  # (6)
    return r, z, n, v


def update(state: State, gates_t: Gates) -> State:
    """Return the state after a step with these gates."""
    (h,) = state
    _, z, n, _ = gates_t
    return ((1 - z) * n + z * h,)  # (7)


def step(x_t: Array, state: State, weights: Weights, reset: Reset = "after") -> State:
    """Return the state after one step: x_t has shape (N, I), weights are (W_x, W_h, b, b_h)."""
    return update(state, gates(x_t, state, weights, reset=reset))


def run(
    x: Array,
    state: State,
    weight_x: Array,
    weight_h: Array,
    bias: Array | None = None,
    bias_h: Array | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Reset = "after",
) -> tuple[Array, State, tuple[Any, ...]]:
    """Return y, shape (N, T, H), the state after the last step, and the cache of `run_backward`.

    Parameters
    ----------
    x : array, shape (N, T, I)
    state : tuple of one array, shape (N, H)
        The state before the first step, (h_0,).
    weight_x : array, shape (I, 3H)
        Its columns, like those of weight_h and bias, belong to r, z and n, in this order.
    weight_h : array, shape (H, 3H)
    bias : array, shape (3H,), optional
    bias_h : array, shape (H,), optional
        With ``reset="after"``.
    lengths : integer array, shape (N,), optional
        Steps of x from lengths[n] on are padding; the state is that after step lengths[n].
    mask : array, shape (N, H), optional
        m: what h is multiplied by before W_h, at every step.
    reset : str
        Whether the reset gate acts ``"after"`` the product with W_hⁿ or ``"before"`` it.
    """
    xp = namespace(x)
    x = mask_steps(x, lengths)
    weights = weight_x, weight_h, bias, bias_h
    h = [*state]
    all_gates = []
    for t in range(1, x.shape[1] + 1):
        gates_t = gates(x[:, t - 1, :], (h[-1],), weights, mask, reset)
        (h_t,) = update((h[-1],), gates_t)
        h.append(hold(h_t, h[-1], t, lengths))  # (9)
        all_gates.append(gates_t)
    hs = xp.stack(h, axis=1)
    y = mask_steps(hs[:, 1:, :], lengths)  # (8), (9)
    return y, (h[-1],), (x, hs, all_gates, weights, lengths, mask, reset)


def run_backward(
    dy: Array, dstate: State, cache: tuple[Any, ...], trace: dict[str, Array] | None = None
) -> tuple[Array, State, dict[str, Array]]:
    """Return dx, the gradient of the state before the first step, and those of the weights.

    `dstate` is the gradient of the state after the last step. A `trace` is given ``"da"``, the
    gradient of a by step, shape (N, T, 3H).
    """
    x, hs, all_gates, (weight_x, weight_h, bias, bias_h), lengths, mask, reset = cache
    H = weight_h.shape[0]
    xp = namespace(dy, x)
    dy = mask_steps(dy, lengths)
    (dh,) = dstate
    weight_rz, weight_n = weight_h[:, : 2 * H], weight_h[:, 2 * H :]
    da, left, right = [], [], []  # dW_hⁿ is the sum of leftᵀ right
    for t in range(x.shape[1], 0, -1):
        r, z, n, v = all_gates[t - 1]
        h = hs[:, t - 1, :]
        dh_t = dh + dy[:, t - 1, :]  # (10)
        dn = dh_t * (1 - z)  # (11)
        dz = dh_t * (h - n)  # (12)
        dan = dn * (1 - n * n)  # (13)
        if reset == "after":
            dr, dv = dan * v, dan * r  # (14a)
            du = dv @ weight_n.T  # (14a)
            left.append(scale(h, mask))
            right.append(dv)
        else:
            dq = dan @ weight_n.T  # (14b)
            dr, du = dq * v, dq * r  # (14b)
            left.append(r * v)
            right.append(dan)
        darz = xp.concat([dr * r * (1 - r), dz * z * (1 - z)], axis=1)  # (15), (16)
        du = du + darz @ weight_rz.T  # (17)
        dh = hold(dh_t * z + scale(du, mask), dh_t, t, lengths)  # (18), (19)
        da.append(xp.concat([darz, dan], axis=1))
    das = mask_steps(stack_steps(da[::-1], like=xp.concat([dh] * 3, axis=1)), lengths)  # (19)
    rights = mask_steps(stack_steps(right[::-1], like=dh), lengths)  # (19)
    if trace is not None:
        trace["da"] = das

    dx = das @ weight_x.T  # (20)
    rows_x = xp.reshape(x, (-1, weight_x.shape[0]))
    rows_u = xp.reshape(scale(hs[:, :-1, :], None if mask is None else mask[:, None, :]), (-1, H))
    rows_da = xp.reshape(das, (-1, 3 * H))
    rows_left = xp.reshape(stack_steps(left[::-1], like=dh), (-1, H))
    rows_right = xp.reshape(rights, (-1, H))
    dW_rz, dW_n = rows_u.T @ rows_da[:, : 2 * H], rows_left.T @ rows_right  # (22), (23)
    grads = {"weight_x": rows_x.T @ rows_da, "weight_h": xp.concat([dW_rz, dW_n], axis=1)}  # (21)
    if bias is not None:
        grads["bias"] = xp.sum(rows_da, axis=0)  # (24)
    if bias_h is not None:
        grads["bias_h"] = xp.sum(rows_right, axis=0)  # (24)
    return dx, (dh,), grads


def trace(cache: tuple[Any, ...]) -> dict[str, Array]:
    """Return what a run went through by step: r, z, n and h, shape (N, T, H), 0 in padding."""
    _, hs, all_gates, _, lengths, _, _ = cache
    found = {
        name: stack_steps([gates_t[k] for gates_t in all_gates], like=hs[:, 0, :])
        for k, name in enumerate("rzn")
    }
    found["h"] = hs[:, 1:, :]
    return {name: mask_steps(a, lengths) for name, a in found.items()}


def forward(
    x: Array,
    weight_x: Array,
    weight_h: Array,
    bias: Array | None = None,
    bias_h: Array | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Reset = "after",
) -> tuple[Array, tuple[Any, ...]]:
    """Return y and the cache of `backward`: `run` from a state of 0."""
    start = zeros((x.shape[0], weight_h.shape[0]), like=x)
    y, _, cache = run(x, (start,), weight_x, weight_h, bias, bias_h, lengths, mask, reset)
    return y, cache


def backward(dy: Array, cache: tuple[Any, ...]) -> tuple[Array, dict[str, Array]]:
    """Return dx and the gradients of the weights, where the last state serves nothing else."""
    end = zeros((dy.shape[0], dy.shape[2]), like=dy)
    dx, _, grads = run_backward(dy, (end,), cache)
    return dx, grads
