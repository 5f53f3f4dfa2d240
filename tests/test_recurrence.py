"""What RNN, LSTM and GRU share; nearly every test runs over all of them."""

import copy
import tracemalloc
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import lamina as lm
from contract import assert_close, assert_same, random
from lamina.arrays import hold, reverse_steps

N, T, F, H = 4, 5, 3, 2
LENGTHS = (2, 0, 5, 1)


@dataclass(frozen=True)
class Kind:
    """A recurrent layer, its formula, and how many gates and arrays of state it has."""

    layer: type
    formula: ModuleType
    gates: int
    states: int
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, in_features=F, hidden=H, *, dtype=np.float64, rng=1, **options):
        return self.layer(in_features, hidden, dtype=dtype, rng=rng, **self.options | options)

    def state(self, layer, name="state", n=N):
        """A random state of that layer."""
        zero = layer.initial_state(n)
        return tuple(
            tuple(random(f"{name} {k} {j}", a.shape, a.dtype) for j, a in enumerate(entry))
            for k, entry in enumerate(zero)
        )


KINDS = [
    Kind(lm.RNN, lm.rnn.formula, 1, 1),
    Kind(lm.RNN, lm.rnn.formula, 1, 1, {"activation": "relu"}),
    Kind(lm.LSTM, lm.lstm.formula, 4, 2),
    Kind(lm.GRU, lm.gru.formula, 3, 1),
]
NAMES = ["RNN tanh", "RNN relu", "LSTM", "GRU"]
PROJECTED = Kind(lm.LSTM, lm.lstm.formula, 4, 2, {"projection": 1})
every_kind = pytest.mark.parametrize("kind", KINDS, ids=NAMES)
and_projected = pytest.mark.parametrize("kind", [*KINDS, PROJECTED], ids=[*NAMES, "projected"])
with_lengths = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])


# The helpers


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 2), (4, 5, 2, 2)])
def test_reverse_steps(shape):
    x, lengths = random("x", shape), np.array(LENGTHS)
    turned = reverse_steps(x, lengths)
    for n, length in enumerate(LENGTHS):
        assert_same(turned[n, :length], x[n, :length][::-1])
        assert_same(turned[n, length:], x[n, length:])
    assert_same(reverse_steps(turned, lengths), x)
    # <R x, u> = <x, R u>: R is its own transpose.
    u = random("u", shape)
    assert np.sum(turned * u) == pytest.approx(np.sum(x * reverse_steps(u, lengths)))
    assert_same(reverse_steps(x, None), x[:, ::-1])


@pytest.mark.peers
@pytest.mark.parametrize("library", ["array_api_strict", "torch", "jax.numpy"])
def test_helpers_in_other_libraries(library):
    xp = pytest.importorskip(library)
    x, old, lengths = random("x", (4, 5, 2)).astype("f"), np.zeros((4, 2), "f"), np.array(LENGTHS)
    for lengths_ in (None, lengths):
        given = None if lengths_ is None else xp.asarray(lengths_)
        turned = reverse_steps(xp.asarray(x), given)
        assert_same(np.asarray(turned), reverse_steps(x, lengths_))
        held = hold(xp.asarray(x)[:, 1, :], xp.asarray(old), 2, given)
        assert_same(np.asarray(held), hold(x[:, 1], old, 2, lengths_))
    assert_same(hold(x[:, 1], old, 2, lengths)[:, 0] == 0, np.array([False, True, False, True]))


# The formulas' run and run_backward; the contract of each layer has forward and backward


def formula_values(kind, lengths):
    shapes = {
        "x": (N, T, F),
        "weight_x": (F, kind.gates * H),
        "weight_h": (H, kind.gates * H),
        "bias": (kind.gates * H,),
    } | {f"state_{k}": (N, H) for k in range(kind.states)}
    values = {name: random(name, shape) for name, shape in shapes.items()}
    return values if lengths is None else values | {"lengths": np.array(lengths)}


def formula_run(kind, values):
    """y and the last state, by name, and the cache."""
    values = dict(values)
    state = tuple(values.pop(f"state_{k}") for k in range(kind.states))
    y, end, cache = kind.formula.run(state=state, **values, **kind.options)
    return {"y": y} | {f"state_{k}": a for k, a in enumerate(end)}, cache


def formula_passes(kind, values, convert):
    """Everything forward, and the gradients, for random gradients of y and of the last state."""
    out, cache = formula_run(kind, {name: convert(a) for name, a in values.items()})
    given = {name: convert(random(f"d{name}", tuple(a.shape))) for name, a in out.items()}
    dstate = tuple(given[f"state_{k}"] for k in range(kind.states))
    dx, dstart, grads = kind.formula.run_backward(given["y"], dstate, cache)
    starts = {f"state_{k}": a for k, a in enumerate(dstart)}
    return out, {"x": dx, **starts, **grads}


