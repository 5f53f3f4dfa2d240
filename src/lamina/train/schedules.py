"""Learning rates that change as training goes on.

A schedule is any function of the number of the update, t = 0, 1, 2, ..., that returns the learning
rate of that update. An update is a call of `Optimizer.step`: one for each batch, or for each
``accumulate`` of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ..arguments import Constructed, integer, number

Schedule: TypeAlias = Callable[[int], float]
"""A function of the number of the update, from 0, that returns its learning rate."""


def rate(lr: float | Schedule, t: int) -> float:
    """Return the learning rate of update t, where `lr` is a number or a schedule."""
    return number("lr", f"the learning rate of update {t}", lr(t) if callable(lr) else lr, 0)


@dataclass(frozen=True)
class StepDecay(Constructed):
    r"""A learning rate that falls by a factor every so many updates.

    .. math:: \eta_t = \eta \, f^{\lfloor t / k \rfloor}

    Parameters
    ----------
    lr : float
        η, at least 0.
    every : int
        k, in updates.
    factor : float
        f, at least 0.

    Raises
    ------
    ValueError, TypeError
        A learning rate or a factor is below 0, or a number of updates below 1.

    Examples
    --------
    >>> schedule = StepDecay(0.5, every=100, factor=0.5)
    >>> schedule(0), schedule(99), schedule(100), schedule(200)
    (0.5, 0.5, 0.25, 0.125)
    """

    lr: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        number("StepDecay", "lr", self.lr, 0)
        integer("StepDecay", "every", self.every)
        number("StepDecay", "factor", self.factor, 0)

    def __call__(self, t: int) -> float:
        """Return the learning rate of update t."""
        return self.lr * self.factor ** (t // self.every)


@dataclass(frozen=True)
class Cosine(Constructed):
    r"""A learning rate that falls along half a cosine, then stays.

    .. math::
        \eta_t = \eta_{end} + \frac{\eta - \eta_{end}}{2}
        \left(1 + \cos \frac{\pi \min(t, T)}{T}\right)

    Parameters
    ----------
    lr : float
        η, at least 0.
    steps : int
        T, in updates: as a rule all of the training, epochs times the batches of each. Of
        `lamina.fit` these are ``ceil(samples / batch_size)``, one fewer if that leaves one sample.
    end : float
        The learning rate from update T on.

    Raises
    ------
    ValueError, TypeError
        A learning rate is below 0, or `steps` below 1.

    References
    ----------
    I. Loshchilov, F. Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts* (2017), eq. 5.

    Examples
    --------
    >>> schedule = Cosine(0.5, steps=100)
    >>> schedule(0), round(schedule(50), 3), schedule(100), schedule(1000)
    (0.5, 0.25, 0.0, 0.0)
    """

    lr: float
    steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        number("Cosine", "lr", self.lr, 0)
        integer("Cosine", "steps", self.steps)
        number("Cosine", "end", self.end, 0)

    def __call__(self, t: int) -> float:
        """Return the learning rate of update t."""
        turn = math.pi * min(t, self.steps) / self.steps
        return self.end + (self.lr - self.end) / 2 * (1 + math.cos(turn))


@dataclass(frozen=True)
class WarmUp(Constructed):
    r"""A learning rate that rises evenly to the first one of another schedule, which then begins.

    .. math::
        \eta_t = \begin{cases}
            \frac{t + 1}{W + 1} \, \eta'_0 & t < W \\
            \eta'_{t - W} & t \ge W
        \end{cases}

    Parameters
    ----------
    lr : float or schedule
        η′, what comes after.
    steps : int
        W, in updates.

    Raises
    ------
    ValueError, TypeError
        A learning rate is below 0, or `steps` below 1.

    References
    ----------
    P. Goyal et al., *Accurate, Large Minibatch SGD* (2017), sec. 2.2, "gradual warmup".

    Examples
    --------
    >>> schedule = WarmUp(Cosine(0.5, steps=100), steps=4)
    >>> [round(schedule(t), 2) for t in (0, 1, 2, 3, 4, 54)]
    [0.1, 0.2, 0.3, 0.4, 0.5, 0.25]
    """

    lr: float | Schedule
    steps: int

    def __post_init__(self) -> None:
        rate(self.lr, 0)
        integer("WarmUp", "steps", self.steps)

    def __call__(self, t: int) -> float:
        """Return the learning rate of update t."""
        if t < self.steps:
            return (t + 1) / (self.steps + 1) * rate(self.lr, 0)
        return rate(self.lr, t - self.steps)
