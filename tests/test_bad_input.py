"""Whatever is given to Linear and convolutions: an error that says what to do, or the right answer.

None of it may reach a kernel: there an address leaves its array.
"""

import warnings

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import lamina as lm
from contract import assert_same, random

LAYERS = {
    "Linear": (lambda **kw: lm.Linear(4, 3, rng=0, **kw), (5, 4)),
    "Conv1d": (lambda **kw: lm.Conv1d(4, 3, 2, rng=0, **kw), (5, 6, 4)),
    "causal Conv1d": (lambda **kw: lm.Conv1d(4, 3, 2, padding="causal", rng=0, **kw), (5, 6, 4)),
    "Conv2d": (lambda **kw: lm.Conv2d(4, 6, 2, groups=2, rng=0, **kw), (5, 6, 3, 4)),
    "depthwise Conv2d": (lambda **kw: lm.Conv2d(4, 4, 2, groups=4, rng=0, **kw), (5, 6, 3, 4)),
    "ConvTranspose1d": (lambda **kw: lm.ConvTranspose1d(4, 3, 2, rng=0, **kw), (5, 6, 4)),
    "ConvTranspose2d": (
        lambda **kw: lm.ConvTranspose2d(4, 6, 3, stride=2, groups=2, rng=0, **kw),
        (5, 6, 3, 4),
    ),
    "Conv3d": (lambda **kw: lm.Conv3d(4, 3, 2, padding="same", rng=0, **kw), (2, 3, 4, 2, 4)),
}
every = pytest.mark.parametrize("name", LAYERS)


def calls(name):
    """A layer as it is called, in training, by its formula, and as an inference model."""
    make, shape = LAYERS[name]
    layer = make()

    def by_formula(x):
        with lm.formulas():
            return layer(x)

    fixed = layer.for_inference()
    ways = layer, lambda x: layer.forward(x, training=True)[0], by_formula, fixed
    return ways, random("x", shape, np.float32)


# Refused

SHAPES = {
    "no axes": lambda x: x[(0,) * x.ndim],
    "one channel less": lambda x: x[..., :-1],
    "one channel more": lambda x: np.concatenate([x, x[..., :1]], axis=-1),
    "no channels": lambda x: x[..., :0],
    "channels first": lambda x: np.moveaxis(x, -1, 0)[..., :3],
}
RANKS = {
    "an axis less": lambda x: x[0],
    "an axis more": lambda x: x[None],
    "two axes": lambda x: x.reshape(-1, 4)[:1],
}


@every
@pytest.mark.parametrize("form", [*SHAPES, *RANKS])
def test_shapes(name, form):
    if name == "Linear" and form in RANKS:
        return  # takes any number of axes
    ways, x = calls(name)
    x = {**SHAPES, **RANKS}[form](x)
    for call in ways:
        with pytest.raises(
            ValueError, match=r"(Linear|Conv(?:Transpose)?.d)\(.*\): x has .*, expected \d"
        ):
            call(x)


DTYPES = {
    "float64": (lambda x: x.astype(np.float64), r"float64, expected float32; cast it: .*astype"),
    "float16": (lambda x: x.astype(np.float16), r"float16, expected float32; cast it: .*astype"),
    "longdouble": (lambda x: x.astype(np.longdouble), r"\w+, expected float32; cast it"),
    "complex": (lambda x: x.astype(np.complex64), "complex64, expected float32; cast it"),
    "integers": (lambda x: x.astype(int), "int64, expected float32; cast it"),
    "booleans": (lambda x: x > 0, "bool, expected float32; cast it"),
    "objects": (lambda x: x.astype(object), "object, expected float32; cast it"),
    "strings": (lambda x: x.astype(str), "<U32, expected float32; cast it"),
    "dates": (lambda x: x.astype(int).astype("M8[s]"), r"datetime64\[s\], expected float32"),
    "records": (lambda x: x.view([("a", "f4")]), r"\[\('a', '<f4'\)\], expected float32"),
    "a list": (lambda x: x.tolist(), r"float64, expected float32; cast it: np.asarray\(x"),
    "None": (lambda x: None, "object, expected float32; cast it"),
    "a masked array": (lambda x: np.ma.masked_less(x, 0), r"masked array, .* fill it first"),
}


