"""RNN, LSTM and GRU as graphs of ONNX."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ..recurrent import Recurrence
from .runner import NDArray


def result(case: Recurrence) -> list[int]:
    """Return the shape of y: as the last node of one direction has it, without a copy."""
    if case.bidirectional:
        return [case.steps, case.batch, 2 * case.hidden]
    return [case.steps, 1, case.batch, case.hidden]


def model(case: Recurrence, given: Mapping[str, NDArray]) -> bytes:
    """Return the graph of a case: x, steps first, to y of shape (T, 1, N, H), or (T, N, 2 H)."""
    nodes, constants = [], []

    def constant(name: str, array: NDArray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def theirs(array: NDArray) -> NDArray:
        """Gates in their order, i o f g or z r n, of the last axis; then transposed."""
        ours = np.split(array, case.gates, axis=-1)
        order = {1: (0,), 3: (1, 0, 2), 4: (0, 3, 1, 2)}[case.gates]
        return np.concatenate([ours[k] for k in order], axis=-1).T

    suffixes, d = case.suffixes(), case.directions
    shape = [case.steps, case.batch, d * case.hidden]
    source = "x"
    for k in range(case.layers):
        ends = suffixes[k * d : k * d + d]
        names = [
            constant(f"w{k}", np.stack([theirs(given[f"weight_x{end}"]) for end in ends])),
            constant(f"r{k}", np.stack([theirs(given[f"weight_h{end}"]) for end in ends])),
        ]
        biases = np.stack([theirs(given[f"bias{end}"]) for end in ends])
        of_h = 0 * biases
        options: dict[str, Any] = {"hidden_size": case.hidden}
        if case.layer == "gru":
            of_h[:, -case.hidden :] = np.stack([given[f"bias_h{end}"] for end in ends])
            options["linear_before_reset"] = 1
        names.append(constant(f"b{k}", np.concatenate([biases, of_h], axis=1)))
        if case.bidirectional:
            options["direction"] = "bidirectional"
        kind = case.layer.upper()
        last = k == case.layers - 1
        h = "y" if last and d == 1 else f"h{k}"
        nodes.append(helper.make_node(kind, [source, *names], [h], **options))
        if d == 2:
            nodes.append(helper.make_node("Transpose", [h], [f"t{k}"], perm=[0, 2, 1, 3]))
            h = f"t{k}"
        if h != "y":
            source = "y" if last else f"y{k}"
            size = constant(f"s{k}", np.array(shape))
            nodes.append(helper.make_node("Reshape", [h, size], [source]))
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*shape[:2], case.inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result(case))],
        constants,
    )
    opset = [helper.make_opsetid("", 17)]
    found: bytes = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    return found
