"""Activations and pooling as graphs of ONNX, of one node each."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from onnx import TensorProto, helper

from ..activations import SLOPE, Activation
from ..parts import Part

_ACTIVATIONS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "ReLU": ("Relu", {}),
    "LeakyReLU": ("LeakyRelu", {"alpha": SLOPE}),
    "Sigmoid": ("Sigmoid", {}),
    "Tanh": ("Tanh", {}),
    "GELU": ("Gelu", {}),
    "GELU by tanh": ("Gelu", {"approximate": "tanh"}),
    "SELU": ("Selu", {}),
    "Softmax": ("Softmax", {"axis": -1}),
}


def model(case: Part, x: Sequence[int], y: Sequence[int]) -> bytes:
    """Return the model of an activation or a pool for x and y of these shapes."""
    kind, options = _ACTIVATIONS[case.function] if isinstance(case, Activation) else _pool(case)
    graph = helper.make_graph(
        [helper.make_node(kind, ["x"], ["y"], **options)],
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
    )
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    data: bytes = found.SerializeToString()
    return data


def _pool(case: Any) -> tuple[str, dict[str, Any]]:
    kind = {"Max": "MaxPool", "Avg": "AveragePool"}[case.kind]
    if not case.window:
        return f"Global{kind}", {}
    options = {
        "kernel_shape": [case.window] * case.rank,
        "strides": [case.step] * case.rank,
        "pads": [case.padding] * 2 * case.rank,
    }
    return kind, options