@every
@pytest.mark.parametrize("form", DTYPES)
def test_dtypes(name, form):
    ways, x = calls(name)
    change, message = DTYPES[form]
    for call in ways:
        with pytest.raises(TypeError, match=rf"(Linear|Conv(?:Transpose)?.d)\(.*\): x .*{message}"):
            call(change(x))


class Sparse:
    """What SciPy's sparse matrices are to NumPy: an object that has a `toarray`."""

    def toarray(self):
        return np.ones((2, 4), np.float32)


def test_a_sparse_matrix_is_told_to_be_filled():
    model, x, y = lm.Sequential(lm.Linear(4, 3, rng=0)), Sparse(), np.zeros((2, 3), np.float32)
    calls = {
        r"Linear\(4, 3\)": lambda: model(x),
        "predict": lambda: lm.predict(model, x),
        "evaluate": lambda: lm.evaluate(model, (x, y), loss=lm.MeanSquaredError()),
    }
    for who, call in calls.items():
        with pytest.raises(TypeError, match=rf"^{who}: x is a sparse matrix; fill it: x\.toarray"):
            call()


@every
@pytest.mark.parametrize("form", ["float64", "complex", "objects", "a masked array", "None"])
def test_gradients_of_another_dtype(name, form):
    make, shape = LAYERS[name]
    layer = make()
    y, cache = layer.forward(random("x", shape, np.float32), training=True)
    change, message = DTYPES[form]
    with pytest.raises(TypeError, match=rf"(Linear|Conv(?:Transpose)?.d)\(.*\): dy .*{message}"):
        layer.backward(change(y), cache)
    for wrong in (y[:-1], y[..., None], y[..., :-1], y.T):
        with pytest.raises(ValueError, match=r"dy has shape .*, expected .*, the shape of y"):
            layer.backward(wrong, cache)


@every
def test_ragged_lists(name):
    ways, _ = calls(name)
    for call in ways:
        with pytest.raises(ValueError, match=r"\): x is no array, its rows differ in shape; .*pad"):
            call([[1.0, 2.0], [3.0]])


def test_results_not_taken_apart():
    layer, loss, x = lm.Linear(3, 3, rng=0), lm.CrossEntropy(), random("x", (4, 3), np.float32)
    given = layer.forward(x, training=True)
    y, cache = given
    value = loss(y, [0, 1, 2, 0])
    back = layer.backward(y, cache)
    for call, name, types in (
        (lambda: lm.Tanh()(given), "x", "ndarray, tuple"),
        (lambda: layer.forward(given, training=True), "x", "ndarray, tuple"),
        (lambda: loss(given, [0, 1, 2, 0]), "y", "ndarray, tuple"),
        (lambda: layer.backward(value, cache), "dy", "float, ndarray"),
        (lambda: layer.backward(back, cache), "dy", "ndarray, dict"),
    ):
        with pytest.raises(TypeError, match=rf": {name} is no array, but a tuple \({types}\);"):
            call()


SIZES = {
    "0": (0, ValueError, "must be at least 1, got 0"),
    "-1": (-1, ValueError, "must be at least 1, got -1"),
    "1.0": (1.0, TypeError, "must be an integer, got 1.0"),
    "True": (True, TypeError, "must be an integer, got True"),
    "None": (None, TypeError, "must be an integer, got None"),
    "'2'": ("2", TypeError, "must be an integer, got '2'"),
}