def loss(out, convert=np.asarray):
    return sum((a * convert(random(f"d{name}", tuple(a.shape)))).sum() for name, a in out.items())


@every_kind
@with_lengths
def test_run_against_central_differences(kind, lengths):
    values = formula_values(kind, lengths)
    _, grads = formula_passes(kind, values, np.asarray)
    h = 1e-6
    for name, grad in grads.items():
        v = random("direction", grad.shape)
        high, low = (
            loss(formula_run(kind, values | {name: values[name] + sign * h * v})[0])
            for sign in (1, -1)
        )
        numeric = (high - low) / (2 * h)
        scale = np.sqrt(np.sum((grad * v) ** 2))
        assert abs(numeric - np.sum(grad * v)) <= 1e-6 * scale, name


@pytest.mark.peers
@every_kind
@with_lengths
def test_run_in_array_api_strict(kind, lengths):
    xp = pytest.importorskip("array_api_strict")
    values = formula_values(kind, lengths)
    expected = formula_passes(kind, values, np.asarray)
    for part, other in zip(expected, formula_passes(kind, values, xp.asarray), strict=True):
        for name in part:
            assert_close(np.asarray(other[name]), part[name], np.float64, what=name)


@pytest.mark.peers
@every_kind
@with_lengths
def test_run_in_torch_and_its_autograd(kind, lengths):
    torch = pytest.importorskip("torch")
    values = formula_values(kind, lengths)
    out, grads = formula_passes(kind, values, np.asarray)
    torch_out, torch_grads = formula_passes(kind, values, torch.tensor)
    for name in out:
        assert_close(torch_out[name].numpy(), out[name], np.float64, what=name)
    for name in grads:
        assert_close(torch_grads[name].numpy(), grads[name], np.float64, what=name)
    tensors = {n: torch.tensor(a, requires_grad=a.dtype.kind == "f") for n, a in values.items()}
    loss(formula_run(kind, tensors)[0], torch.tensor).backward()
    for name in grads:
        assert_close(tensors[name].grad.numpy(), grads[name], np.float64, what=name)


@pytest.mark.peers
@every_kind
@with_lengths
def test_run_in_jax_jit_and_its_autograd(kind, lengths):
    jax = pytest.importorskip("jax")
    values = formula_values(kind, lengths)
    out, grads = formula_passes(kind, values, np.asarray)
    with jax.enable_x64(True):
        import jax.numpy as jnp

        arrays = {name: jnp.asarray(a) for name, a in values.items()}
        jax_out, jax_grads = jax.jit(lambda a: formula_passes(kind, a, jnp.asarray))(arrays)
        for name in out:
            assert_close(jax_out[name], out[name], np.float64, what=name)
        for name in grads:
            assert_close(jax_grads[name], grads[name], np.float64, what=name)
        some = {name: arrays[name] for name in grads}
        auto = jax.jit(jax.grad(lambda s: loss(formula_run(kind, arrays | s)[0], jnp.asarray)))(
            some
        )
        for name in grads:
            assert_close(auto[name], grads[name], np.float64, what=name)


@pytest.mark.peers
@every_kind
@pytest.mark.parametrize("library", ["numpy", "array_api_strict", "torch", "jax.numpy"])
def test_run_without_steps(kind, library):
    xp = pytest.importorskip(library)
    values = formula_values(kind, None) | {"x": np.zeros((N, 0, F))}
    values = {name: a.astype("f") for name, a in values.items()}
    out, grads = formula_passes(kind, values, lambda a: xp.asarray(a.astype("f")))
    assert out.pop("y").shape == (N, 0, H)
    for name, a in out.items():
        assert_same(a, values[name])  # the state is as it was, and so is its gradient
        assert_same(grads.pop(name), random(f"d{name}", (N, H)).astype("f"))
    for name, a in grads.items():
        assert_same(a, np.zeros(values[name].shape, "f"), name)


@every_kind
def test_formula_stays_in_float32(kind):
    values = {name: a.astype("f") for name, a in formula_values(kind, None).items()}
    for part in formula_passes(kind, values, lambda a: a.astype("f")):
        assert {a.dtype for a in part.values()} == {np.dtype("f")}


@every_kind
def test_forward_is_run_from_zero(kind):
    values = formula_values(kind, LENGTHS)
    zero = {name: 0 * a for name, a in values.items() if name.startswith("state")}
    out, cache = formula_run(kind, values | zero)
    dy = random("dy", out["y"].shape)
    dx, _, grads = kind.formula.run_backward(dy, tuple(zero.values()), cache)
    weights = {name: a for name, a in values.items() if not name.startswith("state")}
    y, cache = kind.formula.forward(**weights, **kind.options)
    assert_same(y, out["y"])
    dx_, grads_ = kind.formula.backward(dy, cache)
    assert_same(dx_, dx)
    for name in grads:
        assert_same(grads_[name], grads[name], name)


# The layers against PyTorch's


