import contextlib
import copy
import math
import os
import platform
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import lamina as lm
from contract import assert_close, assert_same, random
from lamina.engine import memory
from lamina.engine.threads import threads
from lamina.train import Optimizer, fused

NAMES = {"0.weight": (4, 3), "0.bias": (3,), "1.gamma": (3,), "2.weight": (3, 2)}


def params(dtype=np.float64):
    return {name: random(name, shape, dtype) for name, shape in NAMES.items()}


def grads(t, dtype=np.float64):
    return {name: random(f"{name} {t}", shape, dtype) for name, shape in NAMES.items()}


def run(optimizer, steps=5, dtype=np.float64):
    theta = params(dtype)
    for t in range(steps):
        optimizer.step(theta, grads(t, dtype))
    return theta


TWINS = {
    "sgd": (lambda: lm.SGD(0.1), "SGD", {"lr": 0.1}),
    "sgd decay": (
        lambda: lm.SGD(0.1, weight_decay=0.3, no_decay=()),
        "SGD",
        {"lr": 0.1, "weight_decay": 0.3},
    ),
    "momentum": (lambda: lm.SGD(0.1, 0.9), "SGD", {"lr": 0.1, "momentum": 0.9}),
    "nesterov": (
        lambda: lm.SGD(0.1, 0.9, nesterov=True, weight_decay=0.2, no_decay=()),
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.2},
    ),
    "adam": (lambda: lm.Adam(), "Adam", {}),
    "adam options": (
        lambda: lm.Adam(0.1, (0.7, 0.8), 1e-3, weight_decay=0.3, no_decay=()),
        "Adam",
        {"lr": 0.1, "betas": (0.7, 0.8), "eps": 1e-3, "weight_decay": 0.3},
    ),
    "adamw": (lambda: lm.AdamW(no_decay=()), "AdamW", {}),
    "adamw options": (
        lambda: lm.AdamW(0.1, weight_decay=0.5, no_decay=()),
        "AdamW",
        {"lr": 0.1, "weight_decay": 0.5},
    ),
    "rmsprop": (lambda: lm.RMSprop(), "RMSprop", {}),
    "rmsprop options": (
        lambda: lm.RMSprop(0.1, 0.7, 1e-3, weight_decay=0.3, no_decay=()),
        "RMSprop",
        {"lr": 0.1, "alpha": 0.7, "eps": 1e-3, "weight_decay": 0.3},
    ),
}


def like_torch(name, options, clip_norm=None):
    torch = pytest.importorskip("torch")
    theta = {n: torch.tensor(p, requires_grad=True) for n, p in params().items()}
    optimizer = getattr(torch.optim, name)(theta.values(), **options)
    for t in range(5):
        for n, g in grads(t).items():
            theta[n].grad = torch.tensor(g)
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(theta.values(), clip_norm)
        optimizer.step()
    return {n: p.detach().numpy() for n, p in theta.items()}


@pytest.mark.peers
@pytest.mark.parametrize("twin", TWINS)
def test_like_torch(twin):
    ours, name, options = TWINS[twin]
    expected = like_torch(name, {"lr": 1e-3} | options if name == "SGD" else options)
    for n, p in run(ours()).items():
        assert_close(p, expected[n], np.float64, what=n)


@pytest.mark.peers
def test_clips_like_torch():
    expected = like_torch("SGD", {"lr": 0.1, "momentum": 0.9}, clip_norm=2.0)
    for n, p in run(lm.SGD(0.1, 0.9, clip_norm=2.0)).items():
        np.testing.assert_allclose(p, expected[n], rtol=1e-5, atol=1e-6)  # torch adds 1e-6 to it


ALL = [
    lambda: lm.SGD(0.1),
    lambda: lm.SGD(0.1, 0.9),
    lambda: lm.Adam(),
    lambda: lm.AdamW(),
    lambda: lm.RMSprop(),
]


