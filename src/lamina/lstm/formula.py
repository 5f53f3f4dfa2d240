"""LSTM: gates decide what a cell takes in, keeps and shows. One layer, one direction.

With x (N, T, I), h, c and y (N, T, H), h_0 and c_0 (N, H), W_x (I, 4H), W_h (H, 4H), b (4H); x_t is
the step t of all sequences, t = 1 ... T; a_t (N, 4H) has four blocks of H columns: aⁱ, aᶠ, aᵍ, aᵒ;
σ(a) = 1 / (1 + e⁻ᵃ) is the logistic function; ⊙ multiplies element by element. The mask m (N, H) is
one for all steps: 1, but 0 or 1 / (1 - p) under variational dropout at rate p.

Forward

    a_t = x_t W_x + (m ⊙ h_{t-1}) W_h + b                                       (1)
    i_t = σ(aⁱ_t)           the input gate: how much of g_t to take in          (2)
    f_t = σ(aᶠ_t)           the forget gate: how much of c_{t-1} to keep        (3)
    g_t = tanh(aᵍ_t)        the candidate                                       (4)
    o_t = σ(aᵒ_t)           the output gate: how much of the cell to show       (5)
    c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t                                             (6)
    h_t = o_t ⊙ tanh(c_t)                                                       (7)
    y_t = h_t                                                                   (8)

After the end of a sequence its state stays, h_t = h_{t-1}, c_t = c_{t-1}, and y_t = 0.   (9)

With a projection W_p (H, P), h and y have P columns, W_h has P rows, m P columns, and in place
of (7)

    s_t = o_t ⊙ tanh(c_t),  h_t = s_t W_p                                      (7p)

Backward, through time. The loss L depends on h_t through y_t and through step t + 1, on c_t
through h_t and through step t + 1. With dy_t = ∂L/∂y_t, and dh'_t and dc'_t for what comes through
step t + 1 (dh'_T and dc'_T are the gradient of the last state), the chain rule gives, for
t = T ... 1,

    dh_t = dy_t + dh'_t                                  by (8) and (1)         (10)
    do_t = dh_t ⊙ tanh(c_t)                              by (7)                 (11)
    dc_t = dc'_t + dh_t ⊙ o_t ⊙ (1 - tanh²(c_t))         by (6) and (7)         (12)
    di_t = dc_t ⊙ g_t                                    by (6)                 (13)
    df_t = dc_t ⊙ c_{t-1}                                by (6)                 (14)
    dg_t = dc_t ⊙ i_t                                    by (6)                 (15)
    dc'_{t-1} = dc_t ⊙ f_t                               by (6)                 (16)
    daⁱ_t = di_t ⊙ i_t ⊙ (1 - i_t)                       by (2): σ' = σ (1 - σ) (17)
    daᶠ_t = df_t ⊙ f_t ⊙ (1 - f_t)                       by (3)                 (18)
    daᵍ_t = dg_t ⊙ (1 - g_t²)                            by (4)                 (19)
    daᵒ_t = do_t ⊙ o_t ⊙ (1 - o_t)                       by (5)                 (20)
    dh'_{t-1} = m ⊙ (da_t W_hᵀ)                          by (1)                 (21)

dh'_0 and dc'_0 are the gradient of the first state. After the end of a sequence, by (9), da_t = 0,
dh'_{t-1} = dh'_t and dc'_{t-1} = dc'_t.                                        (22)
All steps share the weights, so their gradients add:

    dx_t = da_t W_xᵀ                                                            (23)
    dW_x = Σ_t x_tᵀ da_t                                                        (24)
    dW_h = Σ_t (m ⊙ h_{t-1})ᵀ da_t                                              (25)
    db   = Σ_t Σ_n da_t[n]                                                      (26)

With a projection, by (7p), ds_t = dh_t W_pᵀ stands for dh_t in (11) and (12), and

    dW_p = Σ_t s_tᵀ dh_t                                                        (27)

From a step to the one before, the gradient of the cell is multiplied by f_t alone (16): a forget
gate near 1 carries it far, where the RNN's is multiplied by W_h each time.
"""

