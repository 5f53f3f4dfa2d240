"""A session of ONNX Runtime."""

import onnxruntime

from . import runner


def start(model: bytes) -> onnxruntime.InferenceSession:
    """Return the session of a graph."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = runner.THREADS
    settings.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
