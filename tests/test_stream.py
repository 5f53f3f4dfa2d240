"""Statistics of Dropout's stream, and that each of them tells a bad stream from a good one.

A stream is masks of shape (calls, samples, units). Scores are in standard deviations of what is
independent and of the right rate; a largest one of many is compared with what that many reach.
"""

import numpy as np
import pytest

import lamina as lm
from lamina.dropout import formula

RATE, SHAPE = 0.3, (40, 64, 256)
LIMIT = 6.0
"""A fair score is beyond so many deviations once in 500 million draws."""


def masks(rate=RATE):
    """What Dropout draws."""
    layer, x = lm.Dropout(rate, rng=0), np.ones(SHAPE[1:], np.float32)
    return np.stack([layer.forward(x, training=True)[0] == 0 for _ in range(SHAPE[0])])


def rate_by(axis):
    """The score of the rate at each place along an axis."""

    def score(dropped):
        found = np.moveaxis(dropped, axis, 0).reshape(dropped.shape[axis], -1)
        deviation = np.sqrt(RATE * (1 - RATE) / found.shape[1])
        return np.abs(found.mean(axis=1) - RATE).max() / deviation

    return score


def neighbours(axis, apart=1):
    """The score of the correlation of masks so far apart along an axis."""

    def score(dropped):
        centred = np.moveaxis(dropped - RATE, axis, 0) / np.sqrt(RATE * (1 - RATE))
        products = centred[apart:] * centred[:-apart]
        return abs(products.sum()) / np.sqrt(products.size)

    return score


def runs(dropped):
    """The score of how often units of a sample change their fate."""
    changes = (dropped[..., 1:] != dropped[..., :-1]).mean()
    expected, count = 2 * RATE * (1 - RATE), dropped[..., 1:].size
    return abs(changes - expected) / np.sqrt(expected / count)


CALLS, SAMPLES, UNITS = range(3)
SCORES = {
    "rate by call": rate_by(CALLS),
    "rate by sample": rate_by(SAMPLES),
    "rate by position": rate_by(UNITS),
    "next call": neighbours(CALLS),
    "next sample": neighbours(SAMPLES),
    "next unit": neighbours(UNITS),
    "next counter": neighbours(UNITS, 4),
    "runs": runs,
}


def bad():
    """Streams that are wrong in one way each, by the score that must see it."""
    rng = np.random.default_rng(0)

    def fair(shape=SHAPE):
        return rng.random(shape) < RATE

    calls, samples, units = (np.arange(n) for n in SHAPE)
    drift = [0.06 * np.cos(np.pi * i) for i in (calls, samples, units)]
    yield "rate by call", rng.random(SHAPE) < RATE + drift[0][:, None, None]
    yield "rate by sample", rng.random(SHAPE) < RATE + drift[1][:, None]
    yield "rate by position", rng.random(SHAPE) < RATE + drift[2]
    yield "next call", fair()[calls // 2]
    yield "next sample", fair()[:, samples // 2]
    yield "next unit", fair()[..., units // 2]
    yield "next counter", fair()[..., units % 4 + units // 8 * 4]
    yield "runs", fair()[..., units // 2]


@pytest.mark.parametrize("name", SCORES)
def test_the_stream_is_good(name):
    assert SCORES[name](masks()) < LIMIT


def test_each_score_sees_a_bad_stream():
    seen = {name: SCORES[name](dropped) for name, dropped in bad()}
    assert seen.keys() == SCORES.keys()
    assert min(seen.values()) > LIMIT, seen


def bits(words):
    """The largest score of the share of ones in each bit, and of what two bits have in common."""
    ones = ((words[:, None] >> np.arange(32, dtype=np.uint64)) & 1).astype(float) * 2 - 1
    together = np.abs(ones.T @ ones)
    np.fill_diagonal(together, 0)
    return max(np.abs(ones.sum(axis=0)).max(), together.max()) / np.sqrt(len(words))


def test_bits_of_the_words():
    blocks = np.arange(20_000, dtype=np.uint64)
    rest = [np.full_like(blocks, word) for word in (3, 0, 5)]
    for words in formula.philox((blocks, *rest), (1, 2)):
        words = np.asarray(words, np.uint64)
        assert bits(words) < LIMIT
        assert bits(words | (words >> np.uint64(1))) > LIMIT
        assert bits(words & np.uint64(0xFFFFFFFE)) > LIMIT
        assert (
            bits(words ^ ((words & np.uint64(1)) << np.uint64(9)) ^ (words & np.uint64(512)))
            > LIMIT
        )
