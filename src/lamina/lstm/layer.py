"""The class LSTM."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import arguments, cells, initializers
from ..arguments import say
from ..kernels import functions
from ..layer import Arrays, Parameter
from ..recurrence import WEIGHTS, Recurrent
from . import variants


class LSTM(Recurrent):
    r"""Recurrent layers whose gates decide what a cell takes in, keeps and shows.

    .. math::
        \begin{aligned}
        i_t, f_t, o_t &= \sigma(x_t W_x + h_{t-1} W_h + b)^{i, f, o} \\
        g_t &= \tanh(x_t W_x + h_{t-1} W_h + b)^g \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        h_t &= o_t \odot \tanh(c_t), \quad y_t = h_t
        \end{aligned}

    Where bidirectional, a second set of weights goes through each sequence from its end, and y_t
    holds the state of either direction. A further layer takes y of the one before as its x.

    Parameters
    ----------
    in_features, hidden : int
        I and H, at least 1.
    layers : int
        How many layers are stacked, at least 1.
    projection : int or None
        P: how many columns W_p projects h to, so that y and h have P features and a state carries
        fewer numbers than the cell; None for none.
    peepholes : bool
        Whether the gates see the cell through weights of their own, `peephole`: i and f before the
        step, o after it. This option and the next five are by formula only.
    coupled : bool
        Whether f = 1 - i: what is kept is what is not replaced. Then there are three blocks, i, g
        and o.
    clip : float or None
        Clip the sums that the gates and the candidate take to [-clip, clip].
    cell_clip : float or None
        Clip c to [-cell_clip, cell_clip].
    activations : sequence of 3 str
        Those of the gates, of the candidate and of the cell where it is shown, of
        `lamina.cells.ACTIVATIONS`.
    layer_norm : bool
        Normalise :math:`x_t W_x`, :math:`h_{t-1} W_h` and, where it is shown, c, with the gains
        `gamma_x`, `gamma_h`, `gamma_c` and the offset `beta_c`.
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
    forget_bias : float
        What b starts from for the forget gate, so that cells keep at first; elsewhere b is 0.
        Coupled, its negative is what b starts from for the input gate. Left out by
        ``init="torch"``, and where there is no bias.
    init : str
        The preset that draws W_x, gate by gate, one of `lamina.initializers.PRESETS`. ``"torch"``
        draws every array, b too, uniformly from :math:`\pm 1 / \sqrt H`.
    recurrent_init : str or None
        The preset that draws W_h, gate by gate, so that with ``"orthogonal"`` each gate's block
        (H, H) is orthogonal; None stands for that, with ``init="torch"`` for ``"torch"``.
    dtype : dtype
        float32 or float64.
    rng : int, numpy.random.Generator or None
        Draws the weights and the keys of the Dropout layers; None takes fresh entropy.

    Attributes
    ----------
    weight_x : array, shape (I, 4H)
    weight_h : array, shape (H, 4H), with a projection (P, 4H)
    bias : array, shape (4H,), or None
        Columns in blocks of H for i, f, g, o, in this order; coupled 3H, for i, g, o.
    weight_p : array, shape (H, P), or None
    peephole : array, shape (3H,), or None
        In blocks of H for i, f, o; coupled (2H,), for i, o.
    gamma_x, gamma_h : array, shape (4H,), or None
        Coupled (3H,).
    gamma_c, beta_c : array, shape (H,), or None
        All these belong to the first layer, forward. `params` has those of the others, whose names
        end in ``_1``, ``_2``, ... for further layers, which are given y of the layer before, then
        in ``_reverse``: ``params["weight_x_1_reverse"]``.

    Notes
    -----
    x has shape (N, T, I); y has shape (N, T, H), or (N, T, 2H) where two directions stand side by
    side; with a projection P stands for H. T may be 0. With ``lengths``, zero allowed, a sequence's
    state stays as it is after its own last step, and the reverse direction starts there.

    A state, as `run` and `step` take and return it, is a tuple with an entry ``(h, c)`` for each
    layer, where bidirectional for each layer's forward and then reverse direction; h and c have
    shape (N, H), with a projection h has (N, P). A bidirectional layer does not `step`, and its
    windows cannot be joined: the reverse direction comes from the end.

    Raises
    ------
    ValueError, TypeError
        An option is out of its range; `dropout` with one layer, or `merge` with one direction; x
        has another number of axes or features or another dtype; a state has another form; a
        bidirectional layer is asked to `step`.

    References
    ----------
    S. Hochreiter, J. Schmidhuber, *Long Short-Term Memory* (1997), sec. 4: the cell. F. Gers,
    J. Schmidhuber, F. Cummins, *Learning to Forget* (2000), sec. 3: the forget gate. P. Werbos,
    *Backpropagation Through Time: What It Does and How to Do It* (1990), sec. III: the gradients.
    M. Schuster, K. Paliwal, *Bidirectional Recurrent Neural Networks* (1997), sec. II. H. Sak,
    A. Senior, F. Beaufays, *Long Short-Term Memory Recurrent Neural Network Architectures for Large
    Scale Acoustic Modeling* (2014): the projection and the clipped cell. Y. Gal, Z. Ghahramani, *A
    Theoretically Grounded Application of Dropout in Recurrent Neural Networks* (2016), sec. 4:
    variational dropout. R. Jozefowicz, W. Zaremba, I. Sutskever, *An Empirical Exploration of
    Recurrent Network Architectures* (2015), sec. 2: a forget bias of 1. A. Saxe et al., *Exact
    Solutions to the Nonlinear Dynamics of Learning in Deep Linear Neural Networks* (2014):
    orthogonal weights. F. Gers, J. Schmidhuber, *Recurrent Nets that Time and Count* (2000):
    peepholes. K. Greff et al., *LSTM: A Search Space Odyssey* (2017): coupled gates.
    J. Ba, J. Kiros, G. Hinton, *Layer Normalization* (2016).

    Examples
    --------
    >>> layer = LSTM(1, 1, dtype=np.float64)
    >>> layer.weight_x = layer.weight_h = np.ones((1, 4))
    >>> layer.bias = np.zeros(4)
    >>> h, c = np.array([[0.5]]), np.array([[1.0]])
    >>> y, ((h, c),) = layer.step(np.array([[1.0]]), ((h, c),))
    >>> c.round(4), h.round(4)
    (array([[1.5576]]), array([[0.7481]]))

    The formula shows the gates i, f, g and o of that step:

    >>> from lamina.lstm import formula
    >>> x_t, before = np.array([[1.0]]), (np.array([[0.5]]), np.array([[1.0]]))
    >>> weights = layer.weight_x, layer.weight_h, layer.bias
    >>> [round(float(gate[0, 0]), 4) for gate in formula.gates(x_t, before, weights)]
    [0.8176, 0.8176, 0.9051, 0.8176]

    A trace shows what a whole pass went through, here the forget gate, and how much of the gradient
    of the last output reaches each step:

    >>> y, cache = layer.forward(np.array([[[1.0], [0.0], [0.0]]]), trace=True)
    >>> dx, grads = layer.backward(np.array([[[0.0], [0.0], [1.0]]]), cache)
    >>> cache.trace[0]["f"].ravel().round(2), cache.trace[0]["norm"].round(3)
    (array([0.73, 0.59, 0.57]), array([[0.171, 0.256, 0.275]]))
    """

    state_names = ("h", "c")

    weight_p = Parameter()
    peephole = Parameter()
    gamma_x = Parameter()
    gamma_h = Parameter()
    gamma_c = Parameter()
    beta_c = Parameter()

    def __init__(
        self,
        in_features: int,
        hidden: int,
        *,
        layers: int = 1,
        projection: int | None = None,
        peepholes: bool = False,
        coupled: bool = False,
        clip: float | None = None,
        cell_clip: float | None = None,
        activations: Sequence[str] = ("sigmoid", "tanh", "tanh"),
        layer_norm: bool = False,
        bidirectional: bool = False,
        merge: str = "concat",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        bias: bool = True,
        forget_bias: float = 1.0,
        init: str = "glorot_uniform",
        recurrent_init: str | None = None,
        dtype: npt.DTypeLike = np.float32,
        rng: initializers.RNG = None,
    ) -> None:
        self.projection = (
            None if projection is None else arguments.integer(self, "projection", projection)
        )
        self.forget_bias = arguments.number(self, "forget_bias", forget_bias)
        self.peepholes = arguments.flag(self, "peepholes", peepholes)
        self.layer_norm = arguments.flag(self, "layer_norm", layer_norm)
        options = variants.Options(
            arguments.flag(self, "coupled", coupled),
            arguments.limit(self, "clip", clip),
            arguments.limit(self, "cell_clip", cell_clip),
            self._checked_activations(activations),
        )
        self.coupled, self.activations = options.coupled, options.activations
        self.clip, self.cell_clip = options.clip, options.cell_clip
        varied = self.peepholes or self.layer_norm or options != variants.Options()
        cell: dict[str, Any] = options._asdict() if varied else {}
        super().__init__(
            in_features,
            hidden,
            gates=len(options.gates),
            weight_names=variants.Weights._fields if varied else (*WEIGHTS, "weight_p"),
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

    def _checked_activations(self, activations: Any) -> tuple[str, str, str]:
        if not isinstance(activations, (tuple, list)) or len(activations) != 3:
            raise ValueError(
                f"{say(self)}: activations must be three names, of the gates, the candidate and "
                f"the cell, got {activations!r}"
            )
        gate, candidate, cell = (
            arguments.choice(self, "an activation", name, cells.ACTIVATIONS) for name in activations
        )
        return gate, candidate, cell

    def _functions(self) -> ModuleType:
        """Return the module whose `run`, `run_backward`, `step` and `trace` compute the layer."""
        return variants if self.varied else functions(__name__)

    @property
    def state_sizes(self) -> dict[str, int]:
        """The columns of h and c."""
        return {"h": self.projection or self.hidden, "c": self.hidden}

    def _draw(self, inputs: int, rng: np.random.Generator) -> Arrays:
        """Draw the parameters of one layer in one direction, by name."""
        H = self.hidden
        found = super()._draw(inputs, rng)
        if self.has_bias and self.init != "torch":
            if self.coupled:
                found["bias"][:H] = -self.forget_bias
            else:
                found["bias"][H : 2 * H] = self.forget_bias
        if self.projection is not None:
            found["weight_p"] = self._draw_matrix(self.init, H, self.projection, 1, rng)
        if self.peepholes:
            sizes = ((self.gates - 1) * H,)
            found["peephole"] = initializers.draw_bias(self.init, sizes, H, rng, self.dtype)
        if self.layer_norm:
            for name, blocks in {
                "gamma_x": self.gates,
                "gamma_h": self.gates,
                "gamma_c": 1,
            }.items():
                found[name] = np.ones(blocks * H, self.dtype)
            found["beta_c"] = np.zeros(H, self.dtype)
        return found