@pytest.mark.parametrize("size", SIZES)
def test_sizes_and_options(size):
    value, error, message = SIZES[size]
    for make in (
        lambda: lm.Linear(value, 3),
        lambda: lm.Linear(3, value),
        lambda: lm.Conv1d(value, 3, 2),
        lambda: lm.Conv2d(3, value, 2),
        lambda: lm.Conv3d(3, 3, value),
        lambda: lm.Conv2d(3, 3, (2, value)),
        lambda: lm.Conv1d(3, 3, 2, stride=value),
        lambda: lm.Conv2d(3, 3, 2, stride=(1, value)),
        lambda: lm.Conv3d(3, 3, 2, dilation=value),
        lambda: lm.Conv1d(3, 3, 2, groups=value),
        lambda: lm.ConvTranspose2d(3, 3, (2, value), stride=2),
    ):
        with pytest.raises(error, match=rf"^(Linear|Conv(?:Transpose)?.d)\(.*\): \w+ {message}"):
            make()


@every
def test_a_flag_is_true_or_false(name):
    make, _ = LAYERS[name]
    assert make(bias=1).has_bias is True


@pytest.mark.parametrize(
    "layer", [lm.Conv1d(1, 1, 2, rng=0), lm.ConvTranspose1d(1, 1, 2, rng=0), lm.MaxPool1d(2)]
)
def test_lengths_to_follow(layer):
    for lengths, error, message in (
        ([2.7, 3.0], TypeError, r"integers, got dtype float64; cast them: lengths.astype"),
        ([True, False], TypeError, r"integers, got dtype bool; a mask has them as mask.sum"),
        ([3, -1], ValueError, r"at least 0, got -1"),
    ):
        with pytest.raises(error, match=rf"^\w+\(.*\): lengths must be {message}"):
            layer.output_lengths(lengths)
    assert_same(layer.output_lengths([]), np.zeros(0, np.int64))


def test_sizes_that_no_memory_holds():
    for make in (lambda: lm.Linear(2**40, 2**40), lambda: lm.Conv2d(2**20, 2**20, 2**20)):
        with pytest.raises((MemoryError, ValueError)):
            make()
    x = np.zeros((1, 2, 1), np.float32)
    for layer in (
        lm.Conv1d(1, 1, 1, padding=2**62),
        lm.Conv1d(1, 1, 1, padding=2**40, stride=2**40),
        lm.Conv1d(1, 1, 1, stride=2**70),
        lm.Conv1d(1, 1, 2, dilation=2**64, padding=2**63),
        lm.MaxPool1d(1, stride=2**70),
        lm.ConvTranspose1d(1, 1, 1, stride=2**62),
        lm.ConvTranspose1d(1, 1, 2, dilation=2**64, padding=2**63),
    ):
        for lengths in (None, [2]):
            with pytest.raises(ValueError, match=r"1d\(.*\): stride .* that any memory holds"):
                layer(x, lengths=lengths)
    nothing = as_strided(np.zeros(4, np.float32), (2**50, 4), (0, 4))
    with pytest.raises((MemoryError, ValueError)):
        lm.Linear(4, 3)(nothing)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lm.Conv1d(4, 3, 5), (2, 4, 4)),
        (lm.Conv1d(4, 3, 3, dilation=4, padding=2), (2, 4, 4)),
        (lm.Conv2d(4, 3, (2, 9), padding=1), (2, 3, 6, 4)),
        (lm.Conv3d(4, 3, 3, padding=((0, 0), (1, 1), (1, 1))), (2, 2, 3, 3, 4)),
    ],
)
def test_windows_larger_than_the_padded_input(layer, shape):
    x = np.zeros(shape, np.float32)
    for call in (layer, layer.for_inference()):
        with pytest.raises(ValueError, match=r"the window spans \d+ elements, x has .* with padd"):
            call(x)


# Parameters that are no longer what they were


