"""The files of MNIST and its like: IDX, plain or gzipped.

A file is two zero bytes, the code of the element type (8: unsigned byte), the number of axes,
the size of each axis as a big-endian uint32, and then the elements.
"""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from .sequences import NDArray
from .splits import Split

_UNSIGNED_BYTE = 8


def idx(folder: str | os.PathLike[str]) -> Split:
    """Read a folder of MNIST-style files: MNIST, Fashion-MNIST, KMNIST and others.

    Parameters
    ----------
    folder : path
        Holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``,
        ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``, each plain or with ``.gz``.
        Debian's package dataset-fashion-mnist puts such files into
        ``/usr/share/datasets/fashion-mnist``.

    Returns
    -------
    Split
        x has shape (N, height, width, 1), float32 in [0, 1]; y are the labels.

    Raises
    ------
    FileNotFoundError
        A file is missing; the message says which names were looked for.
    ValueError
        A file is not IDX of unsigned bytes, is cut short or goes on too long, or images and
        labels differ in number.

    References
    ----------
    Y. LeCun, C. Cortes, C. J. C. Burges, *The MNIST Database*, "File formats".
    """
    return Split(_part(Path(folder), "train"), _part(Path(folder), "t10k"))


def _part(folder: Path, part: str) -> tuple[NDArray, NDArray]:
    images = _read(_find(folder, f"{part}-images-idx3-ubyte"), 3)
    labels = _read(_find(folder, f"{part}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels):
        raise ValueError(
            f"idx: {folder} has {len(images)} {part} images but {len(labels)} labels; "
            "take both files from one set"
        )
    return images[..., None].astype(np.float32) / 255, labels.astype(np.int64)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"idx: found neither {name} nor {name}.gz in {folder}")


def _read(path: Path, ndim: int) -> NDArray:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"idx: {path} is damaged or not gzip: {error}") from error
    start = 4 + 4 * ndim
    expected = struct.pack(">HBB", 0, _UNSIGNED_BYTE, ndim)
    if content[:4] != expected:
        raise ValueError(
            f"idx: {path} begins with the bytes {content[:4].hex(' ')}, expected "
            f"{expected.hex(' ')}, IDX of unsigned bytes with {ndim} axes"
        )
    if len(content) < start:
        raise ValueError(f"idx: {path} is cut short within its header")
    shape = struct.unpack(f">{ndim}I", content[4:start])
    found, size = len(content) - start, math.prod(shape)
    if found != size:
        raise ValueError(
            f"idx: {path} holds {found} bytes of data, but its header's shape {shape} needs {size}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
