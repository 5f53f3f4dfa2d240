import tracemalloc

import numpy as np
import pytest

import lamina as lm
import problems
from contract import EPS, assert_close, assert_same, random
from lamina.parts import losses

CLASSES = (0.5, 2.0, 1.0, 0.0, 3.0)


def classes(shape):
    return np.random.default_rng(1).integers(0, 5, shape)


def some_classes(shape):
    """Classes, and -100 in the place of one of them."""
    found = classes(shape)
    return np.where(found == 2, -100, found)


def shares(shape):
    return np.random.default_rng(2).dirichlet(np.ones(shape[-1]), shape[:-1])


# Each loss with a function that draws a target for y of a shape.
LOSSES = {
    "mse": (lm.MeanSquaredError(), lambda shape: random("target", shape)),
    "huber": (lm.Huber(0.7), lambda shape: random("target", shape)),
    "bce": (lm.BinaryCrossEntropy(), lambda shape: shares(shape)),
    "bce, one weight": (lm.BinaryCrossEntropy(2.5), lambda shape: shares(shape)),
    "bce, weights": (lm.BinaryCrossEntropy(CLASSES), lambda shape: shares(shape)),
    "ce": (lm.CrossEntropy(), lambda shape: classes(shape[:-1])),
    "ce, shares": (lm.CrossEntropy(), shares),
    "ce, smooth": (lm.CrossEntropy(0.2), lambda shape: classes(shape[:-1])),
    "ce, weights": (lm.CrossEntropy(weights=CLASSES), lambda shape: classes(shape[:-1])),
    "ce, ignore": (lm.CrossEntropy(ignore=-100), lambda shape: some_classes(shape[:-1])),
    "ce, smooth, ignore": (
        lm.CrossEntropy(0.2, ignore=-100),
        lambda shape: some_classes(shape[:-1]),
    ),
    "ce, weights, ignore": (
        lm.CrossEntropy(weights=CLASSES, ignore=-100),
        lambda shape: some_classes(shape[:-1]),
    ),
    "ce, all": (lm.CrossEntropy(0.2, CLASSES), shares),
}
each_loss = pytest.mark.parametrize("name", LOSSES)


@each_loss
@pytest.mark.parametrize(
    ("shape", "lengths"), [((6, 5), None), ((4, 3, 5), None), ((4, 3, 5), (2, 0, 3, 1))]
)
@pytest.mark.parametrize("normalizer", [None, 17])
def test_gradient_against_central_differences(name, shape, lengths, normalizer):
    loss, draw = LOSSES[name]
    y, target = 2 * random("y", shape), draw(shape)
    value, dy = loss(y, target, lengths, normalizer)
    assert type(value) is float
    assert (dy.shape, dy.dtype) == (y.shape, y.dtype)
    v, h = random("v", shape), 1e-6
    ahead, behind = (loss(y + sign * h * v, target, lengths, normalizer)[0] for sign in (1, -1))
    assert np.sum(dy * v) == pytest.approx((ahead - behind) / (2 * h), rel=1e-7, abs=1e-9)


@each_loss
def test_float32_is_float64_rounded(name):
    loss, draw = LOSSES[name]
    y, target = random("y", (64, 5), np.float32), draw((64, 5))
    value, dy = loss(y, target)
    expected, dexpected = loss(y.astype(np.float64), target)
    assert dy.dtype == np.float32
    assert value == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(dy, dexpected, atol=1e-7)


@each_loss
def test_padding_is_ignored(name):
    loss, draw = LOSSES[name]
    lengths, shape = np.array([2, 0, 3, 1]), (4, 3, 5)
    y, target = random("y", shape), draw(shape)
    value, dy = loss(y, target, lengths)
    real = np.arange(3) < lengths[:, None]
    assert not dy[~real].any()
    alone, dalone = loss(y[real], target[real])
    assert value == pytest.approx(alone, rel=1e-14)
    np.testing.assert_allclose(dy[real], dalone, rtol=1e-13)

    y[~real] = np.nan
    target[~real] = -100 if target.dtype.kind == "i" else np.nan
    spoilt, dspoilt = loss(y, target, lengths.tolist())
    assert spoilt == value
    assert_same(dspoilt, dy)
    assert loss.count(target, lengths.tolist()) == pytest.approx(loss.count(target[real]))


