import numpy as np
import pytest

import lamina as lm
from contract import assert_same
from lamina import initializers

SHAPE, FANS = (400, 300), (400, 300)


def draw(preset, shape=SHAPE, fans=FANS, seed=0, dtype=np.float64):
    return initializers.draw(preset, shape, *fans, np.random.default_rng(seed), dtype)


@pytest.mark.parametrize(
    ("preset", "bound"),
    [
        ("glorot_uniform", (6 / 700) ** 0.5),
        ("he_uniform", (6 / 400) ** 0.5),
        ("lecun_uniform", (3 / 400) ** 0.5),
        ("torch", (1 / 400) ** 0.5),
    ],
)
def test_uniform(preset, bound):
    a = draw(preset)
    assert 0.999 * bound < a.max() <= bound
    assert -bound <= a.min() < -0.999 * bound
    assert a.std() == pytest.approx(bound / 3**0.5, rel=0.01)
    assert abs(a.mean()) < 0.01 * bound


@pytest.mark.parametrize(
    ("preset", "deviation"),
    [
        ("glorot_normal", (2 / 700) ** 0.5),
        ("he_normal", (2 / 400) ** 0.5),
        ("lecun_normal", (1 / 400) ** 0.5),
        ("normal", 1),
    ],
)
def test_normal(preset, deviation):
    a = draw(preset) / deviation
    assert a.std() == pytest.approx(1, rel=0.01)
    assert abs(a.mean()) < 0.01
    assert (np.abs(a) < 1).mean() == pytest.approx(0.6827, abs=0.005)


@pytest.mark.parametrize("shape", [(5, 5), (8, 3), (3, 8), (2, 3, 4), (4, 1), (1, 4)])
def test_orthogonal(shape):
    a = draw("orthogonal", shape)
    assert a.shape == shape
    a = a.reshape(-1, shape[-1])
    gram = a.T @ a if a.shape[0] >= a.shape[1] else a @ a.T
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-14)


def test_orthogonal_draws_both_determinants():
    signs = {np.sign(np.linalg.det(draw("orthogonal", (3, 3), seed=seed))) for seed in range(20)}
    assert signs == {-1.0, 1.0}


def test_constants():
    assert_same(draw("zeros", (2, 3)), np.zeros((2, 3)))
    assert_same(draw("ones", (2, 3)), np.ones((2, 3)))


@pytest.mark.parametrize("preset", initializers.PRESETS)
def test_every_preset(preset):
    a = draw(preset, (6, 4), dtype=np.float32)
    assert (a.shape, a.dtype) == ((6, 4), np.float32)
    assert_same(draw(preset, (6, 4), dtype=np.float32), a)
    assert_same(a, draw(preset, (6, 4)).astype(np.float32))
    if preset not in ("zeros", "ones"):
        assert (draw(preset, (6, 4), seed=1) != draw(preset, (6, 4))).any()
    bias = initializers.draw_bias(preset, (50,), 4, np.random.default_rng(0), np.float32)
    assert (bias.shape, bias.dtype) == ((50,), np.float32)
    assert bias.any() == (preset == "torch")
    assert np.abs(bias).max() <= 0.5
    layer = lm.Linear(6, 4, init=preset, rng=0)
    assert layer.weight.shape == (6, 4)


def test_the_table_names_every_preset():
    for preset in initializers.PRESETS:
        assert preset in initializers.__doc__


def test_generator():
    rng = np.random.default_rng(5)
    assert initializers.generator(rng) is rng
    assert initializers.generator(5).random() == np.random.default_rng(5).random()
    assert initializers.generator(np.int64(5)).random() == np.random.default_rng(5).random()
    assert initializers.generator(None).random() != initializers.generator(None).random()


def test_refuses():
    with pytest.raises(ValueError, match=r"preset must be one of 'glorot_uniform', .*; got 'he'"):
        draw("he")
    with pytest.raises(
        TypeError, match=r"got 'a'; or give a Generator: np.random.default_rng\(0\)"
    ):
        initializers.generator("a")
    with pytest.raises(ValueError, match=r"rng: an int seed must be at least 0, got -1"):
        initializers.generator(-1)
    with pytest.raises(TypeError, match=r"rng: an int seed must be an integer, got True"):
        lm.Linear(2, 3, rng=True)