def peer(torch, layer):
    """PyTorch's layer with the weights of ours: theirs are transposed, and the bias is two."""
    options = {}
    if isinstance(layer, lm.RNN):
        options = {"nonlinearity": layer.activation}
    elif isinstance(layer, lm.LSTM):
        options = {"proj_size": layer.projection or 0}
    other = getattr(torch.nn, type(layer).__name__)(
        layer.in_features,
        layer.hidden,
        num_layers=layer.layers,
        bidirectional=layer.bidirectional,
        bias=layer.has_bias,
        batch_first=True,
        dtype=torch.float64,
        **options,
    )
    for name, a in layer.params.items():
        for theirs, value in translate(name, a).items():
            # Of a GRU's n, either bias stands in one place only.
            n = slice(2 * layer.hidden if isinstance(layer, lm.GRU) else None, None)
            if name.startswith("bias_h"):
                getattr(other, theirs).data[n] = torch.tensor(value)
            else:
                if name.startswith("bias") and isinstance(layer, lm.GRU):
                    value[n] = a[n] if theirs.startswith("bias_ih") else 0
                getattr(other, theirs).data = torch.tensor(value)
    return other


def translate(name, a):
    """Our array under PyTorch's names; the bias is split unevenly into two."""
    depth = next((part for part in name.split("_") if part.isdigit()), "0")
    end = f"_l{depth}" + ("_reverse" if name.endswith("_reverse") else "")
    if name.startswith("bias_h"):
        return {"bias_hh" + end: a}
    if name.startswith("bias"):
        return {"bias_ih" + end: 0.3 * a, "bias_hh" + end: 0.7 * a}
    kind = {"weight_x": "weight_ih", "weight_h": "weight_hh", "weight_p": "weight_hr"}[name[:8]]
    return {kind + end: a.T}


@pytest.mark.peers
@and_projected
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lengths", [None, (2, 1, 5, 3)], ids=["whole", "lengths"])
def test_against_torch(kind, bidirectional, bias, lengths):
    torch = pytest.importorskip("torch")
    layer = kind(layers=3, bidirectional=bidirectional, bias=bias, init="torch")
    state, x = kind.state(layer), random("x", (N, T, F))
    y, end, cache = layer.run(x, state, lengths=lengths, training=True)
    dy, dend = random("dy", y.shape), kind.state(layer, "dstate")
    dx, dstart, grads = layer.run_backward(dy, dend, cache)

    other = peer(torch, layer)
    tx = torch.tensor(x, requires_grad=True)
    starts = [
        torch.tensor(np.stack([entry[k] for entry in state]), requires_grad=True)
        for k in range(kind.states)
    ]
    packed = tx
    if lengths is not None:
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            tx, lengths, batch_first=True, enforce_sorted=False
        )
    ty, tend = other(packed, starts[0] if kind.states == 1 else tuple(starts))
    if lengths is not None:
        ty, _ = torch.nn.utils.rnn.pad_packed_sequence(ty, batch_first=True)
    tend = [tend] if kind.states == 1 else tend
    total = (ty * torch.tensor(dy)).sum()
    for k, a in enumerate(tend):
        total = total + (a * torch.tensor(np.stack([entry[k] for entry in dend]))).sum()
    total.backward()

    assert_close(y, ty.detach(), np.float64)
    assert_close(dx, tx.grad, np.float64)
    for k in range(kind.states):
        assert_close(np.stack([entry[k] for entry in end]), tend[k].detach(), np.float64)
        assert_close(np.stack([entry[k] for entry in dstart]), starts[k].grad, np.float64)
    for name, grad in grads.items():
        for theirs in translate(name, grad):
            theirs_grad = getattr(other, theirs).grad.numpy()
            ours = grad if name.startswith("bias") else grad.T
            if kind.layer is lm.GRU and theirs.startswith("bias_hh"):
                n = slice(2 * H, None) if name.startswith("bias_h") else slice(2 * H)
                ours, theirs_grad = ours[: len(theirs_grad[n])], theirs_grad[n]
            assert_close(ours, theirs_grad, np.float64, what=theirs)


# State


@and_projected
@with_lengths
def test_gradient_of_the_initial_state(kind, lengths):
    layer = kind(layers=2, bidirectional=True)
    x, start = random("x", (N, T, F)), kind.state(layer)
    y, _, cache = layer.run(x, start, lengths=lengths)
    dy, dend = random("dy", y.shape), kind.state(layer, "dstate")
    _, dstart, _ = layer.run_backward(dy, dend, cache)
    v, h = kind.state(layer, "direction"), 1e-6

    def total(sign):
        moved = zip_states(lambda a, d: a + sign * h * d, start, v)
        y, end, _ = layer.run(x, moved, lengths=lengths)
        return np.sum(y * dy) + inner(end, dend)

    numeric = (total(1) - total(-1)) / (2 * h)
    assert numeric == pytest.approx(inner(dstart, v), rel=1e-7)


