"""The sets that come with the package; DATA.md beside this file gives sources and licences."""

from importlib import resources

import numpy as np

from .sequences import NDArray, pad
from .splits import Split, stratified


def digits() -> Split:
    """Handwritten digits: 1,797 images of 8 x 8 pixels, 10 classes.

    Returns
    -------
    Split
        1,438 images to train and 359 to test, by `stratified` with its defaults. x has shape
        (N, 8, 8, 1), float32 in [0, 1]; y are the digits.

    References
    ----------
    E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits* (1998), UCI Machine
    Learning Repository, doi:10.24432/C50P49.

    Examples
    --------
    >>> x, y = digits().train
    >>> x.shape, x.dtype, y[:5]
    ((1438, 8, 8, 1), dtype('float32'), array([0, 1, 4, 5, 6]))
    """
    arrays = _arrays("digits.npz")
    x = arrays["images"][..., None].astype(np.float32) / 16
    y = arrays["labels"].astype(np.int64)
    train, test = stratified(y)
    return Split((x[train], y[train]), (x[test], y[test]))


def vowels() -> Split:
    """Japanese vowels: 640 utterances of /ae/ as 12 LPC cepstrum coefficients, 9 speakers.

    Returns
    -------
    Split
        The published parts: 270 utterances to train and 370 to test, each
        ``((x, lengths), y)``. x has shape (N, T, 12), float32, padded with 0; lengths are
        7 to 29 steps of 6.4 ms; y are the speakers, 0 to 8.

    References
    ----------
    M. Kudo, J. Toyama, M. Shimbo, *Japanese Vowels* (1999), UCI Machine Learning Repository,
    doi:10.24432/C5NS47.

    Examples
    --------
    >>> (x, lengths), y = vowels().train
    >>> x.shape, lengths[:3], y[:3]
    ((270, 26, 12), array([20, 26, 22]), array([0, 0, 0]))
    """
    arrays = _arrays("vowels.npz")
    utterances = np.split(arrays["steps"], np.cumsum(arrays["lengths"])[:-1])
    speakers = arrays["labels"].astype(np.int64)
    n = int(arrays["train"])
    return Split((pad(utterances[:n]), speakers[:n]), (pad(utterances[n:]), speakers[n:]))


def _arrays(name: str) -> dict[str, NDArray]:
    with (resources.files(__package__) / name).open("rb") as file:
        return dict(np.load(file, allow_pickle=False))
