"""The class RNN."""

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import arguments, cells, initializers
from ..kernels import functions
from ..layer import Arrays, Parameter
from ..recurrence import WEIGHTS, Recurrent
from . import formula, variants


class RNN(Recurrent):
    r"""Simple recurrent layers: the next state is a function of the input and the state before.

    .. math:: h_t = \varphi(x_t W_x + h_{t-1} W_h + b), \quad y_t = h_t

    Where bidirectional, a second set of weights goes through each sequence from its end, and y_t
    holds the state of either direction. A further layer takes y of the one before as its x.

    Parameters
    ----------
    in_features, hidden : int
        I and H, at least 1.
    layers : int
        How many layers are stacked, at least 1.
    activation : str
        :math:`\varphi`: ``"tanh"``, ``"relu"`` or ``"sigmoid"``; or, by formula only, another one
        of `lamina.cells.ACTIVATIONS`.
    clip : float or None
        Clip the sum that :math:`\varphi` takes to [-clip, clip]. By formula only.
    layer_norm : bool
        Normalise :math:`x_t W_x + h_{t-1} W_h` at each step, with the gain `gamma`. By formula
        only.
    bidirectional : bool
        Whether each layer goes in both directions.
    merge : str
        How y comes from the two directions of a bidirectional layer: ``"concat"`` puts them side by
        side, forward first; ``"sum"`` adds them; ``"mean"`` halves the sum.
    dropout : float
        The rate, 0 to 1, of a `Dropout` on what a layer hands to the next; none after the last.
    recurrent_dropout : float
        The rate, 0 to 1, at which units of h are dropped, in training, on their way to W_h: the
        same at all steps of a sequence (variational dropout). A mask is drawn for each layer,
        direction and pass by a `Dropout`, so that it is keyed by the sample's id.
    bias : bool
        Whether to add b.
    init : str
        The preset that draws W_x, one of `lamina.initializers.PRESETS`; b is 0. ``"torch"`` draws
        every array, b too, uniformly from :math:`\pm 1 / \sqrt H`.
    recurrent_init : str or None
        The preset that draws W_h; None stands for ``"orthogonal"``, with ``init="torch"`` for
        ``"torch"``.
    dtype : dtype
        float32 or float64.
    rng : int, numpy.random.Generator or None
        Draws the weights and the keys of the Dropout layers; None takes fresh entropy.

    Attributes
    ----------
    weight_x : array, shape (I, H)
    weight_h : array, shape (H, H)
    bias : array, shape (H,), or None
    gamma : array, shape (H,), or None
        These four belong to the first layer, forward. `params` has those of the others, whose
        names end in ``_1``, ``_2``, ... for further layers, which are given y of the layer before,
        then in ``_reverse``: ``params["weight_x_1_reverse"]``.

    Notes
    -----
    x has shape (N, T, I); y has shape (N, T, H), or (N, T, 2H) where two directions stand side by
    side. T may be 0. With ``lengths``, zero allowed, a sequence's state stays as it is after its
    own last step, and the reverse direction starts there.

    A state, as `run` and `step` take and return it, is a tuple with an entry ``(h,)`` for each
    layer, where bidirectional for each layer's forward and then reverse direction; h has shape
    (N, H). A bidirectional layer does not `step`, and its windows cannot be joined: the reverse
    direction comes from the end.

    Raises
    ------
    ValueError, TypeError
        An option is out of its range; `dropout` with one layer, or `merge` with one direction; x
        has another number of axes or features or another dtype; a state has another form; a
        bidirectional layer is asked to `step`.

    References
    ----------
    J. Elman, *Finding Structure in Time* (1990), sec. "Networks with Memory": the network.
    P. Werbos, *Backpropagation Through Time: What It Does and How to Do It* (1990), sec. III: the
    gradients. M. Schuster, K. Paliwal, *Bidirectional Recurrent Neural Networks* (1997), sec. II.
    Y. Gal, Z. Ghahramani, *A Theoretically Grounded Application of Dropout in Recurrent Neural
    Networks* (2016), sec. 4: variational dropout. J. Ba, J. Kiros, G. Hinton, *Layer Normalization*
    (2016), eq. 4.
    A. Saxe et al., *Exact Solutions to the Nonlinear Dynamics of Learning in Deep Linear Neural
    Networks* (2014): orthogonal weights.

    Examples
    --------
    >>> layer = RNN(1, 1, dtype=np.float64)
    >>> layer.weight_x, layer.weight_h = [[1]], [[0.5]]
    >>> y, cache = layer.forward(np.array([[[1.0], [0.0], [0.0]]]), training=True)
    >>> y.round(4)
    array([[[0.7616],
            [0.3634],
            [0.1797]]])

    What the last output owes to the state before the first step:

    >>> dx, ((dh0,),), grads = layer.run_backward(np.array([[[0.0], [0.0], [1.0]]]), None, cache)
    >>> dh0.round(4)
    array([[0.0441]])
    """

    state_names = ("h",)

    gamma = Parameter()

    def __init__(
        self,
        in_features: int,
        hidden: int,
        *,
        layers: int = 1,
        activation: str = "tanh",
        clip: float | None = None,
        layer_norm: bool = False,
        bidirectional: bool = False,
        merge: str = "concat",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        bias: bool = True,
        init: str = "glorot_uniform",
        recurrent_init: str | None = None,
        dtype: npt.DTypeLike = np.float32,
        rng: initializers.RNG = None,
    ) -> None:
        self.activation = arguments.choice(self, "activation", activation, cells.ACTIVATIONS)
        self.clip = arguments.limit(self, "clip", clip)
        self.layer_norm = arguments.flag(self, "layer_norm", layer_norm)
        cell: dict[str, Any] = {"activation": self.activation}
        if self.clip is not None:
            cell["clip"] = self.clip
        known = self.activation in formula.ACTIVATIONS
        varied = not known or self.clip is not None or self.layer_norm
        super().__init__(
            in_features,
            hidden,
            gates=1,
            weight_names=(*WEIGHTS, "gamma") if varied else WEIGHTS,
            varied=varied,
            layers=layers,
            bidirectional=bidirectional,
            merge=merge,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            bias=bias,
            init=init,
            recurrent_init=recurrent_init,
            dtype=dtype,
            rng=rng,
            **cell,
        )

    def _functions(self) -> ModuleType:
        """Return the module whose `run`, `run_backward`, `step` and `trace` compute the layer."""
        return variants if self.varied else functions(__name__)

    def _draw(self, inputs: int, rng: np.random.Generator) -> Arrays:
        """Draw the parameters of one layer in one direction, by name."""
        found = super()._draw(inputs, rng)
        if self.layer_norm:
            found["gamma"] = np.ones(self.hidden, self.dtype)
        return found
