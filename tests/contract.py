"""What every layer and every formula must pass.

A test module lists its cases and inherits the tests::

    class TestLayer(LayerContract):
        cases = [LayerCase("plain", lambda dtype: lm.Linear(5, 3, dtype=dtype, rng=1), (4, 5))]

    class TestFormula(FormulaContract):
        module = formula
        cases = [FormulaCase("plain", {"x": (4, 5), "weight": (5, 3), "bias": (3,)})]
"""

import copy
import pickle
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

import lamina as lm


def applies(condition: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """Run a test of a contract only over the cases for which the condition holds."""

    def mark(test: Any) -> Any:
        test.applies = condition
        return test

    return mark


EPS = {np.dtype(np.float32): 2.0**-23, np.dtype(np.float64): 2.0**-52}


def random(name: str, shape: tuple[int, ...], dtype: Any = np.float64) -> np.ndarray:
    """Unequal values of both signs, the same for the same name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.standard_normal(shape).astype(dtype)


def assert_close(actual: Any, expected: Any, dtype: Any, terms: int = 1000, what: str = "") -> None:
    """Equal up to the rounding of a sum of so many terms, relative to the largest value."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, what
    scale = np.max(np.abs(expected), initial=1e-30)
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=4 * EPS[np.dtype(dtype)] * terms * scale, err_msg=what
    )


