"""How gradients change parameters: SGD, Adam, AdamW, RMSprop.

One update, number t = 1, 2, ..., of parameters θ with gradients ∂L/∂θ goes

    g = ∂L/∂θ · min(1, clip_norm / ‖∂L/∂θ‖)                                     (1)
    g = g + λ θ                                                                 (2)

and on as each class says. The norm in (1) is that of the gradients of all parameters together, as
if they were one vector (Pascanu et al. 2013, sec. 3.2), and is taken in float64. λ is the weight
decay; it is 0 for parameters that `no_decay` names. η is the learning rate of the update.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np

from .. import kernels
from ..arguments import FLOATS, Constructed, choice, flag, limit, number, positive, say
from ..layer import Arrays, Layer, NDArray, depth
from .names import as_patterns, matches, refuse_idle
from .schedules import Schedule, rate

NO_DECAY: Final = ("*bias*", "*gamma*", "*beta*")
"""Offsets and scales, which weight decay spares by default."""
COUNT: Final = "updates"
"""The slot that counts the updates of a parameter; all others have its shape."""


@dataclass(eq=False)
class Optimizer(Constructed, ABC):
    """What the optimizers share; each brings its slots and its update.

    An optimizer of your own needs `update`, and `new_slots` where it remembers something; decay,
    groups and clipping are there, and `fit` takes it.

    Parameters
    ----------
    lr : float or schedule
        η: a number, or a function of the number of the update, from 0, that returns it.
    weight_decay : float
        λ, at least 0.
    no_decay : collection of str
        Patterns of the names of parameters that weight decay spares.
    groups : dict of str to dict
        Settings for the parameters that a pattern of names fits: ``{"0.*": {"lr": 1e-4}}``. They
        may set ``"lr"`` and ``"weight_decay"``; where several patterns fit, the later one holds.
    clip_norm : float, optional
        Gradients are scaled down together to this norm where theirs is larger.

    Attributes
    ----------
    steps : int
        How many updates were made.
    slots : dict of str to dict of str to array
        What the optimizer remembers, by the parameter's name, then by its own.

    Examples
    --------
    >>> class Signed(Optimizer):
    ...     def new_slots(self, p):
    ...         return {"mean": np.zeros_like(p)}
    ...
    ...     def update(self, p, g, lr, slots):
    ...         slots["mean"] += 0.1 * (g - slots["mean"])
    ...         p -= lr * np.sign(slots["mean"])
    >>> theta = {"theta": np.array([1.0, -2.0])}
    >>> Signed(0.5).step(theta, {"theta": np.array([2.0, -3.0])})
    >>> theta["theta"]
    array([ 0.5, -1.5])
    """

    OPTIONS: ClassVar = ("lr", "weight_decay")

    lr: float | Schedule
    weight_decay: float = field(default=0.0, kw_only=True)
    no_decay: Collection[str] = field(default=NO_DECAY, kw_only=True)
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, kw_only=True)
    clip_norm: float | None = field(default=None, kw_only=True)
    steps: int = field(default=0, init=False, repr=False)
    slots: dict[str, Arrays] = field(default_factory=dict, init=False, repr=False)
    _plan: "_Plan | None" = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if isinstance(self.lr, (Mapping, Layer)):
            got = "a dict" if isinstance(self.lr, Mapping) else say(self.lr)
            raise TypeError(
                f"{owner}: lr must be a learning rate or a schedule, got {got}; "
                "parameters are given to each step: optimizer.step(model.params, grads)"
            )
        rate(self.lr, 0)
        number(owner, "weight_decay", self.weight_decay, 0)
        self.no_decay = as_patterns(owner, "no_decay", self.no_decay)
        if not isinstance(self.groups, Mapping) or not all(
            isinstance(pattern, str) and isinstance(settings, Mapping)
            for pattern, settings in self.groups.items()
        ):
            raise TypeError(
                f"{owner}: groups must be a dict of patterns and settings, as "
                f'{{"0.*": {{"lr": 1e-4}}}}, got {self.groups!r}'
            )
        for pattern, settings in self.groups.items():
            for option, value in settings.items():
                choice(f"{owner}: group {pattern!r}", "an option", option, self.OPTIONS)
                if option == "lr":
                    rate(value, 0)
                else:
                    number(f"{owner}: group {pattern!r}", option, value, 0)
        limit(owner, "clip_norm", self.clip_norm)

    def step(self, params: Arrays, grads: Arrays) -> None:
        """Make one update: write the new values into the arrays of `params`.

        Nothing is written where an error is raised.

        Parameters
        ----------
        params : dict of str to array
            The parameters to change, by name: a layer's ``params``, or some of them. Arrays of
            floats that can be written.
        grads : dict of str to array
            Their gradients, as `Layer.backward` returns them; others are ignored.

        Raises
        ------
        FloatingPointError
            A gradient holds NaN or infinity.
        ValueError
            A gradient is missing or has another shape; a parameter is read-only, or in `params`
            twice; a group's pattern fits no parameter, or its weight decay only such as `no_decay`
            spares; the slots belong to other parameters; a learning rate is none.
        TypeError
            Parameters or gradients are no dict, or one of them is no array of such numbers.
        """
        self._step(params, grads, params)

    def _step(self, params: Arrays, grads: Arrays, before: Arrays) -> bool:
        """Make one update, write to `before` what `params` were; return whether all are finite."""
        self._check_dicts(params, grads)
        if self.steps == 0:
            refuse_idle(type(self).__name__, "group", self.groups, params)
            self._check_decay(params)
        plan = self._plan
        if plan is not None and plan.key != self._key(params, before):
            plan = None  # arrays, patterns or the rule have changed
        if plan is None or not all(p.flags.writeable for p in params.values()):
            self._check_params(params)
        gradients = self._gradients(params, grads)
        if plan is None:
            plan = self._plan = _Plan(self, params, before)
            plan.key = self._key(params, before)
        read = [table.updates.read([gradients[i] for i in table.members]) for table in plan.tables]
        sums = [
            table.updates.zeros(own) if self.clip_norm is None else table.updates.squares(own)
            for table, own in zip(plan.tables, read, strict=True)
        ]
        sums += [_sum_of_squares(gradients[i]) for i in plan.others]
        self._check(sums, params, gradients)
        scale = self._clip(sums, gradients)
        for kind in plan.kinds:
            kind.lr, kind.decay = self._settings(kind)
        numbers = [
            [
                (scale, *self._decay_numbers(k.lr, k.decay), *self._numbers(k.lr, k.slots))
                for k in table.kinds
            ]
            for table in plan.tables
        ]
        for kind in plan.kinds:
            if COUNT in kind.slots:
                updates = kind.slots[COUNT]
                updates[...] = int(updates) + 1  # += takes longer of an array of no axes
        finite = True
        for table, own, its in zip(plan.tables, read, numbers, strict=True):
            finite &= table.updates.update(own, its)
        for i, kind in plan.others.items():
            p, g = plan.arrays[i], gradients[i]
            plan.before[i][...] = p
            g = g if scale == 1 else g * scale  # (1)
            g = self._decay(p, g, kind.lr, kind.decay) if kind.decay else g
            self.update(p, g, kind.lr, self.slots[plan.names[i]])
            finite &= bool(np.isfinite(p).all())
        self.steps += 1
        return finite

    def new_slots(self, p: NDArray) -> Arrays:
        """Return the slots of a parameter before its first update, by name; here none.

        They have its shape, but for one named ``"updates"``, ``np.zeros((), np.int64)``, in which
        its updates are counted, the one that is made included.
        """
        return {}

    @abstractmethod
    def update(self, p: NDArray, g: NDArray, lr: float, slots: Arrays) -> None:
        """Write the new values into a parameter and its slots.

        Parameters
        ----------
        p : array
            The parameter.
        g : array, of the shape of p
            Its gradient, clipped and with that of the weight decay; to be read only.
        lr : float
            η of this update.
        slots : dict of str to array
        """

    @property
    def _rule(self) -> str | None:
        """The name of the same update in fused.py, where it is one of those."""
        return None

    def _numbers(self, lr: float, slots: Arrays) -> list[float]:
        """Return its numbers; the slots are those of a parameter before this update."""
        return []

    def _decay_numbers(self, lr: float, decay: float) -> tuple[float, float]:
        """Return what share of p is added to the gradient, and what share of p is kept."""
        return decay, 1.0

    def _decay(self, p: NDArray, g: NDArray, lr: float, decay: float) -> NDArray:
        """Return the gradient with that of the weight decay."""
        return g + decay * p  # (2)

    def _settings(self, kind: "_Kind") -> tuple[float, float]:
        """Return the learning rate and the weight decay of a kind of parameters at this update."""
        lr, decay = self.lr, 0.0 if kind.spared else self.weight_decay
        for pattern in kind.patterns:
            own = self.groups[pattern]
            lr = own.get("lr", lr)
            decay = decay if kind.spared else own.get("weight_decay", decay)
        return rate(lr, self.steps), decay

    def _check_dicts(self, params: Arrays, grads: Arrays) -> None:
        """Refuse what is no dict."""
        owner = type(self).__name__
        if not isinstance(params, (dict, Mapping)):  # by dict, it costs next to nothing
            raise TypeError(
                f"{owner}: params must be a dict of arrays by name, model.params say, got "
                f"{say(params)}"
            )
        if not isinstance(grads, (dict, Mapping)):
            raise TypeError(
                f"{owner}: grads must be a dict of arrays by name, what backward returns beside "
                f"dx, got {type(grads).__name__}"
            )

    def _check_decay(self, params: Arrays) -> None:
        """Refuse groups that set a weight decay alone, which none of the parameters gets."""
        for pattern, settings in self.groups.items():
            names = (name for name in params if matches(pattern, name))
            alone = [*settings] == ["weight_decay"] and settings["weight_decay"]
            if alone and all(matches(self.no_decay, name) for name in names):
                raise ValueError(
                    f"{type(self).__name__}: group {pattern!r} sets a weight_decay for parameters "
                    "that no_decay spares; no_decay=() spares none"
                )

    def _check_params(self, params: Arrays) -> None:
        """Refuse parameters that cannot be changed in place."""
        owner = type(self).__name__
        names: dict[int, str] = {}
        for name, p in params.items():
            if not isinstance(p, np.ndarray):
                raise TypeError(
                    f"{owner}: the parameter {name} must be an array, which can be changed in "
                    f"place, got {type(p).__name__}"
                )
            if p.dtype.kind != "f":
                raise TypeError(
                    f"{owner}: the parameter {name} has dtype {p.dtype}, expected floats; put "
                    "others in its place: a.astype(np.float32)"
                )
            if not p.flags.writeable:
                raise ValueError(
                    f"{owner}: the parameter {name} is read-only; leave it out, or train a "
                    "copy, which can be written: copy.deepcopy(model)"
                )
            other = names.setdefault(p.ctypes.data, name) if p.size else name
            if other != name:
                raise ValueError(
                    f"{owner}: {other} and {name} are one array; leave one of them out, and add "
                    "its gradient to the other's, or let a model have one layer in both places"
                )

    def _gradients(self, params: Arrays, grads: Arrays) -> list[NDArray]:
        """Return the gradients of the parameters, in order, as arrays of their dtypes."""
        owner = type(self).__name__
        try:
            found = [grads[name] for name in params]
        except KeyError:
            missing = next(name for name in params if name not in grads)
            raise ValueError(
                f"{owner}: no gradient for {missing}; there are {', '.join(grads) or 'none'}"
            ) from None
        for i, (name, p) in enumerate(params.items()):
            if type(found[i]) is not np.ndarray or found[i].dtype != p.dtype:
                found[i] = self._cast(name, found[i], p.dtype)
        if [g.shape for g in found] != [p.shape for p in params.values()]:
            for (name, p), g in zip(params.items(), found, strict=True):
                if g.shape != p.shape:
                    raise ValueError(
                        f"{owner}: the gradient of {name} has shape {g.shape}, not {p.shape}"
                    )
        return found

    def _cast(self, name: str, g: Any, dtype: np.dtype[Any]) -> NDArray:
        """Return a gradient, which may be a scalar of NumPy's, as an array of a dtype."""
        owner = type(self).__name__
        if not isinstance(g, (np.ndarray, np.generic)) or g.dtype.kind not in "fiub":
            got = f"dtype {g.dtype}" if isinstance(g, (np.ndarray, np.generic)) else repr(g)
            raise TypeError(
                f"{owner}: the gradient of {name} must be an array of real numbers, got {got}"
            )
        with np.errstate(over="ignore"):
            found = np.asarray(g).astype(dtype, copy=False)
        if g.dtype.kind == "f" and np.isinf(found).sum() > np.isinf(g).sum():
            raise FloatingPointError(
                f"{owner}: the gradient of {name} has values that {dtype} cannot hold; lower the "
                "learning rate, or let the model compute in float64"
            )
        return found

    def _check(self, sums: list[float], params: Arrays, gradients: list[NDArray]) -> None:
        """Refuse NaN and infinity, which no sum of squares or of zeros is finite with."""
        if math.isfinite(sum(sums)):
            return
        for name, g in zip(params, gradients, strict=True):
            if not np.isfinite(g).all():  # the sum may overflow where all are
                raise FloatingPointError(
                    f"{type(self).__name__}: the gradient of {name} holds NaN or infinity; "
                    "lower the learning rate or set clip_norm=, and look for NaN in the data"
                )

    def _key(self, params: Arrays, before: Arrays) -> list[Any]:
        """Return what a plan is for; it holds on to the arrays, so ids stay theirs."""
        slots = (a for name in params for a in self.slots.get(name, {}).values())
        return [
            kernels.used(), self._rule, [*self.groups], [*self.no_decay], list(params),
            [getattr(p, "shape", None) for p in params.values()], *map(id, params.values()),
            *map(id, before.values()), *map(id, slots),
        ]  # fmt: skip

    def _alike(self, name: str, p: NDArray) -> tuple[Any, ...]:
        """Return what parameters have in common that go alike; refuse slots of another one."""
        slots = self.slots[name]
        if any(a.shape != p.shape for slot, a in slots.items() if slot != COUNT):
            raise ValueError(
                f"{type(self).__name__}: remembers {name} in another shape than {p.shape}; "
                "make a new optimizer for a new model"
            )
        fit = (matches(pattern, name) for pattern in self.groups)
        return int(slots.get(COUNT, 0)), matches(self.no_decay, name), *fit

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_plan": None}  # which has addresses

    def _clip(self, squares: list[float], gradients: list[NDArray]) -> float:
        """Return the factor that brings the norm of all gradients to `clip_norm` at most."""
        if self.clip_norm is None:
            return 1.0
        norm = math.sqrt(sum(squares))
        if math.isinf(norm):  # the squares overflow
            largest = max(float(np.max(np.abs(g), initial=0)) for g in gradients)
            norm = largest * math.sqrt(sum(_sum_of_squares(g / largest) for g in gradients))
        return self.clip_norm / norm if norm > self.clip_norm else 1.0