@pytest.mark.parametrize("make", ALL)
def test_writes_into_the_arrays_that_are_there(make):
    theta, given = params(np.float32), grads(0, np.float32)
    arrays, before, given_before = dict(theta), copy.deepcopy(theta), copy.deepcopy(given)
    optimizer = make()
    optimizer.step(theta, given)
    for name, p in theta.items():
        assert p is arrays[name]
        assert p.dtype == np.float32
        assert not np.array_equal(p, before[name])
        assert_same(given[name], given_before[name])
        for slot in optimizer.slots.get(name, {}).values():
            assert slot.dtype in (np.float32, np.int64)
    assert optimizer.steps == 1


@pytest.mark.parametrize("make", ALL)
def test_same_bits_twice_and_from_a_copy(make):
    first, again = run(make()), run(make())
    for name in first:
        assert_same(first[name], again[name])
    optimizer = make()
    run(optimizer, steps=2)
    other = copy.deepcopy(optimizer)
    one, two = run(optimizer), run(other)
    for name in one:
        assert_same(one[name], two[name])


@pytest.mark.parametrize("make", ALL)
def test_reaches_the_minimum_of_a_bowl(make):
    optimizer = make()
    optimizer.lr = lm.Cosine(0.1, steps=500)
    theta = {"theta": np.array([3.0, -2.0])}
    for _ in range(500):
        optimizer.step(theta, {"theta": theta["theta"] * [1, 4]})
    assert np.max(np.abs(theta["theta"])) < 1e-2


@pytest.mark.parametrize("kind", [lm.SGD, lm.Adam, lm.AdamW, lm.RMSprop])
def test_decay_spares_biases_and_scales(kind):
    zero = {name: np.zeros(shape) for name, shape in NAMES.items()}
    theta = params()
    kind(0.1, weight_decay=0.5).step(theta, zero)
    for name, p in theta.items():
        spared = name in ("0.bias", "1.gamma")
        assert np.array_equal(p, params()[name]) == spared, name
    theta = params()
    kind(0.1, weight_decay=0.5, no_decay="2.*").step(theta, zero)
    for name, p in theta.items():
        assert np.array_equal(p, params()[name]) == name.startswith("2."), name


def test_groups():
    optimizer = lm.SGD(
        1.0,
        weight_decay=0.5,
        groups={
            "0.*": {"lr": 0.1},
            "0.b*": {"lr": lm.StepDecay(0.01, every=1)},
            "2.*": {"weight_decay": 0},
        },
    )
    theta = params()
    for t in range(2):
        before = copy.deepcopy(theta)
        optimizer.step(theta, grads(t))
        step = {name: theta[name] - before[name] for name in theta}
        g = grads(t)
        weight = g["0.weight"] + 0.5 * before["0.weight"]
        assert_close(step["0.weight"], -0.1 * weight, np.float64)
        assert_close(step["0.bias"], -(0.01 * 0.1**t) * g["0.bias"], np.float64)
        assert_close(step["1.gamma"], -g["1.gamma"], np.float64)
        assert_close(step["2.weight"], -g["2.weight"], np.float64)


def test_a_schedule_counts_updates_from_0():
    seen = []
    optimizer = lm.SGD(lambda t: seen.append(t) or 0.1)
    seen.clear()
    run(optimizer, steps=3)
    assert sorted(set(seen)) == [0, 1, 2]


def test_clips_the_norm_of_all_gradients_together():
    theta = {"a": np.zeros(2, np.float32), "b": np.zeros(1, np.float32)}
    g = {"a": np.array([3e30, 0], np.float32), "b": np.array([4e30], np.float32)}
    lm.SGD(1.0, clip_norm=10.0).step(theta, g)  # its square is beyond float32
    assert_close(theta["a"], [-6, 0], np.float32)
    assert_close(theta["b"], [-8], np.float32)
    theta = {"a": np.zeros(2)}
    lm.SGD(1.0, clip_norm=10.0).step(theta, {"a": np.array([3.0, 4.0])})
    assert_same(theta["a"], np.array([-3.0, -4.0]))


