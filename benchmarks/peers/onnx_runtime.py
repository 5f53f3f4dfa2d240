"""ONNX Runtime: inference sessions, which pack their weights once, with float32."""

import sys
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from ..batchnorm import BatchNorm
from ..case import Case
from ..convolution import Convolution
from ..dropout import Dropout
from ..losses import Loss
from ..networks import Network
from ..optimizers import Update
from ..parts import Part
from ..pooling import Pool
from ..recurrent import Recurrence
from . import network_onnx, onnx_session, parts_onnx, recurrent_onnx, runner
from .runner import Form, NDArray


def versions() -> dict[str, str]:
    """Return the versions of ONNX and its runtime."""
    return {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


def release() -> None:
    """Give back the memory that is kept for calls to come: none is."""


def forms(case: Case, given: Mapping[str, NDArray]) -> dict[str, Form]:
    """Return a session as it is usually called, and one that writes into the same y each time."""
    if isinstance(case, Network):
        return network_onnx.forms(case, given)
    if case.dtype != "float32" or isinstance(case, (BatchNorm, Dropout)):  # it is for inference
        return {}
    if isinstance(case, (Loss, Update)):
        return {}
    x, weight, axis = given["x"], given.get("weight"), -1  # axis: where our last one is
    shape = list(case.shapes["y"])
    if isinstance(case, Recurrence):
        x = np.ascontiguousarray(x.swapaxes(0, 1))
        shape = recurrent_onnx.result(case)
        session = onnx_session.start(recurrent_onnx.model(case, given))
    else:
        if isinstance(case, (Convolution, Pool)):
            axis = 1
            x = np.moveaxis(x, -1, 1)
            shape.insert(1, shape.pop())
            shape += [1] * (x.ndim - len(shape))  # those of the one window of a global pool
        x = np.ascontiguousarray(x)
        if isinstance(case, Part):
            session = onnx_session.start(parts_onnx.model(case, x.shape, shape))
        else:
            if isinstance(case, Convolution):
                weight = np.moveaxis(weight, (-1, -2), (0, 1))
            given = {**given, "x": x, "weight": np.ascontiguousarray(weight)}
            session = _session(case, given, shape)
    y = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32)
    bound = session.io_binding()
    bound.bind_cpu_input("x", x)
    bound.bind_ortvalue_output("y", y)

    def into_y() -> NDArray:
        session.run_with_iobinding(bound)
        return y

    def restore(name: str, array: NDArray) -> NDArray:
        array = array if isinstance(array, np.ndarray) else array.numpy()
        if isinstance(case, Recurrence):
            return array.reshape(case.steps, case.batch, -1).swapaxes(0, 1)
        return np.moveaxis(array, axis, -1).reshape(case.shapes["y"])

    return {
        "run": Form({"forward": lambda: session.run(None, {"x": x})[0]}, restore),
        "bound": Form({"forward": into_y}, restore),
    }


def _session(
    case: Case, arrays: Mapping[str, NDArray], shape: list[int]
) -> onnxruntime.InferenceSession:
    """Return the session of a graph of one node; arrays are in ONNX's layout."""
    options = {}
    if isinstance(case, Convolution):
        options = {
            "kernel_shape": case.kernel,
            "strides": case.stride,
            "dilations": case.dilation,
            "pads": [n for side in zip(*case.padding, strict=True) for n in side],
            "group": case.groups,
        }
    weights = [name for name in ("weight", "bias") if name in arrays]
    graph = helper.make_graph(
        [helper.make_node("Conv" if options else "Gemm", ["x", *weights], ["y"], **options)],
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, arrays["x"].shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(arrays[name], name) for name in weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnx_session.start(model.SerializeToString())


if __name__ == "__main__":
    runner.serve(sys.modules[__name__])