def zip_states(f, *states):
    return tuple(
        tuple(f(*arrays) for arrays in zip(*entries, strict=True))
        for entries in zip(*states, strict=True)
    )


def inner(one, other):
    return sum(np.sum(a) for entry in zip_states(np.multiply, one, other) for a in entry)


@every_kind
def test_step_has_the_bits_of_run(kind):
    layer = kind(layers=2, dtype=np.float32)
    x, state = random("x", (N, T, F), np.float32), kind.state(layer)
    y, end, _ = layer.run(x, state)
    for t in range(T):
        y_t, state = layer.step(x[:, t].copy(), state)
        assert_same(y_t, y[:, t])
        y_t += 1  # the state is not what was handed out
    zip_states(assert_same, state, end)
    y_0, _ = layer.step(x[:, 0], None)
    assert_same(y_0, layer(x)[:, 0])


@every_kind
@with_lengths
def test_windows_that_carry_the_state_are_one_run(kind, lengths):
    layer, cut = kind(layers=2), 2
    x, start = random("x", (N, T, F)), kind.state(layer)
    y, end, cache = layer.run(x, start, lengths=lengths)
    dy, dend = random("dy", y.shape), kind.state(layer, "dstate")
    dx, dstart, grads = layer.run_backward(dy, dend, cache)

    first = second = None
    if lengths is not None:
        first, second = np.minimum(lengths, cut), np.maximum(np.array(lengths) - cut, 0)
    y1, middle, cache1 = layer.run(x[:, :cut], start, lengths=first)
    y2, end2, cache2 = layer.run(x[:, cut:], middle, lengths=second)
    assert_same(np.concatenate([y1, y2], axis=1), y)
    zip_states(assert_same, end2, end)
    dx2, dmiddle, grads2 = layer.run_backward(dy[:, cut:], dend, cache2)
    dx1, dstart1, grads1 = layer.run_backward(dy[:, :cut], dmiddle, cache1)
    assert_close(np.concatenate([dx1, dx2], axis=1), dx, np.float64)
    zip_states(lambda a, b: assert_close(a, b, np.float64), dstart1, dstart)
    for name in grads:
        assert_close(grads1[name] + grads2[name], grads[name], np.float64, what=name)


@every_kind
def test_the_last_state_is_that_of_each_sequence_alone(kind):
    layer = kind(layers=2, bidirectional=True)
    x, start = random("x", (N, T, F)), kind.state(layer)
    y, end, _ = layer.run(x, start, lengths=LENGTHS)
    for n, length in enumerate(LENGTHS):
        alone = zip_states(lambda a, n=n: a[n : n + 1], start)
        y_n, end_n, _ = layer.run(x[n : n + 1, :length], alone)
        assert_close(y[n : n + 1, :length], y_n, np.float64)
        zip_states(lambda a, b, n=n: assert_close(a[n : n + 1], b, np.float64), end, end_n)
    zip_states(lambda a, b: assert_same(a[1], b[1]), end, start)  # no steps: as it was


@and_projected
def test_no_steps(kind):
    layer = kind(layers=2, bidirectional=True, dropout=0.5)
    x, start = np.zeros((N, 0, F)), kind.state(layer)
    y, end, cache = layer.run(x, start, lengths=[0] * N, training=True)
    assert y.shape == (N, 0, layer.out_features)
    zip_states(assert_same, end, start)
    dx, dstart, grads = layer.run_backward(y, start, cache)
    assert dx.shape == x.shape
    zip_states(assert_same, dstart, start)
    for name, p in layer.params.items():
        assert_same(grads[name], np.zeros_like(p), name)


@every_kind
def test_a_bidirectional_layer_runs_but_does_not_step(kind):
    layer = kind(bidirectional=True)
    assert not layer.stepwise
    assert len(layer.initial_state(N)) == 2
    with pytest.raises(TypeError, match=r"bidirectional=True.*: cannot go step by step"):
        layer.step(np.zeros((N, F)), None)


@every_kind
@pytest.mark.parametrize("name", ["dropout_0", "recurrent_dropout", "recurrent_dropout_1"])
def test_a_layer_that_drops_at_inference_does_not_step(kind, name):
    layer = kind(layers=2, dropout=0.5, recurrent_dropout=0.5)
    x = random("x", (N, T, F))
    usual = layer(x)
    layer.children()[name].always = True
    assert not np.array_equal(layer(x), usual)
    assert not layer.stepwise
    for model in layer, layer.for_inference():
        with pytest.raises(TypeError, match=r"^Dropout\(.*always=True\): cannot go step by step"):
            model.step(x[:, 0], None)


@every_kind
def test_refuses_numbers_of_sequences(kind):
    with pytest.raises(ValueError, match=r"\(3, 2.*: n must be at least 0, got -1"):
        kind().initial_state(-1)
    with pytest.raises(TypeError, match=r"\(3, 2.*: n must be an integer, got 1.5"):
        kind().initial_state(1.5)