def test_adam_counts_each_parameter_by_itself():
    early, late = params(), params()
    optimizer = lm.Adam(0.1)
    for t in range(3):
        optimizer.step({"0.bias": early["0.bias"]}, grads(t))
    optimizer.step({"2.weight": early["2.weight"]}, grads(0))
    lm.Adam(0.1).step({"2.weight": late["2.weight"]}, grads(0))
    assert_same(early["2.weight"], late["2.weight"])


def test_arrays_that_take_the_place_of_others_are_seen():
    """Parameters, slots and gradients, and what is set; a copy goes on by itself."""
    optimizer, theta = lm.Adam(0.1), params()
    other, twin = lm.Adam(0.1), params()
    for t in range(6):
        if t == 1:
            theta["0.weight"] = theta["0.weight"].copy()
        elif t == 2:
            optimizer.slots["0.bias"]["mean"] = optimizer.slots["0.bias"]["mean"].copy()
        elif t == 3:
            optimizer.lr = other.lr = 0.01
            optimizer.no_decay = other.no_decay = ("1.*",)
            optimizer.weight_decay = other.weight_decay = 0.1
        elif t == 4:
            copied = copy.deepcopy(optimizer)
            copied.step(copy.deepcopy(theta), grads(9))
        with lm.formulas() if t == 5 else contextlib.nullcontext():
            optimizer.step(theta, {n: np.asfortranarray(g) for n, g in grads(t).items()})
            for name, p in twin.items():
                other.step({name: p}, grads(t))
    for name, p in theta.items():
        assert_same(p, twin[name])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("make", ALL)
def test_refuses_gradients_that_are_not_finite_and_writes_nothing(make, bad):
    theta, g, optimizer = params(), grads(0), make()
    optimizer.step(theta, g)
    before, slots = copy.deepcopy(theta), copy.deepcopy(optimizer.slots)
    g["2.weight"][1, 1] = bad
    with pytest.raises(
        FloatingPointError, match=r"the gradient of 2.weight holds NaN or infinity; lower"
    ):
        optimizer.step(theta, g)
    for name, p in theta.items():
        assert_same(p, before[name])
        for slot, a in optimizer.slots.get(name, {}).items():
            assert_same(a, slots[name][slot])
    assert optimizer.steps == 1


def test_refuses_gradients_that_do_not_fit():
    theta = params()
    with pytest.raises(ValueError, match=r"SGD: no gradient for 0.weight; there are 0.bias, 1"):
        lm.SGD(0.1).step(theta, {n: g for n, g in grads(0).items() if n != "0.weight"})
    with pytest.raises(ValueError, match=r"the gradient of 0.bias has shape \(2,\), not \(3,\)"):
        lm.SGD(0.1).step(theta, grads(0) | {"0.bias": np.zeros(2)})
    with pytest.raises(
        TypeError, match=r"gradient of 0.bias must be an array of real numbers, got \[0, 0, 0\]"
    ):
        lm.SGD(0.1).step(theta, grads(0) | {"0.bias": [0, 0, 0]})
    optimizer = lm.Adam()
    run(optimizer)
    with pytest.raises(ValueError, match=r"Adam: remembers 0.bias in another shape than \(4,\)"):
        optimizer.step({"0.bias": np.zeros(4)}, {"0.bias": np.zeros(4)})


