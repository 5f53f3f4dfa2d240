"""LSTM with peepholes, coupled gates, clipping, other activations, normalisation. By formula only.

With x (N, T, I), h, c and y (N, T, H), W_x, W_h, b, W_p and m as in formula.py; the peepholes p
(3H), in blocks pⁱ, pᶠ, pᵒ; the gains γ_x, γ_h (4H) and γ_c (H) and the offset β_c (H) of the
normalisation; the limits κ of a and λ of c; the activations σ of the gates, φ of the candidate and
ψ of the cell. Coupled, there is no f block: the gates are i, g, o, and p has pⁱ, pᵒ.

    u_t = m ⊙ h_{t-1}                                                           (1)
    a_t = norm(x_t W_x; γ_x) + norm(u_t W_h; γ_h) + b;                          (2)
          aⁱ_t takes in pⁱ ⊙ c_{t-1}, aᶠ_t pᶠ ⊙ c_{t-1}, aᵒ_t pᵒ ⊙ c_t
    i_t, f_t, o_t = σ(clip(a_t; κ)),  coupled f_t = 1 - i_t                     (3)
    g_t = φ(clip(aᵍ_t; κ))                                                      (4)
    c_t = clip(f_t ⊙ c_{t-1} + i_t ⊙ g_t; λ)                                    (5)
    s_t = o_t ⊙ ψ(norm(c_t; γ_c) + β_c)                                         (6)
    h_t = s_t, or with a projection s_t W_p;  y_t = h_t                         (7)

Without p, γ, β, κ or λ, their part is left out. Backward, for t = T ... 1,

    ds_t = dh_t, or dh_t W_pᵀ, with dh_t = dy_t + dh'_t          by (7)         (8)
    do_t = ds_t ⊙ ψ(..),  dψ_t = ds_t ⊙ o_t ⊙ ψ'(..)             by (6)         (9)
    daᵒ_t = do_t ⊙ σ' ⊙ clip'                                    by (3)        (10)
    dc_t = (dc'_t + norm'(dψ_t) + daᵒ_t ⊙ pᵒ) ⊙ clip'            by (5)        (11)
    di_t = dc_t ⊙ g_t,  df_t = dc_t ⊙ c_{t-1},  dg_t = dc_t ⊙ i_t,             (12)
           coupled di_t = dc_t ⊙ (g_t - c_{t-1})
    daⁱ_t, daᶠ_t, daᵍ_t = di_t, df_t, dg_t ⊙ σ' or φ' ⊙ clip'    by (3), (4)   (13)
    dc'_{t-1} = dc_t ⊙ f_t + daⁱ_t ⊙ pⁱ + daᶠ_t ⊙ pᶠ             by (5), (2)   (14)
    dvˣ_t = norm'(da_t),  dx_t = dvˣ_t W_xᵀ                      by (2)        (15)
    dvʰ_t = norm'(da_t),  dh'_{t-1} = m ⊙ (dvʰ_t W_hᵀ)           by (2), (1)   (16)
    dW_x = Σ_t x_tᵀ dvˣ_t,  dW_h = Σ_t u_tᵀ dvʰ_t,  dW_p = Σ_t s_tᵀ dh_t,      (17)
    db = Σ da_t,  dpⁱ = Σ daⁱ_t ⊙ c_{t-1},  dpᶠ = Σ daᶠ_t ⊙ c_{t-1},           (18)
    dpᵒ = Σ daᵒ_t ⊙ c_t,  dβ_c = Σ dψ_t, over all t and n

where clip in (11) is that of (5). cells.py has the activations, clip and norm with their gradients.

F. Gers, J. Schmidhuber, *Recurrent Nets that Time and Count* (2000): peepholes. K. Greff et
al., *LSTM: A Search Space Odyssey* (2017): coupled gates. H. Sak, A. Senior, F. Beaufays,
*Long Short-Term Memory Recurrent Neural Network Architectures for Large Scale Acoustic Modeling*
(2014): the clipped cell. J. Ba, J. Kiros, G. Hinton, *Layer Normalization* (2016): (2),
(6).
"""

from typing import Any, NamedTuple, TypeAlias

from .. import cells
from ..arrays import Array, mask_steps, namespace, scale, stack_steps, zeros

State: TypeAlias = tuple[Array, Array]
"""(h, c), each of shape (N, H); h of shape (N, P) with a projection."""
Grads: TypeAlias = dict[str, Array]