def test_refuses_states():
    layer, x = lm.LSTM(F, H, layers=2, rng=0), np.zeros((N, T, F), np.float32)
    (good, _) = layer.initial_state(N)
    for state, found in [
        (good, r"\(ndarray, ndarray\)"),
        ((good,), r"\(\(ndarray, ndarray\),\)"),
        ((good, good[:1]), r"\(\(ndarray, ndarray\), \(ndarray,\)\)"),
        ([good, good], "list"),
        ((np.zeros((2, N, H)),) * 2, r"\(ndarray, ndarray\); of PyTorch's .* tuple\(zip\(h, c\)\)"),
    ]:
        with pytest.raises(
            ValueError,
            match=r"LSTM\(3, 2, layers=2\): state must be a tuple with a tuple \(h, c\) for each "
            r"layer and direction, 2 in all, as initial_state\(n\) gives; got " + found,
        ):
            layer.run(x, state)
    with pytest.raises(
        ValueError,
        match=r"state\[1\]\[1\], c, has shape \(4, 3\), expected \(4, 2\)",
    ):
        layer.step(x[:, 0], (good, (good[0], np.zeros((N, 3), np.float32))))
    with pytest.raises(
        TypeError,
        match=r"state\[0\]\[0\] has dtype float64, expected float32; "
        r"cast it: state\[0\]\[0\].astype\(np.float32\).*layer.astype\(np.float64\)",
    ):
        layer.run(x, tuple(tuple(a.astype(float) for a in entry) for entry in (good, good)))
    _, _, cache = layer.run(x)
    with pytest.raises(ValueError, match=r"dstate must be a tuple with a tuple \(h, c\)"):
        layer.run_backward(np.zeros((N, T, H), np.float32), (), cache)
    with pytest.raises(ValueError, match=r"a tuple \(h,\) for each layer and direction, 1 in all"):
        lm.RNN(F, H).run(x, ())
    with pytest.raises(ValueError, match=r"got ndarray; of PyTorch's .* tuple\(zip\(h\)\)$"):
        lm.GRU(F, H).run(x, np.zeros((1, N, H), np.float32))


# Depth, directions, dropout


@every_kind
def test_names_and_shapes(kind):
    layer = kind(layers=2, bidirectional=True)
    G = kind.gates
    expected = {}
    for suffix, inputs in {"": F, "_reverse": F, "_1": 2 * H, "_1_reverse": 2 * H}.items():
        expected |= {
            f"weight_x{suffix}": (inputs, G * H),
            f"weight_h{suffix}": (H, G * H),
            f"bias{suffix}": (G * H,),
        }
        if kind.layer is lm.GRU:
            expected |= {f"bias_h{suffix}": (H,)}
    assert {name: a.shape for name, a in layer.params.items()} == expected
    assert layer.weight_x is layer.params["weight_x"]
    assert kind(bias=False).bias is None


@every_kind
def test_the_reverse_direction_is_the_forward_one_on_the_reversed_sequence(kind):
    both = kind(bidirectional=True)
    back = kind()
    back.assign({name: both.params[name + "_reverse"] for name in back.params})
    x = random("x", (1, T, F))
    assert_same(both(x)[..., H:], back(x[:, ::-1])[:, ::-1])


@every_kind
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_merged_directions(kind, lengths):
    layer = kind(layers=1, bidirectional=True)
    x = random("x", (N, T, F))
    y, dy = layer(x, lengths=lengths), random("dy", (N, T, H))
    for merge, share in {"sum": 1, "mean": 0.5}.items():
        other = kind(bidirectional=True, merge=merge)
        other.assign(layer.params)
        assert_same(other(x, lengths=lengths), share * (y[..., :H] + y[..., H:]))
        _, cache = layer.forward(x, lengths=lengths)
        dx, grads = layer.backward(share * np.concatenate([dy, dy], axis=-1), cache)
        _, cache = other.forward(x, lengths=lengths)
        dx_, grads_ = other.backward(dy, cache)
        assert_same(dx_, dx)
        for name in grads:
            assert_same(grads_[name], grads[name], name)
    deep = kind(layers=2, bidirectional=True, merge="sum")
    assert deep.params["weight_x_1_reverse"].shape == (H, kind.gates * H)
    assert deep.output_shape(x.shape) == (N, T, H)


def test_recurrent_dropout_is_one_mask_a_sequence():
    layer = lm.RNN(3, 3, activation="relu", recurrent_dropout=0.5, bias=False, rng=1)
    layer.assign({"weight_x": np.eye(3), "weight_h": np.eye(3)})
    x = np.zeros((N, T, 3), np.float32)
    x[:, 0] = 1
    y, _ = layer.forward(x, training=True)
    # h goes round with factor 2 where it is kept, 0 where it is dropped.
    kept = y[:, 1] > 0
    assert 0 < kept.sum() < kept.size
    for t in range(1, T):
        assert_same(y[:, t], np.where(kept, np.float32(2**t), np.float32(0)))
    assert not np.array_equal(layer.forward(x, training=True)[0], y)
    assert layer.buffers["recurrent_dropout.calls"] == 2
    assert_same(layer(x), np.ones_like(x))


