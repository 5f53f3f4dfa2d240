import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import assert_same, random
from lamina import windows
from lamina.windows import Windows, fill, pad, resolve, unpad

NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}

quick = settings(derandomize=True, database=None, deadline=None, max_examples=60)
axes = st.tuples(
    st.integers(0, 12),  # S
    st.integers(1, 4),  # K
    st.integers(1, 4),  # s
    st.integers(1, 3),  # d
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
)


def starts(size, span, stride, pair):
    """Where windows begin on a padded axis, found by trying."""
    padded = size + sum(pair)
    return [p for p in range(0, padded, stride) if p + span <= padded] if size else []


@quick
@given(axes)
def test_outputs_are_the_windows_that_fit(axis):
    size, k, s, d, pair = axis
    there = Windows((k,), (s,), (d,), (pair,))
    assert there.outputs((size,)) == (len(starts(size, there.spans[0], s, pair)),)
    lengths = np.arange(size + 1)
    expected = [len(starts(n, there.spans[0], s, pair)) for n in lengths]
    assert_same(there.output_lengths(lengths), np.array(expected))


def test_no_lengths_stay_no_lengths():
    assert Windows((3,), (1,), (1,), ((0, 0),)).output_lengths(None) is None


@quick
@given(axes)
def test_elements_meet_as_the_definition_says(axis):
    size, k, s, d, pair = axis
    there = Windows((k, 2), (s, 1), (d, 1), (pair, (0, 1)))
    padded = fill(random("meet", (2, size, 3, 1)), there.pads)
    for tap in there.taps:
        met = there.meet(padded, tap)
        for p, start in enumerate(starts(size, there.spans[0], s, pair)):
            for q in range(3):
                assert_same(met[:, p, q], padded[:, start + tap[0] * d, q + tap[1]])


@quick
@given(axes)
def test_meeting_back_is_the_transpose_of_meeting(axis):
    size, k, s, d, pair = axis
    there = Windows((k,), (s,), (d,), (pair,))
    padded = fill(random("x", (2, size, 3)), there.pads)
    dy = random("dy", (2, *there.fits(padded), 3))
    spread = there.spread(dy, padded.shape[1:-1])
    for tap in there.taps:
        back = there.meet_back(spread, tap)
        assert back.shape == padded.shape
        np.testing.assert_allclose(
            np.sum(there.meet(padded, tap) * dy), np.sum(padded * back), rtol=0, atol=1e-12
        )


def test_spread_puts_a_value_between():
    there = Windows((2,), (3,), (1,), ((0, 0),))
    spread = there.spread(np.array([5, 6]).reshape(1, 2, 1), (6,), -1)
    assert spread.ravel().tolist() == [-1, 5, -1, -1, 6, -1, -1]


@pytest.mark.parametrize("name", ["same", "same_lower"])
@quick
@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_same_is_the_least_padding_for_its_outputs(name, size, k, s, d):
    (pair,) = resolve(name, (size,), (k,), (s,), (d,))
    there = Windows((k,), (s,), (d,), (pair,))
    assert there.outputs((size,)) == (math.ceil(size / s),)
    before, after = pair if name == "same" else pair[::-1]
    assert after - before in (0, 1)
    if sum(pair):
        less = Windows((k,), (s,), (d,), ((0, sum(pair) - 1),))
        assert less.outputs((size,)) < (math.ceil(size / s),)


def test_the_names_of_padding():
    assert resolve("valid", (5, 6), (3, 3), (1, 1), (1, 1)) == ((0, 0), (0, 0))
    assert resolve("causal", (5,), (3,), (1,), (2,)) == ((4, 0),)
    assert resolve("same", (6, 5), (2, 3), (1, 1), (1, 2)) == ((0, 1), (2, 2))
    assert resolve("same_lower", (6, 5), (2, 3), (1, 1), (1, 2)) == ((1, 0), (2, 2))


def test_one_for_all_axes_or_one_for_each():
    assert windows.each(2, 3) == (2, 2, 2)
    assert windows.each((1, 2), 2) == (1, 2)
    assert windows.pairs(2, 2) == ((2, 2), (2, 2))
    assert windows.pairs(((0, 1),), 1) == ((0, 1),)


@pytest.mark.parametrize("mode", windows.MODES)
@pytest.mark.parametrize(
    "pads", [((2, 1),), ((0, 3),), ((0, 0),), ((1, 2), (3, 0)), ((2, 3), (0, 0), (1, 1))]
)
def test_pad_is_that_of_numpy_and_unpad_its_transpose(mode, pads):
    x = random("x", (2, *range(4, 4 + len(pads)), 3))
    padded = pad(x, pads, mode)
    assert_same(padded, np.pad(x, ((0, 0), *pads, (0, 0)), NUMPY_MODES[mode]))
    dy = random("dy", padded.shape)
    dx = unpad(dy, pads, mode)
    # <pad(v), dy> = <v, padᵀ(dy)> for a basis of v, one element at a time.
    for place in np.ndindex(x.shape[1:-1]):
        v = np.zeros_like(x)
        v[(slice(None), *place)] = 1
        np.testing.assert_allclose(
            np.sum(pad(v, pads, mode) * dy, axis=tuple(range(1, x.ndim - 1))),
            dx[(slice(None), *place)],
            atol=1e-12,
        )


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_as_much_padding_as_there_is(mode):
    x = np.arange(4.0).reshape(1, 4, 1)
    most = 3 if mode == "reflect" else 4
    pads = ((most, most),)
    assert_same(pad(x, pads, mode), np.pad(x, ((0, 0), *pads, (0, 0)), NUMPY_MODES[mode]))
    assert unpad(pad(np.ones_like(x), pads, mode), pads, mode).sum() == 4 + 2 * most


def test_padding_leaves_dtypes_alone():
    x = np.ones((1, 3, 1), np.float32)
    for mode in windows.MODES:
        assert unpad(pad(x, ((1, 1),), mode), ((1, 1),), mode).dtype == np.float32
    assert fill(np.array([[[True]]]), ((1, 0),), False).ravel().tolist() == [False, True]
    assert fill(np.ones((1, 2, 1)), ((3, -4),)).ravel().tolist() == [0]  # the end is cut last