@each_loss
def test_nothing_but_padding(name):
    loss, draw = LOSSES[name]
    y = np.full((2, 3, 5), np.nan, np.float32)
    value, dy = loss(y, draw((2, 3, 5)), [0, 0])
    assert value == 0
    assert_same(dy, np.zeros_like(y))
    value, dy = loss(y[:0], draw((0, 3, 5)))
    assert value == 0
    assert dy.shape == (0, 3, 5)


@each_loss
@pytest.mark.parametrize("lengths", [None, np.array([2, 0, 3, 1, 2])])
def test_parts_of_a_batch_add_to_the_whole(name, lengths):
    loss, draw = LOSSES[name]
    y, target = random("y", (5, 3, 5)), draw((5, 3, 5))
    parts = [
        (y[at], target[at], None if lengths is None else lengths[at])
        for at in (slice(0, 3), slice(3, 5))
    ]
    normalizer = sum(loss.count(*part[1:]) for part in parts)
    found = [loss(*part, normalizer) for part in parts]
    value, dy = loss(y, target, lengths)
    assert sum(v for v, _ in found) == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(np.concatenate([d for _, d in found]), dy, rtol=1e-13)


@each_loss
def test_count(name):
    loss, draw = LOSSES[name]
    target, lengths = draw((4, 3, 5)), [2, 0, 3, 1]
    weights = np.ones((4, 3))
    if isinstance(loss, lm.CrossEntropy) and loss.weights is not None:
        known = np.eye(5)[target % 5] if target.dtype.kind == "i" else target
        weights = known @ np.array(CLASSES)
    if "ignore" in name:
        weights[target == -100] = 0
    assert loss.count(target) == pytest.approx(weights.mean(axis=1).sum())
    real = np.arange(3) < np.array(lengths)[:, None]
    assert loss.count(target, lengths) == pytest.approx(weights[real].sum())


@each_loss
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_outputs(name, dtype):
    loss, _ = LOSSES[name]
    y = np.array([[1e4, -1e4, 0, 1e4, -1e4]] * 2, dtype)
    target = np.array([[0, 1, 0, 0, 0], [1, 0, 0, 0, 0]], dtype)
    value, dy = loss(y, target)
    assert np.isfinite(value)
    assert np.isfinite(dy).all()


def test_values_by_hand():
    y = np.array([[1.0, -2.0]])
    assert lm.MeanSquaredError()(y, [[0, 0]])[0] == 2.5
    assert lm.Huber(1.5)(y, [[0, 0]])[0] == pytest.approx((0.5 + 1.5 * (2 - 0.75)) / 2)
    value, dy = lm.CrossEntropy()(np.array([[1e4, 0.0], [0.0, 1e4]]), [1, 1])
    assert value == 5000
    np.testing.assert_array_equal(dy, [[0.5, -0.5], [0, 0]])
    value, dy = lm.BinaryCrossEntropy()(np.array([1e4, -1e4]), [False, False])
    assert value == 5000
    np.testing.assert_array_equal(dy, [0.5, 0])


def test_the_sum_is_taken_in_float64():
    y = np.full((2**20, 1), 0.1, np.float32)
    assert lm.MeanSquaredError()(y, np.zeros_like(y))[0] == pytest.approx(0.01, rel=1e-7)


def test_a_class_is_a_share_of_one():
    y, target = random("y", (6, 5)), classes((6,))
    for name in ("ce", "ce, smooth", "ce, weights", "ce, all"):
        loss, _ = LOSSES[name]
        with lm.formulas():
            value, dy = loss(y, target)
            same, dsame = loss(y, np.eye(5)[target])
        assert value == same
        assert_same(dy, dsame)
        value, dy = loss(y, target)  # classes have a kernel
        assert value == pytest.approx(same, rel=1e-14)
        assert_close(dy, dsame, np.float64, terms=1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [1, 2, 7, 10, 15, 16, 17, 31, 32, 33, 100, 1000])