@every_kind
def test_recurrent_dropout_is_keyed_by_sample(kind):
    layer = kind(layers=2, bidirectional=True, recurrent_dropout=0.5)
    assert [name for name in layer.buffers if name.endswith("key")] == [
        "recurrent_dropout.key",
        "recurrent_dropout_reverse.key",
        "recurrent_dropout_1.key",
        "recurrent_dropout_1_reverse.key",
    ]
    assert len({a.tobytes() for name, a in layer.buffers.items() if name.endswith("key")}) == 4
    x, ids = random("x", (N, T, F)), np.array([7, 0, 3, 2**40])
    y, _ = copy.deepcopy(layer).forward(x, training=True, sample_ids=ids)
    turned, _ = copy.deepcopy(layer).forward(x[::-1], training=True, sample_ids=ids[::-1])
    assert_close(turned[::-1], y, np.float64)
    other, _ = copy.deepcopy(layer).forward(x, training=True)
    assert not np.allclose(y[0], other[0])


@every_kind
def test_buffers_are_those_of_the_dropouts(kind):
    layer = kind(layers=2, dropout=0.5)
    with pytest.raises(TypeError, match=r"buffers are those of the layers inside.*model\.assign"):
        layer.buffers = layer.buffers
    layer.assign({"dropout_0.calls": 3})
    assert layer.children()["dropout_0"].calls == layer.buffers["dropout_0.calls"] == 3


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "merge": "sum"}])
@pytest.mark.parametrize(
    "kind", [partial(lm.GRU, reset="before"), partial(lm.LSTM, peepholes=True)]
)
def test_inference_by_formula_holds_one_cache_at_a_time(kind, options):
    x, peaks = np.ones((4, 40, 32), np.float32), {}
    for layers in (2, 6):
        layer = kind(32, 32, layers=layers, rng=0, **options)
        for _ in range(2):  # the second call of a first layer imports what plans
            layer(x)
        tracemalloc.start()
        layer(x)
        peaks[layers] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[6] < 1.2 * peaks[2]


# Trace


@and_projected
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_trace(kind, lengths):
    layer = kind(layers=2, bidirectional=True, recurrent_dropout=0.5)
    x = random("x", (N, T, F))
    plain = copy.deepcopy(layer)
    y, cache = layer.forward(x, lengths=lengths, training=True, trace=True)
    dy = random("dy", y.shape)
    dx, grads = layer.backward(dy, cache)
    other, plain_cache = plain.forward(x, lengths=lengths, training=True)
    assert plain_cache.trace is None
    assert_same(y, other)
    for a, b in zip(plain.backward(dy, plain_cache)[1].values(), grads.values(), strict=True):
        assert_same(a, b)
    P = layer.state_sizes["h"]
    for k, suffix in enumerate(["", "_reverse", "_1", "_1_reverse"]):
        seen = cache.trace[k]
        gates = {1: "", 3: "rzn", 4: "ifgoc"}[kind.gates]
        assert list(seen) == [*gates, "h", "da", "norm"]
        for name, a in seen.items():
            size = {"h": P, "da": kind.gates * H}.get(name, H)
            assert a.shape == ((N, T) if name == "norm" else (N, T, size)), name
            if lengths is not None:
                for n, length in enumerate(lengths):
                    assert not a[n, length:].any()
        assert_same(seen["norm"], np.linalg.norm(seen["da"], axis=-1))
        assert_close(seen["da"].sum((0, 1)), grads[f"bias{suffix}"], np.float64)
        if "c" in gates:
            s = seen["o"] * np.tanh(seen["c"])
            weight_p = layer.params.get(f"weight_p{suffix}")
            assert_close(seen["h"], s if weight_p is None else s @ weight_p, np.float64)
    assert_same(cache.trace[2]["h"], y[..., :P])
    assert_same(cache.trace[3]["h"], y[..., P:])
    both = zip(cache.trace, ["", "_reverse"], strict=False)
    expected = sum(seen["da"] @ layer.params[f"weight_x{suffix}"].T for seen, suffix in both)
    assert_close(dx, expected, np.float64)


@every_kind
def test_trace_without_steps(kind):
    layer = kind()
    _, cache = layer.forward(np.zeros((N, 0, F)), trace=True)
    layer.backward(np.zeros((N, 0, H)), cache)
    (seen,) = cache.trace
    assert {a.shape[:2] for a in seen.values()} == {(N, 0)}