from typing import Any, TypeAlias

from ..arrays import Array, hold, mask_steps, namespace, scale, sigmoid, stack_steps, zeros

State: TypeAlias = tuple[Array, Array]
"""(h, c), each of shape (N, H); h of shape (N, P) with a projection."""
Gates: TypeAlias = tuple[Array, Array, Array, Array]
"""(i, f, g, o), each of shape (N, H)."""
Weights: TypeAlias = tuple[Array, ...]
"""(W_x, W_h, b) or, with a projection, (W_x, W_h, b, W_p)."""


def gates(x_t: Array, state: State, weights: Weights, mask: Array | None = None) -> Gates:
    """Return i, f, g and o of one step."""
    h, _ = state
    weight_x, weight_h, bias = weights[:3]
    H = weight_h.shape[1] // 4
    a = x_t @ weight_x + scale(h, mask) @ weight_h  # (1)
    if bias is not None:
        a = a + bias  # (1)
    return (
        sigmoid(a[:, :H]),  # (2)
        sigmoid(a[:, H : 2 * H]),  # (3)
        namespace(a).tanh(a[:, 2 * H : 3 * H]),  # (4)
        sigmoid(a[:, 3 * H :]),  # (5)
    )


def update(state: State, gates_t: Gates, weight_p: Array | None = None) -> State:
    """Return the state after a step with these gates."""
    _, c = state
    i, f, g, o = gates_t
    c = f * c + i * g  # (6)
    h = o * namespace(c).tanh(c)  # (7)
    return (h if weight_p is None else h @ weight_p), c  # (7p)


def step(x_t: Array, state: State, weights: Weights) -> State:
    """Return the state after one step: x_t has shape (N, I), weights are (W_x, W_h, b, W_p)."""
    return update(state, gates(x_t, state, weights), *weights[3:])


def run(
    x: Array,
    state: State,
    weight_x: Array,
    weight_h: Array,
    bias: Array | None = None,
    weight_p: Array | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
) -> tuple[Array, State, tuple[Any, ...]]:
    """Return y, shape (N, T, H), the state after the last step, and the cache of `run_backward`.

    Parameters
    ----------
    x : array, shape (N, T, I)
    state : tuple of two arrays, shape (N, H)
        The state before the first step, (h_0, c_0).
    weight_x : array, shape (I, 4H)
        Its columns, like those of weight_h and bias, belong to i, f, g and o, in this order.
    weight_h : array, shape (H, 4H)
    bias : array, shape (4H,), optional
    weight_p : array, shape (H, P), optional
        The projection: h has shape (N, P), y (N, T, P), weight_h (P, 4H).
    lengths : integer array, shape (N,), optional
        Steps of x from lengths[n] on are padding; the state is that after step lengths[n].
    mask : array, of the shape of h, optional
        m: what h is multiplied by before W_h, at every step.
    """
    xp = namespace(x)
    x = mask_steps(x, lengths)
    weights = weight_x, weight_h, bias, weight_p
    h, c = [state[0]], [state[1]]
    all_gates = []
    for t in range(1, x.shape[1] + 1):
        before = h[-1], c[-1]
        gates_t = gates(x[:, t - 1, :], before, weights, mask)
        h_t, c_t = update(before, gates_t, weight_p)
        h.append(hold(h_t, h[-1], t, lengths))  # (9)
        c.append(hold(c_t, c[-1], t, lengths))  # (9)
        all_gates.append(gates_t)
    hs = xp.stack(h, axis=1)
    y = mask_steps(hs[:, 1:, :], lengths)  # (8), (9)
    return y, (h[-1], c[-1]), (x, hs, c, all_gates, weights, lengths, mask)