def test_refuses_what_it_cannot_change():
    layer, w = lm.Linear(2, 2, rng=0), {"w": np.zeros(2)}
    with pytest.raises(TypeError, match=r"SGD: params .* model.params say, got Linear\(2, 2\)"):
        lm.SGD(0.1).step(layer, {})
    with pytest.raises(TypeError, match=r"SGD: grads .* what backward returns .*, got tuple"):
        lm.SGD(0.1).step(layer.params, (np.zeros(2), {}))
    for p in ([0.0, 0.0], np.float64(0)):
        with pytest.raises(TypeError, match="SGD: the parameter w must be an array, which can"):
            lm.SGD(0.1).step({"w": p}, w)
    with pytest.raises(TypeError, match=r"SGD: the parameter w has dtype int64, .* a.astype\(np"):
        lm.SGD(0.1).step({"w": np.zeros(2, np.int64)}, w)


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("make", ALL)
def test_refuses_a_parameter_that_is_read_only_and_writes_nothing(make, planned):
    theta, optimizer = params(), make()
    if planned:
        optimizer.step(theta, grads(0))
    before, slots = copy.deepcopy(theta), copy.deepcopy(optimizer.slots)
    theta["2.weight"].flags.writeable = False
    with pytest.raises(ValueError, match=r"2.weight is read-only; leave .*copy.deepcopy\(model\)$"):
        optimizer.step(theta, grads(1))
    for name, p in theta.items():
        assert_same(p, before[name])
        for slot, a in optimizer.slots.get(name, {}).items():
            assert_same(a, slots[name][slot])
    assert optimizer.steps == planned


@pytest.mark.parametrize("formulas", [False, True])
@pytest.mark.parametrize("make", ALL)
def test_writes_nothing_where_a_schedule_fails(make, formulas):
    """The settings of one group may be wrong, those of the others right."""
    theta, twin = params(), params()
    optimizer, other = make(), make()
    optimizer.groups = {"*.bias": {"lr": lambda t: 0.1 if t < 1 else -1.0}}
    other.groups = {"*.bias": {"lr": 0.1}}
    with lm.formulas() if formulas else contextlib.nullcontext():
        optimizer.step(theta, grads(0))
        with pytest.raises(ValueError, match=r"learning rate of update 1 must lie in .* got -1"):
            optimizer.step(theta, grads(1))
        optimizer.groups["*.bias"]["lr"] = 0.1
        optimizer.step(theta, grads(1))
        for t in range(2):
            other.step(twin, grads(t))
    for name, p in theta.items():
        assert_same(p, twin[name])
    assert optimizer.steps == 2


def test_refuses_a_group_that_fits_nothing():
    optimizer = lm.SGD(0.1, groups={"9.*": {"lr": 1}})
    with pytest.raises(ValueError, match=r"SGD: group '9.\*' fits no parameter; .* 0.weight, 0.b"):
        run(optimizer)


def test_refuses_a_decay_that_spares_all():
    params = {"0.weight": np.ones(2), "0.bias": np.ones(2)}
    groups = {"*bias": {"weight_decay": 0.5}}
    with pytest.raises(
        ValueError, match=r"SGD: group '\*bias' sets a weight_decay .*no_decay=\(\)"
    ):
        lm.SGD(0.1, groups=groups).step(params, params)
    assert (params["0.bias"] == 1).all()
    still = {name: np.zeros(2) for name in params}
    for fine in (
        lm.SGD(0.1, groups=groups, no_decay=()),
        lm.SGD(0.1, groups={"0.*": {"weight_decay": 0.5}}),
        lm.SGD(0.1, groups={"*bias": {"weight_decay": 0, "lr": 0.2}}),
        lm.SGD(0.1, groups={"*bias": {"weight_decay": 0.5, "lr": 0.2}}),  # by layers, say
    ):
        fine.step(params, still)
    assert_same(params["0.bias"], np.full(2, 0.95))


