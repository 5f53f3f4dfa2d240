"""What is measured: the shapes and options of every case, chosen before any was measured.

A case counts its own arithmetic and bytes, for its two passes, "forward" (inference) and "both"
(forward and backward, with the gradients of x and of all parameters).

- Arithmetic: two operations for each multiply-add of the sum, products with the zeros of padding
  among them, as is usual; the bias is not counted. Backward is two such sums, so "both" is three
  times "forward".
- Bytes: every array once a pass. Forward reads x, weight and bias and writes y; backward reads dy,
  x and weight and writes dx and the gradients of weight and bias. What a stride steps over in x is
  not read; dx is written whole.
- The working set, which decides what level of memory the bytes come from, is all those arrays.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal, TypeAlias

import numpy as np

Shape: TypeAlias = tuple[int, ...]
Pass: TypeAlias = Literal["forward", "both"]

PASSES: Final[tuple[Pass, ...]] = ("forward", "both")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the cases of all layers have.

    Attributes
    ----------
    family : str
        Where the case is from.
    dtype : str
    quick : bool
        Whether a quick run measures it too.
    """

    layer: ClassVar[str]
    family: str
    dtype: str = "float32"
    quick: bool = False

    @property
    def title(self) -> str:
        """What is computed, apart from the dtype."""
        raise NotImplementedError

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of x, weight, bias (if there is one) and y."""
        raise NotImplementedError

    @property
    def terms(self) -> int:
        """How many products each element of y sums."""
        raise NotImplementedError

    @property
    def read_of_x(self) -> int:
        """How many elements of x matter to y."""
        return math.prod(self.shapes["x"])

    @property
    def name(self) -> str:
        """Title and dtype: no other case of the layer has the same."""
        return self.title + ("" if self.dtype == "float32" else f", {self.dtype}")

    def flops(self, which: Pass) -> int:
        """Return the floating-point operations of a pass."""
        forward = 2 * math.prod(self.shapes["y"]) * self.terms
        return forward * (3 if which == "both" else 1)

    def bytes(self, which: Pass) -> tuple[int, int]:
        """Return how many bytes a pass reads, and how many it writes."""
        x, y, parameters = self._elements()
        read, written = self.read_of_x + parameters, y
        if which == "both":
            read += y + self.read_of_x + math.prod(self.shapes["weight"])
            written += x + parameters
        size = np.dtype(self.dtype).itemsize
        return read * size, written * size

    def working_set(self, which: Pass) -> int:
        """Return the bytes of all arrays of a pass."""
        return sum(self._elements()) * (2 if which == "both" else 1) * np.dtype(self.dtype).itemsize

    def _elements(self) -> tuple[int, int, int]:
        sizes = {name: math.prod(shape) for name, shape in self.shapes.items()}
        return sizes["x"], sizes["y"], sizes["weight"] + sizes.get("bias", 0)


@dataclass(frozen=True, kw_only=True)
class Linear(Case):
    """y = x W + b, of `rows` samples."""

    layer: ClassVar[str] = "linear"
    rows: int
    inputs: int
    outputs: int

    @property
    def title(self) -> str:
        """What is computed, apart from the dtype."""
        return f"{self.rows}x{self.inputs} -> {self.outputs}"

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of x, weight, bias and y."""
        return {
            "x": (self.rows, self.inputs),
            "weight": (self.inputs, self.outputs),
            "bias": (self.outputs,),
            "y": (self.rows, self.outputs),
        }

    @property
    def terms(self) -> int:
        """How many products each element of y sums."""
        return self.inputs