class Weights(NamedTuple):
    """The weights, in the order in which `run` takes them."""

    weight_x: Array
    weight_h: Array
    bias: Array | None = None
    weight_p: Array | None = None
    peephole: Array | None = None
    gamma_x: Array | None = None
    gamma_h: Array | None = None
    gamma_c: Array | None = None
    beta_c: Array | None = None


class Options(NamedTuple):
    """What else makes a variant."""

    coupled: bool = False
    clip: float | None = None
    cell_clip: float | None = None
    activations: tuple[str, str, str] = ("sigmoid", "tanh", "tanh")

    @property
    def gates(self) -> str:
        """The names of the blocks, in order."""
        return "igo" if self.coupled else "ifgo"

    def activation(self, gate: str) -> str:
        """Return the name of a block's activation."""
        return self.activations[gate == "g"]


def _step(
    x_t: Array, state: State, weights: Weights, options: Options, mask: Array | None
) -> tuple[State, Any]:
    h, c_before = state
    names, H = options.gates, c_before.shape[1]
    p = _peepholes(weights, options)
    u = scale(h, mask)  # (1)
    from_x, norm_x = cells.normalize(x_t @ weights.weight_x, weights.gamma_x)
    from_h, norm_h = cells.normalize(u @ weights.weight_h, weights.gamma_h)
    sums = from_x + from_h  # (2)
    if weights.bias is not None:
        sums = sums + weights.bias
    a = {gate: sums[:, k * H : (k + 1) * H] for k, gate in enumerate(names)}
    v, y = {}, {}

    def open_gate(gate: str, c: Array) -> None:
        if gate in p:
            a[gate] = a[gate] + p[gate] * c  # (2)
        v[gate] = cells.clip(a[gate], options.clip)
        y[gate] = cells.ACTIVATIONS[options.activation(gate)](v[gate])  # (3), (4)

    for gate in names[:-1]:
        open_gate(gate, c_before)
    if options.coupled:
        y["f"] = 1 - y["i"]  # (3)
    wide = y["f"] * c_before + y["i"] * y["g"]
    c = cells.clip(wide, options.cell_clip)  # (5)
    open_gate("o", c)
    shown, norm_c = cells.normalize(c, weights.gamma_c)
    if weights.beta_c is not None:
        shown = shown + weights.beta_c
    psi = cells.ACTIVATIONS[options.activations[2]](shown)
    s = y["o"] * psi  # (6)
    h_t = s if weights.weight_p is None else s @ weights.weight_p  # (7)
    keeps = x_t, u, c_before, wide, c, a, v, y, shown, psi, s, (norm_x, norm_h, norm_c)
    return (h_t, c), keeps


def _step_backward(
    dstate: State, keeps: Any, weights: Weights, options: Options, mask: Array | None
) -> tuple[Array, State, Grads, Array]:
    x_t, u, c_before, wide, c, a, v, y, shown, psi, s, (norm_x, norm_h, norm_c) = keeps
    dh, dc = dstate
    xp = namespace(dh)
    p = _peepholes(weights, options)
    grads, da, dp = {}, {}, {}

    def close_gate(gate: str, dy: Array, c: Array) -> Array:
        """Take the gradient through a gate; return what of it reaches the cell."""
        slope = cells.SLOPES[options.activation(gate)](v[gate], y[gate])
        da[gate] = cells.through(dy * slope, a[gate], options.clip)  # (10), (13)
        if gate not in p:
            return 0 * c
        dp[gate] = xp.sum(da[gate] * c, axis=0)  # (18)
        return da[gate] * p[gate]

    ds = dh
    if weights.weight_p is not None:
        ds = dh @ weights.weight_p.T  # (8)
        grads["weight_p"] = s.T @ dh  # (17)
    dpsi = ds * y["o"] * cells.SLOPES[options.activations[2]](shown, psi)  # (9)
    grads["beta_c"] = xp.sum(dpsi, axis=0)  # (18)
    dnorm, grads["gamma_c"] = cells.normalize_backward(dpsi, norm_c)
    dc = dc + dnorm + close_gate("o", ds * psi, c)  # (9), (11)
    dc = cells.through(dc, wide, options.cell_clip)  # (11)
    dc_before = dc * y["f"]  # (14)
    di, df = dc * y["g"], dc * c_before  # (12)
    if options.coupled:
        dc_before = dc_before + close_gate("i", di - df, c_before)  # (12), (14)
    else:
        dc_before = dc_before + close_gate("i", di, c_before) + close_gate("f", df, c_before)
    close_gate("g", dc * y["i"], c_before)  # (12)

    da_t = xp.concat([da[gate] for gate in options.gates], axis=1)
    dv_x, grads["gamma_x"] = cells.normalize_backward(da_t, norm_x)  # (15)
    dv_h, grads["gamma_h"] = cells.normalize_backward(da_t, norm_h)  # (16)
    grads["weight_x"], grads["weight_h"] = x_t.T @ dv_x, u.T @ dv_h  # (17)
    grads["bias"] = xp.sum(da_t, axis=0)  # (18)
    if p:
        grads["peephole"] = xp.concat([dp[gate] for gate in p])
    dh_before = scale(dv_h @ weights.weight_h.T, mask)  # (16)
    return dv_x @ weights.weight_x.T, (dh_before, dc_before), grads, da_t  # (15)