@dataclass(eq=False)
class SGD(Optimizer):
    r"""Stochastic gradient descent, with momentum where asked for.

    .. math::
        v_t = \mu v_{t-1} + g, \qquad
        \theta_t = \theta_{t-1} - \eta \begin{cases}
            v_t & \text{(heavy ball)} \\
            g + \mu v_t & \text{(Nesterov)}
        \end{cases}

    Parameters
    ----------
    lr : float or schedule
        η.
    momentum : float in [0, 1)
        μ.
    nesterov : bool
        Whether to look ahead by the momentum; needs momentum.
    weight_decay, no_decay, groups, clip_norm
        As in `Optimizer`; the decay is an L2 penalty, equation (2) there.

    Raises
    ------
    ValueError, TypeError
        An option is out of its range; `nesterov` without momentum.

    References
    ----------
    B. T. Polyak, *Some methods of speeding up the convergence of iteration methods* (1964), for
    the heavy ball; I. Sutskever, J. Martens, G. Dahl, G. Hinton, *On the importance of
    initialization and momentum in deep learning* (2013), sec. 2, for Nesterov's.

    Examples
    --------
    >>> theta = {"theta": np.array([1.0, -2.0])}
    >>> optimizer = SGD(0.5)
    >>> optimizer.step(theta, {"theta": np.array([2.0, 2.0])})
    >>> theta["theta"]
    array([ 0., -3.])
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _below_one("SGD", "momentum", self.momentum)
        if flag("SGD", "nesterov", self.nesterov) and not self.momentum:
            raise ValueError("SGD: nesterov=True needs a momentum above 0")

    def new_slots(self, p: NDArray) -> Arrays:
        """Return the slots of a parameter before its first update, by name."""
        return {"velocity": np.zeros_like(p)} if self.momentum else {}

    def update(self, p: NDArray, g: NDArray, lr: float, slots: Arrays) -> None:
        """Write the new values into a parameter and its slots."""
        if self.momentum:
            v = slots["velocity"]
            v *= self.momentum
            v += g
            g = g + self.momentum * v if self.nesterov else v
        p -= lr * g

    @property
    def _rule(self) -> str:
        return "momentum" if self.momentum else "sgd"

    def _numbers(self, lr: float, slots: Arrays) -> list[float]:
        if not self.momentum:
            return [lr]
        return [lr, self.momentum, *((1.0, self.momentum) if self.nesterov else (0.0, 1.0))]


@dataclass(eq=False)
class Adam(Optimizer):
    r"""Steps scaled by running averages of the gradient and of its square.

    .. math::
        \begin{aligned}
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g \\
        s_t &= \beta_2 s_{t-1} + (1 - \beta_2) g^2 \\
        \theta_t &= \theta_{t-1} - \eta \,
        \frac{m_t / (1 - \beta_1^t)}{\sqrt{s_t / (1 - \beta_2^t)} + \epsilon}
        \end{aligned}

    Parameters
    ----------
    lr : float or schedule
        η.
    betas : pair of floats in [0, 1)
        β₁ and β₂.
    eps : float
        ε, above 0.
    weight_decay, no_decay, groups, clip_norm
        As in `Optimizer`; the decay is an L2 penalty, equation (2) there.

    Notes
    -----
    The defaults are those of the paper and of ``torch.optim.Adam``. t counts the updates of each
    parameter by itself: one that joins later begins with t = 1.

    Raises
    ------
    ValueError, TypeError
        An option is out of its range.

    References
    ----------
    D. P. Kingma, J. Ba, *Adam: A Method for Stochastic Optimization* (2015), algorithm 1.

    Examples
    --------
    >>> theta = {"theta": np.array([1.0, -2.0])}
    >>> Adam(0.1).step(theta, {"theta": np.array([10.0, -0.01])})
    >>> theta["theta"].round(6)
    array([ 0.9, -1.9])
    """

    lr: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        if not isinstance(self.betas, (tuple, list)) or len(self.betas) != 2:
            raise ValueError(f"{owner}: betas must be a pair of numbers, got {self.betas!r}")
        for beta in self.betas:
            _below_one(owner, "betas", beta)
        positive(owner, "eps", self.eps)

    def new_slots(self, p: NDArray) -> Arrays:
        """Return the slots of a parameter before its first update, by name."""
        return {
            "mean": np.zeros_like(p),
            "square": np.zeros_like(p),
            COUNT: np.zeros((), np.int64),
        }

    def update(self, p: NDArray, g: NDArray, lr: float, slots: Arrays) -> None:
        """Write the new values into a parameter and its slots."""
        beta1, beta2 = self.betas
        m, s = slots["mean"], slots["square"]
        t = int(slots[COUNT])
        m *= beta1
        m += (1 - beta1) * g
        s *= beta2
        s += (1 - beta2) * g * g
        root = np.sqrt(s / (1 - beta2**t))
        root += self.eps
        p -= lr / (1 - beta1**t) * m / root

    @property
    def _rule(self) -> str:
        return "adam"

    def _numbers(self, lr: float, slots: Arrays) -> list[float]:
        beta1, beta2 = self.betas
        t = int(slots[COUNT]) + 1
        rates = lr / (1 - beta1**t), 1 / (1 - beta2**t)
        return [beta1, 1 - beta1, beta2, 1 - beta2, *rates, self.eps]


@dataclass(eq=False)
class AdamW(Adam):
    r"""Adam with weight decay beside the gradient instead of within it.

    Before Adam's update, and in place of equation (2) of `Optimizer`,

    .. math:: \theta_{t-1} \leftarrow (1 - \eta \lambda) \, \theta_{t-1}

    Parameters
    ----------
    lr, betas, eps
        As in `Adam`.
    weight_decay : float
        λ.
    no_decay, groups, clip_norm
        As in `Optimizer`.

    Notes
    -----
    The defaults are those of ``torch.optim.AdamW``, which has no `no_decay`: for its numbers,
    ``no_decay=()``.

    Raises
    ------
    ValueError, TypeError
        An option is out of its range.

    References
    ----------
    I. Loshchilov, F. Hutter, *Decoupled Weight Decay Regularization* (2019), algorithm 2; η stands
    for the paper's product of schedule and step size, and λ is counted in its units.

    Examples
    --------
    >>> theta = {"weight": np.array([1.0]), "bias": np.array([1.0])}
    >>> still = {"weight": np.array([0.0]), "bias": np.array([0.0])}
    >>> AdamW(0.1, weight_decay=0.5).step(theta, still)
    >>> theta["weight"], theta["bias"]
    (array([0.95]), array([1.]))
    """

    weight_decay: float = field(default=0.01, kw_only=True)

    def _decay(self, p: NDArray, g: NDArray, lr: float, decay: float) -> NDArray:
        p *= 1 - lr * decay
        return g

    def _decay_numbers(self, lr: float, decay: float) -> tuple[float, float]:
        return 0.0, 1 - lr * decay


@dataclass(eq=False)
class RMSprop(Optimizer):
    r"""Steps scaled by a running average of the gradient's square.

    .. math::
        s_t = \alpha s_{t-1} + (1 - \alpha) g^2, \qquad
        \theta_t = \theta_{t-1} - \eta \frac{g}{\sqrt{s_t} + \epsilon}

    Parameters
    ----------
    lr : float or schedule
        η.
    alpha : float in [0, 1)
        α.
    eps : float
        ε, above 0.
    weight_decay, no_decay, groups, clip_norm
        As in `Optimizer`; the decay is an L2 penalty, equation (2) there.

    Notes
    -----
    The defaults are those of ``torch.optim.RMSprop``.

    Raises
    ------
    ValueError, TypeError
        An option is out of its range.

    References
    ----------
    G. Hinton, *Neural Networks for Machine Learning* (2012), lecture 6e.

    Examples
    --------
    >>> theta = {"theta": np.array([1.0])}
    >>> RMSprop(0.1, alpha=0.75).step(theta, {"theta": np.array([4.0])})
    >>> theta["theta"].round(6)
    array([0.8])
    """

    lr: float | Schedule = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _below_one("RMSprop", "alpha", self.alpha)
        positive("RMSprop", "eps", self.eps)

    def new_slots(self, p: NDArray) -> Arrays:
        """Return the slots of a parameter before its first update, by name."""
        return {"square": np.zeros_like(p)}

    def update(self, p: NDArray, g: NDArray, lr: float, slots: Arrays) -> None:
        """Write the new values into a parameter and its slots."""
        s = slots["square"]
        s *= self.alpha
        s += (1 - self.alpha) * g * g
        p -= lr * g / (np.sqrt(s) + self.eps)

    @property
    def _rule(self) -> str:
        return "rmsprop"

    def _numbers(self, lr: float, slots: Arrays) -> list[float]:
        return [lr, self.alpha, 1 - self.alpha, self.eps]


# Plans


@dataclass(eq=False)
class _Kind:
    """Parameters that go alike: by the same settings, after as many updates.

    Attributes
    ----------
    slots : dict of str to array
        Those of one of them; the count of updates there is one array for all.
    spared : bool
        Whether weight decay spares them.
    patterns : list of str
        Those of the groups that they are in.
    lr, decay : float
        The settings of this update.
    """

    slots: Arrays
    spared: bool
    patterns: list[str]
    lr: float = 0.0
    decay: float = 0.0


class _Plan:
    """What stays from update to update while parameters and slots are the same arrays.

    Attributes
    ----------
    key : list
        What it is for.
    kinds : list of _Kind
    tables : list of _Table
        What kernels do, one for each dtype.
    others : dict of int to _Kind
        What formulas do: the places of parameters among all, and their kinds.
    """

    def __init__(self, optimizer: Optimizer, params: Arrays, before: Arrays) -> None:
        self.key: list[Any] = []
        cls = type(optimizer)  # one that overrides `update` has no other
        self.rule = optimizer._rule if depth(cls, "_rule") <= depth(cls, "update") else None
        self.before = [before[name] for name in params]
        self.names, self.arrays = list(params), list(params.values())
        self.slots: list[Arrays] = []
        for name, p in params.items():
            wanted, own = optimizer.new_slots(p), optimizer.slots.setdefault(name, {})
            for slot, a in wanted.items():
                own.setdefault(slot, a)  # an option that was set anew may want one more
            self.slots.append({slot: own[slot] for slot in wanted})
        alike: dict[Any, list[int]] = {}
        for i, (name, p) in enumerate(params.items()):
            alike.setdefault((self._dtype(i), *optimizer._alike(name, p)), []).append(i)
        self.kinds = []
        by_dtype: dict[Any, dict[int, _Kind]] = {}
        for (dtype, _, spared, *fit), members in alike.items():
            slots = self.slots[members[0]]
            if COUNT in slots:
                count = slots[COUNT].copy()
                for i in members:
                    self.slots[i][COUNT] = optimizer.slots[self.names[i]][COUNT] = count
            kind = _Kind(slots, spared, [*itertools.compress(optimizer.groups, fit)])
            self.kinds.append(kind)
            by_dtype.setdefault(dtype, {}).update(dict.fromkeys(members, kind))
        self.others = by_dtype.pop(None, {})
        self.tables = [_Table(self.rule, self, of) for of in by_dtype.values() if self.rule]

    def _dtype(self, i: int) -> Any:
        """Return the dtype of a parameter that kernels can change, None for others."""
        p = self.arrays[i]
        arrays = (p, self.before[i], *self.moments(i))
        lie_well = all(a.flags.carray and a.dtype == p.dtype for a in arrays)
        known = kernels.used() and self.rule is not None
        return p.dtype if known and p.dtype in FLOATS and lie_well else None

    def moments(self, i: int) -> list[NDArray]:
        """Return the slots of a parameter that have its shape."""
        return [a for slot, a in self.slots[i].items() if slot != COUNT]


class _Table:
    """The parameters of one dtype, which kernels change in one launch.

    Attributes
    ----------
    members : list of int
        Their places among all.
    kinds : list of _Kind
    updates : fused.Updates
    """

    def __init__(self, rule: str, plan: _Plan, of: dict[int, _Kind]) -> None:
        from . import fused

        self.members, self.kinds = list(of), list(dict.fromkeys(of.values()))
        self.updates = fused.Updates(
            rule,
            [plan.arrays[i] for i in of],
            [plan.before[i] for i in of],
            [plan.moments(i) for i in of],
            [self.kinds.index(kind) for kind in of.values()],
        )


def _sum_of_squares(g: NDArray) -> float:
    """Return Σ g² in float64."""
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.sum(np.square(g, dtype=np.float64)))


def _below_one(owner: str, name: str, value: Any) -> None:
    if number(owner, name, value, 0) >= 1:
        raise ValueError(f"{owner}: {name} must lie in [0, 1), got {value!r}")