def test_refuses_two_names_of_one_array():
    a = np.ones((2, 2))
    for other in (a, a.T, a[:]):
        with pytest.raises(ValueError, match="SGD: a and b are one array; leave one of them out"):
            lm.SGD(0.1).step({"a": a, "b": other}, {"a": a, "b": a})
    assert (a == 1).all()
    none = np.ones(0)
    lm.SGD(0.1).step({"a": none, "b": none}, {"a": none, "b": none})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lm.SGD(-0.1), ValueError, "the learning rate of update 0 must lie in"),
        (lambda: lm.SGD("fast"), TypeError, "must be a number, got 'fast'"),
        (lambda: lm.SGD(0.1, 1.0), ValueError, r"SGD: momentum must lie in \[0, 1\), got 1.0"),
        (lambda: lm.SGD(0.1, nesterov=True), ValueError, "nesterov=True needs a momentum above 0"),
        (lambda: lm.Adam(betas=0.9), ValueError, "Adam: betas must be a pair of numbers, got 0.9"),
        (lambda: lm.AdamW(betas=(0.9, 1)), ValueError, r"AdamW: betas must lie in \[0, 1\), got 1"),
        (lambda: lm.Adam(eps=0), ValueError, "Adam: eps must be more than 0"),
        (lambda: lm.RMSprop(alpha=2), ValueError, r"RMSprop: alpha must lie in \[0, 1\)"),
        (lambda: lm.RMSprop(eps=0), ValueError, "RMSprop: eps must be more than 0"),
        (lambda: lm.SGD(0.1, dampening=0.1), TypeError, r"^SGD: got .*; it takes \(lr, momentum=0"),
        (lambda: lm.Adam(1, epsilon=1), TypeError, r"^Adam: got .*'epsilon'; .*, eps=1e-08, \*, w"),
        (lambda: lm.Adam(lm.Linear(4, 3).params), TypeError, r"Adam: lr .*, got a dict; para"),
        (lambda: lm.SGD(lm.Linear(4, 3)), TypeError, r"SGD: .*, got Linear\(4, 3\); par"),
        (lambda: lm.Adam(weight_decay=-1), ValueError, "Adam: weight_decay must lie in"),
        (lambda: lm.Adam(clip_norm=0), ValueError, "Adam: clip_norm must be more than 0, got 0"),
        (
            lambda: lm.Adam(groups={"0.*": {"beta": 1}}),
            ValueError,
            r"Adam: group '0.\*': an option must be one of 'lr', 'weight_decay'; got 'beta'",
        ),
        (
            lambda: lm.Adam(groups={"0.*": {"weight_decay": -1}}),
            ValueError,
            r"Adam: group '0.\*': weight_decay must lie in",
        ),
        (lambda: lm.Adam(groups={"0.*": {"lr": -1}}), ValueError, "the learning rate of update 0"),
        (
            lambda: lm.Adam(groups=[{"params": "0.*", "lr": 1}]),
            TypeError,
            r"Adam: groups must be a dict of patterns and settings, .*, got \[",
        ),
        (lambda: lm.Adam(groups={"0.*": 0.1}), TypeError, "Adam: groups must be a dict"),
        (lambda: lm.Adam(groups={0: {"lr": 1}}), TypeError, "Adam: groups must be a dict of patt"),
        (lambda: lm.Adam(no_decay=None), TypeError, "no_decay must be a pattern .*, got None"),
        (lambda: lm.Adam(no_decay=[3]), TypeError, r"no_decay must be a pattern .*, got \[3\]"),
    ],
)
def test_refuses_settings(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_says_how_it_is_set():
    optimizer = lm.SGD(0.1, 0.9, groups={"0.*": {"lr": 1}})
    run(optimizer)
    assert repr(eval(repr(optimizer), {"SGD": lm.SGD})) == repr(optimizer)


# In one pass


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", ALL)
def test_one_pass_is_the_update_term_by_term(make, dtype):
    """Of any size, with decay and clipping, on any number of threads."""
    rng = np.random.default_rng(0)
    shapes = {"a": (1,), "b": (33,), "c": (7, 5), "d": (300, 301), "e": (0,), "f_bias": (70,)}
    params = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    results = []
    for how in (lm.formulas(), threads(1), threads(2)):
        optimizer = make()
        optimizer.weight_decay, optimizer.clip_norm = 0.1, 5.0
        mine, rng = copy.deepcopy(params), np.random.default_rng(1)
        with how:
            for _ in range(3):
                optimizer.step(
                    mine, {n: rng.standard_normal(p.shape).astype(dtype) for n, p in mine.items()}
                )
        slots = {f"{n} {s}": a for n, own in optimizer.slots.items() for s, a in own.items()}
        results.append(mine | slots)
    term_by_term, one, two = results
    for name, a in one.items():
        assert_close(a, term_by_term[name], dtype, terms=20, what=name)
        np.testing.assert_array_equal(a, two[name], err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", fused.RULES)
def test_updates_past_the_caches_have_the_same_bits(rule, dtype, monkeypatch):
    rng = np.random.default_rng(0)
    slots = {"sgd": 0, "adam": 2}.get(rule, 1)
    p, g, *own = rng.random((2 + slots, 70_001)).astype(dtype)
    numbers = [[1, 0.1, 0.9, *[0.5] * fused.NUMBERS[rule]]]
    results = []
    for level_3 in (2**62, 0):
        monkeypatch.setattr(memory, "LEVEL_3", level_3)
        arrays = [a.copy() for a in (p, *own)]
        updates = fused.Updates(rule, arrays[:1], arrays[:1], [arrays[1:]], [0])
        assert updates.code == fused.RULES[rule][level_3 == 0](p.dtype)
        assert updates.update([g], numbers)
        results.append(arrays)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 2049, 5000, 200_001])
