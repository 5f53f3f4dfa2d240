"""Early stopping: when to end a training, and which epoch to keep."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from ..arguments import Constructed, choice, flag, integer, number
from ..layer import Arrays, Layer
from .history import History

MONITORS: Final = ("loss", "metric", "val_loss", "val_metric")


@dataclass(frozen=True)
class EarlyStopping(Constructed):
    """End a training that has not improved for a while, and go back to the best epoch.

    Parameters
    ----------
    monitor : str
        ``"val_loss"``, ``"val_metric"``, ``"loss"`` or ``"metric"``.
    patience : int
        After how many epochs without improvement to stop.
    min_delta : float
        By how much a value must be better than the best to count, at least 0.
    restore_best : bool
        Whether the model ends with the parameters and buffers of the best epoch, also where the
        training ran to its end.
    mode : str, optional
        ``"min"`` or ``"max"``: which is better. By default losses are to fall, metrics to rise.

    Raises
    ------
    ValueError, TypeError
        An option is out of its range.

    References
    ----------
    L. Prechelt, *Early Stopping, But When?* (1998), sec. 2: the third class of criteria.

    Examples
    --------
    >>> EarlyStopping(patience=10).monitor
    'val_loss'
    """

    monitor: str = "val_loss"
    patience: int = 5
    min_delta: float = 0.0
    restore_best: bool = True
    mode: str | None = None

    def __post_init__(self) -> None:
        choice("EarlyStopping", "monitor", self.monitor, MONITORS)
        integer("EarlyStopping", "patience", self.patience)
        number("EarlyStopping", "min_delta", self.min_delta, 0)
        flag("EarlyStopping", "restore_best", self.restore_best)
        choice("EarlyStopping", "mode", self.mode, ("min", "max", None))

    @property
    def sign(self) -> int:
        """1 where the monitored value is to fall, -1 where it is to rise."""
        mode = self.mode or ("min" if self.monitor.endswith("loss") else "max")
        return 1 if mode == "min" else -1


class Watch:
    """One training under the eyes of an `EarlyStopping`."""

    def __init__(self, rule: EarlyStopping) -> None:
        self.rule = rule
        self._best = np.inf
        self._state: Arrays = {}

    def look(self, history: History, model: Layer) -> bool:
        """Take in the epoch just ended; return whether to stop."""
        value = self.rule.sign * getattr(history, self.rule.monitor)[-1]
        if value < self._best - self.rule.min_delta:
            self._best = value
            history.best_epoch = history.epochs
            if self.rule.restore_best:
                arrays = {**model.params, **model.buffers}
                self._state = {name: a.copy() for name, a in arrays.items()}
        return history.epochs - (history.best_epoch or 0) >= self.rule.patience

    def restore(self, model: Layer) -> None:
        """Give the model the parameters and buffers of the best epoch, where there was one."""
        put_back(model, self._state)


def put_back(model: Layer, arrays: Arrays) -> None:
    """Write what arrays of a model were into them; those that are read-only are that still."""
    for name, a in {**model.params, **model.buffers}.items():
        if name in arrays and a.flags.writeable:
            a[...] = arrays[name]
