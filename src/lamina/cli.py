"""The command `lamina`: train, predict, check, info, demo.

It returns 0; 1 where something did not hold (a check, the demo's accuracy); 2, after one line on
standard error, where what it was given cannot be used; 130 where it was interrupted.
"""

import argparse
import io
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np

from . import __version__, data, plot, selfcheck
from .containers import Sequential
from .layer import NDArray
from .models import RECIPES, Recipe
from .parts import CrossEntropy
from .train import AdamW, Cosine, History, evaluate, fit, load, predict, save
from .train.batches import cuts
from .train.checkpoints import write_whole

FASHION_MNIST: Final = "/usr/share/datasets/fashion-mnist"
"""Where Debian's package dataset-fashion-mnist puts its files."""

DEMO: Final = {"digits": 0.985, "vowels": 0.95}
"""The sets that the demo learns, and the accuracy each must reach."""


class UsageError(Exception):
    """What the command was given cannot be used; the message is the line to print."""


@contextmanager
def refusing(what: str = "") -> Iterator[None]:
    """Turn what the library and the system say of given things into `UsageError`."""
    try:
        yield
    except OSError as error:
        named = f"{error.filename}: " if error.filename else what
        raise UsageError(f"{named}{error.strerror or error}") from error
    except (
        ValueError, TypeError, ImportError, ArithmeticError, MemoryError, RuntimeError
    ) as error:  # fmt: skip
        said = " ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", [])])
        raise UsageError(f"{what}{said}") from error


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> Parser:
    """Return the parser of the whole command line."""
    top = Parser(
        prog="lamina",
        description="Neural-network layers for NumPy: train them, use them, check them.",
    )
    top.add_argument("--version", action="version", version=f"lamina {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str, more: str = "") -> Parser:
        sub = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}. {more}"
        )
        sub.set_defaults(run=run, parser=sub)
        return sub

    sub = command(
        "train",
        train,
        "train a network on real data, say how well it does, and save it",
        "digits and vowels come with the package; fashion-mnist reads MNIST-style files, those of "
        "Debian's package dataset-fashion-mnist or any others; mnist1d needs pip install mnist1d.",
    )
    sub.add_argument("set", choices=RECIPES, help="the data")
    models = "; ".join(f"{name}: {', '.join(some)}" for name, some in RECIPES.items())
    sub.add_argument("--model", help=f"the network, by default the first of the set's ({models})")
    sub.add_argument(
        "--epochs", type=at_least(1), help="passes over the data (default: the model's own)"
    )
    sub.add_argument(
        "--batch-size", type=at_least(1), help="samples an update (default: the model's own)"
    )
    sub.add_argument(
        "--seed", type=at_least(0), default=0, help="of all that is drawn (default: %(default)s)"
    )
    sub.add_argument(
        "--data-dir", help=f"the folder of fashion-mnist's files (default: {FASHION_MNIST})"
    )
    sub.add_argument("--out", help="the file to save (default: SET-MODEL.safetensors)")
    sub.add_argument("--plot", help="draw loss and accuracy into this image; needs matplotlib")

    sub = command(
        "predict",
        classify,
        "print the class of each sample, a line each",
        "A network's class is the place of its largest output, counted from 0; that of a single "
        "output is 1 above 0, else 0.",
    )
    sub.add_argument("model", help="a file that train or lamina.save wrote")
    sub.add_argument("input", help="the samples, batch first: an array in a .npy file")
    sub.add_argument("--lengths", help="a .npy file: the steps of each sequence")
    sub.add_argument("--out", help="write the classes into this .npy file instead")

    sub = command(
        "check",
        check,
        "check the layers on this machine",
        "Gradients are compared with central differences, float32 with float64.",
    )
    sub.add_argument("layer", nargs="?", choices=selfcheck.EXAMPLES, help="only this one")

    command("info", info, "print versions and what is known of the CPU")

    sub = command(
        "demo",
        demo,
        "train two networks, save them, load them again and test them",
        "Handwritten digits by convolutions, and speakers of Japanese vowels by an LSTM.",
    )
    sub.add_argument("--out-dir", default=".", help="where to save them (default: here)")
    return top