def test_sums_of_squares_and_of_zeros(size, dtype):
    a = np.random.default_rng(size).standard_normal(size).astype(dtype)
    ones, empty = np.ones(40_000, dtype), np.zeros((3, 0), dtype)
    gradients = [a, ones, empty]
    params = [a.copy() for a in gradients]
    updates = fused.Updates("sgd", params, params, [[]] * 3, [0] * 3)
    found = updates.squares(gradients)
    np.testing.assert_allclose(found, np.sum(a.astype(np.float64) ** 2) + 40_000, rtol=1e-12)
    with threads(1):
        assert updates.squares(gradients) == found
    assert updates.zeros(gradients) == 0
    for place in sorted({0, size // 2, size - 1} if size else ()):
        for value in (np.nan, np.inf, -np.inf):
            kept, a[place] = a[place], value
            assert not np.isfinite(updates.squares(gradients))
            assert np.isnan(updates.zeros(gradients))
            a[place] = kept
    a[: size // 2] = np.finfo(dtype).max
    assert updates.zeros(gradients) == 0


@pytest.mark.parametrize("make", [lambda: lm.SGD(0.1, momentum=0.9), lambda: lm.Adam(0.1)])
def test_parameters_of_two_dtypes_and_of_a_layout_that_kernels_do_not_read(make):
    rng = np.random.default_rng(0)
    params = {
        "wide": rng.standard_normal((5, 40)),
        "turned": rng.standard_normal((5, 40)).T,
        "narrow": rng.standard_normal(70).astype(np.float32),
        "large": rng.standard_normal(50_000).astype(np.float32),
    }
    together, apart = copy.deepcopy(params), copy.deepcopy(params)
    one, each = make(), {name: make() for name in params}
    for _ in range(3):
        grads = {n: rng.standard_normal(p.shape).astype(p.dtype) for n, p in params.items()}
        one.step(together, grads)
        for name, p in apart.items():
            each[name].step({name: p}, grads)
    for name, p in together.items():
        np.testing.assert_array_equal(p, apart[name], err_msg=name)


def test_moments_of_another_dtype_than_their_parameter():
    found = []
    for dtype in (np.float64, np.float32):
        optimizer, p = lm.Adam(0.1), {"p": np.ones(40)}
        optimizer.step(p, {"p": np.full(40, 0.5)})
        p = {"p": p["p"].astype(dtype)}
        optimizer.step(p, {"p": np.full(40, -0.25, dtype)})
        found.append(p["p"])
    assert_close(found[1], found[0], np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 15, 33, 40_000])
@pytest.mark.parametrize("formulas", [False, True])
def test_an_update_tells_whether_all_is_finite_and_what_was_before(size, dtype, formulas):
    params, grads = {"p": np.ones(size, dtype)}, {"p": np.full(size, 0.5, dtype)}
    before = {"p": np.empty(size, dtype)}
    with lm.formulas() if formulas else contextlib.nullcontext():
        optimizer = lm.SGD(1.0)
        assert optimizer._step(params, grads, before)
        assert (before["p"] == 1).all()
        assert (params["p"] == 0.5).all()
        for place in sorted({0, size // 2, size - 1}):
            params["p"][place] = np.inf
            assert not optimizer._step(params, grads, before)
            assert before["p"][place] == np.inf
            params["p"][place] = 0
        assert optimizer._step(params, grads, before)


def test_large_gradients_are_finite():
    """Their squares may not be."""
    params, grads = {"p": np.ones(5000)}, {"p": np.full(5000, 1e200)}
    lm.SGD(1e-210).step(params, grads)
    assert np.isfinite(params["p"]).all()


def test_updates_without_the_compiler():
    script = """
        import numpy as np
        from lamina.train import fused
        rng = np.random.default_rng(0)
        for rule in fused.RULES:
            arrays = [rng.random(100) for _ in range(4)]
            numbers = (1, 0.1, 0.9, *[0.5] * {"sgd": 1, "adam": 7}.get(rule, 4))
            slots = arrays[2:] if rule == "adam" else arrays[2:][: rule != "sgd"]
            before = [np.zeros(100) for _ in range(2)]
            updates = fused.Updates(rule, [arrays[0]] * 2, before, [slots] * 2, [0, 1])
            g = arrays[1]
            assert abs(updates.squares([g, g]) - 2 * g @ g) < 1e-9
            first = arrays[0].copy()
            assert updates.update([g, g], [numbers] * 2)
            assert all(np.isfinite(a).all() for a in arrays)
            assert (before[0] == first).all() and (before[1] != first).any()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1", "LAMINA_CACHE_DIR": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


OPTIMIZERS = (
    lambda: lm.SGD(0.1),
    lambda: lm.SGD(0.1, momentum=0.5),
    lambda: lm.SGD(0.1, clip_norm=0.5),
    lambda: lm.Adam(0.1),
    lambda: lm.AdamW(0.1),
    lambda: lm.RMSprop(0.1),
)


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_parameter_without_axes_whose_gradient_is_a_scalar(make, dtype):
    found = []
    for block in (contextlib.nullcontext(), lm.formulas()):
        params, optimizer = {"t": np.array(1.0, dtype)}, make()
        with block:
            for g in (-1.0, -2.0, 0.5):
                optimizer.step(params, {"t": dtype(g)})
        found.append([params["t"], *optimizer.slots["t"].values()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_momentum_that_is_set_later():
    params, grads, optimizer = {"w": np.ones(3)}, {"w": np.ones(3)}, lm.SGD(0.1)
    optimizer.step(params, grads)
    optimizer.momentum = 0.9
    optimizer.step(params, grads)
    np.testing.assert_allclose(params["w"], 0.8)
    optimizer.momentum = 0.0
    optimizer.step(params, grads)
    np.testing.assert_allclose(params["w"], 0.7)


def test_a_parameter_that_is_resized_in_place():
    w, optimizer = np.ones(300_000, np.float32), lm.SGD(0.5)
    params = {"w": w}
    optimizer.step(params, {"w": np.ones_like(w)})
    w.resize(10, refcheck=False)
    optimizer.step(params, {"w": np.ones(10, np.float32)})
    np.testing.assert_array_equal(w, np.zeros(10))


def test_gradients_that_the_parameter_cannot_hold():
    params, optimizer = {"w": np.ones(2, np.float32)}, lm.SGD(0.1, momentum=0.9)
    with pytest.raises(FloatingPointError, match="w has values that float32 cannot hold"):
        optimizer.step(params, {"w": np.array([1e39, 1.0])})
    np.testing.assert_array_equal(params["w"], 1)
    with pytest.raises(TypeError, match="array of real numbers, got dtype complex128"):
        optimizer.step(params, {"w": np.ones(2, complex)})


@pytest.mark.parametrize("block", [contextlib.nullcontext, lm.formulas])
def test_a_norm_whose_square_overflows(block):
    params = {"w": np.zeros(2)}
    with block():
        lm.SGD(1.0, clip_norm=1.0).step(params, {"w": np.array([3e200, 4e200])})
    np.testing.assert_allclose(params["w"], [-0.6, -0.8])


class Plain(Optimizer):
    def update(self, p, g, lr, slots):
        p -= lr * g


class Upwards(lm.SGD):
    def update(self, p, g, lr, slots):
        super().update(p, -g, lr, slots)


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_an_optimizer_of_ones_own_trains(clip_norm):
    found = []
    options = {"weight_decay": 0.1, "groups": {"2.*": {"lr": 0.05}}, "clip_norm": clip_norm}
    for make in Plain, lm.SGD:
        model = lm.Sequential(lm.Linear(3, 4), lm.Tanh(), lm.Linear(4, 2), rng=0)
        data, loss = (random("x", (8, 3)), np.arange(8) % 2), lm.CrossEntropy()
        optimizer = make(lm.Cosine(0.5, 6), **options)
        lm.fit(model, data, loss=loss, optimizer=optimizer, epochs=3, batch_size=4)
        found.append(model.params)
    for name, p in found[0].items():
        assert_close(p, found[1][name], np.float32)


def test_an_update_that_is_overridden_is_the_one_that_is_made():
    theta = {"theta": np.ones(3, np.float32)}
    Upwards(0.5).step(theta, {"theta": np.ones(3, np.float32)})
    assert_same(theta["theta"], np.full(3, 1.5, np.float32))


def test_patterns_from_an_iterator():
    theta = {name: np.ones(2) for name in "abc"}
    optimizer = lm.SGD(0.1, weight_decay=0.5, no_decay=iter(["b", "a"]))
    optimizer.step(theta, {name: np.zeros(2) for name in "abc"})
    assert [theta[name][0] for name in "abc"] == [1, 1, 0.95]


def test_a_pattern_that_moves_from_groups_to_no_decay():
    params, optimizer = (
        {"a": np.ones(2), "b": np.ones(2)},
        lm.SGD(0.1, groups={"a": {"lr": 0.2}}, no_decay=("b",)),
    )
    grads = {name: np.ones(2) for name in params}
    optimizer.step(params, grads)
    optimizer.groups, optimizer.no_decay = {}, ("a", "b")
    optimizer.step(params, grads)
    np.testing.assert_allclose(params["a"], 0.7)
    np.testing.assert_allclose(params["b"], 0.8)


def test_a_parameter_that_becomes_a_list():
    optimizer = lm.SGD(0.1)
    optimizer.step({"w": np.ones(2)}, {"w": np.ones(2)})
    with pytest.raises(TypeError, match="parameter w must be an array"):
        optimizer.step({"w": [1.0, 1.0]}, {"w": np.ones(2)})


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="a mode of x86 alone")
@pytest.mark.parametrize(
    "make", [lambda: lm.SGD(0.1, momentum=0.9), lambda: lm.Adam(0.1)], ids=["momentum", "mean"]
)
@pytest.mark.parametrize("size", [40, 40_000])
def test_what_fades_away_ends_at_zero_where_denormal_numbers_are(make, size):
    def faded(block):
        optimizer, theta = make(), {"w": np.ones(size, np.float32)}
        optimizer.step(theta, {"w": np.full(size, 1e-36, np.float32)})
        with block():
            for _ in range(200):
                optimizer.step(theta, {"w": np.zeros(size, np.float32)})
        return next(iter(optimizer.slots["w"].values()))

    assert np.all(faded(contextlib.nullcontext) > 0)
    # pytest imports modules with doctests a second time; this is the one that updates see.
    assert not faded(fused.denormals.flush_denormals).any()
    assert np.all(np.full(4, 1e-40, np.float32) * np.float32(0.5) > 0), "not restored"
