"""The class GRU."""

from types import ModuleType

import numpy as np
import numpy.typing as npt

from .. import arguments, initializers
from ..kernels import functions
from ..layer import Arrays, Parameter
from ..recurrence import WEIGHTS, Recurrent
from . import formula


class GRU(Recurrent):
    r"""Recurrent layers with two gates and one state: a lighter relative of `LSTM`.

    .. math::
        \begin{aligned}
        r_t, z_t &= \sigma(x_t W_x + h_{t-1} W_h + b)^{r, z} \\
        n_t &= \tanh((x_t W_x + b)^n + r_t \odot (h_{t-1} W_h^n + b_h)) \\
        h_t &= (1 - z_t) \odot n_t + z_t \odot h_{t-1}, \quad y_t = h_t
        \end{aligned}

    With ``reset="before"`` the candidate is
    :math:`n_t = \tanh((x_t W_x + b)^n + (r_t \odot h_{t-1}) W_h^n)`.

    Where bidirectional, a second set of weights goes through each sequence from its end, and y_t
    holds the state of either direction. A further layer takes y of the one before as its x.

    Parameters
    ----------
    in_features, hidden : int
        I and H, at least 1.
    layers : int
        How many layers are stacked, at least 1.
    reset : str
        Where the reset gate acts: ``"after"`` the product with W_h, as in cuDNN, PyTorch, Keras
        (``reset_after=True``) and ONNX (``linear_before_reset=1``); or ``"before"``, as in the
        paper.
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
        Whether to add b and b_h.
    init : str
        The preset that draws W_x, block by block, one of `lamina.initializers.PRESETS`; biases are
        0. ``"torch"`` draws every array, biases too, uniformly from :math:`\pm 1 / \sqrt H`.
    recurrent_init : str or None
        The preset that draws W_h, block by block; None stands for ``"orthogonal"``, with
        ``init="torch"`` for ``"torch"``.
    dtype : dtype
        float32 or float64.
    rng : int, numpy.random.Generator or None
        Draws the weights and the keys of the Dropout layers; None takes fresh entropy.

    Attributes
    ----------
    weight_x : array, shape (I, 3H)
    weight_h : array, shape (H, 3H)
    bias : array, shape (3H,), or None
        Columns in blocks of H for r, z, n, in this order. PyTorch's two biases are added for r and
        z; for n, ``bias_ih`` is here and ``bias_hh`` is `bias_h`.
    bias_h : array, shape (H,), or None
        There with ``reset="after"``. These four belong to the first layer, forward. `params` has
        those of the others, whose names end in ``_1``, ``_2``, ... for further layers, which are
        given y of the layer before, then in ``_reverse``: ``params["weight_x_1_reverse"]``.

    Notes
    -----
    x has shape (N, T, I); y has shape (N, T, H), or (N, T, 2H) where two directions stand side by
    side. T may be 0. With ``lengths``, zero allowed, a sequence's state stays as it is after its
    own last step, and the reverse direction starts there.

    A state, as `run` and `step` take and return it, is a tuple with an entry ``(h,)`` for each
    layer, where bidirectional for each layer's forward and then reverse direction; h has shape
    (N, H). A bidirectional layer does not `step`, and its windows cannot be joined: the reverse
    direction comes from the end.

    ``reset="before"`` has no kernel: it runs on its formula. With ``"after"``, whose kernel pads
    weights with zeros, an infinity in x gives NaN.

    Raises
    ------
    ValueError, TypeError
        An option is out of its range; `dropout` with one layer, or `merge` with one direction; x
        has another number of axes or features or another dtype; a state has another form; a
        bidirectional layer is asked to `step`.

    References
    ----------
    K. Cho et al., *Learning Phrase Representations using RNN Encoder-Decoder for Statistical
    Machine Translation* (2014), sec. 2.3: the unit. P. Werbos, *Backpropagation Through Time: What
    It Does and How to Do It* (1990), sec. III: the gradients. Y. Gal, Z. Ghahramani, *A
    Theoretically Grounded Application of Dropout in Recurrent Neural Networks* (2016), sec. 4:
    variational dropout.

    Examples
    --------
    >>> layer = GRU(1, 1, dtype=np.float64)
    >>> layer.weight_x = layer.weight_h = np.ones((1, 3))
    >>> y, ((h,),) = layer.step(np.array([[1.0]]), ((np.array([[0.5]]),),))
    >>> h.round(4)
    array([[0.5706]])

    The formula shows the gates r and z and the candidate n of that step:

    >>> x_t, before = np.array([[1.0]]), (np.array([[0.5]]),)
    >>> weights = layer.weight_x, layer.weight_h, layer.bias, layer.bias_h
    >>> [round(float(a[0, 0]), 4) for a in formula.gates(x_t, before, weights)[:3]]
    [0.8176, 0.8176, 0.8872]
    """

    state_names = ("h",)

    bias_h = Parameter()

    def __init__(
        self,
        in_features: int,
        hidden: int,
        *,
        layers: int = 1,
        reset: str = "after",
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
        self.reset = arguments.choice(self, "reset", reset, ("after", "before"))
        varied = self.reset == "before"
        super().__init__(
            in_features,
            hidden,
            gates=3,
            weight_names=(*WEIGHTS, "bias_h"),
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
            **({"reset": self.reset} if varied else {}),
        )

    def _functions(self) -> ModuleType:
        """Return the module whose `run`, `run_backward`, `step` and `trace` compute the layer."""
        return formula if self.varied else functions(__name__)

    def _draw(self, inputs: int, rng: np.random.Generator) -> Arrays:
        """Draw the parameters of one layer in one direction, by name."""
        found = super()._draw(inputs, rng)
        if self.has_bias and self.reset == "after":
            found["bias_h"] = initializers.draw_bias(
                self.init, (self.hidden,), self.hidden, rng, self.dtype
            )
        return found