def test_the_kernel_of_classes(width, dtype, monkeypatch):
    y, target = random("y", (37, width)).astype(dtype), np.arange(37) % width
    y[3] *= 1000
    with lm.formulas():
        value, dy = lm.CrossEntropy()(y.astype(np.float64), target)
    for parts in (1, 2, 5):
        problems.cut(parts, monkeypatch.setattr)
        found, dfound = lm.CrossEntropy()(y, target)
        assert found == pytest.approx(value, rel=8 * EPS[np.dtype(dtype)])
        assert_close(dfound, dy, dtype, terms=10)
        for n in range(37):  # alone it has the same bits
            _, alone = lm.CrossEntropy()(y[n : n + 1], target[n : n + 1], normalizer=37)
            assert_same(alone[0], dfound[n])


def test_an_impossible_class_may_have_the_logit_minus_infinity():
    y = np.array([[0.0, -np.inf, 0.0]])
    value, dy = lm.CrossEntropy()(y, [2])
    assert value == pytest.approx(np.log(2))
    np.testing.assert_allclose(dy, [[0.5, 0, -0.5]])
    loss = lm.CrossEntropy(weights=(1, 0, 1))
    value, dy = loss(np.concatenate([y, y]), [1, 2])
    assert value == pytest.approx(np.log(2))
    np.testing.assert_allclose(dy, [[0, 0, 0], [0.5, 0, -0.5]])


def test_counting_classes_takes_no_array_of_all_of_them():
    loss, target = lm.CrossEntropy(weights=np.full(32_000, 0.5)), np.arange(64)
    tracemalloc.start()
    try:
        assert loss.count(target) == 32
        assert tracemalloc.get_traced_memory()[1] < 64 * 32_000
    finally:
        tracemalloc.stop()


def test_classes_of_no_weight():
    y = random("y", (2, 5))
    value, dy = lm.CrossEntropy(0.1, weights=CLASSES)(y, [3, 3])
    assert value == 0
    assert not dy.any()


def test_smoothing_does_not_see_where_logits_stand():
    """What all logits have in common cancels before anything is added up."""
    y, target = random("y", (64, 1000)), np.arange(64)
    for shift in (0, 1e4):
        shifted = (y + shift).astype(np.float32)
        found, _ = lm.CrossEntropy(0.1)(shifted, target)
        with lm.formulas():
            expected, _ = lm.CrossEntropy(0.1)(shifted.astype(float), target)
        assert found == pytest.approx(expected, rel=1e-5)
    y[0, 0] = -np.inf  # the class of the first row
    assert lm.CrossEntropy(0.1)(y, target)[0] == np.inf


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"weights": CLASSES}])
@pytest.mark.parametrize("mark", [-100, 255, 2])
def test_rows_to_ignore(mark, options):
    """A row to ignore is as one that is not there, whatever y holds there."""
    y, target = random("y", (6, 4, 5)), classes((6, 4))
    kept = target != 2
    target[~kept] = mark
    loss = lm.CrossEntropy(ignore=mark, **options)
    expected, dexpected = lm.CrossEntropy(**options)(y[kept], target[kept])
    y[~kept] = np.nan
    with lm.formulas():
        by_formula = loss(y, target)
    for value, dy in (loss(y, target), by_formula):
        assert value == pytest.approx(expected, rel=1e-13)
        assert_close(dy[kept], dexpected, np.float64, terms=1)
        assert_same(dy[~kept], np.zeros_like(dy[~kept]))
    value, dy = loss(y, np.full((6, 4), mark))
    assert (value, loss.count(np.full((6, 4), mark))) == (0, 0)
    assert_same(dy, np.zeros_like(y))
    with pytest.raises(ValueError, match=r"classes must lie in 0 ... 4, got 0 ... 7"):
        loss(y, np.where(kept, target * 0 + 7, mark))


