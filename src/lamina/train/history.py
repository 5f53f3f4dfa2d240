"""What a training was like, epoch by epoch."""

from dataclasses import dataclass, field
from typing import Final

COLUMNS: Final = ("loss", "metric", "val_loss", "val_metric", "lr", "seconds")


@dataclass
class History:
    """What `fit` saw; every list has an entry an epoch, or none where it was not asked for.

    ``dataclasses.asdict(history)`` can be written as JSON; ``print(history)`` shows a table, with a
    star at the best epoch.

    Attributes
    ----------
    loss, metric : list of float
        Means over the epoch, each batch seen as it was trained on.
    val_loss, val_metric : list of float
        On the validation data, after the epoch.
    lr : list of float
        The learning rate of the epoch's last update.
    seconds : list of float
        How long the epoch took, validation included.
    best_epoch : int or None
        The epoch whose parameters early stopping held for the best, counted from 1.

    Examples
    --------
    >>> print(History(loss=[0.9, 0.5], lr=[0.1, 0.1], seconds=[1.5, 1.25]))
    epoch  loss   lr  seconds
        1   0.9  0.1      1.5
        2   0.5  0.1     1.25
    """

    loss: list[float] = field(default_factory=list)
    metric: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_metric: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int | None = None

    @property
    def epochs(self) -> int:
        """How many epochs were trained."""
        return len(self.loss)

    def record(self, **values: float | None) -> None:
        """Add an epoch: a value a column, None where there is none."""
        for name, value in values.items():
            if value is not None:
                getattr(self, name).append(value)

    def __str__(self) -> str:
        columns = {name: getattr(self, name) for name in COLUMNS if getattr(self, name)}
        rows = [["epoch", *columns]]
        for i in range(self.epochs):
            mark = "*" if i + 1 == self.best_epoch else ""
            rows.append([f"{mark}{i + 1}", *(f"{values[i]:.4g}" for values in columns.values())])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        )
