"""Whole networks as graphs of ONNX, channels first; its runtime fuses and packs once."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import lamina as lm

from ..networks import Network, pads
from . import onnx_session
from .runner import Form, NDArray


class Graph:
    """Lamina's layers as nodes.

    Attributes
    ----------
    nodes, constants : lists
        What `helper.make_graph` takes.
    """

    def __init__(self, case: Network, given: Mapping[str, NDArray]) -> None:
        self.case, self.given = case, given
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.model = case.of.build()
        self.shapes = {name: shape for name, _, shape in self.model.trace((case.batch, *case.of.x))}
        self.flattened: tuple[int, ...] | None = None

    def constant(self, name: str, array: NDArray) -> str:
        """Add an array; return its name."""
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **options: Any) -> str:
        """Add a node; return the name of what it gives."""
        self.nodes.append(helper.make_node(kind, inputs, [f"y.{name}"], **options))
        return f"y.{name}"

    def of(self, layer: Any, x: str, name: str) -> str:
        """Add the nodes of a layer of that name, given x; return the name of y."""
        match layer:
            case lm.Sequential():
                for child, inner in layer.children().items():
                    x = self.of(inner, x, f"{name}.{child}" if name else child)
                return x
            case lm.Residual():
                ys = [self.of(b, x, f"{name}.{k}") for k, b in layer.children().items()]
                return self.node("Add", ys, name)
            case lm.Linear():
                return self._linear(layer, x, name)
            case lm.Conv2d():
                weight = np.moveaxis(self.given[f"{name}.weight"], (-1, -2), (0, 1))
                inputs = [x, self.constant(f"{name}.weight", weight), *self._bias(name)]
                return self.node("Conv", inputs, name, **self._window(layer))
            case lm.BatchNorm():
                names = "gamma", "beta", "running_mean", "running_var"
                inputs = [self.constant(f"{name}.{k}", self.given[f"{name}.{k}"]) for k in names]
                return self.node("BatchNormalization", [x, *inputs], name, epsilon=layer.eps)
            case lm.MaxPool2d():
                return self.node("MaxPool", [x], name, **self._window(layer))
            case lm.ReLU():
                return self.node("Relu", [x], name)
            case lm.GlobalAvgPool():
                return self.node("Flatten", [self.node("GlobalAveragePool", [x], f"{name}a")], name)
            case lm.Flatten():
                self.flattened = self.shapes[name][1:]
                return self.node("Flatten", [x], name)
            case lm.LastStep():  # of states that come steps first
                last = self.constant(f"{name}.last", np.array(-1))
                return self.node("Gather", [x, last], name, axis=0)
            case lm.LSTM():
                return self._lstm(layer, x, name)
            case lm.Dropout() | lm.Identity():
                return x
        raise TypeError(f"no node for {layer}")

    def _bias(self, name: str) -> list[str]:
        full = f"{name}.bias"
        return [self.constant(full, self.given[full])] if full in self.given else []

    def _window(self, layer: Any) -> dict[str, Any]:
        sides = [n for side in zip(*pads(layer), strict=True) for n in side]
        return {"kernel_shape": layer.window, "strides": layer.stride, "pads": sides}

    def _linear(self, layer: Any, x: str, name: str) -> str:
        weight = self.given[f"{name}.weight"]
        if self.flattened is not None:  # channels come first where ONNX flattens
            order = np.arange(len(weight)).reshape(self.flattened)
            weight = weight[np.moveaxis(order, -1, 0).ravel()]
            self.flattened = None
        inputs = [x, self.constant(f"{name}.weight", weight)]
        if not self.case.of.ragged:
            return self.node("Gemm", [*inputs, *self._bias(name)], name)
        return self.node("Add", [self.node("MatMul", inputs, f"{name}m"), *self._bias(name)], name)

    def _lstm(self, layer: Any, x: str, name: str) -> str:
        steps, hidden = self.shapes[name][1], layer.hidden
        ends = ("", "_reverse")[: 1 + layer.bidirectional]

        def theirs(array: NDArray) -> NDArray:
            """Gates in their order, i o f g, of the last axis; then transposed."""
            i, f, g, o = np.split(array, 4, axis=-1)
            return np.concatenate([i, o, f, g], axis=-1).T

        options: dict[str, Any] = {"hidden_size": hidden}
        if layer.bidirectional:
            options["direction"] = "bidirectional"
        shape = self.constant(
            f"{name}.shape", np.array([steps, self.case.batch, len(ends) * hidden])
        )
        for k in range(layer.layers):
            depth = f"{name}_{k}"
            own = [f"_{k}{end}" if k else end for end in ends]
            arrays = {
                kind: np.stack([theirs(self.given[f"{name}.{kind}{end}"]) for end in own])
                for kind in ("weight_x", "weight_h", "bias")
            }
            arrays["bias"] = np.concatenate([arrays["bias"], 0 * arrays["bias"]], axis=1)
            inputs = [x, *(self.constant(f"{depth}.{kind}", a) for kind, a in arrays.items())]
            if "lengths" in self.given:
                inputs.append("lengths")
            h = self.node("LSTM", inputs, f"{depth}h", **options)
            if layer.bidirectional:
                h = self.node("Transpose", [h], f"{depth}t", perm=[0, 2, 1, 3])
            x = self.node("Reshape", [h, shape], depth)
        return x


def forms(case: Network, given: Mapping[str, NDArray]) -> dict[str, Form]:
    """Return a session as it is usually called, and one that writes into the same y each time."""
    if case.which != "forward":
        return {}
    graph = Graph(case, given)
    result = graph.of(graph.model, "x", "")
    x = given["x"]
    if x.ndim > 2:  # steps or channels first
        x = np.ascontiguousarray(x.swapaxes(0, 1) if x.ndim == 3 else np.moveaxis(x, -1, 1))
    feed = {"x": x}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    if "lengths" in given:
        feed["lengths"] = given["lengths"].astype(np.int32)
        inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, (case.batch,)))
    shape = list(case.shapes["y"])
    if case.of.ragged:
        shape[:2] = shape[1::-1]
    graph_of_all = helper.make_graph(
        graph.nodes,
        "case",
        inputs,
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, shape)],
        graph.constants,
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph_of_all, opset_imports=opset, ir_version=9)
    session = onnx_session.start(model.SerializeToString())
    y = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32)
    bound = session.io_binding()
    for name, array in feed.items():
        bound.bind_cpu_input(name, array)
    bound.bind_ortvalue_output(result, y)

    def into_y() -> Any:
        session.run_with_iobinding(bound)
        return y

    def restore(name: str, found: Any) -> NDArray:
        array: NDArray = found if isinstance(found, np.ndarray) else found.numpy()
        if not case.of.ragged:
            return array
        array = array.swapaxes(0, 1).copy()
        array[np.arange(array.shape[1]) >= given["lengths"][:, None]] = 0
        return array

    return {
        "run": Form({"forward": lambda: session.run(None, feed)[0]}, restore),
        "bound": Form({"forward": into_y}, restore),
    }