@every
@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[..., :-1].copy(),
        lambda a: np.concatenate([a, a], axis=-1),
        lambda a: a.reshape(-1),
        lambda a: a.astype(np.float64),
        lambda a: a.astype(np.float16),
        lambda a: a[:0],
    ],
)
def test_parameters_of_another_form(name, change):
    make, shape = LAYERS[name]
    for parameter in ("weight", "bias"):
        layer = make()
        before = layer.params[parameter]
        layer.params[parameter] = after = change(before)
        if (after.shape, after.dtype) == (before.shape, before.dtype):
            continue  # a bias has one axis anyway
        for call in (layer, lambda x, layer=layer: layer.for_inference()(x)):
            with pytest.raises(ValueError, match=f"{parameter} has become an array of shape"):
                call(random("x", shape, np.float32))


@every
@pytest.mark.parametrize("dtypes", [(np.float32, np.float64), (np.float64, np.float32)])
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_that_are_all_of_another_dtype(name, bias, dtypes):
    make, shape = LAYERS[name]
    dtype, other = dtypes
    layer, x = make(bias=bias, dtype=dtype), random("x", shape, dtype)
    layer.params = {key: a.astype(other) for key, a in layer.params.items()}

    def by_formula(x):
        with lm.formulas():
            return layer(x)

    def train(x):
        return layer.forward(x, training=True)

    for call in (by_formula, layer, layer, train, train, lambda x: layer.for_inference()(x)):
        with pytest.raises(ValueError, match="weight has become an array of shape"):
            call(x)
        with pytest.raises((ValueError, TypeError), match=f"expected .*{dtype.__name__}"):
            call(x.astype(other))


@pytest.mark.parametrize("name", ["gamma", "beta", "running_mean", "running_var"])
def test_arrays_of_a_batchnorm_of_another_form(name):
    for change in (lambda a: a[:-1].copy(), lambda a: a.astype(np.float64), lambda a: a[None]):
        layer = lm.BatchNorm(5)
        arrays = layer.params if name in layer.params else layer.buffers
        arrays[name] = change(arrays[name])
        for training in (False, True):
            with pytest.raises(ValueError, match=f"{name} has become an array of shape"):
                layer.forward(random("x", (4, 5), np.float32), training=training)


def test_assignment_of_another_form():
    layer = lm.Linear(4, 3, rng=0)
    before = layer.weight.copy()
    for value, error, message in (
        (np.ones((3, 4)), ValueError, r"\(4, 3\), got \(3, 4\); its outputs .*transpose\(1, 0\)$"),
        (np.ones((3, 5)), ValueError, r"weight has shape \(4, 3\), got \(3, 5\)$"),
        (np.ones((4, 3), complex), TypeError, "weight has dtype float32, got complex128"),
        (np.full((4, 3), "a"), TypeError, "weight has dtype float32, got <U1"),
        (np.full((4, 3), None), TypeError, "weight has dtype float32, got object"),
        ([[1.0], [1.0, 2.0]], ValueError, r"Linear\(4, 3\): weight is no array, its rows"),
        (np.ma.masked_array(before), TypeError, r"Linear\(4, 3\): weight is a masked array"),
    ):
        with pytest.raises(error, match=message):
            layer.weight = value
    assert_same(layer.weight, before)
    conv = lm.Conv2d(4, 8, (3, 2))
    with pytest.raises(ValueError, match=r"got \(8, 4, 3, 2\); .*: array.transpose\(2, 3, 1, 0\)$"):
        conv.weight = np.ones((8, 4, 3, 2))


@pytest.mark.parametrize("layer", [lm.Linear(4, 3), lm.BatchNorm(4), lm.LSTM(4, 3)])
def test_what_is_no_array_does_not_become_one(layer):
    for arrays in (layer.params, layer.buffers):
        for name, before in list(arrays.items()):
            refused = pytest.raises(TypeError, match=f"^{name} must be a NumPy array, got .* write")
            with refused:
                arrays[name] = before.tolist()
            with refused:
                arrays.update({name: 1.0})
            with refused:
                arrays |= {name: None}
            assert arrays[name] is before
    with pytest.raises(TypeError, match=r"^scale must be a NumPy array, got 1"):
        layer.params = {"scale": 1}


