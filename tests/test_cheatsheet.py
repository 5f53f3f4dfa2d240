"""The "Layers" page of the ML Cheatsheet, from which Lamina grew: its code, and ours beside it."""

import numpy as np
import pytest

import lamina as lm
from contract import assert_close, assert_same, random


class PageBatchNorm:
    """The page's code, by Agustinus Kristiadi, as a class that runs."""

    def forward(self, X, gamma, beta):
        mu = np.mean(X, axis=0)
        var = np.var(X, axis=0)
        X_norm = (X - mu) / np.sqrt(var + 1e-8)
        out = gamma * X_norm + beta
        cache = (X, X_norm, mu, var, gamma, beta)
        return out, cache, mu, var

    def backward(self, dout, cache):
        X, X_norm, mu, var, gamma, _beta = cache
        N, _D = X.shape
        X_mu = X - mu
        std_inv = 1.0 / np.sqrt(var + 1e-8)
        dX_norm = dout * gamma
        dvar = np.sum(dX_norm * X_mu, axis=0) * -0.5 * std_inv**3
        dmu = np.sum(dX_norm * -std_inv, axis=0) + dvar * np.mean(-2.0 * X_mu, axis=0)
        dX = (dX_norm * std_inv) + (dvar * 2 * X_mu / N) + (dmu / N)
        dgamma = np.sum(dout * X_norm, axis=0)
        dbeta = np.sum(dout, axis=0)
        return dX, dgamma, dbeta


def test_batchnorm():
    x, dy = 3 + 2 * random("x", (8, 5)), random("dy", (8, 5))
    gamma, beta = random("gamma", (5,)), random("beta", (5,))
    page = PageBatchNorm()
    out, page_cache, mu, var = page.forward(x, gamma, beta)
    dX, dgamma, dbeta = page.backward(dy, page_cache)

    layer = lm.BatchNorm(5, eps=1e-8, dtype=np.float64)
    layer.gamma, layer.beta = gamma, beta
    y, cache = layer.forward(x, training=True)
    dx, grads = layer.backward(dy, cache)

    assert_close(y, out, np.float64)
    assert_close(dx, dX, np.float64)
    assert_close(grads["gamma"], dgamma, np.float64)
    assert_close(grads["beta"], dbeta, np.float64)
    # The page hands its statistics back for want of a momentum; ours keeps running ones.
    assert_close(layer.running_mean, 0.1 * mu, np.float64)
    assert_close(layer.running_var, 0.9 + 0.1 * var * 8 / 7, np.float64)


def test_dropout_scaled_while_training():
    layer_output = random("activations", (4, 6))
    ours = lm.Dropout(0.5)
    kept = np.random.default_rng(0).integers(0, high=2, size=layer_output.shape)
    y, _ = ours.forward(layer_output, training=True, mask=kept.astype(bool))
    at_test_time = ours(layer_output)
    assert_same(at_test_time, layer_output)

    layer_output *= kept  # dropping out values
    layer_output /= 0.5  # scaling up by dropout rate during TRAINING time
    assert_same(y, layer_output)


def test_dropout_scaled_at_inference():
    layer_output = random("activations", (4, 6))
    ours = lm.Dropout(0.5, mode="classic")
    kept = np.random.default_rng(0).integers(0, high=2, size=layer_output.shape)
    y, _ = ours.forward(layer_output, training=True, mask=kept.astype(bool))
    at_test_time = ours(layer_output)

    assert_same(y, layer_output * kept)
    layer_output *= 0.5  # Scaling down during TEST time.
    assert_same(at_test_time, layer_output)


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_the_factor_at_inference_is_the_probability_to_keep(rate):
    """The page says "scaled down by a factor of dropout rate", which is right at 0.5 alone."""
    x = np.ones((400, 500))
    layer = lm.Dropout(rate, mode="classic", rng=0)
    mean_of_training = layer.forward(x, training=True)[0].mean()
    five_sigma = 5 * np.sqrt(rate * (1 - rate) / x.size)
    assert_same(layer(x), x * (1 - rate))
    assert abs(mean_of_training - (1 - rate)) < five_sigma
    assert (abs(mean_of_training - rate) < five_sigma) == (rate == 0.5)


def test_the_page_s_mask_drops_half_whatever_the_rate():
    rate, x, rng = 0.2, np.ones((400, 500)), np.random.default_rng(0)
    five_sigma = 5 * np.sqrt(0.25 / x.size)
    page = rng.integers(0, high=2, size=x.shape)
    assert abs(page.mean() - 0.5) < five_sigma
    right = rng.random(x.shape) >= rate
    assert abs(right.mean() - (1 - rate)) < five_sigma
    y, _ = lm.Dropout(rate).forward(x, training=True, mask=right)
    assert_same(y, x * right / (1 - rate))
