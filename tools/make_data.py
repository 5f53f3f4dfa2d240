"""Make src/lamina/data/{digits,vowels}.npz again, byte for byte, from two published packages.

    pip download --no-deps scikit-learn==1.9.1 aeon==1.6.0
    python tools/make_data.py scikit_learn-*.whl aeon-*.whl

Each argument is a wheel or a folder that the package is installed in (site-packages).
"""

import argparse
import gzip
import io
import zipfile
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parents[1] / "src" / "lamina" / "data"


def inside(package: str, name: str) -> bytes:
    """Return the content of a file of a package."""
    root = Path(package) if Path(package).is_dir() else zipfile.Path(package)
    return (root / name).read_bytes()


def digits(package: str) -> dict[str, np.ndarray]:
    """Each line of scikit-learn's file: 64 pixels in 0 ... 16, row by row, and the digit."""
    content = gzip.decompress(inside(package, "sklearn/datasets/data/digits.csv.gz"))
    table = np.loadtxt(io.BytesIO(content), delimiter=",").astype(np.uint8)
    return {"images": table[:, :-1].reshape(-1, 8, 8), "labels": table[:, -1]}


def vowels(package: str) -> dict[str, np.ndarray]:
    """Each line of aeon's files after @data: 12 coefficients over time, and the speaker 1 ... 9.

    Utterances of both parts stand one after the other; the first `train` are the training part.
    """
    folder = "aeon/datasets/data/JapaneseVowels"
    utterances, labels, counts = [], [], []
    for part in ("TRAIN", "TEST"):
        text = inside(package, f"{folder}/JapaneseVowels_{part}.ts").decode()
        for line in text.split("@data\n")[1].splitlines():
            *coefficients, label = line.split(":")
            series = [[float(v) for v in c.split(",")] for c in coefficients]
            utterances.append(np.array(series, np.float32).T)
            labels.append(int(label) - 1)
        counts.append(len(labels))
    return {
        "steps": np.concatenate(utterances),
        "lengths": np.array([len(u) for u in utterances], np.uint8),
        "labels": np.array(labels, np.uint8),
        "train": np.array(counts[0]),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sklearn", help="scikit-learn's wheel or the folder it is installed in")
    parser.add_argument("aeon", help="aeon's wheel or the folder it is installed in")
    arguments = parser.parse_args()
    # Not compressed: how zlib compresses differs between its versions.
    np.savez(TARGET / "digits.npz", **digits(arguments.sklearn))
    np.savez(TARGET / "vowels.npz", **vowels(arguments.aeon))
