"""Why results stay below their bars: what takes the time, group by group.

A result is listed under the first reason that fits it. They were found on the machines of
docs/benchmarks.md and of the pages beside it, most by measuring, the others by counts of operations
and bytes; on another machine the same bars may be missed for more reasons, or for fewer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .activations import Activation
from .bars import Result, ratio_wanted, share_wanted
from .batchnorm import BatchNorm
from .case import Case
from .convolution import Convolution
from .dropout import Dropout
from .linear import Linear
from .losses import Loss
from .networks import Network
from .optimizers import Update
from .pooling import Pool
from .recurrent import Recurrence

CALL: Final = 12e-6
"""Seconds: a pass forward whose limit is below is a call more than it is work."""
NARROW: Final = 17
"""So few input channels leave the sums of a convolution short."""
TERM: Final = (
    "Bare, the large tile is at 98 to 100% of the peak. What is lost lies around it: in the time "
    "of 128 operations memory gives ten to twenty bytes, so that what is copied to panels, or "
    "added up block by block, is waited for, the longer the more others use level 3 and memory at "
    "the same time. The other libraries wait, too."
)
"""What holds for all sums."""


@dataclass(frozen=True)
class Reason:
    """What takes the time, and which results that is the reason for."""

    title: str
    text: str
    fits: Callable[[Result], bool] = lambda result: False


def reason_of(result: Result) -> Reason:
    """Return the first reason that fits a result."""
    return next(reason for reason in REASONS if reason.fits(result))


def _is_out_of_reach(result: Result) -> bool:
    rival = result.hardest
    fast_enough = result.share(result.lamina) >= share_wanted(result)
    return (
        rival is not None
        and fast_enough
        and ratio_wanted(result) * result.share(result.times[rival]) > 1
    )


def _is_a_call(result: Result) -> bool:
    return result.limit < CALL * (1 if result.which == "forward" else 3)


def _of(kind: type[Case], where: Callable[..., bool] = lambda case: True) -> Callable[..., bool]:
    return lambda result: isinstance(result.case, kind) and where(result.case)


MEANS_OF: Final = Reason("Means", "What holds back the cases above holds back their means.")
RAGGED: Final = Reason(
    "Ragged batches",
    "Padding is cleared, and towards the end of the longest sequences a step has too few rows to "
    "fill tiles.",
)
ACCURACY: Final = Reason(
    "Time to an accuracy",
    "Both train for the same epochs. Convolutions of 3x3 take fewer products here than the last "
    "line counts; those with a stride of 2 do not, and images of 7x7 are covered by tiles for 8x8.",
)
STARTS: Final = Reason(
    "Starts",
    "Numba takes half a second to import and each kernel some tenths of a second to type and "
    "optimise on this processor, once for a machine. What was compiled before is linked in "
    "milliseconds. A step of a stream reads all weights, half a megabyte, on one core.",
)

REASONS: Final = (
    Reason(
        "Gradients that are looked at first",
        "An update that is not finite changes nothing: every gradient is read once before the "
        "first parameter is written. An array that no cache holds costs so one more reading.",
        _of(Update),
    ),
    Reason(
        "The others are near the limit",
        "The fastest of them so near that at the limit itself the ratio would be below its bar.",
        _is_out_of_reach,
    ),
    Reason(
        "The call, not the work",
        "There is so little to compute that what takes the time is Python around it: the call, the "
        "checks of arguments, memory for the results, the hand-over to another core, which takes "
        "1 µs if that waits for work and 24 if it sleeps.",
        _is_a_call,
    ),
    Reason(
        "Networks",
        "They are made of the layers above, and their convolutions and products take most of a "
        "step. Beside their arrays they keep what the next step uses again: the results of layers, "
        "in blocks of few sizes, and the workspace of each thread.",
        _of(Network),
    ),
    Reason(
        "The numbers that Dropout draws",
        "Philox takes ten rounds of two wide products each for four numbers, forward and once more "
        "backward: a quarter of a nanosecond a number on a core, longer than memory takes.",
        _of(Dropout),
    ),
    Reason(
        "Passes of BatchNorm",
        "Mean and variance must be known before the first y, and their gradients before the first "
        "dx: x is read twice, dy too, and the cores wait for one another between. Those readings "
        "share the cache of level 3 with what is written.",
        _of(BatchNorm),
    ),
    Reason(
        "Exact functions",
        "Some 20 vector operations and a division an element, twice as many in GELU, take more "
        "time than memory. They keep the error to a few units in the last place over the whole "
        "range, also where a result is tiny.",
        _of(Activation, lambda case: case.function not in ("ReLU", "LeakyReLU")),
    ),
    Reason(
        "Memory alone",
        "Read once, written once: on a shared machine the bandwidth of memory, which is all that "
        "counts then, is not the same in one minute and in the next.",
        _of(Activation),
    ),
    Reason(
        "Pooling",
        "Two operations a value and place, on rows of the image that are some pages apart: what is "
        "read next comes later than prefetchers of the processor would have it.",
        _of(Pool),
    ),
    Reason(
        "Losses",
        "Value and gradient are one pass, whose parts wait for one another at its end.",
        _of(Loss),
    ),
    Reason(
        "One sequence",
        "Each step waits for the one before, and reads all of W_h again, from level 2 or beyond: "
        "the limit counts it once. Two cores that share a step wait for one another each time.",
        _of(Recurrence, lambda case: case.batch == 1),
    ),
    Reason(
        "Gates",
        "The limit counts products alone. The gates, five exponentials and divisions a unit, take "
        "a tenth of the time of the products of 128 features and units, a fifth with 64 of each. "
        "Weights are packed within the call; those of 1024 units, 34 MB, are more than level 3 "
        "holds, and each step reads them. A GRU's products are a third more than the limit counts. "
        + TERM,
        _of(Recurrence, lambda case: case.gates > 1),
    ),
    Reason(
        "Steps of an RNN",
        "The limit counts products alone. A step has a quarter of an LSTM's for every unit, beside "
        "a tanh, the copy of x beside h, and panels of W_h from level 2, which 16 rows a core meet "
        "too few times. " + TERM,
        _of(Recurrence),
    ),
    Reason(
        "Groups",
        "Depthwise with 3x3 taps, a tile takes more than two instructions a multiply-add, and "
        "large images come from memory, of which an element is used nine times. In groups of a few "
        "channels every multiply-add wants a shuffle of its own.",
        _of(Convolution, lambda case: case.groups > 1),
    ),
    Reason(
        "Few channels",
        "Sums are short: to begin and end a tile takes as long as some of its terms, and one "
        "channel with 3x3 taps has 9, whose y takes memory longer than its arithmetic. dX has less "
        "than a vector of channels to write: its sums go along dY, which is copied for it, and "
        "their lanes are joined at the end.",
        _of(Convolution, lambda case: case.inputs <= NARROW),
    ),
    Reason(
        "1x1",
        "x, and dy for dW, come from memory while they are packed. Weights are packed within the "
        "call, too. " + TERM,
        _of(Convolution, lambda case: set(case.kernel) == {1}),
    ),
    Reason(
        "Tiles and edges of convolutions",
        "Weights are packed within the call, which a single image of 7x7 has little use of; rows "
        "are copied beside their padding; 33 or 65 channels are computed as whole vectors or "
        "halves. " + TERM,
        _of(Convolution),
    ),
    Reason(
        "One row",
        "W is read once, by two cores faster than by one, and a second one has to be there when "
        "the call begins.",
        _of(Linear, lambda case: case.rows == 1),
    ),
    Reason(
        "Products",
        TERM + " Packing is inside the clock: B is copied to panels and waits for memory, A to "
        "strips, and a transposed B turned, once a call; and the last rows and columns fill no "
        "whole tile.",
        _of(Linear),
    ),
    MEANS_OF,
    RAGGED,
    ACCURACY,
    STARTS,
)
