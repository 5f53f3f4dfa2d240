"""RNN and LSTM as graphs of ONNX."""

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ..recurrent import Recurrence
from .runner import NDArray


def model(case: Recurrence, given: Mapping[str, NDArray]) -> bytes:
    """Return the graph of a case: x, steps first, to y, steps first."""
    nodes, constants = [], []

    def constant(name: str, array: NDArray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def theirs(array: NDArray) -> NDArray:
        """Gates in their order, i o f g, of the last axis; then transposed."""
        i_f_g_o = np.split(array, case.gates, axis=-1)
        order = (0, 3, 1, 2) if case.gates == 4 else (0,)
        return np.concatenate([i_f_g_o[k] for k in order], axis=-1).T

    suffixes, d = case.suffixes(), case.directions
    shape = constant("shape", np.array([case.steps, case.batch, d * case.hidden]))
    source = "x"
    for k in range(case.layers):
        ends = suffixes[k * d : k * d + d]
        names = [
            constant(f"w{k}", np.stack([theirs(given[f"weight_x{end}"]) for end in ends])),
            constant(f"r{k}", np.stack([theirs(given[f"weight_h{end}"]) for end in ends])),
        ]
        biases = np.stack([theirs(given[f"bias{end}"]) for end in ends])
        names.append(constant(f"b{k}", np.concatenate([biases, 0 * biases], axis=1)))
        options = {"hidden_size": case.hidden}
        if case.bidirectional:
            options["direction"] = "bidirectional"
        kind = case.layer.upper()
        nodes.append(helper.make_node(kind, [source, *names], [f"h{k}"], **options))
        nodes.append(helper.make_node("Transpose", [f"h{k}"], [f"t{k}"], perm=[0, 2, 1, 3]))
        source = "y" if k == case.layers - 1 else f"y{k}"
        nodes.append(helper.make_node("Reshape", [f"t{k}", shape], [source]))
    size = [case.steps, case.batch, case.inputs], [case.steps, case.batch, d * case.hidden]
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, size[0])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, size[1])],
        constants,
    )
    opset = [helper.make_opsetid("", 17)]
    found: bytes = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    return found