@dataclass(frozen=True, kw_only=True)
class Convolution(Case):
    """A convolution over one to three axes, channels last.

    Attributes
    ----------
    batch : int
    sizes, kernel, stride, dilation : tuple of int
        One for each axis.
    padding : tuple of (before, after)
    inputs, outputs, groups : int
        Channels.
    bias : bool
    """

    layer: ClassVar[str] = "convolution"
    batch: int
    sizes: Shape
    inputs: int
    outputs: int
    kernel: Shape
    stride: Shape
    dilation: Shape
    padding: tuple[tuple[int, int], ...]
    groups: int = 1
    bias: bool = True

    @property
    def rank(self) -> int:
        """The number of axes that the kernel slides along."""
        return len(self.sizes)

    @property
    def causal(self) -> bool:
        """Whether all padding stands before x."""
        return any(before > 0 == after for before, after in self.padding)

    @property
    def title(self) -> str:
        """What is computed, apart from the dtype."""
        shape = "x".join(map(str, self.shapes["x"]))
        said = [f"{shape} -> {self.outputs}", "x".join(map(str, self.kernel))]
        for word, value in (("stride", self.stride), ("dilation", self.dilation)):
            if set(value) != {1}:
                each = value if len(set(value)) > 1 else value[:1]
                said.append(f"{word} {'x'.join(map(str, each))}")
        if self.groups > 1:
            said.append("depthwise" if self.groups == self.inputs else f"{self.groups} groups")
        if self.causal:
            said.append("causal")
        return ", ".join(said)

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of x, weight, bias (if there is one) and y."""
        axes = zip(self.sizes, self.kernel, self.stride, self.dilation, self.padding, strict=True)
        out = tuple((sum(pads) + n - (k - 1) * d - 1) // s + 1 for n, k, s, d, pads in axes)
        shapes = {
            "x": (self.batch, *self.sizes, self.inputs),
            "weight": (*self.kernel, self.inputs // self.groups, self.outputs),
            "y": (self.batch, *out, self.outputs),
        }
        return {**shapes, "bias": (self.outputs,)} if self.bias else shapes

    @property
    def terms(self) -> int:
        """How many products each element of y sums."""
        return math.prod(self.kernel) * self.inputs // self.groups

    @property
    def read_of_x(self) -> int:
        """How many elements of x matter to y."""
        read = self.batch * self.inputs
        for axis, outs in enumerate(self.shapes["y"][1:-1]):
            s, d, before = self.stride[axis], self.dilation[axis], self.padding[axis][0]
            met = np.zeros(self.sizes[axis], bool)
            for k in range(self.kernel[axis]):
                places = np.arange(outs) * s + k * d - before
                met[places[(places >= 0) & (places < met.size)]] = True
            read *= int(np.count_nonzero(met))
        return read


def convolution(
    family: str,
    batch: int,
    sizes: int | Shape,
    inputs: int,
    outputs: int,
    kernel: int | Shape,
    *,
    stride: int | Shape = 1,
    dilation: int = 1,
    padding: Literal["around", "causal", "none"] = "around",
    groups: int = 1,
    bias: bool = True,
    quick: bool = False,
) -> Convolution:
    """Return a case; a single number stands for both axes of an image, or for all of `sizes`.

    `padding` is half of the kernel on either side, all of it before, or none.
    """
    sizes = (sizes, sizes) if isinstance(sizes, int) else sizes
    rank = len(sizes)
    kernel = (kernel,) * rank if isinstance(kernel, int) else kernel
    stride = (stride,) * rank if isinstance(stride, int) else stride
    pads = {
        "around": [((k - 1) * dilation // 2,) * 2 for k in kernel],
        "causal": [((k - 1) * dilation, 0) for k in kernel],
        "none": [(0, 0)] * rank,
    }
    return Convolution(
        family=family,
        batch=batch,
        sizes=sizes,
        inputs=inputs,
        outputs=outputs,
        kernel=kernel,
        stride=stride,
        dilation=(dilation,) * rank,
        padding=tuple((before, after) for before, after in pads[padding]),
        groups=groups,
        bias=bias,
        quick=quick,
    )


def _linear() -> list[Case]:
    families = {
        "Layers of many sizes": [
            (1, 512, 512), (32, 256, 256), (128, 1024, 1024), (512, 1024, 4096), (128, 784, 128),
            (128, 128, 10), (64, 2048, 1000), (4096, 64, 64), (1024, 512, 512),
        ],
        "Batch of one": [
            (1, 16, 16), (1, 256, 256), (1, 784, 128), (1, 1000, 1000), (1, 1024, 4096),
            (1, 4096, 4096),
        ],
        "Odd sizes": [
            (7, 300, 300), (33, 300, 300), (17, 17, 17), (33, 65, 17), (65, 127, 33),
            (100, 100, 100), (127, 127, 127), (127, 1000, 65), (1000, 33, 127), (1000, 1000, 1000),
        ],
    }  # fmt: skip
    quick = {(1, 16, 16), (1, 512, 512), (32, 256, 256), (128, 1024, 1024), (65, 127, 33)}
    return [
        Linear(family=family, rows=n, inputs=i, outputs=o, quick=(n, i, o) in quick)
        for family, shapes in families.items()
        for n, i, o in shapes
    ]


def _images() -> list[Case]:
    family = "Images"
    return [
        convolution(family, 64, 28, 1, 32, 3, quick=True),
        convolution(family, 64, 14, 32, 64, 3, quick=True),
        convolution(family, 16, 56, 64, 64, 3),
        convolution(family, 16, 14, 256, 256, 3),
        convolution(family, 16, 56, 256, 64, 1),
        convolution(family, 16, 112, 3, 64, 7, stride=2),
        convolution(family, 16, 28, 128, 256, 3, stride=2),
        convolution(family, 64, 14, 6, 16, 5, padding="none"),  # LeNet-5
        convolution(family, 16, 27, 64, 192, 5),  # AlexNet
        convolution(family, 8, 28, 128, 128, 3, groups=32, bias=False),  # ResNeXt-50
        convolution(family, 4, 28, 64, 64, 3, dilation=2, bias=False),  # DeepLab
    ]


def _resnet() -> list[Case]:
    """List the distinct convolutions of ResNet-50, with its strides in the 3x3 ones ("v1.5")."""

    def conv(size: int, inputs: int, outputs: int, kernel: int, stride: int = 1) -> Case:
        family = "ResNet-50"
        quick = (size, kernel) == (7, 3)
        return convolution(
            family, 8, size, inputs, outputs, kernel, stride=stride, bias=False, quick=quick
        )

    cases = [conv(224, 3, 64, 7, 2)]
    before, size, stride = 64, 56, 1
    for width in (64, 128, 256, 512):
        out, wide = size // stride, 4 * width
        cases.append(conv(size, before, width, 1))
        if stride > 1:
            cases.append(conv(size, width, width, 3, stride))
        cases.append(conv(out, width, wide, 1))
        if stride > 1:  # else the shortcut is the convolution before
            cases.append(conv(size, before, wide, 1, stride))
        cases += [conv(out, wide, width, 1), conv(out, width, width, 3)]
        before, size, stride = wide, out, 2
    return cases


def _mobilenet() -> list[Case]:
    layers = [
        (112, 32, 1), (112, 64, 2), (56, 128, 1), (56, 128, 2), (28, 256, 1), (28, 256, 2),
        (14, 512, 1), (14, 512, 2),
    ]  # fmt: skip
    return [
        convolution(
            "MobileNet, depthwise", 8, size, c, c, 3,
            stride=s, groups=c, bias=False, quick=(size, s) == (28, 1),
        )
        for size, c, s in layers
    ]  # fmt: skip


def _signals() -> list[Case]:
    family = "Signals"
    return [
        convolution(family, 64, (128,), 9, 64, 5),  # motion sensors
        convolution(family, 16, (5000,), 12, 32, 7),  # electrocardiograms
        convolution(family, 8, (16000,), 1, 64, 80, stride=4, padding="none"),  # raw audio
        convolution(family, 1, (3200,), 512, 512, 3, stride=2, padding="none"),  # wav2vec
        convolution(family, 32, (256,), 64, 64, 3, dilation=4, padding="causal", quick=True),
        convolution(family, 2, (16000,), 64, 64, 2, dilation=256, padding="causal"),  # WaveNet
        convolution(family, 8, (1000,), 256, 256, 1),
        convolution(family, 16, (1000,), 256, 256, 31, groups=256),  # Conformer
        convolution(family, 1, (100_000,), 16, 16, 9),
    ]


def _volumes() -> list[Case]:
    family = "Volumes"
    return [
        convolution(family, 4, (32, 32, 32), 1, 16, 3),
        convolution(family, 4, (16, 16, 16), 16, 32, 3, quick=True),
        convolution(family, 4, (16, 16, 16), 32, 64, 3, stride=2),
        convolution(family, 1, (16, 112, 112), 3, 64, 3),  # C3D
        convolution(family, 2, (8, 28, 28), 64, 64, 3),
        convolution(family, 2, (8, 28, 28), 64, 128, (1, 3, 3)),  # R(2+1)D
    ]


def _odd() -> list[Case]:
    family = "Odd sizes"
    return [
        convolution(family, 4, 65, 17, 33, 3),
        convolution(family, 4, 17, 33, 65, 3),
        convolution(family, 4, 33, 100, 127, 3),
        convolution(family, 4, 33, 127, 100, 1),
        convolution(family, 4, 100, 3, 17, 5, stride=2),
        convolution(family, 2, 127, 65, 65, 3, stride=2),
        convolution(family, 4, 17, 1000, 33, 1),
        convolution(family, 4, (1000,), 17, 65, 3),
        convolution(family, 2, (17, 33, 17), 17, 33, 3),
    ]


def _single() -> list[Case]:
    family = "Batch of one"
    return [
        convolution(family, 1, 28, 1, 32, 3),
        convolution(family, 1, 224, 3, 64, 7, stride=2, bias=False),
        convolution(family, 1, 56, 64, 64, 3, bias=False),
        convolution(family, 1, 56, 256, 64, 1, bias=False),
        convolution(family, 1, 14, 256, 256, 3, bias=False),
        convolution(family, 1, 7, 512, 512, 3, bias=False),
        convolution(family, 1, 56, 128, 128, 3, groups=128, bias=False),
        convolution(family, 1, (128,), 9, 64, 5),
    ]


def _in_float64(cases: list[Case]) -> list[Case]:
    """Return a choice of the cases once more, in float64."""
    titles = [
        "1x512 -> 512",
        "32x256 -> 256",
        "128x1024 -> 1024",
        "1x1000 -> 1000",
        "33x300 -> 300",
        "64x28x28x1 -> 32, 3x3",
        "64x14x14x32 -> 64, 3x3",
        "8x56x56x64 -> 64, 3x3",
        "8x56x56x128 -> 128, 3x3, stride 2",
        "8x56x56x256 -> 64, 1x1",
        "8x56x56x128 -> 128, 3x3, depthwise",
        "32x256x64 -> 64, 3, dilation 4, causal",
        "4x16x16x16x16 -> 32, 3x3x3",
        "4x17x17x33 -> 65, 3x3",
    ]
    by_title = {case.title: case for case in cases}
    quick = {"32x256 -> 256", "64x14x14x32 -> 64, 3x3"}
    return [
        replace(by_title[title], dtype="float64", family="In float64", quick=title in quick)
        for title in titles
    ]


_IN_FLOAT32: Final = [
    *_linear(),
    *_images(),
    *_resnet(),
    *_mobilenet(),
    *_signals(),
    *_volumes(),
    *_odd(),
    *_single(),
]

CASES: Final[tuple[Case, ...]] = (*_IN_FLOAT32, *_in_float64(_IN_FLOAT32))
LAYERS: Final = tuple(dict.fromkeys(case.layer for case in CASES))


def find(name: str) -> Case:
    """Return the case of that name."""
    (found,) = (case for case in CASES if case.name == name)
    return found
