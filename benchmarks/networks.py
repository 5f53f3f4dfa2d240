"""The cases of whole networks: steps of training, and inference."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

import lamina as lm

from .case import Case, NDArray, Pass, Shape

TITLE: Final = "Networks"
MEANS: Final[dict[Pass, float]] = {"forward": 1.2, "both": 2.0}
"""What the geometric means of the ratios should be, by pass."""
PASS_TITLES: Final[dict[Pass, str]] = {"forward": "inference", "both": "training"}


@dataclass(frozen=True)
class Kind:
    """A network, and how it is trained.

    Attributes
    ----------
    family, title : str
    build : function of no arguments
        Returns Lamina's layers; every other library has its own from them.
    x : tuple of int
        The shape of a sample.
    optimizer : "adam" or "momentum"
    steps : tuple of int
        The batches of training.
    ragged : bool
        Whether samples are sequences of different lengths, up to x's, with a class a step; all
        layers work step by step.
    """

    family: str
    title: str
    build: Callable[[], lm.Sequential]
    x: Shape
    optimizer: str
    steps: tuple[int, ...]
    ragged: bool = False


@dataclass(frozen=True, kw_only=True)
class Network(Case):
    """A batch through a network: at inference, or in a step of training.

    A step is forward, cross-entropy, backward and update. Its learning rate is so small that the
    network stays what it is. Dropout draws differ from library to library: what is compared is y
    and the gradients with Dropout left out, in training as well.
    """

    layer: ClassVar[str] = "networks"
    kind: str
    batch: int
    which: Pass

    tolerance: ClassVar[float] = 2e-2
    """Gradients of ResNet-20: in float32 some values pass a ReLU that in float64 do not."""

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The pass that is measured."""
        return (self.which,)

    @property
    def of(self) -> Kind:
        """The network."""
        return KINDS[self.kind]

    @property
    def title(self) -> str:
        """What is computed, apart from the dtype."""
        return f"{self.of.title}, {'a step of' if self.which == 'both' else 'batch'} {self.batch}"

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of x, the parameters and y."""
        model, x = _model(self.kind), (self.batch, *self.of.x)
        shapes = {name: p.shape for name, p in model.params.items()}
        return {"x": x, **shapes, "y": model.output_shape(x)}

    def names(self, which: Pass) -> tuple[str, ...]:
        """Return the names of a pass's results: no gradient of x is asked for."""
        return ("y",) if which == "forward" else ("y", *self.parameters)

    def flops(self, which: Pass) -> int:
        """Return the floating-point operations of a pass: of the steps that are there alone."""
        forward = _model(self.kind).flops(self.shapes["x"])
        if self.of.ragged:
            forward = forward * sum(self._lengths()) // (self.batch * self.of.x[0])
        return forward * (3 if which == "both" else 1)

    def ratio_wanted(self, which: Pass) -> float:
        """Return the bar of a pass: time of the fastest library / Lamina's, at least."""
        return 1.0 if which == "forward" else 1.3

    def share_wanted(self, which: Pass) -> float:
        """Return the share of the limit that is the bar of a pass: networks have none."""
        return 0

    def draw(self, rng: np.random.Generator) -> dict[str, NDArray]:
        """Return x, its classes, its lengths where they differ, parameters and statistics."""
        shapes = self.shapes
        model = _model(self.kind)
        given = {"x": rng.standard_normal(shapes["x"], np.float32)}
        given["target"] = rng.integers(0, shapes["y"][-1], shapes["y"][:-1])
        if self.of.ragged:
            given["lengths"] = rng.permutation(self._lengths())
        statistics = {name: a for name, a in model.buffers.items() if "running" in name}
        given |= model.params | statistics
        for name in model.params:
            if name.endswith(("gamma", "beta", "bias")):
                given[name] = given[name] + 0.1 * rng.standard_normal(given[name].shape, np.float32)
        return {
            name: a.astype(self.dtype) if a.dtype == np.float32 else a for name, a in given.items()
        }

    def _lengths(self) -> list[int]:
        """Return how many steps the sequences have, from all of x down to 5."""
        return np.linspace(self.of.x[0], 5, self.batch).astype(int).tolist()

    def layer_of(self, given: Mapping[str, NDArray]) -> lm.Sequential:
        """Return Lamina's network, with the parameters and statistics that were drawn."""
        model = self.of.build().astype(given["x"].dtype)
        model.assign({name: a for name, a in given.items() if name in _model(self.kind).params})
        for name, a in model.buffers.items():
            if name in given:
                a[...] = given[name]
        return model

    def exact(self, given: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return y or, in training, y and the gradients, of Lamina's network in float64."""
        model = without_dropout(self.layer_of(given))
        lengths = given.get("lengths")
        options = {} if lengths is None else {"lengths": lengths}
        if self.which == "forward":
            return {"y": model(given["x"], **options)}
        y, cache = model.forward(given["x"], **options, training=True)
        _, dy = lm.CrossEntropy()(y, given["target"], lengths)
        return {"y": y, **model.backward(dy, cache)[1]}


def without_dropout(model: lm.Sequential) -> lm.Sequential:
    """Return the model, in which Dropout keeps everything."""
    for _, layer in model.walk():
        if isinstance(layer, lm.Dropout):
            layer.rate = 0.0
    return model


def pads(layer: Any) -> tuple[tuple[int, int], ...]:
    """Return what a convolution or a pool in a network puts before and after each axis."""
    return ((0, 0), (0, 0)) if layer.padding == "valid" else tuple(layer.padding)


@functools.cache
def _model(kind: str) -> lm.Sequential:
    return KINDS[kind].build().initialize(0)


# The networks


def mlp() -> lm.Sequential:
    """Build two hidden layers, normalised and thinned out."""
    hidden = [
        layer
        for inputs in (784, 512)
        for layer in (
            lm.Linear(inputs, 512, bias=False),
            lm.BatchNorm(512),
            lm.ReLU(),
            lm.Dropout(0.2),
        )
    ]
    return lm.Sequential(*hidden, lm.Linear(512, 10))


def mnist_convnet() -> lm.Sequential:
    """Build what Keras's example "Simple MNIST convnet" trains (keras.io/examples/vision)."""
    return lm.Sequential(
        lm.Conv2d(1, 32, 3),
        lm.ReLU(),
        lm.MaxPool2d(2),
        lm.Conv2d(32, 64, 3),
        lm.ReLU(),
        lm.MaxPool2d(2),
        lm.Flatten(),
        lm.Dropout(0.5),
        lm.Linear(1600, 10),
    )


def _normalised(inputs: int, outputs: int, size: int, stride: int = 1) -> list[lm.Layer]:
    convolution = lm.Conv2d(
        inputs, outputs, size, stride=stride, padding=size // 2, bias=False, init="he_normal"
    )
    return [convolution, lm.BatchNorm(outputs)]


def _residual(inputs: int, outputs: int, stride: int, body: list[lm.Layer]) -> list[lm.Layer]:
    shortcut = None
    if (inputs, stride) != (outputs, 1):
        shortcut = lm.Sequential(*_normalised(inputs, outputs, 1, stride))
    return [lm.Residual(lm.Sequential(*body), shortcut), lm.ReLU()]


def resnet_20() -> lm.Sequential:
    """Build the smallest network of He et al. (2016), sec. 4.2, with 1x1 shortcuts."""
    layers = [*_normalised(3, 16, 3), lm.ReLU()]
    inputs = 16
    for outputs in (16, 32, 64):
        for _ in range(3):
            stride = 1 if inputs == outputs else 2
            body = [
                *_normalised(inputs, outputs, 3, stride),
                lm.ReLU(),
                *_normalised(outputs, outputs, 3),
            ]
            layers += _residual(inputs, outputs, stride, body)
            inputs = outputs
    return lm.Sequential(*layers, lm.GlobalAvgPool(), lm.Linear(64, 10))


def resnet_50_head() -> lm.Sequential:
    """Build the first two stages of ResNet-50, He et al. (2016), table 1, with classes after."""
    layers = [*_normalised(3, 64, 7, 2), lm.ReLU(), lm.MaxPool2d(3, stride=2, padding=1)]
    inputs = 64
    for width, blocks, first_stride in ((64, 3, 1), (128, 4, 2)):
        for k in range(blocks):
            stride = first_stride if k == 0 else 1
            body = [
                *_normalised(inputs, width, 1),
                lm.ReLU(),
                *_normalised(width, width, 3, stride),
                lm.ReLU(),
                *_normalised(width, 4 * width, 1),
            ]
            layers += _residual(inputs, 4 * width, stride, body)
            inputs = 4 * width
    return lm.Sequential(*layers, lm.GlobalAvgPool(), lm.Linear(512, 1000))


def lstm_classifier() -> lm.Sequential:
    """Build an LSTM whose last state tells the class."""
    return lm.Sequential(lm.LSTM(256, 256), lm.LastStep(), lm.Linear(256, 10))


def tagger() -> lm.Sequential:
    """Build two layers of LSTM, in both directions, that tell a class a step."""
    return lm.Sequential(lm.LSTM(100, 128, layers=2, bidirectional=True), lm.Linear(256, 20))


KINDS: Final = {
    "mlp": Kind("Vectors", "MLP 784-512-512-10", mlp, (784,), "adam", (32, 128, 512)),
    "convnet": Kind("Images", "Keras's MNIST convnet", mnist_convnet, (28, 28, 1), "adam", (128,)),
    "resnet_20": Kind("Images", "ResNet-20", resnet_20, (32, 32, 3), "momentum", (128,)),
    "lstm": Kind("Sequences", "LSTM classifier", lstm_classifier, (100, 256), "adam", (64,)),
    "tagger": Kind("Sequences", "LSTM tagger", tagger, (60, 100), "adam", (32,), ragged=True),
    "resnet_50": Kind(
        "Large images", "ResNet-50 to stage 2", resnet_50_head, (224, 224, 3), "momentum", (8,)
    ),
}


def _cases() -> list[Network]:
    return [
        Network(
            family=kind.family,
            kind=name,
            batch=batch,
            which=which,
            quick=name in ("mlp", "tagger") and batch in (1, 32),
        )
        for name, kind in KINDS.items()
        for which, batches in (("both", kind.steps), ("forward", (1, 64)))
        for batch in batches
    ]


CASES: Final = tuple(_cases())
