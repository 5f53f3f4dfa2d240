"""The cases of Convolution."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .case import Case, NDArray, Shape

TITLE: Final = "Convolution"
MEANS: Final = {"forward": 1.15, "both": 2.0}
"""What the geometric means of the ratios should be, by pass."""


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

    def exact(self, given: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return y, dx and the gradients of weight and bias.

        It shares no code with what it judges: one matrix product a sample, over the values that its
        windows meet, laid out at length.
        """
        x, weight, dy = given["x"], given["weight"], given["dy"]
        G, c, o = self.groups, self.inputs // self.groups, self.outputs // self.groups
        spans = tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        outs = dy.shape[1:-1]
        # Matrices of a group: (K, c, G, o) -> (G, K c, o)
        matrices = weight.reshape(-1, c, G, o).transpose(2, 0, 1, 3).reshape(G, -1, o)
        y, dx, dmatrices = np.empty_like(dy), np.empty_like(x), np.zeros_like(matrices)
        inside = tuple(
            slice(before, before + n)
            for (before, _), n in zip(self.padding, self.sizes, strict=True)
        )
        for n in range(self.batch):
            padded = np.pad(x[n], (*self.padding, (0, 0)))
            windows: NDArray = sliding_window_view(padded, spans, axis=tuple(range(self.rank)))
            by_stride = (slice(None, None, s) for s in self.stride)
            by_dilation = (slice(None, None, d) for d in self.dilation)
            windows = windows[(*by_stride, slice(None), *by_dilation)]  # (*Q, C, *K)
            values = windows.reshape(math.prod(outs), G, c, -1).transpose(1, 0, 3, 2)
            rows = values.reshape(G, math.prod(outs), -1)  # (G, Q, K c)
            dy_n = dy[n].reshape(-1, G, o).transpose(1, 0, 2)
            y[n] = (rows @ matrices).transpose(1, 0, 2).reshape(y[n].shape)
            dmatrices += rows.transpose(0, 2, 1) @ dy_n
            drows = (dy_n @ matrices.transpose(0, 2, 1)).reshape(G, *outs, -1, c)
            dpadded = np.zeros_like(padded)
            for k, tap in enumerate(itertools.product(*map(range, self.kernel))):
                met = tuple(
                    slice(k_i * d, k_i * d + (q - 1) * s + 1, s)
                    for k_i, d, q, s in zip(tap, self.dilation, outs, self.stride, strict=True)
                )
                part = np.moveaxis(drows[..., k, :], 0, -2)  # (*Q, G, c)
                dpadded[met] += part.reshape(*outs, G * c)
            dx[n] = dpadded[inside]
        dweight = dmatrices.reshape(G, -1, c, o).transpose(1, 2, 0, 3).reshape(weight.shape)
        found = {"y": y, "dx": dx, "weight": dweight}
        if self.bias:
            y += given["bias"]
            found["bias"] = dy.sum(axis=tuple(range(dy.ndim - 1)))
        return found


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


def _images() -> list[Convolution]:
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


def _resnet() -> list[Convolution]:
    """List the distinct convolutions of ResNet-50, with its strides in the 3x3 ones ("v1.5")."""

    def conv(size: int, inputs: int, outputs: int, kernel: int, stride: int = 1) -> Convolution:
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


def _mobilenet() -> list[Convolution]:
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


def _signals() -> list[Convolution]:
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


def _volumes() -> list[Convolution]:
    family = "Volumes"
    return [
        convolution(family, 4, (32, 32, 32), 1, 16, 3),
        convolution(family, 4, (16, 16, 16), 16, 32, 3, quick=True),
        convolution(family, 4, (16, 16, 16), 32, 64, 3, stride=2),
        convolution(family, 1, (16, 112, 112), 3, 64, 3),  # C3D
        convolution(family, 2, (8, 28, 28), 64, 64, 3),
        convolution(family, 2, (8, 28, 28), 64, 128, (1, 3, 3)),  # R(2+1)D
    ]


def _odd() -> list[Convolution]:
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


def _single() -> list[Convolution]:
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


def _in_float64(cases: list[Convolution]) -> list[Convolution]:
    """Return a choice of the cases once more, in float64."""
    titles = {
        "64x28x28x1 -> 32, 3x3",
        "64x14x14x32 -> 64, 3x3",
        "8x56x56x64 -> 64, 3x3",
        "8x56x56x128 -> 128, 3x3, stride 2",
        "8x56x56x256 -> 64, 1x1",
        "8x56x56x128 -> 128, 3x3, depthwise",
        "32x256x64 -> 64, 3, dilation 4, causal",
        "4x16x16x16x16 -> 32, 3x3x3",
        "4x17x17x33 -> 65, 3x3",
    }
    chosen = [case for case in cases if case.title in titles]
    return [case.in_float64(quick=case.title == "64x14x14x32 -> 64, 3x3") for case in chosen]


_IN_FLOAT32: Final = [
    *_images(),
    *_resnet(),
    *_mobilenet(),
    *_signals(),
    *_volumes(),
    *_odd(),
    *_single(),
]
CASES: Final = (*_IN_FLOAT32, *_in_float64(_IN_FLOAT32))