@every_kind
def test_dropout_between_layers(kind):
    layer = kind(layers=3, dropout=0.5)
    assert {name: a.shape for name, a in layer.buffers.items()} == {
        "dropout_0.key": (2,),
        "dropout_0.calls": (),
        "dropout_1.key": (2,),
        "dropout_1.calls": (),
    }
    assert kind(layers=3).buffers == {}
    assert not np.array_equal(layer.buffers["dropout_0.key"], layer.buffers["dropout_1.key"])
    x = random("x", (N, T, F))
    whole = kind(layers=3)
    whole.assign(layer.params)
    assert_same(layer(x), whole(x))
    one, two = (layer.forward(x, training=True)[0] for _ in range(2))
    assert not np.array_equal(one, two)
    assert layer.buffers["dropout_1.calls"] == 2

    # The same by hand: layer, Dropout, layer, Dropout, layer.
    parts = [kind(), kind(H), kind(H)]
    for depth, part in enumerate(parts):
        end = f"_{depth}" if depth else ""
        part.assign({name: layer.params[name + end] for name in part.params})
    drops = [copy.deepcopy(child) for child in layer.children().values()]
    model = lm.Sequential(parts[0], drops[0], parts[1], drops[1], parts[2])
    expected, _ = model.forward(x, training=True)
    y, _ = layer.forward(x, training=True)
    assert_same(y, expected)


@every_kind
def test_dropout_knows_samples_by_their_ids(kind):
    layer = kind(layers=2, dropout=0.5)
    x, ids = random("x", (N, T, F)), np.array([7, 0, 3, 2**40])
    y, _ = copy.deepcopy(layer).forward(x, training=True, sample_ids=ids)
    turned, _ = copy.deepcopy(layer).forward(x[::-1], training=True, sample_ids=ids[::-1])
    assert_close(turned[::-1], y, np.float64)
    other, _ = copy.deepcopy(layer).forward(x, training=True)
    assert not np.allclose(y[0], other[0])


@every_kind
def test_dropout_inside_a_model(kind):
    model = lm.Sequential(kind(layers=2, dropout=0.5), lm.Linear(H, 1, dtype=float), rng=3)
    assert list(model.buffers) == ["0.dropout_0.key", "0.dropout_0.calls"]
    model.forward(np.zeros((N, T, F)), training=True)
    assert model.buffers["0.dropout_0.calls"] == 1
    again = lm.Sequential(kind(layers=2, dropout=0.5), lm.Linear(H, 1, dtype=float), rng=3)
    for name, a in again.params.items():
        assert_same(model.params[name], a)
    assert_same(model.buffers["0.dropout_0.key"], again.buffers["0.dropout_0.key"])
    model.assign(again.buffers)
    assert model.buffers["0.dropout_0.calls"] == 0


# First weights


@every_kind
def test_first_weights(kind):
    layer = kind(8, 16, layers=2, bidirectional=True)
    for suffix, inputs in {"": 8, "_1_reverse": 32}.items():
        bound = np.sqrt(6 / (inputs + 16))
        for block in np.split(layer.params[f"weight_x{suffix}"], kind.gates, axis=1):
            assert 0.9 * bound < np.abs(block).max() <= bound
        for block in np.split(layer.params[f"weight_h{suffix}"], kind.gates, axis=1):
            np.testing.assert_allclose(block @ block.T, np.eye(16), atol=1e-12)
    other = kind(8, 16, init="torch")
    for a in other.params.values():
        assert 0.8 / 4 < np.abs(a).max() <= 1 / 4
    assert_same(kind(recurrent_init="zeros").weight_h, np.zeros((H, kind.gates * H)))
    assert not np.array_equal(kind(rng=1).weight_x, kind(rng=2).weight_x)


# What it refuses


@every_kind
def test_refuses_options(kind):
    with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
        kind(hidden=0)
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        kind(layers=0)
    with pytest.raises(ValueError, match="bidirectional must be one of True, False; got 'yes'"):
        kind(bidirectional="yes")
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\], got 1.5"):
        kind(layers=2, dropout=1.5)
    with pytest.raises(ValueError, match="dropout acts between layers, and there is one"):
        kind(dropout=0.5)
    with pytest.raises(ValueError, match=r"recurrent_dropout must lie in \[0, 1\], got -1"):
        kind(recurrent_dropout=-1)
    with pytest.raises(ValueError, match="merge must be one of 'concat', 'sum', 'mean'; got 'mul'"):
        kind(bidirectional=True, merge="mul")
    with pytest.raises(ValueError, match="merge joins two directions, and there is one; give"):
        kind(merge="sum")
    with pytest.raises(ValueError, match="init must be one of"):
        kind(init="glorot")
    with pytest.raises(ValueError, match="recurrent_init must be one of None, 'glorot_uniform'"):
        kind(recurrent_init="glorot")
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got 'float16'"):
        kind(dtype="float16")