def _peepholes(weights: Weights, options: Options) -> dict[str, Array]:
    """Return p of each gate that has one."""
    if weights.peephole is None:
        return {}
    gates = options.gates.replace("g", "")
    H = weights.peephole.shape[0] // len(gates)
    return {gate: weights.peephole[k * H : (k + 1) * H] for k, gate in enumerate(gates)}


def step(x_t: Array, state: State, weights: tuple[Array | None, ...], **options: Any) -> State:
    """Return the state after one step: x_t has shape (N, I), weights are those of `run`."""
    after, _ = _step(x_t, state, Weights(*weights), Options(**options), None)
    return after


def run(
    x: Array,
    state: State,
    weight_x: Array,
    weight_h: Array,
    bias: Array | None = None,
    weight_p: Array | None = None,
    peephole: Array | None = None,
    gamma_x: Array | None = None,
    gamma_h: Array | None = None,
    gamma_c: Array | None = None,
    beta_c: Array | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    **options: Any,
) -> tuple[Array, State, tuple[Any, ...]]:
    """Return y, shape (N, T, H), the state after the last step, and the cache of `run_backward`.

    Parameters are those of formula.py, and

    Parameters
    ----------
    peephole : array, shape (3H,), optional
        p, in blocks of H for i, f, o; coupled (2H,), for i, o.
    gamma_x, gamma_h : array, shape (4H,), optional
    gamma_c, beta_c : array, shape (H,), optional
        The gains and the offset of the normalisation.
    coupled : bool
        Whether f = 1 - i. Columns of W_x, W_h, b are then i, g, o.
    clip, cell_clip : float, optional
        κ and λ.
    activations : tuple of 3 str
        σ, φ and ψ, of `lamina.cells.ACTIVATIONS`.
    """
    weights = Weights(
        weight_x, weight_h, bias, weight_p, peephole, gamma_x, gamma_h, gamma_c, beta_c
    )
    given = Options(**options)

    def one(x_t: Array, before: State) -> tuple[State, Any]:
        return _step(x_t, before, weights, given, mask)

    y, end, states, kept = cells.run(one, x, state, lengths)
    return y, end, (x, states, kept, weights, given, lengths, mask)


def run_backward(
    dy: Array, dstate: State, cache: tuple[Any, ...], trace: dict[str, Array] | None = None
) -> tuple[Array, State, Grads]:
    """Return dx, the gradient of the state before the first step, and those of the weights.

    `dstate` is the gradient of the state after the last step. A `trace` is given ``"da"``, the
    gradient of a by step, shape (N, T, 4H), coupled (N, T, 3H).
    """
    x, _, kept, weights, options, lengths, mask = cache

    def back(dstate: State, keeps: Any) -> tuple[Array, State, Grads, Array]:
        return _step_backward(dstate, keeps, weights, options, mask)

    named = weights._asdict()
    dx, before, grads, das = cells.run_backward(back, dy, dstate, kept, x, named, lengths)
    if trace is not None:
        like = zeros((x.shape[0], weights.weight_x.shape[1]), like=x)
        trace["da"] = stack_steps(das, like)
    return dx, before, grads


def trace(cache: tuple[Any, ...]) -> dict[str, Array]:
    """Return what a run went through by step: i, f, g, o, c and h, each 0 in padding.

    All have shape (N, T, H), h with a projection (N, T, P).
    """
    x, states, kept, weights, options, lengths, _ = cache
    P, H = weights.weight_h.shape[0], weights.weight_x.shape[1] // len(options.gates)
    found = {
        gate: stack_steps([keeps[7][gate] for keeps in kept], like=zeros((x.shape[0], H), like=x))
        for gate in "ifgo"
    }
    for name, k, size in (("c", 1, H), ("h", 0, P)):
        like = zeros((x.shape[0], size), like=x)
        found[name] = stack_steps([state[k] for state in states], like)
    return {name: mask_steps(a, lengths) for name, a in found.items()}
