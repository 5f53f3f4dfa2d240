"""Linear: an affine map of the last axis.

With x (..., I), W (I, O), b (O) and y (..., O); n runs over all leading axes.

Forward

    y[n, o] = Σ_i x[n, i] W[i, o] + b[o]                                        (1)

Backward. The loss L depends on x, W and b through y alone; with dy = ∂L/∂y the chain rule gives

    dx[n, i] = Σ_o dy[n, o] W[i, o]          since ∂y[n, o]/∂x[n, i] = W[i, o]   (2)
    dW[i, o] = Σ_n x[n, i] dy[n, o]          since ∂y[n, o]/∂W[i, o] = x[n, i]   (3)
    db[o]    = Σ_n dy[n, o]                  since ∂y[n, o]/∂b[o] = 1            (4)
"""

from ..arrays import Array, mask_steps, namespace


def forward(
    x: Array, weight: Array, bias: Array | None = None, lengths: Array | None = None
) -> tuple[Array, tuple[Array, ...]]:
    """Return y, shape (..., O), and the cache of `backward`.

    Parameters
    ----------
    x : array, shape (..., I)
    weight : array, shape (I, O)
    bias : array, shape (O,), optional
    lengths : integer array, shape (N,), optional
        x has shape (N, T, ..., I); steps from lengths[n] on are padding.
    """
    x = mask_steps(x, lengths)
    y = x @ weight  # (1)
    if bias is not None:
        y = y + bias  # (1)
    return mask_steps(y, lengths), (x, weight, bias, lengths)


def backward(dy: Array, cache: tuple[Array, ...]) -> tuple[Array, dict[str, Array]]:
    """Return dx, shape (..., I), and the gradients of weight and bias."""
    x, weight, bias, lengths = cache
    xp = namespace(dy, x)
    dy = mask_steps(dy, lengths)
    dx = dy @ weight.T  # (2)
    rows_x = xp.reshape(x, (-1, weight.shape[0]))
    rows_dy = xp.reshape(dy, (-1, weight.shape[1]))
    grads = {"weight": rows_x.T @ rows_dy}  # (3)
    if bias is not None:
        grads["bias"] = xp.sum(rows_dy, axis=0)  # (4)
    return dx, grads