def test_marks_of_rows_may_be_any_integers():
    y, target = random("y", (4, 5)), np.array([0, 255, 1, 255], np.uint8)
    value, _ = lm.CrossEntropy(ignore=255)(y, target)
    signed = np.where(target == 255, -1, target.astype(int))
    assert value == lm.CrossEntropy(ignore=-1)(y, signed)[0]
    assert lm.CrossEntropy(ignore=-1)(y[::2], target[::2])[0] == value
    with pytest.raises(TypeError, match=r"ignore must be an integer, got 2.5"):
        lm.CrossEntropy(ignore=2.5)


@pytest.mark.peers
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5)])
def test_pytorch_gives_the_same(shape):
    torch = pytest.importorskip("torch")
    nn, weights = torch.nn, torch.tensor(CLASSES, dtype=torch.float64)
    theirs = {
        "mse": nn.MSELoss(),
        "huber": nn.HuberLoss(delta=0.7),
        "bce": nn.BCEWithLogitsLoss(),
        "bce, one weight": nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.5)),
        "bce, weights": nn.BCEWithLogitsLoss(pos_weight=weights),
        "ce": nn.CrossEntropyLoss(),
        "ce, shares": nn.CrossEntropyLoss(),
        "ce, smooth": nn.CrossEntropyLoss(label_smoothing=0.2),
        "ce, weights": nn.CrossEntropyLoss(weight=weights),
        "ce, ignore": nn.CrossEntropyLoss(),
        "ce, smooth, ignore": nn.CrossEntropyLoss(label_smoothing=0.2),
        "ce, weights, ignore": nn.CrossEntropyLoss(weight=weights),
    }
    smooth = "ce, smooth and weights"
    theirs[smooth] = nn.CrossEntropyLoss(weight=weights, label_smoothing=0.2)
    ours = LOSSES | {smooth: (lm.CrossEntropy(0.2, CLASSES), LOSSES["ce"][1])}
    for name, their in theirs.items():
        loss, draw = ours[name]
        y, target = random("y", shape), draw(shape)
        value, dy = loss(y, target)
        tensor, t = torch.tensor(y, requires_grad=True), torch.tensor(target)
        if name.startswith("ce"):
            flat = t.reshape(-1) if t.ndim < len(shape) else t.reshape(-1, 5)
            expected = their(tensor.reshape(-1, 5), flat)
        else:
            expected = their(tensor, t)
        expected.backward()
        assert value == pytest.approx(expected.item(), rel=1e-12), name
        np.testing.assert_allclose(dy, tensor.grad.numpy(), atol=1e-14, err_msg=name)


@pytest.mark.peers
@pytest.mark.parametrize(
    "function",
    [
        lambda y, t: losses.squared_error(y, t),
        lambda y, t: losses.huber(y, t, 0.7),
        lambda y, t: losses.binary_cross_entropy(y, t, 2.0),
        lambda y, t: losses.cross_entropy(y, t),
    ],
    ids=["squared error", "huber", "binary", "classes"],
)
@pytest.mark.parametrize("library", ["array_api_strict", "torch", "jax.numpy"])
def test_formulas_on_other_arrays(function, library):
    xp = pytest.importorskip(library)
    y, target = random("y", (4, 5)).astype(np.float32), shares((4, 5)).astype(np.float32)
    for found, expected in zip(
        function(xp.asarray(y), xp.asarray(target)), function(y, target), strict=True
    ):
        np.testing.assert_allclose(np.asarray(found), expected, atol=1e-6)


def test_refuses_outputs():
    with pytest.raises(TypeError, match=r"MeanSquaredError\(\): y has dtype int64, expected float"):
        lm.MeanSquaredError()(np.array([1]), [1])
    with pytest.raises(ValueError, match=r"y has 0 axes \(shape \(\)\), expected 1 or more"):
        lm.MeanSquaredError()(np.array(1.0), 1)
    with pytest.raises(ValueError, match=r"y has 1 axes \(shape \(5,\)\), expected 2 or more"):
        lm.CrossEntropy()(np.zeros(5), 1)
    with pytest.raises(ValueError, match=r"lengths go with x of shape \(N, T, ...\)"):
        lm.CrossEntropy()(np.zeros((4, 5)), classes(4), lengths=[1, 2, 3, 4])
    with pytest.raises(ValueError, match=r"normalizer must lie in \[0, inf\], got -1"):
        lm.MeanSquaredError()(np.zeros((4, 5)), np.zeros((4, 5)), normalizer=-1)