def run_backward(
    dy: Array, dstate: State, cache: tuple[Any, ...], trace: dict[str, Array] | None = None
) -> tuple[Array, State, dict[str, Array]]:
    """Return dx, the gradient of the state before the first step, and those of the weights.

    `dstate` is the gradient of the state after the last step. A `trace` is given ``"da"``, the
    gradient of a by step, shape (N, T, 4H).
    """
    x, hs, c, all_gates, (weight_x, weight_h, bias, weight_p), lengths, mask = cache
    xp = namespace(dy, x)
    dy = mask_steps(dy, lengths)
    dh, dc = dstate
    da, dhs, ss = [], [], []
    for t in range(x.shape[1], 0, -1):
        i, f, g, o = all_gates[t - 1]
        tanh_c = xp.tanh(c[t])  # costs less than keeping it
        dh = dh + dy[:, t - 1, :]  # (10)
        ds = dh
        if weight_p is not None:
            ds = dh @ weight_p.T  # (7p)
            dhs.append(dh)
            ss.append(o * tanh_c)
        do = ds * tanh_c  # (11)
        dc_t = dc + ds * o * (1 - tanh_c * tanh_c)  # (12)
        di = dc_t * g  # (13)
        df = dc_t * c[t - 1]  # (14)
        dg = dc_t * i  # (15)
        dc = hold(dc_t * f, dc, t, lengths)  # (16), (22)
        da_t = xp.concat(
            [
                di * i * (1 - i),  # (17)
                df * f * (1 - f),  # (18)
                dg * (1 - g * g),  # (19)
                do * o * (1 - o),  # (20)
            ],
            axis=1,
        )
        dh = hold(scale(da_t @ weight_h.T, mask), dh, t, lengths)  # (21), (22)
        da.append(da_t)
    das = stack_steps(da[::-1], like=xp.concat([c[0]] * 4, axis=1))
    das = mask_steps(das, lengths)  # (22)
    if trace is not None:
        trace["da"] = das

    dx = das @ weight_x.T  # (23)
    rows_x = xp.reshape(x, (-1, weight_x.shape[0]))
    before = scale(hs[:, :-1, :], None if mask is None else mask[:, None, :])
    rows_h = xp.reshape(before, (-1, weight_h.shape[0]))
    rows_da = xp.reshape(das, (-1, weight_h.shape[1]))
    grads = {"weight_x": rows_x.T @ rows_da, "weight_h": rows_h.T @ rows_da}  # (24), (25)
    if bias is not None:
        grads["bias"] = xp.sum(rows_da, axis=0)  # (26)
    if weight_p is not None:
        rows_dh = xp.reshape(mask_steps(stack_steps(dhs[::-1], dh), lengths), (-1, dh.shape[1]))
        rows_s = xp.reshape(stack_steps(ss[::-1], dc), (-1, dc.shape[1]))
        grads["weight_p"] = rows_s.T @ rows_dh  # (27)
    return dx, (dh, dc), grads


def trace(cache: tuple[Any, ...]) -> dict[str, Array]:
    """Return what a run went through by step: i, f, g, o, c and h, each 0 in padding.

    All have shape (N, T, H), h with a projection (N, T, P).
    """
    _, hs, c, all_gates, _, lengths, _ = cache
    by_step = {name: [gates_t[k] for gates_t in all_gates] for k, name in enumerate("ifgo")}
    by_step["c"] = c[1:]
    found = {name: stack_steps(steps, like=c[0]) for name, steps in by_step.items()}
    found["h"] = hs[:, 1:, :]
    return {name: mask_steps(a, lengths) for name, a in found.items()}


def forward(
    x: Array,
    weight_x: Array,
    weight_h: Array,
    bias: Array | None = None,
    weight_p: Array | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
) -> tuple[Array, tuple[Any, ...]]:
    """Return y and the cache of `backward`: `run` from a state of 0."""
    P, H = weight_h.shape[0], weight_h.shape[1] // 4
    start = zeros((x.shape[0], P), like=x), zeros((x.shape[0], H), like=x)
    y, _, cache = run(x, start, weight_x, weight_h, bias, weight_p, lengths, mask)
    return y, cache


def backward(dy: Array, cache: tuple[Any, ...]) -> tuple[Array, dict[str, Array]]:
    """Return dx and the gradients of the weights, where the last state serves nothing else."""
    _, _, (c, *_), *_ = cache
    end = zeros((dy.shape[0], dy.shape[2]), like=dy), zeros(c.shape, like=dy)
    dx, _, grads = run_backward(dy, end, cache)
    return dx, grads