@every_kind
def test_refuses_inputs(kind):
    layer = kind()
    x = np.zeros((N, T, F))
    with pytest.raises(ValueError, match=r"x has 2 features in its last axis .*, expected 3"):
        layer(x[..., 1:])
    with pytest.raises(ValueError, match=r"x has 2 axes \(shape \(4, 3\)\), expected 3"):
        layer(x[:, 0])
    with pytest.raises(ValueError, match=r"x has 3 axes \(shape \(4, 5, 3\)\), expected 2"):
        layer.step(x, None)
    with pytest.raises(
        TypeError, match=r"x has dtype float32, expected float64; .*layer.astype\(np.float32\)"
    ):
        layer(x.astype("f"))
    with pytest.raises(TypeError, match="x_t has dtype float32, expected float64"):
        layer.step(x[:, 0].astype("f"), None)
    y, cache = layer.forward(x)
    with pytest.raises(ValueError, match=r"dy has shape \(4, 4, 2\), expected \(4, 5, 2\)"):
        layer.backward(y[:, 1:], cache)
    with pytest.raises(ValueError, match=r"lengths must lie in 0 ... 5, .* got -1 ... 6"):
        layer(x, lengths=[-1, 6, 0, 0])
    for lengths in ([1, 2, 3], [[1], [2], [3], [4]], 3):
        with pytest.raises(ValueError, match=r"lengths has shape \(.*\), expected \(4,\)"):
            layer.run(x, lengths=lengths)
    for lengths in ([1.0, 2, 3, 4], [True, False, True, True], list("1234")):
        with pytest.raises(TypeError, match="lengths must be integers, got dtype"):
            layer.run(x, lengths=lengths)
    assert_same(layer(x, lengths=np.array([5, 0, 1, 2], np.uint8)), layer(x, lengths=[5, 0, 1, 2]))


@every_kind
def test_arrays_of_further_layers_are_no_attributes(kind):
    layer = kind(layers=2, bidirectional=True)
    for name in ("weight_h_1", "bias_reverse", "weight_x_1_reverse"):
        a = np.ones_like(layer.params[name])
        with pytest.raises(AttributeError, match=rf"{name} is no attribute; .*assign\({{'{name}'"):
            setattr(layer, name, a)
        layer.assign({name: a})
        assert_same(layer.params[name], a)


@every_kind
def test_refuses_parameters_of_another_form(kind):
    x = np.zeros((N, T, F))
    for name in ("weight_x", "weight_h", "bias"):
        for change in (lambda a: a[..., :-1].copy(), lambda a: a[:0], lambda a: a.astype("f")):
            layer = kind()
            layer.params[name] = change(layer.params[name])
            ways = layer, lambda x, layer=layer: layer.step(x[:, 0], layer.initial_state(N))
            for call in ways:
                with pytest.raises(ValueError, match=f"{name} has become an array of shape"):
                    call(x)


# Sizes


@every_kind
def test_flops(kind):
    G = kind.gates
    biases = (4 if kind.layer is lm.GRU else G) * H
    assert kind().flops((N, T, F)) == N * T * (2 * G * H * (F + H) + biases)
    deep = kind(layers=2, bidirectional=True, bias=False)
    assert deep.flops((N, T, F)) == 2 * N * T * 2 * G * H * ((F + H) + (2 * H + H))
    with pytest.raises(ValueError, match=r"x has 2 axes \(shape \(.*\)\), expected 3: batch first"):
        deep.flops((N, F))


@pytest.mark.parametrize(
    "make",
    [
        lambda: lm.GRU(65, 17, rng=0),
        lambda: lm.LSTM(65, 17, layer_norm=True, rng=0),
        lambda: lm.RNN(65, 17, clip=1.0, bidirectional=True, rng=0),
        lambda: lm.LSTM(65, 17, rng=0),
    ],
)
def test_same_bits_however_arrays_lie(make):
    layer, rng = make(), np.random.default_rng(0)
    x = rng.standard_normal((3, 20, 65)).astype(np.float32)
    state = tuple(
        tuple(rng.standard_normal(a.shape).astype(np.float32) for a in one)
        for one in layer.initial_state(3)
    )
    found = []
    for lie in (np.ascontiguousarray, np.asfortranarray, lambda a: a[::-1].copy()[::-1]):
        before, dafter = (tuple(tuple(map(lie, one)) for one in state) for _ in range(2))
        y, end, cache = layer.run(lie(x), before, training=True)
        dx, dstate, grads = layer.run_backward(lie(y), dafter, cache)
        found.append([y, dx, *grads.values(), *(a for one in (*end, *dstate) for a in one)])
        _, cache = layer.forward(lie(x), training=True)
        dx, grads = layer.backward(lie(y), cache)
        found[-1] += [dx, *grads.values()]
        if layer.stepwise:
            found[-1].append(layer.step(lie(x[:, 0]), before)[0])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert_same(a, b)
