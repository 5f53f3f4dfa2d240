"""LSTM: gates decide what a cell takes in, keeps and shows. One layer, one direction.

With x (N, T, I), h, c and y (N, T, H), h_0 and c_0 (N, H), W_x (I, 4H), W_h (H, 4H), b (4H); x_t is
the step t of all sequences, t = 1 ... T; a_t (N, 4H) has four blocks of H columns: aⁱ, aᶠ, aᵍ, aᵒ;
σ(a) = 1 / (1 + e⁻ᵃ) is the logistic function; ⊙ multiplies element by element.

Forward

    a_t = x_t W_x + h_{t-1} W_h + b                                             (1)
    i_t = σ(aⁱ_t)           the input gate: how much of g_t to take in          (2)
    f_t = σ(aᶠ_t)           the forget gate: how much of c_{t-1} to keep        (3)
    g_t = tanh(aᵍ_t)        the candidate                                       (4)
    o_t = σ(aᵒ_t)           the output gate: how much of the cell to show       (5)
    c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t                                             (6)
    h_t = o_t ⊙ tanh(c_t)                                                       (7)
    y_t = h_t                                                                   (8)

After the end of a sequence its state stays, h_t = h_{t-1}, c_t = c_{t-1}, and y_t = 0.   (9)

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
    dh'_{t-1} = da_t W_hᵀ                                by (1)                 (21)

dh'_0 and dc'_0 are the gradient of the first state. After the end of a sequence, by (9), da_t = 0,
dh'_{t-1} = dh'_t and dc'_{t-1} = dc'_t.                                        (22)
All steps share the weights, so their gradients add:

    dx_t = da_t W_xᵀ                                                            (23)
    dW_x = Σ_t x_tᵀ da_t                                                        (24)
    dW_h = Σ_t h_{t-1}ᵀ da_t                                                    (25)
    db   = Σ_t Σ_n da_t[n]                                                      (26)

From a step to the one before, the gradient of the cell is multiplied by f_t alone (16): a forget
gate near 1 carries it far, where the RNN's is multiplied by W_h each time.
"""

from typing import Any, TypeAlias

from ..arrays import Array, hold, mask_steps, namespace, zeros

State: TypeAlias = tuple[Array, Array]
"""(h, c), each of shape (N, H)."""
Gates: TypeAlias = tuple[Array, Array, Array, Array]
"""(i, f, g, o), each of shape (N, H)."""
Weights: TypeAlias = tuple[Array, Array, Array | None]
"""(W_x, W_h, b)."""


def sigmoid(a: Array) -> Array:
    """Return σ(a) = (1 + tanh(a / 2)) / 2: a form in which no a overflows."""
    return 0.5 * namespace(a).tanh(0.5 * a) + 0.5


def gates(x_t: Array, state: State, weights: Weights) -> Gates:
    """Return i, f, g and o of one step."""
    h, _ = state
    weight_x, weight_h, bias = weights
    H = weight_h.shape[0]
    a = x_t @ weight_x + h @ weight_h  # (1)
    if bias is not None:
        a = a + bias
    return (
        sigmoid(a[:, :H]),  # (2)
        sigmoid(a[:, H : 2 * H]),  # (3)
        namespace(a).tanh(a[:, 2 * H : 3 * H]),  # (4)
        sigmoid(a[:, 3 * H :]),  # (5)
    )


def update(state: State, gates_t: Gates) -> State:
    """Return the state after a step with these gates."""
    _, c = state
    i, f, g, o = gates_t
    c = f * c + i * g  # (6)
    h = o * namespace(c).tanh(c)  # (7)
    return h, c


def step(x_t: Array, state: State, weights: Weights) -> State:
    """Return the state after one step: x_t has shape (N, I), weights are (W_x, W_h, b)."""
    return update(state, gates(x_t, state, weights))


def run(
    x: Array,
    state: State,
    weight_x: Array,
    weight_h: Array,
    bias: Array | None = None,
    lengths: Array | None = None,
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
    lengths : integer array, shape (N,), optional
        Steps of x from lengths[n] on are padding; the state is that after step lengths[n].
    """
    xp = namespace(x)
    x = mask_steps(x, lengths)
    weights = weight_x, weight_h, bias
    h, c = [state[0]], [state[1]]
    all_gates = []
    for t in range(1, x.shape[1] + 1):
        before = h[-1], c[-1]
        gates_t = gates(x[:, t - 1, :], before, weights)
        h_t, c_t = update(before, gates_t)
        h.append(hold(h_t, h[-1], t, lengths))  # (9)
        c.append(hold(c_t, c[-1], t, lengths))  # (9)
        all_gates.append(gates_t)
    hs = xp.stack(h, axis=1)
    y = mask_steps(hs[:, 1:, :], lengths)  # (8), (9)
    return y, (h[-1], c[-1]), (x, hs, c, all_gates, weights, lengths)


def run_backward(
    dy: Array, dstate: State, cache: tuple[Any, ...]
) -> tuple[Array, State, dict[str, Array]]:
    """Return dx, the gradient of the state before the first step, and those of the weights.

    `dstate` is the gradient of the state after the last step.
    """
    x, hs, c, all_gates, (weight_x, weight_h, bias), lengths = cache
    N, T, _ = x.shape
    xp = namespace(dy, x)
    dy = mask_steps(dy, lengths)
    dh, dc = dstate
    da = []
    for t in range(T, 0, -1):
        i, f, g, o = all_gates[t - 1]
        tanh_c = xp.tanh(c[t])  # costs less than keeping it
        dh = dh + dy[:, t - 1, :]  # (10)
        do = dh * tanh_c  # (11)
        dc_t = dc + dh * o * (1 - tanh_c * tanh_c)  # (12)
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
        dh = hold(da_t @ weight_h.T, dh, t, lengths)  # (21), (22)
        da.append(da_t)
    das = xp.stack(da[::-1], axis=1) if da else zeros((N, 0, weight_h.shape[1]), like=x)
    das = mask_steps(das, lengths)  # (22)

    dx = das @ weight_x.T  # (23)
    rows_x = xp.reshape(x, (-1, weight_x.shape[0]))
    rows_h = xp.reshape(hs[:, :-1, :], (-1, weight_h.shape[0]))
    rows_da = xp.reshape(das, (-1, weight_h.shape[1]))
    grads = {"weight_x": rows_x.T @ rows_da, "weight_h": rows_h.T @ rows_da}  # (24), (25)
    if bias is not None:
        grads["bias"] = xp.sum(rows_da, axis=0)  # (26)
    return dx, (dh, dc), grads


def forward(
    x: Array,
    weight_x: Array,
    weight_h: Array,
    bias: Array | None = None,
    lengths: Array | None = None,
) -> tuple[Array, tuple[Any, ...]]:
    """Return y and the cache of `backward`: `run` from a state of 0."""
    start = zeros((x.shape[0], weight_h.shape[0]), like=x)
    y, _, cache = run(x, (start, start), weight_x, weight_h, bias, lengths)
    return y, cache


def backward(dy: Array, cache: tuple[Any, ...]) -> tuple[Array, dict[str, Array]]:
    """Return dx and the gradients of the weights, where the last state serves nothing else."""
    end = zeros((dy.shape[0], dy.shape[2]), like=dy)
    dx, _, grads = run_backward(dy, (end, end), cache)
    return dx, grads