@pytest.mark.parametrize("loss", [lm.MeanSquaredError(), lm.Huber(), lm.BinaryCrossEntropy()])
def test_refuses_targets(loss):
    y = np.zeros((4, 1))
    with pytest.raises(
        ValueError, match=r"\): target has shape \(4,\), expected \(4, 1\), the shape of y; .*resha"
    ):
        loss(y, np.zeros(4))
    with pytest.raises(TypeError, match=r"target has dtype <U1, expected real numbers"):
        loss(y, [["a"]] * 4)
    with pytest.raises(TypeError, match=r"MeanSquaredError\(\): target is a masked array"):
        lm.MeanSquaredError()(np.zeros(2), np.ma.masked_array([0.0, 1.0]))


@pytest.mark.parametrize("bad", [-0.1, 1.5, np.nan])
def test_binary_targets_lie_between_0_and_1(bad):
    with pytest.raises(ValueError, match=r"targets must lie in \[0, 1\], got"):
        lm.BinaryCrossEntropy()(np.zeros(2), [0.5, bad])


def test_refuses_classes():
    loss, y = lm.CrossEntropy(), np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"classes must lie in 0 ... 2, got 0 ... 3"):
        loss(y, [0, 3])
    with pytest.raises(ValueError, match=r"must lie in 0 ... 2, got -1 ... 0; padding .* lengths="):
        loss(y, [0, -1])
    with pytest.raises(ValueError, match=r"classes of y seem to come second: np.moveaxis\(y, 1"):
        loss(np.zeros((2, 3, 4, 5)), np.zeros((2, 4, 5), int))
    with pytest.raises(ValueError, match=r"target has shape \(3,\), expected \(2,\), a class for"):
        loss(y, [0, 1, 2])
    with pytest.raises(ValueError, match=r"take its only column: target\[\.\.\., 0\]"):
        loss(y, [[1], [0]])
    with pytest.raises(ValueError, match=r"target has shape \(2, 3\), expected \(2,\), .*astype"):
        loss(y, np.eye(3, dtype=int)[:2])
    with pytest.raises(ValueError, match=r"target has shape \(2,\), expected \(2, 3\), .*int64"):
        loss(y, [0.0, 1.0])
    with pytest.raises(
        TypeError, match=r"target has dtype bool, expected integers .*; cast it: target.astype"
    ):
        loss(y, [True, False])
    for bad in ([0.5, 0.6, 0], [1.5, -0.5, 0], [np.nan, 0.5, 0.5]):
        with pytest.raises(ValueError, match=r"shares of the classes must be at least 0 and sum"):
            loss(y, [[1.0, 0, 0], bad])


@pytest.mark.parametrize(
    ("loss", "y", "target", "cure"),
    [
        (lm.MeanSquaredError(), (6, 1), np.zeros(6), r"; give it .*: target.reshape\(y.shape\)"),
        (lm.MeanSquaredError(), (6, 5, 2), np.zeros((6, 2, 5)), ""),
        (lm.MeanSquaredError(), (6, 2), np.zeros(6), ""),
        (lm.MeanSquaredError(), (6, 5, 1), np.zeros((6, 1)), r"; y has an answer a step .*"),
        (lm.CrossEntropy(), (6, 5, 2), np.zeros(6, int), r"; y has an answer a step .*"),
        (lm.CrossEntropy(), (6, 5, 2), np.eye(2)[[0] * 6], r"; y has an answer a step .*"),
        (lm.CrossEntropy(), (6, 2), np.eye(3)[[0] * 6], ""),
        (lm.CrossEntropy(), (6, 2), np.zeros((6, 1)), r"; .*integers: target.astype\(np.int64\)"),
        (lm.CrossEntropy(), (6, 2), np.zeros((6, 3), int), ""),
        (lm.CrossEntropy(), (6, 1), [0, 1] * 3, r"; for one output take BinaryCrossEntropy\(\)"),
    ],
)
def test_cures_of_targets_are_those_that_work(loss, y, target, cure):
    with pytest.raises(ValueError, match=rf"^[^;]*{cure}$"):
        loss(np.zeros(y), target)


