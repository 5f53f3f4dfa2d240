import subprocess
import sys
import textwrap

SCRIPT = """
    import sys

    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("numba", "llvmlite"):
                raise ImportError(f"{name} is blocked")

    sys.meta_path.insert(0, Blocked())
    import numpy as np
    import lamina as lm

    layers = [
        (lm.Linear(3, 2, rng=0), (4, 3)),
        (lm.Conv2d(3, 2, 3, padding="same", rng=0), (4, 5, 5, 3)),
        (lm.BatchNorm(3), (4, 3)),
        (lm.Dropout(0.5, rng=0), (4, 3)),
        (lm.RNN(3, 2, rng=0), (4, 5, 3)),
        (lm.LSTM(3, 2, rng=0), (4, 5, 3)),
        (lm.GlobalAvgPool(), (4, 5, 3)),
        (lm.MeanSteps(), (4, 5, 3)),
    ]
    rng = np.random.default_rng(0)
    for layer, shape in layers:
        x = rng.standard_normal(shape).astype(np.float32)
        assert layer(x).shape == layer.output_shape(shape)
        y, cache = layer.forward(x, training=True)
        dx, grads = layer.backward(rng.standard_normal(y.shape).astype(np.float32), cache)
        assert dx.shape == shape and np.isfinite(dx).all() and dx.any()
        assert set(grads) == set(layer.params)
        print(type(layer).__name__)
    assert not {"numba", "llvmlite"} & set(sys.modules)
"""


def test_layers_run():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(SCRIPT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        *("Linear", "Conv2d", "BatchNorm", "Dropout", "RNN", "LSTM", "GlobalAvgPool", "MeanSteps")
    ]