def assert_same(actual: Any, expected: Any, what: str = "") -> None:
    """Equal to the bit: shape, dtype, value, NaN where NaN."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype), what
    np.testing.assert_array_equal(actual, expected, err_msg=what)


@dataclass(frozen=True)
class LayerCase:
    """A layer in a situation.

    `layer(dtype)` builds it with seeded weights. `shape` is that of x, batch first. `integers`
    gives an x of integers below it. `lengths` makes x a batch of sequences. `together` says that
    the samples of a training batch are one computation (batch statistics).
    """

    name: str
    layer: Callable[[Any], lm.Layer]
    shape: tuple[int, ...]
    lengths: tuple[int, ...] | None = None
    training: bool = True
    integers: int | None = None
    together: bool = False

    @property
    def one_computation(self) -> bool:
        return self.together and self.training

    @property
    def steps(self) -> bool:
        """Whether x is whole sequences and the layer goes through them step by step."""
        whole = len(self.shape) == (3 if self.integers is None else 2) and self.lengths is None
        return whole and self.layer(np.float64).stepwise

    def x(self, dtype: Any = np.float64) -> np.ndarray:
        if self.integers is not None:
            rng = np.random.default_rng(zlib.crc32(self.name.encode()))
            return rng.integers(0, self.integers, self.shape)
        return random(self.name, self.shape, dtype)

    @property
    def options(self) -> dict[str, Any]:
        given = {} if self.lengths is None else {"lengths": np.array(self.lengths)}
        return given | {"training": self.training}


def passes(layer: lm.Layer, x: np.ndarray, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """y, dx and the gradients of a layer, from its present buffers, which stay as they are."""
    layer = copy.deepcopy(layer)
    y, cache = layer.forward(x, **options)
    dy = random("dy", y.shape, y.dtype)
    dx, grads = layer.backward(dy, cache)
    return {"y": y} | ({} if dx is None else {"dx": dx}) | grads


class LayerContract:
    cases: ClassVar[list[LayerCase]]
    same_bits: ClassVar[bool] = True
    """Whether a sample has the same bits in any company; by a formula it agrees to rounding."""

    def assert_alike(self, actual: Any, expected: Any, what: str) -> None:
        if self.same_bits:
            assert_same(actual, expected, what)
        else:
            assert_close(actual, expected, actual.dtype, what=what)

    def test_gradients_and_twin(self, case):
        lm.check(case.layer(np.float64), case.x(), **case.options)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_shapes_and_dtypes(self, case, dtype):
        layer, x = case.layer(dtype), case.x(dtype)
        out = passes(layer, x, case.options)
        assert out["y"].shape == layer.output_shape(x.shape)
        assert out["y"].dtype == dtype
        if case.integers is None:
            assert (out["dx"].shape, out["dx"].dtype) == (x.shape, dtype)
        for name, p in layer.params.items():
            assert (out[name].shape, out[name].dtype) == (p.shape, dtype), name
        assert set(out) - {"y", "dx"} == set(layer.params)
        assert layer.flops(x.shape) >= 0

    def test_leaves_its_arguments_alone(self, case):
        layer, x = case.layer(np.float32), case.x(np.float32)
        x_before, params_before = x.copy(), copy.deepcopy(layer.params)
        y, cache = layer.forward(x, **case.options)
        dy = random("dy", y.shape, y.dtype)
        dy_before, y_before = dy.copy(), y.copy()
        layer.backward(dy, cache)
        assert_same(x, x_before)
        assert_same(dy, dy_before)
        assert_same(y, y_before)
        for name, p in layer.params.items():
            assert_same(p, params_before[name], name)

    def test_call_is_forward_at_inference(self, case):
        layer, x = case.layer(np.float32), case.x(np.float32)
        options = case.options | {"training": False}
        expected = passes(layer, x, options)["y"]
        del options["training"]
        assert_same(copy.deepcopy(layer)(x, **options), expected)

    @applies(lambda case: not getattr(case.layer(np.float32), "always", False))
    def test_calls_at_once_keep_nothing(self, case):
        layer, x = case.layer(np.float32), case.x(np.float32)
        options = case.options
        del options["training"]
        expected = copy.deepcopy(layer)(x, **options)
        before = pickle.dumps(vars(layer))
        with ThreadPoolExecutor(4) as threads:
            calls = [threads.submit(layer, x, **options) for _ in range(8)]
        for call in calls:
            assert_same(call.result(), expected)
        assert pickle.dumps(vars(layer)) == before

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_inference_model_is_the_layer_at_inference(self, case, dtype):
        layer, x = case.layer(dtype), case.x(dtype)
        options = case.options
        del options["training"]
        fixed = layer.for_inference()
        assert_close(fixed(x, **options), layer(x, **options), dtype)
        if case.steps:
            state, fixed_state = layer.initial_state(len(x)), fixed.initial_state(len(x))
            for t in range(x.shape[1]):
                y_t, state = layer.step(x[:, t], state)
                found, fixed_state = fixed.step(x[:, t], fixed_state)
                assert_close(found, y_t, dtype, what=f"step {t}")
            for a, b in zip(_leaves(fixed_state), _leaves(state), strict=True):
                assert_close(a, b, dtype)

    def test_refuses_another_gradient(self, case):
        layer, x = case.layer(np.float32), case.x(np.float32)
        y, cache = layer.forward(x, **case.options)
        with pytest.raises(ValueError, match=r"dy has shape \(.*\), expected \("):
            layer.backward(y[..., None], cache)
        with pytest.raises(TypeError, match="dy has dtype float64, expected float32; cast it"):
            layer.backward(y.astype(np.float64), cache)

    def test_refuses_what_is_no_cache(self, case):
        layer = case.layer(np.float32)
        y, _ = layer.forward(case.x(np.float32), **case.options)
        for wrong in (None, y):
            with pytest.raises(
                TypeError, match="cache must be what forward returned beside y, got"
            ):
                layer.backward(y, wrong)

    def test_same_bits_twice(self, case):
        layer, x = case.layer(np.float32), case.x(np.float32)
        one, two = passes(layer, x, case.options), passes(layer, x, case.options)
        for name in one:
            assert_same(one[name], two[name], name)

    def test_gradients_are_those_of_backward(self, case):
        layer, x = case.layer(np.float32), case.x(np.float32)
        y, cache = layer.forward(x, **{**case.options, "training": True})
        dy = np.random.default_rng(2).standard_normal(y.shape).astype(y.dtype)
        expected, found = layer.backward(dy, cache)[1], layer.gradients(dy, cache)
        assert set(found) == set(expected)
        for name, g in expected.items():
            assert_same(found[name], g, name)

    @pytest.mark.parametrize("form", ["strided", "reversed", "transposed", "read-only", "swapped"])
    def test_any_memory_layout(self, case, form):
        layer, x = case.layer(np.float32), case.x(np.float32)
        expected = passes(layer, x, case.options)
        if form == "strided":
            wide = np.repeat(x, 2, axis=-1)
            other = wide[..., ::2]
        elif form == "reversed":
            other = x[..., ::-1].copy()[..., ::-1]
        elif form == "transposed":
            other = np.asfortranarray(x)
        elif form == "read-only":
            other = x.copy()
            other.flags.writeable = False
        else:
            other = x.astype(x.dtype.newbyteorder())
        for name, a in passes(layer, other, case.options).items():
            self.assert_alike(a, expected[name], name)
            assert a.dtype.isnative

    @applies(lambda case: any(p.ndim > 1 for p in case.layer(np.float32).params.values()))
    def test_any_memory_layout_of_parameters(self, case):
        layer, x = case.layer(np.float32), case.x(np.float32)
        expected = passes(layer, x, case.options)
        for _, part in layer.walk():
            for name, p in part._params.items():
                part._params[name] = np.asfortranarray(p)
        for name, a in passes(layer, x, case.options).items():
            self.assert_alike(a, expected[name], name)

    @applies(lambda case: not case.one_computation)
    def test_empty_batch(self, case):
        layer, x = case.layer(np.float32), case.x(np.float32)[:0]
        options = case.options
        if "lengths" in options:
            options["lengths"] = options["lengths"][:0]
        out = passes(layer, x, options)
        assert out["y"].shape == layer.output_shape(x.shape)
        for name, p in layer.params.items():
            assert_same(out[name], np.zeros_like(p), name)

    @applies(lambda case: not case.one_computation)
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_samples_do_not_see_each_other(self, case, dtype):
        layer, x = case.layer(dtype), case.x(dtype)
        options = case.options
        whole = passes(layer, x, options)
        dy = random("dy", whole["y"].shape, dtype)
        for n in range(len(x)):
            alone = dict(options)
            if "lengths" in options:
                alone["lengths"] = options["lengths"][n : n + 1]
            one = copy.deepcopy(layer)
            # A sample alone stands in place 0, unless it says who it is.
            ids = one._accepted(None, np.array([n]))
            y, cache = one.forward(x[n : n + 1], **alone, **ids)
            self.assert_alike(y, whole["y"][n : n + 1], f"y of sample {n}")
            dx, _ = one.backward(dy[n : n + 1], cache)
            if "dx" in whole:
                self.assert_alike(dx, whole["dx"][n : n + 1], f"dx of sample {n}")

    @applies(lambda case: case.lengths is not None)
    def test_padding_is_ignored_and_zero(self, case):
        layer, x = case.layer(np.float64), case.x(np.float64)
        expected = passes(layer, x, case.options)
        y_lengths = layer.output_lengths(np.array(case.lengths))
        y, cache = copy.deepcopy(layer).forward(_spoil(x, case.lengths), **case.options)
        dy = random("dy", y.shape)
        if y_lengths is not None:
            dy = _spoil(dy, y_lengths)
        dx, grads = layer.backward(dy, cache)
        for name, a in {"y": y, "dx": dx, **grads}.items():
            if name in expected:
                assert_same(a, expected[name], name)
        for n in range(len(x)):
            if y_lengths is not None:
                assert not y[n, y_lengths[n] :].any()
            if dx is not None:
                assert not dx[n, case.lengths[n] :].any()

    @applies(lambda case: case.lengths is not None and not case.one_computation)
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_each_sequence_as_if_alone(self, case, dtype):
        layer, x = case.layer(dtype), case.x(dtype)
        whole = passes(layer, x, case.options)
        y_lengths = layer.output_lengths(np.array(case.lengths))
        dy = random("dy", whole["y"].shape, dtype)
        for n, length in enumerate(case.lengths):
            if length == 0:
                continue  # zero steps alone is an empty array; its zeros are tested above
            one = copy.deepcopy(layer)
            ids = one._accepted(None, np.array([n]))
            y, cache = one.forward(x[n : n + 1, :length], training=case.training, **ids)
            k = y.shape[1] if y_lengths is not None else None
            self.assert_alike(
                y,
                whole["y"][n : n + 1, :k] if k is not None else whole["y"][n : n + 1],
                f"y of sample {n}",
            )
            dx, _ = one.backward(dy[n : n + 1, :k] if k is not None else dy[n : n + 1], cache)
            if dx is not None:
                self.assert_alike(dx, whole["dx"][n : n + 1, :length], f"dx of sample {n}")

    @applies(lambda case: case.steps)
    def test_step_is_run(self, case):
        layer, x = case.layer(np.float64), case.x(np.float64)
        y, end, _ = copy.deepcopy(layer).run(x)
        for way in (nullcontext, lm.formulas):
            state = layer.initial_state(len(x))
            for t in range(x.shape[1]):
                with way():
                    y_t, state = layer.step(x[:, t], state)
                assert_close(y_t, y[:, t], np.float64, what=f"step {t}")
            for a, b in zip(_leaves(state), _leaves(end), strict=True):
                assert_close(a, b, np.float64)

    @applies(lambda case: case.steps)
    def test_a_state_after_no_steps_is_a_copy(self, case):
        layer, x = case.layer(np.float32), case.x(np.float32)
        state = layer.initial_state(len(x))
        y, end, cache = layer.run(x[:, :0], state)
        _, before, _ = layer.run_backward(np.zeros_like(y), state, cache)
        for found in (end, before):
            for a, b in zip(_leaves(found), _leaves(state), strict=True):
                assert_same(a, b)
                assert not np.shares_memory(a, b)

    def test_copies_have_the_same_bits(self, case, tmp_path):
        layer, x = case.layer(np.float32), case.x(np.float32)
        expected = passes(layer, x, case.options)
        copies = {"deepcopy": copy.deepcopy(layer), "pickle": pickle.loads(pickle.dumps(layer))}
        lm.save(layer, tmp_path / "layer.safetensors")
        copies["save and load"] = lm.load(tmp_path / "layer.safetensors")
        for how, other in copies.items():
            for name, a in passes(other, x, case.options).items():
                assert_same(a, expected[name], f"{how}: {name}")
            assert repr(other) == repr(layer)


def _spoil(x: np.ndarray, lengths: Any) -> np.ndarray:
    """x with NaN in its padding; integers with -1."""
    x = x.copy()
    for n, length in enumerate(lengths):
        x[n, length:] = np.nan if x.dtype.kind == "f" else -1
    return x


def _leaves(state: Any) -> list[np.ndarray]:
    if isinstance(state, tuple):
        return [leaf for part in state for leaf in _leaves(part)]
    return [state]


@dataclass(frozen=True)
class FormulaCase:
    """Arguments of a formula: float arrays by shape or value, lengths, and static options.

    `x` is the differentiated input; the other arrays are differentiated if `backward` returns a
    gradient of their name.
    """

    name: str
    arrays: dict[str, Any]
    lengths: tuple[int, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def values(self) -> dict[str, np.ndarray]:
        return {
            name: random(f"{self.name} {name}", a) if isinstance(a, tuple) else np.asarray(a)
            for name, a in self.arrays.items()
        } | ({} if self.lengths is None else {"lengths": np.array(self.lengths)})


class FormulaContract:
    """Runs `forward(**arrays, **options)` and `backward(dy, cache)` of `module` everywhere."""

    module: ClassVar[ModuleType]
    cases: ClassVar[list[FormulaCase]]

    def passes(self, case: FormulaCase, convert: Callable[[np.ndarray], Any]) -> dict[str, Any]:
        arrays = {name: convert(a) for name, a in case.values().items()}
        y, cache = self.module.forward(**arrays, **case.options)
        dx, grads = self.module.backward(convert(random("dy", tuple(y.shape))), cache)
        return {"y": y, "x": dx, **grads}

    def test_central_differences(self, case):
        values = case.values()
        out = self.passes(case, np.asarray)
        dy = random("dy", out["y"].shape)
        for name in out:
            if name == "y":
                continue
            v, h = random("direction", values[name].shape), 1e-6

            def loss(sign, name=name, v=v, h=h):
                moved = values | {name: values[name] + sign * h * v}
                return np.sum(self.module.forward(**moved, **case.options)[0] * dy)

            numeric = (loss(1) - loss(-1)) / (2 * h)
            scale = max(np.sqrt(np.sum((out[name] * v) ** 2)), 1e-3)
            assert abs(numeric - np.sum(out[name] * v)) <= 1e-6 * scale, name

    @pytest.mark.peers
    def test_array_api_strict(self, case):
        xp = pytest.importorskip("array_api_strict")
        other, home = xp.Device("device1"), xp.Device("CPU_DEVICE")
        expected = self.passes(case, np.asarray)
        for name, a in self.passes(case, partial(xp.asarray, device=other)).items():
            assert a.device == other, name
            assert_close(np.asarray(a.to_device(home)), expected[name], np.float64, what=name)

    @pytest.mark.peers
    def test_torch_and_its_autograd(self, case):
        torch = pytest.importorskip("torch")
        expected = self.passes(case, np.asarray)
        for name, a in self.passes(case, torch.tensor).items():
            assert_close(a.numpy(), expected[name], np.float64, what=name)
        tensors = {
            name: torch.tensor(a, requires_grad=a.dtype.kind == "f")
            for name, a in case.values().items()
        }
        y, _ = self.module.forward(**tensors, **case.options)
        names = [name for name in expected if name != "y"]
        grads = torch.autograd.grad(
            torch.sum(y * torch.tensor(random("dy", tuple(y.shape)))), [tensors[n] for n in names]
        )
        for name, grad in zip(names, grads, strict=True):
            assert_close(grad.numpy(), expected[name], np.float64, what=f"autograd of {name}")

    @pytest.mark.peers
    def test_jax_jit_and_its_autograd(self, case):
        jax = pytest.importorskip("jax")
        expected = self.passes(case, np.asarray)
        with jax.enable_x64(True):
            import jax.numpy as jnp

            arrays = {name: jnp.asarray(a) for name, a in case.values().items()}
            dy = jnp.asarray(random("dy", expected["y"].shape))
            names = [name for name in expected if name != "y"]

            @jax.jit
            def both(arrays, dy):
                y, cache = self.module.forward(**arrays, **case.options)
                dx, grads = self.module.backward(dy, cache)
                return {"y": y, "x": dx, **grads}

            for name, a in both(arrays, dy).items():
                assert_close(np.asarray(a), expected[name], np.float64, what=name)

            def loss(some):
                return jnp.sum(self.module.forward(**{**arrays, **some}, **case.options)[0] * dy)

            for name, a in jax.jit(jax.grad(loss))({n: arrays[n] for n in names}).items():
                assert_close(np.asarray(a), expected[name], np.float64, what=f"autograd of {name}")