def test_booleans_are_cast_to_what_their_shape_says():
    y, target = np.zeros((2, 3)), np.eye(3, dtype=bool)[:2]
    with pytest.raises(TypeError, match=r"dtype bool, .*; cast it: target.astype\(y.dtype\)$"):
        lm.CrossEntropy()(y, target)
    with pytest.raises(TypeError, match=r"dtype bool, .*; cast it: target.astype\(np.int64\)$"):
        lm.CrossEntropy()(y, target[:, 0])


def test_refuses_options():
    takes = r"it takes \(label_smoothing=0.0, weights=None, ignore=None\)$"
    for wrong in ("weight", "reduction", "ignore_index"):
        with pytest.raises(TypeError, match=rf"^CrossEntropy: got an .* '{wrong}'; {takes}"):
            lm.CrossEntropy(**{wrong: None})
    with pytest.raises(TypeError, match=r"^Huber: too many positional arguments; .*\(delta=1.0\)"):
        lm.Huber(1.0, "mean")
    with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 1\], got 1.5"):
        lm.CrossEntropy(1.5)
    for bad in ([1, -1], [[1, 2]], ["a"], [np.nan, 1]):
        with pytest.raises(
            ValueError, match=r"CrossEntropy: weights must be finite numbers, at le"
        ):
            lm.CrossEntropy(weights=bad)
    with pytest.raises(
        ValueError, match=r"got \{0: 1, 1: 2\}; give a list, one entry a class in o"
    ):
        lm.CrossEntropy(weights={0: 1, 1: 2})
    with pytest.raises(ValueError, match=r"weights must have one entry a class"):
        lm.CrossEntropy(weights=2.0)
    with pytest.raises(ValueError, match=r"weights has 2 entries, but y \(shape \(1, 3\)\) has 3"):
        lm.CrossEntropy(weights=[1, 2])(np.zeros((1, 3)), [0])
    with pytest.raises(ValueError, match=r"pos_weight has 2 entries, but the last axis of y"):
        lm.BinaryCrossEntropy([1, 2])(np.zeros((1, 3)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"delta must be more than 0, got 0"):
        lm.Huber(0)
    with pytest.raises(ValueError, match=r"delta must lie in \[0, inf\], got -1"):
        lm.Huber(-1)


def test_reprs():
    assert repr(lm.MeanSquaredError()) == "MeanSquaredError()"
    assert repr(lm.Huber(2)) == "Huber(delta=2.0)"
    assert repr(lm.CrossEntropy(weights=np.array([1, 2]))) == (
        "CrossEntropy(label_smoothing=0.0, weights=(1.0, 2.0), ignore=None)"
    )
    assert repr(lm.BinaryCrossEntropy()) == "BinaryCrossEntropy(pos_weight=None)"


@pytest.mark.parametrize("loss", [lm.CrossEntropy(label_smoothing=0.1), lm.CrossEntropy()])
def test_the_layout_of_y_changes_no_bit(loss):
    y, classes = random("y", (40, 33), np.float32), np.arange(40) % 33
    value, dy = loss(y, classes)
    again, dy_again = loss(np.asfortranarray(y), classes)
    assert value == again
    np.testing.assert_array_equal(dy, dy_again)


def test_the_weight_of_a_batch_has_the_same_bits_however_targets_lie():
    rng = np.random.default_rng(0)
    loss = lm.CrossEntropy(weights=rng.random(33))
    for _ in range(20):
        y, target = rng.standard_normal((7, 33)), rng.random((7, 33))
        target /= target.sum(axis=1, keepdims=True)
        (value, dy), (other, other_dy) = loss(y, target), loss(y, np.asfortranarray(target))
        assert value == other
        np.testing.assert_array_equal(dy, other_dy)
