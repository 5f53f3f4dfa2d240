"""MNIST-1D, generated on the spot by the package mnist1d."""

import random

import numpy as np

from .splits import Split


def mnist1d() -> Split:
    """MNIST-1D: 5,000 noisy signals of 40 values, 10 classes; needs ``pip install mnist1d``.

    The package generates the set from its default seed; nothing is downloaded.

    Returns
    -------
    Split
        The package's own parts: 4,000 signals to train and 1,000 to test. x has shape
        (N, 40, 1), float32, with mean 0 and variance 1; y are the classes.

    Raises
    ------
    ImportError
        The package is not installed.

    References
    ----------
    S. Greydanus, D. Kobak, *Scaling Down Deep Learning with MNIST-1D* (2024), sec. 2.
    """
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError as error:
        raise ImportError(
            f"mnist1d: the package that generates this set is missing ({error}); "
            "install it: pip install mnist1d"
        ) from error
    # The package seeds both global generators; ours to hand back as they were.
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        signals = make_dataset(get_dataset_args())
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
    parts = [
        (signals[f"x{part}"][..., None].astype(np.float32), signals[f"y{part}"].astype(np.int64))
        for part in ("", "_test")
    ]
    return Split(*parts)