def at_least(least: int) -> Any:
    """Return a type of arguments: integers that are at least so large."""

    def integer(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of {least} or more")
        return int(text)

    return integer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed when Python started
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    given, unknown = parser().parse_known_args(arguments)
    if unknown:
        given.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a summary has lines that ASCII has not
    try:
        code: int = given.run(given)
        sys.stdout.flush()
        return code
    except UsageError as error:
        print("lamina:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lamina: interrupted", file=sys.stderr)
        return 130
    except OSError as error:  # of standard output; `refusing` has met all others
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader, head say, has had enough
            return 1
        print("lamina:", error.strerror, file=sys.stderr)
        return 2


def train(given: argparse.Namespace) -> int:
    """Train a network on a set, test it, save it."""
    recipes = RECIPES[given.set]
    name = given.model or next(iter(recipes))
    if name not in recipes:
        raise UsageError(f"no model {name!r} for {given.set}; there are {', '.join(recipes)}")
    if given.data_dir and given.set != "fashion-mnist":
        raise UsageError(f"--data-dir is for fashion-mnist; {given.set} is read from a package")
    out = Path(given.out or f"{given.set}-{name}.safetensors")
    refuse_target(out, beside=True)
    if given.plot:
        refuse_plot(Path(given.plot))
        refuse_same(given.plot, out)

    split = read(given.set, given.data_dir)
    model, history = learn(recipes[name], split, given.seed, given.epochs, given.batch_size)
    reached = accuracy(model, split)
    with refusing(f"{out}: "):
        save(model, out)  # before a line that nobody may be there to read
    print(f"{given.set}: test accuracy {reached:.3f}\nsaved {out}")
    if given.plot:
        with refusing(f"{given.plot}: "):
            draw(history, given.plot)
        print(f"drew {given.plot}")
    return 0


def read(name: str, folder: str | None = None) -> data.Split:
    """Return the set of a name."""
    with refusing():
        if name == "digits":
            return data.digits()
        if name == "vowels":
            return data.vowels()
        if name == "mnist1d":
            return data.mnist1d()
        try:
            return data.idx(folder or FASHION_MNIST)
        except FileNotFoundError as error:
            raise UsageError(
                f"{error}; install Debian's dataset-fashion-mnist or name the folder: --data-dir"
            ) from error


def learn(
    recipe: Recipe,
    split: data.Split,
    seed: int,
    epochs: int | None = None,
    batch_size: int | None = None,
) -> tuple[Sequential, History]:
    """Print a network's summary and train it, by default as long as its recipe says."""
    epochs, batch_size = epochs or recipe.epochs, batch_size or recipe.batch_size
    model = recipe.network().initialize(seed)
    x, y = split.train
    model.summary((1, *(x[0] if isinstance(x, tuple) else x).shape[1:]))
    updates = epochs * len(cuts(len(y), batch_size))
    with refusing():
        history = fit(
            model,
            split.train,
            loss=CrossEntropy(),
            optimizer=AdamW(
                Cosine(recipe.lr, steps=updates), weight_decay=recipe.weight_decay, clip_norm=1.0
            ),
            epochs=epochs,
            batch_size=batch_size,
            metric="accuracy",
            seed=seed,
        )
    return model, history


def accuracy(model: Any, split: data.Split) -> float:
    """Return the share of a set's test samples that a model gets right."""
    found: Any = evaluate(model, split.test, metric="accuracy")
    return float(found.metric)


def refuse_target(path: Path, *, beside: bool = False) -> None:
    """Refuse a file that could not be written, before there is anything to write.

    A file may be written `beside` the one that is there; what else there is, is opened.
    """
    with refusing():  # the system, too long a name
        real = Path(os.path.realpath(path))
        if not real.parent.is_dir():
            raise UsageError(f"{path}: there is no folder {real.parent}")
        if real.is_dir():
            raise UsageError(f"{path}: is a folder, expected the name of a file")
        opened = real.exists() and not (beside and real.is_file())
        if not os.access(real if opened else real.parent, os.W_OK):
            raise UsageError(f"{path}: may not be written; name a file in another folder")


def refuse_same(target: str, *others: Any) -> None:
    """Refuse a file to write that would take the place of another one of the command's."""
    if os.path.realpath(target) in map(os.path.realpath, others):
        raise UsageError(f"{target}: is the name of two files of this command; name another one")


def refuse_plot(path: Path) -> None:
    """Refuse an image that could not be drawn."""
    refuse_target(path)
    with refusing("--plot needs matplotlib, pip install matplotlib: "):
        from matplotlib.figure import Figure
    trial = Figure()
    trial.text(0, 0, "loss")  # which some kinds leave to LaTeX
    with refusing(f"{path}: "):
        trial.savefig(os.devnull, format=path.suffix[1:].lower())


def draw(history: History, path: str) -> None:
    """Draw loss and accuracy over the epochs into an image."""
    plot.history(history).savefig(path, dpi=150)


def classify(given: argparse.Namespace) -> int:
    """Print or write the classes that a saved model gives to samples."""
    if given.out:
        refuse_target(Path(given.out), beside=True)
        refuse_same(given.out, given.model, given.input, given.lengths or given.input)
    with refusing():
        model = load(given.model)
    x = array(given.input)
    lengths = array(given.lengths) if given.lengths else None
    with refusing(f"{given.model} cannot take {given.input}: "):
        y = predict(model, x, lengths=lengths)
    if y.ndim != 2:
        raise UsageError(f"{given.model} gives y of shape {y.shape}, expected (samples, classes)")
    if (lost := np.flatnonzero(np.isnan(y).any(axis=1))).size:
        raise UsageError(
            f"{given.model} gives NaN for {lost.size} samples of {given.input}, the first of them"
            f" sample {lost[0]}: look for NaN and infinity in x and in the model's parameters"
        )
    # One output is the logit of a yes-or-no question.
    classes = np.argmax(y, axis=1) if y.shape[1] > 1 else (y[:, 0] > 0).astype(np.int64)
    if given.out:
        file = io.BytesIO()  # a pipe has no place that NumPy could ask for
        np.save(file, classes)
        with refusing(f"{given.out}: "):
            write_whole(given.out, file.getvalue())
    else:
        np.savetxt(sys.stdout, classes, fmt="%d")
    return 0


def array(path: str) -> NDArray:
    """Read an array from a .npy file; nothing in the file is run."""
    with refusing(f"{path}: "), open(path, "rb") as file:
        # A pipe has no place that NumPy could ask for.
        source = file if file.seekable() else io.BytesIO(file.read())
        try:
            found: NDArray = np.lib.format.read_array(source, allow_pickle=False)
        except OSError:
            raise
        except Exception as error:  # a damaged header is parsed as Python, which may raise any
            said = f"not a whole .npy file: {str(error) or type(error).__name__}"
            if "allow_pickle" in str(error):
                said = "holds Python objects; save an array of numbers"
            raise UsageError(f"{path}: {said}") from error
    return found


def check(given: argparse.Namespace) -> int:
    """Check one layer or all, printing the reports."""
    failed = 0
    for name in [given.layer] if given.layer else selfcheck.EXAMPLES:
        for report in selfcheck.reports(name):
            print(report, flush=True)
            failed += isinstance(report, Exception)
    print(f"\n{failed} failed" if failed else "\nall hold")
    return 1 if failed else 0


def info(given: argparse.Namespace) -> int:
    """Print versions, CPU, vector width and threads."""
    rows = {"lamina": __version__, "python": platform.python_version()}
    for package in ("numpy", "numba", "llvmlite", "array-api-compat", "safetensors"):
        try:
            rows[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            rows[package] = "not installed"
    rows |= {"system": f"{platform.system()} {platform.machine()}", **engine()}
    for name, value in rows.items():
        print(f"{name:<18}{value}")
    return 0


def engine() -> dict[str, str]:
    """Return what kernels are compiled for, how many threads they use and where they are kept."""
    try:
        from .engine import jit, threads
    except ImportError:
        return {"kernels": "none without numba: layers compute by their formulas"}
    with refusing():
        count = threads.available()
    return {
        "cpu": jit.cpu()[0],
        "vector width": f"{8 * jit.vector_bytes()} bits",
        "threads": str(count),
        "compiled code": str(jit.folder() or "kept for the process alone: no folder to write to"),
    }


def demo(given: argparse.Namespace) -> int:
    """Train, save, load and test two networks."""
    folder = Path(given.out_dir)
    reached = {}
    for name in DEMO:
        refuse_target(folder / f"{name}.safetensors", beside=True)
    for name in DEMO:
        split = read(name)
        model, _ = learn(next(iter(RECIPES[name].values())), split, seed=0)
        path = folder / f"{name}.safetensors"
        with refusing(f"{path}: "):
            save(model, path)
            reached[name] = accuracy(load(path), split)
        print(f"saved {path} and loaded it\n")
    for name, value in reached.items():
        print(f"{name}: test accuracy {value:.3f}")
    low = [name for name, value in reached.items() if value < DEMO[name]]
    for name in low:
        print(f"{name}: expected at least {DEMO[name]}", file=sys.stderr)
    return 1 if low else 0