# Served


def misaligned(x):
    other = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    other[...] = x
    assert not other.flags.aligned
    return other


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


class Subclass(np.ndarray):
    """An array of a class of one's own."""


SERVED = {
    "swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "misaligned": misaligned,
    "read-only": read_only,
    "Fortran order": np.asfortranarray,
    "every second": lambda x: np.repeat(np.repeat(x, 2, axis=0), 2, axis=-1)[::2, ..., ::2],
    "reversed": lambda x: x[::-1, ..., ::-1].copy()[::-1, ..., ::-1],
    "of a subclass": lambda x: x.view(Subclass),
    "swapped and misaligned": lambda x: misaligned(x.astype(x.dtype.newbyteorder())),
}


@every
@pytest.mark.parametrize("form", SERVED)
def test_other_memory(name, form):
    ways, x = calls(name)
    other = SERVED[form](x)
    before = other.copy()
    for call in ways:
        y = call(other)
        assert_same(y, call(x))
        assert type(y) is np.ndarray or form == "of a subclass"
        assert y.dtype.isnative
        assert not np.shares_memory(y, other)
    assert_same(np.asarray(other), np.asarray(before))


@every
def test_memory_that_is_read_more_than_once(name):
    ways, x = calls(name)
    alike = np.broadcast_to(x[:1], x.shape)
    overlapping = as_strided(x, x.shape, (x.itemsize, *x.strides[1:]))  # samples one element apart
    for call in ways:
        assert_same(call(alike), call(alike.copy()))
        assert_same(call(overlapping), call(overlapping.copy()))


@every
@pytest.mark.parametrize("form", ["swapped", "misaligned", "Fortran order", "reversed"])
def test_gradients_in_other_memory(name, form):
    make, shape = LAYERS[name]
    layer = make()
    y, cache = layer.forward(random("x", shape, np.float32), training=True)
    dy = random("dy", y.shape, np.float32)
    dx, grads = layer.backward(dy, cache)
    other_dx, other = layer.backward(SERVED[form](dy), cache)
    assert_same(other_dx, dx)
    for key, g in grads.items():
        assert_same(other[key], g)


@pytest.mark.parametrize("form", ["swapped", "misaligned", "read-only", "Fortran order"])
@pytest.mark.parametrize("layer", [lm.RNN, lm.LSTM])
def test_steps_from_other_memory(layer, form):
    model, x_t = layer(5, 7, layers=2, rng=0), random("x", (3, 5), np.float32)
    state = model.initial_state(3)
    _, state = model.step(x_t, state)
    other = tuple(tuple(SERVED[form](a) for a in entry) for entry in state)
    for one in (model, model.for_inference()):
        y_t, after = one.step(x_t, state)
        other_y, other_after = one.step(SERVED[form](x_t), other)
        assert_same(other_y, y_t)
        for entry, other_entry in zip(after, other_after, strict=True):
            for a, b in zip(entry, other_entry, strict=True):
                assert_same(b, a)
                assert b.flags.aligned


def test_values_from_the_array_itself():
    """Assigning what overlaps the array takes the values of before."""
    layer = lm.Linear(4, 4, rng=0)
    before = layer.weight.copy()
    layer.weight = layer.weight.T
    assert_same(layer.weight, before.T)
    layer.weight = layer.weight[::-1]
    assert_same(layer.weight, before.T[::-1])
    layer.weight = layer.weight.astype(">f8")
    assert_same(layer.weight, before.T[::-1])


@every
def test_nothing_of_all_this_warns(name):
    ways, x = calls(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in ways:
            call(x)
            call(x[:0])
            call(np.zeros_like(x))
